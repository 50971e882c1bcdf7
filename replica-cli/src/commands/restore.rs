//! `replica restore`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use replica::{
    Existing, Integrity, PlanError, RestoreError, RestoreOptions, RestorePlan, Restored, Target,
    Timestamp, Txid,
};
use serde_json::json;

use super::follow;
use super::replicate::duration;
use crate::output::{self, FileEntry, Table};
use crate::progress::RestoreBar;
use crate::source::{Source, SourceArgs};
use crate::status::{Failure, Status, with_exit_statuses};

const EXAMPLES: &str = "\
Examples:
  replica restore -o app.db file:///backups/app      the latest state
  replica restore -o app.db -timestamp 2026-11-21T07:44:50Z /backups/app
  replica restore -o app.db -txid 000000000000001f /backups/app
  replica restore -o app.db -dry-run /backups/app    which files it would take
  replica restore -o app.db s3://bucket/app
  replica restore -o app.db sftp://me@host/backups/app
  replica restore -config replica.yml /var/lib/app.db
  replica restore -f -o read.db s3://bucket/app      and keep it up to date";

/// Restore a database from its replica
///
/// The database is written beside its final name, every byte that is used is verified, and only
/// then it gets its name. An existing database is left alone unless -force is given, and then it
/// stays until the new one is whole. A new database can be read and written by its owner alone
/// (mode 0600), whatever the umask. Where a file of the replica is damaged, others that hold the
/// same transactions are used; where there are none, there is an error that names the file, and
/// no database.
///
/// A store that gives no answer within 30 seconds is told. Later, what may pass is waited out: 8
/// attempts, with pauses of 25 to 45 seconds in all.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// Where to write the database [default: its path in the configuration]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Restore up to this transaction, inclusive: 16 hex digits, as `replica ltx` lists them
    #[arg(long, value_parser = txid)]
    txid: Option<Txid>,

    /// Restore the last state from before this time, such as 2026-11-21T07:44:50Z
    #[arg(long, conflicts_with = "txid", value_parser = Timestamp::parse_rounding_up)]
    timestamp: Option<Timestamp>,

    /// Do nothing, and succeed, if the database exists
    #[arg(long)]
    if_db_not_exists: bool,

    /// Do nothing, and succeed, if there is no replica
    #[arg(long)]
    if_replica_exists: bool,

    /// Print which files would be fetched, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Replace an existing database, and remove what SQLite keeps beside it
    ///
    /// One that somebody has open is refused, as far as SQLite's locks tell: in WAL mode always,
    /// else while it is read or written.
    ///
    /// The old database's write-ahead log is out of the way while the new one takes its place. A
    /// restore that is killed in that very moment leaves it in the same folder as
    /// .replica-restore-<16 hex digits>-DATABASE-wal. To keep the old database, rename it to
    /// DATABASE-wal before anybody opens the database. To have the new one, restore with -force
    /// again, which removes it.
    #[arg(long)]
    force: bool,

    /// Have SQLite check the database before it gets its name
    #[arg(long, value_name = "MODE", default_value = "none")]
    integrity_check: IntegrityCheck,

    /// Accepted for Litestream's sake: how much is fetched at once is bounded by memory here
    #[arg(long, value_name = "NUM")]
    parallelism: Option<u32>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Keep the database up to date after that, for whoever reads it
    ///
    /// Others may read it meanwhile, in any way that SQLite has, and must not write to it: each
    /// step is one transaction, for which nobody need open it again or wait. Where it stands is
    /// kept beside it, in DATABASE-follow, by which the same call goes on later. SIGINT and SIGTERM
    /// end it between two steps, with status 0. A replica that is away, or that ends before the
    /// database for a while, is waited for; a damaged file ends it, and leaves the database as it
    /// was before.
    #[arg(
        short,
        long,
        conflicts_with_all = [
            "txid",
            "timestamp",
            "dry_run",
            "force",
            "if_db_not_exists",
            "integrity_check"
        ]
    )]
    pub(crate) follow: bool,

    /// How often the replica is looked at: each time is one request, and what is new is seen so
    /// much later at most
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    follow_interval: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum IntegrityCheck {
    None,
    Quick,
    Full,
}

fn txid(text: &str) -> Result<Txid, &'static str> {
    text.to_ascii_lowercase()
        .parse()
        .map_err(|_| "a transaction id is 16 hex digits and not zero, such as 000000000000001f")
}

impl RestoreArgs {
    pub(crate) async fn run(self) -> Result<Status, Failure> {
        let source = self.source.resolve()?;
        let Some(output) = self.output.as_deref().or(source.database.as_deref()) else {
            return Err(Failure::new(
                Status::Usage,
                "-o is needed: nothing else says where to write the database",
            )
            .hint(format!("replica restore -o /path/to/db {}", source.name)));
        };
        if self.if_db_not_exists && !self.dry_run && output.exists() {
            return self.skip(&format!("{} exists already", output.display()));
        }
        let done = match self.follow {
            true => follow::run(&source, output, self.follow_interval, self.json).await,
            false => self.restore_or_plan(&source, output).await,
        };
        match done {
            Err(failure) if failure.status == Status::Nothing && self.if_replica_exists => {
                self.skip(&format!("there is no replica at {}", source.location))
            }
            result => result,
        }
    }

