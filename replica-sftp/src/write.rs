//! Writing: a temporary file beside the one it is to become, filled by many requests at once.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use replica_core::{Body, Error, ErrorKind, FileId, FileInfo, Result, Timestamp};
use tokio::time::Instant;

use crate::classify::classify;
use crate::connection::{Answer, Failure, Handle, Leftover, Pending};
use crate::pool::Call;
use crate::replace;
use crate::root::{Root, is_merely_missing, lineage};
use crate::temporary::temporary;
use crate::wire::{Kind, Request, Status};

/// How many bytes of a file are under way at once: as much as fits into a connection whose
/// answers take a while.
const WINDOW: usize = 4 << 20;

/// How many bytes are written at once on a slow line: their answers are all that tells that the
/// server is getting on.
const PIECE_MIN: usize = 32 << 10;

/// How soon a piece is answered on a line that is not slow.
const QUICK: Duration = Duration::from_millis(250);

/// Chunks shorter than this are copied together: a request for each would outweigh them.
const SMALL: usize = 32 << 10;

/// How many bytes are written before they are brought to the disk. So no sync has so much to do
/// that the server seems to stand still, or that all of [`WINDOW`] waits for it for long.
const SYNC_EVERY: usize = 16 << 20;

/// The permissions of files and folders: a backup is for its owner.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// How often folders that are deleted while they are being made are made again.
const MAKE_ATTEMPTS: usize = 16;

/// Stores `body` as the file `id`, on the connection of `call`.
pub(crate) async fn write(
    call: Call,
    root: &Root,
    id: FileId,
    created_at: Timestamp,
    body: Body,
    atomic_replace: bool,
) -> Result<FileInfo> {
    let seconds = seconds(created_at)?;
    let mut staged = Staged::create(call, root, id).await?;
    let filled = match staged.fill(body).await {
        Ok(()) => staged.settle(seconds).await,
        Err(error) => Err(error),
    };
    if let Err(error) = filled {
        staged.discard().await;
        return Err(error);
    }
    let size = staged.size;
    replace::publish(staged, atomic_replace).await?;
    Ok(FileInfo {
        id,
        size,
        created_at: Timestamp::from_millis(i64::from(seconds) * 1000),
    })
}

/// The protocol's form of a time: whole seconds, up to the year 2106.
fn seconds(created_at: Timestamp) -> Result<u32> {
    u32::try_from(created_at.as_millis().div_euclid(1000)).map_err(|_| {
        Error::new(
            ErrorKind::Invalid,
            format!("SFTP has no form for the time {created_at}: it knows 1970 to 2106"),
        )
    })
}

/// A temporary file that disappears unless it is published, and puts back what was moved out of its
/// way: an unfinished write leaves no trace.
pub(crate) struct Staged {
    pub(crate) call: Call,
    pub(crate) temporary: String,
    /// Where it is to be.
    pub(crate) target: String,
    /// Whether there may be such a file.
    is_there: bool,
    /// Where the file is that was moved out of its way, if one was.
    aside: Option<String>,
    handle: Option<Handle>,
    size: u64,
    acks: FuturesUnordered<Ack>,
    /// How many bytes are written at once.
    piece_max: usize,
    /// How many bytes the server has not acknowledged.
    unacked: usize,
    /// How many bytes were sent since the last sync.
    unsynced: usize,
}

/// What is to be heard of a piece that was sent.
struct Ack {
    pending: Pending,
    len: usize,
    sent_at: Instant,
}

/// What was heard of a piece, and how soon.
struct Acked {
    result: Result<(), Failure>,
    len: usize,
    took: Duration,
}

impl Future for Ack {
    type Output = Acked;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Acked> {
        let answer = ready!(Pin::new(&mut self.pending).poll(cx));
        Poll::Ready(Acked {
            result: answer.done(),
            len: self.len,
            took: self.sent_at.elapsed(),
        })
    }
}

