//! The clear list: what stands, readable without decoding, in front of a superchunk (section 5.1).

use super::bytes::{Cursor, put_delta, put_varint};
use super::ids::{SubchunkId, SuperchunkId};
use super::recipe::Recipe;
use super::{FormatError, limits, sums};

/// What a superchunk says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearList {
    /// Its id.
    pub superchunk: SuperchunkId,
    /// Its subchunks and the lengths of their stored parts, in the order they lie in the raw bytes.
    pub subchunks: Vec<(SubchunkId, u32)>,
    /// Recipes of the composed ones, ids ascending.
    pub recipes: Vec<(SubchunkId, Recipe)>,
}

impl ClearList {
    /// The list's bytes, with their checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + 3 * self.subchunks.len());
        put_varint(&mut out, self.superchunk.0);
        let runs: Vec<_> = self.subchunks.chunk_by(|a, b| b.0.0 == a.0.0 + 1).collect();
        put_varint(&mut out, runs.len() as u64);
        let mut next = 0;
        for run in runs {
            let first = run[0].0.0;
            put_delta(&mut out, next, first);
            put_varint(&mut out, run.len() as u64);
            for (_, len) in run {
                put_varint(&mut out, (*len).into());
            }
            next = first + run.len() as u64;
        }
        put_varint(&mut out, self.recipes.len() as u64);
        let mut before = 0;
        let mut recipe_bytes = Vec::new();
        for (id, recipe) in &self.recipes {
            put_varint(&mut out, id.0 - before);
            before = id.0;
            recipe_bytes.clear();
            recipe.encode(*id, &mut recipe_bytes);
            put_varint(&mut out, recipe_bytes.len() as u64);
            out.extend_from_slice(&recipe_bytes);
        }
        out.extend_from_slice(&sums::crc32(&out).to_le_bytes());
        out
    }

    /// The list that fills `bytes` and describes a superchunk of `raw_len` bytes.
    ///
    /// # Errors
    /// What is wrong with it. Allocates no more than a few times the bytes given.
    pub fn decode(bytes: &[u8], raw_len: u32) -> Result<Self, FormatError> {
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return Err(FormatError::Truncated { what: "clear list", need: 4, have: bytes.len() as u64 });
        };
        let (stored, computed) = (u32::from_le_bytes(*crc), sums::crc32(body));
        if stored != computed {
            return Err(FormatError::Checksum { what: "clear list", stored: stored.into(), computed: computed.into() });
        }
        let mut cursor = Cursor::new(body, "clear list");
        let superchunk = SuperchunkId(checked_id(cursor.varint()?)?);
        let mut subchunks = Vec::new();
        let mut total = 0u64;
        let mut next = 0;
        for _ in 0..cursor.varint_to(body.len() as u64, "runs of a clear list")? {
            let first = checked_id(cursor.delta(next)?)?;
            let count = cursor.varint_to(cursor.remaining() as u64, "subchunks of a run")?;
            if count == 0 {
                return Err(FormatError::invalid("clear list", "an empty run"));
            }
            next = checked_id(first + count - 1)? + 1;
            for id in first..next {
                let len = cursor.varint_to(limits::SUBCHUNK_LEN, "length of a stored part")?;
                total += len;
                subchunks.push((SubchunkId(id), len as u32));
            }
        }
        if total != u64::from(raw_len) {
            return Err(FormatError::Limit { what: "bytes in a clear list", value: total, limit: raw_len.into() });
        }
        let mut recipes: Vec<(SubchunkId, Recipe)> = Vec::new();
        let mut id = 0u64;
        for i in 0..cursor.varint_to(subchunks.len() as u64, "recipes of a clear list")? {
            let step = cursor.varint()?;
            if step == 0 && i > 0 {
                return Err(FormatError::invalid("clear list", "recipes out of order"));
            }
            id = checked_id(id.saturating_add(step))?;
            let len = cursor.varint()?;
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            recipes.push((SubchunkId(id), Recipe::decode(SubchunkId(id), cursor.take(len)?)?));
        }
        cursor.end()?;
        Ok(ClearList { superchunk, subchunks, recipes })
    }
}

fn checked_id(id: u64) -> Result<u64, FormatError> {
    if id == 0 || id >= limits::ID {
        return Err(FormatError::Limit { what: "id in a clear list", value: id, limit: limits::ID });
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::recipe::Piece;
    use proptest::prelude::*;

    fn list() -> ClearList {
        let piece = |id, offset, len| Piece { subchunk: SubchunkId(id), offset, len };
        ClearList {
            superchunk: SuperchunkId(3),
            subchunks: vec![(SubchunkId(7), 100), (SubchunkId(8), 0), (SubchunkId(2), 50)],
            recipes: vec![(SubchunkId(8), Recipe::new(vec![piece(7, 10, 20), piece(2, 0, 5)]).unwrap())],
        }
    }

    #[test]
    fn a_list_comes_back_and_any_flipped_bit_is_noticed() {
        let bytes = list().encode();
        assert_eq!(ClearList::decode(&bytes, 150).unwrap(), list());
        assert!(ClearList::decode(&bytes, 151).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ClearList::decode(&bad, 150).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_with_a_right_checksum_give_a_list_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..100), raw_len: u32) {
            let crc = sums::crc32(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            let _ = ClearList::decode(&bytes, raw_len);
        }
    }
}
