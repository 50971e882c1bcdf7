//! Brings SQLite databases back from the LTX files of a replica.

mod plan;

pub use plan::{PlanError, RestorePlan, Target};
