//! Makes a snapshot: gives a moment of the filesystem a name, while the head goes on [18].
//!
//! 1. A checkpoint: its sealed state is the moment, and its root has the moment's trees.
//! 2. In memory, the moment's orphans are deleted.
//! 3. Its thawed ranges are frozen, batch after batch: superchunks are published for the head as in any freeze, and
//!    spliced into the moment.
//! 4. Another checkpoint writes the changed blocks of the moment's trees and, in the same root, the row of the
//!    snapshot. So before it there is no snapshot, and after it there is the whole one.
//!
//! Operations wait no longer than for any freeze or checkpoint.
//!
//! Invariant: gc is kept out from 1 to 4, since the head may no longer name what the moment names. Only tests call it
//! so far.

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
    /// The name is not valid for a snapshot.
    #[error("cannot make a snapshot of this name: {0}")]
    Name(#[source] FormatError),
    /// The comment is too long.
    #[error("cannot make a snapshot: its comment has {len} bytes, the limit is {}", limits::SNAPSHOT_COMMENT)]
    Comment {
        /// Length of the comment in bytes.
        len: usize,
    },
    /// A snapshot of this name exists.
    #[error("cannot make a snapshot '{name}': one of this name already exists (choose another name)")]
    Exists {
        /// The name that is taken.
        name: String,
    },
    /// A snapshot must have all bytes of its files, but some are lost.
    #[error(
        "cannot make a snapshot: bytes of inode {inode} are lost (restore or delete the file first; 'find -inum \
         {inode}' finds it)"
    )]
    Lost {
        /// Inode number of the first file with lost bytes.
        inode: InodeId,
    },
    /// A snapshot must have all bytes of its files, but some cannot be read.
    #[error(
        "cannot make a snapshot: inode {inode} cannot be read: {error} (restore or delete the file first; 'find -inum \
         {inode}' finds it)"
    )]
    Unreadable {
        /// Inode number of a file that cannot be read.
        inode: InodeId,
        /// Why the file cannot be read.
        #[source]
        error: FsError,
    },
    /// The caller asked to stop.
    #[error("making the snapshot was interrupted: there is no snapshot")]
    Stopped,
    /// The filesystem refuses changes, or has no space for the snapshot.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl Live {
    /// Makes a snapshot of a moment during this call, and returns its ordinal. The snapshot is durable then. `how` says
    /// how to freeze: its `stop` is called often; its `everything` and `deep` are ignored.
    ///
    /// # Errors
    /// Fails with a [`SnapshotError`]. There is no snapshot then, and the call may be repeated, unless changes are
    /// refused from now on: after the last sync of the image has failed, nobody knows whether the snapshot exists.
    pub fn snapshot_now(&self, name: &[u8], comment: &[u8], how: &FreezeHow<'_>) -> Result<u64, SnapshotError> {
        check_name(name).map_err(SnapshotError::Name)?;
        if comment.len() as u64 > limits::SNAPSHOT_COMMENT {
            return Err(SnapshotError::Comment { len: comment.len() });
        }
        let _one = self.snapshots.lock();
        self.is_free(name)?;
        let how = FreezeHow { everything: true, deep: false, ..*how };
        self.begin()?;
        // Under the lock of freezes: gc is not running, and cannot begin.
        let (_making, mut moment) = {
            let _no_gc = self.freezing.lock();
            let making = self.snapshots.begin();
            let time = self.now();
            (making, Moment::new(self.checkpoint_moment()?, Arc::clone(&self.ids), time))
        };
        #[cfg(test)]
        self.freezer.at(super::freezing::control::Step::Taken);
        //= format-spec.md#10
        //# An inode without a name at that moment is not in it, even if it was open.
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
        let now = self.snapshot();
        let view = now.view();
        let meta = |error: MetaError| SnapshotError::Fs(error.into());
        let mut cursor = view.cursor_at(&schema::SNAPSHOTS, KeyRef::new(0, 0)).map_err(meta)?;
        while let Some(row) = cursor.row() {
            if SnapshotRow::decode(row.tail()).map_err(|error| meta(error.into()))?.name == name {
                return Err(SnapshotError::Exists { name: String::from_utf8_lossy(name).into_owned() });
            }
            cursor.advance(view).map_err(meta)?;
        }
        Ok(())
    }
}
