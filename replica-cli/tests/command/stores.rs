//! Servers of buckets and of SFTP, and the command that is run on them.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use ltx::Timestamp;
use tempfile::TempDir;
use testbed::{S3Server, SftpServer, StoredObject};

use crate::replica::{Golden, Ran, command, finish, folder};

/// The keys that a command is given beside a URL.
const KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";

/// A bucket, and the account that owns it.
pub(crate) struct Bucket {
    pub(crate) server: S3Server,
}

impl Bucket {
    pub(crate) fn empty() -> Bucket {
        Bucket {
            server: S3Server::start(),
        }
    }

    /// A bucket that holds `golden` at the prefix `app`, with the times that Litestream gave it.
    pub(crate) fn holding(golden: &Golden) -> Bucket {
        let bucket = Bucket::empty();
        for (path, file) in golden.facts["files"].as_object().expect("files") {
            let (level, name) = path
                .strip_prefix("ltx/")
                .and_then(|path| path.split_once('/'))
                .expect("the place of a file");
            let millis = file["mtime_ms"].as_i64().expect("a time");
            let bytes = fs::read(golden.root().join(path)).expect("a file can be read");
            let object = StoredObject::new(bytes)
                .with_metadata(
                    "litestream-timestamp",
                    &Timestamp::from_millis(millis).to_string(),
                )
                .modified_at(UNIX_EPOCH + Duration::from_millis(millis.unsigned_abs()));
            bucket
                .server
                .put(&format!("app/{level:0>4}/{name}"), object);
        }
        bucket
    }

    /// The URL of a place in the bucket.
    pub(crate) fn url(&self, prefix: &str) -> String {
        at(&self.server.endpoint(), prefix)
    }

    /// The command, in an environment with the keys.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = command(args);
        command
            .env(KEY, self.server.access_key())
            .env(SECRET, self.server.secret_key());
        command
    }

    /// Runs that command to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        run(self.command(args))
    }
}

/// The URL of a place in the bucket of the same name at another endpoint.
pub(crate) fn at(endpoint: &str, prefix: &str) -> String {
    format!("s3://testbed/{prefix}?endpoint={endpoint}")
}

/// An SFTP server of a folder, and a user who knows its key.
pub(crate) struct Sftp {
    pub(crate) server: SftpServer,
    home: TempDir,
}

impl Sftp {
    /// A server of the folder that holds `golden`, which is at `/replica`.
    pub(crate) fn holding(golden: &Golden) -> Sftp {
        Sftp::of(&golden.beside(""))
    }

    pub(crate) fn of(root: &std::path::Path) -> Sftp {
        let sftp = Sftp {
            server: SftpServer::start(root),
            home: folder(),
        };
        fs::create_dir(sftp.in_home(".ssh")).expect("a folder can be made");
        fs::write(
            sftp.in_home(".ssh/known_hosts"),
            sftp.server.known_hosts_line() + "\n",
        )
        .expect("a file can be written");
        sftp
    }

    /// A path in the home folder of the command's user.
    pub(crate) fn in_home(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    /// The URL of a folder, with the password.
    pub(crate) fn url(&self, path: &str) -> String {
        let password = self.server.password();
        self.url_of(&format!("{}:{password}", self.server.user()), path)
    }

    /// The URL of a folder for another login.
    pub(crate) fn url_of(&self, login: &str, path: &str) -> String {
        format!("sftp://{login}@{}{path}", self.server.address())
    }

    /// The command of a user whose `known_hosts` has the server's first key.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = command(args);
        command.env("HOME", self.home.path());
        command
    }

    /// Runs that command to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        run(self.command(args))
    }
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command) -> Ran {
    finish(command.spawn().expect("the command should start"))
}
