//! floe is an archival filesystem. It packs a directory tree into one compressed, deduplicated image file, mounts the image
//! through FUSE, and lets programs write to the mount. Written data goes to a log beside the image, and is compressed into the
//! image in the background.
//!
//! This crate is the library behind the program `floe`. The program is the supported interface. The Rust API may change with
//! every version.
//!
//! # Example
//!
//! Pack a directory, open the image, and read a file from it:
//!
//! ```
//! use floe::{fs::{Fs, FsOptions}, meta::{Image, ImageOptions}, pack, storage::{Access, FileStorage}};
//!
//! struct Warnings;
//! impl pack::PackObserver for Warnings {
//!     fn warning(&self, path: &[u8], message: &str) { eprintln!("{}: {message}", path.escape_ascii()) }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! std::fs::create_dir(dir.path().join("notes"))?;
//! std::fs::write(dir.path().join("notes/today.txt"), "hello")?;
//!
//! let image = dir.path().join("notes.floe");
//! pack::pack(&[dir.path().join("notes")], &image, &pack::PackOptions::default(), &Warnings)?;
//!
//! let storage = std::sync::Arc::new(FileStorage::open(&image, Access::ReadOnly)?);
//! let fs = Fs::new(Image::open(storage, ImageOptions::default())?.into(), FsOptions::default());
//! let file = fs.resolve(b"today.txt")?;
//! let mut bytes = Vec::new();
//! fs.read(file.inode, 0, file.size as usize, &mut bytes)?;
//! assert_eq!(bytes, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! A module uses only modules that are further to the right. `tests/house.rs` checks this.
//!
//! ```text
//! cli → bench → fuse → fs, care → freeze → thaw, pack, inflate → chunk, meta → table → log → storage, format
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | [`cli`] | the command line: arguments, messages, progress bars, exit statuses |
//! | [`mod@bench`] | `floe bench`: measures size and speed of floe and of other archivers on the user's data |
//! | [`fuse`] | answers the kernel's FUSE requests with calls to `fs`; the only module that uses `fuser` |
//! | [`fs`] | the filesystem without FUSE: reading, writing, commits, checkpoints, freezing, extraction |
//! | [`care`] | `floe check`: verifies an image and its thaw log, and never writes |
//! | [`freeze`] | makes superchunks of the data that was written to a mount |
//! | [`thaw`] | the thaw log, a write-ahead log beside the image: append, commit, recover, replay |
//! | [`mod@pack`] | the pipeline from a directory tree to an image: scan, read, deduplicate, compress, append |
//! | [`inflate`] | the working set: a bounded cache of decompressed superchunks |
//! | [`chunk`] | splits file data into subchunks by content, hashes them, finds duplicates |
//! | [`meta`] | the tables of an image (inodes, names, contents …), one version or a version with changes on top |
//! | [`table`] | copy-on-write B+trees; knows nothing about the meaning of a row |
//! | [`log`] | checksummed frames: append, sync, read, scan; both the image and the thaw log are made of frames |
//! | [`storage`] | where bytes are kept: files, locks, atomic replacement; in-memory and failing storage for tests |
//! | [`mod@format`] | encodes and decodes every on-disk structure; does no I/O |
//!
//! `ARCHITECTURE.md` describes each module's invariants, the path of a read and of a write, threads, and the order of locks.
//!
//! # Rules that hold everywhere
//!
//! - Only `cli` reads the environment, prints, or asks for the current time (`bench` also measures time). Other modules get
//!   time, randomness and storage as arguments.
//! - Images and logs are untrusted input. Modules that read them return errors, and do not panic; clippy checks this.
//! - Each layer has one error type. `anyhow` is used in `cli` only.

pub mod bench;
pub mod care;
pub mod chunk;
pub mod cli;
pub mod format;
pub mod freeze;
pub mod fs;
pub mod fuse;
pub mod inflate;
pub mod log;
pub mod meta;
pub mod pack;
pub mod storage;
pub mod table;
pub mod thaw;
