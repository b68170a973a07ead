//! The files of the image that is being written: they are never packed into it.
//!
//! Known by device and inode, so by whatever name and path the walk comes to them. Made before the walk, asked by it.

use crate::storage::AtomicFile;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const REPLACED: &str = "left out: it is the image that is being replaced";
const THAW_LOG: &str = "left out: it is the thaw log of the image that is being replaced";

/// What is left out, and what is said of it.
#[derive(Debug, Default)]
pub(super) struct Own(Vec<((u64, u64), Option<&'static str>)>);

impl Own {
    /// The files of an image that is being written.
    pub(super) fn of(file: &AtomicFile) -> io::Result<Self> {
        let mut own: Vec<_> = file.own_inodes()?.into_iter().map(|id| (id, None)).collect();
        if let Some(replaced) = file.target().replaced() {
            own.push((replaced, Some(REPLACED)));
            own.extend(file.target().beside(".thaw").map(|id| (id, Some(THAW_LOG))));
        }
        Ok(Own(own))
    }

    /// The file that would be replaced if an image were written.
    pub(super) fn of_name(image: &Path) -> Self {
        Own(image.metadata().iter().map(|found| ((found.dev(), found.ino()), Some(REPLACED))).collect())
    }

    /// `None` if this inode is to be packed; else what is to be said of it, if anything.
    pub(super) fn left_out(&self, device: u64, inode: u64) -> Option<Option<&'static str>> {
        self.0.iter().find(|(id, _)| *id == (device, inode)).map(|(_, note)| *note)
    }
}
