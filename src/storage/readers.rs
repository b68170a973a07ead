//! Finds the readers of an image, for people who wait for them to end. No decision depends on it.
//!
//! The kernel does not report the owner of an open-file-description lock. It reports which files each process of this
//! host has open, and their locks. Readers on other hosts are not found; readers of other users only if this process is
//! root. Called by cli.

use super::lock::READERS;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Returns the ids of processes of this host, except this one, that have locked the readers' byte of `file`, as far as
/// known.
pub fn readers_here(file: &File) -> Vec<u32> {
    let Ok(own) = file.metadata().map(|found| (found.dev(), found.ino())) else { return Vec::new() };
    let mut found: Vec<u32> = numbers_in(Path::new("/proc"))
        .filter(|&pid| pid != std::process::id())
        .filter(|pid| {
            let process = Path::new("/proc").join(pid.to_string());
            let (open, locks) = (process.join("fd"), process.join("fdinfo"));
            numbers_in(&locks).any(|fd| {
                let fd = fd.to_string();
                fs::read_to_string(locks.join(&fd)).is_ok_and(|text| text.lines().any(is_reader))
                    && fs::metadata(open.join(&fd)).is_ok_and(|found| (found.dev(), found.ino()) == own)
            })
        })
        .collect();
    found.sort_unstable();
    found
}

/// Returns the entries of a directory whose names are numbers.
fn numbers_in(dir: &Path) -> impl Iterator<Item = u32> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Returns whether a line of `/proc/PID/fdinfo/FD` says that the readers' byte is locked:
/// `lock: 1: OFDLCK ADVISORY READ -1 08:01:7 1 1`.
fn is_reader(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some("lock:") || words.nth(1) != Some("OFDLCK") {
        return false;
    }
    let mut range = words.skip(4).map(|word| if word == "EOF" { Some(i64::MAX) } else { word.parse().ok() });
    let (Some(Some(first)), Some(Some(last))) = (range.next(), range.next()) else { return false };
    (first..=last).contains(&READERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_fdinfo_says_whether_the_readers_byte_is_locked() {
        assert!(is_reader("lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:10011054 1 1"));
        assert!(is_reader("lock:\t2: OFDLCK ADVISORY  READ -1 fe:00:10011054 0 EOF"));
        for other in
            ["lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:10011054 0 0", "lock:\t1: FLOCK ADVISORY WRITE 3 fe:00:7 0 EOF"]
        {
            assert!(!is_reader(other), "{other}");
        }
        for other in ["", "lock:", "ino:\t10011054", "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:7 x 1"] {
            assert!(!is_reader(other), "{other}");
        }
    }
}
