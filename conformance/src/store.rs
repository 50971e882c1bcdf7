//! The place where one case works: a namespace of its own, and the clients that are opened on it.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use replica_core::{
    ByteRange, Error, ErrorKind, FileId, FileInfo, Level, ReplicaClient, ReplicaClientExt, Result,
    Timestamp, Timestamps, Txid,
};

use crate::attempt::attempt;
use crate::factory::{Factory, OpenError};
use crate::meter::{Meter, Metered};

/// Opens a client on a namespace; see [`Factory`].
pub(crate) type Opener = Arc<
    dyn Fn(String) -> BoxFuture<'static, Result<Arc<dyn ReplicaClient>, OpenError>> + Send + Sync,
>;

/// `factory` as a value whose type no longer says what it opens. Its panics are errors.
pub(crate) fn opener<M: 'static>(factory: impl Factory<M>) -> Opener {
    let factory = Arc::new(factory);
    Arc::new(move |namespace| {
        let factory = Arc::clone(&factory);
        attempt(async move { factory.open(namespace).await })
            .map(|opened| opened.unwrap_or_else(|panic| Err(Panicked(panic).into())))
            .boxed()
    })
}

/// What a factory panicked with.
#[derive(Debug)]
struct Panicked(String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Panicked {}

/// What a case is given: a fresh namespace, and what the run was asked for.
#[derive(Clone)]
pub(crate) struct Store(Arc<Inner>);

struct Inner {
    opener: Opener,
    /// The namespace of the case; its root is the folder `db` in it.
    namespace: String,
    settings: Settings,
    meter: Arc<Meter>,
    /// Every root that was opened, with the first client of it.
    opened: Mutex<Vec<(String, Client)>>,
    notes: Mutex<Vec<String>>,
}

/// What a run asks of its cases.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) slow: bool,
    pub(crate) secrets: Vec<String>,
    pub(crate) histories: Option<PathBuf>,
}

/// The name of the root that a case works under, within its namespace.
const ROOT: &str = "db";

impl Store {
    pub(crate) fn new(
        opener: Opener,
        namespace: String,
        settings: Settings,
        meter: Arc<Meter>,
    ) -> Store {
        Store(Arc::new(Inner {
            opener,
            namespace,
            settings,
            meter,
            opened: Mutex::default(),
            notes: Mutex::default(),
        }))
    }

    /// Opens one more client on the case's root.
    pub(crate) async fn client(&self) -> Client {
        self.sibling(ROOT).await
    }

