//! Finds where a replica that was written before stands in the log.

use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::stream::{self, StreamExt};
use ltx::{Header, Pgno, Trailer, WalSpan};
use replica_core::{FileInfo, Level, ReplicaClient, Timestamp, Txid};

use super::decide::{Place, SnapshotReason};
use super::likeness::is_like;
use super::pending::lock;
use crate::ReplicateError;
use crate::damage::{Damage, ReadFailure};
use crate::database::{Database, Frames};
use crate::listing::read_header;
use crate::restore::run_blocking;
use crate::verify::{Visit, show, verify};
use crate::wal::{Chain, Changed, HEADER_SIZE};

/// How many bytes of files are read at most to find out whether it goes on from them.
const COMPARED_MAX: u64 = 64 * 1024 * 1024;
/// How many of those bytes are fetched before they are asked for.
const AHEAD: u64 = 1024 * 1024;
/// How many files before the newest one are looked at, whether it goes on from them.
const JOINED_MAX: usize = 256;
/// How often a log is begun anew at most while nobody replicates. That of another database passes
/// for one that was begun anew once in so many times as this goes into all numbers.
const LOGS_MAX: u32 = 1 << 16;
/// How many of their headers are read at a time.
const HEADERS: usize = 16;

/// The newest file of a replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newest {
    pub(crate) info: FileInfo,
    /// Its header, where that can be read.
    pub(crate) header: Option<Header>,
}

/// The files that were made of one log, in their order, the newest one being the last.
#[derive(Clone, Debug)]
struct Parts {
    files: Vec<Part>,
    /// Whether the first of them begins where the log does.
    whole: bool,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    info: FileInfo,
    header: Header,
    span: WalSpan,
}

/// What of the log should be in the files that were made of it.
struct Claim {
    place: Place,
    /// Empty where the newest file's mark tells of all of them.
    compared: Vec<Compared>,
}

/// One of those files, what should be in it, and whether it is.
#[derive(Debug)]
struct Compared {
    file: FileInfo,
    changed: Changed,
    frames: Arc<Frames>,
    wal: PathBuf,
    buffer: Vec<u8>,
    /// How many of the pages that should be there are to come.
    left: usize,
    differs: bool,
    fault: Option<ReplicateError>,
}

/// What tells the log up to `end`, and so everything that was ever written to it, from any other
/// one with the same salts. The files' headers have it as the number of the node that has written
/// them, for which Litestream writes 0 and never asks.
pub(crate) fn mark(end: &Chain) -> u64 {
    u64::from_be_bytes(end.checksum().to_bytes())
}

impl Newest {
    /// When that was copied, which no later one is before.
    pub(crate) fn time(&self) -> Timestamp {
        self.header
            .map_or(self.info.created_at, |header| header.timestamp())
    }

    /// The file of `listed` with the last transaction: the one at the lowest level, where there are
    /// several, and of that level the shortest. Its header is not read.
    pub(crate) fn of(listed: &[FileInfo]) -> Option<Newest> {
        let newest = listed.iter().max_by_key(|file| {
            let txids = file.id.txids;
            (txids.max(), Reverse(file.id.level), txids.min())
        });
        newest.map(|&info| Newest { info, header: None })
    }

    /// Finds that file, and reads its header.
    pub(crate) async fn find(
        client: &Arc<dyn ReplicaClient>,
        listed: &[FileInfo],
    ) -> Result<Option<Newest>, ReplicateError> {
        let Some(Newest { info, .. }) = Newest::of(listed) else {
            return Ok(None);
        };
        let header = match info.size <= COMPARED_MAX {
            // What is damaged may be anything, its header too.
            true => verify(Arc::clone(client), info, AHEAD)
                .await
                .map(|sound| sound.header),
            false => read_header(&**client, info.id).await,
        };
        let header = match header {
            Ok(header) => Some(header),
            Err(ReadFailure::Damaged(_)) => None,
            Err(ReadFailure::Store(error)) => return Err(error.into()),
        };
        Ok(Some(Newest { info, header }))
    }

    /// Finds the place in the log that the file goes up to, if the log has had the very same content
    /// up to there. Where the file does not say so by its mark, all files that were made of the log
    /// are compared with it.
    pub(crate) async fn place(
        &self,
        listed: &[FileInfo],
        database: &Arc<Mutex<Database>>,
        client: &Arc<dyn ReplicaClient>,
    ) -> Result<Result<Place, SnapshotReason>, ReplicateError> {
        match self.proven(listed, database, client).await {
            // It was begun anew while it was being read.
            Err(ReplicateError::Unsteady { .. }) => Ok(Err(SnapshotReason::NewLog)),
            place => place,
        }
    }

