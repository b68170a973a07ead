//! Builds superchunks: collects subchunks until no more fit, compresses them, and makes frames.
//!
//! Invariant: a superchunk that is not full has the `short` bit (format-spec section 5). `pack` and the freezer share
//! this file, so both fill alike. The caller assigns the ids: `pack` while it fills, the freezer when it appends.

use crate::format::FormatError;
use crate::format::block::{KeyRef, Row};
use crate::format::clear::Listed;
use crate::format::codec::{Compression, Encoded, Encoder};
use crate::format::frame::FrameKind;
use crate::format::ids::SubchunkId;
use crate::format::limits;
use crate::format::params::{HashKind, Params};
use crate::format::recipe::Recipe;
use crate::format::rows::{Identity, identity};
use crate::log::NewFrame;
use crossbeam_channel::{Receiver, Sender};
use std::sync::Arc;

/// A superchunk to be compressed. `E` is the result, which usually is its stored bytes.
#[derive(Debug)]
pub struct CompressJob<E = Encoded> {
    /// Raw bytes of the superchunk.
    pub raw: Arc<Vec<u8>>,
    /// Whether it is compressed in parts, if the image has parts at all.
    pub in_parts: bool,
    /// Where the result goes.
    pub done: Sender<Result<E, FormatError>>,
}

impl CompressJob {
    /// Compresses the superchunk and sends the result. A receiver that hung up does not need it.
    pub fn run(self, encoder: &mut Encoder) {
        let CompressJob { raw, in_parts, done } = self;
        let _ = done.send(if in_parts { encoder.encode(&raw) } else { encoder.encode_whole(&raw) });
    }
}

/// Number of a large file among those that are packed together.
pub type Large = u64;

/// A file of at least so many superchunks is large: superchunks that it fills alone are in parts, because such files
/// are read at random; small files are read as a whole.
const LARGE: u64 = 4;

/// Returns whether a file of `len` bytes is large.
pub fn is_large(params: &Params, len: u64) -> bool {
    params.part_size.is_some() && len >= LARGE * u64::from(params.superchunk_size)
}

/// A superchunk that takes no more subchunks.
#[derive(Debug)]
pub struct Superchunk {
    /// Raw bytes: the stored parts of its subchunks, one after another.
    pub raw: Vec<u8>,
    /// Its subchunks, in this order.
    pub subchunks: Vec<Listed>,
    /// Recipes of those that are composed.
    pub recipes: Vec<(SubchunkId, Recipe)>,
    /// Bytes of its subchunks, as files have them.
    pub subchunk_bytes: u64,
    /// Whether the superchunk is not full.
    pub short: bool,
    /// Whether all of it is of one large file, so that it is compressed in parts.
    pub in_parts: bool,
}

/// The superchunk that is being filled.
#[derive(Debug)]
pub struct Filling {
    params: Params,
    raw: Vec<u8>,
    subchunks: Vec<Listed>,
    recipes: Vec<(SubchunkId, Recipe)>,
    subchunk_bytes: u64,
    /// The large file that all subchunks are of.
    large: Option<Large>,
}

impl Filling {
    /// Makes an empty superchunk.
    pub fn new(params: Params) -> Self {
        Filling { params, raw: Vec::new(), subchunks: Vec::new(), recipes: Vec::new(), subchunk_bytes: 0, large: None }
    }

    /// Returns the stored parts of the subchunks in the superchunk, one after another.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Returns the subchunks in the superchunk.
    pub fn subchunks(&self) -> &[Listed] {
        &self.subchunks
    }

    /// Returns the number of bytes for which the superchunk has room.
    pub fn room(&self) -> u64 {
        (self.params.superchunk_size as usize).saturating_sub(self.raw.len()) as u64
    }

