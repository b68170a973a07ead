//! Tests in which each operation fails once.

use super::*;
use crate::storage::Operation as Op;
use crate::storage::testing::{Fault, FaultyStorage, MemoryStorage};

/// Appends and commits, and tries again after failures until the log stops. Returns the last acknowledged transaction,
/// and the last one before segments were removed.
fn live(folder: Arc<dyn Folder>) -> (u64, u64) {
    let Ok(mut log) = create(folder) else { return (0, 0) };
    let (mut acknowledged, mut contained) = (0, 0);
    for n in 0..8u64 {
        let mut operations = many(if n == 4 { 2500 } else { n });
        if let Ok(appended) = log.append(&bytes(n, 7000)) {
            operations.push(names(n + 1, appended));
        }
        for _attempt in 0..3 {
            let begun = match log.begin(operations, 0, (0, 0)) {
                Ok(begun) => begun,
                Err(not) => {
                    operations = not.operations;
                    continue;
                }
            };
            let synced = begun.sync();
            if let Ok(number) = log.end(begun, synced) {
                acknowledged = number;
            }
            break;
        }
        if n == 5 {
            contained = acknowledged;
            let _ = log.remove_before(log.position());
        }
    }
    (acknowledged, contained)
}

#[test]
fn whichever_operation_fails_what_was_acknowledged_is_there() {
    for fault in [Fault::Eio, Fault::Enospc] {
        for short in [false, true] {
            let mut n = 0;
            loop {
                let memory = Arc::new(MemoryFolder::new());
                let faulty = FaultyStorage::new(MemoryStorage::new());
                let folder = Arc::new(faulty.folder(Arc::clone(&memory)));
                if short {
                    faulty.fail_short(n, 777, fault);
                } else {
                    faulty.fail_nth(n, fault);
                }
                let (acknowledged, contained) = live(folder);
                let kind = |r: &&crate::storage::testing::Record| !short || r.operation == Op::Append;
                let reached = faulty.records().iter().filter(kind).count() as u64 > n;
                let found = match recover(memory.clone(), &image(contained)) {
                    Ok(found) => found,
                    Err(error) => panic!("operation {n}: {error}"),
                };
                let count = found.as_ref().map_or(0, Recovered::last_transaction);
                assert!(count >= acknowledged, "operation {n}: {acknowledged} were acknowledged, {count} are there");
                if let Some(recovered) = found {
                    check_named(&recovered, contained);
                    let mut log = recovered.resume(binding(), 2, contained).unwrap().0;
                    log.commit(Vec::new(), 0, (0, 0)).unwrap();
                    assert_eq!(read(memory).unwrap().unwrap().last_transaction(), count + 1);
                }
                if !reached {
                    break;
                }
                n += 1;
            }
            assert!(n > 20, "only {n} operations");
        }
    }
}

// Case 22.
//= format-spec.md#11.5
//= type=test
//# A reader must report a read error and stop; it must not take it for the end of the log.
#[test]
fn a_read_error_anywhere_ends_the_recovery_with_an_error_and_never_the_log() {
    let memory = Arc::new(MemoryFolder::new());
    let mut log = create(memory.clone()).unwrap();
    fill(&mut log, 6, 5000);
    log.commit(many(2500), 0, (0, 0)).unwrap();
    log.append(&bytes(1, 100)).unwrap();
    drop(log);
    // A torn tail and a segment without a head: both have to be searched.
    let mut segments = memory.to_segments();
    let highest = *segments.keys().next_back().unwrap();
    segments.insert(highest, bytes(3, 1000));
    let memory = self::memory(segments);
    for operation in [None, Some(Op::Read), Some(Op::Len), Some(Op::Open), Some(Op::List)] {
        let mut n = 0;
        loop {
            let faulty = FaultyStorage::new(MemoryStorage::new());
            let folder = Arc::new(faulty.folder(Arc::clone(&memory)));
            match operation {
                None => faulty.fail_nth(n, Fault::Eio),
                Some(operation) => faulty.fail_nth_of(operation, n, Fault::Eio),
            }
            let outcome = read(folder);
            let mut kind = faulty.records();
            kind.retain(|record| operation.is_none_or(|operation| record.operation == operation));
            if kind.len() as u64 <= n {
                assert!(outcome.unwrap().is_some());
                break;
            }
            match outcome {
                Err(ThawError::Storage(error)) => assert_eq!(error.raw_os_error(), Some(5)),
                Err(error) => panic!("{operation:?} {n}: {error}"),
                Ok(found) => panic!("{operation:?} {n}: {:?}", found.map(|r| r.last_transaction())),
            }
            n += 1;
        }
        assert!(n > 0 && (operation != Some(Op::Read) || n > 40), "only {n} of {operation:?}");
    }
}

