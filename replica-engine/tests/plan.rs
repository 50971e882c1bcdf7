//! The plan is Litestream's.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use replica_core::{FileId, FileInfo, Level, Timestamp, Txid, TxidRange};
use replica_engine::{PlanError, RestorePlan, Target};
use serde_json::Value;

fn txid(number: u64) -> Txid {
    Txid::new(number).expect("transactions count from 1")
}

fn file(level: u8, min: u64, max: u64, created_at: i64) -> FileInfo {
    FileInfo {
        id: FileId {
            level: Level::new(level).unwrap(),
            txids: TxidRange::new(txid(min), txid(max)).unwrap(),
        },
        size: 1,
        created_at: Timestamp::from_millis(created_at),
    }
}

fn names(plan: &RestorePlan) -> Vec<String> {
    plan.files()
        .iter()
        .map(|file| file.id.to_string())
        .collect()
}

/// `plans.json` holds what the real Litestream answered; `.ci/interop-plan.py --record` asks it.
#[test]
fn every_plan_is_the_one_that_litestream_chooses() {
    let recorded: Value = serde_json::from_str(include_str!("plans.json")).unwrap();
    let mut with_a_plan = 0;
    for tree in recorded["trees"].as_array().unwrap() {
        let numbers = |file: &Value| -> Vec<i64> {
            file.as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_i64().unwrap())
                .collect()
        };
        let listed: Vec<FileInfo> = (tree["files"].as_array().unwrap().iter().map(numbers))
            .map(|n| file(n[0] as u8, n[1] as u64, n[2] as u64, n[3]))
            .collect();
        for asked in tree["plans"].as_array().unwrap() {
            let asked = asked.as_array().unwrap();
            let (theirs, question) = asked.split_last().unwrap();
            let question: Vec<&str> = question.iter().map(|word| word.as_str().unwrap()).collect();
            let target = match question[..] {
                [] => Target::Latest,
                ["-txid", txid] => Target::Txid(txid.parse().unwrap()),
                ["-timestamp", time] => Target::Time(time.parse().unwrap()),
                _ => panic!("what is {question:?}?"),
            };
            let theirs: Option<Vec<String>> = serde_json::from_value(theirs.clone()).unwrap();

            let ours = RestorePlan::new(target, &listed);

            with_a_plan += usize::from(ours.is_ok());
            if matches!(
                (target, &ours),
                (Target::Time(_), Err(PlanError::Gap { .. }))
            ) {
                // Litestream restores what lies before the gap, and doesn't say so.
                continue;
            }
            assert_eq!(
                ours.as_ref().ok().map(names),
                theirs,
                "{target:?} of {listed:?}: {ours:?}"
            );
        }
    }
    assert!(
        with_a_plan > 300,
        "only {with_a_plan} of the recorded questions have a plan"
    );
}

/// Which states can be restored at all, by trying every chain.
fn reachable(files: &[FileInfo]) -> BTreeSet<u64> {
    let mut reached = BTreeSet::new();
    loop {
        let before = reached.len();
        for file in files {
            let (min, max) = (file.id.txids.min().get(), file.id.txids.max().get());
            if min == 1 || reached.iter().any(|at| (min - 1..max).contains(at)) {
                reached.insert(max);
            }
        }
        if reached.len() == before {
            return reached;
        }
    }
}

/// What the rules say of the next file, literally.
fn best_next(files: &[FileInfo], reached: u64) -> Option<FileInfo> {
    (files.iter().copied())
        .filter(|file| file.id.level != Level::SNAPSHOT)
        .filter(|file| file.id.txids.min().get() <= reached + 1)
        .filter(|file| file.id.txids.max().get() > reached)
        .min_by_key(|file| {
            let txids = file.id.txids;
            (
                u64::MAX - txids.max().get(),
                txids.min(),
                9 - file.id.level.get(),
                file.created_at,
            )
        })
}

fn any_file() -> impl Strategy<Value = FileInfo> {
    (0u8..=9, 1u64..12, 0u64..5, 0i64..12).prop_map(|(level, min, more, at)| {
        let min = if level == 9 && min < 10 { 1 } else { min };
        file(level, min, min + more, at)
    })
}

