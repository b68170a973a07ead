//! Writing: written bytes, transactions, new segments, and segments that are needed no more.

use super::ThawError;
use super::segment::{Binding, Chain, Identity, begin, placed, raw_frame};
use crate::format::frame::{FRAME_HEADER, FrameKind};
use crate::format::ids::LogOffset;
use crate::format::limits::SYNC_BLOCK;
use crate::format::transaction::{Operation, Transaction};
use crate::log::LogWriter;
use crate::storage::{Folder, Storage, StorageError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes that pads may take around a frame: one before it and one behind.
const PADS: u64 = 2 * (SYNC_BLOCK + FRAME_HEADER as u64);

/// Where written bytes came to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Their frame.
    pub frame: LogOffset,
    /// How many.
    pub len: u64,
}

/// A thaw log that is being written. One at a time: whoever has the image's writer lock.
pub struct ThawLog {
    folder: Arc<dyn Folder>,
    identity: Identity,
    chain: Chain,
    /// All before this offset is durable.
    durable: u64,
    number: u64,
    writer: LogWriter,
    /// All segments, the one being written too.
    segments: BTreeMap<u64, Arc<dyn Storage>>,
    stopped: bool,
}

/// What a log goes on from.
pub(super) struct Continued {
    pub(super) chain: Chain,
    pub(super) next_sequence: u64,
    pub(super) segments: BTreeMap<u64, Arc<dyn Storage>>,
}

impl ThawLog {
    /// Begins a log in a folder without segments. `epoch` is the image's, raised durably by this writer; `segment_size` at
    /// least 64 KiB.
    ///
    /// # Errors
    /// If the first segment cannot be made durable; what there is of it is then removed, if that can be done.
    pub fn create(
        folder: Arc<dyn Folder>,
        binding: Binding,
        log_id: u64,
        epoch: u32,
        segment_size: u64,
    ) -> Result<Self, ThawError> {
        let identity = Identity { binding, log_id, epoch, segment_size };
        let continued = Continued { chain: Chain::default(), next_sequence: 1, segments: BTreeMap::new() };
        Self::proceed(folder, identity, continued)
    }

    /// Goes on behind what is there, in a new segment.
    pub(super) fn proceed(
        folder: Arc<dyn Folder>,
        identity: Identity,
        continued: Continued,
    ) -> Result<Self, ThawError> {
        let Continued { chain, next_sequence, mut segments } = continued;
        let number = segments.keys().next_back().map_or(0, |last| last + 1);
        let (writer, storage) =
            new_segment(folder.as_ref(), number, &identity, chain, next_sequence).map_err(|failed| failed.error)?;
        segments.insert(number, storage);
        let durable = writer.end();
        Ok(ThawLog { folder, identity, chain, durable, number, writer, segments, stopped: false })
    }

