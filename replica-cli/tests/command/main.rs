//! The command as its users meet it: arguments in, output and exit status out.

mod bad_input;
mod conformance;
mod golden;
mod help;
mod interruption;
mod ltx;
mod replica;
mod restore;
