//! Damage gives the right database from another copy, or an error that names the file.

use std::sync::{Arc, Mutex};

use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, ErrorKind, FileId, FileInfo, FileStream, Level, Op,
    ReplicaClient, Result, Timestamp, Timestamps, Txid,
};
use replica_engine::{Damage, Fault, PlanError, Progress, RestoreError, Target, restore};
use replica_mock::{MockClient, file};

use crate::support::{
    Compacted, Golden, Made, Output, damages, database, restored, sha256, small, txid,
    with_checksums,
};

/// Restores the latest state of a replica that has been damaged in `damaged`.
async fn check(replica: &MockClient, damaged: FileId, right: &[u8], what: &str) {
    match restored(replica, Target::Latest).await {
        Ok((_, content)) => assert!(content == right, "{what}: a wrong database"),
        Err(error) => {
            let name = damaged.to_string();
            assert!(
                error.to_string().contains(&name),
                "{what}: {error} does not name {name}"
            );
        }
    }
}

/// What the error says in which restoring the latest state ends.
async fn refusal(replica: &MockClient) -> String {
    let refused = restored(replica, Target::Latest).await;
    refused.unwrap_err().to_string()
}

/// Puts a content in place of `file`'s for as long as it takes.
async fn check_with(
    replica: &MockClient,
    file: FileId,
    content: Vec<u8>,
    right: &[u8],
    what: &str,
) {
    let whole = replica.snapshot();
    replica.put(file, whole[&file].0, content);
    check(replica, file, right, what).await;
    replica.restore(&whole);
}

#[tokio::test]
async fn every_changed_byte_gives_the_right_database_or_an_error_that_names_the_file() {
    let (replica, states) = small();
    for id in replica.files() {
        let content = replica.content(id).unwrap().to_vec();
        for offset in 0..content.len() {
            let mut changed = content.clone();
            changed[offset] ^= 1 << (offset % 8);

            check_with(
                &replica,
                id,
                changed,
                &states[2],
                &format!("byte {offset} of {id}"),
            )
            .await;
        }
    }
}

#[tokio::test]
async fn every_truncation_is_an_error_that_names_the_file() {
    let (replica, _) = small();
    for id in replica.files() {
        let content = replica.content(id).unwrap().to_vec();
        for len in 0..content.len() {
            let whole = replica.snapshot();
            replica.put(id, whole[&id].0, content[..len].to_vec());

            let error = refusal(&replica).await;

            assert!(error.contains(&id.to_string()), "{len} bytes: {error}");
            replica.restore(&whole);
        }
    }
}

#[tokio::test]
async fn a_file_with_bytes_behind_its_end_is_damaged() {
    let (replica, states) = small();
    let id = file(0, 2..=2);
    let mut content = replica.content(id).unwrap().to_vec();
    content.push(0);

    check_with(&replica, id, content, &states[2], "a byte more").await;
}

#[tokio::test]
async fn a_sample_of_damage_to_what_litestream_wrote_is_never_restored() {
    for set in Golden::SETS {
        let golden = Golden::load(set);
        let (right, content) = restored(&golden.replica, Target::Latest).await.unwrap();
        for id in right.files.iter().map(|file| file.id) {
            let whole = golden.replica.content(id).unwrap();
            for step in 0..16 {
                let offset = step * (whole.len() - 1) / 15;
                let mut changed = whole.to_vec();
                changed[offset] ^= 0x10;
                let what = format!("byte {offset} of {set} {id}");
                check_with(&golden.replica, id, changed, &content, &what).await;
                let what = format!("{offset} bytes of {set} {id}");
                let cut = whole[..offset].to_vec();
                check_with(&golden.replica, id, cut, &content, &what).await;
            }
        }
    }
}

