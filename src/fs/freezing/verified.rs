//! Reads superchunks whose bytes are to be used for something new: a frame packed again, or recipes.
//!
//! Invariant: damaged bytes are never used. The checksum of the frame has to be right, and the content hash of every
//! subchunk that is not composed. Stored parts of composed subchunks have no hash of their own: before a frame is
//! replaced, the subchunks are put together and compared with theirs. Called by `repack` and `known`.

use crate::format::clear::ClearList;
use crate::format::frame::FrameKind;
use crate::format::ids::SuperchunkId;
use crate::format::place::Place;
use crate::format::rows::{Identity, SuperchunkRow};
use crate::inflate::WorkingSet;
use crate::meta::{Buffers, View};
use crate::pack::matching::Source;
use std::collections::HashSet;
use std::sync::Arc;

/// A superchunk of file data with the right checksum.
pub(super) struct Verified {
    /// The encoded clear list.
    pub(super) clear: Vec<u8>,
    pub(super) list: ClearList,
    pub(super) raw: Vec<u8>,
}

/// Reads the superchunk `id`, which has this row. Returns `None` if something cannot be read or its checksum is wrong.
/// `stored` is a buffer.
pub(super) fn read(view: &View, id: SuperchunkId, row: &SuperchunkRow, stored: &mut Vec<u8>) -> Option<Verified> {
    let (place, version) = (row.place, view.version());
    let mut raw = Vec::new();
    let buffers = Buffers { stored, raw: &mut raw };
    if !version.read_superchunk(&place, buffers, &mut |_, intact| intact).intact() {
        return None;
    }
    let log = version.log();
    let header = log.header(place.offset).ok()?;
    if header.kind != row.kind || Place::of(&header) != (Place { copy: None, ..place }) {
        return None;
    }
    let clear = log.clear_part(&header).ok()?;
    let list = ClearList::decode(&clear, place.raw_len).ok()?;
    (list.superchunk == id).then_some(Verified { clear, list, raw })
}

impl Verified {
    /// Returns whether the content hash of every subchunk that is not composed, and for which `counts` is true, is right.
    pub(super) fn is_right(&self, view: &View, counts: impl Fn(usize) -> bool) -> bool {
        let mut rest = self.raw.as_slice();
        self.list.subchunks.iter().enumerate().all(|(number, listed)| {
            let Some((bytes, after)) = rest.split_at_checked(listed.len as usize) else { return false };
            rest = after;
            let is_known =
                || matches!(view.identity(listed.id), Ok(Some(id)) if id == Identity::of(view.params().hash, bytes));
            listed.composed || !counts(number) || is_known()
        })
    }
}

/// Returns whether the content hash of every composed subchunk in a superchunk is right, read by the working set. Those
/// that the view's map does not have do not count: nothing can read them.
pub(super) fn are_composed_right(view: &View, working_set: &WorkingSet, verified: &Verified) -> bool {
    let mut bytes = Vec::new();
    verified.list.subchunks.iter().filter(|listed| listed.composed).all(|listed| {
        let recipe = match (view.locate(listed.id), view.recipe(listed.id)) {
            (Ok(None), Ok(_)) => return true,
            (Ok(Some(_)), Ok(Some(recipe))) => recipe,
            _ => return false,
        };
        bytes.resize(recipe.subchunk_len() as usize, 0);
        let is_read = working_set.read_subchunk(view, listed.id, 0, &mut bytes).is_ok();
        let known = || view.identity(listed.id).ok().flatten();
        is_read && known() == Some(Identity::of(view.params().hash, &bytes))
    })
}

/// Reads a superchunk as a source of recipes. Returns `None` if the view does not have it, or if it is damaged. Stored
/// parts that the view's map does not find there are left out: gc deletes the rows of dead composed subchunks.
pub(super) fn source(view: &View, id: SuperchunkId) -> Option<Source> {
    let row = view.superchunk(id).ok()??;
    if row.kind != FrameKind::SUPERCHUNK || id.0 == view.params().dictionary {
        return None;
    }
    let verified = read(view, id, &row, &mut Vec::new())?;
    let (mut position, mut found) = (0u32, HashSet::new());
    for listed in &verified.list.subchunks {
        let located = view.locate(listed.id).ok()?;
        if located.is_some_and(|at| (at.superchunk, at.position, at.len) == (id, position, listed.len)) {
            found.insert(listed.id);
        }
        position = position.saturating_add(listed.len);
    }
    let is_found = |number: usize| verified.list.subchunks.get(number).is_some_and(|listed| found.contains(&listed.id));
    if !verified.is_right(view, is_found) {
        return None;
    }
    let Verified { list, raw, .. } = verified;
    Some(Source::of_some(&list, Arc::new(raw), |listed| found.contains(&listed.id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FreezeHow;
    use crate::fs::tests::world::{World, file, noise};

    #[test]
    fn bytes_with_a_right_checksum_count_only_if_all_content_hashes_are_right() {
        let world = World::new();
        let live = &world.live;
        file(live, "a", &noise(300_000, 1));
        live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
        let view = live.snapshot().view().clone();
        let is_data =
            |id: &SuperchunkId| view.superchunk(*id).unwrap().is_some_and(|row| row.kind == FrameKind::SUPERCHUNK);
        let id = (1..100).map(SuperchunkId).find(is_data).unwrap();
        let row = view.superchunk(id).unwrap().unwrap();
        let mut verified = read(&view, id, &row, &mut Vec::new()).unwrap();
        let all = |verified: &Verified| verified.is_right(&view, |_| true);
        assert!(verified.list.subchunks.len() > 1 && all(&verified));
        for at in [0, verified.raw.len() / 2, verified.raw.len() - 1] {
            verified.raw[at] ^= 1;
            assert!(!all(&verified), "byte {at}");
            verified.raw[at] ^= 1;
        }
        verified.raw[0] ^= 1;
        assert!(verified.is_right(&view, |number| number > 0));
        verified.raw[0] ^= 1;
        verified.list.subchunks.reverse();
        assert!(!all(&verified));
        verified.list.subchunks.reverse();
        verified.raw.pop();
        assert!(!all(&verified));
    }
}
