//! Both head slots: read, verified and published. The only bytes of an image that are ever overwritten.
//!
//! Invariants: at every moment at least one slot holds a whole head, and what a slot names is durable before the slot is
//! written. So the *older* slot is written first and synced, then the other. Nothing is written where either slot is not
//! what this writer last read or wrote there: then somebody else writes to the image. After a failed write or sync it is not
//! known what is durable, so nothing more is published. Called by `pack`, and by who makes an image writable and ends a
//! checkpoint; the caller has synced all that the new head names.

use super::MetaError;
use super::open::{self, Slot};
use crate::format::FormatError;
use crate::format::head::{Head, RawHeadSlot};
use crate::storage::{HeadBytes, HeadIndex, Storage, StorageError};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Why a head was not published.
#[derive(Debug, Error)]
pub enum HeadError {
    /// A slot does not hold what this writer read or wrote there last. Nothing was written to either slot.
    #[error("head slot {slot} was changed by another writer")]
    HeadChanged {
        /// Which slot.
        slot: HeadIndex,
    },
    /// A slot could not be read back. Nothing was written to either since; it may be tried again.
    #[error("head slot {slot} cannot be read back: {source}")]
    ReadBack {
        /// Which slot.
        slot: HeadIndex,
        /// Why.
        source: StorageError,
    },
    /// A slot could not be written, or it is not known whether it is durable.
    #[error("head slot {slot} could not be made durable: {source}")]
    NotDurable {
        /// Which slot.
        slot: HeadIndex,
        /// Why.
        source: StorageError,
    },
    /// The new head is one that no reader would take. Nothing was written.
    #[error("a head that no reader would take: {0}")]
    Invalid(#[source] FormatError),
    /// An earlier publication failed in a way after which nothing more is written.
    #[error("an earlier head could not be published: nothing more is written to the head slots")]
    Stopped,
}

impl HeadError {
    /// Whether no later publication can succeed: the caller latches.
    pub fn is_final(&self) -> bool {
        !matches!(self, HeadError::ReadBack { .. } | HeadError::Invalid(_))
    }
}

/// A slot as it was last read or written.
struct Known {
    index: HeadIndex,
    bytes: HeadBytes,
    slot: Slot,
}

impl Known {
    fn new(index: HeadIndex, bytes: HeadBytes) -> Self {
        Known { index, bytes, slot: Slot::of(&bytes) }
    }

    /// Its generation if it can be used: a damaged slot is older than any other.
    fn usable(&self) -> Option<u64> {
        self.slot.head.as_ref().ok().map(|head| head.generation)
    }
}

/// Both head slots of an image, as its one writer knows them.
pub struct Heads {
    storage: Arc<dyn Storage>,
    known: [Known; 2],
    newest: Head,
    stopped: bool,
}

impl fmt::Debug for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generations = self.known.each_ref().map(Known::usable);
        f.debug_struct("Heads")
            .field("generations", &generations)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

impl Heads {
    /// Reads both slots.
    ///
    /// # Errors
    /// If neither can be used, if the newest that verifies needs a newer program, or if the storage cannot be read.
    pub fn read(storage: Arc<dyn Storage>) -> Result<Heads, MetaError> {
        let heads = open::read_heads(&*storage)?;
        let newest = heads.newest_first().map_err(MetaError::Unsupported)?.first().copied().cloned();
        let Some(newest) = newest else { return Err(heads.unusable()) };
        let known = |index| Ok::<_, StorageError>(Known::new(index, storage.read_head(index)?));
        let known = [known(HeadIndex::A)?, known(HeadIndex::B)?];
        Ok(Heads { known, newest, storage, stopped: false })
    }

    /// Publishes the first head of a new image, whose slots are all zero: generation 1 in slot A, 2 in slot B. The
    /// generation of `head` is not looked at.
    ///
    /// # Errors
    /// As [`Heads::publish`].
    pub fn create(storage: Arc<dyn Storage>, head: Head) -> Result<Heads, HeadError> {
        let known = HeadIndex::ALL.map(|index| Known::new(index, [0; RawHeadSlot::SIZE]));
        let mut heads = Heads { storage, known, newest: Head { generation: 0, ..head }, stopped: false };
        heads.publish(|_| ())?;
        Ok(heads)
    }

    /// The head with the highest generation that can be used.
    pub fn newest(&self) -> &Head {
        &self.newest
    }

    /// The heads of both slots, those that can be used.
    pub fn slots(&self) -> impl Iterator<Item = &Head> {
        self.known.iter().filter_map(|known| known.slot.head.as_ref().ok())
    }

    /// Whether an earlier failure keeps it from publishing for good.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Puts the newest head, as `change` makes it, into both slots, the older one first; each with the next generation,
    /// and each made durable before the next step. What the head names must be durable.
    ///
    /// # Errors
    /// See [`HeadError`]; [`HeadError::is_final`] says whether the caller may try again. A slot that was written and synced before
    /// the error stays, and is the newest head then.
    pub fn publish(&mut self, change: impl Fn(&mut Head)) -> Result<(), HeadError> {
        let mut head = self.newest.clone();
        change(&mut head);
        for _ in HeadIndex::ALL {
            self.replace_older(&head).inspect_err(|error| self.stopped |= error.is_final())?;
        }
        Ok(())
    }

    /// Writes `head`, with the next generation, to the older slot, durably.
    fn replace_older(&mut self, head: &Head) -> Result<(), HeadError> {
        if self.stopped {
            return Err(HeadError::Stopped);
        }
        // A slot that verifies but cannot be used has a generation, too: no head is given one again.
        let last = self.known.iter().filter_map(|known| known.slot.generation).max().unwrap_or(0);
        let Some(generation) = last.checked_add(1) else {
            return Err(HeadError::Invalid(FormatError::invalid(
                "head slot",
                "its generation is the last there can be",
            )));
        };
        let bytes = Head { generation, ..head.clone() }.encode();
        let written = Slot::of(&bytes).head.map_err(HeadError::Invalid)?;
        self.compare()?;
        let [a, b] = &mut self.known;
        // Slot A is the head if both have the same generation.
        let b_is_older = match (a.usable(), b.usable()) {
            (Some(a), Some(b)) => b <= a,
            (a, b) => b < a,
        };
        let older = if b_is_older { b } else { a };
        let slot = older.index;
        match self.storage.replace_head(slot, &older.bytes, &bytes) {
            Ok(()) => {}
            Err(StorageError::HeadChanged { slot, .. }) => return Err(HeadError::HeadChanged { slot }),
            Err(source) => return Err(HeadError::NotDurable { slot, source }),
        }
        self.storage.sync().map_err(|source| HeadError::NotDurable { slot, source })?;
        *older = Known::new(slot, bytes);
        self.newest = written;
        Ok(())
    }

    /// Reads both slots back: each must hold what this writer last read or wrote there.
    fn compare(&self) -> Result<(), HeadError> {
        for known in &self.known {
            let slot = known.index;
            let found = self.storage.read_head(slot).map_err(|source| HeadError::ReadBack { slot, source })?;
            if found != known.bytes {
                return Err(HeadError::HeadChanged { slot });
            }
        }
        Ok(())
    }
}
