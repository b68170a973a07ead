//! Writes a checkpoint: changed blocks for changed rows, and a new root.
//!
//! Invariants: the version that it starts from does not change, and everything that the new root names is synced before
//! a head names the root. If a checkpoint is given up, its frames are cut off again, so the log ends where it did
//! before; its ids are used again, because nothing has them. The caller (fs) has sealed an overlay whose commit is
//! durable; it then publishes the root ([`Heads`](super::Heads)) and makes the next version ([`Image::successor`]).

use super::overlay::Overlay;
use super::snapshots::NewSnapshot;
use super::writer::{MapRows, TableWriter, append_twice};
use super::{Image, MetaError};
use crate::format::FormatError;
use crate::format::codec::Compression;
use crate::format::frame::FrameKind;
use crate::format::ids::SubchunkId;
use crate::format::place::Place;
use crate::format::recipe::RecipeRow;
use crate::format::root::Root;
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS};
use crate::format::rows::{SubchunkRun, Time};
use crate::format::schema::{self, Table};
use crate::format::transaction::Counters;
use crate::format::tree_ref::TreeRef;
use crate::log::{LogError, LogWriter};
use crate::storage::StorageError;
use crate::table::Change;
use std::error::Error;
use std::io;
use thiserror::Error;

/// Highest zstd level for table blocks of a checkpoint: an unmount waits for a checkpoint, and later checkpoints
/// replace its blocks.
const LEVEL: i32 = 6;

/// All tables except the map, in the order in which a checkpoint writes them. Tables that are read together come last,
/// next to the interior blocks.
const TABLES: [&Table; 10] = [
    &schema::IDENTITIES,
    &schema::SNAPSHOTS,
    &schema::THAWED,
    &schema::ORPHANS,
    &schema::SHARES,
    &schema::TINY,
    &schema::XATTRS,
    &schema::CONTENTS,
    &schema::INODES,
    &schema::DIRENTS,
];

/// Position in the thaw log up to which a root contains the log's transactions. All fields are 0 without a thaw log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThawMark {
    /// Id of the thaw log.
    pub log_id: u64,
    /// Number of the last transaction that the root contains.
    pub transaction: u64,
    /// Offset in bytes in the thaw log where the last transaction ends that the root contains.
    pub offset: u64,
}

/// Input of [`write_checkpoint`].
#[derive(Clone, Copy)]
pub struct CheckpointInput<'a> {
    /// The version of the image that the checkpoint starts from. The checkpoint is appended to the log of this version.
    pub version: &'a Image,
    /// The rows that differ from those of `version`.
    pub changes: &'a Overlay,
    /// Next free ids. If the version has a larger one, the larger one is used.
    pub counters: Counters,
    /// Number of inodes that the filesystem has after the changes.
    pub inodes: u64,
    /// Sum of the sizes of the regular files in bytes, each inode counted once.
    pub bytes: u64,
    /// Bytes of file data that the freezer did not store since `version` was made, because deduplication found them in
    /// the image.
    pub shared: u64,
    /// Time of the checkpoint, which the root records.
    pub time: Time,
    /// Position in the thaw log up to which the checkpoint contains the log's transactions.
    pub thaw: ThawMark,
    /// A snapshot to write with the checkpoint, if any. Its ordinal is below the counter of ordinals.
    pub snapshot: Option<NewSnapshot<'a>>,
}

/// Result of [`write_checkpoint`]: a root that is durable and that no head names yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The root that was written.
    pub root: Root,
    /// Place of the root's frame and of its copy.
    pub place: Place,
    /// Hash of the root, for the head that will name it.
    pub root_hash: [u8; 32],
    /// Offset in bytes where the log ends now, a multiple of 4096.
    pub log_end: u64,
    /// Next free ids, after those of the table blocks that the checkpoint wrote.
    pub counters: Counters,
}

