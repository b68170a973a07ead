//! The limits of section 14, and the sizes that bound the allocations of a reader.

/// Bytes of a head slot in the file.
pub const HEAD_SLOT_SPAN: u64 = 16 * 1024;
/// Where the log begins.
pub const LOG_START: u64 = 2 * HEAD_SLOT_SPAN;
/// A block of this size that was synced is never appended to.
pub const SYNC_BLOCK: u64 = 4096;
/// Bytes of the clear part of a frame.
pub const CLEAR_LEN: u64 = 4 << 20;
/// Subchunks of a superchunk.
pub const SUBCHUNKS: u64 = 1 << 20;
/// Raw bytes of a superchunk and of a frame.
pub const RAW_LEN: u64 = 64 << 20;
/// Stored bytes of a frame: raw bytes plus more than the largest part table (64 MiB in parts of 4 KiB, 12 bytes each).
pub const STORED_LEN: u64 = RAW_LEN + (1 << 20);
/// Raw bytes of a superchunk and of all those that its recipes may refer to: a reader holds them to inflate it.
pub const SOURCE_BYTES: u64 = 2 << 30;
/// Smallest superchunk size of an image, in bytes.
pub const SUPERCHUNK_MIN: u32 = 1 << 20;
/// Largest superchunk size of an image, in bytes.
pub const SUPERCHUNK_MAX: u32 = 64 << 20;
/// Smallest part size, in bytes.
pub const PART_MIN: u32 = 4096;
/// Raw bytes of a table block.
pub const TABLE_BLOCK: u64 = 256 * 1024;
/// Raw bytes of a table group: a lookup inflates no more than that.
pub const TABLE_GROUP: u64 = 256 * 1024;
/// Levels of a tree: with two children a block this is far beyond any image.
pub const TREE_LEVELS: u8 = 12;
/// Bytes of a subchunk.
pub const SUBCHUNK_LEN: u64 = 1 << 20;
/// Pieces of a recipe, and of a row of recipes.
pub const RECIPE_PIECES: u64 = 4096;
/// Bytes of the composed subchunks of one superchunk.
pub const COMPOSED_BYTES: u64 = 256 << 20;
/// Bytes of a name.
pub const NAME_LEN: usize = 255;
/// Bytes of a snapshot's comment.
pub const SNAPSHOT_COMMENT: u64 = 4096;
/// Largest number of nanoseconds in a time.
pub const NANOS: u32 = 999_999_999;
/// Bytes of a symlink target.
pub const SYMLINK_LEN: usize = 4095;
/// Bytes of the value of an xattr.
pub const XATTR_VALUE: usize = 64 * 1024;
/// Bytes of a set of xattrs.
pub const XATTR_SET: usize = 1 << 20;
/// Sets of at most this many bytes are stored in the inode's row.
pub const XATTR_INLINE: usize = 128;
/// Bytes of one row's piece of an xattr set.
pub const XATTR_PIECE: usize = 32 * 1024;
/// Contents of fewer bytes than this are stored in the tiny table.
pub const TINY_LEN: u64 = 512;
/// Inode numbers are below this.
pub const INODE: u64 = 1 << 48;
/// Ids of subchunks, superchunks, contents, tiny contents and xattr sets, and ordinals of snapshots, are below this.
pub const ID: u64 = 1 << 62;
/// Epochs are below this.
pub const EPOCH: u32 = 1 << 24;
/// Sequences of one epoch: a writer's first is `epoch × SEQUENCES`.
pub const SEQUENCES: u64 = 1 << 40;
/// Offsets in the image are below this.
pub const IMAGE_LEN: u64 = 1 << 62;
/// Most subchunks in one row of contents or of the map.
pub const RUN: u64 = 128;
/// Most identities in one row.
pub const IDENTITY_RUN: u64 = 64;
/// Bytes of a dictionary.
pub const DICTIONARY_LEN: u64 = 1 << 20;

/// The first sequence of a writer in this epoch (section 2.3); `epoch` is below [`EPOCH`].
pub const fn first_sequence(epoch: u32) -> u64 {
    epoch as u64 * SEQUENCES
}
