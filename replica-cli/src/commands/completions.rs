//! `replica completions`

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use crate::output;
use crate::status::{Failure, Status};

/// Print a script that completes this command in a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  replica completions bash > /etc/bash_completion.d/replica
  replica completions zsh  > ~/.zfunc/_replica
  replica completions fish > ~/.config/fish/completions/replica.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl CompletionsArgs {
    pub(crate) fn run(self) -> Result<Status, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "replica", &mut script);
        let mut out = output::stdout();
        out.write_all(&script)?;
        out.flush()?;
        Ok(Status::Done)
    }
}
