//! Builds superchunks: collects subchunks until no more fit, compresses them, and makes frames.
//!
//! Invariant: a superchunk that is not full has the `short` bit (format-spec section 5). `pack` and the freezer share
//! this file, so both fill alike. The caller assigns the ids: `pack` while it fills, the freezer when it appends.

use crate::format::FormatError;
use crate::format::block::{KeyRef, Row};
use crate::format::clear::{ClearList, Listed};
use crate::format::codec::{Compression, Encoded, Encoder};
use crate::format::frame::FrameKind;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::limits;
use crate::format::params::{HashKind, Params};
use crate::format::rows::{Identity, identity};
use crate::log::NewFrame;
use crossbeam_channel::{Receiver, Sender};
use std::sync::Arc;

/// Raw bytes of a superchunk, and the channel for the result, which usually is its stored bytes.
pub type CompressJob<E = Encoded> = (Arc<Vec<u8>>, Sender<Result<E, FormatError>>);

/// A superchunk that takes no more subchunks.
#[derive(Debug)]
pub struct Superchunk {
    /// Raw bytes of its subchunks, one after another.
    pub raw: Vec<u8>,
    /// The length of each subchunk in bytes.
    pub lens: Vec<u32>,
    /// Whether the superchunk is not full.
    pub short: bool,
}

impl Superchunk {
    /// Makes the clear list of a superchunk whose subchunks have ids from `first` on.
    pub fn clear_list(lens: &[u32], first: SubchunkId, superchunk: SuperchunkId) -> ClearList {
        let subchunks = (first.0..).zip(lens).map(|(id, &len)| Listed::whole(SubchunkId(id), len)).collect();
        ClearList { superchunk, subchunks }
    }
}

/// The superchunk that is being filled.
#[derive(Debug)]
pub struct Filling {
    params: Params,
    raw: Vec<u8>,
    lens: Vec<u32>,
}

impl Filling {
    /// Makes an empty superchunk.
    pub fn new(params: Params) -> Self {
        Filling { params, raw: Vec::new(), lens: Vec::new() }
    }

    /// Returns the bytes of the subchunks in the superchunk.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Returns the length in bytes of each subchunk in the superchunk.
    pub fn lens(&self) -> &[u32] {
        &self.lens
    }

    /// Makes room for a subchunk of `len` bytes. If the current superchunk has no room for it, that superchunk is
    /// returned and must be finished first.
    pub fn make_room(&mut self, len: usize) -> Option<Superchunk> {
        let has_room = self.raw.len().saturating_add(len) <= self.params.superchunk_size as usize;
        if has_room && (self.lens.len() as u64) < limits::SUBCHUNKS {
            return None;
        }
        self.take()
    }

    /// Adds a subchunk. Call [`Filling::make_room`] first.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.raw.capacity() == 0 {
            self.raw.reserve_exact(self.params.superchunk_size as usize);
        }
        self.lens.push(bytes.len() as u32);
        self.raw.extend_from_slice(bytes);
    }

    /// Takes the current content as a superchunk, however full; `None` if it is empty. Filling then starts anew.
    pub fn take(&mut self) -> Option<Superchunk> {
        if self.lens.is_empty() {
            return None;
        }
        let (raw, lens) = (std::mem::take(&mut self.raw), std::mem::take(&mut self.lens));
        //= format-spec.md#5
        //# Every superchunk without the bit must be full.
        let short = !self.params.is_full(raw.len() as u32);
        Some(Superchunk { raw, lens, short })
    }
}

/// Returns the bytes of memory that one compressor thread needs for superchunks of this size: the codec's context, the
/// raw and stored bytes of the superchunk that it compresses, and the superchunks that wait before and after it.
pub fn compressor_memory(compression: Compression, superchunk_size: u32) -> u64 {
    let size = superchunk_size as usize;
    (Encoder::memory(compression, size) + 5 * size) as u64
}

