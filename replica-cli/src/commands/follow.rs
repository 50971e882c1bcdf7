//! `replica restore -f`

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use replica::{FollowError, FollowOptions, Followed, Follower, PlanError, RestoreError};
use serde_json::json;
use tokio::time::sleep;

use crate::output;
use crate::progress::RestoreBar;
use crate::signals::Signals;
use crate::source::Source;
use crate::status::{Failure, Status};

/// Restores the replica at `source` to `output`, and keeps that up to date until a signal comes.
pub(super) async fn run(
    source: &Source,
    output: &Path,
    interval: Duration,
    json: bool,
) -> Result<Status, Failure> {
    let mut signals = Signals::listen()?;
    // Whether the replica was seen: a typing error in its place is one only before that. What is not
    // there yet is restored from it.
    let mut is_known = !output.exists();
    let mut follower = tokio::select! {
        follower = open(source, output, json) => follower?,
        status = signals.next() => return Err(Failure::new(status, "interrupted")),
    };
    if let Some(txid) = follower.txid() {
        let database = output.display().to_string();
        let text = format!("{database} follows, from transaction {txid}");
        tell(
            json,
            &json!({ "event": "following", "db_path": database, "txid": txid.to_string() }),
            &text,
        )?;
    }
    let mut is_away = false;
    loop {
        // A signal waits for the step's end, but a second one does not.
        let step = async {
            tokio::select! {
                step = follower.step() => (step, None),
                status = signals.next() => (Ok(None), Some(status)),
            }
        };
        let (step, signal) = step.await;
        match step {
            Ok(step) => {
                is_known |= signal.is_none();
                if is_away && signal.is_none() {
                    is_away = false;
                    tell(json, &json!({ "event": "resumed" }), "the replica is back")?;
                }
                if let Some(followed) = step {
                    tell_step(&followed, json)?;
                }
            }
            Err(error) if error.may_pass() && (is_known || !is_empty(&error)) => {
                if !is_away {
                    is_away = true;
                    let failure = Failure::of(Status::Failed, &error).in_one_line();
                    let text = format!("interrupted, and tried again: {failure}");
                    tell(
                        json,
                        &json!({ "event": "interrupted", "error": failure }),
                        &text,
                    )?;
                }
            }
            Err(error) => return Err(failed(error, source)),
        }
        let ended = match signal {
            Some(status) => Some(status),
            None => tokio::select! {
                status = signals.next() => Some(status),
                () = sleep(interval) => None,
            },
        };
        if ended.is_some() {
            let closed = follower.close().await;
            closed.map_err(|error| failed(error, source))?;
            return Ok(Status::Done);
        }
    }
}

async fn open(source: &Source, output: &Path, json: bool) -> Result<Follower, Failure> {
    let client = source.open().await?;
    let bar = RestoreBar::new(!json);
    let opened = {
        let bar = bar.clone();
        Follower::open(client, FollowOptions::new(output), move |step| {
            bar.show(step)
        })
        .await
    };
    bar.clear();
    opened.map_err(|error| failed(error, source))
}

fn tell_step(followed: &Followed, json: bool) -> io::Result<()> {
    let files = output::count(followed.files.len(), "file");
    let anew = match followed.anew {
        true => ", all of it anew: the files in between are no longer in the replica",
        false => "",
    };
    let mut text = format!(
        "transaction {} of {}: {files}{anew}",
        followed.txid, followed.created_at
    );
    for damage in &followed.damaged {
        text.push_str(&format!("; {damage}, others were used"));
    }
    let damaged: Vec<_> = followed.damaged.iter().map(ToString::to_string).collect();
    tell(
        json,
        &json!({
            "event": "followed",
            "txid": followed.txid.to_string(),
            "timestamp": followed.created_at.to_string(),
            "files": followed.files.len(),
            "anew": followed.anew,
            "damaged": damaged,
        }),
        &text,
    )
}

/// Says what happens and when, in a line.
fn tell(json: bool, object: &serde_json::Value, text: &str) -> io::Result<()> {
    let mut out = output::stdout();
    match json {
        true => writeln!(out, "{object}")?,
        false => writeln!(out, "{:.3} {text}", replica::now())?,
    }
    output::unless_closed(out.flush())
}

fn failed(error: FollowError, source: &Source) -> Failure {
    match is_empty(&error) {
        true => source.empty(),
        false => Failure::of(Status::Failed, &error),
    }
}

/// Whether there is no replica.
fn is_empty(error: &FollowError) -> bool {
    matches!(
        error,
        FollowError::Restore(RestoreError::Plan(PlanError::Empty))
    )
}
