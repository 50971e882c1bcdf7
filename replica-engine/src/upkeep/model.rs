//! Whatever has happened to a replica: what is promised can be restored, before and after.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use replica_core::{FileId, FileInfo, Level, Timestamp, Txid, TxidRange};
use tokio::time::Instant;

use super::catalogue::{Catalogue, Moment};
use super::due::{Due, Merging, compaction, snapshot};
use super::options::{Levels, Retention};
use super::retention::superfluous;
use crate::plan::restore_points;
use crate::{PlanError, RestorePlan, Target};

const SECOND: Duration = Duration::from_secs(1);

fn file(level: u8, min: u64, max: u64, created_at: i64) -> FileInfo {
    let txid = |number| Txid::new(number).expect("transactions count from 1");
    FileInfo {
        id: FileId {
            level: Level::new(level).expect("a level"),
            txids: TxidRange::new(txid(min), txid(max)).expect("a range"),
        },
        size: 1,
        created_at: Timestamp::from_millis(created_at),
    }
}

fn known(files: impl IntoIterator<Item = FileInfo>, seen: Instant) -> Catalogue {
    let mut catalogue = Catalogue::default();
    for info in files {
        catalogue.add(info, seen);
    }
    catalogue
}

fn plan(target: Target, files: &[FileInfo]) -> RestorePlan {
    let plan = RestorePlan::new(target, files);
    plan.unwrap_or_else(|error| panic!("{target:?} of {files:?}: {error}"))
}

/// A replica, and what was promised of it.
struct Replica {
    catalogue: Catalogue,
    /// Since it was begun.
    elapsed: Duration,
    begun: Instant,
    levels: Levels,
    retention: Retention,
    /// When each state was made, and how long it can be restored.
    promised: BTreeMap<u64, (Duration, Duration)>,
    /// The plans of restores that are under way, and when they were made.
    planned: Vec<(Duration, RestorePlan)>,
}

impl Replica {
    /// Of a database that is stored at level 9 at first, or at level 0 as Litestream does.
    fn new(first: u8) -> Replica {
        let begun = Instant::now();
        let mut replica = Replica {
            catalogue: Catalogue::default(),
            elapsed: Duration::ZERO,
            begun,
            levels: Levels::new(vec![30 * SECOND, 300 * SECOND]).expect("two levels"),
            retention: Retention {
                raw: 100 * SECOND,
                states: 2000 * SECOND,
                grace: 50 * SECOND,
            },
            promised: BTreeMap::new(),
            planned: Vec::new(),
        };
        replica.store(file(first, 1, 1, 0));
        replica
    }

    fn moment(&self) -> Moment {
        Moment {
            time: Timestamp::from_millis(self.elapsed.as_millis() as i64),
            at: self.begun + self.elapsed,
        }
    }

    fn store(&mut self, info: FileInfo) {
        self.catalogue.add(info, self.moment().at);
        let span = match info.id.level {
            Level::RAW => self.retention.raw,
            _ => self.retention.states,
        };
        let made = Duration::from_millis(info.created_at.as_millis() as u64);
        let max = info.id.txids.max().get();
        let promise = self.promised.entry(max).or_insert((made, span));
        promise.1 = promise.1.max(span);
    }

    fn commit(&mut self) {
        let next = self.newest() + 1;
        self.store(file(0, next, next, self.elapsed.as_millis() as i64));
    }

    fn newest(&self) -> u64 {
        self.catalogue
            .last(Level::ALL)
            .expect("there are files")
            .get()
    }

    /// Does what is due, but for the last so many files that should be deleted.
    fn upkeep(&mut self, spared: usize) {
        let now = self.moment();
        let levels = self.levels.clone();
        for (level, interval) in levels.iter() {
            while let Ok(Due::Now(merging)) = compaction(&self.catalogue, level, interval, now) {
                self.merge(merging);
            }
        }
        while let Ok(Due::Now(merging)) = snapshot(&self.catalogue, 900 * SECOND, false, now) {
            self.merge(merging);
        }
        let due = superfluous(&self.catalogue, &self.retention, now);
        if let Due::Now(mut files) = due.expect("the replica is whole") {
            files.truncate(files.len() - spared.min(files.len()));
            for file in files {
                self.catalogue.remove(file.id);
                self.check();
            }
        }
    }

