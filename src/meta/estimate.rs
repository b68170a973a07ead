//! How many bytes a checkpoint may take: what the reserve is made of.
//!
//! Invariant: no checkpoint takes more, for rows as floe makes them. The bound takes nothing for compression, as names and
//! tiny contents may be incompressible, and reads no leaf: it must be cheap, and it must not fail. Called by who keeps the
//! reserve.

use super::Image;
use super::overlay::Overlay;
use super::shape::Shape;
use crate::format::frame::FRAME_HEADER;
use crate::format::head::incompat;
use crate::format::limits;
use crate::format::schema::{self, TABLES, Table};

/// A row is as long in a block as in an overlay, where it stands alone; the columns that are coded as differences may make it
/// longer, and the row after it, too.
const ROW_GROWTH: u64 = 2;
/// Row of a parent for a block: key, id and hash, or place; with the longest name.
const PARENT_ROW: u64 = 128 + limits::NAME_LEN as u64;
/// Rows of the map for a table block that lies alone in its group: that of the group, and that of the block.
const MAP_ROWS: u64 = 2 * 144;
/// A block's part of its group: header, entry of the clear list and the list's own head.
const GROUP_SHARE: u64 = FRAME_HEADER as u64 + 32;
/// A root's frame, and the pad after its copy.
const ROOT: u64 = FRAME_HEADER as u64 + 1024;
const PAD: u64 = limits::SYNC_BLOCK + FRAME_HEADER as u64;
/// Blocks that one changed leaf becomes, with a neighbour that it joins, besides those for new rows.
const SPLIT: u64 = 3;

/// What a change writes of one tree.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    /// Raw bytes of leaves.
    leaves: u64,
    /// Raw bytes of interior blocks.
    interior: u64,
    /// Blocks.
    blocks: u64,
}

/// What it costs to write `changed` leaves of a tree anew. A leaf has at most twice the target; one that has shrunk below a quarter joins a neighbour.
fn rewriting(shape: Shape, changed: u64, target: u64) -> Cost {
    let block = target.saturating_mul(2).saturating_add(target / 4);
    let changed = changed.min(shape.leaves);
    let root = shape.root_bytes.min(block);
    let (leaves, interior, above) = match shape.levels {
        0 => (0, 0, 0),
        1 => (root, 0, 0),
        levels => {
            let between = changed.min(shape.children).saturating_mul(u64::from(levels) - 2);
            (changed.saturating_mul(block), root.saturating_add(between.saturating_mul(block)), 1 + between)
        }
    };
    let blocks = 1 + changed.saturating_mul(SPLIT).saturating_add(above.saturating_mul(SPLIT));
    Cost { leaves, interior, blocks }
}

/// Bytes that a checkpoint of these changes takes at most.
pub fn estimate(changes: &Overlay, version: &Image) -> u64 {
    let target = u64::from(version.params().table_block).clamp(1024, limits::TABLE_BLOCK / 2);
    // Blocks of new rows alone have at least a quarter of the target.
    let blocks_of = |raw: u64| raw / (target / 4);
    let rows = (changes.encoded_bytes() as u64).saturating_mul(ROW_GROWTH);
    let mut sum = Cost { leaves: rows, interior: 0, blocks: blocks_of(rows) };
    let of_table = |table: &&'static Table| table.id() != schema::MAP.id() && !changes.says_nothing_of(table);
    for table in TABLES.into_iter().filter(of_table) {
        let cost = rewriting(version.shape(table), changes.entries_of(table) as u64, target);
        sum.leaves = sum.leaves.saturating_add(cost.leaves);
        sum.interior = sum.interior.saturating_add(cost.interior);
        sum.blocks = sum.blocks.saturating_add(cost.blocks);
    }
    // Each level above has at most half the blocks of the one below.
    sum.interior = sum.interior.saturating_add(sum.blocks.saturating_mul(2 * PARENT_ROW));

    // New groups and blocks have the highest ids: their rows are at the end of two spaces of the map.
    let map_rows = sum.blocks.saturating_mul(2 * MAP_ROWS);
    let map =
        rewriting(version.shape(&schema::MAP), (changes.entries_of(&schema::MAP) as u64).saturating_add(2), target);
    let map_blocks = map.blocks.saturating_add(blocks_of(map_rows));
    let map_interior = map.interior.saturating_add(map_blocks.saturating_mul(2 * PARENT_ROW));

    // Leaves with recipes may be written twice.
    let map_leaves = if version.head().incompat & incompat::RECIPES == 0 { 1 } else { 2 };
    let frames = sum.blocks.saturating_add(map_blocks).saturating_mul(4 * GROUP_SHARE);
    [
        sum.leaves,
        sum.interior.saturating_mul(2),
        map.leaves.saturating_add(map_rows).saturating_mul(map_leaves),
        map_interior.saturating_mul(2),
        frames,
        2 * ROOT + PAD,
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}
