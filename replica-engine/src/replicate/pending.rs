//! A file of a replica that is to be stored: what is in it, and how its bytes come about.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream;
use ltx::{Compression, Encoder, Header, Pgno, Txid, TxidRange};
use replica_core::{Body, ByteStream, Error, ErrorKind, FileId, Level};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::decide::SnapshotReason;
use crate::ReplicateError;
use crate::database::{Database, Frames};
use crate::restore::run_blocking;
use crate::wal::{Changed, ChangedPage};

/// Up to how many bytes of pages a file is made in memory, which gives it a length that a store
/// can be told.
const IN_MEMORY_MAX: u64 = 4 * 1024 * 1024;
/// How many bytes of a larger file are handed on at a time.
const CHUNK_SIZE: usize = 256 * 1024;
/// How many such pieces wait for the store.
const CHUNKS: usize = 4;

/// One file that is to be stored, which has the same bytes however often they are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) level: Level,
    pub(crate) header: Header,
    pub(crate) contents: Contents,
    pub(crate) changed: Arc<Changed>,
    pub(crate) frames: Arc<Frames>,
    /// Whether all of its bytes were handed to the store some time.
    pub(crate) handed_on: Arc<AtomicBool>,
}

/// Which pages a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Those that were changed.
    Changes,
    /// All of the database, and why.
    Everything(SnapshotReason),
}

impl Contents {
    /// Why it is everything, where it is.
    pub(crate) fn reason(self) -> Option<SnapshotReason> {
        match self {
            Contents::Changes => None,
            Contents::Everything(reason) => Some(reason),
        }
    }
}

/// Where the reason is kept for which a body failed: the error of the store that it leads to can
/// be anything.
pub(crate) type Failure = Arc<Mutex<Option<ReplicateError>>>;

impl Pending {
    pub(crate) fn file(&self) -> FileId {
        FileId {
            level: self.level,
            txids: self.header.txids(),
        }
    }

    /// The same state as a file to begin a restore with, where the replica has nothing that leads
    /// up to this one. The file itself is stored too, after that: by the newest one of level 0
    /// everybody, Litestream included, knows where to go on.
    pub(crate) fn new_start(&self) -> Option<Pending> {
        self.contents
            .reason()
            .filter(|reason| reason.is_a_new_start())?;
        let header = self.header;
        let txids = TxidRange::new(Txid::FIRST, header.txids().max())?;
        Some(Pending {
            level: Level::SNAPSHOT,
            header: Header::new(
                header.page_size(),
                header.commit(),
                txids,
                header.timestamp(),
            ),
            handed_on: Arc::default(),
            ..self.clone()
        })
    }

    /// Whether the replica may have it, because all of its bytes were handed to the store.
    pub(crate) fn may_be_stored(&self) -> bool {
        self.handed_on.load(Ordering::Relaxed)
    }

    /// Whether the log may have been begun anew since.
    pub(crate) fn is_copied(&self) -> bool {
        matches!(*self.frames, Frames::Copied { .. })
    }

    /// The file's bytes. Where they can't be had, `failure` says why.
    pub(crate) async fn body(
        &self,
        database: &Arc<Mutex<Database>>,
        failure: &Failure,
    ) -> Result<Body, ReplicateError> {
        let pages = match self.contents {
            Contents::Changes => self.changed.pages().len() as u64,
            Contents::Everything(_) => u64::from(self.header.commit()),
        };
        let making = Making {
            pending: self.clone(),
            database: Arc::clone(database),
            failure: Arc::clone(failure),
        };
        if pages * u64::from(self.header.page_size().get()) <= IN_MEMORY_MAX {
            let made = run_blocking(move || {
                let mut whole = Vec::new();
                making.encode(|bytes| {
                    whole.extend(bytes);
                    true
                })?;
                Ok::<_, ReplicateError>(whole)
            });
            return Ok(made.await??.into());
        }
        Ok(Body::reopenable(None, move || {
            let stream = making.clone().stream();
            async { Ok(stream) }
        }))
    }
}

/// A file that is being made, again and again the same one.
#[derive(Clone)]
struct Making {
    pending: Pending,
    database: Arc<Mutex<Database>>,
    failure: Failure,
}

impl Making {
    /// The file's bytes, made on a thread of its own while they are read.
    fn stream(self) -> ByteStream {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let failure = Arc::clone(&self.failure);
        let task = tokio::task::spawn_blocking(move || {
            // Where it can't be sent, nobody listens any more.
            self.encode(|bytes| sender.blocking_send(bytes).is_ok())
        });
        let made = Made {
            receiver,
            task,
            failure,
        };
        Box::pin(stream::try_unfold(made, |mut made| async move {
            Ok(made.next().await?.map(|bytes| (bytes, made)))
        }))
    }

