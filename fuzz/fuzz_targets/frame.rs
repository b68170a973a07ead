//! A frame from arbitrary bytes: its header and its clear list; then the same with right magic, log, offset and
//! checksums.

#![no_main]

use floe::format::clear::ClearList;
use floe::format::frame::{FRAME_HEADER, FRAME_MAGIC, RawFrameHeader};
use floe::format::ids::LogOffset;
use floe::format::limits;
use floe::format::sums::crc32;
use libfuzzer_sys::fuzz_target;

const LOG: u64 = 7;
const OFFSET: LogOffset = LogOffset(limits::LOG_START);

fn read(data: &[u8]) {
    let Ok(raw) = RawFrameHeader::read(data, "frame header") else { return };
    let Ok(header) = raw.validate(LOG, OFFSET) else { return };
    assert!(header.frame_len() <= FRAME_HEADER as u64 + limits::CLEAR_LEN + limits::STORED_LEN);
    assert!(u64::from(header.raw_len) <= limits::RAW_LEN);
    assert_eq!(header.encode().as_slice(), &data[..FRAME_HEADER]);
    let behind = &data[FRAME_HEADER..];
    if header.kind.has_clear_list()
        && let Some(clear) = behind.get(..header.clear_len as usize)
    {
        let _ = ClearList::decode(clear, header.raw_len);
    }
}

fuzz_target!(|data: &[u8]| {
    read(data);
    let mut data = data.to_vec();
    if data.len() < FRAME_HEADER {
        return;
    }
    // Lengths from the full range would almost always reach past the input.
    data[22..24].fill(0);
    data[..4].copy_from_slice(&FRAME_MAGIC);
    data[8..16].copy_from_slice(&LOG.to_le_bytes());
    data[32..40].copy_from_slice(&OFFSET.0.to_le_bytes());
    let clear_len = u32::from_le_bytes([data[20], data[21], data[22], data[23]]) as usize;
    let end = FRAME_HEADER + clear_len;
    if clear_len >= 4 && end <= data.len() {
        let crc = crc32(&data[FRAME_HEADER..end - 4]);
        data[end - 4..end].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32(&data[..FRAME_HEADER - 4]);
    data[FRAME_HEADER - 4..FRAME_HEADER].copy_from_slice(&crc.to_le_bytes());
    read(&data);
});
