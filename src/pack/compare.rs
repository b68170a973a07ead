//! Compares bytes before two subchunks are taken for equal, for hashes that prove nothing (XXH3-128).

use super::PackOptions;
use super::matching::Sources;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::params::HashKind;

/// Compares the bytes of subchunks with equal identities. Does nothing and keeps nothing if identities prove equality.
pub(super) struct Compare {
    needed: bool,
    /// Superchunk and range of each subchunk, by id - 1.
    ranges: Vec<(SuperchunkId, u32, u32)>,
}

impl Compare {
    pub(super) fn new(options: &PackOptions) -> Self {
        Compare { needed: options.params.hash == HashKind::Xxh3, ranges: Vec::new() }
    }

    /// Makes a comparer for callers that take equal identities for equal bytes, whatever the hash proves.
    pub(super) fn none() -> Self {
        Compare { needed: false, ranges: Vec::new() }
    }

    /// Returns whether bytes must be compared.
    pub(super) fn needed(&self) -> bool {
        self.needed
    }

    /// Records where the next subchunk is: its superchunk, position and length in bytes.
    pub(super) fn add(&mut self, superchunk: SuperchunkId, position: u32, len: u32) {
        if self.needed {
            self.ranges.push((superchunk, position, len));
        }
    }

    /// Returns whether subchunk `id` has these bytes. `open` is the superchunk that is being filled, and its raw bytes.
    pub(super) fn equal<S: Sources>(
        &self,
        id: SubchunkId,
        bytes: &[u8],
        open: (SuperchunkId, &[u8]),
        stored: &mut S,
    ) -> Result<bool, S::Error> {
        let Some(&(superchunk, position, len)) = self.ranges.get(id.0 as usize - 1) else {
            return Ok(false);
        };
        let range = position as usize..position as usize + len as usize;
        if superchunk == open.0 {
            return Ok(open.1.get(range) == Some(bytes));
        }
        Ok(stored.source(superchunk)?.is_some_and(|source| source.raw.get(range) == Some(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::FormatError;
    use crate::format::clear::{ClearList, Listed};
    use crate::format::params::Params;
    use crate::pack::matching::Source;
    use std::sync::Arc;

    /// Superchunks of two subchunks of 100 bytes.
    struct Filled;

    impl Sources for Filled {
        type Error = FormatError;

        fn source(&mut self, id: SuperchunkId) -> Result<Option<Source>, FormatError> {
            let listed = |n| Listed::whole(SubchunkId(id.0 * 2 - n), 100);
            let raw = [[id.0 as u8; 100], [id.0 as u8 + 100; 100]].concat();
            let list = ClearList { superchunk: id, subchunks: vec![listed(1), listed(0)] };
            Ok(Some(Source::new(&list, Arc::new(raw))))
        }
    }

    #[test]
    fn bytes_are_compared_in_the_open_superchunk_and_in_earlier_ones() {
        let params = Params { hash: HashKind::Xxh3, ..Params::default() };
        let mut compare = Compare::new(&PackOptions { params, ..PackOptions::default() });
        assert!(compare.needed() && !Compare::new(&PackOptions::default()).needed() && !Compare::none().needed());
        for superchunk in 1..=3 {
            compare.add(SuperchunkId(superchunk), 0, 100);
            compare.add(SuperchunkId(superchunk), 100, 100);
        }
        let open = [[3; 100], [103; 100]].concat();
        let has =
            |id, byte: u8| compare.equal(SubchunkId(id), &[byte; 100], (SuperchunkId(3), &open), &mut Filled).unwrap();
        assert!(has(1, 1) && has(2, 101) && has(3, 2) && has(5, 3) && has(6, 103));
        assert!(!has(1, 101) && !has(2, 1) && !has(5, 103) && !has(6, 3) && !has(7, 4));
    }
}
