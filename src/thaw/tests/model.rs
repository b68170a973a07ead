//! Committed operations are recovered, in whole groups only.

use super::*;
use crate::format::thaw::TRANSACTION_LEN;
use crate::thaw::Misfit;
use proptest::prelude::*;

#[test]
fn what_was_committed_comes_back_over_segments_and_sessions() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    let mut expected = fill(&mut log, 10, 9000);
    assert!(folder.list().unwrap().len() > 5);
    for session in 0..5 {
        drop(log);
        let recovered = read(folder.clone()).unwrap().unwrap();
        let found: Vec<_> = transactions(&recovered, 0).into_iter().map(|t| t.operations).collect();
        assert_eq!(placeless(found), placeless(expected.clone()), "session {session}");
        check_named(&recovered, 0);
        assert_eq!(lost_ranges(&recovered), []);
        log = recovered.resume(binding(), session + 2, 0).unwrap().0;
        expected.extend(fill(&mut log, 3, 1000));
    }
}

/// Operations without the offsets of written bytes, which change when the bytes are written again.
fn placeless(mut transactions: Vec<Vec<Operation>>) -> Vec<Vec<Operation>> {
    for operation in transactions.iter_mut().flatten() {
        if let Operation::Thawed(thawed) = operation {
            thawed.frame = LogOffset(1);
        }
    }
    transactions
}

#[test]
fn a_log_without_a_commit_is_none_and_a_new_one_can_begin_in_its_place() {
    let folder = Arc::new(MemoryFolder::new());
    assert!(read(folder.clone()).unwrap().is_none());
    let mut log = create(folder.clone()).unwrap();
    log.append(b"nothing names this").unwrap();
    drop(log);
    assert!(read(folder.clone()).unwrap().is_none());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 1, 10);
    assert_eq!(last(folder.clone()), 1);
    let before = folder.to_segments();
    assert!(matches!(create(folder.clone()), Err(ThawError::Occupied { transactions: 1 })));
    assert_eq!(folder.to_segments(), before, "a log with commits is not touched");
}

#[test]
fn a_log_that_was_cut_off_in_its_first_commit_is_none() {
    let folder = Arc::new(MemoryFolder::new());
    fill(&mut create(folder.clone()).unwrap(), 1, 100);
    let whole = folder.to_segments()[&0].clone();
    let mut seen = [0; 2];
    for len in 0..=whole.len() {
        let folder = memory([(0, whole[..len].to_vec())].into());
        let found = last(folder.clone());
        seen[found as usize] += 1;
        if found == 0 {
            create(folder).unwrap_or_else(|e| panic!("cut at {len}: {e}"));
        }
    }
    assert!(seen.iter().all(|&n| n > 100), "{seen:?}");
}

#[test]
fn what_does_not_fit_the_image_is_refused() {
    let folder = Arc::new(MemoryFolder::new());
    fill(&mut create(folder.clone()).unwrap(), 5, 10);
    let refused = |image: &ImageState| match recover(folder.clone(), image) {
        Err(ThawError::Foreign(why)) => why,
        other => panic!("{:?}", other.map(|found| found.map(|r| r.last_transaction()))),
    };
    assert_eq!(refused(&ImageState { uuid: [9; 16], ..image(0) }), Misfit::Uuid);
    assert_eq!(refused(&ImageState { slots: Vec::new(), ..image(0) }), Misfit::LogId);
    assert_eq!(refused(&ImageState { len: 3, ..image(0) }), Misfit::ImageShort { image_end: 4, len: 3 });
    assert_eq!(refused(&image(6)), Misfit::EndsBefore { contained: 6, last: 5 });
    // A damaged log of another image: only the latter is reported.
    let mut segments = folder.to_segments();
    segments.get_mut(&0).unwrap()[4096 + 100] ^= 1;
    let other = recover(memory(segments), &ImageState { lineage: [9; 16], ..image(0) });
    assert!(matches!(other, Err(ThawError::Foreign(Misfit::Lineage))));
}

//= format-spec.md#11.6
//= type=test
//# A writer must not continue a log that ends before the last transaction that the root contains.
#[test]
fn a_log_that_ends_before_the_last_transaction_of_the_root_is_not_continued() {
    let folder = Arc::new(MemoryFolder::new());
    fill(&mut create(folder.clone()).unwrap(), 5, 100);
    let before = folder.to_segments();
    let recovered = read(folder.clone()).unwrap().unwrap();
    let refused = recovered.replay(8, |_| Ok::<(), ThawError>(()));
    assert!(matches!(refused, Err(ThawError::Foreign(Misfit::EndsBefore { contained: 8, last: 5 }))));
    let refused = recovered.resume(binding(), 2, 8);
    assert!(matches!(refused, Err(ThawError::Foreign(Misfit::EndsBefore { contained: 8, last: 5 }))));
    assert_eq!(folder.to_segments(), before);
    read(folder).unwrap().unwrap().resume(binding(), 2, 5).unwrap();
}

