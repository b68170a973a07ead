//! Tests of what crashes leave: groups that were cut off, abandoned segments, and logs that were being removed.

use super::*;
use crate::format::frame::FrameKind;
use crate::format::transaction::TransactionInfo;
use crate::storage::Operation as Op;
use crate::storage::testing::{Fault, FaultyStorage, MemoryStorage};
use crate::thaw::segment::{Identity, plain_header};

/// One commit, then a group over several segments whose first transaction is damaged: an abandoned tail.
fn torn_group(commits: u64) -> BTreeMap<u64, Vec<u8>> {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, commits, 2000);
    let before = log.position();
    drop(log.begin(many(2500), 0, (0, 0)).unwrap());
    assert!(log.position().0 / SEGMENT >= before.0 / SEGMENT + 2);
    let mut segments = folder.to_segments();
    let first = segments.get_mut(&(before.0 / SEGMENT + 1)).unwrap();
    first[1000] ^= 1;
    segments
}

#[test]
fn a_writer_that_continues_a_log_makes_earlier_truncations_durable() {
    let history = History::new(nothing());
    let faulty = FaultyStorage::new(MemoryStorage::new());
    let folder = Arc::new(faulty.folder(history.folder()));
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 1, 2000);
    // A group begins a segment and fails. The segment is emptied, but not durably before the process ends.
    faulty.fail_short(1, 1000, Fault::Enospc);
    log.begin(many(2500), 0, (0, 0)).unwrap_err();
    drop(log.begin(many(2), 0, (0, 0)).unwrap());
    drop(log);
    let recovered = read(folder).unwrap().unwrap();
    assert_eq!(recovered.last_transaction(), 2);
    // The head of the emptied segment must not come back: it would hide the second transaction.
    let log = recovered.resume(binding(), 2, 0).unwrap().0;
    cuts(&history, history.len(), 64, |left, what| {
        let found = last(memory(left.segments));
        assert_eq!(found, 2, "{what}");
    });
    drop(log);
}

#[test]
fn a_power_cut_while_a_log_with_an_abandoned_tail_is_removed_brings_nothing_of_it_back() {
    let history = History::new(Remains { image: Vec::new(), segments: torn_group(1) });
    let recovered = recover(Arc::new(history.folder()), &image(1)).unwrap().unwrap();
    assert_eq!(recovered.last_transaction(), 1);
    recovered.resume(binding(), 2, 1).unwrap().0.remove().unwrap();
    for n in 0..=history.len() {
        cuts(&history, n, 16, |left, what| {
            let found = recover(memory(left.segments), &image(1)).unwrap_or_else(|e| panic!("{what}: {e}"));
            let Some(found) = found else { return };
            assert_eq!(found.last_transaction(), 1, "{what}");
            found.resume(binding(), 3, 1).unwrap_or_else(|e| panic!("{what}: {e}"));
        });
    }
}

#[test]
fn a_power_cut_while_a_log_without_a_commit_is_replaced_leaves_none() {
    let history = History::new(Remains { image: Vec::new(), segments: torn_group(0) });
    drop(create(Arc::new(history.folder())).unwrap());
    for n in 0..=history.len() {
        cuts(&history, n, 16, |left, what| {
            let folder = memory(left.segments);
            assert_eq!(last(folder.clone()), 0, "{what}");
            create(folder).unwrap_or_else(|e| panic!("{what}: {e}"));
        });
    }
}

#[test]
fn a_torn_tail_after_a_damaged_pad_is_the_end_and_not_lost_bytes_of_a_group_that_counts() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 1, 2000);
    let durable = log.durable();
    let torn = log.append(&bytes(1, 500)).unwrap();
    assert_eq!(torn.frame, durable);
    drop(log.begin(vec![names(2, torn)], 0, (0, 0)).unwrap());
    let mut segments = folder.to_segments();
    assert_eq!(last(folder), 2);
    // The pad that ends where the log is durable, and the written bytes that begin there.
    let content = segments.get_mut(&0).unwrap();
    let pad = (0..durable.0 as usize - 63).rev().find(|&at| is_header(content, at)).unwrap();
    content[pad + 20] ^= 1;
    content[torn.frame.0 as usize + 20] ^= 1;
    let recovered = read(memory(segments)).unwrap().unwrap();
    assert_eq!(recovered.last_transaction(), 1);
    assert_eq!(recovered.lost_parts(), offsets(&[(pad as u64, durable.0)]));
    assert_eq!(lost_ranges(&recovered), []);
}

fn is_header(content: &[u8], at: usize) -> bool {
    let raw = crate::format::frame::RawFrameHeader::read(&content[at..], "header");
    raw.is_ok_and(|raw| raw.validate(LOG, LogOffset(at as u64)).is_ok())
}