/// Why no checkpoint was written.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The checkpoint failed, and everything it wrote was cut off again. It may be tried again.
    #[error("no checkpoint was written to the image: {0}")]
    GivenUp(#[source] MetaError),
    /// A sync failed, so it is not known which bytes of the image are durable.
    #[error("cannot make a checkpoint of the image durable: {0}")]
    NotDurable(#[source] LogError),
    /// The checkpoint failed, and what it wrote could not be cut off again.
    #[error("no checkpoint was written to the image ({source}), and its incomplete bytes cannot be cut off: {cut}")]
    NotCutOff {
        /// The error that made the checkpoint fail.
        source: Box<MetaError>,
        /// The error of cutting off what was written.
        cut: LogError,
    },
}

impl CheckpointError {
    /// Returns whether no later checkpoint can succeed either. The caller must then not try again.
    pub fn is_final(&self) -> bool {
        !matches!(self, CheckpointError::GivenUp(_))
    }

    /// Returns the kind of the storage's error, for example `StorageFull`, or `None` if the error was not one of the
    /// storage.
    pub fn storage_kind(&self) -> Option<io::ErrorKind> {
        let mut error: Option<&(dyn Error + 'static)> = self.source();
        while let Some(cause) = error {
            if let Some(storage) = cause.downcast_ref::<StorageError>() {
                return Some(storage.kind());
            }
            // A transparent error hides its source from the chain, but not the sources of that source.
            if let Some(system) = cause.downcast_ref::<io::Error>() {
                return Some(system.kind());
            }
            error = cause.source();
        }
        None
    }
}

/// Appends the table blocks that `input.changes` changes, the changed blocks of the map, and a root to `log`, which is
/// the writer of the image's log, and makes them durable.
///
/// # Errors
/// See [`CheckpointError`].
pub fn write_checkpoint(log: &mut LogWriter, input: CheckpointInput<'_>) -> Result<Written, CheckpointError> {
    let begin = log.end();
    let given_up = |log: &mut LogWriter, source| match log.cut_back(begin) {
        Ok(()) => CheckpointError::GivenUp(source),
        Err(cut) => CheckpointError::NotCutOff { source: Box::new(source), cut },
    };
    let (root, place, root_hash, counters) = append(log, &input).map_err(|source| given_up(log, source))?;
    match log.sync() {
        Ok(()) => Ok(Written { root, place, root_hash, log_end: log.end(), counters }),
        Err(error) if log.is_stopped() => Err(CheckpointError::NotDurable(error)),
        // Only the pad failed: nothing was synced.
        Err(error) => Err(given_up(log, error.into())),
    }
}

fn append(log: &mut LogWriter, input: &CheckpointInput<'_>) -> Result<(Root, Place, [u8; 32], Counters), MetaError> {
    let (version, old) = (input.version, input.version.root());
    let mut counters = input.counters.larger(Counters::of(old));
    let (mut subchunk, mut superchunk) = (counters.subchunk, counters.superchunk);
    let mut map = MapRows::default();
    let mut root = *old;
    let target = old.params.table_block as usize;
    let compression = compression(old)?;
    let mut writer = TableWriter::new(log, &mut map, &mut subchunk, &mut superchunk, compression, target);
    for table in TABLES {
        // Identities are written before snapshots: a new snapshot names the tree written here.
        let new = input.snapshot.filter(|_| table.id() == schema::SNAPSHOTS.id());
        let new = new.map(|new| new.write(&mut writer, root.view.identities_tree)).transpose()?;
        if input.changes.says_nothing_of(table) && new.is_none() {
            continue;
        }
        // Its key is above all others.
        let mut changes = input.changes.changes(table).chain(new.map(Change::Put));
        let tree = writer.change(&version.tree(table), version, &mut changes)?;
        *tree_of(&mut root, table) = tree.to_ref()?;
    }
    let interior_offset = writer.flush_interior()?;
    let changes = input.changes.changes(&schema::MAP);
    let before = version.head().log_end.0;
    let (tree, _) = writer.finish_change(&version.tree(&schema::MAP), version, changes, before)?;
    (counters.subchunk, counters.superchunk) = (subchunk, superchunk);

    let (subchunks, bytes) = frozen(version, input.changes)?;
    root.subchunks = old.subchunks.saturating_add(subchunks);
    root.unique_bytes = old.unique_bytes.saturating_add(bytes);
    root.shared_bytes = old.shared_bytes.saturating_add(input.shared);
    root.map = tree.to_map_ref()?;
    root.interior_offset = interior_offset;
    (root.view.inodes, root.view.bytes) = (input.inodes, input.bytes);
    (root.time, root.time_ns) = (input.time.secs, input.time.nanos);
    root.next_inode = counters.inode;
    root.next_content = counters.content;
    root.next_tiny = counters.tiny;
    root.next_xattrs = counters.xattrs;
    root.next_ordinal = counters.ordinal;
    root.next_subchunk = counters.subchunk;
    root.next_superchunk = counters.superchunk;
    root.thaw_log_id = input.thaw.log_id;
    root.thaw_transaction = input.thaw.transaction;
    root.thaw_offset = input.thaw.offset;
    let (stored, root_hash) = root.encode();
    // A root that readers refuse must not be written.
    if Root::decode(&stored, &root_hash)? != root {
        return Err(FormatError::invalid("root", "it does not decode to the value that was encoded").into());
    }
    let place = append_twice(log, FrameKind::ROOT, &stored)?;
    Ok((root, place, root_hash, counters))
}

/// Returns the number of the subchunks of file data that `changes` add to those of `version`, and the sum of their
/// lengths. The changed rows of the map are only for such subchunks: the rows for table blocks are made by the checkpoint
/// itself.
fn frozen(version: &Image, changes: &Overlay) -> Result<(u64, u64), MetaError> {
    let (mut subchunks, mut bytes) = (0u64, 0u64);
    let mut count = |len: u32| bytes = bytes.saturating_add(len.into());
    for change in changes.changes(&schema::MAP) {
        let Change::Put(row) = change else { continue };
        let id = SubchunkId(row.key.b);
        // gc replaces rows by shorter ones, of subchunks that are not new.
        if ![SPACE_SUBCHUNKS, SPACE_RECIPES].contains(&row.key.a) || version.locate(id)?.is_some() {
            continue;
        }
        if row.key.a == SPACE_RECIPES {
            let recipes = RecipeRow::decode(id, &row.ints, &row.tail)?;
            recipes.iter().for_each(|(_, recipe)| count(recipe.subchunk_len()));
            continue;
        }
        let run = SubchunkRun::decode(id, &row.ints, &row.tail)?;
        subchunks = subchunks.saturating_add(run.lens.len() as u64);
        let is_whole = |n: &usize| run.composed.get(*n) != Some(&true);
        run.lens.iter().enumerate().filter(|(n, _)| is_whole(n)).for_each(|(_, &len)| count(len));
    }
    Ok((subchunks, bytes))
}

/// Returns the compression of table blocks: that of the image's parameters, but with a zstd level of at most [`LEVEL`].
fn compression(root: &Root) -> Result<Compression, FormatError> {
    Ok(match Compression::from_numbers(root.params.codec, root.params.level)? {
        Compression::None => Compression::None,
        Compression::Zstd(level) => Compression::Zstd(level.min(LEVEL)),
        Compression::Xz(_) => Compression::Zstd(LEVEL),
    })
}

/// Returns the field of a root that names the tree of `table`. `table` is not the map.
fn tree_of<'r>(root: &'r mut Root, table: &Table) -> &'r mut TreeRef {
    let view = &mut root.view;
    match table.id().0 {
        1 => &mut view.inodes_tree,
        2 => &mut view.dirents_tree,
        3 => &mut view.contents_tree,
        4 => &mut view.xattrs_tree,
        5 => &mut view.tiny_tree,
        6 => &mut root.orphans_tree,
        7 => &mut view.identities_tree,
        9 => &mut root.snapshots_tree,
        10 => &mut root.thawed_tree,
        _ => &mut root.shares_tree,
    }
}
