//! Live ranges are copied out of old segments, and nothing else changes.

use super::world::{World, noise, set_mark};
use crate::format::ids::InodeId;
use crate::format::rows::Time;
use crate::fs::freezing::control::Step;
use crate::fs::live::{Live, LiveOptions};
use crate::fs::start::look;
use crate::fs::{Freezing, Fs, FsError, FsOptions, NewKind, NewNode};
use crate::meta::ImageOptions;
use crate::pack::{PackOptions, empty_into};
use crate::storage::testing::{Fault, FolderHome, History, MemoryFolder, MemoryStorage, Remains};
use crate::storage::{Folder, Operation, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const SEGMENT: u64 = 16 << 10;
/// Sixteen segments.
const BUDGET: u64 = 256 << 10;

fn create(live: &Live, name: &str) -> InodeId {
    let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0, uid: 0, gid: 0 };
    let inode = live.create(InodeId::ROOT, name.as_bytes(), &node).unwrap().inode;
    live.open(inode, true).unwrap();
    inode
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (seed.wrapping_mul(31).wrapping_add(n / 7 * 13) ^ n) as u8).collect()
}

fn bytes_of(live: &Arc<Live>, inode: InodeId) -> Vec<u8> {
    let options = FsOptions { readahead: 0, ..FsOptions::default() };
    let fs = Fs::over(live.clone(), options);
    let size = fs.attr(inode).unwrap().size;
    let mut out = Vec::new();
    fs.read(inode, 0, size as usize, &mut out).unwrap();
    out
}

fn carry(live: &Live) -> Result<u64, FsError> {
    live.carry_over(&|| true)
}

/// Does what the checkpointer does.
fn checkpoint_if_due(live: &Live) {
    let is_due = {
        let state = live.lock_state();
        state.has_much_garbage(0) || live.log_wants_checkpoint(&state, 0)
    };
    if is_due {
        live.checkpoint_now().unwrap();
    }
}

/// Leaves a few bytes in each of the lowest segments needed, at the beginnings of these files. The rest is overwritten.
fn sparse(live: &Live) -> Vec<(InodeId, Vec<u8>)> {
    let hot = create(live, "hot");
    let mut files = Vec::new();
    for n in 0..6 {
        let inode = create(live, &format!("cold{n}"));
        let bytes = pattern(n, 700);
        live.write(inode, 0, &bytes, false).unwrap();
        // Needs only a part of a frame: the rest was overwritten.
        live.write(inode, 100, &[9; 50], false).unwrap();
        let mut now = bytes;
        now[100..150].fill(9);
        files.push((inode, now));
        for _ in 0..3 {
            live.write(hot, 0, &pattern(n, 11_000), false).unwrap();
        }
    }
    for n in 0..12 {
        live.write(hot, 0, &pattern(n, 11_000), false).unwrap();
    }
    files.push((hot, pattern(11, 11_000)));
    files
}

#[test]
fn bytes_and_times_are_the_same_after_they_were_copied_and_old_segments_go() {
    let world = World::with_budget(BUDGET);
    let live = &world.live;
    let files = sparse(live);
    live.checkpoint_now().unwrap();
    let before: Vec<_> = files.iter().map(|(inode, _)| live.snapshot().view().inode(*inode).unwrap()).collect();
    let lowest = world.segments()[0];
    let copied = carry(live).unwrap();
    assert!((6 * 700..7 * 700).contains(&copied), "{copied} bytes copied");
    assert_eq!(carry(live).unwrap(), 0, "a second time there is nothing to do");
    live.checkpoint_now().unwrap();
    let left = world.segments();
    assert!(left[0] >= lowest + 6 && left.len() <= 4, "segments {left:?}, before from {lowest} on");
    let after: Vec<_> = files.iter().map(|(inode, _)| live.snapshot().view().inode(*inode).unwrap()).collect();
    assert_eq!(before, after);
    let reopened = world.reopened();
    for (inode, bytes) in &files {
        assert_eq!(bytes_of(live, *inode), *bytes);
        assert_eq!(bytes_of(&reopened, *inode), *bytes);
    }
}

