//! What a replica has, and when it was made.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use ltx::{HEADER_SIZE, Header};
use replica_core::{
    Error, FileId, FileInfo, Level, ReplicaClient, ReplicaClientExt, Result, Timestamp, Timestamps,
    Txid,
};
use tokio::time::sleep;

use crate::damage::{Damage, ReadFailure, check_name};

/// How many headers are read at a time.
const HEADERS: usize = 16;

/// The files of all levels.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) files: Vec<FileInfo>,
    /// To how many milliseconds the times that the store keeps agree with those of the headers,
    /// where they do. Otherwise the times are the headers' alone.
    agreed: Option<i64>,
}

impl Listing {
    /// Lists the files. Their times are good for no decision.
    pub(crate) async fn new(client: &dyn ReplicaClient) -> Result<Listing> {
        Ok(Listing {
            files: list(client, Timestamps::Fast).await?,
            agreed: None,
        })
    }

    /// Lists the files with times that tell which of them are older than `time`.
    ///
    /// Where a store keeps a file's time is easily lost: a plain copy of a folder loses it. So the
    /// listing is believed only where the headers on either side of `time`, at each level, agree
    /// with it; otherwise every header is read.
    ///
    /// It is not believed of a file whose header can't be read, even where all its neighbours
    /// agree: what has damaged the file may have given it another time as well. A writer that is
    /// interrupted before it has set the time leaves the one of the writing, and whoever writes
    /// over a file or puts it back leaves a later one. Were that time behind `time` and the true
    /// one before it, an older state would pass for the one that was asked for.
    pub(crate) async fn around(client: &dyn ReplicaClient, time: Timestamp) -> Result<Listing> {
        let Some(resolution) = client.capabilities().timestamp_resolution else {
            let mut listing = Listing::new(client).await?;
            listing.read_headers(client).await?;
            return Ok(listing);
        };
        let resolution = i64::try_from(resolution.as_millis())
            .unwrap_or(i64::MAX)
            .max(1);
        let mut listing = Listing {
            files: list(client, Timestamps::Exact).await?,
            agreed: Some(resolution),
        };
        let doubtful = doubtful(&listing.files, time, resolution);
        let believed = match doubtful {
            None => false,
            Some(files) => listing.compare(client, files, resolution).await?,
        };
        if !believed {
            listing.read_headers(client).await?;
        }
        Ok(listing)
    }

    /// Takes every file's time from its header. A file whose header can't be read gets the time
    /// that it is not older than, so that a plan passes over it only if it is too new for certain,
    /// and otherwise whoever reads it finds what is wrong.
    pub(crate) async fn read_headers(&mut self, client: &dyn ReplicaClient) -> Result<()> {
        let files = self.files.iter().map(|file| file.id).collect();
        let times = header_times(client, files).await?;
        let known = Known::new(times.iter().map(|(file, time)| (*file, *time)));
        for file in &mut self.files {
            file.created_at = match times.get(&file.id) {
                Some(time) => *time,
                None => known.not_before(file.id),
            };
        }
        self.agreed = None;
        Ok(())
    }

    /// Whether nothing but their headers tells the times of files.
    pub(crate) fn is_from_headers(&self) -> bool {
        self.agreed.is_none()
    }

    /// The last transaction from before `time`, where the store and the headers both tell which one
    /// that is: so it is known whatever else is wrong with the files.
    pub(crate) fn last_before(&self, time: Timestamp) -> Option<Txid> {
        let resolution = self.agreed?;
        // What the store alone says of a file's time is that it is somewhere in here.
        let is_clear = |file: &FileInfo| {
            let since = file.created_at.as_millis();
            let since = since.saturating_sub(since.rem_euclid(resolution));
            let until = since.saturating_add(resolution);
            time.as_millis() <= since || until <= time.as_millis()
        };
        let (before, after): (Vec<&FileInfo>, Vec<&FileInfo>) =
            (self.files.iter()).partition(|file| file.created_at < time);
        if after.is_empty() || !self.files.iter().all(is_clear) {
            return None;
        }
        before.iter().map(|file| file.id.txids.max()).max()
    }

    /// The file that tells that no transaction after `last` is from before `time`: the next one.
    pub(crate) fn next_after(&self, last: Txid, time: Timestamp) -> Option<FileInfo> {
        let later = |file: &&FileInfo| file.created_at >= time && file.id.txids.max() > last;
        let next = self.files.iter().filter(later).min_by_key(|file| {
            let snapshot = file.id.level == Level::SNAPSHOT;
            (file.id.txids.max(), snapshot, file.size)
        });
        next.copied()
    }

    /// The time that `file` is not older than, by the other files.
    pub(crate) fn not_before(&self, file: FileId) -> Timestamp {
        let others = self.files.iter().filter(|other| other.id != file);
        Known::new(others.map(|other| (other.id, other.created_at))).not_before(file)
    }

