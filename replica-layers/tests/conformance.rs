//! A layer over a store that keeps the contract keeps it too, and `Retry` does so over a store
//! that is out of order every now and then.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, ErrorKind, FileId, FileInfo, FileStream, Level, Op,
    ReplicaClient, Result, Timestamp, Timestamps, Txid, async_trait,
};
use replica_layers::{Backoff, Limit, Retry, Throttle, Timeout, TimeoutSettings, Verify};
use replica_mock::{MockClient, MockStore};

static STORE: LazyLock<MockStore> = LazyLock::new(MockStore::new);

/// Many attempts that follow each other quickly, since a store that fails each third call may
/// well do so for several attempts of one of many callers.
fn backoff() -> Backoff {
    Backoff {
        attempts: NonZeroU32::new(30).expect("thirty is not zero"),
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(2),
        ..Backoff::default()
    }
}

mod retry {
    use super::*;

    async fn open(namespace: String) -> Retry<MockClient> {
        Retry::new(STORE.client(&format!("retry/{namespace}")), backoff())
    }

    conformance::conformance!(open);
}

mod retry_of_an_unreliable_store {
    use super::*;

    async fn open(namespace: String) -> Retry<Unreliable> {
        let steady = STORE.client(&format!("unreliable/{namespace}"));
        let flaky = steady.second();
        // Not in the small files that some cases rewrite while they read them: a read that breaks
        // while its file is replaced can't go on.
        flaky
            .on(Op::Open)
            .every(5)
            .at_byte(10_000)
            .fail(ErrorKind::Unavailable);
        flaky
            .on(Op::Open)
            .every(7)
            .at_byte(20_000)
            .fail(ErrorKind::Unavailable);
        flaky
            .on(Op::List)
            .every(3)
            .at_item(2)
            .fail(ErrorKind::Unavailable);
        flaky
            .on(Op::Write)
            .every(7)
            .at_byte(50)
            .fail(ErrorKind::Unavailable);
        for op in [Op::List, Op::Open, Op::Write, Op::Delete, Op::DeleteAll] {
            flaky.on(op).every(3).fail(ErrorKind::Unavailable);
        }
        // A lost reply of anything else happens twice, which cases of rival clients do see.
        flaky
            .on(Op::DeleteAll)
            .every(2)
            .after_applying()
            .fail(ErrorKind::Unavailable);
        Retry::new(Unreliable { flaky, steady }, backoff())
    }

    conformance::conformance!(open);
}

/// A store that fails every now and then, but spares bodies that can't be sent again, which no
/// retry could help.
#[derive(Debug)]
struct Unreliable {
    flaky: MockClient,
    steady: MockClient,
}

#[async_trait]
impl ReplicaClient for Unreliable {
    fn scheme(&self) -> &'static str {
        self.flaky.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.flaky.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        self.flaky.list(level, from, timestamps).await
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        self.flaky.open(file, range).await
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        match body.try_clone() {
            Some(_) => self.flaky.write(file, created_at, body).await,
            None => self.steady.write(file, created_at, body).await,
        }
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.flaky.delete(files).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.flaky.delete_all().await
    }
}

mod verify {
    use super::*;

    type Verified = Arc<Verify<MockClient>>;

    /// One a namespace: it knows of other writers only where they write through it.
    static CLIENTS: LazyLock<Mutex<HashMap<String, Verified>>> = LazyLock::new(Mutex::default);

    async fn open(namespace: String) -> Verified {
        let mock = STORE.client(&format!("verify/{namespace}"));
        let mut clients = CLIENTS.lock().expect("no test panics while it holds this");
        Arc::clone(
            clients
                .entry(namespace)
                .or_insert_with(|| Arc::new(Verify::new(mock))),
        )
    }

    conformance::conformance!(open);
}

mod throttle {
    use super::*;

    async fn open(namespace: String) -> Throttle<MockClient> {
        let mock = STORE.client(&format!("throttle/{namespace}"));
        let bytes_per_second = NonZeroU64::new(1 << 30).expect("a GiB is not zero");
        Throttle::new(mock, bytes_per_second)
    }

    conformance::conformance!(open);
}

mod timeout {
    use super::*;

    async fn open(namespace: String) -> Timeout<MockClient> {
        let mock = STORE.client(&format!("timeout/{namespace}"));
        Timeout::new(mock, TimeoutSettings::default())
    }

    conformance::conformance!(open);
}

mod limit {
    use super::*;

    async fn open(namespace: String) -> Limit<MockClient> {
        let mock = STORE.client(&format!("limit/{namespace}"));
        let calls = NonZeroUsize::new(2).expect("two is not zero");
        Limit::new(mock, calls)
    }

    conformance::conformance!(open);
}

mod all_of_them {
    use super::*;

    type Stack = Arc<Verify<Retry<Throttle<Limit<Timeout<MockClient>>>>>>;

    static CLIENTS: LazyLock<Mutex<HashMap<String, Stack>>> = LazyLock::new(Mutex::default);

    async fn open(namespace: String) -> Stack {
        let mock = STORE.client(&format!("all/{namespace}"));
        let stack = || {
            let client = Timeout::new(mock, TimeoutSettings::default());
            let client = Limit::new(client, NonZeroUsize::new(8).expect("eight is not zero"));
            let client = Throttle::new(client, NonZeroU64::new(1 << 30).expect("not zero"));
            let client = Retry::new(client, backoff());
            Arc::new(Verify::new(client))
        };
        let mut clients = CLIENTS.lock().expect("no test panics while it holds this");
        Arc::clone(clients.entry(namespace).or_insert_with(stack))
    }

    conformance::conformance!(open);
}
