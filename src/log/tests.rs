use super::*;
use crate::format::frame::{FRAME_HEADER, Flags, FrameHeader, FrameKind};
use crate::format::limits::{LOG_START, SYNC_BLOCK};
use crate::format::place::Place;
use crate::format::sums;
use crate::storage::testing::{Fault, FaultyStorage, MemoryStorage};
use crate::storage::{Access, FileStorage, Operation, Storage};
use proptest::prelude::*;
use std::sync::Arc;

const LOG: u64 = 0x10f;

type Faulty = Arc<FaultyStorage<MemoryStorage>>;

fn empty() -> Arc<MemoryStorage> {
    Arc::new(MemoryStorage::from_bytes(vec![0; LOG_START as usize]))
}

fn writer(storage: Arc<dyn Storage>) -> LogWriter {
    let end = storage.len().unwrap();
    LogWriter::new(storage, LOG, 1, 1, end).unwrap()
}

fn frame<'a>(clear: &'a [u8], stored: &'a [u8]) -> NewFrame<'a> {
    NewFrame {
        kind: FrameKind::SUPERCHUNK,
        codec: 0,
        flags: Flags::default(),
        clear,
        stored,
        raw_len: stored.len() as u32,
        sum: sums::xxh3(stored),
    }
}

/// `body` with its checksum; nothing if it is empty.
fn clear_part(body: &[u8]) -> Vec<u8> {
    if body.is_empty() { Vec::new() } else { [body, &sums::crc32(body).to_le_bytes()].concat() }
}

fn scan_all(reader: &LogReader) -> Vec<FrameHeader> {
    reader.scan(LogOffset(LOG_START)).collect::<Result<_, _>>().unwrap()
}

fn find_next(reader: &LogReader, from: LogOffset) -> Option<LogOffset> {
    reader.scan(from).find_next(from)
}

fn three_frames() -> (Arc<MemoryStorage>, LogReader, Vec<Place>) {
    let storage = empty();
    let mut writer = writer(storage.clone());
    let clear = clear_part(b"clear");
    let places = [&b"first"[..], b"second", &[0x66; 5000]];
    let places = places.iter().map(|stored| writer.append(frame(&clear, stored)).unwrap()).collect();
    (storage, writer.reader().unwrap(), places)
}

fn write_and_read_back(storage: Arc<dyn Storage>) {
    let mut writer = writer(storage);
    let clear = clear_part(b"the clear part");
    let a = writer.append(frame(&clear, b"stored bytes")).unwrap();
    let b = writer.append(frame(&[], b"")).unwrap();
    writer.sync().unwrap();
    let reader = writer.reader().unwrap();
    let header = reader.header(a.offset).unwrap();
    assert_eq!(reader.clear_part(&header).unwrap(), clear);
    assert!(reader.clear_part(&reader.header(b.offset).unwrap()).unwrap().is_empty());
    let mut out = vec![9; 3];
    reader.stored(&a, &mut out).unwrap();
    assert_eq!(out, b"stored bytes");
    reader.stored(&b, &mut out).unwrap();
    assert!(out.is_empty());
    let mut part = [0; 5];
    reader.stored_range(&a, a.offset, 7, &mut part).unwrap();
    assert_eq!(&part, b"bytes");
    assert!(reader.stored_range(&a, a.offset, 8, &mut part).is_err());
    assert!(reader.stored_range(&a, a.offset, u32::MAX, &mut part).is_err());
}

#[test]
fn what_was_appended_is_read_back_from_memory_and_file() {
    write_and_read_back(empty());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, [0; LOG_START as usize]).unwrap();
    write_and_read_back(Arc::new(FileStorage::open(&path, Access::ReadWrite).unwrap()));
}