/// Compresses superchunks until there are no more. The result depends only on the superchunk's bytes and the options.
pub fn compress(queue: &Receiver<CompressJob>, compression: Compression, part_size: Option<u32>) {
    let mut encoder = Encoder::new(compression, part_size);
    while let Ok((raw, done)) = queue.recv() {
        // A receiver that hung up has failed and reports its own error.
        let _ = done.send(encoder.encode(&raw));
    }
}

/// Makes the frame of a superchunk of `raw_len` raw bytes; `clear` is its clear list.
pub fn frame<'a>(encoded: &'a Encoded, clear: &'a [u8], raw_len: u32, short: bool) -> NewFrame<'a> {
    NewFrame {
        kind: FrameKind::SUPERCHUNK,
        codec: encoded.codec,
        flags: encoded.flags.with_short(short),
        clear,
        stored: &encoded.stored,
        raw_len,
        sum: encoded.sum,
    }
}

/// Makes the rows of the identities table. The ids must be consecutive.
pub fn identity_rows(
    kind: HashKind,
    mut identities: impl Iterator<Item = (SubchunkId, Identity)>,
) -> impl Iterator<Item = Row> {
    std::iter::from_fn(move || {
        let (first, identity) = identities.next()?;
        let mut run: Vec<Identity> = vec![identity];
        run.extend(identities.by_ref().take(limits::IDENTITY_RUN as usize - 1).map(|(_, identity)| identity));
        Some(Row {
            key: KeyRef::new(first.0, 0).to_key(),
            ints: vec![run.len() as u64],
            tail: identity::encode_run(kind, &run),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::params::Chunker;

    fn filling() -> Filling {
        let chunker = Chunker::FastCdc { min: 64, avg: 256, max: 1024 };
        Filling::new(Params { superchunk_size: 4096, chunker, ..Params::default() })
    }

    //= format-spec.md#5
    //= type=test
    //# Every superchunk without the bit must be full.
    #[test]
    fn a_superchunk_is_short_unless_the_longest_subchunk_had_no_room_in_it() {
        let mut filling = filling();
        for len in [1024, 1024, 1024] {
            assert!(filling.make_room(len).is_none());
            filling.push(&vec![1; len]);
        }
        // 1024 bytes more would fit, so this one ends early.
        let short = filling.take().unwrap();
        assert_eq!((short.raw.len(), &short.lens[..], short.short), (3072, &[1024, 1024, 1024][..], true));
        for len in [1024, 1024, 1024, 1] {
            assert!(filling.make_room(len).is_none());
            filling.push(&vec![1; len]);
        }
        let full = filling.make_room(1024).unwrap();
        assert_eq!((full.raw.len(), full.short), (3073, false));
        assert!(filling.take().is_none());
    }

    #[test]
    fn a_superchunk_is_filled_to_its_last_byte_and_takes_no_more_subchunks_than_a_list_may_have() {
        let mut filling = filling();
        for _ in 0..4 {
            assert!(filling.make_room(1024).is_none());
            filling.push(&[1; 1024]);
        }
        assert_eq!(filling.make_room(1).unwrap().raw.len(), 4096);
        let mut many = Filling::new(Params::default());
        for _ in 0..limits::SUBCHUNKS {
            assert!(many.make_room(1).is_none());
            many.push(&[1]);
        }
        let many = many.make_room(1).unwrap();
        assert_eq!((many.lens.len() as u64, many.short), (limits::SUBCHUNKS, true));
    }

    #[test]
    fn identities_stand_in_rows_of_as_many_as_one_may_have() {
        let identities = (0..150u8).map(|n| (SubchunkId(1000 + u64::from(n)), Identity([n; 24])));
        let rows: Vec<_> = identity_rows(HashKind::Xxh3, identities).collect();
        let shape: Vec<_> = rows.iter().map(|row| (row.key.a, row.ints[0], row.tail.len())).collect();
        assert_eq!(shape, [(1000, 64, 1024), (1064, 64, 1024), (1128, 22, 352)]);
    }
}
