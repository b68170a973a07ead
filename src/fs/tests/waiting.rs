//! Who waits for whom, also if a thread has ended or the disk is full: nobody waits for ever.

use super::world::{World, mark, set_mark, set_mark_removing};
use crate::format::block::KeyRef;
use crate::format::ids::InodeId;
use crate::format::schema;
use crate::format::transaction::Thawed;
use crate::fs::{Finished, FsError, NewKind, NewNode};
use crate::storage::Operation;
use crate::storage::testing::Fault;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Far longer than anything takes here.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs `body`, which must not take long, and returns its result.
fn in_time<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || sender.send(body()));
    receiver.recv_timeout(LIMIT).expect("it waits for ever, or has panicked")
}

fn until(done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < LIMIT, "it takes for ever");
        std::thread::yield_now();
    }
}

// Case 23: whoever waits for anything but a lock holds no turn. The reaper runs on the thread that makes checkpoints:
// it would wait for itself.
#[test]
fn the_reaper_makes_the_checkpoint_that_its_own_deletions_call_for() {
    const ROWS: u64 = 4 * 4096 + 10;
    let world = World::new();
    let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0, uid: 0, gid: 0 };
    let file = world.live.create(InodeId::ROOT, b"a", &node).unwrap().inode;
    let written = world.live.append(b"x").unwrap();
    let make = |draft: &mut crate::fs::draft::Draft| {
        let mut row = draft.inode(file)?;
        row.size = 3 * ROWS;
        draft.put_inode(file, &row);
        draft.count(0, row.size as i64);
        for n in 0..ROWS {
            let (frame, sum) = (written.pieces[0].frame, written.pieces[0].sum);
            draft.thaw(Thawed { inode: file, offset: 3 * n, len: 1, frame, within: 0, sum })?;
        }
        Ok(())
    };
    world.live.transact(make).unwrap();
    world.live.checkpoint_now().unwrap();
    // A tombstone takes about 100 bytes: after two steps of the reaper, changes wait for a checkpoint.
    world.live.set_memory(2_200_000);
    let running = world.live.start_threads().unwrap();
    world.live.unlink(InodeId::ROOT, b"a").unwrap();
    until(|| world.live.snapshot().view().orphan(file).unwrap().is_none());
    running.stop();
    let view = world.reopened().snapshot().view().clone();
    assert!(view.cursor_at(&schema::THAWED, KeyRef::new(0, 0)).unwrap().row().is_none());
}

// Case 23: an operation holds a turn, and others wait for it.
#[test]
fn an_operation_does_not_wait_for_a_slow_sync_once_it_is_evaluated() {
    let world = World::committing_every(Duration::ZERO);
    set_mark(&world.live, 1).unwrap();
    let found = in_time(move || {
        let change = |draft: &mut crate::fs::draft::Draft| {
            world.live.lock_state().syncing = Some(Instant::now());
            drop(world.live.append(b"x")?);
            let mut root = draft.inode(InodeId::ROOT)?;
            root.mtime.secs = 2;
            draft.put_inode(InodeId::ROOT, &root);
            Ok(())
        };
        world.live.transact(change).unwrap();
        mark(&world.live)
    });
    assert_eq!(found, 2);
}

// Case 29.
#[test]
fn changes_wait_also_for_a_slow_sync_that_only_records_the_last_commit() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.live.commit_now().unwrap();
    world.gate.close();
    std::thread::scope(|scope| {
        let record = scope.spawn(|| world.live.record_last_commit());
        world.gate.wait_for_sync();
        let is_syncing = world.live.lock_state().syncing.is_some();
        world.gate.open();
        record.join().unwrap().unwrap();
        assert!(is_syncing);
    });
    assert!(world.live.lock_state().syncing.is_none());
}

#[test]
fn nobody_waits_for_a_committer_that_panicked() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    let running = world.live.start_threads().unwrap();
    let told = Arc::new(Mutex::new(None));
    let (live, of_later) = (world.live.clone(), told.clone());
    world.live.sync(Box::new(move |_| {
        live.sync(Box::new(move |result| *of_later.lock() = Some(result)));
        panic!("on purpose");
    }));
    until(|| world.live.latched().is_some());
    running.stop();
    assert!(matches!(*told.lock(), Some(Err(FsError::Io(_)))), "{:?}", told.lock());
    let live = world.live.clone();
    assert!(in_time(move || live.sync_and_wait()).is_err());
}

#[test]
fn who_asks_for_a_commit_after_the_committer_has_ended_gets_one() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.live.start_threads().unwrap().stop();
    set_mark(&world.live, 2).unwrap();
    let live = world.live.clone();
    in_time(move || live.sync_and_wait()).unwrap();
    assert_eq!(mark(&world.reopened()), 2);
}

