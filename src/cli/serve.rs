//! Serving an image that was opened to be mounted, and the end of that.
//!
//! Everything that can be found wrong without a mount is found before the process goes into the background (`opening`), so
//! errors reach whoever typed the command with their own exit status; the rest is reported through a pipe. No thread is started
//! before the process has split in two. Called by `mount`.

use super::ending::Ended;
use super::open::shown;
use super::opening::{How, Opened, Reading, Writer, Writing};
use super::sentence::sentence;
use super::{descriptors, log, only_reader, tell};
use crate::format::params::Params;
use crate::fs::{Freezing, Fs, FsOptions};
use crate::fuse::mark::{Mark, Outcome};
use crate::fuse::{self, MountOptions, daemon};
use crate::storage::Owner;
use anyhow::{Context as _, anyhow};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Longest time for which written data is frozen at the end; the rest stays in the thaw log.
const FREEZE_LIMIT: Duration = Duration::from_secs(60);

/// Mounts an image, and returns once the mount can be used (or, in the foreground, when it ends). When it can be used,
/// `mounted` is called with whether it is read-only.
///
/// # Errors
/// Fails with what went wrong as the error's source.
pub fn mount(
    image: &Path,
    dir: &Path,
    options: &MountOptions,
    how: How,
    mounted: impl FnOnce(bool) -> io::Result<()>,
) -> anyhow::Result<()> {
    descriptors::raise();
    let inherited = daemon::Inherited::now();
    let mut opened = Opened::open(image, options, how)?;
    let fuse::Prepared { point, hides } = fuse::prepare(dir, opened.path())?;
    opened.tell_of_reading();
    if let Some(other) = hides {
        let (dir, other) = (shown(dir), shown(Path::new(&other)));
        tell::warning(format_args!("'{other}' is mounted on {dir} already; the new mount hides it"));
    }
    if how.foreground {
        let read_only = opened.is_read_only();
        return serve(opened, &point, options, || mounted(read_only));
    }
    let inherited = inherited.context("cannot go into the background: /proc is needed")?;
    match daemon::fork(inherited).context("cannot go into the background")? {
        daemon::Side::Starter(starting) => {
            let read_only = opened.is_read_only();
            // The lock is the daemon's now; dropping it here would release it there.
            std::mem::forget(opened);
            starting.wait().map_err(|message| anyhow!(message))?;
            Ok(mounted(read_only)?)
        }
        daemon::Side::Daemon(announcer) => {
            opened.hand_to(&Owner::current());
            log::to_system(&shown(opened.path()));
            std::process::exit(serve_in_background(opened, &point, options, announcer))
        }
    }
}

fn serve_in_background(opened: Opened, dir: &Path, options: &MountOptions, announcer: daemon::Announcer) -> i32 {
    let mut announcer = Some(announcer);
    let ready = || announcer.take().map_or(Ok(()), daemon::Announcer::ready);
    match serve(opened, dir, options, ready) {
        Ok(()) => 0,
        Err(error) => {
            if let Some(announcer) = announcer {
                announcer.failed(&sentence(&error));
            }
            1
        }
    }
}

