//! Commits and checkpoints.

use super::world::{World, file, mark, noise, read, set_mark, set_mark_removing};
use crate::format::ids::InodeId;
use crate::format::transaction::Thawed;
use crate::fs::live::Live;
use crate::fs::{Finished, FreezeHow, FsError};
use crate::meta::Image;
use crate::storage::Operation;
use crate::storage::testing::Fault;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Asks for a commit. Returns whether it was answered, and how.
fn ask(live: &Live) -> Arc<parking_lot::Mutex<Option<Result<(), FsError>>>> {
    let answer = Arc::new(parking_lot::Mutex::new(None));
    let of_waiter = answer.clone();
    live.sync(Box::new(move |result| *of_waiter.lock() = Some(result)));
    answer
}

/// The mark that the image's head shows to readers without the thaw log.
fn mark_in_head(world: &World) -> i64 {
    let image = Image::open(world.storage.clone(), Default::default()).unwrap();
    image.inode(InodeId::ROOT).unwrap().unwrap().mtime.secs
}

/// Writes bytes at an offset of the root, as if it had bytes: only ranges and frames matter here.
fn write(live: &Live, offset: u64, bytes: &[u8]) {
    let written = live.append(bytes).unwrap();
    live.transact(|draft| {
        let mut at = offset;
        for piece in &written.pieces {
            let (inode, frame) = (InodeId::ROOT, piece.frame);
            draft.thaw(Thawed { inode, offset: at, len: piece.len, frame, within: 0, sum: piece.sum })?;
            at += piece.len;
        }
        Ok(())
    })
    .unwrap();
}

// Case 2.
#[test]
fn a_head_is_published_only_after_the_commit_of_what_it_contains() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.live.checkpoint_now().unwrap();
    assert_eq!((mark(&world.live), mark_in_head(&world)), (1, 1));
    set_mark(&world.live, 2).unwrap();
    world.faults.fail_nth_of(Operation::Sync, 0, Fault::Eio);
    assert!(world.live.checkpoint_now().is_err());
    assert_eq!(mark_in_head(&world), 1);
}

// Case 2.
#[test]
fn what_changes_while_a_checkpoint_is_made_is_in_the_log_and_not_in_the_head() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.gate.close();
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| world.live.checkpoint_now());
        world.gate.wait_for_sync();
        set_mark(&world.live, 2).unwrap();
        world.gate.open();
        checkpoint.join().unwrap().unwrap();
    });
    assert_eq!((mark(&world.live), mark_in_head(&world)), (2, 1));
    world.live.commit_now().unwrap();
    assert_eq!(mark(&world.reopened()), 2);
}

// Case 3.
#[test]
fn the_order_of_the_log_is_the_order_of_memory() {
    let world = World::committing_every(Duration::from_millis(1));
    set_mark(&world.live, 0).unwrap();
    let running = world.live.start_threads().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let add = |draft: &mut crate::fs::draft::Draft| {
                        let mut root = draft.inode(InodeId::ROOT)?;
                        root.mtime.secs += 1;
                        draft.put_inode(InodeId::ROOT, &root);
                        Ok(())
                    };
                    world.live.transact(add).unwrap();
                }
            });
        }
    });
    world.live.sync_and_wait().unwrap();
    running.stop();
    assert_eq!((mark(&world.live), mark(&world.reopened())), (800, 800));
}

// Case 10.
#[test]
fn segments_go_once_nothing_names_them_and_not_before() {
    let world = World::new();
    let bytes = [7; 7_000];
    for n in 0..4 {
        write(&world.live, n * 7_000, &bytes);
    }
    world.live.checkpoint_now().unwrap();
    let all = world.segments();
    assert!(all.len() > 3, "{all:?}");
    // Both the root and the state name all segments.
    world.live.checkpoint_now().unwrap();
    assert_eq!(world.segments(), all);
    write(&world.live, 0, &[8; 28_000]);
    // The root still names the old bytes.
    world.live.commit_now().unwrap();
    assert_eq!(world.segments().first(), Some(&0));
    world.live.checkpoint_now().unwrap();
    let left = world.segments();
    assert!(left.first() > Some(&2), "{left:?}");
    let snapshot = world.reopened().snapshot();
    assert!(snapshot.view().has_thawed());
}

