//! Finds the thaw log beside an image, by its files.
//!
//! This module reads names and lengths of the log's files, not their contents. A log that holds bytes may be the only
//! copy of what somebody wrote, so no image is made beside one or in place of its image. Called by `target`, and by
//! `cli`, which leaves out an image's own files.

use super::StorageError;
use super::error::Operation;
use super::folder::{failed, segment_number};
use super::pointer::ThawPlace;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Device and inode number of a file.
pub type FileId = (u64, u64);

/// The thaw log beside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogBeside {
    /// Path of the log's directory: `IMAGE.thaw`, or the directory that a file of this name (a pointer) names.
    pub directory: PathBuf,
    /// Bytes of all segments of the log.
    pub bytes: u64,
    /// Whether the directory holds nothing but segments.
    pub only_segments: bool,
    /// Ids of `IMAGE.thaw`, and of the directory if it is elsewhere.
    pub files: Vec<FileId>,
}

impl LogBeside {
    /// Finds the thaw log of `image`; the image need not exist. Returns `None` if `IMAGE.thaw` does not exist, or is a
    /// file that is not a pointer to a directory.
    ///
    /// # Errors
    /// Fails if there is a directory or a pointer that cannot be read.
    pub fn find(image: &Path) -> Result<Option<Self>, StorageError> {
        let name = ThawPlace::name(image);
        let directory = match ThawPlace::find(&name) {
            Ok(ThawPlace::Nowhere) => return Ok(None),
            Ok(ThawPlace::Directory(path) | ThawPlace::Elsewhere(path)) => path,
            // A symlink: floe does not follow it as a log, but it may lead to one.
            Err(StorageError::Refused { .. }) if name.is_dir() => name.clone(),
            Err(StorageError::Refused { .. }) => return Ok(None),
            // The image's name may have the maximum length; then `IMAGE.thaw` cannot exist.
            Err(error) if error.kind() == ErrorKind::InvalidFilename => return Ok(None),
            Err(error) => return Err(error),
        };
        let cannot = |source| failed(Operation::Read, &directory, source);
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(None),
            entries => entries.map_err(cannot)?,
        };
        let (mut bytes, mut only_segments) = (0u64, true);
        for entry in entries {
            let entry = entry.map_err(cannot)?;
            match entry.file_name().to_str().and_then(segment_number) {
                Some(_) => bytes = bytes.saturating_add(entry.metadata().map_err(cannot)?.len()),
                None => only_segments = false,
            }
        }
        let ids = [name.symlink_metadata().ok(), directory.metadata().ok()];
        let mut files: Vec<FileId> = ids.iter().flatten().map(id).collect();
        files.dedup();
        Ok(Some(LogBeside { directory, bytes, only_segments, files }))
    }
}

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::super::folder::segment_name;
    use super::super::pointer::write_pointer;
    use super::*;

    #[test]
    fn a_log_is_found_with_its_bytes_directly_through_a_pointer_and_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (image, name) = (dir.path().join("a.floe"), dir.path().join("a.floe.thaw"));
        assert_eq!(LogBeside::find(&image).unwrap(), None);
        std::fs::write(&name, "some other file").unwrap();
        assert_eq!(LogBeside::find(&image).unwrap(), None);
        std::fs::remove_file(&name).unwrap();

        let log = dir.path().join("log");
        std::fs::create_dir(&log).unwrap();
        write_pointer(&name, &log).unwrap();
        let found = LogBeside::find(&image).unwrap().unwrap();
        assert_eq!((found.bytes, found.only_segments, found.files.len()), (0, true, 2));
        std::fs::write(log.join(segment_name(0)), [0; 100]).unwrap();
        std::fs::write(log.join(segment_name(1)), [0; 11]).unwrap();
        assert_eq!(LogBeside::find(&image).unwrap().unwrap().bytes, 111);

        std::fs::remove_file(&name).unwrap();
        std::os::unix::fs::symlink(&log, &name).unwrap();
        assert_eq!(LogBeside::find(&image).unwrap().unwrap().bytes, 111);
        std::fs::remove_file(&name).unwrap();
        std::fs::rename(&log, &name).unwrap();
        std::fs::write(name.join("note"), "of somebody").unwrap();
        let found = LogBeside::find(&image).unwrap().unwrap();
        assert_eq!((found.bytes, found.only_segments, found.files.len()), (111, false, 1));
    }

    #[test]
    fn a_pointer_to_a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        write_pointer(&dir.path().join("a.floe.thaw"), &dir.path().join("unplugged")).unwrap();
        assert!(matches!(LogBeside::find(&dir.path().join("a.floe")), Err(StorageError::Io { .. })));
    }
}