    /// Makes the file, and gives it to `hand_on` piece by piece, which says whether to go on.
    fn encode(&self, hand_on: impl FnMut(Bytes) -> bool) -> Result<(), ReplicateError> {
        let mut out = Vec::new();
        let encoder = Encoder::new(self.pending.header, Compression::Blocks, &mut out);
        let mut output = Output {
            encoder,
            out,
            hand_on,
        };
        let goes_on = match self.pending.contents {
            Contents::Changes => self.changes(&mut output)?,
            Contents::Everything(_) => self.everything(&mut output)?,
        };
        if goes_on {
            self.pending.handed_on.store(true, Ordering::Relaxed);
            output.finish()?;
        }
        Ok(())
    }

    fn changes<F: FnMut(Bytes) -> bool>(
        &self,
        output: &mut Output<F>,
    ) -> Result<bool, ReplicateError> {
        let mut frame = vec![0; self.pending.changed.end().header().frame_size()];
        for page in self.pending.changed.pages() {
            let content = self.read_frame(page, &mut frame)?;
            if !output.page(page.pgno(), content)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Every page is in the database file but for those that were changed since, and those don't
    /// change in the file in a way that matters: whoever checkpoints writes what the log has.
    fn everything<F: FnMut(Bytes) -> bool>(
        &self,
        output: &mut Output<F>,
    ) -> Result<bool, ReplicateError> {
        let page_size = self.pending.header.page_size();
        let mut frame = vec![0; self.pending.changed.end().header().frame_size()];
        let mut changed = self.pending.changed.pages().iter().peekable();
        let pages = self.pending.header.commit();
        let at_once = CHUNK_SIZE / page_size.bytes();
        let mut block = vec![0; CHUNK_SIZE];
        for numbers in (1..=pages)
            .step_by(at_once)
            .map(|first| first..=pages.min(first.saturating_add(at_once as u32 - 1)))
        {
            let mut pgnos = numbers.filter_map(Pgno::new).peekable();
            if let Some(first) = pgnos.peek() {
                let left = (pages - first.get()) as usize + 1;
                block.truncate(left.saturating_mul(page_size.bytes()));
                lock(&self.database).read_pages(*first, page_size, &mut block)?;
            }
            for (pgno, in_file) in pgnos.zip(block.chunks(page_size.bytes())) {
                let page = match changed.next_if(|page| page.pgno() == pgno) {
                    Some(page) => self.read_frame(page, &mut frame)?,
                    None => in_file,
                };
                if pgno != page_size.lock_page() && !output.page(pgno, page)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The page in the log, which must be the one that was found there before.
    fn read_frame<'a>(
        &self,
        page: &ChangedPage,
        frame: &'a mut [u8],
    ) -> Result<&'a [u8], ReplicateError> {
        let Pending {
            changed, frames, ..
        } = &self.pending;
        frames.read(page, changed.end(), frame).map_err(|error| {
            let path = lock(&self.database).wal_path().to_owned();
            error.at(path)
        })
    }
}

/// What has been made of a file.
struct Output<F> {
    encoder: Encoder,
    out: Vec<u8>,
    hand_on: F,
}

impl<F: FnMut(Bytes) -> bool> Output<F> {
    /// Adds a page, and says whether to go on.
    fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<bool, ReplicateError> {
        self.encoder
            .page(pgno, page, &mut self.out)
            .map_err(invalid)?;
        if self.out.len() < CHUNK_SIZE {
            return Ok(true);
        }
        Ok((self.hand_on)(std::mem::take(&mut self.out).into()))
    }

    fn finish(mut self) -> Result<(), ReplicateError> {
        self.encoder.finish(None, &mut self.out).map_err(invalid)?;
        (self.hand_on)(self.out.into());
        Ok(())
    }
}

fn invalid(error: ltx::Error) -> ReplicateError {
    let message = "the pages of the database do not make a valid file";
    Error::new(ErrorKind::Other, message)
        .with_source(error)
        .into()
}

/// The bytes of a file that is being made.
struct Made {
    receiver: mpsc::Receiver<Bytes>,
    task: JoinHandle<Result<(), ReplicateError>>,
    failure: Failure,
}

impl Made {
    /// The next bytes, or `None` where all were made: a thread that failed has not.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(bytes) = self.receiver.recv().await {
            return Ok(Some(bytes));
        }
        match (&mut self.task).await {
            Ok(Ok(())) => Ok(None),
            Ok(Err(error)) => {
                let message = format!("the database can't be copied: {error}");
                *lock(&self.failure) = Some(error);
                Err(Error::new(ErrorKind::Other, message))
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::new(
                    ErrorKind::Unavailable,
                    "the runtime is shutting down",
                )),
            },
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is kept behind one is half done when a thread panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