    /// Appends bytes that an application wrote. Nothing knows of them until a transaction does, and they are durable with
    /// it.
    ///
    /// # Errors
    /// `TooLarge`, or if they could not be written: the log is then as it was, unless it has [`ThawError::Stopped`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<Appended, ThawError> {
        self.make_room("a write", bytes.len())?;
        let place = self.writer.append(raw_frame(FrameKind::WRITTEN, bytes)).inspect_err(|_| self.note_failure())?;
        Ok(Appended { frame: place.offset, len: bytes.len() as u64 })
    }

    /// Makes `operations`, and everything appended so far, durable as one transaction. `image_end` is up to where the
    /// image was synced, `time` in seconds and nanoseconds. Returns the transaction's number.
    ///
    /// # Errors
    /// `TooLarge` or `Transaction` if it cannot be one transaction; nothing has changed then. If it could not be written
    /// or synced the log is stopped, for it is not known whether the transaction will be there.
    pub fn commit(
        &mut self,
        operations: Vec<Operation>,
        image_end: u64,
        (time, time_ns): (i64, u32),
    ) -> Result<u64, ThawError> {
        if self.stopped {
            return Err(ThawError::Stopped);
        }
        let mut transaction = Transaction {
            number: self.chain.number + 1,
            previous_sum: self.chain.sum,
            durable_upto: self.durable,
            image_end,
            time,
            time_ns,
            operations,
        };
        let encode = |transaction: &Transaction, at: u64| {
            transaction.encode().map_err(|source| ThawError::Transaction { offset: LogOffset(at), source })
        };
        let mut raw = encode(&transaction, self.writer.end())?;
        if self.make_room("a transaction", raw.len())? {
            transaction.durable_upto = self.durable;
            raw = encode(&transaction, self.writer.end())?;
        }
        let place = self.writer.append(raw_frame(FrameKind::TRANSACTION, &raw)).inspect_err(|_| self.stopped = true)?;
        self.writer.sync().inspect_err(|_| self.stopped = true)?;
        self.durable = self.writer.end();
        self.chain = Chain { number: transaction.number, sum: place.sum };
        Ok(self.chain.number)
    }

    /// Fills `out` with appended bytes from `within` on. Not verified: whoever wants that has the sum of the range.
    ///
    /// # Errors
    /// If there is no such frame, or it cannot be read.
    pub fn read(&self, frame: LogOffset, within: u64, out: &mut [u8]) -> Result<(), ThawError> {
        let segment_size = self.identity.segment_size;
        let missing = || ThawError::Folder(short(frame.0, out.len() as u64));
        let storage = self.segments.get(&(frame.0 / segment_size)).ok_or_else(missing)?;
        let at = frame.0.checked_add(FRAME_HEADER as u64).and_then(|at| at.checked_add(within)).ok_or_else(missing)?;
        Ok(storage.read_at(at, out)?)
    }

    /// Removes all segments that end at or before `offset`, durably. The one being written stays.
    ///
    /// # Errors
    /// If that fails; a segment may then come back after a crash, which does no harm: what is in it was covered by a
    /// checkpoint.
    pub fn remove_before(&mut self, offset: LogOffset) -> Result<(), ThawError> {
        let first_kept = (offset.0 / self.identity.segment_size).min(self.number);
        let covered: Vec<u64> = self.segments.range(..first_kept).map(|(&number, _)| number).collect();
        if covered.is_empty() {
            return Ok(());
        }
        // From the lowest: after a crash in the middle those that are left still join.
        for number in covered {
            self.folder.remove(number)?;
            self.segments.remove(&number);
        }
        Ok(self.folder.sync()?)
    }

    /// Removes everything: a checkpoint contains it all. The folder itself is its maker's to remove.
    ///
    /// # Errors
    /// As [`ThawLog::remove_before`].
    pub fn remove(self) -> Result<(), ThawError> {
        for &number in self.segments.keys() {
            self.folder.remove(number)?;
        }
        Ok(self.folder.sync()?)
    }

    /// Number of the last transaction that was committed, 0 for none.
    pub fn last_transaction(&self) -> u64 {
        self.chain.number
    }

    /// The log's id.
    pub fn log_id(&self) -> u64 {
        self.identity.log_id
    }

    /// Where the next frame will lie, about: all frames before are below it.
    pub fn end(&self) -> LogOffset {
        LogOffset(self.writer.end())
    }

    /// Bytes in all segments.
    ///
    /// # Errors
    /// If a storage cannot tell.
    pub fn bytes(&self) -> Result<u64, ThawError> {
        let mut sum = 0;
        for (number, storage) in &self.segments {
            sum += storage.len()? - number * self.identity.segment_size;
        }
        Ok(sum)
    }

    /// Begins a new segment if a frame of `len` bytes does not fit into this one. Returns whether it did.
    fn make_room(&mut self, what: &'static str, len: usize) -> Result<bool, ThawError> {
        if self.stopped {
            return Err(ThawError::Stopped);
        }
        let segment_size = self.identity.segment_size;
        let need = len as u64 + FRAME_HEADER as u64 + PADS;
        if need + PADS > segment_size {
            return Err(ThawError::TooLarge { what, len: len as u64, segment_size });
        }
        let used = self.writer.end() - self.number * segment_size;
        if used + need <= segment_size {
            return Ok(false);
        }
        // Frames behind the last transaction count with the next one, which will lie in another segment: all must be
        // durable before that one is.
        self.writer.sync().inspect_err(|_| self.note_failure())?;
        let number = self.number + 1;
        let next_sequence = self.writer.next_sequence();
        let (writer, storage) = new_segment(self.folder.as_ref(), number, &self.identity, self.chain, next_sequence)
            .map_err(|failed| {
                self.stopped |= failed.stays;
                failed.error
            })?;
        (self.writer, self.number) = (writer, number);
        self.segments.insert(number, storage);
        self.durable = self.writer.end();
        Ok(true)
    }

    /// After a failed append the writer knows whether it may go on.
    fn note_failure(&mut self) {
        self.stopped |= self.writer.is_stopped();
    }
}

/// A segment that could not be made.
struct NotMade {
    error: ThawError,
    /// Whether something of it may be there all the same: then no other can be made in its place.
    stays: bool,
}

/// Makes a segment, and its first frame and its name durable: whatever is found in a segment without a beginning is damage.
fn new_segment(
    folder: &dyn Folder,
    number: u64,
    identity: &Identity,
    chain: Chain,
    next_sequence: u64,
) -> Result<(LogWriter, Arc<dyn Storage>), NotMade> {
    let storage = folder.create(number).map_err(|error| NotMade { error: error.into(), stays: false })?;
    let begun = placed(storage, number, identity.segment_size)
        .and_then(|placed| Ok((begin(Arc::clone(&placed), number, identity, chain, next_sequence)?, placed)));
    match begun {
        Ok((mut writer, placed)) => {
            // What a failed sync leaves is not known, so it is not tried again.
            let stays = |error| NotMade { error, stays: true };
            writer.sync().map_err(|error| stays(error.into()))?;
            folder.sync().map_err(|error| stays(error.into()))?;
            Ok((writer, placed))
        }
        Err(error) => Err(NotMade { error, stays: folder.remove(number).is_err() }),
    }
}

fn short(offset: u64, wanted: u64) -> StorageError {
    StorageError::Short { offset, wanted, got: 0, path: None }
}
