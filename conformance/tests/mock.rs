//! The mock keeps the contract, as strong as it can be and as weak as it may be.

use std::future::ready;
use std::sync::LazyLock;
use std::time::Duration;

use replica_core::Capabilities;
use replica_mock::{MockClient, MockStore};

async fn open(namespace: String) -> MockClient {
    static STORE: LazyLock<MockStore> = LazyLock::new(MockStore::new);
    STORE.client(&namespace)
}

conformance::conformance!(open, slow);

/// Runs every case on a store of these capabilities, in no real time.
async fn check(capabilities: Capabilities) {
    let store = MockStore::with_capabilities(capabilities);

    let report = conformance::run("", move |name: String| ready(store.client(&name))).await;

    report.assert_kept();
}

#[tokio::test(start_paused = true)]
async fn a_store_whose_listings_lag_as_declared_keeps_the_contract() {
    check(Capabilities::FULL.with_list_lag(Duration::from_secs(5))).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_with_coarse_times_keeps_the_contract() {
    check(Capabilities::FULL.with_timestamp_resolution(Some(Duration::from_secs(1)))).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_without_times_keeps_the_contract() {
    check(Capabilities::FULL.with_timestamp_resolution(None)).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_can_not_replace_atomically_keeps_the_contract() {
    check(Capabilities::FULL.with_atomic_replace(false)).await;
}
