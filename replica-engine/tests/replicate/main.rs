//! Live databases replicated to stores in memory and in folders, and what restores from them.

#![allow(clippy::unwrap_used)]

mod format;
mod model;
mod resume;
mod store;
mod support;
