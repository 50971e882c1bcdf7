//! Decides when a log is looked at. No I/O, and no clock of its own.

use std::time::Duration;

use tokio::time::Instant;

/// How soon a log is looked at again after it was written: SQLite writes a transaction first and
/// commits it then, about which nobody is told.
const SOON: Duration = Duration::from_millis(1);
/// For how long nothing must have been committed until it is quiet.
const QUIET: Duration = Duration::from_millis(16);
/// How often a log is looked at where the kernel tells of each write to it, and somebody glances at
/// its index: for what they do not tell, as that a checkpoint is due.
const WATCHED: Duration = Duration::from_secs(30);

/// Thirty years, which can be added to any time.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// When a log is looked at: as soon as it was written, but not more often than once in a window;
/// then again and again, each time after twice the time, up to the interval of polling, or to a
/// longer one where it is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looks {
    window: Duration,
    poll: Duration,
    /// When the last file was begun.
    stored: Option<Instant>,
    looked: Instant,
    pause: Duration,
}

impl Looks {
    pub(crate) fn new(window: Duration, poll: Duration, is_watched: bool, now: Instant) -> Looks {
        Looks {
            window,
            poll: match is_watched {
                true => poll.max(WATCHED),
                false => poll,
            },
            stored: None,
            looked: now,
            pause: Duration::ZERO,
        }
    }

    /// The log was written.
    pub(crate) fn written(&mut self) {
        self.pause = Duration::ZERO;
    }

    /// The log was looked at from `begun` on, and that has led to files or not.
    pub(crate) fn looked(&mut self, begun: Instant, stored: bool) {
        self.looked = begun;
        if stored {
            self.stored = Some(begun);
            self.pause = SOON;
        } else {
            self.pause = self
                .pause
                .saturating_mul(2)
                .clamp(SOON, self.poll.max(SOON));
        }
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Instant {
        let next = later(self.looked, self.pause);
        match self.stored {
            Some(stored) => next.max(later(stored, self.window)),
            None => next,
        }
    }

    /// Whether nothing was committed for a moment, as far as is known.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pause >= QUIET.min(self.poll)
    }
}

/// The moment that is `pause` after `instant`, or one that nobody lives to see.
pub(crate) fn later(instant: Instant, pause: Duration) -> Instant {
    instant.checked_add(pause).unwrap_or(instant + FOREVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Looks at the log when it is time to, so many times, and says after which times.
    fn idle(looks: &mut Looks, times: usize) -> Vec<u128> {
        let mut pauses = Vec::new();
        for _ in 0..times {
            let (before, next) = (looks.looked, looks.next());
            pauses.push((next - before).as_millis());
            looks.looked(next, false);
        }
        pauses
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_nobody_writes_is_looked_at_more_and_more_seldom() {
        let mut looks = Looks::new(MS(50), MS(100), false, Instant::now());

        let pauses = idle(&mut looks, 11);

        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 64, 100, 100, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_is_watched_is_hardly_looked_at() {
        let mut looks = Looks::new(MS(50), MS(1000), true, Instant::now());

        let pauses = idle(&mut looks, 18);

        assert_eq!(pauses[14..], [8192, 16_384, 30_000, 30_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_at_as_soon_as_it_was_written() {
        let now = Instant::now();
        let mut looks = Looks::new(MS(50), MS(1000), false, now);
        idle(&mut looks, 20);

        looks.written();

        assert_eq!(looks.next(), looks.looked);
        assert!(!looks.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn commits_within_one_window_travel_together() {
        let now = Instant::now();
        let mut looks = Looks::new(MS(50), MS(1000), false, now);
        looks.looked(now, true);

        looks.written();

        assert_eq!(looks.next(), now + MS(50));
    }

    #[tokio::test(start_paused = true)]
    async fn times_that_never_come_are_waited_for() {
        let now = Instant::now();
        let mut looks = Looks::new(Duration::MAX, Duration::MAX, false, now);
        for _ in 0..200 {
            looks.looked(now, false);
        }
        assert!(looks.next() > now + MS(u64::from(u32::MAX)));

        looks.looked(now, true);
        assert!(looks.next() > now + MS(u64::from(u32::MAX)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_quiet_once_nothing_was_stored_for_a_moment() {
        let now = Instant::now();
        let mut looks = Looks::new(MS(0), MS(1000), false, now);
        looks.looked(now, true);
        assert!(!looks.is_quiet());

        idle(&mut looks, 4);

        assert!(looks.is_quiet());
        assert_eq!(looks.looked, now + MS(1 + 2 + 4 + 8));
    }
}
