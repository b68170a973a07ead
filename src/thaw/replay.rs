//! Applies the transactions of a thaw log to a version of the image. The result is an overlay, counters and totals.
//!
//! Operations are applied in order to a view of the version, and nothing is written. Afterwards every row of `thawed`
//! is lost or names a frame that is not known to be damaged; counters are above the ids in use; totals equal those of a
//! full scan. Called by `fs`, which continues from the result, and by `care`, which only checks.

use super::carry::Moved;
use super::extents;
use super::{Recovered, ThawError};
use crate::format::block::{Key, KeyRef};
use crate::format::ids::{InodeId, LogOffset};
use crate::format::limits;
use crate::format::rows::{FileType, InodeRow, ThawedBytes, ThawedRow};
use crate::format::schema::{self, Table};
use crate::format::transaction::{Counters, Operation, Thawed, Transaction};
use crate::meta::{Image, MetaError, Overlay, View, counters_are_free};
use crate::table::Change;
use std::collections::BTreeSet;
use std::sync::Arc;
use thiserror::Error;

/// Number of rows that are deleted at once. It bounds the memory for a range of keys, besides the tombstones.
const BATCH: usize = 4096;

/// Why a thaw log was not replayed.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The image's tables cannot be read, or a counter is not above an id in use.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The log cannot be read.
    #[error(transparent)]
    Thaw(#[from] ThawError),
    /// A transaction contains a change that is not allowed.
    #[error("transaction {number} of the thaw log {why}")]
    Transaction {
        /// Number of the transaction.
        number: u64,
        /// What the transaction does that is not allowed.
        why: &'static str,
    },
}

/// The changes that the replay recovered and the image did not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BroughtBack {
    /// Number of files with changed attributes or bytes.
    pub files: u64,
    /// Number of bytes that were written.
    pub bytes: u64,
    /// Number of commits.
    pub commits: u64,
}

/// A version of the image together with the changes in the thaw log.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// Rows that the thaw log changes, compared with the version of the image.
    pub overlay: Overlay,
    /// Next free ids.
    pub counters: Counters,
    /// Number of inodes that the filesystem has with the changes.
    pub inodes: u64,
    /// Sum of the sizes of the regular files in bytes.
    pub bytes: u64,
    /// Ranges that are lost because their frames are damaged, as operations for the next commit. Their rows are in the
    /// overlay.
    pub lost: Vec<Operation>,
    /// Figures about what was recovered, for messages.
    pub brought_back: BroughtBack,
}

impl Replayed {
    /// Makes the result for a version without changes in a log.
    pub fn nothing(version: &Image) -> Self {
        let root = version.root();
        Replayed {
            overlay: Overlay::default(),
            counters: Counters::of(root),
            inodes: root.view.inodes,
            bytes: root.view.bytes,
            lost: Vec::new(),
            brought_back: BroughtBack::default(),
        }
    }

    /// Returns whether something differs from `version`.
    pub fn changes(&self, version: &Image) -> bool {
        !self.overlay.is_empty() || self.counters != Replayed::nothing(version).counters
    }

    /// Changes ranges to name the copies of their frames.
    pub fn follow(&mut self, moved: &Moved) {
        if moved.is_empty() {
            return;
        }
        let rows: Vec<_> = self.overlay.changes(&schema::THAWED).collect();
        for change in rows {
            let Change::Put(mut row) = change else { continue };
            let Some(frame) = row.ints.get_mut(1) else { continue };
            if let Some(to) = moved.get(&LogOffset(*frame)) {
                *frame = to.0;
                if *to == Thawed::LOST {
                    row.ints.truncate(1);
                    row.ints.extend([0, 0]);
                    row.tail = vec![0; 8];
                }
                self.overlay.set(&schema::THAWED, row.key.clone(), Some(row));
            }
        }
    }
}

/// Replays the transactions of `recovered` after number `contained`, which `version` contains. Takes memory in
/// proportion to the changes.
///
/// # Errors
/// Fails with a [`ReplayError`].
pub fn replay(version: &Arc<Image>, recovered: &Recovered, contained: u64) -> Result<Replayed, ReplayError> {
    let Replayed { counters, .. } = Replayed::nothing(version);
    let mut replay = Replay {
        view: View::of(Arc::clone(version)),
        counters,
        files: BTreeSet::new(),
        brought_back: BroughtBack::default(),
        in_group: false,
    };
    recovered.replay(contained, |transaction| replay.transaction(transaction))?;
    let lost = replay.lose(recovered)?;
    let Replay { view, counters, files, mut brought_back, .. } = replay;
    brought_back.files = files.len() as u64;
    //= format-spec.md#11.3
    //# After a replay each counter is above the last keys of the tables with its ids (9).
    counters_are_free(&view, &counters)?;
    let (inodes, bytes) = totals(&view)?;
    Ok(Replayed { overlay: view.active().clone(), counters, inodes, bytes, lost, brought_back })
}

struct Replay {
    view: View,
    counters: Counters,
    files: BTreeSet<u64>,
    brought_back: BroughtBack,
    /// Whether the group of the previous transaction continues, and has had operations already.
    in_group: bool,
}

impl Replay {
    fn transaction(&mut self, transaction: Transaction) -> Result<(), ReplayError> {
        let Transaction { info, operations } = transaction;
        if !operations.is_empty() && !self.in_group {
            self.brought_back.commits = self.brought_back.commits.saturating_add(1);
        }
        self.in_group = info.more_follows && (self.in_group || !operations.is_empty());
        for operation in operations {
            self.operation(info.number, operation)?;
        }
        Ok(())
    }

