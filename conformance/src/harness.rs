//! One case as one test: what [`conformance!`](crate::conformance) generates calls.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::factory::Factory;
use crate::registry::Case;
use crate::run::{Options, run_with};

/// How much longer than its case a test waits, for opening and cleaning up.
const GRACE: Duration = Duration::from_secs(30);

/// Runs the case called `id`, and panics unless the store kept its promise.
///
/// The case has a runtime and a thread of its own, so that even a client that blocks the thread
/// it is polled on can't make the test hang.
#[track_caller]
pub fn test<M: 'static>(id: &'static str, options: Options, open: impl Factory<M>) {
    let case = Case::find(id).expect("the macro and the registry are made of one list");
    let limit = options.limit.unwrap_or(case.pace.limit());
    let options = Options {
        filter: id.to_owned(),
        ..options
    };
    let (done, report) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a machine that runs tests can run two threads");
        let report = runtime.block_on(run_with(&options, open, |_| ()));
        // A test that has given up no longer listens.
        let _ = done.send(report);
        runtime.shutdown_background();
    });
    match report.recv_timeout(3 * limit + GRACE) {
        Ok(report) => report.assert_kept(),
        Err(_) => panic!(
            "{id} is not done after {:?}: the client blocks its thread",
            3 * limit + GRACE
        ),
    }
}