//= format-spec.md#2
//= type=test
//# A *pad* frame fills the rest of a 4 KiB block where a writer must start in a fresh one (2.3).
#[test]
fn no_write_after_a_sync_touches_a_block_that_holds_synced_bytes() {
    let storage = empty();
    let mut writer = writer(storage.clone());
    // All lengths of the rest of a block, also those too short for a pad.
    for left in (0..200).chain([4000, 4032, 4095]) {
        let before = writer.end();
        assert_eq!(before % SYNC_BLOCK, 0);
        let stored = vec![1; (2 * SYNC_BLOCK - left) as usize - FRAME_HEADER];
        assert_eq!(writer.append(frame(&[], &stored)).unwrap().offset.0, before);
        writer.sync().unwrap();
        let pad = writer.end() - (before + 2 * SYNC_BLOCK - left);
        assert!(pad == 0 || (64..=4159).contains(&pad), "{pad}");
        writer.sync().unwrap();
        assert_eq!(writer.end(), storage.len().unwrap());
    }
    let headers = scan_all(&writer.reader().unwrap());
    let sequences: Vec<_> = headers.iter().map(|h| h.sequence).collect();
    assert_eq!(sequences, (1..=headers.len() as u64).collect::<Vec<_>>());
    assert_eq!(writer.next_sequence(), headers.len() as u64 + 1);
}

//= format-spec.md#2
//= type=test
//# A *pad* frame fills the rest of a 4 KiB block where a writer must start in a fresh one (2.3).
// Case 24.
#[test]
fn frames_since_the_last_sync_can_be_given_up_and_synced_ones_never() {
    let faulty: Faulty = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(vec![0; LOG_START as usize])));
    let mut writer = writer(faulty.clone());
    let kept = writer.append(frame(&[], b"kept")).unwrap();
    writer.sync().unwrap();
    let synced = writer.end();
    let first = writer.append(frame(&[], b"first")).unwrap();
    let middle = writer.end();
    writer.append(frame(&[], b"second")).unwrap();
    for wrong in [kept.offset.0, synced - SYNC_BLOCK, writer.end() + 1] {
        assert!(matches!(writer.cut_back(wrong), Err(LogError::Format { .. })), "{wrong}");
    }
    writer.cut_back(middle).unwrap();
    assert_eq!((writer.end(), faulty.inner().len().unwrap()), (middle, middle));
    writer.cut_back(synced).unwrap();
    writer.cut_back(synced).unwrap();
    // The frames appended after the cut have higher sequences than those cut off.
    let next = writer.next_sequence();
    assert!(next > writer.reader().unwrap().header(kept.offset).unwrap().sequence + 3);
    let again = writer.append(frame(&[], b"again")).unwrap();
    assert_eq!(again.offset, first.offset);
    assert_eq!(writer.reader().unwrap().header(again.offset).unwrap().sequence, next);
    writer.sync().unwrap();
    assert!(writer.cut_back(synced).is_err());
    assert_eq!(scan_all(&writer.reader().unwrap()).len(), 4, "two frames, each with its pad");
    // After a failed truncation the contents are not known: nothing more is written.
    let end = writer.end();
    writer.append(frame(&[], b"lost")).unwrap();
    faulty.fail_nth_of(Operation::Truncate, 0, Fault::Eio);
    assert!(matches!(writer.cut_back(end), Err(LogError::Storage(_))));
    assert!(writer.is_stopped());
    assert!(matches!(writer.cut_back(end), Err(LogError::Stopped)));
}

#[test]
fn a_writer_that_goes_on_begins_in_a_fresh_block() {
    let storage = empty();
    let mut first = writer(storage.clone());
    first.append(frame(&[], b"first")).unwrap();
    first.sync().unwrap();
    let end = first.end();
    let mut second = LogWriter::new(storage, LOG, 2, 3, end).unwrap();
    second.sync().unwrap();
    assert_eq!(second.end(), end, "nothing was appended, so nothing is filled up");
    let place = second.append(frame(&[], b"more")).unwrap();
    assert_eq!((place.offset.0, end % SYNC_BLOCK), (end, 0));
    let kinds: Vec<_> = scan_all(&second.reader().unwrap()).iter().map(|h| h.kind).collect();
    assert_eq!(kinds, [FrameKind::SUPERCHUNK, FrameKind::PAD, FrameKind::SUPERCHUNK]);
}

//= format-spec.md#2.3
//= type=test
//# So a writer refuses to append at an offset that is not a multiple of 4096: even a pad would be written into a block
//# that may be synced.
#[test]
fn a_writer_refuses_to_go_on_inside_a_block_that_may_be_synced() {
    let (storage, reader, _) = three_frames();
    let before = storage.to_bytes();
    let refused = LogWriter::new(storage.clone(), LOG, 2, 4, reader.end());
    assert!(matches!(refused, Err(LogError::InsideBlock { end }) if end == reader.end()));
    assert!(storage.to_bytes() == before);
}

