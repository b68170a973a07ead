//! The command line: one file a command, each with its `Args` and its `run`; this file holds the table of them.
//!
//! Talks to people and holds no logic: what a command does, it asks the library for. Only here are environment, clock
//! and standard streams touched. Called by `main`.

pub mod args;
pub mod descriptors;
mod ending;
pub mod escape;
pub mod exit;
mod help;
mod log;
pub mod making;
pub mod open;
pub mod output;
pub mod progress;
pub mod sentence;
mod serve;
pub mod signals;
pub mod size;
mod tell;
pub mod time;
pub mod walk;

mod bench;
mod cat;
mod check;
mod digest;
mod extract;
mod forget;
mod freeze;
mod freeze_listing;
mod freeze_mount;
mod freeze_report;
mod freeze_status;
mod gc;
mod gc_mount;
mod generate;
mod info;
mod ls;
mod mkfs;
mod mount;
mod mount_state;
mod only_reader;
mod opening;
mod pack;
mod sync;
mod umount;

pub use exit::Exit;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use tracing::level_filters::LevelFilter;

const ABOUT: &str = "An archival filesystem that you can write to: packs small, mounts fast.";

const EXAMPLES: &str = "\
Examples:
  floe pack ~/photos photos.floe      pack a directory into an image
  floe mount photos.floe /mnt         mount it: writable if the image is, else read-only
  floe sync /mnt                      return when everything written to it is durable
  floe freeze /mnt                    compress what was written into the image, now
  floe umount /mnt                    freeze what was written, and unmount it
  floe mkfs notes.floe                make an empty image, to be mounted and written to
  floe ls -lR photos.floe             list it without mounting
  floe extract photos.floe -C out     extract all of it
  floe check photos.floe              read everything and verify it
  floe bench ~/photos                 how small would it be, and what does it cost?

Environment:
  FLOE_IMAGE  the image for commands that read one, which then take paths only
  NO_COLOR    if set, nothing is coloured
";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "floe", version, about = ABOUT, after_help = EXAMPLES)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Messages")]
struct Global {
    /// Print only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// List each file as it is packed, extracted or frozen; twice for debug messages, too
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Log messages of this level and above to standard error
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<Level>,
    /// How progress is shown
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    progress: progress::Mode,
    /// Print JSON for programs: results on standard output, messages on standard error
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pack files and directories into a new image
    Pack(Box<pack::Args>),
    /// Make an empty image, to be mounted and written to
    Mkfs(mkfs::Args),
    /// Mount an image
    Mount(mount::Args),
    /// Return when everything written to a mount is durable
    Sync(sync::Args),
    /// Freeze what was written: afterwards the image alone is complete
    Freeze(freeze::Args),
    /// Unmount an image, and wait until everything is durable and its daemon has ended
    Umount(umount::Args),
    /// Extract files from an image
    Extract(extract::Args),
    /// List files in an image
    Ls(ls::Args),
    /// Write files of an image to standard output
    Cat(cat::Args),
    /// Show what an image is made of
    Info(info::Args),
    /// Verify an image; never writes to it
    Check(check::Args),
    /// Free the space that deleted and overwritten files took in an image or a mount
    Gc(gc::Args),
    /// Find out how small a directory gets, and what packing and reading it cost
    Bench(bench::Args),
    /// Print a digest of a tree that does not depend on how it is stored
    Digest(digest::Args),
    /// Print a script that completes floe's arguments in a shell
    Completions(generate::CompletionsArgs),
    /// Print a manual page
    Man(generate::ManArgs),
    /// Print this help, or that of a command
    Help(help::Args),
}

impl Command {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Command::Pack(args) => pack::run(*args, context),
            Command::Mkfs(args) => mkfs::run(args, context),
            Command::Mount(args) => mount::run(args, context),
            Command::Sync(args) => sync::run(args, context),
            Command::Freeze(args) => freeze::run(args, context),
            Command::Umount(args) => umount::run(args, context),
            Command::Extract(args) => extract::run(args, context),
            Command::Ls(args) => ls::run(args, context),
            Command::Cat(args) => cat::run(args, context),
            Command::Info(args) => info::run(args, context),
            Command::Check(args) => check::run(args, context),
            Command::Gc(args) => gc::run(args, context),
            Command::Bench(args) => bench::run(args, context),
            Command::Digest(args) => digest::run(args, context),
            Command::Completions(args) => generate::completions(args),
            Command::Man(args) => generate::man(args),
            Command::Help(args) => help::run(args),
        }
    }
}

/// How a command prints its results and messages.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Whether to print only errors and warnings.
    pub quiet: bool,
    /// Number of `-v` options.
    pub verbose: u8,
    /// How progress is shown.
    pub progress: progress::Mode,
    /// Whether results and errors are printed as JSON.
    pub json: bool,
}

