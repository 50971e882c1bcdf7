//! Trying again what may succeed a little later.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, Error, ErrorKind, FileId, FileInfo, FileStream,
    Level, Op, ReplicaClient, Result, Timestamp, Timestamps, Txid,
};
use tokio::time::Instant;

use crate::fingerprint::Fingerprint;

/// A client that tries again what failed for a reason that may pass.
///
/// Only errors of the transient kind ([`Error::is_transient`]) are tried again, within the bounds
/// of a [`Backoff`]; when those are used up, the last error is returned as it is. What that means
/// for each call:
///
/// - **list**: a listing that breaks goes on behind the last file that it gave, so none comes
///   twice.
/// - **open**: a read that breaks goes on where it stopped, with bytes of the same version or not
///   at all: see [`Resume`].
/// - **write**: only a body that can be sent again is; one that is a stream is tried once.
/// - **delete**: after an error that names files only those are tried again, and the last error
///   names those that are left.
///
/// A call whose reply was lost has happened, and happens twice. That makes a difference only
/// where another client changes the same file in between.
#[derive(Debug)]
pub struct Retry<C> {
    client: Arc<C>,
    backoff: Backoff,
    resume: Resume,
}

/// How often, and with which pauses, something is tried again.
///
/// The pauses double from [`pause_min`](Backoff::pause_min) on, and a random part of up to as
/// much again is added to each, so that many clients don't come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// How many times something is tried in all. A stream that gets on begins to count anew.
    pub attempts: NonZeroU32,
    /// The shortest pause before another attempt, or half of `pause_max` if that is shorter.
    pub pause_min: Duration,
    /// The longest pause before another attempt, the random part included.
    pub pause_max: Duration,
    /// How long after the first failure the last attempt may begin.
    pub total: Duration,
    /// Makes the random parts the same each time, for tests.
    pub seed: Option<u64>,
}

/// Eight attempts, with pauses of 0.2 to 20 seconds that come to 25 to 45. The last begins within
/// three minutes of the first failure, however long the attempts take.
impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            attempts: NonZeroU32::new(8).expect("eight is not zero"),
            pause_min: Duration::from_millis(200),
            pause_max: Duration::from_secs(20),
            total: Duration::from_secs(180),
            seed: None,
        }
    }
}

/// How a read that broke is taken up again.
///
/// The contract gives no name to a version of a file: size and time can be the same for two of
/// them. So there are only two ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resume {
    /// Opens the range anew from its start, and compares the checksum of as many bytes as were
    /// given already. Where it agrees, every byte of the stream is of the version that was opened
    /// last; where not, the file was replaced, and the stream ends in an error of kind
    /// [`Unavailable`](ErrorKind::Unavailable): all of it can be read again, but not the rest.
    ///
    /// That costs a CRC over all that is read, and after a break the reading once more of what
    /// came before it: in all, at most twice [`Backoff::attempts`] times the range.
    #[default]
    Checked,
    /// Opens the rest of the range, which costs nothing more.
    ///
    /// For files that are never rewritten with other content, or whose reader checks the whole
    /// of what it has read: a file replaced within the break gives the beginning of one version
    /// and the end of another.
    Trusting,
}

impl<C: ReplicaClient> Retry<C> {
    /// Tries again what fails on `client`, as `backoff` says, and takes up a broken read as
    /// [`Resume::Checked`] does.
    pub fn new(client: C, backoff: Backoff) -> Retry<C> {
        Retry {
            client: Arc::new(client),
            backoff,
            resume: Resume::default(),
        }
    }