fn any_target() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just(Target::Latest),
        (1u64..18).prop_map(|number| Target::Txid(txid(number))),
        (-1i64..14).prop_map(|at| Target::Time(Timestamp::from_millis(at))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_plan_is_a_chain_of_best_files_and_exists_where_any_chain_does(
        files in prop::collection::btree_map(any_file().prop_map(|file| file.id), 0i64..12, 0..14),
        target in any_target(),
    ) {
        let files: Vec<FileInfo> = (files.into_iter())
            .map(|(id, at)| FileInfo { id, size: 1, created_at: Timestamp::from_millis(at) })
            .collect();
        let within: Vec<FileInfo> = (files.iter().copied())
            .filter(|file| match target {
                Target::Latest => true,
                Target::Txid(txid) => file.id.txids.max() <= txid,
                Target::Time(time) => file.created_at < time,
            })
            .collect();
        let last_listed = within.iter().map(|file| file.id.txids.max().get()).max();
        let can_apply = |file: &FileInfo| {
            file.id.level != Level::SNAPSHOT || file.id.txids.min() == Txid::FIRST
        };
        let within: Vec<FileInfo> = within.into_iter().filter(can_apply).collect();
        let last_reachable = reachable(&within).last().copied();
        let wanted = match target {
            Target::Txid(txid) => Some(txid.get()),
            Target::Time(time) if files.iter().all(|file| file.created_at < time) => None,
            Target::Time(_) => last_reachable
                .filter(|last| last_listed == Some(*last) || files.iter().any(|file| file.id.level != Level::SNAPSHOT && {
                    let txids = file.id.txids;
                    // Times that contradict each other are no compaction's.
                    (txids.min().get()..=txids.max().get()).contains(&(last + 1))
                        && last_listed <= Some(txids.max().get())
                })),
            Target::Latest => last_listed,
        };
        let exists = wanted.is_some_and(|wanted| reachable(&within).contains(&wanted));

        let plan = RestorePlan::new(target, &files);

        prop_assert_eq!(plan.is_ok(), exists, "{:?}", plan);
        let Ok(plan) = plan else { return Ok(()) };
        prop_assert_eq!(Some(plan.txid().get()), wanted);
        let (mut reached, mut rest) = (0, plan.files());
        let snapshot = (within.iter())
            .filter(|file| file.id.level == Level::SNAPSHOT)
            .max_by_key(|file| file.id.txids.max());
        if let Some(snapshot) = snapshot {
            prop_assert_eq!(plan.files()[0], *snapshot);
            (reached, rest) = (snapshot.id.txids.max().get(), &plan.files()[1..]);
        }
        for file in rest {
            prop_assert_eq!(Some(*file), best_next(&within, reached));
            reached = file.id.txids.max().get();
        }
        let needed = plan.needed();
        prop_assert_eq!(needed[0].id.txids.min(), Txid::FIRST);
        prop_assert!(plan.files().ends_with(needed));
        prop_assert!(needed[1..].iter().all(|file| file.id.txids.min() > Txid::FIRST));
    }
}

/// Litestream keeps files of level 0 for minutes after it has compacted them, so for a time before
/// the compaction's the newest of them lie behind transactions that only the compaction holds.
/// That was taken for a gap, and a healthy replica refused.
#[test]
fn a_time_before_a_compaction_is_no_gap_while_some_of_its_inputs_are_kept() {
    let mut files = vec![
        file(9, 1, 1, 1_000),
        file(1, 2, 10, 10_000),
        file(1, 11, 20, 20_000),
    ];
    files.extend((13..=20).map(|number| file(0, number, number, 1_000 * number as i64)));

    let plan = RestorePlan::new(Target::Time(Timestamp::from_millis(15_500)), &files).unwrap();

    assert_eq!(plan.txid(), txid(10));
}

/// The clock was far ahead when the second file was made. A restore to a time after it was right again
/// gave the first file's state, though a later one had been made: a file that is too new for the time
/// passed for one that holds what follows, whatever it holds.
#[test]
fn a_time_that_others_contradict_closes_no_gap() {
    let files = [
        file(0, 1, 1, 1_000),
        file(0, 2, 2, 9_000),
        file(0, 3, 3, 3_000),
    ];

    let plan = RestorePlan::new(Target::Time(Timestamp::from_millis(4_000)), &files);

    let (after, next) = (txid(1), files[2].id);
    assert_eq!(plan.unwrap_err(), PlanError::Gap { after, next });
}

