//! Reads a whole replica, and judges it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use ltx::{Checksum, DatabaseChecksum, Header, PageSize, Pgno, Trailer};
use replica_core::{
    Error, ErrorKind, FileId, FileInfo, Level, ReplicaClient, Timestamp, Timestamps, Txid,
};

use crate::apply::Assembly;
use crate::damage::ReadFailure;
use crate::listing::list;
use crate::plan::restore_points;
use crate::verify::{Sound, Visit, show, verify};
use crate::{Damage, Fault, PlanError, RestorePlan, Target};

/// How many files are read at a time.
const FILES: usize = 4;
/// How many bytes of each of them are fetched before they are needed.
const AHEAD: u64 = 4 * 1024 * 1024;

/// How often files are looked at again, because some were deleted meanwhile or don't fit together.
const ROUNDS_MAX: u32 = 32;

/// Something that is wrong with a replica.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// A file can't be used.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A file holds other transactions than files of its level do: a file straight from the WAL
    /// holds one, and a snapshot starts at the first.
    #[error("{file}: no file of level {} holds these transactions", file.level)]
    Misplaced {
        /// The file.
        file: FileId,
    },
    /// A file is of a database with pages of another size than most.
    #[error(
        "{file}: its database has pages of {found} bytes, that of the other files of {expected}"
    )]
    PageSize {
        /// The file.
        file: FileId,
        /// Its page size.
        found: PageSize,
        /// The page size of most files.
        expected: PageSize,
    },
    /// A file holds transactions that the one before it at its level holds too.
    #[error("{file}: overlaps {before}")]
    Overlap {
        /// The file.
        file: FileId,
        /// The one before it.
        before: FileId,
    },
    /// A level lacks the transactions between two of its files.
    #[error("{file}: does not follow {before}: the files between them are missing")]
    Missing {
        /// The file.
        file: FileId,
        /// The one before it.
        before: FileId,
    },
    /// The sound files don't give the latest state.
    #[error("the latest state can't be restored: {}", why(.0))]
    Unrestorable(PlanError),
    /// The store has lost the times of files, as a plain copy of a folder does. Restoring a time
    /// takes longer then, and is right all the same.
    #[error(
        "{files} files are listed with another time than their headers have: {first}, the first, \
         with {listed} in place of {header}"
    )]
    Times {
        /// How many files.
        files: usize,
        /// The first of them.
        first: FileId,
        /// The time that the store gives it.
        listed: Timestamp,
        /// The time in its header.
        header: Timestamp,
    },
}

/// What a check tells while it goes on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CheckProgress {
    /// The files are listed.
    Listed {
        /// How many there are.
        files: usize,
        /// How many bytes they have.
        bytes: u64,
    },
    /// A file was read to its end.
    Read(FileInfo),
    /// Something is wrong.
    Found(Finding),
}

/// What a check came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Checked {
    /// How many files there are.
    pub files: usize,
    /// How many bytes they have.
    pub bytes: u64,
    /// The oldest and the newest state that the sound files give, with the times of their headers.
    pub restorable: Option<(RestorePoint, RestorePoint)>,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
}

/// A state that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestorePoint {
    /// The last transaction of it.
    pub txid: Txid,
    /// When that was copied.
    pub created_at: Timestamp,
}

