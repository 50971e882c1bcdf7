//! What a client must know to reach a replica.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use replica_core::{Error, ErrorKind, Result};

use crate::public_key::PublicKey;

/// What a client must know to reach a replica: the server, the login, the folder.
///
/// ```
/// use replica_sftp::{HostKey, Login, PrivateKey, SftpConfig};
///
/// let config = SftpConfig::new("backup.example.com", "replica", "/srv/replicas/app")
///     .port(2222)
///     .host_key(HostKey::KnownHosts(vec!["/etc/replica/known_hosts".into()]))
///     .login(Login::Key {
///         key: PrivateKey::File("/etc/replica/id_ed25519".into()),
///         passphrase: None,
///     });
/// # let _ = config;
/// ```
///
/// Its `Debug` text shows no secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SftpConfig {
    /// A name, or an address without brackets.
    pub host: String,
    /// 22, unless set.
    pub port: u16,
    /// Who logs in.
    pub user: String,
    /// The folder of the replica: from the server's root on where it begins with a slash, as the
    /// path of a URL does, and otherwise from the folder in which a login begins.
    pub root: String,
    /// How the server is told from an impostor.
    pub host_key: HostKey,
    /// What the user can show, in the order in which it is tried.
    pub logins: Vec<Login>,
    /// How long it may take to connect and log in, all in all. 10 seconds, unless set.
    pub connect_timeout: Duration,
    /// How long the server may give no sign of life while something is asked of it. A slow
    /// transfer that goes on is not cut, as long as 32 KiB take no longer than this. 30 seconds,
    /// unless set.
    pub stall_timeout: Duration,
    /// How long a connection rests before the server is asked whether it is still there. 15
    /// seconds, unless set.
    pub keepalive: Duration,
    /// How many connections there are at most. Each is opened when those before it are busy. 4,
    /// unless set; at least one.
    pub connections_max: usize,
    /// Whether files are replaced atomically, which takes a server with
    /// `posix-rename@openssh.com`: the client's capabilities say so. True, unless set. Where the
    /// server has no such thing, replacing a file is then an error, and a client for which this
    /// is false moves the old file out of the way first.
    pub atomic_replace: bool,
}

impl SftpConfig {
    /// The folder `root` of `host`, with everything else as it is unless set. A login and,
    /// nearly always, a host key are still to be given.
    pub fn new(
        host: impl Into<String>,
        user: impl Into<String>,
        root: impl Into<String>,
    ) -> SftpConfig {
        SftpConfig {
            host: host.into(),
            port: 22,
            user: user.into(),
            root: root.into(),
            host_key: HostKey::default(),
            logins: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(15),
            connections_max: 4,
            atomic_replace: true,
        }
    }

    /// Sets [`port`](SftpConfig::port).
    #[must_use]
    pub fn port(mut self, port: u16) -> SftpConfig {
        self.port = port;
        self
    }

    /// Sets [`host_key`](SftpConfig::host_key).
    #[must_use]
    pub fn host_key(mut self, host_key: HostKey) -> SftpConfig {
        self.host_key = host_key;
        self
    }

    /// Adds one more of [`logins`](SftpConfig::logins), to be tried after those before it.
    #[must_use]
    pub fn login(mut self, login: Login) -> SftpConfig {
        self.logins.push(login);
        self
    }

    /// Sets [`connect_timeout`](SftpConfig::connect_timeout).
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> SftpConfig {
        self.connect_timeout = limit;
        self
    }

    /// Sets [`stall_timeout`](SftpConfig::stall_timeout).
    #[must_use]
    pub fn stall_timeout(mut self, limit: Duration) -> SftpConfig {
        self.stall_timeout = limit;
        self
    }

    /// Sets [`keepalive`](SftpConfig::keepalive).
    #[must_use]
    pub fn keepalive(mut self, pause: Duration) -> SftpConfig {
        self.keepalive = pause;
        self
    }

    /// Sets [`connections_max`](SftpConfig::connections_max).
    #[must_use]
    pub fn connections_max(mut self, count: usize) -> SftpConfig {
        self.connections_max = count;
        self
    }

    /// Sets [`atomic_replace`](SftpConfig::atomic_replace).
    #[must_use]
    pub fn atomic_replace(mut self, atomic_replace: bool) -> SftpConfig {
        self.atomic_replace = atomic_replace;
        self
    }

    /// How to reach a server of a test.
    #[cfg(test)]
    pub(crate) fn of(server: &testbed::SftpServer) -> SftpConfig {
        SftpConfig::new("127.0.0.1", server.user(), "/db")
            .port(server.address().port())
            .host_key(HostKey::Unchecked)
            .login(Login::Password(server.password().to_owned()))
            // Many clients log in at once to a machine with few processors.
            .connect_timeout(Duration::from_secs(60))
    }

    /// Refuses what nothing can have.
    pub(crate) fn check(&self) -> Result<()> {
        for (what, text) in [("host", &self.host), ("user", &self.user)] {
            if text.is_empty() || text.contains(char::is_control) {
                let message = format!("the {what} is empty, or no text");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        Ok(())
    }

    /// How the server is called in known hosts and in errors.
    pub(crate) fn address(&self) -> String {
        match self.port {
            22 => self.host.clone(),
            port => format!("[{}]:{port}", self.host),
        }
    }
}

/// How the server is told from an impostor. No credential is sent to one whose key is not the
/// right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostKey {
    /// The server's key stands in one of these files, which are as OpenSSH's `known_hosts`; one
    /// that is not there is passed over. By default this is `/etc/ssh/ssh_known_hosts` alone: the
    /// file of a user is for an application to name, which knows who that is.
    KnownHosts(Vec<PathBuf>),
    /// The server has this key.
    Key(PublicKey),
    /// Any key will do, so that whoever is between here and the server can read and change all
    /// there is, and has the password.
    ///
    /// A client logs nothing, so that an application which offers this has to warn: the command
    /// `replica` does so whenever it opens such a replica.
    Unchecked,
}

impl Default for HostKey {
    fn default() -> HostKey {
        HostKey::KnownHosts(vec!["/etc/ssh/ssh_known_hosts".into()])
    }
}

/// What a user can show.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A password.
    Password(String),
    /// A private key.
    Key {
        /// The key itself.
        key: PrivateKey,
        /// What the key is encrypted with, where it is.
        passphrase: Option<String>,
    },
    /// The keys of the agent that the process was given, one after the other.
    Agent,
}

/// Says what kind of login it is, and of a key where it is.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Login::Password(_) => f.write_str("Password"),
            Login::Key { key, .. } => f.debug_tuple("Key").field(key).finish(),
            Login::Agent => f.write_str("Agent"),
        }
    }
}

/// A private key, in any form that OpenSSH or OpenSSL write.
#[derive(Clone, PartialEq, Eq)]
pub enum PrivateKey {
    /// A file, which is read at each login.
    File(PathBuf),
    /// The text of such a file.
    Text(String),
}

/// Says where the key is, and never what.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrivateKey::File(path) => f.debug_tuple("File").field(path).finish(),
            PrivateKey::Text(_) => f.write_str("Text"),
        }
    }
}
