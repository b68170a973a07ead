//! The memory that a batch takes, and the priority of its threads.

use floe::format::codec::Compression;
use floe::format::ids::SubchunkId;
use floe::format::params::Params;
use floe::format::rows::Identity;
use floe::freeze::{Batch, BatchOptions, Known, Last, Priority};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const SUPERCHUNK: usize = 4 << 20;

/// Counts what is allocated, by size: the raw bytes of a superchunk take exactly its size, and only zstd's output buffer is
/// larger.
struct Counting {
    raws: Count,
    outputs: Count,
    rest: Count,
}

struct Count {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Count {
    const fn new() -> Self {
        Count { now: AtomicUsize::new(0), most: AtomicUsize::new(0) }
    }

    fn add(&self, number: usize) {
        let now = self.now.fetch_add(number, Ordering::Relaxed) + number;
        self.most.fetch_max(now, Ordering::Relaxed);
    }

    fn restart(&self) -> usize {
        let now = self.now.load(Ordering::Relaxed);
        self.most.store(now, Ordering::Relaxed);
        now
    }

    /// The most since `before`, which [`Count::restart`] returned.
    fn most_since(&self, before: usize) -> usize {
        self.most.load(Ordering::Relaxed) - before
    }
}

impl Counting {
    /// The counter for allocations of `size` bytes, and what each of them adds to it.
    fn of(&self, size: usize) -> (&Count, usize) {
        match size.cmp(&SUPERCHUNK) {
            std::cmp::Ordering::Less => (&self.rest, size),
            std::cmp::Ordering::Equal => (&self.raws, 1),
            std::cmp::Ordering::Greater => (&self.outputs, size),
        }
    }
}

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (count, number) = self.of(layout.size());
        count.add(number);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let (count, number) = self.of(layout.size());
        count.now.fetch_sub(number, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting { raws: Count::new(), outputs: Count::new(), rest: Count::new() };

/// The tests run one at a time, because they observe the whole process.
static ALONE: Mutex<()> = Mutex::new(());

struct Nothing;

impl Known for Nothing {
    type Error = String;

    fn find(&self, _: &Identity, _: &[u8]) -> Result<Option<SubchunkId>, String> {
        Ok(None)
    }
}

fn options(compressors: usize, priority: Priority) -> BatchOptions {
    let params = Params { superchunk_size: SUPERCHUNK as u32, ..Params::default() };
    BatchOptions { params, compression: Compression::Zstd(1), compressors, priority, limit: 64 << 20 }
}

#[test]
fn a_batch_holds_the_raw_bytes_of_two_superchunks_and_one_a_thread() {
    const THREADS: usize = 2;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // 64 MiB of numbers below four: a quarter of it is stored, and compressing takes longer than adding.
    let mut bytes = vec![0; 64 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes.iter_mut().for_each(|byte| *byte %= 4);
    let Counting { raws, outputs, rest } = &ALLOCATOR;
    let before = [raws, outputs, rest].map(Count::restart);
    let mut batch = Batch::new(options(THREADS, Priority::Normal), &Nothing).unwrap();
    for subchunk in bytes.chunks(32 << 10) {
        batch.add(subchunk).unwrap();
    }
    assert!(batch.is_full());
    let packed = batch.finish(Last::Keep).unwrap();
    assert_eq!(packed.raw_bytes(), 64 << 20);
    let most = [raws.most_since(before[0]), outputs.most_since(before[1]), rest.most_since(before[2])];
    // With none at all, they would have been counted elsewhere.
    assert!((1..=2 + THREADS).contains(&most[0]), "{most:?}");
    // Of each output, only the bytes that zstd writes become memory.
    assert!(most[1] <= THREADS * zstd_safe::compress_bound(SUPERCHUNK), "{most:?}");
    // The stored bytes; then contexts and the index.
    assert!(most[2] <= packed.stored_bytes() as usize + (3 << 20), "{most:?}");
}

/// Number of batch threads, how many of them are nice, and how many run at idle priority.
fn threads() -> (usize, usize, usize) {
    let (mut all, mut nice, mut idle) = (0, 0, 0);
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        // A thread may end while it is examined.
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
        let Some((name, rest)) = stat.rsplit_once(") ") else { continue };
        // A thread that was joined is listed for a moment longer. The kernel has marked it before: field 9, the 7th after the
        // name, has PF_EXITING (proc(5), linux/sched.h).
        let is_exiting =
            rest.split(' ').nth(6).and_then(|flags| flags.parse().ok()).is_some_and(|flags: u64| flags & 4 != 0);
        if name.contains("(freeze-") && !is_exiting {
            all += 1;
            // Fields 19 and 41 of the line are the 17th and 39th after the name.
            nice += usize::from(rest.split(' ').nth(16) == Some("10"));
            idle += usize::from(rest.split(' ').nth(38) == Some("5"));
        }
    }
    (all, nice, idle)
}

/// Polls until the threads are as wanted, with a limit for a busy machine.
fn until(wanted: (usize, usize, usize)) {
    let end = Instant::now() + Duration::from_secs(60);
    while threads() != wanted {
        assert!(Instant::now() < end, "{:?}, not {wanted:?}", threads());
        std::thread::yield_now();
    }
}

#[test]
fn threads_run_at_the_priority_that_is_asked_for_and_end_with_the_batch() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let batch = Batch::new(options(3, Priority::Idle), &Nothing).unwrap();
    until((3, 0, 3));
    drop(batch);
    assert_eq!(threads(), (0, 0, 0));
    let batch = Batch::new(options(2, Priority::Low), &Nothing).unwrap();
    until((2, 2, 0));
    drop(batch);
    let batch = Batch::new(options(2, Priority::Normal), &Nothing).unwrap();
    until((2, 0, 0));
    batch.finish(Last::Keep).unwrap();
    assert_eq!(threads(), (0, 0, 0));
}
