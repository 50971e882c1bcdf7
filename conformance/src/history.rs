//! What clients did at the same time, and whether a store that does one thing after another could
//! have answered so.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Calls that overlapped, and what they gave.
///
/// Each file is a register that holds one value or none; a history is linearizable where every
/// call can be given one moment between its start and its end so that each read finds what the
/// last write or delete before it left. That is checked file by file, which is the same as
/// checking all at once. Listings are checked against what must and what can't be there.
///
/// The text form is JSON lines: the store's allowances first, then an event a line.
///
/// ```
/// let history: conformance::History = r#"
/// {"lag_ns":0,"gaps":false}
/// {"start":1,"end":4,"call":{"write":{"file":1,"value":7}}}
/// {"start":2,"end":3,"call":{"read":{"file":1,"found":7}}}
/// {"start":5,"end":6,"call":{"read":{"file":1,"found":null}}}
/// "#.parse()?;
///
/// let violation = history.check().unwrap_err();
/// assert!(violation.to_string().starts_with("file 1: "), "{violation}");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    allowances: Allowances,
    events: Vec<Event>,
}

/// What the store declared that it can't promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Allowances {
    /// For how many nanoseconds a listing may miss a change.
    lag_ns: u64,
    /// Whether a file may be gone for a moment while it is replaced.
    gaps: bool,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// When it began, in nanoseconds, at a moment of its own.
    pub(crate) start: u64,
    /// When it ended. A call whose end nobody saw may take effect at any time after its start,
    /// or never.
    pub(crate) end: Option<u64>,
    pub(crate) call: Call,
}

/// What was called, on which file, with what answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Call {
    /// A value that no other write of this file writes.
    Write {
        file: u64,
        value: u64,
    },
    Delete {
        file: u64,
    },
    Read {
        file: u64,
        found: Option<u64>,
    },
    List {
        found: Vec<u64>,
    },
}

/// Why no store that does one thing after another could have answered so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

impl History {
    pub(crate) fn new(lag: Duration, gaps: bool, mut events: Vec<Event>) -> History {
        events.sort_by_key(|event| event.start);
        let lag_ns = u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX);
        History {
            allowances: Allowances { lag_ns, gaps },
            events,
        }
    }

    /// Whether the history is linearizable, and every listing possible.
    ///
    /// # Errors
    ///
    /// What is not, with the calls that show it.
    pub fn check(&self) -> Result<(), Violation> {
        self.check_files()?;
        self.check_listings()
    }

    pub(crate) fn check_files(&self) -> Result<(), Violation> {
        for (file, steps) in self.files() {
            let steps = if self.allowances.gaps {
                without_gaps(&steps)
            } else {
                steps
            };
            if !is_linearizable(&steps) {
                return Err(Violation(format!(
                    "file {file}: no order of these calls gives these answers:\n{}",
                    self.calls_of(file)
                )));
            }
        }
        Ok(())
    }

    pub(crate) fn check_listings(&self) -> Result<(), Violation> {
        let files = self.files();
        for event in &self.events {
            let (Call::List { found }, Some(end)) = (&event.call, event.end) else {
                continue;
            };
            if let Some(stray) = found.iter().find(|file| !files.contains_key(file)) {
                return Err(Violation(format!(
                    "file {stray} is listed, and was never written"
                )));
            }
            let settled = event.start.saturating_sub(self.allowances.lag_ns);
            for (file, steps) in &files {
                let is_listed = found.contains(file);
                let fault = match certainty(steps, settled, end, self.allowances.gaps) {
                    Some(true) if !is_listed => "was there, and is not listed",
                    Some(false) if is_listed => "was not there, and is listed",
                    _ => continue,
                };
                return Err(Violation(format!(
                    "file {file} {fault} by the listing from {} to {end}:\n{}",
                    event.start,
                    self.calls_of(*file)
                )));
            }
        }
        Ok(())
    }

    /// The reads, writes and deletes of each file.
    fn files(&self) -> BTreeMap<u64, Vec<Step>> {
        let mut files: BTreeMap<u64, Vec<Step>> = BTreeMap::new();
        for event in &self.events {
            let (file, kind) = match event.call {
                Call::Write { file, value } => (file, Kind::Set(Some(value))),
                Call::Delete { file } => (file, Kind::Set(None)),
                Call::Read { file, found } => (file, Kind::Get(found)),
                Call::List { .. } => continue,
            };
            // A read that nobody saw the end of says nothing.
            if event.end.is_none() && matches!(kind, Kind::Get(_)) {
                continue;
            }
            files.entry(file).or_default().push(Step {
                start: event.start,
                end: event.end,
                kind,
            });
        }
        files
    }

    fn calls_of(&self, wanted: u64) -> String {
        let lines = self.events.iter().filter(|event| match event.call {
            Call::Write { file, .. } | Call::Delete { file } | Call::Read { file, .. } => {
                file == wanted
            }
            Call::List { .. } => false,
        });
        lines.map(line).collect()
    }
}

