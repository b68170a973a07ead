//! Lookups of where subchunks are, in a view: in the tables of its version, or in rows that no root has yet.
//!
//! A row of the map, or of identities, covers up to 128 ids from its own on. So the overlays are asked first for the
//! last row that may cover an id, and the tables only if that row does not. If the overlays have no entries up to the
//! requested id, the version answers, as fast as without overlays. That is the usual case: frozen data has higher ids
//! than all older data. Called by inflate, fs and care.

use super::{Image, MetaError, View};
use crate::format::FormatError;
use crate::format::block::KeyRef;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::recipe::{Recipe, RecipeRow};
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::rows::{Identity, Located, SubchunkRun, SuperchunkRow, identity};
use crate::format::schema::{self, Table};
use std::sync::Arc;

/// What the overlays of a view know about an id.
enum Said<T> {
    /// The overlays have no entry for the id or for an id before it, so the version answers.
    Nothing,
    /// The overlays have the value.
    This(T),
    /// The overlays have an entry for an id before it, which may hide a row of the version.
    Near,
}

impl View {
    /// Returns where a subchunk's stored part is, according to the map, or to the clear lists if the map is damaged
    /// there.
    ///
    /// # Errors
    /// Fails if neither can be read.
    pub fn locate(&self, id: SubchunkId) -> Result<Option<Located>, MetaError> {
        let key = KeyRef::new(SPACE_SUBCHUNKS, id.0);
        let find = |key: KeyRef<'_>, ints: &[u64], tail: &[u8]| SubchunkRun::find(SubchunkId(key.b), ints, tail, id);
        match self.said(&schema::MAP, key, SPACE_SUBCHUNKS, find)? {
            Said::This(located) => Ok(Some(located)),
            Said::Nothing => self.version().locate(id),
            Said::Near => match self.covering(&schema::MAP, key, SPACE_SUBCHUNKS, find) {
                Err(error) => self.version().by_clear_lists(error, |lists| lists.locate(id)),
                located => located,
            },
        }
    }

    /// Returns the run of subchunks that has `id`, according to the map. If the map is damaged there, it returns a run
    /// of this subchunk alone, according to the clear lists.
    ///
    /// # Errors
    /// Fails if neither can be read.
    pub fn run(&self, id: SubchunkId) -> Result<Option<Arc<SubchunkRun>>, MetaError> {
        let key = KeyRef::new(SPACE_SUBCHUNKS, id.0);
        let find =
            |key: KeyRef<'_>, ints: &[u64], tail: &[u8]| SubchunkRun::decode_with(SubchunkId(key.b), ints, tail, id);
        match self.said(&schema::MAP, key, SPACE_SUBCHUNKS, find)? {
            Said::This(run) => Ok(Some(Arc::new(run))),
            Said::Nothing => self.version().run(id),
            Said::Near => match self.covering(&schema::MAP, key, SPACE_SUBCHUNKS, find) {
                Err(error) => self.version().run_by_clear_lists(error, id),
                Ok(run) => Ok(run.map(Arc::new)),
            },
        }
    }

    /// Returns where a superchunk is, according to the map, or to the frames if the map is damaged there.
    ///
    /// # Errors
    /// Fails if neither can be read.
    pub fn superchunk(&self, id: SuperchunkId) -> Result<Option<SuperchunkRow>, MetaError> {
        let key = KeyRef::new(SPACE_SUPERCHUNKS, id.0);
        match self.overlays().find_map(|overlay| overlay.get(&schema::MAP, key)) {
            Some(Some(row)) => Ok(Some(SuperchunkRow::decode(row.ints(), row.tail())?)),
            Some(None) => Ok(None),
            None => self.version().superchunk(id),
        }
    }

    /// Returns the recipe of a composed subchunk, or `None`. Only the map has recipes: a subchunk whose recipe is lost
    /// cannot be read.
    ///
    /// # Errors
    /// Fails if the map cannot be read there.
    pub fn recipe(&self, id: SubchunkId) -> Result<Option<Recipe>, MetaError> {
        let find = |key: KeyRef<'_>, ints: &[u64], tail: &[u8]| RecipeRow::find(SubchunkId(key.b), ints, tail, id);
        let key = KeyRef::new(SPACE_RECIPES, id.0);
        self.find(&schema::MAP, key, SPACE_RECIPES, find, |version| version.recipe(id))
    }

    /// Returns the recipes of the row of the map that has one of `id`, with the ids of their subchunks, which ascend.
    ///
    /// # Errors
    /// Fails if the map cannot be read there.
    pub fn recipes(&self, id: SubchunkId) -> Result<Option<Vec<(SubchunkId, Recipe)>>, MetaError> {
        let find =
            |key: KeyRef<'_>, ints: &[u64], tail: &[u8]| RecipeRow::decode_with(SubchunkId(key.b), ints, tail, id);
        let key = KeyRef::new(SPACE_RECIPES, id.0);
        self.find(&schema::MAP, key, SPACE_RECIPES, find, |version| version.recipes(id))
    }

    /// Returns the identity (content hash) of a subchunk of file data, or `None`.
    ///
    /// # Errors
    /// Fails if the table cannot be read or the row is not valid.
    pub fn identity(&self, id: SubchunkId) -> Result<Option<Identity>, MetaError> {
        let hash = self.params().hash;
        // The key of the row passed here is not above the id.
        let find = |key: KeyRef<'_>, ints: &[u64], tail: &[u8]| {
            identity::decode_one(hash, ints, tail, id.0.saturating_sub(key.a))
        };
        self.find(&schema::IDENTITIES, KeyRef::new(id.0, 0), 0, find, |version| version.identity(id))
    }

    /// Calls `find` for the row of the map that may cover `key`, among those whose `a` is at least `lowest`. If the
    /// overlays have no such row, `version` answers.
    fn find<T>(
        &self,
        table: &'static Table,
        key: KeyRef<'_>,
        lowest: u64,
        find: impl Fn(KeyRef<'_>, &[u64], &[u8]) -> Result<Option<T>, FormatError>,
        version: impl FnOnce(&Image) -> Result<Option<T>, MetaError>,
    ) -> Result<Option<T>, MetaError> {
        match self.said(table, key, lowest, &find)? {
            Said::This(found) => Ok(Some(found)),
            Said::Nothing => version(self.version()),
            Said::Near => self.covering(table, key, lowest, find),
        }
    }

    fn said<T>(
        &self,
        table: &'static Table,
        key: KeyRef<'_>,
        lowest: u64,
        find: impl Fn(KeyRef<'_>, &[u64], &[u8]) -> Result<Option<T>, FormatError>,
    ) -> Result<Said<T>, MetaError> {
        if self.is_bare(table) {
            return Ok(Said::Nothing);
        }
        let Some(last) = self.layers(table).last_said(key, lowest) else { return Ok(Said::Nothing) };
        // Rows do not overlap: one that covers the key is the nearest, whatever the version has.
        let found = match &last {
            Some(row) => find(row.key(), row.ints(), row.tail())?,
            None => None,
        };
        Ok(found.map_or(Said::Near, Said::This))
    }

    /// Works like [`View::find`], but always searches all layers.
    fn covering<T>(
        &self,
        table: &'static Table,
        key: KeyRef<'_>,
        lowest: u64,
        find: impl Fn(KeyRef<'_>, &[u64], &[u8]) -> Result<Option<T>, FormatError>,
    ) -> Result<Option<T>, MetaError> {
        match self.layers(table).floor(key, lowest)? {
            Some(row) => Ok(find(row.key(), row.ints(), row.tail())?),
            None => Ok(None),
        }
    }
}
