//! What a run found, for people and for machines.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::known::KnownFailure;
use crate::meter::Usage;
use crate::registry::Case;

/// What a run found. Its `Display` is a table for people.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// The scheme of the clients that were tested, where one could be opened.
    pub scheme: Option<&'static str>,
    /// The seed of everything random: the same seed asks the same again.
    pub seed: u64,
    /// Why no client could be opened at the start, where none could.
    pub could_not_open: Option<String>,
    /// Every case that ran, in the order of the catalogue.
    pub cases: Vec<CaseReport>,
    /// How long the run took.
    pub time: Duration,
}

/// What one case found. Its `Display` is a line.
#[derive(Debug)]
#[non_exhaustive]
pub struct CaseReport {
    /// The case.
    pub case: &'static Case,
    /// Whether the store kept its promise.
    pub outcome: Outcome,
    /// How long it took, without cleaning up.
    pub time: Duration,
    /// What it asked of the store.
    pub usage: Usage,
    /// What it measured.
    pub notes: Vec<String>,
}

/// Whether a store kept the promise of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It did.
    Kept,
    /// It did not, for the reason given.
    Broken(String),
    /// It did not, and that was known.
    KnownFailure {
        /// What was seen.
        message: String,
        /// Why it was expected.
        known: KnownFailure,
    },
}

impl Outcome {
    pub(crate) fn of(result: Result<(), String>, known: Option<&KnownFailure>) -> Outcome {
        match (result, known) {
            (Ok(()), None) => Outcome::Kept,
            (Ok(()), Some(known)) => Outcome::Broken(format!(
                "it passes, and was known to fail ({}): take it off the list",
                known.issue
            )),
            (Err(message), None) => Outcome::Broken(message),
            (Err(message), Some(known)) if known.has_expired() => Outcome::Broken(format!(
                "{message} (a known failure, {}, which was to be mended by {})",
                known.issue, known.until
            )),
            (Err(message), Some(known)) => Outcome::KnownFailure {
                message,
                known: known.clone(),
            },
        }
    }

    /// Whether the run counts this as a broken promise: a known failure does not.
    pub fn is_broken(&self) -> bool {
        matches!(self, Outcome::Broken(_))
    }

    fn word(&self) -> &'static str {
        match self {
            Outcome::Kept => "kept",
            Outcome::Broken(_) => "broken",
            Outcome::KnownFailure { .. } => "known failure",
        }
    }

    fn message(&self) -> Option<&str> {
        match self {
            Outcome::Kept => None,
            Outcome::Broken(message) | Outcome::KnownFailure { message, .. } => Some(message),
        }
    }
}

/// The four ways in which a run can end, which are also the command's exit statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every case that ran was kept, or was known to fail.
    Kept = 0,
    /// At least one promise was broken.
    Broken = 1,
    /// No client could be opened, or only one of another store than was asked for.
    NotOpened = 2,
    /// No case ran, because the filter chose none.
    NothingRan = 3,
}

impl Report {
    pub(crate) fn new(seed: u64) -> Report {
        Report {
            scheme: None,
            seed,
            could_not_open: None,
            cases: Vec::new(),
            time: Duration::ZERO,
        }
    }

    /// How the run ended.
    pub fn verdict(&self) -> Verdict {
        if self.could_not_open.is_some() {
            Verdict::NotOpened
        } else if self.cases.is_empty() {
            Verdict::NothingRan
        } else if self.broken().next().is_some() {
            Verdict::Broken
        } else {
            Verdict::Kept
        }
    }

    /// The command's exit status: 0 all promises kept, 1 broken, 2 could not open, 3 nothing ran.
    pub fn exit_status(&self) -> u8 {
        self.verdict() as u8
    }

    /// The cases whose promise was broken.
    pub fn broken(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| case.outcome.is_broken())
    }

    /// Panics with the whole report unless every promise was kept: for a test that runs the
    /// suite.
    ///
    /// # Panics
    ///
    /// Unless [`verdict`](Report::verdict) is [`Verdict::Kept`].
    #[track_caller]
    pub fn assert_kept(&self) {
        assert!(self.verdict() == Verdict::Kept, "{self}");
    }

    /// The report as one JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        let cases: Vec<_> = self.cases.iter().map(CaseReport::to_json).collect();
        json!({
            "verdict": self.verdict(),
            "exit_status": self.exit_status(),
            "scheme": self.scheme,
            // As text, because half of all seeds are beyond what a double holds.
            "seed": self.seed.to_string(),
            "could_not_open": self.could_not_open,
            "seconds": self.time.as_secs_f64(),
            "cases": cases,
        })
    }
}

