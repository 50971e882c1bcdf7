//! The client: the contract kept in memory, and the places where a fault can strike.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, Error, ErrorKind, FileId, FileInfo, FileStream,
    Level, Op, ReplicaClient, Result, Timestamp, Timestamps, Txid, async_trait,
};

use crate::fault::{Effect, Ongoing, Point, Script, Trouble, lock, yield_now};
use crate::log::{Call, Outcome, Request};
use crate::store::{MockStore, Snapshot};

/// A client of a store in memory, which fails where a test asks it to.
///
/// A clone is a handle to the same client; [`store`](MockClient::store) leads to further ones.
/// The trait's methods are what the code under test calls; a test looks and reaches past them
/// with [`files`](MockClient::files), [`put`](MockClient::put), [`corrupt`](MockClient::corrupt)
/// and [`snapshot`](MockClient::snapshot), which meet no fault, are not logged and do not lag.
///
/// ```
/// use std::time::Duration;
/// use replica_core::{Capabilities, Level, ReplicaClient, ReplicaClientExt, Timestamp, Timestamps, Txid};
/// use replica_mock::{MockClient, file};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> replica_core::Result<()> {
/// // A store whose listings are five seconds behind.
/// let lag = Duration::from_secs(5);
/// let mock = MockClient::with_capabilities(Capabilities::FULL.with_list_lag(lag));
/// mock.write(file(0, 1..=1), Timestamp::EPOCH, vec![7].into()).await?;
///
/// assert!(mock.list_all(Level::RAW, Txid::FIRST, Timestamps::Fast).await?.is_empty());
/// tokio::time::sleep(lag).await;
/// assert_eq!(mock.list_all(Level::RAW, Txid::FIRST, Timestamps::Fast).await?.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MockClient {
    store: MockStore,
    root: Arc<str>,
    chunk_size: usize,
    script: Arc<Mutex<Script>>,
}

const SCHEME: &str = "mock";

/// Small, so that a fault in the middle of a body of ordinary size has chunks on either side.
const CHUNK_SIZE: usize = 8 * 1024;

/// How many files a listing takes from the store at once.
const PAGE_SIZE: usize = 1000;

impl MockClient {
    /// A client of a new, empty store that keeps every promise.
    pub fn new() -> MockClient {
        MockStore::new().client("")
    }

    /// A client of a new, empty store that is as weak as `capabilities` says
    /// (see [`MockStore::with_capabilities`]).
    pub fn with_capabilities(capabilities: Capabilities) -> MockClient {
        MockStore::with_capabilities(capabilities).client("")
    }

    /// The same client, whose reads give chunks of `bytes` (8 KiB if not set).
    ///
    /// # Panics
    ///
    /// Where `bytes` is zero.
    #[must_use]
    pub fn with_chunk_size(mut self, bytes: usize) -> MockClient {
        assert!(bytes > 0, "a chunk has at least one byte");
        self.chunk_size = bytes;
        self
    }

    /// The store behind it, which gives clients of other roots, and second clients of this one.
    pub fn store(&self) -> &MockStore {
        &self.store
    }

    /// Another client of the same files, with faults and a log of its own: another process.
    #[must_use]
    pub fn second(&self) -> MockClient {
        self.store
            .client(&self.root)
            .with_chunk_size(self.chunk_size)
    }

    /// Makes the next `op` fail with an error of `kind`, before it has done anything.
    pub fn fail_next(&self, op: Op, kind: ErrorKind) {
        self.on(op).fail(kind);
    }

    /// Begins to describe a fault of `op`, which ends in what goes wrong:
    /// `mock.on(Op::Open).of(file).times(2).fail(ErrorKind::Unavailable)`.
    pub fn on(&self, op: Op) -> Trouble {
        Trouble::new(Arc::clone(&self.script), op)
    }

    /// The faults that have not struck as often as they were told to, in words.
    pub fn unused_faults(&self) -> Vec<String> {
        lock(&self.script).unused_faults()
    }

    /// Checks that every fault has struck as often as it was told to, and one without end at
    /// least once: a test whose fault never struck proves nothing.
    ///
    /// # Panics
    ///
    /// Where one has not, naming it.
    pub fn assert_faults_used(&self) {
        let unused = self.unused_faults();
        assert!(
            unused.is_empty(),
            "faults were not used: {}",
            unused.join("; ")
        );
    }

