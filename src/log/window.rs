//! A window of a log's bytes in memory, in which headers are searched without reading bytes again for each offset.

use super::LogReader;
use crate::format::frame::{FRAME_HEADER, FRAME_MAGIC, FrameHeader};
use crate::format::ids::LogOffset;

/// Number of bytes that a search for a header reads at once.
const WINDOW: usize = 1 << 20;
/// Number of bytes that are skipped at once if they cannot be read: the smallest unit that a disk loses.
const UNREADABLE: u64 = 4096;

/// A part of a log in memory: the bytes `[start, start + bytes.len())`.
#[derive(Debug, Default)]
pub(super) struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Returns the `N` bytes at offset `at`, if they are in the window.
    pub(super) fn get<const N: usize>(&self, at: u64) -> Option<&[u8; N]> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..)?.first_chunk()
    }

    /// Reads bytes from `at` to at most `end`, as many as can be read. If no byte can be read, the error is the offset
    /// where to continue.
    fn read(&mut self, reader: &LogReader, at: u64, end: u64) -> Result<(), u64> {
        let len = end.saturating_sub(at).min(WINDOW as u64) as usize;
        self.start = at;
        self.bytes.resize(len, 0);
        if reader.storage().read_at(at, &mut self.bytes).is_ok() {
            return Ok(());
        }
        let mut good = 0;
        while let Some(rest) = self.bytes.get_mut(good..)
            && !rest.is_empty()
        {
            let border = UNREADABLE - (at + good as u64) % UNREADABLE;
            let block = rest.len().min(border as usize);
            let Some(block) = rest.get_mut(..block) else { break };
            if reader.storage().read_at(at + good as u64, block).is_err() {
                let len = block.len();
                self.bytes.truncate(good);
                return if good == 0 { Err(at + len as u64) } else { Ok(()) };
            }
            good += block.len();
        }
        Ok(())
    }

    /// Returns the offset of the first header at or after `from` that verifies and whose frame is within the log. Tries
    /// every offset.
    pub(super) fn find(&mut self, reader: &LogReader, from: u64) -> Option<LogOffset> {
        let end = reader.readable();
        let mut at = from;
        while end.checked_sub(at)? >= FRAME_HEADER as u64 {
            if self.get::<FRAME_HEADER>(at).is_none()
                && let Err(next) = self.read(reader, at, end)
            {
                at = next;
                continue;
            }
            let from = at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok())?;
            let bytes = self.bytes.get(from..)?;
            for (index, bytes) in bytes.windows(FRAME_HEADER).enumerate() {
                let offset = LogOffset(at + index as u64);
                if bytes.starts_with(&FRAME_MAGIC) && reader.verify_header(offset, bytes).is_ok() {
                    return Some(offset);
                }
            }
            // A header may cross the end of the window, but not unreadable bytes.
            let tried = bytes.len().saturating_sub(FRAME_HEADER - 1);
            at += if tried > 0 { tried as u64 } else { bytes.len() as u64 };
        }
        None
    }

    /// Returns the first header at a multiple of `step` in `[from, end)` that verifies and whose frame ends at or
    /// before `end`. `from` is a multiple of `step`.
    pub(super) fn find_on_borders(
        &mut self,
        reader: &LogReader,
        from: u64,
        end: u64,
        step: u64,
    ) -> Option<FrameHeader> {
        let mut at = from;
        while at < end {
            if self.get::<FRAME_HEADER>(at).is_none() && self.read(reader, at, end).is_err() {
                at += step;
                continue;
            }
            if let Some(bytes) = self.get::<FRAME_HEADER>(at)
                && bytes.starts_with(&FRAME_MAGIC)
                && let Ok(header) = reader.verify_header(LogOffset(at), bytes)
                && at + header.frame_len() <= end
            {
                return Some(header);
            }
            at += step;
        }
        None
    }
}
