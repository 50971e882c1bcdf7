//! Why the upkeep of a replica failed.

use replica_core::FileId;

use crate::{Damage, PlanError};

/// Why files could not be put together or deleted. The replica is as good as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpkeepError {
    /// A file is damaged, or gone: it is put together with nothing, and nothing goes for its sake.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Files that are sound do not make a sound one together, as where pages are in none of them.
    #[error("the files do not make up {output}")]
    Unfit {
        /// The file that they should make.
        output: FileId,
        /// What it lacks.
        source: ltx::Error,
    },
    /// The latest state can't be restored.
    #[error(transparent)]
    Broken(#[from] PlanError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] replica_core::Error),
}
