//! What the command makes for itself below a place of the user's, and removes at the end.

use std::error::Error;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use replica::Location;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::contact::could_not_open;
use crate::status::{Failure, Status};

/// How long removing what is in a store may take, once the command itself is done.
const SWEEP: Duration = Duration::from_secs(60);

/// Folders and namespaces that the command made for itself. They disappear with
/// [`sweep`](Leftovers::sweep), which is called once no task runs any more that could write there.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    folders: Vec<PathBuf>,
    places: Vec<Location>,
}

impl Leftovers {
    /// Makes a fresh random name, and with it a place below `location`. It is removed at the end
    /// unless it is to be kept.
    pub(crate) fn namespace(
        &mut self,
        location: &Location,
        prefix: &str,
        keep: bool,
    ) -> Result<String, Failure> {
        let random = RandomState::new().hash_one(std::process::id());
        let name = format!("{prefix}-{random:x}");
        let place = location.join(&name);
        if let Location::Folder(folder) = &place {
            // Fails where the name is taken.
            fs::create_dir(folder)
                .map_err(|error| could_not_open(location).because_of(Some(&error)))?;
        }
        if !keep {
            match place {
                Location::Folder(folder) => self.folders.push(folder),
                place => self.places.push(place),
            }
        }
        Ok(name)
    }

    /// Removes them all.
    ///
    /// # Errors
    ///
    /// Something in a store could not be removed. Of folders, who could not remove a file has told
    /// so already.
    pub(crate) fn sweep(self) -> Result<(), Failure> {
        for folder in &self.folders {
            let _ = fs::remove_dir_all(folder);
        }
        self.places.iter().try_for_each(empty)
    }
}

/// Removes all that is at `place`.
fn empty(place: &Location) -> Result<(), Failure> {
    let left = |error: &(dyn Error + 'static)| {
        Failure::new(Status::Failed, format!("could not remove all of {place}"))
            .because_of(Some(error))
            .hint("delete what is below it")
    };
    let client = place.open().map_err(|error| left(&error))?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| left(&error))?;
    let emptied = runtime.block_on(async { timeout(SWEEP, client.delete_all()).await });
    runtime.shutdown_background();
    match emptied {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(left(&error)),
        Err(elapsed) => Err(left(&elapsed)),
    }
}
