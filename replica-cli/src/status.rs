//! How the command ends.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use replica::ReplicateError;
use serde_json::json;

/// The command's exit statuses, which every `--help` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done, and all is well.
    Done,
    /// It was tried and did not succeed, or what was looked at is bad.
    Failed,
    /// The command line or the configuration is wrong, or the store could not be opened.
    Usage,
    /// There is nothing to work on: no replica at that place, no case that matches.
    Nothing,
    /// What was looked at could not be judged.
    Unknown,
    /// Interrupted by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
    /// That of the child which was run.
    Child(u8),
}

impl Status {
    /// What the process ends with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Status::Done => 0,
            Status::Failed => 1,
            Status::Usage => 2,
            Status::Nothing => 3,
            Status::Unknown => 4,
            Status::Interrupted => 130,
            Status::Terminated => 143,
            Status::Child(code) => code,
        }
    }
}

impl Status {
    /// The name of the signal that it stands for.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Interrupted => "SIGINT",
            Status::Terminated => "SIGTERM",
            _ => "no signal",
        }
    }
}

/// The end of a command's `--help`: its examples, and the exit statuses.
pub(crate) fn with_exit_statuses(examples: &str) -> String {
    format!("{examples}\n\n{EXIT_STATUSES}")
}

const EXIT_STATUSES: &str = "\
Exit statuses:
  0    done, and all is well
  1    it was tried and failed, or what was looked at is bad
  2    the command line or the configuration is wrong, or the store can't be opened
  3    there is nothing to work on: no replica at that place, no database, no case that matches
  4    nothing tells whether the replica is good (verify)
  130  interrupted (SIGINT)
  143  ended (SIGTERM)

With -json an error is one JSON object on stderr.";

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status.code())
    }
}

/// Why the command did not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    may_pass: bool,
}

impl Failure {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Failure {
        Failure {
            status,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            may_pass: false,
        }
    }

    /// The failure that `error` and its causes tell.
    pub(crate) fn of(status: Status, error: &dyn Error) -> Failure {
        Failure::new(status, error.to_string()).because_of(error.source())
    }

    /// The failure of a replication of `database`.
    pub(crate) fn of_replication(error: &ReplicateError, database: &str) -> Failure {
        let failure = Failure::new(Status::Failed, format!("can't replicate {database}"))
            .because_of(Some(error));
        match error {
            ReplicateError::Replaced { .. } => failure.hint(
                "the replica has what was stored until now: before you start again, restore that to \
                 another path and compare, since what is there now becomes its latest state",
            ),
            ReplicateError::Conflict { .. } => failure.hint(
                "if another one replicates to that place, end it, and start again: the whole \
                 database is stored anew",
            ),
            ReplicateError::Replicated { .. } => failure
                .hint("one process may keep several replicas of a database: give it several URLs"),
            error if error.is_locked() => failure.hint(
                "a database that is not in WAL mode is put into it while nobody uses it: end what \
                 does, or let that say PRAGMA journal_mode=WAL",
            ),
            _ => failure,
        }
    }

    /// The same failure, caused by `error` and by what caused that.
    pub(crate) fn because_of<'a>(mut self, error: Option<&'a (dyn Error + 'static)>) -> Failure {
        let mut next = error;
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// The same failure, caused by another one.
    pub(crate) fn because(mut self, cause: Failure) -> Failure {
        self.causes.push(cause.message);
        self.causes.extend(cause.causes);
        self
    }

    /// The same failure, with what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure, which the same call may not meet a little later.
    pub(crate) fn that_may_pass(mut self) -> Failure {
        self.may_pass = true;
        self
    }

    /// Whether the same call may succeed a little later, as where a store is away.
    pub(crate) fn may_pass(&self) -> bool {
        self.may_pass
    }

    /// The same failure, which has left behind what `left` says.
    pub(crate) fn and_left(mut self, left: Failure) -> Failure {
        let left = match left.hint {
            Some(hint) => format!("{}: {hint}", left.message),
            None => left.message,
        };
        self.hint = Some(match self.hint {
            Some(hint) => format!("{hint}; {left}"),
            None => left,
        });
        self
    }

    /// Says on stderr what went wrong: for a person, or as one JSON object in a line.
    pub(crate) fn tell(&self, json: bool) {
        if self.status == Status::Done {
            return;
        }
        let text = if json {
            self.to_json().to_string()
        } else {
            self.to_text()
        };
        // There is nobody to tell that stderr is closed.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// The message and its causes, for a log.
    pub(crate) fn in_one_line(&self) -> String {
        let parts = [&self.message].into_iter().chain(&self.causes);
        parts.map(String::as_str).collect::<Vec<_>>().join(": ")
    }

    fn to_text(&self) -> String {
        let mut text = format!("error: {}", self.message);
        for cause in &self.causes {
            let _ = write!(text, "\n  cause: {cause}");
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\n  hint: {hint}");
        }
        text
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "error": {
                "message": self.message,
                "causes": self.causes,
                "hint": self.hint,
                "exit_status": self.status.code(),
            }
        })
    }
}

/// A failure to write to stdout. Where a pipe's reader has seen enough, as `head` does, all is
/// well.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Status::Done, "stdout is closed"),
            _ => Failure::new(Status::Failed, "can't write to stdout").because_of(Some(&error)),
        }
    }
}
