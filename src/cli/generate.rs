//! Shell completions and the manual page, from the definition of the command line.

use super::sentence::told;
use super::{Cli, Exit, exit, help, output};
use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, ValueHint};
use std::io::{self, Write};

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
/// Fails if they cannot be written.
pub fn completions(args: CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut completable(Cli::command()), "floe", &mut script);
    print(&script)
}

/// Returns the definition of the command line as completions need it. Some arguments get values to offer, although
/// other values are allowed, too. Names of files are offered only for arguments that name a file.
fn completable(command: clap::Command) -> clap::Command {
    let of_arg = |arg: clap::Arg| match values(arg.get_id().as_str()) {
        Some(values) => arg.value_parser(PossibleValuesParser::new(values)),
        None if names_no_file(&arg) => arg.value_hint(ValueHint::Other),
        None => arg,
    };
    command.mut_args(of_arg).mut_subcommands(completable)
}

fn values(id: &str) -> Option<Vec<&'static str>> {
    let values: &[&str] = match id {
        "compression" => &["zstd:3", "zstd:12", "zstd:19", "xz:9", "none"],
        "chunker" => &["fastcdc", "fixed:4K", "fixed:32K"],
        "hash" => &["blake3", "xxh3"],
        "options" => &[
            "ro",
            "rw",
            "allow_other",
            "allow_root",
            "auto_unmount",
            "cache=",
            "commit=",
            "freeze=auto",
            "freeze=off",
            "memory=",
            "offset=",
            "thaw=",
            "verify",
        ],
        // clap wants them for ever, and the process ends when the script is printed.
        "command" => {
            let names = Cli::command();
            return Some(names.get_subcommands().map(|c| &*c.get_name().to_owned().leak()).collect());
        }
        _ => return None,
    };
    Some(values.to_vec())
}

fn names_no_file(arg: &clap::Arg) -> bool {
    let is_file = |name: &str| ["FILE", "DIR", "IMAGE", "PATH", "SRC"].iter().any(|word| name.contains(word));
    let names = arg.get_value_names().unwrap_or_default();
    arg.get_action().takes_values() && !names.iter().any(|name| is_file(name)) && arg.get_possible_values().is_empty()
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
/// Fails if there is no such command, or the page cannot be written.
pub fn man(args: ManArgs) -> anyhow::Result<Exit> {
    let mut all = Cli::command();
    all.build();
    let (command, text) = match &args.command {
        None => (all, format!("{}\n{}", super::EXAMPLES, exit::help())),
        Some(name) => {
            // Built, it knows that its page is called `floe-NAME`.
            let command = all.find_subcommand(name).cloned();
            let command = command.ok_or_else(|| told(Exit::Usage, format!("there is no command '{name}'")))?;
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            (command, text)
        }
    };
    print(&page(command, &text)?)
}

/// Returns the page of a command. `text` is what its help ends with.
fn page(command: clap::Command, text: &str) -> io::Result<Vec<u8>> {
    let (has_commands, has_version) = (command.has_subcommands(), command.get_version().is_some());
    let man = clap_mangen::Man::new(command);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let (mut status, mut lists) = (String::new(), Vec::new());
    for block in help::blocks(text) {
        match block {
            help::Block::Paragraph(text) => match text.strip_prefix("Exit status: ") {
                Some(text) => status = roff(text),
                None => writeln!(page, ".PP\n{}", roff(&text))?,
            },
            help::Block::List(heading, items) => lists.push((heading, items)),
        }
    }
    man.render_options_section(&mut page)?;
    if has_commands {
        man.render_subcommands_section(&mut page)?;
    }
    for (heading, items) in lists {
        writeln!(page, ".SH \"{}\"", roff(heading.trim_end_matches(':')).to_uppercase())?;
        for (item, meaning) in items {
            writeln!(page, ".TP\n{}\n{}", roff(&item), roff(&meaning))?;
        }
    }
    if !status.is_empty() {
        writeln!(page, ".SH \"EXIT STATUS\"\n{status}")?;
    }
    if has_version {
        man.render_version_section(&mut page)?;
    }
    Ok(page)
}

/// Escapes text so that no character of it is an instruction to roff.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\(rs").replace('-', "\\-").replace('\'', "\\(aq");
    if escaped.starts_with('.') || escaped.is_empty() { format!("\\&{escaped}") } else { escaped }
}

fn print(text: &[u8]) -> anyhow::Result<Exit> {
    let mut out = output::stdout();
    out.write_all(text)?;
    out.flush()?;
    Ok(Exit::Done)
}
