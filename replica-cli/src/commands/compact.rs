//! `replica compact`

use std::io::Write;

use clap::Args;
use replica::{FileInfo, Level, UpkeepError};
use serde_json::json;

use crate::output::{self, FileEntry};
use crate::source::{Source, SourceArgs};
use crate::status::{Failure, Status, with_exit_statuses};

const EXAMPLES: &str = "\
Examples:
  replica compact -level 1 file:///backups/app
  replica compact -level 2 -json s3://bucket/app
  replica compact -level 1 -config litestream.yml /var/lib/app.db";

/// Put the files of a replica together, so that it is restored with fewer of them
///
/// All files of the level below are put together that follow what the level has. They stay where
/// they are: nothing is deleted. Each one is read to its end and verified; where one is damaged,
/// it is named, and nothing is made of it.
///
/// A running `replica replicate` does this by itself. It is not in the way of one, but each then
/// stores the same once more.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct CompactArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// The level that the files are put together to: 1 to 8
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    level: Level,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn level(text: &str) -> Result<Level, &'static str> {
    let level = text.parse().ok().and_then(Level::new);
    match level {
        Some(Level::RAW) => Err("files straight from the database are not put together: 1 to 8"),
        Some(Level::SNAPSHOT) => Err("a snapshot is made by replica snapshot"),
        Some(level) => Ok(level),
        None => Err("levels are 1 to 8"),
    }
}

impl CompactArgs {
    pub(crate) async fn run(self) -> Result<Status, Failure> {
        let source = self.source.resolve()?;
        let client = source.open().await?;
        let made = replica::compact_to(&client, self.level).await;
        let made = made.map_err(|error| failed(&error, &source))?;
        if made.is_empty() && is_empty(&client).await? {
            return Err(source.empty());
        }
        tell(&source, &made, self.json)
    }
}

/// The failure to make a file of those of `source`.
pub(super) fn failed(error: &UpkeepError, source: &Source) -> Failure {
    match error {
        UpkeepError::Broken(replica::PlanError::Empty) => source.empty(),
        error => {
            let message = format!("can't put the files of {} together", source.location);
            Failure::new(Status::Failed, message).because_of(Some(error))
        }
    }
}

/// Whether the replica has no files.
pub(super) async fn is_empty(client: &dyn replica::ReplicaClient) -> Result<bool, Failure> {
    let survey = replica::Survey::new(client).await;
    let survey = survey.map_err(|error| Failure::of(Status::Failed, &error))?;
    Ok(survey.is_empty())
}

/// Prints what was made.
pub(super) fn tell(source: &Source, made: &[FileInfo], json: bool) -> Result<Status, Failure> {
    let mut out = output::stdout();
    if json {
        let files: Vec<_> = made.iter().map(|file| FileEntry::named(*file)).collect();
        output::write_json(&mut out, &json!({ "source": source.name, "files": files }))?;
    } else if made.is_empty() {
        writeln!(out, "{}: there is nothing to put together", source.location)?;
    } else {
        for file in made {
            let size = output::size(file.size);
            writeln!(out, "{}: made {}, {size}", source.location, file.id)?;
        }
    }
    out.flush()?;
    Ok(Status::Done)
}
