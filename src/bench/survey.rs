//! Examines the source once: what there is to pack, and which parts are read. So it is the same for all entries.
//!
//! Two walks: the first counts, and finds the directory to read; the second finds the files at the random offsets.
//! Called by `run`.

use super::tree::{Found, Visitor, walk};
use crate::pack::rehearsal::mixed_below;
use rustix::fs::FileType;
use std::collections::HashSet;
use std::io;
use std::path::Path;

/// Number of random reads of one pass.
const SPOTS: usize = 2000;
/// Length of a random read in bytes; offsets are multiples of it.
pub const SPOT_LEN: u64 = 4096;
/// Seed of the random numbers: the same source is read at the same offsets each time.
const SEED: u64 = 0x666c_6f65_2d62_656e;
/// Divisor: the directory that is read alone has about one part in this many of all bytes.
const SHARE: u64 = 100;
/// Least bytes of the directory that is read alone, if there is such a directory: reading less takes no time.
const LEAST: u64 = 1 << 20;

/// Files of the source, and the parts of it that are read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Number of regular files, each inode counted once.
    pub files: u64,
    /// Number of directories, including the root.
    pub directories: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
    /// Path from the root of the directory that is read alone; empty if the root is the only one.
    pub directory: Vec<u8>,
    /// Bytes of the regular files below `directory`.
    pub directory_bytes: u64,
    /// The random reads, in order.
    pub spots: Vec<Spot>,
    /// Number of names that could not be read.
    pub unreadable: u64,
}

/// The position of a random read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// Path of the file from the root.
    pub path: Box<[u8]>,
    /// Offset in bytes, a multiple of 4 KiB.
    pub offset: u64,
}

/// Walks a tree and chooses what is read. `cancelled` is called for each entry.
///
/// # Errors
/// Fails if the root cannot be read, or it was cancelled ([`io::ErrorKind::Interrupted`]).
pub fn survey(root: &Path, cancelled: &(dyn Fn() -> bool + Sync)) -> io::Result<Survey> {
    let mut count = Count { cancelled, ..Count::new() };
    walk(root, &mut count)?;
    let mut out = Survey {
        files: count.files.files,
        directories: count.directories + 1,
        bytes: count.files.bytes,
        directory_bytes: count.files.bytes,
        unreadable: count.unreadable,
        ..Survey::default()
    };
    // The best directory can be chosen only now that the total is known.
    if let Some((path, bytes)) = choose(&count.sizes, out.bytes) {
        (out.directory, out.directory_bytes) = (path.to_vec(), bytes);
    }
    let mut random = Random::default();
    let mut offsets: Vec<u64> = (0..SPOTS).filter(|_| out.bytes > 0).map(|_| random.below(out.bytes.max(1))).collect();
    offsets.sort_unstable();
    let mut find =
        Find { offsets: offsets.into_iter().peekable(), files: Files::default(), spots: Vec::new(), cancelled };
    walk(root, &mut find)?;
    out.spots = find.spots;
    // Shuffle (Fisher and Yates).
    for last in (1..out.spots.len()).rev() {
        let other = random.below(last as u64 + 1) as usize;
        out.spots.swap(last, other);
    }
    Ok(out)
}

/// Returns the directory whose bytes are nearest to one part in [`SHARE`] of all bytes, with at least [`LEAST`] bytes
/// if there is one; of equally near ones the first.
fn choose(sizes: &[(Box<[u8]>, u64)], total: u64) -> Option<(&[u8], u64)> {
    let target = (total / SHARE).max(LEAST);
    let best = |least: u64| sizes.iter().filter(|size| size.1 >= least).min_by_key(|size| size.1.abs_diff(target));
    best(LEAST).or_else(|| best(1)).map(|(path, bytes)| (&path[..], *bytes))
}

/// The regular files so far, each inode once.
#[derive(Default)]
struct Files {
    linked: HashSet<(u64, u64)>,
    files: u64,
    bytes: u64,
}

impl Files {
    /// Returns the bytes of a file that is seen for the first time; `None` for others.
    fn take(&mut self, found: &Found<'_>) -> io::Result<Option<u64>> {
        if found.kind != FileType::RegularFile {
            return Ok(None);
        }
        let stat = found.stat()?;
        if stat.st_nlink > 1 && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return Ok(None);
        }
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(Some(bytes))
    }
}

fn go_on(cancelled: &(dyn Fn() -> bool + Sync)) -> io::Result<()> {
    if cancelled() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
}

struct Count<'a> {
    cancelled: &'a (dyn Fn() -> bool + Sync),
    files: Files,
    directories: u64,
    unreadable: u64,
    /// Path of each directory that the walk is in, and the total bytes that the walk had seen before it.
    entered: Vec<(Box<[u8]>, u64)>,
    /// Path of each directory that the walk has left, and the bytes below it, unless these are 0.
    sizes: Vec<(Box<[u8]>, u64)>,
}

