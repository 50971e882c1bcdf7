//! The example that a new backend starts from keeps the contract, and stays short.

#[allow(dead_code)]
#[path = "../examples/your_own_backend.rs"]
mod your_own_backend;

use std::path::Path;

use your_own_backend::Folder;

async fn open(namespace: String) -> Folder {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("your_own_backend");
    Folder(base.join(namespace))
}

conformance::conformance!(open);

#[test]
fn it_is_shorter_than_150_lines() {
    let lines = include_str!("../examples/your_own_backend.rs")
        .lines()
        .count();

    assert!(lines < 150, "{lines} lines");
}