    async fn proven(
        &self,
        listed: &[FileInfo],
        database: &Arc<Mutex<Database>>,
        client: &Arc<dyn ReplicaClient>,
    ) -> Result<Result<Place, SnapshotReason>, ReplicateError> {
        let Some(header) = self.header else {
            return Ok(Err(SnapshotReason::Unreadable));
        };
        let is_made_of_log = match self.info.id.level {
            Level::RAW => true,
            // As the first file of all is, which has a mark.
            Level::SNAPSHOT => header.node_id() != 0,
            _ => false,
        };
        let Some(span) = header.wal().filter(|_| is_made_of_log) else {
            return Ok(Err(SnapshotReason::NoPlace));
        };
        let newest = Part {
            info: self.info,
            header,
            span,
        };
        let parts = match Parts::find(&**client, newest, listed).await? {
            Ok(parts) => parts,
            Err(reason) => return Ok(Err(reason)),
        };
        let held = Arc::clone(database);
        let claim = match run_blocking(move || parts.claim(&lock(&held))).await?? {
            Ok(claim) => claim,
            Err(SnapshotReason::UnknownLog) if is_like(database, listed, client).await? => {
                return Ok(Err(SnapshotReason::RemovedLog));
            }
            Err(reason) => return Ok(Err(reason)),
        };
        for compared in claim.compared {
            if let Err(reason) = compared.compare(client).await? {
                return Ok(Err(reason));
            }
        }
        Ok(Ok(claim.place))
    }
}

impl Parts {
    /// Finds the files before `newest` that were made of the same log. Each must go on where the one
    /// before ends: where two have written, none does for long.
    async fn find(
        client: &dyn ReplicaClient,
        newest: Part,
        listed: &[FileInfo],
    ) -> Result<Result<Parts, SnapshotReason>, ReplicateError> {
        // The first file of all may be at level 9.
        let is_made_of_log = |file: &FileInfo| {
            file.id.level == Level::RAW
                || file.id.level == Level::SNAPSHOT && file.id.txids.max() == Txid::FIRST
        };
        let mut before: Vec<FileInfo> = (listed.iter().copied())
            .filter(is_made_of_log)
            .filter(|file| file.id.txids.max() < newest.info.id.txids.min())
            .collect();
        before.sort_unstable_by_key(|file| (Reverse(file.id.txids.max()), file.id.level));
        let mut headers = stream::iter(before.into_iter().take(JOINED_MAX))
            .map(|file| async move { (file, read_header(client, file.id).await) })
            .buffered(HEADERS);
        let mut files = vec![newest];
        let mut first = newest;
        while !first.begins_the_log() {
            let Some((info, header)) = headers.next().await else {
                break;
            };
            if info.id.txids.max().next() != Some(first.info.id.txids.min()) {
                // It was compacted, and deleted then.
                break;
            }
            let header = match header {
                Ok(header) => header,
                Err(ReadFailure::Damaged(_)) => return Ok(Err(SnapshotReason::Unreadable)),
                Err(ReadFailure::Store(error)) => return Err(error.into()),
            };
            let joins = |span: &WalSpan| {
                span.salts() == first.span.salts()
                    && span.offset().checked_add(span.size()) == Some(first.span.offset())
            };
            let Some(span) = header.wal().filter(joins) else {
                return Ok(Err(SnapshotReason::Incomplete));
            };
            first = Part { info, header, span };
            files.push(first);
        }
        files.reverse();
        let whole = first.begins_the_log();
        Ok(Ok(Parts { files, whole }))
    }

    fn size(&self) -> u64 {
        self.files.iter().map(|part| part.info.size).sum()
    }

