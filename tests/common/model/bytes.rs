//! The bytes of a file in the model: pages that are not all zero. Clones share all pages. Called by the model.
//!
//! Two files with the same size and bytes are equal, however they were made: a page of zeros is never kept.

use imbl::OrdMap;
use std::sync::Arc;

const PAGE: u64 = 4096;

/// A sparse file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bytes {
    size: u64,
    pages: OrdMap<u64, Arc<[u8]>>,
}

impl Bytes {
    /// Bytes up to the end.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of kept pages, which determines the model's memory.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Up to `len` bytes from `offset` on; fewer only at the end.
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let len = len.min(self.size.saturating_sub(offset));
        let mut out = vec![0; len as usize];
        let end = offset + len;
        for (number, page) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = number * PAGE;
            let (from, to) = (start.max(offset), (start + PAGE).min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
        }
        out
    }

    /// Overwrites, and extends the file if the bytes end after it.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.size = self.size.max(offset + bytes.len() as u64);
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, skip) = (at / PAGE, (at % PAGE) as usize);
            let n = rest.len().min(PAGE as usize - skip);
            let mut page = self.page(number);
            page[skip..skip + n].copy_from_slice(&rest[..n]);
            self.put(number, page);
            rest = &rest[n..];
            at += n as u64;
        }
    }

    /// Makes a range zero; the size stays.
    pub fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.size);
        if offset >= end {
            return;
        }
        let touched: Vec<u64> =
            self.pages.range(offset / PAGE..end.div_ceil(PAGE)).map(|(&number, _)| number).collect();
        for number in touched {
            let start = number * PAGE;
            let mut page = self.page(number);
            page[(offset.max(start) - start) as usize..(end.min(start + PAGE) - start) as usize].fill(0);
            self.put(number, page);
        }
    }

    /// Truncates, or appends a hole.
    pub fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.zero(size, self.size - size);
        }
        self.size = size;
    }

    /// Where two files first differ.
    pub fn difference(&self, other: &Bytes) -> Option<String> {
        if self.size != other.size {
            return Some(format!("size {} and {}", self.size, other.size));
        }
        let numbers = self.pages.keys().chain(other.pages.keys()).copied();
        let number = numbers.filter(|number| self.pages.get(number) != other.pages.get(number)).min()?;
        let (ours, theirs) = (self.page(number), other.page(number));
        let at = (0..PAGE as usize).find(|&at| ours[at] != theirs[at])?;
        let same = (at..PAGE as usize).take_while(|&at| ours[at] != theirs[at]).count();
        Some(format!(
            "{same} bytes from {} on: {:x?}… and {:x?}…",
            number * PAGE + at as u64,
            &ours[at..(at + 8).min(PAGE as usize)],
            &theirs[at..(at + 8).min(PAGE as usize)]
        ))
    }

    fn page(&self, number: u64) -> Vec<u8> {
        self.pages.get(&number).map_or_else(|| vec![0; PAGE as usize], |page| page.to_vec())
    }

    fn put(&mut self, number: u64, page: Vec<u8>) {
        if page.iter().all(|&byte| byte == 0) {
            self.pages.remove(&number);
        } else {
            self.pages.insert(number, page.into());
        }
    }
}
