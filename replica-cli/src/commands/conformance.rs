//! `replica conformance`

use std::ffi::OsString;
use std::fs;
use std::future::ready;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use conformance::{Case, CaseReport, KnownFailures, Options, Pace, Report, Verdict};
use replica::Location;
use replica_mock::MockStore;
use serde_json::json;

use crate::leftovers::Leftovers;
use crate::output::{self, Table};
use crate::status::{Failure, Status, with_exit_statuses};
use crate::workplace::workplace;

const EXAMPLES: &str = "\
Examples:
  replica conformance                              memory and a temporary folder
  replica conformance /mnt/nas/backups             a real folder
  replica conformance s3://bucket/prefix           a real bucket
  replica conformance -filter range:: -json /mnt/nas/backups
  replica conformance -filter K11                  what holds one promise
  replica conformance -list                        the cases";

/// Prove that a store keeps the contract a replica relies on
///
/// Runs the conformance suite under a fresh random name below REPLICA, cleans up after itself and
/// touches nothing else there. Without REPLICA it proves the stores that are built in: memory, and
/// a temporary folder. Prints a line a case and a table at the end.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct ConformanceArgs {
    /// Where the store is: an existing folder, or a URL such as s3://bucket/prefix or
    /// sftp://user@host/path, below which the suite may write
    #[arg(value_name = "REPLICA")]
    place: Option<OsString>,

    /// Run the cases whose name holds this, or of this catalogue entry (RNG-06) or promise (K3)
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    filter: String,

    /// List the cases and run none
    #[arg(long)]
    list: bool,

    /// Run the slow cases too: minutes, and hundreds of megabytes
    #[arg(long)]
    slow: bool,

    /// Leave what the cases wrote
    #[arg(long)]
    keep: bool,

    /// Ask again what a run with this seed asked
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// How many cases run at once
    #[arg(long, value_name = "NUMBER", default_value_t = Options::JOBS, value_parser = jobs)]
    jobs: usize,

    /// A file of cases that are known to fail: a case, a day, an issue and a reason in each line
    ///
    /// Until that day its failure is expected; if it passes, or the day has passed, the run fails.
    #[arg(long, value_name = "FILE")]
    known_failures: Option<PathBuf>,

    /// Write a JUnit report to FILE
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    /// Print the report as JSON, at the end
    #[arg(long)]
    pub(crate) json: bool,
}

fn jobs(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(0) | Err(_) => Err("give a number from 1"),
        Ok(jobs) => Ok(jobs),
    }
}

impl ConformanceArgs {
    pub(crate) async fn run(self, leftovers: &mut Leftovers) -> Result<Status, Failure> {
        let options = self.options()?;
        if self.list {
            return self.list(&options);
        }
        if options.cases().next().is_none() {
            return Err(no_case().hint("replica conformance -list -slow shows them all"));
        }
        if let Some(path) = &self.junit {
            refuse_without_folder(path)?;
        }
        let mut reports = Vec::new();
        match &self.place {
            None => {
                reports.push(("memory", self.prove_memory(&options).await?));
                let folder = Location::Folder(std::env::temp_dir());
                reports.push(("folder", self.prove(&options, &folder, leftovers).await?));
            }
            Some(place) => {
                let location = workplace(place).await?;
                reports.push(("store", self.prove(&options, &location, leftovers).await?));
            }
        }
        self.conclude(&reports)
    }

    fn options(&self) -> Result<Options, Failure> {
        let known_failures = match &self.known_failures {
            None => KnownFailures::default(),
            Some(path) => fs::read_to_string(path)
                .map_err(|error| {
                    Failure::new(Status::Usage, format!("can't read {}", path.display()))
                        .because_of(Some(&error))
                })?
                .parse()
                .map_err(|error| Failure::of(Status::Usage, &error))?,
        };
        Ok(Options {
            filter: self.filter.clone(),
            seed: self.seed,
            slow: self.slow,
            keep: self.keep,
            jobs: self.jobs,
            known_failures,
            ..Options::default()
        })
    }

    fn list(&self, options: &Options) -> Result<Status, Failure> {
        let cases: Vec<_> = options.cases().collect();
        output::unless_closed(self.print_list(options, &cases))?;
        match cases.is_empty() {
            true => Err(no_case()),
            false => Ok(Status::Done),
        }
    }

