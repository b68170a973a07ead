//! Writes tables: collects blocks into groups, appends the groups as frames, and collects their rows for the map.

use crate::format::block::{Block, KeyRef, Row};
use crate::format::clear::{ClearList, Listed};
use crate::format::codec::{Compression, Encoder};
use crate::format::frame::{Flags, FrameKind};
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::place::Place;
use crate::format::recipe::{Recipe, RecipeRow};
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::rows::{SubchunkRun, SuperchunkRow};
use crate::format::schema::{self, Table};
use crate::format::sums::Hash24;
use crate::format::{FormatError, limits};
use crate::log::{LogWriter, NewFrame};
use crate::table::{BlockSink, BlockSource, BulkLoader, Change, ChildRef, TableError, Tree, apply};
use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;

/// Limit on second copies of the map's leaves with recipes: together they take at most the bytes that the image has grown
/// by since the root before, divided by this, or [`RECIPE_COPIES_LEAST`]. So all roots together keep to it.
const RECIPE_COPIES_SHARE: u64 = 500;
/// Bytes that second copies of the map's leaves with recipes may always take: those of a small image.
const RECIPE_COPIES_LEAST: u64 = 512;

/// Most pieces in a row of recipes, if it has more than one recipe. A reader that looks for one recipe decodes the row up
/// to there: with this many that takes about as long as the look-up of the row. The format allows eight times as many,
/// which would make an image only 0.04% smaller.
const ROW_PIECES: usize = 512;

/// Collects the rows of the map while superchunks and table groups are written.
///
/// Memory: about 48 bytes for each superchunk, 3 bytes for each subchunk, and 16 bytes for each piece of a recipe.
#[derive(Debug, Default)]
pub struct MapRows {
    superchunks: BTreeMap<SuperchunkId, SuperchunkRow>,
    runs: BTreeMap<SubchunkId, ([u64; 8], Box<[u8]>)>,
    recipes: BTreeMap<SubchunkId, (SuperchunkId, Recipe)>,
}

impl MapRows {
    /// Adds a superchunk, the subchunks of its clear list, and their recipes: one for each composed subchunk, in any
    /// order.
    pub fn add(&mut self, kind: FrameKind, place: Place, list: &ClearList, recipes: Vec<(SubchunkId, Recipe)>) {
        debug_assert_eq!(list.subchunks.iter().filter(|listed| listed.composed).count(), recipes.len());
        self.superchunks.insert(list.superchunk, SuperchunkRow { kind, place });
        let mut position = 0;
        for neighbours in list.subchunks.chunk_by(|a, b| b.id.0 == a.id.0 + 1) {
            for run in neighbours.chunks(limits::RUN as usize) {
                let Some(first) = run.first() else { continue };
                let row = SubchunkRun {
                    first: first.id,
                    superchunk: list.superchunk,
                    position,
                    lens: run.iter().map(|listed| listed.len).collect(),
                    composed: run.iter().map(|listed| listed.composed).collect(),
                };
                position += row.lens.iter().sum::<u32>();
                let (ints, tail) = row.encode();
                self.runs.insert(row.first, (ints, tail.into()));
            }
        }
        self.recipes.extend(recipes.into_iter().map(|(id, recipe)| (id, (list.superchunk, recipe))));
    }

    /// Records that the superchunk has a second frame at `copy`.
    fn set_copy(&mut self, id: SuperchunkId, copy: Place) {
        if let Some(row) = self.superchunks.get_mut(&id) {
            row.place.copy = Some(copy.offset);
        }
    }

    /// Iterates over all rows in key order.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let row = |a, b, ints: [u64; 8], tail: &[u8]| Row {
            key: KeyRef::new(a, b).to_key(),
            ints: ints.to_vec(),
            tail: tail.to_vec(),
        };
        let superchunks = self.superchunks.iter().map(move |(id, place)| {
            let (ints, tail) = place.encode();
            row(SPACE_SUPERCHUNKS, id.0, ints, &tail)
        });
        let runs = self.runs.iter().map(move |(id, (ints, tail))| row(SPACE_SUBCHUNKS, id.0, *ints, tail));
        let recipes = RecipeGroups(self.recipes.iter().peekable()).map(move |group| {
            let (ints, tail) = RecipeRow::encode(&group);
            row(SPACE_RECIPES, group.first().map_or(0, |(id, _)| id.0), ints, &tail)
        });
        superchunks.chain(runs).chain(recipes)
    }
}

/// Groups recipes, in the order of their subchunks' ids, so that each group fits into one row of the map.
struct RecipeGroups<'m>(Peekable<btree_map::Iter<'m, SubchunkId, (SuperchunkId, Recipe)>>);

