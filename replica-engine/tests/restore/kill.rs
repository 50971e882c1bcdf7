//! A restore whose process is killed leaves nothing under the target's name.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use replica_core::Op;
use replica_engine::{RestoreOptions, Target, restore};
use replica_mock::file;

use crate::support::{Output, restored, small};

/// Names the target to this test's own program when it is the one to be killed.
const TARGET: &str = "REPLICA_ENGINE_TEST_TARGET";
const NAME: &str = "kill::a_killed_restore_leaves_nothing_under_the_name";

/// How long the child may take to get half way.
const PATIENCE: Duration = Duration::from_secs(60);

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_killed_restore_leaves_nothing_under_the_name() {
    if let Some(target) = std::env::var_os(TARGET) {
        return restore_half(target.into()).await;
    }
    let output = Output::new();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env(TARGET, output.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let child = Killed(child);
    let deadline = Instant::now() + PATIENCE;
    // The half-way mark that the child makes.
    while !output.folder().join("half-way").exists() {
        assert!(Instant::now() < deadline, "the child never got half way");
        std::thread::yield_now();
    }

    drop(child);

    let names = output.names();
    assert!(!names.contains(&"restored.db".to_owned()), "{names:?}");
    let (replica, states) = small();
    let again = restore(Arc::new(replica), &output.options(Target::Latest), |_| {}).await;
    again.expect("what was left is in nobody's way");
    assert_eq!(output.content(), states[2]);
}

/// Restores up to the middle of the last file, says so, and waits to be killed.
async fn restore_half(target: PathBuf) {
    let (replica, _) = small();
    // The header is read by itself before.
    replica
        .on(Op::Open)
        .of(file(0, 3..=3))
        .skip(1)
        .at_byte(200)
        .hang();
    let folder = target.parent().expect("a folder").to_owned();

    let options = RestoreOptions::new(target);
    let restoring = restore(Arc::new(replica.clone()), &options, |_| {});
    let mark = async {
        while replica.unused_faults() != Vec::<String>::new() {
            tokio::task::yield_now().await;
        }
        std::fs::write(folder.join("half-way"), "").unwrap();
        std::future::pending::<()>().await
    };

    tokio::select! {
        _ = restoring => panic!("the restore hangs"),
        () = mark => unreachable!(),
        () = tokio::time::sleep(PATIENCE) => panic!("nobody has killed this process"),
    }
}

#[tokio::test]
async fn a_restore_after_a_killed_one_is_right() {
    let (replica, states) = small();

    let (_, content) = restored(&replica, Target::Latest).await.unwrap();

    assert_eq!(content, states[2]);
}
