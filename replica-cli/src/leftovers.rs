//! What is to be removed at the end.

use std::fs;
use std::path::PathBuf;

/// Folders that the command made for itself, which disappear with this. It is dropped once no
/// task runs any more that could write to them.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Vec<PathBuf>);

impl Leftovers {
    pub(crate) fn add(&mut self, folder: PathBuf) {
        self.0.push(folder);
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for folder in &self.0 {
            // Who could not remove a file has told so already.
            let _ = fs::remove_dir_all(folder);
        }
    }
}
