//! The moment in which a file appears, and what it takes where a server can't replace one.

use replica_core::{Error, ErrorKind, Result};
use tokio::task::spawn;

use crate::classify::classify;
use crate::connection::{Failure, Leftover};
use crate::temporary::aside;
use crate::wire::{Kind, Request, Status};
use crate::write::Staged;

/// How often a file is moved out of the way of another: each time a third one took its place.
const ATTEMPTS: usize = 16;

/// Gives `staged` its name, in place of any file there is.
///
/// With `posix-rename@openssh.com` that is one request, which is done or not whatever becomes of
/// its caller. Without, a name that nothing has is given by one request too; an old file is moved
/// aside first, which only a client does whose `atomic_replace` is false.
pub(crate) async fn publish(mut staged: Staged, atomic_replace: bool) -> Result<()> {
    let (temporary, target) = (staged.temporary.as_str(), staged.target.as_str());
    let replaces = staged.call.extensions.posix_rename;
    let request = match replaces {
        true => Request::replace(temporary, target),
        false => Request::rename(temporary, target),
    };
    let failure = match staged.call.ask(request).await.done() {
        Ok(()) => {
            staged.is_published();
            return Ok(());
        }
        Err(failure) => failure,
    };
    let obstacle = match replaces {
        true => Obstacle::Else,
        false => obstacle(&staged, &failure).await,
    };
    let steps_may_help = obstacle != Obstacle::Else && !atomic_replace;
    if obstacle == Obstacle::File || steps_may_help {
        if atomic_replace {
            let message = format!(
                "{target} is there, and the server can't replace it atomically: it has no \
                 posix-rename@openssh.com; set `atomic_replace` to false to have the old file \
                 moved out of the way first"
            );
            staged.discard().await;
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        // Not to be stopped between two steps by a caller that goes away.
        let replacing = spawn(replace_in_steps(staged));
        return replacing.await.unwrap_or_else(|_| {
            let message = "the runtime is shutting down";
            Err(Error::new(ErrorKind::Unavailable, message))
        });
    }
    let error = explain(&staged, failure).await;
    staged.discard().await;
    Err(error)
}

/// What has the name that a rename could not give.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// A file.
    File,
    /// Nothing, by now: another writer may have moved a file aside.
    Gone,
    /// It is not the name.
    Else,
}

async fn obstacle(staged: &Staged, failure: &Failure) -> Obstacle {
    let code = match failure {
        Failure::Status(status) => status.code,
        Failure::Lost(_) | Failure::Nonsense => return Obstacle::Else,
    };
    if !matches!(code, Status::FAILURE | Status::FILE_ALREADY_EXISTS) {
        return Obstacle::Else;
    }
    let look = staged.call.ask(Request::lstat(&staged.target)).await;
    match look.attributes() {
        Ok(found) if matches!(found.kind(), Some(Kind::File | Kind::Link) | None) => Obstacle::File,
        Err(Failure::Status(status)) if status.is_no_such_file() => Obstacle::Gone,
        _ => Obstacle::Else,
    }
}

/// Moves the old file aside, gives the new one its name, and then removes the old one. At each
/// moment one of them is there whole, under its name or beside it.
async fn replace_in_steps(mut staged: Staged) -> Result<()> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let old = aside(&staged.target);
        let moved = staged
            .call
            .send(Request::rename(&staged.target, &old))
            .await;
        let given = Request::rename(&staged.temporary, &staged.target);
        let given = staged.call.send(given).await;
        let moved = match moved {
            Ok(pending) => pending.await.done(),
            Err(failure) => Err(failure),
        };
        let given = match given {
            Ok(pending) => pending.await.done(),
            Err(failure) => Err(failure),
        };
        let failure = match given {
            Ok(()) => {
                staged.is_published();
                if moved.is_ok() {
                    staged.call.clear(Leftover::Temporary(old));
                    let _ = staged.call.ask(Request::ping()).await;
                }
                return Ok(());
            }
            Err(failure) => failure,
        };
        // The old file goes back to its place, unless another writer's is there by now.
        let is_lost = matches!(failure, Failure::Lost(_));
        let was_moved = !matches!(moved, Err(Failure::Status(_)));
        if was_moved && (is_lost || !put_back(&staged, &old).await) {
            let to = staged.target.clone();
            staged.call.clear(Leftover::Aside { from: old, to });
        }
        match obstacle(&staged, &failure).await {
            Obstacle::File => last = None,
            Obstacle::Gone => last = Some(failure),
            Obstacle::Else => {
                let error = explain(&staged, failure).await;
                staged.discard().await;
                return Err(error);
            }
        }
    }
    if let Some(failure) = last {
        let error = explain(&staged, failure).await;
        staged.discard().await;
        return Err(error);
    }
    let message = format!("{} is replaced again and again by others", staged.target);
    staged.discard().await;
    Err(Error::new(ErrorKind::Unavailable, message))
}

/// Whether the old file is in its place again, or one that came later.
async fn put_back(staged: &Staged, old: &str) -> bool {
    let rename = Request::rename(old, &staged.target);
    let Err(failure) = staged.call.ask(rename).await.done() else {
        return true;
    };
    let is_superseded = obstacle(staged, &failure).await == Obstacle::File;
    if is_superseded {
        staged.call.clear(Leftover::Temporary(old.to_owned()));
    }
    is_superseded
}

async fn explain(staged: &Staged, failure: Failure) -> Error {
    let target = &staged.target;
    match failure {
        Failure::Status(status) if status.is_no_such_file() => Error::new(
            ErrorKind::Unavailable,
            format!(
                "{} was deleted while it was being written",
                staged.temporary
            ),
        )
        .with_source(status),
        Failure::Status(status) if status.code == Status::FAILURE => {
            let found = staged.call.ask(Request::lstat(target)).await.attributes();
            if found.is_ok_and(|found| found.kind() == Some(Kind::Folder)) {
                let message = format!("a folder has the name {target}");
                return Error::new(ErrorKind::Invalid, message).with_source(status);
            }
            let failure = Failure::Status(status);
            staged
                .call
                .explain("rename a temporary file to", target, failure)
                .await
        }
        failure => classify("rename a temporary file to", target, failure),
    }
}