impl Count<'_> {
    fn new() -> Self {
        Count {
            cancelled: &|| false,
            files: Files::default(),
            directories: 0,
            unreadable: 0,
            entered: Vec::new(),
            sizes: Vec::new(),
        }
    }
}

impl Visitor for Count<'_> {
    fn entry(&mut self, found: &Found<'_>) -> io::Result<()> {
        go_on(self.cancelled)?;
        if found.kind == FileType::Directory {
            self.directories += 1;
            self.entered.push((found.path.into(), self.files.bytes));
        } else if self.files.take(found).is_err() {
            // It was removed meanwhile, or its directory may be listed but not searched.
            self.unreadable += 1;
        }
        Ok(())
    }

    fn left(&mut self) {
        if let Some((path, before)) = self.entered.pop() {
            let bytes = self.files.bytes - before;
            if bytes > 0 {
                self.sizes.push((path, bytes));
            }
        }
    }

    fn unreadable(&mut self, _: &[u8], _: io::Error) -> io::Result<()> {
        self.unreadable += 1;
        Ok(())
    }
}

struct Find<'a> {
    /// Offsets in the concatenation of all files, ascending.
    offsets: std::iter::Peekable<std::vec::IntoIter<u64>>,
    files: Files,
    spots: Vec<Spot>,
    cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Visitor for Find<'_> {
    fn entry(&mut self, found: &Found<'_>) -> io::Result<()> {
        go_on(self.cancelled)?;
        let begin = self.files.bytes;
        let Ok(Some(bytes)) = self.files.take(found) else { return Ok(()) };
        while let Some(at) = self.offsets.next_if(|&at| at < begin + bytes) {
            // If the source grows meanwhile, an offset may be outside its files.
            let offset = at.saturating_sub(begin) / SPOT_LEN * SPOT_LEN;
            self.spots.push(Spot { path: found.path.into(), offset });
        }
        Ok(())
    }

    fn unreadable(&mut self, _: &[u8], _: io::Error) -> io::Result<()> {
        Ok(())
    }
}

/// Random numbers that are the same each time. The field counts the numbers drawn.
#[derive(Default)]
struct Random(u64);

impl Random {
    /// Returns a number below `limit`, which must not be 0.
    fn below(&mut self, limit: u64) -> u64 {
        let random = mixed_below(SEED, self.0, limit);
        self.0 += 1;
        random
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const NEVER: &(dyn Fn() -> bool + Sync) = &|| false;

    #[test]
    fn files_count_once_and_random_reads_go_to_files_by_their_size() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: usize| fs::write(root.path().join(name), vec![0; bytes]).unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        write("a/b/large", 300_000);
        write("a/small", 100_000);
        write("z", 0);
        fs::hard_link(root.path().join("a/small"), root.path().join("a/link")).unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("link")).unwrap();
        let found = survey(root.path(), NEVER).unwrap();
        assert_eq!((found.files, found.directories, found.bytes, found.unreadable), (3, 3, 400_000, 0));
        assert_eq!(found.spots.len(), SPOTS);
        let in_large = found.spots.iter().filter(|spot| &spot.path[..] == b"a/b/large").count();
        assert!((SPOTS * 7 / 10..SPOTS * 8 / 10).contains(&in_large), "{in_large}");
        let size = |spot: &Spot| if &spot.path[..] == b"a/b/large" { 300_000 } else { 100_000 };
        assert!(found.spots.iter().all(|spot| spot.offset % SPOT_LEN == 0 && spot.offset < size(spot)));
        assert_eq!(survey(root.path(), NEVER).unwrap(), found, "the same each time");
        assert!(found.spots.windows(2).any(|two| two[0].offset > two[1].offset), "in no order");
    }

    #[test]
    fn an_empty_tree_has_nothing_to_read() {
        let root = tempfile::tempdir().unwrap();
        let expected = Survey { directories: 1, ..Survey::default() };
        assert_eq!(survey(root.path(), NEVER).unwrap(), expected);
        assert_eq!(survey(root.path(), &|| true).unwrap(), expected);
        fs::write(root.path().join("x"), "").unwrap();
        assert_eq!(survey(root.path(), &|| true).unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert!(survey(&root.path().join("x"), NEVER).is_err());
    }

    #[test]
    fn the_directory_to_read_is_nearest_to_a_hundredth_and_not_too_small() {
        let size = |path: &str, bytes: u64| (path.as_bytes().into(), bytes);
        let sizes = [size("a/b", 900), size("a", 50 << 20), size("c", 9 << 20), size("d", 200 << 20)];
        let chosen =
            |total: u64| choose(&sizes, total).map(|(path, bytes)| (String::from_utf8_lossy(path).into_owned(), bytes));
        assert_eq!(chosen(1000 << 20), Some(("c".into(), 9 << 20)));
        assert_eq!(chosen(10_000 << 20), Some(("a".into(), 50 << 20)));
        assert_eq!(chosen(1 << 20), Some(("c".into(), 9 << 20)));
        assert_eq!(choose(&sizes[..1], 2000), Some((&b"a/b"[..], 900)));
        assert_eq!(choose(&[], 5), None);
    }
}
