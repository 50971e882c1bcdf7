//! `replica status`

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use replica::{RestorePoint, Standing, Survey};
use serde_json::{Value, json};

use crate::output::{self, Table};
use crate::source::{ConfigArgs, Source, SourceArgs, is_database};
use crate::status::{Failure, Status, with_exit_statuses};

const EXAMPLES: &str = "\
Examples:
  replica status file:///backups/app
  replica status -database app.db s3://bucket/app    whether the database has more, too
  replica status -config litestream.yml              all databases in there
  replica status -json /var/lib/app.db               one of /etc/litestream.yml";

/// Tell what replicas hold, and whether their databases have more
///
/// Of a replica: its last transaction and the time of that, the states that can be restored, what
/// is missing, and how many files of which size each level has. It is listed, and no file is read
/// to its end: `replica ltx verify` does that.
///
/// Of a database: whether its log has anything that the replica has not. Nothing is changed or
/// locked, so it may be replicated and written meanwhile.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct StatusArgs {
    /// The replicas, each by its URL, its folder, or the path of its database in the
    /// configuration; without one, all of the configuration
    #[arg(value_name = "REPLICA")]
    replicas: Vec<OsString>,

    /// The database of a replica that is given by its URL or folder
    #[arg(long, value_name = "PATH")]
    database: Option<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,

    /// Print JSON: an array with an object for each replica
    #[arg(long)]
    pub(crate) json: bool,
}

/// What was found out.
struct Found {
    source: Source,
    survey: Survey,
    /// Of its database, where there is one.
    standing: Option<Result<Standing, io::Error>>,
}

impl StatusArgs {
    pub(crate) async fn run(self) -> Result<Status, Failure> {
        let mut sources = Vec::new();
        match &self.replicas[..] {
            [] => {
                for database in self.config.databases()? {
                    match self.config.of(&database) {
                        Ok(found) => sources.extend(found.into_iter().map(Ok)),
                        Err(failure) => sources.push(Err(failure)),
                    }
                }
            }
            names => sources.extend(names.iter().map(|name| self.source(name.clone()))),
        }
        if sources.is_empty() {
            let message = "the configuration has no databases";
            return Err(Failure::new(Status::Nothing, message));
        }
        if self.database.is_some() && self.replicas.len() != 1 {
            let message = "-database goes together with one replica";
            return Err(Failure::new(Status::Usage, message));
        }
        let single = sources.len() == 1;
        let (mut status, mut all) = (Status::Done, Vec::new());
        for source in sources {
            let found = match source {
                Ok(source) => find(source, self.database.clone()).await,
                Err(failure) => Err(failure),
            };
            match found {
                Ok(found) => {
                    if found.survey.unrestorable.is_some() || matches!(found.standing, Some(Err(_)))
                    {
                        status = Status::Failed;
                    }
                    match self.json {
                        true => all.push(found.to_json()),
                        false => found.print()?,
                    }
                }
                Err(failure) if single => return Err(failure),
                // The others are of interest all the same.
                Err(failure) => {
                    failure.tell(self.json);
                    status = Status::Failed;
                }
            }
        }
        if self.json {
            let mut out = output::stdout();
            output::write_json(&mut out, &all)?;
            out.flush()?;
        }
        Ok(status)
    }
}

impl StatusArgs {
    fn source(&self, name: OsString) -> Result<Source, Failure> {
        let path = PathBuf::from(&name);
        let resolved = SourceArgs::new(name, self.config.clone()).resolve();
        resolved.map_err(|failure| match is_database(&path) {
            true => failure.hint(format!(
                "give its replica: replica status -database {} URL",
                path.display()
            )),
            false => failure,
        })
    }
}

/// Looks at a replica, and at its database.
async fn find(source: Source, database: Option<PathBuf>) -> Result<Found, Failure> {
    let client = source.open().await?;
    let survey = Survey::new(&client).await;
    let survey = survey.map_err(|error| Failure::of(Status::Failed, &error))?;
    if survey.is_empty() {
        return Err(source.empty());
    }
    let standing = match database.or_else(|| source.database.clone()) {
        Some(database) => Some(standing(&survey, &database).await),
        None => None,
    };
    Ok(Found {
        source,
        survey,
        standing,
    })
}

