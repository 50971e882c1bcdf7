//! Broken clients, each of which breaks one promise and must be caught.
//!
//! A mutant wraps the mock, does one thing wrong, and names the cases that have to fail for it.
//! Every case has to be named by at least one: a case that no mutant kills may assert nothing.

mod deleting;
mod listing;
mod reading;
mod together;
mod writing;

use std::collections::BTreeSet;
use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use conformance::{CASES, Case, Options, Outcome, Pace, Report};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, Error, ErrorKind, FileId, FileInfo, FileStream,
    Level, ReplicaClient, Result, Timestamp, Timestamps, Txid, async_trait,
};
use replica_mock::{MockClient, MockStore};
use tokio::sync::OwnedSemaphorePermit;

/// What a mutant does otherwise than the mock: nothing, until a method is written anew.
#[async_trait]
trait Bug: Send + Sync + 'static {
    /// The root of the store that stands for `namespace`.
    fn root(&self, namespace: &str) -> Result<String> {
        Ok(namespace.to_owned())
    }

    /// What happens when a client is opened.
    fn opened(&self, _: &MockClient) {}

    fn capabilities(&self, mock: &MockClient) -> Capabilities {
        mock.capabilities()
    }

    fn debug(&self) -> String {
        "a broken client".to_owned()
    }

    async fn list(&self, mock: &MockClient, query: Query) -> Result<FileStream> {
        query.ask(mock).await
    }

    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        mock.open(file, range).await
    }

    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        mock.write(file, time, body).await
    }

    async fn delete(&self, mock: &MockClient, files: &[FileId]) -> Result<()> {
        mock.delete(files).await
    }

    async fn delete_all(&self, mock: &MockClient) -> Result<()> {
        mock.delete_all().await
    }
}

/// What a listing is asked for.
#[derive(Clone, Copy)]
struct Query {
    level: Level,
    from: Txid,
    timestamps: Timestamps,
}

impl Query {
    async fn ask(self, mock: &MockClient) -> Result<FileStream> {
        mock.list(self.level, self.from, self.timestamps).await
    }

    /// The whole level, whatever it is asked for.
    async fn all(self, mock: &MockClient) -> Result<Vec<FileInfo>> {
        let listing = mock.list(self.level, Txid::FIRST, self.timestamps).await?;
        listing.try_collect().await
    }
}

fn listed(files: impl IntoIterator<Item = FileInfo>) -> FileStream {
    stream::iter(files.into_iter().map(Ok).collect::<Vec<_>>()).boxed()
}

/// The bytes as a stream of chunks of 8 KiB.
fn chunks(mut bytes: Bytes) -> ByteStream {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        chunks.push(Ok(bytes.split_to(bytes.len().min(8192))));
    }
    stream::iter(chunks)
        .then(|chunk| async {
            tokio::task::yield_now().await;
            chunk
        })
        .boxed()
}

/// All of a body.
async fn collect(body: Body) -> Result<Bytes> {
    let whole = body
        .into_stream()
        .try_fold(BytesMut::new(), |mut whole, chunk| {
            whole.extend_from_slice(&chunk);
            ready(Ok(whole))
        });
    whole.await.map(BytesMut::freeze)
}

/// What the mock would read, whatever is read first.
fn part(mock: &MockClient, file: FileId, range: ByteRange) -> Result<Bytes> {
    let missing = || Error::new(ErrorKind::NotFound, "no such file").of(file);
    let content = mock.content(file).ok_or_else(missing)?;
    let range = range.resolve(content.len() as u64)?;
    Ok(content.slice(range.start as usize..range.end as usize))
}

/// `stream`, which gives `permit` back only when it is read to its end.
fn leaking<T: Send + 'static>(
    stream: BoxStream<'static, T>,
    permit: OwnedSemaphorePermit,
) -> BoxStream<'static, T> {
    struct Leak(Option<OwnedSemaphorePermit>);
    impl Drop for Leak {
        fn drop(&mut self) {
            if let Some(permit) = self.0.take() {
                permit.forget();
            }
        }
    }
    stream::unfold(
        (stream, Leak(Some(permit))),
        |(mut stream, mut leak)| async move {
            match stream.next().await {
                Some(item) => Some((item, (stream, leak))),
                None => {
                    drop(leak.0.take());
                    None
                }
            }
        },
    )
    .boxed()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("no mutant panics with a lock in its hand")
}