    /// The same client, which takes up a broken read as `resume` says.
    #[must_use]
    pub fn with_resume(mut self, resume: Resume) -> Retry<C> {
        self.resume = resume;
        self
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: ReplicaClient> ReplicaClient for Retry<C> {
    fn scheme(&self) -> &'static str {
        self.client.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.client.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        let mut listing = Listing {
            client: Arc::clone(&self.client),
            level,
            from,
            timestamps,
            last: None,
            repeated: None,
            attempts: Attempts::new(self.backoff),
            files: None,
        };
        listing.open().await?;
        Ok(listing.into_stream())
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let mut reading = Reading {
            client: Arc::clone(&self.client),
            file,
            range,
            resume: self.resume,
            given: Fingerprint::default(),
            fresh: 0,
            attempts: Attempts::new(self.backoff),
            bytes: None,
        };
        reading.open().await?;
        Ok(reading.into_stream())
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        let mut attempts = Attempts::new(self.backoff);
        let mut body = body;
        loop {
            let again = body.try_clone();
            match (self.client.write(file, created_at, body).await, again) {
                (Err(error), Some(again)) => {
                    attempts.pause_after(error).await?;
                    body = again;
                }
                (result, _) => return result,
            }
        }
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let mut attempts = Attempts::new(self.backoff);
        let mut left = files.to_vec();
        while let Err(error) = self.client.delete(&left).await {
            let named: HashSet<_> = error.files().iter().collect();
            // An error that names none of them is about all of them.
            if left.iter().any(|file| named.contains(file)) {
                left.retain(|file| named.contains(file));
            }
            // One that names none would be about all of `files` to the caller.
            let error = error.of_files(left.iter().copied());
            attempts.pause_after(error).await?;
        }
        Ok(())
    }

    async fn delete_all(&self) -> Result<()> {
        let mut attempts = Attempts::new(self.backoff);
        while let Err(error) = self.client.delete_all().await {
            attempts.pause_after(error).await?;
        }
        Ok(())
    }
}

/// A listing, and what it takes to go on with it elsewhere.
struct Listing<C> {
    client: Arc<C>,
    level: Level,
    from: Txid,
    timestamps: Timestamps,
    /// The last file that the caller was given.
    last: Option<FileId>,
    /// The last of those that come again, until one comes that is new.
    repeated: Option<FileId>,
    attempts: Attempts,
    files: Option<FileStream>,
}

impl<C: ReplicaClient> Listing<C> {
    fn into_stream(self) -> FileStream {
        stream::unfold(Some(self), |listing| async move {
            let mut listing = listing?;
            match listing.next().await {
                Ok(item) => Some((Ok(item?), Some(listing))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<FileInfo>> {
        loop {
            match self.open().await?.try_next().await {
                Ok(Some(info)) if self.repeated.is_some_and(|last| info.id <= last) => {}
                Ok(Some(info)) => {
                    self.repeated = None;
                    self.last = Some(info.id);
                    self.attempts.begin_anew();
                    return Ok(Some(info));
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    self.files = None;
                    self.attempts.pause_after(error).await?;
                }
            }
        }
    }

    /// The listing that is open, or one that begins with the files whose `min` is that of the
    /// last file: those up to that file come again.
    async fn open(&mut self) -> Result<&mut FileStream> {
        let from = self.last.map_or(self.from, |last| last.txids.min());
        while self.files.is_none() {
            match self.client.list(self.level, from, self.timestamps).await {
                Ok(files) => {
                    self.repeated = self.last;
                    self.files = Some(files);
                }
                Err(error) => self.attempts.pause_after(error).await?,
            }
        }
        Ok(self.files.as_mut().expect("the loop ends with a listing"))
    }
}

/// A read, and what it takes to go on with it elsewhere.
struct Reading<C> {
    client: Arc<C>,
    file: FileId,
    range: ByteRange,
    resume: Resume,
    /// What the caller was given.
    given: Fingerprint,
    /// How much of it the caller was given since the last break.
    fresh: u64,
    attempts: Attempts,
    bytes: Option<ByteStream>,
}

impl<C: ReplicaClient> Reading<C> {
    fn into_stream(self) -> ByteStream {
        stream::unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Ok(item) => Some((Ok(item?), Some(reading))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.open().await?.try_next().await {
                Ok(Some(chunk)) => {
                    self.give(&chunk);
                    return Ok(Some(chunk));
                }
                Ok(None) => return Ok(None),
                Err(error) => self.pause_after(error).await?,
            }
        }
    }

    /// Notes what the caller is given. The attempts begin anew when more is new than the last
    /// resumption read again: with each such time twice as much has been given, so that all
    /// resumptions together read at most twice `attempts` times the range.
    fn give(&mut self, chunk: &Bytes) {
        let read_again = match self.resume {
            Resume::Checked => self.given.len() - self.fresh,
            Resume::Trusting => 0,
        };
        self.given.update(chunk);
        self.fresh += chunk.len() as u64;
        if self.fresh > read_again {
            self.attempts.begin_anew();
        }
    }

    async fn pause_after(&mut self, error: Error) -> Result<()> {
        self.bytes = None;
        self.fresh = 0;
        self.attempts.pause_after(error).await
    }

    /// The stream that is open, or one that begins where the caller's stopped.
    async fn open(&mut self) -> Result<&mut ByteStream> {
        while self.bytes.is_none() {
            match self.try_open().await {
                Ok(Some(bytes)) => self.bytes = Some(bytes),
                Ok(None) => return Err(self.replaced()),
                Err(error) => self.pause_after(error).await?,
            }
        }
        Ok(self.bytes.as_mut().expect("the loop ends with a stream"))
    }

    /// Nothing, where the file is no longer the one that was being read.
    async fn try_open(&mut self) -> Result<Option<ByteStream>> {
        if self.given.len() == 0 {
            return self.client.open(self.file, self.range).await.map(Some);
        }
        let range = match self.resume {
            Resume::Checked => self.range,
            Resume::Trusting => self.rest(),
        };
        match (self.client.open(self.file, range).await, self.resume) {
            (Ok(bytes), Resume::Checked) => self.skip_what_was_given(bytes).await,
            (Ok(bytes), Resume::Trusting) => Ok(Some(bytes)),
            // It was a range of the file before.
            (Err(error), _) if error.kind() == ErrorKind::Invalid => Ok(None),
            (Err(error), _) => Err(error),
        }
    }

    /// What is left of the range.
    fn rest(&self) -> ByteRange {
        let start = self.range.start().saturating_add(self.given.len());
        match self.range.end() {
            Some(end) => (start..end).into(),
            None => (start..).into(),
        }
    }

    /// What follows in `bytes` on the bytes that the caller was given, or nothing, where `bytes`
    /// begins with others.
    async fn skip_what_was_given(&mut self, mut bytes: ByteStream) -> Result<Option<ByteStream>> {
        let mut skipped = Fingerprint::default();
        while skipped.len() < self.given.len() {
            let left = self.given.len() - skipped.len();
            let Some(mut chunk) = bytes.try_next().await? else {
                return Ok(None);
            };
            if chunk.len() as u64 > left {
                let rest = chunk.split_off(left as usize);
                bytes = stream::once(async { Ok(rest) }).chain(bytes).boxed();
            }
            skipped.update(&chunk);
        }
        Ok((skipped == self.given).then_some(bytes))
    }

    /// What was begun can't be ended; but reading all of it again may well succeed.
    fn replaced(&self) -> Error {
        let message = "the file was replaced while it was being read";
        Error::new(ErrorKind::Unavailable, message)
            .of(self.file)
            .during(Op::Open, self.client.scheme())
    }
}

/// The attempts that are left.
struct Attempts {
    backoff: Backoff,
    /// The pauses to come, and since when they are needed.
    failing: Option<(ExponentialBackoff, Instant)>,
}

impl Attempts {
    fn new(backoff: Backoff) -> Attempts {
        Attempts {
            backoff,
            failing: None,
        }
    }

    fn begin_anew(&mut self) {
        self.failing = None;
    }

    /// Waits for the next attempt's turn, or gives `error` back where there is to be none.
    async fn pause_after(&mut self, error: Error) -> Result<()> {
        if !error.is_transient() {
            return Err(error);
        }
        let now = Instant::now();
        let (pauses, since) = self
            .failing
            .get_or_insert_with(|| (self.backoff.pauses(), now));
        let spent = now.duration_since(*since);
        match pauses.next() {
            Some(pause) if spent.saturating_add(pause) <= self.backoff.total => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            _ => Err(error),
        }
    }
}

impl Backoff {
    fn pauses(&self) -> ExponentialBackoff {
        // The random part comes on top, and is as long as the pause at most.
        let longest = self.pause_max / 2;
        let pauses = ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(self.pause_min.min(longest))
            .with_max_delay(longest)
            .with_max_times(self.attempts.get() as usize - 1);
        match self.seed {
            Some(seed) => pauses.with_jitter_seed(seed).build(),
            None => pauses.build(),
        }
    }
}
