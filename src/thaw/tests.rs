//! The thaw log against a model: commits, crashes at any byte, flipped bytes, failing operations.

use super::segment::Binding;
use super::{Appended, Recovered, ThawError, ThawLog, recover};
use crate::format::frame::FRAME_HEADER;
use crate::format::ids::InodeId;
use crate::format::sums::xxh3;
use crate::format::transaction::{Operation, Thawed, Transaction};
use crate::storage::Folder;
use crate::storage::testing::{Fate, Fault, FaultyStorage, History, MemoryFolder, MemoryStorage, Remains};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const SEGMENT: u64 = 64 << 10;
const LOG: u64 = 0x1122_3344_5566_7788;

fn binding() -> Binding {
    Binding { uuid: [1; 16], lineage: [2; 16], generation: 3, root_hash: [4; 32] }
}

fn create(folder: Arc<dyn Folder>) -> Result<ThawLog, ThawError> {
    ThawLog::create(folder, binding(), LOG, 1, SEGMENT)
}

fn read(folder: Arc<dyn Folder>) -> Result<Option<Recovered>, ThawError> {
    recover(folder, |found, log_id| if *found == binding() && log_id == LOG { Ok(()) } else { Err("another image") })
}

fn transactions(recovered: &Recovered) -> Vec<Transaction> {
    let mut all = Vec::new();
    recovered
        .replay(0, |transaction| {
            all.push(transaction);
            Ok::<(), ThawError>(())
        })
        .unwrap();
    all
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (xxh3(&(seed ^ (n / 7)).to_le_bytes()) >> (n % 7)) as u8).collect()
}

/// An operation that names appended bytes, as the filesystem writes it.
fn names(appended: Appended, content: &[u8]) -> Operation {
    Operation::Thawed(Thawed {
        inode: InodeId(7),
        offset: 0,
        len: appended.len,
        frame: appended.frame,
        within: 0,
        generation: 1,
        sum: xxh3(content),
    })
}

/// Appends and commits: what each transaction holds.
fn fill(log: &mut ThawLog, commits: u64, len: usize) -> Vec<Vec<Operation>> {
    (0..commits)
        .map(|n| {
            let content = bytes(n, len);
            let appended = log.append(&content).unwrap();
            let operations = vec![names(appended, &content), Operation::Checkpoint { generation: n }];
            assert_eq!(log.commit(operations.clone(), n, (n as i64, 5)).unwrap(), log.last_transaction());
            operations
        })
        .collect()
}

/// All that a recovered log's transactions name is there and has its sum.
fn check_named(recovered: &Recovered, log: &ThawLog) {
    for transaction in transactions(recovered) {
        for operation in transaction.operations {
            if let Operation::Thawed(t) = operation {
                let mut content = vec![0; t.len as usize];
                log.read(t.frame, t.within, &mut content).unwrap();
                assert_eq!(xxh3(&content), t.sum);
            }
        }
    }
}

#[test]
fn what_was_committed_comes_back_over_segments_and_sessions() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    let mut expected = fill(&mut log, 10, 20_000);
    assert!(folder.list().unwrap().len() > 3);
    for session in 0..5 {
        drop(log);
        let recovered = read(folder.clone()).unwrap().unwrap();
        let found: Vec<_> = transactions(&recovered).into_iter().map(|t| t.operations).collect();
        assert_eq!(found, expected, "session {session}");
        let again = read(folder.clone()).unwrap().unwrap();
        log = recovered.resume(binding(), session + 2).unwrap();
        check_named(&again, &log);
        expected.extend(fill(&mut log, 3, 1000));
    }
}

#[test]
fn a_log_without_a_commit_is_none() {
    let folder = Arc::new(MemoryFolder::new());
    assert!(read(folder.clone()).unwrap().is_none());
    drop(create(folder.clone()).unwrap());
    assert_eq!(read(folder.clone()).unwrap().unwrap().last_transaction(), 0);
    for cut in 0..folder.to_segments()[&0].len() {
        let folder = MemoryFolder::from_segments([(0, folder.to_segments()[&0][..cut].to_vec())]);
        let found = read(Arc::new(folder)).unwrap().map_or(0, |recovered| recovered.last_transaction());
        assert_eq!(found, 0, "cut at {cut}");
    }
}

