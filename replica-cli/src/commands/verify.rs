//! `replica ltx verify`

use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use replica::ltx::TxidRange;
use replica::{CheckProgress, Checked, Finding, RestorePoint};
use serde_json::{Value, json};

use super::inspect::{Content, Unreadable};
use crate::output;
use crate::progress::CheckBar;
use crate::source::{Source, SourceArgs};
use crate::status::{Failure, Status, with_exit_statuses};

const EXAMPLES: &str = "\
Examples:
  replica ltx verify file:///backups/app
  replica ltx verify /backups/app/ltx/0/0000000000000001-0000000000000001.ltx
  replica ltx verify -json /backups/app";

/// Read every file of a replica, or one file, and report what is wrong
///
/// REPLICA may be the path of an LTX file too. Reports each damaged, missing, overlapping or
/// misplaced file, and which states can be restored.
///
/// The files of the latest state are also put together as a restore does it, up to the checksum of
/// the whole database where they hold one. Those of earlier states are not: restore one to be sure.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl VerifyArgs {
    pub(crate) async fn run(self) -> Result<Status, Failure> {
        if let Some(file) = self.source.file() {
            return self.verify_file(file);
        }
        let source = self.source.resolve()?;
        self.verify_replica(&source).await
    }

    fn verify_file(&self, path: &Path) -> Result<Status, Failure> {
        let finding = match Content::read(path) {
            Ok(content) => misnamed(path, content.txids()),
            Err(Unreadable::Invalid(error)) => Some(error.to_string()),
            Err(Unreadable::Failed(failure)) => return Err(failure),
        };
        let mut out = output::stdout();
        let path = path.display();
        let printed = if self.json {
            output::write_json(
                &mut out,
                &json!({ "file": path.to_string(), "findings": finding.as_slice() }),
            )
        } else {
            let verdict = finding.as_deref().unwrap_or("sound");
            writeln!(out, "{path}: {verdict}")
        };
        output::unless_closed(printed.and_then(|()| out.flush()))?;
        Ok(match finding {
            None => Status::Done,
            Some(_) => Status::Failed,
        })
    }

    async fn verify_replica(&self, source: &Source) -> Result<Status, Failure> {
        let client = source.open().await?;
        let bar = CheckBar::new(!self.json);
        let mut unwritten = None;
        let checked = replica::check(client, |step| match step {
            CheckProgress::Found(finding) if !self.json => {
                let line = bar.suspend(|| writeln!(io::stdout(), "{finding}"));
                unwritten = unwritten.take().or(line.err());
            }
            step => bar.show(step),
        })
        .await;
        bar.clear();
        output::unless_closed(unwritten.map_or(Ok(()), Err))?;
        let checked = checked.map_err(|error| Failure::of(Status::Failed, &error))?;
        if checked.files == 0 {
            return Err(source.empty());
        }
        let bad = checked
            .findings
            .iter()
            .filter(|finding| is_bad(finding))
            .count();
        let mut out = output::stdout();
        let printed = match self.json {
            true => output::write_json(&mut out, &to_json(&checked, source)),
            false => write_summary(&mut out, &checked, source, bad),
        };
        output::unless_closed(printed.and_then(|()| out.flush()))?;
        Ok(match bad {
            0 => Status::Done,
            _ => Status::Failed,
        })
    }
}

/// Whether a finding is of something wrong with the replica. Lost times are not: restoring to a
/// time reads them from the files.
fn is_bad(finding: &Finding) -> bool {
    !matches!(finding, Finding::Times { .. })
}

fn misnamed(path: &Path, header: TxidRange) -> Option<String> {
    let name: TxidRange = path.file_name()?.to_str()?.parse().ok()?;
    (name != header).then(|| format!("its header says that it is {header}"))
}

fn write_summary(
    out: &mut impl Write,
    checked: &Checked,
    source: &Source,
    bad: usize,
) -> io::Result<()> {
    let size = output::size(checked.bytes);
    write!(
        out,
        "{}: {} files, {size}: ",
        source.location, checked.files
    )?;
    match bad {
        0 => writeln!(out, "all sound")?,
        1 => writeln!(out, "1 finding")?,
        bad => writeln!(out, "{bad} findings")?,
    }
    match &checked.restorable {
        Some((oldest, newest)) => {
            writeln!(
                out,
                "restorable from {} to {}",
                point(oldest),
                point(newest)
            )
        }
        None => writeln!(out, "nothing can be restored"),
    }
}

fn point(point: &RestorePoint) -> String {
    format!("transaction {} of {}", point.txid, point.created_at)
}

fn to_json(checked: &Checked, source: &Source) -> Value {
    let point = |point: &RestorePoint| json!({ "txid": point.txid.to_string(), "timestamp": point.created_at.to_string() });
    let findings: Vec<_> = checked.findings.iter().map(finding_to_json).collect();
    json!({
        "source": source.name,
        "files": checked.files,
        "size": checked.bytes,
        "restorable": checked.restorable.as_ref().map(|(oldest, newest)| json!({
            "oldest": point(oldest),
            "newest": point(newest),
        })),
        "findings": findings,
    })
}

fn finding_to_json(finding: &Finding) -> Value {
    let (kind, file) = match finding {
        Finding::Damaged(damage) => ("damaged", Some(damage.file)),
        Finding::Misplaced { file } => ("misplaced", Some(*file)),
        Finding::PageSize { file, .. } => ("page_size", Some(*file)),
        Finding::Overlap { file, .. } => ("overlap", Some(*file)),
        Finding::Missing { file, .. } => ("missing", Some(*file)),
        Finding::Unrestorable(_) => ("unrestorable", None),
        Finding::Times { first, .. } => ("times", Some(*first)),
        _ => ("other", None),
    };
    json!({
        "kind": kind,
        "file": file.map(|file| file.to_string()),
        "message": finding.to_string(),
    })
}
