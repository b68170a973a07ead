//! Table blocks: found by the map, taken out of their group, checked by hash, kept in a bounded cache.

use super::{ByteLru, Image, MetaError};
use crate::format::block::Block;
use crate::format::codec::Decoder;
use crate::format::frame::FrameKind;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::place::Place;
use crate::format::schema::{Table, TableId};
use crate::format::sums::Hash24;
use crate::format::{FormatError, limits};
use crate::table::{BlockSource, ChildRef, TableError};
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    /// Decoding contexts are expensive to make and cheap to keep: one a thread.
    static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new());
}

/// Runs `work` with this thread's decoder.
pub(crate) fn with_decoder<T>(work: impl FnOnce(&mut Decoder) -> T) -> T {
    DECODER.with_borrow_mut(work)
}

/// Neighbouring blocks come out of one group: so many inflated groups are kept besides the blocks (256 KiB each).
const GROUPS: usize = 16;
const SHARDS: usize = 8;

/// What a block was checked against; a hit counts only for the same reference.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum BlockKey {
    Block(SubchunkId, Hash24, TableId, u8),
    Frame(u64, u64, u8),
}

/// Blocks and groups that were read.
pub(super) struct BlockCache {
    blocks: ByteLru<BlockKey, Arc<Block>>,
    groups: ByteLru<SuperchunkId, Arc<Vec<u8>>>,
}

impl BlockCache {
    pub(super) fn new(bytes: usize) -> Self {
        BlockCache {
            blocks: ByteLru::new(bytes, SHARDS),
            groups: ByteLru::new(GROUPS * limits::TABLE_GROUP as usize, 4),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks.bytes() + self.groups.bytes()
    }
}

impl BlockSource for Image {
    fn block(&self, table: &'static Table, level: u8, child: &ChildRef) -> Result<Arc<Block>, TableError> {
        let key = match child {
            ChildRef::Block { id, hash } => BlockKey::Block(*id, *hash, table.id(), level),
            ChildRef::Frame(place) => BlockKey::Frame(place.offset.0, place.sum, level),
        };
        if let Some(block) = self.blocks.blocks.get(&key) {
            return Ok(block);
        }
        let block = self.load_block(table, level, child).map_err(|error| TableError::Source(Box::new(error)))?;
        let block = Arc::new(block);
        self.blocks.blocks.insert(key, block.clone(), block.memory());
        Ok(block)
    }
}

impl Image {
    fn load_block(&self, table: &'static Table, level: u8, child: &ChildRef) -> Result<Block, MetaError> {
        match child {
            ChildRef::Block { id, hash } => self.with_raw_block(*id, hash, |raw| Block::decode(table, level, raw)),
            ChildRef::Frame(place) => {
                let mut stored = Vec::new();
                self.log().stored(place, &mut stored)?;
                let raw = self.decode(place, &stored)?;
                Ok(Block::decode(table, level, &raw)?)
            }
        }
    }

    /// Finds the raw bytes of a block that hash to `hash`, and gives them to `use_raw`.
    fn with_raw_block<T>(
        &self,
        id: SubchunkId,
        hash: &Hash24,
        use_raw: impl Fn(&[u8]) -> Result<T, FormatError>,
    ) -> Result<T, MetaError> {
        let wrong = |why: &str| MetaError::Block { id, why: why.to_owned() };
        let located = self.locate(id)?.ok_or_else(|| wrong("the map does not know it"))?;
        let superchunk =
            self.superchunk(located.superchunk)?.ok_or_else(|| wrong("the map does not know its group"))?;
        let place = superchunk.place;
        if superchunk.kind != FrameKind::TABLE_GROUP || u64::from(place.raw_len) > limits::TABLE_GROUP {
            return Err(wrong("it lies in no table group"));
        }
        if located.composed {
            return Err(wrong("it is composed, which no table block may be"));
        }
        let range = located.position as usize..located.position as usize + located.len as usize;
        if let Some(group) = self.blocks.groups.get(&located.superchunk)
            && let Some(raw) = group.get(range.clone())
            && Hash24::of(raw) == *hash
        {
            return Ok(use_raw(raw)?);
        }
        // A group whose sum is wrong is decoded as far as it goes: its blocks are judged by their own hashes.
        let mut stored = Vec::new();
        let mut why = "its bytes do not have the hash its parent names".to_owned();
        for offset in place.offsets() {
            let intact = match self.log().stored_unverified(&place, offset, &mut stored) {
                Ok(intact) => intact,
                Err(error) => {
                    why = error.to_string();
                    continue;
                }
            };
            let group = if intact { self.decode(&place, &stored)? } else { self.decode_damaged(&place, &stored) };
            if let Some(raw) = group.get(range.clone())
                && Hash24::of(raw) == *hash
            {
                let value = use_raw(raw)?;
                if intact {
                    let weight = group.len();
                    self.blocks.groups.insert(located.superchunk, Arc::new(group), weight);
                }
                return Ok(value);
            }
        }
        Err(wrong(&why))
    }

    /// Decodes verified stored bytes.
    fn decode(&self, place: &Place, stored: &[u8]) -> Result<Vec<u8>, MetaError> {
        let dictionary = if place.flags.dictionary() { self.dictionary()? } else { None };
        let mut raw = Vec::new();
        with_decoder(|decoder| {
            let dictionary = dictionary.as_ref().map(|bytes| bytes.as_slice());
            decoder.decode(place.codec, place.flags, stored, place.raw_len, dictionary, &mut raw)
        })?;
        Ok(raw)
    }

    /// Decodes damaged stored bytes as far as it goes.
    fn decode_damaged(&self, place: &Place, stored: &[u8]) -> Vec<u8> {
        let dictionary = if place.flags.dictionary() { self.dictionary().ok().flatten() } else { None };
        with_decoder(|decoder| {
            let dictionary = dictionary.as_ref().map(|bytes| bytes.as_slice());
            decoder.decode_damaged(place.codec, place.flags, stored, place.raw_len, dictionary)
        })
    }

    /// The image's dictionary (section 6.5), read once.
    ///
    /// # Errors
    /// If it is named but cannot be read.
    pub fn dictionary(&self) -> Result<Option<Arc<Vec<u8>>>, MetaError> {
        if let Some(known) = self.dictionary.get() {
            return Ok(known.clone());
        }
        let id = self.params().dictionary;
        let loaded = if id == 0 {
            None
        } else {
            let row =
                self.superchunk(SuperchunkId(id))?.ok_or(MetaError::Missing { table: "the map (dictionary)", id })?;
            if u64::from(row.place.raw_len) > limits::DICTIONARY_LEN || row.place.flags.dictionary() {
                return Err(FormatError::invalid("dictionary", "it is too long, or needs a dictionary itself").into());
            }
            let mut stored = Vec::new();
            self.log().stored(&row.place, &mut stored)?;
            let mut raw = Vec::new();
            with_decoder(|d| d.decode(row.place.codec, row.place.flags, &stored, row.place.raw_len, None, &mut raw))?;
            Some(Arc::new(raw))
        };
        Ok(self.dictionary.get_or_init(|| loaded).clone())
    }
}
