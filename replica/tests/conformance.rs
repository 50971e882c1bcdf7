//! A folder opened by its URL, with its layers, keeps every promise of the contract.

use std::sync::Arc;

use replica::{Location, ReplicaClient};

async fn open(namespace: String) -> Arc<dyn ReplicaClient> {
    let root: Location = concat!("file://", env!("CARGO_TARGET_TMPDIR"), "/opened")
        .parse()
        .expect("the URL of a folder");
    root.join(&namespace).open().expect("a folder opens")
}

conformance::conformance!(open);
