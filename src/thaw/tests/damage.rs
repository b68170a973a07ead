//! Tests of damage: bytes that were durable and are wrong now.

use super::*;
use crate::format::frame::{FRAME_HEADER, FrameHeader, FrameKind, RawFrameHeader};

/// All frames, in order.
fn frames(segments: &BTreeMap<u64, Vec<u8>>) -> Vec<FrameHeader> {
    let mut out = Vec::new();
    for (&number, content) in segments {
        let base = number * SEGMENT;
        let mut at = 0;
        while at < content.len() {
            let header = RawFrameHeader::read(&content[at..], "header").unwrap();
            let header = header.validate(LOG, LogOffset(base + at as u64)).unwrap();
            at += header.frame_len() as usize;
            out.push(header);
        }
    }
    out
}

/// A log of several segments, with a large group among its commits, and with unnamed bytes at its end.
fn log() -> (BTreeMap<u64, Vec<u8>>, u64) {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 3, 6000);
    log.commit(many(1500), 0, (0, 0)).unwrap();
    fill(&mut log, 3, 3000);
    log.append(&bytes(1, 500)).unwrap();
    let last = log.last_transaction();
    (folder.to_segments(), last)
}

fn flip(segments: &BTreeMap<u64, Vec<u8>>, offset: u64, mask: u8) -> Arc<MemoryFolder> {
    let mut changed = segments.clone();
    changed.get_mut(&(offset / SEGMENT)).unwrap()[(offset % SEGMENT) as usize] ^= mask;
    memory(changed)
}

// Case 22.
//= format-spec.md#11.5
//= type=test
//# A damaged log is not replayed at all, and nothing of it must be overwritten.
#[test]
fn every_byte_flipped_in_heads_and_transactions_that_were_durable_is_damage_and_nothing_is_written() {
    let (segments, _) = log();
    let all = transactions(&read(memory(segments.clone())).unwrap().unwrap(), 0);
    let durable = all.last().unwrap().info.durable_upto;
    let mut count = 0;
    for header in frames(&segments).iter().filter(|header| header.offset.0 < durable) {
        let whole = matches!(header.kind, FrameKind::SEGMENT | FrameKind::TRANSACTION);
        if !whole {
            continue;
        }
        for at in header.offset.0..header.offset.0 + header.frame_len() {
            let folder = flip(&segments, at, 1 << (at % 8));
            let changed = folder.to_segments();
            match read(folder.clone()) {
                Err(ThawError::Damaged { at: reported, .. }) => assert!(reported.0 <= at, "{reported} for {at}"),
                Err(error) => panic!("byte {at}: {error}"),
                Ok(found) => panic!("byte {at}: {:?} transactions", found.map(|r| r.last_transaction())),
            }
            count += 1;
            if at % 64 == 0 {
                assert!(matches!(create(folder.clone()), Err(ThawError::Damaged { .. })), "no new log over it");
            }
            assert_eq!(folder.to_segments(), changed, "byte {at}");
        }
    }
    assert!(count > 10_000, "only {count} bytes");
}

// Case 22.
#[test]
fn a_damaged_header_of_written_bytes_costs_the_ranges_that_name_the_frame_and_no_others() {
    let (segments, last) = log();
    let whole = read(memory(segments.clone())).unwrap().unwrap();
    let all = transactions(&whole, 0);
    let durable = all.last().unwrap().info.durable_upto;
    let mut count = 0;
    let plain = |header: &&FrameHeader| matches!(header.kind, FrameKind::WRITTEN | FrameKind::PAD);
    for header in frames(&segments).iter().filter(plain).filter(|header| header.offset.0 < durable) {
        let named = all.iter().flat_map(|t| &t.operations).find_map(|operation| match operation {
            Operation::Thawed(t) if t.frame == header.offset => Some((t.inode.0, t.offset, t.len)),
            _ => None,
        });
        assert_eq!(named.is_some(), header.kind == FrameKind::WRITTEN);
        let part = (header.offset.0, header.offset.0 + header.frame_len());
        for at in (0..FRAME_HEADER as u64).map(|n| header.offset.0 + n) {
            let folder = flip(&segments, at, 0x80 >> (at % 8));
            let recovered = read(folder).unwrap_or_else(|e| panic!("byte {at}: {e}")).unwrap();
            assert_eq!(recovered.last_transaction(), last);
            assert_eq!(recovered.lost_parts(), offsets(&[part]), "byte {at}");
            assert_eq!(lost_ranges(&recovered), Vec::from_iter(named), "byte {at}");
            count += 1;
        }
        if header.kind == FrameKind::WRITTEN {
            // Damage in the written bytes is found when they are read.
            let folder = flip(&segments, header.offset.0 + 99, 4);
            let mut recovered = read(folder).unwrap().unwrap();
            assert_eq!((recovered.last_transaction(), recovered.lost_parts()), (last, offsets(&[])));
            let written = recovered.segment(header.offset).unwrap().written(header.offset, header.sum);
            assert!(matches!(written, Err(ThawError::Written { .. })));
            recovered.verify_written().unwrap();
            assert_eq!(recovered.lost_parts(), offsets(&[part]));
            assert_eq!(lost_ranges(&recovered), Vec::from_iter(named));
            assert!(recovered.is_lost(header.offset));
            // And the log can be continued: the next commit makes the range lost.
            let mut log = recovered.resume(binding(), 2, 0).unwrap().0;
            log.commit(Vec::new(), 0, (0, 0)).unwrap();
        }
    }
    assert!(count > 500, "only {count} bytes");
}

