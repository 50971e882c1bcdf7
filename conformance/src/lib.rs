//! The replica contract as a test suite that any store can run.
//!
//! The suite answers one question: does this [`ReplicaClient`](replica_core::ReplicaClient) keep
//! the contract? Give it something that opens a client, and it asks. In tests:
//!
//! ```test_harness
//! use std::sync::LazyLock;
//!
//! use replica_core::ReplicaClient;
//! use replica_mock::MockStore;
//!
//! static STORE: LazyLock<MockStore> = LazyLock::new(MockStore::new);
//!
//! async fn open(namespace: String) -> impl ReplicaClient {
//!     STORE.client(&namespace)
//! }
//!
//! conformance::conformance!(open);
//! ```
//!
//! or as a call, which gives a [`Report`]:
//!
//! ```
//! use std::future::ready;
//!
//! # #[tokio::main]
//! # async fn main() {
//! let store = replica_mock::MockStore::new();
//! let open = move |namespace: String| ready(store.client(&namespace));
//!
//! let report = conformance::run("range::", open).await;
//!
//! assert_eq!(report.exit_status(), 0, "{report}");
//! # }
//! ```
//!
//! Each case works in a namespace of its own (see [`Factory`]), side by side with the others,
//! has a time limit of its own, and cleans up after itself; nothing outside its namespace is
//! touched. A case asserts, and never skips: where a store declares a weaker promise in its
//! [`Capabilities`](replica_core::Capabilities), the case allows for exactly that. `CATALOGUE.md`
//! in this crate's folder lists the cases and the promises that they hold.

mod attempt;
mod cases;
mod factory;
#[doc(hidden)]
pub mod harness;
mod history;
mod junit;
mod known;
mod meter;
mod property;
mod registry;
mod report;
mod run;
mod store;

pub use factory::{Factory, Fallible, Infallible, OpenError};
pub use history::{History, Violation};
pub use junit::junit;
pub use known::{KnownFailure, KnownFailures, KnownFailuresError};
pub use meter::Usage;
pub use registry::{CASES, Case, Pace};
pub use report::{CaseReport, Outcome, Report, Verdict};
pub use run::{Options, run, run_with};

/// Generates a module for each group of cases, and a test for each case, against the clients that
/// a function of the surrounding module opens (see [`Factory`]).
///
/// `conformance!(open)` leaves the slow cases out, and `conformance!(open, slow)` takes them in.
/// Behind that any field of [`Options`] can be given:
///
/// ```test_harness,no_run
/// # use replica_mock::MockStore;
/// # static STORE: std::sync::LazyLock<MockStore> = std::sync::LazyLock::new(MockStore::new);
/// # async fn open(namespace: String) -> impl replica_core::ReplicaClient { STORE.client(&namespace) }
/// conformance::conformance!(open, slow, seed = Some(7), secrets = vec!["hunter2".to_owned()]);
/// ```
///
/// A failing test prints the seed that makes it fail again. Each case runs on a runtime and a
/// thread of its own, so that a client which blocks its thread fails the test instead of hanging
/// it.
#[macro_export]
macro_rules! conformance {
    ($open:ident, slow $(, $option:ident = $value:expr)* $(,)?) => {
        $crate::__conformance! { slow $open { slow: true, $($option: $value,)* } }
    };
    ($open:ident $(, $option:ident = $value:expr)* $(,)?) => {
        $crate::__conformance! { fast $open { $($option: $value,)* } }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    ($slow:ident $open:ident { $($options:tt)* }) => {
        fn conformance_options() -> $crate::Options {
            #[allow(clippy::needless_update)]
            $crate::Options {
                $($options)*
                ..$crate::Options::default()
            }
        }

        $crate::__cases! { [$crate::__tests] { $slow $open } }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ({ $slow:ident $open:ident } $($group:ident {
        $($name:ident: $pace:ident $($catalogue:literal)+ $($promise:ident)+;)+
    })+) => {
        $(mod $group {
            $($crate::__test! { $slow $pace $open $group $name })+
        })+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __test {
    (fast slow $open:ident $group:ident $name:ident) => {};
    ($slow:ident $pace:ident $open:ident $group:ident $name:ident) => {
        #[test]
        fn $name() {
            $crate::harness::test(
                concat!(stringify!($group), "::", stringify!($name)),
                super::conformance_options(),
                super::$open,
            );
        }
    };
}
