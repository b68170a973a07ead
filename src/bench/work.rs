//! The work directory of a run: made for it alone, and removed with everything in it.
//!
//! Invariants: its name cannot be guessed and nobody else can enter it. Nothing is removed through a mount: mounts
//! below it are unmounted first; if that fails, the directory remains and its name is reported. Called by `run`.

use super::mounts::{abort_below, take_away_below};
use rustix::fs::{Mode, OFlags};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Number of random bytes in the directory's name.
const RANDOM: usize = 16;

/// A directory that is removed when this value is dropped.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    /// Makes a directory in `base`, which must be absolute and exist.
    ///
    /// # Errors
    /// Fails if it cannot be made, or the kernel has no random bytes.
    pub fn new(base: &Path) -> io::Result<WorkDir> {
        let mut random = [0; RANDOM];
        let got = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        if got != RANDOM {
            return Err(io::Error::other("the kernel gives no random bytes"));
        }
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = base.join(format!("floe-bench-{name}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(WorkDir { path })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes an empty subdirectory, or empties the existing one.
    ///
    /// # Errors
    /// Fails if it cannot be made or emptied.
    pub fn fresh(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        remove(&path)?;
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }

    /// Removes the directory now.
    ///
    /// # Errors
    /// Fails if something in it cannot be removed, or is mounted and cannot be unmounted.
    pub fn end(mut self) -> io::Result<()> {
        let path = std::mem::take(&mut self.path);
        remove(&path)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        abort_below(&self.path);
        if let Err(error) = remove(&self.path) {
            tracing::error!(path = %self.path.display(), %error, "the work directory cannot be removed");
        }
    }
}

/// Unmounts everything in the directory `path` and removes the directory, which need not exist.
fn remove(path: &Path) -> io::Result<()> {
    take_away_below(path)?;
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    match gone(fs::remove_dir_all(path)) {
        // An unprivileged extraction may leave directories that their owner may not write to.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            gone(fs::remove_dir_all(path))
        }
        other => other,
    }
}

/// Gives the owner all permissions on every directory of a tree.
fn open_up(root: &Path) -> io::Result<()> {
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Returns the bytes that this process may still write to the file system of `path`.
///
/// # Errors
/// Fails if statvfs fails.
pub fn free(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Returns the most bytes that an image of `bytes` may take: incompressible data, its tables, and temporary files next
/// to it.
pub fn needed(bytes: u64) -> u64 {
    const TABLES: u64 = 32;
    const ROOM: u64 = 64 << 20;
    bytes.saturating_add(bytes / TABLES).saturating_add(ROOM)
}

/// Writes all dirty pages, then drops the kernel's page cache, dentries and inodes. Returns whether it could: only root
/// can.
pub fn drop_caches() -> bool {
    const ALL: &[u8] = b"3";
    rustix::fs::sync();
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open("/proc/sys/vm/drop_caches", flags, Mode::empty()) else { return false };
    matches!(rustix::io::write(file, ALL), Ok(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_directory_is_ours_alone_and_goes_with_everything_in_it() {
        let base = tempfile::tempdir().unwrap();
        let work = WorkDir::new(base.path()).unwrap();
        assert_eq!(fs::metadata(work.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let image = work.fresh("image").unwrap();
        fs::create_dir_all(image.join("a/b")).unwrap();
        fs::write(image.join("a/b/c"), "x").unwrap();
        std::os::unix::fs::symlink("/", image.join("root")).unwrap();
        fs::set_permissions(image.join("a/b"), fs::Permissions::from_mode(0o500)).unwrap();
        assert_eq!(fs::read_dir(work.fresh("image").unwrap()).unwrap().count(), 0, "emptied");
        let path = work.path().to_owned();
        drop(work);
        assert!(!path.exists());
        assert!(Path::new("/etc").exists());
        let work = WorkDir::new(base.path()).unwrap();
        assert_ne!(work.path(), path);
        work.end().unwrap();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }
}
