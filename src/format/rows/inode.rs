//! Inodes (section 8.1).

use super::dirent::FileType;
use crate::format::bytes::{Cursor, put_varint, unzigzag, zigzag};
use crate::format::ids::{ContentId, InodeId, SubchunkId, TinyId, XattrSetId};
use crate::format::{FormatError, limits};

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Time {
    /// Seconds since 1970, negative before that.
    pub secs: i64,
    /// Nanoseconds after the second `secs`, below 10^9.
    pub nanos: u32,
}

/// Where the bytes of a regular file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentRef {
    /// Nothing is stored: the file is empty or one hole.
    None,
    /// The file is one whole subchunk.
    Subchunk(SubchunkId),
    /// The rows of the contents table with this id list the file's extents.
    Content(ContentId),
    /// The bytes are in the row of the tiny table with this id.
    Tiny(TinyId),
}

/// Where the xattrs of an inode are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XattrRef {
    /// The inode has no xattrs.
    None,
    /// The xattrs are in the inode's row itself, as an encoded set (section 8.4).
    Inline(Vec<u8>),
    /// The xattrs are in the xattrs table, in the set with this id.
    Set(XattrSetId),
}

/// A row of the inodes table: the attributes of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InodeRow {
    /// Type of the file.
    pub file_type: FileType,
    /// Permission bits, with setuid, setgid and sticky: below 0o10000.
    pub permissions: u16,
    /// User id of the owner.
    pub uid: u32,
    /// Id of the group that the file belongs to.
    pub gid: u32,
    /// Number of hard links.
    pub links: u64,
    /// Size, by type of file. Regular: bytes. Symlink: bytes of the target. Directory: its size in stat(2) when it was
    /// packed, only to be shown to people. Device: major << 32 | minor.
    pub size: u64,
    /// Time of the last change of the contents.
    pub mtime: Time,
    /// Time of the last change of the inode.
    pub ctime: Time,
    /// Time of the last read.
    pub atime: Time,
    /// Where a regular file's bytes are.
    pub content: ContentRef,
    /// Where the inode's xattrs are.
    pub xattrs: XattrRef,
    /// Parent directory, if the inode is a directory.
    pub parent: Option<InodeId>,
    /// Target, if the inode is a symlink; else empty.
    pub target: Vec<u8>,
    /// Attributes this version does not interpret (tags 3 and up), ascending by tag.
    pub attributes: Vec<(u64, Vec<u8>)>,
}

const TAG_TARGET: u64 = 1;
const TAG_XATTRS: u64 = 2;
/// Attribute tag of the writer's flags: bit 0 is [`UNEVEN`], bit 1 is [`FAST`].
pub const TAG_WRITER: u64 = 6;
/// Flag: the content was made by partial writes, not by chunking it from its start.
pub const UNEVEN: u64 = 1;
/// Flag: some superchunks of the content were packed at a lower level than the image's own.
pub const FAST: u64 = 2;
/// Attribute tag of the number of bytes of a file that are not in a hole.
pub const TAG_ALLOCATED: u64 = 7;

/// Number of integer columns of the inodes table.
pub const INODE_COLUMNS: usize = 16;

impl InodeRow {
    /// Returns the mode as in `st_mode`.
    pub fn mode(&self) -> u32 {
        (self.file_type.number() as u32) << 12 | u32::from(self.permissions)
    }

    /// Returns the major and minor number of a device.
    pub fn device(&self) -> (u32, u32) {
        ((self.size >> 32) as u32, self.size as u32)
    }

    /// Returns the bytes of the file that are not in a hole, if the row says so (it does for files with holes).
    pub fn allocated(&self) -> Option<u64> {
        let (_, bytes) = self.attributes.iter().find(|(tag, _)| *tag == TAG_ALLOCATED)?;
        Cursor::new(bytes, "allocated bytes").varint().ok()
    }

    /// Returns whether the row says that the content was made by partial writes. Its subchunks may then differ from
    /// those that chunking it from its start gives.
    pub fn is_uneven(&self) -> bool {
        self.writer_flags() & UNEVEN != 0
    }

    /// Returns whether the row says that some superchunks of the content were packed at a lower level than the image's
    /// own.
    pub fn is_fast(&self) -> bool {
        self.writer_flags() & FAST != 0
    }

    /// Returns the flags of the writer, those that this version does not know included.
    pub fn writer_flags(&self) -> u64 {
        let flags = self.attributes.iter().find(|(tag, _)| *tag == TAG_WRITER);
        flags.and_then(|(_, bytes)| Cursor::new(bytes, "flags of the writer").varint().ok()).unwrap_or(0)
    }