    fn merge(&mut self, merging: Merging) {
        assert_merges(&merging);
        let last = merging.inputs.last().expect("something is put together");
        let info = FileInfo {
            id: merging.output,
            ..*last
        };
        self.store(info);
        self.check();
    }

    /// Whether everything that is promised can be restored, and restores under way find their files.
    fn check(&self) {
        let files = self.catalogue.files();
        assert_eq!(plan(Target::Latest, &files).txid().get(), self.newest());
        for target in self.promises() {
            plan(target, &files);
        }
        for (_, plan) in self.running() {
            for file in plan.needed() {
                assert!(files.contains(file), "{} is gone too soon", file.id);
            }
        }
    }

    fn promises(&self) -> impl Iterator<Item = Target> {
        let is_kept =
            |(_, (made, span)): &(_, &(Duration, Duration))| *made + *span >= self.elapsed;
        let kept = self.promised.iter().filter(is_kept);
        kept.filter_map(|(number, _)| Txid::new(*number))
            .map(Target::Txid)
    }

    fn running(&self) -> impl Iterator<Item = &(Duration, RestorePlan)> {
        let grace = self.retention.grace;
        let planned = self.planned.iter();
        planned.filter(move |(at, _)| *at + grace > self.elapsed)
    }

    /// Restores of everything that is promised begin.
    fn begin_restores(&mut self) {
        let files = self.catalogue.files();
        let targets = self.promises().chain([Target::Latest]);
        let plans: Vec<_> = targets.map(|target| plan(target, &files)).collect();
        self.planned = self.running().cloned().collect();
        self.planned
            .extend(plans.into_iter().map(|plan| (self.elapsed, plan)));
    }
}

/// Whether the files can be put together, and make up the output.
fn assert_merges(merging: &Merging) {
    let Merging { output, inputs } = merging;
    for pair in inputs.windows(2) {
        let (before, after) = (pair[0].id.txids, pair[1].id.txids);
        assert!(after.min().get() - 1 <= before.max().get() && after.max() > before.max());
    }
    let whole = TxidRange::new(
        inputs[0].id.txids.min(),
        inputs[inputs.len() - 1].id.txids.max(),
    );
    assert_eq!(whole, Some(output.txids));
}

#[derive(Clone, Debug)]
enum Step {
    Commit,
    Wait(u64),
    Upkeep {
        spared: usize,
    },
    BeginRestores,
    /// The process begins anew, and knows only what is listed.
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Commit),
        5 => (1u64..40).prop_map(Step::Wait),
        2 => (40u64..1500).prop_map(Step::Wait),
        6 => prop_oneof![3 => Just(0usize), 1 => 0usize..20].prop_map(|spared| Step::Upkeep { spared }),
        2 => Just(Step::BeginRestores),
        1 => Just(Step::Restart),
    ]
}

