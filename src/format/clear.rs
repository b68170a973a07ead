//! The clear list: which subchunks a superchunk holds, readable without decoding it (section 5.1).

use super::bytes::{Cursor, put_delta, put_varint};
use super::ids::{SubchunkId, SuperchunkId};
use super::{FormatError, limits, sums};

/// One subchunk in the clear list of a superchunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Id of the subchunk.
    pub id: SubchunkId,
    /// Length of the subchunk's stored part in bytes; 0 only if the subchunk is composed.
    pub len: u32,
    /// Whether the subchunk is composed: the map has a recipe for it.
    pub composed: bool,
}

impl Listed {
    /// Makes the entry of a subchunk without recipe, whose bytes are its stored part of `len` bytes.
    pub fn whole(id: SubchunkId, len: u32) -> Self {
        Listed { id, len, composed: false }
    }
}

/// The clear list of a superchunk: which subchunks the superchunk holds. It is not compressed, so that it can be read
/// if the map is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearList {
    /// Id of the superchunk.
    pub superchunk: SuperchunkId,
    /// The superchunk's subchunks, in the order of their stored parts in the raw bytes. At most [`limits::SUBCHUNKS`].
    pub subchunks: Vec<Listed>,
}

impl ClearList {
    /// Returns the encoded list, with its checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + 3 * self.subchunks.len());
        put_varint(&mut out, self.superchunk.0);
        let runs = || self.subchunks.chunk_by(|a, b| b.id.0 == a.id.0.wrapping_add(1));
        put_varint(&mut out, runs().count() as u64);
        let mut next = 0;
        for run in runs() {
            let first = run.first().map_or(0, |listed| listed.id.0);
            put_delta(&mut out, next, first);
            let composed = run.iter().any(|listed| listed.composed);
            put_varint(&mut out, (run.len() as u64) << 1 | u64::from(composed));
            if composed {
                put_bits(&mut out, run.iter().map(|listed| listed.composed));
            }
            for listed in run {
                put_varint(&mut out, listed.len.into());
            }
            next = first + run.len() as u64;
        }
        out.extend_from_slice(&sums::crc32(&out).to_le_bytes());
        out
    }

    /// Decodes `bytes` as the clear list of a superchunk of `raw_len` raw bytes. Allocates at most 16 bytes for each
    /// byte given, and 16 MiB.
    ///
    /// # Errors
    /// Fails if the checksum is wrong or the list is not valid.
    pub fn decode(bytes: &[u8], raw_len: u32) -> Result<Self, FormatError> {
        let mut subchunks = Vec::new();
        let superchunk = ClearList::walk(bytes, raw_len, |listed| subchunks.push(listed))?;
        Ok(ClearList { superchunk, subchunks })
    }

    /// Decodes `bytes` as the clear list of a superchunk (the list of its subchunks, for recovery without tables) without
    /// keeping it: gives each subchunk to `each`, and returns the superchunk's id. The subchunks must cover `raw_len`
    /// bytes, the length of the inflated superchunk. Allocates nothing.
    ///
    /// # Errors
    /// Fails if the checksum is wrong or the list is not valid. The subchunks that `each` was given then do not count.
    pub fn walk(bytes: &[u8], raw_len: u32, mut each: impl FnMut(Listed)) -> Result<SuperchunkId, FormatError> {
        const WHAT: &str = "clear list";
        //= format-spec.md#5.1
        //# A list of more than 4 MiB, or of more than 2^20 subchunks, must be refused.
        if bytes.len() as u64 > limits::CLEAR_LEN {
            return Err(FormatError::Limit { what: WHAT, value: bytes.len() as u64, limit: limits::CLEAR_LEN });
        }
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return Err(FormatError::Truncated { what: WHAT, need: 4, have: bytes.len() as u64 });
        };
        let (stored, computed) = (u32::from_le_bytes(*crc), sums::crc32(body));
        if stored != computed {
            return Err(FormatError::Checksum { what: WHAT, stored: stored.into(), computed: computed.into() });
        }
        let mut cursor = Cursor::new(body, WHAT);
        let superchunk = SuperchunkId(checked_id(cursor.varint()?)?);
        let mut seen = 0u64;
        let mut total = 0u64;
        let mut next = 0;
        for _ in 0..cursor.varint_to(limits::SUBCHUNKS, "runs of a clear list")? {
            let first = checked_id(cursor.delta(next)?)?;
            let header = cursor.varint()?;
            let (count, has_bits) = (header >> 1, header & 1 == 1);
            if count == 0 {
                return Err(FormatError::invalid(WHAT, "an empty run"));
            }
            let all = count.saturating_add(seen);
            if all > limits::SUBCHUNKS {
                return Err(FormatError::Limit {
                    what: "subchunks of a superchunk",
                    value: all,
                    limit: limits::SUBCHUNKS,
                });
            }
            seen = all;
            next = checked_id(first + count - 1)? + 1;
            let bits = if has_bits { cursor.take(count.div_ceil(8) as usize)? } else { &[] };
            for (index, id) in (first..next).enumerate() {
                let len = cursor.varint_to(limits::SUBCHUNK_LEN, "length of a stored part")? as u32;
                let composed = bit(bits, index);
                //= format-spec.md#5.1
                //# A stored length is 0 only if the subchunk is composed; a reader must refuse any other list.
                if len == 0 && !composed {
                    return Err(FormatError::invalid(WHAT, "a subchunk without stored bytes that is not composed"));
                }
                total += u64::from(len);
                each(Listed { id: SubchunkId(id), len, composed });
            }
        }
        cursor.end()?;
        if total != u64::from(raw_len) {
            return Err(FormatError::Limit { what: "bytes in a clear list", value: total, limit: raw_len.into() });
        }
        Ok(superchunk)
    }
}

