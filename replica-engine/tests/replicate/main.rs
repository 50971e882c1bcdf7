//! What a live database has in its log, what of it is replicated to stores in memory and in
//! folders, and what restores from there.

mod application;
mod checkpoint;
mod follow;
mod format;
mod lock_page;
mod model;
mod outage;
mod resume;
mod running;
mod several;
mod store;
mod support;
mod upkeep;
mod verify;
mod wal;
mod workers;
