//! Bytes of thawed ranges, read from the thaw log if it is there.

use super::FsError;
use super::read::Moment;
use crate::format::ids::LogOffset;
use crate::format::rows::{ThawedBytes, ThawedRow};
use crate::thaw::Segment;

impl Moment<'_> {
    /// Fills `out` with the bytes of a thawed range, beginning at byte `within` of the range. The range begins at
    /// offset `begin` of its file and covers all of `out`.
    pub(super) fn read_thawed(
        &self,
        begin: u64,
        range: &ThawedRow,
        within: u64,
        out: &mut [u8],
    ) -> Result<(), FsError> {
        //= format-spec.md#8.9
        //# A reader without the thaw log must answer a read that overlaps a thawed range, in the log or lost, with EIO,
        //# and must not fail other reads for it.
        let refuse = |why: &str| Err(FsError::io(format!("{} bytes at offset {begin} are {why}", range.length)));
        let ThawedBytes::InLog { frame, skip, sum } = range.bytes else { return refuse("lost") };
        let Some(segments) = &self.now.segments else { return refuse("in the thaw log, not in the image") };
        let Some(segment) = segments.get(frame) else { return refuse("in a missing segment of the thaw log") };
        let skip = u64::from(skip).saturating_add(within);
        if frame < self.now.session {
            let end = skip.saturating_add(out.len() as u64);
            if end > self.verified_len(segment, frame, sum)? {
                return refuse("not all in the frame that their row names");
            }
        }
        Ok(segment.read(frame, skip, out)?)
    }

    /// Returns the length of a frame in bytes. A frame from before this mount is verified as a whole when it is first
    /// read; newer frames were written by this mount.
    // Case 16.
    fn verified_len(&self, segment: &Segment, frame: LogOffset, sum: u64) -> Result<u64, FsError> {
        if let Some(len) = self.fs.verified.get(&(frame, sum)) {
            return Ok(len);
        }
        let len = segment.written(frame, sum)?.len() as u64;
        self.fs.verified.insert((frame, sum), len, 0);
        Ok(len)
    }
}
