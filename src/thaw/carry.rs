//! Continues a log whose last bytes may be in the page cache only.
//!
//! After a failed sync the kernel may keep the bytes in its page cache, report no error to the process that opens the
//! file next, and report the next sync as a success. So if a writer was killed, only those of its bytes are known to be
//! durable that the log itself or a root says were synced. The others verify when they are read, but a power cut may
//! lose them. If the log continued after such bytes, that loss would be damage, because later transactions would say
//! that the bytes were durable. They must not be dropped either: they may be an acknowledged commit.
//!
//! So they are written again in new segments, and then the old ones are abandoned, in one step. Segment K holds only a
//! head, whose `previous_end` is the durable end. The `previous_end` of segment K + 1 is the end of that head. K + 1
//! and all later segments are written and made durable first. Until K exists, the log cannot be followed from them to
//! the segments before K, so they are after the log's end; their heads and transactions claim no more than the old
//! durable end as durable. A head is within one sector, so K is written as a whole or not at all. Operations are
//! written in the same groups, with numbers that continue those before the durable end. Frames that they name are
//! copied once, and ranges name the copies. Nothing is cut off.

use super::ThawError;
use super::log::{Continued, ThawLog};
use super::recover::Recovered;
use super::segment::{Chain, Identity, Segment, head_bytes};
use crate::format::frame::FrameKind;
use crate::format::ids::LogOffset;
use crate::format::transaction::{Operation, Thawed, Transaction};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

/// Old offsets of copied frames in the thaw log, with their new offsets.
pub type Moved = BTreeMap<LogOffset, LogOffset>;

impl Recovered {
    //= format-spec.md#11.4
    //# So a writer must write the operations after the durable offset again, with the written bytes that they name,
    //# before it continues.
    /// Continues the log from the offset `durable`, which is before the log's end and after transaction `chain`.
    /// `number` is above the numbers of all segments that are not empty.
    pub(super) fn carry(
        self,
        identity: Identity,
        durable: u64,
        chain: Chain,
        number: u64,
    ) -> Result<(ThawLog, Moved), ThawError> {
        let mut empty = true;
        self.replay(chain.number, |transaction| {
            empty &= transaction.operations.is_empty();
            Ok::<(), ThawError>(())
        })?;
        let segments = self.all_segments(number);
        if empty {
            // All are transactions without operations: dropping them loses nothing.
            let continued = Continued { chain, end: durable, durable, segments, number };
            return Ok((ThawLog::proceed(self.folder, identity, continued)?, Moved::new()));
        }
        let first = number.checked_add(1).ok_or(ThawError::Stopped)?;
        let beyond = || ThawError::Invalid { what: "the number of a segment", value: number };
        let junction = number.checked_mul(identity.segment_size).ok_or_else(beyond)?;
        let end = junction.saturating_add(Segment::HEAD_LEN);
        let continued = Continued { chain, end, durable, segments, number: first };
        let mut log = ThawLog::proceed(self.folder.clone(), identity, continued)?;
        match self.copy(chain.number, &mut log) {
            Ok(moved) => {
                // After this call, even if it fails, segment K may be there.
                log.join(number, chain, durable)?;
                Ok((log, moved))
            }
            Err(error) => {
                log.abandon(first);
                Err(error)
            }
        }
    }

    /// Appends the groups after transaction `number`, and the frames after the log's durable end that they name, and
    /// makes all of them durable. Only one group is in memory at a time. Returns the new offsets of the frames.
    fn copy(&self, number: u64, log: &mut ThawLog) -> Result<Moved, ThawError> {
        let mut moved = Moved::new();
        let mut group = Vec::new();
        self.replay(number, |transaction| {
            let Transaction { info, operations } = transaction;
            group.extend(operations);
            if info.more_follows {
                return Ok::<(), ThawError>(());
            }
            for operation in &mut group {
                self.relocate(operation, &mut moved, log)?;
            }
            log.put_again(&group, info.image_end, (info.time, info.time_ns))?;
            group.clear();
            Ok(())
        })?;
        log.sync_all()?;
        Ok(moved)
    }