#[test]
fn what_belongs_to_another_image_is_refused() {
    let folder = Arc::new(MemoryFolder::new());
    fill(&mut create(folder.clone()).unwrap(), 1, 10);
    let refused = recover(folder, |_, _| Err("the image has gone on without it"));
    assert!(matches!(refused, Err(ThawError::Foreign { .. })));
}

#[test]
fn a_crash_at_any_byte_of_the_last_commit_leaves_all_of_it_or_nothing() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 3, 3000);
    let before = folder.to_segments()[&0].len();
    fill(&mut log, 1, 3000);
    let whole = folder.to_segments()[&0].clone();
    let mut seen = [0; 2];
    for len in before..=whole.len() {
        let folder = Arc::new(MemoryFolder::from_segments([(0, whole[..len].to_vec())]));
        let recovered = read(folder.clone()).unwrap().unwrap();
        let count = recovered.last_transaction();
        assert!((3..=4).contains(&count));
        seen[count as usize - 3] += 1;
        let mut log = recovered.resume(binding(), 2).unwrap();
        fill(&mut log, 2, 100);
        assert_eq!(read(folder).unwrap().unwrap().last_transaction(), count + 2);
    }
    assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
}

#[test]
fn a_byte_flipped_before_what_was_durable_is_damage_and_nothing_is_written() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 9, 9000);
    let segments = folder.to_segments();
    let all = transactions(&read(folder.clone()).unwrap().unwrap());
    let durable = all.last().unwrap().durable_upto;
    // The last segment began only when all before was durable.
    let durable = durable.max(segments.keys().next_back().unwrap() * SEGMENT);
    let mut damaged = 0;
    for (&number, content) in &segments {
        // Every byte of frame headers and transactions is among these, and some of each written frame.
        for at in (0..content.len()).filter(|at| at % 97 == 0 || at % 4096 < FRAME_HEADER + 200) {
            let mut changed = segments.clone();
            changed.get_mut(&number).unwrap()[at] ^= 1 << (at % 8);
            let folder = Arc::new(MemoryFolder::from_segments(changed.clone()));
            let outcome = read(folder.clone());
            let position = number * SEGMENT + at as u64;
            match outcome {
                Err(ThawError::Damaged { at, .. }) => {
                    assert!(at.0 <= position, "{at} is behind {position}");
                    damaged += 1;
                }
                Err(error) => panic!("byte {position}: {error}"),
                Ok(recovered) => {
                    assert!(position >= durable, "byte {position} of {durable} durable ones went unnoticed");
                    let count = recovered.unwrap().last_transaction();
                    assert!(count + 1 >= all.len() as u64);
                }
            }
            assert_eq!(folder.to_segments(), changed, "reading writes nothing");
        }
    }
    assert!(damaged > 1000);
}

#[test]
fn a_missing_segment_is_damage() {
    let folder = Arc::new(MemoryFolder::new());
    fill(&mut create(folder.clone()).unwrap(), 20, 20_000);
    let segments = folder.to_segments();
    for gone in segments.keys().skip(1).take(segments.len() - 2) {
        let mut rest = segments.clone();
        rest.remove(gone);
        let outcome = read(Arc::new(MemoryFolder::from_segments(rest)));
        assert!(matches!(outcome, Err(ThawError::Damaged { .. })), "without segment {gone}");
    }
}

#[test]
fn covered_segments_go_and_the_rest_joins_what_the_image_contains() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 10, 20_000);
    let contained = log.last_transaction();
    log.remove_before(log.end()).unwrap();
    assert_eq!(folder.list().unwrap().len(), 1);
    let later = fill(&mut log, 2, 1000);
    let recovered = read(folder.clone()).unwrap().unwrap();
    let mut found = Vec::new();
    recovered
        .replay(contained, |t| {
            found.push(t.operations);
            Ok::<(), ThawError>(())
        })
        .unwrap();
    assert_eq!(found, later);
    let gap = recovered.replay(0, |_| Ok::<(), ThawError>(()));
    assert!(matches!(gap, Err(ThawError::Foreign { .. })), "transactions are missing that the image does not contain");
    recovered.resume(binding(), 2).unwrap().remove().unwrap();
    assert_eq!(folder.list().unwrap(), [0u64; 0]);
}

