//! Where the command may write.

use std::ffi::OsStr;
use std::path::Path;

use replica::Location;
use rustix::fs::{Access, access};

use crate::contact::reach;
use crate::source::location;
use crate::status::{Failure, Status};

/// The place that `text` names, below which the command may write: an existing folder or a store
/// that answers, and not the root of everything.
pub(crate) async fn workplace(text: &OsStr) -> Result<Location, Failure> {
    let location = location(text)?;
    let refused = |why: &str| Err(Failure::new(Status::Usage, format!("{location} {why}")));
    match &location {
        Location::Folder(folder) if !folder.is_dir() => {
            let message = format!("could not open {location}: it is not an existing folder");
            // It is not made: where nothing is mounted, another disk would be proved or measured.
            return Err(
                Failure::new(Status::Usage, message).hint("make it, or mount what should be there")
            );
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
    reach(&location).await?;
    Ok(location)
}

/// Whether this user may make files in the folder of `database`.
pub(crate) fn may_write_beside(database: &Path) -> bool {
    let folder = match database.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    access(folder, Access::WRITE_OK).is_ok()
}