/// Reads every file of the replica behind `client`, and compares them with one another: whatever a
/// restore of the latest state would refuse is found.
///
/// Each file is read once, and those of the latest state again: all but the first, which has the
/// whole database, once; and where they hold checksums of the database, which Litestream's don't,
/// all of them once more. Besides up to 16 MiB that are fetched ahead and what is noted of each file,
/// that takes one bit of memory for each page of the database.
///
/// # Errors
///
/// Those of the store that are not about one file: they leave the check unfinished.
pub async fn check(
    client: Arc<dyn ReplicaClient>,
    mut progress: impl FnMut(CheckProgress),
) -> replica_core::Result<Checked> {
    let timestamps = match client.capabilities().timestamp_resolution {
        Some(_) => Timestamps::Exact,
        None => Timestamps::Fast,
    };
    let mut listed = list(&*client, timestamps).await?;
    let bytes = listed.iter().map(|file| file.size).sum();
    let files = listed.len();
    progress(CheckProgress::Listed { files, bytes });

    let mut findings = Findings {
        all: Vec::new(),
        progress,
    };
    for finding in arrangement(&listed) {
        findings.add(finding);
    }
    let mut sound: Vec<(FileInfo, Sound)> = Vec::new();
    let mut unread = listed.clone();
    for round in 1.. {
        let mut gone = Vec::new();
        let mut reads = stream::iter(std::mem::take(&mut unread))
            .map(|file| {
                let client = Arc::clone(&client);
                async move { (file, verify(client, file, AHEAD).await) }
            })
            .buffered(FILES);
        while let Some((file, read)) = reads.next().await {
            match read {
                Ok(read) => sound.push((file, read)),
                Err(ReadFailure::Damaged(damage)) if damage.fault == Fault::Missing => {
                    gone.push(file);
                }
                Err(ReadFailure::Damaged(damage)) => findings.add(damage.into()),
                Err(ReadFailure::Store(error)) => return Err(error),
            }
            (findings.progress)(CheckProgress::Read(file));
        }
        drop(reads);
        for finding in other_sizes(&mut sound) {
            findings.add(finding);
        }
        if gone.is_empty() {
            match assemble(&client, &listed, &sound).await {
                Ok(()) => break,
                Err(ReadFailure::Damaged(damage)) => {
                    sound.retain(|(file, _)| file.id != damage.file);
                    if damage.fault == Fault::Missing {
                        gone.extend(listed.iter().filter(|file| file.id == damage.file));
                    } else {
                        findings.add(damage.into());
                    }
                }
                Err(ReadFailure::Store(error)) => return Err(error),
            }
        }
        if !gone.is_empty() {
            let now = list(&*client, timestamps).await?;
            for file in gone {
                let deleted = now.iter().all(|there| there.id != file.id);
                if deleted && covered(file.id, &now) {
                    // What was compacted may be deleted at any time.
                    listed.retain(|listed| listed.id != file.id);
                    let held = |there: &&FileInfo| overlap(there.id, file.id);
                    for there in now.iter().filter(held) {
                        if listed.iter().all(|listed| listed.id != there.id) {
                            listed.push(*there);
                            unread.push(*there);
                        }
                    }
                } else {
                    findings.add(Damage::new(file.id, Fault::Missing).into());
                }
            }
        }
        if round == ROUNDS_MAX {
            if unread.is_empty() {
                break;
            }
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the replica's files are deleted faster than they can be read: try again later",
            ));
        }
    }
    let sound: Vec<(FileInfo, Header)> = sound
        .into_iter()
        .map(|(file, sound)| (file, sound.header))
        .collect();

    if let Some(resolution) = client.capabilities().timestamp_resolution {
        let resolution = i64::try_from(resolution.as_millis())
            .unwrap_or(i64::MAX)
            .max(1);
        if let Some(finding) = lost_times(&sound, resolution) {
            findings.add(finding);
        }
    }
    let dated: Vec<FileInfo> = (sound.iter())
        .map(|(file, header)| FileInfo {
            created_at: header.timestamp(),
            ..*file
        })
        .collect();
    if let Err(error) = RestorePlan::new(latest(&listed), &dated) {
        findings.add(Finding::Unrestorable(error));
    }
    let points = restore_points(&dated);
    let point = |(&txid, &created_at)| RestorePoint { txid, created_at };
    let restorable = points
        .first_key_value()
        .map(point)
        .zip(points.last_key_value().map(point));
    Ok(Checked {
        files: listed.len(),
        bytes: listed.iter().map(|file| file.size).sum(),
        restorable,
        findings: findings.all,
    })
}

/// Why the sound files don't give the latest state, for which they were asked by its number.
fn why(error: &PlanError) -> String {
    match error {
        PlanError::TxidBeyondEnd { txid, last } => format!(
            "it is that after transaction {txid}, and the last one that the sound files give is \
             that after transaction {last}"
        ),
        error => error.to_string(),
    }
}

fn latest(listed: &[FileInfo]) -> Target {
    match listed.iter().map(|file| file.id.txids.max()).max() {
        Some(last) => Target::Txid(last),
        None => Target::Latest,
    }
}

fn overlap(one: FileId, other: FileId) -> bool {
    one.txids.min() <= other.txids.max() && other.txids.min() <= one.txids.max()
}

/// Whether `files` hold all transactions of `gone`.
fn covered(gone: FileId, files: &[FileInfo]) -> bool {
    let mut next = gone.txids.min();
    loop {
        let holding = files.iter().map(|file| file.id.txids);
        let furthest = holding
            .map(|txids| (txids.min(), txids.max()))
            .filter(|(min, max)| *min <= next && next <= *max)
            .map(|(_, max)| max)
            .max();
        match furthest {
            None => return false,
            Some(last) if last >= gone.txids.max() => return true,
            Some(last) => match last.next() {
                Some(after) => next = after,
                None => return true,
            },
        }
    }
}

