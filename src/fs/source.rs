//! Where a filesystem takes its snapshots from: an image that nobody changes, or one that is being written.

use super::snapshot::Snapshot;
use std::ops::Deref;
use std::sync::Arc;

/// A filesystem that is being written, and returns its state at any moment.
pub trait SnapshotSource: Send + Sync {
    /// The present state.
    fn snapshot(&self) -> Snapshot;
}

/// Where snapshots come from.
pub(super) enum Source {
    /// There is only this snapshot.
    Fixed(Box<Snapshot>),
    /// Each snapshot is a new one.
    Live(Arc<dyn SnapshotSource>),
}

impl Source {
    /// The present state. For an image that nobody changes it is borrowed, so that threads do not share a reference
    /// count.
    pub(super) fn take(&self) -> Taken<'_> {
        match self {
            Source::Fixed(snapshot) => Taken::Borrowed(snapshot),
            Source::Live(source) => Taken::Owned(Box::new(source.snapshot())),
        }
    }
}

/// A snapshot.
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
