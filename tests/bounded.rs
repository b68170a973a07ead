//! Memory that reading takes, measured by a counting allocator and by the kernel. The tests run one at a time.

#[path = "common/forge.rs"]
mod forge;

use floe::format::codec::{Decoder, XZ};
use floe::format::frame::Flags;
use floe::format::ids::SubchunkId;
use floe::format::rows::ContentRef;
use floe::inflate::WorkingSet;
use floe::meta::{Image, ImageOptions, View};
use floe::storage::Storage;
use forge::{Forge, noise};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const MIB: usize = 1 << 20;

static TURNS: Mutex<()> = Mutex::new(());
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn more(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

#[test]
fn superchunks_of_random_sizes_read_by_many_threads_stay_within_the_budget() {
    const SUPERCHUNKS: u64 = 120;
    let _turn = TURNS.lock().unwrap_or_else(|error| error.into_inner());
    let mut forge = Forge::new();
    let mut state = 7;
    for n in 0..SUPERCHUNKS {
        let len = 1 + random(&mut state, 1 << (10 + n % 11));
        forge.superchunks.push(vec![(noise(n as u8, len as usize), None)]);
        forge.file(1, &format!("file-{n}"), 2 + n, len, ContentRef::Subchunk(SubchunkId(n + 1)));
    }
    let storage = forge.build();
    let expected: Vec<Vec<u8>> = forge.superchunks.drain(..).map(|mut list| list.remove(0).0).collect();
    for (cache, readahead) in [(1, 0), (4 * MIB, 0), (8 * MIB, 4)] {
        let image = Image::open(storage.clone() as Arc<dyn Storage>, ImageOptions { block_cache: 1 << 20 }).unwrap();
        let view = View::of(Arc::new(image));
        let set = WorkingSet::new(view.version().clone(), cache, readahead);
        let before = NOW.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for thread in 0..16u64 {
                let (set, view, expected) = (&set, &view, &expected);
                scope.spawn(move || {
                    let (mut state, mut out) = (thread, vec![0; 100]);
                    for _ in 0..200 {
                        let id = random(&mut state, SUPERCHUNKS);
                        let whole = &expected[id as usize];
                        let len = whole.len().min(100);
                        let skip = random(&mut state, (whole.len() - len + 1) as u64);
                        set.read_subchunk(view, SubchunkId(id + 1), skip as u32, &mut out[..len]).unwrap();
                        assert!(out[..len] == whole[skip as usize..][..len]);
                    }
                });
            }
        });
        // A superchunk and its stored bytes are at most 2 MiB. The rest is table blocks, threads and queues.
        let limit = cache.max(2 * MIB) + 3 * MIB;
        let peak = PEAK.load(Ordering::Relaxed) - before;
        assert!(peak <= limit, "{peak} bytes at the peak, {limit} at most, with a cache of {cache}");
        assert!(set.bytes() <= cache.max(2 * MIB));
    }
}

/// A line of /proc/self/status, in bytes.
fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn a_decoder_touches_no_more_memory_than_it_decodes_whatever_window_is_claimed() {
    let _turn = TURNS.lock().unwrap_or_else(|error| error.into_inner());
    let raw = noise(1, MIB);
    // An xz stream with a dictionary of 64 MiB, and a zstd frame with that window, without its content's length.
    let mut options = xz2::stream::LzmaOptions::new_preset(0).unwrap();
    options.dict_size(64 << 20);
    let mut filters = xz2::stream::Filters::new();
    filters.lzma2(&options);
    let stream = xz2::stream::Stream::new_stream_encoder(&filters, xz2::stream::Check::None).unwrap();
    let mut xz = Vec::new();
    std::io::copy(&mut xz2::read::XzEncoder::new_stream(raw.as_slice(), stream), &mut xz).unwrap();
    let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 16 << 3];
    for block in raw.chunks(128 << 10) {
        zstd.extend_from_slice(&(u32::try_from(block.len()).unwrap() << 3).to_le_bytes()[..3]);
        zstd.extend_from_slice(block);
    }
    // The zstd frame is cut short, because its last block is not marked as the last: it is only salvaged.
    for (codec, stored, whole) in [(XZ, &xz, true), (1, &zstd, false)] {
        let mut out = vec![1; MIB];
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmHWM:");
        let decoded = Decoder::new().decode(codec, Flags(0), stored, MIB as u32, None, &mut out);
        assert_eq!(decoded.is_ok(), whole);
        out.resize(MIB, 1);
        Decoder::new().decode_damaged(codec, Flags(0), stored, MIB as u32, None, &mut out);
        assert!(out == raw);
        let touched = status("VmHWM:") - before;
        assert!(touched <= 4 * MIB, "{touched} bytes for 1 MiB of codec {codec}");
    }
}
