//! Which files bring a database back: every decision of a restore, and no I/O.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use replica_core::{FileId, FileInfo, Level, Timestamp, Txid};

/// The state of the database that is wanted back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The last one that the replica holds.
    Latest,
    /// The one right after a transaction.
    Txid(Txid),
    /// The last one that is older than a time: strictly, as for Litestream.
    Time(Timestamp),
}

/// The files that give the database of a [`Target`], in the order in which they apply: the same
/// ones that Litestream chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePlan {
    files: Vec<FileInfo>,
}

impl RestorePlan {
    /// Chooses among the `listed` files of all levels, in any order.
    ///
    /// It starts from the newest snapshot within the target, and goes on, again and again, with
    /// the file that begins at most one transaction later and gets furthest; among equals, with
    /// the one that begins first, then of the higher level. The cost is that of sorting.
    ///
    /// A time after the last file's is refused, as by Litestream: nothing says what the database
    /// was then. One difference: Litestream restores a time silently to a state before a gap, even
    /// where files older than that time lie behind the gap; here that is a [`PlanError::Gap`]. It
    /// is no gap where a compaction that is too new for that time holds the transactions between.
    ///
    /// # Errors
    ///
    /// The [`PlanError`] that says why no files give that state.
    pub fn new(target: Target, listed: &[FileInfo]) -> Result<RestorePlan, PlanError> {
        let eligible: Vec<FileInfo> = (listed.iter().copied())
            .filter(|file| target.admits(file))
            .collect();
        let plan = RestorePlan {
            files: furthest(&eligible),
        };
        let reached = plan.files.last().map(|file| file.id.txids.max());
        let newest = eligible.iter().map(|file| file.id.txids.max()).max();
        let whole = |reached| newest.is_none_or(|newest| newest <= reached);
        let done = match (target, reached) {
            (_, None) => false,
            (Target::Latest, Some(reached)) => whole(reached),
            (Target::Txid(txid), Some(reached)) => reached == txid,
            (Target::Time(time), Some(reached)) => {
                (whole(reached) || is_followed(reached, newest, listed))
                    && listed.iter().any(|file| file.created_at >= time)
            }
        };
        if done {
            Ok(plan)
        } else {
            Err(PlanError::new(target, listed, &eligible, reached))
        }
    }

    /// The files that Litestream would choose, in the order in which they apply. Never empty.
    pub fn files(&self) -> &[FileInfo] {
        &self.files
    }

    /// The files whose bytes the database is made of. A file that starts at the first
    /// transaction holds the whole database, so what comes before the last such file need not be
    /// read. Never empty.
    pub fn needed(&self) -> &[FileInfo] {
        let whole = |file: &FileInfo| file.id.txids.min() == Txid::FIRST;
        let start = self.files.iter().rposition(whole).unwrap_or(0);
        &self.files[start..]
    }

    /// The transaction whose state the plan gives.
    pub fn txid(&self) -> Txid {
        self.last().id.txids.max()
    }

    /// The file that applies last.
    pub fn last(&self) -> FileInfo {
        *self.files.last().expect("a plan has a file")
    }
}

impl Target {
    fn admits(self, file: &FileInfo) -> bool {
        match self {
            Target::Latest => true,
            Target::Txid(txid) => file.id.txids.max() <= txid,
            Target::Time(time) => file.created_at < time,
        }
    }
}

/// A snapshot that doesn't start at the first transaction can't be one. It tells that its
/// transactions were made, though: a state without them is not the latest.
fn can_apply(file: &FileInfo) -> bool {
    file.id.level != Level::SNAPSHOT || file.id.txids.min() == Txid::FIRST
}

/// Whether one of `files` has taken the place of those with the transaction after `reached`, as a
/// compaction does, and not a snapshot. It has those up to `newest` too, unless times are wrong:
/// then that one is older than one of the transactions before it.
fn is_followed(reached: Txid, newest: Option<Txid>, files: &[FileInfo]) -> bool {
    let next = |file: &FileInfo| {
        let (min, max) = (file.id.txids.min(), file.id.txids.max());
        min.get() - 1 <= reached.get() && reached < max && newest <= Some(max)
    };
    files
        .iter()
        .any(|file| file.id.level != Level::SNAPSHOT && next(file))
}

/// The chain of `files` from the newest snapshot, or from nothing, as far as it goes.
fn furthest(files: &[FileInfo]) -> Vec<FileInfo> {
    let (snapshots, rest): (Vec<FileInfo>, Vec<FileInfo>) =
        (files.iter().filter(|file| can_apply(file)))
            .partition(|file| file.id.level == Level::SNAPSHOT);
    let chain: Vec<FileInfo> = (snapshots.into_iter())
        .max_by_key(|file| file.id.txids.max())
        .into_iter()
        .collect();
    extend(chain, 0, rest)
}

/// The files of `listed` that lead on from the state after transaction `at`, as far as they go.
/// Empty where none does.
pub(crate) fn following(at: Txid, listed: &[FileInfo]) -> Vec<FileInfo> {
    let is_step = |file: &&FileInfo| file.id.level != Level::SNAPSHOT;
    let rest = listed.iter().filter(is_step).copied().collect();
    extend(Vec::new(), at.get(), rest)
}

