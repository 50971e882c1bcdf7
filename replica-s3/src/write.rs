//! Writing a file: in one request, or in parts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attribute, AttributeValue, Attributes, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
};
use replica_core::{Body, ByteStream, Error, ErrorKind, FileId, FileInfo, Result, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::again::Attempts;
use crate::bucket::Bucket;
use crate::fault::Fault;
use crate::list::head;
use crate::time;

/// Parts of a size that had to be larger than configured are multiples of this.
const PART_STEP: u64 = 1 << 20;

/// The largest part that S3 takes.
const PART_MAX: u64 = 5 << 30;

/// Chunks smaller than this are put together, up to [`GATHERED`] bytes.
const SMALL_CHUNK: usize = 64 << 10;
const GATHERED: usize = 1 << 20;

/// How long a failed write waits for its upload to be aborted, which goes on without it.
const ABORT_WAIT: Duration = Duration::from_secs(3);

/// What a write is told beside the file.
pub(crate) struct Settings<'a> {
    pub(crate) part_size: u64,
    pub(crate) parts_in_flight: usize,
    pub(crate) storage_class: Option<&'a str>,
}

/// Stores `body` as the file `id` at `key`.
pub(crate) async fn write(
    bucket: &Arc<Bucket>,
    key: String,
    id: FileId,
    created_at: Timestamp,
    body: Body,
    settings: Settings<'_>,
) -> Result<FileInfo> {
    let path = Path::parse(&key).map_err(|error| {
        Error::new(
            ErrorKind::Invalid,
            format!("{key:?} is no key that can be written"),
        )
        .with_source(error)
    })?;
    let attributes = attributes(created_at, settings.storage_class)?;
    let plan = Plan::new(body.size(), settings.part_size, bucket.provider.parts_max)?;
    let mut parts = Parts::new(body.into_stream(), plan);
    let first = parts.next().await?;
    let size = if parts.is_over() {
        let size = first.content_length() as u64;
        let options = PutOptions {
            attributes,
            ..PutOptions::default()
        };
        bucket
            .once
            .put_opts(&path, first, options)
            .await
            .map_err(|error| bucket.upload_error(error, "write", &key))?;
        size
    } else {
        let file = Destination {
            bucket: Arc::clone(bucket),
            key,
            path,
        };
        let upload = Upload::begin(file, attributes).await?;
        upload
            .send(first, parts, settings.parts_in_flight, created_at)
            .await?
    };
    Ok(FileInfo {
        id,
        size,
        created_at,
    })
}

fn attributes(created_at: Timestamp, storage_class: Option<&str>) -> Result<Attributes> {
    let mut attributes = Attributes::new();
    attributes.insert(
        Attribute::Metadata(time::CREATED_AT.into()),
        time::format(created_at)?.into(),
    );
    if let Some(class) = storage_class {
        attributes.insert(
            Attribute::StorageClass,
            AttributeValue::from(class.to_owned()),
        );
    }
    Ok(attributes)
}

/// How a file is cut: into parts of one size, as some stores demand, but for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    part_size: u64,
    parts_max: u32,
}

impl Plan {
    /// The plan for a file of `size` bytes, where that is known. A file whose size is not can
    /// have as many parts of the size that is configured as the store takes.
    fn new(size: Option<u64>, part_size: u64, parts_max: u32) -> Result<Plan> {
        let needed = size
            .unwrap_or(0)
            .div_ceil(u64::from(parts_max).max(1))
            .next_multiple_of(PART_STEP);
        if needed > PART_MAX {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "a file of {} bytes is too large for the store, which takes {parts_max} parts of 5 GiB",
                    size.unwrap_or(0)
                ),
            ));
        }
        Ok(Plan {
            part_size: part_size.max(needed),
            parts_max,
        })
    }
}

/// A body, cut into parts.
struct Parts {
    body: ByteStream,
    plan: Plan,
    /// What was read beyond the last part. Empty only at the end of the body.
    ahead: Bytes,
    /// How many parts were cut.
    cut: u32,
}

