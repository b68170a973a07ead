//! Opening an image for reading: its lock, its head and root, and what people are told when that fails.

use super::args::Place;
use super::sentence::told;
use super::{Exit, escape, tell};
use crate::fs::{Fs, FsOptions};
use crate::meta::{Image, ImageOptions, MetaError};
use crate::storage::{FileStorage, Holder, LockError, LogBeside, ReaderLock, StorageError, follow};
use anyhow::Context as _;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time that gc is waited for, which has its lock only while it punches holes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two checks whether gc has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// An image that is open for reading. As long as it exists, nothing of the image is freed.
pub struct Opened {
    /// Storage with the bytes of the image.
    pub storage: Arc<FileStorage>,
    /// The newest version of the image.
    pub image: Arc<Image>,
    _lock: Option<ReaderLock>,
}

impl Opened {
    /// Opens the image, and prints warnings about problems that did not prevent opening it.
    ///
    /// # Errors
    /// Fails if there is none, it is locked by gc, or no root of it can be read.
    pub fn open(place: &Place) -> anyhow::Result<Self> {
        let path = &place.path;
        let (storage, lock) = open_storage(place)?;
        let image = match Image::open(storage.clone(), ImageOptions::default()) {
            Err(MetaError::NotAnImage) => return Err(not_an_image(path, place.offset)),
            opened => opened.with_context(|| cannot_open(path))?,
        };
        for warning in image.warnings() {
            tell::warning(format!("{}: {warning}", shown(path)));
        }
        Ok(Opened { storage, image: Arc::new(image), _lock: lock })
    }

    /// Tells people that they see the last checkpoint, if more was written since.
    pub fn tell_of_checkpoint(&self, place: &Place) {
        let head = self.image.head();
        if head.clean {
            return;
        }
        let named = shown(&place.path);
        match writer(place, &self.storage) {
            Some(writer) => tell::note(format_args!("{writer} writes '{named}': this is its last checkpoint")),
            None => match thaw_log(place) {
                Ok(Some(log)) if log.bytes > 0 => tell::note(format_args!(
                    "'{named}' is not complete without its thaw log: this is its last checkpoint (a writable mount \
                     shows the rest)"
                )),
                _ => tell::warning(format_args!(
                    "the thaw log of '{named}' is missing: what it holds cannot be read, and this is the last \
                     checkpoint"
                )),
            },
        }
    }

    /// Returns the image as a filesystem. With `ahead`, superchunks are inflated ahead of a reader.
    pub fn fs(&self, ahead: bool) -> Arc<Fs> {
        let defaults = FsOptions::default();
        let readahead = if ahead { defaults.readahead } else { 0 };
        Fs::new(self.image.clone(), FsOptions { readahead, ..defaults })
    }
}

/// Opens the file of what may be an image, and locks it against gc.
///
/// # Errors
/// Fails if there is no such file, it is of a kind that cannot be an image, or it is locked.
pub fn open_storage(place: &Place) -> anyhow::Result<(Arc<FileStorage>, Option<ReaderLock>)> {
    let Place { path, offset } = place;
    if path.as_os_str() == "-" && path.symlink_metadata().is_err() {
        let why = "an image is not read from standard input, since reading begins at its end";
        return Err(told(Exit::NoImage, format!("{}: {why} ('./-' is a file of this name)", cannot_open(path))));
    }
    let storage = match FileStorage::open_within(path, *offset) {
        // Its own message would name the image once more.
        Err(StorageError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Err(told(Exit::NoImage, format!("{}: no such file", cannot_open(path))));
        }
        Err(StorageError::Short { .. }) => {
            let why = format!("the file ends before offset {offset}");
            return Err(told(Exit::NoImage, format!("{}: {why}", cannot_open(path))));
        }
        opened => opened.with_context(|| cannot_open(path))?,
    };
    let lock = reader_lock(&storage).with_context(|| cannot_open(path))?;
    Ok((Arc::new(storage), lock))
}

/// Takes the reader's lock, so that nothing in `storage` is freed; `None` if there are no locks. Waits a while for a gc
/// that frees just now.
///
/// # Errors
/// Fails if gc does not end, or the lock fails.
pub fn reader_lock(storage: &FileStorage) -> Result<Option<ReaderLock>, LockError> {
    let begun = Instant::now();
    loop {
        match ReaderLock::shared(storage.file()) {
            Ok(lock) => return Ok(Some(lock)),
            Err(LockError::Unsupported(error)) => {
                tracing::debug!(%error, "reading without a lock");
                return Ok(None);
            }
            Err(LockError::Freeing) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
}

/// Returns the writer of the image, if there is one. Then what is read is its last checkpoint. An image inside another
/// file is never written.
pub fn writer(place: &Place, storage: &FileStorage) -> Option<Holder> {
    if place.offset > 0 { None } else { Holder::of(storage.file(), &real(&place.path)) }
}

/// Returns the thaw log beside the image.
///
/// # Errors
/// Fails if there is one, and its contents cannot be found out.
pub fn thaw_log(place: &Place) -> Result<Option<LogBeside>, StorageError> {
    if place.offset > 0 { Ok(None) } else { LogBeside::find(&real(&place.path)) }
}

/// Returns the path with links followed: what belongs to an image is beside the file itself.
fn real(path: &Path) -> PathBuf {
    follow(path).unwrap_or_else(|_| path.to_owned())
}

/// Makes the error for a file that does not begin as an image does.
pub fn not_an_image(path: &Path, offset: u64) -> anyhow::Error {
    let hint = match offset {
        0 => format!("'file {}' says more", shown(path)),
        _ => "does it begin at this offset?".to_owned(),
    };
    let why = format!("bad magic at offset {offset} (is this a floe image? {hint})");
    told(Exit::NoImage, format!("{}: {why}", cannot_open(path)))
}

fn cannot_open(path: &Path) -> String {
    format!("cannot open image '{}'", shown(path))
}

/// Returns a path of this system, safe to show.
pub fn shown(path: &Path) -> std::borrow::Cow<'_, str> {
    escape::shown(path.as_os_str().as_bytes())
}
