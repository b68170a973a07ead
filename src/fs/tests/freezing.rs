//! Freezing, on storages in memory: what files become, and how freezing works with changes, failures and the end.

use super::world::{World, file, noise, read};
use crate::format::clear::ClearList;
use crate::format::frame::FrameKind;
use crate::format::ids::{InodeId, LogOffset};
use crate::format::limits;
use crate::format::params::{Chunker, Params};
use crate::format::rows::{ContentRef, InodeRow};
use crate::format::schema;
use crate::fs::freezing::control::Step;
use crate::fs::{FallocateMode, Finished, FreezeHow, FreezeReport, Live, RenameFlags, SetAttr};
use crate::pack::PackOptions;
use crate::storage::Operation;
use crate::storage::testing::Fault;
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// Small subchunks and superchunks, so that there are many.
fn options() -> PackOptions {
    let chunker = Chunker::FastCdc { min: 1024, avg: 2048, max: 8192 };
    PackOptions { params: Params { chunker, superchunk_size: 1 << 20, ..Params::default() }, ..PackOptions::default() }
}

fn world() -> World {
    World::of(HOUR, &options())
}

fn row(live: &Live, inode: InodeId) -> InodeRow {
    let view = live.snapshot().view().clone();
    view.inode(inode).unwrap().unwrap()
}

fn freeze(live: &Live) -> FreezeReport {
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap()
}

fn thawed_rows(live: &Live) -> usize {
    let view = live.snapshot().view().clone();
    let mut cursor = view.cursor_at(&schema::THAWED, crate::format::block::KeyRef::new(0, 0)).unwrap();
    let mut rows = 0;
    while cursor.row().is_some() {
        rows += 1;
        cursor.advance(&view).unwrap();
    }
    rows
}

#[test]
fn what_was_written_is_frozen_and_the_log_goes_at_the_end() {
    let world = world();
    let live = &world.live;
    let contents = [noise(100, 1), noise(700, 2), noise(300_000, 3), Vec::new()];
    let files: Vec<_> = (0..).zip(&contents).map(|(n, bytes)| file(live, &format!("{n}"), bytes)).collect();
    live.write(files[3], 100_000, &noise(50_000, 4), false).unwrap();
    let expected: Vec<_> = files.iter().map(|&inode| read(live, inode)).collect();
    let report = freeze(live);
    assert_eq!((report.files, report.left_bytes, report.dropped), (4, 0, 0));
    assert_eq!(report.frozen_bytes, report.bytes);
    assert_eq!((thawed_rows(live), live.status().unwrap().thawed_bytes), (0, 0));
    let all = |live: &Arc<Live>| files.iter().map(|&inode| read(live, inode)).collect::<Vec<_>>();
    assert_eq!(all(live), expected);
    assert!(matches!(row(live, files[0]).content, ContentRef::Tiny(_)));
    assert!(matches!(row(live, files[1]).content, ContentRef::Subchunk(_)));
    assert!(matches!(row(live, files[2]).content, ContentRef::Content(_)));
    assert_eq!((row(live, files[2]).allocated(), row(live, files[3]).allocated()), (None, Some(50_000)));
    assert!(files.iter().all(|&inode| !row(live, inode).is_uneven()));
    live.commit_now().unwrap();
    assert_eq!(all(&world.reopened()), expected);
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    assert_eq!(world.segments(), [0u64; 0]);
    assert_eq!(all(&world.reopened()), expected);
}

/// Freezes everything, and calls `between` between cut and splice.
fn freeze_around(live: &Arc<Live>, between: impl FnOnce(&Live) + Send + 'static) -> FreezeReport {
    let weak = Arc::downgrade(live);
    live.freezer.set_hook(Step::Published, move || between(&weak.upgrade().unwrap()));
    // Only one round: a second one would freeze more than this test looks at.
    let how = FreezeHow { priority: crate::freeze::Priority::Idle, ..FreezeHow::default() };
    live.freeze_now(&how, &|_| ()).unwrap()
}

/// Fills up a superchunk, so that a freeze in the background keeps what comes before it.
fn filler(live: &Live, seed: u64) -> InodeId {
    file(live, &format!("filler {seed}"), &noise(1100 << 10, 1000 + seed))
}

