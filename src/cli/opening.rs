//! Opening an image to be mounted, or to be frozen without a mount: locks, recovery, and why it can only be read.
//!
//! Nothing is written. Everything that can be found wrong without a mount is found here. Called by `mount`, `serve` and
//! `freeze`.

use super::forget::forget_thaw_log;
use super::making::random_seed;
use super::open::{not_an_image, reader_lock, shown};
use super::sentence::{sentence, told};
use super::size::{Human, counted};
use super::{Exit, tell, time};
use crate::fs::start::{Found, StartError, look};
use crate::fs::{Live, LiveOptions};
use crate::fuse::MountOptions;
use crate::fuse::mark::Daemon;
use crate::meta::{Image, ImageOptions, MetaError};
use crate::storage::{
    Access, DirectoryHome, FileStorage, Holder, HomeOptions, LockError, LogHome, Owner, ReaderLock, Storage,
    StorageError, WriterLock,
};
use anyhow::{Context as _, anyhow};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Hint for people whose thaw log is missing or damaged.
const HELP: &str = "put the log back; or see what 'floe check' says of the image, and give up what is in the log with \
                    'floe mount --forget-thaw'";
/// Permissions that are needed in the image's directory.
const BESIDE: rustix::fs::Access = rustix::fs::Access::WRITE_OK.union(rustix::fs::Access::EXEC_OK);
/// Time that a daemon that is unmounting may take before people are told again that it is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of the command line besides the mount options.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Whether to stay in the foreground.
    pub foreground: bool,
    /// Whether to give up a thaw log that is missing or damaged.
    pub forget_thaw: bool,
}

/// An image that was checked and can be mounted.
pub enum Opened {
    /// The image is to be mounted read-only.
    Reading(Box<Reading>),
    /// The image is to be mounted writable.
    Writing(Box<Writing>),
}

/// An image for a read-only mount.
pub struct Reading {
    /// Path of the image, without links.
    pub path: PathBuf,
    /// The image.
    pub image: Image,
    /// Lock that keeps gc from freeing what the image names.
    pub lock: Option<ReaderLock>,
    /// Reason to show if the image is mounted read-only, though it should be writable.
    not_writable: Option<String>,
}

/// An image for a writable mount. Nothing is written before the first change.
pub struct Writing {
    path: PathBuf,
    storage: Arc<FileStorage>,
    found: Found,
    lock: WriterLock,
    /// Lock that keeps gc from freeing what the image names.
    reader: Option<ReaderLock>,
}

/// An image that is being written.
pub struct Writer {
    /// Path of the image, without links.
    pub path: PathBuf,
    /// The image as a writable filesystem.
    pub live: Arc<Live>,
    /// Lock of the writer, so that no other process writes the image.
    pub lock: WriterLock,
    /// Lock that keeps gc from freeing what the image names.
    pub reader: Option<ReaderLock>,
}

impl Opened {
    /// Opens the image as the options say. With neither `ro` nor `rw` it is writable if nothing prevents it; else
    /// people are told why it is not.
    ///
    /// # Errors
    /// Fails if it is no image, or is to be written and cannot be.
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
                    let mut reading = Reading::open(path, options)?;
                    reading.not_writable = Some(format!("'{}' is mounted read-only: {}", shown(path), sentence(&why)));
                    return Ok(Opened::Reading(Box::new(reading)));
                }
            }
        }
        Ok(Opened::Reading(Box::new(Reading::open(path, options)?)))
    }

    /// Tells people why the mount is not writable, if they may expect it.
    pub fn tell_of_reading(&self) {
        if let Opened::Reading(reading) = self
            && let Some(why) = &reading.not_writable
        {
            tell::warning(why);
        }
    }

    /// Returns whether the mount is read-only.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Opened::Reading(_))
    }

    /// Returns the image's path, without links.
    pub fn path(&self) -> &Path {
        match self {
            Opened::Reading(reading) => &reading.path,
            Opened::Writing(writing) => &writing.path,
        }
    }

    /// Hands the lock to `owner`: this process, the child of the one that took the lock.
    pub fn hand_to(&mut self, owner: &Owner) {
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
        let image = match Image::open(Arc::new(storage), ImageOptions::default()) {
            Err(MetaError::NotAnImage) => return Err(not_an_image(&path, options.offset)),
            opened => opened.with_context(context)?,
        };
        for warning in image.warnings() {
            tell::warning(format_args!("{}: {warning}", shown(&path)));
        }
        Ok(Reading { path, image, lock, not_writable: None })
    }
}

impl Writing {
    /// Opens the image for writing, or returns why it can only be read.
    ///
    /// # Errors
    /// Fails if it is no image, or it cannot be found out what it is.
    pub fn open(path: &Path, options: &MountOptions, how: How) -> anyhow::Result<anyhow::Result<Self>> {
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
            tell::warning(format_args!("{named}: {warning}"));
        }
        if let Some(back) = found.brought_back() {
            let (bytes, commits) = (Human(back.bytes), counted(back.commits, "commit"));
            let files = match back.files {
                1 => "1 file or directory".to_owned(),
                files => format!("{files} files and directories"),
            };
            tell::note(format_args!("{named}: recovered from the thaw log: {files}, {bytes}, {commits}"));
        }
        if let Some(why) = found.set_aside_reason() {
            tell::warning(format_args!(
                "{named}: a thaw log that does not fit is set aside at the first change: {why}"
            ));
        }
        Ok(Ok(Writing { path, storage, found, lock, reader }))
    }

    /// Returns the image as a filesystem that can be written, as the options say. Starts no thread.
    ///
    /// # Errors
    /// Fails if its tables cannot be read, or there are no random numbers.
    pub fn begin(self, options: &MountOptions) -> anyhow::Result<Writer> {
        let Writing { path, storage, found, lock, reader } = self;
        let live_options = LiveOptions {
            commit: options.commit,
            clock: Arc::new(time::now),
            log_id: random_log_id().context("cannot get random bytes for the thaw log's id")?,
            segment_size: None,
            budget: options.budget,
        };
        let live = Live::new(storage, found, live_options).with_context(|| cannot_open(&path))?;
        if let Some(memory) = options.memory {
            live.set_memory(memory);
        }
        if let Some(folder) = path.parent() {
            live.set_spill(folder);
        }
        live.set_freezing(options.freezing);
        Ok(Writer { path, live, lock, reader })
    }
}

/// Returns the random number for the id of a new thaw log.
fn random_log_id() -> std::io::Result<u64> {
    let mut id = [0; 8];
    id.iter_mut().zip(random_seed()?).for_each(|(to, from)| *to = from);
    Ok(u64::from_le_bytes(id))
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
        tell::note(format_args!("waiting for process {}, which is unmounting '{}'", daemon.pid(), shown(path)));
        // Whether it has ended or not, the lock says how to go on.
        let _ = daemon.wait(PATIENCE);
    }
}

/// Returns the daemon that has the image's lock, if it is on this host and its mount is gone.
fn unmounting(storage: &FileStorage, path: &Path, me: &Owner) -> Option<Daemon> {
    let owner = Holder::of(storage.file(), path)?.owner?;
    if (&owner.host, &owner.boot) != (&me.host, &me.boot) {
        return None;
    }
    let daemon = Daemon::with_pid(i32::try_from(owner.pid).ok()?).ok()??;
    daemon.is_unmounting().unwrap_or(false).then_some(daemon)
}

/// Returns whether the system refuses to let the file be written.
fn is_refusal(error: &StorageError) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::ExecutableFileBusy)
}
