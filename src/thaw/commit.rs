//! A commit between its begin and its end, and the code that splits operations into a group of transactions.

use super::ThawError;
use crate::format::FormatError;
use crate::format::ids::LogOffset;
use crate::format::thaw::TransactionHead;
use crate::format::transaction::Operation;
use crate::storage::{Folder, Storage};
use std::fmt;
use std::sync::Arc;

/// A commit that was begun: its group of transactions is in the log, but not yet durable.
#[must_use = "a commit that is not ended blocks the log"]
pub struct Begun {
    pub(super) number: u64,
    pub(super) transaction_end: u64,
    pub(super) end: u64,
    pub(super) folder: Option<Arc<dyn Folder>>,
    /// The files to sync: segments in ascending order, then emptied files.
    pub(super) storages: Vec<Arc<dyn Storage>>,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun").field("number", &self.number).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Begun {
    /// Returns the number of the group's last transaction.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the offset where the group's last transaction ends, before the pad. A root that contains the transaction
    /// names this offset.
    pub fn transaction_end(&self) -> LogOffset {
        LogOffset(self.transaction_end)
    }

    /// Returns the offset where the log ends after this group. When the commit has ended, the log is durable up to
    /// here.
    pub fn position(&self) -> LogOffset {
        LogOffset(self.end)
    }

    /// Makes durable everything that the commit needs. Takes no lock; call it once.
    ///
    /// # Errors
    /// Fails if it is not known whether all is durable. Pass the error to [`ThawLog::end`](super::ThawLog::end).
    pub fn sync(&self) -> Result<(), ThawError> {
        if let Some(folder) = &self.folder {
            folder.sync()?;
        }
        for storage in &self.storages {
            storage.sync()?;
        }
        Ok(())
    }
}

/// A commit that failed to begin: nothing of it is in the log.
#[derive(Debug)]
pub struct NotBegun {
    /// Why the commit failed to begin.
    pub error: ThawError,
    /// Operations that were to be committed, in order.
    pub operations: Vec<Operation>,
}

/// The encoded operations of one transaction.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) count: u32,
    pub(super) body: Vec<u8>,
}

/// Why an operation cannot be written to the thaw log.
#[derive(Debug)]
pub(super) enum Unfit {
    /// The operation has this many bytes, which is too large for a transaction.
    Long(u64),
    /// Readers would refuse the operation.
    Invalid(FormatError),
}

impl Unfit {
    /// Returns the [`ThawError`] of a log with segments of this size that ends at `offset`.
    pub(super) fn error(self, offset: LogOffset, segment_size: u64) -> ThawError {
        match self {
            Unfit::Long(len) => ThawError::TooLarge { what: "an operation", len, segment_size },
            Unfit::Invalid(source) => ThawError::Transaction { offset, source },
        }
    }
}

/// Splits operations into the bodies of one or more transactions of at most `room` raw bytes.
///
/// # Errors
/// Fails if one of them cannot be written. An operation that readers refuse would make the whole log unreadable.
pub(super) fn group(operations: &[Operation], room: u64) -> Result<Vec<Part>, Unfit> {
    let room = room.saturating_sub(TransactionHead::SIZE as u64);
    let mut parts = Vec::new();
    let mut part = Part::default();
    let mut encoded = Vec::new();
    for operation in operations {
        encoded.clear();
        operation.put(&mut encoded);
        let len = encoded.len() as u64;
        if len > room {
            return Err(Unfit::Long(len));
        }
        Operation::check(&encoded).map_err(Unfit::Invalid)?;
        if part.body.len() as u64 + len > room {
            parts.push(std::mem::take(&mut part));
        }
        part.body.extend_from_slice(&encoded);
        part.count += 1;
    }
    parts.push(part);
    Ok(parts)
}
