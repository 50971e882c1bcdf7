//! Decides which files of a replica may go. No I/O.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use replica_core::{FileId, FileInfo, Level, Txid};

use super::catalogue::{Catalogue, Entry, Moment};
use super::due::Due;
use super::options::Retention;
use crate::plan::restore_points;
use crate::{PlanError, RestorePlan, Target};

/// Decides which files may go: those that no state needs any more that is promised, since others
/// hold their transactions too. They come in the order in which they are to be deleted: newest
/// first, and those that others begin with last.
///
/// 1. A file of level 0 may go for a file of another level that holds its transactions, once that
///    one, and every file of level 0 that it holds, is older than [`Retention::raw`]. They go
///    together, since without the first of them the others lead nowhere.
/// 2. A file may go for one that holds the whole database after the transactions of both, once
///    that one, and everything before it, is older than [`Retention::states`]. So the last one that
///    is as old stays, with everything after it.
///
/// The time of `now` must not be ahead: that of whoever deletes is [`Moment::certain_at`] it.
///
/// That is enough where times ascend as transactions do. Where they don't, as in a folder whose
/// files were touched, nothing goes that makes a younger file useless.
///
/// To both ages [`Retention::grace`] is added, and what a file goes for has been known for as long.
/// The last file of each level stays: whoever goes on, goes on from there. Where the latest state
/// can't be restored nothing goes at all, because somebody has to see what can be saved.
///
/// # Errors
///
/// Why the latest state can't be restored.
pub(crate) fn superfluous(
    catalogue: &Catalogue,
    retention: &Retention,
    now: Moment,
) -> Result<Due<Vec<FileInfo>>, PlanError> {
    let files = catalogue.files();
    if files.is_empty() {
        return Ok(Due::Never);
    }
    RestorePlan::new(Target::Latest, &files)?;

    let mut waits: BTreeMap<FileId, Duration> = BTreeMap::new();
    let mut may_go = |file: FileId, wait: Duration| {
        let known = waits.entry(file).or_insert(wait);
        *known = wait.min(*known);
    };
    compacted(catalogue, retention, now, &mut may_go);
    outdated(catalogue, retention, now, &mut may_go);

    let stays = last_of_each_level(catalogue);
    waits.retain(|file, _| !stays.contains(file));
    let mut go: Vec<FileInfo> = files
        .into_iter()
        .filter(|file| waits.get(&file.id) == Some(&Duration::ZERO))
        .collect();
    go.sort_by_key(|file| {
        let txids = file.id.txids;
        (txids.min() == Txid::FIRST, Reverse(txids.max()), file.id)
    });
    Ok(match (go.is_empty(), waits.into_values().min()) {
        (false, _) if loses_promised(catalogue, &go, retention, now) => Due::Never,
        (false, _) => Due::Now(go),
        (true, Some(wait)) => Due::After(wait),
        (true, None) => Due::Never,
    })
}

/// The first rule.
fn compacted(
    catalogue: &Catalogue,
    retention: &Retention,
    now: Moment,
    may_go: &mut impl FnMut(FileId, Duration),
) {
    let age = retention.raw.saturating_add(retention.grace);
    let compactions =
        (catalogue.entries()).filter(|entry| (1..9).contains(&entry.info.id.level.get()));
    for compaction in compactions {
        let members = || {
            let from = catalogue.level_from(Level::RAW, compaction.min());
            let within = |entry: &&Entry| entry.max() <= compaction.max();
            from.take_while(|entry| entry.min() <= compaction.max())
                .filter(within)
        };
        let wait = members()
            .chain([compaction])
            .map(|entry| now.until_older(entry, age))
            .max()
            .unwrap_or(Duration::MAX)
            .max(now.until_known(compaction, retention.grace));
        members().for_each(|entry| may_go(entry.info.id, wait));
    }
}

/// The second rule.
fn outdated(
    catalogue: &Catalogue,
    retention: &Retention,
    now: Moment,
    may_go: &mut impl FnMut(FileId, Duration),
) {
    let states = retention.states.max(retention.raw);
    let age = states.saturating_add(retention.grace);
    let wholes = catalogue.entries().filter(|entry| entry.is_whole());
    let wholes: Vec<(&Entry, Duration)> = wholes
        .map(|whole| {
            let before = (catalogue.entries()).filter(|entry| entry.max() <= whole.max());
            let waits = before.map(|entry| now.until_older(entry, age));
            let known = now.until_known(whole, retention.grace);
            (whole, waits.max().unwrap_or(Duration::MAX).max(known))
        })
        .collect();
    let rank = |entry: &Entry| (entry.max(), entry.info.id.level);
    for entry in catalogue.entries() {
        if entry.info.id.level == Level::SNAPSHOT && !entry.is_whole() {
            // Nobody knows what it is.
            continue;
        }
        let replaces = |whole: &Entry| match entry.is_whole() {
            true => rank(whole) > rank(entry),
            false => whole.max() >= entry.max(),
        };
        let replacing = wholes.iter().filter(|(whole, _)| replaces(whole));
        replacing.for_each(|(_, wait)| may_go(entry.info.id, *wait));
    }
}

/// Whether a state could not be restored without the files `go`, though it is promised.
fn loses_promised(
    catalogue: &Catalogue,
    go: &[FileInfo],
    retention: &Retention,
    now: Moment,
) -> bool {
    let gone: BTreeSet<FileId> = go.iter().map(|file| file.id).collect();
    let mut files = catalogue.files();
    let before = restore_points(&files);
    files.retain(|file| !gone.contains(&file.id));
    let after = restore_points(&files);
    catalogue.entries().any(|entry| {
        let span = match entry.info.id.level {
            Level::RAW => retention.raw,
            _ => retention.states,
        };
        let state = entry.max();
        now.until_older(entry, span.saturating_add(retention.grace)) > Duration::ZERO
            && before.contains_key(&state)
            && !after.contains_key(&state)
    })
}

fn last_of_each_level(catalogue: &Catalogue) -> BTreeSet<FileId> {
    let last = |level| catalogue.level(level).max_by_key(|entry| entry.max());
    let levels = Level::ALL.into_iter();
    levels.filter_map(last).map(|entry| entry.info.id).collect()
}
