//! A file of a replica that is to be stored: what is in it, and how its bytes come about.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

use bytes::Bytes;
use futures::stream;
use ltx::{CompressedPages, Compression, Encoder, Header, Pgno, Txid, TxidRange};
use replica_core::{Body, ByteStream, Error, ErrorKind, FileId, Level};
use tokio::task::{JoinHandle, spawn_blocking};

use super::decide::SnapshotReason;
use crate::ReplicateError;
use crate::database::{Database, Frames};
use crate::restore::joined;
use crate::wal::{Changed, ChangedPage};

/// Up to how many bytes of pages a file is made in memory, which gives it a length that a store
/// can be told.
const IN_MEMORY_MAX: u64 = 4 * 1024 * 1024;
/// How many bytes of a larger file of changes are handed on at a time, while the next ones are being
/// made.
const CHUNK_SIZE: usize = 512 * 1024;
/// How many bytes of the database file are read, compressed and handed on at a time.
const BLOCK_SIZE: usize = 256 * 1024;
/// How many blocks more are begun than there are processors, so that none of these has to wait for
/// who stores.
const SPARE: usize = 2;
/// How many blocks are begun at most.
const BLOCKS_MAX: usize = 6;

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
    /// How many of its bytes the store has taken at most, where they come piece by piece.
    pub(crate) taken: Arc<AtomicU64>,
    /// The same of the file that restores begin with, where there is one before it.
    pub(crate) start_taken: Arc<AtomicU64>,
    /// Whether the database file may have been changed since, where it has the whole database.
    pub(crate) void: Arc<AtomicBool>,
    /// The number of the hold under which it was found.
    pub(crate) hold: u32,
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
            taken: Arc::clone(&self.start_taken),
            ..self.clone()
        })
    }

    /// How far its way to the store is: a file that begins anew has not got on before it is further
    /// than it was.
    pub(crate) fn progress(&self) -> u64 {
        let taken = [&self.taken, &self.start_taken].map(|taken| taken.load(Ordering::Relaxed));
        taken.iter().sum()
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
            let mut whole = Vec::new();
            let mut rest = Some(making.begin());
            while let Some(made) = rest {
                let (piece, further) = made.next().await??;
                whole.extend(piece);
                rest = further;
            }
            self.handed_on.store(true, Ordering::Relaxed);
            return Ok(whole.into());
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
    /// The file's bytes, each piece made on blocking threads while the one before is being stored.
    /// A store that pauses holds no thread: others may need it to go on.
    fn stream(self) -> ByteStream {
        let (handed_on, failure) = (
            Arc::clone(&self.pending.handed_on),
            Arc::clone(&self.failure),
        );
        let taken = Arc::clone(&self.pending.taken);
        Box::pin(stream::try_unfold(
            (Some(self.begin()), 0),
            move |(made, before)| {
                let (handed_on, failure) = (Arc::clone(&handed_on), Arc::clone(&failure));
                let taken = Arc::clone(&taken);
                async move {
                    let Some(made) = made else {
                        return Ok(None);
                    };
                    match made.next().await? {
                        Ok((piece, rest)) => {
                            handed_on.fetch_or(rest.is_none(), Ordering::Relaxed);
                            let after = before + piece.len() as u64;
                            taken.fetch_max(after, Ordering::Relaxed);
                            Ok(Some((piece, (rest, after))))
                        }
                        Err(error) => {
                            let message = format!("the database can't be copied: {error}");
                            *lock(&failure) = Some(error);
                            Err(Error::new(ErrorKind::Other, message))
                        }
                    }
                }
            },
        ))
    }

    fn begin(self) -> Made {
        let mut out = Vec::new();
        let encoder = Encoder::new(self.pending.header, Compression::Blocks, &mut out);
        match self.pending.contents {
            Contents::Changes => Made::Resting(Box::new(Changes {
                encoder,
                out,
                frame: self.room_for_a_frame(),
                changed: 0,
                making: self,
            })),
            Contents::Everything(_) => Made::Everything(Box::new(Everything {
                encoder,
                out,
                stored: Stored::default(),
                blocks: VecDeque::new(),
                spare: Vec::new(),
                ahead: thread::available_parallelism()
                    .map_or(1, |processors| processors.get())
                    .saturating_add(SPARE)
                    .min(BLOCKS_MAX),
                begun: 0,
                making: self,
            })),
        }
    }

    fn room_for_a_frame(&self) -> Vec<u8> {
        vec![0; self.pending.changed.end().header().frame_size()]
    }
}

/// A file of what has changed, of which a part is made. It is moved from one blocking thread to the
/// next.
struct Changes {
    making: Making,
    encoder: Encoder,
    /// What was made, and not handed on yet.
    out: Vec<u8>,
    /// Room for one frame.
    frame: Vec<u8>,
    /// How many of the changed pages are in it.
    changed: usize,
}

