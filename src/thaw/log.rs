//! The writer: appends written bytes and groups of transactions, begins segments, and removes segments.
//!
//! A commit is [`begin`](ThawLog::begin), [`sync`](Begun::sync), [`end`](ThawLog::end). Only begin and end need the
//! log. A caller that guards the log with a lock releases it during the sync, so that others can append. A 4 KiB block
//! that holds bytes before the durable end is never written to: each group ends with a pad.

use super::ThawError;
use super::commit::{Begun, NotBegun, group};
use super::fit::Binding;
use super::segment::{Chain, Identity, Segment, head_bytes, plain_header};
use super::segments::Segments;
use crate::format::frame::{FRAME_HEADER, FrameHeader, FrameKind};
use crate::format::ids::LogOffset;
use crate::format::limits::SYNC_BLOCK;
use crate::format::thaw::{SegmentHead, TRANSACTION_LEN};
use crate::format::transaction::{Operation, TransactionInfo};
use crate::storage::{Folder, Storage};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;

const HEADER: u64 = FRAME_HEADER as u64;
/// Most bytes of a pad: if there is no room for a header before the next multiple of 4096, it ends at the one after.
const PAD: u64 = SYNC_BLOCK + HEADER;

/// Where written bytes are in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset in the log of the frame that holds the bytes.
    pub frame: LogOffset,
    /// Number of bytes.
    pub len: u64,
    /// XXH3-64 checksum of all of the bytes.
    pub sum: u64,
}

/// A thaw log that is open for writing. Only the holder of the image's writer lock has one.
pub struct ThawLog {
    pub(super) folder: Arc<dyn Folder>,
    pub(super) identity: Identity,
    pub(super) chain: Chain,
    /// Offset before which all frames that count are durable: transactions, and the written bytes that they name.
    pub(super) durable: u64,
    /// The current segment, and the offset of the next frame.
    pub(super) tail: Tail,
    pub(super) next_sequence: u64,
    /// The next segment's file, made ahead: it is empty; its space is reserved if `reserved` is true.
    pub(super) next: Option<Arc<dyn Storage>>,
    pub(super) reserved: bool,
    /// All segments except the one made ahead.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Lengths of the segments before the current one, in bytes.
    pub(super) ended: BTreeMap<u64, u64>,
    /// Segments that hold bytes no commit has synced.
    pub(super) dirty: BTreeSet<u64>,
    /// Files that were emptied. They must be durably empty before the next commit counts: if a head came back in one of
    /// them, it would hide later commits.
    pub(super) emptied: BTreeMap<u64, Arc<dyn Storage>>,
    /// Whether files were created since the directory was synced.
    pub(super) new_names: bool,
    /// Offset of the end of the group of the commit that was begun and has not ended.
    pub(super) running: Option<u64>,
    /// The durable end that the last group records.
    pub(super) recorded: u64,
    /// Offset of the end of the last group that has operations, and number of its last transaction.
    pub(super) last_group: u64,
    pub(super) last_change: u64,
    pub(super) stopped: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    pub(super) number: u64,
    pub(super) end: u64,
}

/// The state from which a log is continued.
pub(super) struct Continued {
    pub(super) chain: Chain,
    /// Offset where the log ends.
    pub(super) end: u64,
    /// Offset before which all frames that count are durable: transactions, and the written bytes that they name.
    pub(super) durable: u64,
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Number of the segment to begin.
    pub(super) number: u64,
}

/// Returns the bytes of the pad after a group that ends at `end`, up to a multiple of 4096.
pub(super) fn pad_len(end: u64) -> u64 {
    match SYNC_BLOCK - end % SYNC_BLOCK {
        SYNC_BLOCK => 0,
        gap if gap < HEADER => gap + SYNC_BLOCK,
        gap => gap,
    }
}

