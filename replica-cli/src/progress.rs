//! Progress on a terminal, and nothing anywhere else.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use replica::{CheckProgress, Progress, VerifyProgress};

use crate::status::Failure;

/// How long an interrupted command waits for its bar to be taken away.
const CLEARING_MAX: Duration = Duration::from_secs(1);

/// The bar of a restore: the bytes of its files as they are read.
#[derive(Clone)]
pub(crate) struct RestoreBar(ProgressBar);

impl RestoreBar {
    /// A bar on stderr, where that is a terminal and a bar is wanted.
    pub(crate) fn new(wanted: bool) -> RestoreBar {
        RestoreBar(bytes_bar(wanted))
    }

    pub(crate) fn show(&self, step: Progress) {
        match step {
            Progress::Planned { bytes, .. } => {
                self.0.set_position(0);
                self.0.set_length(bytes);
                self.0.set_message("restoring");
            }
            Progress::Read { bytes } => self.0.inc(bytes),
            Progress::Syncing => self.0.set_message("syncing"),
            Progress::Checking => self.0.set_message("checking"),
            _ => {}
        }
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// The bar of a restore drill: that of a restore, and then the bytes that are compared.
#[derive(Clone)]
pub(crate) struct DrillBar(RestoreBar);

impl DrillBar {
    /// A bar on stderr, where that is a terminal and a bar is wanted.
    pub(crate) fn new(wanted: bool) -> DrillBar {
        DrillBar(RestoreBar::new(wanted))
    }

    pub(crate) fn show(&self, step: VerifyProgress) {
        let DrillBar(RestoreBar(bar)) = self;
        match step {
            VerifyProgress::Waiting => bar.set_message("waiting"),
            VerifyProgress::Restoring(step) => self.0.show(step),
            VerifyProgress::Comparing { bytes } => {
                bar.set_position(0);
                bar.set_length(bytes);
                bar.set_message("comparing");
            }
            VerifyProgress::Compared { bytes } => bar.inc(bytes),
            _ => {}
        }
    }

    pub(crate) fn clear(&self) {
        self.0.clear();
    }
}

/// The bar of a check: the bytes of the files that were read to their end.
pub(crate) struct CheckBar(ProgressBar);

impl CheckBar {
    /// A bar on stderr, where that is a terminal and a bar is wanted.
    pub(crate) fn new(wanted: bool) -> CheckBar {
        let bar = bytes_bar(wanted).with_message("verifying");
        if !bar.is_hidden() {
            clear_when_interrupted(bar.clone());
        }
        CheckBar(bar)
    }

    pub(crate) fn show(&self, step: CheckProgress) {
        match step {
            CheckProgress::Listed { bytes, .. } => self.0.set_length(bytes),
            CheckProgress::Read(file) => self.0.inc(file.size),
            _ => {}
        }
    }

    /// Takes the bar away while `print` prints.
    pub(crate) fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        self.0.suspend(print)
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Takes the bar away when the command is interrupted, and ends the command: a check has nothing
/// else to clean up, and may be waiting for the reader of its output.
fn clear_when_interrupted(bar: ProgressBar) {
    // Without signals to listen for, an interruption leaves the line.
    let Ok(interrupted) = crate::interruption() else {
        return;
    };
    tokio::spawn(async move {
        let status = interrupted.await;
        // Who prints has taken the bar away, and holds it until somebody reads.
        let cleared = tokio::task::spawn_blocking(move || bar.finish_and_clear());
        let _ = tokio::time::timeout(CLEARING_MAX, cleared).await;
        Failure::new(status, "interrupted").tell(false);
        std::process::exit(status.code().into());
    });
}

fn bytes_bar(wanted: bool) -> ProgressBar {
    if !wanted || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{msg:<9} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}",
    )
    .expect("the template is well-formed");
    let bar = ProgressBar::no_length().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
