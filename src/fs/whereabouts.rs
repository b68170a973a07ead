//! Where the bytes of a file are stored: the virtual attribute `user.floe.where`.

use super::FsError;
use super::read::{Fs, Moment};
use crate::format::ids::{InodeId, SubchunkId};
use crate::format::rows::{ContentRef, Extent};
use std::fmt::Write;

/// Most bytes of an extended attribute's value.
const LIMIT: usize = 64 << 10;

impl Fs {
    /// Returns a text that says where a file's bytes are stored, with one line for each extent: offset and length in
    /// the file, then `superchunk N` with the offset of its frame in the image, or `table`, or `hole`. Lines with `thaw
    /// log` or `lost` come first: for their ranges, the later lines do not count. Beyond 64 KiB the text is cut off,
    /// and its last line is `…`.
    ///
    /// # Errors
    /// Fails as [`Fs::read`] does.
    pub fn whereabouts(&self, inode: InodeId) -> Result<String, FsError> {
        self.now().whereabouts(inode)
    }
}

impl Moment<'_> {
    fn whereabouts(&self, inode: InodeId) -> Result<String, FsError> {
        let row = self.regular(inode)?;
        let mut lines = Lines(String::new());
        let mut thawed = self.view().thawed(inode, 0)?;
        while let Some((offset, range)) = thawed.next(self.view())?
            && !lines.full()
        {
            lines.add(offset, range.length, if range.is_lost() { "lost" } else { "thaw log" });
        }
        match row.content {
            ContentRef::None if row.size == 0 => {}
            ContentRef::None => lines.add(0, row.size, "hole"),
            ContentRef::Tiny(_) => lines.add(0, row.size, "table"),
            ContentRef::Subchunk(id) => lines.add(0, row.size, &self.place_of(id)?),
            ContentRef::Content(content) => {
                let mut extents = self.view().extents(content, 0)?;
                let mut end = 0;
                while let Some((offset, extent)) = extents.next(self.view())?
                    && !lines.full()
                {
                    end = offset.saturating_add(extent.length);
                    match &extent.extent {
                        Extent::Hole => lines.add(offset, extent.length, "hole"),
                        Extent::Slice { subchunk, .. } => lines.add(offset, extent.length, &self.place_of(*subchunk)?),
                        Extent::Run { first, lens } => {
                            let mut at = offset;
                            for (n, &len) in lens.iter().enumerate() {
                                lines.add(at, len.into(), &self.place_of(SubchunkId(first.0 + n as u64))?);
                                at += u64::from(len);
                            }
                        }
                    }
                }
                if end < row.size {
                    lines.add(end, row.size - end, "hole");
                }
            }
        }
        Ok(lines.0)
    }

    fn place_of(&self, id: SubchunkId) -> Result<String, FsError> {
        let unknown = || FsError::io(format!("the map does not know subchunk {id}"));
        let located = self.view().locate(id)?.ok_or_else(unknown)?;
        let row = self.view().superchunk(located.superchunk)?.ok_or_else(unknown)?;
        Ok(format!("superchunk {} at {}", located.superchunk, row.place.offset))
    }
}

/// The text that says where a file's bytes are stored, as far as it is written.
struct Lines(String);

impl Lines {
    fn full(&self) -> bool {
        self.0.ends_with('…')
    }

    fn add(&mut self, offset: u64, length: u64, place: &str) {
        if self.full() {
            return;
        }
        if self.0.len() + place.len() + 64 > LIMIT {
            self.0.push('…');
            return;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{offset} {length} {place}");
    }
}
