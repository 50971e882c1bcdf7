//! What may happen, in any order.

use std::time::Duration;

use proptest::prelude::*;
use replica_core::Capabilities;
use replica_engine::Checkpoint;

use crate::application::{Change, any_change};
use crate::line::{Doom, Fault, any_damage, any_doom, any_fault};

/// The world in which it happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) page_size: u32,
    /// After how many pages the application checkpoints.
    pub(crate) autocheckpoint: u32,
    pub(crate) store: Capabilities,
    /// How many replicas the database has.
    pub(crate) replicas: usize,
}

pub(crate) fn any_setting() -> impl Strategy<Value = Setting> {
    let second = Some(Duration::from_secs(1));
    let store = prop_oneof![
        4 => Just(Capabilities::FULL),
        1 => Just(Capabilities::FULL.with_timestamp_resolution(second)),
        1 => Just(Capabilities::FULL.with_timestamp_resolution(None).with_atomic_replace(false)),
        1 => Just(Capabilities::FULL.with_list_lag(Duration::from_secs(5))),
    ];
    let page_size = prop::sample::select(vec![512u32, 1024, 4096]);
    let autocheckpoint = prop::sample::select(vec![0u32, 3, 12, 1000]);
    let replicas = prop::sample::select(vec![1usize, 1, 2, 2, 3]);
    (page_size, autocheckpoint, store, replicas).prop_map(
        |(page_size, autocheckpoint, store, replicas)| Setting {
            page_size,
            autocheckpoint,
            store,
            replicas,
        },
    )
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The application's.
    Change(Change),
    /// The application's, when the store is called so many times from now.
    Meanwhile(u64, Change),
    Read,
    /// What comes next is about this one of the replicas, as far as it is about one.
    Turn(usize),
    StopReading,
    RestartApplication {
        is_orderly: bool,
    },
    /// A process begins to replicate, where none does.
    Start {
        /// Whether it does by itself, and looks after the replica.
        runs: bool,
    },
    /// Everything is stored, and the process ends.
    End,
    /// The process dies at once.
    Kill,
    Doom(Doom),
    Sync,
    /// A checkpoint of ours, whether there is something to checkpoint or not.
    Checkpoint(Checkpoint),
    /// One if it is time to.
    CheckpointDue {
        quiet: bool,
    },
    Compact,
    Snapshot,
    /// So many seconds pass.
    Wait(u64),
    /// The clock is set by so many seconds.
    SetClock(i64),
    Fault(Fault),
    /// The store is away for so many seconds.
    Outage(u64),
    /// The machine loses its power: so many hundredths of what was not synced of the log.
    CutPower(usize),
    /// Somebody keeps a copy of the database.
    Keep,
    /// And puts it back, while nobody else has the database open.
    PutBack,
    /// A restore is planned of a state that is so many transactions old.
    PlanRestore(u64),
    /// And one is carried out of such a state, by its number or its time.
    Restore {
        age: u64,
        by_time: bool,
        fault: Option<Fault>,
    },
}

pub(crate) fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let single = any_step().prop_map(|step| vec![step]);
    let some = prop_oneof![40 => single, 3 => any_turn()];
    prop::collection::vec(some, 4..36).prop_map(|some| some.concat())
}

/// Steps that lead together to what single ones seldom do.
fn any_turn() -> impl Strategy<Value = Vec<Step>> {
    let begin = |runs| Step::Start { runs };
    let changes = || prop::collection::vec(any_change().prop_map(Step::Change), 1..4);
    let back = prop_oneof![(0usize..=100).prop_map(Step::CutPower), Just(Step::PutBack)];
    let another_history = (back, changes(), any::<bool>())
        .prop_map(move |(back, changes, runs)| [vec![back], changes, vec![begin(runs)]].concat());
    let behind_our_back = (changes(), changes()).prop_map(move |(before, after)| {
        let all = Step::Change(Change::Checkpoint("PASSIVE"));
        let begin = begin(false);
        [vec![Step::Kill], before, vec![all, begin], after].concat()
    });
    let damaged =
        (any_damage(), changes(), any::<bool>()).prop_map(move |(damage, changes, runs)| {
            let begin = vec![Step::Kill, Step::Fault(damage), begin(runs)];
            [begin, changes].concat()
        });
    let merged = any_damage().prop_map(|damage| {
        vec![
            Step::Kill,
            Step::Wait(31),
            Step::Fault(damage),
            Step::Compact,
        ]
    });
    let turn = prop_oneof![another_history, behind_our_back, damaged, merged];
    turn.prop_map(|steps| [vec![Step::Sync], steps, vec![Step::Sync]].concat())
}

fn any_step() -> impl Strategy<Value = Step> {
    let ours = prop::sample::select(vec![Checkpoint::Gentle, Checkpoint::Firm]);
    let restores = prop_oneof![
        (0u64..12).prop_map(Step::PlanRestore),
        (0u64..12, any::<bool>(), prop::option::of(any_fault())).prop_map(
            |(age, by_time, fault)| Step::Restore {
                age,
                by_time,
                fault,
            }
        ),
    ];
    let of_application = prop_oneof![
        26 => any_change().prop_map(Step::Change),
        4 => (0u64..6, any_change()).prop_map(|(calls, change)| Step::Meanwhile(calls, change)),
        1 => Just(Step::Read),
        1 => Just(Step::StopReading),
        2 => any::<bool>().prop_map(|is_orderly| Step::RestartApplication { is_orderly }),
    ];
    let of_process = prop_oneof![
        14 => (0usize..3).prop_map(Step::Turn),
        12 => any::<bool>().prop_map(|runs| Step::Start { runs }),
        2 => Just(Step::End),
        2 => Just(Step::Kill),
        4 => any_doom().prop_map(Step::Doom),
        20 => Just(Step::Sync),
        6 => ours.prop_map(Step::Checkpoint),
        4 => any::<bool>().prop_map(|quiet| Step::CheckpointDue { quiet }),
        2 => Just(Step::Compact),
        1 => Just(Step::Snapshot),
    ];
    let seconds = prop_oneof![5 => 1u64..40, 3 => 40u64..400, 1 => 400u64..3000];
    let jump = prop_oneof![3 => -200i64..200, 1 => -100_000i64..100_000];
    let of_world = prop_oneof![
        8 => seconds.prop_map(Step::Wait),
        1 => jump.prop_map(Step::SetClock),
        6 => any_fault().prop_map(Step::Fault),
        2 => (1u64..400).prop_map(Step::Outage),
        2 => (0usize..=100).prop_map(Step::CutPower),
        1 => Just(Step::Keep),
        1 => Just(Step::PutBack),
    ];
    prop_oneof![7 => of_application, 9 => of_process, 4 => of_world, 2 => restores]
}
