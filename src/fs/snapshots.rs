//! Making a snapshot: a moment of the filesystem under a name, while the head goes on [18].
//!
//! 1. A checkpoint: its sealed state is the moment, and its root has the moment's trees.
//! 2. In memory the moment loses its orphans.
//! 3. Its thawed ranges are frozen, batch after batch: superchunks are published for the head as by any freeze, and spliced
//!    into the moment.
//! 4. Another checkpoint writes the changed blocks of the moment's trees, and in the same root the row of the snapshot: so
//!    there is the whole snapshot after it, and before it none.
//!
//! Nobody waits but for what they wait for when a freeze or a checkpoint is made.
//!
//! Invariant: gc is kept out from 1 to 4, for what the moment names need not be named by the head any more. Called by tests;
//! later by fuse and cli.

use super::FsError;
use super::freezing::FreezeHow;
use super::freezing::moment::Moment;
use super::live::Live;
use crate::format::block::KeyRef;
use crate::format::ids::InodeId;
use crate::format::rows::SnapshotRow;
use crate::format::rows::dirent::check_name;
use crate::format::{FormatError, limits, schema};
use crate::meta::{MetaError, NewSnapshot};
use std::sync::Arc;
use thiserror::Error;

/// Why no snapshot was made.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// No snapshot can have this name.
    #[error("this cannot be the name of a snapshot: {0}")]
    Name(#[source] FormatError),
    /// The comment is too long.
    #[error("the comment has {len} bytes; at most {} are possible", limits::SNAPSHOT_COMMENT)]
    Comment {
        /// Its length in bytes.
        len: usize,
    },
    /// There is one of this name.
    #[error("there is a snapshot '{name}' already")]
    Exists {
        /// The name.
        name: String,
    },
    /// A snapshot has all bytes of its files, and some are lost.
    #[error("bytes of inode {inode} are lost: restore or delete the file first ('find -inum {inode}' finds it)")]
    Lost {
        /// The file.
        inode: InodeId,
    },
    /// A snapshot has all bytes of its files, and some cannot be read.
    #[error("inode {inode} cannot be read: {error}; restore or delete the file first ('find -inum {inode}' finds it)")]
    Unreadable {
        /// The file.
        inode: InodeId,
        /// Why.
        #[source]
        error: FsError,
    },
    /// The caller asked for it.
    #[error("interrupted")]
    Stopped,
    /// The filesystem refuses changes, or has no space for this one.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl Live {
    /// Makes a snapshot of a moment within this call, and gives its ordinal. It is durable then. `how` says how to freeze: its
    /// `stop` is asked often, and everything is frozen whatever it says of that.
    ///
    /// # Errors
    /// See [`SnapshotError`]. There is no snapshot then, and it may be tried again, unless changes are refused from now on:
    /// after a failure of the last sync of the image it is not known whether there is one.
    pub fn snapshot_now(&self, name: &[u8], comment: &[u8], how: &FreezeHow<'_>) -> Result<u64, SnapshotError> {
        check_name(name).map_err(SnapshotError::Name)?;
        if comment.len() as u64 > limits::SNAPSHOT_COMMENT {
            return Err(SnapshotError::Comment { len: comment.len() });
        }
        let _one = self.snapshots.lock();
        self.is_free(name)?;
        let how = FreezeHow { everything: true, deep: false, ..*how };
        self.begin()?;
        // Under the lock of freezes: gc is not at work, and does not begin.
        let (_making, mut moment) = {
            let _no_gc = self.freezing.lock();
            let making = self.snapshots.begin();
            let time = self.now();
            (making, Moment::new(self.checkpoint_moment()?, Arc::clone(&self.ids), time))
        };
        #[cfg(test)]
        self.freezer.at(super::freezing::control::Step::Taken);
        //= format-spec.md#10
        //# What had no name at its moment is not in it, even if it was open.
        moment.reap()?;
        if let Some(inode) = moment.first_lost()? {
            return Err(SnapshotError::Lost { inode });
        }
        self.freeze_moment(&mut moment, &how)?;
        #[cfg(test)]
        self.freezer.at(super::freezing::control::Step::Packed);
        if (how.stop)() {
            return Err(SnapshotError::Stopped);
        }
        if let Some((inode, error)) = moment.take_unreadable()? {
            return Err(SnapshotError::Unreadable { inode, error });
        }
        let time = moment.time();
        let (version, changes) = (moment.view().version(), moment.changes());
        Ok(self.checkpoint_with(NewSnapshot { ordinal: 0, name, comment, time, version, changes })?)
    }

    fn is_free(&self, name: &[u8]) -> Result<(), SnapshotError> {
        let view = self.snapshot().view().clone();
        let meta = |error: MetaError| SnapshotError::Fs(error.into());
        let mut cursor = view.cursor_at(&schema::SNAPSHOTS, KeyRef::new(0, 0)).map_err(meta)?;
        while let Some(row) = cursor.row() {
            if SnapshotRow::decode(row.tail()).map_err(|error| meta(error.into()))?.name == name {
                return Err(SnapshotError::Exists { name: String::from_utf8_lossy(name).into_owned() });
            }
            cursor.advance(&view).map_err(meta)?;
        }
        Ok(())
    }
}
