//! The contract, asked of a folder.

use std::path::Path;

use replica_file::FileClient;

async fn open(namespace: String) -> FileClient {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    FileClient::new(folder.join(namespace))
}

conformance::conformance!(open, slow);
