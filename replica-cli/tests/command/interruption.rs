//! An interrupted command stops soon, and leaves nothing half done.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use crate::replica::{LIMIT, command, finish, folder, names, snapshot_of_zeros};

/// Enough to take a while to write, and little to read.
const PAGES: u32 = 32_768;

#[test]
fn an_interrupted_restore_leaves_nothing() {
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let folder = folder();
        snapshot_of_zeros(&folder.path().join("replica"), PAGES);
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

/// A listing whose reader stalled waited in a write on the only thread, with the signals caught:
/// nothing but SIGKILL ended it.
#[test]
fn a_listing_that_waits_for_its_reader_can_be_interrupted() {
    for (name, number) in [("INT", 2), ("TERM", 15)] {
        let folder = folder();
        let level = folder.path().join("ltx/0");
        fs::create_dir_all(&level).unwrap();
        for txid in 1..4096 {
            fs::write(level.join(format!("{txid:016x}-{txid:016x}.ltx")), [0; 100]).unwrap();
        }
        let path = folder.path().to_str().unwrap();
        let mut child = interruptible(["ltx", "-json", path]).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        // It has begun to write, and has far more to write than a pipe takes.
        stdout.read_exact(&mut [0]).unwrap();

        send(name, child.id());

        let (done, ended) = sync_channel(1);
        thread::spawn(move || done.send(child.wait()));
        let status = ended.recv_timeout(LIMIT).expect("it should end").unwrap();
        assert_eq!(status.signal(), Some(number));
        drop(stdout);
    }
}

/// The command, which may be ended by SIGINT also where these tests run in the background of a
/// shell, which has programs there ignore it.
fn interruptible<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let command = command(args);
    let mut perl = Command::new("perl");
    perl.args(["-e", "$SIG{INT} = 'DEFAULT'; exec @ARGV"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => perl.env(name, value),
            None => perl.env_remove(name),
        };
    }
    perl
}

pub(crate) fn send(signal: &str, id: u32) {
    let sent = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", signal, &id.to_string()])
        .status()
        .expect("a signal can be sent");
    assert!(sent.success());
}