#[test]
fn a_large_commit_is_one_group_over_several_segments_and_transactions() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 1, 500);
    let operations = many(5000);
    log.commit(operations.clone(), 7, (1, 2)).unwrap();
    assert!(folder.list().unwrap().len() > 4);
    let found = transactions(&read(folder).unwrap().unwrap(), 1);
    assert!(found.len() > 4);
    for (n, transaction) in found.iter().enumerate() {
        assert_eq!(transaction.info.more_follows, n + 1 < found.len());
        assert_eq!((transaction.info.number, transaction.info.image_end), (n as u64 + 2, 7));
        assert_eq!(transaction.info.durable_upto, found[0].info.durable_upto);
    }
    assert_eq!(found.into_iter().flat_map(|t| t.operations).collect::<Vec<_>>(), operations);
}

#[test]
fn a_transaction_is_of_at_most_a_mebibyte_whatever_the_segment_holds() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = ThawLog::create(folder.clone(), binding(), LOG, 1, 4 << 20).unwrap();
    log.commit(many(200_000), 0, (0, 0)).unwrap();
    let found = transactions(&read(folder).unwrap().unwrap(), 0);
    assert_eq!(found.iter().map(|t| t.operations.len()).sum::<usize>(), 200_000);
    let sizes: Vec<_> = found.iter().map(|t| t.encode().unwrap().len() as u64).collect();
    assert!(sizes.len() > 1 && sizes.iter().all(|&size| size <= TRANSACTION_LEN), "{sizes:?}");
}

// Case 21.
#[test]
fn a_crash_at_any_byte_of_the_last_group_leaves_all_of_it_or_nothing() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 2, 3000);
    let before = log.position();
    // Three transactions, in two segments.
    let appended = log.append(&bytes(1, 100)).unwrap();
    let mut operations = many(1800);
    operations.push(names(9, appended));
    log.commit(operations, 0, (0, 0)).unwrap();
    assert_eq!(log.last_transaction(), 4);
    let segments = folder.to_segments();
    assert!(log.position().0 / SEGMENT > before.0 / SEGMENT);
    let mut seen = [0; 2];
    for cut in (before.0..=log.position().0).rev().step_by(7) {
        let left = segments.iter().map(|(&number, content)| {
            let len = cut.saturating_sub(number * SEGMENT).min(content.len() as u64);
            (number, content[..len as usize].to_vec())
        });
        let folder = memory(left.collect());
        let recovered = read(folder.clone()).unwrap().unwrap();
        let count = recovered.last_transaction();
        assert!(count == 2 || count == 4, "cut at {cut}: {count}");
        seen[count as usize / 2 - 1] += 1;
        let mut log = recovered.resume(binding(), 2, 0).unwrap().0;
        fill(&mut log, 2, 100);
        assert_eq!(last(folder), count + 2);
    }
    assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
}

#[test]
fn contained_segments_are_removed_and_the_rest_continues_the_image() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 10, 9000);
    let contained = log.last_transaction();
    // The new segment holds nothing durable yet, so the one before has to stay.
    log.append(&bytes(1, 9000)).unwrap();
    log.remove_before(log.position()).unwrap();
    let later = fill(&mut log, 2, 1000);
    let recovered = recover(folder.clone(), &image(contained)).unwrap().unwrap();
    assert!(recovered.before() > 0);
    let found: Vec<_> = transactions(&recovered, contained).into_iter().map(|t| t.operations).collect();
    assert_eq!(found, later);
    let gap = recovered.replay(0, |_| Ok::<(), ThawError>(()));
    assert!(matches!(gap, Err(ThawError::Foreign(Misfit::BeginsAfter { .. }))), "what the image lacks is missing");
    let gap = recovered.resume(binding(), 2, 0);
    assert!(matches!(gap, Err(ThawError::Foreign(Misfit::BeginsAfter { .. }))));
    let recovered = recover(folder.clone(), &image(contained)).unwrap().unwrap();
    recovered.resume(binding(), 2, contained).unwrap().0.remove().unwrap();
    assert_eq!(folder.list().unwrap(), [0u64; 0]);
}

//= format-spec.md#11.4
//= type=test
//# It must not cut anything off.
#[test]
fn a_writer_that_continues_a_log_cuts_nothing_off_and_uses_the_files_made_ahead() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 2, 9000);
    log.append(&bytes(7, 100)).unwrap();
    drop(log);
    let before = folder.to_segments();
    let (&highest, empty) = before.last_key_value().unwrap();
    assert!(empty.is_empty(), "the next segment's file is made ahead");
    drop(read(folder.clone()).unwrap().unwrap().resume(binding(), 2, 0).unwrap());
    let after = folder.to_segments();
    for (number, content) in before.iter().filter(|(_, content)| !content.is_empty()) {
        assert_eq!(&after[number], content);
    }
    assert_eq!(after.keys().next_back(), Some(&(highest + 1)), "one more was made ahead");
    assert!(!after[&highest].is_empty());
}

