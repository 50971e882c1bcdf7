//! Listing: the entries of a level's folder, which a server gives in no order.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use replica_core::{
    Error, ErrorKind, FileId, FileInfo, FileStream, Level, Result, Timestamp, Txid, TxidRange,
    listing,
};
use tokio::time::Instant;

use crate::classify::classify;
use crate::connection::{Connection, Failure};
use crate::pool::Call;
use crate::root::{Root, is_merely_missing};
use crate::wire::{Attributes, Kind, Name, Request};

/// How many requests for entries, or for what is behind one, are under way at once.
const REQUESTS: usize = 16;

/// How often a folder is read that is changed all the time.
const READINGS_MAX: usize = 8;

/// How long a folder's time must have stood still to say that nothing changes there: servers
/// tell it in whole seconds, of a clock of their own.
const AT_REST: Duration = Duration::from_secs(3);

/// What a client remembers of the folders it has listed: their times, and when each was first
/// seen.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<[Option<(u32, Instant)>; Level::ALL.len()]>);

impl Seen {
    /// Whether the folder of `level`, whose time is `modified` now, has had that for a while.
    fn is_at_rest(&self, level: Level, modified: u32) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = &mut seen[usize::from(level.get())];
        match seen {
            Some((known, since)) if *known == modified => since.elapsed() >= AT_REST,
            _ => {
                *seen = Some((modified, Instant::now()));
                false
            }
        }
    }
}

/// Lists the files of `level` from `from` on.
///
/// A file system may move the entry of a file that is replaced, ahead of a reader or behind it, so
/// one reading of a folder that changes meanwhile may lack a file that was there all along. Unless
/// the folder was at rest before and is so after it, it is therefore read until two readings agree.
pub(crate) async fn list(
    call: &Call,
    root: &Root,
    seen: &Seen,
    level: Level,
    from: Txid,
) -> Result<FileStream> {
    let folder = root.level(level);
    let mut files: Vec<FileInfo> = Vec::new();
    for reading in 0..READINGS_MAX {
        let modified = match modified(call, &folder).await {
            Ok(modified) => modified,
            Err(failure) => return missing(call, &folder, failure, from).await,
        };
        let is_at_rest = modified.is_some_and(|modified| seen.is_at_rest(level, modified));
        let known = files.len();
        if let Err(failure) = read(call, &folder, level, from, &mut files).await? {
            return missing(call, &folder, failure, from).await;
        }
        // Of a file that was read twice, the later reading counts.
        files.reverse();
        files.sort_by_key(|file| file.id);
        files.dedup_by_key(|file| file.id);
        let is_confirmed = match is_at_rest {
            // It may have changed since.
            true => matches!(self::modified(call, &folder).await, Ok(now) if now == modified),
            false => reading > 0 && files.len() == known,
        };
        if is_confirmed {
            break;
        }
    }
    Ok(listing(files, from))
}

/// The time of `folder`, where the server tells it.
async fn modified(call: &Call, folder: &str) -> Result<Option<u32>, Failure> {
    let found = call.ask(Request::stat(folder)).await.attributes()?;
    Ok(found.modified)
}

/// Nothing, where the folder was never made.
async fn missing(call: &Call, folder: &str, failure: Failure, from: Txid) -> Result<FileStream> {
    match failure {
        Failure::Status(status) if status.is_no_such_file() => {
            is_merely_missing(call, folder).await?;
            Ok(listing(Vec::new(), from))
        }
        failure => Err(classify("list", folder, failure)),
    }
}

/// Appends the files of `folder` to `files`. The failure is that of opening the folder.
async fn read(
    call: &Call,
    folder: &str,
    level: Level,
    from: Txid,
    files: &mut Vec<FileInfo>,
) -> Result<Result<(), Failure>> {
    let mut entries = match Entries::open(call, folder).await {
        Ok(entries) => entries,
        Err(failure) => return Ok(Err(failure)),
    };
    let mut unknown = Vec::new();
    while let Some(names) = entries.next().await? {
        for Name { name, attributes } in names {
            let txids: Option<TxidRange> = std::str::from_utf8(&name)
                .ok()
                .and_then(|name| name.parse().ok());
            let Some(txids) = txids else {
                continue;
            };
            if txids.min() < from {
                continue;
            }
            let id = FileId { level, txids };
            match info(id, attributes) {
                Looked::File(info) => files.push(info),
                Looked::Else => {}
                Looked::Unknown => unknown.push(id),
            }
        }
    }
    // Some servers say nothing of a file in a listing.
    for ids in unknown.chunks(REQUESTS) {
        let mut looks = Vec::new();
        for id in ids {
            let path = format!("{folder}/{}", id.txids);
            let look = call.send(Request::lstat(&path)).await;
            looks.push((
                *id,
                look.map_err(|failure| classify("look at", &path, failure))?,
            ));
        }
        for (id, look) in looks {
            match look.await.attributes() {
                Ok(attributes) => match info(id, attributes) {
                    Looked::File(info) => files.push(info),
                    Looked::Else => {}
                    Looked::Unknown => {
                        let message = "the server does not say how long a file is, or how old";
                        return Err(Error::new(ErrorKind::Other, message).of(id));
                    }
                },
                Err(Failure::Status(status)) if status.is_no_such_file() => {}
                Err(failure) => return Err(classify("look at", id, failure).of(id)),
            }
        }
    }
    Ok(Ok(()))
}

enum Looked {
    File(FileInfo),
    /// A folder, a link, and the like.
    Else,
    /// The server does not say.
    Unknown,
}

fn info(id: FileId, attributes: Attributes) -> Looked {
    match (attributes.kind(), attributes.size, attributes.modified) {
        (Some(Kind::Folder | Kind::Link | Kind::Other), _, _) => Looked::Else,
        (Some(Kind::File), Some(size), Some(modified)) => Looked::File(FileInfo {
            id,
            size,
            created_at: Timestamp::from_millis(i64::from(modified) * 1000),
        }),
        _ => Looked::Unknown,
    }
}

/// The entries of a folder, as a server gives them: some at a time.
pub(crate) struct Entries<'a> {
    connection: &'a Connection,
    folder: &'a str,
    handle: crate::connection::Handle,
    asked: VecDeque<crate::connection::Pending>,
    is_over: bool,
}

impl<'a> Entries<'a> {
    pub(crate) async fn open(
        connection: &'a Connection,
        folder: &'a str,
    ) -> Result<Entries<'a>, Failure> {
        let handle = connection
            .ask(Request::open_folder(folder))
            .await
            .handle()?;
        Ok(Entries {
            connection,
            folder,
            handle,
            asked: VecDeque::new(),
            is_over: false,
        })
    }

    /// Some more entries, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Name>>> {
        let fault = |failure| classify("list", self.folder, failure);
        loop {
            // Of those asked for beyond the end, each is answered by the end again.
            let wanted = if self.is_over { 0 } else { REQUESTS };
            while self.asked.len() < wanted {
                let request = Request::read_folder(self.handle.id());
                self.asked
                    .push_back(self.connection.send(request).await.map_err(fault)?);
            }
            let Some(next) = self.asked.pop_front() else {
                return Ok(None);
            };
            match next.await.names().map_err(fault)? {
                Some(names) if !names.is_empty() => return Ok(Some(names)),
                // Some servers end with no names at all, which nobody has to ask for again.
                Some(_) | None => self.is_over = true,
            }
        }
    }
}
