//! Clients that own a client, and add one thing to it.

mod fingerprint;
mod limit;
mod retry;
mod throttle;
mod timeout;
mod verify;

pub use limit::Limit;
pub use retry::{Backoff, Resume, Retry};
pub use throttle::Throttle;
pub use timeout::{Timeout, TimeoutSettings};
pub use verify::Verify;
