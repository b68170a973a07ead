//! The options of packing, the observer of its progress, and its summary.

use super::filter::{Filter, TakeAll};
use crate::format::codec::Compression;
use crate::format::params::Params;
use crate::format::rows::Time;
use crate::storage::Owner;
use std::path::PathBuf;
use std::sync::Arc;

/// Memory limit in bytes if none is given: enough for one thread of the profile that needs most.
pub const DEFAULT_MEMORY: u64 = 3 << 29;

/// Options for packing.
#[derive(Clone)]
pub struct PackOptions {
    /// Parameters of the image: sizes, chunker and hash. Codec and level are taken from `compression`.
    pub params: Params,
    /// Codec and level of the image.
    pub compression: Compression,
    /// Number of threads that compress; fewer start if memory does not suffice.
    pub jobs: usize,
    /// Memory limit in bytes for everything.
    pub memory: u64,
    /// Whether to replace an existing image.
    pub force: bool,
    /// Whether not to descend into other file systems.
    pub one_file_system: bool,
    /// Owner and group of every entry, instead of the source's.
    pub owner: Option<(u32, u32)>,
    /// Time in seconds since 1970 that becomes the image's time and the upper limit of all mtimes. Sizes of directories
    /// are stored as 0, because they depend on the source's file system. So the image depends only on the tree and the
    /// options.
    pub timestamp: Option<i64>,
    /// The time of packing, which the image records; not used with `timestamp`.
    pub now: Time,
    /// Seed of 32 random bytes for the uuid, lineage and log id, so that no two images share them; not used with
    /// `timestamp`. Without a seed they depend on content and options.
    pub seed: Option<[u8; 32]>,
    /// Filter that decides which entries are packed.
    pub filter: Arc<dyn Filter>,
    /// Whether a source that is a link to a file stands for that file.
    pub dereference_sources: bool,
    /// Number of directories of the sources kept open besides those in use; others are reopened when they are needed.
    pub open_directories: usize,
    /// Directory for data that does not fit in memory; by default the image's directory.
    pub temp_dir: Option<PathBuf>,
    /// Permission bits that a new file does not get (umask).
    pub umask: u32,
    /// The writing process, as recorded in `IMAGE.lock`; `None` if nobody is to be named.
    pub writer: Option<Owner>,
}

impl Default for PackOptions {
    fn default() -> Self {
        PackOptions {
            params: Params::default(),
            compression: Compression::Zstd(12),
            jobs: 1,
            memory: DEFAULT_MEMORY,
            force: false,
            one_file_system: false,
            owner: None,
            timestamp: None,
            now: Time::default(),
            seed: None,
            filter: Arc::new(TakeAll),
            dereference_sources: false,
            open_directories: 256,
            temp_dir: None,
            umask: 0o022,
            writer: None,
        }
    }
}

impl PackOptions {
    /// Returns the seed if it is used, otherwise nothing.
    pub(super) fn seed_bytes(&self) -> &[u8] {
        match (&self.timestamp, &self.seed) {
            (None, Some(seed)) => seed,
            _ => &[],
        }
    }
}

/// Receives the progress and warnings of packing. Called from several threads.
pub trait PackObserver: Sync {
    /// Returns whether [`PackObserver::total`] is wanted: it costs a second walk of the sources.
    fn wants_total(&self) -> bool {
        false
    }
    /// Reports the total number of files and bytes.
    fn total(&self, _files: u64, _bytes: u64) {}
    /// Reports the number of files read, of bytes that are in the image so far, and of bytes of the image written.
    fn progress(&self, _files: u64, _bytes: u64, _stored: u64) {}
    /// Reports, while a finished image is verified, the number of files and of their bytes that were compared.
    fn verified(&self, _files: u64, _bytes: u64) {}
    /// Reports that an entry is packed: a file, a directory, or another name of a file. Directories come before their
    /// entries. A source that has no name in the image is not reported.
    fn packed(&self, _path: &[u8]) {}
    /// Reports that something below a source could not be packed, or not as it is.
    fn warning(&self, path: &[u8], message: &str);
    /// Reports that something is left out on purpose; nothing is wrong.
    fn note(&self, _path: &[u8], _message: &str) {}
    /// Returns whether to stop.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Result of packing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackSummary {
    /// Number of regular files, each inode counted once.
    pub files: u64,
    /// Number of directories.
    pub directories: u64,
    /// Number of symlinks.
    pub symlinks: u64,
    /// Number of devices, fifos and sockets.
    pub specials: u64,
    /// Number of further names of inodes.
    pub hard_links: u64,
    /// Bytes of regular files, each inode counted once.
    pub bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Raw bytes of distinct subchunks.
    pub unique_bytes: u64,
    /// Raw bytes that deduplication saved.
    pub shared_bytes: u64,
    /// Number of distinct subchunks.
    pub subchunks: u64,
    /// Number of superchunks.
    pub superchunks: u64,
    /// Bytes of the image in superchunks, headers and clear lists included.
    pub data_bytes: u64,
    /// Bytes of the image in tables and roots.
    pub metadata_bytes: u64,
    /// Number of warnings.
    pub warnings: u64,
    /// Hash of the image's root.
    pub root_hash: [u8; 32],
}
