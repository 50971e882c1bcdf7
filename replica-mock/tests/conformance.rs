//! The mock keeps the contract, and when it is told to be weaker it is as weak as it declares.

use std::sync::LazyLock;
use std::time::Duration;

use replica_core::Capabilities;
use replica_mock::{MockClient, MockStore};

mod strong {
    use super::*;

    static STORE: LazyLock<MockStore> = LazyLock::new(MockStore::new);

    async fn open(namespace: String) -> MockClient {
        STORE.client(&namespace)
    }

    conformance::conformance!(open, slow);
}

mod weak {
    use super::*;

    static STORE: LazyLock<MockStore> = LazyLock::new(|| {
        let capabilities = Capabilities::FULL
            .with_list_lag(Duration::from_millis(20))
            .with_timestamp_resolution(Some(Duration::from_secs(1)))
            .with_atomic_replace(false);
        MockStore::with_capabilities(capabilities)
    });

    async fn open(namespace: String) -> MockClient {
        STORE.client(&namespace)
    }

    conformance::conformance!(open);
}

mod timeless {
    use super::*;

    static STORE: LazyLock<MockStore> = LazyLock::new(|| {
        let capabilities = Capabilities::FULL.with_timestamp_resolution(None);
        MockStore::with_capabilities(capabilities)
    });

    async fn open(namespace: String) -> MockClient {
        STORE.client(&namespace)
    }

    conformance::conformance!(open);
}
