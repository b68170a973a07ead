//! Where an image's thaw log is: the trait [`LogHome`], and [`DirectoryHome`], which is on disk.
//!
//! `IMAGE.thaw` is the log's directory, or a pointer file that names it (`-o thaw=DIR`). Looking for the log changes
//! nothing. The first change creates the directory and the pointer; they are removed with the log. A writer locks the
//! directory, so that two images with the same directory do not take each other's log for their own. Called by `fs`
//! (start, begin, finish).

use super::folder::{DirectoryFolder, Folder, failed, sync_parent};
use super::pointer::{ThawPlace, write_pointer};
use super::{Operation, Space, StorageError};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// File system types (statfs) that keep files in memory (tmpfs, ramfs): nothing there survives a power cut.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The place where the thaw log of an image is kept.
pub trait LogHome: Send + Sync {
    /// Returns the log's directory, if there is one. Changes nothing.
    ///
    /// # Errors
    /// Fails with `Refused` if the directory must not be used, or if it cannot be read.
    fn find(&self) -> Result<Option<Arc<dyn Folder>>, StorageError>;

    /// Returns the log's directory, created if there is none. It is locked for this writer until it is removed or this
    /// value is dropped. Its name is durable when this returns.
    ///
    /// # Errors
    /// Fails with `Refused` if the directory must not be used or is not on a disk, or if it cannot be created.
    fn create(&self) -> Result<Arc<dyn Folder>, StorageError>;

    /// Renames the directory durably, so that a new log can begin. Returns the new path.
    ///
    /// # Errors
    /// Fails if there is no directory, another process writes to it, or it cannot be renamed.
    fn set_aside(&self) -> Result<String, StorageError>;

    /// Removes the directory, which has no segments any more, and its pointer, durably. If the directory holds other
    /// files, it stays.
    ///
    /// # Errors
    /// Fails if it cannot be removed, or it is not known whether the removal is durable.
    fn remove(&self) -> Result<(), StorageError>;

    /// Checks that the image's path still names the image and not another file. Changes nothing.
    ///
    /// # Errors
    /// Fails with `Refused` if it does not, or if that cannot be checked.
    fn check_image(&self) -> Result<(), StorageError>;

    /// Returns the directory's path, for messages.
    fn describe(&self) -> String;

    /// Returns the space of the file system that the directory is on, or would be on.
    ///
    /// # Errors
    /// Fails if the backend cannot tell.
    fn space(&self) -> Result<Space, StorageError>;
}

/// The user's options for the thaw log of an image.
#[derive(Debug, Clone, Default)]
pub struct HomeOptions {
    /// Path of the log's directory, if it is not `IMAGE.thaw` (`-o thaw=DIR`). A log that a pointer names is found
    /// without this option.
    pub elsewhere: Option<PathBuf>,
    /// Whether a file system in memory is allowed (`--volatile`).
    pub volatile: bool,
}

/// The place of an image's thaw log: the directory `IMAGE.thaw`, or the directory that a file of this name (a pointer)
/// names.
#[derive(Debug)]
pub struct DirectoryHome {
    image: PathBuf,
    /// Device and inode number of the image.
    identity: (u64, u64),
    /// Path `IMAGE.thaw` beside the image.
    name: PathBuf,
    elsewhere: Option<PathBuf>,
    volatile: bool,
    /// The log's directory, while this writer has locked it.
    own: Mutex<Option<Arc<DirectoryFolder>>>,
}

impl DirectoryHome {
    /// Makes the place for the image at `image`, which must exist. All paths are made absolute here, because the
    /// working directory may change later.
    ///
    /// # Errors
    /// Fails if a path cannot be resolved.
    pub fn new(image: &Path, options: HomeOptions) -> Result<Self, StorageError> {
        let image = real(image)?;
        let elsewhere = options.elsewhere.as_deref().map(real_or_new).transpose()?;
        let name = ThawPlace::name(&image);
        let identity = identity(&image)?;
        Ok(DirectoryHome { image, identity, name, elsewhere, volatile: options.volatile, own: Mutex::new(None) })
    }

    /// Returns the log's directory, and whether `IMAGE.thaw` leads to it: it is the directory itself, or a pointer to
    /// it.
    fn place(&self) -> Result<(PathBuf, bool), StorageError> {
        Ok(match (ThawPlace::find(&self.name)?, &self.elsewhere) {
            (ThawPlace::Directory(path), _) => (path, true),
            (ThawPlace::Elsewhere(path), _) => (path, true),
            (ThawPlace::Nowhere, Some(path)) => (path.clone(), false),
            (ThawPlace::Nowhere, None) => (self.name.clone(), true),
        })
    }

    /// Returns the directory where a new log begins: the one that the user chose, unless there is a log elsewhere
    /// already; and whether `IMAGE.thaw` leads to it.
    fn place_to_begin(&self) -> Result<(PathBuf, bool), StorageError> {
        let (path, named) = self.place()?;
        match &self.elsewhere {
            Some(wanted) if *wanted != path && path != self.name && is_free(&path)? => Ok((wanted.clone(), false)),
            _ => Ok((path, named)),
        }
    }

