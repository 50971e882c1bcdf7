//! Decides which files of a replica are put together, and when. No I/O.

use std::time::Duration;

use replica_core::{FileId, FileInfo, Level, Txid, TxidRange};

use super::catalogue::{Catalogue, Entry, Moment};
use crate::plan::restore_points;
use crate::{PlanError, RestorePlan, Target};

/// How many files are put together at a time, each of which takes memory. Where there are more, it
/// is done several times.
pub(crate) const INPUTS_MAX: usize = 256;

/// Whether there is something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due<J> {
    Now(J),
    After(Duration),
    /// Not before something changes.
    Never,
}

impl<J> Due<J> {
    /// The same, where what is to be done is said in other words.
    pub(crate) fn map<K>(self, other: impl FnOnce(J) -> K) -> Due<K> {
        match self {
            Due::Now(job) => Due::Now(other(job)),
            Due::After(wait) => Due::After(wait),
            Due::Never => Due::Never,
        }
    }
}

/// Files to be put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Merging {
    pub(crate) output: FileId,
    /// Oldest first.
    pub(crate) inputs: Vec<FileInfo>,
}

/// The levels that hold compactions, from this one on.
fn compactions(from: Level) -> impl Iterator<Item = Level> {
    let levels = Level::ALL.into_iter();
    levels.filter(move |level| (from..Level::SNAPSHOT).contains(level))
}

/// Decides whether files of the level below are put together to one of `level`: all those that
/// follow what that has, as soon as one of them is as old as `interval`.
///
/// Only files that follow one another are. A file that holds the whole database is left where it
/// is if a snapshot has its transactions: it would be stored once more at each level. What is
/// behind missing transactions is put together only where it can be restored all the same.
///
/// # Errors
///
/// Why the latest state can't be restored, where nothing of what there is can be put together.
pub(crate) fn compaction(
    catalogue: &Catalogue,
    level: Level,
    interval: Duration,
    now: Moment,
) -> Result<Due<Merging>, PlanError> {
    let Some(below) = level.get().checked_sub(1).and_then(Level::new) else {
        return Ok(Due::Never);
    };
    let reached = catalogue.last(compactions(level)).map_or(0, Txid::get);
    let snapshots = catalogue.level(Level::SNAPSHOT);
    let snapshot = snapshots
        .filter(|entry| entry.is_whole())
        .map(Entry::max)
        .max();
    let is_input = |entry: &&Entry| {
        let is_stored = entry.is_whole() && snapshot.is_some_and(|last| entry.max() <= last);
        entry.max().get() > reached && !is_stored
    };
    let inputs: Vec<Entry> = catalogue.level(below).filter(is_input).copied().collect();
    let Some(first) = inputs.first() else {
        return Ok(Due::Never);
    };
    let run = if reached > 0 && first.min().get() - 1 <= reached {
        run(&inputs, reached)
    } else {
        let files = catalogue.files();
        let points = restore_points(&files);
        let applies = |entry: &Entry| match entry.min().previous() {
            None => true,
            Some(before) => points.range(before..entry.max()).next().is_some(),
        };
        match inputs.iter().position(applies) {
            Some(start) => run(&inputs[start..], inputs[start].min().get() - 1),
            None => {
                RestorePlan::new(Target::Latest, &files)?;
                return Ok(Due::Never);
            }
        }
    };
    let wait = run
        .iter()
        .map(|entry| now.until_older(entry, interval))
        .min();
    Ok(match (wait, span(&run)) {
        (Some(Duration::ZERO), Some(txids)) => Due::Now(Merging {
            output: FileId { level, txids },
            inputs: run.iter().map(|entry| entry.info).collect(),
        }),
        (Some(wait), Some(_)) => Due::After(wait),
        _ => Due::Never,
    })
}

/// Decides whether a snapshot is made of what can be restored: of the state up to which the other
/// levels get, or of the very last one where there are none, or `everything` is to be in it.
///
/// # Errors
///
/// Why that state can't be restored.
pub(crate) fn snapshot(
    catalogue: &Catalogue,
    interval: Duration,
    everything: bool,
    now: Moment,
) -> Result<Due<Merging>, PlanError> {
    let snapshots = catalogue.level(Level::SNAPSHOT);
    let last = snapshots
        .filter(|entry| entry.is_whole())
        .max_by_key(|entry| entry.max());
    let lowest = Level::ALL[usize::from(!everything)];
    let Some(state) = catalogue.last(compactions(lowest)) else {
        return Ok(Due::Never);
    };
    if last.is_some_and(|last| last.max() >= state) {
        return Ok(Due::Never);
    }
    let wait = last.map_or(Duration::ZERO, |last| now.until_older(last, interval));
    if wait > Duration::ZERO {
        return Ok(Due::After(wait));
    }
    let plan = RestorePlan::new(Target::Txid(state), &catalogue.files())?;
    let inputs: Vec<FileInfo> = plan.needed().iter().take(INPUTS_MAX).copied().collect();
    let txids = inputs
        .last()
        .and_then(|last| TxidRange::new(Txid::FIRST, last.id.txids.max()));
    Ok(match txids {
        Some(txids) => Due::Now(Merging {
            output: FileId {
                level: Level::SNAPSHOT,
                txids,
            },
            inputs,
        }),
        None => Due::Never,
    })
}

/// The files that follow one another from `reached` on: always the one that gets furthest.
fn run(inputs: &[Entry], mut reached: u64) -> Vec<Entry> {
    let mut run: Vec<Entry> = Vec::new();
    let mut next: Option<Entry> = None;
    for entry in inputs {
        if entry.min().get() - 1 > reached {
            let Some(furthest) = next.take() else {
                break;
            };
            reached = furthest.max().get();
            run.push(furthest);
            if entry.min().get() - 1 > reached || run.len() == INPUTS_MAX {
                return run;
            }
        }
        if entry.max().get() > reached && next.is_none_or(|next| next.max() < entry.max()) {
            next = Some(*entry);
        }
    }
    run.extend(next);
    run
}

fn span(run: &[Entry]) -> Option<TxidRange> {
    TxidRange::new(run.first()?.min(), run.last()?.max())
}