impl Parts {
    fn new(body: ByteStream, plan: Plan) -> Parts {
        Parts {
            body,
            plan,
            ahead: Bytes::new(),
            cut: 0,
        }
    }

    /// Whether the last part was the last of the body.
    fn is_over(&self) -> bool {
        self.ahead.is_empty()
    }

    /// The next part, which is empty only where the body is.
    async fn next(&mut self) -> Result<PutPayload> {
        if self.cut == self.plan.parts_max {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "a body of unknown size can have {} parts of {} bytes, and this one is larger: say its size, or make the parts larger",
                    self.plan.parts_max, self.plan.part_size
                ),
            ));
        }
        self.cut += 1;
        let mut part = Gathered::default();
        let mut room = usize::try_from(self.plan.part_size).unwrap_or(usize::MAX);
        loop {
            let taken = self.ahead.split_to(self.ahead.len().min(room));
            room -= taken.len();
            part.push(taken);
            if !self.ahead.is_empty() {
                return Ok(part.into_payload());
            }
            // Goes on behind a part that is full: to know whether it was the last.
            match self.body.try_next().await? {
                Some(chunk) => self.ahead = chunk,
                None => return Ok(part.into_payload()),
            }
        }
    }
}

/// Bytes as they came, but for small chunks, which are put together.
#[derive(Default)]
struct Gathered {
    pieces: Vec<Bytes>,
    small: BytesMut,
}

impl Gathered {
    fn push(&mut self, chunk: Bytes) {
        if chunk.len() >= SMALL_CHUNK {
            self.flush();
            self.pieces.push(chunk);
            return;
        }
        self.small.extend_from_slice(&chunk);
        if self.small.len() >= GATHERED {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(std::mem::take(&mut self.small).freeze());
        }
    }

    fn into_payload(mut self) -> PutPayload {
        self.flush();
        self.pieces.into_iter().collect()
    }
}

/// What an upload becomes.
#[derive(Clone)]
struct Destination {
    bucket: Arc<Bucket>,
    key: String,
    path: Path,
}

/// An upload that is aborted unless it is completed: a write that does not end leaves no trace.
///
/// What has to outlive a dropped write runs on the runtime that the write ran on.
struct Upload {
    file: Destination,
    id: Option<String>,
    runtime: Handle,
}

