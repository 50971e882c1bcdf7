//! OpenSSH's server, on a free port of 127.0.0.1 with keys of its own, as long as its owner lives.
//! It needs `sshd`, `sftp-server` and `ssh-keygen` (Debian: `openssh-server`), and says so.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use replica_sftp::{HostKey, Login, PrivateKey, SftpConfig};
use tempfile::TempDir;

const SSHD: &str = "/usr/sbin/sshd";
const SFTP_SERVERS: [&str; 3] = [
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
];
const PATIENCE: Duration = Duration::from_secs(20);

/// What the server has beyond the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// All that OpenSSH has.
    Whole,
    /// Without `posix-rename@openssh.com`.
    NoPosixRename,
}

pub(crate) struct Sshd {
    child: Child,
    port: u16,
    folder: TempDir,
    form: Form,
}

impl Sshd {
    pub(crate) fn start(form: Form) -> Sshd {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for key in ["host", "user", "other"] {
            keygen(&folder.path().join(key));
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let child = launch(folder.path(), port, form);
        let server = Sshd {
            child,
            port,
            folder,
            form,
        };
        server.wait();
        server
    }

    fn wait(&self) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "sshd does not listen: {log}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The folder on the server that holds `name`, as this machine sees it too.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("data").join(name)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn host_key(&self) -> String {
        fs::read_to_string(self.file("host.pub")).expect("the host key")
    }

    /// How to reach the replica `name`.
    pub(crate) fn config(&self, name: &str) -> SftpConfig {
        let key = self.host_key().parse().expect("a public key");
        let user = whoami();
        SftpConfig::new("127.0.0.1", user, self.path(name).display().to_string())
            .port(self.port)
            .host_key(HostKey::Key(key))
            .login(self.login("user"))
            // 32 clients at once log in to a machine with few processors.
            .connect_timeout(Duration::from_secs(60))
            .atomic_replace(self.form == Form::Whole)
    }

    pub(crate) fn login(&self, key: &str) -> Login {
        Login::Key {
            key: PrivateKey::File(self.file(key)),
            passphrase: None,
        }
    }

    /// Makes a key and lets it in: of the form and length that `ssh-keygen` knows, in a file of
    /// that format.
    pub(crate) fn authorize_new(
        &self,
        name: &str,
        [form, bits]: [&str; 2],
        format: &str,
        passphrase: Option<&str>,
    ) {
        let status = Command::new("ssh-keygen")
            .args(["-q", "-t", form, "-b", bits, "-m", format])
            .args(["-N", passphrase.unwrap_or_default(), "-f"])
            .arg(self.file(name))
            .status()
            .expect("ssh-keygen should be installed: Debian's package is openssh-client");
        assert!(status.success(), "ssh-keygen failed");
        let public = fs::read(self.file(&format!("{name}.pub"))).expect("the public key");
        let mut authorized = fs::OpenOptions::new()
            .append(true)
            .open(self.file("authorized_keys"))
            .expect("the authorized keys");
        authorized.write_all(&public).expect("space");
    }

    /// Ends every process that serves a connection, and leaves the one that listens.
    pub(crate) fn cut(&self) {
        for listener in children(self.child.id()) {
            for session in children(listener) {
                kill_all(session);
            }
        }
    }

    fn end(&mut self) {
        self.cut();
        // Its input ends, and with it the server.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }

    /// Ends the server, and starts it again on the same port.
    pub(crate) fn restart(&mut self) {
        self.end();
        self.child = launch(self.folder.path(), self.port, self.form);
        self.wait();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.end();
    }
}

fn launch(folder: &Path, port: u16, form: Form) -> Child {
    let sftp = SFTP_SERVERS
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("OpenSSH's sftp-server should be installed: Debian's package is openssh-server");
    let denied = match form {
        Form::Whole => "",
        Form::NoPosixRename => " -P posix-rename",
    };
    fs::create_dir_all(folder.join("data")).expect("a folder");
    fs::copy(folder.join("user.pub"), folder.join("authorized_keys")).expect("a key");
    let folder_text = folder.display();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {folder_text}/host\n\
         AuthorizedKeysFile {folder_text}/authorized_keys\nPermitRootLogin yes\nUsePAM no\n\
         StrictModes no\nPidFile none\nLogLevel VERBOSE\nMaxStartups 1000\nMaxSessions 1000\n\
         Subsystem sftp {sftp}{denied}\n"
    );
    fs::write(folder.join("config"), config).expect("a configuration");
    // Its own requirement, as root.
    let _ = fs::create_dir_all("/run/sshd");
    let log = fs::File::create(folder.join("log")).expect("a log");
    assert!(
        Path::new(SSHD).exists(),
        "OpenSSH's sshd should be installed: Debian's package is openssh-server"
    );
    // A server that is a static of its test is never dropped: it ends when its input does.
    let script = r#""$@" & server=$!; read -r _; kill -9 "$server"; wait "$server""#;
    Command::new("sh")
        .args(["-c", script, "sh", SSHD, "-D", "-e", "-f"])
        .arg(folder.join("config"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("a shell")
}

fn keygen(path: &Path) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .expect("ssh-keygen should be installed: Debian's package is openssh-client");
    assert!(status.success(), "ssh-keygen failed");
}

fn whoami() -> String {
    let output = Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn children(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn kill_all(pid: u32) {
    for child in children(pid) {
        kill_all(child);
    }
    let _ = Command::new("kill")
        .args(["-9", &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}
