//! What the command can do: a file each.

mod bench;
mod compact;
mod completions;
mod conformance;
mod drill;
mod follow;
mod inspect;
mod ltx;
mod man;
mod replicate;
mod restore;
mod snapshot;
mod status;
mod verify;

use clap::{Parser, Subcommand};

use crate::leftovers::Leftovers;
use crate::status::{Failure, Status, with_exit_statuses};

const EXAMPLES: &str = "\
Examples:
  replica replicate app.db file:///backups/app    keep a replica of a live database
  replica restore -o app.db file:///backups/app   bring a database back
  replica restore -o app.db s3://bucket/app       the same from a bucket
  replica status /backups/app                     tell what a replica holds
  replica verify app.db file:///backups/app       restore it and compare
  replica ltx -level all /backups/app             list its files
  replica conformance                             prove the built-in stores
  replica bench s3://bucket/prefix                measure how fast a store is

`replica COMMAND --help` says more.";

/// SQLite replicas: keep them of live databases, restore databases from them, look into them, and
/// prove and measure the stores they are kept in
///
/// A replica is kept in a folder, a bucket of S3 or on an SFTP server, in the files of Litestream
/// 0.5. Of Litestream's commands, `replicate`, `restore`, `ltx` and `status` are here, with its flags
/// (single-dash long ones too), its URLs (file, s3, sftp) and its configuration; the others are not
/// there yet.
#[derive(Debug, Parser)]
#[command(
    name = "replica",
    version,
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
    Replicate(replicate::ReplicateArgs),
    Restore(restore::RestoreArgs),
    Verify(drill::DrillArgs),
    Ltx(ltx::LtxArgs),
    Status(status::StatusArgs),
    Snapshot(snapshot::SnapshotArgs),
    Compact(compact::CompactArgs),
    Conformance(conformance::ConformanceArgs),
    Bench(bench::BenchArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    /// Print the version
    Version,
}

impl Cli {
    pub(crate) async fn run(self, leftovers: &mut Leftovers) -> Result<Status, Failure> {
        match self.command {
            Command::Replicate(args) => args.run().await,
            Command::Restore(args) => args.run().await,
            Command::Verify(args) => args.run().await,
            Command::Ltx(args) => args.run().await,
            Command::Status(args) => args.run().await,
            Command::Snapshot(args) => args.run().await,
            Command::Compact(args) => args.run().await,
            Command::Conformance(args) => args.run(leftovers).await,
            Command::Bench(args) => args.run(leftovers).await,
            Command::Completions(args) => args.run(),
            Command::Man(args) => args.run(),
            Command::Version => version(),
        }
    }

    /// Whether it has work for several threads. A listing has not, and starts faster on one.
    pub(crate) fn is_parallel(&self) -> bool {
        match &self.command {
            Command::Replicate(_)
            | Command::Restore(_)
            | Command::Snapshot(_)
            | Command::Compact(_)
            | Command::Verify(_)
            | Command::Conformance(_)
            | Command::Bench(_) => true,
            Command::Ltx(args) => args.is_verify(),
            Command::Status(_) | Command::Completions(_) | Command::Man(_) | Command::Version => {
                false
            }
        }
    }

    /// Whether it has something to clean up when it is interrupted. Others end at once, even
    /// where they wait for the reader of their output, but for those that replicate and follow: they
    /// listen for signals themselves.
    pub(crate) fn cleans_up(&self) -> bool {
        match &self.command {
            Command::Restore(args) => !args.follow,
            Command::Verify(_)
            | Command::Snapshot(_)
            | Command::Compact(_)
            | Command::Conformance(_)
            | Command::Bench(_) => true,
            _ => false,
        }
    }

    /// Whether errors are to be told as JSON.
    pub(crate) fn json(&self) -> bool {
        match &self.command {
            Command::Replicate(args) => args.json,
            Command::Restore(args) => args.json,
            Command::Verify(args) => args.json,
            Command::Ltx(args) => args.json(),
            Command::Status(args) => args.json,
            Command::Snapshot(args) => args.json,
            Command::Compact(args) => args.json,
            Command::Conformance(args) => args.json,
            Command::Bench(args) => args.json,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    /// Parses what `line` would call, without its comment, its output and its explanation.
    #[track_caller]
    fn check(line: &str) {
        let call = line.split(['#', '|', '>']).next().unwrap_or_default();
        let call = call.split("   ").next().unwrap_or_default();
        let words = call.split_whitespace().map(Into::into);

        let parsed = Cli::try_parse_from(crate::args::normalise(&Cli::command(), words));

        if let Err(error) = parsed {
            assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{line}: {error}");
        }
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_call_in_the_readme_parses() {
        let readme = include_str!("../../../README.md");
        let calls: Vec<_> = readme
            .lines()
            .filter(|line| line.starts_with("replica "))
            .collect();

        assert!(calls.len() > 5, "the README shows calls of the command");
        for call in calls {
            check(call);
        }
    }

    #[test]
    fn every_example_in_the_help_parses() {
        let mut commands = vec![Cli::command()];
        let mut examples = 0;
        while let Some(command) = commands.pop() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            for call in help.lines().filter(|line| line.starts_with("  replica ")) {
                check(call.trim_start());
                examples += 1;
            }
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(examples > 20, "only {examples} examples");
    }

    #[test]
    fn the_readme_lists_the_exit_statuses() {
        let readme = include_str!("../../../README.md");

        for (status, meaning) in [
            (Status::Done, "done, and all is well"),
            (
                Status::Failed,
                "it was tried and failed, or what was looked at is bad",
            ),
            (
                Status::Usage,
                "the command line or the configuration is wrong",
            ),
            (
                Status::Nothing,
                "there is nothing to work on: no replica at that place",
            ),
        ] {
            let line = format!("| {} | {meaning}", status.code());
            assert!(readme.contains(&line), "{line}");
            assert!(with_exit_statuses("").contains(&format!("  {}    {meaning}", status.code())));
        }
    }
}
