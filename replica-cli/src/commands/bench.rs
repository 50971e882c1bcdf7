//! `replica bench`

use std::ffi::OsString;
use std::future::{poll_fn, ready};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use futures::stream::{self, StreamExt, TryStreamExt};
use replica::{
    Body, FileId, FileInfo, Level, Location, ReplicaClient, Timestamp, Timestamps, Txid, TxidRange,
};
use serde_json::{Value, json};

use crate::leftovers::Leftovers;
use crate::output;
use crate::status::{Failure, Status, with_exit_statuses};
use crate::workplace::workplace;

const EXAMPLES: &str = "\
Examples:
  replica bench s3://bucket/prefix
  replica bench -size 1024 -files 1000 sftp://me@host/backups
  replica bench -concurrency 1 -json /mnt/nas/backups";

/// Measure how fast a store is for replicas
///
/// Writes, reads, lists and deletes one large file, as a snapshot is, and many small ones, as
/// transactions are, under a fresh random name below REPLICA; cleans up after itself and touches
/// nothing else there. Their bytes are random, so that nobody on the way makes them fewer. Every
/// operation goes the way of a replica's own, through the same layers.
///
/// Of the small files p50 is the time that half of them took at most, and p99 the time that 99 of
/// 100 did. For a listing, waiting is the part of its time in which the command had nothing to do
/// until more came from the store.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct BenchArgs {
    /// Where the store is: an existing folder, or a URL such as s3://bucket/prefix or
    /// sftp://user@host/path, below which the command may write
    #[arg(value_name = "REPLICA")]
    place: OsString,

    /// How large the large file is, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = up_to(1 << 20))]
    size: u64,

    /// How many small files there are
    #[arg(long, value_name = "NUMBER", default_value_t = 200, value_parser = up_to(1_000_000))]
    files: u64,

    /// How large a small file is, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 16, value_parser = up_to(1 << 10))]
    file_size: u64,

    /// How many small files are under way at once
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = up_to(1_000))]
    concurrency: u64,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn up_to(max: u64) -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(1..=max)
}

impl BenchArgs {
    pub(crate) async fn run(self, leftovers: &mut Leftovers) -> Result<Status, Failure> {
        let location = workplace(&self.place).await?;
        let namespace = leftovers.namespace(&location, "bench", false)?;
        let client = location
            .join(&namespace)
            .open()
            .map_err(|error| Failure::of(Status::Usage, &error))?;
        let bench = Bench {
            client,
            content: Content::random(),
            created_at: Timestamp::from_system_time(SystemTime::now()).unwrap_or(Timestamp::EPOCH),
            large: self.size << 20,
            small: self.file_size << 10,
            ids: small_files(self.files),
            concurrency: usize::try_from(self.concurrency).unwrap_or(usize::MAX),
        };
        let mut measured = Vec::new();
        if !self.json {
            print_heading(&location)?;
        }
        for operation in Operation::ALL {
            let measure = bench
                .run(operation)
                .await
                .map_err(|error| Failure::of(Status::Failed, &error))?;
            if self.json {
                measured.push(measure.to_json());
            } else {
                measure.print()?;
            }
        }
        if self.json {
            let mut out = output::stdout();
            output::write_json(
                &mut out,
                &json!({
                    "source": location.to_string(),
                    "replica": location.scheme(),
                    "size": bench.large,
                    "files": self.files,
                    "file_size": bench.small,
                    "concurrency": self.concurrency,
                    "operations": measured,
                }),
            )?;
            out.flush()?;
        }
        Ok(Status::Done)
    }
}

/// The one file of the level of snapshots.
const LARGE: FileId = FileId {
    level: Level::SNAPSHOT,
    txids: TxidRange::single(Txid::FIRST),
};

/// So many transactions, each in a file.
fn small_files(count: u64) -> Vec<FileId> {
    (1..=count)
        .filter_map(Txid::new)
        .map(|txid| FileId {
            level: Level::RAW,
            txids: TxidRange::single(txid),
        })
        .collect()
}

/// What is measured, in this order.
#[derive(Clone, Copy)]
enum Operation {
    WriteLarge,
    ReadLarge,
    WriteSmall,
    ReadSmall,
    List(Timestamps),
    Delete,
}