fn line<T: Serialize>(value: &T) -> String {
    let line = serde_json::to_string(value).expect("numbers and names are always JSON");
    line + "\n"
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&line(&self.allowances))?;
        self.events
            .iter()
            .try_for_each(|event| f.write_str(&line(event)))
    }
}

impl FromStr for History {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<History, serde_json::Error> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let allowances = lines.next().map(serde_json::from_str).transpose()?;
        Ok(History {
            allowances: allowances.unwrap_or_default(),
            events: lines.map(serde_json::from_str).collect::<Result<_, _>>()?,
        })
    }
}

/// A call on one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    start: u64,
    end: Option<u64>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Set(Option<u64>),
    Get(Option<u64>),
}

impl Step {
    fn is_over_before(&self, moment: u64) -> bool {
        self.end.is_some_and(|end| end < moment)
    }
}

/// The steps without the reads that found nothing while the file was being replaced.
fn without_gaps(steps: &[Step]) -> Vec<Step> {
    let is_gap = |step: &Step| {
        step.kind == Kind::Get(None)
            && steps.iter().any(|other| {
                matches!(other.kind, Kind::Set(Some(_)))
                    && !other.is_over_before(step.start)
                    && step.end.is_none_or(|end| other.start < end)
            })
    };
    steps.iter().filter(|step| !is_gap(step)).copied().collect()
}

/// Whether a file is certainly there, or certainly not, in a listing that ended at `end` and may
/// show what was at any moment since `settled`.
fn certainty(steps: &[Step], settled: u64, end: u64, gaps: bool) -> Option<bool> {
    let sets = || {
        let set = |step: &Step| match step.kind {
            Kind::Set(value) => Some((*step, value.is_some())),
            Kind::Get(_) => None,
        };
        steps.iter().filter_map(set)
    };
    // Nobody has written it before the beginning.
    let beginning = Step {
        start: 0,
        end: Some(0),
        kind: Kind::Set(None),
    };
    let over = |step: &Step| step.is_over_before(settled);
    for (last, present) in sets()
        .chain([(beginning, false)])
        .filter(|(step, _)| over(step))
    {
        let may_follow = |step: &Step| step.start < end && !step.is_over_before(last.start);
        let undone = sets().any(|(step, other)| other != present && may_follow(&step));
        let gap = gaps && sets().any(|(step, other)| other && step.start < end && !over(&step));
        if undone || present && gap {
            continue;
        }
        return Some(present);
    }
    None
}

/// Whether each step can be given one moment between its start and its end so that each `Get`
/// finds what the last `Set` before it left, beginning with nothing (Wing and Gong's search,
/// which remembers where it has been, as Lowe proposed).
fn is_linearizable(steps: &[Step]) -> bool {
    let mut seen = HashSet::new();
    let mut left = vec![Search {
        done: vec![false; steps.len()],
        value: None,
    }];
    while let Some(mut search) = left.pop() {
        search.get_all(steps);
        if search.is_complete(steps) {
            return true;
        }
        if search.is_stuck(steps) || seen.contains(&search) {
            continue;
        }
        left.extend(search.sets(steps));
        seen.insert(search);
    }
    false
}

/// How far a search has come: which steps have had their moment, and what the last one left.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Search {
    done: Vec<bool>,
    value: Option<u64>,
}

impl Search {
    fn left(&self) -> impl Iterator<Item = usize> {
        (0..self.done.len()).filter(|place| !self.done[*place])
    }

    /// The steps that may come next: those that began before every other one ended.
    fn next(&self, steps: &[Step]) -> Vec<usize> {
        let first_end = self.left().filter_map(|place| steps[place].end).min();
        let in_time = |place: &usize| first_end.is_none_or(|end| steps[*place].start <= end);
        self.left().filter(in_time).collect()
    }

