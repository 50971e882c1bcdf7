//! Replicas that Litestream wrote give the databases that Litestream restores from them.

use std::sync::Arc;

use replica_engine::{Integrity, RestoreError, Target, restore};
use replica_mock::MockClient;

use crate::support::{Golden, Output, restored, sha256, small};

async fn check(golden: &Golden, target: Target, wanted: &serde_json::Value) {
    let (restored, content) = restored(&golden.replica, target)
        .await
        .unwrap_or_else(|error| panic!("{target:?}: {error}"));

    assert_eq!(sha256(&content), wanted["sha256"], "{target:?}");
    assert_eq!(restored.bytes, content.len() as u64);
    assert_eq!(
        u64::from(restored.page_size),
        wanted["page_size"].as_u64().unwrap()
    );
    assert_eq!(
        u64::from(restored.pages) * u64::from(restored.page_size),
        restored.bytes
    );
}

#[tokio::test]
async fn the_latest_state_is_the_one_that_litestream_restores() {
    for set in Golden::SETS {
        let golden = Golden::load(set);

        check(&golden, Target::Latest, &golden.manifest["latest"]).await;
    }
}

#[tokio::test]
async fn the_state_after_each_transaction_is_the_one_that_litestream_restores() {
    for set in Golden::SETS {
        let golden = Golden::load(set);

        for (txid, wanted) in golden.manifest["restore_txid"].as_object().unwrap() {
            check(&golden, Target::Txid(txid.parse().unwrap()), wanted).await;
        }
    }
}

#[tokio::test]
async fn the_state_at_each_time_is_the_one_that_litestream_restores() {
    for set in Golden::SETS {
        let golden = Golden::load(set);

        for (time, wanted) in golden.manifest["restore_timestamp"].as_object().unwrap() {
            check(&golden, Target::Time(time.parse().unwrap()), wanted).await;
        }
    }
}

#[tokio::test]
async fn sqlite_finds_no_fault_with_what_is_restored() {
    for set in Golden::SETS {
        let golden = Golden::load(set);
        for integrity in [Integrity::Quick, Integrity::Full] {
            let output = Output::new();
            let mut options = output.options(Target::Latest);
            options.integrity = integrity;

            let result = restore(Arc::new(golden.replica.clone()), &options, |_| {}).await;

            result.expect("the database is sound");
            assert_eq!(output.names(), ["restored.db"], "SQLite has left something");
        }
    }
}

/// What SQLite says of the latest state of a replica.
async fn findings(replica: &MockClient) -> Vec<String> {
    let output = Output::new();
    let mut options = output.options(Target::Latest);
    options.integrity = Integrity::Full;

    let result = restore(Arc::new(replica.clone()), &options, |_| {}).await;

    output.assert_empty();
    match result.expect_err("SQLite should find fault with it") {
        RestoreError::Integrity { findings } => findings,
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn what_is_no_database_fails_the_check() {
    let (replica, _) = small();

    assert_eq!(findings(&replica).await, ["file is not a database"]);
}

/// Every byte is as it was stored, and what was stored is a broken database: its last page is gone.
#[tokio::test]
async fn a_database_that_was_broken_before_it_was_stored_fails_the_check() {
    let golden = Golden::load("ps4096");
    let (right, content) = restored(&golden.replica, Target::Latest).await.unwrap();
    let pages = content.chunks(right.page_size as usize).zip(1u32..);
    let replica = MockClient::new();
    let id = replica_mock::file(9, 1..=1);
    let page_size = ltx::PageSize::new(right.page_size).unwrap();
    let header = ltx::Header::new(page_size, right.pages, id.txids, right.created_at);
    let mut file = Vec::new();
    let mut encoder = ltx::Encoder::new(header, ltx::Compression::Blocks, &mut file);
    for (page, pgno) in pages {
        let broken = vec![0; page.len()];
        let page = if pgno == right.pages { &broken } else { page };
        encoder
            .page(ltx::Pgno::new(pgno).unwrap(), page, &mut file)
            .unwrap();
    }
    encoder.finish(None, &mut file).unwrap();
    replica.put(id, right.created_at, file);

    let findings = findings(&replica).await;

    assert!(
        findings.len() > 1 || findings[0].contains("age"),
        "{findings:?}"
    );
}
