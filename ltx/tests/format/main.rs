//! What the format promises, on files that Litestream wrote and on files made here.

// Tests may, and clippy knows that only of the functions that are tests themselves.
#![allow(clippy::unwrap_used)]

mod damage;
mod file;
mod golden;
mod identity;
mod memory;
mod merge;
mod random_access;
mod rules;