    fn refuse_memory(&self, path: &Path) -> Result<(), StorageError> {
        let found = nearest(path, |path| rustix::fs::statfs(path))?;
        // The field's type differs between architectures; only its lower 32 bits count.
        let kind = found.f_type as u64 & 0xffff_ffff;
        if !self.volatile && IN_MEMORY.contains(&kind) {
            let why = "it is on a file system in memory, where nothing survives a power cut (--volatile allows it)";
            return Err(StorageError::Refused { path: path.to_owned(), why });
        }
        Ok(())
    }
}

/// Returns device and inode number of a file.
fn identity(path: &Path) -> Result<(u64, u64), StorageError> {
    let found = std::fs::metadata(path).map_err(|source| failed(Operation::Open, path, source))?;
    Ok((found.dev(), found.ino()))
}

/// Returns whether there is no log in the directory at `path`.
fn is_free(path: &Path) -> Result<bool, StorageError> {
    match DirectoryFolder::open(path) {
        Ok(folder) => Ok(folder.list()?.is_empty()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Asks about `path` or, if it does not exist, about its parent directory.
fn nearest<T>(path: &Path, ask: impl Fn(&Path) -> Result<T, Errno>) -> Result<T, StorageError> {
    let answer = match (ask(path), path.parent()) {
        (Err(Errno::NOENT), Some(parent)) => ask(parent),
        (answer, _) => answer,
    };
    answer.map_err(|errno| failed(Operation::Space, path, errno.into()))
}

fn real(path: &Path) -> Result<PathBuf, StorageError> {
    std::fs::canonicalize(path).map_err(|source| failed(Operation::Open, path, source))
}

/// Returns the real path of a file that exists, or that would be in an existing directory.
fn real_or_new(path: &Path) -> Result<PathBuf, StorageError> {
    match (real(path), path.file_name()) {
        (Err(error), Some(name)) if error.kind() == ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            Ok(real(parent.unwrap_or(Path::new(".")))?.join(name))
        }
        (found, _) => found,
    }
}

impl LogHome for DirectoryHome {
    fn find(&self) -> Result<Option<Arc<dyn Folder>>, StorageError> {
        let (path, _) = self.place()?;
        match DirectoryFolder::open(&path) {
            Ok(folder) => Ok(Some(Arc::new(folder))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self) -> Result<Arc<dyn Folder>, StorageError> {
        let mut own = self.own.lock();
        let (path, named) = self.place_to_begin()?;
        if let Some(folder) = own.as_ref().filter(|folder| folder.path() == path) {
            return Ok(folder.clone());
        }
        self.refuse_memory(&path)?;
        let folder = Arc::new(DirectoryFolder::create(&path)?);
        folder.lock()?;
        if named {
            // The process that made the pointer may have been killed before its name was durable.
            sync_parent(&self.name)?;
        } else {
            write_pointer(&self.name, &path)?;
        }
        *own = Some(folder.clone());
        Ok(folder)
    }

    fn set_aside(&self) -> Result<String, StorageError> {
        let mut own = self.own.lock();
        let (path, _) = self.place()?;
        let folder = match own.take().filter(|folder| folder.path() == path) {
            Some(folder) => folder,
            None => {
                let folder = Arc::new(DirectoryFolder::open(&path)?);
                folder.lock()?;
                folder
            }
        };
        let aside = DirectoryFolder::set_aside(folder.path())?;
        Ok(aside.display().to_string())
    }

    fn remove(&self) -> Result<(), StorageError> {
        let mut own = self.own.lock();
        let (path, named) = self.place()?;
        match rustix::fs::rmdir(&path) {
            Ok(()) => sync_parent(&path)?,
            Err(Errno::NOENT) => {}
            // It holds other files, or a file system is mounted there.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) if is_free(&path)? => {}
            Err(errno) => return Err(failed(Operation::Remove, &path, errno.into())),
        }
        if named && path != self.name {
            std::fs::remove_file(&self.name).map_err(|source| failed(Operation::Remove, &self.name, source))?;
            sync_parent(&self.name)?;
        }
        *own = None;
        Ok(())
    }

    fn check_image(&self) -> Result<(), StorageError> {
        match identity(&self.image) {
            Ok(found) if found == self.identity => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => {
                let why = "the image at this path was replaced or removed while it was in use";
                Err(StorageError::Refused { path: self.image.clone(), why })
            }
        }
    }

    fn describe(&self) -> String {
        self.place().map_or_else(|_| self.name.clone(), |(path, _)| path).display().to_string()
    }

    fn space(&self) -> Result<Space, StorageError> {
        let (path, _) = self.place_to_begin()?;
        let found = nearest(&path, |path| rustix::fs::statvfs(path))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Space { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        image: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let image = dir.path().canonicalize().unwrap().join("a.floe");
            std::fs::write(&image, "image").unwrap();
            Place { dir, image }
        }

        fn home(&self, elsewhere: Option<&str>) -> DirectoryHome {
            let elsewhere = elsewhere.map(|name| self.dir.path().join(name));
            DirectoryHome::new(&self.image, HomeOptions { elsewhere, volatile: true }).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.dir.path()).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_log_lives_beside_its_image_and_leaves_nothing_when_it_is_removed() {
        let place = Place::new();
        let home = place.home(None);
        assert!(home.find().unwrap().is_none());
        assert!(home.space().unwrap().total > 0);
        assert_eq!(place.names(), ["a.floe"], "looking makes nothing");
        home.create().unwrap().create(0).unwrap();
        assert_eq!(place.names(), ["a.floe", "a.floe.thaw"]);
        assert_eq!(home.find().unwrap().unwrap().list().unwrap(), [0]);
        assert!(home.remove().is_err(), "a directory with a segment stays");
        home.find().unwrap().unwrap().remove(0).unwrap();
        home.remove().unwrap();
        assert_eq!(place.names(), ["a.floe"]);
        home.remove().unwrap();
    }

    #[test]
    fn a_log_in_a_chosen_directory_is_found_without_choosing_it_again() {
        let place = Place::new();
        place.home(Some("log")).create().unwrap().create(3).unwrap();
        assert_eq!(place.names(), ["a.floe", "a.floe.thaw", "log"]);
        for home in [place.home(None), place.home(Some("other"))] {
            assert_eq!(home.find().unwrap().unwrap().list().unwrap(), [3]);
            assert_eq!(home.describe(), place.image.with_file_name("log").display().to_string());
            home.create().unwrap();
        }
        assert_eq!(place.names(), ["a.floe", "a.floe.thaw", "log"]);
        // There is no log in the old place, so a new one begins in the chosen directory.
        place.home(None).find().unwrap().unwrap().remove(3).unwrap();
        place.home(Some("other")).create().unwrap().create(7).unwrap();
        assert_eq!(place.home(None).find().unwrap().unwrap().list().unwrap(), [7]);
        place.home(None).find().unwrap().unwrap().remove(7).unwrap();
        std::fs::write(place.dir.path().join("other/notes"), "somebody's").unwrap();
        place.home(None).remove().unwrap();
        assert_eq!(place.names(), ["a.floe", "log", "other"], "what others have in it stays");
        // A pointer to a directory that does not exist counts as no pointer.
        place.home(Some("log")).create().unwrap();
        std::fs::remove_dir(place.dir.path().join("log")).unwrap();
        assert!(place.home(None).find().unwrap().is_none());
    }

    #[test]
    fn a_directory_that_another_writer_uses_is_neither_taken_nor_set_aside() {
        let place = Place::new();
        let other = place.dir.path().join("b.floe");
        std::fs::write(&other, "image").unwrap();
        let elsewhere = Some(place.dir.path().join("log"));
        let second = DirectoryHome::new(&other, HomeOptions { elsewhere, volatile: true }).unwrap();
        let first = place.home(Some("log"));
        first.create().unwrap().create(0).unwrap();
        first.create().unwrap();
        for error in [second.create().err().unwrap(), second.set_aside().unwrap_err()] {
            assert!(matches!(error, StorageError::Refused { .. }), "{error}");
        }
        drop(first);
        assert_eq!(second.set_aside().unwrap(), place.image.with_file_name("log.aside-1").display().to_string());
        second.create().unwrap();
        assert_eq!(place.names(), ["a.floe", "a.floe.thaw", "b.floe", "b.floe.thaw", "log", "log.aside-1"]);
    }

    #[test]
    fn an_image_that_was_replaced_under_its_writer_is_noticed() {
        let place = Place::new();
        let home = place.home(None);
        home.check_image().unwrap();
        let moved = place.dir.path().join("b.floe");
        std::fs::rename(&place.image, &moved).unwrap();
        assert!(matches!(home.check_image(), Err(StorageError::Refused { .. })));
        std::fs::write(&place.image, "another").unwrap();
        assert!(matches!(home.check_image(), Err(StorageError::Refused { .. })));
        std::fs::rename(&moved, &place.image).unwrap();
        home.check_image().unwrap();
    }

    #[test]
    fn a_log_on_a_file_system_in_memory_is_refused_unless_allowed() {
        let Ok(shm) = tempfile::tempdir_in("/dev/shm") else { return };
        let place = Place::new();
        let home = |volatile| {
            let elsewhere = Some(shm.path().join("log"));
            DirectoryHome::new(&place.image, HomeOptions { elsewhere, volatile }).unwrap()
        };
        let refused = home(false).create().err().unwrap();
        assert!(refused.to_string().contains("in memory"), "{refused}");
        assert_eq!(place.names(), ["a.floe"]);
        assert!(!shm.path().join("log").exists());
        home(true).create().unwrap();
        // Going on with it is the same question.
        assert!(home(false).create().is_err());
    }
}
