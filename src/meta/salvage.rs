//! The map rebuilt from what superchunks say of themselves, for when a leaf of the map is lost.
//!
//! One scan over headers and clear lists (no stored bytes are read). Memory: 24 bytes a subchunk of the image. Where an id
//! stands more than once (a superchunk written twice, or moved), the frame with the highest sequence counts.

use super::Located;
use crate::format::clear::ClearList;
use crate::format::frame::FrameHeader;
use crate::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use crate::format::limits;
use crate::format::place::Place;
use crate::format::recipe::Recipe;
use crate::format::rows::SuperchunkRow;
use crate::log::{LogReader, Scan};
use std::collections::HashMap;

/// Where things lie, as the clear lists have it.
#[derive(Default)]
pub(super) struct ClearLists {
    superchunks: HashMap<SuperchunkId, SuperchunkRow>,
    subchunks: HashMap<SubchunkId, Located>,
    recipes: HashMap<SubchunkId, Recipe>,
}

impl ClearLists {
    /// Reads all clear lists that verify; what does not is stepped over.
    pub(super) fn scan(log: &LogReader) -> Self {
        let mut headers: Vec<FrameHeader> = Vec::new();
        let mut scan = Scan::new(log.clone(), LogOffset(limits::LOG_START));
        while let Some(next) = scan.next() {
            match next {
                Ok(header) if header.kind.has_clear_list() => headers.push(header),
                Ok(_) => {}
                Err((offset, _)) => match scan.find_next(LogOffset(offset.0 + 1)) {
                    Some(good) => scan.resume_at(good),
                    None => break,
                },
            }
        }
        headers.sort_by_key(|header| header.sequence);
        let mut lists = ClearLists::default();
        for header in &headers {
            let list = log.clear_part(header).ok().and_then(|bytes| ClearList::decode(&bytes, header.raw_len).ok());
            if let Some(list) = list {
                lists.add(header, list);
            }
        }
        lists
    }

    fn add(&mut self, header: &FrameHeader, list: ClearList) {
        let place = Place::of(header);
        self.superchunks.insert(list.superchunk, SuperchunkRow { kind: header.kind, place });
        let mut position = 0;
        for (id, len) in list.subchunks {
            self.subchunks.insert(id, Located { superchunk: list.superchunk, position, len, composed: false });
            position += len;
        }
        for (id, recipe) in list.recipes {
            if let Some(located) = self.subchunks.get_mut(&id) {
                located.composed = true;
            }
            self.recipes.insert(id, recipe);
        }
    }

    pub(super) fn locate(&self, id: SubchunkId) -> Option<Located> {
        self.subchunks.get(&id).copied()
    }

    pub(super) fn superchunk(&self, id: SuperchunkId) -> Option<SuperchunkRow> {
        self.superchunks.get(&id).copied()
    }

    pub(super) fn recipe(&self, id: SubchunkId) -> Option<Recipe> {
        self.recipes.get(&id).cloned()
    }
}