#[test]
fn writes_and_operations_too_large_for_a_segment_are_refused_and_the_log_continues() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    let most = log.largest_write() as usize;
    assert!(matches!(log.append(&bytes(1, most + 1)), Err(ThawError::TooLarge { .. })));
    log.append(&bytes(1, most)).unwrap();
    let key = crate::format::block::Key::new(1, 0);
    let row = crate::format::block::Row { key, ints: Vec::new(), tail: bytes(1, most) };
    let operations = vec![Operation::Put(&crate::format::schema::TINY, row)];
    let refused = log.begin(operations.clone(), 0, (0, 0)).unwrap_err();
    assert!(matches!(refused.error, ThawError::TooLarge { .. }));
    assert_eq!(refused.operations, operations);
    // An operation that readers refuse is not written: it would make the whole log unreadable.
    let invalid = Operation::NotThawed { inode: InodeId(0), offset: 0, len: 1 };
    let refused = log.begin(vec![invalid], 0, (0, 0)).unwrap_err();
    assert!(matches!(refused.error, ThawError::Transaction { .. }));
    fill(&mut log, 1, 100);
    assert_eq!(last(folder), 1);
    for size in [0, 4096, 48 << 10, 128 << 20] {
        let refused = ThawLog::create(Arc::new(MemoryFolder::new()), binding(), LOG, 1, size);
        assert!(matches!(refused, Err(ThawError::Invalid { .. })), "segments of {size} bytes");
    }
    assert!(ThawLog::create(Arc::new(MemoryFolder::new()), binding(), LOG, 1 << 24, SEGMENT).is_err());
}

#[test]
fn others_append_while_a_commit_is_synced_and_what_they_append_is_not_part_of_it() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    let first = log.append(&bytes(1, 100)).unwrap();
    let begun = log.begin(vec![names(1, first)], 0, (0, 0)).unwrap();
    assert_eq!(begun.position().0 % 4096, 0);
    let durable = log.durable();
    let second = log.append(&bytes(2, 9000)).unwrap();
    assert!(second.frame >= begun.position(), "no block that is being synced is written to");
    assert!(matches!(log.begin(Vec::new(), 0, (0, 0)).unwrap_err().error, ThawError::Unfinished));
    assert_eq!(log.durable(), durable);
    let (position, synced) = (begun.position(), begun.sync());
    assert_eq!(log.end(begun, synced).unwrap(), 1);
    assert_eq!(log.durable(), position);
    assert!(log.position() > position);
    log.commit(vec![names(2, second)], 0, (0, 0)).unwrap();
    let recovered = read(folder).unwrap().unwrap();
    check_named(&recovered, 0);
    assert_eq!(transactions(&recovered, 0)[1].info.durable_upto, position.0);
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Commit(u64),
    /// A checkpoint contains all commits except the last this many.
    Checkpoint(u64),
    /// The process ends; of the bytes after the last sync, this many 256ths remain.
    Crash(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..9000usize).prop_map(Step::Append),
        4 => (0..50u64).prop_map(Step::Commit),
        1 => (1000..4000u64).prop_map(Step::Commit),
        1 => (0..4u64).prop_map(Step::Checkpoint),
        2 => any::<u8>().prop_map(Step::Crash),
    ]
}

proptest! {
    #[test]
    fn any_history_recovers_to_a_commit(steps in prop::collection::vec(step(), 1..60)) {
        let mut folder = Arc::new(MemoryFolder::new());
        let mut log = create(folder.clone()).unwrap();
        let mut synced = folder.to_segments();
        let (mut committed, mut contained, mut epoch) = (0, 0, 1);
        // Where each commit ends; segments before it can be removed.
        let mut ends = BTreeMap::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append(len) => {
                    log.append(&bytes(n as u64, len)).unwrap();
                }
                Step::Commit(operations) => {
                    committed = log.commit(many(operations), 0, (0, 0)).unwrap();
                    ends.insert(committed, log.durable());
                    synced = folder.to_segments();
                }
                Step::Checkpoint(but) => {
                    if let Some((&number, &end)) = ends.iter().rev().nth(but as usize) {
                        contained = contained.max(number);
                        log.remove_before(end).unwrap();
                        let kept = folder.list().unwrap();
                        synced.retain(|number, _| kept.contains(number));
                    }
                }
                Step::Crash(kept) => {
                    let segments = folder.to_segments().into_iter().map(|(number, mut content)| {
                        let durable = synced.get(&number).map_or(0, Vec::len);
                        let loose = content.len() - durable;
                        content.truncate(durable + loose * usize::from(kept) / 256);
                        (number, content)
                    });
                    folder = Arc::new(MemoryFolder::from_segments(segments));
                    epoch += 1;
                    log = match recover(folder.clone(), &image(contained)).unwrap() {
                        Some(recovered) => {
                            prop_assert_eq!(recovered.last_transaction(), committed);
                            let log = recovered.resume(binding(), epoch, contained).unwrap().0;
                            // Transactions without operations at the end need not be written again.
                            committed = log.last_transaction();
                            ends.retain(|&number, _| number <= committed);
                            log
                        }
                        None => {
                            prop_assert_eq!(committed, 0);
                            create(folder.clone()).unwrap()
                        }
                    };
                    synced = folder.to_segments();
                }
            }
        }
        let found = recover(folder, &image(contained)).unwrap();
        prop_assert_eq!(found.map_or(0, |r| r.last_transaction()), committed);
    }
}