// Case 10.
#[test]
fn a_segment_stays_while_an_append_in_it_has_no_range_yet() {
    let world = World::new();
    let written = world.live.append(&[1; 7_000]).unwrap();
    set_mark(&world.live, 1).unwrap();
    for n in 0..3 {
        write(&world.live, 0, &[n; 7_000]);
    }
    world.live.checkpoint_now().unwrap();
    world.live.checkpoint_now().unwrap();
    assert_eq!(world.segments().first(), Some(&0));
    drop(written);
    set_mark(&world.live, 2).unwrap();
    world.live.checkpoint_now().unwrap();
    assert!(world.segments().first() > Some(&0));
}

// Case 11.
#[test]
fn a_commit_acknowledges_those_who_came_before_it_was_begun_and_no_others() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    let early = ask(&world.live);
    world.gate.close();
    let late = std::thread::scope(|scope| {
        let commit = scope.spawn(|| world.live.commit_now());
        world.gate.wait_for_sync();
        set_mark(&world.live, 2).unwrap();
        let late = ask(&world.live);
        assert!(early.lock().is_none());
        world.gate.open();
        commit.join().unwrap().unwrap();
        late
    });
    assert!(matches!(*early.lock(), Some(Ok(()))));
    assert!(late.lock().is_none());
    world.live.commit_now().unwrap();
    assert!(matches!(*late.lock(), Some(Ok(()))));
}

// Case 11.
#[test]
fn after_a_failed_sync_nobody_is_acknowledged_and_nothing_is_changed_any_more() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.live.commit_now().unwrap();
    set_mark(&world.live, 2).unwrap();
    let waiter = ask(&world.live);
    world.faults.fail_nth_of(Operation::Sync, 0, Fault::Eio);
    assert!(world.live.commit_now().is_err());
    assert!(matches!(*waiter.lock(), Some(Err(FsError::Io(_)))));
    assert!(matches!(set_mark(&world.live, 3), Err(FsError::ReadOnly)));
    let later = ask(&world.live);
    assert!(world.live.commit_now().is_err());
    assert!(matches!(*later.lock(), Some(Err(FsError::Io(_)))));
    // Reading goes on, from memory.
    assert_eq!(mark(&world.live), 2);
    assert!(world.live.end(std::time::Duration::ZERO).is_err());
}

// Case 14.
#[test]
fn a_group_that_could_not_be_written_is_retried_before_anything_newer() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.live.commit_now().unwrap();
    set_mark(&world.live, 2).unwrap();
    let waiter = ask(&world.live);
    world.faults.fail_nth_of(Operation::Append, 0, Fault::Enospc);
    assert!(matches!(world.live.commit_now(), Err(FsError::NoSpace)));
    assert!(matches!(*waiter.lock(), Some(Err(FsError::NoSpace))));
    set_mark_removing(&world.live, 3).unwrap();
    let waiter = ask(&world.live);
    world.live.commit_now().unwrap();
    assert!(matches!(*waiter.lock(), Some(Ok(()))));
    assert_eq!(mark(&world.reopened()), 3);
}

// Case 25: frames count together with their rows, or not at all.
#[test]
fn a_group_that_is_retried_does_not_count_the_frames_of_a_freeze_since_then() {
    let world = Arc::new(World::new());
    let live = &world.live;
    let inode = file(live, "a", &noise(100_000, 1));
    live.commit_now().unwrap();
    let end = world.end_after_a_crash();
    set_mark(live, 2).unwrap();
    // A commit fails for lack of space after the freezer has looked whether one had failed.
    let (weak, once) = (Arc::downgrade(&world), AtomicBool::new(false));
    world.storage.before(Operation::Sync, move |_| {
        let Some(world) = weak.upgrade().filter(|_| !once.swap(true, Ordering::SeqCst)) else { return };
        world.faults.fail_nth_of(Operation::Append, 0, Fault::Enospc);
        assert!(matches!(world.live.commit_now(), Err(FsError::NoSpace)));
    });
    // Its rows are pending. Nothing can be spliced as long as the group has not been written.
    let _ = live.freeze_now(&FreezeHow::everything(), &|_| ());
    assert!(live.image_end.load(Ordering::SeqCst) > end, "nothing was published");
    // The group is written, a transaction and a pad, and what comes after it is not.
    world.faults.fail_nth_of(Operation::Append, 2, Fault::Enospc);
    assert!(matches!(live.commit_now(), Err(FsError::NoSpace)));
    assert_eq!(mark(&world.reopened()), 2);
    assert_eq!(world.end_after_a_crash(), end);
    live.commit_now().unwrap();
    assert!(world.end_after_a_crash() > end);
    assert_eq!(read(&world.reopened(), inode), noise(100_000, 1));
}

