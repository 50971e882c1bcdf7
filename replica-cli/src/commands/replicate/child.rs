//! The command that is run while databases are replicated.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Command};
use std::thread;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpgrp, kill_process, waitid};
use rustix::termios::tcgetpgrp;
use tokio::sync::oneshot;

use crate::status::{Failure, Status};

/// A child, which is killed when this is dropped.
pub(super) struct Child {
    process: process::Child,
    id: Pid,
    /// Told when it has ended. Nobody else may have its id before it was waited for.
    exited: oneshot::Receiver<()>,
}

impl Child {
    /// Starts the command of these words, with what this process has of input, output and
    /// environment.
    pub(super) fn start(words: &[String]) -> Result<Child, Failure> {
        let (program, args) = words.split_first().expect("a command has a word");
        let failed = |error: io::Error| {
            Failure::new(Status::Usage, format!("can't run {program}")).because_of(Some(&error))
        };
        let mut process = Command::new(program).args(args).spawn().map_err(failed)?;
        let id = Pid::from_child(&process);
        let (tell, exited) = oneshot::channel();
        let waiting = thread::Builder::new().name(String::from("replica-child"));
        let started = waiting.spawn(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(Errno::INTR) = waitid(WaitId::Pid(id), options) {}
            // Nobody listens where the command has been stopped.
            let _ = tell.send(());
        });
        if let Err(error) = started {
            end(&mut process);
            return Err(failed(error));
        }
        Ok(Child {
            process,
            id,
            exited,
        })
    }

    /// Passes a signal on, unless the child has got it already.
    pub(super) fn pass_on(&self, signal: Status) {
        let signal = match signal {
            // Whoever presses the keys in a terminal interrupts all that runs in its foreground.
            Status::Interrupted if is_in_foreground() => return,
            Status::Interrupted => Signal::INT,
            _ => Signal::TERM,
        };
        // One that has ended by now needs no signal.
        let _ = kill_process(self.id, signal);
    }

    /// Waits for its end, and returns its exit status as a shell gives it.
    async fn ended(&mut self) -> Result<u8, Failure> {
        // The thread that tells does so in any case.
        let _ = (&mut self.exited).await;
        let status = self.process.wait().map_err(|error| {
            Failure::new(Status::Failed, "can't wait for the child").because_of(Some(&error))
        })?;
        let code = status
            .code()
            .or(status.signal().map(|signal| 128 + signal))
            .and_then(|code| u8::try_from(code).ok());
        Ok(code.unwrap_or(Status::Failed.code()))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Waits for the child, where there is one.
pub(super) async fn ended(child: &mut Option<Child>) -> Result<u8, Failure> {
    match child {
        Some(child) => child.ended().await,
        None => std::future::pending().await,
    }
}

/// Kills a child, unless it has ended.
fn end(process: &mut process::Child) {
    // It fails for one that has ended.
    let _ = process.kill();
    let _ = process.wait();
}

/// Whether this process is of the group that a terminal's keys interrupt.
fn is_in_foreground() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground == getpgrp())
}