#[test]
fn what_does_not_fit_into_a_segment_is_refused_and_the_log_goes_on() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    assert!(matches!(log.append(&bytes(1, SEGMENT as usize)), Err(ThawError::TooLarge { .. })));
    let many = vec![Operation::Checkpoint { generation: u64::MAX }; SEGMENT as usize / 8];
    assert!(matches!(log.commit(many, 0, (0, 0)), Err(ThawError::TooLarge { .. })));
    fill(&mut log, 1, 100);
    assert_eq!(read(folder).unwrap().unwrap().last_transaction(), 1);
}

/// Appends and commits until something fails, then tries to commit once more; says how many commits succeeded before.
fn run_until_failure(folder: Arc<dyn Folder>) -> u64 {
    let Ok(mut log) = create(folder) else { return 0 };
    for n in 0..8 {
        let content = bytes(n, 15_000);
        let committed =
            log.append(&content).and_then(|appended| log.commit(vec![names(appended, &content)], 0, (0, 0)));
        if committed.is_err() {
            // Where only the append failed this one succeeds; after a failed commit it is refused.
            let _ = log.commit(Vec::new(), 0, (0, 0));
            return n;
        }
    }
    8
}

#[test]
fn whichever_operation_fails_what_was_committed_is_there() {
    for fault in [Fault::Eio, Fault::Enospc] {
        let mut n = 0;
        loop {
            let memory = Arc::new(MemoryFolder::new());
            let faulty = FaultyStorage::new(MemoryStorage::new());
            let folder = Arc::new(faulty.folder(Arc::clone(&memory)));
            faulty.fail_nth(n, fault);
            let committed = run_until_failure(folder);
            let recovered = read(memory.clone()).unwrap();
            let found = recovered.as_ref().map_or(0, Recovered::last_transaction);
            assert!(found >= committed, "operation {n}: {committed} commits, {found} found");
            // A commit that failed may be there all the same, but only if nothing was written after it.
            assert!(found <= committed + 1, "operation {n}: {committed} commits, {found} found");
            if let Some(recovered) = recovered {
                let again = read(memory).unwrap().unwrap();
                check_named(&again, &recovered.resume(binding(), 2).unwrap());
            }
            if committed == 8 {
                break;
            }
            n += 1;
        }
        assert!(n > 20, "only {n} operations");
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_written() {
    let memory = Arc::new(MemoryFolder::new());
    let faulty = FaultyStorage::new(MemoryStorage::new());
    let mut log = create(Arc::new(faulty.folder(Arc::clone(&memory)))).unwrap();
    fill(&mut log, 2, 100);
    faulty.fail_nth_of(crate::storage::Operation::Sync, 0, Fault::Eio);
    assert!(log.commit(Vec::new(), 0, (0, 0)).is_err());
    let left = memory.to_segments();
    assert!(matches!(log.append(b"more"), Err(ThawError::Stopped)));
    assert!(matches!(log.commit(Vec::new(), 0, (0, 0)), Err(ThawError::Stopped)));
    assert_eq!(memory.to_segments(), left);
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Commit(usize),
    /// The process ends; of the bytes behind the last sync this part in 256 are there.
    Crash(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..20_000usize).prop_map(Step::Append),
        3 => (0..50usize).prop_map(Step::Commit),
        1 => any::<u8>().prop_map(Step::Crash),
    ]
}

proptest! {
    #[test]
    fn any_history_recovers_to_a_commit(steps in prop::collection::vec(step(), 1..40)) {
        let mut folder = Arc::new(MemoryFolder::new());
        let mut log = create(folder.clone()).unwrap();
        let mut synced: BTreeMap<u64, usize> = BTreeMap::new();
        let (mut committed, mut epoch) = (0, 1);
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append(len) => {
                    log.append(&bytes(n as u64, len)).unwrap();
                }
                Step::Commit(operations) => {
                    let operations = vec![Operation::Checkpoint { generation: n as u64 }; operations];
                    committed = log.commit(operations, 0, (0, 0)).unwrap();
                    synced = folder.to_segments().into_iter().map(|(number, content)| (number, content.len())).collect();
                }
                Step::Crash(kept) => {
                    let last = folder.list().unwrap().pop().unwrap();
                    let segments = folder.to_segments().into_iter().map(|(number, mut content)| {
                        // All but the last segment were synced when the next one began.
                        if number == last {
                            let durable = synced.get(&number).copied().unwrap_or(0);
                            let loose = content.len() - durable;
                            content.truncate(durable + loose * usize::from(kept) / 256);
                        }
                        (number, content)
                    });
                    folder = Arc::new(MemoryFolder::from_segments(segments));
                    epoch += 1;
                    log = match read(folder.clone()).unwrap() {
                        Some(recovered) => {
                            prop_assert_eq!(recovered.last_transaction(), committed);
                            recovered.resume(binding(), epoch).unwrap()
                        }
                        None => {
                            prop_assert_eq!(committed, 0);
                            folder = Arc::new(MemoryFolder::new());
                            create(folder.clone()).unwrap()
                        }
                    };
                }
            }
        }
        prop_assert_eq!(read(folder).unwrap().map_or(0, |r| r.last_transaction()), committed);
    }
}

