//! An SFTP server that serves a folder.
//!
//! ```
//! use testbed::SftpServer;
//!
//! # let root = std::env::temp_dir().join(format!("testbed-{}", std::process::id()));
//! # std::fs::create_dir_all(&root).unwrap();
//! let server = SftpServer::start(&root);
//! server.refuse_extension("posix-rename@openssh.com");
//! server.fail_writes_after(1000);
//! assert_eq!(server.logins(), 0);
//! # std::fs::remove_dir_all(&root).unwrap();
//! ```

mod session;
mod ssh;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{HashAlg, PrivateKey, PublicKey};
use tokio::net::TcpStream;

use crate::port::Port;

const USER: &str = "testbed";
const PASSWORD: &str = "testbed-password";
/// Where relative paths begin.
const HOME: &str = "/home";

/// An SFTP server on 127.0.0.1, version 3 as OpenSSH speaks it.
///
/// Clients see the root folder as `/`, and relative paths begin at `/home`, which is made. They
/// can't leave the root, symbolic links of the test's own making aside. Of the reads, one in seven
/// is answered with less than there is. Faults that are set hold for live sessions too.
pub struct SftpServer {
    shared: Arc<Shared>,
    port: Port,
}

impl SftpServer {
    /// Starts a server of a folder, with a host key of its own.
    ///
    /// # Panics
    ///
    /// Where the folder isn't there.
    pub fn start(root: &Path) -> Self {
        let root = fs::canonicalize(root).expect("the root folder should be there");
        fs::create_dir_all(root.join("home")).expect("a folder can be made in the root");
        let shared = Arc::new(Shared {
            root,
            state: Mutex::new(State::new()),
        });
        let serving = Arc::clone(&shared);
        let port = Port::open(move |stream: TcpStream| ssh::serve(Arc::clone(&serving), stream));
        Self { shared, port }
    }

    /// The one user.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// The user's password.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// Accepts a key of the user's beside the password, such as `ssh-ed25519 AAAA… comment`.
    ///
    /// # Panics
    ///
    /// Where it isn't a public key in OpenSSH's form.
    pub fn authorize(&self, public_key: &str) {
        let key = PublicKey::from_openssh(public_key).expect("a public key in OpenSSH's form");
        self.shared.lock().authorized.push(key);
    }

    /// Makes a key, [accepts](Self::authorize) it, and returns the private half as OpenSSH writes
    /// it.
    pub fn authorize_new(&self) -> String {
        let key = new_key();
        self.shared.lock().authorized.push(key.public_key().clone());
        let text = key.to_openssh(LineEnding::LF);
        text.expect("an Ed25519 key can be written down")
            .to_string()
    }

    /// The line of a `known_hosts` file that names this server and its key.
    pub fn known_hosts_line(&self) -> String {
        let address = self.address();
        format!("[{}]:{} {}", address.ip(), address.port(), self.host_key())
    }

    /// The public host key, such as `ssh-ed25519 AAAA…`.
    pub fn host_key(&self) -> String {
        let key = self.shared.lock().host_key.public_key().clone();
        key.to_openssh()
            .expect("an Ed25519 key can be written down")
    }

    /// The fingerprint of the host key, such as `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        let state = self.shared.lock();
        let fingerprint = state.host_key.public_key().fingerprint(HashAlg::Sha256);
        fingerprint.to_string()
    }

    /// Shows another host key from the next connection on.
    pub fn change_host_key(&self) {
        self.shared.lock().host_key = new_key();
    }

    /// Neither announces an extension from the next session on, nor serves it from now on:
    /// `posix-rename@openssh.com`, `fsync@openssh.com`, `statvfs@openssh.com` or
    /// `limits@openssh.com`.
    pub fn refuse_extension(&self, name: &str) {
        self.shared.lock().refused.insert(name.to_owned());
    }

    /// Tells clients that so many bytes are free. It is a tebibyte from the start.
    pub fn set_free(&self, bytes: u64) {
        self.shared.lock().free = bytes;
    }

    /// Fails writes once so many more bytes were written, as a full disk does. Of the write that
    /// goes beyond, nothing is written.
    pub fn fail_writes_after(&self, bytes: u64) {
        self.shared.lock().writable = Some(bytes);
    }

    /// Denies all that concerns a path or what is below it, as clients see it: `/home/a`.
    pub fn deny(&self, path: &str) {
        self.shared.lock().denied.push(PathBuf::from(path));
    }

    /// Ends what [`deny`](Self::deny) and [`fail_writes_after`](Self::fail_writes_after) began.
    pub fn allow_everything(&self) {
        let mut state = self.shared.lock();
        state.denied.clear();
        state.writable = None;
    }

    /// Lists at most so many entries of a folder at once. It is 100 from the start.
    pub fn set_page_max(&self, entries: usize) {
        self.shared.lock().page_max = entries.max(1);
    }

    /// Lists names from now on, and says nothing of what has them.
    pub fn list_names_alone(&self) {
        self.shared.lock().names_alone = true;
    }

    /// Ends listings from now on by listing nothing, and not by saying that it is the end.
    pub fn end_listings_with_nothing(&self) {
        self.shared.lock().ends_with_nothing = true;
    }

    /// Leaves an entry out of the next listing of its folder, whose time changes then: so may a
    /// file system that replaces the file meanwhile.
    pub fn miss_next(&self, name: &str) {
        self.shared.lock().missed = Some(name.into());
    }

    /// How many times credentials were shown to the server: a password, or a key, right or wrong.
    pub fn logins(&self) -> u64 {
        self.shared.lock().logins
    }

    /// How many requests of a kind came so far: `"open"`, `"write"`, `"rename"` and so on, or the
    /// name of an extension.
    pub fn requests(&self, kind: &str) -> u64 {
        self.shared.lock().requests.get(kind).copied().unwrap_or(0)
    }

    /// How many requests came so far.
    pub fn requests_in_all(&self) -> u64 {
        self.shared.lock().requests.values().sum()
    }
}

impl Deref for SftpServer {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

impl fmt::Debug for SftpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpServer")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// What all sessions have in common.
struct Shared {
    root: PathBuf,
    state: Mutex<State>,
}

struct State {
    host_key: PrivateKey,
    authorized: Vec<PublicKey>,
    refused: BTreeSet<String>,
    free: u64,
    /// How many more bytes can be written, if there is an end to it.
    writable: Option<u64>,
    denied: Vec<PathBuf>,
    page_max: usize,
    names_alone: bool,
    ends_with_nothing: bool,
    /// What the next listing of its folder leaves out.
    missed: Option<PathBuf>,
    logins: u64,
    requests: BTreeMap<String, u64>,
}

impl State {
    fn new() -> Self {
        Self {
            host_key: new_key(),
            authorized: Vec::new(),
            refused: BTreeSet::new(),
            free: 1 << 40,
            writable: None,
            denied: Vec::new(),
            page_max: 100,
            names_alone: false,
            ends_with_nothing: false,
            missed: None,
            logins: 0,
            requests: BTreeMap::new(),
        }
    }
}

impl Shared {
    fn count(&self, request: &str) {
        let requests = &mut self.lock().requests;
        *requests.entry(request.to_owned()).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key that no other server of this process has. It protects nothing, and needn't be secret.
fn new_key() -> PrivateKey {
    static KEYS: AtomicU64 = AtomicU64::new(1);
    let number = KEYS.fetch_add(1, Ordering::Relaxed);
    let mut seed = [0x5a; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    Ed25519Keypair::from_seed(&seed).into()
}
