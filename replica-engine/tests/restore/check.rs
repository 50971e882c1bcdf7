//! A check reads everything, and finds what is wrong.

use std::sync::Arc;

use replica_core::{ErrorKind, FileId, Op};
use replica_engine::{
    CheckProgress, Checked, Fault, Finding, PlanError, RestorePoint, Target, check, check_file,
};
use replica_mock::{MockClient, file};

use crate::support::{
    Compacted, Golden, Made, at, checksum, database, restored, small, txid, with_checksums,
};

async fn checked(replica: &MockClient) -> Checked {
    let mut found = Vec::new();
    let mut read = 0;
    let checked = check(Arc::new(replica.clone()), |progress| match progress {
        CheckProgress::Found(finding) => found.push(finding),
        CheckProgress::Read(_) => read += 1,
        _ => {}
    })
    .await
    .expect("the store is well");

    assert_eq!(found, checked.findings, "told as they are found");
    assert_eq!(
        (read, checked.files),
        (replica.files().len(), replica.files().len())
    );
    checked
}

async fn check_finds(replica: &MockClient, wanted: &[Finding]) {
    assert_eq!(checked(replica).await.findings, wanted);
}

#[tokio::test]
async fn nothing_is_wrong_with_what_litestream_wrote() {
    for set in Golden::SETS {
        let golden = Golden::load(set);

        let checked = checked(&golden.replica).await;

        assert_eq!(checked.findings, [], "{set}");
        let bytes: u64 = golden.manifest["files"]
            .as_object()
            .unwrap()
            .values()
            .map(|file| file["size"].as_u64().unwrap())
            .sum();
        assert_eq!(checked.bytes, bytes);
        let (first, last) = checked.restorable.unwrap();
        let txids: Vec<&String> = golden.manifest["restore_txid"]
            .as_object()
            .unwrap()
            .keys()
            .collect();
        assert_eq!(first.txid.to_string(), **txids.first().unwrap());
        assert_eq!(last.txid.to_string(), **txids.last().unwrap());
    }
}

#[tokio::test]
async fn every_changed_byte_of_a_set_is_found_unless_the_pages_are_the_same() {
    let golden = Golden::load("ps512");
    let pages = |content: &[u8]| {
        let mut reader = ltx::Reader::new(content).ok()?;
        let mut page = vec![0; reader.header().page_size().bytes()];
        let mut pages = Vec::new();
        while let Some(pgno) = reader.next_page(&mut page).ok()? {
            pages.push((pgno, page.clone()));
        }
        Some((*reader.header(), pages))
    };
    let (mut harmless, mut all) = (0, 0);
    for id in golden.replica.files() {
        let content = golden.replica.content(id).unwrap();
        let right = pages(&content);
        all += content.len();
        for offset in 0..content.len() {
            let mut changed = content.to_vec();
            changed[offset] ^= 1 << (offset % 8);

            if check_file(&changed[..]).is_ok() {
                assert_eq!(pages(&changed), right, "byte {offset} of {id}");
                harmless += 1;
            }
        }
        for len in 0..content.len() {
            assert!(check_file(&content[..len]).is_err(), "{len} bytes of {id}");
        }
    }
    assert!(
        harmless * 100 < all,
        "{harmless} of {all} changes were not found"
    );
}

#[tokio::test]
async fn a_damaged_file_is_named_and_so_is_what_it_costs() {
    let (replica, _) = small();
    let damaged = file(0, 2..=2);
    replica.corrupt(damaged, 150);

    let checked = checked(&replica).await;

    match &checked.findings[..] {
        [Finding::Damaged(damage), Finding::Unrestorable(error)] => {
            assert_eq!(damage.file, damaged);
            assert!(matches!(damage.fault, Fault::Format(_)), "{damage}");
            assert_eq!(
                *error,
                PlanError::Gap {
                    after: txid(1),
                    next: file(0, 3..=3)
                }
            );
        }
        findings => panic!("{findings:?}"),
    }
    let point = RestorePoint {
        txid: txid(1),
        created_at: at(1_000),
    };
    assert_eq!(checked.restorable, Some((point, point)));
}

#[tokio::test]
async fn damage_that_another_copy_makes_good_costs_nothing() {
    let (replica, _) = small();
    Made::new(file(1, 2..=3), 2, &[(1, 2), (2, 3)]).put(&replica);
    replica.corrupt(file(0, 2..=2), 150);

    let checked = checked(&replica).await;

    assert!(
        matches!(&checked.findings[..], [Finding::Damaged(_)]),
        "{checked:?}"
    );
}

