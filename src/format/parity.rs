//! Layout of parity frames (section 12).

use super::layout::on_disk;
use zerocopy::little_endian::{U32, U64};

on_disk! {
    /// The first bytes of the stored bytes of a parity frame.
    pub struct ParityHead {
        /// Offset in bytes where the protected range begins.
        start: U64,
        /// Length of the protected range in bytes.
        length: U64,
        /// Length of a shard in bytes.
        shard_size: U32,
        /// Number of data shards.
        data_shards: U32,
        /// Number of parity shards.
        parity_shards: U32,
        /// Reserved, zero.
        reserved: U32,
    }
}
