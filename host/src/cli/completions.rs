//! `sluicegate completions`: what a shell needs to complete commands and flags.

use std::io::Write;

use clap::{Args, Command};
use clap_complete::Shell;

use super::CommandError;

/// Arguments of `completions`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sluicegate completions bash > ~/.local/share/bash-completion/completions/sluicegate
  sluicegate completions zsh > ~/.zfunc/_sluicegate
  sluicegate completions fish > ~/.config/fish/completions/sluicegate.fish")]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// `command` is the whole program's.
pub(super) fn run(args: &CompletionsArgs, mut command: Command, out: &mut impl Write) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "sluicegate", &mut script);
    Ok(out.write_all(&script)?)
}
