//! Storing what is committed now, and no more.

use std::io::Write;
use std::sync::Arc;

use replica::{FileInfo, ReplicaClient, Replicator, Synced};
use serde_json::json;

use super::Job;
use super::database::{Database, Turns, failed};
use super::log::Log;
use crate::output;
use crate::status::{Failure, Status};

/// Brings the replica of each database up to date, and prints what that took.
pub(super) async fn run(
    jobs: Vec<Job>,
    force_snapshot: bool,
    json: bool,
    log: &Log,
) -> Result<Status, Failure> {
    let turns = Turns::new();
    let databases = jobs.into_iter();
    let databases = databases.map(|job| Database::new(job, log.clone(), turns.clone()));
    let databases: Vec<Database> = databases.collect();
    // What is wrong with one of several keeps no other one from being stored.
    let single = databases.len() == 1;
    let mut failed = false;
    let mut reports = Vec::new();
    let checked: Vec<_> = databases.iter().map(Database::check).collect();
    let mut checked = checked.into_iter();
    for replicas in databases.chunk_by(Database::is_beside) {
        let checked = checked.by_ref().take(replicas.len()).collect();
        let all = store(replicas, checked, force_snapshot).await;
        for (database, stored) in replicas.iter().zip(all) {
            match stored {
                Ok((synced, made)) if json => reports.push(report(database, &synced, made)),
                Ok((synced, made)) => print(database, &synced, made)?,
                Err(failure) if single => return Err(failure),
                Err(failure) => {
                    log.failed(&failure);
                    failed = true;
                }
            }
        }
    }
    if json {
        let mut out = output::stdout();
        output::write_json(&mut out, &reports)?;
        out.flush()?;
    }
    match failed {
        false => Ok(Status::Done),
        true => Err(Failure::new(
            Status::Failed,
            "not everything that was committed is in its replica",
        )),
    }
}

/// Brings the replicas of one database up to date. Says of each what that took, and whether a
/// snapshot was made of it.
async fn store(
    replicas: &[Database],
    checked: Vec<Result<(), Failure>>,
    force_snapshot: bool,
) -> Vec<Result<(Synced, bool), Failure>> {
    // The log is not begun anew before all of them have it.
    let mut opened = Vec::with_capacity(replicas.len());
    for (database, checked) in replicas.iter().zip(checked) {
        opened.push(match checked {
            Ok(()) => Opened::open(database).await,
            Err(failure) => Err(failure),
        });
    }
    let mut synced = Vec::with_capacity(replicas.len());
    for opened in opened {
        synced.push(match opened {
            Ok(mut opened) => opened.sync().await.map(|synced| (opened, synced)),
            Err(failure) => Err(failure),
        });
    }
    let mut stored = Vec::with_capacity(replicas.len());
    for synced in synced {
        stored.push(match synced {
            Ok((opened, synced)) => {
                (opened.finish(force_snapshot).await).map(|made| (synced, made))
            }
            Err(failure) => Err(failure),
        });
    }
    stored
}

/// A replica that is being brought up to date.
struct Opened<'a> {
    database: &'a Database,
    client: Arc<dyn ReplicaClient>,
    replicator: Replicator,
}

impl Opened<'_> {
    async fn open(database: &Database) -> Result<Opened<'_>, Failure> {
        let client = replica::stack(database.reach().await?);
        if !database.is_there() {
            return Err(database.missing());
        }
        let replicator = database.replicator(&client).await;
        let replicator = replicator.map_err(|error| failed(&error, database))?;
        Ok(Opened {
            database,
            client,
            replicator,
        })
    }

    async fn sync(&mut self) -> Result<Synced, Failure> {
        let wrong = |error| failed(&error, self.database);
        let synced = self.replicator.sync().await.map_err(wrong)?;
        let anew = self.replicator.confirm().await.map_err(wrong)?;
        Ok(anew.unwrap_or(synced))
    }

    /// Says whether a snapshot was made.
    async fn finish(mut self, force_snapshot: bool) -> Result<bool, Failure> {
        // What is stored may leave the log, so that it does not grow from one time to the next.
        let kept = self.replicator.upkeep(true).await;
        kept.map_err(|error| failed(&error, self.database))?;
        Ok(match force_snapshot {
            true => snapshot(&self.client, self.database).await?.is_some(),
            false => false,
        })
    }
}

/// Makes a snapshot of what is stored, unless that is in one already.
async fn snapshot(
    client: &Arc<dyn ReplicaClient>,
    database: &Database,
) -> Result<Option<FileInfo>, Failure> {
    replica::snapshot(client).await.map_err(|error| {
        let message = format!("can't make a snapshot of {}", database.replica());
        Failure::new(Status::Failed, message).because_of(Some(&error))
    })
}

fn report(database: &Database, synced: &Synced, snapshot_made: bool) -> serde_json::Value {
    json!({
        "database": database.name(),
        "replica": database.replica(),
        "txid": synced.txid.to_string(),
        "files": synced.files.len(),
        "bytes": bytes(synced),
        "snapshot": synced.snapshot.map(|reason| reason.to_string()),
        "snapshot_made": snapshot_made,
    })
}

fn print(database: &Database, synced: &Synced, snapshot_made: bool) -> Result<(), Failure> {
    let mut out = output::stdout();
    let (name, replica, txid) = (database.name(), database.replica(), synced.txid);
    write!(out, "{replica} has {name} up to transaction {txid}: ")?;
    match &synced.files[..] {
        [] => writeln!(out, "nothing was missing")?,
        files => {
            let (files, size) = (
                output::count(files.len(), "file"),
                output::size(bytes(synced)),
            );
            write!(out, "stored {files}, {size}")?;
            match synced.snapshot {
                Some(reason) => writeln!(out, ", with the whole database: {reason}")?,
                None => writeln!(out)?,
            }
        }
    }
    if snapshot_made {
        writeln!(out, "{replica}: made a snapshot of that")?;
    }
    out.flush()?;
    Ok(())
}

fn bytes(synced: &Synced) -> u64 {
    synced.files.iter().map(|file| file.size).sum()
}
