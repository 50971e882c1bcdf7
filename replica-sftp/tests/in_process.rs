//! The contract, asked of a server in this process.

use std::sync::OnceLock;
use std::time::Duration;

use replica_sftp::{HostKey, Login, SftpClient, SftpConfig};
use tempfile::TempDir;
use testbed::SftpServer;

async fn open(namespace: String) -> replica_core::Result<SftpClient> {
    static SERVER: OnceLock<(TempDir, SftpServer)> = OnceLock::new();
    let (_, server) = SERVER.get_or_init(|| {
        let root = tempfile::tempdir().expect("a temporary folder");
        let server = SftpServer::start(root.path());
        (root, server)
    });
    let key = server.host_key().parse().expect("a public key");
    SftpClient::new(
        SftpConfig::new("127.0.0.1", server.user(), format!("/{namespace}"))
            .port(server.address().port())
            .host_key(HostKey::Key(key))
            .login(Login::Password(server.password().to_owned()))
            // Many clients log in at once to a machine with few processors.
            .connect_timeout(Duration::from_secs(60))
            .atomic_replace(true),
    )
}

conformance::conformance!(open);
