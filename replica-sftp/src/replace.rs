//! The moment in which a file appears, and what it takes where a server can't replace one.

use replica_core::{Error, ErrorKind, Result};

use crate::classify::classify;
use crate::connection::{Answer, Failure, Leftover};
use crate::temporary::aside;
use crate::wire::{Kind, Request, Status};
use crate::write::{Staged, heard};

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
        return replace_in_steps(staged).await;
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
/// moment one of them is there whole, under its name or beside it. Where the caller goes away
/// between two steps, `staged` puts the old file back, unless the new one has its name by then.
async fn replace_in_steps(mut staged: Staged) -> Result<()> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let old = aside(&staged.target);
        staged.moves_aside(&old);
        let moved = Request::rename(&staged.target, &old);
        let moved = staged.call.send(moved).await;
        let given = Request::rename(&staged.temporary, &staged.target);
        let given = staged.call.send(given).await;
        let moved = heard(moved).await.and_then(Answer::done);
        let given = heard(given).await.and_then(Answer::done);
        if matches!(moved, Err(Failure::Status(_))) {
            staged.nothing_is_aside();
        }
        let failure = match given {
            Ok(()) => {
                staged.is_published();
                if moved.is_ok() {
                    staged.nothing_is_aside();
                    staged.call.clear(Leftover::Temporary(old));
                    let _ = staged.call.ask(Request::ping()).await;
                }
                return Ok(());
            }
            Err(failure) => failure,
        };
        // The old file goes back to its place, unless another writer's is there by now.
        if moved.is_ok() && !matches!(failure, Failure::Lost(_)) {
            put_back(&mut staged, &old).await;
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

/// Puts the old file in its place again, or removes it where one is that came later.
async fn put_back(staged: &mut Staged, old: &str) {
    let rename = Request::rename(old, &staged.target);
    match staged.call.ask(rename).await.done() {
        Ok(()) => staged.nothing_is_aside(),
        Err(failure) if obstacle(staged, &failure).await == Obstacle::File => {
            staged.nothing_is_aside();
            staged.call.clear(Leftover::Temporary(old.to_owned()));
        }
        // Another try is all that is left, without waiting for it.
        Err(_) => staged.clear_aside(),
    }
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