/// Extends `chain`, which begins with the state after transaction `start` where it is empty, by
/// those of `rest`, as far as they go.
fn extend(mut chain: Vec<FileInfo>, start: u64, mut rest: Vec<FileInfo>) -> Vec<FileInfo> {
    rest.sort_unstable_by_key(|file| Reverse(file.id.txids.min()));
    let mut within_reach = BinaryHeap::new();
    loop {
        let reached = chain.last().map_or(start, |file| file.id.txids.max().get());
        while let Some(file) = rest.pop_if(|file| file.id.txids.min().get() - 1 <= reached) {
            let txids = file.id.txids;
            let preference = (
                txids.max(),
                Reverse(txids.min()),
                file.id.level,
                Reverse(file.created_at),
            );
            within_reach.push((preference, file));
        }
        match within_reach.pop() {
            Some((_, file)) if file.id.txids.max().get() > reached => chain.push(file),
            _ => return chain,
        }
    }
}

/// The states that can be restored from `listed`, and when each was made.
pub(crate) fn restore_points(listed: &[FileInfo]) -> BTreeMap<Txid, Timestamp> {
    let mut files: Vec<&FileInfo> = listed.iter().filter(|file| can_apply(file)).collect();
    files.sort_unstable_by_key(|file| (file.id.txids.max(), file.created_at));
    let mut points = BTreeMap::new();
    for file in files {
        let (min, max) = (file.id.txids.min(), file.id.txids.max());
        let reached = match min.previous() {
            None => true,
            Some(before) => points.range(before..).next_back().is_some(),
        };
        if reached {
            points.entry(max).or_insert(file.created_at);
        }
    }
    points
}

/// Why no files of the replica give the state that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// There are no files at all.
    #[error("the replica has no files: check that this is where the database was replicated to")]
    Empty,
    /// No file starts at the first transaction, so that there is nothing to begin with.
    #[error(
        "the replica has no snapshot and no other file that starts at transaction 1: its oldest \
         file is {oldest}"
    )]
    NoStart {
        /// The file with the lowest transactions.
        oldest: FileId,
    },
    /// Transactions are missing before the state that was asked for.
    #[error(
        "transactions are missing: nothing follows {after}, and the next file is {next}; restore \
         transaction {after}, the last one before the gap, or bring the missing files back"
    )]
    Gap {
        /// The last transaction that can be restored before the gap.
        after: Txid,
        /// The first file behind the gap.
        next: FileId,
    },
    /// The replica does not get as far as this transaction.
    #[error("transaction {txid} is beyond the end of the replica: its last one is {last}")]
    TxidBeyondEnd {
        /// What was asked for.
        txid: Txid,
        /// The last transaction that can be restored.
        last: Txid,
    },
    /// The files that would give the state after this transaction have been compacted or deleted.
    #[error(
        "transaction {txid} can't be restored by itself{}",
        nearest(before, after)
    )]
    TxidUnavailable {
        /// What was asked for.
        txid: Txid,
        /// The nearest earlier transaction that can be restored.
        before: Option<Txid>,
        /// The nearest later transaction that can be restored.
        after: Txid,
    },
    /// Nothing that can be restored is older than this time.
    #[error(
        "the replica has nothing from before {time}: the oldest state that can be restored is \
         from {first}, so ask for a time after that"
    )]
    TimeBeforeFirst {
        /// What was asked for.
        time: Timestamp,
        /// When the oldest state that can be restored was made.
        first: Timestamp,
    },
    /// The replica ends before this time.
    #[error(
        "the replica ends at {last}, so nothing says what the database was at {time}: ask for an \
         earlier time, or for the latest state"
    )]
    TimeBeyondEnd {
        /// What was asked for.
        time: Timestamp,
        /// When the last file was made.
        last: Timestamp,
    },
}

impl PlanError {
    /// Says why `eligible`, the files of `listed` within `target`, get only as far as `reached`.
    fn new(
        target: Target,
        listed: &[FileInfo],
        eligible: &[FileInfo],
        reached: Option<Txid>,
    ) -> PlanError {
        let Some(oldest) = listed.iter().map(|file| file.id).min_by_key(|id| id.txids) else {
            return PlanError::Empty;
        };
        let newest = (listed.iter().map(|file| file.created_at).max()).unwrap_or(Timestamp::EPOCH);
        let points = restore_points(listed);
        let Some((&last, _)) = points.last_key_value() else {
            return PlanError::NoStart { oldest };
        };
        match (target, reached) {
            (Target::Txid(txid), _) => {
                if listed.iter().all(|file| file.id.txids.max() < txid) {
                    return PlanError::TxidBeyondEnd { txid, last };
                }
                match points.range(txid..).next() {
                    Some((&after, _)) => PlanError::TxidUnavailable {
                        txid,
                        before: points.range(..txid).next_back().map(|(&before, _)| before),
                        after,
                    },
                    None => PlanError::gap(last, listed)
                        .unwrap_or(PlanError::TxidBeyondEnd { txid, last }),
                }
            }
            (Target::Time(time), Some(_)) if newest < time => {
                PlanError::TimeBeyondEnd { time, last: newest }
            }
            (Target::Time(time), None) => PlanError::TimeBeforeFirst {
                time,
                first: points.values().copied().min().unwrap_or(time),
            },
            (_, reached) => {
                let after = reached.unwrap_or(last);
                PlanError::gap(after, eligible).unwrap_or(PlanError::NoStart { oldest })
            }
        }
    }

    fn gap(after: Txid, files: &[FileInfo]) -> Option<PlanError> {
        let next = (files.iter().map(|file| file.id))
            .filter(|id| id.txids.max() > after)
            .min_by_key(|id| id.txids)?;
        Some(PlanError::Gap { after, next })
    }
}

fn nearest(before: &Option<Txid>, after: &Txid) -> String {
    match before {
        Some(before) => format!(": the nearest that can are {before} and {after}"),
        None => format!(": the first that can is {after}"),
    }
}
