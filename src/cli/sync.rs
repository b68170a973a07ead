//! `floe sync DIR`: everything written to a mount so far is durable when it returns.
//!
//! sync(2) and syncfs(2) never reach a FUSE daemon; an fsync of the mount's root directory does, and floe commits all changes
//! at each fsync.

use super::open::shown;
use super::sentence::told;
use super::{Context, Exit};
use crate::fuse;
use anyhow::{Context as _, anyhow};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

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

/// Returns when everything is durable.
///
/// # Errors
/// It is no directory of a mount of floe, or what was written cannot be made durable.
pub fn run(args: Args, _: &Context) -> anyhow::Result<Exit> {
    let what = || format!("cannot sync '{}'", shown(&args.dir));
    let real = args.dir.canonicalize().with_context(what)?;
    if !on_floe(&real).with_context(what)? {
        return Err(told(Exit::Failed, format!("{}: it is in no mount of floe", what())));
    }
    let dir = File::open(&real).with_context(what)?;
    dir.sync_all().map_err(explained).with_context(what)?;
    Ok(Exit::Done)
}

/// After a failed write or sync a mount latches: it stays readable, and whatever would write is refused.
fn explained(error: io::Error) -> anyhow::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::ROFS | Errno::IO) => anyhow!(
            "{error}: an error of the disk has stopped the mount from writing; what was written since the last sync that \
             succeeded may be lost (unmount it, and see what 'floe check IMAGE' finds)"
        ),
        _ => error.into(),
    }
}

/// Whether the innermost mount that holds a path is one of floe.
fn on_floe(path: &Path) -> anyhow::Result<bool> {
    for dir in path.ancestors() {
        if let Some(mount) = fuse::mounted_on(dir)? {
            return Ok(mount.is_floe() || fuse::mark::Daemon::of(&mount)?.is_some());
        }
    }
    Ok(false)
}
