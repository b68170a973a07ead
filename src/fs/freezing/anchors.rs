//! The index of the anchors in the image's superchunks, which says where data is that resembles new data.
//!
//! Each batch adds the anchors of its own superchunks. Those of superchunks from before are read, the newest first, as
//! part of the freezes: each reads a multiple of what it freezes, so that a small freeze in a large image stays small, up
//! to a limit for the mount. Invariants: the index is only a hint, so a superchunk that cannot be read is left out. Older
//! superchunks never displace newer ones. Called by `known`.

use crate::format::block::KeyRef;
use crate::format::frame::FrameKind;
use crate::format::ids::SuperchunkId;
use crate::format::rows::SuperchunkRow;
use crate::format::rows::map::SPACE_SUPERCHUNKS;
use crate::format::schema;
use crate::fs::FsError;
use crate::meta::{Buffers, MetaError, View};
use crate::pack::matching::AnchorIndex;

/// Most bytes of the index: enough for all anchors of 335 MB of raw bytes. Of more, it has every second one, then every
/// fourth, and so on.
const MOST: usize = 128 << 20;
/// Most raw bytes of earlier superchunks that are read during a mount, which takes a few seconds altogether. Of more, the
/// index would have fewer than one anchor in four.
const READ: u64 = 1 << 30;
/// Raw bytes of earlier superchunks that a freeze reads, as a multiple of the bytes that it freezes: reading and finding
/// anchors is about as many times as fast as compressing.
const READ_FACTOR: u64 = 16;

/// The index of anchors, and how much of the image is in it.
pub(super) struct ImageAnchors {
    index: AnchorIndex,
    /// All superchunks of the image from this id on are in the index, or were made by this mount.
    below: SuperchunkId,
    /// Raw bytes that may still be read.
    left: u64,
}

impl ImageAnchors {
    /// Makes an empty index. All superchunks that the view has can be read.
    pub(super) fn new(view: &View) -> Result<Self, FsError> {
        let newest = before(view, SuperchunkId(u64::MAX))?.map_or(0, |(id, _)| id.0);
        Ok(ImageAnchors { index: AnchorIndex::new(MOST), below: SuperchunkId(newest.saturating_add(1)), left: READ })
    }

    /// Returns the index.
    pub(super) fn index(&self) -> &AnchorIndex {
        &self.index
    }

    /// Returns the index, to add or remove superchunks of this mount.
    pub(super) fn index_mut(&mut self) -> &mut AnchorIndex {
        &mut self.index
    }

    /// Reads earlier superchunks for a freeze of `bytes` bytes, until `stop` returns true.
    pub(super) fn read(&mut self, view: &View, bytes: u64, stop: &dyn Fn() -> bool) -> Result<(), FsError> {
        let mut room = bytes.saturating_mul(READ_FACTOR);
        let (mut stored, mut raw) = (Vec::new(), Vec::new());
        while self.left > 0 && room > 0 && !stop() {
            let Some((id, row)) = before(view, self.below)? else {
                self.left = 0;
                break;
            };
            self.below = id;
            let len = u64::from(row.place.raw_len);
            if row.kind != FrameKind::SUPERCHUNK || len == 0 {
                continue;
            }
            (self.left, room) = (self.left.saturating_sub(len), room.saturating_sub(len));
            let buffers = Buffers { stored: &mut stored, raw: &mut raw };
            if view.version().read_superchunk(&row.place, buffers, &mut |_, intact| intact).intact() {
                self.index.add(id, &raw);
            }
        }
        Ok(())
    }
}

/// Returns the last superchunk before `id`.
fn before(view: &View, id: SuperchunkId) -> Result<Option<(SuperchunkId, SuperchunkRow)>, FsError> {
    let Some(last) = id.0.checked_sub(1) else { return Ok(None) };
    let row = view.floor_within(&schema::MAP, KeyRef::new(SPACE_SUPERCHUNKS, last))?;
    let Some(row) = row.filter(|row| row.key().a == SPACE_SUPERCHUNKS) else { return Ok(None) };
    let decoded = SuperchunkRow::decode(row.ints(), row.tail()).map_err(MetaError::from)?;
    Ok(Some((SuperchunkId(row.key().b), decoded)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::params::Params;
    use crate::fs::FreezeHow;
    use crate::fs::tests::world::{World, file, noise};
    use crate::pack::PackOptions;
    use std::cell::Cell;
    use std::time::Duration;

    #[test]
    fn the_newest_superchunks_are_read_first_and_a_freeze_reads_a_multiple_of_what_it_freezes() {
        let params = Params { superchunk_size: 1 << 20, ..Params::default() };
        let world = World::of(Duration::from_secs(3600), &PackOptions { params, ..PackOptions::default() });
        let parts: Vec<_> = (0..4).map(|n| noise(900_000, n)).collect();
        for (n, bytes) in parts.iter().enumerate() {
            file(&world.live, &n.to_string(), bytes);
            world.live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
        }
        let view = world.live.snapshot().view().clone();
        let mut anchors = ImageAnchors::new(&view).unwrap();
        let known = |anchors: &ImageAnchors| -> Vec<usize> {
            let has = |bytes: &[u8]| {
                let mut alone = AnchorIndex::new(1 << 20);
                alone.add(SuperchunkId(1), bytes);
                alone.shares(&anchors.index) > 5000
            };
            (0..4).filter(|n| has(&parts[*n])).collect()
        };
        anchors.read(&view, 1000, &|| true).unwrap();
        assert!(anchors.index.is_empty());
        anchors.read(&view, 1000, &|| false).unwrap();
        assert_eq!(known(&anchors), [3]);
        anchors.read(&view, 100_000, &|| false).unwrap();
        assert_eq!(known(&anchors), [1, 2, 3]);
        let asked = Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) > 100;
        anchors.read(&view, 1 << 30, &stop).unwrap();
        assert_eq!((known(&anchors), anchors.left), (vec![0, 1, 2, 3], 0));
    }
}