impl Operation {
    const ALL: [Operation; 7] = [
        Operation::WriteLarge,
        Operation::ReadLarge,
        Operation::WriteSmall,
        Operation::ReadSmall,
        Operation::List(Timestamps::Fast),
        Operation::List(Timestamps::Exact),
        Operation::Delete,
    ];

    fn name(self) -> &'static str {
        match self {
            Operation::WriteLarge => "write one",
            Operation::ReadLarge => "read one",
            Operation::WriteSmall => "write many",
            Operation::ReadSmall => "read many",
            Operation::List(Timestamps::Fast) => "list",
            Operation::List(Timestamps::Exact) => "list, exact",
            Operation::Delete => "delete",
        }
    }
}

/// A store and what is done with it.
struct Bench {
    client: Arc<dyn ReplicaClient>,
    content: Content,
    created_at: Timestamp,
    large: u64,
    small: u64,
    ids: Vec<FileId>,
    concurrency: usize,
}

impl Bench {
    async fn run(&self, operation: Operation) -> Result<Measure, replica::Error> {
        let begun = Instant::now();
        let (mut files, mut bytes) = (1, 0);
        let (mut times, mut waiting) = (Vec::new(), None);
        match operation {
            Operation::WriteLarge => {
                bytes = self.write(LARGE, self.large).await?.size;
            }
            Operation::ReadLarge => bytes = self.read(LARGE).await?,
            Operation::WriteSmall => {
                let write = async |id| Ok(self.write(id, self.small).await?.size);
                (bytes, times) = self.each(write).await?;
                files = times.len();
            }
            Operation::ReadSmall => {
                (bytes, times) = self.each(async |id| self.read(id).await).await?;
                files = times.len();
            }
            Operation::List(timestamps) => {
                let (listed, busy) = busy_time(self.list(timestamps)).await;
                files = listed?;
                waiting = Some(begun.elapsed().saturating_sub(busy));
            }
            Operation::Delete => {
                self.client.delete(&[LARGE]).await?;
                self.client.delete(&self.ids).await?;
                files = 1 + self.ids.len();
            }
        }
        Ok(Measure {
            operation,
            files,
            bytes,
            time: begun.elapsed(),
            times,
            waiting,
        })
    }

    /// Does something with each small file, several at once, and gives the sum of what came of
    /// it, and the times it took, in order.
    async fn each(
        &self,
        act: impl AsyncFn(FileId) -> Result<u64, replica::Error>,
    ) -> Result<(u64, Vec<Duration>), replica::Error> {
        let act = &act;
        let mut done = stream::iter(&self.ids)
            .map(|id| async move {
                let begun = Instant::now();
                Ok::<_, replica::Error>((act(*id).await?, begun.elapsed()))
            })
            .buffer_unordered(self.concurrency);
        let (mut sum, mut times) = (0, Vec::new());
        while let Some((amount, time)) = done.try_next().await? {
            sum += amount;
            times.push(time);
        }
        times.sort_unstable();
        Ok((sum, times))
    }

    async fn write(&self, id: FileId, size: u64) -> Result<FileInfo, replica::Error> {
        let body = self.content.body(id.txids.min(), size);
        self.client.write(id, self.created_at, body).await
    }

    /// Reads a file to its end, and gives its size.
    async fn read(&self, id: FileId) -> Result<u64, replica::Error> {
        let bytes = self.client.open(id, (..).into()).await?;
        bytes
            .try_fold(0, |size, chunk| ready(Ok(size + chunk.len() as u64)))
            .await
    }

    async fn list(&self, timestamps: Timestamps) -> Result<usize, replica::Error> {
        let files = self
            .client
            .list(Level::RAW, Txid::FIRST, timestamps)
            .await?;
        files.try_fold(0, |count, _| ready(Ok(count + 1))).await
    }
}

/// What came of an operation.
struct Measure {
    operation: Operation,
    files: usize,
    /// Of the content that was written or read.
    bytes: u64,
    time: Duration,
    /// How long each of the small files took, in order.
    times: Vec<Duration>,
    /// How much of the time there was nothing to do.
    waiting: Option<Duration>,
}

impl Measure {
    /// The share of a listing's time in which it waited, from 0 to 1.
    fn waiting_share(&self) -> Option<f64> {
        let time = self.time.as_secs_f64().max(f64::MIN_POSITIVE);
        Some(self.waiting?.as_secs_f64() / time)
    }

