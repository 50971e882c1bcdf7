//! Copies a replica to another place, each file with its time: `copy FROM TO`.

use std::error::Error;
use std::sync::Arc;

use futures::TryStreamExt;
use replica::{FileInfo, Level, ReplicaClient, Timestamps, Txid};
use replica_core::Body;

/// Files under way at once.
const IN_FLIGHT: usize = 8;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(from), Some(to), None) = (args.next(), args.next(), args.next()) else {
        return Err("usage: copy FROM TO, two URLs".into());
    };
    let (from, to) = (replica::open(&from)?, replica::open(&to)?);
    for level in Level::ALL {
        let listed = from.list(level, Txid::FIRST, Timestamps::Exact).await?;
        listed
            .map_ok(|file| copy(from.clone(), to.clone(), file))
            .try_buffer_unordered(IN_FLIGHT)
            .try_for_each(|()| async { Ok(()) })
            .await?;
    }
    Ok(())
}

/// Copies one file. A broken write can be tried again, because its source can be opened again.
async fn copy(
    from: Arc<dyn ReplicaClient>,
    to: Arc<dyn ReplicaClient>,
    file: FileInfo,
) -> replica::Result<()> {
    let id = file.id;
    let body = Body::reopenable(file.size, move || {
        let from = from.clone();
        async move { from.open(id, (..).into()).await }
    });
    to.write(id, file.created_at, body).await.map(drop)
}
