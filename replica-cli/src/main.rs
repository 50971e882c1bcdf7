//! The command `replica`: keep, restore, inspect and prove SQLite replicas.

mod args;
mod commands;
mod contact;
mod descriptors;
mod leftovers;
mod output;
mod progress;
mod signals;
mod source;
mod status;
mod workplace;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use tokio::runtime::{Builder, Runtime};

use commands::Cli;
use leftovers::Leftovers;
use signals::Signals;
use status::{Failure, Status};

/// How long work on other threads may go on after an interruption, to clean up after itself.
const GRACE: Duration = Duration::from_secs(5);

/// How many threads wait for disks, at most: twice as many as databases are restored at once, of
/// which each keeps one.
const BLOCKING_THREADS: usize = 64;

fn main() -> ExitCode {
    let mut command = Cli::command();
    let args = args::normalise(&command, std::env::args_os());
    let json = args::ask_for_json(&args);
    let mut parse = |args: Vec<OsString>| {
        let matches = command.try_get_matches_from_mut(args)?;
        Cli::from_arg_matches(&matches)
    };
    // An error shows what it is about, and that may be a URL with a password in it.
    let parsed = parse(args.clone()).map_err(|error| {
        let shown = args.iter().map(|arg| args::without_secrets(arg)).collect();
        let again = parse(shown).err();
        again.unwrap_or_else(|| clap::Error::new(error.kind()))
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) if json && error.use_stderr() => {
            let message = error.to_string();
            Failure::new(Status::Usage, message.trim().trim_start_matches("error: ")).tell(json);
            return Status::Usage.into();
        }
        Err(error) => {
            // Help goes to stdout, which may be closed: then nobody reads it.
            let _ = error.print();
            return match error.use_stderr() {
                true => Status::Usage.into(),
                false => Status::Done.into(),
            };
        }
    };
    let json = cli.json();
    let status = run(cli).unwrap_or_else(|failure| {
        failure.tell(json);
        failure.status
    });
    status.into()
}

fn run(cli: Cli) -> Result<Status, Failure> {
    let runtime = runtime(&cli)
        .map_err(|error| Failure::new(Status::Failed, "can't start").because_of(Some(&error)))?;
    let mut leftovers = Leftovers::default();
    let result = runtime.block_on(async {
        if !cli.cleans_up() {
            return cli.run(&mut leftovers).await;
        }
        let interrupted = interruption()?;
        tokio::select! {
            result = cli.run(&mut leftovers) => result,
            status = interrupted => Err(Failure::new(status, "interrupted")),
        }
    });
    runtime.shutdown_timeout(GRACE);
    match (result, leftovers.sweep()) {
        (Err(failure), Err(left)) => Err(failure.and_left(left)),
        (result, swept) => result.and_then(|status| swept.map(|()| status)),
    }
}

fn runtime(cli: &Cli) -> std::io::Result<Runtime> {
    match cli.is_parallel() {
        true => Builder::new_multi_thread()
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build(),
        false => Builder::new_current_thread().enable_all().build(),
    }
}

/// Ends with the first SIGINT or SIGTERM. Whatever is dropped then cleans up after itself.
fn interruption() -> Result<impl Future<Output = Status>, Failure> {
    let mut signals = Signals::listen()?;
    Ok(async move { signals.next().await })
}
