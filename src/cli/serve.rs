//! Opening an image to be mounted, serving it, and the end of that.
//!
//! Everything that can be found wrong without a mount is found before the process goes into the background, so errors reach
//! whoever typed the command with their own exit status; the rest is reported through a pipe. No thread is started before the
//! process has split in two. Called by `mount`.

use super::forget::forget_thaw_log;
use super::making::random_seed;
use super::open::{reader_lock, shown};
use super::sentence::{sentence, told};
use super::size::{Human, counted};
use super::{Exit, descriptors, only_reader, time};
use crate::fs::start::{Found, StartError, look};
use crate::fs::{Finished, Fs, FsOptions, Live, LiveOptions};
use crate::fuse::mark::{Daemon, Mark, Outcome};
use crate::fuse::{self, MountOptions, daemon};
use crate::meta::{Image, ImageOptions};
use crate::storage::{
    Access, DirectoryHome, FileStorage, Holder, HomeOptions, LockError, LogHome, Owner, ReaderLock, Storage,
    StorageError, WriterLock,
};
use anyhow::{Context as _, anyhow};
use parking_lot::Mutex;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What to do about a thaw log that is missing or damaged.
const HELP: &str = "put the log back; or see what 'floe check' says of the image, and give up what is in the log with \
                    'floe mount --forget-thaw'";
/// What is written is frozen at the end for so long at most; the rest stays in the thaw log.
const FREEZE_LIMIT: Duration = Duration::from_secs(60);
/// What is needed of the image's directory.
const BESIDE: rustix::fs::Access = rustix::fs::Access::WRITE_OK.union(rustix::fs::Access::EXEC_OK);
/// How long a daemon that is unmounting may take before people are told again that it is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the command line says besides the mount options.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Stay in the foreground.
    pub foreground: bool,
    /// Give up a thaw log that is missing or damaged.
    pub forget_thaw: bool,
    /// Print only warnings and errors.
    pub quiet: bool,
}

