//! `floe umount DIR`: gives a mount up, and returns when its daemon has ended.

use super::open::shown;
use super::{Context, Exit};
use crate::fuse::daemon::Daemon;
use crate::fuse::{self, DAEMON_XATTR, Unmount};
use anyhow::{Context as _, bail};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the daemon may take to end once it is unmounted.
const PATIENCE: Duration = Duration::from_secs(60);

/// `floe umount`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory an image is mounted on
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Unmounts, and waits for the daemon.
///
/// # Errors
/// No image is mounted there, it is in use, or the daemon does not end.
pub fn run(args: Args, _: &Context) -> anyhow::Result<Exit> {
    let named = shown(&args.dir);
    let dir = fuse::absolute(&args.dir).with_context(|| format!("cannot unmount {named}"))?;
    if fuse::clear_dead(&dir)? {
        eprintln!("note: the daemon of {named} had died; what was left of its mount is taken away");
        return Ok(Exit::Done);
    }
    let identity = identity(&dir).with_context(|| format!("cannot unmount {named}"))?;
    // Looked for before: afterwards its number could be another's.
    let daemon = Daemon::find(&identity);
    fuse::unmount(&dir, Unmount::IfUnused)?;
    let Some(daemon) = daemon else {
        bail!("{named} is unmounted, but its daemon cannot be seen from here, so whether it has ended is not known");
    };
    if !daemon.wait(PATIENCE).context("cannot wait for the daemon")? {
        let seconds = PATIENCE.as_secs();
        bail!(
            "{named} is unmounted, but its daemon (process {}) has not ended within {seconds} s \
             (is it mounted elsewhere too, in a container or by 'mount --bind'?)",
            daemon.pid()
        );
    }
    Ok(Exit::Done)
}

/// What the mount on `dir` says of its daemon.
fn identity(dir: &Path) -> anyhow::Result<String> {
    let mut value = [0; 64];
    match rustix::fs::getxattr(dir, DAEMON_XATTR, &mut value) {
        Ok(len) => Ok(String::from_utf8_lossy(&value[..len]).into_owned()),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => bail!("no floe image is mounted there"),
        Err(errno) => Err(std::io::Error::from(errno).into()),
    }
}