#[test]
fn what_a_session_before_wrote_is_copied_as_well() {
    let world = World::with_budget(BUDGET);
    let files = sparse(&world.live);
    world.live.checkpoint_now().unwrap();
    let live = world.reopened();
    // Nothing is written before the first change.
    assert_eq!(carry(&live).unwrap(), 0);
    create(&live, "more");
    assert!(carry(&live).unwrap() > 0);
    live.checkpoint_now().unwrap();
    assert!(world.segments().len() <= 5, "{:?}", world.segments());
    for (inode, bytes) in &files {
        assert_eq!(bytes_of(&live, *inode), *bytes);
    }
}

/// Waits until `done`. Leaves the processor to threads of low priority.
fn until(live: &Live, done: &dyn Fn() -> bool, what: &str) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        let mut state = live.lock_state();
        live.changed.wait_for(&mut state, Duration::from_millis(20));
    }
}

#[test]
fn garbage_that_came_while_a_checkpoint_was_made_takes_another() {
    let world = World::with(Duration::from_millis(1), &PackOptions::default(), Some(BUDGET));
    let live = &world.live;
    let hot = create(live, "hot");
    live.write(hot, 0, &pattern(0, 11_000), false).unwrap();
    live.checkpoint_now().unwrap();
    let lowest = world.segments()[0];
    // The root of a checkpoint that is due for changed rows names the first segment. Once it is sealed, nothing else
    // does.
    let weak = Arc::downgrade(live);
    live.freezer.set_hook(Step::Sealed, move || {
        let live = weak.upgrade().unwrap();
        live.set_memory(512 << 20);
        for n in 1..=12 {
            live.write(hot, 0, &pattern(n, 11_000), false).unwrap();
        }
    });
    let running = live.start_threads().unwrap();
    live.set_memory(1024);
    set_mark(live, 7).unwrap();
    until(live, &|| world.segments()[0] >= lowest + 5, "the garbage stays");
    running.stop();
    assert_eq!(bytes_of(live, hot), pattern(12, 11_000));
}

#[test]
fn a_log_smaller_than_a_superchunk_is_frozen_before_writers_wait_long() {
    let world = World::with_budget(BUDGET);
    let live = &world.live;
    let running = live.start_threads().unwrap();
    let file = create(live, "file");
    for n in 0..30 {
        live.write(file, n * 11_000, &noise(11_000, n), false).unwrap();
    }
    let (sender, receiver) = channel();
    live.after_write(11_000, Box::new(move |result| sender.send(result.is_ok()).unwrap()));
    // Half of what a freezer that stands still makes them wait.
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(true));
    until(live, &|| !live.pressure.is_full(), "the log stays full");
    running.stop();
    for n in 0..30 {
        assert_eq!(bytes_of(live, file)[n as usize * 11_000..][..11_000], noise(11_000, n));
    }
}

/// WRITABLE requires this: whatever is written, in whatever order, the log stays within twice the budget.
#[test]
fn a_file_that_stays_open_while_20_budgets_are_written_does_not_pin_the_log() {
    // Large enough that the unused ends of segments are a small part.
    let budget = 2 << 20;
    for (len, random) in [(budget / 2, true), (budget / 2, false), (budget / 8, true)] {
        let world = World::with_budget(budget);
        let live = &world.live;
        let file = create(live, "open");
        let mut expected = pattern(1, len as usize);
        live.write(file, 0, &expected, false).unwrap();
        let (mut written, mut seed, mut copied) = (0, 0x9e37_79b9_7f4a_7c15u64, 0);
        while written < 20 * budget {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let size = 1 + seed % 4096;
            // Not random: the first half is overwritten again and again, and the second half pins the log.
            let at = if random { (seed >> 20) % (len - size) } else { written % (len / 2 - size) };
            let bytes = pattern(seed, size as usize);
            live.write(file, at, &bytes, false).unwrap();
            expected[at as usize..][..size as usize].copy_from_slice(&bytes);
            written += size;
            copied += carry(live).unwrap();
            checkpoint_if_due(live);
            let log = live.status().unwrap().log_bytes;
            assert!(log < 2 * budget, "{log} bytes of log after {written}, {len} random {random}");
        }
        // The cost.
        assert!(copied < written, "{copied} bytes copied for {written}");
        assert_eq!(bytes_of(live, file), expected);
        live.commit_now().unwrap();
        assert_eq!(bytes_of(&world.reopened(), file), expected);
    }
}