impl ThawLog {
    /// Continues a log in a new segment, which is not durable yet.
    pub(super) fn proceed(
        folder: Arc<dyn Folder>,
        identity: Identity,
        continued: Continued,
    ) -> Result<Self, ThawError> {
        let Continued { chain, end, durable, segments, number } = continued;
        let ended = segments.iter().map(|(&number, segment)| Ok((number, segment.trim()?)));
        let ended = ended.collect::<Result<_, ThawError>>()?;
        let mut log = ThawLog {
            folder,
            identity,
            chain,
            durable,
            tail: Tail { number, end },
            next_sequence: u64::from(identity.epoch) << 40,
            next: None,
            reserved: false,
            segments,
            ended,
            dirty: BTreeSet::new(),
            emptied: BTreeMap::new(),
            new_names: false,
            running: None,
            recorded: durable,
            last_group: durable,
            last_change: chain.number,
            stopped: false,
        };
        log.next = Some(log.make(number)?);
        // There may be too little space to reserve all of it, but enough for a commit that deletes something.
        let _ = log.make_ahead();
        log.begin_segment(number)?;
        // The next append tries again.
        let _ = log.make_ahead();
        Ok(log)
    }

    /// Makes the head of the first segment, and its name, durable.
    pub(super) fn settle(&mut self) -> Result<(), ThawError> {
        self.pad()?;
        let settled = self.segment_of(self.tail.number)?.storage.sync().and_then(|()| self.folder.sync());
        settled.inspect_err(|_| self.stopped = true)?;
        (self.durable, self.new_names) = (self.tail.end, false);
        self.dirty.clear();
        Ok(())
    }

    /// Appends bytes that an application wrote. They have no meaning until a transaction names them, and become durable
    /// with it. This needs space for one more segment, so that a commit still finds space when written bytes do not.
    ///
    /// # Errors
    /// `TooLarge`, or if they could not be written. The log is then unchanged, unless it has stopped
    /// ([`ThawError::Stopped`]).
    pub fn append(&mut self, bytes: &[u8]) -> Result<Appended, ThawError> {
        self.running_well()?;
        self.fits_segment("a write", bytes.len() as u64)?;
        self.make_ahead()?;
        if !self.has_room(bytes.len() as u64) {
            self.turn()?;
            self.make_ahead()?;
        }
        let header = self.put(FrameKind::WRITTEN, bytes)?;
        Ok(Appended { frame: header.offset, len: bytes.len() as u64, sum: header.sum })
    }

    /// Appends written bytes of a group that is written again. Unlike [`ThawLog::append`], it needs no space beyond
    /// theirs.
    pub(super) fn append_again(&mut self, bytes: &[u8]) -> Result<LogOffset, ThawError> {
        self.running_well()?;
        self.fits_segment("a write", bytes.len() as u64)?;
        if !self.has_room(bytes.len() as u64) {
            self.turn()?;
        }
        Ok(self.put(FrameKind::WRITTEN, bytes)?.offset)
    }

    /// Appends `operations` as one group of transactions, which counts as a whole or not at all. `image_end` is the end
    /// of the image's synced bytes; `time` is in seconds and nanoseconds. The group, and everything appended before it,
    /// is durable when [`Begun::sync`] has succeeded and its result was passed to [`ThawLog::end`].
    ///
    /// # Errors
    /// The operations are returned, to be tried again, and nothing of the group stays in the log. `TooLarge` if a
    /// single operation is too large; `Transaction` if readers would refuse one; [`ThawError::Stopped`] if the log has
    /// stopped.
    pub fn begin(&mut self, operations: Vec<Operation>, image_end: u64, time: (i64, u32)) -> Result<Begun, NotBegun> {
        let (tail, chain) = (self.tail, self.chain);
        let transaction_end = match self.put_group(&operations, image_end, time) {
            Ok(end) => end,
            Err(error) => {
                //= format-spec.md#11.4
                //# If a group could not be written completely, all of it must be cut off again before anything else is
                //# written.
                self.take_back(tail, chain);
                return Err(NotBegun { error, operations });
            }
        };
        self.recorded = self.durable;
        if !operations.is_empty() {
            (self.last_group, self.last_change) = (self.tail.end, self.chain.number);
        }
        let dirty = std::mem::take(&mut self.dirty);
        let segments = dirty.iter().filter_map(|number| self.segments.get(number));
        let mut storages: Vec<_> = segments.map(|segment| Arc::clone(&segment.storage)).collect();
        storages.extend(std::mem::take(&mut self.emptied).into_values());
        let folder = std::mem::take(&mut self.new_names).then(|| Arc::clone(&self.folder));
        self.running = Some(self.tail.end);
        Ok(Begun { number: self.chain.number, transaction_end, end: self.tail.end, folder, storages })
    }

