//! Keeps a replica small and quick to restore: puts its files together, and deletes those that
//! nothing needs any more.

mod catalogue;
mod due;
mod error;
mod keeper;
mod merge;
#[cfg(test)]
mod model;
mod options;
mod retention;

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use replica_core::{FileInfo, Level, ReplicaClient, Timestamp, Timestamps, Txid};
use tokio::time::Instant;

pub use error::UpkeepError;
pub use keeper::{UpkeepJob, UpkeepTrouble};
pub use options::{Levels, Retention, UpkeepOptions};

pub(crate) use catalogue::{Catalogue, Moment};
pub(crate) use keeper::{Keeper, Known, Told};

use due::Due;

/// Puts those files of the replica behind `client` together that it is time for at `now`, as
/// `options` say, and says which files it has made, oldest first.
///
/// A running [`Replication`](crate::Replication) does this by itself. This is for a replica that
/// none is running for: not beside one, which could make other files of the same ones. It deletes
/// nothing.
///
/// Every input is read to its end and verified. There is no local copy; memory is bounded, whatever
/// the size and number of files. Where it is dropped or fails, what it has made so far is good, and
/// it can be called again.
///
/// # Errors
///
/// Any [`UpkeepError`]. One that is about one level does not keep it from the others, and comes
/// when those are done.
pub async fn compact(
    client: &Arc<dyn ReplicaClient>,
    options: &UpkeepOptions,
    now: Timestamp,
) -> Result<Vec<FileInfo>, UpkeepError> {
    let mut catalogue = list(&**client).await?;
    let (mut made, mut failed) = (Vec::new(), None);
    for (level, interval) in options.levels.iter() {
        let worked = compact_level(client, &mut catalogue, level, interval, now);
        match worked.await {
            Ok(files) => made.extend(files),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(made),
    }
}

/// Puts all files of the level below `level` together that follow what that has, however new they
/// are, and says which files it has made, oldest first. At level 9 that is what [`snapshot`] does;
/// below level 0 there is nothing.
///
/// All that is said of [`compact`] holds here.
///
/// # Errors
///
/// Any [`UpkeepError`].
pub async fn compact_to(
    client: &Arc<dyn ReplicaClient>,
    level: Level,
) -> Result<Vec<FileInfo>, UpkeepError> {
    if level == Level::SNAPSHOT {
        return Ok(snapshot(client).await?.into_iter().collect());
    }
    let mut catalogue = list(&**client).await?;
    compact_level(
        client,
        &mut catalogue,
        level,
        Duration::ZERO,
        Timestamp::EPOCH,
    )
    .await
}

async fn compact_level(
    client: &Arc<dyn ReplicaClient>,
    catalogue: &mut Catalogue,
    level: Level,
    interval: Duration,
    now: Timestamp,
) -> Result<Vec<FileInfo>, UpkeepError> {
    let (mut made, moment) = (Vec::new(), Moment::at(now));
    while let Due::Now(merging) = due::compaction(catalogue, level, interval, moment)? {
        let info = merge::merge(client, &merging).await?;
        catalogue.add(info, moment.at);
        made.push(info);
    }
    Ok(made)
}

/// Makes a snapshot of the latest state of the replica behind `client`, from its own files: the
/// database is not needed. `None` where the latest state is one already.
///
/// All that is said of [`compact`] holds here, but that it may run beside a replication: whatever
/// that stores or makes meanwhile, the snapshot is one of the replica's states. Where files are
/// deleted before they were read, call it again.
///
/// # Errors
///
/// Any [`UpkeepError`].
pub async fn snapshot(client: &Arc<dyn ReplicaClient>) -> Result<Option<FileInfo>, UpkeepError> {
    let mut catalogue = list(&**client).await?;
    let mut made = None;
    // So many files may make up the latest state that it takes several.
    let moment = Moment::at(Timestamp::EPOCH);
    while let Due::Now(merging) = due::snapshot(&catalogue, Duration::ZERO, true, moment)? {
        let info = merge::merge(client, &merging).await?;
        catalogue.add(info, moment.at);
        made = Some(info);
    }
    Ok(made)
}

/// Lists everything. The times cost no request, and may be later than those that were given.
pub(crate) async fn list(client: &dyn ReplicaClient) -> replica_core::Result<Catalogue> {
    let begun = Instant::now();
    let mut catalogue = Catalogue::default();
    for level in Level::ALL {
        let mut files = client.list(level, Txid::FIRST, Timestamps::Fast).await?;
        while let Some(file) = files.try_next().await? {
            catalogue.add(file, begun);
        }
    }
    Ok(catalogue)
}
