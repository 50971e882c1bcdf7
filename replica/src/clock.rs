//! The system's clock.

use std::time::SystemTime;

use replica_core::Timestamp;

/// What time it is, for [`ReplicateOptions::new`](crate::ReplicateOptions::new).
pub fn now() -> Timestamp {
    // A clock that shows a year beyond all that a time can be says nothing.
    Timestamp::from_system_time(SystemTime::now()).unwrap_or(Timestamp::EPOCH)
}
