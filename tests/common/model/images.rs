//! Images that programs begin with: an empty one, and a packed one with everything that needs care when it is changed
//! (contents, tiny contents and xattr sets with several users, files of one subchunk, holes, hard links). Called by the
//! tests.

use super::rng::written;
use floe::format::codec::Compression;
use floe::format::params::{Chunker, Params};
use floe::format::rows::Time;
use floe::pack::{PackObserver, PackOptions, empty_into, pack};
use floe::storage::testing::MemoryStorage;
use rustix::fs::XattrFlags;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

/// Which image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Only a root directory.
    Empty,
    /// The packed tree, cut by content.
    Packed,
    /// The packed tree, cut every 32 KiB.
    Fixed,
    /// A packed tree without large files.
    Small,
}

impl Start {
    /// The images for long programs.
    pub const ALL: [Start; 3] = [Start::Empty, Start::Packed, Start::Fixed];

    /// The image's bytes.
    pub fn image(self) -> Vec<u8> {
        match self {
            Start::Empty => {
                let storage = Arc::new(MemoryStorage::new());
                empty_into(storage.clone(), &options(Chunker::DEFAULT)).unwrap();
                storage.to_bytes()
            }
            Start::Packed => packed(Chunker::FastCdc { min: 2 << 10, avg: 8 << 10, max: 32 << 10 }, 1),
            Start::Fixed => packed(Chunker::Fixed(32 << 10), 1),
            Start::Small => packed(Chunker::Fixed(4 << 10), 16),
        }
    }
}

fn options(chunker: Chunker) -> PackOptions {
    PackOptions {
        params: Params { superchunk_size: 1 << 20, chunker, ..Params::default() },
        compression: Compression::Zstd(1),
        now: Time { secs: 1_700_000_000, nanos: 5 },
        ..PackOptions::default()
    }
}

struct NoWarnings;

impl PackObserver for NoWarnings {
    fn warning(&self, path: &[u8], message: &str) {
        panic!("{}: {message}", String::from_utf8_lossy(path));
    }
}

/// `small`: the factor by which large files are smaller.
fn packed(chunker: Chunker, small: usize) -> Vec<u8> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tree = dir.path().join("tree");
    lay_out(&tree, small);
    let image = dir.path().join("image.floe");
    pack(&[tree], &image, &options(chunker), &NoWarnings).unwrap();
    fs::read(image).unwrap()
}

/// Uses the names that programs use.
fn lay_out(tree: &Path, small: usize) {
    for dir in ["", "a", "a/b", "c", "c/a"] {
        fs::create_dir(tree.join(dir)).unwrap();
    }
    let put = |name: &str, bytes: &[u8]| fs::write(tree.join(name), bytes).unwrap();
    // Tiny contents: alone, and one with three users.
    put("a/a", &written(1, 511));
    put("a/c", &written(2, 40));
    put("c/b", &written(2, 40));
    put("c/c", &written(2, 40));
    // One subchunk: alone, and with two users.
    put("b", &written(3, 512));
    put("a/d", &written(4, 1700));
    put("c/d", &written(4, 1700));
    // Contents of several subchunks: alone, and with two users.
    put("d", &written(5, 300_000 / small));
    put("e", &written(5, 300_000 / small));
    put("a/e", &written(6, ((1 << 20) + 70_000) / small));
    put("f", b"");
    sparse(&tree.join("g"), &[(0, 5000), (100_000, 40_000)], 400_000);
    sparse(&tree.join("c/g"), &[(65_536, 32_768)], 65_536 + 32_768);
    sparse(&tree.join("a/g"), &[], 1 << 33);
    fs::hard_link(tree.join("d"), tree.join("a/f")).unwrap();
    fs::hard_link(tree.join("a/c"), tree.join("c/f")).unwrap();
    symlink("a/b", tree.join("a/b/a")).unwrap();
    fs::set_permissions(tree.join("c"), fs::Permissions::from_mode(0o2775)).unwrap();
    fs::set_permissions(tree.join("b"), fs::Permissions::from_mode(0o6755)).unwrap();
    // Sets of xattrs: one within the row, one large with two users.
    xattr(&tree.join("b"), "user.0", &written(7, 50));
    for name in ["d", "c/d"] {
        xattr(&tree.join(name), "user.0", &written(8, 300));
        xattr(&tree.join(name), "user.2", &written(9, 700));
    }
    xattr(&tree.join("a/b"), "user.4", &written(10, 200));
}

fn sparse(path: &Path, parts: &[(u64, usize)], size: u64) {
    let file = File::create(path).unwrap();
    for &(offset, len) in parts {
        file.write_all_at(&written(offset ^ len as u64, len), offset).unwrap();
    }
    file.set_len(size).unwrap();
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}