impl CaseReport {
    /// The case as one JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        let known = match &self.outcome {
            Outcome::KnownFailure { known, .. } => Some(json!({
                "until": known.until,
                "issue": known.issue,
                "reason": known.reason,
            })),
            Outcome::Kept | Outcome::Broken(_) => None,
        };
        json!({
            "id": self.case.id,
            "catalogue": self.case.catalogue,
            "promises": self.case.promises,
            "outcome": self.outcome.word().replace(' ', "_"),
            "message": self.outcome.message(),
            "known_failure": known,
            "seconds": self.time.as_secs_f64(),
            "calls": self.usage.calls(),
            "usage": self.usage,
            "notes": self.notes,
        })
    }
}

fn total<'a>(cases: impl Iterator<Item = &'a CaseReport>) -> Usage {
    let mut usage = Usage::default();
    for case in cases {
        usage.add(&case.usage);
    }
    usage
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<6} {:<55} {:>8} {:>6} calls {:>9}  {} {}",
            match self.outcome {
                Outcome::KnownFailure { .. } => "known",
                _ => self.outcome.word(),
            },
            self.case.id,
            Seconds(self.time).to_string(),
            self.usage.calls(),
            Size(self.usage.bytes()).to_string(),
            self.case.catalogue.join(" "),
            self.case.promises.join(" "),
        )?;
        for note in &self.notes {
            write!(f, "\n       {note}")?;
        }
        match &self.outcome {
            Outcome::Kept => Ok(()),
            Outcome::Broken(message) => write!(f, "\n       {message}"),
            Outcome::KnownFailure { message, known } => write!(
                f,
                "\n       {message}\n       known until {}: {} ({})",
                known.until, known.reason, known.issue
            ),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: BTreeMap<_, Vec<&CaseReport>> = BTreeMap::new();
        let mut order = Vec::new();
        for case in &self.cases {
            let group = groups.entry(case.case.group).or_default();
            if group.is_empty() {
                order.push(case.case.group);
            }
            group.push(case);
        }
        if !self.cases.is_empty() {
            writeln!(
                f,
                "{:<12} {:>5} {:>5} {:>6} {:>9} {:>8} {:>10}",
                "group", "cases", "kept", "broken", "time", "calls", "bytes"
            )?;
        }
        for name in order {
            let group = &groups[name];
            row(f, name, group, group.iter().map(|case| case.time).sum())?;
        }
        let all: Vec<_> = self.cases.iter().collect();
        if !all.is_empty() {
            row(f, "all", &all, self.time)?;
        }
        for case in self
            .cases
            .iter()
            .filter(|case| case.outcome != Outcome::Kept)
        {
            writeln!(f, "\n{case}")?;
        }
        writeln!(f)?;
        let store = self.scheme.unwrap_or("the store");
        match self.verdict() {
            Verdict::Kept => {
                write!(
                    f,
                    "{store} kept the promises of all {} cases",
                    self.cases.len()
                )?;
                match self
                    .cases
                    .iter()
                    .filter(|case| case.outcome != Outcome::Kept)
                    .count()
                {
                    0 => {}
                    known => write!(f, " but {known} that are known to fail")?,
                }
            }
            Verdict::Broken => write!(
                f,
                "{store} broke the promises of {} of {} cases",
                self.broken().count(),
                self.cases.len()
            )?,
            Verdict::NotOpened => write!(
                f,
                "could not open a client: {}",
                self.could_not_open.as_deref().unwrap_or_default()
            )?,
            Verdict::NothingRan => write!(f, "nothing ran: the filter chose no case")?,
        }
        write!(f, " (seed {})", self.seed)
    }
}

fn row(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    cases: &[&CaseReport],
    time: Duration,
) -> fmt::Result {
    let usage = total(cases.iter().copied());
    let count =
        |wanted: fn(&Outcome) -> bool| cases.iter().filter(|case| wanted(&case.outcome)).count();
    writeln!(
        f,
        "{name:<12} {:>5} {:>5} {:>6} {:>9} {:>8} {:>10}",
        cases.len(),
        count(|outcome| *outcome == Outcome::Kept),
        count(Outcome::is_broken),
        Seconds(time).to_string(),
        usage.calls(),
        Size(usage.bytes()).to_string(),
    )
}

/// A time as people read it in a column.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            millis @ 0..10_000 => write!(f, "{millis} ms"),
            _ => write!(f, "{:.1} s", self.0.as_secs_f64()),
        }
    }
}

/// A number of bytes as people read it in a column.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0..10_240 => write!(f, "{bytes} B"),
            bytes @ 10_240..10_485_760 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{} MiB", bytes >> 20),
        }
    }
}
