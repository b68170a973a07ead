//! The regular files of a tree in path order, and where they have data.
//!
//! Path order: the names of a directory in byte order, and the contents of a directory at the position of its name. A
//! file with several names comes once, at the position of its first one.

use super::{MeasureError, MeasureObserver, go_on};
use crate::format::ids::InodeId;
use crate::format::rows::FileType;
use crate::fs::read::{Fs, Moment};
use crate::fs::{FsError, SeekTo};
use crate::meta::Dirents;
use std::collections::HashSet;

/// A range of a file that is not a hole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) inode: InodeId,
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// Passes every range of data in files below directory `root` to `each`, in path order.
pub(super) fn segments(
    fs: &Fs,
    root: InodeId,
    observer: &dyn MeasureObserver,
    each: &mut dyn FnMut(Segment) -> Result<(), MeasureError>,
) -> Result<(), MeasureError> {
    let now = &fs.now();
    // In a hostile image a directory may have several names, or lie within itself.
    let (mut directories, mut linked) = (HashSet::new(), HashSet::new());
    let mut enter = |dir: InodeId| -> Result<Dirents, MeasureError> {
        if !directories.insert(dir) {
            return Err(FsError::io(format!("directory {dir} has more than one name")).into());
        }
        Ok(now.view().dirents(dir, None)?)
    };
    let mut levels = vec![enter(root)?];
    while let Some(entries) = levels.last_mut() {
        go_on(observer)?;
        let Some((_, entry)) = entries.next(now.view())? else {
            levels.pop();
            continue;
        };
        match entry.file_type {
            FileType::Directory => levels.push(enter(entry.inode)?),
            FileType::Regular => {
                let row = now.regular(entry.inode)?;
                if row.links < 2 || linked.insert(entry.inode) {
                    of_file(now, entry.inode, row.size, each)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn of_file(
    now: &Moment<'_>,
    inode: InodeId,
    size: u64,
    each: &mut dyn FnMut(Segment) -> Result<(), MeasureError>,
) -> Result<(), MeasureError> {
    let mut at = 0;
    while at < size {
        let begin = match now.seek(inode, at, SeekTo::Data) {
            Ok(begin) => begin,
            Err(FsError::NoData) => break,
            Err(error) => return Err(error.into()),
        };
        let end = now.seek(inode, begin, SeekTo::Hole)?;
        if end <= begin {
            return Err(FsError::io(format!("inode {inode} has data of no length at offset {begin}")).into());
        }
        each(Segment { inode, begin, end })?;
        at = end;
    }
    Ok(())
}
