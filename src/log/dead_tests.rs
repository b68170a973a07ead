//! Tests of dead frames whose punched payloads hold other frames, and of hostile images that try to make a scan slow.

use super::*;
use crate::format::frame::{FRAME_HEADER, Flags, FrameHeader, FrameKind};
use crate::format::limits::LOG_START;
use crate::format::sums;
use crate::storage::testing::{Fault, FaultyStorage, MemoryStorage};
use crate::storage::{Operation, Storage};
use std::sync::Arc;

const LOG: u64 = 0x10f;
const BLOCK: u64 = 4096;

/// A log written byte by byte.
struct Bytes {
    bytes: Vec<u8>,
    sequence: u64,
}

impl Bytes {
    fn new() -> Self {
        Bytes { bytes: vec![0; LOG_START as usize], sequence: 0 }
    }

    /// Writes a superchunk's frame at `at`, over whatever is there.
    fn put(&mut self, at: u64, stored: &[u8]) -> FrameHeader {
        self.put_kind(FrameKind::SUPERCHUNK, at, stored)
    }

    fn put_kind(&mut self, kind: FrameKind, at: u64, stored: &[u8]) -> FrameHeader {
        self.sequence += 1;
        let len = stored.len() as u32;
        let header = FrameHeader {
            kind,
            codec: 0,
            flags: Flags::default(),
            log_id: LOG,
            epoch: 1,
            clear_len: 0,
            sequence: self.sequence,
            offset: LogOffset(at),
            stored_len: len,
            raw_len: len,
            sum: sums::xxh3(stored),
        };
        self.write(at, &[&header.encode(), stored].concat());
        header
    }

    fn append(&mut self, stored: &[u8]) -> FrameHeader {
        self.put(self.bytes.len() as u64, stored)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let end = at as usize + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[at as usize..end].copy_from_slice(bytes);
    }

    /// Makes the whole blocks of a frame's stored bytes zero; returns their range.
    fn punch(&mut self, frame: &FrameHeader) -> (u64, u64) {
        let begin = (frame.offset.0 + FRAME_HEADER as u64).next_multiple_of(BLOCK);
        let end = (frame.offset.0 + frame.frame_len()) / BLOCK * BLOCK;
        self.bytes[begin as usize..end as usize].fill(0);
        (begin, end)
    }

    fn reader(&self) -> LogReader {
        let end = self.bytes.len() as u64;
        LogReader::new(Arc::new(MemoryStorage::from_bytes(self.bytes.clone())), LOG, end).unwrap()
    }

