//! A restore that is dropped leaves nothing, and stops.

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;

use replica_core::Op;
use replica_engine::{Existing, Integrity, RestoreOptions, Target, restore};
use replica_mock::{MockClient, file};

use crate::support::{Golden, Output, small};

/// Polls `future` at most `polls` times, and drops it.
async fn poll_times<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Drops a restore after one poll, after two, and so on until one comes to its end. Each has a
/// runtime of its own, whose end waits for the work that was given to other threads.
///
/// What is there when it was dropped is all that ever will be: what was there before, or the
/// database, if it had been published that very moment.
fn drop_everywhere(
    output: impl Fn() -> Output,
    options: impl Fn(&Output) -> RestoreOptions,
    before: &[&str],
) {
    let golden = Golden::load("ps65536");
    let size = golden.manifest["latest"]["size"].as_u64().unwrap();
    let is_published = |output: &Output| {
        std::fs::metadata(output.path()).is_ok_and(|metadata| metadata.len() == size)
    };
    for polls in 0..10_000 {
        let output = output();
        let options = options(&output);
        let replica = Arc::new(golden.replica.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();

        let (result, published) = runtime.block_on(async {
            let result = poll_times(restore(replica, &options, |_| {}), polls).await;
            (result, is_published(&output))
        });
        drop(runtime);

        assert_eq!(is_published(&output), published, "after {polls} polls");
        let mut names = output.names();
        names.sort();
        assert_eq!(names, if published { &["restored.db"] } else { before });
        if let Some(restored) = result {
            restored.expect("nothing is wrong with the replica");
            assert!(polls > 3, "only {polls} polls: dropped nowhere in between");
            return;
        }
    }
    panic!("the restore never came to its end");
}

#[test]
fn a_restore_that_is_dropped_anywhere_leaves_nothing() {
    drop_everywhere(Output::new, |output| output.options(Target::Latest), &[]);
}

#[test]
fn a_restore_that_is_dropped_during_sqlites_check_leaves_nothing() {
    let checked = |output: &Output| {
        let mut options = output.options(Target::Latest);
        options.integrity = Integrity::Full;
        options
    };
    drop_everywhere(Output::new, checked, &[]);
}

#[test]
fn a_replacement_that_is_dropped_anywhere_leaves_the_old_database() {
    let with_old = || {
        let output = Output::new();
        for name in ["restored.db", "restored.db-wal"] {
            std::fs::write(output.folder().join(name), "old").unwrap();
        }
        output
    };
    let replacing = |output: &Output| {
        let mut options = output.options(Target::Latest);
        options.existing = Existing::Replace;
        options
    };
    drop_everywhere(with_old, replacing, &["restored.db", "restored.db-wal"]);
}

#[tokio::test]
async fn a_dropped_restore_stops_reading() {
    let (replica, _) = small();
    replica.on(Op::Open).of(file(0, 2..=2)).hang();
    let output = Output::new();
    let options = output.options(Target::Latest);
    let hanging = async {
        while !replica.unused_faults().is_empty() {
            tokio::task::yield_now().await;
        }
    };

    tokio::select! {
        _ = restore(Arc::new(replica.clone()), &options, |_| {}) => panic!("a read hangs"),
        () = hanging => {}
    }

    output.assert_empty();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(replica.running(), 0);
}

/// A blocking pool of one thread is enough, and so is one that other work has filled.
#[test]
fn no_number_of_blocking_threads_is_needed() {
    let (replica, states) = small();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let outputs: Vec<Output> = (0..8).map(|_| Output::new()).collect();
    let options: Vec<_> = outputs
        .iter()
        .map(|output| output.options(Target::Latest))
        .collect();
    let client: Arc<MockClient> = Arc::new(replica);

    let all = options
        .iter()
        .map(|options| restore(client.clone(), options, |_| {}));
    let results = runtime.block_on(futures::future::join_all(all));

    assert!(results.iter().all(Result::is_ok));
    assert!(outputs.iter().all(|output| output.content() == states[2]));
}