    /// Finds the place in the log that the last file says it goes up to, and what must be in the
    /// files in that case.
    fn claim(&self, database: &Database) -> Result<Result<Claim, SnapshotReason>, ReplicateError> {
        let Some(newest) = self.files.last() else {
            return Ok(Err(SnapshotReason::NoPlace));
        };
        let observed = database.observe()?;
        let Ok(wal) = observed.header else {
            return Ok(Err(SnapshotReason::UnknownLog));
        };
        if wal.salts() != newest.span.salts() || wal.page_size() != newest.header.page_size() {
            // SQLite adds 1 to the first salt each time that it begins a log anew.
            let ([salt, _], [copied, _]) = (wal.salts(), newest.span.salts());
            return Ok(Err(match salt.wrapping_sub(copied) {
                1..=LOGS_MAX => SnapshotReason::NewLog,
                _ => SnapshotReason::UnknownLog,
            }));
        }
        let mut end = Chain::new(wal);
        let files = match newest.header.node_id() {
            0 => &self.files,
            _ => std::slice::from_ref(newest),
        };
        let mut changes_of = Vec::with_capacity(files.len());
        for part in files {
            let (first, last) = match part.frames(&end) {
                Some(frames) if frames.1 <= observed.frames => frames,
                Some(_) => return Ok(Err(SnapshotReason::ShorterLog)),
                None => return Ok(Err(SnapshotReason::NoPlace)),
            };
            let (before, _) = database.changes(end, first, u64::MAX)?;
            let before = *before.end();
            let (changes, _) = database.changes(before, last, u64::MAX)?;
            let changed = changes.finish();
            let ends = (before.frames(), changed.end().frames()) == (first, last);
            if !ends || changed.commit().map(|commit| commit.get()) != Some(part.header.commit()) {
                return Ok(Err(SnapshotReason::OtherLog));
            }
            end = *changed.end();
            changes_of.push((part.info, changed));
        }
        match newest.header.node_id() {
            // Nothing tells what the log was where files of it are no longer there.
            0 if !self.whole || self.size() > COMPARED_MAX => {
                return Ok(Err(SnapshotReason::NoPlace));
            }
            0 => {}
            marked if marked == mark(&end) => changes_of.clear(),
            _ => return Ok(Err(SnapshotReason::OtherLog)),
        }
        let (_, frames) = database.changes(end, end.frames(), u64::MAX)?;
        let frames = Arc::new(frames);
        let compared = changes_of.into_iter().map(|(file, changed)| Compared {
            file,
            buffer: vec![0; wal.frame_size()],
            left: changed.pages().len(),
            changed,
            frames: Arc::clone(&frames),
            wal: database.wal_path().to_owned(),
            differs: false,
            fault: None,
        });
        let place = Place {
            end,
            commit: newest.header.commit(),
            complete: observed.frames == end.frames(),
            empty: false,
            hold: observed.hold,
        };
        Ok(Ok(Claim {
            place,
            compared: compared.collect(),
        }))
    }
}

impl Part {
    /// Whether nothing of the log is before it.
    fn begins_the_log(&self) -> bool {
        self.span.offset() == HEADER_SIZE as u64
    }

    /// After how many frames of the log of `chain` it begins, and after how many it ends.
    fn frames(&self, chain: &Chain) -> Option<(u32, u32)> {
        let size = chain.header().frame_size() as u64;
        let whole = |bytes: u64| match bytes % size {
            0 => u32::try_from(bytes / size).ok(),
            _ => None,
        };
        let first = whole(self.span.offset().checked_sub(HEADER_SIZE as u64)?)?;
        Some((first, first.checked_add(whole(self.span.size())?)?))
    }
}

impl Compared {
    /// Reads the file to its end, and says whether it has what it should.
    async fn compare(
        self,
        client: &Arc<dyn ReplicaClient>,
    ) -> Result<Result<(), SnapshotReason>, ReplicateError> {
        let file = self.file;
        match show(Arc::clone(client), file, AHEAD, self).await {
            Ok((
                _,
                Compared {
                    fault: Some(fault), ..
                },
            )) => Err(fault),
            Ok((_, Compared { differs, left, .. })) => match differs || left > 0 {
                true => Ok(Err(SnapshotReason::OtherLog)),
                false => Ok(Ok(())),
            },
            Err(ReadFailure::Damaged(_)) => Ok(Err(SnapshotReason::Unreadable)),
            Err(ReadFailure::Store(error)) => Err(error.into()),
        }
    }
}

impl Visit for Compared {
    fn begin(&mut self, _: Header) -> Result<(), Damage> {
        Ok(())
    }

    /// A page that was not changed may be in the file too, where that has the whole database.
    fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Damage> {
        let pages = self.changed.pages();
        let Ok(at) = pages.binary_search_by_key(&pgno, |page| page.pgno()) else {
            return Ok(());
        };
        self.left -= 1;
        let read = self
            .frames
            .read(&pages[at], self.changed.end(), &mut self.buffer);
        match read {
            Ok(in_log) => self.differs |= in_log != page,
            Err(fault) => self.fault = Some(fault.at(self.wal.clone())),
        }
        Ok(())
    }

    fn end(&mut self, _: Trailer) {}
}
