//! Storing what is committed now, and no more.

use std::io::Write;
use std::sync::Arc;

use replica::{FileInfo, ReplicaClient, Synced};
use serde_json::json;

use super::Job;
use super::database::{Database, failed};
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
    let databases = jobs.into_iter().map(|job| Database::new(job, log.clone()));
    let databases: Vec<Database> = databases.collect();
    // What is wrong with one of several keeps no other one from being stored.
    let single = databases.len() == 1;
    let mut failed = false;
    let mut reports = Vec::new();
    let checked: Vec<_> = databases.iter().map(Database::check).collect();
    for (database, checked) in databases.iter().zip(checked) {
        let stored = match checked {
            Ok(()) => store(database, force_snapshot).await,
            Err(failure) => Err(failure),
        };
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

/// Brings one replica up to date. Says what that took, and whether a snapshot was made of it.
async fn store(database: &Database, force_snapshot: bool) -> Result<(Synced, bool), Failure> {
    let client = replica::stack(database.reach().await?);
    if !database.is_there() {
        return Err(database.missing());
    }
    let wrong = |error| failed(&error, database);
    let mut replicator = database.replicator(&client).await.map_err(wrong)?;
    let synced = replicator.sync().await.map_err(wrong)?;
    replicator.confirm().await.map_err(wrong)?;
    // What is stored may leave the log, so that it does not grow from one time to the next.
    replicator.upkeep(true).await.map_err(wrong)?;
    let made = match force_snapshot {
        true => snapshot(&client, database).await?,
        false => None,
    };
    Ok((synced, made.is_some()))
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
