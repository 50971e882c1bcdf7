//! From a configuration to a connection: everything that happens before the first request.
//!
//! All of it runs on the thread that the connection is to have, and within one time limit.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use replica_core::{Error, ErrorKind};
use ssh2::{Channel, CheckResult, KnownHostFileKind, MethodType, Session};
use tokio::time::Instant;

use crate::classify::{classify, is_timeout};
use crate::config::{HostKey, Login, PrivateKey, SftpConfig};
use crate::connection::Link;
use crate::known_hosts::{Known, Verdict};
use crate::public_key::PublicKey;
use crate::wire::{self, Extensions, Frames, Limits, Request, Response};

/// How much a server may send before a window adjustment: enough for what is read ahead.
const WINDOW: u32 = 4 << 20;

/// The longest packet that a server may send, which each has to be able to.
const PACKET: u32 = 32 << 10;

/// What every server takes and gives at once, whatever its limits.
const PIECE_MIN: u64 = 32 << 10;

/// The largest piece that a file is read and written in.
pub(crate) const PIECE_MAX: u64 = 256 << 10;

/// The ciphers, fastest first: processors have instructions for AES, and its mode GCM needs no
/// second pass.
const CIPHERS: &str = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,\
                       chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr";

/// The forms of host keys that are taken, the best first.
const HOST_KEYS: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

/// The moment until which something must be done.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    fn after(limit: Duration) -> Deadline {
        Deadline {
            at: Instant::now() + limit,
            limit,
        }
    }

    /// What is left, if anything.
    fn left(self, config: &SftpConfig) -> Result<Duration, Error> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.missed(config));
        }
        Ok(left)
    }

    fn missed(self, config: &SftpConfig) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "could not connect to {} within {:?}",
                config.address(),
                self.limit
            ),
        )
    }

    /// Lets the session's next call take no longer than what is left.
    fn arm(self, session: &Session, config: &SftpConfig) -> Result<(), Error> {
        let left = self.left(config)?;
        // Zero would be no limit at all.
        session.set_timeout(u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1));
        Ok(())
    }
}

/// Connects, makes sure of the server, and logs in.
pub(crate) fn connect(config: &SftpConfig) -> Result<Link, Error> {
    let deadline = Deadline::after(config.connect_timeout);
    let socket = dial(config, deadline)?;
    let fault = |doing: &str, error: io::Error| classify(doing, config.address(), error);
    socket
        .set_nodelay(true)
        .map_err(|error| fault("set up the connection to", error))?;
    let twin = socket
        .try_clone()
        .map_err(|error| fault("set up the connection to", error))?;

    let mut session = Session::new()
        .map_err(|error| classify("begin a session with", config.address(), error))?;
    session.set_tcp_stream(twin);
    let known = known_hosts(&session, config)?;
    prefer(&session, config, known.as_ref())?;
    deadline.arm(&session, config)?;
    session
        .handshake()
        .map_err(|error| classify("agree on a session with", config.address(), error))?;
    verify(&session, config, known.as_ref())?;
    log_in(&session, config, deadline)?;
    start_sftp(session, socket, config, deadline)
}

/// A connection to the first of the host's addresses that takes one.
fn dial(config: &SftpConfig, deadline: Deadline) -> Result<TcpStream, Error> {
    let addresses: Vec<_> = (config.host.as_str(), config.port)
        .to_socket_addrs()
        .map_err(|error| classify("find the address of", config.address(), error))?
        .collect();
    let mut last = None;
    for (index, address) in addresses.iter().enumerate() {
        // A host that is deaf at one address must not use up the time of the others.
        let share = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let limit = deadline.left(config)? / share;
        match TcpStream::connect_timeout(address, limit.max(Duration::from_millis(1))) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) if error.kind() == io::ErrorKind::TimedOut => deadline.missed(config),
        Some(error) => classify("connect to", config.address(), error),
        None => Error::new(
            ErrorKind::Unavailable,
            format!("{} has no address", config.host),
        ),
    })
}

