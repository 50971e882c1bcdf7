//! The command as its users meet it: arguments in, output and exit status out.

mod away;
mod bad_input;
mod bench;
mod buckets;
mod conformance;
mod fleet;
mod follow;
mod golden;
mod help;
mod interruption;
mod live;
mod ltx;
mod refused;
mod replica;
mod replicate;
mod restore;
mod several;
mod sftp;
mod stores;
mod upkeep;
mod verify;
