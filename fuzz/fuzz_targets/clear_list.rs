//! A clear list and a recipe of any bytes, with a checksum that is right.

#![no_main]

use floe::format::clear::ClearList;
use floe::format::ids::SubchunkId;
use floe::format::limits;
use floe::format::recipe::Recipe;
use floe::format::sums::crc32;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((raw_len, list)) = data.split_first_chunk::<4>() else { return };
    let raw_len = u32::from_le_bytes(*raw_len);
    let _ = ClearList::decode(list, raw_len);
    let mut bytes = list.to_vec();
    bytes.extend_from_slice(&crc32(list).to_le_bytes());
    if let Ok(list) = ClearList::decode(&bytes, raw_len) {
        assert_eq!(list.subchunks.iter().map(|s| u64::from(s.1)).sum::<u64>(), u64::from(raw_len));
        assert!(list.subchunks.len() <= bytes.len(), "each takes at least a byte");
        assert_eq!(ClearList::decode(&list.encode(), raw_len).as_ref(), Ok(&list));
    }
    let own = SubchunkId(u64::from(raw_len));
    if let Ok(recipe) = Recipe::decode(own, list) {
        let sum: u64 = recipe.pieces().iter().map(|p| u64::from(p.len)).sum();
        assert!(sum == u64::from(recipe.subchunk_len()) && sum <= limits::SUBCHUNK_LEN);
        let mut again = Vec::new();
        recipe.encode(own, &mut again);
        assert_eq!(Recipe::decode(own, &again).as_ref(), Ok(&recipe));
    }
});