#[test]
fn damage_after_what_was_durable_is_the_end_of_the_log() {
    let (segments, last) = log();
    let all = transactions(&read(memory(segments.clone())).unwrap().unwrap(), 0);
    let durable = all.last().unwrap().info.durable_upto;
    let highest = *segments.iter().rfind(|(_, content)| !content.is_empty()).unwrap().0;
    for at in durable..highest * SEGMENT + segments[&highest].len() as u64 {
        if at % SEGMENT >= segments[&(at / SEGMENT)].len() as u64 {
            continue;
        }
        let folder = flip(&segments, at, 1);
        let recovered = read(folder.clone()).unwrap_or_else(|e| panic!("byte {at}: {e}")).unwrap();
        let found = recovered.last_transaction();
        assert!(found + 1 == last || found == last, "byte {at}: {found}");
        if at % 61 == 0 {
            fill(&mut recovered.resume(binding(), 2, 0).unwrap().0, 1, 10);
            assert_eq!(self::last(folder), found + 1);
        }
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let folder = Arc::new(MemoryFolder::new());
    fill(&mut create(folder.clone()).unwrap(), 20, 9000);
    let segments = folder.to_segments();
    let used = segments.values().filter(|content| !content.is_empty()).count();
    for gone in segments.keys().skip(1).take(used - 3) {
        let mut rest = segments.clone();
        rest.remove(gone);
        assert!(matches!(read(memory(rest)), Err(ThawError::Damaged { .. })), "without segment {gone}");
    }
}

#[test]
fn a_segment_cut_short_before_what_was_durable_is_damage() {
    let (segments, last) = log();
    let recovered = read(memory(segments.clone())).unwrap().unwrap();
    let durable = transactions(&recovered, 0).last().unwrap().info.durable_upto;
    let claims = recovered.end().0 / SEGMENT;
    for (&number, content) in &segments {
        for len in (0..content.len()).step_by(97).chain((0..content.len()).step_by(4096)) {
            let mut cut = segments.clone();
            cut.get_mut(&number).unwrap().truncate(len);
            let lost_from = number * SEGMENT + len as u64;
            match read(memory(cut)) {
                Err(ThawError::Damaged { .. }) => assert!(lost_from < durable, "{lost_from}"),
                Err(error) => panic!("{lost_from}: {error}"),
                Ok(found) => {
                    let found = found.unwrap();
                    // The transaction that names the durable end may itself be cut off.
                    if number == claims {
                        continue;
                    }
                    // Before the durable end, only written bytes at a segment's end can be missing without an error.
                    assert!(lost_from >= durable || !found.lost_parts().is_empty(), "{lost_from} of {durable}");
                    assert!(found.last_transaction() + 1 >= last);
                }
            }
        }
    }
}

// Case 21.
#[test]
fn an_abandoned_segment_does_not_count_whatever_is_in_it() {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = create(folder.clone()).unwrap();
    fill(&mut log, 1, 2000);
    let durable = folder.to_segments()[&0].len();
    // A commit that is never synced; the next segment begins before that.
    let appended = log.append(&bytes(1, 3000)).unwrap();
    drop(log.begin(vec![names(2, appended)], 0, (0, 0)).unwrap());
    log.append(&bytes(2, 9000)).unwrap();
    drop(log);
    let mut segments = folder.to_segments();
    segments.get_mut(&0).unwrap()[durable + 5] ^= 1;
    segments.retain(|_, content| !content.is_empty());
    assert_eq!(segments.len(), 2);
    let folder = memory(segments);
    let recovered = read(folder.clone()).unwrap().unwrap();
    assert_eq!(recovered.last_transaction(), 1);
    let mut log = recovered.resume(binding(), 2, 0).unwrap().0;
    fill(&mut log, 3, 2000);
    let segments = folder.to_segments();
    assert_eq!(self::last(folder), 4);
    let first = frames(&[(2, segments[&2].clone())].into())[0];
    assert_eq!(first.kind, FrameKind::SEGMENT);
    for (number, range) in [(0, durable..segments[&0].len()), (1, 0..segments[&1].len())] {
        for at in range.step_by(13) {
            let folder = flip(&segments, number * SEGMENT + at as u64, 0xff);
            assert_eq!(self::last(folder), 4, "byte {at} of segment {number}");
        }
    }
}
