//! Lists files as they are frozen, for `floe freeze -v`.
//!
//! A row of a file does not say its names, so the tree is walked once before the freeze, and what is thawed is remembered:
//! memory for each thawed file, and only if a listing was asked for. A file is listed when all of its bytes have left the
//! thaw log. Called by `freeze` and `freeze_mount`.

use super::mount_state::MountState;
use super::progress::Progress;
use super::walk::Walk;
use crate::format::ids::InodeId;
use crate::fs::{Fs, FsOptions, Live};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Returns the first name of each file of an image that has bytes in the thaw log.
///
/// # Errors
/// Fails if the image cannot be read.
pub fn names(live: &Arc<Live>) -> anyhow::Result<HashMap<InodeId, Vec<u8>>> {
    let snapshot = live.snapshot();
    let view = snapshot.view();
    let fs = Fs::over(live.clone(), FsOptions { readahead: 0, ..FsOptions::default() });
    let mut names = HashMap::new();
    Walk::new(&fs).below(InodeId::ROOT, b"", &mut |path, attr| {
        if !attr.is_dir() && view.thawed(attr.inode, 0)?.next(view)?.is_some() {
            names.entry(attr.inode).or_insert_with(|| path.to_vec());
        }
        Ok(true)
    })?;
    Ok(names)
}

/// Thawed files of a mount, in the order in which its freezer takes them.
pub struct Thawed {
    /// Path of the mount's root.
    point: PathBuf,
    files: VecDeque<PathBuf>,
}

impl Thawed {
    /// Walks over the mount and lists thawed files. Files that cannot be examined are left out.
    pub fn of(point: &Path) -> io::Result<Self> {
        let device = point.symlink_metadata()?.dev();
        let (mut files, mut dirs) = (Vec::new(), vec![point.to_owned()]);
        while let Some(dir) = dirs.pop() {
            let Ok(entries) = dir.read_dir() else { continue };
            for entry in entries.filter_map(Result::ok) {
                let path = entry.path();
                match path.symlink_metadata() {
                    Ok(found) if found.is_dir() && found.dev() == device => dirs.push(path),
                    Ok(found) if found.is_file() && is_thawed(&path) => files.push((found.ino(), path)),
                    _ => {}
                }
            }
        }
        files.sort_unstable();
        files.dedup_by_key(|(inode, _)| *inode);
        let files = files.into_iter().map(|(_, path)| path).collect();
        Ok(Thawed { point: point.to_owned(), files })
    }

    /// Prints the files that are frozen by now: the first ones up to one that is not, or with `all` each of them.
    pub fn tell(&mut self, progress: &Progress, all: bool) {
        while let Some(path) = self.files.pop_front() {
            if !is_thawed(&path) {
                progress.list(path.strip_prefix(&self.point).unwrap_or(&path).as_os_str().as_bytes());
            } else if !all {
                self.files.push_front(path);
                return;
            }
        }
    }
}

/// Returns whether a file has bytes in the thaw log. A file that is gone, or may not be examined, does not count.
fn is_thawed(path: &Path) -> bool {
    matches!(MountState::of(path), Ok(Some(state)) if state.number("thawed_bytes") > 0)
}
