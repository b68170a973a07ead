//! A cache of the tables that say where the parts of superchunks are.

use super::{InflateError, error};
use crate::format::codec::PartTable;
use crate::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use crate::format::place::Place;
use crate::meta::{ByteLru, Image};
use std::sync::Arc;

/// Bytes of part tables that are kept: a table of 4 MiB in parts of 128 KiB takes 800 bytes.
const PART_TABLES: usize = 2 << 20;

/// Part tables, by superchunk and by the offset of its frame: one that is packed again gets another table.
pub(super) struct PartTables(ByteLru<(SuperchunkId, LogOffset), Option<Arc<PartTable>>>);

impl PartTables {
    pub(super) fn new() -> Self {
        PartTables(ByteLru::new(PART_TABLES, 2))
    }

    /// Returns the part table of the superchunk at `place`; `None` if it is damaged. Errors name the subchunk, which
    /// the caller looks for.
    pub(super) fn get(
        &self,
        image: &Image,
        subchunk: SubchunkId,
        id: SuperchunkId,
        place: &Place,
    ) -> Result<Option<Arc<PartTable>>, InflateError> {
        let key = (id, place.offset);
        if let Some(known) = self.0.get(&key) {
            return Ok(known);
        }
        let table = image.part_table(place).map_err(error::lookup(subchunk))?.map(Arc::new);
        let weight = table.as_ref().map_or(0, |table| size_of_val(table.parts.as_slice()));
        self.0.insert(key, table.clone(), weight);
        Ok(table)
    }
}