impl<'m> Iterator for RecipeGroups<'m> {
    type Item = Vec<(SubchunkId, &'m Recipe)>;

    //= format-spec.md#8.8
    //# Rows of space 2 must not overlap: no composed subchunk of
    //# one has an id between the first and the last of another.
    fn next(&mut self) -> Option<Self::Item> {
        let (first, (superchunk, recipe)) = self.0.next()?;
        let mut group = vec![(*first, recipe)];
        let mut pieces = recipe.pieces().len();
        // All composed subchunks between two ids of a group are in the group, so one of another superchunk ends it.
        while let Some((id, (_, recipe))) = self.0.next_if(|(_, (other, recipe))| {
            let fits = group.len() < limits::RUN as usize && pieces + recipe.pieces().len() <= ROW_PIECES;
            other == superchunk && fits
        }) {
            pieces += recipe.pieces().len();
            group.push((*id, recipe));
        }
        Some(group)
    }
}

/// Merges two batches of changes in key order. A key in both appears twice, which `apply` refuses.
struct Merged<L: Iterator<Item = Change>, R: Iterator<Item = Change>> {
    left: Peekable<L>,
    right: Peekable<R>,
}

impl<L: Iterator<Item = Change>, R: Iterator<Item = Change>> Iterator for Merged<L, R> {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        match (self.left.peek(), self.right.peek()) {
            (Some(left), Some(right)) if right.key() < left.key() => self.right.next(),
            (Some(_), _) => self.left.next(),
            (None, _) => self.right.next(),
        }
    }
}

/// A table group that is being filled with blocks.
#[derive(Default)]
struct Group {
    raw: Vec<u8>,
    blocks: Vec<Listed>,
}

/// Bytes that were written for tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableBytes {
    /// Bytes of the frames of table groups, copies included.
    pub groups: u64,
    /// Bytes of the frames of the map, copies included.
    pub map: u64,
}

/// Appends new table blocks to the log. Leaves are written when they fill a group; interior blocks are held back until
/// [`TableWriter::flush_interior`], which writes all of them twice.
pub struct TableWriter<'a> {
    log: &'a mut LogWriter,
    map: &'a mut MapRows,
    encoder: Encoder,
    next_subchunk: &'a mut u64,
    next_superchunk: &'a mut u64,
    leaves: Group,
    interior: Vec<Group>,
    target: usize,
    bytes: TableBytes,
    /// Bytes of the second copies of the map's leaves that hold recipes.
    recipe_copies: u64,
    /// Offset where the log ended when the root before was published; 0 if this is the first one.
    before: u64,
}

impl<'a> TableWriter<'a> {
    /// Makes a writer of tables that appends to `log`, takes ids from the counters and adds rows to `map`. `target` is
    /// the target size of a block in raw bytes.
    pub fn new(
        log: &'a mut LogWriter,
        map: &'a mut MapRows,
        next_subchunk: &'a mut u64,
        next_superchunk: &'a mut u64,
        compression: Compression,
        target: usize,
    ) -> Self {
        TableWriter {
            log,
            map,
            encoder: Encoder::new(compression, None),
            next_subchunk,
            next_superchunk,
            leaves: Group::default(),
            interior: Vec::new(),
            target,
            bytes: TableBytes::default(),
            recipe_copies: 0,
            before: 0,
        }
    }

    /// Returns the offset in bytes where the log ends now.
    pub fn log_end(&self) -> u64 {
        self.log.end()
    }

    /// Writes a table from rows in key order.
    ///
    /// # Errors
    /// Fails if a row does not fit, rows do not ascend, or the log cannot be written.
    pub fn load(
        &mut self,
        table: &'static Table,
        rows: impl Iterator<Item = Result<Row, TableError>>,
    ) -> Result<Tree, TableError> {
        let mut loader = BulkLoader::new(table, self.target);
        for row in rows {
            let row = row?;
            loader.push(self, row.key.as_ref(), &row.ints, &row.tail)?;
        }
        let tree = loader.finish(self)?;
        // A group holds leaves of one table only, so a lost group affects only one table.
        self.flush_leaves()?;
        Ok(tree)
    }

    /// Applies changes, whose keys ascend strictly, to a tree and returns the new tree; only changed blocks are
    /// written. The tree must not be that of the map.
    ///
    /// # Errors
    /// Fails as [`apply`] does; the old tree does not change.
    pub fn change(
        &mut self,
        tree: &Tree,
        source: &dyn BlockSource,
        changes: &mut dyn Iterator<Item = Change>,
    ) -> Result<Tree, TableError> {
        let target = self.target;
        let tree = apply(tree, source, self, target, changes)?.tree;
        self.flush_leaves()?;
        Ok(tree)
    }

    fn flush_leaves(&mut self) -> Result<(), TableError> {
        let group = std::mem::take(&mut self.leaves);
        self.write_group(group, false)
    }