    /// Takes back every fault, those that are left to strike too. A call under way keeps its own.
    pub fn clear_faults(&self) {
        lock(&self.script).clear_faults();
    }

    /// The calls that this client has got, oldest first: the last hundred thousand.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.script).calls()
    }

    /// How many calls of `op` there were, those that failed too.
    pub fn count(&self, op: Op) -> usize {
        self.calls().iter().filter(|call| call.op() == op).count()
    }

    /// How many calls and streams have not ended yet.
    pub fn running(&self) -> usize {
        let running = |call: &&Call| call.outcome == Outcome::Running;
        self.calls().iter().filter(running).count()
    }

    /// Forgets the calls so far.
    pub fn clear_calls(&self) {
        lock(&self.script).clear_calls();
    }

    /// The names of the files that are there, in order.
    pub fn files(&self) -> Vec<FileId> {
        self.snapshot().into_keys().collect()
    }

    /// The content of `file`, where there is one.
    pub fn content(&self, file: FileId) -> Option<Bytes> {
        Some(self.store.get(&self.root, file)?.1)
    }

    /// Puts `content` there as `file`, in place of what was there.
    pub fn put(&self, file: FileId, created_at: Timestamp, content: impl Into<Bytes>) {
        let created_at = self.store.kept_time(created_at);
        self.store.put(&self.root, file, created_at, content.into());
    }

    /// Takes `file` away.
    pub fn remove(&self, file: FileId) {
        self.store.remove(&self.root, file);
    }

    /// Changes the byte at `offset` of `file` to another one, as a bad disk does.
    ///
    /// # Panics
    ///
    /// Where there is no such byte.
    pub fn corrupt(&self, file: FileId, offset: usize) {
        let Some((created_at, content)) = self.store.get(&self.root, file) else {
            panic!("there is no {file} to corrupt");
        };
        assert!(
            offset < content.len(),
            "{file} has no byte {offset}, only {} bytes",
            content.len()
        );
        let content = flipped(&content, offset);
        self.store.put(&self.root, file, created_at, content);
    }

    /// Everything that is kept, at this moment.
    pub fn snapshot(&self) -> Snapshot {
        self.store.snapshot(&self.root)
    }

    /// Makes what is kept the same as it was when `snapshot` was taken.
    pub fn restore(&self, snapshot: &Snapshot) {
        for file in self.files() {
            if !snapshot.contains_key(&file) {
                self.remove(file);
            }
        }
        for (file, (created_at, content)) in snapshot {
            self.put(*file, *created_at, content.clone());
        }
    }

    pub(crate) fn of(store: MockStore, root: Arc<str>) -> MockClient {
        MockClient {
            store,
            root,
            chunk_size: CHUNK_SIZE,
            script: Arc::default(),
        }
    }

    fn begin(&self, request: Request) -> Ongoing {
        Ongoing::begin(&self.script, request)
    }
}

impl Default for MockClient {
    fn default() -> MockClient {
        MockClient::new()
    }
}

