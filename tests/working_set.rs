//! The working set: each superchunk is inflated once, within the budget, by one thread however many wait.

use floe::format::ids::InodeId;
use floe::format::params::Params;
use floe::fs::{Fs, FsOptions};
use floe::meta::{Image, ImageOptions};
use floe::pack::{PackObserver, PackOptions, pack};
use floe::storage::{Access, FileStorage};
use std::sync::Arc;

const MIB: usize = 1 << 20;
const SUPERCHUNKS: usize = 24;

struct Strict;

impl PackObserver for Strict {
    fn warning(&self, path: &[u8], message: &str) {
        panic!("{}: {message}", String::from_utf8_lossy(path));
    }
}

/// Bytes that do not repeat, so that nothing is shared, and that compress a little.
fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as u8 & 0x7f
        })
        .collect()
}

/// An image of one file of `SUPERCHUNKS` superchunks of 1 MiB, and the file's bytes.
fn image(dir: &std::path::Path) -> (Arc<Image>, Vec<u8>) {
    let tree = dir.join("tree");
    std::fs::create_dir(&tree).unwrap();
    let bytes = bytes(SUPERCHUNKS * MIB - 100_000);
    std::fs::write(tree.join("file"), &bytes).unwrap();
    let path = dir.join("image.floe");
    let params = Params { superchunk_size: MIB as u32, ..Params::default() };
    let options = PackOptions { params, compression: "zstd:1".parse().unwrap(), jobs: 2, ..PackOptions::default() };
    pack(&[tree], &path, &options, &Strict).unwrap();
    let storage = Arc::new(FileStorage::open(&path, Access::ReadOnly).unwrap());
    (Arc::new(Image::open(storage, ImageOptions::default()).unwrap()), bytes)
}

fn fs(image: &Arc<Image>, cache: usize, readahead: usize) -> (Arc<Fs>, InodeId) {
    let fs = Fs::new(image.clone(), FsOptions { cache, readahead, ..FsOptions::default() });
    let inode = fs.resolve(b"file").unwrap().inode;
    (fs, inode)
}

#[test]
fn a_file_read_in_order_inflates_each_superchunk_once_however_small_the_reads() {
    let dir = tempfile::tempdir().unwrap();
    let (image, bytes) = image(dir.path());
    let superchunks = image.root().unique_bytes.div_ceil(MIB as u64);
    for (cache, readahead, step) in [
        (2 * MIB, 0, 32 << 10),
        (2 * MIB, 2, 32 << 10),
        (3 * MIB, 2, 32 << 10),
        (8 * MIB, 2, 128 << 10),
        (8 * MIB, 2, 4096),
    ] {
        let (fs, inode) = fs(&image, cache, readahead);
        let mut out = Vec::new();
        while out.len() < bytes.len() {
            let before = out.len();
            fs.read(inode, before as u64, step, &mut out).unwrap();
            assert!(out.len() > before);
            assert!(fs.working_set().bytes() <= cache, "{} bytes in a cache of {cache}", fs.working_set().bytes());
        }
        assert!(out == bytes);
        let inflations = fs.working_set().counters().inflations;
        // Subchunks do not fill superchunks to the last byte, so there may be a few more.
        assert!((superchunks..=superchunks + 2).contains(&inflations), "{inflations} of about {superchunks}");
        assert_eq!(fs.working_set().counters().inflated_bytes, image.root().unique_bytes);
    }
}

#[test]
fn threads_that_want_the_same_superchunk_inflate_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let (image, bytes) = image(dir.path());
    let (fs, inode) = fs(&image, 64 * MIB, 0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut out = Vec::new();
                fs.read(inode, 0, bytes.len(), &mut out).unwrap();
                assert!(out == bytes);
            });
        }
    });
    assert_eq!(fs.working_set().counters().inflated_bytes, image.root().unique_bytes);
}

#[test]
fn a_working_set_below_one_superchunk_still_serves_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (image, bytes) = image(dir.path());
    let (fs, inode) = fs(&image, 1, 2);
    std::thread::scope(|scope| {
        for n in 0..6usize {
            let (fs, bytes) = (&fs, &bytes);
            scope.spawn(move || {
                for k in 0..20 {
                    let at = (n * 7 + k * 5) % SUPERCHUNKS * MIB;
                    let mut out = Vec::new();
                    fs.read(inode, at as u64, 50_000, &mut out).unwrap();
                    assert!(out[..] == bytes[at..(at + 50_000).min(bytes.len())]);
                }
            });
        }
    });
}