    fn operation(&mut self, number: u64, operation: Operation) -> Result<(), ReplayError> {
        match operation {
            Operation::Put(table, row) => {
                by_interval(number, table)?;
                if *table == schema::INODES {
                    self.files.insert(row.key.a);
                }
                self.view.active_mut().set(table, row.key.clone(), Some(row));
            }
            Operation::Delete(table, key) => {
                by_interval(number, table)?;
                self.delete(table, key)?;
            }
            Operation::DeleteRange(table, from, to) => {
                by_interval(number, table)?;
                self.delete_range(table, from, &to)?;
            }
            Operation::Thawed(thawed) => {
                if thawed.frame.0 >= limits::IMAGE_LEN {
                    let why = "names a frame beyond any log";
                    return Err(ReplayError::Transaction { number, why });
                }
                self.files.insert(thawed.inode.0);
                self.brought_back.bytes = self.brought_back.bytes.saturating_add(thawed.len);
                self.splice(thawed.inode, thawed.offset, thawed.len, Some(&thawed))?;
            }
            Operation::NotThawed { inode, offset, len } => self.splice(inode, offset, len, None)?,
            Operation::Counters(counters) => self.counters = self.counters.larger(counters),
            // The root itself says what it contains.
            Operation::Checkpoint { .. } => {}
        }
        Ok(())
    }

    fn splice(&mut self, inode: InodeId, offset: u64, len: u64, put: Option<&Thawed>) -> Result<(), MetaError> {
        for (key, row) in extents::replace(&self.view, inode, offset, len, put)? {
            match row {
                Some(row) => self.view.active_mut().set(&schema::THAWED, key, Some(row)),
                None => self.delete(&schema::THAWED, key)?,
            }
        }
        Ok(())
    }

    fn delete(&mut self, table: &'static Table, key: Key) -> Result<(), MetaError> {
        // A tombstone is needed only if the version has the row.
        let version = self.view.version();
        if version.tree(table).get(&**version, key.as_ref())?.is_some() {
            self.view.active_mut().set(table, key, None);
        } else {
            self.view.active_mut().forget(table, key.as_ref());
        }
        Ok(())
    }

    fn delete_range(&mut self, table: &'static Table, from: Key, to: &Key) -> Result<(), MetaError> {
        loop {
            let mut keys = Vec::new();
            let mut cursor = self.view.cursor_within(table, from.as_ref(), to.clone())?;
            while let Some(row) = cursor.row() {
                keys.push(row.key().to_key());
                if keys.len() == BATCH {
                    break;
                }
                cursor.advance(&self.view)?;
            }
            let done = keys.len() < BATCH;
            for key in keys {
                self.delete(table, key)?;
            }
            if done {
                return Ok(());
            }
        }
    }

    //= format-spec.md#11.5
    //# A range is lost if it names a frame in such bytes, or a frame at an offset where the log has no bytes. No other
    //# range is lost.
    /// Marks all ranges that name damaged frames as lost, those of the version too. Returns the operations that do it.
    fn lose(&mut self, recovered: &Recovered) -> Result<Vec<Operation>, MetaError> {
        let mut lost = Vec::new();
        let mut cursor = self.view.cursor_at(&schema::THAWED, KeyRef::new(0, 0))?;
        while let Some(row) = cursor.row() {
            let (key, row) = (row.key().to_key(), ThawedRow::decode(row.key().b, row.ints(), row.tail())?);
            if let ThawedBytes::InLog { frame, .. } = row.bytes
                && recovered.is_lost(frame)
            {
                lost.push((InodeId(key.a), key.b, row.length));
            }
            cursor.advance(&self.view)?;
        }
        let mut operations = Vec::new();
        for (inode, offset, len) in lost {
            let thawed = Thawed { inode, offset, len, frame: Thawed::LOST, within: 0, sum: 0 };
            self.splice(inode, offset, len, Some(&thawed))?;
            operations.push(Operation::Thawed(thawed));
        }
        Ok(operations)
    }
}

//= format-spec.md#11.3
//# The operations on rows apply to all tables, also to the map; only operations 3 and 4 change rows of table `thawed`.
/// Returns an error for rows of `thawed`, which only operations on ranges may change.
fn by_interval(number: u64, table: &'static Table) -> Result<(), ReplayError> {
    if *table == schema::THAWED {
        return Err(ReplayError::Transaction { number, why: "changes a row of table thawed as a row" });
    }
    Ok(())
}

/// Returns the number of inodes in the view, and the sum of the sizes of its regular files in bytes. It takes both
/// totals from the root, and corrects them by the rows that have changed since.
fn totals(view: &View) -> Result<(u64, u64), MetaError> {
    let version = view.version();
    let (mut inodes, mut bytes) = (version.root().view.inodes, version.root().view.bytes);
    for change in view.active().changes(&schema::INODES) {
        let (inode, now) = match &change {
            Change::Put(row) => (row.key.a, Some(InodeRow::decode(&row.ints, &row.tail)?)),
            Change::Delete(key) => (key.a, None),
        };
        if let Some(before) = version.inode(InodeId(inode))? {
            (inodes, bytes) = (inodes.saturating_sub(1), bytes.wrapping_sub(size(&before)));
        }
        if let Some(now) = now {
            (inodes, bytes) = (inodes.saturating_add(1), bytes.wrapping_add(size(&now)));
        }
    }
    Ok((inodes, bytes))
}

fn size(row: &InodeRow) -> u64 {
    if row.file_type == FileType::Regular { row.size } else { 0 }
}
