//! The bounded cache of an image for table blocks and for their inflated groups.

use super::ByteLru;
use crate::format::block::Block;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::limits;
use crate::format::schema::TableId;
use crate::format::sums::Hash24;
use std::sync::Arc;

/// Number of inflated table groups (at most 256 KiB each) that are kept besides the blocks. Blocks that are read one
/// after another are often in the same group.
const GROUPS: usize = 16;
const SHARDS: usize = 8;

/// Key of a cached block: the reference that the block was verified against. Only the same reference is a cache hit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum BlockKey {
    Block(SubchunkId, Hash24, TableId, u8),
    Frame(u64, u64, u8),
}

/// Cache of verified table blocks, and of the last inflated table groups.
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