impl Changes {
    /// Makes the next piece, and what makes the rest, where that is not the last one.
    fn piece(mut self) -> Piece<Changes> {
        while self.out.len() < CHUNK_SIZE {
            if !self.change()? {
                return finished(self.encoder, self.out);
            }
        }
        let piece = std::mem::replace(&mut self.out, Vec::with_capacity(CHUNK_SIZE));
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
}

/// A file of the whole database, of which a part is made: blocks of it are read and compressed on
/// several blocking threads at once, in their order as far as they are begun.
///
/// Memory is used again: of what many threads allocate and others let go of, allocators keep as much
/// again.
struct Everything {
    making: Making,
    encoder: Encoder,
    /// What was made, and not handed on yet.
    out: Vec<u8>,
    stored: Stored,
    /// The next blocks.
    blocks: VecDeque<JoinHandle<Result<CompressedPages, ReplicateError>>>,
    /// Room for further ones.
    spare: Vec<CompressedPages>,
    /// How many of them there may be.
    ahead: usize,
    /// How many pages are in the file or in those.
    begun: u32,
}

impl Everything {
    /// Makes the next piece, and what makes the rest, where that is not the last one.
    async fn piece(mut self) -> Result<Piece<Everything>, Error> {
        loop {
            self.begin_blocks();
            let Some(block) = self.blocks.pop_front() else {
                return Ok(finished(self.encoder, self.out));
            };
            let added = joined(block).await?.and_then(|mut block| {
                let added = self.encoder.pages(&mut block, &mut self.out);
                self.spare.push(block);
                added.map_err(invalid)
            });
            if let Err(error) = added {
                return Ok(Err(error));
            }
            // A block of the lock page alone adds nothing.
            if !self.out.is_empty() {
                break;
            }
        }
        self.begin_blocks();
        let room = lock(&self.stored).pop().unwrap_or_default();
        let made = MadeOfBlock {
            bytes: std::mem::replace(&mut self.out, room),
            stored: Arc::clone(&self.stored),
        };
        Ok(Ok((Bytes::from_owner(made), Some(self))))
    }

