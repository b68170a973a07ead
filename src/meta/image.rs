//! An open image, with typed lookups in its tables.

use super::MetaError;
use super::block_cache::BlockCache;
use super::map_cache::MapCache;
use super::open::{self, Found};
use super::salvage::{ClearLists, LostKeys};
use super::shape::Shape;
use crate::format::FormatError;
use crate::format::block::KeyRef;
use crate::format::head::Head;
use crate::format::ids::{InodeId, SubchunkId, SuperchunkId};
use crate::format::params::Params;
use crate::format::recipe::{Recipe, RecipeRow};
use crate::format::root::Root;
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::rows::{DirentRow, Identity, InodeRow, Located, SubchunkRun, SuperchunkRow, identity};
use crate::format::schema::{self, TABLES, Table};
use crate::log::LogReader;
use crate::storage::Storage;
use crate::table::Tree;
use std::sync::{Arc, OnceLock};

/// Options for opening an image.
#[derive(Debug, Clone, Copy)]
pub struct ImageOptions {
    /// Memory for cached table blocks, in bytes.
    pub block_cache: usize,
}

impl Default for ImageOptions {
    fn default() -> Self {
        ImageOptions { block_cache: 32 << 20 }
    }
}

/// One version of an open image, for reading: a root with its trees. Threads share a version and do not wait for each
/// other's I/O, except for what is read once: the clear lists if the map is damaged, and the root block of a table for
/// an estimate.
pub struct Image {
    head: Head,
    root: Root,
    log: LogReader,
    warnings: Vec<String>,
    doubts: Vec<String>,
    /// The clear lists of the frames up to the end of this version's log. They are read only if the map is damaged.
    clear_lists: OnceLock<ClearLists>,
    /// Sizes of the tables' trees, by table number from 1; each is read when it is first needed.
    shapes: [OnceLock<Shape>; TABLES.len()],
    /// Rows of the map that were looked up.
    map_cache: MapCache,
    pub(super) shared: Arc<Shared>,
}

/// State that all versions of one open image share.
pub(super) struct Shared {
    pub(super) blocks: BlockCache,
    pub(super) dictionary: OnceLock<Option<Arc<Vec<u8>>>>,
}

impl Image {
    /// Opens the image with two reads for the heads and one for the root.
    ///
    /// # Errors
    /// Fails if there is no usable head whose root can be read, or if the newest head is not supported.
    pub fn open(storage: Arc<dyn Storage>, options: ImageOptions) -> Result<Self, MetaError> {
        Ok(Image::new(open::find(&storage)?, options))
    }

    fn new(found: Found, options: ImageOptions) -> Self {
        let shared = Shared { blocks: BlockCache::new(options.block_cache), dictionary: OnceLock::new() };
        Image::version(found, Arc::new(shared))
    }

    /// Makes a version from a head and its root that shares `shared` with other versions.
    pub(super) fn version(found: Found, shared: Arc<Shared>) -> Self {
        let Found { head, root, log, warnings, doubts } = found;
        let (clear_lists, shapes, map_cache) = (OnceLock::new(), Default::default(), MapCache::new());
        Image { head, root, log, warnings, doubts, clear_lists, shapes, map_cache, shared }
    }

    /// Returns the head of this version.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns the root of this version.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Returns the parameters that the image was made with.
    pub fn params(&self) -> &Params {
        &self.root.params
    }

    /// Returns a reader of the image's log.
    pub fn log(&self) -> &LogReader {
        &self.log
    }

    /// Returns the problems found at opening that do not prevent reading the image.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the reasons found at opening why the image must not be written to: see [`Image::fit_for_writing`].
    pub(super) fn doubts(&self) -> &[String] {
        &self.doubts
    }

    /// Returns the tree of a table in this version.
    pub fn tree(&self, table: &'static Table) -> Tree {
        let (root, view) = (&self.root, &self.root.view);
        let tree = match table.id().0 {
            1 => &view.inodes_tree,
            2 => &view.dirents_tree,
            3 => &view.contents_tree,
            4 => &view.xattrs_tree,
            5 => &view.tiny_tree,
            6 => &root.orphans_tree,
            7 => &view.identities_tree,
            9 => &root.snapshots_tree,
            10 => &root.thawed_tree,
            11 => &root.shares_tree,
            _ => return Tree::from_map(&self.root.map),
        };
        Tree::from_ref(table, tree)
    }

    /// Returns the size of a table's tree. Reads the tree's root block once.
    pub(super) fn shape(&self, table: &'static Table) -> &Shape {
        let [first, ..] = &self.shapes;
        // Tables are numbered from 1, in the order of `TABLES`.
        let known = self.shapes.get(usize::from(table.id().0).wrapping_sub(1)).unwrap_or(first);
        known.get_or_init(|| Shape::of(&self.tree(table), self))
    }

    /// Returns the row of an inode, or `None` if there is no such inode.
    ///
    /// # Errors
    /// Fails if the table cannot be read or the row is not valid.
    pub fn inode(&self, inode: InodeId) -> Result<Option<InodeRow>, MetaError> {
        match self.tree(&schema::INODES).get(self, KeyRef::new(inode.0, 0))? {
            Some(row) => Ok(Some(InodeRow::decode(row.ints(), row.tail())?)),
            None => Ok(None),
        }
    }

    /// Returns the entry `name` of directory `dir`, or `None`.
    ///
    /// # Errors
    /// Fails if the table cannot be read or the row is not valid.
    pub fn lookup(&self, dir: InodeId, name: &[u8]) -> Result<Option<DirentRow>, MetaError> {
        match self.tree(&schema::DIRENTS).get(self, KeyRef::named(dir.0, name))? {
            Some(row) => Ok(Some(DirentRow::decode(row.key().name, row.ints())?)),
            None => Ok(None),
        }
    }

