//! A whole image of any bytes, opened and walked: errors at most, in bounded time and memory.
//!
//! An even first byte: the rest is taken as it is. An odd one: checksums of heads and frames, the frames' own offsets and
//! the root's hash are put right first, so that what lies behind them is reached.

#![no_main]

use floe::format::frame::{FRAME_HEADER, FRAME_MAGIC, FrameKind, RawFrameHeader};
use floe::format::head::{HEAD_MAGIC, RawHeadSlot};
use floe::format::ids::LogOffset;
use floe::format::limits::{HEAD_SLOT_SPAN, LOG_START};
use floe::format::place::RawPlace;
use floe::format::root::Root;
use floe::format::sums::{crc32, xxh3};
use libfuzzer_sys::fuzz_target;
use std::mem::offset_of;

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Puts checksums right, frame by frame as far as their lengths make sense; then the head slots.
fn mend(image: &mut [u8]) {
    let log_start = LOG_START as usize;
    if image.len() < log_start {
        return;
    }
    let log_id: [u8; 8] = image[offset_of!(RawHeadSlot, log_id)..][..8].try_into().unwrap_or_default();
    let mut at = log_start;
    let mut root = None;
    while at + FRAME_HEADER <= image.len() {
        let clear_len = word(image, at + offset_of!(RawFrameHeader, clear_len));
        let stored_len = word(image, at + offset_of!(RawFrameHeader, stored_len));
        let stored = at + FRAME_HEADER + clear_len;
        let end = stored + stored_len;
        if end > image.len() {
            break;
        }
        put(image, at, &FRAME_MAGIC);
        put(image, at + offset_of!(RawFrameHeader, log_id), &log_id);
        put(image, at + offset_of!(RawFrameHeader, own_offset), &(at as u64).to_le_bytes());
        let sum = xxh3(&image[stored..end]).to_le_bytes();
        put(image, at + offset_of!(RawFrameHeader, sum), &sum);
        if clear_len >= 4 {
            let crc = crc32(&image[at + FRAME_HEADER..stored - 4]).to_le_bytes();
            put(image, stored - 4, &crc);
        }
        let crc = crc32(&image[at..at + FRAME_HEADER - 4]).to_le_bytes();
        put(image, at + FRAME_HEADER - 4, &crc);
        if image[at + offset_of!(RawFrameHeader, kind)] == FrameKind::ROOT.0 && stored_len > 8 {
            root.get_or_insert((at, stored, end, sum));
        }
        at = end;
    }
    for slot in [0, HEAD_SLOT_SPAN as usize] {
        put(image, slot, &HEAD_MAGIC);
        put(image, slot + offset_of!(RawHeadSlot, version), &1u16.to_le_bytes());
        put(image, slot + offset_of!(RawHeadSlot, log_id), &log_id);
        put(image, slot + offset_of!(RawHeadSlot, log_end), &(at as u64).to_le_bytes());
        if let Some((frame, stored, end, sum)) = root {
            let place = slot + offset_of!(RawHeadSlot, root);
            let len = ((end - stored) as u32).to_le_bytes();
            put(image, place + offset_of!(RawPlace, offset), &(frame as u64).to_le_bytes());
            put(
                image,
                place + offset_of!(RawPlace, clear_len),
                &((stored - frame - FRAME_HEADER) as u32).to_le_bytes(),
            );
            put(image, place + offset_of!(RawPlace, stored_len), &len);
            put(image, place + offset_of!(RawPlace, raw_len), &len);
            put(image, place + offset_of!(RawPlace, sum), &sum);
            let logical = word(image, stored);
            if let Some(logical) = image[stored + 8..end].get(..logical) {
                let hash = *blake3::hash(logical).as_bytes();
                put(image, slot + offset_of!(RawHeadSlot, root_hash), &hash);
            }
        }
        let crc = crc32(&image[slot..slot + RawHeadSlot::SIZE - 4]).to_le_bytes();
        put(image, slot + RawHeadSlot::SIZE - 4, &crc);
    }
}

/// Opens the image and reads its root.
fn walk(image: &[u8]) {
    for slot in [0, HEAD_SLOT_SPAN as usize] {
        let Some(Ok(raw)) = image.get(slot..).map(|bytes| RawHeadSlot::read(bytes, "head slot")) else { continue };
        let Ok(head) = raw.validate() else { continue };
        for offset in head.root.offsets() {
            let Some(frame) = image.get(offset.0 as usize..) else { continue };
            let Ok(header) = RawFrameHeader::read(frame, "frame header") else { continue };
            let _ = header.validate(head.log_id, LogOffset(offset.0));
            let start = head.root.stored_at(offset) as usize;
            if let Some(stored) = image.get(start..).and_then(|s| s.get(..head.root.stored_len as usize)) {
                let _ = Root::decode(stored, &head.root_hash);
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((how, image)) = data.split_first() else { return };
    if how % 2 == 0 {
        return walk(image);
    }
    let mut image = image.to_vec();
    mend(&mut image);
    walk(&image);
});