#[test]
fn a_time_that_no_reader_takes_is_not_written() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 1, 100);
    let refused = log.begin(many(1), 0, (0, 1_000_000_000)).unwrap_err();
    assert!(matches!(refused.error, ThawError::Transaction { .. }));
    fill(&mut log, 1, 100);
    assert_eq!(last(folder), 2);
}

#[test]
fn ranges_that_name_a_segment_which_is_not_there_are_lost() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    let gone = log.append(&bytes(1, 7000)).unwrap();
    let kept = log.append(&bytes(2, 7000)).unwrap();
    assert_eq!((gone.frame.0 / SEGMENT, kept.frame.0 / SEGMENT), (0, 1));
    log.commit(vec![names(1, gone), names(2, kept)], 0, (0, 0)).unwrap();
    let mut segments = folder.to_segments();
    segments.remove(&0);
    let recovered = read(memory(segments)).unwrap().unwrap();
    assert!(recovered.is_lost(gone.frame) && !recovered.is_lost(kept.frame));
    assert_eq!(lost_ranges(&recovered), [(1, 0, 7000)]);
}

//= format-spec.md#11.3
//= type=test
//# A reader that meets an unknown operation or flag must stop and report it; it must not skip the operation.
#[test]
fn an_operation_that_is_not_known_is_reported_wherever_in_the_log_it_is() {
    let folder = Arc::new(MemoryFolder::new());
    fill(&mut create(folder.clone()).unwrap(), 1, 100);
    let mut segments = folder.to_segments();
    let info = TransactionInfo {
        number: 2,
        previous_sum: 7,
        durable_upto: 4096,
        image_end: 0,
        time: 0,
        time_ns: 0,
        more_follows: false,
    };
    // In a segment without a head.
    let raw = info.encode(1, &[8, 0]).unwrap();
    let identity = Identity { binding: binding(), log_id: LOG, epoch: 1, segment_size: SEGMENT };
    let header = plain_header(&identity, FrameKind::TRANSACTION, 1, 2 * SEGMENT, &raw).unwrap();
    segments.insert(2, [header.encode().as_slice(), &raw].concat());
    assert!(
        matches!(read(memory(segments)), Err(ThawError::Transaction { offset: LogOffset(o), .. }) if o == 2 * SEGMENT)
    );
}

#[test]
fn a_log_full_of_damaged_headers_is_read_in_proportion_to_its_length() {
    const LARGE: u64 = 1 << 20;
    let folder = Arc::new(MemoryFolder::new());
    drop(ThawLog::create(folder.clone(), binding(), LOG, 1, LARGE).unwrap());
    let mut segments = folder.to_segments();
    let content = segments.get_mut(&0).unwrap();
    let identity = Identity { binding: binding(), log_id: LOG, epoch: 1, segment_size: LARGE };
    while content.len() < LARGE as usize - 128 {
        let header = plain_header(&identity, FrameKind::PAD, 1, content.len() as u64, &[]).unwrap();
        content.extend_from_slice(&header.encode());
        content.extend_from_slice(&[0; 64]);
    }
    let len = content.len() as u64;
    let faulty = FaultyStorage::new(MemoryStorage::new());
    assert!(read(Arc::new(faulty.folder(memory(segments)))).unwrap().is_none());
    let read: u64 = faulty.records().iter().filter(|r| r.operation == Op::Read).map(|r| r.len).sum();
    assert!(read < 100 * len, "{read} bytes were read of {len}");
}

#[test]
fn after_many_crashes_a_log_is_as_long_as_its_written_bytes() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    for epoch in 2..30 {
        fill(&mut log, 1, 100);
        drop(log);
        log = read(folder.clone()).unwrap().unwrap().resume(binding(), epoch, 0).unwrap().0;
        assert_eq!(log.extent(), log.bytes().unwrap());
    }
    fill(&mut log, 40, 2000);
    assert_eq!(log.extent(), log.bytes().unwrap());
    let (number, _) = log.segments.iter().nth(20).unwrap();
    let before = LogOffset(number * SEGMENT);
    log.remove_before(before).unwrap();
    assert_eq!(log.extent(), log.bytes().unwrap());
}

#[test]
fn a_writer_that_continues_after_a_crash_frees_reserved_space() {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    const LARGE: u64 = 4 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("thaw");
    std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
    let folder = || Arc::new(crate::storage::DirectoryFolder::open(&path).unwrap());
    let mut log = ThawLog::create(folder(), binding(), LOG, 1, LARGE).unwrap();
    fill(&mut log, 1, 1000);
    drop(log);
    let taken = || std::fs::metadata(path.join("0000000000000000")).unwrap().blocks() * 512;
    let reserved = taken();
    let log = read(folder()).unwrap().unwrap().resume(binding(), 2, 0).unwrap().0;
    // A file system that cannot reserve space has nothing to free.
    assert!(taken() <= reserved.min(64 << 10), "{} of {reserved} bytes", taken());
    drop(log);
    check_named(&read(folder()).unwrap().unwrap(), 0);
}