    /// Returns the identity (content hash) of a subchunk of file data, or `None`.
    ///
    /// # Errors
    /// Fails if the table cannot be read or the row is not valid.
    pub fn identity(&self, id: SubchunkId) -> Result<Option<Identity>, MetaError> {
        match self.tree(&schema::IDENTITIES).floor(self, KeyRef::new(id.0, 0))? {
            Some(row) => Ok(identity::decode_one(self.params().hash, row.ints(), row.tail(), id.0 - row.key().a)?),
            None => Ok(None),
        }
    }

    /// Returns where a subchunk's stored part is, according to the map, or to the clear lists if the map is damaged
    /// there.
    ///
    /// # Errors
    /// Fails if neither can be read.
    pub fn locate(&self, id: SubchunkId) -> Result<Option<Located>, MetaError> {
        Ok(self.run(id)?.and_then(|run| run.locate(id)))
    }

    /// Returns the run of subchunks that has `id`, according to the map. If the map is damaged there, it returns a run
    /// of this subchunk alone, according to the clear lists.
    ///
    /// # Errors
    /// Fails if neither can be read.
    pub fn run(&self, id: SubchunkId) -> Result<Option<Arc<SubchunkRun>>, MetaError> {
        if let Some(known) = self.map_cache.run(id) {
            return Ok(Some(known));
        }
        match self.in_map(SPACE_SUBCHUNKS, id, |first, ints, tail| SubchunkRun::decode_with(first, ints, tail, id)) {
            Err(error) => self.run_by_clear_lists(error, id),
            Ok(run) => Ok(run.map(Arc::new).inspect(|run| self.map_cache.keep_run(id, run))),
        }
    }

    pub(super) fn run_by_clear_lists(
        &self,
        error: MetaError,
        id: SubchunkId,
    ) -> Result<Option<Arc<SubchunkRun>>, MetaError> {
        let alone = |located| Arc::new(SubchunkRun::alone(id, located));
        self.by_clear_lists(error, |lists| lists.locate(id).map(alone))
    }

    /// Calls `find` for the row of the map that may cover `id`, if there is one in this space. The row's key is not
    /// above `id`.
    fn in_map<T>(
        &self,
        space: u64,
        id: SubchunkId,
        find: impl FnOnce(SubchunkId, &[u64], &[u8]) -> Result<Option<T>, FormatError>,
    ) -> Result<Option<T>, MetaError> {
        let row = self.tree(&schema::MAP).floor(self, KeyRef::new(space, id.0))?;
        let Some(row) = row.filter(|row| row.key().a == space) else { return Ok(None) };
        Ok(find(SubchunkId(row.key().b), row.ints(), row.tail())?)
    }

    /// Returns where a superchunk is, according to the map, or to the frames if the map is damaged there.
    ///
    /// # Errors
    /// Fails if neither can be read.
    pub fn superchunk(&self, id: SuperchunkId) -> Result<Option<SuperchunkRow>, MetaError> {
        if let Some(known) = self.map_cache.superchunk(id) {
            return Ok(Some(known));
        }
        let by_map = || match self.tree(&schema::MAP).get(self, KeyRef::new(SPACE_SUPERCHUNKS, id.0))? {
            Some(row) => Ok(Some(SuperchunkRow::decode(row.ints(), row.tail())?)),
            None => Ok(None),
        };
        match by_map() {
            Err(error) => self.by_clear_lists(error, |lists| lists.superchunk(id)),
            Ok(row) => Ok(row.inspect(|row| self.map_cache.keep_superchunk(id, *row))),
        }
    }

    /// Returns the recipe of a composed subchunk, or `None`. Only the map has recipes: a subchunk whose recipe is lost
    /// cannot be read.
    ///
    /// # Errors
    /// Fails if the map cannot be read there.
    pub fn recipe(&self, id: SubchunkId) -> Result<Option<Recipe>, MetaError> {
        self.in_map(SPACE_RECIPES, id, |first, ints, tail| RecipeRow::find(first, ints, tail, id))
    }

    /// Returns the recipes of the row of the map that has one of `id`, with the ids of their subchunks, which ascend.
    ///
    /// # Errors
    /// Fails if the map cannot be read there.
    pub fn recipes(&self, id: SubchunkId) -> Result<Option<Vec<(SubchunkId, Recipe)>>, MetaError> {
        self.in_map(SPACE_RECIPES, id, |first, ints, tail| RecipeRow::decode_with(first, ints, tail, id))
    }

    /// Looks for an answer in the clear lists after a lookup in the map failed with `error`. Returns that error if they
    /// have no answer either.
    pub(super) fn by_clear_lists<T>(
        &self,
        error: MetaError,
        ask: impl FnOnce(&ClearLists) -> Option<T>,
    ) -> Result<Option<T>, MetaError> {
        let lists = || {
            tracing::warn!("the map is damaged ({error}): looking at the clear lists instead");
            ClearLists::scan(&self.log, || LostKeys::of(&self.tree(&schema::MAP), self))
        };
        match ask(self.clear_lists.get_or_init(lists)) {
            Some(found) => Ok(Some(found)),
            None => Err(error),
        }
    }

    /// Returns the memory that the cached table blocks and groups take now, in bytes, which all versions of an image
    /// share, and that of the rows of the map that this version keeps.
    pub fn block_memory(&self) -> usize {
        self.shared.blocks.bytes() + self.map_cache.bytes()
    }
}
