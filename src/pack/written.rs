//! An image that is complete, but has no name yet: its bytes can be compared with the sources before anybody sees it.
//!
//! Invariant: the image gets its name only in [`Written::finish`]. If it is dropped before that, nothing remains. Made
//! by [`write`](super::write); called by `fs` (verify) and cli.

use super::again::{Again, Warned};
use super::files::Entry;
use super::own::Own;
use super::scan::{self, Scan};
use super::stamps::Stamps;
use super::{PackError, PackObserver, PackOptions, PackSummary};
use crate::format::ids::InodeId;
use crate::format::rows::Time;
use crate::storage::{AtomicFile, FileStorage};
use rustix::fs::{Advice, Stat};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What packing leaves behind, before the image gets its name.
pub(super) struct Complete {
    pub(super) target: AtomicFile,
    pub(super) storage: Arc<FileStorage>,
    pub(super) own: Own,
    /// What stat(2) said of each source before the image was begun.
    pub(super) before: Vec<Stat>,
    /// Time at which packing began, by the clock of the image's file system.
    pub(super) begun: Time,
    /// The stamps of the packed inodes, if they are kept.
    pub(super) stamps: Option<Stamps>,
    /// Mode of the image file.
    pub(super) mode: u32,
    pub(super) summary: PackSummary,
}

impl Complete {
    /// Gives the image its name.
    pub(super) fn finish(self) -> Result<PackSummary, PackError> {
        self.target.finish(self.mode)?;
        Ok(self.summary)
    }
}

/// An image that is complete and durable, but has no name yet.
pub struct Written<'a> {
    complete: Complete,
    sources: &'a [PathBuf],
    options: &'a PackOptions,
    warned: Warned,
}

impl<'a> Written<'a> {
    /// Makes the image's bytes durable, and lets the kernel forget those that it keeps in memory, so that they are read
    /// from the disk.
    pub(super) fn new(
        complete: Complete,
        image: &Path,
        sources: &'a [PathBuf],
        options: &'a PackOptions,
        warned: Warned,
    ) -> Result<Self, PackError> {
        let file = complete.target.file();
        file.sync_all().map_err(|source| PackError::io("sync", image, source))?;
        // Only advice: without it the bytes may come from the page cache.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        Ok(Written { complete, sources, options, warned })
    }

    /// Returns the storage with the bytes of the image.
    pub fn storage(&self) -> &Arc<FileStorage> {
        &self.complete.storage
    }

    /// Returns the path of the image until it gets its name.
    pub fn temporary_path(&self) -> PathBuf {
        self.complete.target.temporary_path()
    }

    /// Returns the figures of packing.
    pub fn summary(&self) -> &PackSummary {
        &self.complete.summary
    }

    /// Returns the options that the image was packed with.
    pub fn options(&self) -> &PackOptions {
        self.options
    }

    /// Returns the time at which packing began, by the clock of the image's file system.
    pub fn begun(&self) -> Time {
        self.complete.begun
    }

    /// Returns the stamp that an inode of the image had in its source when it was packed; `None` if there is no such
    /// inode.
    ///
    /// # Errors
    /// Fails if a temporary file cannot be read.
    pub fn stamp(&self, inode: InodeId) -> Result<Option<u64>, PackError> {
        self.complete.stamps.as_ref().map_or(Ok(None), |stamps| stamps.get(inode))
    }

    /// Returns whether packing or a walk warned of this path: something about it could not be read, or not as it is.
    pub fn is_warned(&self, path: &[u8]) -> bool {
        self.warned.contains(path)
    }

    /// Opens and walks the sources again, and passes what they hold now to `each`, in the order and in the form in which
    /// it would be packed. It ends early if `each` returns false or the observer asks to stop. What cannot be read is
    /// left out; the observer is warned, except of paths of which it was warned before.
    ///
    /// # Errors
    /// Fails if a source cannot be opened, or continuing would leave out something that can be read.
    pub fn walk(&self, observer: &dyn PackObserver, each: &mut dyn FnMut(Entry) -> bool) -> Result<(), PackError> {
        let mut sources = scan::sources(self.sources, self.options)?;
        let directory = self.complete.target.target().directory();
        for (source, before) in sources.iter_mut().zip(&self.complete.before) {
            // The new file in it changed its times, and nobody else need have.
            let now = (source.stat.st_dev, source.stat.st_ino);
            if source.is_dir() && directory == Some(now) && now == (before.st_dev, before.st_ino) {
                source.stat = *before;
            }
        }
        let again = Again { observer, warned: &self.warned };
        Scan::new(&sources, self.options, &self.complete.own, &again).again().pass(each)
    }

    /// Gives the image its name.
    ///
    /// # Errors
    /// Fails if the name exists by now and must not be replaced, or cannot be given.
    pub fn finish(self) -> Result<PackSummary, PackError> {
        self.complete.finish()
    }
}
