//! Running cases: chosen, side by side, each bounded, each cleaned up after.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::time::{Instant, timeout};

use crate::attempt::{attempt, spawn};
use crate::factory::Factory;
use crate::known::KnownFailures;
use crate::meter::{Meter, Waits};
use crate::registry::{CASES, Case, Pace};
use crate::report::{CaseReport, Outcome, Report};
use crate::store::{Opener, Settings, Store, opener, told};

/// What a run is asked for. `Options::default()` is every case that is not slow.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which cases run; see [`Case::matches`].
    pub filter: String,
    /// The seed of everything random. Without one the run takes a new one, and tells it.
    pub seed: Option<u64>,
    /// Runs the slow cases too, and the long form of some others.
    pub slow: bool,
    /// Leaves what the cases wrote, to look at.
    pub keep: bool,
    /// How many cases run at once; 0 is taken as 1.
    pub jobs: usize,
    /// Another time limit than each case's own.
    pub limit: Option<Duration>,
    /// The scheme that the client must have: a run against anything else does not start.
    pub scheme: Option<String>,
    /// The folder that holds the namespaces of all cases, instead of one with a new random name.
    pub namespace: Option<String>,
    /// Texts that no error and no `Debug` text may hold, such as the password of the store. They
    /// are left out of the report, whatever tells them.
    pub secrets: Vec<String>,
    /// Cases that are expected to fail.
    pub known_failures: KnownFailures,
    /// A folder that the linear cases save their histories in; see [`History`](crate::History).
    pub histories: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            filter: String::new(),
            seed: None,
            slow: false,
            keep: false,
            jobs: Options::JOBS,
            limit: None,
            scheme: None,
            namespace: None,
            secrets: Vec::new(),
            known_failures: KnownFailures::default(),
            histories: None,
        }
    }
}

impl Options {
    /// How many cases run at once unless another number is asked for.
    pub const JOBS: usize = 8;

    /// The cases that these options choose, in order.
    pub fn cases(&self) -> impl Iterator<Item = &'static Case> {
        CASES
            .iter()
            .filter(|case| self.slow || case.pace != Pace::Slow)
            .filter(|case| case.matches(&self.filter))
    }
}

/// Runs the cases that `filter` chooses against the clients that `open` opens.
///
/// It needs a Tokio runtime with time. Only on one of several threads can it give up on a client
/// that blocks the thread it is polled on.
pub async fn run<M: 'static>(filter: &str, open: impl Factory<M>) -> Report {
    let options = Options {
        filter: filter.to_owned(),
        ..Options::default()
    };
    run_with(&options, open, |_| ()).await
}

/// Runs the cases that `options` choose against the clients that `open` opens, and tells
/// `progress` of each case as it ends.
pub async fn run_with<M: 'static>(
    options: &Options,
    open: impl Factory<M>,
    progress: impl FnMut(&CaseReport),
) -> Report {
    run_and_count(options, open, progress, &Waits::default()).await
}

/// As [`run_with`], and adds to `waits` what the store's declarations make the cases wait.
pub(crate) async fn run_and_count<M: 'static>(
    options: &Options,
    open: impl Factory<M>,
    mut progress: impl FnMut(&CaseReport),
    waits: &Waits,
) -> Report {
    let started = Instant::now();
    let seed = options.seed.unwrap_or_else(random);
    let mut report = Report::new(seed);
    let chosen: Vec<_> = options.cases().enumerate().collect();
    if chosen.is_empty() {
        return report;
    }

    let opener = opener(open);
    let namespace = options
        .namespace
        .clone()
        .unwrap_or_else(|| format!("conformance-{:x}", random()));
    match introduce(&opener, format!("{namespace}/first"), options).await {
        Ok(scheme) => report.scheme = Some(scheme),
        Err(reason) => {
            report.could_not_open = Some(without_secrets(reason, options));
            return report;
        }
    }

    let mut running = stream::iter(chosen)
        .map(|(place, case)| {
            let case = run_case(case, &opener, &namespace, seed, options, waits);
            async move { (place, case.await) }
        })
        .buffer_unordered(options.jobs.max(1));
    let mut ended = Vec::new();
    while let Some((place, case)) = running.next().await {
        progress(&case);
        ended.push((place, case));
    }
    ended.sort_by_key(|(place, _)| *place);
    report.cases = ended.into_iter().map(|(_, case)| case).collect();
    report.time = started.elapsed();
    report
}