#[tokio::test]
async fn files_that_overlap_or_are_missing_are_found_from_their_names() {
    let (replica, _) = small();
    let made = |id: FileId| Made::new(id, 2, &[(1, 4)]).put(&replica);
    for id in [
        file(0, 6..=6),
        file(1, 2..=4),
        file(1, 3..=5),
        file(1, 4..=5),
        file(2, 4..=6),
        file(3, 2..=6),
        file(3, 3..=4),
        file(3, 7..=7),
    ] {
        made(id);
    }

    check_finds(
        &replica,
        &[
            Finding::Missing {
                file: file(0, 6..=6),
                before: file(0, 3..=3),
            },
            Finding::Overlap {
                file: file(1, 3..=5),
                before: file(1, 2..=4),
            },
            Finding::Overlap {
                file: file(1, 4..=5),
                before: file(1, 3..=5),
            },
            Finding::Overlap {
                file: file(3, 3..=4),
                before: file(3, 2..=6),
            },
        ],
    )
    .await;
}

#[tokio::test]
async fn a_gap_that_no_level_fills_makes_the_latest_state_unrestorable() {
    let (replica, _) = small();
    Made::new(file(0, 6..=6), 2, &[(1, 4)]).put(&replica);

    check_finds(
        &replica,
        &[
            Finding::Missing {
                file: file(0, 6..=6),
                before: file(0, 3..=3),
            },
            Finding::Unrestorable(PlanError::Gap {
                after: txid(3),
                next: file(0, 6..=6),
            }),
        ],
    )
    .await;
}

#[tokio::test]
async fn files_where_they_do_not_belong_are_found() {
    let (replica, _) = small();
    Made::new(file(0, 4..=5), 2, &[(1, 4)]).put(&replica);
    Made::new(file(9, 2..=3), 2, &[(1, 4)]).put(&replica);

    check_finds(
        &replica,
        &[
            Finding::Misplaced {
                file: file(0, 4..=5),
            },
            Finding::Misplaced {
                file: file(9, 2..=3),
            },
        ],
    )
    .await;
}

#[tokio::test]
async fn a_file_of_another_database_is_found() {
    let (replica, _) = small();
    let mut other = Made::new(file(0, 4..=4), 2, &[(1, 4)]);
    other.page_size = 1024;
    other.put(&replica);

    let checked = checked(&replica).await;

    match &checked.findings[..] {
        [
            Finding::PageSize { file: found, .. },
            Finding::Unrestorable(_),
        ] => {
            assert_eq!(*found, file(0, 4..=4));
        }
        findings => panic!("{findings:?}"),
    }
}

#[tokio::test]
async fn a_file_under_the_name_of_another_is_found() {
    let (replica, _) = small();
    replica.put(
        file(0, 4..=4),
        at(0),
        replica.content(file(0, 3..=3)).unwrap(),
    );

    let checked = checked(&replica).await;

    match &checked.findings[..] {
        [Finding::Damaged(damage), Finding::Unrestorable(_)] => {
            assert!(matches!(damage.fault, Fault::Name { .. }), "{damage}");
        }
        findings => panic!("{findings:?}"),
    }
}

#[tokio::test]
async fn lost_times_are_told_once() {
    let copied_at = at(1_900_000_000_000);
    let golden = Golden::load_with_times("ps512", |_, _| copied_at);

    match &checked(&golden.replica).await.findings[..] {
        [
            Finding::Times {
                files: 15,
                first,
                listed,
                header,
            },
        ] => {
            assert_eq!((*first, *listed), (file(0, 1..=1), copied_at));
            assert_ne!(header, listed);
        }
        findings => panic!("{findings:?}"),
    }
}

/// "All sound, restorable to 4", and the restore failed: the check looked at each file by itself,
/// and a restore at what lies between them too.
#[tokio::test]
async fn files_that_do_not_fit_together_are_found() {
    let (replica, _) = small();
    Made::new(file(0, 4..=4), 4, &[(4, 4)]).put(&replica);

    let checked = checked(&replica).await;

    match &checked.findings[..] {
        [Finding::Damaged(damage), Finding::Unrestorable(_)] => {
            assert_eq!(damage.file, file(0, 4..=4));
            assert!(
                matches!(damage.fault, Fault::MissingPage { .. }),
                "{damage}"
            );
        }
        findings => panic!("{findings:?}"),
    }
    assert_eq!(checked.restorable.unwrap().1.txid, txid(3));
}

/// A live replica was reported as bad: its replicator had compacted and deleted files between the
/// moment they were listed and the moment they were read.
#[tokio::test]
async fn what_is_compacted_and_deleted_meanwhile_is_no_finding() {
    let (replica, _) = small();
    let replicator = replica.clone();

    let checked = check(Arc::new(replica), |progress| {
        if matches!(progress, CheckProgress::Listed { .. }) {
            Made::new(file(1, 2..=4), 2, &[(1, 4), (2, 4)]).put(&replicator);
            replicator.remove(file(0, 2..=2));
            replicator.remove(file(0, 3..=3));
        }
    })
    .await
    .unwrap();

    assert_eq!(checked.findings, []);
    assert_eq!(checked.files, 2);
    assert_eq!(checked.restorable.unwrap().1.txid, txid(4));
}

