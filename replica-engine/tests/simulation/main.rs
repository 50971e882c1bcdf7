//! Whatever happens, in any order: seeds drive an application, replications of its database, the
//! stores, the machine and its clock; and after each step every promise is looked at.
//!
//! The same seeds are played each time. To play others, say how many in `REPLICA_SIM_SEEDS`, and
//! from which one on in `REPLICA_SIM_FROM`; to play one again that has failed, say which in
//! `REPLICA_SIM_SEED`.

mod application;
mod ledger;
mod line;
mod step;
mod verdict;
mod world;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use step::{Setting, Step, any_setting, any_steps};
use verdict::Verdict;

/// How many seeds are played unless somebody asks for others.
const SEEDS: u64 = 500;

#[test]
fn every_promise_is_kept_whatever_happens() {
    for seed in seeds() {
        let mut runner = runner(seed);
        let tree = (any_setting(), any_steps()).new_tree(&mut runner);
        let tree = tree.expect("there is a strategy for every step");

        let played = runner.run_one(tree, |(setting, steps)| {
            let verdict = played(setting, &steps);
            verdict.map_err(TestCaseError::fail)
        });

        if let Err(TestError::Fail(reason, (setting, steps))) = played {
            let steps: Vec<String> = steps.iter().map(|step| format!("    {step:?}")).collect();
            panic!(
                "REPLICA_SIM_SEED={seed}: {reason}\n{setting:?}\n{}\n",
                steps.join("\n")
            );
        }
    }
}

#[test]
fn a_seed_is_played_the_same_way_each_time() {
    for seed in 0..6 {
        let tree = (any_setting(), any_steps()).new_tree(&mut runner(seed));
        let (mut setting, steps) = tree.expect("there is a strategy for every step").current();
        // Several queue for one lock, in whichever order their threads run.
        setting.replicas = 1;

        let calls = || runtime().block_on(world::calls(setting, &steps));
        // On a machine that is busy the kernel may tell of a write so late that the log is looked at
        // once more, in one of two plays.
        let is_same = (0..4).any(|_| calls() == calls());

        assert!(is_same, "seed {seed}");
    }
}

/// Plays one run, and says which promise was not kept, if any.
fn played(setting: Setting, steps: &[Step]) -> Verdict {
    let play = || runtime().block_on(world::play(setting, steps));
    catch_unwind(AssertUnwindSafe(play)).unwrap_or_else(|panic| Err(words(&*panic)))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a panic: {}", words.unwrap_or("of something"))
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime")
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| {
        let value = std::env::var_os(name)?;
        let value = value.to_str().and_then(|value| value.parse::<u64>().ok());
        Some(value.unwrap_or_else(|| panic!("{name} is a number")))
    };
    if let Some(seed) = number("REPLICA_SIM_SEED") {
        return seed..seed + 1;
    }
    let from = number("REPLICA_SIM_FROM").unwrap_or(0);
    from..from + number("REPLICA_SIM_SEEDS").unwrap_or(SEEDS)
}
