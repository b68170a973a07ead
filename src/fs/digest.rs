//! One hash over everything that is visible in a tree, independent of how an image stores it.
//!
//! Two trees with the same digest have the same names, types, permissions, owners, mtimes, link targets, device
//! numbers, xattrs, hard links and bytes. Chunker, codec, ids and packing order do not change it. Nor do holes (they
//! read as zeros), link counts, ctime and atime. For tests, and for people who compare trees.
//!
//! The digest is BLAKE3-32 of `floe digest 1` and a zero byte, then one record for each name, a directory before what is
//! in it, the names of one directory in the order of their bytes. Integers are little-endian. A record is
//!
//! - u64 length of the path from the digested root, the path (the root's is empty; `/` between names);
//! - if the inode had a name before: u8 0, u64 number of the record of the first name (the root's is 0);
//! - else: u8 type as in dirents, u16 permissions, u32 uid, u32 gid, i64 seconds and u32 nanoseconds of mtime; u64 number of
//!   xattrs, then for each, by name, u64 length and bytes of the name, u64 length and bytes of the value; then
//!   - of a regular file: u64 size, and 32 bytes: BLAKE3 of, for each piece of 64 KiB (the last may be shorter) that has a
//!     byte other than zero, in order: u64 offset, the bytes;
//!   - of a symlink: u64 length and bytes of the target;
//!   - of a device: u32 major, u32 minor.

use super::read::{Fs, Moment};
use super::{Attr, FsError, SeekTo};
use crate::format::ids::InodeId;
use crate::format::rows::FileType;
use crate::meta::Dirents;
use std::collections::{HashMap, HashSet};

const BEGIN: &[u8] = b"floe digest 1\0";
/// Length in bytes of a piece that is left out if it is all zero: otherwise a hole of a terabyte would have to be
/// hashed.
const PIECE: u64 = 64 << 10;
/// Number of bytes of one read.
const READ: u64 = 1 << 20;

/// Computes the digest of the tree at `root`, which need not be a directory.
///
/// # Errors
/// Fails with the first thing that cannot be read, with its path; with `Io` if directories contradict each other.
pub fn digest(fs: &Fs, root: InodeId) -> Result<[u8; 32], FsError> {
    let now = &fs.now();
    let mut digest = Digest {
        now,
        hasher: blake3::Hasher::new(),
        records: 0,
        first_names: HashMap::new(),
        directories: HashSet::new(),
        path: Vec::new(),
        buffer: Vec::new(),
    };
    digest.hasher.update(BEGIN);
    let attr = now.attr(root)?;
    digest.entry(&attr)?;
    if attr.is_dir() {
        digest.tree(root)?;
    }
    Ok(*digest.hasher.finalize().as_bytes())
}

struct Digest<'a> {
    now: &'a Moment<'a>,
    hasher: blake3::Hasher,
    records: u64,
    /// Number of the record of the first name of each inode that may have several names.
    first_names: HashMap<InodeId, u64>,
    /// Directories entered so far: in a hostile image a directory may have several names, or lie within itself.
    directories: HashSet<InodeId>,
    path: Vec<u8>,
    buffer: Vec<u8>,
}

impl Digest<'_> {
    fn tree(&mut self, root: InodeId) -> Result<(), FsError> {
        let view = self.now.view();
        let mut levels: Vec<(Dirents, usize)> = vec![self.enter(root)?];
        while let Some((entries, path_len)) = levels.last_mut() {
            let path_len = *path_len;
            let next = entries.next(view)?;
            self.path.truncate(path_len);
            let Some((name, row)) = next else {
                levels.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            let attr = self.now.attr(row.inode).map_err(|error| self.at_path(error))?;
            if attr.file_type != row.file_type {
                return Err(FsError::io(format!(
                    "inode {}: its type differs from the one in its directory",
                    row.inode
                )));
            }
            self.entry(&attr).map_err(|error| self.at_path(error))?;
            if attr.is_dir() {
                levels.push(self.enter(row.inode)?);
            }
        }
        Ok(())
    }

    /// Adds the path to an error.
    fn at_path(&self, error: FsError) -> FsError {
        FsError::io(format!("'{}': {error}", String::from_utf8_lossy(&self.path)))
    }

    fn enter(&mut self, dir: InodeId) -> Result<(Dirents, usize), FsError> {
        if !self.directories.insert(dir) {
            return Err(FsError::io(format!("directory {dir} has more than one name")));
        }
        Ok((self.now.view().dirents(dir, None)?, self.path.len()))
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    fn entry(&mut self, attr: &Attr) -> Result<(), FsError> {
        let record = self.records;
        self.records += 1;
        let path = std::mem::take(&mut self.path);
        self.bytes(&path);
        self.path = path;
        if attr.links > 1 && !attr.is_dir() {
            if let Some(first) = self.first_names.get(&attr.inode) {
                self.hasher.update(&[0]);
                self.hasher.update(&first.to_le_bytes());
                return Ok(());
            }
            self.first_names.insert(attr.inode, record);
        }
        self.hasher.update(&[attr.file_type.number() as u8]);
        self.hasher.update(&attr.permissions.to_le_bytes());
        self.hasher.update(&attr.uid.to_le_bytes());
        self.hasher.update(&attr.gid.to_le_bytes());
        self.hasher.update(&attr.mtime.secs.to_le_bytes());
        self.hasher.update(&attr.mtime.nanos.to_le_bytes());
        let xattrs = self.now.xattrs(attr.inode)?;
        self.hasher.update(&(xattrs.0.len() as u64).to_le_bytes());
        for xattr in &xattrs.0 {
            self.bytes(&xattr.name);
            self.bytes(&xattr.value);
        }
        match attr.file_type {
            FileType::Regular => {
                self.hasher.update(&attr.size.to_le_bytes());
                let hash = self.file(attr)?;
                self.hasher.update(&hash);
            }
            FileType::Symlink => {
                let target = self.now.readlink(attr.inode)?;
                self.bytes(&target);
            }
            FileType::BlockDevice | FileType::CharDevice => {
                self.hasher.update(&attr.device.0.to_le_bytes());
                self.hasher.update(&attr.device.1.to_le_bytes());
            }
            FileType::Directory | FileType::Fifo | FileType::Socket => {}
        }
        Ok(())
    }

    fn file(&mut self, attr: &Attr) -> Result<[u8; 32], FsError> {
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < attr.size {
            // If a hole ends here, go back from the data to the beginning of its piece.
            at = match self.now.seek(attr.inode, at, SeekTo::Data) {
                Ok(data) => at.max(data / PIECE * PIECE),
                Err(FsError::NoData) => break,
                Err(error) => return Err(error),
            };
            self.buffer.clear();
            let len = READ.min(attr.size - at);
            self.now.read(attr.inode, at, len as usize, &mut self.buffer)?;
            for (n, piece) in self.buffer.chunks(PIECE as usize).enumerate() {
                if piece.iter().any(|&byte| byte != 0) {
                    hasher.update(&(at + n as u64 * PIECE).to_le_bytes());
                    hasher.update(piece);
                }
            }
            at += len;
        }
        Ok(*hasher.finalize().as_bytes())
    }
}
