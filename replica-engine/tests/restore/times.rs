//! A time restores right even where the store has lost the times of the files.

use std::time::Duration;

use replica_core::{Capabilities, Op, Timestamp};
use replica_engine::{PlanError, RestoreError, Target};
use replica_mock::{MockClient, MockStore, file};

use crate::support::{Golden, at, database, restored, sha256, small, txid};

async fn check_both_times(golden: &Golden) {
    for (time, wanted) in golden.manifest["restore_timestamp"].as_object().unwrap() {
        let (_, content) = restored(&golden.replica, Target::Time(time.parse().unwrap()))
            .await
            .unwrap_or_else(|error| panic!("{time}: {error}"));

        assert_eq!(sha256(&content), wanted["sha256"], "{time}");
    }
}

#[tokio::test]
async fn times_of_a_copy_are_not_believed() {
    let copied_at: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
    for set in Golden::SETS {
        check_both_times(&Golden::load_with_times(set, |_, _| copied_at)).await;
    }
}

#[tokio::test]
async fn times_from_before_everything_are_not_believed() {
    for set in Golden::SETS {
        check_both_times(&Golden::load_with_times(set, |_, _| Timestamp::EPOCH)).await;
    }
}

#[tokio::test]
async fn times_of_an_old_copy_that_litestream_has_continued_are_not_believed() {
    let copied_at: Timestamp = "2026-11-21T07:44:00Z".parse().unwrap();
    for set in Golden::SETS {
        let half = |id: replica_core::FileId, written| {
            if id.txids.max().get() < 5 {
                copied_at
            } else {
                written
            }
        };
        check_both_times(&Golden::load_with_times(set, half)).await;
    }
}

#[tokio::test]
async fn times_out_of_order_are_not_believed() {
    for set in Golden::SETS {
        let shuffled = |id: replica_core::FileId, written: Timestamp| {
            at(written.as_millis() + 7919 * id.txids.max().get() as i64 % 5000)
        };
        check_both_times(&Golden::load_with_times(set, shuffled)).await;
    }
}

#[tokio::test]
async fn a_store_without_times_has_its_headers_read() {
    let golden = Golden::load("ps4096");
    let store = MockStore::with_capabilities(Capabilities::FULL.with_timestamp_resolution(None));
    let replica = store.client("");
    replica.restore(&golden.replica.snapshot());

    check_both_times(&Golden { replica, ..golden }).await;
}

#[tokio::test]
async fn within_the_resolution_of_a_store_the_header_decides() {
    let coarse = Capabilities::FULL.with_timestamp_resolution(Some(Duration::from_secs(10)));
    let replica = MockClient::with_capabilities(coarse);
    let (exact, states) = small();
    replica.restore(&exact.snapshot());

    // Listed as 0 s are all: transactions of 1 s, 2 s and 3 s.
    for (time, state) in [
        (1_001, &states[0]),
        (2_000, &states[0]),
        (2_001, &states[1]),
    ] {
        let (_, content) = restored(&replica, Target::Time(at(time))).await.unwrap();

        assert_eq!(&content, state, "{time}");
    }
}

#[tokio::test]
async fn a_listing_that_is_right_costs_few_headers() {
    let replica = MockClient::new();
    for number in 1..=100 {
        let commit = 1;
        crate::support::Made::new(file(0, number..=number), commit, &[(1, number as u8)])
            .put(&replica);
    }

    let (restored, content) = restored(&replica, Target::Time(at(1_500))).await.unwrap();

    assert_eq!((restored.txid, content), (txid(1), database(&[1])));
    assert!(replica.count(Op::Open) <= 4, "{:?}", replica.calls());
}

#[tokio::test]
async fn a_time_outside_the_replica_is_an_error_that_says_what_there_is() {
    let (replica, _) = small();

    for (time, wanted) in [
        (
            1_000,
            PlanError::TimeBeforeFirst {
                time: at(1_000),
                first: at(1_000),
            },
        ),
        (
            3_001,
            PlanError::TimeBeyondEnd {
                time: at(3_001),
                last: at(3_000),
            },
        ),
    ] {
        let error = restored(&replica, Target::Time(at(time)))
            .await
            .unwrap_err();

        match error {
            RestoreError::Plan(error) => assert_eq!(error, wanted),
            error => panic!("{error}"),
        }
    }
}

/// One file was copied by itself, and got the time of that.
#[tokio::test]
async fn a_single_time_out_of_order_is_not_believed() {
    let replica = MockClient::new();
    for number in 1..=9 {
        let made = crate::support::Made::new(file(0, number..=number), 1, &[(1, number as u8)]);
        let copied_at = if number == 4 { at(100_000) } else { made.time };
        replica.put(made.id, copied_at, made.encode());
    }

    let (restored, content) = restored(&replica, Target::Time(at(7_500))).await.unwrap();

    assert_eq!((restored.txid, content), (txid(7), database(&[7])));
}

