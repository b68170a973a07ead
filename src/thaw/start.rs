//! Begins a new log, or continues a recovered one.

use super::ThawError;
use super::carry::Moved;
use super::fit::Binding;
use super::log::{Continued, ThawLog, pad_len};
use super::recover::{Recovered, recover_any};
use super::segment::{Chain, Identity, Segment, is_segment_size};
use crate::format::ids::LogOffset;
use crate::storage::Folder;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Exclusive upper limit of epochs.
const EPOCH: u32 = 1 << 24;

impl ThawLog {
    /// Begins a log in a directory that has no log with commits; segments of a log without commits are removed first.
    /// The first segment is durable when this returns. `epoch` is the image's, durably raised by this writer;
    /// `segment_size` is a power of two from 16 KiB to 64 MiB, see [`segment_size`](super::segment_size).
    ///
    /// # Errors
    /// Fails with `Occupied` if there is a log with commits, `Damaged` if it is damaged, `Invalid`, or if the first
    /// segment cannot be made durable.
    pub fn create(
        folder: Arc<dyn Folder>,
        binding: Binding,
        log_id: u64,
        epoch: u32,
        segment_size: u64,
    ) -> Result<Self, ThawError> {
        let identity = checked(Identity { binding, log_id, epoch, segment_size })?;
        if let Some(other) = recover_any(Arc::clone(&folder))? {
            return Err(ThawError::Occupied { transactions: other.last_transaction() });
        }
        // The highest first: a segment may begin within a group, and the rest must not look like the end of a log with
        // commits.
        for number in folder.list()?.into_iter().rev() {
            folder.remove(number)?;
            folder.sync()?;
        }
        let nothing = Continued { chain: Chain::default(), end: 0, durable: 0, segments: BTreeMap::new(), number: 0 };
        let mut log = ThawLog::proceed(folder, identity, nothing)?;
        log.settle()?;
        Ok(log)
    }
}

impl Recovered {
    /// Continues the log in a new segment above all existing ones; nothing is cut off. `contained` is the number of the
    /// last transaction that the image's current root contains: these transactions were synced before the root was
    /// written. `binding` is that of the image's head; `epoch` is the image's, durably raised. Everything after the
    /// durable end of the log is written again, because it may be in the page cache only; the returned map has the new
    /// offsets of frames of written bytes.
    ///
    /// # Errors
    /// `Foreign` if the log ends before `contained` or begins after the transaction that follows it; `Invalid`; or if
    /// the log cannot be made durable. What the log held does not change in any case.
    pub fn resume(self, binding: Binding, epoch: u32, contained: u64) -> Result<(ThawLog, Moved), ThawError> {
        //= format-spec.md#11.6
        //# A writer must not continue a log that ends before the last transaction that the root contains.
        self.joins(contained)?;
        let identity = checked(Identity { binding, log_id: self.log_id, epoch, segment_size: self.segment_size })?;
        // Sync emptied files, too: if the head of one of them came back, it would hide what counts now.
        let durable = self.durable.checked_div(self.segment_size).unwrap_or(0);
        for storage in self.files.range(durable..).map(|(_, storage)| storage) {
            storage.sync()?;
        }
        self.folder.sync()?;
        let mut number = 0;
        for (&n, storage) in &self.files {
            if !storage.is_empty()? {
                number = n.saturating_add(1);
            }
        }
        let (durable, chain) = self.known_durable(contained)?;
        if durable < self.end {
            return self.carry(identity, durable, chain, number);
        }
        //= format-spec.md#11.4
        //# It must not cut anything off.
        let segments = self.all_segments(number);
        let continued = Continued { chain: self.chain, end: self.end, durable: self.end, segments, number };
        Ok((ThawLog::proceed(self.folder, identity, continued)?, Moved::new()))
    }

    /// Returns the offset up to which the log is known to be durable, and the last transaction before it.
    fn known_durable(&self, contained: u64) -> Result<(u64, Chain), ThawError> {
        let synced = self.transaction_end(contained)?.map_or(0, |LogOffset(end)| end.saturating_add(pad_len(end)));
        let durable = self.durable.max(synced);
        if durable >= self.end {
            return Ok((durable, self.chain));
        }
        Ok((durable, self.chain_at(durable)?))
    }

    /// Removes all segments, lowest first, each durably before the next: the image contains everything. The caller
    /// removes the directory.
    ///
    /// # Errors
    /// Fails if a segment cannot be removed: what remains is the end of the log.
    pub fn remove(self) -> Result<(), ThawError> {
        let durable = self.durable.checked_div(self.segment_size).unwrap_or(0);
        for storage in self.files.range(durable..).map(|(_, storage)| storage) {
            storage.sync()?;
        }
        self.folder.sync()?;
        for &number in self.files.keys() {
            self.folder.remove(number)?;
            self.folder.sync()?;
        }
        Ok(())
    }

    /// Returns all segments below `number`. Empty files from `number` on were made ahead; they are used later.
    pub(super) fn all_segments(&self, number: u64) -> BTreeMap<u64, Segment> {
        let below = self.files.range(..number);
        let segment = |n, storage| Segment::at(self.log_id, n, self.segment_size, storage);
        below.filter_map(|(&n, storage)| Some((n, segment(n, Arc::clone(storage))?))).collect()
    }
}

fn checked(identity: Identity) -> Result<Identity, ThawError> {
    if !is_segment_size(identity.segment_size) {
        return Err(ThawError::Invalid { what: "the size of a segment", value: identity.segment_size });
    }
    if identity.epoch == 0 || identity.epoch >= EPOCH {
        return Err(ThawError::Invalid { what: "the epoch", value: identity.epoch.into() });
    }
    Ok(identity)
}
