//! Memory that can move to an unlinked temporary file, so that the kernel may write it out when memory is short.
//!
//! The bytes are the same before and after the move. The file's blocks are reserved before they are mapped: on a full
//! disk growing fails with an error instead of a signal when a page is touched. Called by the dedup index.

use super::spill::unlinked_file;
use memmap2::MmapMut;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Least number of bytes by which a region grows: it grows by an eighth of its length, but not by less than this.
const STEP_MIN: usize = 64 << 10;
/// Number of zeros written at once where the file system cannot reserve blocks.
const ZEROS: usize = 64 << 10;

/// An array of bytes that can grow, in memory or in a mapped file; new bytes are zero.
#[derive(Debug)]
pub(super) struct Region {
    len: usize,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Heap(Vec<u8>),
    File { file: File, map: MmapMut },
}

impl Region {
    /// Makes a region of `len` zero bytes in memory.
    pub(super) fn in_memory(len: usize) -> Self {
        Region { len, memory: Memory::Heap(vec![0; len]) }
    }

    /// Makes a region of `len` zero bytes in a file in `dir`.
    pub(super) fn in_file(len: usize, dir: &Path) -> io::Result<Self> {
        let file = unlinked_file(dir)?;
        let map = map(&file, 0, len.max(1))?;
        Ok(Region { len, memory: Memory::File { file, map } })
    }

    /// Moves the region to a file in `dir`, unless it is in a file already.
    pub(super) fn spill(&mut self, dir: &Path) -> io::Result<()> {
        if let Memory::Heap(bytes) = &self.memory {
            let mut spilled = Region::in_file(self.len, dir)?;
            spilled.bytes_mut().copy_from_slice(&bytes[..self.len]);
            *self = spilled;
        }
        Ok(())
    }

    /// Returns the bytes that the region takes, used or not.
    pub(super) fn capacity(&self) -> usize {
        match &self.memory {
            Memory::Heap(bytes) => bytes.capacity(),
            Memory::File { map, .. } => map.len(),
        }
    }

    /// Appends bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.len + bytes.len();
        let grown = end.saturating_add((end / 8).max(STEP_MIN));
        match &mut self.memory {
            Memory::Heap(heap) => {
                if end > heap.capacity() {
                    heap.reserve_exact(grown - heap.len());
                }
                heap.extend_from_slice(bytes);
            }
            Memory::File { file, map: old } => {
                if end > old.len() {
                    *old = map(file, old.len(), grown)?;
                }
                old[self.len..end].copy_from_slice(bytes);
            }
        }
        self.len = end;
        Ok(())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(bytes) => &bytes[..self.len],
            Memory::File { map, .. } => &map[..self.len],
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Heap(bytes) => &mut bytes[..self.len],
            Memory::File { map, .. } => &mut map[..self.len],
        }
    }
}

/// Maps `len` bytes of the file, of which the first `have` are reserved already.
fn map(file: &File, have: usize, len: usize) -> io::Result<MmapMut> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), have as u64, (len - have) as u64) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, have, len)?,
        Err(error) => return Err(error.into()),
    }
    // SAFETY: the file has no name and only this process has its descriptor, so nobody changes or shortens it under the
    // map.
    unsafe { memmap2::MmapOptions::new().len(len).map_mut(file) }
}

fn write_zeros(file: &File, mut at: usize, len: usize) -> io::Result<()> {
    let zeros = [0; ZEROS];
    while at < len {
        let step = (len - at).min(ZEROS);
        file.write_all_at(&zeros[..step], at as u64)?;
        at += step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_has_the_same_bytes_in_memory_and_in_a_file_and_grows_in_both() {
        let dir = tempfile::tempdir().unwrap();
        let mut region = Region::in_memory(3);
        let mut model = vec![0; 3];
        for round in 0..40u8 {
            if round == 20 {
                region.spill(dir.path()).unwrap();
                region.spill(dir.path()).unwrap();
            }
            let piece = vec![round; 10_007];
            region.append(&piece).unwrap();
            model.extend_from_slice(&piece);
            region.bytes_mut()[1] = round;
            model[1] = round;
            assert!(region.bytes() == model);
            assert!(region.capacity() >= model.len() && region.capacity() < model.len() * 9 / 8 + 2 * STEP_MIN);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn where_blocks_cannot_be_reserved_zeros_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = unlinked_file(dir.path()).unwrap();
        write_zeros(&file, 0, 150_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 150_000);
        assert!(Region::in_file(0, dir.path()).unwrap().bytes().is_empty());
        assert!(Region::in_file(10, Path::new("/nonexistent/folder")).is_err());
    }
}
