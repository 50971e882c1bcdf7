//! Writing: a body in batches, each handed to a blocking thread while the next one is gathered.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::future::{Either, select};
use replica_core::{Body, ByteStream, FileId, FileInfo, Result, Timestamp};

use crate::blocking::{Caller, Work};
use crate::root::Root;
use crate::staged::Staged;

/// How many bytes are gathered before a blocking thread writes them. A body that is not longer
/// is written in a single hop.
const BATCH: usize = 1 << 20;

/// Chunks shorter than this are copied together: their bookkeeping would outweigh their bytes.
const SMALL: usize = 16 << 10;

pub(crate) async fn write(
    root: Arc<Root>,
    id: FileId,
    created_at: Timestamp,
    body: Body,
) -> Result<FileInfo> {
    let (_waiting, caller) = Caller::new();
    let mut body = body.into_stream();
    let (mut staged, mut syncing) = (None, None);
    let mut batch = gather(&mut body).await?;
    while !batch.is_last {
        let writing = {
            let (root, caller) = (Arc::clone(&root), caller.clone());
            Work::spawn(move || {
                let mut staged = staged.map_or_else(|| Staged::create(&root, id, &caller), Ok)?;
                staged.write(&batch.pieces, &caller)?;
                Ok(staged)
            })
        };
        // A full disk is told although the body stalls. The other way round the write is waited
        // for, so that nothing is left when the error of a body is returned.
        let (mut written, gathered) = match select(writing, pin!(gather(&mut body))).await {
            Either::Left((written, gathering)) => (written?, gathering.await?),
            Either::Right((gathered, writing)) => (writing.await?, gathered?),
        };
        if let Some(sync) = written.sync() {
            finished(&mut syncing).await?;
            syncing = Some(Work::spawn(sync));
        }
        (staged, batch) = (Some(written), gathered);
    }
    finished(&mut syncing).await?;
    Work::spawn(move || {
        let mut staged = staged.map_or_else(|| Staged::create(&root, id, &caller), Ok)?;
        staged.write(&batch.pieces, &caller)?;
        staged.publish(created_at, &caller)
    })
    .await
}

/// Waits for the sync that was begun last, if there is one.
async fn finished(syncing: &mut Option<Work<()>>) -> Result<()> {
    match syncing.take() {
        Some(sync) => sync.await,
        None => Ok(()),
    }
}

struct Batch {
    pieces: Vec<Bytes>,
    is_last: bool,
}

/// The next bytes of `body`: at least [`BATCH`] of them, or all that are left.
async fn gather(body: &mut ByteStream) -> Result<Batch> {
    let mut pieces = Vec::new();
    let mut small = BytesMut::new();
    let mut size = 0;
    while size < BATCH {
        let Some(chunk) = body.try_next().await? else {
            pieces.push(small.freeze());
            return Ok(Batch {
                pieces,
                is_last: true,
            });
        };
        size += chunk.len();
        if chunk.len() < SMALL {
            small.extend_from_slice(&chunk);
        } else {
            pieces.push(small.split().freeze());
            pieces.push(chunk);
        }
    }
    pieces.push(small.freeze());
    Ok(Batch {
        pieces,
        is_last: false,
    })
}
