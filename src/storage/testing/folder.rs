//! A thaw log's folder in memory. It behaves like [`DirectoryFolder`](crate::storage::DirectoryFolder).

use super::MemoryStorage;
use crate::storage::folder::{failed, segment_name};
use crate::storage::{Folder, Operation, Storage, StorageError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A folder of segments in memory.
#[derive(Debug, Default)]
pub struct MemoryFolder {
    segments: Mutex<BTreeMap<u64, Arc<MemoryStorage>>>,
}

impl MemoryFolder {
    /// Makes a folder without segments.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a folder with the given segments.
    pub fn from_segments(segments: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Self {
        let segments = segments.into_iter().map(|(n, bytes)| (n, Arc::new(MemoryStorage::from_bytes(bytes)))).collect();
        MemoryFolder { segments: Mutex::new(segments) }
    }

    /// Returns a copy of all segments.
    pub fn to_segments(&self) -> BTreeMap<u64, Vec<u8>> {
        self.segments.lock().iter().map(|(&number, segment)| (number, segment.to_bytes())).collect()
    }
}

impl Folder for MemoryFolder {
    fn list(&self) -> Result<Vec<u64>, StorageError> {
        Ok(self.segments.lock().keys().copied().collect())
    }

    fn open(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        match self.segments.lock().get(&number) {
            Some(segment) => Ok(segment.clone()),
            None => Err(failed(Operation::Open, Path::new(&segment_name(number)), io::ErrorKind::NotFound.into())),
        }
    }

    fn create(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        let mut segments = self.segments.lock();
        if segments.contains_key(&number) {
            let source = io::ErrorKind::AlreadyExists.into();
            return Err(failed(Operation::Create, Path::new(&segment_name(number)), source));
        }
        let segment = Arc::new(MemoryStorage::new());
        segments.insert(number, segment.clone());
        Ok(segment)
    }

    fn remove(&self, number: u64) -> Result<(), StorageError> {
        match self.segments.lock().remove(&number) {
            Some(_) => Ok(()),
            None => Err(failed(Operation::Remove, Path::new(&segment_name(number)), io::ErrorKind::NotFound.into())),
        }
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
