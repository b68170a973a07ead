//! Measurements of small images whose results can be worked out by hand.

use super::read_cost::draw;
use super::*;
use crate::format::codec::{Compression, Encoder};
use crate::format::ids::InodeId;
use crate::format::params::{Chunker, Params};
use crate::fs::{Fs, FsOptions};
use crate::meta::{Image, ImageOptions};
use crate::pack::{PackObserver, PackOptions, pack};
use crate::storage::{Access, FileStorage};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Length of every subchunk.
const SUBCHUNK: usize = 64 * KIB;

struct Silent;

impl PackObserver for Silent {
    fn warning(&self, _: &[u8], message: &str) {
        panic!("{message}");
    }
}

/// An image of the files that `fill` writes into a directory, in superchunks of 1 MiB and subchunks of 64 KiB.
fn image(compression: Compression, part_size: Option<u32>, fill: impl Fn(&Path)) -> Arc<Image> {
    let dir = tempfile::tempdir().unwrap();
    let (tree, path) = (dir.path().join("tree"), dir.path().join("image.floe"));
    std::fs::create_dir(&tree).unwrap();
    fill(&tree);
    let chunker = Chunker::Fixed(SUBCHUNK as u32);
    let params = Params { superchunk_size: MIB as u32, part_size, chunker, ..Params::default() };
    pack(&[tree], &path, &PackOptions { params, compression, ..PackOptions::default() }, &Silent).unwrap();
    let storage = Arc::new(FileStorage::open(&path, Access::ReadOnly).unwrap());
    Arc::new(Image::open(storage, ImageOptions::default()).unwrap())
}

/// Bytes that do not compress, different for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes that compress, different for each seed.
fn text(seed: u64, len: usize) -> Vec<u8> {
    noise(seed, len).iter().map(|byte| b'a' + byte % 8).collect()
}

fn alone(image: &Arc<Image>, jobs: usize) -> Alone {
    subchunks_alone(image, AloneOptions { jobs, memory: 1 << 30 }, &()).unwrap()
}

fn cost(image: &Arc<Image>, working_set: usize, reads: &Reads<'_>) -> ReadCost {
    read_cost(image, working_set as u64, reads, &()).unwrap()
}

#[test]
fn each_different_subchunk_is_compressed_once_by_itself_whatever_the_threads() {
    let pieces: Vec<_> = (0..40).map(|seed| text(seed, SUBCHUNK)).collect();
    let (whole, last) = (pieces.concat(), text(99, 1000));
    let image = image(Compression::Zstd(3), None, |dir| {
        std::fs::write(dir.join("a"), &whole).unwrap();
        // Only its end is new.
        std::fs::write(dir.join("b"), [&whole[SUBCHUNK..5 * SUBCHUNK], &last].concat()).unwrap();
        // Stored in the table of tiny contents, and nowhere.
        std::fs::write(dir.join("tiny"), "tiny").unwrap();
        std::fs::write(dir.join("empty"), "").unwrap();
    });
    let mut encoder = Encoder::new(Compression::Zstd(3), None);
    let expected = pieces.iter().chain([&last]).map(|piece| encoder.encode(piece).unwrap().stored.len() as u64).sum();
    let found = alone(&image, 1);
    assert_eq!((found.subchunks, found.raw_bytes, found.alone_bytes), (41, (whole.len() + 1000) as u64, expected));
    assert_eq!(alone(&image, 4), found);
    // Far too little memory: one thread still runs, with what it needs.
    assert_eq!(subchunks_alone(&image, AloneOptions { jobs: 4, memory: 1 }, &()).unwrap(), found);
}

#[test]
fn the_gain_of_superchunks_is_what_subchunks_have_in_common() {
    // Noise, and the same noise with one byte changed: alone, neither gets smaller; together, the second takes almost
    // nothing.
    let first = noise(1, SUBCHUNK);
    let mut second = first.clone();
    second[1000] ^= 1;
    let image = image(Compression::Zstd(12), None, |dir| {
        std::fs::write(dir.join("f"), [&first[..], &second].concat()).unwrap()
    });
    let found = alone(&image, 2);
    assert_eq!((found.subchunks, found.alone_bytes), (2, 2 * SUBCHUNK as u64));
    let together = found.together_bytes as usize;
    assert!((SUBCHUNK..SUBCHUNK + 200).contains(&together), "{together}");
}

#[test]
fn in_parts_and_with_no_codec_subchunks_alone_take_what_they_are() {
    for part_size in [None, Some(100_000)] {
        let image =
            image(Compression::None, part_size, |dir| std::fs::write(dir.join("f"), noise(2, 4 * MIB)).unwrap());
        let found = alone(&image, 2);
        let bytes = 4 * MIB as u64;
        assert_eq!((found.subchunks, found.raw_bytes, found.alone_bytes), (64, bytes, bytes));
        // Four superchunks, each with a table of eleven parts if there are parts.
        assert_eq!(found.together_bytes, bytes + if part_size.is_some() { 4 * (4 + 11 * 12 + 4) } else { 0 });
    }
}