    /// Appends the interior blocks collected so far, twice. Returns the offset of the first of these frames.
    ///
    /// # Errors
    /// Fails if the log cannot be written.
    pub fn flush_interior(&mut self) -> Result<u64, TableError> {
        self.flush_leaves()?;
        let begin = self.log.end();
        for group in std::mem::take(&mut self.interior) {
            self.write_group(group, true)?;
        }
        Ok(begin)
    }

    fn write_group(&mut self, group: Group, twice: bool) -> Result<(), TableError> {
        if group.blocks.is_empty() {
            return Ok(());
        }
        //= format-spec.md#5
        //# Ids of subchunks and superchunks are ≥ 1 and < 2^62; both ascend, and are never used twice; a superchunk
        //# written a second time (3.1, copy) keeps its id.
        let list = ClearList { superchunk: SuperchunkId(*self.next_superchunk), subchunks: group.blocks };
        //= format-spec.md#5
        //# Ids of subchunks and superchunks are ≥ 1 and < 2^62; both ascend, and are never used twice; a
        //# superchunk written a second time (3.1, copy) keeps its id.
        *self.next_superchunk += 1;
        let clear = list.encode();
        let encoded = self.encoder.encode(&group.raw).map_err(failed)?;
        let frame = NewFrame {
            kind: FrameKind::TABLE_GROUP,
            codec: encoded.codec,
            flags: encoded.flags,
            clear: &clear,
            stored: &encoded.stored,
            raw_len: group.raw.len() as u32,
            sum: encoded.sum,
        };
        let place = self.log.append(frame).map_err(failed)?;
        self.map.add(FrameKind::TABLE_GROUP, place, &list, Vec::new());
        self.bytes.groups += place.frame_len();
        if twice {
            let copy = self.log.append(frame).map_err(failed)?;
            self.map.set_copy(list.superchunk, copy);
            self.bytes.groups += place.frame_len();
        }
        Ok(())
    }

    /// Writes the map from the rows collected so far. Leaves are written once, or twice if they hold recipes and a copy
    /// costs little; interior blocks are written twice.
    ///
    /// # Errors
    /// Fails if the log cannot be written.
    pub fn finish_map(mut self) -> Result<(Tree, TableBytes), TableError> {
        let rows = std::mem::take(self.map);
        let mut loader = BulkLoader::new(&schema::MAP, self.target);
        for row in rows.rows() {
            loader.push(&mut self, row.key.as_ref(), &row.ints, &row.tail)?;
        }
        let tree = loader.finish(&mut self)?;
        *self.map = rows;
        Ok((tree, self.bytes))
    }

    /// Writes the changed blocks of the map: the changes are the rows collected so far and `changes`, in key order.
    /// Leaves and interior blocks are written once or twice as in [`TableWriter::finish_map`]. `before` is the offset where
    /// the log ended when the root before was published.
    ///
    /// # Errors
    /// Fails as [`apply`] does; the old map does not change.
    pub fn finish_change(
        mut self,
        map: &Tree,
        source: &dyn BlockSource,
        changes: impl Iterator<Item = Change>,
        before: u64,
    ) -> Result<(Tree, TableBytes), TableError> {
        self.before = before;
        let rows = std::mem::take(self.map);
        let mut changes = Merged { left: rows.rows().map(Change::Put).peekable(), right: changes.peekable() };
        let target = self.target;
        let tree = apply(map, source, &mut self, target, &mut changes)?.tree;
        Ok((tree, self.bytes))
    }

    /// Returns whether to write a leaf of the map, in a frame of `len` bytes at `offset`, a second time because it
    /// holds recipes, which no other part of the image holds.
    fn has_cheap_recipes(&mut self, raw: &[u8], offset: u64, len: u64) -> Result<bool, TableError> {
        let block = Block::decode(&schema::MAP, 0, raw).map_err(failed)?;
        let has_recipes = block.len().checked_sub(1).is_some_and(|last| block.key(last).a == SPACE_RECIPES);
        let cost = self.recipe_copies + len;
        let share = offset.saturating_sub(self.before) / RECIPE_COPIES_SHARE;
        let twice = has_recipes && cost <= share.max(RECIPE_COPIES_LEAST);
        if twice {
            self.recipe_copies = cost;
        }
        Ok(twice)
    }

    fn put_map_block(&mut self, level: u8, raw: &[u8]) -> Result<ChildRef, TableError> {
        let encoded = self.encoder.encode(raw).map_err(failed)?;
        let frame = NewFrame {
            kind: FrameKind::MAP_BLOCK,
            codec: encoded.codec,
            flags: encoded.flags,
            clear: &[],
            stored: &encoded.stored,
            raw_len: raw.len() as u32,
            sum: encoded.sum,
        };
        let before = self.log.end();
        let mut place = self.log.append(frame).map_err(failed)?;
        self.bytes.map += place.frame_len();
        if level > 0 || self.has_cheap_recipes(raw, before, place.frame_len())? {
            place.copy = Some(self.log.append(frame).map_err(failed)?.offset);
            self.bytes.map += place.frame_len();
        }
        Ok(ChildRef::Frame(place))
    }
}

