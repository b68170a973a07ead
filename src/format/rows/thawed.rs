//! Thawed ranges (section 8.9): ranges of files whose bytes are not in the image.

use crate::format::ids::LogOffset;
use crate::format::{FormatError, limits};

/// Number of integer columns of the table of thawed ranges.
pub const THAWED_COLUMNS: usize = 3;

/// Where the bytes of a thawed range are. They are never in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThawedBytes {
    /// The bytes are in a frame of written bytes of the thaw log.
    InLog {
        /// Offset in bytes of the frame's header in the thaw log, never 0.
        frame: LogOffset,
        /// Offset of the range's first byte in the frame's raw bytes.
        skip: u32,
        /// XXH3-64 checksum of all raw bytes of the frame.
        sum: u64,
    },
    /// The bytes are lost: the thaw log that held them is missing, or is damaged there.
    Lost,
}

/// A row of the table `thawed`, without its key: a range of a file whose bytes are not in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThawedRow {
    /// Length of the range in bytes, at least 1.
    pub length: u64,
    /// Where the bytes of the range are.
    pub bytes: ThawedBytes,
}

impl ThawedRow {
    /// Returns whether the bytes of the range are lost.
    pub fn is_lost(&self) -> bool {
        self.bytes == ThawedBytes::Lost
    }

    /// Returns the integers and the tail of the row.
    pub fn encode(&self) -> ([u64; THAWED_COLUMNS], [u8; 8]) {
        match self.bytes {
            ThawedBytes::InLog { frame, skip, sum } => ([self.length, frame.0, skip.into()], sum.to_le_bytes()),
            ThawedBytes::Lost => ([self.length, 0, 0], [0; 8]),
        }
    }

    /// Decodes a row that begins at byte `offset` of its file from its integers and tail.
    ///
    /// # Errors
    /// Fails if the row is not valid.
    pub fn decode(offset: u64, ints: &[u64], tail: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "thawed range";
        let &[length, frame, skip] = ints else {
            return Err(FormatError::invalid(WHAT, "wrong number of columns"));
        };
        let Ok(sum) = <[u8; 8]>::try_from(tail) else {
            return Err(FormatError::invalid(WHAT, "its tail does not have 8 bytes"));
        };
        let sum = u64::from_le_bytes(sum);
        //= format-spec.md#8.9
        //# A reader refuses a row of length 0, one that ends after 2^63 - 1, one in the log with skip + length over 64 MiB, and
        //# a lost one whose skip or tail is not zero.
        if length == 0 || offset.checked_add(length).is_none_or(|end| end > i64::MAX as u64) {
            return Err(FormatError::Limit { what: WHAT, value: length, limit: i64::MAX as u64 });
        }
        let bytes = match frame {
            0 if skip == 0 && sum == 0 => ThawedBytes::Lost,
            0 => return Err(FormatError::invalid(WHAT, "it is lost, but names bytes in the thaw log")),
            limits::IMAGE_LEN.. => {
                return Err(FormatError::Limit {
                    what: "frame of a thawed range",
                    value: frame,
                    limit: limits::IMAGE_LEN,
                });
            }
            _ if skip.checked_add(length).is_none_or(|end| end > limits::RAW_LEN) => {
                return Err(FormatError::Limit { what: WHAT, value: length, limit: limits::RAW_LEN });
            }
            _ => ThawedBytes::InLog { frame: LogOffset(frame), skip: skip as u32, sum },
        };
        Ok(ThawedRow { length, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAST: u64 = i64::MAX as u64;

    proptest! {
        #[test]
        fn thawed_ranges_come_back_as_they_went_in(
            offset in 0..=LAST - limits::RAW_LEN,
            frame in 1..limits::IMAGE_LEN,
            (skip, length) in (0..limits::RAW_LEN).prop_flat_map(|skip| (Just(skip), 1..=limits::RAW_LEN - skip)),
            sum: u64,
            lost in 1..=limits::RAW_LEN,
        ) {
            let bytes = ThawedBytes::InLog { frame: LogOffset(frame), skip: skip as u32, sum };
            for row in [ThawedRow { length, bytes }, ThawedRow { length: lost, bytes: ThawedBytes::Lost }] {
                let (ints, tail) = row.encode();
                prop_assert_eq!(ThawedRow::decode(offset, &ints, &tail).unwrap(), row);
            }
        }

        #[test]
        fn any_integers_and_tail_give_a_thawed_range_or_an_error(
            offset: u64,
            ints in prop::collection::vec(prop_oneof![Just(0), 0u64..100, any::<u64>()], 0..5),
            tail in prop_oneof![Just(vec![0; 8]), prop::collection::vec(any::<u8>(), 0..10)],
        ) {
            if let Ok(row) = ThawedRow::decode(offset, &ints, &tail) {
                prop_assert!(offset + row.length <= LAST);
                let (again, same_tail) = row.encode();
                prop_assert_eq!((again.as_slice(), same_tail.as_slice()), (ints.as_slice(), tail.as_slice()));
            }
        }
    }

    //= format-spec.md#8.9
    //= type=test
    //# A reader refuses a row of length 0, one that ends after 2^63 - 1, one in the log with skip + length over 64 MiB, and
    //# a lost one whose skip or tail is not zero.
    #[test]
    fn thawed_ranges_that_contradict_themselves_are_refused() {
        let sum = 7u64.to_le_bytes();
        let good = |offset, ints: [u64; 3], tail: &[u8]| ThawedRow::decode(offset, &ints, tail).is_ok();
        assert!(good(0, [limits::RAW_LEN, 64, 0], &sum));
        assert!(good(0, [LAST, 0, 0], &[0; 8]));
        assert!(!good(0, [0, 64, 0], &sum));
        assert!(!good(1, [LAST, 0, 0], &[0; 8]));
        assert!(!good(u64::MAX, [1, 0, 0], &[0; 8]));
        assert!(!good(0, [limits::RAW_LEN, 64, 1], &sum));
        assert!(!good(0, [1, 64, u64::MAX], &sum));
        assert!(!good(0, [1, limits::IMAGE_LEN, 0], &sum));
        assert!(!good(0, [1, 0, 1], &[0; 8]));
        assert!(!good(0, [1, 0, 0], &sum));
        assert!(!good(0, [1, 64, 0], &[0; 7]));
    }
}
