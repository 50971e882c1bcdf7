//! What a store promises beside the contract.

use std::time::Duration;

/// The facts about a store that a caller branches on.
///
/// [`Capabilities::FULL`] is a store that keeps every promise as it stands; a weaker one says
/// where it is weaker, and the conformance suite then allows for exactly that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// How coarse the times of [`Timestamps::Exact`](crate::Timestamps::Exact) are (K10): a time
    /// written is given back rounded down to a multiple of this. `None` where the store keeps no
    /// times, and an exact listing is therefore an error.
    pub timestamp_resolution: Option<Duration>,
    /// Whether writing a name again replaces the file atomically (K13). Where not, a reader may
    /// for a moment find no file, but never a mixture and never half of one.
    pub atomic_replace: bool,
    /// For how long a listing may miss a change that has returned (K18). Zero for a store whose
    /// listings are consistent.
    pub list_lag: Duration,
}

impl Capabilities {
    /// Every promise as it stands: times to the millisecond, atomic replacement, consistent
    /// listings.
    pub const FULL: Capabilities = Capabilities {
        timestamp_resolution: Some(Duration::from_millis(1)),
        atomic_replace: true,
        list_lag: Duration::ZERO,
    };

    /// The same store, whose times are multiples of `resolution`, or which keeps none.
    #[must_use]
    pub const fn with_timestamp_resolution(mut self, resolution: Option<Duration>) -> Capabilities {
        self.timestamp_resolution = resolution;
        self
    }

    /// The same store, which replaces a file atomically or not.
    #[must_use]
    pub const fn with_atomic_replace(mut self, atomic_replace: bool) -> Capabilities {
        self.atomic_replace = atomic_replace;
        self
    }

    /// The same store, whose listings may miss what changed less than `list_lag` ago.
    #[must_use]
    pub const fn with_list_lag(mut self, list_lag: Duration) -> Capabilities {
        self.list_lag = list_lag;
        self
    }
}