/// Around the time that was asked for the listing is right, and further back it isn't.
#[tokio::test]
async fn a_header_that_contradicts_the_listing_anywhere_is_noticed() {
    let replica = MockClient::new();
    for (number, time) in [(1, 1), (2, 9), (3, 3), (4, 4)] {
        let mut made = crate::support::Made::new(file(0, number..=number), 1, &[(1, 7)]);
        let listed = made.time;
        made.time = at(1_000 * time);
        replica.put(made.id, listed, made.encode());
    }

    let error = restored(&replica, Target::Time(at(3_500)))
        .await
        .unwrap_err();

    // By their headers the third is older than that, and the second, without which it can't be
    // restored, is not.
    let (after, next) = (txid(1), file(0, 3..=3));
    match error {
        RestoreError::Plan(error) => assert_eq!(error, PlanError::Gap { after, next }),
        error => panic!("{error}"),
    }
}

/// [`small`] with the second and third transaction also in a file of level 1, after a copy that
/// lost the times of all files.
fn copied() -> MockClient {
    let (replica, _) = small();
    let compacted = file(1, 2..=3);
    crate::support::Made::new(compacted, 2, &[(1, 2), (2, 3)]).put(&replica);
    for (id, (_, content)) in replica.snapshot() {
        replica.put(id, at(99_000), content);
    }
    replica
}

/// Restores the state from before 2.5 s of a replica whose third transaction is of 3 s, and is
/// damaged in `damaged`.
async fn check_not_newer(replica: &MockClient, damaged: replica_core::FileId) {
    let (_, states) = small();

    let (restored, content) = restored(replica, Target::Time(at(2_500))).await.unwrap();

    assert_eq!((restored.txid, content), (txid(2), states[1].clone()));
    assert!(restored.files.iter().all(|file| file.id != damaged));
}

/// Damages `file` where its header has the time, which becomes `millis`. Its listed one stays.
fn damage_time(replica: &MockClient, file: replica_core::FileId, millis: i64) {
    let (listed, content) = replica.snapshot()[&file].clone();
    let mut content = content.to_vec();
    content[32..40].copy_from_slice(&millis.to_be_bytes());
    replica.put(file, listed, content);
}

/// Checks that the state from before 2.5 s is an error that names what is `damaged`.
async fn check_not_older(replica: &MockClient, damaged: replica_core::FileId) {
    let result = restored(replica, Target::Time(at(2_500))).await;

    match result.unwrap_err() {
        RestoreError::Damaged { damaged: found, .. }
        | RestoreError::InDoubt { damaged: found, .. } => {
            assert_eq!(found[0].file, damaged);
        }
        error => panic!("{error}"),
    }
}

/// A file with a header that can't be read got the time of the file before it, was chosen for
/// that, and turned out damaged. Its transaction was then restored from another file, whose header
/// says that it is too new: the database was newer than what was asked for, and nobody was told.
#[tokio::test]
async fn a_file_whose_time_is_unknown_makes_no_newer_state() {
    let damaged = file(0, 3..=3);
    let replica = copied();
    replica.corrupt(damaged, 0);

    check_not_newer(&replica, damaged).await;
}

/// As before, but the damage made the time itself an older one.
#[tokio::test]
async fn the_time_of_a_damaged_file_makes_no_newer_state() {
    let damaged = file(0, 3..=3);
    let replica = copied();
    damage_time(&replica, damaged, 2_400);

    check_not_newer(&replica, damaged).await;
}

/// Nothing but the damaged file says when its transaction was made, so what is before it may be
/// older than what was asked for.
#[tokio::test]
async fn the_time_of_a_damaged_file_makes_no_older_state() {
    let damaged = file(0, 3..=3);
    let replica = copied();
    replica.remove(file(1, 2..=3));
    crate::support::Made::new(file(0, 4..=4), 2, &[(2, 4)]).put(&replica);
    damage_time(&replica, damaged, 2_400);

    check_not_older(&replica, damaged).await;
}

/// A header that can't be read was taken for one that agrees with the listing. So the times of a
/// copy were believed, and the error said that the replica begins later, and not what is damaged.
#[tokio::test]
async fn a_header_that_can_t_be_read_does_not_vouch_for_the_listing() {
    let damaged = file(0, 1..=1);
    let replica = copied();
    replica.remove(file(1, 2..=3));
    replica.corrupt(damaged, 0);

    check_not_older(&replica, damaged).await;
}

/// The header is damaged, so its time is unknown: it may be older than the time asked for.
#[tokio::test]
async fn a_file_whose_time_is_unknown_is_not_passed_over() {
    let (replica, _) = small();
    for (id, (_, content)) in replica.snapshot() {
        replica.put(id, at(99_000), content);
    }
    replica.corrupt(file(0, 2..=2), 0);

    check_not_older(&replica, file(0, 2..=2)).await;
}

/// Nothing but its header told that a file was too new, and that was damaged: an older state passed
/// for the last one from before the time.
#[tokio::test]
async fn a_damaged_time_that_seems_too_new_makes_no_older_state() {
    let damaged = file(0, 2..=2);
    let replica = copied();
    replica.remove(file(1, 2..=3));
    damage_time(&replica, damaged, 2_900);

    check_not_older(&replica, damaged).await;
}