/// A snapshot was taken for such a compaction. It takes nothing's place, so what only it has is
/// missing: the state before the gap passed for the last one, though a later one had been made.
#[test]
fn a_snapshot_closes_no_gap_before_its_time() {
    let files = [
        file(0, 1, 1, 1_000),
        file(0, 3, 3, 3_000),
        file(9, 1, 3, 3_500),
    ];

    let plan = RestorePlan::new(Target::Time(Timestamp::from_millis(3_200)), &files);

    let (after, next) = (txid(1), files[1].id);
    assert_eq!(plan.unwrap_err(), PlanError::Gap { after, next });
}

/// A file of the snapshots' level that starts in the middle can't be applied, and was left out as if
/// it were not there: its transactions were lost, and nobody was told.
#[test]
fn a_snapshot_that_is_none_is_not_passed_over() {
    let files = [file(0, 1, 1, 1_000), file(9, 2, 5, 5_000)];
    let gap = PlanError::Gap {
        after: txid(1),
        next: files[1].id,
    };

    for target in [Target::Latest, Target::Txid(txid(5))] {
        let plan = RestorePlan::new(target, &files);

        assert_eq!(plan.unwrap_err(), gap, "{target:?}");
    }
}

fn check_error(target: Target, files: &[FileInfo], says: &str) {
    let error = RestorePlan::new(target, files).expect_err("there should be no plan");

    assert_eq!(error.to_string(), says);
}

#[test]
fn an_error_says_what_there_is_instead() {
    let time = |millis| Target::Time(Timestamp::from_millis(millis));
    let whole = [
        file(9, 1, 4, 4_000),
        file(1, 5, 8, 8_000),
        file(0, 9, 9, 9_000),
    ];
    let torn = [
        file(9, 1, 4, 4_000),
        file(0, 5, 5, 5_000),
        file(0, 7, 7, 7_000),
    ];

    check_error(
        Target::Latest,
        &[],
        "the replica has no files: check that this is where the database was replicated to",
    );
    check_error(
        Target::Latest,
        &[file(0, 3, 3, 0)],
        "the replica has no snapshot and no other file that starts at transaction 1: its oldest \
         file is 0/0000000000000003-0000000000000003.ltx",
    );
    for target in [Target::Latest, Target::Txid(txid(7))] {
        check_error(
            target,
            &torn,
            "transactions are missing: nothing follows 0000000000000005, and the next file is \
             0/0000000000000007-0000000000000007.ltx; restore transaction 0000000000000005, the \
             last one before the gap, or bring the missing files back",
        );
    }
    check_error(
        Target::Txid(txid(10)),
        &whole,
        "transaction 000000000000000a is beyond the end of the replica: its last one is \
         0000000000000009",
    );
    check_error(
        Target::Txid(txid(6)),
        &whole,
        "transaction 0000000000000006 can't be restored by itself: the nearest that can are \
         0000000000000004 and 0000000000000008",
    );
    check_error(
        Target::Txid(txid(2)),
        &whole,
        "transaction 0000000000000002 can't be restored by itself: the first that can is \
         0000000000000004",
    );
    check_error(
        time(4_000),
        &whole,
        "the replica has nothing from before 1970-01-01T00:00:04Z: the oldest state that can be \
         restored is from 1970-01-01T00:00:04Z, so ask for a time after that",
    );
    check_error(
        time(9_001),
        &whole,
        "the replica ends at 1970-01-01T00:00:09Z, so nothing says what the database was at \
         1970-01-01T00:00:09.001Z: ask for an earlier time, or for the latest state",
    );
    check_error(
        time(7_000),
        &[&torn[..], &[file(0, 8, 8, 6_000)]].concat(),
        "transactions are missing: nothing follows 0000000000000005, and the next file is \
         0/0000000000000008-0000000000000008.ltx; restore transaction 0000000000000005, the last \
         one before the gap, or bring the missing files back",
    );
}