    /// Ends a commit; `synced` is the result of [`Begun::sync`]. The log is then durable up to the end of the commit's
    /// group. Returns the number of its last transaction.
    ///
    /// # Errors
    /// The error of the sync. The log has then stopped, because it is not known whether the commit is durable.
    pub fn end(&mut self, begun: Begun, synced: Result<(), ThawError>) -> Result<u64, ThawError> {
        let ours = self.running.take() == Some(begun.end);
        self.stopped |= !ours;
        //= format-spec.md#11.4
        //# After a failed sync or a failed truncation a writer must not write to the log again.
        match synced {
            Ok(()) if ours => {
                self.durable = begun.end;
                Ok(begun.number)
            }
            Ok(()) => Err(ThawError::Stopped),
            Err(error) => {
                self.stopped = true;
                Err(error)
            }
        }
    }

    /// Begins, syncs and ends a commit. Returns the number of its last transaction.
    ///
    /// # Errors
    /// As [`ThawLog::begin`] and [`ThawLog::end`].
    pub fn commit(&mut self, operations: Vec<Operation>, image_end: u64, time: (i64, u32)) -> Result<u64, ThawError> {
        let begun = self.begin(operations, image_end, time).map_err(|not| not.error)?;
        let synced = begun.sync();
        self.end(begun, synced)
    }

    /// Removes the segments that end at or before `offset`, lowest first, each durably before the next. The highest
    /// with a durable head stays, so that the log can be read.
    ///
    /// # Errors
    /// If a segment cannot be removed: it and all later ones are still there. A failed sync stops the log.
    pub fn remove_before(&mut self, offset: LogOffset) -> Result<(), ThawError> {
        self.running_well()?;
        let size = self.identity.segment_size;
        let durable = self.durable.saturating_sub(1).checked_div(size).unwrap_or(0);
        let kept = offset.0.checked_div(size).unwrap_or(0).min(durable);
        //= format-spec.md#11.1
        //# Segments are removed lowest first, and each removal must be durable before the next.
        while let Some((&number, _)) = self.segments.range(..kept).next() {
            self.folder.remove(number)?;
            self.segments.remove(&number);
            self.ended.remove(&number);
            self.folder.sync().inspect_err(|_| self.stopped = true)?;
        }
        Ok(())
    }

    /// Removes everything, lowest first, each segment durably before the next: a checkpoint contains all of it. The
    /// caller removes the directory.
    ///
    /// # Errors
    /// If a segment cannot be removed: what remains is the end of the log, or a log without a commit.
    pub fn remove(self) -> Result<(), ThawError> {
        // What a power cut leaves must be the end of this log, not an abandoned or emptied segment.
        let durable = self.durable.checked_div(self.identity.segment_size).unwrap_or(0);
        let loose = self.segments.range(durable..).map(|(_, segment)| &segment.storage);
        for storage in loose.chain(self.emptied.values()).chain(&self.next) {
            storage.sync()?;
        }
        self.folder.sync()?;
        for number in self.folder.list()? {
            self.folder.remove(number)?;
            self.folder.sync()?;
        }
        Ok(())
    }

    /// Sets the state of the image that new segments name.
    pub fn set_binding(&mut self, binding: Binding) {
        self.identity.binding = binding;
    }