#[test]
fn a_read_error_while_transactions_are_replayed_ends_the_replay_with_an_error() {
    let memory = Arc::new(MemoryFolder::new());
    fill(&mut create(memory.clone()).unwrap(), 6, 5000);
    let faulty = FaultyStorage::new(MemoryStorage::new());
    let mut recovered = read(Arc::new(faulty.folder(memory))).unwrap().unwrap();
    for n in 0..12 {
        faulty.fail_nth_of(Op::Read, n, Fault::Eio);
        let replayed = recovered.replay(0, |_| Ok::<(), ThawError>(()));
        assert!(matches!(replayed, Err(ThawError::Storage(_))), "read {n}");
        faulty.fail_nth_of(Op::Read, n, Fault::Eio);
        assert!(matches!(recovered.verify_written(), Err(ThawError::Storage(_))), "read {n}");
        assert_eq!(recovered.lost_parts(), offsets(&[]));
    }
}

// Case 14.
//= format-spec.md#11.4
//= type=test
//# After a failed sync or a failed truncation a writer must not write to the log again.
#[test]
fn after_a_failed_sync_or_a_failed_truncation_nothing_more_is_written() {
    for failing in [Op::Sync, Op::SyncFolder, Op::Truncate] {
        let memory = Arc::new(MemoryFolder::new());
        let faulty = FaultyStorage::new(MemoryStorage::new());
        let mut log = create(Arc::new(faulty.folder(Arc::clone(&memory)))).unwrap();
        fill(&mut log, 2, 9000);
        log.append(&bytes(1, 9000)).unwrap();
        if failing == Op::Truncate {
            faulty.fail_short(0, 10, Fault::Enospc);
        }
        faulty.fail_nth_of(failing, 0, Fault::Eio);
        assert!(log.commit(Vec::new(), 0, (0, 0)).is_err());
        let left = memory.to_segments();
        assert!(matches!(log.append(b"more"), Err(ThawError::Stopped)));
        let not = log.begin(many(3), 0, (0, 0)).unwrap_err();
        assert!(matches!(not.error, ThawError::Stopped));
        assert_eq!(not.operations, many(3));
        assert!(matches!(log.commit(Vec::new(), 0, (0, 0)), Err(ThawError::Stopped)));
        assert!(matches!(log.remove_before(log.position()), Err(ThawError::Stopped)));
        assert_eq!(memory.to_segments(), left, "after a failed {failing:?}");
        assert!(last(memory) >= 2);
    }
}

// Case 14.
//= format-spec.md#11.4
//= type=test
//# If a group could not be written completely, all of it must be cut off again before anything else is written.
#[test]
fn a_group_that_fails_anywhere_leaves_nothing_and_is_written_when_it_is_tried_again() {
    for n in 0.. {
        let memory = Arc::new(MemoryFolder::new());
        let faulty = FaultyStorage::new(MemoryStorage::new());
        let mut log = create(Arc::new(faulty.folder(Arc::clone(&memory)))).unwrap();
        fill(&mut log, 1, 2000);
        let appended = log.append(&bytes(1, 3000)).unwrap();
        let mut operations = many(3000);
        operations.push(names(7, appended));
        let before = memory.to_segments();
        faulty.fail_short(n, 500, Fault::Enospc);
        let begun = match log.begin(operations.clone(), 0, (0, 0)) {
            Ok(begun) => {
                assert!(n > 5, "only {n} appends");
                drop(begun);
                return;
            }
            Err(not) => {
                assert_eq!(not.operations, operations);
                let mut left = memory.to_segments();
                left.retain(|_, content| !content.is_empty());
                let full = before.iter().filter(|(_, content)| !content.is_empty());
                assert!(left.iter().eq(full), "append {n}");
                // Other bytes are appended before the commit is tried again.
                log.append(b"in between").unwrap();
                log.begin(not.operations, 0, (0, 0)).unwrap()
            }
        };
        let synced = begun.sync();
        log.end(begun, synced).unwrap();
        let recovered = read(memory).unwrap().unwrap();
        let found: Vec<_> = transactions(&recovered, 1).into_iter().flat_map(|t| t.operations).collect();
        assert_eq!(found, operations);
        check_named(&recovered, 0);
    }
}

#[test]
fn written_bytes_find_no_space_before_a_commit_does() {
    let memory = Arc::new(MemoryFolder::new());
    let faulty = FaultyStorage::new(MemoryStorage::new());
    let mut log = create(Arc::new(faulty.folder(Arc::clone(&memory)))).unwrap();
    faulty.fail_from_of(Op::Allocate, 0, Fault::Enospc);
    let mut written = 0;
    let refused = loop {
        match log.append(&bytes(1, 5000)) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, ThawError::Storage(e) if e.raw_os_error() == Some(28)), "{refused}");
    assert_eq!(written, 1, "the second goes to the segment that was made ahead, which a commit may need");
    for _ in 0..100 {
        if let Ok(number) = log.commit(many(3), 0, (0, 0)) {
            written = number;
        }
        assert!(log.append(b"more").is_err());
    }
    assert!(written > 2, "{written} commits");
    // When there is space again, everything continues.
    faulty.fail_no_more();
    log.append(&bytes(1, 9000)).unwrap();
    assert_eq!(log.commit(many(3), 0, (0, 0)).unwrap(), written + 1);
    assert_eq!(last(memory), written + 1);
}
