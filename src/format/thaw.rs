//! Layouts of the thaw log's frames, and its limits (section 11).

use super::layout::on_disk;
use zerocopy::little_endian::{I64, U32, U64};

/// Most raw bytes of a transaction. A larger commit is split into a group of transactions.
pub const TRANSACTION_LEN: u64 = 1 << 20;
/// Smallest segment that a reader accepts, in bytes.
pub const SEGMENT_MIN: u64 = 16 << 10;
/// Largest segment of a thaw log, in bytes.
pub const SEGMENT_MAX: u64 = 64 << 20;
/// Flag of a transaction: it is not the last of its group.
pub const MORE_FOLLOWS: u32 = 1;

on_disk! {
    /// Stored bytes of a segment frame: which image and root the log continues, and where the log ended before this
    /// segment.
    pub struct SegmentHead {
        /// Id of the image that the log continues.
        uuid: [u8; 16],
        /// Id of the history of that image.
        lineage: [u8; 16],
        /// Generation of the head that the log continues from.
        generation: U64,
        /// Root hash of the head that the log continues from.
        root_hash: [u8; 32],
        /// Number of this segment.
        segment: U64,
        /// Length of a segment in bytes.
        segment_size: U64,
        /// Number of the last transaction before this segment.
        last_transaction: U64,
        /// Checksum (`sum`) of the frame of the last transaction before this segment.
        last_sum: U64,
        /// Offset in bytes where the log ended before this segment.
        previous_end: U64,
        /// Offset in bytes up to which the log was synced before this segment was written.
        durable_upto: U64,
    }
}

on_disk! {
    /// The first bytes of the raw bytes of a transaction.
    pub struct TransactionHead {
        /// Number of the transaction: one more than that of the one before.
        number: U64,
        /// Checksum (`sum`) of the frame of the transaction before.
        previous_sum: U64,
        /// Offset in bytes up to which the thaw log was synced before this transaction was written.
        durable_upto: U64,
        /// Offset in bytes up to which the image was synced before this transaction was written.
        image_end: U64,
        /// Time of the commit, seconds since 1970.
        time: I64,
        /// Nanoseconds after the second `time`.
        time_ns: U32,
        /// Number of operations that follow.
        operations: U32,
        /// Flags; bit 0 says that more transactions of the same group follow.
        flags: U32,
        /// Reserved, zero.
        reserved: U32,
    }
}
