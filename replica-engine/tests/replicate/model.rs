//! Whatever an application does, and whenever replication is started anew: what was replicated can
//! be restored, byte for byte.

use proptest::prelude::*;
use replica_engine::Replicator;
use replica_mock::MockClient;

use crate::support::Live;

#[derive(Clone, Debug)]
enum Step {
    /// Rows with their sizes, and whether they are committed.
    Write {
        rows: Vec<(u8, u16)>,
        ends: bool,
    },
    Delete(u8),
    Vacuum,
    /// The application's own checkpoint, of some kind.
    Checkpoint(&'static str),
    Sync,
    /// Replication ends, and begins again.
    Resume,
    /// Replication is killed, and so it ends without more ado.
    Stop,
    /// The application ends, and begins again.
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    let rows = prop::collection::vec((any::<u8>(), 0u16..3000), 1..20);
    let checkpoint = prop::sample::select(vec!["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
    prop_oneof![
        8 => (rows, prop::bool::weighted(0.8)).prop_map(|(rows, ends)| Step::Write { rows, ends }),
        2 => any::<u8>().prop_map(Step::Delete),
        1 => Just(Step::Vacuum),
        2 => checkpoint.prop_map(Step::Checkpoint),
        6 => Just(Step::Sync),
        1 => Just(Step::Resume),
        1 => Just(Step::Stop),
        1 => Just(Step::Restart),
    ]
}

async fn play(page_size: u32, steps: Vec<Step>) {
    let (mut live, replica) = (Live::new(page_size), MockClient::new());
    live.run("PRAGMA busy_timeout=0");
    let mut running: Option<Replicator> = None;
    for step in steps.into_iter().chain([Step::Resume, Step::Sync]) {
        match step {
            Step::Write { rows, ends } => {
                live.run("BEGIN");
                for (id, len) in rows {
                    let sql = "INSERT OR REPLACE INTO t VALUES(?1, ?2, randomblob(?3))";
                    let text = "x".repeat(usize::from(len) / 3);
                    live.application().execute(sql, (id, text, len)).unwrap();
                }
                live.run(if ends { "COMMIT" } else { "ROLLBACK" });
            }
            Step::Delete(from) => live.run(&format!("DELETE FROM t WHERE id >= {from}")),
            Step::Vacuum => live.run("VACUUM"),
            // Whether it comes about is not the point.
            Step::Checkpoint(kind) => live.run(&format!("PRAGMA wal_checkpoint({kind})")),
            Step::Sync => {
                if let Some(replicator) = &mut running {
                    live.sync(replicator).await;
                }
            }
            Step::Stop => running = None,
            Step::Resume => {
                drop(running.take());
                running = Some(live.replicator(replica.clone()).await.unwrap());
            }
            Step::Restart => {
                live.disconnect();
                live.connect();
                live.run("PRAGMA busy_timeout=0");
            }
        }
    }
    live.assert_restorable(replica).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_replicated_can_be_restored(
        page_size in prop::sample::select(vec![512u32, 1024, 4096, 65_536]),
        steps in prop::collection::vec(any_step(), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();

        runtime.block_on(play(page_size, steps));
    }
}
