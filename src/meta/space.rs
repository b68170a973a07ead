//! Counts live and dead bytes of an image: compares what is marked with the frames of its log.
//!
//! Every byte of a superchunk, table group, map block or root counts as live, dead or punched. Called by cli (info).

use super::mark::{MarkError, mark};
use super::tally::tally;
use super::{Image, MetaError, Usage, View};
use crate::format::frame::FrameKind;
use crate::format::schema;
use crate::table::{ChildRef, Onward, Visit};
use std::sync::Arc;

/// Live and dead bytes of an image, counted in whole frames with their clear lists. Bytes are live if the head or a
/// snapshot needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Live bytes of superchunks of file data. A partly live superchunk counts in proportion to its live raw bytes.
    pub live_data: u64,
    /// Live bytes of table groups, of the map's blocks, and of the head's root. A partly live table group counts in
    /// proportion to its live raw bytes.
    pub live_tables: u64,
    /// Dead bytes of superchunks of file data, with the dead share of partly live ones.
    pub dead_data: u64,
    /// Dead bytes of table groups, map blocks and roots, with the dead share of partly live groups.
    pub dead_tables: u64,
    /// Part of `dead_data` and `dead_tables` in bytes: frames in which nothing is live.
    pub wholly_dead: u64,
    /// Number of subchunks that a file or table names but the map does not have: the image is damaged if it is not 0.
    pub unknown: u64,
}

/// Counts the live bytes of an image; `usage` is of the same image. Reads the tables of inodes and contents, the map,
/// and the interior blocks of the other tables.
///
/// # Errors
/// Fails if a table cannot be read.
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
    // The dead share of partly live frames does not count as wholly dead.
    let partly = census.superchunks.iter().filter(|tally| !tally.is_dead());
    let partly = partly.fold(0u64, |sum, tally| sum.saturating_add(tally.bytes() - tally.live_bytes()));
    let (dead_data, dead_tables) = (data.saturating_sub(live_data), tables.saturating_sub(live_tables));
    let wholly_dead = dead_data.saturating_add(dead_tables).saturating_sub(partly);
    Ok(Space { live_data, live_tables, dead_data, dead_tables, wholly_dead, unknown: census.unknown })
}

/// Returns the bytes of the map's blocks, copies included.
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
