//! What the command can do: a file each.

mod completions;
mod conformance;
mod inspect;
mod junit;
mod ltx;
mod man;
mod restore;
mod verify;

use clap::{Parser, Subcommand};

use crate::leftovers::Leftovers;
use crate::status::{Failure, Status, with_exit_statuses};

const EXAMPLES: &str = "\
Examples:
  replica restore -o app.db file:///backups/app   bring a database back
  replica ltx -level all /backups/app             list the files of its replica
  replica conformance                             prove the stores that are built in

`replica COMMAND --help` says more.";

/// SQLite replicas: restore databases from them, look into them, and prove the stores they are
/// kept in
///
/// Reads and writes Litestream 0.5's files. Its names of commands, flags and URLs work here,
/// single-dash long flags included.
#[derive(Debug, Parser)]
#[command(
    name = "replica",
    version,
    about,
    max_term_width = 100,
    disable_help_subcommand = true,
    args_override_self = true,
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Restore(restore::RestoreArgs),
    Ltx(ltx::LtxArgs),
    Conformance(conformance::ConformanceArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    /// Print the version
    Version,
}

impl Cli {
    pub(crate) async fn run(self, leftovers: &mut Leftovers) -> Result<Status, Failure> {
        match self.command {
            Command::Restore(args) => args.run().await,
            Command::Ltx(args) => args.run().await,
            Command::Conformance(args) => args.run(leftovers).await,
            Command::Completions(args) => args.run(),
            Command::Man(args) => args.run(),
            Command::Version => version(),
        }
    }

    /// Whether it has work for several threads. A listing has not, and starts faster on one.
    pub(crate) fn is_parallel(&self) -> bool {
        match &self.command {
            Command::Restore(_) | Command::Conformance(_) => true,
            Command::Ltx(args) => args.is_verify(),
            Command::Completions(_) | Command::Man(_) | Command::Version => false,
        }
    }

    /// Whether errors are to be told as JSON.
    pub(crate) fn json(&self) -> bool {
        match &self.command {
            Command::Restore(args) => args.json,
            Command::Ltx(args) => args.json(),
            Command::Conformance(args) => args.json,
            Command::Completions(_) | Command::Man(_) | Command::Version => false,
        }
    }
}

fn version() -> Result<Status, Failure> {
    use std::io::Write;
    let mut out = crate::output::stdout();
    writeln!(out, "{}", env!("CARGO_PKG_VERSION"))?;
    out.flush()?;
    Ok(Status::Done)
}
