//! The command line: one file a command, each with its `Args` and its `run`; this file holds the table of them.
//!
//! Talks to people and holds no logic: what a command does, it asks the library for. Only here are environment, clock
//! and standard streams touched. Called by `main`.

pub mod args;
pub mod descriptors;
mod ending;
pub mod escape;
pub mod exit;
pub mod making;
pub mod open;
pub mod output;
pub mod progress;
pub mod sentence;
mod serve;
pub mod signals;
pub mod size;
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

use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::io::{self, IsTerminal};
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
#[command(name = "floe", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Talk")]
struct Global {
    /// Say nothing but what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more: each file as it is packed, extracted or frozen; twice for more still
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Log messages of this level and above to standard error
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<Level>,
    /// How progress is shown
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    progress: progress::Mode,
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
    /// Pack files and folders into a new image
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
    /// Give back the space of what is dead, in an image or a mount
    Gc(gc::Args),
    /// Find out how small a directory gets, and what packing and reading it cost
    Bench(bench::Args),
    /// Print a digest of a tree that does not depend on how it is stored
    Digest(digest::Args),
    /// Print a script that completes floe's arguments in a shell
    #[command(hide = true)]
    Completions(generate::CompletionsArgs),
    /// Print the manual page
    #[command(hide = true)]
    Man(generate::ManArgs),
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
        }
    }

    fn json(&self) -> bool {
        match self {
            Command::Pack(args) => args.json.json,
            Command::Mkfs(args) => args.json.json,
            Command::Freeze(args) => args.json.json,
            Command::Extract(args) => args.json.json,
            Command::Ls(args) => args.json.json,
            Command::Info(args) => args.json.json,
            Command::Check(args) => args.json.json,
            Command::Gc(args) => args.json.json,
            Command::Bench(args) => args.json.json,
            Command::Digest(args) => args.json.json,
            Command::Mount(_) | Command::Sync(_) | Command::Umount(_) | Command::Cat(_) => false,
            Command::Completions(_) | Command::Man(_) => false,
        }
    }
}

/// How a command is to talk.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Say nothing but what went wrong.
    pub quiet: bool,
    /// How often `-v` was given.
    pub verbose: u8,
    /// How progress is shown.
    pub progress: progress::Mode,
    /// Errors are JSON.
    pub json: bool,
}

impl Context {
    /// Tells people of something that is wrong, though the command goes on.
    pub fn warn(&self, message: &str) {
        if self.json {
            let error = output::ItemError { item: "", message };
            // There is nobody to tell that nobody can be told.
            let _ = output::line(&mut io::stderr(), "error", &error);
        } else {
            eprintln!("warning: {message}");
        }
    }
}

/// Runs the command that `argv` (with the program's name first) asks for.
pub fn main(argv: Vec<OsString>) -> std::process::ExitCode {
    if mount::is_helper_call(&argv) && !names_a_command(&argv) {
        return u8::try_from(mount::run_helper(&argv)).unwrap_or(1).into();
    }
    let cli = match Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output; whether somebody reads them is no matter.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    log_to_stderr(&cli.global);
    let Global { quiet, verbose, progress, .. } = cli.global;
    let context = Context { quiet, verbose, progress, json: cli.command.json() };
    match cli.command.run(&context) {
        Ok(exit) => exit.into(),
        Err(error) if sentence::is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            let exit = sentence::exit_of(&error);
            tell(&context, exit, &sentence::sentence(&error));
            exit.into()
        }
    }
}

fn names_a_command(argv: &[OsString]) -> bool {
    let first = argv.get(1).and_then(|arg| arg.to_str());
    first.is_some_and(|name| Cli::command().find_subcommand(name).is_some())
}

fn tell(context: &Context, exit: Exit, message: &str) {
    if context.json {
        let error = output::ExitError { code: exit.code(), message };
        // There is nobody to tell that nobody can be told.
        let _ = output::line(&mut io::stderr(), "exit_error", &error);
    } else {
        eprintln!("error: {message}");
    }
}

fn log_to_stderr(global: &Global) {
    let level = match (global.log_level, global.quiet, global.verbose) {
        (Some(Level::Error), _, _) | (None, true, _) => LevelFilter::ERROR,
        (Some(Level::Warn), _, _) | (None, _, 0) => LevelFilter::WARN,
        (Some(Level::Info), _, _) | (None, _, 1) => LevelFilter::INFO,
        (Some(Level::Debug), _, _) | (None, _, 2..) => LevelFilter::DEBUG,
        (Some(Level::Trace), _, _) => LevelFilter::TRACE,
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(colour).with_max_level(level);
    log.without_time().with_target(level >= LevelFilter::DEBUG).init();
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
        for line in ["-q pack -j2 a b", "pack a b -j 2 -q", "pack a -q b --jobs=2", "pack --quiet -j2 a b"] {
            let cli = Cli::try_parse_from(std::iter::once("floe").chain(line.split(' '))).unwrap();
            assert!(cli.global.quiet, "{line}");
            assert!(matches!(cli.command, Command::Pack(_)), "{line}");
        }
    }

    #[test]
    fn a_command_without_its_directory_is_no_call_by_mount() {
        let argv = ["floe", "mount", "a.floe", "-o", "ro"].map(OsString::from);
        assert!(names_a_command(&argv));
        assert!(!names_a_command(&["floe", "a.floe", "/mnt", "-o", "ro"].map(OsString::from)));
    }
}