/// What is known of the server's keys, or `None` where nobody asks.
fn known_hosts(session: &Session, config: &SftpConfig) -> Result<Option<Known>, Error> {
    let HostKey::KnownHosts(files) = &config.host_key else {
        return Ok(None);
    };
    let address = config.address();
    let mut known = Known::default();
    for file in files {
        let text = match fs::read(file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("could not read the known hosts in {}", file.display()),
                )
                .with_source(error));
            }
        };
        let is_hashed_host =
            |hosts: &str, key: &PublicKey| is_hashed_host(session, hosts, key, &address);
        known.read(&text, &file.display().to_string(), &address, is_hashed_host);
    }
    Ok(Some(known))
}

/// Whether `hosts` is a hash of `address`.
fn is_hashed_host(session: &Session, hosts: &str, key: &PublicKey, address: &str) -> bool {
    // A name with a null byte is nobody's, and not to be passed on.
    if address.contains('\0') {
        return false;
    }
    let Ok(mut line) = session.known_hosts() else {
        return false;
    };
    line.read_str(&format!("{hosts} {key}"), KnownHostFileKind::OpenSSH)
        .is_ok()
        && matches!(line.check(address, key.blob()), CheckResult::Match)
}

/// Says what we would rather use.
fn prefer(session: &Session, config: &SftpConfig, known: Option<&Known>) -> Result<(), Error> {
    // A server shows one of its keys, so that it has to be asked for the one that is known.
    let is_known = |form: &&str| {
        let algorithm = match *form {
            "rsa-sha2-512" | "rsa-sha2-256" => "ssh-rsa",
            other => other,
        };
        match (&config.host_key, known) {
            (HostKey::Key(key), _) => key.algorithm() == algorithm,
            (_, Some(known)) => known
                .keys
                .iter()
                .any(|(key, _)| key.algorithm() == algorithm),
            (_, None) => false,
        }
    };
    let (known, unknown): (Vec<_>, Vec<_>) = HOST_KEYS.into_iter().partition(is_known);
    let host_keys = [known, unknown].concat().join(",");
    for (method, names) in [
        (MethodType::HostKey, host_keys.as_str()),
        (MethodType::CryptCs, CIPHERS),
        (MethodType::CryptSc, CIPHERS),
    ] {
        session
            .method_pref(method, names)
            .map_err(|error| classify("begin a session with", config.address(), error))?;
    }
    Ok(())
}

/// Makes sure that the server is the right one.
fn verify(session: &Session, config: &SftpConfig, known: Option<&Known>) -> Result<(), Error> {
    let address = config.address();
    let shown = session
        .host_key()
        .and_then(|(blob, _)| PublicKey::from_blob(blob))
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("{address} shows a host key that makes no sense"),
            )
        })?;
    let changed = |expected: &PublicKey, place: String| {
        Err(Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "THE HOST KEY OF {address} IS NOT THE ONE THAT IS KNOWN: it shows {} {}, and {} {} \
                 {place}; either the server has a new key, or somebody else answers in its place; \
                 nothing was sent to it",
                shown.algorithm(),
                shown.fingerprint(),
                expected.algorithm(),
                expected.fingerprint(),
            ),
        ))
    };
    match (&config.host_key, known) {
        (HostKey::Unchecked, _) => Ok(()),
        (HostKey::Key(expected), _) if *expected == shown => Ok(()),
        (HostKey::Key(expected), _) => changed(expected, "is configured".to_owned()),
        (HostKey::KnownHosts(files), known) => {
            match known.unwrap_or(&Known::default()).judge(&shown) {
                Verdict::Right => Ok(()),
                Verdict::Changed((expected, place)) => changed(
                    expected,
                    format!("is in {}, line {}", place.file, place.line),
                ),
                Verdict::Revoked => Err(Error::new(
                    ErrorKind::PermissionDenied,
                    format!(
                        "THE HOST KEY OF {address} HAS BEEN REVOKED: {} {}; nothing was sent to it",
                        shown.algorithm(),
                        shown.fingerprint()
                    ),
                )),
                Verdict::Unknown => Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "the host key of {address} is not known: it shows {} {}; if that is the \
                         right one, add this line to {}: {address} {shown}",
                        shown.algorithm(),
                        shown.fingerprint(),
                        files
                            .last()
                            .map_or("a file of known hosts".into(), |file| file
                                .display()
                                .to_string()),
                    ),
                )),
            }
        }
    }
}

