//! Cases that a store is known to fail.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use replica_core::Timestamp;

use crate::registry::Case;

/// The failures that are known: expected until they expire, and missed when they don't happen.
///
/// The text form is a line for each, of four columns; empty lines, and lines that begin with
/// `#`, are comments:
///
/// ```
/// let known: conformance::KnownFailures = "
/// ## case                         until       issue      why
/// range::length_zero_is_empty    2099-12-31  acme/s#12  the server ignores empty ranges
/// ".replace("##", "#").parse()?;
///
/// assert_eq!(known.len(), 1);
/// # Ok::<(), conformance::KnownFailuresError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct KnownFailures(BTreeMap<&'static str, KnownFailure>);

/// Why a failure is expected, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFailure {
    /// The last day on which it is expected, as `YYYY-MM-DD` in UTC.
    pub until: String,
    /// Where it is being followed.
    pub issue: String,
    /// Why it fails.
    pub reason: String,
}

impl KnownFailures {
    /// How many failures are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is known of the case called `id`.
    pub fn get(&self, id: &str) -> Option<&KnownFailure> {
        self.0.get(id)
    }
}

impl KnownFailure {
    /// Whether its last day is over.
    pub fn has_expired(&self) -> bool {
        // Days of this form sort as text.
        today().is_none_or(|today| self.until < today)
    }
}

/// Today as `YYYY-MM-DD` in UTC, or `None` where the clock is beyond all calendars.
fn today() -> Option<String> {
    let now = Timestamp::from_system_time(SystemTime::now())?.to_string();
    now.split_once('T').map(|(day, _)| day.to_owned())
}

impl FromStr for KnownFailures {
    type Err = KnownFailuresError;

    fn from_str(text: &str) -> Result<KnownFailures, KnownFailuresError> {
        let mut known = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let refuse = |message: String| KnownFailuresError { line, message };
            let mut columns = text.split_whitespace();
            let (Some(id), Some(until), Some(issue)) =
                (columns.next(), columns.next(), columns.next())
            else {
                return Err(refuse(
                    "give a case, a day, an issue and a reason".to_owned(),
                ));
            };
            let reason = columns.collect::<Vec<_>>().join(" ");
            let Some(case) = Case::find(id) else {
                return Err(refuse(format!("there is no case {id:?}")));
            };
            if until.len() != 10 || format!("{until}T00:00:00Z").parse::<Timestamp>().is_err() {
                return Err(refuse(format!(
                    "{until:?} is no day: write it as 2026-01-31"
                )));
            }
            if reason.is_empty() {
                return Err(refuse("the reason is missing".to_owned()));
            }
            let failure = KnownFailure {
                until: until.to_owned(),
                issue: issue.to_owned(),
                reason,
            };
            if known.insert(case.id, failure).is_some() {
                return Err(refuse(format!("{id} is there twice")));
            }
        }
        Ok(KnownFailures(known))
    }
}

/// A list of known failures that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFailuresError {
    line: usize,
    message: String,
}

impl fmt::Display for KnownFailuresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "known failures, line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for KnownFailuresError {}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: &str = "range::length_zero_is_empty";

    #[test]
    fn a_line_is_a_failure_and_the_rest_is_comment() {
        let known: KnownFailures = format!("# why\n\n  {CASE} 2099-12-31 #12   it is   odd \n")
            .parse()
            .unwrap();

        let failure = known.get(CASE).expect("it is known");
        assert_eq!(known.len(), 1);
        assert_eq!((&*failure.until, &*failure.issue), ("2099-12-31", "#12"));
        assert_eq!(failure.reason, "it is odd");
    }

    #[test]
    fn what_can_not_be_read_is_told_with_its_line() {
        for (text, told) in [
            (
                "range::nothing 2099-12-31 #1 why".to_owned(),
                "line 1: there is no case",
            ),
            (
                format!("\n{CASE} 2099-13-31 #1 why"),
                "line 2: \"2099-13-31\" is no day",
            ),
            (format!("{CASE} tomorrow #1 why"), "is no day"),
            (
                format!("{CASE} 2099-12-31"),
                "give a case, a day, an issue and a reason",
            ),
            (format!("{CASE} 2099-12-31 #1"), "the reason is missing"),
            (
                format!("{CASE} 2099-12-31 #1 a\n{CASE} 2099-12-31 #1 a"),
                "line 2: ",
            ),
        ] {
            let error = text.parse::<KnownFailures>().unwrap_err();

            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn a_failure_expires_when_its_last_day_is_over() {
        let until = |day: &str| KnownFailure {
            until: day.to_owned(),
            issue: String::new(),
            reason: String::new(),
        };

        assert!(until("2020-02-29").has_expired());
        assert!(!until("2999-12-31").has_expired());
        assert!(!until(&today().unwrap()).has_expired());
    }
}