#[tokio::test]
async fn what_is_deleted_meanwhile_and_in_no_other_file_is_found() {
    let (replica, _) = small();
    let replicator = replica.clone();

    let checked = check(Arc::new(replica), |progress| {
        if matches!(progress, CheckProgress::Listed { .. }) {
            replicator.remove(file(0, 3..=3));
        }
    })
    .await
    .unwrap();

    match &checked.findings[..] {
        [Finding::Damaged(damage), Finding::Unrestorable(_)] => {
            assert_eq!(
                (damage.file, &damage.fault),
                (file(0, 3..=3), &Fault::Missing)
            );
        }
        findings => panic!("{findings:?}"),
    }
}

#[tokio::test]
async fn an_empty_replica_is_a_finding() {
    check_finds(
        &MockClient::new(),
        &[Finding::Unrestorable(PlanError::Empty)],
    )
    .await;
}

#[tokio::test]
async fn a_store_that_is_away_fails_the_check() {
    let (replica, _) = small();
    replica
        .on(Op::Open)
        .skip(1)
        .at_byte(150)
        .fail(ErrorKind::Unavailable);

    let error = check(Arc::new(replica), |_| {}).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

/// "All sound", and a restore refused the last file for a page that differs from what it says.
#[tokio::test]
async fn a_file_that_does_not_leave_the_database_it_says_is_found() {
    let replica = MockClient::new();
    with_checksums(file(0, 1..=1), &[(1, 1), (2, 1)], None, &[1, 1]).put(&replica);
    with_checksums(file(0, 2..=2), &[(2, 2)], Some(&[1, 1]), &[1, 2]).put(&replica);
    with_checksums(file(0, 3..=3), &[(1, 3)], Some(&[1, 2]), &[9, 2]).put(&replica);

    let checked = checked(&replica).await;

    match &checked.findings[..] {
        [Finding::Damaged(damage), Finding::Unrestorable(_)] => {
            assert_eq!(damage.file, file(0, 3..=3));
            assert_eq!(
                damage.fault,
                Fault::DatabaseChecksum {
                    stored: checksum(&[9, 2]),
                    computed: checksum(&[3, 2]),
                }
            );
        }
        findings => panic!("{findings:?}"),
    }
    assert_eq!(checked.restorable.unwrap().1.txid, txid(2));
}

/// Pages that come and go, that are replaced twice, and that lie behind the end for a while.
#[tokio::test]
async fn a_database_that_is_what_its_last_file_says_is_sound() {
    let replica = MockClient::new();
    let before: &[u8] = &[1; 130];
    let all: Vec<(u32, u8)> = (1..=130).map(|pgno| (pgno, 1)).collect();
    with_checksums(file(9, 1..=1), &all, None, before).put(&replica);
    let cut: &[u8] = &[1; 60];
    with_checksums(file(0, 2..=2), &[(60, 1)], Some(before), cut).put(&replica);
    let mut grown = cut.to_vec();
    grown.extend([3; 8]);
    let added: Vec<(u32, u8)> = (61..=68).map(|pgno| (pgno, 3)).collect();
    with_checksums(file(0, 3..=3), &added, Some(cut), &grown).put(&replica);
    let mut last = grown.clone();
    (last[0], last[63], last[64]) = (4, 4, 4);
    let changed = [(1, 4), (64, 4), (65, 4)];
    with_checksums(file(0, 4..=4), &changed, Some(&grown), &last).put(&replica);

    check_finds(&replica, &[]).await;

    let (_, content) = restored(&replica, Target::Latest).await.unwrap();
    assert_eq!(content, database(&last));
}

#[tokio::test]
async fn a_file_that_continues_another_database_is_found() {
    let replica = MockClient::new();
    with_checksums(file(0, 1..=1), &[(1, 1), (2, 1)], None, &[1, 1]).put(&replica);
    with_checksums(file(0, 2..=2), &[(2, 2)], Some(&[1, 9]), &[1, 2]).put(&replica);

    let checked = checked(&replica).await;

    match &checked.findings[..] {
        [Finding::Damaged(damage), Finding::Unrestorable(_)] => {
            assert_eq!(damage.file, file(0, 2..=2));
            assert!(matches!(damage.fault, Fault::Chain { .. }), "{damage}");
        }
        findings => panic!("{findings:?}"),
    }
}

/// All levels were listed at once, as a restore once did: what was compacted between two of them
/// was in neither, and the check said that it was missing.
#[tokio::test]
async fn a_compaction_during_the_listing_is_no_finding() {
    let (replica, _) = small();

    let checked = check(Arc::new(Compacted(replica)), |_| {}).await.unwrap();

    assert_eq!(checked.findings, []);
    assert_eq!(checked.restorable.unwrap().1.txid, txid(3));
}