    /// Takes the times of `files` from their headers where those are the listed ones as far as the
    /// store's resolution goes, and says whether all are. A header that can't be read agrees with
    /// nothing.
    async fn compare(
        &mut self,
        client: &dyn ReplicaClient,
        files: Vec<FileId>,
        resolution: i64,
    ) -> Result<bool> {
        let times = header_times(client, files.clone()).await?;
        let kept = |time: Timestamp| time.as_millis().div_euclid(resolution);
        let mut agree = times.len() == files.len();
        for file in &mut self.files {
            if let Some(time) = times.get(&file.id) {
                agree &= kept(*time) == kept(file.created_at);
                file.created_at = *time;
            }
        }
        Ok(agree)
    }
}

/// What the times of some files tell about those of others.
///
/// A file has the time of its last transaction, whatever its level, and transactions ascend with
/// time. Only a snapshot has the time at which it was made, which is before the next transaction.
struct Known {
    /// Transactions that are not older than a time.
    not_before: BTreeMap<u64, Timestamp>,
}

impl Known {
    fn new(times: impl Iterator<Item = (FileId, Timestamp)>) -> Known {
        let mut not_before = BTreeMap::new();
        for (file, time) in times {
            let snapshot = u64::from(file.level == Level::SNAPSHOT);
            let bounded = file.txids.max().get().saturating_add(snapshot);
            let bound = not_before.entry(bounded).or_insert(time);
            *bound = time.max(*bound);
        }
        Known { not_before }
    }

    fn not_before(&self, file: FileId) -> Timestamp {
        let bounds = self.not_before.range(..=file.txids.max().get());
        (bounds.last()).map_or(Timestamp::from_millis(i64::MIN), |(_, time)| *time)
    }
}

/// Lists one level after another, from the lowest.
///
/// A replicator may compact meanwhile: it writes to a higher level, and then deletes from the lower
/// one. What it has deleted before its level was listed is seen in the higher one, which is listed
/// later. In another order it would be seen in neither, and the latest state be silently older.
pub(crate) async fn list(
    client: &dyn ReplicaClient,
    timestamps: Timestamps,
) -> Result<Vec<FileInfo>> {
    let mut files = Vec::new();
    for level in Level::ALL {
        files.extend(client.list_all(level, Txid::FIRST, timestamps).await?);
    }
    Ok(files)
}

/// Waits until listings have all that was stored before this was called, where they lag.
pub(crate) async fn wait_for_listings(client: &dyn ReplicaClient) {
    let lag = client.capabilities().list_lag;
    if !lag.is_zero() {
        sleep(lag).await;
    }
}

/// The files whose headers tell whether the listed times are good for a decision about `time`, or
/// `None` where they are wrong in themselves: they don't ascend as the transactions do.
fn doubtful(files: &[FileInfo], time: Timestamp, resolution: i64) -> Option<Vec<FileId>> {
    let mut doubtful = Vec::new();
    for level in Level::ALL {
        let mut of_level: Vec<&FileInfo> =
            files.iter().filter(|file| file.id.level == level).collect();
        of_level.sort_unstable_by_key(|file| file.id.txids.max());
        if !of_level.is_sorted_by_key(|file| file.created_at) {
            return None;
        }
        let split = of_level.partition_point(|file| file.created_at < time);
        // A store rounds down, so what it says is from just before may be from just after.
        let unsure = time
            .as_millis()
            .saturating_sub(resolution.saturating_sub(1));
        let first = of_level.partition_point(|file| file.created_at.as_millis() < unsure);
        let around = first.min(split.saturating_sub(1))..(split + 1).min(of_level.len());
        doubtful.extend(
            of_level
                .get(around)
                .unwrap_or_default()
                .iter()
                .map(|file| file.id),
        );
    }
    Some(doubtful)
}

/// The times of those headers that can be read. Only errors that are no fault of a file fail it.
///
/// The files are in a list, because an iterator that borrows makes the future one that no other
/// thread can go on with.
async fn header_times(
    client: &dyn ReplicaClient,
    files: Vec<FileId>,
) -> Result<BTreeMap<FileId, Timestamp>> {
    stream::iter(files)
        .map(|file| async move {
            match read_header(client, file).await {
                Ok(header) => Ok(Some((file, header.timestamp()))),
                Err(ReadFailure::Damaged(_)) => Ok(None),
                Err(ReadFailure::Store(error)) => Err(error),
            }
        })
        .buffer_unordered(HEADERS)
        .try_filter_map(|read| async move { Ok(read) })
        .try_collect()
        .await
}

/// The header of `file`, which is the one of its name.
pub(crate) async fn read_header(
    client: &dyn ReplicaClient,
    file: FileId,
) -> Result<Header, ReadFailure> {
    let failed = |error: Error| ReadFailure::new(file, error);
    let bytes = client
        .read(file, (..HEADER_SIZE as u64).into())
        .await
        .map_err(failed)?;
    let header = Header::parse(&bytes).map_err(|error| Damage::new(file, error))?;
    check_name(file, &header)?;
    Ok(header)
}
