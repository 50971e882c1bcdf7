//! Replicas that the real Litestream wrote.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use replica_core::{
    FileId, Layout, Level, ReplicaClient, ReplicaClientExt, Timestamp, Timestamps, Txid,
};
use replica_file::FileClient;
use serde_json::Value;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ltx/tests/golden")
}

/// What the manifest says of each file of `set`: its name, its size, and its time in
/// milliseconds.
fn expected(set: &Value) -> Vec<(FileId, u64, i64)> {
    let files = set["files"].as_object().expect("a set has files");
    let mut expected: Vec<_> = files
        .iter()
        .map(|(path, file)| {
            (
                Layout::Tree.parse(path).expect("Litestream's layout"),
                file["size"].as_u64().expect("a size"),
                file["mtime_ms"].as_i64().expect("a time"),
            )
        })
        .collect();
    expected.sort_unstable();
    expected
}

/// Copies the replica `from` to `to`, with the times that it had when it was written.
fn copy(from: &Path, to: &Path, files: &[(FileId, u64, i64)]) {
    for (id, _, millis) in files {
        let path = Layout::Tree.path(*id);
        let copy = to.join(&path);
        fs::create_dir_all(copy.parent().expect("its level")).expect("a folder");
        fs::copy(from.join(path), &copy).expect("a copy");
        let time = UNIX_EPOCH + Duration::from_millis(millis.unsigned_abs());
        let opened = File::options().append(true).open(copy).expect("the copy");
        opened.set_modified(time).expect("a time");
    }
}

#[tokio::test]
async fn a_replica_of_litestreams_is_listed_and_read_as_it_was_written() {
    let manifest = fs::read(golden().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let sets = manifest["sets"].as_object().unwrap();
    assert_eq!(sets.len(), 5);

    for (name, set) in sets {
        let expected = expected(set);
        let original = golden().join(name).join("replica");
        let dir = tempfile::tempdir().unwrap();
        copy(&original, dir.path(), &expected);
        let client = FileClient::new(dir.path());

        let mut listed = Vec::new();
        for level in Level::ALL {
            let files = client.list_all(level, Txid::FIRST, Timestamps::Exact);
            for info in files.await.unwrap() {
                listed.push((info.id, info.size, info.created_at.as_millis()));
                let read = client.read(info.id, (..).into()).await.unwrap();
                let stored = fs::read(original.join(Layout::Tree.path(info.id))).unwrap();
                assert!(read == stored, "{name}: {}", info.id);
            }
        }

        assert_eq!(listed, expected, "{name}");
    }
}

#[tokio::test]
async fn what_is_written_lies_where_litestream_put_it() {
    let manifest = fs::read(golden().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let files = expected(&manifest["sets"]["autovac"]);
    let original = golden().join("autovac/replica");
    let dir = tempfile::tempdir().unwrap();
    let client = FileClient::new(dir.path());

    for (id, _, millis) in &files {
        let content = fs::read(original.join(Layout::Tree.path(*id))).unwrap();
        let time = Timestamp::from_millis(*millis);
        client.write(*id, time, content.into()).await.unwrap();
    }

    for (id, size, millis) in files {
        let path = dir.path().join(Layout::Tree.path(id));
        let meta = path.metadata().unwrap();
        let modified = meta.modified().unwrap().duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(
            (meta.len(), modified),
            (size, Duration::from_millis(millis.unsigned_abs()))
        );
    }
}