#[test]
fn everything_in_order_inflates_every_superchunk_once_even_in_a_working_set_of_one() {
    let image = image(Compression::Zstd(1), None, |dir| {
        for (n, name) in ["a", "b", "c/d", "c/e"].into_iter().enumerate() {
            std::fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.join(name), text(n as u64, 2 * MIB)).unwrap();
        }
        std::fs::hard_link(dir.join("a"), dir.join("z")).unwrap();
    });
    for working_set in [MIB, 64 * MIB] {
        let cost = cost(&image, working_set, &Reads::Everything);
        assert_eq!((cost.files, cost.read_bytes, cost.inflated_bytes), (4, 8 * MIB as u64, 8 * MIB as u64));
        assert_eq!((cost.inflations, cost.reads, cost.ratio()), (8, 64, Some(1.0)));
    }
}

#[test]
fn a_directory_of_half_a_superchunk_costs_two_bytes_a_byte_read() {
    let image = image(Compression::Zstd(1), None, |dir| {
        for (n, name) in ["a/f", "b/c/f"].into_iter().enumerate() {
            std::fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.join(name), text(n as u64, MIB / 2)).unwrap();
        }
    });
    let both = cost(&image, 64 * MIB, &Reads::Below(b""));
    assert_eq!((both, both.ratio()), (cost(&image, 64 * MIB, &Reads::Everything), Some(1.0)));
    for path in [&b"a"[..], b"b", b"/b/c/"] {
        let cost = cost(&image, 64 * MIB, &Reads::Below(path));
        assert_eq!((cost.files, cost.read_bytes, cost.ratio()), (1, MIB as u64 / 2, Some(2.0)));
    }
    let wrong = |path| read_cost(&image, 1, &Reads::Below(path), &()).unwrap_err();
    assert!(matches!(wrong(b"a/f"), MeasureError::NotDirectory { .. }));
    assert!(matches!(wrong(b"x"), MeasureError::Fs(FsError::NotFound)));
}

#[test]
fn random_reads_inflate_what_the_working_set_does_not_hold() {
    let pages = 8 * MIB as u64 / RANDOM_READ;
    let tree = |dir: &Path| std::fs::write(dir.join("f"), text(1, 8 * MIB)).unwrap();
    let image = image(Compression::Zstd(1), None, tree);
    let reads = Reads::Random { seed: 7, count: 300 };
    let superchunks: Vec<_> = draw(7, 300, pages).into_iter().map(|page| page * RANDOM_READ / MIB as u64).collect();
    let read_bytes = 300 * RANDOM_READ;

    // All superchunks fit: each is inflated when it is first needed.
    let large = cost(&image, 64 * MIB, &reads);
    let met = superchunks.iter().collect::<HashSet<_>>().len() as u64;
    assert_eq!((large.reads, large.read_bytes, large.inflations), (300, read_bytes, met));
    assert_eq!(large.ratio(), Some((met * MIB as u64) as f64 / read_bytes as f64));

    // One superchunk fits: each read in another superchunk than the previous read inflates one.
    let small = cost(&image, MIB, &reads);
    let changes = 1 + superchunks.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
    assert_eq!((small.inflations, small.inflated_bytes), (changes, changes * MIB as u64));
    assert_eq!(cost(&image, MIB, &reads), small);
}

#[test]
fn in_parts_random_reads_inflate_one_part_each() {
    let part = 128 * KIB as u32;
    let image = image(Compression::Zstd(1), Some(part), |dir| std::fs::write(dir.join("f"), text(1, 8 * MIB)).unwrap());
    let cost = cost(&image, 64 * MIB, &Reads::Random { seed: 7, count: 1 });
    assert_eq!((cost.inflations, cost.inflated_bytes, cost.ratio()), (1, part.into(), Some(32.0)));
}

#[test]
fn random_reads_find_every_place_that_has_data_and_no_hole() {
    let marks = |at: u64| [&at.to_le_bytes()[..], &text(at, 4088)].concat();
    let image = image(Compression::Zstd(1), None, |dir| {
        // 4 pages of data in 256 MiB, and a file of less than a page.
        let file = File::create(dir.join("a")).unwrap();
        file.set_len(256 * MIB as u64).unwrap();
        for page in [0, 1, 30_000, 65_535] {
            file.write_all_at(&marks(page), page * RANDOM_READ).unwrap();
        }
        std::fs::write(dir.join("b"), marks(1 << 40)).unwrap();
        std::fs::write(dir.join("empty"), "").unwrap();
    });
    let fs = Fs::new(image.clone(), FsOptions::default());
    let data: u64 = {
        let mut pages = 0;
        tree::segments(&fs, InodeId::ROOT, &(), &mut |segment| {
            pages += (segment.end - segment.begin) / RANDOM_READ;
            Ok(())
        })
        .unwrap();
        pages
    };
    // The file system that contains the files may allocate more than a page at once.
    assert!((5..5 + 4 * 16).contains(&data), "{data} pages");
    let cost = cost(&image, 64 * MIB, &Reads::Random { seed: 1, count: 2000 });
    assert_eq!((cost.reads, cost.read_bytes), (2000, 2000 * RANDOM_READ));
    assert_eq!(super::read_cost(&image, 1, &Reads::Everything, &()).unwrap().read_bytes, data * RANDOM_READ);
}