    /// Opens `count` clients on the case's root.
    pub(crate) async fn clients(&self, count: usize) -> Vec<Client> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(self.client().await);
        }
        clients
    }

    /// Opens a client on the root `path` beside the case's, which is `db`.
    pub(crate) async fn sibling(&self, path: &str) -> Client {
        match self.open(self.beside(path)).await {
            Ok(client) => client,
            Err(error) => panic!("could not open {path:?}: {}", told(&*error)),
        }
    }

    /// Opens a client on the root `path` beside the case's, or `None` where the store refuses it.
    ///
    /// A panic is no refusal, nor is an error of the contract's that says anything but "invalid".
    pub(crate) async fn sibling_if_taken(&self, path: &str) -> Option<Client> {
        let error = match self.open(self.beside(path)).await {
            Ok(client) => return Some(client),
            Err(error) => error,
        };
        let kind = error.downcast_ref::<Error>().map(Error::kind);
        assert!(
            !error.is::<Panicked>() && kind.is_none_or(|kind| kind == ErrorKind::Invalid),
            "opening {path:?} should succeed or be refused as {}: {}",
            ErrorKind::Invalid,
            told(&*error)
        );
        None
    }

    /// Opens a client on the folder that holds the case's root and its siblings.
    pub(crate) async fn parent(&self) -> Client {
        match self.open(self.0.namespace.clone()).await {
            Ok(client) => client,
            Err(error) => panic!("could not open the parent folder: {}", told(&*error)),
        }
    }

    fn beside(&self, path: &str) -> String {
        format!("{}/{path}", self.0.namespace)
    }

    async fn open(&self, namespace: String) -> Result<Client, OpenError> {
        let client = (self.0.opener)(namespace.clone()).await?;
        let client = Client {
            inner: Arc::new(Metered::new(client, Arc::clone(&self.0.meter))),
            meter: Arc::clone(&self.0.meter),
        };
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if !opened.iter().any(|(known, _)| *known == namespace) {
            opened.push((namespace, client.clone()));
        }
        Ok(client)
    }

    /// The seed of everything random in this case.
    pub(crate) fn seed(&self) -> u64 {
        self.0.settings.seed
    }

    /// Whether there is time for the long form of a case.
    pub(crate) fn slow(&self) -> bool {
        self.0.settings.slow
    }

    /// What no error may tell.
    pub(crate) fn secrets(&self) -> &[String] {
        &self.0.settings.secrets
    }

    /// The folder to save histories in.
    pub(crate) fn histories(&self) -> Option<&Path> {
        self.0.settings.histories.as_deref()
    }

    /// Adds a line to what the report says of this case.
    pub(crate) fn note(&self, note: impl Into<String>) {
        let mut notes = self.0.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push(note.into());
    }

    pub(crate) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Deletes everything that the case may have left under the roots that it opened.
    pub(crate) async fn clean_up(&self) -> Result<(), String> {
        let opened =
            std::mem::take(&mut *self.0.opened.lock().unwrap_or_else(PoisonError::into_inner));
        let mut faults = Vec::new();
        for (namespace, client) in opened {
            match attempt(client.delete_all()).await {
                Ok(Ok(())) => {}
                // A root that the store can't have holds nothing.
                Ok(Err(error)) if error.kind() == ErrorKind::Invalid => {}
                Ok(Err(error)) => faults.push(format!("{namespace}: {}", chain(&error))),
                Err(panic) => faults.push(format!("{namespace}: {panic}")),
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults.join("; "))
        }
    }
}

/// A client as the cases use it: the trait's methods, and the same with every failure an
/// assertion.
#[derive(Clone)]
pub(crate) struct Client {
    inner: Arc<dyn ReplicaClient>,
    meter: Arc<Meter>,
}

impl Deref for Client {
    type Target = dyn ReplicaClient;