#[tokio::test]
async fn another_copy_is_used_and_what_was_damaged_is_told() {
    let golden = Golden::load("ps4096");
    let damaged = file(9, 1..=0x19);
    golden.replica.corrupt(damaged, 20_000);
    let output = Output::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);

    let restored = restore(
        Arc::new(golden.replica.clone()),
        &output.options(Target::Latest),
        move |progress| listener.lock().unwrap().push(progress),
    )
    .await
    .unwrap();

    assert_eq!(
        sha256(&output.content()),
        golden.manifest["latest"]["sha256"]
    );
    assert_eq!(restored.damaged.len(), 1, "{:?}", restored.damaged);
    assert_eq!(restored.damaged[0].file, damaged);
    assert!(restored.files.iter().all(|file| file.id != damaged));
    let told = told.lock().unwrap();
    let is_damage = |told: &&Progress| matches!(told, Progress::Damaged(Damage { file, .. }) if *file == damaged);
    assert_eq!(told.iter().filter(is_damage).count(), 1, "{told:?}");
    let planned = told
        .iter()
        .filter(|told| matches!(told, Progress::Planned { .. }))
        .count();
    assert_eq!(planned, 2);
}

#[tokio::test]
async fn several_damaged_copies_are_passed_over() {
    let golden = Golden::load("ps4096");
    let right = &golden.manifest["latest"]["sha256"];
    let snapshots = golden.replica.files();
    let snapshots: Vec<_> = snapshots
        .into_iter()
        .filter(|id| id.level.get() > 0)
        .collect();
    for id in &snapshots {
        golden.replica.corrupt(*id, 120);
    }

    let (restored, content) = restored(&golden.replica, Target::Latest).await.unwrap();

    assert_eq!(sha256(&content), *right);
    assert!(restored.damaged.len() > 3);
    assert!(restored.files.iter().all(|file| file.id.level.get() == 0));
}

