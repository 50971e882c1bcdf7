//! Replicas in a folder of a local file system.

#[cfg(not(unix))]
compile_error!("replica-file needs the file system of a Unix");

mod blocking;
mod classify;
mod client;
mod delete;
mod folder;
mod list;
mod read;
mod root;
mod staged;
mod sys;
mod temporary;
#[cfg(target_os = "linux")]
#[cfg(test)]
mod trace;
mod write;

pub use client::{FileClient, FileClientBuilder};