/// Shows the server what the user has, until it is content.
fn log_in(session: &Session, config: &SftpConfig, deadline: Deadline) -> Result<(), Error> {
    let mut refusal = None;
    for login in &config.logins {
        deadline.arm(session, config)?;
        match attempt(session, config, login, deadline) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refusal.unwrap_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            format!(
                "there is nothing to log in to {} with: no password, no key, no agent",
                config.address()
            ),
        )
    }))
}

fn attempt(
    session: &Session,
    config: &SftpConfig,
    login: &Login,
    deadline: Deadline,
) -> Result<(), Error> {
    let user = config.user.as_str();
    match login {
        Login::Password(password) => session
            .userauth_password(user, password)
            .map_err(|error| classify("log in with a password to", config.address(), error)),
        Login::Key { key, passphrase } => {
            let text = match key {
                PrivateKey::Text(text) => text.clone(),
                PrivateKey::File(path) => fs::read_to_string(path).map_err(|error| {
                    Error::new(
                        ErrorKind::Invalid,
                        format!("could not read the private key in {}", path.display()),
                    )
                    .with_source(error)
                })?,
            };
            session
                .userauth_pubkey_memory(user, None, &text, passphrase.as_deref())
                .map_err(|error| classify("log in with a private key to", config.address(), error))
        }
        Login::Agent => {
            let fault = |error: ssh2::Error| {
                classify("log in with the agent's keys to", config.address(), error)
            };
            let mut agent = session.agent().map_err(fault)?;
            agent.connect().map_err(fault)?;
            agent.list_identities().map_err(fault)?;
            let mut refusals = Refusals::default();
            for identity in agent.identities().map_err(fault)? {
                deadline.arm(session, config)?;
                match agent.userauth(user, &identity) {
                    Ok(()) => return Ok(()),
                    Err(error) => refusals.add(error, config)?,
                }
            }
            Err(refusals.last.unwrap_or_else(|| {
                Error::new(ErrorKind::PermissionDenied, "the agent holds no key")
            }))
        }
    }
}

/// After how many refused keys of an agent a server that breaks off means that these were too many:
/// OpenSSH takes six attempts unless told otherwise, and careful administrators three.
const REFUSALS_MIN: usize = 2;

/// What a server has said to an agent's keys.
#[derive(Debug, Default)]
struct Refusals {
    count: usize,
    last: Option<Error>,
}

impl Refusals {
    /// Adds one more, unless `error` is none, and asking on makes no sense.
    fn add(&mut self, error: ssh2::Error, config: &SftpConfig) -> Result<(), Error> {
        let hangs = is_timeout(&error);
        let error = classify("log in with the agent's keys to", config.address(), error);
        match error.kind() {
            ErrorKind::PermissionDenied => {
                self.count += 1;
                self.last = Some(error);
                Ok(())
            }
            ErrorKind::Unavailable if !hangs && self.count >= REFUSALS_MIN => {
                let message = format!(
                    "{} broke off the login after {} of the agent's keys, which it refused: it may \
                     take no more attempts; name the key to log in with, or leave fewer in the agent",
                    config.address(),
                    self.count
                );
                Err(Error::new(ErrorKind::PermissionDenied, message).with_source(error))
            }
            _ => Err(error),
        }
    }
}

/// Lets the server speak SFTP, and hears what it can.
fn start_sftp(
    session: Session,
    socket: TcpStream,
    config: &SftpConfig,
    deadline: Deadline,
) -> Result<Link, Error> {
    deadline.arm(&session, config)?;
    let mut channel = session
        .channel_open("session", WINDOW, PACKET, None)
        .map_err(|error| classify("start SFTP on", config.address(), error))?;
    let greeted = greet(&session, &mut channel, config, deadline);
    session.set_timeout(0);
    session.set_blocking(false);
    if greeted.is_err() {
        // Nothing after this has a server to wait for.
        let _ = socket.shutdown(Shutdown::Both);
    }
    let (extensions, limits, frames) = greeted?;
    Ok(Link {
        session,
        channel,
        socket,
        extensions,
        limits,
        frames,
    })
}

