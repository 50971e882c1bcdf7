//! The contract, asked of OpenSSH's server without `posix-rename@openssh.com`.

mod support;

use std::sync::OnceLock;

use conformance::Pace;
use replica_sftp::SftpClient;
use support::openssh::{Form, Sshd};

async fn open(namespace: String) -> replica_core::Result<SftpClient> {
    static SERVER: OnceLock<Sshd> = OnceLock::new();
    let server = SERVER.get_or_init(|| Sshd::start(Form::NoPosixRename));
    SftpClient::new(server.config(&namespace))
}

// Each of a case's thousands of writes is synced to a disk, which may be slow.
conformance::conformance!(open, slow, limit = Some(Pace::Slow.limit()));
