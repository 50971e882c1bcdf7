//! The client beside OpenSSH's own `sftp`, on the same server and files, one after the other.
//!
//! ```text
//! cargo bench -p replica-sftp --features openssh-tests -- [MIB] [PAIRS] [ROUND_TRIP_MS]
//! ```
//!
//! It starts a server of its own (OpenSSH's, which must be installed, on 127.0.0.1), moves MIB
//! mebibytes (1024 unless given) up and down in PAIRS of turns (3), first directly and then with
//! a round trip of so many milliseconds (20), and then small files. `put -f` syncs the file, as
//! the client does; `put` leaves that out. Each turn logs in anew, writes a file that is not there
//! yet, and begins when the disk has nothing left to do of the turns before. What is printed is the
//! median, and the client's speed as a multiple of the other's.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "../tests/support/openssh.rs"]
#[allow(dead_code, reason = "tests need more of it")]
mod openssh;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use openssh::{Form, Sshd};
use replica_core::{
    Body, ByteRange, Error, ErrorKind, FileId, Level, ReplicaClient, ReplicaClientExt, Timestamp,
    Timestamps, Txid, TxidRange,
};
use replica_sftp::SftpClient;
use testbed::{Fault, Proxy};

/// How much of a local file is read at once.
const CHUNK: usize = 256 << 10;

const SMALL: usize = 1000;
const SMALL_SIZE: usize = 1024;
/// How many small files are under way at once, where not one after the other.
const AT_ONCE: usize = 16;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let mut number = |otherwise: u64| {
        args.next().map_or(otherwise, |arg| {
            arg.parse().expect("arguments should be numbers")
        })
    };
    let (mib, pairs, round_trip) = (number(1024), number(3), number(20));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(mib, pairs, Duration::from_millis(round_trip)));
}

async fn run(mib: u64, pairs: u64, round_trip: Duration) {
    let server = Sshd::start(Form::Whole);
    let direct = SocketAddr::from(([127, 0, 0, 1], server.port()));
    let network = Proxy::start(direct);
    network.set(Fault::Latency {
        up: round_trip / 2,
        down: round_trip / 2,
    });
    let source = server.file("source");
    make(&source, mib << 20);

    println!("{mib} MiB, {pairs} turns each; load: {}", load().trim());
    let client = client(&server, direct, "direct");
    large(&server, direct, mib, pairs).await;
    println!("the client's peak memory so far: {} MiB", peak_mib());
    many(&client, 10 * SMALL).await;
    println!(
        "the client's peak memory after {} files: {} MiB",
        10 * SMALL,
        peak_mib()
    );

    println!("with {round_trip:?} of round trip; load: {}", load().trim());
    let far = network.address();
    let client = self::client(&server, far, "far");
    large(&server, far, mib, pairs).await;
    small(&server, &client, far).await;
}

fn client(server: &Sshd, at: SocketAddr, name: &str) -> SftpClient {
    SftpClient::new(server.config(name).port(at.port())).expect("a configuration that makes sense")
}

fn file(txid: u64) -> FileId {
    FileId {
        level: Level::RAW,
        txids: TxidRange::single(Txid::new(txid).expect("a transaction")),
    }
}

/// One large file, up and down.
async fn large(server: &Sshd, at: SocketAddr, mib: u64, pairs: u64) {
    let (source, target) = (server.file("source"), server.file("target"));
    let remote = server.path("by-sftp");
    let client = || client(server, at, "large");
    let upload = format!("{} {}", source.display(), remote.display());
    let download = format!("get {} {}", remote.display(), target.display());
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..pairs {
        client()
            .delete_all()
            .await
            .expect("an end to what was written");
        settle();
        times[0].push(time_upload(&client(), &source, mib << 20).await);
        for (times, put) in times[1..].iter_mut().zip(["put -f", "put"]) {
            // A file that is not there needs no end.
            let _ = fs::remove_file(&remote);
            settle();
            times.push(time_sftp(server, at, &format!("{put} {upload}")));
        }
        settle();
        times[3].push(time_download(&client(), &target).await);
        fs::remove_file(&target).expect("an end to what was read");
        settle();
        times[4].push(time_sftp(server, at, &download));
        fs::remove_file(&target).expect("an end to what was read");
    }
    client()
        .delete_all()
        .await
        .expect("an end to what was written");
    let [up, put_synced, put, down, get] = times.map(median);
    let speed = |time: Duration| mib as f64 / time.as_secs_f64();
    let ratio = |ours: Duration, theirs: Duration| theirs.as_secs_f64() / ours.as_secs_f64();
    println!(
        "up    {:6.0} MiB/s; put -f {:6.0} MiB/s, so {:.2} times; put {:6.0} MiB/s, so {:.2} times",
        speed(up),
        speed(put_synced),
        ratio(up, put_synced),
        speed(put),
        ratio(up, put),
    );
    println!(
        "down  {:6.0} MiB/s; get    {:6.0} MiB/s, so {:.2} times",
        speed(down),
        speed(get),
        ratio(down, get),
    );
}

/// Has the disk do what is left to do of what was written: the next to write would pay for it.
fn settle() {
    let status = Command::new("sync").status().expect("sync is everywhere");
    assert!(status.success(), "sync failed");
}

