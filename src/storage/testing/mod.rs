//! Storages that tests lean on: in memory, failing on purpose, and remembering what a power cut could leave.
//!
//! Behind the feature `testing`, which only tests and fuzz targets switch on: nothing here is in a release build.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "only tests use it"
)]

mod faulty;
mod folder;
mod history;
mod home;
mod memory;

pub use faulty::{Fault, FaultyFolder, FaultyStorage, Record};
pub use folder::MemoryFolder;
pub use history::{Fate, FileId, History, RecordingFolder, RecordingStorage, Remains};
pub use home::FolderHome;
pub use memory::MemoryStorage;
