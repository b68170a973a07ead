//! A head slot, a place, parameters and a root from arbitrary bytes: either an error, or values within the limits.

#![no_main]

use floe::format::head::{HEAD_MAGIC, RawHeadSlot};
use floe::format::limits;
use floe::format::params::RawParams;
use floe::format::place::RawPlace;
use floe::format::root::{Root, root_hash};
use floe::format::sums::crc32;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(raw) = RawPlace::read(data, "place") {
        let _ = raw.validate();
    }
    if let Ok(raw) = RawParams::read(data, "parameters") {
        let _ = raw.validate();
    }
    // A root with the right hash, as in a hostile image.
    if let Some((len, rest)) = data.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize;
        if let Some(logical) = rest.get(4..).and_then(|rest| rest.get(..len)) {
            let _ = Root::decode(data, &root_hash(logical));
        }
    }
    // The slot as it is; then with right magic, version and checksum.
    if let Ok(raw) = RawHeadSlot::read(data, "head slot") {
        let _ = raw.validate();
    }
    let mut slot = [0; RawHeadSlot::SIZE];
    let len = data.len().min(slot.len());
    slot[..len].copy_from_slice(&data[..len]);
    slot[..4].copy_from_slice(&HEAD_MAGIC);
    slot[4..6].copy_from_slice(&1u16.to_le_bytes());
    let crc = crc32(&slot[..RawHeadSlot::SIZE - 4]);
    slot[RawHeadSlot::SIZE - 4..].copy_from_slice(&crc.to_le_bytes());
    let raw = RawHeadSlot::read(&slot, "head slot").expect("it has its length");
    if let Ok(head) = raw.validate() {
        assert!(u64::from(head.root.raw_len) <= limits::RAW_LEN);
        assert!(head.log_end.0 <= limits::IMAGE_LEN);
        // An accepted head, written again, is accepted and has the same values.
        let again = RawHeadSlot::read(&head.encode(), "head slot").expect("it has its length");
        assert_eq!(again.validate().expect("it was valid"), head);
    }
});
