//! Random inputs for a case, and the smallest one that breaks it.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::time::Instant;

use crate::attempt::attempt;

/// How many inputs are tried: as many as there is time for, between two bounds.
pub(crate) struct Effort {
    pub(crate) at_least: u32,
    pub(crate) at_most: u32,
    pub(crate) budget: Duration,
}

/// For how long, and how often, a smaller input is sought.
const SHRINKING: Duration = Duration::from_secs(30);
const SHRINKS: u32 = 500;

/// Checks that `check` passes for inputs of `strategy`, which `seed` chooses. Otherwise it panics
/// with the smallest input that it found to fail.
pub(crate) async fn holds<S, C>(
    seed: u64,
    effort: Effort,
    strategy: S,
    check: impl Fn(S::Value) -> C,
) where
    S: Strategy<Value: Clone + Debug>,
    C: Future<Output = ()>,
{
    let started = Instant::now();
    let mut runner = runner(seed);
    for tried in 0..effort.at_most {
        if tried >= effort.at_least && started.elapsed() > effort.budget {
            return;
        }
        let tree = strategy.new_tree(&mut runner);
        let mut tree = tree.expect("the strategies of the cases reject nothing");
        let input = tree.current();
        if let Err(fault) = attempt(check(input.clone())).await {
            let (input, fault, shrinks) = shrink(&mut tree, input, fault, &check).await;
            panic!(
                "{fault}\nfor input {} of seed {seed}, made smaller {shrinks} times:\n{input:#?}",
                tried + 1
            );
        }
    }
}

async fn shrink<T: ValueTree<Value: Clone>, C: Future<Output = ()>>(
    tree: &mut T,
    mut smallest: T::Value,
    mut fault: String,
    check: &impl Fn(T::Value) -> C,
) -> (T::Value, String, u32) {
    let started = Instant::now();
    let mut shrinks = 0;
    let mut further = tree.simplify();
    for _ in 0..SHRINKS {
        if !further || started.elapsed() > SHRINKING {
            break;
        }
        let input = tree.current();
        further = match attempt(check(input.clone())).await {
            Ok(()) => tree.complicate(),
            Err(other) => {
                (smallest, fault) = (input, other);
                shrinks += 1;
                tree.simplify()
            }
        };
    }
    (smallest, fault, shrinks)
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    TestRunner::new_with_rng(Config::default(), random)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFORT: Effort = Effort {
        at_least: 1,
        at_most: 100,
        budget: Duration::from_secs(60),
    };

    async fn fault(seed: u64) -> String {
        let numbers = proptest::collection::vec(0u32..1000, 0..20);
        let small = |numbers: Vec<u32>| async move {
            assert!(numbers.iter().all(|number| *number < 500), "a large one");
        };
        attempt(holds(seed, EFFORT, numbers, small))
            .await
            .unwrap_err()
    }

    #[tokio::test]
    async fn the_smallest_input_that_fails_is_told_with_its_seed() {
        let fault = fault(7).await;

        assert!(fault.contains("a large one"), "{fault}");
        assert!(fault.contains("of seed 7"), "{fault}");
        assert!(fault.contains("[\n    500,\n]"), "{fault}");
    }

    #[tokio::test]
    async fn the_same_seed_tries_the_same() {
        assert_eq!(fault(8).await, fault(8).await);
    }

    #[tokio::test]
    async fn what_holds_passes() {
        let result = attempt(holds(1, EFFORT, 0u32..1000, |number| async move {
            assert!(number < 1000);
        }));

        assert_eq!(result.await, Ok(()));
    }
}