// Case 4.
#[test]
fn what_is_changed_of_an_inode_between_cut_and_splice_stays() {
    let world = world();
    let live = &world.live;
    let bytes = noise(100_000, 1);
    let inode = file(live, "a", &bytes);
    filler(live, 1);
    let before = row(live, inode);
    let report = freeze_around(live, move |live| {
        let changes = SetAttr { mode: Some(0o4711), uid: Some(7), gid: Some(8), ..SetAttr::default() };
        live.set_attr(inode, &changes).unwrap();
        live.rename(InodeId::ROOT, b"a", InodeId::ROOT, b"b", RenameFlags::default()).unwrap();
        live.touch_atime(inode, true).unwrap();
    });
    assert_eq!(report.dropped, 0);
    let after = row(live, inode);
    assert!(matches!(after.content, ContentRef::Content(_)));
    assert_eq!((after.permissions, after.uid, after.gid, after.mtime), (0o4711, 7, 8, before.mtime));
    assert!(after.ctime > before.ctime && after.atime > before.atime);
    assert_eq!(read(live, inode), bytes);
    assert!(live.snapshot().view().lookup(InodeId::ROOT, b"b").unwrap().is_some());
}

// Case 5.
#[test]
fn what_is_changed_of_the_bytes_between_cut_and_splice_stays() {
    type Change = fn(&Live, InodeId, InodeId);
    let changes: [(&str, Change); 9] = [
        ("write", |live, inode, _| live.write(inode, 30_000, &noise(5000, 9), false).unwrap()),
        ("all anew", |live, inode, _| live.write(inode, 0, &noise(120_000, 9), false).unwrap()),
        ("append", |live, inode, _| live.write(inode, 100_000, &noise(5000, 9), false).unwrap()),
        ("cut off", |live, inode, _| size(live, inode, 40_001)),
        ("cut off and grown again", |live, inode, _| {
            size(live, inode, 40_001);
            size(live, inode, 100_000);
        }),
        ("grown", |live, inode, _| size(live, inode, 200_000)),
        ("punched", |live, inode, _| live.fallocate(inode, 20_000, 30_000, FallocateMode::PunchHole).unwrap()),
        ("zeroed", |live, inode, _| {
            live.fallocate(inode, 90_000, 30_000, FallocateMode::ZeroRange { keep_size: false }).unwrap();
        }),
        ("copied into", |live, inode, other| _ = live.copy_range(other, 100, inode, 50_000, 20_000).unwrap()),
    ];
    for (name, change) in changes {
        let world = world();
        let live = &world.live;
        let (inode, other) = (file(live, "a", &noise(100_000, 1)), file(live, "b", &noise(50_000, 2)));
        filler(live, 1);
        let expected = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let (told, of_hook) = (expected.clone(), live.clone());
        freeze_around(live, move |live| {
            change(live, inode, other);
            *told.lock() = read(&of_hook, inode);
        });
        let expected = expected.lock().clone();
        assert!(read(live, inode) == expected, "{name}");
        freeze(live);
        assert_eq!(live.lock_state().dirty.bytes(), 0, "{name}");
        assert!(read(live, inode) == expected, "{name}, frozen again");
        assert_eq!(live.end(HOUR).unwrap(), Finished::Removed, "{name}");
        assert!(read(&world.reopened(), inode) == expected, "{name}, after the end");
    }
}