fn info(file: FileId, created_at: Timestamp, size: usize) -> FileInfo {
    FileInfo {
        id: file,
        size: size as u64,
        created_at,
    }
}

struct Broken {
    bug: Arc<dyn Bug>,
    mock: MockClient,
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bug.debug())
    }
}

#[async_trait]
impl ReplicaClient for Broken {
    fn scheme(&self) -> &'static str {
        self.mock.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.bug.capabilities(&self.mock)
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        let query = Query {
            level,
            from,
            timestamps,
        };
        self.bug.list(&self.mock, query).await
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        self.bug.open(&self.mock, file, range).await
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        self.bug.write(&self.mock, file, created_at, body).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.bug.delete(&self.mock, files).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.bug.delete_all(&self.mock).await
    }
}

/// What no error may tell.
const SECRET: &str = "hunter2";

/// Runs what `filter` chooses on a client with `bug`, with Tokio's clock paused.
fn run(bug: Arc<dyn Bug>, filter: &str) -> Report {
    let slow = Case::find(filter).is_some_and(|case| case.pace == Pace::Slow);
    let options = Options {
        filter: filter.to_owned(),
        slow,
        seed: Some(1),
        secrets: vec![SECRET.to_owned()],
        ..Options::default()
    };
    let store = MockStore::new();
    let open = move |namespace: String| {
        let root = bug.root(&namespace);
        ready(root.map(|root| {
            let mock = store.client(&root);
            bug.opened(&mock);
            Broken {
                bug: Arc::clone(&bug),
                mock,
            }
        }))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs no more than a thread");
    runtime.block_on(conformance::run_with(&options, open, |_| ()))
}

/// Checks that each of `cases` fails for `bug`, and fails by itself.
fn check(bug: fn() -> Arc<dyn Bug>, cases: &[&str]) {
    for id in cases {
        assert!(Case::find(id).is_some(), "there is no case {id}");
        let report = run(bug(), id);
        match report.cases.first().map(|case| &case.outcome) {
            Some(Outcome::Broken(message)) if !message.starts_with("cleaning up") => {}
            _ => panic!("the mutant survives {id}:\n{report}"),
        }
    }
}

/// A test for each mutant, and the list of what they kill.
macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident: $bug:expr => [$($case:literal),+ $(,)?];)+) => {
        $(
            $(#[$doc])*
            #[test]
            fn $name() {
                $crate::check(|| std::sync::Arc::new($bug), &[$($case),+]);
            }
        )+

        pub(crate) const KILLED: &[(&str, &[&str])] =
            &[$((stringify!($name), &[$($case),+])),+];
    };
}
use mutants;

/// A mutant that can only be told by the memory of a process that does nothing else: it has one of
/// its own, in `tests/memory.rs`.
const KILLED_ALONE: &[(&str, &[&str])] = &[(
    "every_write_has_a_part_buffer",
    &["big::small_writes_in_flight_cost_little"],
)];

fn all_mutants() -> Vec<(&'static str, &'static [&'static str])> {
    [
        reading::KILLED,
        listing::KILLED,
        writing::KILLED,
        deleting::KILLED,
        together::KILLED,
        KILLED_ALONE,
    ]
    .concat()
}

#[test]
fn every_case_is_killed_by_a_mutant() {
    let killed: BTreeSet<_> = all_mutants()
        .into_iter()
        .flat_map(|(_, cases)| cases)
        .collect();
    let survivors: Vec<_> = CASES
        .iter()
        .map(|case| case.id)
        .filter(|id| !killed.contains(id))
        .collect();

    assert_eq!(
        survivors, [""; 0],
        "no mutant shows that these cases can fail"
    );
}

#[test]
fn there_are_more_than_fifty_mutants() {
    let mutants = all_mutants();
    let names: BTreeSet<_> = mutants.iter().map(|(name, _)| name).collect();

    assert_eq!(names.len(), mutants.len(), "two mutants have one name");
    assert!(names.len() > 50, "{} mutants", names.len());
}

#[test]
fn a_wrapper_without_a_bug_keeps_the_contract() {
    struct None;
    impl Bug for None {}

    run(Arc::new(None), "").assert_kept();
}
