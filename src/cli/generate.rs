//! Shell completions and the manual page, from the definition of the command line.

use super::sentence::told;
use super::{Cli, Exit, exit, output};
use clap::CommandFactory;
use std::io::Write;

/// `floe completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// Prints completions for a shell.
///
/// # Errors
/// If they cannot be written.
pub fn completions(args: CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "floe", &mut script);
    print(&script)
}

/// `floe man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The command whose page it is; without one, floe's own
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Prints a manual page.
///
/// # Errors
/// If there is no such command, or the page cannot be written.
pub fn man(args: ManArgs) -> anyhow::Result<Exit> {
    let mut all = Cli::command();
    all.build();
    let command = match &args.command {
        None => all.after_long_help(format!("{}\n{}", super::EXAMPLES, exit::help())),
        Some(name) => {
            // Built, it knows that its page is called `floe-NAME`.
            let command = all.find_subcommand(name).cloned();
            command.ok_or_else(|| told(Exit::Usage, format!("there is no command '{name}'")))?
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    print(&page)
}

fn print(text: &[u8]) -> anyhow::Result<Exit> {
    let mut out = output::stdout();
    out.write_all(text)?;
    out.flush()?;
    Ok(Exit::Done)
}