#[test]
fn the_last_commit_is_not_recorded_beside_rows_that_are_pending() {
    let world = World::new();
    let live = &world.live;
    file(live, "a", &noise(100_000, 1));
    live.commit_now().unwrap();
    let end = world.end_after_a_crash();
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    live.record_last_commit().unwrap();
    assert_eq!(world.end_after_a_crash(), end);
    live.commit_now().unwrap();
    assert!(world.end_after_a_crash() > end);
}

// Case 14.
#[test]
fn a_sealing_whose_group_could_not_be_written_is_retried_unchanged() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.live.commit_now().unwrap();
    set_mark(&world.live, 2).unwrap();
    world.faults.fail_nth_of(Operation::Append, 0, Fault::Enospc);
    assert!(matches!(world.live.checkpoint_now(), Err(FsError::NoSpace)));
    assert_ne!(mark_in_head(&world), 2);
    set_mark_removing(&world.live, 3).unwrap();
    world.live.checkpoint_now().unwrap();
    // The head has what was sealed; the log has what came later.
    assert_eq!((mark_in_head(&world), mark(&world.live)), (2, 3));
    world.live.commit_now().unwrap();
    assert_eq!(mark(&world.reopened()), 3);
}

// Case 24.
#[test]
fn a_checkpoint_without_space_is_given_up_and_made_later() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.live.checkpoint_now().unwrap();
    set_mark(&world.live, 2).unwrap();
    world.storage.fail_nth_of(Operation::Append, 0, Fault::Enospc);
    assert!(matches!(world.live.checkpoint_now(), Err(FsError::NoSpace)));
    assert_eq!((mark_in_head(&world), world.live.latched()), (1, None));
    set_mark(&world.live, 3).unwrap();
    world.live.checkpoint_now().unwrap();
    assert_eq!(mark_in_head(&world), 2);
    world.live.checkpoint_now().unwrap();
    assert_eq!(mark_in_head(&world), 3);
}

// Case 24.
#[test]
fn a_failed_sync_of_the_image_latches() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.live.commit_now().unwrap();
    world.storage.fail_nth_of(Operation::Sync, 0, Fault::Eio);
    assert!(world.live.checkpoint_now().is_err());
    assert!(world.live.latched().is_some());
    assert!(matches!(set_mark(&world.live, 2), Err(FsError::ReadOnly)));
    assert_eq!(mark(&world.reopened()), 1);
}

// Case 24.
#[test]
fn without_space_for_a_checkpoint_only_what_removes_is_done() {
    let world = World::new();
    set_mark(&world.live, 1).unwrap();
    world.live.checkpoint_now().unwrap();
    world.storage.fail_from_of(Operation::Allocate, 0, Fault::Enospc);
    assert!(matches!(set_mark(&world.live, 2), Err(FsError::NoSpace)));
    let removing = |draft: &mut crate::fs::draft::Draft| {
        draft.removes();
        let mut root = draft.inode(InodeId::ROOT)?;
        root.mtime.secs = 3;
        draft.put_inode(InodeId::ROOT, &root);
        Ok(())
    };
    world.live.transact(removing).unwrap();
    world.live.commit_now().unwrap();
    world.live.checkpoint_now().unwrap();
    assert_eq!(mark_in_head(&world), 3);
}

// Case 24.
#[test]
fn a_write_without_space_gets_that_of_bytes_that_are_no_more() {
    let world = World::new();
    for n in 0..4 {
        write(&world.live, n * 7_000, &[7; 7_000]);
    }
    world.live.checkpoint_now().unwrap();
    assert_eq!(world.segments().first(), Some(&0));
    let cut = |draft: &mut crate::fs::draft::Draft| draft.unthaw_after(InodeId::ROOT, 0);
    world.live.transact(cut).unwrap();
    world.faults.fail_nth_of(Operation::Append, 0, Fault::Enospc);
    write(&world.live, 0, &[8; 7_000]);
    assert!(world.segments().first() > Some(&0));
    // If a checkpoint would free nothing, none is made.
    world.live.checkpoint_now().unwrap();
    world.faults.fail_nth_of(Operation::Append, 0, Fault::Enospc);
    assert!(matches!(world.live.append(&[9; 7_000]), Err(FsError::NoSpace)));
}

