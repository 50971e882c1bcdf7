//! One case as one test: what [`conformance!`](crate::conformance) generates calls.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::factory::Factory;
use crate::meter::Waits;
use crate::registry::Case;
use crate::run::{Options, run_and_count};

/// How much longer than its case a test waits, for opening and cleaning up.
const GRACE: Duration = Duration::from_secs(30);

/// Runs the case called `id`, and panics unless the store kept its promise.
///
/// The case has a runtime and a thread of its own, so that even a client that blocks the thread
/// it is polled on can't make the test hang.
#[track_caller]
pub fn test<M: 'static>(id: &'static str, options: Options, open: impl Factory<M>) {
    test_within(GRACE, id, options, open);
}

#[track_caller]
fn test_within<M: 'static>(
    grace: Duration,
    id: &'static str,
    options: Options,
    open: impl Factory<M>,
) {
    let case = Case::find(id).expect("the macro and the registry are made of one list");
    let limit = options.limit.unwrap_or(case.pace.limit());
    let options = Options {
        filter: id.to_owned(),
        ..options
    };
    let waits = Waits::default();
    let (done, report) = mpsc::sync_channel(1);
    let counted = waits.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a machine that runs tests can run two threads");
        let report = runtime.block_on(run_and_count(&options, open, |_| (), &counted));
        // A test that has given up no longer listens.
        let _ = done.send(report);
        runtime.shutdown_background();
    });

    // A case may take as much longer as its store makes it wait.
    let mut allowed = (3 * limit).saturating_add(grace);
    let mut granted = Duration::ZERO;
    loop {
        match report.recv_timeout(allowed) {
            Ok(report) => return report.assert_kept(),
            Err(RecvTimeoutError::Timeout) if waits.total() > granted => {
                allowed = waits.total().saturating_sub(granted);
                granted = granted.saturating_add(allowed);
            }
            Err(RecvTimeoutError::Timeout) => panic!(
                "{id} is not done after {:?}: the client blocks its thread",
                (3 * limit).saturating_add(grace).saturating_add(granted)
            ),
            Err(RecvTimeoutError::Disconnected) => panic!("{id} ended its thread with a panic"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use replica_core::Capabilities;
    use replica_mock::MockStore;

    /// A test gave up on a store whose listings lag by much, and said that it blocks its thread:
    /// the case itself is allowed to wait for them.
    #[test]
    fn a_store_whose_listings_lag_has_the_time_for_it() {
        let lag = Duration::from_millis(200);
        let store = MockStore::with_capabilities(Capabilities::FULL.with_list_lag(lag));
        let options = Options {
            limit: Some(Duration::from_millis(500)),
            ..Options::default()
        };

        // It lists ten times, and so it waits for two seconds.
        let id = "contract::levels_are_independent";
        test_within(Duration::ZERO, id, options, move |namespace: String| {
            std::future::ready(store.client(&namespace))
        });
    }
}
