//! `replica man`

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::Cli;
use crate::output;
use crate::status::{Failure, Status};

/// Print the manual page, or write the pages of all commands to a folder
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  replica man | man -l -
  replica man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// An existing folder, which replica.1, replica-restore.1 and so on are written to
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl ManArgs {
    pub(crate) fn run(self) -> Result<Status, Failure> {
        let mut command = Cli::command();
        command.build();
        let Some(folder) = self.folder else {
            let mut out = output::stdout();
            clap_mangen::Man::new(command).render(&mut out)?;
            out.flush()?;
            return Ok(Status::Done);
        };
        if !folder.is_dir() {
            let message = format!(
                "can't write to {}: it is not an existing folder",
                folder.display()
            );
            return Err(Failure::new(Status::Usage, message));
        }
        let mut commands = vec![command];
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            let page = clap_mangen::Man::new(command);
            let path = folder.join(page.get_filename());
            let mut text = Vec::new();
            page.render(&mut text)?;
            fs::write(&path, text).map_err(|error| {
                Failure::new(Status::Failed, format!("can't write {}", path.display()))
                    .because_of(Some(&error))
            })?;
        }
        Ok(Status::Done)
    }
}
