//! A file of a replica that is to be stored: what is in it, and how its bytes come about.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream;
use ltx::{Compression, Encoder, Header, Pgno, Txid, TxidRange};
use replica_core::{Body, ByteStream, Error, ErrorKind, FileId, Level};
use tokio::task::{JoinHandle, spawn_blocking};

use super::decide::SnapshotReason;
use crate::ReplicateError;
use crate::database::{Database, Frames};
use crate::restore::{joined, run_blocking};
use crate::wal::{Changed, ChangedPage};

/// Up to how many bytes of pages a file is made in memory, which gives it a length that a store
/// can be told.
const IN_MEMORY_MAX: u64 = 4 * 1024 * 1024;
/// How many bytes of a larger file are handed on at a time, while the next ones are being made.
const CHUNK_SIZE: usize = 512 * 1024;
/// How many bytes of the database file are read at a time.
const BLOCK_SIZE: usize = 256 * 1024;

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
    /// Whether the database file may have been changed since, where it has the whole database.
    pub(crate) void: Arc<AtomicBool>,
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
        self.frames.copies().is_some()
    }

    /// The database file is changed from now on, as long as the database is locked: who reads of it
    /// what this file lacks finds that out.
    pub(crate) fn make_void(&self) {
        self.void.store(true, Ordering::Relaxed);
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
                let mut rest = Some(making.begin());
                while let Some(maker) = rest {
                    let (piece, further) = maker.piece()?;
                    whole.extend(piece);
                    rest = further;
                }
                Ok::<_, ReplicateError>(whole)
            });
            let made = made.await??;
            self.handed_on.store(true, Ordering::Relaxed);
            return Ok(made.into());
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
    /// The file's bytes, each piece made on a blocking thread while the one before is being stored.
    /// A store that pauses holds no thread: others may need it to go on.
    fn stream(self) -> ByteStream {
        let (handed_on, failure) = (
            Arc::clone(&self.pending.handed_on),
            Arc::clone(&self.failure),
        );
        let made = Made::Resting(Box::new(self.begin()));
        Box::pin(stream::try_unfold(Some(made), move |made| {
            let (handed_on, failure) = (Arc::clone(&handed_on), Arc::clone(&failure));
            async move {
                let Some(made) = made else {
                    return Ok(None);
                };
                match made.next().await? {
                    Ok((piece, rest)) => {
                        handed_on.fetch_or(rest.is_none(), Ordering::Relaxed);
                        Ok(Some((piece, rest)))
                    }
                    Err(error) => {
                        let message = format!("the database can't be copied: {error}");
                        *lock(&failure) = Some(error);
                        Err(Error::new(ErrorKind::Other, message))
                    }
                }
            }
        }))
    }

    fn begin(self) -> Maker {
        let mut out = Vec::new();
        let header = self.pending.header;
        Maker {
            encoder: Encoder::new(header, Compression::Blocks, &mut out),
            out,
            frame: vec![0; self.pending.changed.end().header().frame_size()],
            block: Vec::new(),
            changed: 0,
            pages: 0,
            making: self,
        }
    }
}

/// A file of which a part is made. It is moved from one blocking thread to the next.
struct Maker {
    making: Making,
    encoder: Encoder,
    /// What was made, and not handed on yet.
    out: Vec<u8>,
    /// Room for one frame.
    frame: Vec<u8>,
    /// Room for some pages of the database file.
    block: Vec<u8>,
    /// How many of the changed pages are in it.
    changed: usize,
    /// How many pages of the database, where it has all of them.
    pages: u32,
}

impl Maker {
    /// Makes the next piece, and what makes the rest, where that is not the last one.
    fn piece(mut self) -> Result<(Bytes, Option<Maker>), ReplicateError> {
        while self.out.len() < CHUNK_SIZE {
            let goes_on = match self.making.pending.contents {
                Contents::Changes => self.change()?,
                Contents::Everything(_) => self.block()?,
            };
            if !goes_on {
                let finished = self.encoder.finish(None, &mut self.out);
                finished.map_err(invalid)?;
                return Ok((self.out.into(), None));
            }
        }
        let piece = std::mem::replace(&mut self.out, Vec::with_capacity(CHUNK_SIZE + BLOCK_SIZE));
        Ok((piece.into(), Some(self)))
    }

    /// Adds the next page that was changed, if there is one.
    fn change(&mut self) -> Result<bool, ReplicateError> {
        let pending = &self.making.pending;
        let Some(page) = pending.changed.pages().get(self.changed) else {
            return Ok(false);
        };
        let content = self.making.read_frame(page, &mut self.frame)?;
        let added = self.encoder.page(page.pgno(), content, &mut self.out);
        added.map_err(invalid)?;
        self.changed += 1;
        Ok(true)
    }

    /// Adds some more pages of the database, if there are any.
    ///
    /// Every page is in the database file but for those that were changed since, and those don't
    /// change in the file in a way that matters: whoever checkpoints writes what the log has.
    fn block(&mut self) -> Result<bool, ReplicateError> {
        let pending = &self.making.pending;
        let page_size = pending.header.page_size();
        let left = pending.header.commit() - self.pages;
        let at_once = left.min((BLOCK_SIZE / page_size.bytes()) as u32);
        let Some(first) = Pgno::new(self.pages.saturating_add(1)).filter(|_| at_once > 0) else {
            return Ok(false);
        };
        self.block.resize(at_once as usize * page_size.bytes(), 0);
        let database = lock(&self.making.database);
        if pending.void.load(Ordering::Relaxed) {
            return Err(database.unsteady());
        }
        database.read_pages(first, page_size, &mut self.block)?;
        drop(database);
        let pgnos = (first.get()..).filter_map(Pgno::new);
        for (pgno, in_file) in pgnos.zip(self.block.chunks(page_size.bytes())) {
            let changed = pending.changed.pages().get(self.changed);
            let page = match changed.filter(|page| page.pgno() == pgno) {
                Some(page) => {
                    self.changed += 1;
                    self.making.read_frame(page, &mut self.frame)?
                }
                None => in_file,
            };
            if pgno != page_size.lock_page() {
                let added = self.encoder.page(pgno, page, &mut self.out);
                added.map_err(invalid)?;
            }
        }
        self.pages += at_once;
        Ok(true)
    }
}

impl Making {
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

fn invalid(error: ltx::Error) -> ReplicateError {
    let message = "the pages of the database do not make a valid file";
    Error::new(ErrorKind::Other, message)
        .with_source(error)
        .into()
}

/// A piece with what makes the rest, or why there is none.
type Piece<Rest> = Result<(Bytes, Option<Rest>), ReplicateError>;

/// The bytes of a file that is being made.
enum Made {
    /// Nothing of it yet.
    Resting(Box<Maker>),
    /// The next piece.
    Next(JoinHandle<Piece<Maker>>),
}

impl Made {
    /// The next piece; what comes behind it is begun.
    async fn next(self) -> Result<Piece<Made>, Error> {
        let begin = |maker: Maker| spawn_blocking(move || maker.piece());
        let made = match self {
            Made::Resting(maker) => begin(*maker),
            Made::Next(made) => made,
        };
        let piece = joined(made).await?;
        Ok(piece.map(|(piece, rest)| (piece, rest.map(|maker| Made::Next(begin(maker))))))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is kept behind one is half done when a thread panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
