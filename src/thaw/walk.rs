//! Walks over the frames of one segment, and over bytes between them that do not verify.

use super::ThawError;
use super::segment::Segment;
use crate::format::frame::FrameHeader;

/// One step of a walk over a segment.
pub(super) enum Step {
    /// A frame whose header verifies; its stored bytes are not checked.
    Frame(FrameHeader),
    /// A range of bytes in which no header verifies.
    Bad {
        /// Offset where the range begins; a header should be here.
        at: u64,
        /// Offset of the next header that verifies, or the end of the walk.
        until: u64,
        /// What is wrong with the header that should be at the beginning.
        why: String,
    },
}

/// Calls `each` for each frame, and for each range of bytes in which no header verifies, from offset `from` to `limit`,
/// in order, until it returns false. A header that does not verify loses only its own frame: the walk searches for the
/// next header.
///
/// # Errors
/// Fails with the error of `each`, or if the segment cannot be read. A read error is never taken for bytes that do not
/// verify.
pub(super) fn walk(
    segment: &Segment,
    from: u64,
    limit: u64,
    mut each: impl FnMut(Step) -> Result<bool, ThawError>,
) -> Result<(), ThawError> {
    let end = segment.end()?.min(limit);
    let mut at = from;
    while at < end {
        let step = match segment.header(at, end)? {
            Ok(header) => {
                at = at.saturating_add(header.frame_len());
                Step::Frame(header)
            }
            Err(why) => {
                let begin = at;
                at = segment.find_header(begin.saturating_add(1), end)?.unwrap_or(end);
                Step::Bad { at: begin, until: at, why }
            }
        };
        if !each(step)? {
            return Ok(());
        }
    }
    if at < limit {
        each(Step::Bad { at, until: limit, why: "the segment is cut short".to_owned() })?;
    }
    Ok(())
}
