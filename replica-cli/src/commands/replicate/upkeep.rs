//! What is told of the upkeep of a replica.

use replica::{Event, FileInfo, Level, Status, UpkeepJob};
use serde_json::{Value, json};

use super::LogLevel;
use super::log::in_one_line;
use crate::output;

/// How much of it was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// How many files were put together.
    inputs: usize,
    /// How many files they are now, snapshots aside.
    compactions: usize,
    snapshots: usize,
    deleted: u64,
    /// Whether it was told that no more of it is done.
    has_ended: bool,
}

/// One line of the log.
pub(super) struct Told {
    pub(super) level: LogLevel,
    pub(super) event: &'static str,
    pub(super) message: String,
    pub(super) fields: Value,
}

impl Done {
    /// Counts what has happened, and says what there is to tell of it, where it is about the upkeep.
    pub(super) fn note(&mut self, event: &Event) -> Option<Told> {
        match event {
            Event::Compacted { file, inputs } => {
                self.inputs += inputs;
                match file.id.level {
                    Level::SNAPSHOT => self.snapshots += 1,
                    _ => self.compactions += 1,
                }
                Some(compacted(file, *inputs))
            }
            Event::Deleted { files, bytes } => {
                self.deleted += files;
                let count = count(*files);
                let size = output::size(*bytes);
                Some(Told {
                    level: LogLevel::Debug,
                    event: "deleted",
                    message: format!("deleted {count}, {size}: nothing needs them any more"),
                    fields: json!({ "files": files, "bytes": bytes }),
                })
            }
            Event::UpkeepInterrupted { job, error } => {
                let error = in_one_line(&**error);
                Some(Told {
                    level: LogLevel::Warn,
                    event: "upkeep_interrupted",
                    message: format!(
                        "the upkeep of the replica fails ({job}), and is tried again; what is \
                         committed is stored all the same: {error}"
                    ),
                    fields: json!({ "job": job.to_string(), "error": error }),
                })
            }
            Event::UpkeepResumed(job) => Some(resumed(*job)),
            Event::UpkeepEnded => self.end(),
            _ => None,
        }
    }

    /// Notes that no more of it is done, and says so the first time.
    fn end(&mut self) -> Option<Told> {
        (!std::mem::replace(&mut self.has_ended, true)).then(|| Told {
            level: LogLevel::Error,
            event: "upkeep_ended",
            message: String::from(
                "the upkeep of the replica has ended by a fault of this program: what is \
                 committed is stored all the same, and can be restored, but nothing is put \
                 together or deleted any more; start it again, and report what it said",
            ),
            fields: json!({}),
        })
    }

    /// All of it in a sentence, where there is any.
    pub(super) fn sentence(&self) -> Option<String> {
        let mut done = Vec::new();
        if self.inputs > 0 {
            let inputs = output::count(self.inputs, "file");
            done.push(format!("put {inputs} together"));
        }
        if self.snapshots > 0 {
            let snapshots = output::count(self.snapshots, "snapshot");
            done.push(format!("made {snapshots}"));
        }
        if self.deleted > 0 {
            done.push(format!("deleted {}", count(self.deleted)));
        }
        (!done.is_empty()).then(|| done.join(", "))
    }

    /// The same as JSON, and what of it `status` says that fails.
    pub(super) fn to_json(self, status: &Status) -> Value {
        let failing = status.upkeep.iter().map(|trouble| {
            json!({
                "job": trouble.job.to_string(),
                "error": in_one_line(&*trouble.error),
                "since": trouble.since.to_string(),
                "attempts": trouble.attempts,
            })
        });
        json!({
            "put_together": self.inputs,
            "compactions": self.compactions,
            "snapshots": self.snapshots,
            "deleted": self.deleted,
            "failing": failing.collect::<Vec<_>>(),
        })
    }
}