/// Commits over several sessions. Returns after how many events of the history which transaction was acknowledged.
fn acknowledged(history: &History, sessions: u32) -> Vec<(usize, u64)> {
    let folder = Arc::new(history.folder());
    let mut log = create(folder.clone()).unwrap();
    let mut list = vec![(0, 0)];
    for session in 1..=sessions {
        for n in 0..4 {
            let content = bytes(n + u64::from(session), 2000 + 9000 * n as usize);
            let appended = log.append(&content).unwrap();
            let count = log.commit(vec![names(appended, &content)], 0, (0, 0)).unwrap();
            list.push((history.len(), count));
        }
        // Bytes that no commit names, then the end without a word.
        log.append(&bytes(99, 5000)).unwrap();
        drop(log);
        log = read(folder.clone()).unwrap().unwrap().resume(binding(), session + 1).unwrap();
    }
    list
}

/// What a power cut left opens, holds what was acknowledged, and can be gone on with.
fn survives(left: Remains, acknowledged: u64, what: &str) {
    let folder = Arc::new(MemoryFolder::from_segments(left.segments));
    let recovered = read(folder.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = recovered.as_ref().map_or(0, Recovered::last_transaction);
    assert!(found >= acknowledged, "{what}: {acknowledged} were acknowledged, {found} are there");
    let Some(recovered) = recovered else { return };
    let mut log = recovered.resume(binding(), 77).unwrap();
    check_named(&read(folder.clone()).unwrap().unwrap(), &log);
    log.commit(Vec::new(), 0, (0, 0)).unwrap();
    assert_eq!(read(folder).unwrap().unwrap().last_transaction(), found + 1, "{what}");
}

#[test]
fn a_power_cut_anywhere_loses_nothing_that_was_acknowledged() {
    let history = History::new(Remains { image: Vec::new(), segments: BTreeMap::new() });
    let list = acknowledged(&history, 3);
    let mut cuts = 0;
    for n in 0..=history.len() {
        let count = list.iter().rev().find(|(events, _)| *events <= n).map_or(0, |(_, count)| *count);
        let loose = history.loose(n);
        assert!(loose < 8, "a commit leaves nothing loose, so there are never many");
        // All of keeping, dropping and two ways of tearing each change that is not settled.
        let fates = [
            Fate::Kept,
            Fate::Dropped,
            Fate::Torn { sectors: 0x5555_5555_5555_5555, length: true, block: true },
            Fate::Torn { sectors: 0xaaaa_aaaa_aaaa_aaaa, length: false, block: false },
        ];
        for choice in 0..4usize.pow(loose.min(5) as u32) {
            let mut rest = choice;
            let left = history.cut(n, || {
                let fate = fates[rest % 4];
                rest /= 4;
                fate
            });
            survives(left, count, &format!("after event {n}, choice {choice}"));
            cuts += 1;
        }
        // And any sectors.
        for seed in 0..20 {
            let mut turn = 0;
            let left = history.cut(n, || {
                turn += 1;
                let random = xxh3(&[seed, turn, n as u8, (n >> 8) as u8]);
                Fate::Torn { sectors: random, length: random >> 62 & 1 == 1, block: random >> 63 == 1 }
            });
            survives(left, count, &format!("after event {n}, seed {seed}"));
            cuts += 1;
        }
    }
    assert!(cuts > 3000, "only {cuts} cuts");
}
