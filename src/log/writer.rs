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

/// What a frame is to hold.
#[derive(Debug, Clone, Copy)]
pub struct NewFrame<'a> {
    /// What it is.
    pub kind: FrameKind,
    /// How the stored bytes are encoded.
    pub codec: u8,
    /// Flags.
    pub flags: Flags,
    /// The clear part, with its checksum at its end; or nothing.
    pub clear: &'a [u8],
    /// The stored bytes.
    pub stored: &'a [u8],
    /// Bytes after decoding.
    pub raw_len: u32,
    /// XXH3 of the stored bytes (given, as it is computed by the thread that encoded them).
    pub sum: u64,
}

/// The one writer of a log. Whoever makes it has raised the epoch in the head, durably.
pub struct LogWriter {
    storage: Arc<dyn Storage>,
    log_id: u64,
    epoch: u32,
    next_sequence: u64,
    end: u64,
    /// Where the log ended at the last sync, or at the beginning: a multiple of 4096. Nothing before it is cut off.
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
    /// Appends to the log `log_id` from `end` on, where its bytes must end: what an earlier writer left after it is to
    /// be cut off before. `next_sequence` is above that of every frame of the log.
    ///
    /// # Errors
    /// [`LogError::NotAtEnd`] if the bytes end elsewhere, [`LogError::InsideBlock`] if that is not at the end of a 4 KiB
    /// block: the block may hold synced bytes, and even a pad would be written into it.
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
        //# So a writer refuses to go on at an offset that is not a multiple of 4096: even a pad would be written into a block that
        //# may be synced.
        if !end.is_multiple_of(SYNC_BLOCK) {
            return Err(LogError::InsideBlock { end });
        }
        Ok(LogWriter { storage, log_id, epoch, next_sequence, end, synced: end, unsynced: false, stopped: false })
    }

    /// Where the log ends now, in bytes from the image's first.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The sequence that the next frame gets.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Whether an earlier failure keeps it from writing for good.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Where the bytes lie.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Reads what was appended up to now.
    ///
    /// # Errors
    /// As [`LogReader::new`].
    pub fn reader(&self) -> Result<LogReader, LogError> {
        LogReader::new(Arc::clone(&self.storage), self.log_id, self.end)
    }

    /// Appends a frame and says where it lies. It is durable only after [`LogWriter::sync`].
    ///
    /// # Errors
    /// `Format` if the frame is beyond the limits or its clear part does not verify: nothing is written then.
    /// `Storage` if it could not be written: what reached the storage is cut off again, and, space permitting, a later
    /// append may succeed. If that fails too, the writer has [`LogError::Stopped`].
    pub fn append(&mut self, frame: NewFrame<'_>) -> Result<Place, LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        check(&frame).map_err(|source| LogError::format(LogOffset(self.end), source))?;
        self.put(frame)
    }

    /// Makes all that was appended durable, and the log end with a whole 4 KiB block, so that nothing synced is ever
    /// written to again. [`LogWriter::end`] is what a head may name afterwards.
    ///
    /// # Errors
    /// If it is not known what is durable; from then on the writer has [`LogError::Stopped`]. If only the padding could
    /// not be written (a full disk), nothing was synced and the writer goes on.
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

    /// Cuts off the frames from `end` on, which was [`LogWriter::end`] after the last sync: they are given up. Sequences go
    /// on, so what a power cut brings back of them is older than what is put in their place.
    ///
    /// # Errors
    /// `Format` if `end` lies before the last synced byte or after the last frame: nothing is cut off then. Else it is not
    /// known what is there, and the writer has [`LogError::Stopped`].
    pub fn cut_back(&mut self, end: u64) -> Result<(), LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        if !(self.synced..=self.end).contains(&end) {
            let source = FormatError::invalid("log", "frames that are synced, or none, would be cut off");
            return Err(LogError::format(LogOffset(end), source));
        }
        if end < self.end {
            self.storage.truncate(end).inspect_err(|_| self.stopped = true)?;
            self.end = end;
        }
        Ok(())
    }

    /// Lets the log end with a whole 4 KiB block, by a pad frame where it does not. [`LogWriter::sync`] does so; an
    /// image written in one go, and synced by other means, should end this way too.
    ///
    /// # Errors
    /// As [`LogWriter::append`].
    pub fn fill_block(&mut self) -> Result<(), LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        //= format-spec.md#2
        //# A *pad* frame fills what is left over where a writer must start in a fresh 4 KiB block (2.3).
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
                // Somebody else appends here. Which bytes are whose is not known, so nothing is cut off.
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

    /// Cuts off what a failed append left after the end; no synced byte lies in a block that this touches.
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
    debug_assert_eq!(frame.sum, sums::xxh3(frame.stored), "the sum of a frame is that of its stored bytes");
    Ok(())
}
