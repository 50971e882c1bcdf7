//! `replica verify`

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use replica::{
    Compared, Doubt, Flaw, PlanError, ReplicateError, RestoreError, Verdict, VerifyError,
    VerifyOptions,
};
use serde_json::{Value, json};

use super::replicate::{check_order, duration};
use crate::output;
use crate::progress::DrillBar;
use crate::source::{ConfigArgs, Source};
use crate::status::{Failure, Status, with_exit_statuses};
use crate::workplace::may_write_beside;

const EXAMPLES: &str = "\
Examples:
  replica verify app.db file:///backups/app
  replica verify app.db s3://bucket/app
  replica verify -scratch /var/tmp -json app.db sftp://me@host/backups/app
  replica verify -config replica.yml /var/lib/app.db
  replica verify -config replica.yml /var/lib/app.db s3://bucket/app    one of several";

/// Restore a replica, and compare it with its live database
///
/// The replica is restored to a scratch file, which is removed again, and compared byte for byte
/// with the database as it was at the same place in its log. Nobody is kept from reading or
/// writing the database meanwhile, and nothing is written to it or to the replica. There are three
/// outcomes: it is good (status 0), bad (1), or that can't be told (4), with the reason and what to
/// do. Whatever goes wrong on the way, as a store that goes away, is 4 too; a store that can't be
/// opened is 2, and where there is nothing it is 3.
///
/// It is best done while the database is being replicated: then a place to compare them at is
/// found. The log is not begun anew meanwhile, so it grows by what is written.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct DrillArgs {
    /// The live database
    #[arg(value_name = "DATABASE")]
    database: PathBuf,

    /// Its replica: a URL (s3://bucket/prefix, sftp://user@host/path, file:///path/to/replica) or
    /// a folder; with -config, the one of several that the database has there [default: that of the
    /// configuration]
    #[arg(value_name = "REPLICA")]
    replica: Option<OsString>,

    #[command(flatten)]
    config: ConfigArgs,

    /// The folder for the restored database, which needs as much space as the live one
    /// [default: the system's for temporary files]
    #[arg(long, value_name = "PATH")]
    scratch: Option<PathBuf>,

    /// How long to wait for a replica that lags behind
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    wait: Duration,

    /// How long it may all take, during which the log grows by what is written
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    hold_max: Duration,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl DrillArgs {
    pub(crate) async fn run(self) -> Result<Status, Failure> {
        check_order("verify", &self.database, self.replica.as_slice())?;
        let source = Source::of_database(&self.database, self.replica.as_deref(), &self.config)?;
        let client = source.open().await?;
        let started = Instant::now();
        let bar = DrillBar::new(!self.json);
        let verdict = {
            let bar = bar.clone();
            replica::verify(client, &self.options(), move |step| bar.show(step)).await
        };
        bar.clear();
        let verdict = verdict.map_err(|error| failed(&error, &source, &self.database))?;
        let mut out = output::stdout();
        let printed = match self.json {
            true => output::write_json(&mut out, &to_json(&verdict, &source, started)),
            false => self.write(&mut out, &verdict, &source, started),
        };
        output::unless_closed(printed.and_then(|()| out.flush()))?;
        Ok(match verdict {
            Verdict::Good(_) => Status::Done,
            Verdict::Bad(_) => Status::Failed,
            Verdict::Unknown(_) => Status::Unknown,
        })
    }

    fn options(&self) -> VerifyOptions {
        let scratch = self.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let mut options = VerifyOptions::new(&self.database, scratch);
        options.wait = self.wait;
        options.hold_max = self.hold_max;
        options
    }

    fn write(
        &self,
        out: &mut impl Write,
        verdict: &Verdict,
        source: &Source,
        started: Instant,
    ) -> io::Result<()> {
        let time = output::time(started.elapsed());
        match verdict {
            Verdict::Good(compared) => {
                for note in notes(compared) {
                    writeln!(io::stderr(), "warning: {note}")?;
                }
                writeln!(
                    out,
                    "good: {} gives {} at transaction {} of {}, byte for byte ({} in {time})",
                    source.location,
                    self.database.display(),
                    compared.txid,
                    compared.created_at,
                    output::size(bytes(compared)),
                )
            }
            Verdict::Bad(flaw) => writeln!(out, "bad: {}: {flaw}", source.location),
            Verdict::Unknown(doubt) => {
                writeln!(out, "unknown: {}: {doubt}", source.location)?;
                writeln!(out, "  hint: {}", doubt.advice())
            }
        }
    }
}

