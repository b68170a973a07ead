//! The segments of a log at one moment, for readers that do not use the writer.

use super::segment::Segment;
use crate::format::ids::LogOffset;
use std::collections::BTreeMap;

/// Segments of a thaw log with open files. They stay readable after they were removed from the log.
#[derive(Clone, Default)]
pub struct Segments {
    size: u64,
    by_number: BTreeMap<u64, Segment>,
}

impl Segments {
    pub(super) fn new(size: u64, by_number: BTreeMap<u64, Segment>) -> Self {
        Segments { size, by_number }
    }

    /// Returns the number of segments.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Returns whether there are no segments.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// Returns the number of the lowest segment.
    pub fn lowest(&self) -> Option<u64> {
        self.by_number.first_key_value().map(|(&number, _)| number)
    }

    /// Returns the size of a segment in bytes; 0 if there is no log.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the numbers of the segments, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.by_number.keys().copied()
    }

    /// Returns the number of the segment that a frame is in, also if that segment is not among these segments; 0 if
    /// there is no log.
    pub fn number(&self, frame: LogOffset) -> u64 {
        frame.0.checked_div(self.size).unwrap_or(0)
    }

    /// Returns the segment of a frame, or `None`.
    pub fn get(&self, frame: LogOffset) -> Option<&Segment> {
        self.by_number.get(&self.number(frame))
    }
}