/// Mounts, calls `ready`, and serves until the mount is gone; then ends the writing, if the mount is writable.
fn serve(
    opened: Opened,
    dir: &Path,
    options: &MountOptions,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> anyhow::Result<()> {
    if options.auto_unmount {
        daemon::leave_watchman(dir).context("cannot watch over the mount")?;
    }
    tame_allocator();
    let termination = daemon::Termination::watch().context("cannot wait for signals")?;
    match opened {
        Opened::Reading(reading) => serve_reading(*reading, dir, options, termination, ready),
        Opened::Writing(writing) => serve_writing(*writing, dir, options, termination, ready),
    }
}

fn fs_options(options: &MountOptions, params: &Params) -> FsOptions {
    let defaults = FsOptions::suiting(params);
    FsOptions {
        cache: options.cache.unwrap_or(defaults.cache),
        readahead: options.readahead.unwrap_or(defaults.readahead),
        verify: options.verify,
    }
}

fn serve_reading(
    reading: Reading,
    dir: &Path,
    options: &MountOptions,
    termination: daemon::Termination,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let Reading { path, image, lock: _lock, .. } = reading;
    let fs_options = fs_options(options, image.params());
    let fs = Fs::new(Arc::new(image), fs_options);
    let mounted = match fuse::mount(fs, dir, path.as_os_str(), options) {
        Ok(mounted) => mounted,
        Err(error) => {
            termination.finish();
            return Err(error.into());
        }
    };
    let own = mounted.own();
    termination.of(own, daemon::Ending::read_only());
    let (served, mark) = until_unmounted(mounted, ready);
    termination.finish();
    if let Some(mark) = mark {
        mark.say(&Outcome::Done(String::new()));
    }
    served
}

/// Serves until the mount is gone, and makes sure that it is.
fn until_unmounted(
    mounted: fuse::Mounted,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> (anyhow::Result<()>, Option<Mark>) {
    let own = mounted.own();
    let mark = match Mark::set(&own).context("cannot mark the daemon") {
        Ok(mark) => mark,
        Err(error) => {
            drop(mounted);
            return (taken_away(&own, Err(error)), None);
        }
    };
    let served = ready().context("cannot go into the background").and_then(|()| Ok(mounted.serve()?));
    mark.ending();
    (taken_away(&own, served), Some(mark))
}

/// Takes the mount out of the directory tree after a failure: the connection is closed, so what is left of the mount is
/// dead.
fn taken_away(own: &fuse::Own, served: anyhow::Result<()>) -> anyhow::Result<()> {
    if served.is_err() {
        own.unmount(fuse::Unmount::Detach)?;
    }
    served
}

fn serve_writing(
    writing: Writing,
    dir: &Path,
    options: &MountOptions,
    termination: daemon::Termination,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let Writer { path, live, lock, reader } = writing.begin(options)?;
    let reader = Arc::new(Mutex::new(reader));
    live.set_keep_out(only_reader::keep_out(&reader));
    let fs_options = fs_options(options, live.snapshot().view().params());
    let fs = Fs::over(live.clone(), fs_options);
    let running = live.start_threads().context("cannot start the threads that commit")?;
    let mounted = match fuse::mount_writable(live.clone(), fs, dir, path.as_os_str(), options) {
        Ok(mounted) => mounted,
        Err(error) => {
            termination.finish();
            running.stop();
            return Err(error.into());
        }
    };
    let (to_commit, to_give_up) = (live.clone(), live.clone());
    let ending = daemon::Ending::writable(
        move || {
            to_commit.answer_writers();
            to_commit.sync(Box::new(|_| ()));
        },
        // The next mount brings back what was committed.
        move || std::process::exit(i32::from(to_give_up.sync_and_wait().is_err())),
    );
    termination.of(mounted.own(), ending);
    let (served, mark) = until_unmounted(mounted, ready);
    termination.finish();
    running.stop();
    let limit = if options.freezing == Freezing::Off { Duration::ZERO } else { FREEZE_LIMIT };
    let ended = Ended::of(&live, &path, limit);
    // Before the mark goes: who finds the image locked looks for the daemon by it. Nothing is written from here on.
    drop(lock);
    let outcome = ended.outcome();
    if let (Outcome::Done(text), Ok(())) = (&outcome, &served)
        && !text.is_empty()
    {
        tell::note(text);
    }
    if let Some(mark) = mark {
        mark.say(&outcome);
    }
    served.and(ended.result.map(drop))
}

/// Limits the number of the allocator's heaps. Superchunks come and go in megabytes. glibc would take them from its
/// heaps. There may be eight heaps for each core, and each keeps the memory that it once had. A measurement with the
/// default number of heaps showed 421 MiB of resident memory; with this limit it is 296 MiB, at the same speed.
fn tame_allocator() {
    #[cfg(target_env = "gnu")]
    {
        const HEAPS: i32 = 2;
        const MAP_FROM: i32 = 1 << 20;
        // SAFETY: mallopt may be called at any time; this is before the first thread.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, HEAPS);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM);
        }
    }
}
