//! What can be chosen, what is told on the way, and what is told in the end.

use super::filter::{Filter, TakeAll};
use crate::format::codec::Compression;
use crate::format::params::Params;
use crate::format::rows::Time;
use crate::storage::Owner;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of memory to pack with where nobody says otherwise: enough for one thread of the profile that needs most.
pub const DEFAULT_MEMORY: u64 = 3 << 29;

/// How to pack.
#[derive(Clone)]
pub struct PackOptions {
    /// Sizes, chunker and hash. Codec and level are taken from `compression`.
    pub params: Params,
    /// Codec and level.
    pub compression: Compression,
    /// Threads that compress; fewer are started where memory does not allow them.
    pub jobs: usize,
    /// Bytes of memory for everything.
    pub memory: u64,
    /// Replace an existing image.
    pub force: bool,
    /// Do not descend into other file systems.
    pub one_file_system: bool,
    /// Owner and group of everything.
    pub owner: Option<(u32, u32)>,
    /// Seconds: the image's time, and no file is younger. Nor are sizes of directories stored, which the source's file
    /// system makes up: so the image is a function of the tree and the options.
    pub timestamp: Option<i64>,
    /// The time of packing, which the image keeps; not used with `timestamp`.
    pub now: Time,
    /// 32 random bytes that uuid, lineage and log id come from, so that no two images have the same; not used with
    /// `timestamp`. Without, they come from content and options.
    pub seed: Option<[u8; 32]>,
    /// What is taken.
    pub filter: Arc<dyn Filter>,
    /// Directories of the sources that are kept open besides those in use; others are opened again when they are needed.
    pub open_directories: usize,
    /// Folder for what does not fit in memory; by default the image's.
    pub temp_dir: Option<PathBuf>,
    /// Permission bits that a new file does not get.
    pub umask: u32,
    /// Who `IMAGE.lock` says is writing; `None`: nobody is named.
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
            open_directories: 256,
            temp_dir: None,
            umask: 0o022,
            writer: None,
        }
    }
}

impl PackOptions {
    /// The seed where it counts, else nothing.
    pub(super) fn seed_bytes(&self) -> &[u8] {
        match (&self.timestamp, &self.seed) {
            (None, Some(seed)) => seed,
            _ => &[],
        }
    }
}

/// Is told what happens. Called from several threads.
pub trait PackObserver: Sync {
    /// Whether [`PackObserver::total`] is wanted: it costs a second walk over the sources.
    fn wants_total(&self) -> bool {
        false
    }
    /// How many files and bytes there are.
    fn total(&self, _files: u64, _bytes: u64) {}
    /// How many files and bytes were read, and how many bytes of the image written.
    fn progress(&self, _files: u64, _bytes: u64, _stored: u64) {}
    /// Something is packed: a file, a directory, or another name of a file. Directories come before what is in them, and the
    /// sources themselves are not told if they have no name in the image.
    fn packed(&self, _path: &[u8]) {}
    /// Something below a source could not be taken as it is.
    fn warning(&self, path: &[u8], message: &str);
    /// Something is left out because it must be; nothing is wrong.
    fn note(&self, _path: &[u8], _message: &str) {}
    /// Whether to stop.
    fn cancelled(&self) -> bool {
        false
    }
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackSummary {
    /// Regular files, each inode once.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Devices, fifos, sockets.
    pub specials: u64,
    /// Further names of an inode.
    pub hard_links: u64,
    /// Bytes of regular files, each inode once.
    pub bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Bytes of different subchunks.
    pub unique_bytes: u64,
    /// Bytes that deduplication saved.
    pub shared_bytes: u64,
    /// Different subchunks.
    pub subchunks: u64,
    /// Superchunks.
    pub superchunks: u64,
    /// Bytes of the image that are superchunks, headers and clear lists included.
    pub data_bytes: u64,
    /// Bytes of the image that are tables and roots.
    pub metadata_bytes: u64,
    /// Warnings.
    pub warnings: u64,
    /// Hash of the root.
    pub root_hash: [u8; 32],
}
