//! Files larger than a part, and what the small ones cost.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{Body, ByteRange, ByteStream, FileId, Level};

use super::{Gate, NOON, SETTLING, content, ok, raw};
use crate::attempt::spawn;
use crate::store::{Client, Store};

const MIB: u64 = 1 << 20;

/// A content too large to keep twice: blocks that are pieces of one pattern.
#[derive(Clone)]
struct Large {
    pattern: Bytes,
    len: u64,
}

impl Large {
    const BLOCK: usize = 256 * 1024;

    fn new(len: u64, tag: u64) -> Large {
        Large {
            pattern: content(2 * Large::BLOCK, tag),
            len,
        }
    }

    fn blocks(&self) -> impl Iterator<Item = Bytes> + Send + 'static {
        let (pattern, len) = (self.pattern.clone(), self.len);
        (0..len.div_ceil(Large::BLOCK as u64)).map(move |number| {
            // No two blocks near each other are the same.
            let start = (number * 4_099 % Large::BLOCK as u64) as usize;
            let left = len - number * Large::BLOCK as u64;
            let size = left.min(Large::BLOCK as u64) as usize;
            pattern.slice(start..start + size)
        })
    }

    fn stream(&self) -> ByteStream {
        stream::iter(self.blocks().map(Ok)).boxed()
    }

    /// Panics unless `found` is this content, of which it keeps no more than a block.
    async fn check(&self, mut found: ByteStream) {
        let mut wanted = Bytes::new();
        let mut blocks = self.blocks();
        let mut position = 0;
        while let Some(mut chunk) = ok(found.try_next().await, "reading a large file") {
            while !chunk.is_empty() {
                if wanted.is_empty() {
                    wanted = blocks.next().expect("no more bytes come than were written");
                }
                let size = chunk.len().min(wanted.len());
                assert!(
                    chunk.split_to(size) == wanted.split_to(size),
                    "the bytes {position} to {} are others than were written",
                    position + size as u64
                );
                position += size as u64;
            }
        }
        assert_eq!(position, self.len, "the stream ended without an error");
    }
}

async fn check(client: &Client, file: FileId, large: &Large, body: Body, what: &str) {
    let written = ok(client.write(file, NOON, body).await, what);
    assert_eq!(written.size, large.len, "{what}");

    let listed = client.must_list(Level::RAW).await;
    assert_eq!(
        listed.last().map(|info| info.size),
        Some(large.len),
        "{what}"
    );
    large
        .check(ok(client.open(file, ByteRange::ALL).await, what))
        .await;
    client.must_delete(&[file]).await;
}

pub(crate) async fn sizes_around_a_part(store: Store) {
    let client = store.client().await;
    // Nobody knows how large this store's parts are: these are the sizes that stores have.
    for part in [5 * MIB, 8 * MIB] {
        for size in [part - 1, part, part + 1, 2 * part, 2 * part + 1] {
            let large = Large::new(size, size);
            let known = Body::once(size, large.stream());
            check(&client, raw(1), &large, known, &format!("{size} bytes")).await;
            let unknown = Body::once(None, large.stream());
            check(
                &client,
                raw(1),
                &large,
                unknown,
                &format!("{size} bytes, not told before"),
            )
            .await;
        }
    }
}

pub(crate) async fn a_large_file_streams_through(store: Store) {
    let client = store.client().await;
    let large = Large::new(100 * MIB + 1, 7);

    let reopened = {
        let large = large.clone();
        Body::reopenable(large.len, move || {
            let stream = large.stream();
            async move { Ok(stream) }
        })
    };
    check(&client, raw(1), &large, reopened, "100 MiB").await;
}

pub(crate) async fn a_small_range_costs_little(store: Store) {
    const SMALL: u64 = 64 * 1024;
    let client = store.client().await;
    for (file, len) in [(raw(1), 32 * MIB), (raw(2), SMALL)] {
        let large = Large::new(len, 3);
        let written = client
            .write(file, NOON, Body::once(len, large.stream()))
            .await;
        ok(written, "the write");
    }

    let (mut whole, mut part, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..9 {
        if round % 3 == 0 {
            whole.push(time_to_read(&client, raw(1), ByteRange::ALL, 32 * MIB).await);
        }
        let start = round * 3 * MIB + 1;
        part.push(time_to_read(&client, raw(1), (start..start + SMALL).into(), SMALL).await);
        alone.push(time_to_read(&client, raw(2), ByteRange::ALL, SMALL).await);
    }

    for times in [&mut whole, &mut part, &mut alone] {
        times.sort_unstable();
    }
    let (whole, part, alone) = (whole[1], part[4], alone[4]);
    let told = format!(
        "64 KiB of 32 MiB took {part:.1?}, as a file of its own {alone:.1?}, and all of it {whole:.1?}"
    );
    assert!(
        part < alone + whole.mul_f64(0.3),
        "a part costs nearly as much as all: {told}"
    );
    store.note(told);
}

/// How long the thread's own clock says that reading a range takes, of which `size` bytes come.
async fn time_to_read(client: &Client, file: FileId, range: ByteRange, size: u64) -> Duration {
    let started = Instant::now();
    let mut stream = ok(client.open(file, range).await, "the open");
    let mut count = 0;
    while let Some(chunk) = ok(stream.try_next().await, "the read") {
        count += chunk.len() as u64;
    }
    assert_eq!(count, size, "{range}");
    started.elapsed()
}

pub(crate) async fn small_writes_in_flight_cost_little(store: Store) {
    const WRITES: u64 = 16;
    /// Between 1 KiB and the smallest part buffer that a store would take, 5 MiB.
    const EACH: u64 = 3 * MIB;
    let client = store.client().await;
    let small = content(1024, 1);
    client.must_write(raw(100), &small).await;

    // Other cases take and give memory at the same time, but not so much whenever this one looks.
    // What was taken and given back before is taken again without growing, and so each look is at
    // more writes than the one before.
    let mut grown = Vec::new();
    for look in 1..=3 {
        grown.push(memory_of_writes(&client, &small, look * WRITES).await / WRITES);
        client.wait(SETTLING).await;
    }

    if resident_bytes().is_none() {
        store.note("this platform does not tell how much memory a process has");
    }
    grown.sort_unstable();
    assert!(
        grown[1] < EACH,
        "a write of 1 KiB takes {} KiB of memory",
        grown[1] / 1024
    );
    assert_eq!(client.names(Level::RAW).await.len() as u64, 3 * WRITES + 1);
}

/// By how much this process grows while so many writes are under way; zero where the platform
/// does not tell.
async fn memory_of_writes(client: &Client, small: &Bytes, writes: u64) -> u64 {
    let before = resident_bytes();
    let mut under_way = Vec::new();
    for number in 1..=writes {
        let (body, mut gate) = Gate::body(small, 1023);
        let client = client.clone();
        let write = spawn(async move { client.write(raw(number), NOON, body).await });
        // A client that makes fewer calls at once than there are here lets the others wait.
        let _ = tokio::time::timeout(Duration::from_millis(50), gate.reached()).await;
        under_way.push((write, gate));
    }
    let in_flight = resident_bytes();
    for (write, gate) in under_way {
        gate.open();
        ok(write.await, "one of many small writes");
    }
    in_flight
        .zip(before)
        .map_or(0, |(after, before)| after.saturating_sub(before))
}

/// How much memory this process has, where the platform tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
