//! `floe sync DIR`: everything written to a mount so far is durable when it returns.
//!
//! sync(2) and syncfs(2) never reach a FUSE daemon; an fsync of the mount's root directory does, and floe commits all changes
//! at each fsync.

use super::mount_state::mount_of_directory;
use super::open::shown;
use super::{Context, Exit, output};
use anyhow::{Context as _, anyhow};
use rustix::io::Errno;
use serde::Serialize;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

const HELP: &str = "\
DIR is the mount point, or any directory in the mount. sync(1) and sync(2) do not reach a FUSE file system; this does. \
A read-only mount has nothing to sync.

Exit status: 0 everything written before is durable, 1 failed, 2 wrong usage.
";

/// `floe sync`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// A directory of the mount
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Serialize)]
struct Summary {
    directory: output::Name,
}

/// Runs `floe sync`: returns when everything written is durable.
///
/// # Errors
/// Fails if it is no directory of a mount of floe, or what was written cannot be made durable.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let what = || format!("cannot sync '{}'", shown(&args.dir));
    mount_of_directory(&args.dir).with_context(what)?;
    let dir = File::open(&args.dir).with_context(what)?;
    dir.sync_all().map_err(explained).with_context(what)?;
    if context.json {
        let summary = Summary { directory: output::Name::new(args.dir.as_os_str().as_bytes()) };
        output::line(&mut io::stdout(), "summary", &summary)?;
    }
    Ok(Exit::Done)
}

/// Adds a hint to the error of a mount that refuses writes after a failed write or sync; it stays readable.
fn explained(error: io::Error) -> anyhow::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::ROFS | Errno::IO) => anyhow!(
            "{error}: an error of the disk has stopped the mount from writing; what was written since the last sync that \
             succeeded may be lost (unmount it, and see what 'floe check IMAGE' finds)"
        ),
        _ => error.into(),
    }
}