    fn print_list(&self, options: &Options, cases: &[&Case]) -> io::Result<()> {
        let mut out = output::stdout();
        if self.json {
            let cases: Vec<_> = cases
                .iter()
                .map(|case| {
                    json!({
                        "id": case.id,
                        "catalogue": case.catalogue,
                        "promises": case.promises,
                        "slow": case.pace == Pace::Slow,
                    })
                })
                .collect();
            output::write_json(&mut out, &cases)?;
        } else {
            let mut table = Table::new(&["case", "catalogue", "promises"]);
            for case in cases {
                let words = |words: &[&str]| words.join(" ");
                table.row([
                    case.id.to_owned(),
                    words(case.catalogue),
                    words(case.promises),
                ]);
            }
            table.write(&mut out)?;
            let with_slow = Options {
                slow: true,
                ..options.clone()
            };
            match with_slow.cases().count() - cases.len() {
                0 => {}
                slow => writeln!(
                    out,
                    "\n{} more with -slow",
                    output::count(slow, "slow case")
                )?,
            }
        }
        out.flush()
    }

    async fn prove_memory(&self, options: &Options) -> Result<Report, Failure> {
        self.heading("memory")?;
        let store = MockStore::new();
        let open = move |namespace: String| ready(store.client(&namespace));
        let report = conformance::run_with(options, open, |case| self.tell(case)).await;
        self.table(&report)?;
        Ok(report)
    }

    async fn prove(
        &self,
        options: &Options,
        location: &Location,
        leftovers: &mut Leftovers,
    ) -> Result<Report, Failure> {
        self.heading(&location.to_string())?;
        let namespace = leftovers.namespace(location, "conformance", self.keep)?;
        let options = Options {
            scheme: Some(location.scheme().to_owned()),
            namespace: Some(namespace.clone()),
            secrets: location.secrets(),
            ..options.clone()
        };
        let place = location.clone();
        let open = move |namespace: String| ready(place.join(&namespace).client());
        let report = conformance::run_with(&options, open, |case| self.tell(case)).await;
        self.table(&report)?;
        if self.keep {
            self.print(|out| writeln!(out, "kept in {}", location.join(&namespace)))?;
        }
        Ok(report)
    }

    fn heading(&self, store: &str) -> io::Result<()> {
        self.print(|out| writeln!(out, "{store}"))
    }

    /// What keeps it from being printed is told at the table.
    fn tell(&self, case: &CaseReport) {
        let _ = self.print(|out| writeln!(out, "{case}"));
    }

    fn table(&self, report: &Report) -> io::Result<()> {
        self.print(|out| writeln!(out, "\n{report}\n"))
    }

    fn print(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = output::stdout();
        output::unless_closed(write(&mut out).and_then(|()| out.flush()))
    }

    fn conclude(&self, reports: &[(&'static str, Report)]) -> Result<Status, Failure> {
        let verdicts: Vec<_> = reports.iter().map(|(_, report)| report.verdict()).collect();
        let status = verdict(&verdicts);
        if let Some(path) = &self.junit {
            write_junit(path, reports)?;
        }
        if self.json {
            let stores: Vec<_> = reports
                .iter()
                .map(|(name, report)| {
                    let mut report = report.to_json();
                    report["store"] = json!(name);
                    report
                })
                .collect();
            let report = json!({ "exit_status": status.code(), "stores": stores });
            let mut out = output::stdout();
            let printed = output::write_json(&mut out, &report);
            output::unless_closed(printed.and_then(|()| out.flush()))?;
        }
        Ok(status)
    }
}

fn no_case() -> Failure {
    Failure::new(Status::Nothing, "the filter chooses no case")
}

/// A run may take half an hour, and its report is written at the end.
fn refuse_without_folder(report: &Path) -> Result<(), Failure> {
    match report.parent() {
        Some(folder) if folder != Path::new("") && !folder.is_dir() => {
            let (report, folder) = (report.display(), folder.display());
            let message = format!("can't write {report}: there is no folder {folder}");
            Err(Failure::new(Status::Usage, message))
        }
        _ => Ok(()),
    }
}

fn write_junit(path: &Path, reports: &[(&'static str, Report)]) -> Result<(), Failure> {
    let reports = reports.iter().map(|(name, report)| (*name, report));
    fs::write(path, conformance::junit(reports)).map_err(|error| {
        Failure::new(Status::Failed, format!("can't write {}", path.display()))
            .because_of(Some(&error))
    })
}

/// The worst of several verdicts: a broken promise is told before a store that did not open.
fn verdict(verdicts: &[Verdict]) -> Status {
    let any = |wanted| verdicts.contains(&wanted);
    if any(Verdict::Broken) {
        Status::Failed
    } else if any(Verdict::NotOpened) {
        Status::Usage
    } else if any(Verdict::NothingRan) || verdicts.is_empty() {
        Status::Nothing
    } else {
        Status::Done
    }
}