/// Begins SFTP on `channel`.
fn greet(
    session: &Session,
    channel: &mut Channel,
    config: &SftpConfig,
    deadline: Deadline,
) -> Result<(Extensions, Limits, Frames), Error> {
    deadline.arm(session, config)?;
    channel
        .subsystem("sftp")
        .map_err(|error| classify("start SFTP on", config.address(), error))?;
    let mut greeting = Greeting {
        session,
        channel,
        config,
        deadline,
        frames: Frames::default(),
    };
    greeting.say(&wire::hello())?;
    let extensions = wire::parse_hello(greeting.hear()?).map_err(|_| nonsense(config))?;
    let limits = match extensions.limits {
        true => greeting.limits()?,
        false => Limits {
            read: PIECE_MIN,
            write: PIECE_MIN,
        },
    };
    Ok((extensions, limits, greeting.frames))
}

fn nonsense(config: &SftpConfig) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "{} does not speak SFTP version {}: a login that prints something would look like this",
            config.address(),
            wire::VERSION
        ),
    )
}

/// The first words with a server, one after the other.
struct Greeting<'a> {
    session: &'a Session,
    channel: &'a mut Channel,
    config: &'a SftpConfig,
    deadline: Deadline,
    frames: Frames,
}

impl Greeting<'_> {
    fn say(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.deadline.arm(self.session, self.config)?;
        self.channel
            .write_all(bytes)
            .map_err(|error| classify("start SFTP on", self.config.address(), error))
    }

    fn hear(&mut self) -> Result<Bytes, Error> {
        let mut arrived = [0; 4096];
        loop {
            if let Some(frame) = self.frames.next().map_err(|_| nonsense(self.config))? {
                return Ok(frame);
            }
            self.deadline.arm(self.session, self.config)?;
            match self.channel.read(&mut arrived) {
                Ok(0) => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!("{} ended SFTP as soon as it began", self.config.address()),
                    ));
                }
                Ok(count) => self.frames.push(&arrived[..count]),
                Err(error) => return Err(classify("start SFTP on", self.config.address(), error)),
            }
        }
    }

    /// The sizes that the server names, within ours.
    fn limits(&mut self) -> Result<Limits, Error> {
        let mut request = Vec::new();
        Request::limits().encode(0, &mut request);
        self.say(&request)?;
        let limits = match wire::parse(self.hear()?) {
            Ok((0, Response::Extended(reply))) => wire::parse_limits(reply).ok(),
            _ => None,
        };
        let limits = limits.ok_or_else(|| nonsense(self.config))?;
        let ours = |theirs: u64| match theirs {
            0 => PIECE_MIN,
            theirs => theirs.clamp(1024, PIECE_MAX),
        };
        Ok(Limits {
            read: ours(limits.read),
            write: ours(limits.write),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssh2::ErrorCode;

    #[test]
    fn a_server_that_breaks_off_after_some_keys_of_an_agent_has_had_too_many() {
        let config = SftpConfig::new("example.com", "replica", "/db");
        let ssh = |code, message| ssh2::Error::new(ErrorCode::Session(code), message);
        let refused = || ssh(-18, "Username/PublicKey combination invalid");
        let broken = || ssh(-19, "Waiting for USERAUTH response");
        let late = || ssh(-9, "API timeout expired");

        for (count, end, kind) in [
            (0, broken(), ErrorKind::Unavailable),
            (1, broken(), ErrorKind::Unavailable),
            (2, broken(), ErrorKind::PermissionDenied),
            (5, broken(), ErrorKind::PermissionDenied),
            (5, late(), ErrorKind::Unavailable),
        ] {
            let mut refusals = Refusals::default();
            for _ in 0..count {
                refusals.add(refused(), &config).expect("it goes on");
            }

            let error = refusals.add(end, &config).unwrap_err();

            assert_eq!(error.kind(), kind, "after {count}");
            let is_told = error.to_string().contains("leave fewer in the agent");
            assert_eq!(is_told, kind == ErrorKind::PermissionDenied, "{error}");
        }
    }
}
