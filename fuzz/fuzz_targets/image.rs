//! A whole image from arbitrary bytes, opened and walked: it may give errors, but only in bounded time and memory.
//!
//! If the first byte is even, the rest is used as it is. If it is odd, the checksums of heads and frames, the frames'
//! own offsets and the root's hash are corrected first, so that the code after these checks is reached.

#![no_main]

use floe::care::{CheckObserver, CheckOptions, check};
use floe::format::frame::{FRAME_HEADER, FRAME_MAGIC, FrameKind, RawFrameHeader};
use floe::format::head::{HEAD_MAGIC, RawHeadSlot};
use floe::format::ids::InodeId;
use floe::format::limits::{HEAD_SLOT_SPAN, LOG_START, SYNC_BLOCK};
use floe::format::place::RawPlace;
use floe::format::root::root_hash;
use floe::format::sums::{crc32, xxh3};
use floe::fs::{Fs, FsOptions, SeekTo};
use floe::meta::{Image, ImageOptions};
use floe::storage::testing::MemoryStorage;
use libfuzzer_sys::fuzz_target;
use std::mem::offset_of;
use std::sync::Arc;

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Corrects checksums, frame by frame as long as their lengths make sense; then the head slots.
fn mend(image: &mut Vec<u8>) {
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
    // The log ends with a whole block.
    let log_end = at.next_multiple_of(SYNC_BLOCK as usize);
    if image.len() < log_end {
        image.resize(log_end, 0);
    }
    for slot in [0, HEAD_SLOT_SPAN as usize] {
        put(image, slot, &HEAD_MAGIC);
        put(image, slot + offset_of!(RawHeadSlot, version), &1u16.to_le_bytes());
        put(image, slot + offset_of!(RawHeadSlot, log_id), &log_id);
        put(image, slot + offset_of!(RawHeadSlot, log_end), &(log_end as u64).to_le_bytes());
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
                let hash = root_hash(logical);
                put(image, slot + offset_of!(RawHeadSlot, root_hash), &hash);
            }
        }
        let crc = crc32(&image[slot..slot + RawHeadSlot::SIZE - 4]).to_le_bytes();
        put(image, slot + RawHeadSlot::SIZE - 4, &crc);
    }
}

/// Limit of entries visited: a hostile directory may contain itself.
const ENTRIES: usize = 500;
/// Bytes read of each file, at its beginning and its end.
const READ: usize = 100_000;

struct Silent;

impl CheckObserver for Silent {}

/// Opens the image, walks what it can reach, and checks it.
fn walk(bytes: &[u8]) {
    let storage = Arc::new(MemoryStorage::from_bytes(bytes.to_vec()));
    if let Ok(image) = Image::open(storage.clone(), ImageOptions { block_cache: 1 << 20 }) {
        look(&Fs::new(Arc::new(image), FsOptions { cache: 8 << 20, readahead: 0, ..FsOptions::default() }));
    }
    // `check` reports each fault as a finding; this target tests that it does not panic.
    let _ = check(storage, &CheckOptions { memory: 64 << 20, ..CheckOptions::default() }, &Silent);
}

fn look(fs: &Fs) {
    let mut todo = vec![InodeId::ROOT];
    let mut entries = 0;
    while let Some(inode) = todo.pop() {
        let Ok(attr) = fs.attr(inode) else { continue };
        let _ = fs.xattr_names(inode);
        let _ = fs.readlink(inode);
        let _ = fs.seek(inode, attr.size / 2, SeekTo::Hole);
        let mut out = Vec::new();
        let _ = fs.read(inode, 0, READ, &mut out);
        let _ = fs.read(inode, attr.size.saturating_sub(READ as u64), READ, &mut out);
        let _ = fs.read_dir(inode, 0, &mut |entry| {
            todo.push(entry.inode);
            entries += 1;
            entries < ENTRIES
        });
        if entries >= ENTRIES {
            return;
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
