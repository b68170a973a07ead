//! How many files the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of descriptors for everything but the directories that are kept open: image, temporary files, readers,
/// standard streams.
const RESERVED: u64 = 64;
/// Most directories that are kept open. More would be of no use: only those are needed that wait to be read, and those
/// on the way down to them.
const MOST: u64 = 4096;
/// Least number of directories that are kept open: with fewer, directories are opened again all the time.
const LEAST: u64 = 8;

/// Raises the soft limit of open files to the hard one, and returns the limit.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // If it cannot be raised, the one that is there holds.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns how many directories `pack` or `extract` may keep open under a limit of open files.
pub fn directories(limit: u64) -> usize {
    (limit.saturating_sub(RESERVED) / 2).clamp(LEAST, MOST) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_take_a_part_of_the_limit() {
        assert_eq!([0, 100, 256, 1024, 1 << 20, u64::MAX].map(directories), [8, 18, 96, 480, 4096, 4096]);
    }
}