fn size(live: &Live, inode: InodeId, size: u64) {
    live.set_attr(inode, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
}

// Case 8.
#[test]
fn a_batch_that_is_given_up_leaves_nothing_among_the_known_subchunks() {
    for (operation, fault) in
        [(Operation::Append, Fault::Enospc), (Operation::Append, Fault::Eio), (Operation::Allocate, Fault::Enospc)]
    {
        let world = world();
        let live = &world.live;
        let bytes = noise(300_000, 1);
        let inode = file(live, "a", &bytes);
        live.commit_now().unwrap();
        let len = crate::storage::Storage::len(&*world.storage).unwrap();
        world.storage.fail_nth_of(operation, 0, fault);
        let error = live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap_err();
        assert_eq!(matches!(error, crate::fs::FsError::NoSpace), fault == Fault::Enospc, "{error}");
        assert_eq!(live.latched(), None);
        assert_eq!(crate::storage::Storage::len(&*world.storage).unwrap(), len);
        assert_eq!((read(live, inode), live.lock_state().dirty.bytes()), (bytes.clone(), 300_000));
        // None of it counts as stored.
        let report = freeze(live);
        assert_eq!((report.new_bytes, report.shared_bytes, report.left_bytes), (300_000, 0, 0));
        assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
        assert_eq!(read(&world.reopened(), inode), bytes);
    }
}

// Case 8.
#[test]
fn a_sync_of_the_image_that_fails_latches_and_loses_nothing() {
    let world = world();
    let live = &world.live;
    let bytes = noise(300_000, 1);
    let inode = file(live, "a", &bytes);
    live.commit_now().unwrap();
    world.storage.fail_nth_of(Operation::Sync, 0, Fault::Eio);
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap_err();
    assert!(live.latched().is_some());
    assert_eq!(read(live, inode), bytes);
    let live = world.reopened();
    assert_eq!(read(&live, inode), bytes);
    assert_eq!(freeze(&live).left_bytes, 0);
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    assert_eq!(read(&world.reopened(), inode), bytes);
}

// Case 25.
#[test]
fn rows_of_all_superchunks_are_committed_though_the_file_is_gone() {
    let world = world();
    let live = &world.live;
    let bytes = noise(2500 << 10, 1);
    file(live, "a", &bytes);
    let report = freeze_around(live, |live| live.unlink(InodeId::ROOT, b"a").unwrap());
    assert_eq!((report.superchunks, report.frozen_bytes), (2, 0));
    live.commit_now().unwrap();
    // The next session knows these subchunks.
    let live = world.reopened();
    let again = file(&live, "b", &bytes);
    let report = freeze(&live);
    assert!(report.shared_bytes > 2_000_000 && report.new_bytes < 1 << 20, "{report:?}");
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    assert_eq!(read(&world.reopened(), again), bytes);
}

// Case 28.
#[test]
fn a_file_that_changes_whenever_it_is_frozen_waits() {
    let world = world();
    let live = &world.live;
    let inode = file(live, "a", &noise(2000, 1));
    filler(live, 1);
    for n in 0..2 {
        filler(live, 2 + n);
        let report = freeze_around(live, move |live| live.write(inode, 0, &noise(2000, 20 + n), false).unwrap());
        assert_eq!(report.dropped, 1);
    }
    filler(live, 10);
    let report = freeze_around(live, |_| ());
    assert!(report.left_bytes >= 2000 && report.dropped == 0);
    assert!(matches!(row(live, inode).content, ContentRef::None));
    // On request it is frozen all the same.
    assert_eq!(freeze(live).left_bytes, 0);
    assert_eq!(read(live, inode), noise(2000, 21));
}

#[test]
fn a_freeze_in_the_background_leaves_open_files_and_what_fills_no_superchunk() {
    let world = world();
    let live = &world.live;
    let (open, small) = (file(live, "a", &noise(1100 << 10, 1)), file(live, "b", &noise(30_000, 2)));
    let tiny = file(live, "c", b"tiny");
    live.open(open, true).unwrap();
    let report = live.freeze_now(&FreezeHow::default(), &|_| ()).unwrap();
    assert_eq!((report.files, report.superchunks, report.dropped), (1, 0, 0));
    assert!(matches!(row(live, tiny).content, ContentRef::Tiny(_)));
    assert_eq!(live.lock_state().dirty.bytes(), 30_000 + (1100 << 10));
    live.release(open, true);
    let report = live.freeze_now(&FreezeHow::default(), &|_| ()).unwrap();
    assert_eq!(report.superchunks, 1);
    let left = live.lock_state().dirty.bytes();
    assert!(left > 0 && left < 200 << 10, "{left}");
    assert_eq!(freeze(live).left_bytes, 0);
    for (inode, bytes) in [(open, noise(1100 << 10, 1)), (small, noise(30_000, 2)), (tiny, b"tiny".to_vec())] {
        assert_eq!(read(live, inode), bytes);
    }
    assert!(!row(live, open).is_uneven());
}

#[test]
fn equal_bytes_are_stored_once_in_a_session_and_over_sessions() {
    let world = world();
    let live = &world.live;
    let bytes = noise(200_000, 1);
    let (a, b) = (file(live, "a", &bytes), file(live, "b", &bytes));
    let report = freeze(live);
    assert_eq!((report.new_bytes, report.shared_bytes), (200_000, 200_000));
    file(live, "c", &bytes);
    assert_eq!(freeze(live).new_bytes, 0);
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    let live = world.reopened();
    assert_eq!(live.snapshot().view().version().root().unique_bytes, 200_000);
    let d = file(&live, "d", &bytes);
    assert_eq!((freeze(&live).new_bytes, live.lock_state().dirty.bytes()), (0, 0));
    for inode in [a, b, d] {
        assert_eq!(read(&live, inode), bytes);
    }
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
}

#[test]
fn a_checkpoint_gives_out_no_id_that_a_freeze_has_given_out_since_the_sealing() {
    let world = world();
    let live = &world.live;
    let a = file(live, "a", &noise(100_000, 1));
    // Sealed, and given up: the next checkpoint publishes what was sealed.
    world.storage.fail_nth_of(Operation::Append, 0, Fault::Enospc);
    assert!(live.checkpoint_now().is_err() && live.latched().is_none());
    freeze(live);
    live.checkpoint_now().unwrap();
    live.checkpoint_now().unwrap();
    let b = file(live, "b", &noise(100_000, 2));
    freeze(live);
    live.checkpoint_now().unwrap();
    let mut seen = std::collections::BTreeMap::new();
    let image = crate::meta::Image::open(world.storage.clone(), Default::default()).unwrap();
    for header in image.log().scan(LogOffset(limits::LOG_START)) {
        let header = header.unwrap();
        if matches!(header.kind, FrameKind::SUPERCHUNK | FrameKind::TABLE_GROUP) {
            let list = ClearList::decode(&image.log().clear_part(&header).unwrap(), header.raw_len).unwrap();
            // A copy has the same clear list.
            let before = seen.insert(list.superchunk, list.clone());
            assert!(before.is_none_or(|before| before == list), "two superchunks {}", list.superchunk);
        }
    }
    assert!(seen.len() > 8, "{}", seen.len());
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    let live = world.reopened();
    assert_eq!((read(&live, a), read(&live, b)), (noise(100_000, 1), noise(100_000, 2)));
}

// Case 16.
#[test]
fn a_file_with_a_damaged_frame_is_held_and_the_others_are_frozen() {
    let world = world();
    let live = &world.live;
    let (bad, good) = (file(live, "a", &noise(5000, 1)), file(live, "b", &noise(5000, 2)));
    world.damage_written(&noise(5000, 1)[100..200]);
    let report = freeze(live);
    assert_eq!((report.failed, report.left_bytes), (1, 5000));
    assert!(matches!(row(live, bad).content, ContentRef::None));
    assert_eq!((read(live, good), live.freezer_status().failed_files), (noise(5000, 2), 1));
    assert!(matches!(live.end(HOUR).unwrap(), Finished::Kept { .. }));
}

/// Waits until `what` is true. Leaves the processor to threads of low priority.
fn until(live: &Live, what: &dyn Fn() -> bool) {
    while !what() {
        let mut state = live.lock_state();
        live.changed.wait_for(&mut state, Duration::from_millis(20));
    }
}

#[test]
fn the_thread_freezes_by_itself_and_when_asked() {
    let world = world();
    let live = &world.live;
    let running = live.start_threads().unwrap();
    let inode = file(live, "a", &noise(3 << 20, 1));
    until(live, &|| live.freezer_status().queue_bytes < 1 << 20);
    let ticket = live.request_freeze(false);
    until(live, &|| live.freezer_status().ticket_done >= ticket);
    let status = live.freezer_status();
    assert_eq!((status.queue_bytes, status.error, status.last.unwrap().left_bytes), (0, None, 0));
    // The image alone is complete, too.
    let image = crate::meta::Image::open(world.storage.clone(), Default::default()).unwrap();
    assert!(!image.has_thawed() && image.inode(inode).unwrap().is_some());
    assert_eq!(read(live, inode), noise(3 << 20, 1));
    running.stop();
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
}

#[test]
fn segments_of_the_log_go_while_files_are_frozen() {
    let world = world();
    let live = &world.live;
    let running = live.start_threads().unwrap();
    for n in 0..8 {
        file(live, &format!("{n}"), &noise(1100 << 10, n));
    }
    // 550 segments of 16 KiB; nobody asks for a checkpoint.
    until(live, &|| world.segments().len() <= 250);
    running.stop();
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
}
