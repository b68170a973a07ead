//! The files of the image being written (its lock note and its thaw log, too), which are never packed into it.
//!
//! They are recognised by device and inode, so under any name and path. Made before the walk, which uses it.

use super::PackError;
use crate::storage::{AtomicError, AtomicFile, FileId, LogBeside, follow, note_beside};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const REPLACED: &str = "left out: it is the image that is being replaced";
const THAW_LOG: &str = "left out: it is the thaw log of the image that is being written";
const LOCK: &str = "left out: it is the lock file of the image";

/// The files of the image that is being written, which are not packed. Each is listed with the message that is reported
/// when it is left out, if any.
#[derive(Debug, Default)]
pub(super) struct Own(Vec<(FileId, Option<&'static str>)>);

impl Own {
    /// Lists the files of an image that is being written.
    pub(super) fn of(file: &AtomicFile) -> Result<Self, PackError> {
        let image = file.target().path();
        let own = file.own_inodes().map_err(|source| PackError::io("stat", &image, source))?;
        let mut own: Vec<_> = own.into_iter().map(|id| (id, None)).collect();
        own.extend(file.target().replaced().map(|id| (id, Some(REPLACED))));
        own.extend(thaw_log(file.target().thaw_log()?));
        Ok(Own(own))
    }

    /// Lists the files that belong to an image of this name, whether it exists or not: the benchmark does not count
    /// files that `pack` would leave out.
    pub(super) fn of_name(image: &Path) -> Result<Self, PackError> {
        let image = follow(image)?;
        let mut own: Vec<_> =
            image.metadata().iter().map(|found| ((found.dev(), found.ino()), Some(REPLACED))).collect();
        own.extend(note_beside(&image).map(|id| (id, Some(LOCK))));
        let log = LogBeside::find(&image).map_err(|source| AtomicError::ThawLogUnknown { image, source })?;
        own.extend(thaw_log(log));
        Ok(Own(own))
    }

    /// Returns `None` if the inode is to be packed. If it is left out, returns the message to report, if any.
    pub(super) fn left_out(&self, device: u64, inode: u64) -> Option<Option<&'static str>> {
        self.0.iter().find(|(id, _)| *id == (device, inode)).map(|(_, note)| *note)
    }
}

/// Lists the files of a thaw log. A directory of that name that also holds other files belongs to somebody, and is
/// packed.
fn thaw_log(log: Option<LogBeside>) -> impl Iterator<Item = (FileId, Option<&'static str>)> {
    let files = log.filter(|log| log.only_segments).map_or_else(Vec::new, |log| log.files);
    files.into_iter().map(|id| (id, Some(THAW_LOG)))
}
