//! Where a filesystem takes its snapshots from: an image that nobody changes, or one that is being written.

use super::snapshot::Snapshot;
use std::ops::Deref;
use std::sync::Arc;

/// What is being written, and shows itself as it is at any moment.
pub trait SnapshotSource: Send + Sync {
    /// The state at this moment.
    fn snapshot(&self) -> Snapshot;
}

/// Where snapshots come from.
pub(super) enum Source {
    /// There is only this one.
    Fixed(Box<Snapshot>),
    /// Each is another.
    Live(Arc<dyn SnapshotSource>),
}

impl Source {
    /// The state at this moment. Of an image that nobody changes it is borrowed: threads share no counter for it.
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
