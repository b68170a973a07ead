//! Reading the sources again, after packing: their files, and warnings that were given before.
//!
//! It shares the walk with packing, and how a file is opened. The bytes are read in another way than the packer reads
//! them, so that an error of one is found by the other. Called by those who verify a finished image.

use super::PackObserver;
use super::files::{FileJob, allocated, stamp};
use super::read::{self, Unreadable};
use crate::format::sums;
use parking_lot::Mutex;
use rustix::fs::Stat;
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::OwnedFd;

/// A file of the sources, open to be read again.
#[derive(Debug)]
pub struct SourceFile {
    file: OwnedFd,
    stat: Stat,
}

impl FileJob {
    /// Returns the name of the file in the image.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Opens the file.
    ///
    /// # Errors
    /// Fails if it cannot be opened, or another file has taken its name.
    pub fn open(&self) -> Result<SourceFile, Unreadable> {
        read::open(self).map(|(file, stat)| SourceFile { file, stat })
    }
}

impl SourceFile {
    /// Returns the size in bytes that stat(2) reported when the file was opened.
    pub fn size(&self) -> u64 {
        self.stat.st_size as u64
    }

    /// Returns whether the file may have holes.
    pub fn may_have_holes(&self) -> bool {
        allocated(&self.stat) < self.size()
    }

    /// Returns the offset of the next data at or after offset `at`, or the file's size if only a hole follows.
    ///
    /// # Errors
    /// Fails if the file system cannot tell.
    pub fn next_data(&self, at: u64) -> Result<u64, Unreadable> {
        read::next_data(&self.file, at, self.size().max(at)).map(|(data, _)| data)
    }

    /// Fills `out` with the bytes from offset `at` on, and returns their number: less than asked for only at the end of
    /// the file.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn read_at(&self, at: u64, out: &mut [u8]) -> Result<usize, Unreadable> {
        let mut done = 0;
        while done < out.len() {
            match rustix::io::pread(&self.file, &mut out[done..], at.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(Errno::INTR) => {}
                Err(error) => return Err(("read", error).into()),
            }
        }
        Ok(done)
    }

    /// Returns the stamp that the file has now ([`Meta::stamp`](super::Meta::stamp)).
    ///
    /// # Errors
    /// Fails if the file system cannot tell.
    pub fn stamp(&self) -> Result<u64, Unreadable> {
        rustix::fs::fstat(&self.file).map(|stat| stamp(&stat)).map_err(|error| ("stat", error).into())
    }
}

/// The paths of which an observer was warned. They are kept as hashes: 8 bytes each.
#[derive(Default)]
pub(super) struct Warned(Mutex<HashSet<u64>>);

impl Warned {
    pub(super) fn contains(&self, path: &[u8]) -> bool {
        self.0.lock().contains(&sums::xxh3(path))
    }

    /// Adds a path, and returns whether it is new.
    pub(super) fn add(&self, path: &[u8]) -> bool {
        self.0.lock().insert(sums::xxh3(path))
    }
}

/// Passes on what an observer of packing is told, and remembers of which paths it was warned.
pub(super) struct Remembering<'a> {
    pub(super) observer: &'a dyn PackObserver,
    pub(super) warned: &'a Warned,
}

impl PackObserver for Remembering<'_> {
    fn wants_total(&self) -> bool {
        self.observer.wants_total()
    }

    fn total(&self, files: u64, bytes: u64) {
        self.observer.total(files, bytes);
    }

    fn progress(&self, files: u64, bytes: u64, stored: u64) {
        self.observer.progress(files, bytes, stored);
    }

    fn packed(&self, path: &[u8]) {
        self.observer.packed(path);
    }

    fn warning(&self, path: &[u8], message: &str) {
        self.warned.add(path);
        self.observer.warning(path, message);
    }

    fn note(&self, path: &[u8], message: &str) {
        self.observer.note(path, message);
    }

    fn cancelled(&self) -> bool {
        self.observer.cancelled()
    }
}

/// Passes on the warnings of a second walk, except those of paths that were warned of before.
pub(super) struct Again<'a> {
    pub(super) observer: &'a dyn PackObserver,
    pub(super) warned: &'a Warned,
}

impl PackObserver for Again<'_> {
    fn warning(&self, path: &[u8], message: &str) {
        if self.warned.add(path) {
            self.observer.warning(path, message);
        }
    }

    fn cancelled(&self) -> bool {
        self.observer.cancelled()
    }
}
