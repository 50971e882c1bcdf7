//! Points in time, as an LTX header stores them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time in milliseconds since the Unix epoch, in UTC; negative before it.
///
/// The text form is RFC 3339 in UTC with as many digits of the fraction as it needs
/// (`2026-11-21T07:44:47.728Z`). [`FromStr`] takes any RFC 3339 time with an offset, and rounds
/// down what is finer than a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

const NANOS_PER_MILLI: i128 = 1_000_000;

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Timestamp = Timestamp(0);

    /// The time `millis` milliseconds after the Unix epoch. Every `i64` is a time.
    pub const fn from_millis(millis: i64) -> Timestamp {
        Timestamp(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The time as the standard library has it, or `None` where the platform can't hold it.
    pub fn to_system_time(self) -> Option<SystemTime> {
        let distance = Duration::from_millis(self.0.unsigned_abs());
        if self.0 >= 0 {
            UNIX_EPOCH.checked_add(distance)
        } else {
            UNIX_EPOCH.checked_sub(distance)
        }
    }

    /// The first whole millisecond that is not before the time in `text`, which is as [`FromStr`]
    /// takes it.
    ///
    /// Exactly the same whole milliseconds are before both, so this is what a stored time is
    /// compared with to tell whether it is older than `text`.
    pub fn parse_rounding_up(text: &str) -> Result<Timestamp, ParseTimestampError> {
        let nanos = parse_nanos(text)?;
        Ok(Timestamp::from_rfc3339_millis(
            nanos.div_euclid(NANOS_PER_MILLI) + i128::from(nanos.rem_euclid(NANOS_PER_MILLI) > 0),
        ))
    }

    fn from_rfc3339_millis(millis: i128) -> Timestamp {
        Timestamp(i64::try_from(millis).expect("jiff's years fit in an i64 of milliseconds"))
    }

    /// The time of the platform's clock, rounded down to a millisecond, or `None` beyond what
    /// an `i64` of milliseconds holds.
    pub fn from_system_time(time: SystemTime) -> Option<Timestamp> {
        let millis = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).ok()?,
            Err(before) => {
                let nanos = before.duration().as_nanos();
                i64::try_from(nanos.div_ceil(1_000_000))
                    .ok()?
                    .checked_neg()?
            }
        };
        Some(Timestamp(millis))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => time.fmt(f),
            // Beyond the years that RFC 3339 can write.
            Err(_) => write!(f, "{} ms since 1970", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Timestamp, ParseTimestampError> {
        let nanos = parse_nanos(text)?;
        Ok(Timestamp::from_rfc3339_millis(
            nanos.div_euclid(NANOS_PER_MILLI),
        ))
    }
}

/// Nanoseconds since the Unix epoch.
fn parse_nanos(text: &str) -> Result<i128, ParseTimestampError> {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(time.as_nanosecond()),
        Err(_) => Err(ParseTimestampError(text.chars().take(80).collect())),
    }
}

/// A text that is not a point in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time: write it as RFC 3339 with an offset, such as 2026-01-31T12:00:00Z")]
pub struct ParseTimestampError(String);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_prints_in_utc() {
        assert_eq!(
            Timestamp::from_millis(1_795_247_087_728).to_string(),
            "2026-11-21T07:44:47.728Z"
        );
        assert_eq!(
            Timestamp::from_millis(1_795_247_087_000).to_string(),
            "2026-11-21T07:44:47Z"
        );
        assert_eq!(
            Timestamp::from_millis(i64::MAX).to_string(),
            "9223372036854775807 ms since 1970"
        );
    }

    #[test]
    fn an_offset_is_needed_and_taken() {
        assert_eq!(
            "1970-01-01T01:00:00.001+01:00".parse(),
            Ok(Timestamp::from_millis(1))
        );
        assert_eq!(
            "1969-12-31T23:59:59.9995Z".parse(),
            Ok(Timestamp::from_millis(-1))
        );
        assert!("2026-11-21T07:44:47".parse::<Timestamp>().is_err());
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn rounding_up_leaves_a_whole_millisecond_and_reaches_the_next_from_a_part_of_one() {
        for (text, millis) in [
            ("1970-01-01T00:00:00.001Z", 1),
            ("1970-01-01T00:00:00.001000001Z", 2),
            ("1970-01-01T00:00:00.001999999Z", 2),
            ("1969-12-31T23:59:59.999Z", -1),
            ("1969-12-31T23:59:59.9995Z", 0),
        ] {
            let time = Timestamp::parse_rounding_up(text);

            assert_eq!(time, Ok(Timestamp::from_millis(millis)), "{text}");
        }
        assert!(Timestamp::parse_rounding_up("yesterday").is_err());
    }

    proptest! {
        #[test]
        fn the_platforms_clock_holds_every_millisecond(millis in -(1i64 << 50)..1i64 << 50) {
            let time = Timestamp::from_millis(millis);

            prop_assert_eq!(time.to_system_time().and_then(Timestamp::from_system_time), Some(time));
        }
    }
}
