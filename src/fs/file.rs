//! Reading regular files, and where they have data.

use super::{Fs, FsError};
use crate::format::ids::{InodeId, SubchunkId};
use crate::format::rows::{ContentRef, ContentRow, Extent, FileType, InodeRow};

/// What lseek(2) looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekTo {
    /// The next byte that is not in a hole.
    Data,
    /// The next byte that is, the end of the file counting as one.
    Hole,
}

impl Fs {
    pub(super) fn regular(&self, inode: InodeId) -> Result<InodeRow, FsError> {
        let row = self.row(inode)?;
        match row.file_type {
            FileType::Regular => Ok(row),
            FileType::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::NotRegular),
        }
    }

    /// Appends up to `len` bytes of a file from `offset` on to `out`; fewer only at the file's end.
    ///
    /// # Errors
    /// `IsDirectory`, `NotRegular`, `NotFound`, or `Io` if a subchunk cannot be had. `out` may then have grown.
    pub fn read(&self, inode: InodeId, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<(), FsError> {
        let row = self.regular(inode)?;
        let len = (len as u64).min(row.size.saturating_sub(offset)) as usize;
        if len == 0 {
            return Ok(());
        }
        let start = out.len();
        out.resize(start + len, 0);
        let target = &mut out[start..];
        match row.content {
            ContentRef::None => Ok(()),
            ContentRef::Subchunk(id) => self.read_subchunk(id, offset, target),
            ContentRef::Tiny(id) => {
                let bytes = self.image.tiny(id)?;
                let range = offset as usize..offset as usize + len;
                target.copy_from_slice(bytes.get(range).ok_or_else(|| FsError::io("a tiny file is cut short"))?);
                Ok(())
            }
            ContentRef::Content(content) => {
                let mut extents = self.image.extents(content, offset)?;
                let (mut at, mut rest) = (offset, target);
                while !rest.is_empty() {
                    let Some((begin, extent)) = extents.next(&self.image)? else {
                        return Err(FsError::io(format!("content {content} ends at {at}, before its file does")));
                    };
                    let within = at - begin;
                    let Some(have) = extent.length.checked_sub(within).filter(|have| *have > 0) else {
                        return Err(FsError::io(format!("content {content} has nothing at {at}")));
                    };
                    let (now, behind) = rest.split_at_mut(have.min(rest.len() as u64) as usize);
                    self.read_extent(&extent, within, now)?;
                    at += now.len() as u64;
                    rest = behind;
                }
                Ok(())
            }
        }
    }

    /// Fills `out`, which is zero, with the bytes of an extent from its byte `within` on.
    fn read_extent(&self, extent: &ContentRow, within: u64, out: &mut [u8]) -> Result<(), FsError> {
        match &extent.extent {
            Extent::Hole => Ok(()),
            Extent::Slice { subchunk, skip } => self.read_subchunk(*subchunk, u64::from(*skip) + within, out),
            Extent::Run { first, lens } => {
                let (mut begin, mut at, mut rest) = (0u64, within, out);
                for (n, &len) in lens.iter().enumerate() {
                    if rest.is_empty() {
                        break;
                    }
                    let end = begin + u64::from(len);
                    if at < end {
                        let (now, behind) = rest.split_at_mut((end - at).min(rest.len() as u64) as usize);
                        self.read_subchunk(SubchunkId(first.0 + n as u64), at - begin, now)?;
                        at += now.len() as u64;
                        rest = behind;
                    }
                    begin = end;
                }
                Ok(())
            }
        }
    }

    fn read_subchunk(&self, id: SubchunkId, skip: u64, out: &mut [u8]) -> Result<(), FsError> {
        let skip = u32::try_from(skip).map_err(|_| FsError::io(format!("subchunk {id} is not that long")))?;
        Ok(self.working_set.read_subchunk(id, skip, out)?)
    }

    /// The next offset at or behind `offset` that has data, or is a hole.
    ///
    /// # Errors
    /// `NoData` at or behind the end, or where no data follows; else as [`Fs::read`].
    pub fn seek(&self, inode: InodeId, offset: u64, to: SeekTo) -> Result<u64, FsError> {
        let row = self.regular(inode)?;
        if offset >= row.size {
            return Err(FsError::NoData);
        }
        match (row.content, to) {
            (ContentRef::None, SeekTo::Data) => Err(FsError::NoData),
            (ContentRef::None, SeekTo::Hole) => Ok(offset),
            (ContentRef::Subchunk(_) | ContentRef::Tiny(_), SeekTo::Data) => Ok(offset),
            (ContentRef::Subchunk(_) | ContentRef::Tiny(_), SeekTo::Hole) => Ok(row.size),
            (ContentRef::Content(content), to) => {
                let mut extents = self.image.extents(content, offset)?;
                while let Some((begin, extent)) = extents.next(&self.image)? {
                    if (extent.extent == Extent::Hole) == (to == SeekTo::Hole) {
                        return Ok(begin.max(offset));
                    }
                }
                if to == SeekTo::Hole { Ok(row.size) } else { Err(FsError::NoData) }
            }
        }
    }
}
