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
    /// An inode, within one snapshot or the head. The root directory is 1.
    InodeId
}
id! {
    /// A subchunk, of file data or a table block.
    SubchunkId
}
id! {
    /// A superchunk.
    SuperchunkId
}
id! {
    /// A content in the contents table.
    ContentId
}
id! {
    /// A content in the tiny table.
    TinyId
}
id! {
    /// An xattr set in the xattrs table.
    XattrSetId
}
id! {
    /// An offset in bytes from the beginning of the image (or of the thaw log).
    LogOffset
}

impl InodeId {
    /// The root directory.
    pub const ROOT: InodeId = InodeId(1);
}