/// How far the replica is behind `database`, or why that can't be read.
async fn standing(survey: &Survey, database: &Path) -> io::Result<Standing> {
    let name = database.display();
    let is_other = |found: &Metadata| found.len() > 0 && !is_database(database);
    if fs::metadata(database).is_ok_and(|found| is_other(&found)) {
        let message = format!("{name} is not a SQLite database, or it is encrypted");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
    survey.standing(database).await.map_err(named)
}

impl Found {
    fn print(&self) -> Result<(), Failure> {
        let Found { source, survey, .. } = self;
        let mut out = output::stdout();
        writeln!(out, "{}", source.location)?;
        match &survey.restorable {
            Some((oldest, newest)) => {
                writeln!(out, "  newest      {}", point(newest))?;
                writeln!(out, "  oldest      {}", point(oldest))?;
            }
            None => writeln!(out, "  newest      nothing can be restored")?,
        }
        if let Some(error) = &survey.unrestorable {
            writeln!(out, "  damaged     {error}")?;
        }
        if let Some(standing) = &self.standing {
            writeln!(out, "  database    {}", sentence(standing))?;
        }
        let mut table = Table::new(&["  level", "files", "size"]);
        for level in &survey.levels {
            table.row([
                format!("  {}", level.level),
                level.files.to_string(),
                output::size(level.bytes),
            ]);
        }
        table.write(&mut out)?;
        out.flush()?;
        Ok(())
    }

    fn to_json(&self) -> Value {
        let Found { source, survey, .. } = self;
        let point = |point: &RestorePoint| {
            json!({
                "txid": point.txid.to_string(),
                "timestamp": point.created_at.to_string(),
            })
        };
        let levels = survey.levels.iter().map(|level| {
            json!({
                "level": level.level.get(),
                "files": level.files,
                "size": level.bytes,
            })
        });
        json!({
            "source": source.name,
            "replica": source.location.to_string(),
            "restorable": survey.restorable.as_ref().map(|(oldest, newest)| json!({
                "oldest": point(oldest),
                "newest": point(newest),
            })),
            "unrestorable": survey.unrestorable.as_ref().map(ToString::to_string),
            "levels": levels.collect::<Vec<_>>(),
            "database": self.standing.as_ref().map(standing_to_json),
        })
    }
}

fn point(point: &RestorePoint) -> String {
    format!("transaction {} of {}", point.txid, point.created_at)
}

fn sentence(standing: &Result<Standing, io::Error>) -> String {
    match standing {
        Ok(Standing::Complete) => String::from("everything that is committed is in the replica"),
        Ok(Standing::Behind {
            transactions,
            bytes,
        }) => format!("{} that the replica has not", of_log(*transactions, *bytes)),
        Ok(Standing::BehindAtLeast {
            transactions,
            bytes,
        }) => format!(
            "at least {} that the replica has not: the log was begun anew since",
            of_log(*transactions, *bytes)
        ),
        Ok(Standing::Unknown(why)) => format!("can't tell whether it has more: {why}"),
        Ok(_) => String::from("can't tell whether it has more"),
        Err(error) => format!("can't be read: {error}"),
    }
}

fn of_log(transactions: u64, bytes: u64) -> String {
    let count = usize::try_from(transactions).unwrap_or(usize::MAX);
    let transactions = output::count(count, "transaction");
    format!("{transactions} ({} of the log)", output::size(bytes))
}

fn standing_to_json(standing: &Result<Standing, io::Error>) -> Value {
    let (kind, behind) = match standing {
        Ok(Standing::Complete) => ("complete", Some((&0, &0))),
        Ok(
            Standing::Behind {
                transactions,
                bytes,
            }
            | Standing::BehindAtLeast {
                transactions,
                bytes,
            },
        ) => ("behind", Some((transactions, bytes))),
        Ok(_) => ("unknown", None),
        Err(_) => ("unreadable", None),
    };
    json!({
        "state": kind,
        "transactions_behind": behind.map(|(transactions, _)| transactions),
        "bytes_behind": behind.map(|(_, bytes)| bytes),
        "message": sentence(standing),
    })
}
