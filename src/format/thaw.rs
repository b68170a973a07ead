//! Layouts of the thaw log's frames, and its limits (section 11).

use super::layout::on_disk;
use zerocopy::little_endian::{I64, U32, U64};

/// Raw bytes of a transaction. A larger commit is split into a group of transactions.
pub const TRANSACTION_LEN: u64 = 1 << 20;
/// Smallest segment that a reader accepts, in bytes.
pub const SEGMENT_MIN: u64 = 16 << 10;
/// Largest segment, in bytes.
pub const SEGMENT_MAX: u64 = 64 << 20;
/// Flag of a transaction: it is not the last of its group.
pub const MORE_FOLLOWS: u32 = 1;

on_disk! {
    /// Stored bytes of a segment frame: which image and root the log continues, and where the log ended before this
    /// segment.
    pub struct SegmentHead {
        /// Of the image.
        uuid: [u8; 16],
        /// Of the image.
        lineage: [u8; 16],
        /// Of the head that the log continues from.
        generation: U64,
        /// Of that head.
        root_hash: [u8; 32],
        /// Number of the segment.
        segment: U64,
        /// Bytes of a segment.
        segment_size: U64,
        /// Number of the last transaction before.
        last_transaction: U64,
        /// Its `sum`.
        last_sum: U64,
        /// Offset where the log ended before this segment.
        previous_end: U64,
        /// The log before this offset was synced.
        durable_upto: U64,
    }
}

on_disk! {
    /// First bytes of a transaction.
    pub struct TransactionHead {
        /// One more than the one before.
        number: U64,
        /// `sum` of the one before.
        previous_sum: U64,
        /// The thaw log before this offset was synced.
        durable_upto: U64,
        /// The image before this offset was synced.
        image_end: U64,
        /// Seconds.
        time: I64,
        /// Nanoseconds.
        time_ns: U32,
        /// Operations that follow.
        operations: U32,
        /// Bit 0: more follows.
        flags: U32,
        /// Zero.
        reserved: U32,
    }
}