    async fn restore_or_plan(&self, source: &Source, output: &Path) -> Result<Status, Failure> {
        let client = source.open().await?;
        if self.dry_run {
            let plan = replica::plan(&client, self.target())
                .await
                .map_err(|error| failed(error, source))?;
            self.print_plan(&plan, source, output)?;
            return Ok(Status::Done);
        }
        let started = Instant::now();
        let bar = RestoreBar::new(!self.json);
        let restored = {
            let bar = bar.clone();
            replica::restore(client, &self.options(output), move |step| bar.show(step)).await
        };
        bar.clear();
        let restored = restored.map_err(|error| failed(error, source))?;
        self.print_restored(&restored, source, output, started)?;
        Ok(Status::Done)
    }

    fn target(&self) -> Target {
        match (self.txid, self.timestamp) {
            (Some(txid), _) => Target::Txid(txid),
            (None, Some(time)) => Target::Time(time),
            (None, None) => Target::Latest,
        }
    }

    fn options(&self, output: &Path) -> RestoreOptions {
        let mut options = RestoreOptions::new(output);
        options.target = self.target();
        options.existing = match self.force {
            true => Existing::Replace,
            false => Existing::Refuse,
        };
        options.integrity = match self.integrity_check {
            IntegrityCheck::None => Integrity::Unchecked,
            IntegrityCheck::Quick => Integrity::Quick,
            IntegrityCheck::Full => Integrity::Full,
        };
        options
    }

    fn skip(&self, why: &str) -> Result<Status, Failure> {
        tell(&format!("{why}: nothing to do"));
        Ok(Status::Done)
    }

    fn print_plan(
        &self,
        plan: &RestorePlan,
        source: &Source,
        output: &Path,
    ) -> Result<(), Failure> {
        let files = plan.files();
        let min = files.iter().map(|file| file.id.txids.min()).min();
        let min = min.unwrap_or(Txid::FIRST);
        let mut out = output::stdout();
        if self.json {
            let files: Vec<_> = files.iter().copied().map(FileEntry::named).collect();
            output::write_json(
                &mut out,
                &json!({
                    "source": source.name,
                    "target_path": output.display().to_string(),
                    "replica": source.location.scheme(),
                    "min_txid": min.to_string(),
                    "max_txid": plan.txid().to_string(),
                    "files": files,
                }),
            )?;
        } else {
            writeln!(out, "Restore plan:")?;
            writeln!(out, "  source: {}", source.name)?;
            writeln!(out, "  target: {}", output.display())?;
            writeln!(out, "  replica: {}", source.location.scheme())?;
            writeln!(out, "  txid range: {min} - {}", plan.txid())?;
            writeln!(out, "\nFiles to fetch:")?;
            let mut table =
                Table::new(&["level", "file", "min_txid", "max_txid", "size", "timestamp"]);
            for file in files {
                table.row([
                    file.id.level.to_string(),
                    file.id.txids.to_string(),
                    file.id.txids.min().to_string(),
                    file.id.txids.max().to_string(),
                    file.size.to_string(),
                    output::seconds(file.created_at).to_string(),
                ]);
            }
            table.write(&mut out)?;
        }
        out.flush()?;
        Ok(())
    }

    fn print_restored(
        &self,
        restored: &Restored,
        source: &Source,
        output: &Path,
        started: Instant,
    ) -> Result<(), Failure> {
        let time = started.elapsed();
        let mut out = output::stdout();
        if self.json {
            let check = self.integrity_check.to_possible_value();
            output::write_json(
                &mut out,
                &json!({
                    "db_path": output.display().to_string(),
                    "replica": source.location.scheme(),
                    "txid": restored.txid.to_string(),
                    "duration_ms": u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
                    "integrity_check": check.as_ref().map(|check| check.get_name()),
                    "timestamp": restored.created_at.to_string(),
                    "size": restored.bytes,
                    "files": restored.files.len(),
                    "damaged": restored.damaged.iter().map(ToString::to_string).collect::<Vec<_>>(),
                }),
            )?;
        } else {
            for damage in &restored.damaged {
                tell(&format!(
                    "warning: {damage}; other files with the same transactions were used"
                ));
            }
            writeln!(
                out,
                "restored {} to transaction {} of {}: {} from {} in {}",
                output.display(),
                restored.txid,
                restored.created_at,
                output::size(restored.bytes),
                output::count(restored.files.len(), "file"),
                output::time(time)
            )?;
        }
        out.flush()?;
        Ok(())
    }
}

fn failed(error: RestoreError, source: &Source) -> Failure {
    match &error {
        RestoreError::Plan(PlanError::Empty) => source.empty(),
        RestoreError::TargetExists { .. } | RestoreError::LeftOver { .. } => {
            Failure::of(Status::Failed, &error).hint("-force replaces it")
        }
        RestoreError::Damaged {
            before: Some(before),
            ..
        } => Failure::of(Status::Failed, &error).hint(format!(
            "-txid {before} restores the newest state that the other files give"
        )),
        _ => Failure::of(Status::Failed, &error),
    }
}

fn tell(text: &str) {
    // There is nobody to tell that stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}
