//! Makes an image that holds only an empty root directory: the start of a writable mount.
//!
//! Invariant: the image equals what [`pack`](super::pack()) makes of an empty directory, except for the directory's
//! owner, mode and times. Called by cli (`floe mkfs`), and by tests, which write it to any storage.

use super::append::Appended;
use super::files::Meta;
use super::fill::Filled;
use super::finish::{Finished, finish};
use super::plan::Plan;
use super::rows::TreeRows;
use super::{PackError, PackOptions, PackSummary};
use crate::chunk::DedupIndex;
use crate::format::rows::{Time, XattrSet};
use crate::meta::MapRows;
use crate::storage::{Access, AtomicFile, FileStorage, Storage, Target};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Mode of the root directory.
const ROOT_MODE: u32 = 0o755;
/// Mode of the image file: its future contents are unknown, so only its owner may read it.
const IMAGE_MODE: u32 = 0o600;
/// Bytes of rows beyond which they move to a temporary file: the few rows of an empty image stay in memory.
const SPILL_AFTER: usize = 1 << 20;

/// Makes a new image whose root directory (inode 1, mode 0755) is empty. The image appears under its name only when it
/// is complete and synced; on any error no file remains.
///
/// It uses these options: `params`, `compression`, `force`, `owner` (of the root directory; default 0 and 0), `now`
/// (the directory's times and the image's packing time), `timestamp` (replaces `now`), `seed`, `writer`.
///
/// # Errors
/// Fails if the image exists (without `force`), is not a regular file, has a writer, or cannot be written.
pub fn empty(image: &Path, options: &PackOptions) -> Result<PackSummary, PackError> {
    let target = AtomicFile::create(Target::claim(image, options.force)?, options.writer.as_ref())?;
    let file = target.file().try_clone().map_err(|source| PackError::io("share", image, source))?;
    let storage = FileStorage::from_file(file, image.to_owned(), Access::ReadWrite);
    let storage = storage.map_err(|source| PackError::image(image, source))?;
    let finished = write(Arc::new(storage), image, options)?;
    target.finish(IMAGE_MODE)?;
    Ok(finished.summary)
}

/// Makes an empty image as [`empty`] does, but in `storage`, which must be empty. After an error the content of the
/// storage is undefined.
///
/// # Errors
/// Fails if the storage cannot be written.
pub fn empty_into(storage: Arc<dyn Storage>, options: &PackOptions) -> Result<PackSummary, PackError> {
    Ok(write(storage, Path::new("the image"), options)?.summary)
}

fn write(storage: Arc<dyn Storage>, image: &Path, options: &PackOptions) -> Result<Finished, PackError> {
    let plan =
        Plan { readers: 0, compressors: 0, spill_after: SPILL_AFTER, temp_dir: PathBuf::from("."), stamps: false };
    let (uid, gid) = options.owner.unwrap_or((0, 0));
    let mtime = options.timestamp.map_or(options.now, |secs| Time { secs, nanos: 0 });
    let root = Meta {
        mode: ROOT_MODE,
        uid,
        gid,
        size: 0,
        rdev: 0,
        mtime,
        xattrs: XattrSet::default(),
        link_key: None,
        changed: mtime,
        stamp: 0,
    };
    let mut rows = TreeRows::new(&plan);
    rows.enter(b"", &root)?;
    rows.leave()?;
    let filled = Filled {
        rows,
        index: DedupIndex::new(plan.spill_after, &plan.temp_dir),
        next_subchunk: 1,
        next_superchunk: 1,
        log_id: None,
        summary: PackSummary { directories: 1, ..PackSummary::default() },
        uses: Vec::new(),
    };
    finish(filled, Appended { log: None, map: MapRows::default(), has_recipes: false }, storage, image, options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::InodeId;
    use crate::format::rows::FileType;
    use crate::meta::{Heads, Image, ImageOptions};
    use crate::storage::testing::MemoryStorage;

    const NOW: Time = Time { secs: 1_700_000_000, nanos: 5 };

    fn options() -> PackOptions {
        PackOptions { now: NOW, owner: Some((7, 8)), seed: Some([9; 32]), ..PackOptions::default() }
    }

    #[test]
    fn an_empty_image_has_an_empty_root_directory_and_may_be_written_to() {
        let storage = Arc::new(MemoryStorage::new());
        empty_into(storage.clone(), &options()).unwrap();
        let image = Image::open(storage.clone(), ImageOptions::default()).unwrap();
        assert_eq!(image.warnings(), [""; 0]);
        image.fit_for_writing().unwrap();
        let root = image.inode(InodeId::ROOT).unwrap().unwrap();
        assert_eq!((root.file_type, root.permissions, root.links), (FileType::Directory, 0o755, 2));
        assert_eq!((root.uid, root.gid, root.size, root.parent), (7, 8, 0, Some(InodeId::ROOT)));
        assert_eq!([root.mtime, root.ctime, root.atime], [NOW; 3]);
        let packed = image.root();
        assert_eq!((packed.view.inodes, packed.view.bytes, packed.next_inode), (1, 0, 2));
        assert_eq!((packed.packed_time, packed.packed_time_ns), (NOW.secs, NOW.nanos));
        let slots: Vec<_> = Heads::read(storage).unwrap().slots().map(|head| (head.generation, head.clean)).collect();
        assert_eq!(slots, [(1, true), (2, true)]);
    }

    #[test]
    fn an_empty_image_is_what_pack_makes_of_an_empty_directory() {
        struct Silent;
        impl super::super::PackObserver for Silent {
            fn warning(&self, path: &[u8], message: &str) {
                panic!("{}: {message}", path.escape_ascii());
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let options = PackOptions { timestamp: Some(0), owner: Some((0, 0)), ..PackOptions::default() };
        let (made, packed) = (dir.path().join("made"), dir.path().join("packed"));
        empty(&made, &options).unwrap();
        super::super::pack(&[source], &packed, &options, &Silent).unwrap();
        assert_eq!(std::fs::read(&made).unwrap(), std::fs::read(&packed).unwrap());
        assert!(matches!(empty(&made, &options), Err(PackError::Exists { .. })));
    }
}
