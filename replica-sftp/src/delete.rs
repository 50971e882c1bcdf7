//! Deleting: files, and everything.

use futures::FutureExt;
use futures::future::BoxFuture;
use replica_core::{Error, ErrorKind, FileId, Result};

use crate::classify::classify;
use crate::connection::{Answer, Failure, Pending};
use crate::list::Entries;
use crate::pool::Call;
use crate::root::Root;
use crate::wire::{Kind, Name, Request, Status, harmless};
use crate::write::heard;

/// How many deletions are under way at once.
const WINDOW: usize = 128;

/// How deep folders are emptied.
const DEPTH_MAX: usize = 64;

/// How often a folder is gone through until nothing is left in it: reading a folder while
/// deleting from it may skip entries, and others may add some.
const PASSES_MAX: usize = 8;

/// Deletes `files`, and says which could not be deleted.
pub(crate) async fn delete(call: &Call, root: &Root, mut files: Vec<FileId>) -> Result<()> {
    files.sort_unstable();
    files.dedup();
    let mut failed = Vec::new();
    let mut first = None;
    for files in files.chunks(WINDOW) {
        let mut deletions = Vec::with_capacity(files.len());
        for file in files {
            let path = root.file(*file);
            let sent = call.send(Request::remove(&path)).await;
            deletions.push((*file, path, sent));
        }
        for (file, path, sent) in deletions {
            if let Err(error) = removed(call, &path, sent).await {
                failed.push(file);
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(()), |error| Err(error.of_files(failed)))
}

/// What came of the removal of the file `path`, which is fine where there is none.
async fn removed(call: &Call, path: &str, sent: Result<Pending, Failure>) -> Result<()> {
    let answer = match sent {
        Ok(pending) => pending.await.done(),
        Err(failure) => Err(failure),
    };
    match answer {
        Ok(()) => Ok(()),
        Err(Failure::Status(status)) if status.is_no_such_file() => Ok(()),
        // A folder of that name is no file of the replica, so the file is not there.
        Err(Failure::Status(_)) if is_folder(call, path).await => Ok(()),
        Err(failure) => Err(classify("delete", path, failure)),
    }
}

async fn is_folder(call: &Call, path: &str) -> bool {
    let found = call.ask(Request::lstat(path)).await.attributes();
    found.is_ok_and(|found| found.kind() == Some(Kind::Folder))
}

/// Deletes everything below the root, and the root itself where that is possible. Where the folder
/// in which a login begins is in it, only what a replica has there is deleted.
pub(crate) async fn delete_all(call: &Call, root: &Root) -> Result<()> {
    if holds_home(call, root).await? {
        let levels = root.levels();
        return match call.ask(Request::lstat(&levels)).await.attributes() {
            // Not of our making: what is behind it is not ours to delete.
            Ok(found) if found.kind() == Some(Kind::Link) => {
                let sent = call.send(Request::remove(&levels)).await;
                removed(call, &levels, sent).await
            }
            Ok(_) | Err(Failure::Status(_)) => delete_folder(call, &levels).await,
            Err(failure) => Err(classify("look at", &levels, failure)),
        };
    }
    delete_folder(call, root.path()).await
}

/// Whether the folder in which a login begins is the root, or somewhere in it.
async fn holds_home(call: &Call, root: &Root) -> Result<bool> {
    if root.is_whole_server() {
        return Ok(true);
    }
    let real = call.send(Request::real_path(root.path())).await;
    let home = call.send(Request::real_path(".")).await;
    let fault = |failure| classify("find the place of", root.path(), failure);
    let real = heard(real).await.and_then(Answer::names);
    let home = heard(home).await.and_then(Answer::names);
    let real = match real {
        Ok(names) => names,
        // What is not there holds nothing. Where the server does not say, and why, comes next.
        Err(Failure::Status(_)) => return Ok(false),
        Err(failure) => return Err(fault(failure)),
    };
    let home = home.map_err(fault)?;
    let path = |names: Option<Vec<Name>>| names?.into_iter().next().map(|name| name.name);
    let (Some(real), Some(home)) = (path(real), path(home)) else {
        return Err(fault(Failure::Nonsense));
    };
    let below = home.strip_prefix(real.as_ref());
    let is_folder =
        |below: &[u8]| real.ends_with(b"/") || matches!(below.first(), None | Some(b'/'));
    Ok(below.is_some_and(is_folder))
}

/// Deletes all that is in the folder `path`, and the folder itself where that is possible.
async fn delete_folder(call: &Call, path: &str) -> Result<()> {
    match call.ask(Request::stat(path)).await.attributes() {
        Ok(found) if matches!(found.kind(), Some(Kind::Folder) | None) => {}
        Ok(_) => {
            let message = format!("the path of the replica is wrong: {path} is no folder");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Err(Failure::Status(status)) if never_existed(&status) => {
            return is_dangling(call, path).await;
        }
        Err(failure) => return Err(classify("look at", path, failure)),
    }
    empty(call, path.to_owned(), DEPTH_MAX).await?;
    // It stays where it is a symbolic link, or its parent is not ours to write to.
    match call.ask(Request::remove_folder(path)).await.done() {
        Ok(()) | Err(Failure::Status(_)) => Ok(()),
        Err(failure) => Err(classify("delete", path, failure)),
    }
}

/// A root that the server has no name for never existed.
fn never_existed(status: &Status) -> bool {
    status.is_no_such_file() || status.code == Status::BAD_MESSAGE
}

async fn is_dangling(call: &Call, path: &str) -> Result<()> {
    match call.ask(Request::lstat(path)).await.attributes() {
        Ok(found) if found.kind() == Some(Kind::Link) => {
            let message = format!("the path of the replica is wrong: {path} is a link to nowhere");
            Err(Error::new(ErrorKind::Invalid, message))
        }
        // Where it is there by now, it has been made after the call began.
        Ok(_) | Err(Failure::Status(_)) => Ok(()),
        Err(failure) => Err(classify("look at", path, failure)),
    }
}

/// Deletes all entries of `folder`. What can't be deleted does not keep the others from being
/// deleted; the first such error is returned.
fn empty(call: &Call, folder: String, depth_left: usize) -> BoxFuture<'_, Result<()>> {
    async move {
        for _ in 0..PASSES_MAX {
            let (is_empty, failed) = pass(call, &folder, depth_left).await?;
            match failed {
                Some(error) => return Err(error),
                None if is_empty => return Ok(()),
                None => {}
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("{} is written to while it is being emptied", shown(&folder)),
        ))
    }
    .boxed()
}

/// Whether there was nothing, and what could not be deleted.
async fn pass(call: &Call, folder: &str, depth_left: usize) -> Result<(bool, Option<Error>)> {
    let mut entries = match Entries::open(call, folder).await {
        Ok(entries) => entries,
        // Deleted by somebody else.
        Err(Failure::Status(status)) if status.is_no_such_file() => return Ok((true, None)),
        Err(failure) => return Err(classify("list", folder, failure)),
    };
    let mut is_empty = true;
    let mut failed = None;
    let mut folders = Vec::new();
    while let Some(names) = entries.next().await? {
        let mut removals = Vec::new();
        for name in names {
            if matches!(name.name.as_ref(), b"." | b"..") {
                continue;
            }
            is_empty = false;
            let Ok(text) = std::str::from_utf8(&name.name) else {
                let message = format!("a name in {} is not UTF-8, and stays", shown(folder));
                failed.get_or_insert(Error::new(ErrorKind::Other, message));
                continue;
            };
            // A server that names a folder's parent, or something far away, is not followed.
            if text.contains('/') {
                let (text, folder) = (shown(text), shown(folder));
                let message = format!("the server names {text} in {folder}, which can't be");
                failed.get_or_insert(Error::new(ErrorKind::Other, message));
                continue;
            }
            let path = format!("{}/{text}", folder.trim_end_matches('/'));
            match name.attributes.kind() {
                Some(Kind::Folder) => folders.push(path),
                Some(_) => {
                    let sent = call.send(Request::remove(&path)).await;
                    removals.push((path, sent));
                }
                None if is_folder(call, &path).await => folders.push(path),
                None => {
                    let sent = call.send(Request::remove(&path)).await;
                    removals.push((path, sent));
                }
            }
        }
        for (path, sent) in removals {
            if let Err(error) = removed(call, &path, sent).await {
                failed.get_or_insert(error);
            }
        }
    }
    drop(entries);
    for path in folders {
        if let Err(error) = remove_folder(call, path, depth_left).await {
            failed.get_or_insert(error);
        }
    }
    Ok((is_empty, failed))
}

/// Deletes the folder `path` with all that is in it.
async fn remove_folder(call: &Call, path: String, depth_left: usize) -> Result<()> {
    let depth_left = depth_left.checked_sub(1).ok_or_else(|| {
        Error::new(
            ErrorKind::Other,
            format!("{} is too deep to be deleted", shown(&path)),
        )
    })?;
    empty(call, path.clone(), depth_left).await?;
    match call.ask(Request::remove_folder(&path)).await.done() {
        Ok(()) => Ok(()),
        Err(Failure::Status(status)) if status.is_no_such_file() => Ok(()),
        // Someone has written to it since: the next pass sees to that, and finds it full again
        // where it is not that.
        Err(Failure::Status(status)) if status.code == Status::FAILURE => Ok(()),
        Err(failure) => Err(classify("delete", path, failure)),
    }
}

/// A path with names of the server's, for a message.
fn shown(path: &str) -> String {
    harmless(path).collect()
}
