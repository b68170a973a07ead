//! The state of a filesystem at one moment: everything that a request reads comes from one snapshot [6].
//!
//! A snapshot costs a few reference counts. It keeps what it shows: rows, table blocks, and the open files of the thaw
//! log's segments, which stay readable after they are removed. Made by `Fs` and `live`.

use crate::format::ids::{InodeId, LogOffset};
use crate::meta::View;
use crate::thaw::Segments;
use std::sync::Arc;

/// Number of open handles of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handles {
    /// Number of all handles.
    pub all: u32,
    /// Number of handles that may write.
    pub writing: u32,
}

/// Numbers of handles of the inodes that are open.
pub(super) type Opens = imbl::OrdMap<InodeId, Handles>;

/// The state of a filesystem at one moment. It does not change afterwards.
#[derive(Clone)]
pub struct Snapshot {
    /// All tables at the moment of the snapshot.
    pub(super) view: View,
    /// Segments with written bytes; `None` without a thaw log.
    pub(super) segments: Option<Arc<Segments>>,
    /// Frames of the thaw log before this offset are older than this mount: they are verified before they are used.
    // Case 16.
    pub(super) session: LogOffset,
    /// Inodes that are open, with their handles.
    pub(super) opens: Opens,
    /// The number of changes so far.
    pub(super) stamp: u64,
    /// Number of times that the layers of the view (version, sealed overlay, active overlay) were exchanged. A view can
    /// replace another one only if both have the same layers.
    pub(super) layout: u64,
    /// A reference count (pin): as long as it exists, everything that the view names must stay.
    pub(super) _pin: Arc<()>,
}

impl Snapshot {
    /// Makes the snapshot of an image that nobody changes.
    pub fn fixed(view: View) -> Self {
        Snapshot {
            view,
            segments: None,
            session: LogOffset(0),
            opens: Opens::new(),
            stamp: 0,
            layout: 0,
            _pin: Arc::default(),
        }
    }

    /// Returns whether an inode has no name any more.
    pub(super) fn is_nameless(&self, inode: InodeId) -> bool {
        self.view.inode(inode).is_ok_and(|row| row.is_none())
    }

    /// Returns all tables.
    pub fn view(&self) -> &View {
        &self.view
    }
}