    /// Makes room for a subchunk of `len` bytes. If the current superchunk has no room for it, that superchunk is
    /// returned and must be finished first.
    pub fn make_room(&mut self, len: usize) -> Option<Superchunk> {
        let has_room = len as u64 <= self.room()
            && (self.subchunks.len() as u64) < limits::SUBCHUNKS
            && self.subchunk_bytes + len as u64 <= limits::COMPOSED_BYTES;
        if has_room { None } else { self.take() }
    }

    /// Adds a subchunk that is stored as it is, and the large file that it is of, if any. Call [`Filling::make_room`]
    /// first.
    pub fn push(&mut self, id: SubchunkId, bytes: &[u8], large: Option<Large>) {
        self.store(bytes);
        self.close(id, bytes.len() as u32, bytes.len() as u32, None, large);
    }

    /// Adds bytes to the stored part of a subchunk, which [`Filling::close`] ends. Call [`Filling::make_room`] first.
    pub fn store(&mut self, bytes: &[u8]) {
        if self.raw.capacity() == 0 {
            self.raw.reserve_exact(self.params.superchunk_size as usize);
        }
        self.raw.extend_from_slice(bytes);
    }

    /// Ends a subchunk of `len` bytes, which may be of a large file. Its stored part is the last `stored` bytes; without
    /// recipe these are all of it.
    pub fn close(
        &mut self,
        id: SubchunkId,
        stored: u32,
        len: u32,
        recipe: Option<Recipe>,
        large: Option<Large>,
    ) -> Listed {
        debug_assert!(recipe.is_some() || stored == len);
        if self.subchunks.is_empty() {
            self.large = large;
        } else if self.large != large {
            self.large = None;
        }
        let listed = Listed { id, len: stored, composed: recipe.is_some() };
        self.subchunks.push(listed);
        self.subchunk_bytes += u64::from(len);
        self.recipes.extend(recipe.map(|recipe| (id, recipe)));
        listed
    }

    /// Takes the current content as a superchunk, however full; `None` if it is empty. Filling then starts anew.
    pub fn take(&mut self) -> Option<Superchunk> {
        if self.subchunks.is_empty() {
            return None;
        }
        let Filling { raw, subchunks, recipes, subchunk_bytes, large, .. } =
            std::mem::replace(self, Filling::new(self.params));
        //= format-spec.md#5
        //# Every superchunk without the bit must be full.
        let short = !self.params.is_full(raw.len() as u32);
        Some(Superchunk { raw, subchunks, recipes, subchunk_bytes, short, in_parts: large.is_some() })
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
    while let Ok(job) = queue.recv() {
        job.run(&mut encoder);
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
            filling.push(SubchunkId(1), &vec![1; len], None);
        }
        // 1024 bytes more would fit, so this one ends early.
        let short = filling.take().unwrap();
        assert_eq!((short.raw.len(), short.subchunks.len(), short.short), (3072, 3, true));
        for len in [1024, 1024, 1024, 1] {
            assert!(filling.make_room(len).is_none());
            filling.push(SubchunkId(1), &vec![1; len], None);
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
            filling.push(SubchunkId(1), &[1; 1024], None);
        }
        assert_eq!(filling.make_room(1).unwrap().raw.len(), 4096);
        let mut many = Filling::new(Params::default());
        for _ in 0..limits::SUBCHUNKS {
            assert!(many.make_room(1).is_none());
            many.push(SubchunkId(1), &[1], None);
        }
        let many = many.make_room(1).unwrap();
        assert_eq!((many.subchunks.len() as u64, many.short), (limits::SUBCHUNKS, true));
    }

    #[test]
    fn identities_stand_in_rows_of_as_many_as_one_may_have() {
        let identities = (0..150u8).map(|n| (SubchunkId(1000 + u64::from(n)), Identity([n; 24])));
        let rows: Vec<_> = identity_rows(HashKind::Xxh3, identities).collect();
        let shape: Vec<_> = rows.iter().map(|row| (row.key.a, row.ints[0], row.tail.len())).collect();
        assert_eq!(shape, [(1000, 64, 1024), (1064, 64, 1024), (1128, 22, 352)]);
    }
}
