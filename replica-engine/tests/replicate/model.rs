//! Whatever an application does, and whenever replication is started anew: what was replicated can
//! be restored, byte for byte.

use proptest::prelude::*;
use replica_engine::{Checkpoint, Replicator};
use replica_mock::MockClient;

use crate::application::{Change, any_change, any_page_size};
use crate::support::Live;

#[derive(Clone, Debug)]
enum Step {
    /// The application's.
    Change(Change),
    Sync,
    /// A checkpoint of ours, whether there is something to checkpoint or not.
    Checkpoint(Checkpoint),
    /// The application reads, and goes on to do so until it reads the next time.
    Read,
    /// Replication ends, and begins again.
    Resume,
    /// Replication is killed, and so it ends without more ado.
    Stop,
    /// The application ends, and begins again.
    Restart,
    /// Another replication of the same database begins, or ends. It syncs and checkpoints whenever
    /// the first one may.
    Beside,
}

fn any_step() -> impl Strategy<Value = Step> {
    let ours = prop::sample::select(vec![Checkpoint::Gentle, Checkpoint::Firm]);
    prop_oneof![
        13 => any_change().prop_map(Step::Change),
        6 => Just(Step::Sync),
        5 => ours.prop_map(Step::Checkpoint),
        1 => Just(Step::Read),
        1 => Just(Step::Resume),
        1 => Just(Step::Stop),
        1 => Just(Step::Restart),
        1 => Just(Step::Beside),
    ]
}

async fn play(page_size: u32, steps: Vec<Step>) {
    let (mut live, replica) = (Live::new(page_size), MockClient::new());
    live.run("PRAGMA busy_timeout=0");
    let mut running: Option<Replicator> = None;
    let (mut beside, other): (Option<Replicator>, _) = (None, MockClient::new());
    let mut reader = None;
    // A log that is begun anew twice before anything is committed to it is not gone on with.
    let mut may_be_missed = true;
    // What is rolled back may have begun it anew too, which nothing tells before the next file.
    let mut is_rolled_back = false;
    // Whether anything has happened since the newest file that the next start may not know of.
    let mut is_disturbed = true;
    // Whether the next file may be of what a checkpoint has copied, and not of the log as it is.
    let mut is_copied = false;
    let begin = [Step::Resume, Step::Sync];
    let steps = begin.iter().cloned().chain(steps).chain(begin.clone());
    for step in steps {
        is_disturbed |= !matches!(step, Step::Sync | Step::Resume | Step::Stop | Step::Read);
        is_disturbed |= beside.is_some();
        match step {
            Step::Change(change) => {
                may_be_missed |= matches!(change, Change::Checkpoint("TRUNCATE"));
                is_rolled_back |= matches!(change, Change::Write { ends: false, .. });
                change.make(live.application());
            }
            Step::Sync => {
                if let Some(replicator) = &mut running {
                    let synced = live.sync(replicator).await;
                    let may_be_missed_now = may_be_missed || is_rolled_back;
                    assert!(may_be_missed_now || synced.snapshot.is_none(), "{synced:?}");
                    may_be_missed = false;
                    let is_old = synced.files.len() <= usize::from(is_copied);
                    is_rolled_back &= is_old;
                    is_disturbed &= is_old;
                    is_copied = false;
                }
                if let Some(replicator) = &mut beside {
                    let synced = replicator.sync().await;
                    synced.expect("two are in nobody's way");
                    live.assert_latest(&other).await;
                }
            }
            Step::Checkpoint(how) => {
                if let Some(replicator) = &mut beside {
                    let done = replicator.checkpoint(how).await;
                    done.expect("a checkpoint should succeed or find nothing to do");
                }
                if let Some(replicator) = &mut running {
                    is_copied = true;
                    let done = replicator.checkpoint(how).await;
                    done.expect("a checkpoint should succeed or find nothing to do");
                }
            }
            Step::Read => {
                drop(reader.take());
                reader = Some(live.reader());
            }
            Step::Stop => running = None,
            Step::Resume => {
                drop(running.take());
                running = Some(live.started(&replica).await);
                may_be_missed |= is_disturbed;
            }
            Step::Beside => {
                beside = match beside.take() {
                    Some(_) => None,
                    None => Some(live.started(&other).await),
                };
            }
            Step::Restart => {
                reader = None;
                live.disconnect();
                live.connect();
                live.run("PRAGMA busy_timeout=0");
            }
        }
    }
    drop(reader);
    drop(beside);
    live.assert_restorable(replica).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_replicated_can_be_restored(
        page_size in any_page_size(),
        steps in prop::collection::vec(any_step(), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");

        runtime.block_on(play(page_size, steps));
    }
}
