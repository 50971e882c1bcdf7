//! Restores from replicas in memory: those that Litestream wrote, and small ones made here.

#![allow(clippy::unwrap_used)]

mod cancel;
mod check;
mod damage;
mod golden;
mod kill;
mod model;
mod output;
mod support;
mod times;
