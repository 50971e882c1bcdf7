//! An interrupted command stops soon, and leaves nothing half done.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::Instant;

use ltx::{Compression, Encoder, Header, PageSize, Pgno, Timestamp, Txid, TxidRange};

use crate::replica::{LIMIT, command, finish, folder, names};

/// Enough to take a while to write, and little to read.
const PAGES: u32 = 32_768;

#[test]
fn an_interrupted_restore_leaves_nothing() {
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let folder = folder();
        let level = folder.path().join("replica/ltx/9");
        fs::create_dir_all(&level).unwrap();
        let txids = TxidRange::single(Txid::FIRST);
        fs::write(level.join(txids.to_string()), blank_database(txids)).unwrap();
        let target = folder.path().join("target");
        fs::create_dir(&target).unwrap();

        let (replica, output) = (folder.path().join("replica"), target.join("app.db"));
        let args = [
            "restore",
            "-o",
            output.to_str().unwrap(),
            replica.to_str().unwrap(),
        ];
        let child = command(args).spawn().unwrap();
        let started = Instant::now();
        while names(&target).is_empty() {
            assert!(started.elapsed() < LIMIT, "nothing is being written");
            std::thread::yield_now();
        }
        send(signal, child.id());

        let ran = finish(child).ended(status);
        assert_eq!(ran.stderr, "error: interrupted\n");
        assert_eq!(names(&target), [""; 0]);
    }
}

#[test]
fn an_interrupted_conformance_run_leaves_nothing() {
    let folder = folder();
    let path = folder.path().to_str().unwrap();
    let mut child = command(["conformance", path]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..3 {
        stdout.read_line(&mut String::new()).unwrap();
    }

    send("INT", child.id());

    finish(child).ended(130);
    assert_eq!(names(folder.path()), [""; 0]);
}

fn blank_database(txids: TxidRange) -> Vec<u8> {
    let page_size = PageSize::new(4096).expect("a page size");
    let header = Header::new(page_size, PAGES, txids, Timestamp::EPOCH);
    let mut file = Vec::new();
    let mut encoder = Encoder::new(header, Compression::Blocks, &mut file);
    let page = vec![0; page_size.bytes()];
    for pgno in (1..=PAGES).filter_map(Pgno::new) {
        encoder.page(pgno, &page, &mut file).expect("a valid page");
    }
    encoder.finish(None, &mut file).expect("a whole file");
    file
}

fn send(signal: &str, id: u32) {
    let sent = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", signal, &id.to_string()])
        .status()
        .expect("a signal can be sent");
    assert!(sent.success());
}