/// Holds the files of the latest state against the rules that a restore holds them against.
///
/// The first one has all pages, or it would not be sound; the others are read again for theirs,
/// and all of them once more where the last one has a checksum of the database.
async fn assemble(
    client: &Arc<dyn ReplicaClient>,
    listed: &[FileInfo],
    sound: &[(FileInfo, Sound)],
) -> Result<(), ReadFailure> {
    let files: Vec<FileInfo> = sound.iter().map(|(file, _)| *file).collect();
    let Ok(plan) = RestorePlan::new(latest(listed), &files) else {
        return Ok(());
    };
    let facts = |id: FileId| sound.iter().find(|(file, _)| file.id == id);
    let ends = (plan.needed().first(), plan.needed().last());
    let (Some((_, first)), Some((_, last))) = (
        ends.0.and_then(|file| facts(file.id)),
        ends.1.and_then(|file| facts(file.id)),
    ) else {
        return Ok(());
    };
    let mut assembly = Assembly::new(plan.needed(), None, last.header.commit());
    assembly.whole(first.header, first.trailer)?;
    for file in plan.needed().iter().skip(1) {
        (_, assembly) = show(Arc::clone(client), *file, AHEAD, assembly).await?;
    }
    let (_, end) = assembly.finish()?;

    // A file with all pages has been held against its own checksum of them.
    if !end.has_checksum() || plan.needed().len() == 1 {
        return Ok(());
    }
    let mut database = NewestPages::new(end.commit);
    for file in plan.needed().iter().rev() {
        (_, database) = show(Arc::clone(client), *file, AHEAD, database).await?;
    }
    end.check(database.checksum.get())?;
    Ok(())
}

impl Visit for Assembly {
    fn begin(&mut self, header: Header) -> Result<(), Damage> {
        Assembly::begin(self, header)
    }

    fn page(&mut self, pgno: Pgno, _: &[u8]) -> Result<(), Damage> {
        Assembly::page(self, pgno)
    }

    fn end(&mut self, trailer: Trailer) {
        Assembly::end(self, trailer);
    }
}

/// The checksum of the database that files leave, which come from the newest to the oldest: so the
/// first version of a page that is seen is the one that stays, and that it was seen is all there is
/// to remember. That takes a bit for each page, of which [`assemble`] has proven that they are there.
struct NewestPages {
    commit: u32,
    seen: Vec<u64>,
    checksum: DatabaseChecksum,
}

impl NewestPages {
    fn new(commit: u32) -> NewestPages {
        NewestPages {
            commit,
            seen: vec![0; commit as usize / 64 + 1],
            checksum: DatabaseChecksum::default(),
        }
    }
}

impl Visit for NewestPages {
    fn begin(&mut self, _: Header) -> Result<(), Damage> {
        Ok(())
    }

    fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Damage> {
        let (number, bit) = (pgno.get(), 1 << (pgno.get() % 64));
        if let Some(seen) = self.seen.get_mut(number as usize / 64)
            && number <= self.commit
            && *seen & bit == 0
        {
            *seen |= bit;
            self.checksum.add(Checksum::of_page(pgno, page));
        }
        Ok(())
    }

    fn end(&mut self, _: Trailer) {}
}

/// What was found, and whoever is told at once.
struct Findings<F> {
    all: Vec<Finding>,
    progress: F,
}

impl<F: FnMut(CheckProgress)> Findings<F> {
    fn add(&mut self, finding: Finding) {
        (self.progress)(CheckProgress::Found(finding.clone()));
        self.all.push(finding);
    }
}

/// What the names alone show: files that are where they don't belong, that overlap, or that
/// should follow one another and don't. A level may begin anywhere, because old files are deleted.
fn arrangement(listed: &[FileInfo]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut files: Vec<FileId> = listed.iter().map(|file| file.id).collect();
    files.sort_unstable();
    let mut before: Option<FileId> = None;
    for file in files {
        let (min, max) = (file.txids.min(), file.txids.max());
        let misplaced = match file.level {
            Level::RAW => min != max,
            Level::SNAPSHOT => min != Txid::FIRST,
            _ => false,
        };
        if misplaced {
            found.push(Finding::Misplaced { file });
        }
        // Snapshots all hold the same transactions and more.
        if file.level == Level::SNAPSHOT {
            continue;
        }
        let same_level = before.filter(|before| before.level == file.level);
        if let Some(before) = same_level {
            let last = before.txids.max();
            if min <= last {
                found.push(Finding::Overlap { file, before });
            } else if last.next() != Some(min) {
                found.push(Finding::Missing { file, before });
            }
            if max < last {
                continue;
            }
        }
        before = Some(file);
    }
    found
}

/// Takes out the files that have pages of another size than most.
fn other_sizes(sound: &mut Vec<(FileInfo, Sound)>) -> Vec<Finding> {
    let mut counts = BTreeMap::new();
    for (_, sound) in sound.iter() {
        *counts.entry(sound.header.page_size()).or_insert(0) += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    let Some((expected, _)) = most else {
        return Vec::new();
    };
    let others = sound.extract_if(.., |(_, sound)| sound.header.page_size() != expected);
    others
        .map(|(file, sound)| Finding::PageSize {
            file: file.id,
            found: sound.header.page_size(),
            expected,
        })
        .collect()
}

fn lost_times(sound: &[(FileInfo, Header)], resolution: i64) -> Option<Finding> {
    let kept = |time: Timestamp| time.as_millis().div_euclid(resolution);
    let mut lost =
        (sound.iter()).filter(|(file, header)| kept(file.created_at) != kept(header.timestamp()));
    let (first, header) = lost.next()?;
    Some(Finding::Times {
        files: 1 + lost.count(),
        first: first.id,
        listed: first.created_at,
        header: header.timestamp(),
    })
}