    /// Begins as many further blocks as there may be at once.
    fn begin_blocks(&mut self) {
        let header = self.making.pending.header;
        let in_block = (BLOCK_SIZE / header.page_size().bytes()) as u32;
        while self.blocks.len() < self.ahead {
            let count = in_block.min(header.commit() - self.begun);
            let Some(first) = Pgno::new(self.begun.saturating_add(1)).filter(|_| count > 0) else {
                return;
            };
            let making = self.making.clone();
            let mut block =
                (self.spare.pop()).unwrap_or_else(|| CompressedPages::new(header.page_size()));
            self.blocks.push_back(spawn_blocking(move || {
                block.compress(first, count as usize, |pages| making.read(first, pages))?;
                Ok(block)
            }));
            self.begun += count;
        }
    }
}

/// The room of pieces that nobody needs any more.
type Stored = Arc<Mutex<Vec<Vec<u8>>>>;

/// A piece of the file, whose room is used again for another.
struct MadeOfBlock {
    bytes: Vec<u8>,
    stored: Stored,
}

impl AsRef<[u8]> for MadeOfBlock {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for MadeOfBlock {
    fn drop(&mut self) {
        let mut room = std::mem::take(&mut self.bytes);
        room.clear();
        lock(&self.stored).push(room);
    }
}

/// The last piece of a file.
fn finished<Rest>(encoder: Encoder, mut out: Vec<u8>) -> Piece<Rest> {
    encoder.finish(None, &mut out).map_err(invalid)?;
    Ok((out.into(), None))
}

impl Making {
    /// Fills `pages` with those of the database from `first` on.
    ///
    /// Every page is in the database file but for those that were changed since, and those don't
    /// change in the file in a way that matters: whoever checkpoints writes what the log has.
    fn read(&self, first: Pgno, pages: &mut [u8]) -> Result<(), ReplicateError> {
        let page_size = self.pending.header.page_size();
        let database = lock(&self.database);
        // Whoever else copies to the file between two holds does not say so.
        let is_held = database.is_held() && database.hold_number() == self.pending.hold;
        if self.pending.void.load(Ordering::Relaxed) || !is_held {
            return Err(database.unsteady());
        }
        database.read_pages(first, page_size, pages)?;
        drop(database);
        let changed = self.pending.changed.pages();
        let from = changed.partition_point(|page| page.pgno() < first);
        let mut frame = self.room_for_a_frame();
        for page in changed.get(from..).unwrap_or_default() {
            let at = (page.pgno().get() - first.get()) as usize * page_size.bytes();
            let Some(in_file) = pages
                .get_mut(at..)
                .and_then(|rest| rest.get_mut(..page_size.bytes()))
            else {
                break;
            };
            in_file.copy_from_slice(self.read_frame(page, &mut frame)?);
        }
        Ok(())
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
    /// What has changed, and nothing of it yet.
    Resting(Box<Changes>),
    /// The next piece of what has changed.
    Next(JoinHandle<Piece<Changes>>),
    Everything(Box<Everything>),
}

impl Made {
    /// The next piece; what comes behind it is begun.
    async fn next(self) -> Result<Piece<Made>, Error> {
        let begin = |changes: Changes| spawn_blocking(move || changes.piece());
        let made = match self {
            Made::Resting(changes) => begin(*changes),
            Made::Next(made) => made,
            Made::Everything(everything) => {
                let piece = everything.piece().await?;
                let rest = |everything| Made::Everything(Box::new(everything));
                return Ok(piece.map(|(piece, more)| (piece, more.map(rest))));
            }
        };
        let piece = joined(made).await?;
        Ok(piece.map(|(piece, rest)| (piece, rest.map(|changes| Made::Next(begin(changes))))))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is kept behind one is half done when a thread panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same, unless somebody else has it at this moment.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use replica_core::Timestamp;
    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::super::hold::{Hold, Member};
    use super::super::prepare::Preparing;
    use super::super::schedule::Schedule;
    use super::*;

    /// A replica that is empty, of a database in a temporary folder.
    struct Empty {
        hold: Arc<Hold>,
        member: Arc<Member>,
        path: PathBuf,
        application: Connection,
        _folder: TempDir,
    }

    impl Empty {
        fn new() -> Empty {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("a.db");
            let application = Connection::open(&path).expect("a database in a temporary folder");
            let made = application.execute_batch("CREATE TABLE t(a)");
            made.expect("a table can be made");
            let hold = Hold::open(&path).expect("it is a database");
            let member = hold.join(Err(SnapshotReason::First));
            Empty {
                member: member.expect("the log can be read"),
                hold,
                path,
                application,
                _folder: folder,
            }
        }

        /// What is stored next.
        fn prepared(&self) -> Pending {
            let prepared = self.preparing().prepare().expect("the log can be read");
            prepared.pending.expect("there is something to store")
        }

        fn preparing(&self) -> Preparing {
            Preparing {
                hold: Arc::clone(&self.hold),
                member: Arc::clone(&self.member),
                round: self.member.standing().next_round(),
                named: self.path.clone(),
                last: None,
                file_max: u64::MAX,
                schedule: Schedule {
                    pages: u32::MAX,
                    interval: Duration::MAX,
                    wal_max: u64::MAX,
                },
                now: Timestamp::EPOCH,
            }
        }
    }

    /// Where an error had ended the hold, and nobody had begun another one yet, a file of the whole
    /// database went on with what others had copied to the database file meanwhile.
    #[tokio::test]
    async fn nothing_is_read_of_a_whole_database_while_there_is_no_hold() {
        let empty = Empty::new();
        let pending = empty.prepared();
        let ended = lock(&empty.hold.database).let_go();
        ended.expect("there is a hold");

        let body = pending
            .body(&empty.hold.database, &Failure::default())
            .await;

        assert!(matches!(body, Err(ReplicateError::Unsteady { .. })));
    }

    /// A sync that was dropped before its thread had begun could have made a second file with the
    /// number of the one that the next sync had stored meanwhile.
    #[test]
    fn who_looks_for_a_file_that_another_one_was_looked_for_since_finds_none() {
        let empty = Empty::new();
        let dropped = empty.preparing();

        empty.prepared();
        empty.member.standing().pending = None;
        let late = dropped.prepare().expect("it looks at nothing");

        assert!(late.pending.is_none() && empty.member.standing().pending.is_none());
    }

    /// A sync that was dropped had found the changes, and the next one that files are gone: the new
    /// start was forgotten once the changes were stored.
    #[test]
    fn a_file_of_changes_makes_up_for_nothing_that_is_missing() {
        let empty = Empty::new();
        let first = empty.prepared();
        empty.member.standing().stored(&first);
        let written = empty.application.execute_batch("INSERT INTO t VALUES(1)");
        written.expect("nobody else writes");
        let changes = empty.prepared();
        empty.member.standing().place = Err(SnapshotReason::Incomplete);

        empty.member.standing().stored(&changes);

        assert!(changes.contents == Contents::Changes);
        let standing = empty.member.standing();
        assert_eq!(standing.place, Err(SnapshotReason::Incomplete));
        assert!(standing.pending.is_none());
    }
}
