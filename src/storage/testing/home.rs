//! A [`LogHome`] of a given folder: one in memory, one that fails, or one that records.

use crate::storage::{Folder, LogHome, Space, StorageError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Free bytes that the home reports: so few that segments have the smallest size of a writer.
const FREE: u64 = 1 << 20;

/// A home whose directory always exists. It passes all operations on to the folder, so they fail and are recorded
/// there.
pub struct FolderHome {
    folder: Arc<dyn Folder>,
    aside: Mutex<Vec<BTreeMap<u64, Vec<u8>>>>,
}

impl FolderHome {
    /// Makes a home with this folder.
    pub fn new(folder: Arc<dyn Folder>) -> Self {
        FolderHome { folder, aside: Mutex::default() }
    }

    /// Returns the segments of each log that was set aside.
    pub fn aside(&self) -> Vec<BTreeMap<u64, Vec<u8>>> {
        self.aside.lock().clone()
    }
}

impl LogHome for FolderHome {
    fn find(&self) -> Result<Option<Arc<dyn Folder>>, StorageError> {
        Ok(if self.folder.list()?.is_empty() { None } else { Some(Arc::clone(&self.folder)) })
    }

    fn create(&self) -> Result<Arc<dyn Folder>, StorageError> {
        self.folder.sync()?;
        Ok(Arc::clone(&self.folder))
    }

    fn set_aside(&self) -> Result<String, StorageError> {
        let mut segments = BTreeMap::new();
        for number in self.folder.list()? {
            let segment = self.folder.open(number)?;
            let mut bytes = vec![0; segment.len()? as usize];
            segment.read_at(0, &mut bytes)?;
            segments.insert(number, bytes);
        }
        for &number in segments.keys() {
            self.folder.remove(number)?;
        }
        self.folder.sync()?;
        let mut aside = self.aside.lock();
        aside.push(segments);
        Ok(format!("{}.aside-{}", self.describe(), aside.len()))
    }

    fn remove(&self) -> Result<(), StorageError> {
        assert_eq!(self.folder.list()?, [0u64; 0], "the directory is removed only when it is empty");
        self.folder.sync()
    }

    fn check_image(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn describe(&self) -> String {
        "thaw log in memory".to_owned()
    }

    fn space(&self) -> Result<Space, StorageError> {
        Ok(Space { free: FREE, total: FREE })
    }
}
