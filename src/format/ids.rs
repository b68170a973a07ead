//! Types for ids and offsets, so that they cannot be mixed up.

use std::fmt;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Number of an inode, within one snapshot or the head. The root directory is 1.
    InodeId
}
id! {
    /// Id of a subchunk: a piece of file data, or a table block.
    SubchunkId
}
id! {
    /// Id of a superchunk: a frame of subchunks that are compressed together.
    SuperchunkId
}
id! {
    /// Id of a content (a file's list of extents) in the contents table.
    ContentId
}
id! {
    /// Id of a content in the tiny table, which holds the bytes of small files.
    TinyId
}
id! {
    /// Id of an xattr set in the xattrs table.
    XattrSetId
}
id! {
    /// Offset in bytes from the beginning of the image (or of the thaw log).
    LogOffset
}

impl InodeId {
    /// Inode number of the root directory.
    pub const ROOT: InodeId = InodeId(1);
}