impl Upload {
    /// Begins an upload. Where nobody waits for it any more when it has begun, it is aborted.
    async fn begin(file: Destination, attributes: Attributes) -> Result<Upload> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Other, "S3 needs the Tokio runtime").with_source(error)
        })?;
        let (tell, told) = oneshot::channel();
        let task = {
            let (file, runtime) = (file.clone(), runtime.clone());
            async move {
                let options = PutMultipartOptions {
                    attributes,
                    ..PutMultipartOptions::default()
                };
                let begun = file
                    .bucket
                    .once
                    .create_multipart_opts(&file.path, options)
                    .await
                    .map_err(|error| file.bucket.upload_error(error, "write", &file.key))
                    .map(|id| Upload {
                        file,
                        id: Some(id),
                        runtime,
                    });
                // An upload that nobody takes is dropped, and so aborted.
                drop(tell.send(begun));
            }
        };
        runtime.spawn(task);
        told.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "the runtime was shut down during the write",
            ))
        })
    }

    /// Sends all parts and completes the upload, or aborts it. Gives the size of the file.
    async fn send(
        mut self,
        first: PutPayload,
        parts: Parts,
        parts_in_flight: usize,
        created_at: Timestamp,
    ) -> Result<u64> {
        match self
            .try_send(first, parts, parts_in_flight, created_at)
            .await
        {
            Ok(size) => {
                self.id = None;
                Ok(size)
            }
            Err(error) => {
                if let Some(aborting) = self.abort() {
                    // Whatever comes of it, the error is that of the write.
                    drop(tokio::time::timeout(ABORT_WAIT, aborting).await);
                }
                Err(error)
            }
        }
    }

    async fn try_send(
        &self,
        first: PutPayload,
        parts: Parts,
        parts_in_flight: usize,
        created_at: Timestamp,
    ) -> Result<u64> {
        let Some(id) = &self.id else { return Ok(0) };
        let Destination { bucket, key, path } = &self.file;
        let rest = stream::try_unfold(parts, |mut parts| async move {
            if parts.is_over() {
                return Ok(None);
            }
            Ok(Some((parts.next().await?, parts)))
        });
        let mut sent: Vec<Sent> = stream::iter([Ok(first)])
            .chain(rest)
            .zip(stream::iter(0..).map(Ok::<usize, Error>))
            .map(|(part, index)| Ok::<_, Error>((part?, index?)))
            .map_ok(|(part, index)| self.spawn_part(id.clone(), index, part))
            // One that takes long holds back none of the others.
            .try_buffer_unordered(parts_in_flight)
            .try_collect()
            .await?;
        sent.sort_unstable_by_key(|part| part.index);
        let size = sent.iter().map(|part| part.size).sum();
        let sent: Vec<PartId> = sent.into_iter().map(|part| part.id).collect();
        let count = sent.len();
        match bucket.again.complete_multipart(path, id, sent).await {
            Ok(_) => Ok(size),
            Err(error) => {
                let fault = Fault::within(&error);
                // The first answer may have been lost, and with it that all went well.
                if fault.is_some_and(|fault| fault.has_code(&["NoSuchUpload"]))
                    && self.is_stored(size, created_at, count).await
                {
                    return Ok(size);
                }
                Err(bucket.upload_error(error, "write", key))
            }
        }
    }

    /// Sends a part in a task of its own: each is hashed for its signature, and one thread alone
    /// would be slower at that than many a network.
    async fn spawn_part(&self, id: String, index: usize, part: PutPayload) -> Result<Sent> {
        let Destination { bucket, key, path } = self.file.clone();
        let task = self.runtime.spawn(async move {
            let size = part.content_length() as u64;
            let mut attempts = Attempts::begin();
            loop {
                let sent = bucket.once.put_part(&path, &id, index, part.clone());
                let error = match sent.await {
                    Ok(id) => return Ok(Sent { index, id, size }),
                    Err(error) => error,
                };
                let is_again = match Fault::within(&error) {
                    Some(fault) => attempts.wait(&fault).await,
                    None => false,
                };
                if !is_again {
                    return Err(bucket.upload_error(error, "write", &key));
                }
            }
        });
        Sending(task).await
    }

    /// Whether the store has a file like the one that was sent, made of as many parts.
    async fn is_stored(&self, size: u64, created_at: Timestamp, parts: usize) -> bool {
        let Destination { bucket, key, .. } = &self.file;
        match head(bucket, key).await {
            Ok(Some(head)) => {
                head.size == size
                    && head.created_at == Some(created_at)
                    && head.parts == Some(parts)
            }
            _ => false,
        }
    }

    /// Begins to abort the upload, unless that was begun before or it is complete.
    fn abort(&mut self) -> Option<JoinHandle<()>> {
        let id = self.id.take()?;
        let Destination { bucket, path, .. } = self.file.clone();
        Some(self.runtime.spawn(async move {
            // An upload that can't be aborted is left to the rule that aborts incomplete uploads,
            // or to `delete_all`.
            drop(bucket.patient.abort_multipart(&path, &id).await);
        }))
    }
}

/// A part that the store has.
struct Sent {
    index: usize,
    id: PartId,
    size: u64,
}

/// The task that sends a part, which ends with whoever waits for it.
struct Sending(JoinHandle<Result<Sent>>);

impl Future for Sending {
    type Output = Result<Sent>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(ended.unwrap_or_else(|error| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "the runtime was shut down during the write",
            )
            .with_source(error))
        }))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        drop(self.abort());
    }
}
