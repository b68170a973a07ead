//! Where a filesystem takes its snapshots from: an image that nobody changes, or one that is being written.

use super::snapshot::Snapshot;
use std::ops::Deref;
use std::sync::Arc;

/// A filesystem that is being written, and that returns its state at any moment.
pub trait SnapshotSource: Send + Sync {
    /// Returns the present state.
    fn snapshot(&self) -> Snapshot;
}

/// Source of the snapshots that a filesystem serves.
pub(super) enum Source {
    /// An image that nobody changes, which has only this snapshot.
    Fixed(Box<Snapshot>),
    /// A filesystem that is being written: each snapshot is a new one.
    Live(Arc<dyn SnapshotSource>),
}

impl Source {
    /// Returns the present state. For an image that nobody changes it is borrowed, so that threads do not share a
    /// reference count.
    pub(super) fn take(&self) -> Taken<'_> {
        match self {
            Source::Fixed(snapshot) => Taken::Borrowed(snapshot),
            Source::Live(source) => Taken::Owned(Box::new(source.snapshot())),
        }
    }
}

/// A snapshot, borrowed or owned.
pub(super) enum Taken<'a> {
    Borrowed(&'a Snapshot),
    Owned(Box<Snapshot>),
}

impl Deref for Taken<'_> {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        match self {
            Taken::Borrowed(snapshot) => snapshot,
            Taken::Owned(snapshot) => snapshot,
        }
    }
}