    /// Returns the integers and the tail of the row.
    pub fn encode(&self) -> ([u64; INODE_COLUMNS], Vec<u8>) {
        let (mut subchunk, mut content, mut tiny) = (0, 0, 0);
        match self.content {
            ContentRef::None => {}
            ContentRef::Subchunk(id) => subchunk = id.0,
            ContentRef::Content(id) => content = id.0,
            ContentRef::Tiny(id) => tiny = id.0,
        }
        let relative =
            |time: Time| (zigzag(time.secs.wrapping_sub(self.mtime.secs)), u64::from(time.nanos ^ self.mtime.nanos));
        let ((ctime, ctime_ns), (atime, atime_ns)) = (relative(self.ctime), relative(self.atime));
        let mut tail = Vec::new();
        let mut put = |tag, bytes: &[u8]| {
            put_varint(&mut tail, tag);
            put_varint(&mut tail, bytes.len() as u64);
            tail.extend_from_slice(bytes);
        };
        if self.file_type == FileType::Symlink {
            put(TAG_TARGET, &self.target);
        }
        let set = match &self.xattrs {
            XattrRef::None => 0,
            XattrRef::Inline(bytes) => {
                put(TAG_XATTRS, bytes);
                0
            }
            XattrRef::Set(id) => id.0,
        };
        for (tag, bytes) in &self.attributes {
            put(*tag, bytes);
        }
        let ints = [
            self.mode().into(),
            self.uid.into(),
            self.gid.into(),
            self.links,
            self.size,
            self.mtime.secs as u64,
            self.mtime.nanos.into(),
            subchunk,
            content,
            tiny,
            set,
            self.parent.map_or(0, |p| p.0),
            ctime,
            ctime_ns,
            atime,
            atime_ns,
        ];
        (ints, tail)
    }

    /// Decodes a row from its integers and tail.
    ///
    /// # Errors
    /// Fails if the row is not valid.
    pub fn decode(ints: &[u64], tail: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "inode";
        let &[
            mode,
            uid,
            gid,
            links,
            size,
            mtime,
            mtime_ns,
            subchunk,
            content,
            tiny,
            set,
            parent,
            ctime,
            ctime_ns,
            atime,
            atime_ns,
        ] = ints
        else {
            return Err(FormatError::invalid(WHAT, "wrong number of columns"));
        };
        let file_type =
            FileType::from_number(mode >> 12).ok_or(FormatError::invalid(WHAT, "unknown file type in its mode"))?;
        let small = |what, value: u64| {
            u32::try_from(value).map_err(|_| FormatError::Limit { what, value, limit: u32::MAX.into() })
        };
        let nanos = |value: u64| match u32::try_from(value) {
            Ok(nanos) if nanos < 1_000_000_000 => Ok(nanos),
            _ => Err(FormatError::Limit { what: "nanoseconds", value, limit: 999_999_999 }),
        };
        let mtime = Time { secs: mtime as i64, nanos: nanos(mtime_ns)? };
        let absolute = |secs: u64, ns: u64| {
            Ok::<_, FormatError>(Time {
                secs: mtime.secs.wrapping_add(unzigzag(secs)),
                nanos: nanos(ns ^ u64::from(mtime.nanos))?,
            })
        };
        let regular = file_type == FileType::Regular;
        let content = match (subchunk, content, tiny) {
            (0, 0, 0) => ContentRef::None,
            (id, 0, 0) if regular && size > 0 && size <= limits::SUBCHUNK_LEN => ContentRef::Subchunk(SubchunkId(id)),
            (0, id, 0) if regular => ContentRef::Content(ContentId(id)),
            (0, 0, id) if regular && size > 0 && size < limits::TINY_LEN => ContentRef::Tiny(TinyId(id)),
            _ => {
                return Err(FormatError::invalid(
                    WHAT,
                    "it has several contents, or one that does not fit its type or size",
                ));
            }
        };
        let parent = match (file_type, parent) {
            (FileType::Directory, 1..limits::INODE) => Some(InodeId(parent)),
            (FileType::Directory, _) => return Err(FormatError::invalid(WHAT, "a directory without a parent")),
            (_, 0) => None,
            _ => return Err(FormatError::invalid(WHAT, "it is not a directory and has a parent")),
        };
        if regular && size > i64::MAX as u64 {
            return Err(FormatError::Limit { what: "size of a file", value: size, limit: i64::MAX as u64 });
        }
        let mut row = InodeRow {
            file_type,
            permissions: (mode & 0o7777) as u16,
            uid: small("uid", uid)?,
            gid: small("gid", gid)?,
            links,
            size,
            mtime,
            ctime: absolute(ctime, ctime_ns)?,
            atime: absolute(atime, atime_ns)?,
            content,
            xattrs: if set == 0 { XattrRef::None } else { XattrRef::Set(XattrSetId(set)) },
            parent,
            target: Vec::new(),
            attributes: Vec::new(),
        };
        row.decode_tail(tail)?;
        Ok(row)
    }

