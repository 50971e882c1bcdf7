//! Clients that own a client, and add one thing to it.

mod fingerprint;
mod retry;

pub use retry::{Backoff, Resume, Retry};