/// Appends a bitmap: bit `i % 8` of byte `i / 8` is value number `i` of `set`.
pub(super) fn put_bits(out: &mut Vec<u8>, set: impl Iterator<Item = bool>) {
    for (index, set) in set.enumerate() {
        if index % 8 == 0 {
            out.push(0);
        }
        if let (true, Some(last)) = (set, out.last_mut()) {
            *last |= 1 << (index % 8);
        }
    }
}

/// Returns bit `index` of a bitmap that [`put_bits`] wrote, or `false` after the bitmap's end.
pub(super) fn bit(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
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
    use proptest::prelude::*;

    fn list() -> ClearList {
        let whole = |id, len| Listed::whole(SubchunkId(id), len);
        let composed = |id, len| Listed { composed: true, ..whole(id, len) };
        ClearList {
            superchunk: SuperchunkId(3),
            subchunks: vec![whole(7, 100), composed(8, 0), whole(9, 1), whole(2, 50), whole(300, 9)],
        }
    }

    /// `body` with the correct checksum.
    fn summed(mut body: Vec<u8>) -> Vec<u8> {
        let crc = sums::crc32(&body);
        body.extend_from_slice(&crc.to_le_bytes());
        body
    }

    #[test]
    fn a_list_comes_back_and_any_flipped_bit_is_noticed() {
        let bytes = list().encode();
        assert_eq!(ClearList::decode(&bytes, 160).unwrap(), list());
        assert!(ClearList::decode(&bytes, 161).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ClearList::decode(&bad, 160).is_err(), "bit {bit}");
        }
    }

    //= format-spec.md#5.1
    //= type=test
    //# A stored length is 0 only if the subchunk is composed; a reader must refuse any other list.
    #[test]
    fn an_empty_stored_part_is_refused_unless_it_is_composed() {
        let mut list = list();
        list.subchunks[1].composed = false;
        let error = ClearList::decode(&list.encode(), 160).unwrap_err();
        assert!(error.to_string().contains("not composed"), "{error}");
    }

    //= format-spec.md#5.1
    //= type=test
    //# A list of more than 4 MiB, or of more than 2^20 subchunks, must be refused.
    #[test]
    fn a_list_of_too_many_subchunks_or_bytes_is_refused_before_anything_is_kept_of_it() {
        // One run that claims 2^20 + 1 subchunks; then many runs with the same number in total.
        let count = limits::SUBCHUNKS + 1;
        let mut one = vec![1, 1, 2];
        put_varint(&mut one, count << 1);
        one.resize(one.len() + count as usize, 1);
        let error = ClearList::decode(&summed(one), count as u32).unwrap_err();
        assert!(error.to_string().contains("subchunks of a superchunk"), "{error}");
        let mut many = vec![1];
        put_varint(&mut many, 2);
        for _ in 0..2 {
            many.push(2);
            put_varint(&mut many, (limits::SUBCHUNKS / 2 + 1) << 1);
            many.resize(many.len() + limits::SUBCHUNKS as usize / 2 + 1, 1);
        }
        let error = ClearList::decode(&summed(many), count as u32 + 1).unwrap_err();
        assert!(error.to_string().contains("subchunks of a superchunk"), "{error}");
        let long = summed(vec![1; limits::CLEAR_LEN as usize]);
        assert!(matches!(ClearList::decode(&long, 0), Err(FormatError::Limit { what: "clear list", .. })));
    }

    proptest! {
        #[test]
        fn any_list_comes_back(runs in prop::collection::vec((1u64..1 << 40, prop::collection::vec((0u32..3000, any::<bool>()), 1..20)), 0..8)) {
            let subchunks: Vec<_> = runs.iter().flat_map(|(first, run)| {
                run.iter().enumerate().map(move |(n, &(len, composed))| {
                    Listed { id: SubchunkId(first + n as u64), len: if composed { len } else { len + 1 }, composed }
                })
            }).collect();
            let total = subchunks.iter().map(|listed| listed.len).sum();
            let list = ClearList { superchunk: SuperchunkId(9), subchunks };
            prop_assert_eq!(ClearList::decode(&list.encode(), total).unwrap(), list);
        }

        #[test]
        fn any_bytes_with_a_right_checksum_give_a_list_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..100), raw_len: u32) {
            let _ = ClearList::decode(&summed(bytes), raw_len);
        }
    }
}
