//! Times in the text forms of S3 and of Litestream.

use jiff::Timestamp as Instant;
use replica_core::{Error, ErrorKind, Timestamp};

/// The metadata in which Litestream keeps when a file was created.
pub(crate) const CREATED_AT: &str = "litestream-timestamp";

/// The first millisecond of year 0: the text form can't say what was before it.
const YEAR_0: i64 = -62_167_219_200_000;

/// `time` as Litestream writes it: RFC 3339 in UTC, its fraction without zeros at the end.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) for a time that the form can't say.
pub(crate) fn format(time: Timestamp) -> Result<String, Error> {
    let millis = time.as_millis();
    match Instant::from_millisecond(millis) {
        Ok(instant) if millis >= YEAR_0 => Ok(instant.to_string()),
        _ => Err(no_text(millis)),
    }
}

fn no_text(millis: i64) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "a time of {millis} ms since 1970 has no text in RFC 3339, which is what S3 replicas keep"
        ),
    )
}

/// The time that `text` says, or `None` where it says none. Finer parts than a millisecond are
/// dropped.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    let instant: Instant = text.trim().parse().ok()?;
    let millis = instant.as_nanosecond().div_euclid(1_000_000);
    Some(Timestamp::from_millis(i64::try_from(millis).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_litestream_writes_them() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_795_247_087_728, "2026-11-21T07:44:47.728Z"),
            (1_795_247_087_720, "2026-11-21T07:44:47.72Z"),
            (1_795_247_087_700, "2026-11-21T07:44:47.7Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (4_294_967_296_000, "2106-02-07T06:28:16Z"),
            (-62_167_219_200_000, "0000-01-01T00:00:00Z"),
            (253_402_207_199_999, "9999-12-30T21:59:59.999Z"),
        ] {
            let time = Timestamp::from_millis(millis);

            assert_eq!(format(time).unwrap(), text);
            assert_eq!(parse(text), Some(time));
        }
    }

    #[test]
    fn a_time_without_a_text_is_invalid() {
        for millis in [i64::MIN, -62_167_219_200_001, 253_402_300_800_000, i64::MAX] {
            let error = format(Timestamp::from_millis(millis)).unwrap_err();

            assert_eq!(error.kind(), ErrorKind::Invalid, "{millis}");
        }
    }

    #[test]
    fn finer_parts_than_a_millisecond_are_dropped() {
        assert_eq!(
            parse("2026-11-21T07:44:47.728999999Z"),
            Some(Timestamp::from_millis(1_795_247_087_728))
        );
        assert_eq!(
            parse("1969-12-31T23:59:59.9995+00:00"),
            Some(Timestamp::from_millis(-1))
        );
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in ["", "yesterday", "1795247087", "2026-11-21"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