    /// Gives their moment to the `Get`s that find the present value. They change nothing, so that
    /// doing it at once excludes nothing.
    fn get_all(&mut self, steps: &[Step]) {
        loop {
            let finds = |place: &usize| steps[*place].kind == Kind::Get(self.value);
            let found: Vec<_> = self.next(steps).into_iter().filter(finds).collect();
            if found.is_empty() {
                return;
            }
            for place in found {
                self.done[place] = true;
            }
        }
    }

    /// Whether all that is left are calls whose end nobody saw.
    fn is_complete(&self, steps: &[Step]) -> bool {
        self.left().all(|place| steps[place].end.is_none())
    }

    fn is_left(&self, steps: &[Step], kind: Kind) -> bool {
        self.left().any(|place| steps[place].kind == kind)
    }

    /// Whether a `Get` needs the present value later, which by then will be gone for good.
    fn is_stuck(&self, steps: &[Step]) -> bool {
        self.value.is_some()
            && self.is_left(steps, Kind::Get(self.value))
            && !self.is_left(steps, Kind::Set(self.value))
    }

    /// Every way to go on with a `Set`.
    ///
    /// One whose value no `Get` needs any more is free to have its moment right before another
    /// one's, which hides it; and where nobody saw its end, it may as well never have one. So
    /// there is a way for each `Set` that is needed, and one for all the others.
    fn sets(&self, steps: &[Step]) -> Vec<Search> {
        let mut hidden = self.clone();
        let mut needed = Vec::new();
        for place in self.next(steps) {
            let Kind::Set(value) = steps[place].kind else {
                continue;
            };
            if self.is_left(steps, Kind::Get(value)) {
                needed.push((place, value));
            } else if steps[place].end.is_some() {
                hidden.done[place] = true;
                hidden.value = value;
            }
        }
        let further = needed.into_iter().map(|(place, value)| {
            let mut further = hidden.clone();
            further.done[place] = true;
            further.value = value;
            further
        });
        let mut further: Vec<_> = further.collect();
        if hidden.done != self.done {
            further.push(hidden);
        }
        further
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn step(start: u64, end: impl Into<Option<u64>>, kind: Kind) -> Step {
        Step {
            start,
            end: end.into(),
            kind,
        }
    }

    const A: Kind = Kind::Set(Some(1));
    const B: Kind = Kind::Set(Some(2));
    const DELETE: Kind = Kind::Set(None);
    const READ_A: Kind = Kind::Get(Some(1));
    const READ_B: Kind = Kind::Get(Some(2));
    const MISS: Kind = Kind::Get(None);

    #[test]
    fn overlapping_calls_may_take_effect_in_either_order() {
        for read in [READ_A, MISS] {
            assert!(is_linearizable(&[step(1, 4, A), step(2, 3, read)]));
        }
        assert!(is_linearizable(&[
            step(1, 4, A),
            step(2, 3, B),
            step(5, 6, READ_A)
        ]));
        assert!(is_linearizable(&[
            step(1, 4, A),
            step(2, 3, B),
            step(5, 6, READ_B)
        ]));
    }

    #[test]
    fn a_stale_read_is_found() {
        assert!(!is_linearizable(&[step(1, 2, A), step(3, 4, MISS)]));
        assert!(!is_linearizable(&[
            step(1, 2, A),
            step(3, 4, B),
            step(5, 6, READ_A)
        ]));
        assert!(!is_linearizable(&[
            step(1, 2, A),
            step(3, 4, DELETE),
            step(5, 6, READ_A)
        ]));
    }

    #[test]
    fn a_value_does_not_come_back() {
        let overlapping = [step(1, 9, A), step(1, 9, B)];
        let reads = [step(2, 3, READ_A), step(4, 5, READ_B), step(6, 7, READ_A)];

        assert!(is_linearizable(&[&overlapping[..], &reads[..2]].concat()));
        assert!(!is_linearizable(&[&overlapping[..], &reads[..]].concat()));
    }

    #[test]
    fn a_call_without_an_end_takes_effect_later_or_never() {
        let lost = [step(1, 2, A), step(3, None, B)];
        let reads = [step(4, 5, READ_A), step(6, 7, READ_B)];

        assert!(is_linearizable(&[&lost[..], &reads[..]].concat()));
        assert!(is_linearizable(&[&lost[..], &reads[..1]].concat()));
        let back = [step(4, 5, READ_B), step(6, 7, READ_A)];
        assert!(!is_linearizable(&[&lost[..], &back[..]].concat()));
    }

    fn listing(
        events: &[(u64, Option<u64>, Call)],
        lag_ns: u64,
        gaps: bool,
    ) -> Result<(), Violation> {
        let events = events.iter().map(|(start, end, call)| Event {
            start: *start,
            end: *end,
            call: call.clone(),
        });
        History::new(Duration::from_nanos(lag_ns), gaps, events.collect()).check_listings()
    }

    #[test]
    fn a_listing_has_what_was_there_all_the_time() {
        let write = (1, Some(2), Call::Write { file: 1, value: 1 });
        let delete = (3, Some(4), Call::Delete { file: 1 });
        let list = |start, end, found: &[u64]| {
            (
                start,
                Some(end),
                Call::List {
                    found: found.to_vec(),
                },
            )
        };

        assert!(listing(&[write.clone(), list(5, 6, &[1])], 0, false).is_ok());
        assert!(listing(&[write.clone(), list(5, 6, &[])], 0, false).is_err());
        assert!(listing(&[write.clone(), delete.clone(), list(5, 6, &[])], 0, false).is_ok());
        assert!(listing(&[write.clone(), delete.clone(), list(5, 6, &[1])], 0, false).is_err());
        assert!(listing(&[list(5, 6, &[1])], 0, false).is_err());
        // Beside the delete, either.
        let during = (3, Some(9), Call::Delete { file: 1 });
        for found in [&[][..], &[1]] {
            assert!(
                listing(
                    &[write.clone(), during.clone(), list(5, 6, found)],
                    0,
                    false
                )
                .is_ok()
            );
        }
        // Within the lag, either; beyond it, only the truth.
        for found in [&[][..], &[1]] {
            assert!(listing(&[write.clone(), list(5, 6, found)], 10, false).is_ok());
        }
        assert!(listing(&[write.clone(), list(50, 60, &[])], 10, false).is_err());
        // In the middle of being replaced, a file may be missed where that was declared.
        let replace = (3, Some(9), Call::Write { file: 1, value: 2 });
        assert!(listing(&[write.clone(), replace.clone(), list(5, 6, &[])], 0, true).is_ok());
        assert!(listing(&[write, replace, list(5, 6, &[])], 0, false).is_err());
    }

    /// Tries every order of every choice of steps, as the definition says.
    fn brute_force(steps: &[Step]) -> bool {
        fn go(steps: &[Step], order: &mut Vec<usize>, value: Option<u64>) -> bool {
            let left = || (0..steps.len()).filter(|place| !order.contains(place));
            if left().all(|place| steps[place].end.is_none()) {
                return true;
            }
            let candidates: Vec<_> = left().collect();
            candidates.iter().any(|place| {
                let step = steps[*place];
                if candidates
                    .iter()
                    .any(|other| steps[*other].is_over_before(step.start))
                {
                    return false;
                }
                let next = match step.kind {
                    Kind::Set(next) => next,
                    Kind::Get(found) if found == value => value,
                    Kind::Get(_) => return false,
                };
                order.push(*place);
                let holds = go(steps, order, next);
                order.pop();
                holds
            })
        }
        go(steps, &mut Vec::new(), None)
    }

    fn a_step() -> impl Strategy<Value = (u64, u64, bool, Kind)> {
        let value = prop_oneof![Just(None), (1u64..4).prop_map(Some)];
        let kind = (any::<bool>(), value).prop_map(|(set, value)| match set {
            true => Kind::Set(value),
            false => Kind::Get(value),
        });
        (0u64..12, 1u64..8, prop::bool::weighted(0.2), kind)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn the_search_agrees_with_trying_every_order(
            steps in prop::collection::vec(a_step(), 1..7)
        ) {
            let steps: Vec<_> = steps
                .into_iter()
                .filter(|(_, _, lost, kind)| !lost || matches!(kind, Kind::Set(_)))
                .map(|(start, length, lost, kind)| {
                    step(start, (!lost).then_some(start + length), kind)
                })
                .collect();

            prop_assert_eq!(is_linearizable(&steps), brute_force(&steps));
        }
    }
}
