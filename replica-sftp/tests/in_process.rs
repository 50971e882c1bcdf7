//! The contract, asked of a server in this process: one like OpenSSH's, one without
//! `posix-rename@openssh.com`, and one behind a network that breaks, where `Retry` and `Verify`
//! help.

mod support;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use conformance::{Options, run_with};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, FileId, FileInfo, FileStream, Level, ReplicaClient,
    Result, Timestamp, Timestamps, Txid, async_trait,
};
use replica_layers::{Backoff, Retry, Verify};
use replica_sftp::SftpClient;
use support::served::{PASSWORD, Served};
use testbed::{Direction, Fault, Proxy};

mod whole {
    use super::*;

    static SERVER: LazyLock<Served> = LazyLock::new(Served::start);

    async fn open(namespace: String) -> Result<SftpClient> {
        SftpClient::new(SERVER.config(&namespace))
    }

    conformance::conformance!(open, secrets = vec![PASSWORD.to_owned()]);
}

mod without_posix_rename {
    use super::*;

    static SERVER: LazyLock<Served> = LazyLock::new(|| {
        let server = Served::start();
        server.refuse_extension("posix-rename@openssh.com");
        server
    });

    async fn open(namespace: String) -> Result<SftpClient> {
        SftpClient::new(SERVER.config(&namespace).atomic_replace(false))
    }

    conformance::conformance!(open, secrets = vec![PASSWORD.to_owned()]);
}

/// Attempts that follow each other quickly, and end with their time and not with their number:
/// calls side by side share connections, and each that has its own cut takes one from the others.
fn backoff() -> Backoff {
    Backoff {
        attempts: NonZeroU32::MAX,
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(10),
        ..Backoff::default()
    }
}

/// Every connection that a client opens first fails at some stage, before any request is sent, so
/// that every promise must be kept.
mod through_layers_and_a_network_that_is_hard_to_enter {
    use super::*;

    type Stack = Arc<Verify<Retry<SftpClient>>>;

    static SERVER: LazyLock<Served> = LazyLock::new(Served::start);
    static NETWORK: LazyLock<Proxy> = LazyLock::new(|| Proxy::start(SERVER.address()));

    /// One a namespace: it knows of other writers only where they write through it.
    static CLIENTS: LazyLock<Mutex<HashMap<String, Stack>>> = LazyLock::new(Mutex::default);

    async fn open(namespace: String) -> Result<Stack> {
        let (client, number) = {
            let mut clients = CLIENTS.lock().expect("no test panics while it holds this");
            if let Some(client) = clients.get(&namespace) {
                return Ok(Arc::clone(client));
            }
            let client = SftpClient::new(SERVER.config_by(&NETWORK, &namespace))?;
            let client = Arc::new(Verify::new(Retry::new(client, backoff())));
            clients.insert(namespace, Arc::clone(&client));
            (client, clients.len())
        };
        let fault = match number % 4 {
            0 => Fault::ResetAtConnect,
            // Within the banner, the key exchange, and the login.
            1 => reset(Direction::Down, 5),
            2 => reset(Direction::Up, 600),
            _ => reset(Direction::Down, 1500),
        };
        NETWORK.next(1, fault);
        // A body that can be sent only once is no match for it.
        let _ = client
            .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
            .await?;
        Ok(client)
    }

    fn reset(direction: Direction, after: u64) -> Fault {
        Fault::Reset { direction, after }
    }

    conformance::conformance!(open, secrets = vec![PASSWORD.to_owned()]);
}

/// Cases with one client, or with several that stay out of each other's way: a request whose
/// answer is lost is sent again, and what is done twice does undo what a rival did in between.
const WITHOUT_RIVALS: [&str; 8] = [
    "contract::",
    "range::",
    "list::",
    "errors::",
    "timestamps::",
    "delete::",
    "naming::",
    "model::",
];

#[tokio::test(flavor = "multi_thread")]
async fn retry_keeps_the_promises_over_connections_that_are_cut_at_any_time() {
    static SERVER: LazyLock<Served> = LazyLock::new(Served::start);
    let open = async |namespace: String| -> Result<Retry<Shaken>> {
        let network = Proxy::start(SERVER.address());
        let shaken = Shaken {
            flaky: SftpClient::new(SERVER.config_by(&network, &namespace))?,
            steady: SftpClient::new(SERVER.config(&namespace))?,
            network,
            calls: AtomicU64::new(0),
        };
        Ok(Retry::new(shaken, backoff()))
    };

    for group in WITHOUT_RIVALS {
        let options = Options {
            filter: group.to_owned(),
            ..Options::default()
        };
        run_with(&options, open, |_| ()).await.assert_kept();
    }
}

/// A client whose connections are cut within every third call, or while what it returned is read.
/// It spares bodies that can't be sent again, which no retry could help.
struct Shaken {
    flaky: SftpClient,
    steady: SftpClient,
    network: Proxy,
    calls: AtomicU64,
}

impl Shaken {
    /// Has the network cut the connections after some more bytes, or spare them.
    fn shake(&self) {
        const AFTER: [u64; 7] = [0, 60, 150, 300, 700, 5000, 200_000];
        self.network.clear();
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        if number % 3 == 2 {
            let direction = match number % 2 {
                0 => Direction::Up,
                _ => Direction::Down,
            };
            let after = AFTER[number as usize / 3 % AFTER.len()];
            self.network.set(Fault::Reset { direction, after });
        }
    }
}

impl fmt::Debug for Shaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.flaky.fmt(f)
    }
}

#[async_trait]
impl ReplicaClient for Shaken {
    fn scheme(&self) -> &'static str {
        self.flaky.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.flaky.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        self.shake();
        self.flaky.list(level, from, timestamps).await
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        self.shake();
        self.flaky.open(file, range).await
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        match body.try_clone() {
            Some(_) => {
                self.shake();
                self.flaky.write(file, created_at, body).await
            }
            None => self.steady.write(file, created_at, body).await,
        }
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.shake();
        self.flaky.delete(files).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.shake();
        self.flaky.delete_all().await
    }
}
