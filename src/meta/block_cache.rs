//! The bounded memory of an image for table blocks and for the groups they come out of.

use super::ByteLru;
use crate::format::block::Block;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::limits;
use crate::format::schema::TableId;
use crate::format::sums::Hash24;
use std::sync::Arc;

/// Neighbouring blocks come out of one group: so many inflated groups are kept besides the blocks (256 KiB each).
const GROUPS: usize = 16;
const SHARDS: usize = 8;

/// What a block was checked against; a hit counts only for the same reference.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum BlockKey {
    Block(SubchunkId, Hash24, TableId, u8),
    Frame(u64, u64, u8),
}

/// Blocks and groups that were read.
pub(super) struct BlockCache {
    pub(super) blocks: ByteLru<BlockKey, Arc<Block>>,
    pub(super) groups: ByteLru<SuperchunkId, Arc<Vec<u8>>>,
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
