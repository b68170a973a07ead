//! `floe umount DIR`: gives a mount up, and returns when its daemon has ended.
//!
//! The mount is asked nothing, since it may hang or answer with errors: what is mounted says /proc/self/mountinfo, and the
//! daemon is found by the mark that it carries.

use super::open::shown;
use super::{Context, Exit};
use crate::fuse::mark::{Daemon, Outcome};
use crate::fuse::{self, Unmount};
use anyhow::{Context as _, bail};
use std::path::PathBuf;
use std::time::Duration;

/// How long the daemon may take to end once it is unmounted.
const PATIENCE: Duration = Duration::from_secs(60);

const HELP: &str = "\
Returns when everything that was written is durable and the daemon has ended. If bytes stay in the thaw log, it says how \
many and where: image and log belong together. The mount is asked nothing, so this works where it hangs; the mount of a \
daemon that has died is taken away.

Exit status: 0 done, 1 failed: it is in use, or not everything is safe, 2 wrong usage.
";

/// `floe umount`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
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
    let Some(mount) = fuse::mounted_on(&dir)? else {
        bail!("cannot unmount {named}: nothing is mounted there");
    };
    // Looked for before: afterwards its number could be another's.
    let daemon =
        Daemon::of(&mount).with_context(|| format!("cannot unmount {named}: its daemon cannot be looked for"))?;
    let Some(daemon) = daemon else {
        if !mount.is_floe() {
            bail!("cannot unmount {named}: no floe image is mounted there");
        }
        fuse::unmount(&dir, Unmount::Detach)?;
        eprintln!("note: the daemon of {named} had died; what was left of its mount is taken away");
        return Ok(Exit::Done);
    };
    fuse::unmount(&dir, Unmount::IfUnused)?;
    while !daemon.wait(PATIENCE).context("cannot wait for the daemon")? {
        let seconds = PATIENCE.as_secs();
        if !daemon.is_ending() {
            bail!(
                "{named} is unmounted, but its daemon (process {}) has not ended within {seconds} s \
                 (is it mounted elsewhere too, in a container or by 'mount --bind'?)",
                daemon.pid()
            );
        }
        eprintln!("note: the daemon of {named} (process {}) still writes what is not yet durable", daemon.pid());
    }
    match daemon.outcome() {
        Some(Outcome::Done(text)) => {
            if !text.is_empty() {
                eprintln!("note: {text}");
            }
            Ok(Exit::Done)
        }
        Some(Outcome::Failed(why)) => bail!("{named} is unmounted, but not everything that was written is safe: {why}"),
        None => bail!(
            "{named} is unmounted, but its daemon (process {}) died: what it had not committed is lost; the next mount \
             recovers the rest",
            daemon.pid()
        ),
    }
}
