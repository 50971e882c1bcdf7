//! Finds where a replica that was written before stands in the log.

use std::cmp::Reverse;
use std::ops::Range;

use bytes::Bytes;
use ltx::{Header, Index, IndexSearch, Pgno};
use replica_core::{
    ByteRange, FileId, FileInfo, Level, ReplicaClient, ReplicaClientExt, Timestamp,
};

use super::decide::{Place, SnapshotReason};
use crate::ReplicateError;
use crate::damage::ReadFailure;
use crate::database::Database;
use crate::listing::read_header;
use crate::wal::{Chain, Changed, ChangedPage};

/// Up to which size a file is read at once, and not only the parts of it that are needed.
const WHOLE_MAX: u64 = 1024 * 1024;
/// How many pages of the newest file are compared with the log.
const COMPARED_MAX: usize = 16;

/// The newest file of a replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newest {
    pub(crate) info: FileInfo,
    /// Its header, where that can be read.
    pub(crate) header: Option<Header>,
}

/// What of the log should be in the newest file.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) place: Place,
    /// Some of the pages, as the log has them.
    pages: Vec<(Pgno, Vec<u8>)>,
}

impl Newest {
    /// When that was copied, which no later one is before.
    pub(crate) fn time(&self) -> Timestamp {
        self.header
            .map_or(self.info.created_at, |header| header.timestamp())
    }

    /// Finds the file of `listed` with the last transaction: the one at the lowest level, where
    /// there are several, and of that level the shortest.
    pub(crate) async fn find(
        client: &dyn ReplicaClient,
        listed: &[FileInfo],
    ) -> Result<Option<Newest>, ReplicateError> {
        let newest = listed.iter().max_by_key(|file| {
            let txids = file.id.txids;
            (txids.max(), Reverse(file.id.level), txids.min())
        });
        let Some(&info) = newest else {
            return Ok(None);
        };
        let header = match read_header(client, info.id).await {
            Ok(header) => Some(header),
            Err(ReadFailure::Damaged(_)) => None,
            Err(ReadFailure::Store(error)) => return Err(error.into()),
        };
        Ok(Some(Newest { info, header }))
    }

    /// Finds the place in the log that the file says it goes up to, and what it must have in that
    /// case.
    pub(crate) fn claim(
        &self,
        database: &Database,
    ) -> Result<Result<Claim, SnapshotReason>, ReplicateError> {
        let Some(header) = &self.header else {
            return Ok(Err(SnapshotReason::Unreadable));
        };
        let Some(span) = header.wal().filter(|_| self.info.id.level == Level::RAW) else {
            return Ok(Err(SnapshotReason::NoPlace));
        };
        let observed = database.observe()?;
        let Ok(wal) = observed.header else {
            return Ok(Err(SnapshotReason::NewLog));
        };
        if wal.salts() != span.salts() || wal.page_size() != header.page_size() {
            return Ok(Err(SnapshotReason::NewLog));
        }
        let start = Chain::new(wal);
        let (Some(first), Some(count)) = (
            whole_frames(&start, span.offset().checked_sub(start.offset())),
            whole_frames(&start, Some(span.size())),
        ) else {
            return Ok(Err(SnapshotReason::NoPlace));
        };
        let Some(last) = first
            .checked_add(count)
            .filter(|last| *last <= observed.frames)
        else {
            return Ok(Err(SnapshotReason::ShorterLog));
        };
        let (before, _) = database.changes(start, first, u64::MAX)?;
        let before = *before.end();
        let (changes, frames) = database.changes(before, last, u64::MAX)?;
        let changed = changes.finish();
        let ends = (before.frames(), changed.end().frames()) == (first, last);
        if !ends || changed.commit().map(|commit| commit.get()) != Some(header.commit()) {
            return Ok(Err(SnapshotReason::OtherLog));
        }
        let pages = some_of(&changed).map(|page| {
            let mut frame = vec![0; wal.frame_size()];
            let read = frames.read(page, changed.end(), &mut frame);
            let read = read.map_err(|fault| fault.at(database.wal_path().to_owned()))?;
            Ok((page.pgno(), read.to_vec()))
        });
        let pages = pages.collect::<Result<_, ReplicateError>>()?;
        let place = Place {
            end: *changed.end(),
            commit: header.commit(),
            complete: false,
            empty: false,
        };
        Ok(Ok(Claim { place, pages }))
    }