    /// Returns the number of the last transaction that was begun, 0 for none.
    pub fn last_transaction(&self) -> u64 {
        self.chain.number
    }

    /// Returns the number of the last transaction that has operations. Until this writer has begun one, it is the
    /// number of the last transaction that the writer found.
    pub fn last_change(&self) -> u64 {
        self.last_change
    }

    /// Returns the log's id.
    pub fn log_id(&self) -> u64 {
        self.identity.log_id
    }

    /// Returns the length of a segment in bytes.
    pub fn segment_size(&self) -> u64 {
        self.identity.segment_size
    }

    /// Returns whether there are appended bytes that no commit has synced or is syncing.
    pub fn has_unsynced(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Returns whether the last commit with operations is durable, but nothing in the log says so yet. After a crash a
    /// writer would have to write it again; a commit without operations records that it is durable.
    pub fn has_unrecorded_commit(&self) -> bool {
        !self.stopped && self.recorded < self.last_group && self.last_group <= self.durable
    }

    /// Returns whether there is space for one more segment. If there was none before, this tries again.
    pub fn has_space(&mut self) -> bool {
        self.make_ahead().is_ok()
    }

    /// Returns whether an earlier failure has stopped the log for good.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Returns the offset where the log ends now: all frames are before it.
    pub fn position(&self) -> LogOffset {
        LogOffset(self.tail.end)
    }

    /// Returns the offset up to which the log is durable.
    pub fn durable(&self) -> LogOffset {
        LogOffset(self.durable)
    }

    /// Returns the most bytes of one append.
    pub fn largest_write(&self) -> u64 {
        let head = HEADER + SegmentHead::SIZE as u64;
        self.identity.segment_size.saturating_sub(head + HEADER + PAD)
    }

    /// Returns the bytes of all segments, the current one up to the log's end.
    pub fn extent(&self) -> u64 {
        let last = self.tail.end.saturating_sub(self.tail.number.saturating_mul(self.identity.segment_size));
        self.ended.values().fold(last, |sum, &len| sum.saturating_add(len))
    }

    /// Returns the bytes in all segments.
    ///
    /// # Errors
    /// Fails if the length of a segment cannot be read.
    pub fn bytes(&self) -> Result<u64, ThawError> {
        let mut sum = 0u64;
        for segment in self.segments.values() {
            sum = sum.saturating_add(segment.storage.len()?);
        }
        Ok(sum)
    }

    /// Returns the segment of a frame, for reading without the log.
    pub fn segment(&self, frame: LogOffset) -> Option<Segment> {
        self.segments.get(&frame.0.checked_div(self.identity.segment_size)?).cloned()
    }

    /// Returns the current segments, for reading without the log.
    pub fn segments(&self) -> Arc<Segments> {
        Arc::new(Segments::new(self.identity.segment_size, self.segments.clone()))
    }

    /// Returns the number of the lowest segment.
    pub fn lowest_segment(&self) -> Option<u64> {
        self.segments.first_key_value().map(|(&number, _)| number)
    }

    /// Returns the number of segments.
    pub fn segment_count(&self) -> u64 {
        self.segments.len() as u64
    }

    fn running_well(&self) -> Result<(), ThawError> {
        if self.stopped { Err(ThawError::Stopped) } else { Ok(()) }
    }

    fn fits_segment(&self, what: &'static str, len: u64) -> Result<(), ThawError> {
        if len > self.largest_write() {
            return Err(ThawError::TooLarge { what, len, segment_size: self.identity.segment_size });
        }
        Ok(())
    }

    fn segment_of(&self, number: u64) -> Result<&Segment, ThawError> {
        // The current segment is always there.
        self.segments.get(&number).ok_or(ThawError::Stopped)
    }

    /// Returns whether a frame of `len` bytes and a pad after it fit into the current segment.
    fn has_room(&self, len: u64) -> bool {
        let size = self.identity.segment_size;
        let end = self.tail.number.saturating_add(1).saturating_mul(size);
        self.tail.end.saturating_add(HEADER + PAD).saturating_add(len) <= end
    }

    /// Appends a group and a pad. Returns the offset where the group's last transaction ends.
    pub(super) fn put_group(
        &mut self,
        operations: &[Operation],
        image_end: u64,
        (time, time_ns): (i64, u32),
    ) -> Result<u64, ThawError> {
        self.running_well()?;
        if self.running.is_some() {
            return Err(ThawError::Unfinished);
        }
        let room = TRANSACTION_LEN.min(self.largest_write());
        let (offset, segment_size) = (LogOffset(self.tail.end), self.identity.segment_size);
        let parts = group(operations, room).map_err(|unfit| unfit.error(offset, segment_size))?;
        let count = parts.len();
        for (n, part) in parts.into_iter().enumerate() {
            let number = self.chain.number.checked_add(1).ok_or(ThawError::Stopped)?;
            let info = TransactionInfo {
                number,
                previous_sum: self.chain.sum,
                durable_upto: self.durable,
                image_end,
                time,
                time_ns,
                more_follows: n + 1 < count,
            };
            let offset = LogOffset(self.tail.end);
            let raw =
                info.encode(part.count, &part.body).map_err(|source| ThawError::Transaction { offset, source })?;
            if !self.has_room(raw.len() as u64) {
                self.turn()?;
            }
            // The number and the durable end do not change with the segment.
            let header = self.put(FrameKind::TRANSACTION, &raw)?;
            self.chain = Chain { number, sum: header.sum };
        }
        let end = self.tail.end;
        self.pad()?;
        Ok(end)
    }

    /// Appends a pad if the log does not end at a multiple of 4096.
    fn pad(&mut self) -> Result<(), ThawError> {
        let gap = pad_len(self.tail.end);
        if gap == 0 {
            return Ok(());
        }
        let zeros = vec![0; gap.saturating_sub(HEADER) as usize];
        self.put(FrameKind::PAD, &zeros).map(drop)
    }

    /// Appends a frame to the current segment; the caller has checked that there is room.
    fn put(&mut self, kind: FrameKind, bytes: &[u8]) -> Result<FrameHeader, ThawError> {
        let Tail { number, end } = self.tail;
        let Segment { base, storage, .. } = self.segment_of(number)?.clone();
        let header = self.header(kind, end, bytes)?;
        match storage.append(&[&header.encode(), bytes]) {
            Ok(at) if base.checked_add(at) == Some(end) => {}
            Ok(_) => {
                // Another process appends here. It is not known whose bytes are whose, so nothing is cut off.
                self.stopped = true;
                return Err(ThawError::Stopped);
            }
            Err(error) => {
                self.cut(&storage, end.saturating_sub(base));
                return Err(error.into());
            }
        }
        self.tail.end = end.saturating_add(header.frame_len());
        self.next_sequence = self.next_sequence.saturating_add(1);
        self.dirty.insert(number);
        Ok(header)
    }

    pub(super) fn header(&self, kind: FrameKind, offset: u64, bytes: &[u8]) -> Result<FrameHeader, ThawError> {
        let Identity { segment_size, .. } = self.identity;
        plain_header(&self.identity, kind, self.next_sequence, offset, bytes).ok_or(ThawError::TooLarge {
            what: "a frame",
            len: bytes.len() as u64,
            segment_size,
        })
    }

    /// Continues in the next segment.
    fn turn(&mut self) -> Result<(), ThawError> {
        if let Err(error) = self.make_ahead()
            && self.next.is_none()
        {
            return Err(error);
        }
        self.begin_segment(self.tail.number.saturating_add(1))?;
        // The next append tries again and reports the error; a commit can do without the next file.
        let _ = self.make_ahead();
        Ok(())
    }

    /// Writes the head of segment `number` into the file that was made ahead, without a sync. The head names the end of
    /// the log before it, and counts only if the log reaches that end.
    fn begin_segment(&mut self, number: u64) -> Result<(), ThawError> {
        let Identity { log_id, segment_size, .. } = self.identity;
        let Some(storage) = self.next.take() else { return Err(ThawError::Stopped) };
        let too_large = ThawError::TooLarge { what: "the log", len: self.tail.end, segment_size };
        let segment = Segment::at(log_id, number, segment_size, Arc::clone(&storage)).ok_or(too_large)?;
        let head = head_bytes(&self.identity, number, self.chain, self.tail.end, self.durable);
        let header = self.header(FrameKind::SEGMENT, segment.base, &head)?;
        match storage.append(&[&header.encode(), &head]) {
            Ok(0) => {}
            Ok(_) => {
                self.stopped = true;
                return Err(ThawError::Stopped);
            }
            Err(error) => {
                self.cut(&storage, 0);
                self.emptied.insert(number, Arc::clone(&storage));
                (self.next, self.reserved) = (Some(storage), false);
                return Err(error.into());
            }
        }
        self.next_sequence = self.next_sequence.saturating_add(1);
        if let Some(last) = self.segments.get(&self.tail.number) {
            self.ended.insert(self.tail.number, self.tail.end.saturating_sub(last.base));
        }
        self.tail = Tail { number, end: segment.base.saturating_add(header.frame_len()) };
        self.segments.insert(number, segment);
        self.dirty.insert(number);
        Ok(())
    }

    /// Creates the next segment's file if there is none, and reserves its space if the file system can: a commit that
    /// deletes files must find space on a disk that is otherwise full.
    fn make_ahead(&mut self) -> Result<(), ThawError> {
        let storage = match &self.next {
            Some(storage) => Arc::clone(storage),
            None => self.make(self.tail.number.saturating_add(1))?,
        };
        self.next = Some(Arc::clone(&storage));
        if !self.reserved {
            match storage.allocate(0, self.identity.segment_size) {
                // The empty file stays; it is used when there is space again.
                Err(error) if error.kind() != ErrorKind::Unsupported => return Err(error.into()),
                _ => self.reserved = true,
            }
        }
        Ok(())
    }

    /// Creates an empty file for segment `number`, or uses the empty one that exists. Its space is not reserved yet.
    fn make(&mut self, number: u64) -> Result<Arc<dyn Storage>, ThawError> {
        let storage = match self.folder.create(number) {
            Ok(storage) => storage,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // It was made ahead before a crash, or emptied. It is not known whether it is durably empty.
                let storage = self.folder.open(number)?;
                if !storage.is_empty()? {
                    return Err(error.into());
                }
                self.emptied.insert(number, Arc::clone(&storage));
                storage
            }
            Err(error) => return Err(error.into()),
        };
        (self.new_names, self.reserved) = (true, false);
        Ok(storage)
    }

    /// Truncates a segment to `len` bytes and tries to reserve its space again.
    fn cut(&mut self, storage: &Arc<dyn Storage>, len: u64) {
        self.stopped |= storage.truncate(len).is_err();
        let _ = storage.allocate(0, self.identity.segment_size);
    }

    /// Cuts off everything that was written after `tail`.
    fn take_back(&mut self, tail: Tail, chain: Chain) {
        if self.stopped || (self.tail.number, self.tail.end) == (tail.number, tail.end) {
            return;
        }
        // The highest first: a head must not remain when segments before it are gone.
        while let Some((&number, segment)) = self.segments.range(tail.number.saturating_add(1)..).next_back() {
            let storage = Arc::clone(&segment.storage);
            self.segments.remove(&number);
            self.dirty.remove(&number);
            self.cut(&storage, 0);
            self.emptied.insert(number, Arc::clone(&storage));
            (self.next, self.reserved) = (Some(storage), false);
        }
        if let Some(Segment { base, storage, .. }) = self.segments.get(&tail.number).cloned() {
            self.cut(&storage, tail.end.saturating_sub(base));
            self.dirty.insert(tail.number);
        }
        drop(self.ended.split_off(&tail.number));
        (self.tail, self.chain) = (tail, chain);
    }
}