// Case 24: if commits find no space, a crash still loses a bounded amount.
#[test]
fn while_a_commit_finds_no_space_only_what_removes_is_done() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.live.commit_now().unwrap();
    set_mark(&world.live, 2).unwrap();
    world.faults.fail_nth_of(Operation::Append, 0, Fault::Enospc);
    assert!(matches!(world.live.commit_now(), Err(FsError::NoSpace)));
    assert!(matches!(set_mark(&world.live, 3), Err(FsError::NoSpace)));
    set_mark_removing(&world.live, 4).unwrap();
    world.live.commit_now().unwrap();
    set_mark(&world.live, 5).unwrap();
    assert_eq!((mark(&world.live), mark(&world.reopened())), (5, 4));
}

// Case 24: the thaw log's reserve.
#[test]
fn space_for_the_last_segment_of_the_log_is_for_what_removes_something() {
    let world = World::new();
    set_mark(&world.live, 0).unwrap();
    world.faults.fail_from_of(Operation::Allocate, 0, Fault::Enospc);
    let mut n = 0;
    while set_mark(&world.live, n + 1).is_ok() {
        n += 1;
        world.live.commit_now().unwrap();
        assert!(n < 20, "nothing was kept for what removes something");
    }
    assert!(matches!(set_mark(&world.live, 99), Err(FsError::NoSpace)));
    assert_eq!((mark(&world.live), world.live.latched()), (n, None));
    set_mark_removing(&world.live, 100).unwrap();
    world.live.commit_now().unwrap();
    world.faults.fail_no_more();
    set_mark(&world.live, 101).unwrap();
    assert_eq!(mark(&world.reopened()), 100);
}

// Case 31.
#[test]
fn the_end_checkpoints_what_came_after_a_checkpoint_that_was_given_up() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.storage.fail_nth_of(Operation::Append, 0, Fault::Enospc);
    assert!(matches!(world.live.checkpoint_now(), Err(FsError::NoSpace)));
    set_mark(&world.live, 2).unwrap();
    assert_eq!(world.live.end(std::time::Duration::ZERO).unwrap(), Finished::Removed);
    assert_eq!(mark(&world.reopened()), 2);
}

// Case 24: unmount works on a full disk.
#[test]
fn an_end_without_space_keeps_the_log_and_does_not_count_as_failed() {
    let world = World::new();
    let file = {
        let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0, uid: 0, gid: 0 };
        world.live.create(InodeId::ROOT, b"a", &node).unwrap().inode
    };
    world.live.write(file, 0, &[7; 100], false).unwrap();
    world.live.checkpoint_now().unwrap();
    world.faults.fail_from_of(Operation::Append, 0, Fault::Enospc);
    let ended = world.live.end(std::time::Duration::ZERO);
    assert!(matches!(ended, Ok(Finished::Kept { .. })), "{ended:?}");
    world.faults.fail_no_more();
    assert_eq!(world.reopened().snapshot().view().inode(file).unwrap().unwrap().size, 100);
}

// Case 11: after a failed sync the page cache shows what no disk has, and the successor of a killed daemon cannot tell.
#[test]
fn who_asks_for_a_commit_of_what_came_back_after_a_crash_is_told_so_only_once_it_is_durable() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.live.commit_now().unwrap();
    let ask = |live: &crate::fs::Live| {
        let told = Arc::new(Mutex::new(None));
        let of_waiter = told.clone();
        live.sync(Box::new(move |result| *of_waiter.lock() = Some(result)));
        let _ = live.commit_now();
        told.lock().take().unwrap()
    };
    // If nobody asks, nothing is written.
    let live = world.reopened();
    let before = world.segments();
    live.commit_now().unwrap();
    assert_eq!(world.segments(), before);
    world.faults.fail_from_of(Operation::Sync, 0, Fault::Eio);
    assert!(ask(&live).is_err());
    world.faults.fail_no_more();
    let live = world.reopened();
    ask(&live).unwrap();
    assert!(live.has_begun());
    assert_eq!(mark(&world.reopened()), 1);
}

/// Otherwise the thread that makes checkpoints would loop until there is something to write.
#[test]
fn a_filesystem_that_nobody_has_changed_calls_for_no_checkpoint() {
    let world = World::new();
    assert!(!world.live.lock_state().has_much_garbage(0), "there is no log yet");
    world.live.append(b"x").unwrap();
    assert!(!world.live.lock_state().has_much_garbage(0), "a new log has nothing that could go");
}
