//! The mock keeps the contract.

use std::sync::LazyLock;

use replica_mock::{MockClient, MockStore};

async fn open(namespace: String) -> MockClient {
    static STORE: LazyLock<MockStore> = LazyLock::new(MockStore::new);
    STORE.client(&namespace)
}

conformance::conformance!(open, slow);
