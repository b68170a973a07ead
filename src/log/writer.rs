//! Appends frames.

use super::reader::verify_clear;
use super::{LogError, LogReader};
use crate::format::frame::{FRAME_HEADER, Flags, FrameHeader, FrameKind};
use crate::format::ids::LogOffset;
use crate::format::limits::{self, SYNC_BLOCK};
use crate::format::place::Place;
use crate::format::{FormatError, sums};
use crate::storage::Storage;
use std::fmt;
use std::sync::Arc;

/// A frame to append.
#[derive(Debug, Clone, Copy)]
pub struct NewFrame<'a> {
    /// Kind of the frame.
    pub kind: FrameKind,
    /// Number of the codec of the stored bytes.
    pub codec: u8,
    /// Flags of the frame.
    pub flags: Flags,
    /// The clear part with the checksum at its end; empty for none.
    pub clear: &'a [u8],
    /// The stored (compressed) bytes.
    pub stored: &'a [u8],
    /// Length in bytes after decoding.
    pub raw_len: u32,
    /// XXH3-64 checksum of the stored bytes. The thread that encoded them has computed it.
    pub sum: u64,
}

/// The only writer of a log. Whoever makes it has durably raised the epoch in the head.
pub struct LogWriter {
    storage: Arc<dyn Storage>,
    log_id: u64,
    epoch: u32,
    next_sequence: u64,
    end: u64,
    /// Offset where the log ended at the last sync, or when the writer was made: a multiple of 4096. Nothing before it
    /// is cut off.
    synced: u64,
    /// Whether something was appended since the last sync. If not, `end` is a multiple of 4096.
    unsynced: bool,
    stopped: bool,
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter")
            .field("log_id", &self.log_id)
            .field("epoch", &self.epoch)
            .field("next_sequence", &self.next_sequence)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl LogWriter {
    /// Makes a writer that appends to the log `log_id` from `end` on. The bytes must end there: the caller has cut off
    /// what an earlier writer left after it. `next_sequence` is above the sequence of every frame of the log.
    ///
    /// # Errors
    /// Fails with [`LogError::NotAtEnd`] if the bytes end elsewhere; with [`LogError::InsideBlock`] if `end` is not a
    /// multiple of 4096: the block may hold synced bytes, and even a pad would be written into it.
    pub fn new(
        storage: Arc<dyn Storage>,
        log_id: u64,
        epoch: u32,
        next_sequence: u64,
        end: u64,
    ) -> Result<Self, LogError> {
        let len = storage.len()?;
        if len != end {
            return Err(LogError::NotAtEnd { end, len });
        }
        //= format-spec.md#2.3
        //# So a writer refuses to append at an offset that is not a multiple of 4096: even a pad would be written into
        //# a block that may be synced.
        if !end.is_multiple_of(SYNC_BLOCK) {
            return Err(LogError::InsideBlock { end });
        }
        Ok(LogWriter { storage, log_id, epoch, next_sequence, end, synced: end, unsynced: false, stopped: false })
    }

    /// Returns the offset in bytes where the log ends now.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns the sequence number of the next frame.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Returns whether an earlier failure has stopped the writer for good.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Returns the storage of the log.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Makes a reader of everything appended so far.
    ///
    /// # Errors
    /// Fails as [`LogReader::new`] does.
    pub fn reader(&self) -> Result<LogReader, LogError> {
        LogReader::new(Arc::clone(&self.storage), self.log_id, self.end)
    }

    /// Appends a frame and returns its place. It is durable only after [`LogWriter::sync`].
    ///
    /// # Errors
    /// Fails with `Format` if the frame exceeds a limit or its clear part does not verify: nothing is written then.
    /// Fails with `Storage` if it could not be written: the bytes that reached the storage are cut off again, and a
    /// later append may succeed when there is space. If cutting off fails, the writer stops ([`LogError::Stopped`]).
    pub fn append(&mut self, frame: NewFrame<'_>) -> Result<Place, LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        check(&frame).map_err(|source| LogError::format(LogOffset(self.end), source))?;
        self.put(frame)
    }

    /// Makes durable everything that was appended. Before that it fills the last 4 KiB block with a pad, so that no
    /// synced block is ever appended to. After it, a head may name [`LogWriter::end`].
    ///
    /// # Errors
    /// Fails if it is not known what is durable; the writer then stops ([`LogError::Stopped`]). If only the pad could
    /// not be written (a full disk), nothing was synced and the writer can continue.
    pub fn sync(&mut self) -> Result<(), LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        if self.unsynced {
            self.fill_block()?;
        }
        self.storage.sync().inspect_err(|_| self.stopped = true)?;
        self.unsynced = false;
        self.synced = self.end;
        Ok(())
    }

