//! A filesystem for reading: [`Fs`], and [`Moment`], an `Fs` at one moment.
//!
//! Everything that one request reads comes from one snapshot. So a change, a checkpoint or the removal of a segment
//! meanwhile does not affect it [6]. The read operations of both types are in the other files of this directory.

use super::FsError;
use super::resumes::Resumes;
use super::snapshot::Snapshot;
use super::source::{SnapshotSource, Source, Taken};
use crate::format::ids::{ContentId, InodeId, LogOffset};
use crate::format::limits;
use crate::format::params::Params;
use crate::format::rows::{FileType, InodeRow};
use crate::inflate::WorkingSet;
use crate::meta::{ByteLru, Image, View};
use std::sync::Arc;

/// Bytes of memory for values that stat(2) needs again and again.
const STAT_BYTES: usize = 1 << 20;
/// Bytes of memory for the list of verified frames of an older thaw log: about 10,000 frames.
const VERIFIED_BYTES: usize = 2 << 20;

/// Options for serving an image.
#[derive(Debug, Clone, Copy)]
pub struct FsOptions {
    /// Bytes of memory for inflated superchunks.
    pub cache: usize,
    /// Number of threads that inflate ahead of sequential readers; 0 for none.
    pub readahead: usize,
    /// Whether to check every subchunk that is read against its own identity, not only those of damaged superchunks.
    pub verify: bool,
}

/// Bytes of memory for inflated superchunks by default. An image may ask for more.
const CACHE: usize = 256 << 20;
/// Most bytes of inflated superchunks that an image may ask for: the most that the format lets a reader need.
const CACHE_MAX: u64 = limits::SOURCE_BYTES;

impl Default for FsOptions {
    fn default() -> Self {
        FsOptions { cache: CACHE, readahead: 2, verify: false }
    }
}

impl FsOptions {
    fn working_set(&self, image: &Arc<Image>) -> WorkingSet {
        WorkingSet::new(Arc::clone(image), self.cache, self.readahead).verifying(self.verify)
    }

    /// Returns the defaults for an image with these parameters. If the parameters say that a reader should have more
    /// memory for inflated superchunks than the default, that much is used.
    pub fn suiting(params: &Params) -> Self {
        let recorded = (u64::from(params.working_set) << 20).min(CACHE_MAX);
        FsOptions { cache: usize::try_from(recorded).map_or(CACHE, |bytes| bytes.max(CACHE)), ..FsOptions::default() }
    }
}

/// The stamp of a snapshot, and a value that was computed from it.
pub(super) type Stamped = (u64, u64);

/// An image as a filesystem that can be read.
pub struct Fs {
    source: Source,
    image: Arc<Image>,
    pub(super) working_set: WorkingSet,
    pub(super) resumes: Resumes,
    /// Cache of the lengths of contents: every stat needs one, and many inodes may have the same content.
    pub(super) content_ends: ByteLru<ContentId, Stamped>,
    /// Cache of the bytes in thawed ranges, by inode.
    pub(super) thawed: ByteLru<InodeId, Stamped>,
    /// Frames of the thaw log that are verified, by offset and checksum, with the number of bytes in each.
    pub(super) verified: ByteLru<(LogOffset, u64), u64>,
}

impl Fs {
    /// Serves an image that nobody changes. Reads nothing yet.
    pub fn new(image: Arc<Image>, options: FsOptions) -> Arc<Self> {
        let snapshot = Snapshot::fixed(View::of(Arc::clone(&image)));
        let working_set = options.working_set(&image);
        Fs::serve(image, Source::Fixed(Box::new(snapshot)), working_set)
    }

    /// Makes a filesystem that counts what reading an image with a working set of this many bytes would inflate. The
    /// bytes that it reads are arbitrary.
    pub(super) fn counting(image: &Arc<Image>, working_set: usize) -> Arc<Self> {
        let snapshot = Snapshot::fixed(View::of(Arc::clone(image)));
        let working_set = WorkingSet::counting(Arc::clone(image), working_set);
        Fs::serve(Arc::clone(image), Source::Fixed(Box::new(snapshot)), working_set)
    }

    /// Serves a filesystem that is being written, in its present state at each request. Reads nothing yet.
    pub fn over(source: Arc<dyn SnapshotSource>, options: FsOptions) -> Arc<Self> {
        let image = Arc::clone(source.snapshot().view().version());
        let working_set = options.working_set(&image);
        Fs::serve(image, Source::Live(source), working_set)
    }

    fn serve(image: Arc<Image>, source: Source, working_set: WorkingSet) -> Arc<Self> {
        Arc::new(Fs {
            source,
            image,
            working_set,
            resumes: Resumes::new(),
            content_ends: ByteLru::new(STAT_BYTES, 4),
            thawed: ByteLru::new(STAT_BYTES, 4),
            verified: ByteLru::new(VERIFIED_BYTES, 4),
        })
    }

    /// Returns the image, in the version from which serving began.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Returns the working set.
    pub fn working_set(&self) -> &WorkingSet {
        &self.working_set
    }

    /// Returns the present state.
    pub fn snapshot(&self) -> Snapshot {
        self.source.take().clone()
    }

    /// Returns whether the filesystem is an image that nobody changes.
    pub(super) fn is_fixed(&self) -> bool {
        matches!(self.source, Source::Fixed(_))
    }

    /// Returns the filesystem as it is now.
    pub(super) fn now(&self) -> Moment<'_> {
        Moment { fs: self, now: self.source.take() }
    }
}

/// A filesystem at one moment.
pub(super) struct Moment<'a> {
    pub(super) fs: &'a Fs,
    pub(super) now: Taken<'a>,
}

impl Moment<'_> {
    pub(super) fn view(&self) -> &View {
        self.now.view()
    }

    /// Returns the row of an inode that has a name, or that had one and is open. In an image that nobody writes, an
    /// inode without a name cannot be open.
    pub(super) fn row(&self, inode: InodeId) -> Result<InodeRow, FsError> {
        match self.view().inode(inode)? {
            Some(row) => Ok(row),
            None if self.fs.is_fixed() => Err(FsError::NotFound),
            None => self.view().orphan(inode)?.ok_or(FsError::NotFound),
        }
    }

    /// Returns the row of a regular file.
    pub(super) fn regular(&self, inode: InodeId) -> Result<InodeRow, FsError> {
        let row = self.row(inode)?;
        match row.file_type {
            FileType::Regular => Ok(row),
            FileType::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::NotRegular),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::profile::Profile;

    #[test]
    fn an_image_gets_the_working_set_that_it_records_and_never_less_than_the_default_nor_any_amount() {
        let cache = |working_set| FsOptions::suiting(&Params { working_set, ..Params::default() }).cache;
        assert_eq!([cache(0), cache(64), cache(256)], [FsOptions::default().cache; 3]);
        assert_eq!(cache(512), 512 << 20);
        assert_eq!(cache(u32::MAX), 2 << 30);
        for params in Profile::ALL.map(Profile::params) {
            assert!(FsOptions::suiting(&params).cache >= (params.working_set as usize) << 20);
        }
    }
}