/// Runs the command that `argv` (with the program's name first) asks for, and returns its exit status.
pub fn main(argv: Vec<OsString>) -> std::process::ExitCode {
    if mount::is_helper_call(&argv) && !names_a_command(&argv) {
        log::start(LevelFilter::WARN);
        return u8::try_from(mount::run_helper(&argv)).unwrap_or(1).into();
    }
    let cli = match parse(&argv) {
        Ok(cli) => cli,
        Err(error) => return refuse(&argv, &error),
    };
    let Global { quiet, verbose, progress, json, log_level } = cli.global;
    tell::set(json, quiet);
    log::start(level(log_level, quiet, verbose));
    let context = Context { quiet, verbose, progress, json };
    match cli.command.run(&context) {
        Ok(exit) => exit.into(),
        Err(error) if sentence::is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            let exit = sentence::exit_of(&error);
            tell::exit_error(exit, &sentence::sentence(&error));
            exit.into()
        }
    }
}

/// Parses the command line. A command's options may come before its name, too.
fn parse(argv: &[OsString]) -> Result<Cli, clap::Error> {
    let matched = |argv: &[OsString]| match Cli::command().try_get_matches_from(argv) {
        // Only what is shown is laid out.
        Err(help) if shows_help(help.kind()) => help::command().try_get_matches_from(argv),
        matched => matched,
    };
    let parsed = |argv: &[OsString]| Cli::from_arg_matches(&matched(argv)?);
    let refused = match parsed(argv) {
        Err(refused) if refused.kind() == ErrorKind::UnknownArgument => refused,
        parsed => return parsed,
    };
    // The first that is understood: an option's value may have a command's name.
    let mut first_refused = None;
    for (at, name) in argv.iter().enumerate().skip(2).filter(|(_, arg)| is_command(arg)) {
        let others = argv.iter().enumerate().skip(1).filter(|(other, _)| *other != at).map(|(_, arg)| arg);
        let moved: Vec<_> = argv.iter().take(1).chain([name]).chain(others).cloned().collect();
        match parsed(&moved) {
            Err(refused) if refused.use_stderr() => _ = first_refused.get_or_insert(refused),
            understood => return understood,
        }
    }
    Err(first_refused.unwrap_or(refused))
}

fn shows_help(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand)
}

fn is_command(arg: &OsString) -> bool {
    arg.to_str().is_some_and(|name| Cli::command().find_subcommand(name).is_some())
}

/// Prints what is wrong with a command line, or the help or version that it asks for.
fn refuse(argv: &[OsString], error: &clap::Error) -> std::process::ExitCode {
    let asks_for_json = argv.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    if !error.use_stderr() {
        // Whether somebody reads it makes no difference.
        let _ = error.print();
        return Exit::Done.into();
    }
    if asks_for_json {
        tell::set(true, false);
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or_default();
        tell::exit_error(Exit::Usage, first.strip_prefix("error: ").unwrap_or(first));
    } else {
        let _ = error.print();
    }
    Exit::Usage.into()
}

fn names_a_command(argv: &[OsString]) -> bool {
    argv.get(1).is_some_and(is_command)
}

fn level(given: Option<Level>, quiet: bool, verbose: u8) -> LevelFilter {
    match (given, quiet, verbose) {
        (Some(Level::Error), _, _) | (None, true, _) => LevelFilter::ERROR,
        (Some(Level::Warn), _, _) | (None, _, 0) => LevelFilter::WARN,
        (Some(Level::Info), _, _) | (None, _, 1) => LevelFilter::INFO,
        (Some(Level::Debug), _, _) | (None, _, 2..) => LevelFilter::DEBUG,
        (Some(Level::Trace), _, _) => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stand_anywhere_on_the_line() {
        let lines = ["-q pack -j2 a b", "pack a b -j 2 -q", "pack a -q b --jobs=2", "pack --quiet -j2 a b"];
        let before =
            ["-j2 -q pack a b", "-j 2 --exclude pack -q pack a b", "-C none pack -q mount b", "--dry-run pack a b -q"];
        for line in lines.iter().chain(&before) {
            let line: Vec<_> = std::iter::once("floe").chain(line.split(' ')).map(OsString::from).collect();
            let cli = parse(&line).unwrap();
            assert!(cli.global.quiet, "{line:?}");
            assert!(matches!(cli.command, Command::Pack(_)), "{line:?}");
        }
    }

    #[test]
    fn a_command_without_its_directory_is_no_call_by_mount() {
        let argv = ["floe", "mount", "a.floe", "-o", "ro"].map(OsString::from);
        assert!(names_a_command(&argv));
        assert!(!names_a_command(&["floe", "a.floe", "/mnt", "-o", "ro"].map(OsString::from)));
    }
}
