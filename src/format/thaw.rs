//! Layouts of the thaw log's frames (section 11).

use super::layout::on_disk;
use zerocopy::little_endian::{I64, U32, U64};

on_disk! {
    /// Stored bytes of a segment frame: which image and which root the log continues.
    pub struct SegmentHead {
        /// Of the image.
        uuid: [u8; 16],
        /// Of the image.
        lineage: [u8; 16],
        /// Of the head it continues from.
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
    }
}