#[tokio::test]
async fn a_damaged_newest_file_never_gives_an_older_state() {
    let (replica, _) = small();
    let newest = file(0, 3..=3);
    replica.corrupt(newest, 101);

    for target in [Target::Latest, Target::Txid(txid(3))] {
        match restored(&replica, target).await.unwrap_err() {
            RestoreError::Damaged {
                txid: wanted,
                damaged,
                before,
            } => {
                assert_eq!((wanted, before), (txid(3), Some(txid(2))));
                assert_eq!(damaged.iter().map(|d| d.file).collect::<Vec<_>>(), [newest]);
            }
            error => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_file_that_was_deleted_meanwhile_is_replaced_by_what_is_there_now() {
    let (replica, states) = small();
    let merged = file(1, 1..=3);
    let pages = [(1, 2), (2, 3)];
    Made::new(merged, 2, &pages).put(&replica);
    // Listed, and gone when it is opened.
    replica
        .on(Op::Open)
        .of(merged)
        .every(1)
        .fail(ErrorKind::NotFound);

    let (restored, content) = restored(&replica, Target::Latest).await.unwrap();

    assert_eq!(content, states[2]);
    assert_eq!(
        restored.damaged,
        [Damage {
            file: merged,
            fault: Fault::Missing
        }]
    );
}

/// A replicator compacts, and deletes what it has compacted, while a restore goes on.
#[tokio::test]
async fn what_was_compacted_meanwhile_is_listed_again() {
    let (replica, _) = small();
    let output = Output::new();
    let replicator = replica.clone();

    let restored = restore(
        Arc::new(replica.clone()),
        &output.options(Target::Latest),
        move |progress| {
            if matches!(progress, Progress::Planned { txid, .. } if txid.get() == 3) {
                Made::new(file(1, 2..=4), 2, &[(1, 4), (2, 4)]).put(&replicator);
                replicator.remove(file(0, 2..=2));
                replicator.remove(file(0, 3..=3));
            }
        },
    )
    .await
    .unwrap();

    assert_eq!(restored.txid, txid(4));
    assert_eq!(output.content(), database(&[4, 4]));
}

#[tokio::test]
async fn what_was_deleted_meanwhile_never_gives_an_older_state() {
    let (replica, _) = small();
    let output = Output::new();
    let replicator = replica.clone();

    let result = restore(
        Arc::new(replica.clone()),
        &output.options(Target::Latest),
        move |progress| {
            if matches!(progress, Progress::Planned { .. }) {
                replicator.remove(file(0, 3..=3));
            }
        },
    )
    .await;

    let gone = Damage {
        file: file(0, 3..=3),
        fault: Fault::Missing,
    };
    assert_eq!(damages(result.unwrap_err()), [gone]);
}

#[tokio::test]
async fn a_replica_that_is_damaged_all_over_is_given_up_on() {
    let (replica, _) = small();
    for last in 4..=60 {
        let id = file(1, 1..=last);
        Made::new(id, 2, &[(1, 4), (2, 4)]).put(&replica);
        Made::new(file(0, last..=last), 2, &[(1, 4)]).put(&replica);
        Made::new(file(2, last..=last), 2, &[(1, 4)]).put(&replica);
        replica.corrupt(file(0, last..=last), 120);
        replica.corrupt(file(2, last..=last), 120);
    }
    replica.corrupt(file(1, 1..=60), 120);

    let damaged = damages(restored(&replica, Target::Latest).await.unwrap_err());
    assert_eq!(damaged.len(), 3);
    assert!(replica.count(Op::Open) < 20);
}

#[tokio::test]
async fn a_transient_error_is_no_damage() {
    let (replica, _) = small();
    for kind in [
        ErrorKind::Unavailable,
        ErrorKind::PermissionDenied,
        ErrorKind::Other,
    ] {
        for (skip, at_byte) in [(0, 0), (1, 0), (1, 60), (2, 120), (3, 10)] {
            replica.on(Op::Open).skip(skip).at_byte(at_byte).fail(kind);

            match restored(&replica, Target::Latest).await.unwrap_err() {
                RestoreError::Store(error) => assert_eq!(error.kind(), kind),
                error => panic!("{error}"),
            }
            replica.assert_faults_used();
            replica.clear_faults();
        }
    }
}

#[tokio::test]
async fn a_listing_that_fails_is_an_error_and_no_short_listing() {
    let (replica, _) = small();
    replica
        .on(Op::List)
        .at_level(replica_core::Level::RAW)
        .at_item(1)
        .fail(ErrorKind::Unavailable);

    let error = restored(&replica, Target::Latest).await.unwrap_err();

    assert!(matches!(error, RestoreError::Store(_)), "{error}");
}

#[tokio::test]
async fn a_short_body_that_claims_to_be_whole_is_noticed() {
    let (replica, _) = small();
    replica
        .on(Op::Open)
        .of(file(0, 1..=1))
        .every(1)
        .short_body(90);

    let error = refusal(&replica).await;

    assert!(error.contains("ends at byte 90"), "{error}");
}

/// A file of many pieces that has become short costs no request for each of them.
#[tokio::test]
async fn what_is_missing_of_a_file_is_not_asked_for_again_and_again() {
    let (replica, _) = small();
    let pages: Vec<(u32, u8)> = (1..=20_000).map(|pgno| (pgno, 1)).collect();
    let large = Made::new(file(9, 1..=4), 20_000, &pages);
    large.put(&replica);
    let whole = replica.content(large.id).unwrap();
    assert!(
        whole.len() > 20 * 64 * 1024,
        "the file is {} bytes",
        whole.len()
    );
    let output = Output::new();
    let mut options = output.options(Target::Latest);
    options.fetch_ahead = 0;
    let replicator = replica.clone();

    let result = restore(Arc::new(replica.clone()), &options, move |progress| {
        if matches!(progress, Progress::Planned { .. }) {
            replicator.put(large.id, large.time, whole.slice(..200));
        }
    })
    .await;

    let damaged = damages(result.unwrap_err());
    assert_eq!(damaged[0].file, large.id);
    assert!(replica.count(Op::Open) < 15, "{:?}", replica.calls());
}

#[tokio::test]
async fn a_gap_is_an_error() {
    let (replica, _) = small();
    replica.remove(file(0, 2..=2));

    match restored(&replica, Target::Latest).await.unwrap_err() {
        RestoreError::Plan(error) => {
            assert_eq!(
                error,
                PlanError::Gap {
                    after: txid(1),
                    next: file(0, 3..=3)
                }
            );
        }
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn nothing_to_restore_is_an_error() {
    match restored(&MockClient::new(), Target::Latest)
        .await
        .unwrap_err()
    {
        RestoreError::Plan(error) => assert_eq!(error, PlanError::Empty),
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn pages_of_another_size_are_an_error_that_names_the_file() {
    let (replica, _) = small();
    let mut other = Made::new(file(0, 3..=3), 2, &[(2, 3)]);
    other.page_size = 1024;
    other.put(&replica);

    assert_eq!(
        refusal(&replica).await,
        "transaction 0000000000000003 can't be restored: \
         0/0000000000000003-0000000000000003.ltx: its database has pages of 1024 bytes, where the \
         file before it, 0/0000000000000002-0000000000000002.ltx, has 512"
    );
}

#[tokio::test]
async fn a_file_under_the_name_of_another_is_an_error_that_names_it() {
    let (replica, _) = small();
    let second = replica.content(file(0, 2..=2)).unwrap();
    replica.put(file(0, 3..=3), replica_core::Timestamp::EPOCH, second);

    assert_eq!(
        refusal(&replica).await,
        "transaction 0000000000000003 can't be restored: \
         0/0000000000000003-0000000000000003.ltx: its header says that it is \
         0000000000000002-0000000000000002.ltx"
    );
}

#[tokio::test]
async fn a_database_that_grows_needs_all_of_its_new_pages() {
    let (replica, _) = small();
    let grows = file(0, 4..=4);
    Made::new(grows, 6, &[(1, 4), (4, 4), (6, 4)]).put(&replica);

    assert_eq!(
        refusal(&replica).await,
        format!(
            "transaction 0000000000000004 can't be restored: {grows}: it makes the database \
             larger, but page 3 is in no file"
        )
    );
}

/// The pages from before the database shrank are not those from after it grew again.
#[tokio::test]
async fn pages_of_a_larger_past_do_not_come_back() {
    let (replica, _) = small();
    Made::new(file(0, 4..=4), 4, &[(4, 4)]).put(&replica);

    let error = refusal(&replica).await;

    assert!(error.contains("page 3 is in no file"), "{error}");
}

#[tokio::test]
async fn new_pages_may_come_late() {
    let (replica, _) = small();
    Made::new(file(0, 4..=4), 6, &[(1, 4), (4, 4), (6, 4)]).put(&replica);
    Made::new(file(0, 5..=5), 6, &[(3, 5)]).put(&replica);
    Made::new(file(0, 6..=6), 5, &[(5, 6)]).put(&replica);

    let (_, content) = restored(&replica, Target::Latest).await.unwrap();

    assert_eq!(content, database(&[4, 3, 5, 4, 6]));
}

#[tokio::test]
async fn missing_pages_don_t_matter_once_they_are_cut_off() {
    let (replica, _) = small();
    Made::new(file(0, 4..=4), 1_000_000, &[(1, 4)]).put(&replica);
    Made::new(file(0, 5..=5), 2, &[]).put(&replica);

    let (_, content) = restored(&replica, Target::Latest).await.unwrap();

    assert_eq!(content, database(&[4, 3]));
}

#[tokio::test]
async fn checksums_of_the_database_are_kept_from_file_to_file() {
    let replica = MockClient::new();
    with_checksums(file(0, 1..=1), &[(1, 1), (2, 1)], None, &[1, 1]).put(&replica);
    with_checksums(file(0, 2..=2), &[(2, 2), (3, 2)], Some(&[1, 1]), &[1, 2, 2]).put(&replica);
    with_checksums(file(0, 3..=3), &[(1, 3)], Some(&[1, 2, 2]), &[3, 2]).put(&replica);

    let (_, content) = restored(&replica, Target::Latest).await.unwrap();

    assert_eq!(content, database(&[3, 2]));
}

#[tokio::test]
async fn a_file_that_overlaps_the_one_before_it_starts_from_an_earlier_state() {
    let replica = MockClient::new();
    with_checksums(file(9, 1..=3), &[(1, 3), (2, 3)], None, &[3, 3]).put(&replica);
    with_checksums(file(1, 3..=4), &[(1, 3), (2, 4)], Some(&[2, 3]), &[3, 4]).put(&replica);

    let (_, content) = restored(&replica, Target::Latest).await.unwrap();

    assert_eq!(content, database(&[3, 4]));
}

#[tokio::test]
async fn a_file_that_continues_another_database_is_damaged() {
    let replica = MockClient::new();
    with_checksums(file(0, 1..=1), &[(1, 1), (2, 1)], None, &[1, 1]).put(&replica);
    with_checksums(file(0, 2..=2), &[(2, 2)], Some(&[1, 9]), &[1, 2]).put(&replica);

    let error = refusal(&replica).await;

    assert!(
        error.contains("it starts from database checksum"),
        "{error}"
    );
    assert!(error.contains(&file(0, 2..=2).to_string()), "{error}");
}

#[tokio::test]
async fn a_file_that_does_not_leave_the_database_it_says_is_damaged() {
    let replica = MockClient::new();
    with_checksums(file(0, 1..=1), &[(1, 1), (2, 1)], None, &[1, 1]).put(&replica);
    with_checksums(file(0, 2..=2), &[(2, 2)], Some(&[1, 1]), &[1, 9]).put(&replica);

    let error = refusal(&replica).await;

    assert!(error.contains("it ends with database checksum"), "{error}");
    assert!(error.contains(&file(0, 2..=2).to_string()), "{error}");
}

#[tokio::test]
async fn a_database_without_pages_is_an_empty_file() {
    let replica = MockClient::new();
    Made::new(file(9, 1..=1), 0, &[]).put(&replica);

    let (restored, content) = restored(&replica, Target::Latest).await.unwrap();

    assert_eq!((restored.bytes, content), (0, Vec::new()));
}

/// A store that gives all of a file, whatever part is asked for.
#[derive(Debug)]
struct Generous(MockClient);

#[replica_core::async_trait]
impl ReplicaClient for Generous {
    fn scheme(&self) -> &'static str {
        self.0.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, times: Timestamps) -> Result<FileStream> {
        self.0.list(level, from, times).await
    }

    async fn open(&self, file: FileId, _: ByteRange) -> Result<ByteStream> {
        self.0.open(file, ByteRange::ALL).await
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        self.0.write(file, created_at, body).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.0.delete(files).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.0.delete_all().await
    }
}

#[tokio::test]
async fn a_store_that_sends_more_than_it_was_asked_for_is_an_error() {
    let replica = MockClient::new();
    let pages: Vec<(u32, u8)> = (1..=2_000).map(|pgno| (pgno, 1)).collect();
    Made::new(file(9, 1..=1), 2_000, &pages).put(&replica);
    let output = Output::new();
    let mut options = output.options(Target::Latest);
    options.fetch_ahead = 0;

    let error = restore(Arc::new(Generous(replica)), &options, |_| {})
        .await
        .unwrap_err();

    assert!(
        error
            .to_string()
            .contains("the store sent more than bytes 0..65536"),
        "{error}"
    );
}

/// All levels were listed at once. A compaction between two of them hid its transactions: level 1
/// did not have them yet, and level 0 no longer. The database was silently older.
#[tokio::test]
async fn a_compaction_during_the_listing_hides_no_transactions() {
    let (replica, states) = small();
    let output = Output::new();

    let restored = restore(
        Arc::new(Compacted(replica)),
        &output.options(Target::Latest),
        |_| {},
    )
    .await
    .unwrap();

    assert_eq!(
        (restored.txid, output.content()),
        (txid(3), states[2].clone())
    );
}