#[test]
fn a_writer_refuses_to_begin_anywhere_but_at_the_end() {
    let (storage, reader, _) = three_frames();
    for end in [reader.end() - 1, reader.end() + 1] {
        assert!(matches!(LogWriter::new(storage.clone(), LOG, 2, 4, end), Err(LogError::NotAtEnd { .. })));
    }
}

#[test]
fn a_frame_beyond_the_limits_or_with_a_wrong_clear_part_is_not_written() {
    let storage = empty();
    let mut writer = writer(storage.clone());
    let bad = [
        NewFrame { raw_len: u32::MAX, ..frame(&[], b"x") },
        NewFrame { flags: Flags(8), ..frame(&[], b"x") },
        frame(b"no checksum", b"x"),
        frame(b"x", b"x"),
    ];
    for frame in bad {
        assert!(matches!(writer.append(frame), Err(LogError::Format { .. })));
    }
    assert_eq!(storage.len().unwrap(), LOG_START);
}

#[test]
fn damaged_stored_bytes_are_read_from_the_copy_and_the_first_error_is_reported_if_both_are_damaged() {
    let storage = empty();
    let mut writer = writer(storage.clone());
    let first = writer.append(frame(&clear_part(b"clear"), b"first")).unwrap();
    let copy = writer.append(frame(&clear_part(b"clear"), b"first")).unwrap();
    let place = Place { copy: Some(copy.offset), ..first };
    let reader = writer.reader().unwrap();
    let mut out = Vec::new();

    storage.flip(place.stored_at(place.offset), 1).unwrap();
    reader.stored(&place, &mut out).unwrap();
    assert_eq!(out, b"first");
    assert!(!reader.stored_unverified(&place, place.offset, &mut out).unwrap());
    assert_eq!(out, b"girst");
    assert!(reader.stored_unverified(&place, copy.offset, &mut out).unwrap());

    storage.flip(place.stored_at(copy.offset), 2).unwrap();
    let error = reader.stored(&place, &mut out).unwrap_err();
    match error {
        LogError::Format { offset, source: FormatError::Checksum { .. } } => assert_eq!(offset, place.offset),
        other => panic!("{other}"),
    }
    assert!(out.is_empty());
}

#[test]
fn a_read_error_is_made_good_by_the_copy() {
    let (_, storage) = faulty();
    let mut writer = writer(storage.clone());
    let first = writer.append(frame(&[], b"bytes")).unwrap();
    let second = writer.append(frame(&[], b"bytes")).unwrap();
    let place = Place { copy: Some(second.offset), ..first };
    let reader = writer.reader().unwrap();
    storage.fail_nth_of(Operation::Read, 0, Fault::Eio);
    let mut out = Vec::new();
    reader.stored(&place, &mut out).unwrap();
    assert_eq!(out, b"bytes");
}

#[test]
fn a_damaged_clear_part_is_noticed() {
    let (storage, reader, places) = three_frames();
    storage.flip(places[1].offset.0 + FRAME_HEADER as u64 + 2, 4).unwrap();
    let header = reader.header(places[1].offset).unwrap();
    assert!(matches!(reader.clear_part(&header), Err(LogError::Format { .. })));
}

#[test]
fn places_that_claim_too_much_give_errors_before_anything_is_allocated() {
    let (_, reader, places) = three_frames();
    let good = places[0];
    let far = LogOffset(u64::MAX);
    let mut out = Vec::new();
    for bad in [
        Place { offset: far, ..good },
        Place { offset: far, copy: Some(far), ..good },
        Place { stored_len: 64 << 20, ..good },
        Place { stored_len: u32::MAX, ..good },
        Place { clear_len: u32::MAX, ..good },
        Place { offset: LogOffset(reader.end()), ..good },
    ] {
        assert!(matches!(reader.stored(&bad, &mut out), Err(LogError::Format { .. })), "{bad:?}");
        assert!(reader.stored_unverified(&bad, bad.offset, &mut out).is_err());
        assert!(reader.stored_range(&bad, bad.offset, 0, &mut [0; 1]).is_err());
        assert_eq!(out.capacity(), 0);
    }
    assert!(reader.header(far).is_err());
    let claims = FrameHeader { clear_len: 60 << 20, ..reader.header(good.offset).unwrap() };
    assert!(reader.clear_part(&claims).is_err());
    assert!(reader.clear_part(&FrameHeader { offset: far, ..claims }).is_err());

    // An end far after the last byte does not allow reads of missing bytes.
    let boast = LogReader::new(Arc::clone(reader.storage()), LOG, 1 << 61).unwrap();
    assert!(boast.stored(&Place { stored_len: 64 << 20, ..good }, &mut out).is_err());
    assert_eq!(out.capacity(), 0);
}

