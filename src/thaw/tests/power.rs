//! Tests of power cuts after every change that a log makes.

use super::*;
use crate::storage::Operation as Op;
use crate::storage::testing::{Fault, FaultyStorage, MemoryStorage};

/// What was known after a number of events of a history.
#[derive(Clone, Copy)]
struct Known {
    events: usize,
    acknowledged: u64,
    contained: u64,
}

/// A history, what was known after which event, and the operations of each transaction.
struct Told {
    history: History,
    known: Vec<Known>,
    /// By number. All operations of a group are listed under its last transaction.
    groups: BTreeMap<u64, Vec<Operation>>,
}

/// The life of a log: writes, small and large commits, new segments, a group that fails and is tried again, removal of
/// segments, and a process that is killed.
fn live(sessions: u32) -> Told {
    let history = History::new(nothing());
    let faulty = FaultyStorage::new(MemoryStorage::new());
    let folder: Arc<dyn Folder> = Arc::new(faulty.folder(history.folder()));
    let mut log = create(Arc::clone(&folder)).unwrap();
    let mut known = vec![Known { events: 0, acknowledged: 0, contained: 0 }];
    let mut groups = BTreeMap::new();
    let mut contained = 0;
    for session in 1..=sessions {
        for n in 0..4u64 {
            let mut operations = vec![names(n + 1, log.append(&bytes(n, 100 + 3500 * n as usize)).unwrap())];
            if n == 1 {
                // The group is larger than a segment; it fails in the second one after some bytes.
                operations.extend(many(2500));
                faulty.fail_short(2, 1000, Fault::Enospc);
                let not = log.begin(operations, 0, (0, 0)).unwrap_err();
                // Another commit comes before it is tried again, in the segment where the group began. The head of the
                // segment that was begun for the group must not come back.
                let begun_in = log.position().0 / SEGMENT;
                log.append(&bytes(9, 50)).unwrap_or_else(|e| panic!("{e} after {}", not.error));
                let acknowledged = log.commit(many(2), 0, (0, 0)).unwrap();
                assert_eq!(log.position().0 / SEGMENT, begun_in);
                groups.insert(acknowledged, many(2));
                known.push(Known { events: history.len(), acknowledged, contained });
                operations = not.operations;
            }
            let begun = log.begin(operations.clone(), 0, (0, 0)).unwrap();
            groups.insert(begun.number(), operations);
            let early = log.append(&bytes(n, 3000)).unwrap();
            let synced = begun.sync();
            let acknowledged = log.end(begun, synced).unwrap();
            known.push(Known { events: history.len(), acknowledged, contained });
            if n == 2 {
                let operations = vec![names(8, early)];
                let acknowledged = log.commit(operations.clone(), 0, (0, 0)).unwrap();
                groups.insert(acknowledged, operations);
                // A checkpoint contains it, then segments are removed.
                known.push(Known { events: history.len(), acknowledged, contained: acknowledged });
                contained = acknowledged;
                // All segments could be removed, but one with a durable head must stay; the current one's is not
                // durable.
                let before = log.position().0 / SEGMENT;
                while log.position().0 / SEGMENT == before {
                    log.append(&bytes(n, 5000)).unwrap();
                }
                log.remove_before(log.position()).unwrap();
            }
        }
        // Bytes that no commit names, a commit that was not synced, then the process is killed. There was no power cut,
        // so the commit counts, and the next writer continues after it.
        log.append(&bytes(99, 5000)).unwrap();
        let begun = log.begin(many(5), 0, (0, 0)).unwrap();
        groups.insert(begun.number(), many(5));
        drop((log, begun));
        let recovered = recover(Arc::clone(&folder), &image(contained)).unwrap().unwrap();
        let acknowledged = recovered.last_transaction();
        log = recovered.resume(binding(), session + 1, contained).unwrap().0;
        known.push(Known { events: history.len(), acknowledged, contained });
    }
    assert!(faulty.records().iter().any(|r| r.operation == Op::Truncate));
    assert!(faulty.records().iter().any(|r| r.operation == Op::Remove));
    Told { history, known, groups }
}

impl Told {
    fn at(&self, events: usize) -> Known {
        *self.known.iter().rfind(|known| known.events <= events).unwrap()
    }

    /// After a power cut the log can be read; it holds everything acknowledged, and only whole groups.
    fn survives(&self, folder: &Arc<MemoryFolder>, known: Known, what: &str) -> Option<Recovered> {
        let recovered = recover(folder.clone(), &image(known.contained)).unwrap_or_else(|e| panic!("{what}: {e}"));
        let Some(recovered) = recovered else {
            assert_eq!(known.acknowledged, 0, "{what}: nothing is there");
            return None;
        };
        let found = recovered.last_transaction();
        assert!(found >= known.acknowledged, "{what}: {} were acknowledged, {found} are there", known.acknowledged);
        assert!(self.groups.contains_key(&found), "{what}: {found} is within a group");
        let operations = transactions(&recovered, known.contained).into_iter().flat_map(|t| t.operations);
        let expected = self.groups.iter().filter(|(number, _)| (known.contained + 1..=found).contains(number));
        let expected = expected.flat_map(|(_, group)| group);
        assert!(operations.eq(expected.cloned()), "{what}: other operations than those that were committed");
        assert_eq!(recovered.lost_parts(), offsets(&[]), "{what}");
        check_named(&recovered, known.contained);
        Some(recovered)
    }
}

