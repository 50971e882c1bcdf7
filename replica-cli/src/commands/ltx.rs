//! `replica ltx`

use std::io::{self, Write};
use std::pin::{Pin, pin};
use std::str::FromStr;

use clap::{Args, Subcommand};
use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};
use replica::{FileInfo, Level, ReplicaClient, Timestamps, Txid};
use serde::ser::{SerializeSeq, Serializer};

use super::inspect::InspectArgs;
use super::verify::VerifyArgs;
use crate::output::{self, FileEntry};
use crate::source::SourceArgs;
use crate::status::{Failure, Status, with_exit_statuses};

const EXAMPLES: &str = "\
Examples:
  replica ltx file:///backups/app              the files of level 0
  replica ltx -level all -json /backups/app    all of them, as JSON
  replica ltx -level 9 -config replica.yml /var/lib/app.db
  replica ltx inspect 0000000000000001-0000000000000001.ltx
  replica ltx verify /backups/app

A replica in a folder called inspect or verify is ./inspect and ./verify.";

/// List the LTX files of a replica, look into one, or verify them
///
/// An LTX file holds the pages that a run of transactions changed. Level 0 holds files straight
/// from the database, 1 to 8 hold compactions of them, and 9 holds snapshots.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct LtxArgs {
    #[command(subcommand)]
    command: Option<LtxCommand>,

    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum LtxCommand {
    Inspect(InspectArgs),
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// The level to list: 0 to 9, or all
    #[arg(long, value_name = "LEVEL", default_value = "0")]
    level: Levels,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl LtxArgs {
    pub(crate) async fn run(self) -> Result<Status, Failure> {
        match self.command {
            Some(LtxCommand::Inspect(args)) => args.run(),
            Some(LtxCommand::Verify(args)) => args.run().await,
            None => self.list.run().await,
        }
    }

    pub(crate) fn is_verify(&self) -> bool {
        matches!(self.command, Some(LtxCommand::Verify(_)))
    }

    pub(crate) fn json(&self) -> bool {
        match &self.command {
            Some(LtxCommand::Inspect(args)) => args.json,
            Some(LtxCommand::Verify(args)) => args.json,
            None => self.list.json,
        }
    }
}

impl ListArgs {
    async fn run(self) -> Result<Status, Failure> {
        let source = self.source.resolve()?;
        let client = source.open().await?;
        let mut files = pin!(files(&client, self.level.0).peekable());
        if files.as_mut().peek().await.is_none() && is_empty(&client).await? {
            return Err(source.empty());
        }
        let mut out = output::stdout();
        if self.json {
            write_json(&mut out, files).await?;
        } else {
            write_table(&mut out, files).await?;
        }
        out.flush()?;
        Ok(Status::Done)
    }
}

/// The files of `levels`, level by level.
fn files(
    client: &dyn ReplicaClient,
    levels: &'static [Level],
) -> impl Stream<Item = Result<FileInfo, Failure>> {
    stream::iter(levels)
        .then(|&level| client.list(level, Txid::FIRST, Timestamps::Fast))
        .try_flatten()
        .map_err(|error| Failure::of(Status::Failed, &error))
}

/// Whether no level has a file.
async fn is_empty(client: &dyn ReplicaClient) -> Result<bool, Failure> {
    let mut files = pin!(files(client, &Level::ALL));
    Ok(files.try_next().await?.is_none())
}

/// File by file: nothing is kept.
async fn write_json(
    out: &mut impl Write,
    mut files: Pin<&mut impl Stream<Item = Result<FileInfo, Failure>>>,
) -> Result<(), Failure> {
    let mut serializer = serde_json::Serializer::pretty(&mut *out);
    let mut array = serializer.serialize_seq(None).map_err(io::Error::from)?;
    while let Some(file) = files.try_next().await? {
        array
            .serialize_element(&FileEntry::unnamed(file))
            .map_err(io::Error::from)?;
    }
    array.end().map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// The columns are as wide as their widest cell, which is known only at the end: until then the
/// files are kept, in 40 bytes each.
async fn write_table(
    out: &mut impl Write,
    files: Pin<&mut impl Stream<Item = Result<FileInfo, Failure>>>,
) -> Result<(), Failure> {
    let files: Vec<FileInfo> = files.try_collect().await?;
    let txid = if files.is_empty() {
        "min_txid".len()
    } else {
        Txid::MAX.to_string().len()
    };
    let largest = files.iter().map(|file| file.size).max().unwrap_or(0);
    let size = largest.to_string().len().max("size".len());
    writeln!(
        out,
        "level  {:<txid$}  {:<txid$}  {:<size$}  created",
        "min_txid", "max_txid", "size"
    )?;
    for FileInfo {
        id,
        size: bytes,
        created_at,
    } in files
    {
        writeln!(
            out,
            "{}      {}  {}  {bytes:<size$}  {}",
            id.level,
            id.txids.min(),
            id.txids.max(),
            output::seconds(created_at)
        )?;
    }
    Ok(())
}

/// The levels that `-level` names.
#[derive(Clone, Copy, Debug)]
struct Levels(&'static [Level]);

impl FromStr for Levels {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Levels, &'static str> {
        if text == "all" {
            return Ok(Levels(&Level::ALL));
        }
        text.parse()
            .ok()
            .and_then(|level: usize| Level::ALL.get(level..=level))
            .map(Levels)
            .ok_or("a level is 0 to 9, or all")
    }
}
