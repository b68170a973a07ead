//! Rows of a table, in order, kept until the end of packing; on disk when they are many.

use super::PackError;
use crate::chunk::Spill;
use crate::format::block::{Key, Row};
use crate::format::bytes::{Cursor, put_varint};
use crate::table::TableError;
use std::path::{Path, PathBuf};

/// Number of bytes read back at once.
const WINDOW: usize = 256 << 10;

/// A sequence of encoded rows, in memory or in a temporary file.
pub(super) struct Spool {
    spill: Spill,
    dir: PathBuf,
    buffer: Vec<u8>,
}

impl Spool {
    pub(super) fn new(spill_after: usize, dir: &Path) -> Self {
        Spool { spill: Spill::new(spill_after, dir), dir: dir.to_owned(), buffer: Vec::new() }
    }

    /// Appends a row, and returns its offset.
    pub(super) fn push(&mut self, a: u64, b: u64, name: &[u8], ints: &[u64], tail: &[u8]) -> Result<u64, PackError> {
        self.buffer.clear();
        let out = &mut self.buffer;
        put_varint(out, a);
        put_varint(out, b);
        put_varint(out, name.len() as u64);
        out.extend_from_slice(name);
        put_varint(out, ints.len() as u64);
        for &int in ints {
            put_varint(out, int);
        }
        put_varint(out, tail.len() as u64);
        out.extend_from_slice(tail);
        let mut framed = Vec::with_capacity(self.buffer.len() + 4);
        put_varint(&mut framed, self.buffer.len() as u64);
        framed.extend_from_slice(&self.buffer);
        self.append(&framed)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<u64, PackError> {
        self.spill.append(bytes).map_err(|source| PackError::Spill { dir: self.dir.clone(), source })
    }

    /// Returns the offset of the next row.
    pub(super) fn end(&self) -> u64 {
        self.spill.len()
    }

    /// Iterates over the rows in `[from, to)`; both must be offsets of rows or the end.
    pub(super) fn rows(&self, from: u64, to: u64) -> Rows<'_> {
        Rows { spool: self, at: from, to, window: Vec::new(), used: 0 }
    }

    /// Iterates over all rows.
    pub(super) fn all(&self) -> Rows<'_> {
        self.rows(0, self.end())
    }
}

/// Reads rows back.
pub(super) struct Rows<'a> {
    spool: &'a Spool,
    /// Offset of the bytes after the window.
    at: u64,
    to: u64,
    window: Vec<u8>,
    used: usize,
}

impl Rows<'_> {
    /// Reads on until `window` has at least `need` unused bytes, or all that are left.
    fn fill(&mut self, need: usize) -> Result<(), TableError> {
        if self.window.len() - self.used >= need {
            return Ok(());
        }
        self.window.drain(..self.used);
        self.used = 0;
        let more = (need.max(WINDOW) as u64).min(self.to - self.at) as usize;
        let start = self.window.len();
        self.window.resize(start + more, 0);
        self.spool.spill.read_at(self.at, &mut self.window[start..]).map_err(TableError::source)?;
        self.at += more as u64;
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Row>, TableError> {
        self.fill(10)?;
        if self.used == self.window.len() {
            return Ok(None);
        }
        let mut cursor = Cursor::new(&self.window[self.used..], "spooled row");
        let len = cursor.varint().map_err(TableError::source)? as usize;
        let prefix = self.window.len() - self.used - cursor.remaining();
        self.fill(prefix + len)?;
        let from = self.used + prefix;
        let row = parse(&self.window[from..from + len]).map_err(TableError::source)?;
        self.used = from + len;
        Ok(Some(row))
    }
}

fn parse(bytes: &[u8]) -> Result<Row, crate::format::FormatError> {
    let mut cursor = Cursor::new(bytes, "spooled row");
    let (a, b) = (cursor.varint()?, cursor.varint()?);
    let name_len = cursor.varint()? as usize;
    let name = cursor.take(name_len)?.to_vec();
    let count = cursor.varint()?;
    let ints = (0..count).map(|_| cursor.varint()).collect::<Result<_, _>>()?;
    let tail_len = cursor.varint()? as usize;
    let tail = cursor.take(tail_len)?.to_vec();
    cursor.end()?;
    Ok(Row { key: Key { a, b, name }, ints, tail })
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_order_from_memory_and_from_disk() {
        for spill_after in [usize::MAX, 1000] {
            let dir = tempfile::tempdir().unwrap();
            let mut spool = Spool::new(spill_after, dir.path());
            let mut middle = 0;
            for n in 0..5000u64 {
                if n == 2500 {
                    middle = spool.end();
                }
                spool.push(n, n * 3, &n.to_be_bytes(), &[n, u64::MAX], &vec![7; (n % 300) as usize]).unwrap();
            }
            let rows: Vec<Row> = spool.all().map(Result::unwrap).collect();
            assert_eq!(rows.len(), 5000);
            assert_eq!(rows[4999].ints, [4999, u64::MAX]);
            assert_eq!(rows[299].tail.len(), 299);
            let rest: Vec<Row> = spool.rows(middle, spool.end()).map(Result::unwrap).collect();
            assert_eq!(rest, rows[2500..]);
        }
    }
}
