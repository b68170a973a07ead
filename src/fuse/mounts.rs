//! The mounts that this process sees, read from /proc/self/mountinfo.
//!
//! The kernel answers by itself, without a request to any mount. So nothing here waits for a daemon that hangs, or
//! fails because of one that answers everything with an error.

use crate::format::sums;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Device number of a file system: major and minor. No two have the same at the same time.
pub type Device = (u32, u32);

/// A mounted file system. Once it is unmounted, the kernel may immediately reuse its number for a mount of any type. So
/// type and source count, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Device number of the file system.
    pub device: Device,
    /// Hash of the file system's type and source, which never change.
    pub sum: u64,
}

/// One entry of the kernel's list of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Number of the mount. It may be reused once the mount is gone.
    pub id: u64,
    /// Number of the mount on which this mount is mounted.
    pub parent: u64,
    /// Device number of the mount's file system.
    pub device: Device,
    /// Path of the mount point.
    pub point: PathBuf,
    /// Type of the file system, such as `fuse.floe`.
    pub fs_type: OsString,
    /// Source of the mount: for a mount of floe the image's path, or the value of `fsname=`.
    pub source: OsString,
    /// Whether the mount is read-only.
    pub is_read_only: bool,
}

impl Mount {
    /// Returns whether the type says that floe made the mount. With `subtype=`, the type is another one.
    pub fn is_floe(&self) -> bool {
        self.fs_type == "fuse.floe"
    }

    /// Returns the file system that is mounted there. It is the same for all bind mounts of that file system.
    pub fn file_system(&self) -> FileSystem {
        let text = [self.fs_type.as_bytes(), self.source.as_bytes()].join(&0);
        FileSystem { device: self.device, sum: sums::xxh3(&text) }
    }
}

/// Returns all mounts.
///
/// # Errors
/// Fails if /proc is not mounted.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

/// Returns the mount that a path leads to if `point` is a mount point; if several are mounted there, the topmost.
pub fn topmost<'a>(mounts: &'a [Mount], point: &Path) -> Option<&'a Mount> {
    let here = |mount: &&Mount| mount.point == point;
    mounts.iter().filter(here).find(|mount| !mounts.iter().filter(here).any(|other| other.parent == mount.id))
}

/// Parses one line of /proc/self/mountinfo: number, parent's number, device, root, mount point, options, optional
/// fields, `-`, type, source, options.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (id, parent) = (text()?.parse().ok()?, text()?.parse().ok()?);
    let (major, minor) = text()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let point = unescaped(fields.nth(1)?);
    let is_read_only = fields.next()?.split(|&byte| byte == b',').any(|option| option == b"ro");
    fields.find(|field| *field == b"-")?;
    let (fs_type, source) = (unescaped(fields.next()?), unescaped(fields.next()?));
    Some(Mount { id, parent, device, point: point.into(), fs_type, source, is_read_only })
}

/// Returns a field without its escapes: a backslash and three octal digits mean a byte.
fn unescaped(mut field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    while let Some((&byte, rest)) = field.split_first() {
        let escaped = match rest {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if byte == b'\\' => {
                Some(((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after))
            }
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((byte, rest));
        out.push(byte);
        field = after;
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_taken_apart() {
        let line =
            b"53 22 0:45 / /mnt/a\\040b\\134c rw,nosuid shared:7 master:1 - fuse.floe /a\\011\\377.floe ro,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.parent, mount.device), (53, 22, (0, 45)));
        assert_eq!(mount.point, Path::new("/mnt/a b\\c"));
        assert!(mount.is_floe() && !mount.is_read_only);
        assert!(parse(b"1 0 8:1 / / ro,nosuid - ext4 /dev/sda1 rw").is_some_and(|mount| mount.is_read_only));
        assert_eq!(mount.source.into_vec(), b"/a\t\xff.floe");
        let plain = parse(b"1 0 8:1 / / rw - ext4 /dev/sda1 rw").unwrap();
        assert!(!plain.is_floe() && plain.point == Path::new("/"));
        for wrong in [&b""[..], b"1", b"1 2 3", b"x 2 0:1 / / rw - a b c", b"1 2 0:1 / / rw", b"1 2 0:1 / / rw - a"] {
            assert_eq!(parse(wrong), None);
        }
    }

    #[test]
    fn of_mounts_on_one_another_the_last_is_what_a_path_leads_to() {
        let mount = |id, parent, point: &str| Mount {
            id,
            parent,
            device: (0, id as u32),
            point: point.into(),
            fs_type: OsString::new(),
            source: OsString::new(),
            is_read_only: false,
        };
        // Numbers are reused, so the topmost may have the smallest.
        let all = [mount(1, 0, "/"), mount(5, 9, "/m"), mount(9, 7, "/m"), mount(7, 1, "/m"), mount(8, 1, "/n")];
        assert_eq!(topmost(&all, Path::new("/m")).map(|mount| mount.id), Some(5));
        assert_eq!(topmost(&all, Path::new("/n")).map(|mount| mount.id), Some(8));
        assert_eq!(topmost(&all, Path::new("/x")), None);
    }

    #[test]
    fn the_mounts_of_this_machine_are_seen() {
        let all = mounts().unwrap();
        assert!(topmost(&all, Path::new("/")).is_some());
        assert!(topmost(&all, Path::new("/proc")).is_some_and(|mount| mount.fs_type == "proc"));
    }
}
