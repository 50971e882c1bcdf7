//! A server in this process that serves a temporary folder.

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use replica_sftp::{HostKey, Login, SftpConfig};
use tempfile::TempDir;
use testbed::{Proxy, SftpServer};

/// What no error may tell.
pub(crate) const PASSWORD: &str = "testbed-password";

#[derive(Debug)]
pub(crate) struct Served {
    server: SftpServer,
    folder: TempDir,
}

impl Served {
    pub(crate) fn start() -> Served {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = SftpServer::start(folder.path());
        assert_eq!(server.password(), PASSWORD);
        Served { server, folder }
    }

    /// How to reach the replica `root`, a path without a slash at its beginning.
    pub(crate) fn config(&self, root: &str) -> SftpConfig {
        let key = self.server.host_key().parse().expect("a public key");
        SftpConfig::new("127.0.0.1", self.server.user(), format!("/{root}"))
            .port(self.server.address().port())
            .host_key(HostKey::Key(key))
            .login(Login::Password(PASSWORD.to_owned()))
            // Many clients log in at once to a machine with few processors.
            .connect_timeout(Duration::from_secs(60))
    }

    /// How to reach the replica `root` by a network of its own.
    pub(crate) fn config_by(&self, network: &Proxy, root: &str) -> SftpConfig {
        self.config(root).port(network.address().port())
    }

    /// The names in the folder of level 0 of the replica `db`, where there is one.
    pub(crate) fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("db/ltx/0")) else {
            return Vec::new();
        };
        let name = |entry: io::Result<fs::DirEntry>| {
            let name = entry.expect("an entry").file_name();
            name.into_string().expect("UTF-8")
        };
        let mut names: Vec<_> = entries.map(name).collect();
        names.sort();
        names
    }

    /// Where what clients call `/<name>` is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Deref for Served {
    type Target = SftpServer;

    fn deref(&self) -> &SftpServer {
        &self.server
    }
}