// Case 21.
#[test]
fn a_power_cut_anywhere_loses_nothing_that_was_acknowledged() {
    let told = live(2);
    let mut count = 0;
    for n in 0..=told.history.len() {
        let known = told.at(n);
        cuts(&told.history, n, 64, |left, what| {
            count += 1;
            let folder = memory(left.segments);
            let Some(recovered) = told.survives(&folder, known, what) else {
                let mut log = create(folder.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
                log.commit(Vec::new(), 0, (0, 0)).unwrap();
                assert_eq!(last(folder), 1, "{what}");
                return;
            };
            let found = recovered.last_transaction();
            let mut log = recovered.resume(binding(), 77, known.contained).unwrap().0;
            log.commit(Vec::new(), 0, (0, 0)).unwrap();
            let again = recover(folder, &image(known.contained)).unwrap().unwrap();
            assert_eq!(again.last_transaction(), found + 1, "{what}");
            check_named(&again, known.contained);
        });
    }
    assert!(count > 10_000, "only {count} cuts");
}

#[test]
fn a_second_power_cut_while_the_log_is_gone_on_with_loses_nothing_either() {
    let told = live(1);
    let mut count = 0;
    for n in (0..=told.history.len()).step_by(3) {
        let known = told.at(n);
        cuts(&told.history, n, 3, |left, what| {
            let second = History::new(left);
            let folder = Arc::new(second.folder());
            let Some(recovered) = recover(folder, &image(known.contained)).unwrap() else { return };
            let first = recovered.last_transaction();
            let mut log = recovered.resume(binding(), 5, known.contained).unwrap().0;
            let resumed = second.len();
            let appended = log.append(&bytes(5, 3000)).unwrap();
            log.commit(vec![names(5, appended)], 0, (0, 0)).unwrap();
            let committed = second.len();
            for m in 0..=second.len() {
                let least = match m {
                    m if m >= committed => first + 1,
                    m if m >= resumed => first,
                    _ => known.acknowledged,
                };
                cuts(&second, m, 2, |left, then| {
                    count += 1;
                    let found = recover(memory(left.segments), &image(known.contained));
                    let found = found.unwrap_or_else(|e| panic!("{what}, then {then}: {e}"));
                    let found = found.map_or(0, |recovered| recovered.last_transaction());
                    assert!(found >= least, "{what}, then {then}: {least} were there, {found} are");
                });
            }
        });
    }
    assert!(count > 5000, "only {count} cuts");
}

//= format-spec.md#11.1
//= type=test
//# Segments are removed lowest first, and each removal must be durable before the next.
#[test]
fn a_power_cut_while_segments_are_removed_leaves_a_log_that_opens() {
    let history = History::new(nothing());
    let mut log = create(Arc::new(history.folder())).unwrap();
    fill(&mut log, 10, 9000);
    let contained = log.last_transaction();
    let from = history.len();
    log.remove_before(log.position()).unwrap();
    assert!(history.len() >= from + 16, "eight removals, each with its sync");
    for n in from..=history.len() {
        cuts(&history, n, 64, |left, what| {
            let found = recover(memory(left.segments), &image(contained));
            let found = found.unwrap_or_else(|e| panic!("{what}: {e}")).unwrap();
            assert_eq!(found.last_transaction(), contained, "{what}");
            found.resume(binding(), 2, contained).unwrap_or_else(|e| panic!("{what}: {e}"));
        });
    }
    // And all of it.
    let from = history.len();
    log.remove().unwrap();
    for n in from..=history.len() {
        cuts(&history, n, 64, |left, what| {
            let found = recover(memory(left.segments), &image(contained));
            let found = found.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(found.is_none_or(|found| found.last_transaction() == contained), "{what}");
        });
    }
}

#[test]
fn a_crash_while_the_first_segment_is_made_leaves_a_folder_in_which_a_log_can_begin() {
    let history = History::new(nothing());
    drop(create(Arc::new(history.folder())).unwrap());
    for n in 0..=history.len() {
        cuts(&history, n, 64, |left, what| {
            // No head of the image names the log yet.
            let folder = memory(left.segments);
            let unnamed = ImageState { slots: Vec::new(), ..image(0) };
            assert!(recover(folder.clone(), &unnamed).unwrap().is_none(), "{what}");
            let mut log = create(folder.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
            fill(&mut log, 2, 9000);
            assert_eq!(last(folder), 2, "{what}");
        });
    }
}