impl Staged {
    /// Makes an empty temporary file in the folder of `id`'s level, which is made where it is
    /// missing.
    async fn create(call: Call, root: &Root, id: FileId) -> Result<Staged> {
        let target = root.file(id);
        let piece_max = PIECE_MIN.min(call.limits.write as usize);
        let mut staged = Staged {
            call,
            piece_max,
            temporary: temporary(&target),
            target,
            is_there: true,
            aside: None,
            handle: None,
            size: 0,
            acks: FuturesUnordered::new(),
            unacked: 0,
            unsynced: 0,
        };
        let folder = root.level(id.level);
        for _ in 0..MAKE_ATTEMPTS {
            let create = Request::create(&staged.temporary, FILE_MODE);
            let failure = match staged.call.ask(create).await.handle() {
                Ok(handle) => {
                    staged.handle = Some(handle);
                    return Ok(staged);
                }
                Err(failure) => failure,
            };
            match failure {
                Failure::Status(status) if status.is_no_such_file() => {
                    make_folders(&staged.call, &folder).await?;
                }
                failure => {
                    staged.is_there = !matches!(failure, Failure::Status(_));
                    let explained = staged.call.explain("make", &staged.temporary, failure);
                    return Err(explained.await);
                }
            }
        }
        staged.is_there = false;
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("{folder} is deleted again and again"),
        ))
    }

    /// Sends all of `body`.
    async fn fill(&mut self, body: Body) -> Result<()> {
        let mut body = body.into_stream();
        let mut small = BytesMut::new();
        loop {
            // A full disk is told although the body stalls.
            let chunk = match self.acks.is_empty() {
                true => body.try_next().await?,
                false => match select(pin!(body.try_next()), pin!(self.acks.next())).await {
                    Either::Left((chunk, _)) => chunk?,
                    Either::Right((ack, _)) => {
                        self.acknowledge(ack).await?;
                        continue;
                    }
                },
            };
            let Some(mut chunk) = chunk else {
                break;
            };
            if small.is_empty() && chunk.len() >= SMALL {
                while !chunk.is_empty() {
                    let piece = chunk.split_to(chunk.len().min(self.piece_max));
                    self.send(piece).await?;
                }
                continue;
            }
            small.extend_from_slice(&chunk);
            while small.len() >= self.piece_max {
                let piece = small.split_to(self.piece_max).freeze();
                self.send(piece).await?;
            }
        }
        if !small.is_empty() {
            self.send(small.freeze()).await?;
        }
        while !self.acks.is_empty() {
            let ack = self.acks.next().await;
            self.acknowledge(ack).await?;
        }
        Ok(())
    }

    /// Sends the next bytes of the file, once there is room for them.
    async fn send(&mut self, piece: Bytes) -> Result<()> {
        let len = piece.len();
        while self.unacked > 0 && self.unacked + len > WINDOW {
            let ack = self.acks.next().await;
            self.acknowledge(ack).await?;
        }
        let write = Request::write(self.handle()?.id(), self.size, piece);
        self.request(write, len).await?;
        self.size += len as u64;
        self.unsynced += len;
        if self.unsynced >= SYNC_EVERY && self.call.extensions.fsync {
            let sync = Request::sync(self.handle()?.id());
            self.request(sync, 0).await?;
            self.unsynced = 0;
        }
        Ok(())
    }

    async fn request(&mut self, request: Request, len: usize) -> Result<()> {
        match self.call.send(request).await {
            Ok(pending) => {
                self.acks.push(Ack {
                    pending,
                    len,
                    sent_at: Instant::now(),
                });
                self.unacked += len;
                Ok(())
            }
            Err(failure) => Err(classify("write", &self.temporary, failure)),
        }
    }

    async fn acknowledge(&mut self, acked: Option<Acked>) -> Result<()> {
        let Some(Acked { result, len, took }) = acked else {
            return Ok(());
        };
        self.unacked -= len;
        let piece_max = match took < QUICK {
            true => self.piece_max * 2,
            false => PIECE_MIN,
        };
        self.piece_max = piece_max.min(self.call.limits.write as usize);
        match result {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.call.explain("write", &self.temporary, failure).await),
        }
    }

    fn handle(&self) -> Result<&Handle> {
        let closed = || Error::new(ErrorKind::Other, "the temporary file is closed");
        self.handle.as_ref().ok_or_else(closed)
    }

    /// Gives the file its time, brings it to the disk, makes sure that it is what it should be,
    /// and closes it.
    async fn settle(&mut self, seconds: u32) -> Result<()> {
        let call = &self.call;
        let path = self.temporary.as_str();
        let id = self.handle()?.id().to_vec();
        let handle = self.handle.take();
        // All at once; what is sent is done in order.
        let time = call.send(Request::set_times(&id, seconds)).await;
        let sync = match call.extensions.fsync {
            true => Some(call.send(Request::sync(&id)).await),
            false => None,
        };
        let look = call.send(Request::fstat(&id)).await;
        let close = match handle {
            Some(handle) => Some(call.send(handle.into_close()).await),
            None => None,
        };

        let time = heard(time).await;
        if let Err(failure) = time.and_then(|answer| answer.done()) {
            return Err(call.explain("set the time of", path, failure).await);
        }
        if let Some(sync) = sync
            && let Err(failure) = heard(sync).await.and_then(|answer| answer.done())
        {
            return Err(call.explain("sync", path, failure).await);
        }
        let found = heard(look).await.and_then(|answer| answer.attributes());
        let found = found.map_err(|failure| classify("look at", path, failure))?;
        if let Some(close) = close
            && let Err(failure) = heard(close).await.and_then(|answer| answer.done())
        {
            return Err(call.explain("close", path, failure).await);
        }

        if found.size.is_some_and(|size| size != self.size) {
            let message = format!("{path} has not the size of what was written to it");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        if found.modified != Some(seconds) {
            let message = format!("the server can't hold the time of {path}");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }

    /// Says that the temporary file is one no longer.
    pub(crate) fn is_published(&mut self) {
        self.is_there = false;
    }

    /// Says where the old file is, once it may be there.
    pub(crate) fn moves_aside(&mut self, old: &str) {
        self.clear_aside();
        self.aside = Some(old.to_owned());
    }

    /// Says that the old file has been seen to.
    pub(crate) fn nothing_is_aside(&mut self) {
        self.aside = None;
    }

    /// Puts the old file back and removes the new one, and waits until that is done.
    pub(crate) async fn discard(mut self) {
        self.clear();
        // What is sent is done in order, so that this comes after the removal.
        let _ = self.call.ask(Request::ping()).await;
    }

    /// Puts the old file back, where one may be aside and nothing has come in its place.
    pub(crate) fn clear_aside(&mut self) {
        if let Some(from) = self.aside.take() {
            let to = self.target.clone();
            self.call.clear(Leftover::Aside { from, to });
        }
    }

    fn clear(&mut self) {
        self.handle = None;
        self.clear_aside();
        if std::mem::take(&mut self.is_there) {
            self.call
                .clear(Leftover::Temporary(std::mem::take(&mut self.temporary)));
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The answer to what was sent, if it was.
pub(crate) async fn heard(sent: Result<Pending, Failure>) -> Result<Answer, Failure> {
    Ok(sent?.await)
}

/// Makes `folder` and what is missing above it.
async fn make_folders(call: &Call, folder: &str) -> Result<()> {
    let mut made = Vec::new();
    for path in lineage(folder) {
        made.push((
            path,
            call.send(Request::make_folder(path, FOLDER_MODE)).await,
        ));
    }
    for (path, sent) in made {
        // A folder that is there can't be made again, and servers have many words for that.
        let Err(failure) = heard(sent).await.and_then(|answer| answer.done()) else {
            continue;
        };
        match call.ask(Request::stat(path)).await.attributes() {
            Ok(found) if matches!(found.kind(), Some(Kind::Folder) | None) => {}
            Ok(_) => is_merely_missing(call, path).await?,
            Err(Failure::Status(status)) if status.is_no_such_file() => {
                is_merely_missing(call, path).await?;
                // Made and deleted by others meanwhile, it is no reason to give up.
                if !matches!(&failure, Failure::Status(status) if status.is_no_such_file()) {
                    return Err(call.explain("make the folder", path, failure).await);
                }
            }
            // Where not even a look is allowed, what is below it decides.
            Err(Failure::Status(status)) if status.code == Status::PERMISSION_DENIED => {}
            Err(failure) => return Err(classify("look at", path, failure)),
        }
    }
    Ok(())
}