/// Names the root, and never what it holds.
impl fmt::Debug for MockClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockClient")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ReplicaClient for MockClient {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        let mut call = self.begin(Request::List {
            level,
            from,
            timestamps,
        });
        if let Err(error) = self.begin_list(&mut call, timestamps).await {
            call.failed(error.kind());
            return Err(error.during(Op::List, SCHEME));
        }
        let listing = Listing {
            store: self.store.clone(),
            root: Arc::clone(&self.root),
            level,
            from,
            page: VecDeque::new(),
            last: None,
            items: 0,
            call,
        };
        Ok(stream::unfold(Some(listing), |listing| async move {
            let mut listing = listing?;
            match listing.next().await {
                Ok(Some(info)) => Some((Ok(info), Some(listing))),
                Ok(None) => {
                    listing.call.done();
                    None
                }
                Err(error) => {
                    listing.call.failed(error.kind());
                    Some((Err(error.during(Op::List, SCHEME)), None))
                }
            }
        })
        .boxed())
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let mut call = self.begin(Request::Open { file, range });
        let bytes = match self.begin_open(&mut call, file, range).await {
            Ok(bytes) => bytes,
            Err(error) => {
                call.failed(error.kind());
                return Err(error.of(file).during(Op::Open, SCHEME));
            }
        };
        let reading = Reading {
            bytes,
            sent: 0,
            chunk_size: self.chunk_size,
            call,
        };
        Ok(stream::unfold(Some(reading), move |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(reading))),
                Ok(None) => {
                    reading.call.done();
                    None
                }
                Err(error) => {
                    reading.call.failed(error.kind());
                    Some((Err(error.of(file).during(Op::Open, SCHEME)), None))
                }
            }
        })
        .boxed())
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        let mut call = self.begin(Request::Write { file, created_at });
        let written = self
            .carry_out_write(&mut call, file, created_at, body)
            .await;
        call.end(&written);
        written.map_err(|error| error.of(file).during(Op::Write, SCHEME))
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let mut call = self.begin(Request::Delete {
            files: files.to_vec(),
        });
        let deleted = self.carry_out_delete(&mut call, files).await;
        call.end(&deleted);
        deleted.map_err(|error| error.during(Op::Delete, SCHEME))
    }

    async fn delete_all(&self) -> Result<()> {
        let mut call = self.begin(Request::DeleteAll);
        let deleted = self.carry_out_delete_all(&mut call).await;
        call.end(&deleted);
        deleted.map_err(|error| error.during(Op::DeleteAll, SCHEME))
    }
}

impl MockClient {
    async fn begin_list(&self, call: &mut Ongoing, timestamps: Timestamps) -> Result<()> {
        yield_now().await;
        call.come_to(Point::Before).await?;
        if timestamps == Timestamps::Exact && self.capabilities().timestamp_resolution.is_none() {
            return Err(Error::new(ErrorKind::Invalid, "this store keeps no times"));
        }
        Ok(())
    }

    async fn begin_open(
        &self,
        call: &mut Ongoing,
        file: FileId,
        range: ByteRange,
    ) -> Result<Bytes> {
        yield_now().await;
        call.come_to(Point::Before).await?;
        let (_, content) = self
            .store
            .get(&self.root, file)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such file"))?;
        let range = range.resolve(content.len() as u64)?;
        Ok(content.slice(range.start as usize..range.end as usize))
    }

    async fn carry_out_write(
        &self,
        call: &mut Ongoing,
        file: FileId,
        created_at: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        yield_now().await;
        call.come_to(Point::Before).await?;
        let content = receive(call, body).await?;
        let size = content.len() as u64;
        let created_at = self.store.kept_time(created_at);
        let content = spoilt(call, content);
        if !self.capabilities().atomic_replace {
            self.leave_a_gap(file, created_at, content).await;
        } else {
            self.store.put(&self.root, file, created_at, content);
        }
        call.come_to(Point::After).await?;
        Ok(FileInfo {
            id: file,
            size,
            created_at,
        })
    }

    /// Replaces `file` as a store without an atomic replacement does. Once the old file is gone
    /// the new one comes, even where the caller goes away.
    async fn leave_a_gap(&self, file: FileId, created_at: Timestamp, content: Bytes) {
        struct Replacement<'a>(&'a MockClient, FileId, Timestamp, Bytes);
        impl Drop for Replacement<'_> {
            fn drop(&mut self) {
                let Replacement(client, file, created_at, content) = self;
                let content = std::mem::take(content);
                client.store.put(&client.root, *file, *created_at, content);
            }
        }
        let replacement = Replacement(self, file, created_at, content);
        self.store.remove(&self.root, file);
        yield_now().await;
        drop(replacement);
    }

    async fn carry_out_delete(&self, call: &mut Ongoing, files: &[FileId]) -> Result<()> {
        yield_now().await;
        let of_fault = |file: &&FileId| call.fault_files().contains(file);
        let (mut failing, others): (Vec<_>, Vec<_>) = files.iter().partition(of_fault);
        if failing.is_empty() {
            failing = files.iter().collect();
        }
        if let Err(error) = call.come_to(Point::Before).await {
            if failing.len() < files.len() {
                self.remove_each(others);
            }
            return Err(error.of_files(failing.into_iter().copied()));
        }
        self.remove_each(files);
        let after = call.come_to(Point::After).await;
        after.map_err(|error| error.of_files(failing.into_iter().copied()))
    }

    fn remove_each<'a>(&self, files: impl IntoIterator<Item = &'a FileId>) {
        for file in files {
            self.store.remove(&self.root, *file);
        }
    }

    async fn carry_out_delete_all(&self, call: &mut Ongoing) -> Result<()> {
        yield_now().await;
        call.come_to(Point::Before).await?;
        self.store.remove_all(&self.root);
        call.come_to(Point::After).await
    }
}

