//! The limits of section 14, and the sizes that bound the allocations of a reader.

/// Bytes that a head slot takes in the file.
pub const HEAD_SLOT_SPAN: u64 = 16 * 1024;
/// Offset in bytes where the log of an image begins.
pub const LOG_START: u64 = 2 * HEAD_SLOT_SPAN;
/// Length of a sync block in bytes. Nothing is ever appended to a block of this length that has synced bytes.
pub const SYNC_BLOCK: u64 = 4096;
/// Most bytes of the clear part of a frame.
pub const CLEAR_LEN: u64 = 4 << 20;
/// Most subchunks of a superchunk.
pub const SUBCHUNKS: u64 = 1 << 20;
/// Most raw bytes of a superchunk and of a frame.
pub const RAW_LEN: u64 = 64 << 20;
/// Most stored bytes of a frame: raw bytes plus more than the largest part table (64 MiB in parts of 4 KiB, 12 bytes
/// each).
pub const STORED_LEN: u64 = RAW_LEN + (1 << 20);
/// Most raw bytes of a superchunk together with all superchunks that its recipes may refer to. A reader that inflates
/// it needs all of them in memory.
pub const SOURCE_BYTES: u64 = 2 << 30;
/// Smallest superchunk size of an image, in bytes.
pub const SUPERCHUNK_MIN: u32 = 1 << 20;
/// Largest superchunk size of an image, in bytes.
pub const SUPERCHUNK_MAX: u32 = 64 << 20;
/// Smallest part size, in bytes.
pub const PART_MIN: u32 = 4096;
/// Most raw bytes of a table block.
pub const TABLE_BLOCK: u64 = 256 * 1024;
/// Most raw bytes of a table group: a lookup inflates no more than that.
pub const TABLE_GROUP: u64 = 256 * 1024;
/// Most levels of a tree. With only 16 children in each interior block, this is enough for 2^44 leaves.
pub const TREE_LEVELS: u8 = 12;
/// Most bytes of a subchunk.
pub const SUBCHUNK_LEN: u64 = 1 << 20;
/// Most pieces of a recipe, and of a row of recipes.
pub const RECIPE_PIECES: u64 = 4096;
/// Most bytes of the composed subchunks of one superchunk.
pub const COMPOSED_BYTES: u64 = 256 << 20;
/// Most bytes of a file name.
pub const NAME_LEN: usize = 255;
/// Most bytes of a snapshot's comment.
pub const SNAPSHOT_COMMENT: u64 = 4096;
/// Largest number of nanoseconds after the second of a time.
pub const NANOS: u32 = 999_999_999;
/// Most bytes of a symlink target.
pub const SYMLINK_LEN: usize = 4095;
/// Most bytes of the value of an xattr.
pub const XATTR_VALUE: usize = 64 * 1024;
/// Most bytes of an encoded set of xattrs.
pub const XATTR_SET: usize = 1 << 20;
/// Most bytes of an xattr set that is stored in the inode's row.
pub const XATTR_INLINE: usize = 128;
/// Most bytes of an xattr set in one row of the xattrs table.
pub const XATTR_PIECE: usize = 32 * 1024;
/// Bytes below which a file's content is stored in the tiny table.
pub const TINY_LEN: u64 = 512;
/// Exclusive upper limit of inode numbers.
pub const INODE: u64 = 1 << 48;
/// Exclusive upper limit of the ids of subchunks, superchunks, contents, tiny contents and xattr sets, and of the
/// ordinals of snapshots.
pub const ID: u64 = 1 << 62;
/// Exclusive upper limit of epochs.
pub const EPOCH: u32 = 1 << 24;
/// Number of sequences of one epoch: a writer's first sequence is `epoch × SEQUENCES`.
pub const SEQUENCES: u64 = 1 << 40;
/// Exclusive upper limit of offsets in the image, in bytes.
pub const IMAGE_LEN: u64 = 1 << 62;
/// Most subchunks in one row of contents or of the map.
pub const RUN: u64 = 128;
/// Most identities in one row of the identities table.
pub const IDENTITY_RUN: u64 = 64;
/// Most bytes of a dictionary.
pub const DICTIONARY_LEN: u64 = 1 << 20;

/// Returns the first sequence of a writer in this epoch (section 2.3); `epoch` is below [`EPOCH`].
pub const fn first_sequence(epoch: u32) -> u64 {
    epoch as u64 * SEQUENCES
}
