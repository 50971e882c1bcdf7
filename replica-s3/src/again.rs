//! How often `object_store` sends a request again by itself, in one place.

use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::{BackoffConfig, RetryConfig};

/// The same store, which sends a request up to `times` times more, for as long as `within` after
/// the first, if it fails for a reason that may pass. What takes longer is for the layers, who do
/// the whole call again.
pub(crate) fn sends_again(
    builder: AmazonS3Builder,
    times: usize,
    within: Duration,
) -> AmazonS3Builder {
    builder.with_retry(RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: times,
        retry_timeout: within,
    })
}