    fn decode_tail(&mut self, tail: &[u8]) -> Result<(), FormatError> {
        const WHAT: &str = "attributes of an inode";
        let mut cursor = Cursor::new(tail, WHAT);
        let mut last = 0;
        while cursor.remaining() > 0 {
            let tag = cursor.varint()?;
            if tag <= last {
                return Err(FormatError::invalid(WHAT, "tags do not ascend"));
            }
            last = tag;
            let len = usize::try_from(cursor.varint()?).unwrap_or(usize::MAX);
            let bytes = cursor.take(len)?;
            match tag {
                TAG_TARGET if self.file_type == FileType::Symlink => self.target = bytes.to_vec(),
                TAG_TARGET => return Err(FormatError::invalid(WHAT, "it is not a symlink and has a target")),
                TAG_XATTRS if self.xattrs == XattrRef::None => self.xattrs = XattrRef::Inline(bytes.to_vec()),
                TAG_XATTRS => return Err(FormatError::invalid(WHAT, "two sets of xattrs")),
                _ => self.attributes.push((tag, bytes.to_vec())),
            }
        }
        if self.file_type == FileType::Symlink
            && (self.target.is_empty()
                || self.target.len() > limits::SYMLINK_LEN
                || self.target.len() as u64 != self.size
                || self.target.contains(&0))
        {
            return Err(FormatError::invalid(
                "symlink",
                "its target is empty, too long, holds a zero byte, or does not have its size",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn regular() -> InodeRow {
        InodeRow {
            file_type: FileType::Regular,
            permissions: 0o6755,
            uid: u32::MAX,
            gid: 0,
            links: 2,
            size: 100,
            mtime: Time { secs: -5, nanos: 999_999_999 },
            ctime: Time { secs: i64::MAX, nanos: 1 },
            atime: Time { secs: i64::MIN, nanos: 0 },
            content: ContentRef::Subchunk(SubchunkId(9)),
            xattrs: XattrRef::Inline(vec![1, 2, 3]),
            parent: None,
            target: Vec::new(),
            attributes: vec![(4, vec![7]), (99, vec![])],
        }
    }

    #[test]
    fn inodes_of_all_kinds_come_back_as_they_went_in() {
        let mut rows = vec![regular()];
        rows.push(InodeRow { content: ContentRef::Tiny(TinyId(3)), xattrs: XattrRef::Set(XattrSetId(4)), ..regular() });
        rows.push(InodeRow { content: ContentRef::Content(ContentId(3)), size: i64::MAX as u64, ..regular() });
        rows.push(InodeRow {
            file_type: FileType::Directory,
            content: ContentRef::None,
            parent: Some(InodeId::ROOT),
            ..regular()
        });
        rows.push(InodeRow {
            file_type: FileType::Symlink,
            content: ContentRef::None,
            size: 3,
            target: b"a/b".to_vec(),
            ..regular()
        });
        rows.push(InodeRow {
            file_type: FileType::BlockDevice,
            content: ContentRef::None,
            size: 8 << 32 | 17,
            ..regular()
        });
        for row in rows {
            let (ints, tail) = row.encode();
            assert_eq!(InodeRow::decode(&ints, &tail).unwrap(), row);
        }
    }

    proptest! {
        #[test]
        fn any_integers_and_tail_give_an_inode_or_an_error(
            changes in prop::collection::vec((0..INODE_COLUMNS, prop_oneof![0u64..4, any::<u64>()]), 0..4),
            tail in prop_oneof![Just(vec![1, 3, b'a', b'/', b'b']), prop::collection::vec(any::<u8>(), 0..12)],
            kind in 0u64..16,
        ) {
            let (mut ints, _) = regular().encode();
            ints[0] = kind << 12 | 0o644;
            changes.into_iter().for_each(|(column, value)| ints[column] = value);
            if let Ok(row) = InodeRow::decode(&ints, &tail) {
                let (again, _) = row.encode();
                // Bits of the mode beyond type and permissions are an error.
                prop_assert_eq!(&again[1..], &ints[1..]);
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let refuse = |change: fn(&mut [u64; INODE_COLUMNS])| {
            let (mut ints, tail) = regular().encode();
            change(&mut ints);
            assert!(InodeRow::decode(&ints, &tail).is_err());
        };
        refuse(|i| i[0] = 0);
        refuse(|i| i[1] = 1 << 32);
        refuse(|i| i[6] = 1_000_000_000);
        refuse(|i| i[8] = 1);
        refuse(|i| i[11] = 1);
        refuse(|i| i[4] = 0);
        refuse(|i| i[4] = limits::SUBCHUNK_LEN + 1);
    }
}
