//! Estimates how many bytes a checkpoint takes at most, for the space reserve.
//!
//! Invariant: no checkpoint takes more, for rows that floe makes. The bound assumes no compression, because names and
//! tiny contents may be incompressible. It reads no leaf: it must be cheap, and must not fail. Called by fs, which
//! keeps the reserve.

use super::Image;
use super::overlay::Overlay;
use super::shape::Shape;
use crate::format::block::KeyRef;
use crate::format::frame::FRAME_HEADER;
use crate::format::head::incompat;
use crate::format::limits;
use crate::format::rows::map::{SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::schema::{self, TABLES, Table};

/// Factor, as a fraction, from the bytes of a row in an overlay to its bytes in a table block. Most rows are shorter in
/// a block, but columns that are coded as differences may make a row and the row after it longer.
const ROW_GROWTH: [u64; 2] = [5, 4];
/// Upper bound of the bytes of a parent's row for a block: the key with the longest name, the id, and the hash or
/// place.
const PARENT_ROW: u64 = 128 + limits::NAME_LEN as u64;
/// Upper bound of the bytes of the map's rows for a table block that is alone in its group: one row for the group, one
/// for the block.
const MAP_ROWS: u64 = 2 * 144;
/// Bytes of a group's frame that count for one block: the frame header, an entry in the clear list, and the head of the
/// list.
const GROUP_SHARE: u64 = FRAME_HEADER as u64 + 32;
/// Upper bound of the bytes of a root's frame. A pad follows the copy of a root.
const ROOT: u64 = FRAME_HEADER as u64 + 1024;
const PAD: u64 = limits::SYNC_BLOCK + FRAME_HEADER as u64;
/// Largest number of blocks that replace one changed leaf and the neighbour with which it is joined, not counting
/// blocks for new rows.
const SPLIT: u64 = 3;

/// What a batch of changes to one tree writes.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    /// Raw bytes of leaves that are written.
    leaves: u64,
    /// Raw bytes of interior blocks that are written.
    interior: u64,
    /// Number of blocks that are written.
    blocks: u64,
}

/// Returns the cost of rewriting the blocks of a tree that `changed` changes touch. A leaf has at most twice the target
/// size; a leaf below a quarter of the target size joins a neighbour.
fn rewriting(shape: &Shape, changed: u64, target: u64, has_change: HasChange<'_>) -> Cost {
    let block = target.saturating_mul(2).saturating_add(target / 4);
    let (children, touched) = shape.touched(changed, has_change);
    let root = shape.root_bytes.min(block);
    let between = children.saturating_mul(u64::from(shape.levels.saturating_sub(2)));
    let (leaves, interior, above) = match shape.levels {
        0 => (0, 0, 0),
        1 => (root, 0, 0),
        _ => (touched.saturating_mul(block), root.saturating_add(between.saturating_mul(block)), 1 + between),
    };
    Cost { leaves, interior, blocks: 1 + touched.saturating_add(above).saturating_mul(SPLIT) }
}

/// Tells whether a batch has a change whose key is at least the first key and below the second one. `None` as second
/// key means the end of the table.
type HasChange<'a> = &'a dyn Fn(KeyRef<'_>, Option<KeyRef<'_>>) -> bool;

/// Returns an upper bound of the bytes that a checkpoint of these changes appends to the image. Reads the root blocks
/// of the version's trees, once per version, and looks for changes below each of their children.
pub fn estimate(changes: &Overlay, version: &Image) -> u64 {
    let target = u64::from(version.params().table_block).clamp(1024, limits::TABLE_BLOCK / 2);
    // Blocks that hold only new rows have at least a quarter of the target.
    let blocks_of = |raw: u64| raw / (target / 4);
    let [times, by] = ROW_GROWTH;
    let rows = (changes.encoded_bytes() as u64).saturating_mul(times) / by;
    let mut sum = Cost { leaves: rows, interior: 0, blocks: blocks_of(rows) };
    let has_change = |table, from: KeyRef<'_>, to: Option<KeyRef<'_>>| {
        let first = changes.entries_from(table, from).next();
        first.is_some_and(|entry| to.is_none_or(|to| entry.key() < to))
    };
    let of_table = |table: &&'static Table| table.id() != schema::MAP.id() && !changes.says_nothing_of(table);
    for table in TABLES.into_iter().filter(of_table) {
        let changed = changes.entries_of(table) as u64;
        let cost = rewriting(version.shape(table), changed, target, &|from, to| has_change(table, from, to));
        sum.leaves = sum.leaves.saturating_add(cost.leaves);
        sum.interior = sum.interior.saturating_add(cost.interior);
        sum.blocks = sum.blocks.saturating_add(cost.blocks);
    }
    // Each level has at most half as many blocks as the level below.
    sum.interior = sum.interior.saturating_add(sum.blocks.saturating_mul(2 * PARENT_ROW));

    // New groups and blocks have the highest ids, so their rows are at the ends of two spaces of the map.
    let ends = [(SPACE_SUPERCHUNKS, u64::MAX), (SPACE_SUBCHUNKS, u64::MAX)].map(|(a, b)| KeyRef::new(a, b));
    let in_map = |from: KeyRef<'_>, to: Option<KeyRef<'_>>| {
        ends.iter().any(|&end| from <= end && to.is_none_or(|to| end < to)) || has_change(&schema::MAP, from, to)
    };
    let map_rows = sum.blocks.saturating_mul(2 * MAP_ROWS);
    let changed = (changes.entries_of(&schema::MAP) as u64).saturating_add(2);
    let map = rewriting(version.shape(&schema::MAP), changed, target, &in_map);
    let map_blocks = map.blocks.saturating_add(blocks_of(map_rows));
    let map_interior = map.interior.saturating_add(map_blocks.saturating_mul(2 * PARENT_ROW));

    // Leaves with recipes may be written twice. The version's head may be from before the first recipe.
    let has_recipes = version.head().incompat & incompat::RECIPES != 0 || version.params().min_match > 0;
    let map_leaves = if has_recipes { 2 } else { 1 };
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