    /// Cuts off the frames from `end` on: they are given up. `end` is a value of [`LogWriter::end`] since the last
    /// sync. Sequences are not reused: if a power cut brings such a frame back, its sequence is lower than that of the
    /// frames in its place.
    ///
    /// # Errors
    /// Fails with `Format` if `end` is before the synced end or after the last frame: nothing is cut off then. After
    /// any other error the contents are not known, and the writer stops ([`LogError::Stopped`]).
    pub fn cut_back(&mut self, end: u64) -> Result<(), LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        if !(self.synced..=self.end).contains(&end) {
            let source = FormatError::invalid(
                "log",
                "the offset to cut at is not between the synced end and the end of the log",
            );
            return Err(LogError::format(LogOffset(end), source));
        }
        if end < self.end {
            self.storage.truncate(end).inspect_err(|_| self.stopped = true)?;
            self.end = end;
        }
        Ok(())
    }

    /// Appends a pad frame if the log does not end at a multiple of 4096. [`LogWriter::sync`] does so; call it for an
    /// image that is written in one go and synced by other means.
    ///
    /// # Errors
    /// Fails as [`LogWriter::append`] does.
    pub fn fill_block(&mut self) -> Result<(), LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        //= format-spec.md#2
        //# A *pad* frame fills the rest of a 4 KiB block where a writer must start in a fresh one (2.3).
        let over = self.end % SYNC_BLOCK;
        if over != 0 {
            let mut gap = SYNC_BLOCK - over;
            if gap < FRAME_HEADER as u64 {
                gap += SYNC_BLOCK;
            }
            let zeros = vec![0; gap as usize - FRAME_HEADER];
            self.put(NewFrame {
                kind: FrameKind::PAD,
                codec: 0,
                flags: Flags::default(),
                clear: &[],
                stored: &zeros,
                raw_len: zeros.len() as u32,
                sum: sums::xxh3(&zeros),
            })?;
        }
        Ok(())
    }

    fn put(&mut self, frame: NewFrame<'_>) -> Result<Place, LogError> {
        let header = FrameHeader {
            kind: frame.kind,
            codec: frame.codec,
            flags: frame.flags,
            log_id: self.log_id,
            epoch: self.epoch,
            clear_len: frame.clear.len() as u32,
            sequence: self.next_sequence,
            offset: LogOffset(self.end),
            stored_len: frame.stored.len() as u32,
            raw_len: frame.raw_len,
            sum: frame.sum,
        };
        let end = self.end.checked_add(header.frame_len()).filter(|&end| end <= limits::IMAGE_LEN);
        let (Some(end), Some(next_sequence)) = (end, self.next_sequence.checked_add(1)) else {
            let source = FormatError::Limit { what: "end of the log", value: self.end, limit: limits::IMAGE_LEN };
            return Err(LogError::format(header.offset, source));
        };
        match self.storage.append(&[&header.encode(), frame.clear, frame.stored]) {
            Ok(at) if at == self.end => {}
            Ok(at) => {
                // Another process appends here. It is not known whose bytes are whose, so nothing is cut off.
                self.stopped = true;
                return Err(LogError::NotAtEnd { end: self.end, len: at });
            }
            Err(error) => {
                self.take_back();
                return Err(error.into());
            }
        }
        self.end = end;
        self.next_sequence = next_sequence;
        self.unsynced = true;
        Ok(Place::of(&header))
    }

    /// Cuts off what a failed append left after the end. No block that this touches holds synced bytes.
    fn take_back(&mut self) {
        let cut = match self.storage.len() {
            Ok(len) if len == self.end => Ok(()),
            _ => self.storage.truncate(self.end),
        };
        self.stopped |= cut.is_err();
    }
}

fn check(frame: &NewFrame<'_>) -> Result<(), FormatError> {
    for (what, value, limit) in [
        ("clear part of a frame", frame.clear.len() as u64, limits::CLEAR_LEN),
        ("stored bytes of a frame", frame.stored.len() as u64, limits::STORED_LEN),
        ("raw bytes of a frame", frame.raw_len.into(), limits::RAW_LEN),
    ] {
        if value > limit {
            return Err(FormatError::Limit { what, value, limit });
        }
    }
    if frame.flags.unknown() {
        return Err(FormatError::invalid("frame", "a flag is set that this version does not know"));
    }
    if !frame.clear.is_empty() {
        verify_clear(frame.clear)?;
    }
    debug_assert_eq!(frame.sum, sums::xxh3(frame.stored), "the checksum of a frame is that of its stored bytes");
    Ok(())
}
