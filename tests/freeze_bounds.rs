//! The memory that a batch takes, and the priority of its threads.

use floe::format::codec::Compression;
use floe::format::ids::SubchunkId;
use floe::format::params::Params;
use floe::format::rows::Identity;
use floe::freeze::{Batch, BatchOptions, Known, Priority};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = BYTES.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
    let params = Params { superchunk_size: 4 << 20, ..Params::default() };
    BatchOptions { params, compression: Compression::Zstd(1), compressors, priority, limit: 64 << 20 }
}

#[test]
fn a_batch_holds_the_raw_bytes_of_two_superchunks_and_one_a_thread() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut subchunk = vec![0; 32 << 10];
    let before = BYTES.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let mut batch = Batch::new(options(2, Priority::Normal), &Nothing).unwrap();
    // 64 MiB that compress to almost nothing, added faster than they are compressed.
    for n in 0..2048u64 {
        subchunk[..8].copy_from_slice(&n.to_le_bytes());
        batch.add(&subchunk).unwrap();
    }
    assert!(batch.is_full());
    let packed = batch.finish(true).unwrap();
    assert_eq!(packed.raw_bytes(), 64 << 20);
    let most = MOST.load(Ordering::Relaxed) - before;
    let superchunk = 4 << 20;
    // The rest is stored bytes, the index and the compressors' outputs.
    assert!(most <= (2 + 2) * superchunk + (3 << 20), "{most} bytes");
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
    batch.finish(true).unwrap();
    assert_eq!(threads(), (0, 0, 0));
}
