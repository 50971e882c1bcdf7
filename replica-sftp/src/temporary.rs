//! What files are called that are on their way in or out.

use std::hash::{BuildHasher, Hasher, RandomState};

/// The name of a temporary file beside `path`, which nothing has yet: `<path>.<up to 16 digits>.tmp`.
pub(crate) fn temporary(path: &str) -> String {
    format!("{path}.{:x}.tmp", serial())
}

/// The name that the old file at `path` gets while it makes room: `<path>.<up to 16 digits>.old`.
pub(crate) fn aside(path: &str) -> String {
    format!("{path}.{:x}.old", serial())
}

/// A number that differs each time, in this process and most likely in all others.
fn serial() -> u64 {
    // The system's random numbers are in the keys of each `RandomState`.
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use replica_core::{FileId, Layout, Level, Txid, TxidRange};

    #[test]
    fn a_temporary_name_is_its_own_and_no_file_of_a_replica() {
        let path = Layout::Tree.path(FileId {
            level: Level::RAW,
            txids: TxidRange::single(Txid::FIRST),
        });

        assert_ne!(temporary(&path), temporary(&path));
        for name in [temporary(&path), aside(&path)] {
            assert!(name.starts_with(&path), "{name} is elsewhere");
            assert_eq!(Layout::Tree.parse(&name), None);
        }
    }
}
