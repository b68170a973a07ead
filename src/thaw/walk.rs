//! Steps over the frames of one segment, and over what does not verify between them.

use super::ThawError;
use super::segment::Segment;
use crate::format::frame::FrameHeader;

/// One step.
pub(super) enum Step {
    /// A frame whose header verifies; its stored bytes were not looked at.
    Frame(FrameHeader),
    /// Bytes in which no header verifies.
    Bad {
        /// Where they begin: where a frame should.
        at: u64,
        /// Where the next header verifies, or where the walk ends.
        until: u64,
        /// What is wrong with the header that should be there.
        why: String,
    },
}

/// Calls `each` for all that is from `from` up to `limit`, in order, until it returns false. A header that does not verify
/// costs only its own frame: the next one is searched for.
///
/// # Errors
/// Of `each`; or if the segment cannot be read, which is never taken for bytes that do not verify.
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
