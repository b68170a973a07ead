//! Live and dead bytes of an image: what marking says, against what the frames of its log take.
//!
//! Every byte of a superchunk, table group, map block or root counts as live, dead or punched. Callers: cli (info).

use super::mark::{MarkError, mark};
use super::tally::tally;
use super::{Image, MetaError, Usage, View};
use crate::format::frame::FrameKind;
use crate::format::schema;
use crate::table::{ChildRef, Onward, Visit};
use std::sync::Arc;

/// Bytes of an image, by whether anything needs them: its head and its snapshots. Whole frames, with their clear lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Superchunks of data. A wholly live one counts with all its bytes, a partly live one with the share that its live raw
    /// bytes have.
    pub live_data: u64,
    /// Table groups, counted the same way, blocks of the map, and the head's root.
    pub live_tables: u64,
    /// Superchunks of data that are not needed, or not all of them.
    pub dead_data: u64,
    /// Table groups, blocks of the map and roots that are not needed, or not all of them.
    pub dead_tables: u64,
    /// Of both dead ones: frames that nothing is live of.
    pub wholly_dead: u64,
    /// Subchunks that something names, and that the map does not know: the image is damaged.
    pub unknown: u64,
}

/// What is live of the image that `usage` is of. It reads the tables of inodes and contents, the map, and the interior blocks
/// of the others.
///
/// # Errors
/// If a table cannot be read.
pub fn space(image: &Arc<Image>, usage: &Usage) -> Result<Space, MarkError> {
    let view = View::of(Arc::clone(image));
    let never = || false;
    let marked = mark(std::slice::from_ref(&view), &never)?;
    let census = tally(&view, marked, &never)?;
    let root = &image.head().root;
    let roots = root.frame_len().saturating_mul(1 + u64::from(root.copy.is_some()));
    let map = map_bytes(image)?;
    let groups = census.live_bytes(FrameKind::TABLE_GROUP);
    let live_data = census.live_bytes(FrameKind::SUPERCHUNK);
    let live_tables = groups.saturating_add(map).saturating_add(roots);
    let data = usage.data.saturating_add(usage.clear_lists);
    let tables = usage.tables.saturating_add(usage.identities).saturating_add(usage.roots);
    // Of frames that are partly live, what is dead is no frame.
    let partly = census.superchunks.iter().filter(|tally| !tally.is_dead());
    let partly = partly.fold(0u64, |sum, tally| sum.saturating_add(tally.bytes() - tally.live_bytes()));
    let (dead_data, dead_tables) = (data.saturating_sub(live_data), tables.saturating_sub(live_tables));
    let wholly_dead = dead_data.saturating_add(dead_tables).saturating_sub(partly);
    Ok(Space { live_data, live_tables, dead_data, dead_tables, wholly_dead, unknown: census.unknown })
}

/// Bytes of the map's blocks, copies included.
fn map_bytes(image: &Image) -> Result<u64, MarkError> {
    let mut bytes = 0u64;
    let mut done = Ok(());
    let mut wanted = |level, child: &ChildRef| {
        if let ChildRef::Frame(place) = child {
            bytes = bytes.saturating_add(place.frame_len().saturating_mul(1 + u64::from(place.copy.is_some())));
        }
        level > 0
    };
    image.tree(&schema::MAP).walk_where(image, &mut wanted, &mut |visit: &Visit<'_>| match visit.block {
        Ok(_) => Onward::Into,
        Err(error) => {
            done = Err(MetaError::Unreadable { table: schema::MAP.name, why: error.to_string() }.into());
            Onward::Stop
        }
    });
    done.map(|()| bytes)
}