#[test]
fn a_damaged_header_loses_only_its_own_frame() {
    let (storage, reader, places) = three_frames();
    storage.flip(places[1].offset.0 + 20, 1).unwrap();
    let mut scan = reader.scan(LogOffset(LOG_START));
    assert_eq!(scan.next().unwrap().unwrap().offset, places[0].offset);
    let (at, _) = scan.next().unwrap().unwrap_err();
    assert_eq!(at, places[1].offset);
    assert!(scan.next().is_none());
    let next = scan.find_next(at).unwrap();
    assert_eq!(next, places[2].offset);
    scan.resume_at(next);
    assert_eq!(scan.next().unwrap().unwrap().offset, places[2].offset);
    assert!(scan.next().is_none());
    assert_eq!(scan.position().0, reader.end());
    assert_eq!(find_next(&reader, LogOffset(places[2].offset.0 + 1)), None);
    assert_eq!(find_next(&reader, LogOffset(u64::MAX)), None);
}

#[test]
fn a_scan_does_not_stand_still_where_it_failed() {
    let (storage, reader, places) = three_frames();
    storage.flip(places[0].offset.0, 1).unwrap();
    let mut scan = reader.scan(LogOffset(LOG_START));
    scan.next().unwrap().unwrap_err();
    scan.resume_at(LogOffset(0));
    assert_eq!(scan.next().unwrap().unwrap_err().0.0, LOG_START + 1);
}

#[test]
fn the_next_header_is_found_across_windows_and_after_unreadable_bytes() {
    let (_, storage) = faulty();
    let mut writer = writer(storage.clone());
    // The second header crosses the end of the first window of the search; the other windows hold bait.
    let begin = LOG_START + 1;
    let first = vec![b'f'; (1 << 20) - FRAME_HEADER - 30];
    writer.append(frame(&[], &first)).unwrap();
    let second = writer.append(frame(&[], b"behind")).unwrap().offset;
    let reader = writer.reader().unwrap();
    assert_eq!(find_next(&reader, LogOffset(begin)), Some(second));

    // The window cannot be read, and neither can its first 4 KiB.
    storage.fail_nth_of(Operation::Read, 0, Fault::Eio);
    storage.fail_nth_of(Operation::Read, 1, Fault::Eio);
    assert_eq!(find_next(&reader, LogOffset(begin)), Some(second));

    storage.fail_from_of(Operation::Read, 0, Fault::Eio);
    assert_eq!(find_next(&reader, LogOffset(begin)), None);
}

fn faulty() -> (Arc<dyn Storage>, Faulty) {
    let storage = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(vec![0; LOG_START as usize])));
    (storage.clone(), storage)
}

#[test]
fn a_full_disk_takes_back_half_a_frame_and_a_later_append_succeeds() {
    let (_, storage) = faulty();
    let mut writer = writer(storage.clone());
    writer.append(frame(&[], b"one")).unwrap();
    for written in [0, 1, 64, 1000] {
        let end = writer.end();
        storage.fail_short(0, written, Fault::Enospc);
        match writer.append(frame(&[], b"two")).unwrap_err() {
            LogError::Storage(e) => assert_eq!(e.kind(), std::io::ErrorKind::StorageFull),
            other => panic!("{other}"),
        }
        assert_eq!((writer.end(), storage.inner().len().unwrap()), (end, end));
        writer.append(frame(&[], b"three")).unwrap();
    }
    assert_eq!(scan_all(&writer.reader().unwrap()).len(), 5);
}

