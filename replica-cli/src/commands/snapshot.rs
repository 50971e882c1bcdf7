//! `replica snapshot`

use clap::Args;
use replica::{Fault, UpkeepError};

use super::compact::{failed, is_empty, tell};
use crate::source::SourceArgs;
use crate::status::{Failure, Status, with_exit_statuses};

/// How often it is begun again because a replication has deleted a file meanwhile.
const ATTEMPTS_MAX: usize = 4;

const EXAMPLES: &str = "\
Examples:
  replica snapshot file:///backups/app
  replica snapshot -json s3://bucket/app
  replica snapshot -config litestream.yml /var/lib/app.db";

/// Store a snapshot of the latest state of a replica, in one file
///
/// It is made of the replica's own files, so the database is neither read nor needed, and may be
/// replicated meanwhile, here or on another machine. What is committed and not in the replica yet
/// is not in the snapshot: `replica replicate -once` stores that, where nobody replicates.
///
/// Every file that is needed is read to its end and verified.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl SnapshotArgs {
    pub(crate) async fn run(self) -> Result<Status, Failure> {
        let source = self.source.resolve()?;
        let client = source.open().await?;
        let mut attempts = 1;
        let made = loop {
            match replica::snapshot(&client).await {
                Err(UpkeepError::Damaged(damage))
                    if damage.fault == Fault::Missing && attempts < ATTEMPTS_MAX =>
                {
                    attempts += 1;
                }
                made => break made.map_err(|error| failed(&error, &source))?,
            }
        };
        if made.is_none() && is_empty(&client).await? {
            return Err(source.empty());
        }
        tell(&source, made.as_slice(), self.json)
    }
}
