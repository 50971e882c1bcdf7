//! What happens, line by line.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use replica::PassedOver;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::LogLevel;
use crate::output;
use crate::status::{Failure, Status};

/// How many lines wait for the reader of stderr. Those that find no room are counted, and lost.
const LINES_MAX: usize = 1024;
/// How long the end of the command waits for that reader.
const CLOSE: Duration = Duration::from_secs(1);

/// The log on stderr, which a thread of its own writes: a reader that stalls holds up nothing.
#[derive(Clone)]
pub(super) struct Log {
    lines: mpsc::Sender<Line>,
    lost: Arc<AtomicU64>,
    level: LogLevel,
    form: Form,
}

/// How a line is written.
#[derive(Clone, Copy)]
struct Form {
    json: bool,
}

enum Line {
    Text(String),
    /// Everything before it is written when this is answered.
    End(oneshot::Sender<()>),
}

impl Log {
    /// A log of what is of `level` or more important.
    pub(super) fn start(json: bool, level: LogLevel) -> Result<Log, Failure> {
        let (lines, taken) = mpsc::channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let (form, counted) = (Form { json }, Arc::clone(&lost));
        let thread = thread::Builder::new().name(String::from("replica-log"));
        let started = thread.spawn(move || write(taken, &counted, form));
        started.map_err(|error| {
            Failure::new(Status::Failed, "can't start").because_of(Some(&error))
        })?;
        Ok(Log {
            lines,
            lost,
            level,
            form,
        })
    }

    /// Tells that `event` has happened, with the `fields` that it has as JSON and the `message` that
    /// is for people.
    pub(super) fn tell(
        &self,
        level: LogLevel,
        event: &str,
        database: Option<&str>,
        message: impl Display,
        fields: Value,
    ) {
        if level < self.level {
            return;
        }
        let line = self.form.line(level, event, database, message, fields);
        if self.lines.try_send(Line::Text(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells that nothing comes of a setting.
    pub(super) fn passed_over(&self, setting: &PassedOver) {
        let fields = json!({ "setting": setting.key, "line": setting.line });
        self.tell(LogLevel::Warn, "passed_over", None, setting, fields);
    }

    /// Tells that a signal has come, and what is done about it.
    pub(super) fn signalled(&self, signal: Status, has_child: bool) {
        let name = signal.name();
        let message = match has_child {
            true => format!("{name}: the child is told, and its end is waited for"),
            false => format!("{name}: ending"),
        };
        let fields = json!({ "signal": name });
        self.tell(LogLevel::Info, "signal", None, message, fields);
    }

    /// Tells how the child has ended.
    pub(super) fn child_ended(&self, status: u8) {
        let message = format_args!("the child has ended with status {status}");
        let fields = json!({ "exit_status": status });
        self.tell(LogLevel::Info, "child_ended", None, message, fields);
    }

    /// Tells a failure after which the command goes on.
    pub(super) fn failed(&self, failure: &Failure) {
        let fields = json!({ "exit_status": failure.status.code() });
        self.tell(
            LogLevel::Error,
            "failed",
            None,
            failure.in_one_line(),
            fields,
        );
    }

    /// Waits until all is written, but not long.
    pub(super) async fn close(&self) {
        let (written, all) = oneshot::channel();
        let closing = async {
            if self.lines.send(Line::End(written)).await.is_ok() {
                // It is answered, or there is nobody to answer.
                let _ = all.await;
            }
        };
        // Nobody reads: there is nothing to wait for.
        let _ = timeout(CLOSE, closing).await;
    }
}

impl Form {
    /// The line in place of those that are lost.
    fn lost(self, lost: u64) -> String {
        let count = usize::try_from(lost).unwrap_or(usize::MAX);
        let message = format!(
            "{} lost: nobody read them in time",
            output::count(count, "line")
        );
        self.line(
            LogLevel::Warn,
            "lost",
            None,
            message,
            json!({ "lines": lost }),
        )
    }

    fn line(
        self,
        level: LogLevel,
        event: &str,
        database: Option<&str>,
        message: impl Display,
        fields: Value,
    ) -> String {
        // Always as many digits, so that lines can be sorted as text.
        let (time, level) = (replica::now(), level.name());
        if !self.json {
            return match database {
                Some(database) => format!("{time:.3} {level:<5} {database}: {message}\n"),
                None => format!("{time:.3} {level:<5} {message}\n"),
            };
        }
        let mut line = json!({
            "time": format!("{time:.3}"),
            "level": level,
            "event": event,
            "message": message.to_string(),
        });
        if let Some(database) = database {
            line["database"] = database.into();
        }
        for (name, value) in fields.as_object().into_iter().flatten() {
            line[name] = value.clone();
        }
        format!("{line}\n")
    }
}

impl LogLevel {
    fn name(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }
}

/// An error and what caused it, in one line.
pub(super) fn in_one_line(error: &dyn Error) -> String {
    Failure::of(Status::Failed, error).in_one_line()
}

/// Writes lines for as long as some may come.
fn write(mut lines: mpsc::Receiver<Line>, lost: &AtomicU64, form: Form) {
    while let Some(line) = lines.blocking_recv() {
        match line {
            Line::Text(text) => write_line(&text),
            Line::End(written) => {
                // Who waited may have given up.
                let _ = written.send(());
            }
        }
        match lost.swap(0, Ordering::Relaxed) {
            0 => {}
            lost => write_line(&form.lost(lost)),
        }
    }
}

fn write_line(line: &str) {
    // There is nobody to tell that stderr is closed.
    let _ = io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_for_people_or_an_object() {
        let line = |json| {
            let fields = json!({ "txid": "000000000000001f" });
            Form { json }.line(
                LogLevel::Info,
                "stored",
                Some("app.db"),
                "stored it",
                fields,
            )
        };

        let (text, object) = (line(false), line(true));
        let object: Value = serde_json::from_str(&object).expect("an object");

        let has_three_digits = |time: &str| time.len() == "2026-11-22T06:00:00.000Z".len();
        let (time, rest) = text.split_once(' ').expect("a time");
        assert_eq!(rest, "info  app.db: stored it\n");
        assert!(has_three_digits(time), "{time}");
        assert!(object["time"].as_str().is_some_and(has_three_digits));
        assert_eq!(
            (
                &object["level"],
                &object["event"],
                &object["database"],
                &object["message"],
                &object["txid"]
            ),
            (
                &json!("info"),
                &json!("stored"),
                &json!("app.db"),
                &json!("stored it"),
                &json!("000000000000001f")
            )
        );
    }

    /// What a reader that stalls would hold up is counted and told instead.
    #[test]
    fn lines_that_find_no_room_are_counted() {
        let (lines, mut taken) = mpsc::channel(2);
        let log = Log {
            lines,
            lost: Arc::default(),
            level: LogLevel::Info,
            form: Form { json: false },
        };

        for number in 0..5 {
            log.tell(LogLevel::Info, "counted", None, number, json!({}));
            log.tell(LogLevel::Debug, "not counted", None, number, json!({}));
        }

        assert_eq!(log.lost.load(Ordering::Relaxed), 3);
        assert!(matches!(taken.try_recv(), Ok(Line::Text(text)) if text.ends_with(" 0\n")));
        assert!(
            log.form
                .lost(3)
                .ends_with("warn  3 lines lost: nobody read them in time\n")
        );
    }
}
