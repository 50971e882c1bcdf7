//! What is said of a run.

/// Whether a promise was kept, or in which way it was not.
pub(crate) type Verdict<T = ()> = Result<T, String>;

/// Ends with a verdict in words where something does not hold.
macro_rules! holds {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err(format!($($words)+));
        }
    };
}
pub(crate) use holds;
