//! How often a request of an upload is sent again, in one place.

use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::{BackoffConfig, RetryConfig};
use tokio::time::Instant;

use crate::fault::{Fault, Reach};

/// The pause before a request is sent again, which doubles with each.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often a part is sent again.
const PART_TIMES: u32 = 3;

/// Until when after the first time it is, if the store was silent for some of that.
const SILENT_WITHIN: Duration = Duration::from_secs(20);

/// Until when it is otherwise: on a slow line a part takes minutes, and a store that refuses the
/// last of them has taken the others.
const PART_WITHIN: Duration = Duration::from_secs(5 * 60);

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
            init_backoff: PAUSE,
            max_backoff: PAUSE_MAX,
            base: 2.0,
        },
        max_retries: times,
        retry_timeout: within,
    })
}

/// The attempts at sending a part. `object_store` counts the time that a part takes as time lost.
#[derive(Debug)]
pub(crate) struct Attempts {
    begun: Instant,
    failed: u32,
}

impl Attempts {
    pub(crate) fn begin() -> Attempts {
        Attempts {
            begun: Instant::now(),
            failed: 0,
        }
    }

    /// Waits until the part is to be sent again, which `fault` has kept from the store. Says at once
    /// that it is not, where that was the last time.
    pub(crate) async fn wait(&mut self, fault: &Fault) -> bool {
        match self.next(fault) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            None => false,
        }
    }

    /// The pause before the part is sent again, which `fault` has kept from the store, or `None`
    /// where that was the last time.
    fn next(&mut self, fault: &Fault) -> Option<Duration> {
        let within = match fault {
            Fault::Silent(_) | Fault::Unreachable(Reach::TooLong, _) => SILENT_WITHIN,
            _ => PART_WITHIN,
        };
        let is_last = self.failed == PART_TIMES || self.begun.elapsed() > within;
        if is_last || !fault.may_pass() {
            return None;
        }
        let pause = PAUSE.saturating_mul(1 << self.failed).min(PAUSE_MAX);
        self.failed += 1;
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> Fault {
        Fault::Broken("reset".to_owned())
    }

    fn silent() -> Fault {
        Fault::Silent(Duration::from_secs(30))
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_sent_three_times_more() {
        let mut attempts = Attempts::begin();

        let pauses = [(); 4].map(|()| attempts.next(&broken()));

        let millis = |number| Some(Duration::from_millis(number));
        assert_eq!(pauses, [millis(200), millis(400), millis(800), None]);
    }

    /// A part that took longer than 20 seconds was given up, though it had got on all the time.
    #[tokio::test(start_paused = true)]
    async fn a_part_that_took_long_is_sent_again_and_one_that_stood_still_is_not() {
        for (took, broken_again, silent_again) in
            [(19, true, true), (21, true, false), (301, false, false)]
        {
            for (fault, is_again) in [(broken(), broken_again), (silent(), silent_again)] {
                let mut attempts = Attempts::begin();
                tokio::time::advance(Duration::from_secs(took)).await;

                let next = attempts.next(&fault);

                assert_eq!(next.is_some(), is_again, "{fault} after {took} s");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_not_sent_again_for_what_stays() {
        let nonsense = Fault::Nonsense("no ETag".to_owned());

        assert_eq!(Attempts::begin().next(&nonsense), None);
    }
}