// Case 26.
#[test]
fn time_and_commits_alone_make_no_checkpoint() {
    let world = World::committing_every(Duration::from_millis(1));
    set_mark(&world.live, 1).unwrap();
    world.live.checkpoint_now().unwrap();
    let generation = || Image::open(world.storage.clone(), Default::default()).unwrap().head().generation;
    let before = generation();
    let running = world.live.start_threads().unwrap();
    for n in 2..30 {
        set_mark(&world.live, n).unwrap();
        world.live.sync_and_wait().unwrap();
    }
    running.stop();
    assert_eq!((generation(), mark_in_head(&world)), (before, 1));
}

// Case 26.
#[test]
fn a_checkpoint_is_made_when_changed_rows_take_their_share_of_the_memory() {
    let world = World::committing_every(Duration::from_millis(1));
    set_mark(&world.live, 1).unwrap();
    world.live.checkpoint_now().unwrap();
    world.live.set_memory(1024);
    let running = world.live.start_threads().unwrap();
    set_mark(&world.live, 2).unwrap();
    while mark_in_head(&world) != 2 {
        std::thread::yield_now();
    }
    running.stop();
    assert_eq!(world.live.latched(), None);
}

// Case 29.
#[test]
fn changes_wait_while_a_sync_takes_longer_than_the_time_between_commits() {
    let interval = Duration::from_millis(20);
    let world = World::committing_every(interval);
    set_mark(&world.live, 1).unwrap();
    world.gate.close();
    let opened = AtomicBool::new(false);
    let running = world.live.start_threads().unwrap();
    world.gate.wait_for_sync();
    while world.live.lock_state().syncing.is_none_or(|since| since.elapsed() <= interval) {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        let change = scope.spawn(|| {
            set_mark(&world.live, 2).unwrap();
            assert!(opened.load(Ordering::SeqCst), "it did not wait");
        });
        opened.store(true, Ordering::SeqCst);
        world.gate.open();
        change.join().unwrap();
    });
    running.stop();
}

// Case 29.
#[test]
fn a_commit_begins_so_long_after_the_oldest_change_without_anybody_asking() {
    let world = World::committing_every(Duration::from_millis(5));
    let running = world.live.start_threads().unwrap();
    set_mark(&world.live, 1).unwrap();
    world.gate.close();
    world.gate.wait_for_sync();
    world.gate.open();
    running.stop();
    assert_eq!(mark(&world.reopened()), 1);
}

// Case 31.
#[test]
fn at_the_end_all_handles_count_as_closed_and_nothing_is_left_behind() {
    let world = World::new();
    world.live.open(InodeId::ROOT, true).unwrap();
    set_mark(&world.live, 1).unwrap();
    assert!(matches!(world.live.end(std::time::Duration::ZERO), Ok(Finished::Removed)));
    assert!(world.live.snapshot().opens.is_empty());
    assert_eq!(world.segments(), [0; 0]);
    let image = Image::open(world.storage.clone(), Default::default()).unwrap();
    assert!(image.head().clean && image.head().thaw_log_id == 0);
    assert_eq!(mark(&world.reopened()), 1);
}

#[test]
fn a_mount_that_changes_nothing_writes_nothing() {
    let world = World::new();
    let before = world.storage.inner().to_bytes();
    let waiter = ask(&world.live);
    world.live.commit_now().unwrap();
    assert!(matches!(*waiter.lock(), Some(Ok(()))));
    world.live.checkpoint_now().unwrap();
    assert!(matches!(world.live.end(std::time::Duration::ZERO), Ok(Finished::Untouched)));
    assert_eq!(world.storage.inner().to_bytes(), before);
    assert!(world.segments().is_empty());
}

#[test]
fn an_operation_that_meets_others_is_evaluated_anew_until_it_counts() {
    let world = World::new();
    let evaluated = AtomicUsize::new(0);
    let meet = |draft: &mut crate::fs::draft::Draft| {
        let mut root = draft.inode(InodeId::ROOT)?;
        if evaluated.fetch_add(1, Ordering::Relaxed) < 3 {
            // Opening it counts as a change.
            world.live.open(InodeId::ROOT, false)?;
        }
        root.mtime.secs = 9;
        draft.put_inode(InodeId::ROOT, &root);
        Ok(())
    };
    world.live.transact(meet).unwrap();
    assert_eq!((evaluated.into_inner(), mark(&world.live)), (4, 9));
}
