//! The servers that tests ask.
#![allow(dead_code, reason = "no test needs all of it")]

pub(crate) mod calls;
pub(crate) mod openssh;
pub(crate) mod served;
