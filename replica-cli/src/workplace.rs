//! Where the command may write what is its own.

use std::ffi::OsStr;
use std::time::Duration;

use futures::TryStreamExt;
use replica::{Error, ErrorKind, Level, Location, OpenError, Timestamps, Txid};
use tokio::time::timeout;

use crate::leftovers::could_not_open;
use crate::source::warn_if_unverified;
use crate::status::{Failure, Status};

/// How long a store may take to give its first answer. Longer than each of its own limits.
const FIRST_ANSWER: Duration = Duration::from_secs(60);

/// The place that `text` names, below which the command may write: an existing folder or a store
/// that answers, and not the root of everything.
pub(crate) async fn workplace(text: &OsStr) -> Result<Location, Failure> {
    let location = match text.to_str() {
        Some(text) => text
            .parse()
            .map_err(|error| Failure::of(Status::Usage, &error))?,
        None => Location::Folder(text.into()),
    };
    let refused = |why: &str| Err(Failure::new(Status::Usage, format!("{location} {why}")));
    match &location {
        Location::Folder(folder) if !folder.is_dir() => {
            let message = format!("could not open {location}: it is not an existing folder");
            return Err(Failure::new(Status::Usage, message));
        }
        Location::Folder(_) if location.is_root() => {
            return refused(
                "is the root of the file system: give a folder below it, because what is written \
                 there is deleted again",
            );
        }
        Location::S3(_) if location.is_root() => {
            return refused(
                "is a whole bucket: give a prefix in it, because what is written there is deleted \
                 again",
            );
        }
        Location::Sftp(_) if location.is_root() => {
            return refused(
                "is the root of a server: give a folder below it, because what is written there is \
                 deleted again",
            );
        }
        _ => {}
    }
    warn_if_unverified(&location);
    match first_answer(&location).await {
        Ok(()) => Ok(location),
        Err(error) => Err(could_not_open(&location).because_of(Some(&error))),
    }
}

/// Asks the store something once, so that one that can't be reached, or won't be asked, is told
/// before everything else is tried on it in vain.
async fn first_answer(location: &Location) -> Result<(), OpenError> {
    let client = location.client()?;
    let list = async {
        let mut files = client
            .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
            .await?;
        files.try_next().await
    };
    match timeout(FIRST_ANSWER, list).await {
        Ok(answer) => Ok(answer.map(drop)?),
        Err(_) => Err(Error::new(ErrorKind::Unavailable, "no answer").into()),
    }
}
