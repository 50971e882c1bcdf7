//! Any history of a database, compacted, thinned out and damaged in any way, gives the state that
//! was asked for, or an error.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use replica_core::{FileId, Level, ReplicaClientExt, Timestamps, Txid};
use replica_engine::{RestoreError, RestorePlan, Target};
use replica_mock::{MockClient, file};

use crate::support::{Made, database, restored, txid};

/// One transaction: how many pages there are after it, and which of them it writes beside those
/// that are new.
#[derive(Clone, Debug)]
struct Change {
    commit: u32,
    writes: BTreeSet<u32>,
}

/// What becomes of the files.
#[derive(Clone, Debug)]
struct Fate {
    compactions: Vec<(u8, u64, u64)>,
    snapshots: Vec<u64>,
    removed: Vec<prop::sample::Index>,
    damaged: Vec<(prop::sample::Index, prop::sample::Index)>,
}

fn any_history() -> impl Strategy<Value = Vec<Change>> {
    let change = (1u32..9, prop::collection::btree_set(1u32..9, 0..4))
        .prop_map(|(commit, writes)| Change { commit, writes });
    prop::collection::vec(change, 1..10)
}

fn any_fate() -> impl Strategy<Value = Fate> {
    (
        prop::collection::vec((1u8..=8, 1u64..10, 0u64..6), 0..8),
        prop::collection::vec(1u64..10, 0..3),
        prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..4),
    )
        .prop_map(|(compactions, snapshots, removed, damaged)| Fate {
            compactions,
            snapshots,
            removed,
            damaged,
        })
}

/// The pages that each transaction writes, and the states after them.
fn play(history: &[Change]) -> (Vec<BTreeMap<u32, u8>>, Vec<Vec<u8>>) {
    let (mut state, mut written, mut states) = (Vec::<u8>::new(), Vec::new(), Vec::new());
    for (change, fill) in history.iter().zip(1u8..) {
        let before = state.len() as u32;
        state.resize(change.commit as usize, fill);
        let mut pages = BTreeMap::new();
        for pgno in 1..=change.commit {
            if pgno > before || change.writes.contains(&pgno) {
                state[pgno as usize - 1] = fill;
                pages.insert(pgno, fill);
            }
        }
        written.push(pages);
        states.push(state.clone());
    }
    (written, states)
}

fn replica(history: &[Change], fate: &Fate) -> (MockClient, Vec<Vec<u8>>, BTreeSet<FileId>) {
    let (written, states) = play(history);
    let replica = MockClient::new();
    let put = |id: FileId| {
        let (min, max) = (id.txids.min().get() as usize, id.txids.max().get() as usize);
        let commit = history[max - 1].commit;
        let mut pages = BTreeMap::new();
        for (number, transaction) in (min..=max).zip(&written[min - 1..max]) {
            pages.retain(|pgno, _| *pgno <= history[number - 1].commit);
            pages.extend(transaction);
        }
        let pages: Vec<(u32, u8)> = pages.into_iter().collect();
        Made::new(id, commit, &pages).put(&replica);
    };
    let last = history.len() as u64;
    for number in 1..=last {
        put(file(0, number..=number));
    }
    for &(level, min, more) in &fate.compactions {
        let min = min.min(last);
        put(file(level, min..=(min + more).min(last)));
    }
    for &max in &fate.snapshots {
        put(file(9, 1..=max.min(last)));
    }
    for index in &fate.removed {
        let files = replica.files();
        if files.len() > 1 {
            replica.remove(*index.get(&files));
        }
    }
    let mut damaged = BTreeSet::new();
    for (index, offset) in &fate.damaged {
        let id = *index.get(&replica.files());
        if damaged.insert(id) {
            replica.corrupt(id, offset.index(replica.content(id).unwrap().len()));
        }
    }
    (replica, states, damaged)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_restore_gives_exactly_the_state_that_was_asked_for_or_an_error(
        history in any_history(),
        fate in any_fate(),
        wanted in prop::option::of(1u64..11),
    ) {
        let (replica, states, damaged) = replica(&history, &fate);
        let target = wanted.map_or(Target::Latest, |number| Target::Txid(txid(number)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let listed = runtime.block_on(async {
            let mut listed = Vec::new();
            for level in Level::ALL {
                let files = replica.list_all(level, Txid::FIRST, Timestamps::Fast).await;
                listed.extend(files.unwrap());
            }
            listed
        });
        let planned = RestorePlan::new(target, &listed);

        let result = runtime.block_on(restored(&replica, target));

        match result {
            Ok((restored, content)) => {
                let number = restored.txid.get();
                prop_assert!(content == database(&states[number as usize - 1]));
                prop_assert_eq!(planned.map(|plan| plan.txid()), Ok(restored.txid));
                for damage in restored.damaged {
                    prop_assert!(damaged.contains(&damage.file), "{} is not damaged", damage);
                }
            }
            Err(RestoreError::Plan(error)) => prop_assert_eq!(planned, Err(error)),
            Err(RestoreError::Damaged { damaged: told, .. }) => {
                for damage in &told {
                    prop_assert!(damaged.contains(&damage.file), "{} is not damaged", damage);
                }
                // What is left, without the files that were told, has no way to the same state.
                let left: Vec<_> = listed
                    .into_iter()
                    .filter(|file| told.iter().all(|damage| damage.file != file.id))
                    .collect();
                let same = Target::Txid(planned.unwrap().txid());
                prop_assert!(RestorePlan::new(same, &left).is_err());
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