    /// Whether the file has what `claim` says.
    pub(crate) async fn has(
        &self,
        claim: &Claim,
        client: &dyn ReplicaClient,
    ) -> Result<Result<(), SnapshotReason>, ReplicateError> {
        match self.compare(claim, client).await {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Ok(Err(SnapshotReason::OtherLog)),
            Err(Unread::Damaged) => Ok(Err(SnapshotReason::Unreadable)),
            Err(Unread::Store(error)) => match ReadFailure::new(self.info.id, error) {
                ReadFailure::Damaged(_) => Ok(Err(SnapshotReason::Unreadable)),
                ReadFailure::Store(error) => Err(error.into()),
            },
        }
    }

    async fn compare(&self, claim: &Claim, client: &dyn ReplicaClient) -> Result<bool, Unread> {
        let whole = match self.info.size <= WHOLE_MAX {
            true => Some(client.read(self.info.id, ByteRange::ALL).await?),
            false => None,
        };
        let content = Content {
            client,
            file: self.info.id,
            whole,
        };
        let index = content.index(self.info.size).await?;
        for (pgno, page) in &claim.pages {
            let Some(record) = index.record(*pgno) else {
                return Ok(false);
            };
            let record = content.read(record).await?;
            let mut stored = vec![0; page.len()];
            if index.header().page_size().bytes() != page.len() {
                return Ok(false);
            }
            index.decode(*pgno, &record, &mut stored)?;
            if stored != *page {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// How many frames `bytes` are, where they are whole ones.
fn whole_frames(chain: &Chain, bytes: Option<u64>) -> Option<u32> {
    let size = chain.header().frame_size() as u64;
    let bytes = bytes.filter(|bytes| bytes % size == 0)?;
    u32::try_from(bytes / size).ok()
}

/// Pages to compare: the one that was written last, and others from everywhere.
fn some_of(changed: &Changed) -> impl Iterator<Item = &ChangedPage> {
    let pages = changed.pages();
    let every = pages.len().div_ceil(COMPARED_MAX - 1).max(1);
    let last = pages.iter().max_by_key(|page| page.frame());
    last.into_iter().chain(pages.iter().step_by(every))
}

/// The content of a file in a store, of which as little as possible is read.
struct Content<'a> {
    client: &'a dyn ReplicaClient,
    file: FileId,
    whole: Option<Bytes>,
}

impl Content<'_> {
    async fn index(&self, len: u64) -> Result<Index, Unread> {
        let mut search = IndexSearch::new(len)?;
        while let Some(range) = search.wants() {
            search.supply(&self.read(range).await?)?;
        }
        search.found().ok_or(Unread::Damaged)
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, Unread> {
        let Some(whole) = &self.whole else {
            return Ok(self.client.read(self.file, range.into()).await?);
        };
        let part = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok());
        match part {
            Some((start, end)) if start <= end && end <= whole.len() => Ok(whole.slice(start..end)),
            _ => Err(Unread::Damaged),
        }
    }
}

/// Why a file's content is not known.
enum Unread {
    Damaged,
    Store(replica_core::Error),
}

impl From<ltx::Error> for Unread {
    fn from(_: ltx::Error) -> Unread {
        Unread::Damaged
    }
}

impl From<replica_core::Error> for Unread {
    fn from(error: replica_core::Error) -> Unread {
        Unread::Store(error)
    }
}
