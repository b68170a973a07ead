//! A clear list and a row of recipes from arbitrary bytes, with a right checksum.

#![no_main]

use floe::format::clear::ClearList;
use floe::format::ids::SubchunkId;
use floe::format::limits;
use floe::format::recipe::RecipeRow;
use floe::format::sums::crc32;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((raw_len, list)) = data.split_first_chunk::<4>() else { return };
    let raw_len = u32::from_le_bytes(*raw_len);
    let _ = ClearList::decode(list, raw_len);
    let mut bytes = list.to_vec();
    bytes.extend_from_slice(&crc32(list).to_le_bytes());
    if let Ok(list) = ClearList::decode(&bytes, raw_len) {
        assert_eq!(list.subchunks.iter().map(|listed| u64::from(listed.len)).sum::<u64>(), u64::from(raw_len));
        assert!(list.subchunks.iter().all(|listed| listed.len > 0 || listed.composed));
        assert!(list.subchunks.len() <= bytes.len(), "each takes at least a byte");
        assert_eq!(ClearList::decode(&list.encode(), raw_len).as_ref(), Ok(&list));
    }
    let first = SubchunkId(u64::from(raw_len));
    let ints = [0, 0, 0, u64::from(list.len() as u8), 0, 0, 0, 0];
    if let Ok(recipes) = RecipeRow::decode(first, &ints, list) {
        for (id, recipe) in &recipes {
            let sum: u64 = recipe.pieces().iter().map(|p| u64::from(p.len)).sum();
            assert!(sum == u64::from(recipe.subchunk_len()) && sum <= limits::SUBCHUNK_LEN);
            assert_eq!(RecipeRow::find(first, &ints, list, *id).as_ref(), Ok(&Some(recipe.clone())));
        }
        let (again, tail) = RecipeRow::encode(&recipes.iter().map(|(id, recipe)| (*id, recipe)).collect::<Vec<_>>());
        assert_eq!((again, RecipeRow::decode(first, &again, &tail).as_ref()), (ints, Ok(&recipes)));
    }
});