    /// The offsets that a scan finds; it finds no damage.
    fn scan(&self) -> Vec<u64> {
        self.reader().scan(LogOffset(LOG_START)).map(|found| found.unwrap().offset.0).collect()
    }
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

fn offsets(headers: &[FrameHeader]) -> Vec<u64> {
    headers.iter().map(|header| header.offset.0).collect()
}

#[test]
fn frames_in_a_punched_payload_are_found_wherever_a_block_begins() {
    for first_block in [0, 1] {
        for kind in [FrameKind::SUPERCHUNK, FrameKind::TABLE_GROUP, FrameKind::MAP_BLOCK] {
            let mut log = Bytes::new();
            let before = log.append(b"before");
            let dead = log.put_kind(kind, before.offset.0 + before.frame_len(), &noise(1, 60_000));
            let after = log.append(&noise(2, 9_000));
            let (begin, end) = log.punch(&dead);
            let one = log.put(begin + first_block * BLOCK, b"in one block");
            let two = log.put(begin + 3 * BLOCK, &noise(3, 10_000));
            // Up to the last byte of the payload.
            let three = log.put(end - 2 * BLOCK, &noise(4, 2 * BLOCK as usize - FRAME_HEADER));
            assert_eq!(log.scan(), offsets(&[before, dead, one, two, three, after]), "{first_block} {kind:?}");
            let mut scan = log.reader().scan(LogOffset(LOG_START));
            let mut within = Vec::new();
            while let Some(found) = scan.next() {
                let found = found.unwrap();
                within.push(scan.punched().map(|outer| (outer.offset, outer.offset == found.offset)));
            }
            let (outer, inner) = (Some((dead.offset, true)), Some((dead.offset, false)));
            assert_eq!(within, [None, outer, inner, inner, inner, None]);
        }
    }
}

//= format-spec.md#2.3
//= type=test
//# The payload of a frame found in a payload is never searched.
#[test]
fn blocks_of_a_frame_that_died_in_a_payload_are_used_again() {
    let mut log = Bytes::new();
    let dead = log.append(&noise(1, 100_000));
    let after = log.append(b"after");
    let (begin, _) = log.punch(&dead);
    let second = log.put(begin + BLOCK, &noise(2, 30_000));
    let other = log.put(begin + 12 * BLOCK, &noise(3, 100));
    // The frame is dead and its payload is punched, but not its header: the scan steps over it.
    log.punch(&second);
    assert_eq!(log.scan(), offsets(&[dead, second, other, after]));
    let lost = log.put(begin + 3 * BLOCK, b"not to be found");
    assert_eq!(log.scan(), offsets(&[dead, second, other, after]));
    // Now it is punched whole, and the frames in its blocks are found.
    log.bytes[second.offset.0 as usize..][..BLOCK as usize].fill(0);
    assert_eq!(log.scan(), offsets(&[dead, lost, other, after]));
    let third = log.put(begin + 4 * BLOCK, &noise(4, 9_000));
    assert_eq!(log.scan(), offsets(&[dead, lost, third, other, after]));
}

//= format-spec.md#2.3
//= type=test
//# If the checksum of the outer frame is right, frames in its payload must not count: they are the data of a live
//# frame.
#[test]
fn data_that_looks_like_frames_of_this_very_log_is_stepped_over() {
    for zeros in [0, 1] {
        let mut log = Bytes::new();
        // A hostile file that was made for the offset at which it is stored.
        let begin = LOG_START + BLOCK;
        let forged = log.put(begin + zeros * BLOCK, b"forged");
        let data = log.bytes[LOG_START as usize + FRAME_HEADER..].to_vec();
        let data = [data, vec![0; 20_000]].concat();
        log.bytes.truncate(LOG_START as usize);
        let live = log.append(&data);
        let after = log.append(b"after");
        assert_eq!(log.bytes[forged.offset.0 as usize..][..4], *b"frle");
        assert_eq!(log.scan(), offsets(&[live, after]));
        // When the frame is dead and its last block is punched, the inner frame may count.
        log.bytes[(begin + 4 * BLOCK) as usize] ^= 1;
        assert_eq!(log.scan(), offsets(&[live, forged, after]));
    }
}

#[test]
fn only_frames_on_borders_that_end_within_the_payload_count() {
    let mut log = Bytes::new();
    let dead = log.append(&noise(1, 50_000));
    let after = log.append(b"after");
    let (begin, end) = log.punch(&dead);
    log.put(begin + BLOCK + 8, b"on no border");
    let good = log.put(begin + 5 * BLOCK, b"good");
    log.put(end - BLOCK, &noise(2, BLOCK as usize - FRAME_HEADER + 1));
    assert_eq!(log.scan(), offsets(&[dead, good, after]));
}

#[test]
fn a_dead_frame_whose_payload_begins_with_its_old_bytes_is_stepped_over() {
    let mut log = Bytes::new();
    let dead = log.append(&noise(1, 50_000));
    let after = log.append(b"after");
    let (begin, _) = log.punch(&dead);
    log.write(begin, &noise(5, FRAME_HEADER));
    log.put(begin + 2 * BLOCK, b"not to be found");
    assert_eq!(log.scan(), offsets(&[dead, after]));
}

#[test]
fn unreadable_blocks_of_a_payload_lose_only_the_frames_that_begin_there() {
    let mut log = Bytes::new();
    let dead = log.append(&noise(1, 50_000));
    let after = log.append(b"after");
    let (begin, _) = log.punch(&dead);
    log.put(begin + 2 * BLOCK, b"lost");
    let good = log.put(begin + 3 * BLOCK, b"good");
    let storage = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(log.bytes.clone())));
    let scan = |failing: u64| {
        let reader = LogReader::new(storage.clone() as Arc<dyn Storage>, LOG, log.bytes.len() as u64).unwrap();
        storage.fail_nth_of(Operation::Read, failing, Fault::Eio);
        let found: Vec<_> = reader.scan(LogOffset(LOG_START)).map(|found| found.unwrap().offset.0).collect();
        storage.fail_no_more();
        found
    };
    let all = scan(1_000_000);
    assert_eq!(all.len(), 4);
    // Reads: the header; the first bytes of the payload; the payload for its checksum.
    assert_eq!(scan(2), all);
    assert_eq!(scan(3), all);
    assert!(all.contains(&good.offset.0) && all.contains(&after.offset.0));
}