#[test]
fn what_cannot_be_read_stays_where_it_is_and_is_not_tried_again_at_once() {
    let world = World::with_budget(BUDGET);
    let live = &world.live;
    let files = sparse(live);
    world.faults.fail_from_of(Operation::Read, 0, Fault::Eio);
    assert_eq!(carry(live).unwrap(), 0);
    let reads = world.faults.count();
    assert_eq!(carry(live).unwrap(), 0);
    assert_eq!(world.faults.count(), reads, "it was looked at again");
    world.faults.fail_no_more();
    for (inode, bytes) in &files {
        assert_eq!(bytes_of(live, *inode), *bytes);
    }
}

#[test]
fn what_cannot_be_read_in_an_old_segment_does_not_keep_other_files_from_being_frozen() {
    let world = World::with_budget(BUDGET);
    let live = &world.live;
    let files = sparse(live);
    world.damage_written(&pattern(0, 700));
    live.set_freezing(Freezing::Eager);
    let running = live.start_threads().unwrap();
    until(live, &|| live.freezer_status().failed_files == 1 && live.lock_state().dirty.len() == 1, "nothing is frozen");
    assert!(live.segments_to_empty(&live.lock_state()).is_some(), "the segment would be worth emptying");
    running.stop();
    for (inode, bytes) in &files[1..] {
        assert_eq!(bytes_of(live, *inode), *bytes);
    }
}

#[test]
fn where_the_log_cannot_grow_nothing_changes() {
    let world = World::with_budget(BUDGET);
    let live = &world.live;
    let files = sparse(live);
    world.faults.fail_from_of(Operation::Append, 0, Fault::Enospc);
    assert!(matches!(carry(live), Err(FsError::NoSpace)));
    world.faults.fail_no_more();
    for (inode, bytes) in &files {
        assert_eq!(bytes_of(live, *inode), *bytes);
    }
    assert!(carry(live).unwrap() > 0);
}

#[test]
fn a_log_that_has_little_to_gain_is_left_alone() {
    let world = World::with_budget(BUDGET);
    let live = &world.live;
    let file = create(live, "file");
    for n in 0..7 {
        live.write(file, n * 11_000, &pattern(n, 11_000), false).unwrap();
    }
    assert_eq!(carry(live).unwrap(), 0);
}

/// Opens what is on a disk that records its history.
fn open(storage: Arc<dyn Storage>, folder: Arc<dyn Folder>, log_id: u64) -> Arc<Live> {
    let home = Arc::new(FolderHome::new(folder));
    let found = look(storage.clone(), home, ImageOptions::default()).unwrap();
    let options = LiveOptions {
        commit: Duration::from_secs(3600),
        clock: Arc::new(|| Time { secs: 5, nanos: 6 }),
        log_id,
        segment_size: Some(SEGMENT),
        budget: Some(BUDGET),
    };
    Live::new(storage, found, options).unwrap()
}

#[test]
fn a_power_cut_while_bytes_are_copied_and_segments_go_loses_nothing() {
    let storage = Arc::new(MemoryStorage::new());
    empty_into(storage.clone(), &PackOptions::default()).unwrap();
    let history = History::new(Remains { image: storage.to_bytes(), segments: BTreeMap::new() });
    let live = open(Arc::new(history.storage()), Arc::new(history.folder()), 0x11);
    let files = sparse(&live);
    live.commit_now().unwrap();
    let from = history.len();
    assert!(carry(&live).unwrap() > 0);
    live.commit_now().unwrap();
    live.checkpoint_now().unwrap();
    let mut count = 0;
    for n in from..=history.len() {
        history.each_cut(n, 8, |left, what| {
            count += 1;
            let folder = Arc::new(MemoryFolder::from_segments(left.segments));
            let live = open(Arc::new(MemoryStorage::from_bytes(left.image)), folder, 0x12);
            for (inode, bytes) in &files {
                assert_eq!(bytes_of(&live, *inode), *bytes, "{what}: {inode:?}");
            }
        });
    }
    assert!(count > 500, "only {count} cuts");
}