#[test]
fn an_image_without_data_costs_nothing() {
    let image = image(Compression::Zstd(1), None, |dir| std::fs::write(dir.join("empty"), "").unwrap());
    assert_eq!(alone(&image, 2), Alone::default());
    for reads in [Reads::Everything, Reads::Below(b"/"), Reads::Random { seed: 1, count: 10 }] {
        let cost = cost(&image, MIB, &reads);
        assert_eq!((cost, cost.ratio()), (ReadCost::default(), None));
    }
}

#[test]
fn draws_are_those_of_splitmix64_and_below_their_bound() {
    // The first outputs of the reference implementation for seed 1234567; times 2^63, halved.
    let first: [u64; 3] = [6457827717110365317, 3203168211198807973, 9817491932198370423];
    assert_eq!(draw(1234567, 3, 1 << 63), first.map(|output| output / 2));
    let drawn = draw(1, 10_000, 7);
    assert!((0..7).all(|n| (1200..1700).contains(&drawn.iter().filter(|drawn| **drawn == n).count())));
    assert!(drawn.iter().all(|n| *n < 7));
}

#[test]
fn progress_reaches_its_total_and_who_says_stop_is_heard() {
    #[derive(Default)]
    struct Observer {
        done: AtomicU64,
        total: AtomicU64,
        stop_at: Option<u64>,
    }
    impl MeasureObserver for Observer {
        fn progress(&self, done: u64, total: u64) {
            self.done.fetch_max(done, Ordering::Relaxed);
            self.total.store(total, Ordering::Relaxed);
        }
        fn cancelled(&self) -> bool {
            self.stop_at.is_some_and(|at| self.done.load(Ordering::Relaxed) >= at)
        }
    }
    let image = image(Compression::Zstd(1), None, |dir| std::fs::write(dir.join("f"), text(1, 4 * MIB)).unwrap());
    type Measure<'a> = &'a dyn Fn(&Observer) -> Result<(), MeasureError>;
    let measures: [Measure; 3] = [
        &|observer| subchunks_alone(&image, AloneOptions { jobs: 2, memory: 1 << 30 }, observer).map(drop),
        &|observer| read_cost(&image, 1 << 26, &Reads::Everything, observer).map(drop),
        &|observer| read_cost(&image, 1 << 26, &Reads::Random { seed: 1, count: 1024 }, observer).map(drop),
    ];
    for measure in measures {
        let observer = Observer::default();
        measure(&observer).unwrap();
        let (done, total) = (observer.done.into_inner(), observer.total.into_inner());
        assert_eq!((done, total), (4 * MIB as u64, 4 * MIB as u64));
        for stop_at in [0, 1, 2 * MIB as u64] {
            let observer = Observer { stop_at: Some(stop_at), ..Observer::default() };
            assert!(matches!(measure(&observer), Err(MeasureError::Cancelled)), "stop at {stop_at}");
        }
    }
}

#[test]
fn what_is_counted_is_what_a_working_set_inflates_that_decodes() {
    let pieces: Vec<_> = (0..120).map(|seed| text(seed, SUBCHUNK)).collect();
    let fill = |dir: &Path| {
        std::fs::write(dir.join("a"), pieces.concat()).unwrap();
        // Of pieces far apart: superchunks go and come again.
        let far: Vec<_> = (0..120).map(|n| pieces[n * 37 % 120].as_slice()).collect();
        std::fs::write(dir.join("b"), far.concat()).unwrap();
    };
    for (part_size, working_set) in [(None, MIB), (None, 5 * MIB), (Some(128 << 10), MIB)] {
        let image = image(Compression::Zstd(3), part_size, fill);
        let counted = cost(&image, working_set, &Reads::Everything);
        let fs = Fs::new(Arc::clone(&image), FsOptions { cache: working_set, readahead: 0, verify: false });
        let mut bytes = Vec::new();
        for name in ["a", "b"] {
            let inode = fs.resolve(name.as_bytes()).unwrap().inode;
            for at in (0..120 * SUBCHUNK).step_by(128 * KIB) {
                fs.read(inode, at as u64, 128 * KIB, &mut bytes).unwrap();
            }
        }
        let decoded = fs.working_set().counters();
        assert_eq!((counted.inflations, counted.inflated_bytes), (decoded.inflations, decoded.inflated_bytes));
        assert!(decoded.inflations > 8, "{} superchunks are inflated", decoded.inflations);
    }
}