#[test]
fn after_a_failed_sync_nothing_more_is_written() {
    let (_, storage) = faulty();
    let mut writer = writer(storage.clone());
    writer.append(frame(&[], b"one")).unwrap();
    storage.fail_nth_of(Operation::Sync, 0, Fault::Eio);
    assert!(matches!(writer.sync(), Err(LogError::Storage(_))));
    let operations = storage.count();
    assert!(matches!(writer.append(frame(&[], b"two")), Err(LogError::Stopped)));
    assert!(matches!(writer.sync(), Err(LogError::Stopped)));
    assert!(matches!(writer.fill_block(), Err(LogError::Stopped)));
    assert_eq!(storage.count(), operations);
}

/// Appends and syncs, also after failures; returns the frames that a sync acknowledged.
fn session(storage: &Faulty) -> Vec<Place> {
    let Ok(mut writer) = LogWriter::new(storage.clone(), LOG, 1, 1, LOG_START) else { return Vec::new() };
    let (mut appended, mut acknowledged) = (Vec::new(), 0);
    for round in 0..4u8 {
        for _ in 0..2 {
            appended.extend(writer.append(frame(&[], &[round; 100])));
        }
        if writer.sync().is_ok() {
            acknowledged = appended.len();
        }
    }
    appended.truncate(acknowledged);
    appended
}

#[test]
fn whichever_operation_fails_what_was_synced_is_there() {
    let (_, calm) = faulty();
    session(&calm);
    for n in 0..calm.count() {
        for (lasting, written) in [(false, 0), (true, 0), (false, 90)] {
            let (_, storage) = faulty();
            match (lasting, written) {
                (true, _) => storage.fail_from(n, Fault::Eio),
                (false, 0) => storage.fail_nth(n, Fault::Eio),
                (false, written) => storage.fail_short(n, written, Fault::Enospc),
            }
            let acknowledged = session(&storage);
            storage.fail_no_more();
            let end = storage.inner().len().unwrap();
            let reader = LogReader::new(storage.clone(), LOG, end).unwrap();
            let mut out = Vec::new();
            for place in &acknowledged {
                reader.header(place.offset).unwrap();
                reader.stored(place, &mut out).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_that_were_appended_are_scanned_back(
        frames in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..5000), any::<bool>()),
            0..12,
        ),
    ) {
        let mut writer = writer(empty());
        let mut expected = Vec::new();
        for (body, stored, sync) in &frames {
            let clear = clear_part(body);
            let place = writer.append(frame(&clear, stored)).unwrap();
            expected.push((place, clear, stored));
            if *sync {
                writer.sync().unwrap();
            }
        }
        let reader = writer.reader().unwrap();
        let found: Vec<_> = scan_all(&reader).into_iter().filter(|h| h.kind != FrameKind::PAD).collect();
        prop_assert_eq!(found.len(), expected.len());
        let mut out = Vec::new();
        for (header, (place, clear, stored)) in found.iter().zip(&expected) {
            prop_assert_eq!(header.offset, place.offset);
            prop_assert_eq!(&reader.clear_part(header).unwrap(), clear);
            reader.stored(place, &mut out).unwrap();
            prop_assert_eq!(&out, *stored);
        }
    }

    #[test]
    fn any_truncation_and_any_damage_give_errors_and_never_panics(
        keep in 0usize..45_000, at in 0u64..45_000, mask in 1u8..,
    ) {
        let (storage, reader, places) = three_frames();
        let mut bytes = storage.to_bytes();
        bytes.truncate(keep);
        let cut = Arc::new(MemoryStorage::from_bytes(bytes));
        let _ = cut.flip(at, mask);
        for end in [reader.end(), u64::MAX] {
            let reader = LogReader::new(cut.clone(), LOG, end).unwrap();
            let mut scan = reader.scan(LogOffset(LOG_START));
            let mut out = Vec::new();
            while let Some(item) = scan.next() {
                match item {
                    Ok(header) => drop(reader.clear_part(&header)),
                    Err((offset, _)) => match scan.find_next(offset) {
                        Some(next) => scan.resume_at(next),
                        None => break,
                    },
                }
            }
            for place in &places {
                let whole = place.offset.0 + place.frame_len() <= keep as u64;
                let hit = (place.stored_at(place.offset)..place.offset.0 + place.frame_len()).contains(&at);
                prop_assert_eq!(reader.stored(place, &mut out).is_ok(), whole && !hit);
            }
        }
    }
}