/// Opens a first client, to learn whether there is a store at all, and which.
async fn introduce(
    opener: &Opener,
    namespace: String,
    options: &Options,
) -> Result<&'static str, String> {
    let limit = options.limit.unwrap_or(Pace::Quick.limit());
    let client = match timeout(limit, spawn(opener(namespace))).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return Err(told(&*error)),
        Err(_) => return Err(format!("no client after {limit:?}")),
    };
    let scheme = attempt(async { client.scheme() }).await?;
    match &options.scheme {
        Some(asked) if asked != scheme => Err(format!(
            "the client says that its scheme is {scheme:?}, and {asked:?} was asked for"
        )),
        _ => Ok(scheme),
    }
}

async fn run_case(
    case: &'static Case,
    opener: &Opener,
    namespace: &str,
    seed: u64,
    options: &Options,
    waits: &Waits,
) -> CaseReport {
    let meter = Arc::new(Meter::new(waits));
    let settings = Settings {
        seed,
        slow: options.slow,
        secrets: secrets(options).cloned().collect(),
        histories: options.histories.clone(),
    };
    let namespace = format!("{namespace}/{}", case.id.replace("::", "-"));
    let store = Store::new(Arc::clone(opener), namespace, settings, Arc::clone(&meter));
    let limit = options.limit.unwrap_or(case.pace.limit());

    let started = Instant::now();
    let task = spawn(attempt((case.run)(store.clone())));
    let mut result = match bounded(task, limit, &meter).await {
        Some(result) => result,
        None => Err(format!(
            "not done after {limit:?}: a call hangs, or is far too slow"
        )),
    };
    let time = started.elapsed();
    let usage = meter.usage();
    if !options.keep {
        let task = {
            let store = store.clone();
            spawn(async move { store.clean_up().await })
        };
        let cleaned = match timeout(limit, task).await {
            Ok(cleaned) => cleaned,
            Err(_) => Err(format!("not done after {limit:?}")),
        };
        if let Err(fault) = cleaned {
            let fault = format!("cleaning up with delete_all failed: {fault}");
            match result {
                Ok(()) => result = Err(fault),
                // What has failed already comes first; what is left in the store is told all the same.
                Err(_) => store.note(fault),
            }
        }
    }
    let result = result.map_err(|message| without_secrets(message, options));
    let notes = store.take_notes().into_iter();
    CaseReport {
        case,
        outcome: Outcome::of(result, options.known_failures.get(case.id)),
        time,
        usage,
        notes: notes.map(|note| without_secrets(note, options)).collect(),
    }
}

fn secrets(options: &Options) -> impl Iterator<Item = &String> {
    // Every text holds the empty one.
    options.secrets.iter().filter(|secret| !secret.is_empty())
}

/// What a client says in its errors, as it may stand in a report that many people read.
fn without_secrets(told: String, options: &Options) -> String {
    secrets(options).fold(told, |told, secret| told.replace(secret, "[a secret]"))
}

/// Waits for `task` no longer than `limit` and what the case itself had to wait.
async fn bounded<T>(
    mut task: impl Future<Output = T> + Unpin,
    limit: Duration,
    meter: &Meter,
) -> Option<T> {
    let started = Instant::now();
    loop {
        let allowed = limit.saturating_add(meter.waited());
        let left = allowed.checked_sub(started.elapsed())?;
        if let Ok(result) = timeout(left.max(Duration::from_millis(1)), &mut task).await {
            return Some(result);
        }
    }
}

/// A number that differs from run to run and from process to process.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
