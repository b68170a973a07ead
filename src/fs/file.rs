//! Reads regular files, and finds data and holes in them.

use super::FsError;
use super::read::{Fs, Moment};
use crate::format::ids::{InodeId, SubchunkId};
use crate::format::rows::{ContentRef, ContentRow, Extent, InodeRow};
use crate::meta::Extents;

/// What lseek(2) with `SEEK_DATA` or `SEEK_HOLE` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekTo {
    /// The next byte that is not in a hole.
    Data,
    /// The next byte that is in a hole; the end of the file counts as one.
    Hole,
}

impl Fs {
    /// Appends up to `len` bytes of a file from `offset` on to `out`; fewer only at the file's end.
    ///
    /// # Errors
    /// Fails with `IsDirectory`, `NotRegular` or `NotFound`; with `Io` if a subchunk cannot be read, or if the range
    /// overlaps a thawed range whose bytes are lost or are in a thaw log that is missing. `out` may have grown then.
    pub fn read(&self, inode: InodeId, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<(), FsError> {
        self.now().read(inode, offset, len, out)
    }

    /// Returns the next offset in bytes, from `offset` on, of data or of a hole.
    ///
    /// # Errors
    /// Fails with `NoData` if `offset` is not before the end, or if no data follows; otherwise as [`Fs::read`] does.
    pub fn seek(&self, inode: InodeId, offset: u64, to: SeekTo) -> Result<u64, FsError> {
        self.now().seek(inode, offset, to)
    }
}

impl Moment<'_> {
    pub(super) fn read(&self, inode: InodeId, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<(), FsError> {
        let row = self.regular(inode)?;
        let len = (len as u64).min(row.size.saturating_sub(offset)) as usize;
        if len == 0 {
            return Ok(());
        }
        let start = out.len();
        out.resize(start + len, 0);
        let mut rest = out.get_mut(start..).unwrap_or_default();
        if !self.view().has_thawed() {
            return self.read_stored(&row, offset, rest);
        }
        let mut at = offset;
        let mut thawed = self.view().thawed_within(inode, offset, offset.saturating_add(len as u64))?;
        while !rest.is_empty() {
            // Before the next thawed range, or up to the end, the stored content counts.
            let next = thawed.next(self.view())?;
            let before = next.map_or(u64::MAX, |(begin, _)| begin.saturating_sub(at)).min(rest.len() as u64);
            let (stored, after) = rest.split_at_mut(before as usize);
            if !stored.is_empty() {
                self.read_stored(&row, at, stored)?;
                at += before;
            }
            rest = after;
            if let Some((begin, range)) = next
                && !rest.is_empty()
            {
                let within = at.saturating_sub(begin);
                let have = range.length.saturating_sub(within).min(rest.len() as u64);
                let (now, after) = rest.split_at_mut(have as usize);
                self.read_thawed(begin, &range, within, now)?;
                at += have;
                rest = after;
            }
        }
        Ok(())
    }

    /// Fills `out`, which is zeroed, with the bytes of the row's content from `offset` on. `offset` is less than the
    /// size.
    fn read_stored(&self, row: &InodeRow, offset: u64, out: &mut [u8]) -> Result<(), FsError> {
        match row.content {
            ContentRef::None => Ok(()),
            ContentRef::Subchunk(id) => self.read_subchunk(id, offset, out),
            ContentRef::Tiny(id) => {
                let bytes = self.view().tiny(id)?;
                let bytes = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)?.get(..out.len()));
                out.copy_from_slice(bytes.ok_or_else(|| FsError::io("a tiny file is cut short"))?);
                Ok(())
            }
            ContentRef::Content(content) => self.read_content(&mut self.view().extents(content, offset)?, offset, out),
        }
    }

    /// Fills `out`, which is zeroed, with the bytes of `extents` from offset `at` of the file on. The first extent
    /// covers `at`, or is the last one.
    fn read_content(&self, extents: &mut Extents, mut at: u64, out: &mut [u8]) -> Result<(), FsError> {
        let mut rest = out;
        while !rest.is_empty() {
            //= format-spec.md#8.3
            //# It may end before: the rest of the file is a hole.
            let Some((begin, extent)) = extents.next(self.view())? else { return Ok(()) };
            // Extents adjoin each other: only the first can end before `at`, and then none follows it.
            let within = at.saturating_sub(begin);
            let have = extent.length.saturating_sub(within).min(rest.len() as u64);
            let (now, after) = rest.split_at_mut(have as usize);
            if !now.is_empty() {
                self.read_extent(&extent, within, now)?;
            }
            at += have;
            rest = after;
        }
        Ok(())
    }

    /// Fills `out`, which is zeroed, with the bytes of an extent, beginning at its byte `within`.
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
        Ok(self.fs.working_set.read_subchunk(self.view(), id, skip, out)?)
    }

    pub(super) fn seek(&self, inode: InodeId, offset: u64, to: SeekTo) -> Result<u64, FsError> {
        let row = self.regular(inode)?;
        if offset >= row.size {
            return Err(FsError::NoData);
        }
        if !self.view().has_thawed() {
            return self.seek_content(&row, offset, to);
        }
        // Thawed ranges are data, whatever the content has there.
        let mut thawed = self.view().thawed(inode, offset)?;
        if to == SeekTo::Data {
            let next = thawed.next(self.view())?.map(|(begin, _)| begin.max(offset)).filter(|at| *at < row.size);
            return match (self.seek_content(&row, offset, to), next) {
                (Ok(data), Some(next)) => Ok(data.min(next)),
                (Err(FsError::NoData), Some(next)) => Ok(next),
                (found, _) => found,
            };
        }
        let mut hole = self.seek_content(&row, offset, to)?;
        while let Some((begin, range)) = thawed.next(self.view())? {
            let end = begin.saturating_add(range.length);
            if end <= hole {
                continue;
            }
            if begin > hole {
                break;
            }
            if end >= row.size {
                return Ok(row.size);
            }
            hole = self.seek_content(&row, end, to)?;
        }
        Ok(hole)
    }

    /// Seeks as [`Moment::seek`] does, but only in the content that the row names. `offset` is less than the size.
    fn seek_content(&self, row: &InodeRow, offset: u64, to: SeekTo) -> Result<u64, FsError> {
        match (row.content, to) {
            (ContentRef::None, SeekTo::Data) => Err(FsError::NoData),
            (ContentRef::None, SeekTo::Hole) => Ok(offset),
            (ContentRef::Subchunk(_) | ContentRef::Tiny(_), SeekTo::Data) => Ok(offset),
            (ContentRef::Subchunk(_) | ContentRef::Tiny(_), SeekTo::Hole) => Ok(row.size),
            (ContentRef::Content(content), to) => {
                let mut extents = self.view().extents(content, offset)?;
                let mut content_end = offset;
                while let Some((begin, extent)) = extents.next(self.view())? {
                    // The addition was checked when the row was decoded.
                    let end = begin + extent.length;
                    let here = begin.max(offset);
                    if here >= row.size {
                        break;
                    }
                    if end > offset && (extent.extent == Extent::Hole) == (to == SeekTo::Hole) {
                        return Ok(here);
                    }
                    content_end = content_end.max(end);
                }
                if to == SeekTo::Hole { Ok(content_end.min(row.size)) } else { Err(FsError::NoData) }
            }
        }
    }
}
