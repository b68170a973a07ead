//! Work and memory that grow in proportion to the image, not with its square: checked by counting reads and bytes, not
//! time.

#[path = "common/forge.rs"]
mod forge;

use floe::care::{CheckObserver, CheckOptions, check};
use floe::format::ids::{ContentId, InodeId, SubchunkId, TinyId};
use floe::format::rows::{ContentRef, ContentRow, Extent, FileType};
use floe::fs::{Fs, FsOptions};
use floe::meta::{Image, ImageOptions};
use floe::storage::testing::FaultyStorage;
use forge::Forge;
use std::sync::Arc;

/// Counts the reads, and caches few blocks: each walk through a long content reads it again.
fn open(forge: &Forge) -> (Arc<FaultyStorage<Arc<floe::storage::testing::MemoryStorage>>>, Arc<Fs>) {
    let storage = Arc::new(FaultyStorage::new(forge.build()));
    let image = Image::open(storage.clone(), ImageOptions { block_cache: 32 << 10 }).unwrap();
    (storage, Fs::new(Arc::new(image), FsOptions { readahead: 0, ..FsOptions::default() }))
}

/// Files that all share one content of `extents` extents, each a byte of the same subchunk.
fn shared_content(files: u64, extents: u64) -> Forge {
    let mut forge = Forge::new();
    forge.superchunks.push(vec![(b"x".repeat(4096), None)]);
    for n in 0..extents {
        let extent = Extent::Slice { subchunk: SubchunkId(1), skip: (n % 4096) as u32 };
        forge.contents.insert((1, n), ContentRow { length: 1, extent });
    }
    for n in 0..files {
        forge.file(1, &format!("f{n:06}"), 2 + n, extents, ContentRef::Content(ContentId(1)));
    }
    forge
}

#[test]
fn stat_of_many_files_with_one_content_reads_its_extents_not_once_for_each() {
    const FILES: u64 = 500;
    let reads = |extents| {
        let (storage, fs) = open(&shared_content(FILES, extents));
        let before = storage.count();
        for n in 0..FILES {
            let attr = fs.attr(InodeId(2 + n)).unwrap();
            assert_eq!((attr.size, attr.blocks, attr.file_type), (extents, extents.div_ceil(512), FileType::Regular));
        }
        storage.count() - before
    };
    let (few, many) = (reads(1), reads(20_000));
    assert!(many < few + 100, "{many} reads of blocks where {few} do with one extent");
}

struct Silent;
impl CheckObserver for Silent {}

#[test]
fn check_lists_a_bounded_number_of_bytes_of_paths_and_counts_the_others() {
    const FILES: u64 = 1500;
    let mut forge = Forge::new();
    let (mut dir, mut next) = (1, 2);
    while next < 200 {
        forge.directory(dir, &"d".repeat(250), next);
        (dir, next) = (next, next + 1);
    }
    // Each has lost its bytes, and has a path of nearly 50 KiB.
    for n in 0..FILES {
        forge.file(dir, &format!("f{n:06}"), next + n, 3, ContentRef::Tiny(TinyId(7)));
    }
    let report = check(forge.build(), &CheckOptions::default(), &Silent).unwrap();
    let listed: usize = report.findings.iter().flat_map(|finding| &finding.paths).map(Vec::len).sum();
    let paths: usize = report.findings.iter().map(|finding| finding.paths.len()).sum();
    let more: u64 = report.findings.iter().map(|finding| finding.more_paths).sum();
    assert!(listed <= 16 << 20, "{listed} bytes of paths are kept");
    assert!(paths > 100 && report.findings.iter().flat_map(|finding| &finding.paths).all(|path| path.len() > 45_000));
    assert!(paths as u64 + more >= FILES, "{paths} listed and {more} counted");
}
