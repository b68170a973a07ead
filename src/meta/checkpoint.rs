//! A checkpoint: changed rows become changed blocks, and these a root.
//!
//! Invariants: the version that it starts from stays as it is, and everything the new root names is synced before a head may
//! name it. If a checkpoint is given up, its frames are cut off again, so the log ends where it did before; the ids it used are
//! given out again, as nothing has them. Called by who has sealed an overlay whose commit is durable, and who then publishes
//! the root ([`Heads`](super::Heads)) and makes the next version ([`Image::successor`]).

use super::overlay::Overlay;
use super::snapshots::NewSnapshot;
use super::writer::{MapRows, TableWriter, append_twice};
use super::{Image, MetaError};
use crate::format::FormatError;
use crate::format::codec::Compression;
use crate::format::frame::FrameKind;
use crate::format::ids::SubchunkId;
use crate::format::place::Place;
use crate::format::root::Root;
use crate::format::rows::map::SPACE_SUBCHUNKS;
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

/// Table blocks are compressed with this level of zstd at most: a checkpoint holds up unmount, and its blocks are replaced
/// by those of later ones.
const LEVEL: i32 = 6;

/// All tables but the map, in the order they are written: as `pack` does, what is read together is next to the interior
/// blocks.
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

/// What of the thaw log a root contains; all 0 without a thaw log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThawMark {
    /// The log.
    pub log_id: u64,
    /// The last transaction that the root contains.
    pub transaction: u64,
    /// Where in the log that transaction ends.
    pub offset: u64,
}

/// What a checkpoint is made of.
#[derive(Clone, Copy)]
pub struct CheckpointInput<'a> {
    /// What it starts from. Its log is the one that is written to.
    pub version: &'a Image,
    /// The rows that are others than the version's.
    pub changes: &'a Overlay,
    /// Next free ids; where the version has a larger one, that counts.
    pub counters: Counters,
    /// Inodes of the view.
    pub inodes: u64,
    /// Bytes of its regular files, each inode once.
    pub bytes: u64,
    /// Bytes that were found to be in the image when they were frozen, since the version.
    pub shared: u64,
    /// When it is made.
    pub time: Time,
    /// What of the thaw log it contains.
    pub thaw: ThawMark,
    /// A snapshot that it writes, too. Its ordinal is below the counter's.
    pub snapshot: Option<NewSnapshot<'a>>,
}

/// A root that is durable, but that no head names yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The root.
    pub root: Root,
    /// Where it lies, and its copy.
    pub place: Place,
    /// What a head has to say of it.
    pub root_hash: [u8; 32],
    /// Where the log ends now, a multiple of 4096.
    pub log_end: u64,
    /// Next free ids, after those of the blocks written.
    pub counters: Counters,
}

/// Why there is no checkpoint.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// It was given up, and nothing of it is left: it may be tried again.
    #[error("the checkpoint was given up: {0}")]
    GivenUp(#[source] MetaError),
    /// It is not known what of the image is durable.
    #[error("the image could not be made durable: {0}")]
    NotDurable(#[source] LogError),
    /// It was given up, but what it wrote could not be cut off again.
    #[error("the checkpoint was given up ({source}), but what it wrote could not be cut off again: {cut}")]
    NotCutOff {
        /// Why it was given up.
        source: Box<MetaError>,
        /// Why nothing was cut off.
        cut: LogError,
    },
}

impl CheckpointError {
    /// Whether no later checkpoint can succeed: the caller latches.
    pub fn is_final(&self) -> bool {
        !matches!(self, CheckpointError::GivenUp(_))
    }

    /// What kind of error the storage gave, if it was the storage: `StorageFull` for want of space.
    pub fn storage_kind(&self) -> Option<io::ErrorKind> {
        let mut error: Option<&(dyn Error + 'static)> = self.source();
        while let Some(cause) = error {
            if let Some(storage) = cause.downcast_ref::<StorageError>() {
                return Some(storage.kind());
            }
            // Errors that pass on another's words hide it from the chain, but not what is below it.
            if let Some(system) = cause.downcast_ref::<io::Error>() {
                return Some(system.kind());
            }
            error = cause.source();
        }
        None
    }
}

/// Appends the blocks that `input.changes` change, the map's with them, and a root, and makes all that durable. `log` is the
/// writer of the version's log.
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
        // Only the padding failed: nothing was synced.
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
        // Identities come before snapshots: a new one has those that are written here.
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
    let (tree, _) = writer.finish_change(&version.tree(&schema::MAP), version, changes)?;
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
    // What no reader would take must not be written.
    if Root::decode(&stored, &root_hash)? != root {
        return Err(FormatError::invalid("root", "it does not come back as it is").into());
    }
    let place = append_twice(log, FrameKind::ROOT, &stored)?;
    Ok((root, place, root_hash, counters))
}

/// Subchunks of file data that came since the version, and their bytes. Changes of the map are rows of such: those of table
/// blocks are made by the checkpoint itself.
fn frozen(version: &Image, changes: &Overlay) -> Result<(u64, u64), MetaError> {
    let (mut subchunks, mut bytes) = (0u64, 0u64);
    let map = version.tree(&schema::MAP);
    for change in changes.changes(&schema::MAP) {
        let Change::Put(row) = change else { continue };
        if row.key.a != SPACE_SUBCHUNKS || map.get(version, row.key.as_ref())?.is_some() {
            continue;
        }
        let run = SubchunkRun::decode(SubchunkId(row.key.b), &row.ints, &row.tail)?;
        subchunks = subchunks.saturating_add(run.lens.len() as u64);
        bytes = run.lens.iter().fold(bytes, |sum, &len| sum.saturating_add(len.into()));
    }
    Ok((subchunks, bytes))
}

/// How blocks are compressed: as the image's parameters say, but no slower than [`LEVEL`].
fn compression(root: &Root) -> Result<Compression, FormatError> {
    Ok(match Compression::from_numbers(root.params.codec, root.params.level)? {
        Compression::None => Compression::None,
        Compression::Zstd(level) => Compression::Zstd(level.min(LEVEL)),
        Compression::Xz(_) => Compression::Zstd(LEVEL),
    })
}

/// Where a root names the tree of this table, which is not the map.
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