    /// Changes an operation to name the copy of its frame; makes the copy if there is none.
    fn relocate(&self, operation: &mut Operation, moved: &mut Moved, log: &mut ThawLog) -> Result<(), ThawError> {
        let Operation::Thawed(thawed) = operation else { return Ok(()) };
        if thawed.frame < log.durable() {
            return Ok(());
        }
        let frame = match moved.get(&thawed.frame) {
            Some(&frame) => frame,
            None => self.copy_frame(thawed, log)?,
        };
        moved.insert(thawed.frame, frame);
        thawed.frame = frame;
        if frame == Thawed::LOST {
            (thawed.within, thawed.sum) = (0, 0);
        }
        Ok(())
    }

    /// Appends a copy of the frame that a range names. If its bytes are lost or damaged, the range becomes lost.
    fn copy_frame(&self, thawed: &Thawed, log: &mut ThawLog) -> Result<LogOffset, ThawError> {
        let Some(segment) = self.segment(thawed.frame).filter(|_| !self.is_lost(thawed.frame)) else {
            return Ok(Thawed::LOST);
        };
        match segment.written(thawed.frame, thawed.sum) {
            Ok(bytes) => log.append_again(&bytes),
            Err(ThawError::Written { .. }) => Ok(Thawed::LOST),
            Err(error) => Err(error),
        }
    }
}

impl ThawLog {
    /// Appends a group of the old log again. It is not a commit: the durable end that the transactions name stays as it
    /// was.
    fn put_again(&mut self, operations: &[Operation], image_end: u64, time: (i64, u32)) -> Result<(), ThawError> {
        self.last_group = self.put_group(operations, image_end, time)?;
        self.last_change = self.chain.number;
        Ok(())
    }

    /// Makes durable everything that was appended, and the new length of files that were emptied.
    fn sync_all(&mut self) -> Result<(), ThawError> {
        let dirty = self.dirty.iter().filter_map(|number| self.segments.get(number)).map(|segment| &segment.storage);
        for storage in dirty.chain(self.emptied.values()) {
            storage.sync()?;
        }
        self.folder.sync()?;
        self.dirty.clear();
        self.emptied.clear();
        self.new_names = false;
        Ok(())
    }

    /// Durably writes segment `number`, which holds only a head. It joins the segments after it, which are durable, to
    /// the log up to `durable`, where the last transaction is `chain`.
    fn join(&mut self, number: u64, chain: Chain, durable: u64) -> Result<(), ThawError> {
        let joined = self.write_junction(number, chain, durable);
        let segment = joined.inspect_err(|_| self.stopped = true)?;
        self.segments.insert(number, segment);
        self.ended.insert(number, Segment::HEAD_LEN);
        self.durable = self.tail.end;
        Ok(())
    }

    fn write_junction(&mut self, number: u64, chain: Chain, durable: u64) -> Result<Segment, ThawError> {
        let Identity { log_id, segment_size, .. } = self.identity;
        let storage = match self.folder.create(number) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.folder.open(number)?,
            created => created?,
        };
        if !storage.is_empty()? {
            return Err(ThawError::Stopped);
        }
        let too_large = ThawError::TooLarge { what: "the log", len: self.tail.end, segment_size };
        let segment = Segment::at(log_id, number, segment_size, Arc::clone(&storage)).ok_or(too_large)?;
        let head = head_bytes(&self.identity, number, chain, durable, durable);
        let header = self.header(FrameKind::SEGMENT, segment.base, &head)?;
        self.next_sequence = self.next_sequence.saturating_add(1);
        storage.append(&[&header.encode(), &head])?;
        storage.sync()?;
        self.folder.sync()?;
        Ok(segment)
    }

    /// Removes the segments from `number` on, and ignores errors: nothing leads to them.
    fn abandon(self, number: u64) {
        for number in self.folder.list().unwrap_or_default().into_iter().rev().filter(|&n| n >= number) {
            let _ = self.folder.remove(number);
        }
    }
}
