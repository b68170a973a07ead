//! Storages for tests: one in memory, one that fails on purpose, and one that simulates power cuts.
//!
//! Only the feature `testing` compiles it; tests and fuzz targets enable that. A release build has none of it.

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