/// Takes in all of `body`, which nobody sees before it is whole.
async fn receive(call: &mut Ongoing, body: Body) -> Result<Bytes> {
    let mut stream = body.into_stream();
    let mut chunks = Vec::new();
    let mut arrived = 0;
    loop {
        if let Some(Effect::At(Point::Byte(at), _)) = call.effect()
            && at <= arrived
        {
            call.come_to(Point::Byte(at)).await?;
        }
        yield_now().await;
        call.drip().await;
        let Some(chunk) = stream.try_next().await? else {
            break;
        };
        call.moved(chunk.len());
        arrived += chunk.len() as u64;
        chunks.push(chunk);
    }
    // A body in memory is one chunk, which is kept as it is.
    match chunks.pop() {
        Some(only) if chunks.is_empty() => Ok(only),
        Some(last) => {
            chunks.push(last);
            Ok(chunks.concat().into())
        }
        None => Ok(Bytes::new()),
    }
}

/// What a store that breaks its promises keeps of `content`.
fn spoilt(call: &mut Ongoing, content: Bytes) -> Bytes {
    let size = content.len() as u64;
    match call.effect() {
        Some(Effect::Short(bytes)) if bytes < size => {
            call.struck();
            content.slice(..bytes as usize)
        }
        Some(Effect::Flip(offset)) if offset < size => {
            call.struck();
            flipped(&content, offset as usize)
        }
        _ => content,
    }
}

fn flipped(content: &Bytes, offset: usize) -> Bytes {
    let mut content = BytesMut::from(&content[..]);
    if let Some(byte) = content.get_mut(offset) {
        *byte = !*byte;
    }
    content.freeze()
}

/// A listing under way: it holds one page, and takes the next one when that is used up.
struct Listing {
    store: MockStore,
    root: Arc<str>,
    level: Level,
    from: Txid,
    page: VecDeque<FileInfo>,
    last: Option<FileId>,
    items: u64,
    call: Ongoing,
}

impl Listing {
    async fn next(&mut self) -> Result<Option<FileInfo>> {
        self.call.come_to(Point::Item(self.items)).await?;
        self.call.drip().await;
        if self.page.is_empty() {
            yield_now().await;
            self.page = self
                .store
                .page(&self.root, self.level, self.from, self.last, PAGE_SIZE);
        }
        let Some(info) = self.page.pop_front() else {
            return Ok(None);
        };
        self.last = Some(info.id);
        self.items += 1;
        self.call.listed();
        Ok(Some(info))
    }
}

/// A file being read: the version that was there when it was opened.
struct Reading {
    bytes: Bytes,
    sent: u64,
    chunk_size: usize,
    call: Ongoing,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.call.come_to(Point::Byte(self.sent)).await?;
        self.call.drip().await;
        yield_now().await;
        let mut size = self.bytes.len().min(self.chunk_size);
        match self.call.effect() {
            Some(Effect::Short(bytes)) if bytes == self.sent && size > 0 => {
                self.call.struck();
                return Ok(None);
            }
            Some(Effect::Short(bytes) | Effect::At(Point::Byte(bytes), _)) if bytes > self.sent => {
                size = size.min(usize::try_from(bytes - self.sent).unwrap_or(usize::MAX));
            }
            _ => {}
        }
        if size == 0 {
            return Ok(None);
        }
        let mut chunk = self.bytes.split_to(size);
        if let Some(Effect::Flip(offset)) = self.call.effect()
            && let Some(offset) = offset.checked_sub(self.sent)
            && offset < size as u64
        {
            self.call.struck();
            chunk = flipped(&chunk, offset as usize);
        }
        self.sent += size as u64;
        self.call.moved(size);
        Ok(Some(chunk))
    }
}