/// Scans a log as salvage does; returns the number of headers found, and the bytes read for each byte of the log.
fn cost(log: &Bytes) -> (usize, f64) {
    let storage = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(log.bytes.clone())));
    let len = log.bytes.len() as u64;
    let reader = LogReader::new(storage.clone() as Arc<dyn Storage>, LOG, len).unwrap();
    let mut scan = reader.scan(LogOffset(LOG_START));
    let mut headers = 0;
    while let Some(next) = scan.next() {
        match next {
            Ok(_) => headers += 1,
            Err((at, _)) => match scan.find_next(LogOffset(at.0 + 1)) {
                Some(next) => scan.resume_at(next),
                None => break,
            },
        }
    }
    let read: u64 = storage.records().iter().filter(|r| r.operation == Operation::Read).map(|r| r.len).sum();
    (headers, read as f64 / len as f64)
}

#[test]
fn no_log_makes_a_scan_read_it_more_than_four_times() {
    // Nested frames: each begins one block after the one before and claims all bytes up to the end.
    let mut nested = Bytes::new();
    let outer = nested.append(&noise(1, 1 << 20));
    let (begin, end) = nested.punch(&outer);
    for at in (0..(end - begin) / BLOCK).rev().map(|n| begin + n * BLOCK) {
        let len = (end - at) as usize - FRAME_HEADER;
        let stored = nested.bytes[at as usize + FRAME_HEADER..][..len].to_vec();
        let mut header = nested.put(at, &stored);
        header.sum ^= 1;
        nested.write(at, &header.encode());
    }
    let (headers, times) = cost(&nested);
    assert!(headers == 2 && times < 4.0, "{headers} {times}");
    // Without the outer header, the first inner frame is the outermost.
    nested.bytes[LOG_START as usize] ^= 1;
    let (headers, times) = cost(&nested);
    assert!(headers == 2 && times < 4.0, "{headers} {times}");

    // A frame, one byte, a frame, one byte, and so on.
    let mut broken = Bytes::new();
    for n in 0..20_000u32 {
        broken.append(&n.to_le_bytes());
        broken.bytes.push(b'f');
    }
    let (headers, times) = cost(&broken);
    assert!(headers == 20_000 && times < 4.0, "{headers} {times}");

    // A small frame at each 4 KiB border of a payload, then many payloads that look punched and are not.
    let mut full = Bytes::new();
    for seed in 0..20 {
        let outer = full.append(&noise(seed, 300_000));
        let (begin, end) = full.punch(&outer);
        for at in (begin..end).step_by(BLOCK as usize) {
            full.put(at, b"small");
        }
        full.append(&vec![0; 300_000]);
    }
    let (headers, times) = cost(&full);
    assert!(headers > 20 * 70 && times < 4.0, "{headers} {times}");
}
