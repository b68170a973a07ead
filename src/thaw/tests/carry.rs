//! Tests of continuing after a crash: bytes that may be in the page cache only are written again, and count at every
//! moment.

use super::*;
use crate::storage::testing::{Fault, FaultyStorage, FileId, MemoryStorage};

/// The ranges and rows that each transaction puts, by number; offsets of frames are left out.
type Told = Vec<(u64, Vec<(u64, u64, u64)>)>;

fn told(recovered: &Recovered) -> Told {
    let ranges = |t: &Transaction| {
        let range = |operation: &Operation| match operation {
            Operation::Thawed(t) => Some((t.inode.0, t.offset, t.sum)),
            _ => None,
        };
        t.operations.iter().filter_map(range).collect()
    };
    transactions(recovered, 0).iter().map(|t| (t.info.number, ranges(t))).collect()
}

/// A log whose last commits are in the page cache only: the sync failed, the process was killed, and the next process
/// that opens the files gets no error.
fn unsynced() -> (History, usize) {
    let history = History::new(nothing());
    let mut log = create(Arc::new(history.folder())).unwrap();
    fill(&mut log, 3, 3000);
    let frame = log.append(&bytes(7, 9000)).unwrap();
    let mut operations = vec![names(20, frame), names(21, frame)];
    operations.extend(many(2500));
    drop(log.begin(operations, 5, (6, 7)).unwrap());
    for number in 0..=log.position().0 / SEGMENT {
        history.fail_sync(FileId::Segment(number));
    }
    let events = history.len();
    (history, events)
}

//= format-spec.md#11.4
//= type=test
//# So a writer must write the operations after the durable offset again, with the written bytes that they name, before
//# it continues.
#[test]
fn a_writer_that_continues_after_a_failed_sync_does_not_rely_on_the_page_cache() {
    let (history, crashed) = unsynced();
    let folder: Arc<dyn Folder> = Arc::new(history.folder_now());
    let recovered = read(folder.clone()).unwrap().unwrap();
    let before = told(&recovered);
    let last_number = recovered.last_transaction();
    assert!(last_number > 4);
    let (mut log, moved) = recovered.resume(binding(), 2, 0).unwrap();
    assert_eq!(moved.len(), 1, "a frame that two ranges name is copied once");
    let resumed = history.len();
    assert_eq!(log.last_transaction(), last_number);
    let appended = log.append(&bytes(9, 500)).unwrap();
    let number = log.commit(vec![names(30, appended)], 5, (8, 9)).unwrap();
    let mut counts = BTreeMap::new();
    for n in crashed..=history.len() {
        cuts(&history, n, 64, |left, what| {
            let found = read(memory(left.segments)).unwrap_or_else(|e| panic!("{what}: {e}")).unwrap();
            check_named(&found, 0);
            *counts.entry(found.last_transaction()).or_insert(0) += 1;
            let told = told(&found);
            // Three commits were acknowledged. The fourth may be missing, as a whole, until it was written again.
            let whole = told.starts_with(&before);
            assert!(whole || told == before[..3], "{what}: {told:?}");
            assert!(whole || n < resumed, "{what}: what was gone on with is lost");
            if n == history.len() {
                assert_eq!(found.last_transaction(), number, "{what}");
            }
            found.resume(binding(), 3, 0).unwrap_or_else(|e| panic!("{what}: {e}"));
        });
    }
    assert!(counts.len() >= 2, "{counts:?}");
}

#[test]
fn going_on_that_fails_anywhere_leaves_the_log_as_it_was() {
    let build = || {
        let faulty = FaultyStorage::new(MemoryStorage::new());
        let folder: Arc<dyn Folder> = Arc::new(faulty.folder(MemoryFolder::new()));
        let mut log = create(folder.clone()).unwrap();
        fill(&mut log, 3, 3000);
        let frame = log.append(&bytes(7, 9000)).unwrap();
        drop(log.begin(vec![names(20, frame)], 5, (6, 7)).unwrap());
        (faulty, folder)
    };
    let (faulty, folder) = build();
    let before = told(&read(folder.clone()).unwrap().unwrap());
    let recovered = read(folder).unwrap().unwrap();
    let from = faulty.count();
    recovered.resume(binding(), 2, 0).unwrap();
    let operations = faulty.count() - from;
    assert!(operations > 20);
    let mut failed = 0;
    for fault in [Fault::Eio, Fault::Enospc] {
        for n in 0..operations {
            for lasting in [false, true] {
                let (faulty, folder) = build();
                let recovered = read(folder.clone()).unwrap().unwrap();
                if lasting {
                    faulty.fail_from(n, fault);
                } else {
                    faulty.fail_nth(n, fault);
                }
                failed += u32::from(recovered.resume(binding(), 2, 0).is_err());
                faulty.fail_no_more();
                let found = read(folder.clone()).unwrap_or_else(|e| panic!("{n}: {e}")).unwrap();
                assert_eq!(told(&found), before, "operation {n}");
                check_named(&found, 0);
                let mut log = found.resume(binding(), 3, 0).unwrap().0;
                log.commit(many(1), 0, (0, 0)).unwrap();
                let found = read(folder).unwrap().unwrap();
                assert_eq!((told(&found).len(), found.last_transaction()), (before.len() + 1, 5));
            }
        }
    }
    assert!(failed as u64 > operations, "{failed} of {operations} operations matter");
}

#[test]
fn a_log_that_records_its_durable_end_is_not_written_again() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    assert!(!log.has_unrecorded_commit());
    fill(&mut log, 2, 3000);
    assert!(log.has_unrecorded_commit());
    let end = log.position();
    assert!(!log.has_unsynced());
    log.commit(Vec::new(), 0, (0, 0)).unwrap();
    assert!(!log.has_unrecorded_commit(), "a commit without operations needs no other to say so");
    drop(log);
    let before = folder.to_segments();
    let recovered = read(folder.clone()).unwrap().unwrap();
    let (mut log, moved) = recovered.resume(binding(), 2, 0).unwrap();
    assert!(moved.is_empty());
    assert_eq!(log.last_transaction(), 2);
    assert!(log.position() > end && log.position().0 % SEGMENT < 200, "there is a head and no more");
    log.commit(many(1), 0, (0, 0)).unwrap();
    assert_eq!(last(folder.clone()), 3);
    for (number, content) in before.into_iter().filter(|(_, content)| !content.is_empty()) {
        assert_eq!(folder.to_segments()[&number], content);
    }
}
