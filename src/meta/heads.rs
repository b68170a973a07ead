//! Reads, verifies and publishes both head slots. They are the only live bytes of an image that are overwritten in
//! place.
//!
//! Invariants: at every moment at least one slot holds a complete head, and everything that a slot names is durable
//! before the slot is written. So the *older* slot is written and synced first, then the other. Nothing is written if a
//! slot does not hold what this writer last read or wrote there: then another process writes to the image. After a
//! failed write or sync it is not known what is durable, so nothing more is published. Called by `pack`, and by fs and
//! care when they write to an image; the caller has synced everything that the new head names.

use super::MetaError;
use super::open::{self, Slot};
use crate::format::FormatError;
use crate::format::head::{Head, RawHeadSlot};
use crate::format::limits;
use crate::storage::{HeadBytes, HeadIndex, Storage, StorageError};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Why a head was not published.
#[derive(Debug, Error)]
pub enum HeadError {
    /// A head slot does not hold what this writer last read or wrote there. Nothing was written to that slot.
    #[error("cannot write head slot {slot}: it was changed by another writer")]
    HeadChanged {
        /// The head slot that changed.
        slot: HeadIndex,
    },
    /// A head slot could not be read back before the write. Publishing may be tried again.
    #[error("cannot read head slot {slot} before writing it: {source}")]
    ReadBack {
        /// The head slot that could not be read.
        slot: HeadIndex,
        /// The error of the storage.
        source: StorageError,
    },
    /// A head slot could not be written, or it is not known whether the write is durable.
    #[error("cannot make head slot {slot} durable: {source}")]
    NotDurable {
        /// The head slot that was written.
        slot: HeadIndex,
        /// The error of the storage.
        source: StorageError,
    },
    /// Readers would refuse the new head, so nothing was written.
    #[error("cannot write a new head of the image: readers would refuse it: {0}")]
    Invalid(#[source] FormatError),
    /// An earlier write of a head failed, so nothing more is written.
    #[error(
        "cannot write the head slots: an earlier write of a head failed, so nothing more is written until the image is \
         opened again"
    )]
    Stopped,
}

impl HeadError {
    /// Returns whether no later publication can succeed either. The caller must then not try again.
    pub fn is_final(&self) -> bool {
        !matches!(self, HeadError::ReadBack { .. } | HeadError::Invalid(_))
    }
}

/// A head slot, as this writer last read or wrote it.
struct Known {
    index: HeadIndex,
    bytes: HeadBytes,
    slot: Slot,
}

impl Known {
    fn new(index: HeadIndex, bytes: HeadBytes) -> Self {
        Known { index, bytes, slot: Slot::of(&bytes) }
    }

    /// Returns the generation of the slot if its head can be used. A damaged slot counts as the older one.
    fn usable(&self) -> Option<u64> {
        self.slot.head.as_ref().ok().map(|head| head.generation)
    }
}

/// Both head slots of an image, as the only writer of the image knows them.
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
    /// Reads both head slots.
    ///
    /// # Errors
    /// Fails if neither slot can be used, if the newest slot that verifies needs a newer program, or if the storage
    /// cannot be read.
    pub fn read(storage: Arc<dyn Storage>) -> Result<Heads, MetaError> {
        let heads = open::read_heads(&*storage)?;
        let newest = heads.newest_first().map_err(MetaError::Unsupported)?.first().copied().cloned();
        let Some(newest) = newest else { return Err(heads.unusable()) };
        let known = |index| Ok::<_, StorageError>(Known::new(index, storage.read_head(index)?));
        let known = [known(HeadIndex::A)?, known(HeadIndex::B)?];
        Ok(Heads { known, newest, storage, stopped: false })
    }

    /// Publishes the first head of a new image, whose slots are all zero: generation 1 in slot A, 2 in slot B. The
    /// generation of `head` is ignored.
    ///
    /// # Errors
    /// As [`Heads::publish`].
    pub fn create(storage: Arc<dyn Storage>, head: Head) -> Result<Heads, HeadError> {
        let known = HeadIndex::ALL.map(|index| Known::new(index, [0; RawHeadSlot::SIZE]));
        let mut heads = Heads { storage, known, newest: Head { generation: 0, ..head }, stopped: false };
        heads.publish(|_| ())?;
        Ok(heads)
    }

    /// Returns the usable head with the highest generation.
    pub fn newest(&self) -> &Head {
        &self.newest
    }

    /// Returns the usable heads of both slots.
    pub fn slots(&self) -> impl Iterator<Item = &Head> {
        self.known.iter().filter_map(|known| known.slot.head.as_ref().ok())
    }

    /// Returns whether a byte after a head slot, in the block that is written with it, is not zero: a power cut may leave
    /// such bytes. The next publication clears them.
    ///
    /// # Errors
    /// Fails if the storage cannot be read.
    pub fn has_litter(&self) -> Result<bool, MetaError> {
        let mut rest = [0; limits::SYNC_BLOCK as usize - RawHeadSlot::SIZE];
        for index in HeadIndex::ALL {
            self.storage.read_at(index.offset() + RawHeadSlot::SIZE as u64, &mut rest)?;
            if rest.iter().any(|&byte| byte != 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether an earlier failure has stopped all further writes.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Applies `change` to the newest head and writes the result to both slots, the older slot first. Each write gets
    /// the next generation and is made durable before the next step. Everything that the head names must be durable
    /// already.
    ///
    /// # Errors
    /// Fails with a [`HeadError`]; [`HeadError::is_final`] says whether the caller may try again. A slot that was
    /// written and synced before the error stays; it is then the newest head.
    pub fn publish(&mut self, change: impl Fn(&mut Head)) -> Result<(), HeadError> {
        let mut head = self.newest.clone();
        change(&mut head);
        for _ in HeadIndex::ALL {
            self.replace_older(&head).inspect_err(|error| self.stopped |= error.is_final())?;
        }
        Ok(())
    }

    /// Writes `head` with the next generation to the older slot, and makes it durable.
    fn replace_older(&mut self, head: &Head) -> Result<(), HeadError> {
        if self.stopped {
            return Err(HeadError::Stopped);
        }
        // The generation of a slot that verifies but cannot be used counts, too: no generation is used twice.
        let last = self.known.iter().filter_map(|known| known.slot.generation).max().unwrap_or(0);
        let Some(generation) = last.checked_add(1) else {
            return Err(HeadError::Invalid(FormatError::invalid(
                "head slot",
                "its generation is the highest possible",
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

    /// Reads both slots, and checks that each holds what this writer last read or wrote there.
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