fn compacted(file: &FileInfo, inputs: usize) -> Told {
    let (level, txids) = (file.id.level, file.id.txids);
    let (count, size) = (output::count(inputs, "file"), output::size(file.size));
    let (of, event, message) = match level {
        Level::SNAPSHOT => {
            let message = format!("made a snapshot of {count} ({size}): {}", file.id);
            (LogLevel::Info, "snapshot", message)
        }
        _ => {
            let message = format!("put {count} together to one of level {level} ({size})");
            (LogLevel::Debug, "compacted", message)
        }
    };
    Told {
        level: of,
        event,
        message,
        fields: json!({
            "level_made": level.get(),
            "min_txid": txids.min().to_string(),
            "max_txid": txids.max().to_string(),
            "inputs": inputs,
            "bytes": file.size,
        }),
    }
}

fn resumed(job: UpkeepJob) -> Told {
    Told {
        level: LogLevel::Info,
        event: "upkeep_resumed",
        message: format!("the upkeep of the replica goes on ({job})"),
        fields: json!({ "job": job.to_string() }),
    }
}

fn count(files: u64) -> String {
    output::count(usize::try_from(files).unwrap_or(usize::MAX), "file")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use replica::{FileId, PlanError, Timestamp, Txid, TxidRange, UpkeepError};

    use super::*;

    fn file(level: Level) -> FileInfo {
        let txids = TxidRange::new(Txid::FIRST, Txid::new(5).expect("it is not 0"));
        FileInfo {
            id: FileId {
                level,
                txids: txids.expect("they ascend"),
            },
            size: 1536,
            created_at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn each_thing_that_upkeep_does_is_told_and_counted() {
        let error = Arc::new(UpkeepError::from(PlanError::Empty));
        let compaction = UpkeepJob::Compaction(Level::ALL[1]);
        let events = [
            Event::Compacted {
                file: file(Level::ALL[1]),
                inputs: 5,
            },
            Event::Compacted {
                file: file(Level::SNAPSHOT),
                inputs: 2,
            },
            Event::Deleted {
                files: 1,
                bytes: 10,
            },
            Event::UpkeepInterrupted {
                job: compaction,
                error,
            },
            Event::UpkeepResumed(compaction),
            Event::UpkeepEnded,
            Event::UpkeepEnded,
            Event::Missed(3),
        ];
        let mut done = Done::default();

        let told = events.iter().filter_map(|event| done.note(event));
        let told: Vec<_> = told
            .map(|told| (told.level, told.event, told.message))
            .collect();

        assert_eq!(
            told.iter()
                .map(|(level, event, message)| (*level, *event, message.as_str()))
                .collect::<Vec<_>>(),
            [
                (
                    LogLevel::Debug,
                    "compacted",
                    "put 5 files together to one of level 1 (1.5 KiB)"
                ),
                (
                    LogLevel::Info,
                    "snapshot",
                    &*format!(
                        "made a snapshot of 2 files (1.5 KiB): {}",
                        file(Level::SNAPSHOT).id
                    )
                ),
                (
                    LogLevel::Debug,
                    "deleted",
                    "deleted 1 file, 10 B: nothing needs them any more"
                ),
                (
                    LogLevel::Warn,
                    "upkeep_interrupted",
                    &*format!(
                        "the upkeep of the replica fails (compaction to level 1), and is tried \
                         again; what is committed is stored all the same: {}",
                        PlanError::Empty
                    )
                ),
                (
                    LogLevel::Info,
                    "upkeep_resumed",
                    "the upkeep of the replica goes on (compaction to level 1)"
                ),
                (
                    LogLevel::Error,
                    "upkeep_ended",
                    "the upkeep of the replica has ended by a fault of this program: what is \
                     committed is stored all the same, and can be restored, but nothing is put \
                     together or deleted any more; start it again, and report what it said"
                ),
            ]
        );
        assert_eq!(
            done.sentence().as_deref(),
            Some("put 7 files together, made 1 snapshot, deleted 1 file")
        );
        assert_eq!(
            done.to_json(&Status::default()),
            json!({
                "put_together": 7, "compactions": 1, "snapshots": 1, "deleted": 1, "failing": [],
            })
        );
    }

    #[test]
    fn nothing_is_said_where_nothing_was_done() {
        assert_eq!(Done::default().sentence(), None);
    }
}
