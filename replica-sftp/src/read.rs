//! Reading: a range of one open file, asked for piece by piece ahead of its reader.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::{StreamExt, stream};
use replica_core::{ByteRange, ByteStream, Error, ErrorKind, FileId, Result};

use crate::classify::classify;
use crate::connection::{Failure, Handle, Pending};
use crate::pool::Call;
use crate::root::{Root, is_merely_missing};
use crate::wire::{Kind, Request};

/// How many bytes are asked for before any has been read. A reader that goes on reading has
/// more asked for, up to [`AHEAD_MAX`].
const AHEAD_MIN: u64 = 512 << 10;

/// How many bytes are asked for at once behind the first piece: what one packet of SSH brings.
/// Answers of 256 KiB are put together from several, in memory that is mapped anew for each, and
/// came a quarter slower and more.
const PIECE: u64 = 32 << 10;

/// How many bytes a stream is ahead of its reader at most.
const AHEAD_MAX: u64 = 4 << 20;

/// Opens `range` of the file `id`.
pub(crate) async fn open(
    call: Call,
    root: &Root,
    id: FileId,
    range: ByteRange,
) -> Result<ByteStream> {
    let path = root.file(id);
    let handle = match call.ask(Request::open(&path)).await.handle() {
        Ok(handle) => handle,
        Err(Failure::Status(status)) if status.is_no_such_file() => {
            is_merely_missing(&call, &root.level(id.level)).await?;
            return Err(missing().with_source(status));
        }
        Err(failure) => return Err(classify("open", &path, failure)),
    };
    let look = call.send(Request::fstat(handle.id())).await;
    let mut unread = Unread {
        call,
        path,
        handle,
        asked: VecDeque::new(),
        next: range.start(),
        end: range.end().unwrap_or(u64::MAX),
        ahead_max: AHEAD_MIN,
        ahead: 0,
        read: range.start(),
    };
    // Before it is known how much there is: what comes of it can only be too little.
    let first = unread.call.limits.read.min(unread.end - range.start());
    if first > 0 {
        unread.ask(first).await?;
    }

    let look = look.map_err(|failure| classify("look at", &unread.path, failure))?;
    let found = look.await.attributes();
    let found = found.map_err(|failure| classify("look at", &unread.path, failure))?;
    if !matches!(found.kind(), Some(Kind::File) | None) {
        return Err(missing());
    }
    let size = found.size.ok_or_else(|| {
        let message = format!("the server does not say how long {} is", unread.path);
        Error::new(ErrorKind::Other, message)
    })?;
    let range = range.resolve(size)?;
    if range.is_empty() {
        return Ok(stream::empty().boxed());
    }
    unread.end = range.end;
    unread.fit_first(range.end);
    unread.ask_ahead().await?;
    Ok(stream::try_unfold(unread, |mut unread| async move {
        Ok(unread.next().await?.map(|chunk| (chunk, unread)))
    })
    .boxed())
}

fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such file")
}

/// What is still to be read of an open file, which is closed when this is dropped.
struct Unread {
    call: Call,
    path: String,
    handle: Handle,
    /// What is under way, in order.
    asked: VecDeque<Asked>,
    /// The first byte that was not asked for.
    next: u64,
    end: u64,
    ahead_max: u64,
    /// How many bytes were asked for and not read.
    ahead: u64,
    /// The first byte that was not read.
    read: u64,
}

struct Asked {
    pending: Pending,
    len: u64,
}

impl Unread {
    /// The next bytes, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(asked) = self.asked.pop_front() else {
            return Ok(None);
        };
        let answer = asked.pending.await.data();
        let data = answer.map_err(|failure| classify("read", &self.path, failure))?;
        let data = data.filter(|data| !data.is_empty()).ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{} ends after {} bytes: it was cut while it was being read",
                    self.path, self.read
                ),
            )
        })?;
        // A file may have grown since it was looked at.
        let data = data.slice(..data.len().min(asked.len as usize));
        let len = data.len() as u64;
        self.read += len;
        self.ahead -= len;
        if len < asked.len {
            // What is missing comes next, whatever is under way.
            let (offset, len) = (self.read, asked.len - len);
            let pending = self.request(offset, len).await?;
            self.asked.push_front(Asked { pending, len });
        }
        self.ahead_max = (self.ahead_max + len).min(AHEAD_MAX);
        self.ask_ahead().await?;
        Ok(Some(data))
    }

    /// Asks for as much as the reader may be ahead.
    async fn ask_ahead(&mut self) -> Result<()> {
        while self.next < self.end && self.ahead < self.ahead_max {
            let piece = PIECE.min(self.call.limits.read);
            let len = piece.min(self.end - self.next);
            self.ask(len).await?;
        }
        Ok(())
    }

    async fn ask(&mut self, len: u64) -> Result<()> {
        let pending = self.request(self.next, len).await?;
        self.asked.push_back(Asked { pending, len });
        self.next += len;
        self.ahead += len;
        Ok(())
    }

    async fn request(&self, offset: u64, len: u64) -> Result<Pending> {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let sent = self
            .call
            .send(Request::read(self.handle.id(), offset, len))
            .await;
        sent.map_err(|failure| classify("read", &self.path, failure))
    }

    /// The first piece was asked for before it was known where the file ends.
    fn fit_first(&mut self, end: u64) {
        if let Some(first) = self.asked.front_mut()
            && self.next > end
        {
            let beyond = self.next - end;
            first.len -= beyond;
            self.ahead -= beyond;
            self.next = end;
        }
    }
}