/// What somebody should know of a replica that is good.
fn notes(compared: &Compared) -> Vec<String> {
    let damaged = compared.damaged.iter();
    let mut notes: Vec<String> = damaged
        .map(|damage| format!("{damage}; other files with the same transactions were used"))
        .collect();
    if compared.behind > 0 {
        notes.push(format!(
            "{} of the log were committed after that, and are not in the replica yet",
            output::size(compared.behind)
        ));
    }
    notes
}

fn bytes(compared: &Compared) -> u64 {
    u64::from(compared.pages) * u64::from(compared.page_size)
}

fn to_json(verdict: &Verdict, source: &Source, started: Instant) -> Value {
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut object = match verdict {
        Verdict::Good(compared) => json!({
            "verdict": "good",
            "txid": compared.txid.to_string(),
            "timestamp": compared.created_at.to_string(),
            "size": bytes(compared),
            "behind": compared.behind,
            "warnings": notes(compared),
        }),
        Verdict::Bad(flaw) => bad_to_json(flaw),
        Verdict::Unknown(doubt) => json!({
            "verdict": "unknown",
            "reason": reason(doubt),
            "message": doubt.to_string(),
            "hint": doubt.advice(),
        }),
    };
    object["source"] = json!(source.name);
    object["duration_ms"] = json!(millis);
    object
}

fn bad_to_json(flaw: &Flaw) -> Value {
    let mut object = match flaw {
        Flaw::Damaged { txid, damaged } => {
            let files: Vec<_> = damaged
                .iter()
                .map(|damage| damage.file.to_string())
                .collect();
            json!({ "reason": "damaged", "txid": txid.to_string(), "files": files })
        }
        Flaw::Unrestorable(_) => json!({ "reason": "unrestorable" }),
        Flaw::Differs {
            compared,
            differences,
        } => {
            let pages: Vec<_> = differences.pages.iter().map(|page| page.get()).collect();
            json!({
                "reason": "differs",
                "txid": compared.txid.to_string(),
                "different_pages": differences.count,
                "first_pages": pages,
            })
        }
        _ => json!({ "reason": "other" }),
    };
    object["verdict"] = json!("bad");
    object["message"] = json!(flaw.to_string());
    object
}

fn reason(doubt: &Doubt) -> &'static str {
    match doubt {
        Doubt::NoPlace { .. } => "no_place",
        Doubt::NewLog { .. } => "new_log",
        Doubt::Checkpointed { .. } => "checkpointed",
        Doubt::ShorterLog { .. } => "shorter_log",
        Doubt::OtherLog { .. } => "other_log",
        Doubt::Moving => "moving",
        Doubt::TooLong { .. } => "too_long",
        _ => "other",
    }
}

fn failed(error: &VerifyError, source: &Source, database: &Path) -> Failure {
    match error {
        VerifyError::Restore(RestoreError::Plan(PlanError::Empty)) => source.empty(),
        VerifyError::Database(ReplicateError::NotFound { .. }) => {
            Failure::of(Status::Nothing, error)
        }
        VerifyError::Restore(RestoreError::DiskFull { .. } | RestoreError::Folder { .. }) => {
            Failure::of(Status::Unknown, error).hint("-scratch names another folder")
        }
        VerifyError::Database(ReplicateError::Sqlite { .. }) if !may_write_beside(database) => {
            Failure::of(Status::Unknown, error).hint(
                "SQLite keeps two files beside a database that it reads: verify as a user who may \
                 write in its folder",
            )
        }
        VerifyError::NotWal { .. } => Failure::of(Status::Unknown, error)
            .hint("replicate it, which puts it into WAL mode, and verify then"),
        _ => Failure::of(Status::Unknown, error),
    }
}