impl BlockSink for TableWriter<'_> {
    fn put(&mut self, table: &'static Table, level: u8, raw: Vec<u8>) -> Result<ChildRef, TableError> {
        if table.id() == schema::MAP.id() {
            return self.put_map_block(level, &raw);
        }
        if raw.len() as u64 > limits::TABLE_BLOCK {
            let error = FormatError::Limit { what: "table block", value: raw.len() as u64, limit: limits::TABLE_BLOCK };
            return Err(failed(error));
        }
        let id = SubchunkId(*self.next_subchunk);
        *self.next_subchunk += 1;
        let child = ChildRef::Block { id, hash: Hash24::of(&raw) };
        let fits = |group: &Group| group.raw.len() + raw.len() <= limits::TABLE_GROUP as usize;
        if level == 0 {
            if !fits(&self.leaves) {
                self.flush_leaves()?;
            }
        } else if !self.interior.last().is_some_and(fits) {
            self.interior.push(Group::default());
        }
        let group = if level == 0 { Some(&mut self.leaves) } else { self.interior.last_mut() };
        if let Some(group) = group {
            group.blocks.push(Listed::whole(id, raw.len() as u32));
            group.raw.extend_from_slice(&raw);
        }
        Ok(child)
    }
}

/// Appends a frame twice without compression, for example that of a root. Returns its place, with that of the copy.
pub fn append_twice(log: &mut LogWriter, kind: FrameKind, stored: &[u8]) -> Result<Place, crate::log::LogError> {
    let frame = NewFrame {
        kind,
        codec: crate::format::codec::RAW,
        flags: Flags::default(),
        clear: &[],
        stored,
        raw_len: stored.len() as u32,
        sum: crate::format::sums::xxh3(stored),
    };
    let first = log.append(frame)?;
    let copy = log.append(frame)?;
    Ok(Place { copy: Some(copy.offset), ..first })
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> TableError {
    TableError::Source(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::LogOffset;
    use crate::format::recipe::Piece;

    /// Rows of space 2 for recipes of these subchunks in these superchunks, each with a number of pieces.
    fn rows(recipes: &[(u64, u64, usize)]) -> Vec<Vec<u64>> {
        let mut map = MapRows::default();
        for &(id, superchunk, pieces) in recipes {
            let place = Place {
                offset: LogOffset(limits::LOG_START),
                copy: None,
                clear_len: 0,
                stored_len: 0,
                raw_len: 0,
                codec: 0,
                flags: Flags::default(),
                sum: 0,
            };
            let listed = Listed { id: SubchunkId(id), len: 0, composed: true };
            let list = ClearList { superchunk: SuperchunkId(superchunk), subchunks: vec![listed] };
            let recipe = Recipe::new(vec![Piece { subchunk: SubchunkId(1), offset: 0, len: 1 }; pieces]).unwrap();
            map.add(FrameKind::SUPERCHUNK, place, &list, vec![(listed.id, recipe)]);
        }
        let rows = map.rows().filter(|row| row.key.a == SPACE_RECIPES);
        let ids = rows.map(|row| RecipeRow::decode(SubchunkId(row.key.b), &row.ints, &row.tail).unwrap());
        ids.map(|row| row.into_iter().map(|(id, _)| id.0).collect()).collect()
    }

    //= format-spec.md#8.8
    //= type=test
    //# Rows of space 2 must not overlap: no composed subchunk of
    //# one has an id between the first and the last of another.
    #[test]
    fn a_row_of_recipes_ends_where_a_subchunk_of_another_superchunk_begins() {
        assert_eq!(rows(&[(5, 1, 1), (9, 1, 1), (7, 2, 1), (8, 2, 1), (12, 1, 1)]), [vec![5], vec![7, 8], vec![9, 12]]);
    }

    #[test]
    fn a_row_takes_no_more_than_128_recipes_and_512_pieces_except_for_one_large_recipe() {
        let many: Vec<_> = (1..=200).map(|id| (id, 1, 1)).collect();
        assert_eq!(rows(&many).iter().map(Vec::len).collect::<Vec<_>>(), [128, 72]);
        assert_eq!(rows(&[(2, 1, 4096), (3, 1, 1)]), [vec![2], vec![3]]);
        assert_eq!(rows(&[(2, 1, 500), (3, 1, 12), (4, 1, 1)]), [vec![2, 3], vec![4]]);
    }
}
