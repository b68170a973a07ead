//! Layout of parity frames (section 12).

use super::layout::on_disk;
use zerocopy::little_endian::{U32, U64};

on_disk! {
    /// First bytes of a parity frame.
    pub struct ParityHead {
        /// First byte of the range.
        start: U64,
        /// Bytes of the range.
        length: U64,
        /// Bytes of a shard.
        shard_size: U32,
        /// Shards of data.
        data_shards: U32,
        /// Shards of parity.
        parity_shards: U32,
        /// Zero.
        reserved: U32,
    }
}