/// As before, where the store says the same within its resolution.
#[tokio::test]
async fn a_damaged_time_that_a_coarse_listing_allows_makes_no_older_state() {
    let coarse = Capabilities::FULL.with_timestamp_resolution(Some(Duration::from_secs(10)));
    let replica = MockClient::with_capabilities(coarse);
    replica.restore(&small().0.snapshot());
    let damaged = file(0, 2..=2);
    damage_time(&replica, damaged, 2_900);

    check_not_older(&replica, damaged).await;
}

/// The file behind the state is damaged, and another one of the same transaction is too new for
/// certain.
#[tokio::test]
async fn another_copy_tells_that_the_next_transaction_is_too_new() {
    let (replica, states) = small();
    crate::support::Made::new(file(1, 3..=3), 2, &[(2, 3)]).put(&replica);
    for (id, (_, content)) in replica.snapshot() {
        replica.put(id, at(99_000), content);
    }
    replica.corrupt(file(0, 3..=3), 120);

    let (restored, content) = restored(&replica, Target::Time(at(2_500))).await.unwrap();

    assert_eq!((restored.txid, content), (txid(2), states[1].clone()));
}

/// All that is listed is right but the time of a file whose header can't be read: its writer was
/// interrupted before it had set the one of 2.4 s. Were it believed, the state from before it would
/// pass for the one that was asked for.
#[tokio::test]
async fn the_listed_time_of_a_file_whose_header_can_t_be_read_is_not_believed() {
    let (replica, _) = small();
    let damaged = file(0, 2..=2);
    let content = replica.content(damaged).unwrap();
    replica.put(damaged, at(2_600), content);
    damage_time(&replica, damaged, 2_400);
    replica.corrupt(damaged, 0);

    let error = restored(&replica, Target::Time(at(2_500)))
        .await
        .unwrap_err();

    assert_eq!(
        error.to_string(),
        format!(
            "the last state from before 1970-01-01T00:00:02.5Z can't be restored for certain: \
             {damaged}: not an LTX file: it begins with \"\\xb3TX1\", not with \"LTX1\"; \
             transaction 0000000000000001 is older than that, so ask for it by its number if it \
             will do"
        )
    );
}

/// [`small`] with a snapshot of the state after the second transaction, made at 2.7 s.
fn with_a_late_snapshot() -> (MockClient, replica_core::FileId, [Vec<u8>; 3]) {
    let (replica, states) = small();
    let id = file(9, 1..=2);
    let mut snapshot = crate::support::Made::new(id, 4, &[(1, 2), (2, 1), (3, 1), (4, 2)]);
    snapshot.time = at(2_700);
    snapshot.put(&replica);
    (replica, id, states)
}

/// Restores the state from before 2.5 s, which only the snapshot of [`with_a_late_snapshot`] has.
async fn check_late_snapshot(replica: &MockClient, snapshot: replica_core::FileId, state: &[u8]) {
    let target = Target::Time(at(2_500));
    let (restored, content) = restored(replica, target).await.unwrap();

    assert_eq!((restored.txid, content), (txid(2), state.to_vec()));
    assert_eq!(
        restored
            .files
            .iter()
            .map(|file| file.id)
            .collect::<Vec<_>>(),
        [snapshot]
    );
}

/// The snapshot is newer than the time, so it was left out, though it has the very state.
#[tokio::test]
async fn a_snapshot_that_was_made_later_has_the_state_of_a_damaged_file() {
    for damaged in [file(0, 1..=1), file(0, 2..=2)] {
        let (replica, snapshot, states) = with_a_late_snapshot();
        replica.corrupt(damaged, 120);

        check_late_snapshot(&replica, snapshot, &states[1]).await;
    }
}

#[tokio::test]
async fn a_snapshot_that_was_made_later_has_the_state_of_a_missing_file() {
    let (replica, snapshot, states) = with_a_late_snapshot();
    replica.remove(file(0, 1..=1));

    check_late_snapshot(&replica, snapshot, &states[1]).await;
}

/// Only the listing and the headers together tell which transaction was the last one.
#[tokio::test]
async fn a_snapshot_that_was_made_later_is_not_used_where_times_are_in_doubt() {
    let (replica, _, _) = with_a_late_snapshot();
    for (id, (_, content)) in replica.snapshot() {
        replica.put(id, at(99_000), content);
    }
    replica.corrupt(file(0, 2..=2), 120);

    check_not_older(&replica, file(0, 2..=2)).await;
}

/// A snapshot of a newer state is not one of the state that was asked for.
#[tokio::test]
async fn a_snapshot_of_later_transactions_is_not_used() {
    let (replica, _) = small();
    crate::support::Made::new(file(9, 1..=3), 2, &[(1, 2), (2, 3)]).put(&replica);
    replica.corrupt(file(0, 2..=2), 120);

    check_not_older(&replica, file(0, 2..=2)).await;
}
