//! What a folder costs, beside the same done with the standard library alone, in one run:
//!
//! ```text
//! cargo bench -p replica-file [-- FOLDER]
//! ```
//!
//! The folder is one for temporary files unless it is named: results differ by file system, and
//! memory file systems have no disk to wait for.

#![allow(clippy::print_stdout)]

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, FileId, Level, ReplicaClient, ReplicaClientExt, Timestamp, Timestamps, Txid, TxidRange,
};
use replica_file::FileClient;

const RUNS: usize = 7;
const LISTED: [(Level, u64); 2] = [(Level::RAW, 90_000), (Level::SNAPSHOT, 10_000)];
const LARGE: usize = 1 << 30;
const SMALL: usize = 4 << 10;
const SMALL_FILES: u64 = 500;

#[tokio::main]
async fn main() {
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let folder = folder.map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(folder).expect("the folder can be written to");
    println!("median of {RUNS} runs, in turn with the standard library alone\n");
    list(&dir.path().join("list")).await;
    large(&dir.path().join("large")).await;
    small(&dir.path().join("small")).await;
}

fn file(level: Level, txid: u64) -> FileId {
    let txid = Txid::new(txid).expect("not zero");
    FileId {
        level,
        txids: TxidRange::single(txid),
    }
}

fn path(root: &Path, id: FileId) -> std::path::PathBuf {
    root.join(format!("ltx/{id}"))
}

async fn list(root: &Path) {
    let client = FileClient::new(root);
    for (level, count) in LISTED {
        fs::create_dir_all(root.join(format!("ltx/{level}"))).expect("a folder");
        for txid in 1..=count {
            File::create(path(root, file(level, txid))).expect("a file");
        }
    }

    let ours = async || {
        let mut count = 0;
        for level in Level::ALL {
            let mut files = client
                .list(level, Txid::FIRST, Timestamps::Exact)
                .await
                .expect("a listing");
            while let Some(info) = files.try_next().await.expect("a file") {
                count += 1;
                black_box(info);
            }
        }
        assert_eq!(count, 100_000);
    };
    let plain = || {
        let mut count = 0;
        for (level, _) in LISTED {
            let mut names: Vec<_> = fs::read_dir(root.join(format!("ltx/{level}")))
                .expect("a folder")
                .map(|entry| entry.expect("an entry").path())
                .collect();
            names.sort_unstable();
            for name in names {
                count += 1;
                black_box(name.symlink_metadata().expect("a file"));
            }
        }
        assert_eq!(count, 100_000);
    };
    compare("list 100,000 files", ours, plain).await;
}

async fn large(root: &Path) {
    let client = FileClient::new(root);
    let id = file(Level::SNAPSHOT, 1);
    let content = Bytes::from(vec![7; LARGE]);

    let plain = || {
        let mut file = File::create(root.with_extension("plain")).expect("a file");
        file.write_all(&content).expect("it takes the bytes");
        file.sync_all().expect("it syncs");
    };
    let ours = async || {
        client
            .write(id, Timestamp::EPOCH, Body::from(content.clone()))
            .await
            .expect("it is written");
    };
    compare("write 1 GiB, from memory", ours, &plain).await;
    let ours = async || {
        let content = content.clone();
        let chunks = stream::iter((0..LARGE).step_by(64 << 10))
            .map(move |start| Ok(content.slice(start..start + (64 << 10))));
        let body = Body::once(LARGE as u64, chunks.boxed());
        client
            .write(id, Timestamp::EPOCH, body)
            .await
            .expect("it is written");
    };
    compare("write 1 GiB, streamed", ours, plain).await;

    let ours = async || {
        let mut stream = client.open(id, (..).into()).await.expect("it is there");
        let mut count = 0;
        while let Some(chunk) = stream.try_next().await.expect("bytes") {
            count += black_box(chunk).len();
        }
        assert_eq!(count, LARGE);
    };
    let plain = || {
        let mut file = File::open(path(root, id)).expect("it is there");
        let mut buffer = vec![0; 1 << 20];
        let mut count = 0;
        loop {
            match file.read(&mut buffer).expect("bytes") {
                0 => break,
                read => count += black_box(&buffer[..read]).len(),
            }
        }
        assert_eq!(count, LARGE);
    };
    compare("read 1 GiB from the cache", ours, plain).await;
}

async fn small(root: &Path) {
    let client = FileClient::new(root);
    let content = Bytes::from(vec![7; SMALL]);
    let plain_root = root.join("plain");
    fs::create_dir_all(&plain_root).expect("a folder");

    let ours = async || {
        for txid in 1..=SMALL_FILES {
            client
                .write(
                    file(Level::RAW, txid),
                    Timestamp::EPOCH,
                    content.clone().into(),
                )
                .await
                .expect("it is written");
        }
    };
    let plain = || {
        for txid in 1..=SMALL_FILES {
            let temporary = plain_root.join("temporary");
            let mut file = File::create(&temporary).expect("a file");
            file.write_all(&content).expect("it takes the bytes");
            file.sync_all().expect("it syncs");
            fs::rename(temporary, plain_root.join(txid.to_string())).expect("it is renamed");
            let folder = File::open(&plain_root).expect("a folder");
            folder.sync_all().expect("it syncs");
        }
    };
    compare("write 500 files of 4 KiB", ours, plain).await;

    let ours = async || {
        for txid in 1..=SMALL_FILES {
            let bytes = client.read(file(Level::RAW, txid), (..).into()).await;
            assert_eq!(black_box(bytes.expect("it is there")).len(), SMALL);
        }
    };
    let plain = || {
        for txid in 1..=SMALL_FILES {
            let bytes = fs::read(plain_root.join(txid.to_string())).expect("it is there");
            assert_eq!(black_box(bytes).len(), SMALL);
        }
    };
    compare("read 500 files of 4 KiB", ours, plain).await;
}

/// Runs both in turn, so that what else the machine does meets both, and prints their medians.
async fn compare(what: &str, ours: impl AsyncFn(), plain: impl Fn()) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        let start = Instant::now();
        ours().await;
        times[0].push(start.elapsed());
        let start = Instant::now();
        plain();
        times[1].push(start.elapsed());
    }
    let [ours, plain] = times.map(|mut times| {
        times.sort_unstable();
        times[RUNS / 2]
    });
    let ratio = ours.as_secs_f64() / plain.as_secs_f64();
    println!("{what:<28} {ours:>10.1?}   plain {plain:>10.1?}   {ratio:>5.2} times");
}