    /// The time that this share of the small files took at most.
    fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.times.len() * percent).div_ceil(100);
        self.times.get(rank.checked_sub(1)?).copied()
    }

    fn per_second(&self, amount: f64) -> f64 {
        amount / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn mib_per_second(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.per_second(self.bytes as f64 / (1 << 20) as f64))
    }

    fn print(&self) -> io::Result<()> {
        let rate = match (self.files, self.mib_per_second()) {
            (1, Some(rate)) => format!("{rate:.1} MiB/s"),
            _ => format!("{:.0} files/s", self.per_second(self.files as f64)),
        };
        let size = match self.bytes {
            0 => String::new(),
            bytes => output::size(bytes),
        };
        let time = |time: Option<Duration>| time.map(output::time).unwrap_or_default();
        let waiting = self.waiting_share();
        print_row([
            self.operation.name(),
            &self.files.to_string(),
            &size,
            &output::time(self.time),
            &rate,
            &time(self.percentile(50)),
            &time(self.percentile(99)),
            &waiting
                .map(|share| format!("{:.0} %", 100.0 * share))
                .unwrap_or_default(),
        ])
    }

    fn to_json(&self) -> Value {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        json!({
            "operation": self.operation.name(),
            "files": self.files,
            "bytes": self.bytes,
            "seconds": self.time.as_secs_f64(),
            "files_per_second": self.per_second(self.files as f64),
            "mib_per_second": self.mib_per_second(),
            "p50_seconds": seconds(self.percentile(50)),
            "p99_seconds": seconds(self.percentile(99)),
            "waiting_seconds": seconds(self.waiting),
        })
    }
}

fn print_heading(location: &Location) -> io::Result<()> {
    writeln!(output::stdout(), "{location}")?;
    print_row([
        "operation",
        "files",
        "size",
        "time",
        "rate",
        "p50",
        "p99",
        "waiting",
    ])
}

/// Prints a row of the table, which is seen at once.
fn print_row(cells: [&str; 8]) -> io::Result<()> {
    let [operation, files, size, time, rate, p50, p99, waiting] = cells;
    let row = format!(
        "{operation:<11}  {files:>7}  {size:>10}  {time:>9}  {rate:>14}  {p50:>8}  {p99:>8}  \
         {waiting:>7}"
    );
    let mut out = output::stdout();
    writeln!(out, "{}", row.trim_end())?;
    out.flush()
}

/// What `work` gives, and the time in which it was not waiting.
async fn busy_time<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let mut work = pin!(work);
    let mut busy = Duration::ZERO;
    let done = poll_fn(|context| {
        let begun = Instant::now();
        let step = work.as_mut().poll(context);
        busy += begun.elapsed();
        step
    });
    (done.await, busy)
}

/// Random bytes without an end: a block of them, begun at another place each time.
#[derive(Clone)]
struct Content(Bytes);

impl Content {
    /// More than compressors and those who look for copies remember.
    const BLOCK: usize = 8 << 20;
    /// How much is given at once.
    const PIECE: usize = 256 << 10;
    /// From where one piece begins to where the next one does: prime, so that no two of millions
    /// begin at the same place.
    const STRIDE: u64 = 2_654_435_761;

    fn random() -> Content {
        let random = RandomState::new();
        let words = (0..Content::BLOCK / 8).flat_map(|index| random.hash_one(index).to_le_bytes());
        Content(words.collect::<Vec<_>>().into())
    }

    /// The content of a file, which is another one for each transaction.
    fn body(&self, txid: Txid, size: u64) -> Body {
        let Content(block) = self.clone();
        Body::reopenable(size, move || {
            let block = block.clone();
            let first = txid.get().wrapping_mul(Content::STRIDE);
            let pieces = (0..size).step_by(Content::PIECE).map(move |at| {
                let number = at / Content::PIECE as u64;
                let start = first.wrapping_add(number.wrapping_mul(Content::STRIDE));
                let start = (start % (Content::BLOCK - Content::PIECE) as u64) as usize;
                let len = (size - at).min(Content::PIECE as u64) as usize;
                Ok(block.slice(start..start + len))
            });
            ready(Ok(stream::iter(pieces).boxed()))
        })
    }
}