/// Mounts, and returns once the mount can be used (or, in the foreground, when it ends).
///
/// # Errors
/// With what went wrong as its source.
pub fn mount(image: &Path, dir: &Path, options: &MountOptions, how: How) -> anyhow::Result<()> {
    descriptors::raise();
    let inherited = daemon::Inherited::now();
    let mut opened = Opened::open(image, options, how)?;
    let fuse::Prepared { point, hides } = fuse::prepare(dir, opened.path())?;
    if let Some(other) = hides {
        let (dir, other) = (shown(dir), shown(Path::new(&other)));
        eprintln!("warning: '{other}' is mounted on {dir} already; the new mount hides it");
    }
    if how.foreground {
        return serve(opened, &point, options, || Ok(()));
    }
    let inherited = inherited.context("cannot go into the background: /proc is needed")?;
    match daemon::fork(inherited).context("cannot go into the background")? {
        daemon::Side::Starter(starting) => {
            // The lock is the daemon's now; dropping it here would release it there.
            std::mem::forget(opened);
            starting.wait().map_err(|message| anyhow!(message))
        }
        daemon::Side::Daemon(announcer) => {
            opened.hand_to(&Owner::current());
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

/// An image that is checked as far as mounting goes.
pub enum Opened {
    /// It is mounted read-only.
    Reading(Box<Reading>),
    /// It is mounted writable.
    Writing(Box<Writing>),
}

/// An image for a read-only mount.
pub struct Reading {
    path: PathBuf,
    image: Image,
    lock: Option<ReaderLock>,
}

/// An image for a writable mount. Nothing of it is written before the first change.
pub struct Writing {
    path: PathBuf,
    storage: Arc<FileStorage>,
    found: Found,
    lock: WriterLock,
    /// What it names is not freed.
    reader: Option<ReaderLock>,
}

/// How a writable mount came to its end.
struct Ended {
    result: anyhow::Result<Finished>,
}

impl Opened {
    /// Opens the image as the options say. With neither `ro` nor `rw` it is writable if nothing is in the way; else people
    /// are told why it is not.
    ///
    /// # Errors
    /// It is no image, or is to be written and cannot.
    pub fn open(path: &Path, options: &MountOptions, how: How) -> anyhow::Result<Self> {
        if how.forget_thaw && options.read_only {
            return Err(told(Exit::Usage, "--forget-thaw writes to the image: it needs a writable mount, not 'ro'"));
        }
        if !options.read_only {
            options.fit_for_writing().map_err(|error| told(Exit::Usage, error.to_string()))?;
            match Writing::open(path, options, how)? {
                Ok(writing) => return Ok(Opened::Writing(Box::new(writing))),
                Err(why) if options.writable || how.forget_thaw => {
                    return Err(why.context(format!("cannot mount '{}' for writing", shown(path))));
                }
                Err(why) => {
                    // What is no image at all is told of first.
                    let reading = Reading::open(path, options)?;
                    eprintln!("warning: '{}' is mounted read-only: {}", shown(path), sentence(&why));
                    return Ok(Opened::Reading(Box::new(reading)));
                }
            }
        }
        Ok(Opened::Reading(Box::new(Reading::open(path, options)?)))
    }

    fn path(&self) -> &Path {
        match self {
            Opened::Reading(reading) => &reading.path,
            Opened::Writing(writing) => &writing.path,
        }
    }

    fn hand_to(&mut self, owner: &Owner) {
        if let Opened::Writing(writing) = self {
            writing.lock.hand_to(&writing.path, owner);
        }
    }
}

fn cannot_open(path: &Path) -> String {
    format!("cannot open image '{}'", shown(path))
}

impl Reading {
    fn open(path: &Path, options: &MountOptions) -> anyhow::Result<Self> {
        let context = || cannot_open(path);
        let storage = FileStorage::open_within(path, options.offset).with_context(context)?;
        let path = path.canonicalize().with_context(context)?;
        // Before the head is read: what it names is not freed from here on.
        let lock = reader_lock(&storage).with_context(context)?;
        let image = Image::open(Arc::new(storage), ImageOptions::default()).with_context(context)?;
        for warning in image.warnings() {
            eprintln!("warning: {}: {warning}", shown(&path));
        }
        Ok(Reading { path, image, lock })
    }
}

impl Writing {
    /// The image, or why it can only be read.
    fn open(path: &Path, options: &MountOptions, how: How) -> anyhow::Result<anyhow::Result<Self>> {
        if options.offset != 0 {
            return Ok(Err(anyhow!("an image inside another file ('offset=') cannot be written")));
        }
        let named = shown(path).into_owned();
        let Ok(path) = path.canonicalize() else {
            // The reader says what is wrong.
            return Ok(Err(told(Exit::NoImage, format!("'{named}': no such file"))));
        };
        let storage = match FileStorage::open(&path, Access::ReadWrite) {
            Ok(storage) => Arc::new(storage),
            Err(error @ StorageError::Io { .. }) if is_refusal(&error) => return Ok(Err(error.into())),
            // A block device can only be read, as yet.
            Err(error @ StorageError::NotAnImage { .. }) => return Ok(Err(error.into())),
            Err(error) => return Err(error).with_context(|| cannot_open(&path)),
        };
        // The lock's note and the thaw log lie beside the image.
        if let Some(Err(error)) = path.parent().map(|dir| rustix::fs::access(dir, BESIDE)) {
            return Ok(Err(anyhow!("its directory cannot be written: {}", std::io::Error::from(error))));
        }
        let lock = match lock(&storage, &path) {
            Ok(lock) => lock,
            Err(error @ (LockError::Held { .. } | LockError::Unsupported(_))) => return Ok(Err(error.into())),
            Err(error) => return Err(error).with_context(|| cannot_open(&path)),
        };
        let reader = reader_lock(&storage).with_context(|| cannot_open(&path))?;
        let home = HomeOptions { elsewhere: options.thaw.clone(), volatile: options.volatile };
        let home = DirectoryHome::new(&path, home).with_context(|| cannot_open(&path))?;
        let (image, home): (Arc<dyn Storage>, Arc<dyn LogHome>) = (storage.clone(), Arc::new(home));
        let found = match look(image.clone(), home.clone(), ImageOptions::default()) {
            Err(error) if error.can_forget() && how.forget_thaw => {
                forget_thaw_log(&path, &image, &home)?;
                look(image, home, ImageOptions::default())
            }
            Err(error) if error.can_forget() => return Ok(Err(anyhow!("{error} ({HELP})"))),
            found => found,
        };
        let found = match found {
            // The exit status depends on it.
            Err(StartError::Meta(error)) => return Err(error).with_context(|| cannot_open(&path)),
            found => found.with_context(|| cannot_open(&path))?,
        };
        for warning in found.image().warnings() {
            eprintln!("warning: {named}: {warning}");
        }
        if let Some(back) = found.brought_back().filter(|_| !how.quiet) {
            let (bytes, commits) = (Human(back.bytes), counted(back.commits, "commit"));
            let files = match back.files {
                1 => "1 file or directory".to_owned(),
                files => format!("{files} files and directories"),
            };
            eprintln!("note: {named}: recovered from the thaw log: {files}, {bytes}, {commits}");
        }
        if let Some(why) = found.set_aside_reason() {
            eprintln!("warning: {named}: a thaw log that does not fit is set aside at the first change: {why}");
        }
        Ok(Ok(Writing { path, storage, found, lock, reader }))
    }
}

/// Becomes the writer; waits for one on this host that is about to end.
fn lock(storage: &FileStorage, path: &Path) -> Result<WriterLock, LockError> {
    let me = Owner::current();
    loop {
        match WriterLock::try_acquire(storage.file(), path, &me) {
            Err(LockError::Held { .. }) => {}
            other => return other,
        }
        let Some(daemon) = unmounting(storage, path, &me) else {
            // It may have ended since, so that nobody was found.
            return WriterLock::try_acquire(storage.file(), path, &me);
        };
        eprintln!("note: waiting for process {}, which is unmounting '{}'", daemon.pid(), shown(path));
        // Whether it has ended or not, the lock says how to go on.
        let _ = daemon.wait(PATIENCE);
    }
}

/// The daemon that has the image's lock, if it is on this host and its mount is gone.
fn unmounting(storage: &FileStorage, path: &Path, me: &Owner) -> Option<Daemon> {
    let owner = Holder::of(storage.file(), path)?.owner?;
    if (&owner.host, &owner.boot) != (&me.host, &me.boot) {
        return None;
    }
    let daemon = Daemon::with_pid(i32::try_from(owner.pid).ok()?).ok()??;
    daemon.is_unmounting().unwrap_or(false).then_some(daemon)
}

/// Whether the system refuses to have the file written.
fn is_refusal(error: &StorageError) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::ExecutableFileBusy)
}

/// Mounts, calls `ready`, and serves until the mount is gone; then brings it to its end.
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

fn fs_options(options: &MountOptions) -> FsOptions {
    let defaults = FsOptions::default();
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
    let Reading { path, image, lock: _lock } = reading;
    let fs = Fs::new(Arc::new(image), fs_options(options));
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

/// Serves until the mount is gone, and sees to it that it is.
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

/// After a failure the connection is closed, so what is left of the mount is dead.
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
    let Writing { path, storage, found, lock, reader } = writing;
    let reader = Arc::new(Mutex::new(reader));
    let live_options = LiveOptions {
        commit: options.commit,
        clock: Arc::new(time::now),
        log_id: random_log_id().context("cannot get random bytes for the thaw log's id")?,
        segment_size: None,
    };
    let live = Live::new(storage, found, live_options).with_context(|| cannot_open(&path))?;
    if let Some(memory) = options.memory {
        live.set_memory(memory);
    }
    if let Some(folder) = path.parent() {
        live.set_spill(folder);
    }
    live.set_keep_out(only_reader::keep_out(&reader));
    let fs = Fs::over(live.clone(), fs_options(options));
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
        move || to_commit.sync(Box::new(|_| ())),
        // The next mount brings back what was committed.
        move || std::process::exit(i32::from(to_give_up.sync_and_wait().is_err())),
    );
    termination.of(mounted.own(), ending);
    let (served, mark) = until_unmounted(mounted, ready);
    termination.finish();
    running.stop();
    let ended = Ended {
        result: live.end(FREEZE_LIMIT).with_context(|| format!("the end of writing '{}' failed", shown(&path))),
    };
    // Before the mark goes: who finds the image locked looks for the daemon by it. Nothing is written from here on.
    drop(lock);
    let outcome = ended.outcome();
    if let (Outcome::Done(text), Ok(())) = (&outcome, &served)
        && !text.is_empty()
    {
        eprintln!("note: {text}");
    }
    if let Some(mark) = mark {
        mark.say(&outcome);
    }
    served.and(ended.result.map(drop))
}

impl Ended {
    /// What `floe umount` is told.
    fn outcome(&self) -> Outcome {
        match &self.result {
            Ok(Finished::Untouched | Finished::Removed) => Outcome::Done(String::new()),
            Ok(Finished::Left { place, why }) => Outcome::Done(format!(
                "the image is complete; its empty thaw log '{place}' could not be removed: {why}"
            )),
            Ok(Finished::Kept { bytes, place }) => Outcome::Done(format!(
                "the image alone is not complete: its thaw log '{place}' has {}; keep both together",
                Human(*bytes)
            )),
            Err(error) => Outcome::Failed(sentence(error)),
        }
    }
}

/// What the id of a new thaw log is made of.
fn random_log_id() -> std::io::Result<u64> {
    let mut id = [0; 8];
    id.iter_mut().zip(random_seed()?).for_each(|(to, from)| *to = from);
    Ok(u64::from_le_bytes(id))
}

/// Superchunks come and go in megabytes. glibc would take them from its heaps, of which there may be eight a core, and each
/// heap keeps what it once had: measured, 421 MiB resident where 296 do, at the same speed.
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
