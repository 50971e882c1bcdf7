//! Clients that own a client, and add one thing to it.
//!
//! A layer is made of the client that it owns, and is a client itself, so that a stack of them
//! reads from the inside out:
//!
//! ```
//! # use std::num::{NonZeroU64, NonZeroUsize};
//! use replica_layers::{Backoff, Limit, Retry, Throttle, Timeout, TimeoutSettings, Verify};
//! # let client = replica_mock::MockClient::new();
//! # let (calls, bytes_per_second) = (NonZeroUsize::MIN, NonZeroU64::MIN);
//!
//! let client = Timeout::new(client, TimeoutSettings::default());
//! let client = Limit::new(client, calls);
//! let client = Throttle::new(client, bytes_per_second);
//! let client = Retry::new(client, Backoff::default());
//! let client = Verify::new(client);
//! # drop(client);
//! ```
//!
//! That order is the usual one. A time limit belongs next to the store, where no waiting for a
//! turn counts against the store; what a turn or the line makes a body wait counts against the
//! body, which has a limit of its own, [`TimeoutSettings::body`]. A retry belongs outside of both,
//! so that a stalled attempt is made again; and what is verified is what came of all of that.

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