fn any_file() -> impl Strategy<Value = FileInfo> {
    (0u8..=9, 1u64..14, 0u64..6, 0i64..4000).prop_map(|(level, min, more, at)| {
        let min = if level == 9 && min < 12 { 1 } else { min };
        let more = if level == 0 { 0 } else { more };
        file(level, min, min + more, at * 1000)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_promised_can_be_restored_at_every_moment(
        first in prop::sample::select(vec![0u8, 9]),
        steps in prop::collection::vec(any_step(), 1..150),
    ) {
        let mut replica = Replica::new(first);
        for step in steps {
            match step {
                Step::Commit => replica.commit(),
                Step::Wait(seconds) => replica.elapsed += Duration::from_secs(seconds),
                Step::Upkeep { spared } => replica.upkeep(spared),
                Step::BeginRestores => replica.begin_restores(),
                Step::Restart => {
                    let seen = replica.moment().at;
                    replica.catalogue = known(replica.catalogue.files(), seen);
                }
            }
            replica.check();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Files as nobody should write them: with gaps, twice, one within the other, of any age.
    #[test]
    fn of_any_files_nothing_goes_that_a_state_needs(
        files in prop::collection::vec(any_file(), 0..24),
        spared in prop::collection::vec(any::<bool>(), 24),
    ) {
        let begun = Instant::now();
        // All have been known for longer than the grace is, and not for so long that each is old.
        let now = Moment { time: Timestamp::from_millis(5_000_000), at: begun + 400 * SECOND };
        let mut catalogue = known(files, begun);
        let before = catalogue.files();
        let retention = Retention { raw: 500 * SECOND, states: 2500 * SECOND, grace: 100 * SECOND };
        let latest = RestorePlan::new(Target::Latest, &before);

        let due = superfluous(&catalogue, &retention, now);

        let go = match due {
            Ok(Due::Now(go)) => go,
            Ok(Due::After(_) | Due::Never) => Vec::new(),
            Err(error) => {
                prop_assert_eq!(latest.err(), Some(error));
                return Ok(());
            }
        };
        for (file, spared) in go.iter().zip(&spared) {
            if !spared {
                catalogue.remove(file.id);
            }
        }
        let after = catalogue.files();
        if let Ok(latest) = latest {
            prop_assert_eq!(plan(Target::Latest, &after).txid(), latest.txid());
        }
        let points = restore_points(&after);
        for txid in restore_points(&before).into_keys() {
            let age = |raw: bool| {
                let made = before.iter()
                    .filter(|file| file.id.txids.max() == txid)
                    .filter(|file| (file.id.level == Level::RAW) == raw)
                    .map(|file| 5_000_000 - file.created_at.as_millis());
                made.min()
            };
            let promised = age(true).is_some_and(|age| age <= 500_000)
                || age(false).is_some_and(|age| age <= 2_500_000);
            prop_assert!(!promised || points.contains_key(&txid), "{} of {:?} without {:?}", txid, before, go);
        }
    }

    #[test]
    fn of_any_files_only_those_are_put_together_that_follow_one_another(
        files in prop::collection::vec(any_file(), 0..24),
    ) {
        let begun = Instant::now();
        let now = Moment { time: Timestamp::from_millis(5_000_000), at: begun };
        let mut catalogue = known(files, begun);
        let points: Vec<Txid> = restore_points(&catalogue.files()).into_keys().collect();
        let levels = Levels::new(vec![SECOND; 8]).expect("eight levels");
        let mut merged = 0;

        loop {
            let mut due = levels.iter().map(|(level, interval)| compaction(&catalogue, level, interval, now))
                .chain([snapshot(&catalogue, SECOND, false, now)]);
            let Some(merging) = due.find_map(|due| match due {
                Ok(Due::Now(merging)) => Some(merging),
                _ => None,
            }) else {
                break;
            };
            drop(due);
            assert_merges(&merging);
            let last = merging.inputs.last().expect("something is put together");
            catalogue.add(FileInfo { id: merging.output, ..*last }, begun);
            merged += 1;
            prop_assert!(merged < 200, "it never ends: {:?}", merging);
        }

        let after: Vec<Txid> = restore_points(&catalogue.files()).into_keys().collect();
        prop_assert_eq!(after, points);
    }
}

fn catalogue(files: &[FileInfo]) -> (Catalogue, Moment) {
    let begun = Instant::now();
    let now = Moment {
        time: Timestamp::from_millis(1_000_000),
        at: begun,
    };
    (known(files.iter().copied(), begun), now)
}

fn level(number: u8) -> Level {
    Level::new(number).expect("a level")
}

fn put_together(files: &[FileInfo], number: u8, interval: u64) -> Result<Due<Merging>, PlanError> {
    let (catalogue, now) = catalogue(files);
    compaction(
        &catalogue,
        level(number),
        Duration::from_secs(interval),
        now,
    )
}

#[test]
fn files_are_put_together_once_the_first_of_them_is_old_enough() {
    let files = [
        file(9, 1, 1, 900_000),
        file(0, 2, 2, 970_000),
        file(0, 3, 3, 999_000),
    ];

    let due = put_together(&files, 1, 30).expect("it is whole");

    let output = file(1, 2, 3, 0).id;
    let inputs = files[1..].to_vec();
    assert_eq!(due, Due::Now(Merging { output, inputs }));
    let later = put_together(&files, 1, 31).expect("it is whole");
    assert_eq!(later, Due::After(SECOND));
    assert_eq!(put_together(&files, 2, 30), Ok(Due::Never));
}

#[test]
fn a_whole_database_is_not_stored_at_each_level_where_a_snapshot_has_it() {
    let files = [file(0, 1, 1, 0), file(0, 2, 2, 0)];
    let snapshot = file(9, 1, 1, 0);

    let without = put_together(&files, 1, 30).expect("it is whole");
    let with = put_together(&[&files[..], &[snapshot]].concat(), 1, 30).expect("it is whole");

    let output = |due| match due {
        Due::Now(Merging { output, .. }) => output,
        due => panic!("{due:?}"),
    };
    assert_eq!(output(without), file(1, 1, 2, 0).id);
    assert_eq!(output(with), file(1, 2, 2, 0).id);
}

#[test]
fn what_is_behind_missing_transactions_is_left_alone() {
    let files = [
        file(9, 1, 1, 0),
        file(1, 2, 4, 0),
        file(0, 4, 4, 0),
        file(0, 6, 6, 0),
        file(0, 7, 7, 0),
    ];

    let error = put_together(&files, 1, 30).expect_err("transaction 5 is missing");

    assert!(matches!(error, PlanError::Gap { .. }), "{error}");
    let healed = put_together(&[&files[..], &[file(9, 1, 5, 0)]].concat(), 1, 30);
    let output = file(1, 6, 7, 0).id;
    assert!(matches!(healed, Ok(Due::Now(merging)) if merging.output == output));
}

#[test]
fn many_files_are_put_together_in_several_steps() {
    let mut files = vec![file(9, 1, 1, 0)];
    files.extend((2..=301).map(|number| file(0, number, number, 0)));

    let due = put_together(&files, 1, 30).expect("it is whole");

    let Due::Now(merging) = due else {
        panic!("{due:?}");
    };
    assert_eq!(merging.output, file(1, 2, 257, 0).id);
}

#[test]
fn a_clock_that_was_set_back_delays_no_compaction() {
    let (catalogue, now) = catalogue(&[file(9, 1, 1, 0), file(0, 2, 2, 9_000_000)]);
    let due = |after| {
        let now = Moment {
            at: now.at + after,
            ..now
        };
        compaction(&catalogue, level(1), 30 * SECOND, now).expect("it is whole")
    };

    assert_eq!(due(Duration::ZERO), Due::After(30 * SECOND));
    assert!(matches!(due(30 * SECOND), Due::Now(_)));
}

#[test]
fn a_snapshot_is_made_when_there_is_none_and_when_the_last_one_is_old() {
    let due = |files: &[FileInfo]| {
        let (catalogue, now) = catalogue(files);
        snapshot(&catalogue, 500 * SECOND, false, now).expect("it is whole")
    };
    let compacted = file(1, 2, 5, 600_000);
    let raw = file(0, 6, 6, 700_000);
    let output = |due| match due {
        Due::Now(Merging { output, inputs }) => (output, inputs.len()),
        due => panic!("{due:?}"),
    };

    assert_eq!(due(&[file(9, 1, 1, 0), raw]), Due::Never);
    assert_eq!(due(&[file(9, 1, 5, 0), compacted]), Due::Never);
    let young = due(&[file(9, 1, 1, 600_000), compacted]);
    assert_eq!(young, Due::After(100 * SECOND));
    let old = due(&[file(9, 1, 1, 500_000), compacted, raw]);
    assert_eq!(output(old), (file(9, 1, 5, 0).id, 2));
    let none = due(&[file(1, 1, 1, 999_000), compacted]);
    assert_eq!(output(none), (file(9, 1, 5, 0).id, 2));
}

/// What goes, by the files' ages, where all have been known for longer than the grace is.
fn gone(files: &[FileInfo]) -> Vec<FileId> {
    let (catalogue, now) = catalogue(files);
    let retention = Retention {
        raw: 50 * SECOND,
        states: 500 * SECOND,
        grace: 50 * SECOND,
    };
    let now = Moment {
        at: now.at + 60 * SECOND,
        ..now
    };
    match superfluous(&catalogue, &retention, now).expect("it is whole") {
        Due::Now(files) => files.into_iter().map(|file| file.id).collect(),
        Due::After(_) | Due::Never => Vec::new(),
    }
}

#[test]
fn files_of_level_0_go_together_once_the_last_of_them_is_old() {
    let files = |last: i64| {
        [
            file(9, 1, 1, 900_000),
            file(0, 2, 2, 800_000),
            file(0, 3, 3, last),
            file(0, 4, 4, 990_000),
            file(1, 2, 3, last),
        ]
    };

    assert_eq!(gone(&files(900_001)), []);
    let both = [file(0, 3, 3, 0).id, file(0, 2, 2, 0).id];
    assert_eq!(gone(&files(900_000)), both);
}

#[test]
fn the_last_snapshot_that_is_old_enough_stays_with_all_after_it() {
    let files = |second: i64| {
        [
            file(9, 1, 1, 100_000),
            file(1, 2, 4, 200_000),
            file(2, 2, 4, 200_000),
            file(9, 1, 4, second),
            file(1, 5, 6, 460_000),
            file(2, 5, 6, 460_000),
            file(9, 1, 6, 460_000),
            file(1, 7, 7, 999_000),
        ]
    };

    // The second one is not yet old enough.
    assert_eq!(gone(&files(450_001)), []);
    let old = [
        file(1, 2, 4, 0).id,
        file(2, 2, 4, 0).id,
        file(9, 1, 1, 0).id,
    ];
    assert_eq!(gone(&files(450_000)), old);
}

#[test]
fn the_last_file_of_each_level_stays() {
    let files = [
        file(0, 7, 7, 0),
        file(1, 2, 7, 0),
        file(2, 2, 7, 0),
        file(9, 1, 7, 0),
    ];

    assert_eq!(gone(&files), []);
}

#[test]
fn nothing_goes_where_the_latest_state_can_not_be_restored() {
    let (catalogue, now) = catalogue(&[
        file(9, 1, 1, 0),
        file(0, 2, 2, 0),
        file(0, 3, 3, 0),
        file(1, 2, 3, 0),
        file(0, 5, 5, 0),
    ]);
    let now = Moment {
        at: now.at + 9_000_000 * SECOND,
        ..now
    };

    let error = superfluous(&catalogue, &Retention::default(), now).expect_err("4 is missing");

    assert!(matches!(error, PlanError::Gap { .. }), "{error}");
}

#[test]
fn nothing_goes_for_a_file_that_has_only_just_come() {
    let begun = Instant::now();
    let files = [file(9, 1, 1, 0), file(0, 2, 2, 0), file(0, 3, 3, 0)];
    let mut catalogue = known(files, begun);
    let retention = Retention::default();
    let due = |catalogue: &Catalogue, after: u64| {
        let (time, at) = (
            Timestamp::from_millis(9_000_000),
            begun + SECOND * after as u32,
        );
        superfluous(catalogue, &retention, Moment { time, at }).expect("it is whole")
    };
    assert_eq!(due(&catalogue, 1000), Due::Never);

    catalogue.add(file(1, 2, 3, 0), begun + 1000 * SECOND);

    assert_eq!(due(&catalogue, 1000), Due::After(300 * SECOND));
    assert!(matches!(due(&catalogue, 1300), Due::Now(_)));
}

#[test]
fn a_listing_is_added_to_what_was_stored_meanwhile() {
    let begun = Instant::now();
    let [old, gone, kept, new] = [1, 2, 3, 4].map(|number| file(0, number, number, 0));
    let mut catalogue = known([old, gone], begun);
    catalogue.add(kept, begun + 2 * SECOND);

    let listed = known([old, new], begun + SECOND);
    catalogue.replace(listed, begun + SECOND);

    assert_eq!(catalogue.files(), [old, kept, new]);
    let seen: Vec<u64> = catalogue
        .entries()
        .map(|entry| (entry.seen - begun).as_secs())
        .collect();
    assert_eq!(seen, [0, 2, 1]);
}
