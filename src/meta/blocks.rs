//! Reads table blocks: finds them in the map, takes them from their group, verifies their hash, and caches them.

use super::block_cache::BlockKey;
use super::superchunk::Buffers;
use super::{Image, MetaError};
use crate::format::block::Block;
use crate::format::frame::FrameKind;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::schema::Table;
use crate::format::sums::Hash24;
use crate::format::{FormatError, limits};
use crate::table::{BlockSource, ChildRef, TableError};
use std::sync::Arc;

impl BlockSource for Image {
    fn block(&self, table: &'static Table, level: u8, child: &ChildRef) -> Result<Arc<Block>, TableError> {
        let key = match child {
            ChildRef::Block { id, hash } => BlockKey::Block(*id, *hash, table.id(), level),
            ChildRef::Frame(place) => BlockKey::Frame(place.offset.0, place.sum, level),
        };
        if let Some(block) = self.shared.blocks.blocks.get(&key) {
            return Ok(block);
        }
        let block = self.load_block(table, level, child).map_err(|error| TableError::Source(Box::new(error)))?;
        let block = Arc::new(block);
        self.shared.blocks.blocks.insert(key, block.clone(), block.memory());
        Ok(block)
    }
}

impl Image {
    fn load_block(&self, table: &'static Table, level: u8, child: &ChildRef) -> Result<Block, MetaError> {
        match child {
            ChildRef::Block { id, hash } => self.with_raw_block(*id, hash, |raw| Block::decode(table, level, raw)),
            ChildRef::Frame(place) => {
                let raw = self.read_plain(place, limits::TABLE_BLOCK)?;
                Ok(Block::decode(table, level, &raw)?)
            }
        }
    }

    /// Finds the raw bytes of the table block with this content hash, and passes them to `use_raw`.
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
            return Err(wrong("it is not in a table group"));
        }
        if located.composed {
            return Err(wrong("it is composed, which no table block may be"));
        }
        let range = located.position as usize..located.position as usize + located.len as usize;
        if let Some(group) = self.shared.blocks.groups.get(&located.superchunk)
            && let Some(raw) = group.get(range.clone())
            && Hash24::of(raw) == *hash
        {
            return Ok(use_raw(raw)?);
        }
        let (mut stored, mut group, mut value) = (Vec::new(), Vec::new(), None);
        let buffers = Buffers { stored: &mut stored, raw: &mut group };
        let reading = self.read_superchunk(&place, buffers, &mut |group, _| {
            let raw = group.get(range.clone()).filter(|raw| Hash24::of(raw) == *hash);
            value = raw.map(&use_raw);
            value.is_some()
        });
        let Some(value) = value else {
            let mismatch = || "content hash mismatch".to_owned();
            return Err(wrong(&reading.faults.first().map_or_else(mismatch, |(_, fault)| fault.to_string())));
        };
        if reading.intact() {
            let weight = group.capacity();
            self.shared.blocks.groups.insert(located.superchunk, Arc::new(group), weight);
        }
        Ok(value?)
    }

    /// Returns the image's compression dictionary (section 6.5), or `None` if the image has none. It is read from
    /// storage once.
    ///
    /// # Errors
    /// Fails if the image names a dictionary that cannot be read.
    pub fn dictionary(&self) -> Result<Option<Arc<Vec<u8>>>, MetaError> {
        if let Some(known) = self.shared.dictionary.get() {
            return Ok(known.clone());
        }
        let id = self.params().dictionary;
        let loaded = if id == 0 {
            None
        } else {
            let row =
                self.superchunk(SuperchunkId(id))?.ok_or(MetaError::Missing { table: "the map (dictionary)", id })?;
            Some(Arc::new(self.read_plain(&row.place, limits::DICTIONARY_LEN)?))
        };
        Ok(self.shared.dictionary.get_or_init(|| loaded).clone())
    }
}
