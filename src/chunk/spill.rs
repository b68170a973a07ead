//! An append-only byte store: in memory up to a limit, then in a temporary file without a name.
//!
//! Appending never changes earlier bytes, and offsets stay valid. The file is unlinked before its first byte is
//! written, so nothing remains however the process ends. Called by the packer for what grows with the number of files.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of bytes gathered before they are written to the file.
const TAIL: usize = 256 << 10;
/// Number of names tried where O_TMPFILE is not supported.
const NAMES: u64 = 1000;

/// Opens a new file in `dir` that has no name.
///
/// # Errors
/// Fails if the directory does not exist or cannot be written to.
pub fn unlinked_file(dir: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        // These are the errors of file systems and kernels without O_TMPFILE.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => named_then_unlinked(dir),
        Err(error) => Err(error.into()),
    }
}

fn named_then_unlinked(dir: &Path) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    for _ in 0..NAMES {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".floe-spill-{}-{number}", std::process::id()));
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

/// An append-only store of bytes with random reads, in memory or in an unlinked file.
#[derive(Debug)]
pub struct Spill {
    limit: usize,
    dir: PathBuf,
    file: Option<File>,
    /// Number of bytes in the file; those in `tail` come after them.
    written: u64,
    tail: Vec<u8>,
}

impl Spill {
    /// Makes an empty store that keeps up to `limit` bytes in memory; beyond that, all bytes move to a file in `dir`.
    pub fn new(limit: usize, dir: &Path) -> Self {
        Spill { limit, dir: dir.to_path_buf(), file: None, written: 0, tail: Vec::new() }
    }

    /// Returns the number of bytes appended.
    pub fn len(&self) -> u64 {
        self.written + self.tail.len() as u64
    }

    /// Returns whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the bytes are in a file.
    pub fn is_spilled(&self) -> bool {
        self.file.is_some()
    }

    /// Appends `bytes`, and returns their offset for [`Self::read_at`].
    ///
    /// # Errors
    /// Fails if the file cannot be created or written, as on a full disk. The store is then unchanged, and appending
    /// may be tried again.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let room = if self.is_spilled() { TAIL } else { self.limit };
        if self.tail.len() + bytes.len() > room {
            self.flush()?;
        }
        let offset = self.len();
        match &self.file {
            Some(file) if bytes.len() >= TAIL => {
                file.write_all_at(bytes, self.written)?;
                self.written += bytes.len() as u64;
            }
            _ => self.tail.extend_from_slice(bytes),
        }
        Ok(offset)
    }

    /// Moves what is in memory to the file.
    fn flush(&mut self) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => unlinked_file(&self.dir)?,
        };
        let result = file.write_all_at(&self.tail, self.written);
        self.file = Some(file);
        result?;
        self.written += self.tail.len() as u64;
        self.tail.clear();
        self.tail.shrink_to(TAIL);
        Ok(())
    }

    /// Fills `out` with the bytes that begin at `offset`.
    ///
    /// # Errors
    /// Fails with `UnexpectedEof` if the range reaches past the end, or if the file cannot be read.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let in_file = self.written.saturating_sub(offset).min(out.len() as u64) as usize;
        let (from_file, from_tail) = out.split_at_mut(in_file);
        if let (Some(file), false) = (&self.file, from_file.is_empty()) {
            file.read_exact_at(from_file, offset)?;
        }
        if !from_tail.is_empty() {
            let start = (offset + in_file as u64 - self.written) as usize;
            from_tail.copy_from_slice(&self.tail[start..start + from_tail.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    #[test]
    fn a_store_beyond_its_limit_leaves_no_name_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(100, dir.path());
        assert!(spill.is_empty());
        spill.append(&[1; 100]).unwrap();
        assert!(!spill.is_spilled());
        spill.append(&[2; 100]).unwrap();
        assert!(spill.is_spilled());
        assert_eq!(spill.len(), 200);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn where_files_need_a_name_it_is_gone_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = named_then_unlinked(dir.path()).unwrap();
        file.write_all_at(b"bytes", 0).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), std::fs::read_dir(dir.path()).unwrap().count()), ("bytes", 0));
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_and_loses_nothing() {
        let mut spill = Spill::new(10, Path::new("/nonexistent/folder"));
        spill.append(b"0123456789").unwrap();
        assert!(spill.append(b"x").is_err());
        let mut out = [0; 10];
        spill.read_at(0, &mut out).unwrap();
        assert_eq!((spill.len(), &out), (10, b"0123456789"));
        assert!(spill.read_at(1, &mut out).is_err());
        assert!(spill.read_at(u64::MAX, &mut out).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn what_was_appended_is_read_at_its_offset_wherever_it_lies(
            limit in 0usize..5000,
            pieces in prop::collection::vec((0usize..3000, any::<bool>()), 0..40),
            reads in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut spill = Spill::new(limit, dir.path());
            let mut model = Vec::new();
            for (i, (len, long)) in pieces.into_iter().enumerate() {
                let piece = vec![i as u8; if long { len * 100 } else { len }];
                prop_assert_eq!(spill.append(&piece).unwrap(), model.len() as u64);
                model.extend_from_slice(&piece);
            }
            prop_assert_eq!(spill.len(), model.len() as u64);
            prop_assert!(model.len() > limit || !spill.is_spilled());
            for (start, len) in reads {
                let start = start.index(model.len() + 1);
                let len = len.index(model.len() - start + 1);
                let mut out = vec![0; len];
                spill.read_at(start as u64, &mut out).unwrap();
                prop_assert!(out == model[start..start + len]);
            }
        }
    }
}
