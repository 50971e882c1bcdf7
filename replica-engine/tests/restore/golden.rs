//! Replicas that Litestream wrote give the databases that Litestream restores from them.

use replica_engine::{Integrity, Target, restore};
use std::sync::Arc;

use crate::support::{Golden, Output, restored, sha256};

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