async fn time_upload(client: &SftpClient, source: &Path, size: u64) -> Duration {
    let begun = Instant::now();
    let body = Body::once(
        size,
        stream::iter(Chunks(File::open(source).expect("the source"))).boxed(),
    );
    let written = client.write(file(1), Timestamp::EPOCH, body).await;
    assert_eq!(written.expect("a write").size, size);
    begun.elapsed()
}

async fn time_download(client: &SftpClient, target: &Path) -> Duration {
    let begun = Instant::now();
    let mut target = File::create(target).expect("a file");
    let opened = client.open(file(1), ByteRange::ALL).await;
    let mut stream = opened.expect("a stream");
    while let Some(chunk) = stream.try_next().await.expect("a chunk") {
        target.write_all(&chunk).expect("space");
    }
    begun.elapsed()
}

/// The chunks of a local file.
struct Chunks(File);

impl Iterator for Chunks {
    type Item = replica_core::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = vec![0; CHUNK];
        match self.0.read(&mut chunk) {
            Ok(0) => None,
            Ok(count) => {
                chunk.truncate(count);
                Some(Ok(chunk.into()))
            }
            Err(error) => Some(Err(Error::new(
                ErrorKind::Other,
                "could not read the source",
            )
            .with_source(error))),
        }
    }
}

/// Writes, lists and reads many small files.
async fn many(client: &SftpClient, count: usize) {
    write_small(client, count, AT_ONCE).await;
    let all = client.list_all(Level::RAW, Txid::FIRST, Timestamps::Exact);
    assert_eq!(all.await.expect("a listing").len(), count);
    read_small(client, count, AT_ONCE).await;
    client
        .delete_all()
        .await
        .expect("an end to what was written");
}

/// Small files, up and down: one after the other, several at once, and by `sftp`.
async fn small(server: &Sshd, client: &SftpClient, at: SocketAddr) {
    let speed = |time: Duration| SMALL as f64 / time.as_secs_f64();
    for at_once in [1, AT_ONCE] {
        let up = write_small(client, SMALL, at_once).await;
        let down = read_small(client, SMALL, at_once).await;
        println!(
            "{SMALL} files of {SMALL_SIZE} bytes, {at_once} at once: written {:.0}/s, read {:.0}/s",
            speed(up),
            speed(down),
        );
    }
    client
        .delete_all()
        .await
        .expect("an end to what was written");

    let folder = server.file("small");
    fs::create_dir(&folder).expect("a folder");
    for index in 0..SMALL {
        fs::write(folder.join(index.to_string()), [7; SMALL_SIZE]).expect("a file");
    }
    let (here, there) = (folder.display(), server.path("small"));
    let back = server.file("back");
    let up = time_sftp(server, at, &format!("put -R {here} {}", there.display()));
    let down = time_sftp(
        server,
        at,
        &format!("get -R {} {}", there.display(), back.display()),
    );
    println!(
        "by sftp: written {:.0}/s, read {:.0}/s",
        speed(up),
        speed(down)
    );
}

async fn write_small(client: &SftpClient, count: usize, at_once: usize) -> Duration {
    let begun = Instant::now();
    let writes = stream::iter(1..=count as u64).map(|txid| {
        let body = Body::from(vec![7; SMALL_SIZE]);
        client.write(file(txid), Timestamp::EPOCH, body)
    });
    let written = writes
        .buffer_unordered(at_once)
        .try_for_each(async |_| Ok(()));
    written.await.expect("writes");
    begun.elapsed()
}

async fn read_small(client: &SftpClient, count: usize, at_once: usize) -> Duration {
    let begun = Instant::now();
    let reads = stream::iter(1..=count as u64).map(|txid| client.read(file(txid), ByteRange::ALL));
    let read = reads.buffer_unordered(at_once).try_for_each(async |bytes| {
        assert_eq!(bytes.len(), SMALL_SIZE);
        Ok(())
    });
    read.await.expect("reads");
    begun.elapsed()
}

/// How long `sftp` takes for `command`, its login included.
fn time_sftp(server: &Sshd, at: SocketAddr, command: &str) -> Duration {
    let begun = Instant::now();
    let mut child = Command::new("sftp")
        .args(["-q", "-b", "-", "-F", "none", "-i"])
        .arg(server.file("user"))
        .args(["-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "LogLevel=ERROR"])
        .args(["-P", &at.port().to_string(), "127.0.0.1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("sftp should be installed: Debian's package is openssh-client");
    let mut input = child.stdin.take().expect("it is piped");
    writeln!(input, "{command}").expect("sftp listens");
    drop(input);
    let status = child.wait().expect("sftp ends");
    assert!(status.success(), "sftp failed: {command}");
    begun.elapsed()
}

/// Fills `path` with bytes that don't repeat soon.
fn make(path: &Path, size: u64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut file = io::BufWriter::new(File::create(path).expect("a file"));
    let mut left = size;
    while left > 0 {
        chunk.clear();
        while chunk.len() < CHUNK.min(usize::try_from(left).unwrap_or(CHUNK)) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.extend_from_slice(&state.to_le_bytes());
        }
        left -= chunk.len() as u64;
        file.write_all(&chunk).expect("space");
    }
    file.flush().expect("space");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default()
}

/// The most memory that this process has had at once: the client, and the network where there is
/// one.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}