    fn deref(&self) -> &Self::Target {
        &*self.inner
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Client {
    /// Writes `content` as `file`, which has to succeed and to say so rightly.
    pub(crate) async fn must_write(&self, file: FileId, content: &Bytes) -> FileInfo {
        self.must_write_at(file, some_time(file), content).await
    }

    pub(crate) async fn must_write_at(
        &self,
        file: FileId,
        created_at: Timestamp,
        content: &Bytes,
    ) -> FileInfo {
        match self.write(file, created_at, content.clone().into()).await {
            Ok(info) => {
                assert_eq!(info.id, file, "write says that it wrote another file");
                assert_eq!(
                    info.size,
                    content.len() as u64,
                    "write of {file} returned a wrong size"
                );
                info
            }
            Err(error) => panic!("write of {file} failed: {}", chain(&error)),
        }
    }

    /// Reads `range` of `file`, which has to succeed.
    pub(crate) async fn must_read(&self, file: FileId, range: impl Into<ByteRange>) -> Bytes {
        let range = range.into();
        match self.read(file, range).await {
            Ok(bytes) => bytes,
            Err(error) => panic!("reading {range} of {file} failed: {}", chain(&error)),
        }
    }

    /// Whether `file` can be opened. Any error but "not found" is a failure.
    pub(crate) async fn has(&self, file: FileId) -> bool {
        self.content_of(file).await.is_some()
    }

    /// All of `file`, or `None` where it is not there. Any other error is a failure.
    pub(crate) async fn content_of(&self, file: FileId) -> Option<Bytes> {
        match self.read(file, ByteRange::ALL).await {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("reading {file} failed: {}", chain(&error)),
        }
    }

    /// The listing of `level`, which has to succeed and to be in order, once any declared lag
    /// has passed.
    pub(crate) async fn must_list(&self, level: Level) -> Vec<FileInfo> {
        self.must_list_from(level, Txid::FIRST).await
    }

    pub(crate) async fn must_list_from(&self, level: Level, from: Txid) -> Vec<FileInfo> {
        self.wait_out_lag().await;
        self.listing(level, from, Timestamps::Fast).await
    }

    /// The listing with the times that were written, once any declared lag has passed.
    pub(crate) async fn must_list_exact(&self, level: Level) -> Vec<FileInfo> {
        self.wait_out_lag().await;
        self.listing(level, Txid::FIRST, Timestamps::Exact).await
    }

    /// The listing as it is now, checked for what holds of every listing.
    pub(crate) async fn listing(
        &self,
        level: Level,
        from: Txid,
        timestamps: Timestamps,
    ) -> Vec<FileInfo> {
        let listed = match self.list_all(level, from, timestamps).await {
            Ok(listed) => listed,
            Err(error) => panic!(
                "listing level {level} from {from} failed: {}",
                chain(&error)
            ),
        };
        if let Some(stray) = listed.iter().find(|file| file.id.level != level) {
            panic!("the listing of level {level} holds {}", stray.id);
        }
        if let Some(early) = listed.iter().find(|file| file.id.txids.min() < from) {
            panic!("the listing from {from} holds {}", early.id);
        }
        for pair in listed.windows(2) {
            assert!(
                pair[0].id < pair[1].id,
                "the listing has {} and then {}: not ascending, each once",
                pair[0].id,
                pair[1].id
            );
        }
        listed
    }

    /// The names in the listing of `level`.
    pub(crate) async fn names(&self, level: Level) -> Vec<FileId> {
        let listed = self.must_list(level).await;
        listed.into_iter().map(|file| file.id).collect()
    }

    pub(crate) async fn must_delete(&self, files: &[FileId]) {
        if let Err(error) = self.delete(files).await {
            panic!("delete of {} files failed: {}", files.len(), chain(&error));
        }
    }

    pub(crate) async fn must_delete_all(&self) {
        if let Err(error) = self.delete_all().await {
            panic!("delete_all failed: {}", chain(&error));
        }
    }

    /// Waits for as long as a listing may miss a change.
    pub(crate) async fn wait_out_lag(&self) {
        self.wait(self.capabilities().list_lag).await;
    }

    /// Waits without using up the case's time.
    pub(crate) async fn wait(&self, wait: Duration) {
        if !wait.is_zero() {
            self.meter.add_wait(wait);
            tokio::time::sleep(wait).await;
        }
    }

    /// `time` as this store gives it back, or `None` where it keeps no times.
    pub(crate) fn rounded(&self, time: Timestamp) -> Option<Timestamp> {
        let resolution = self.capabilities().timestamp_resolution?;
        let resolution = i64::try_from(resolution.as_millis()).unwrap_or(i64::MAX);
        let millis = time.as_millis();
        // A finer resolution than a millisecond loses nothing of a millisecond.
        let rounded = millis.saturating_sub(millis.rem_euclid(resolution.max(1)));
        Some(Timestamp::from_millis(rounded))
    }
}

/// A time for `file` that no clock would give, and that differs between neighbours.
pub(crate) fn some_time(file: FileId) -> Timestamp {
    let txid = i64::try_from(file.txids.max().get() % 1_000_000).expect("it is below a million");
    Timestamp::from_millis(1_600_000_000_123 + 60_007 * txid)
}

/// The error with its kind, and its causes, in one line.
pub(crate) fn chain(error: &Error) -> String {
    format!("{error} [{}]{}", error.kind(), of_causes(error))
}

/// Any error and its causes in one line.
pub(crate) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    format!("{error}{}", of_causes(error))
}

fn of_causes(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).map(|cause| format!(": {cause}")).collect()
}

/// What caused `error`, and what caused that, and so on.
pub(crate) fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| cause.source())
}
