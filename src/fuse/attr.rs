//! Attributes in the form that FUSE needs.
//!
//! Only conversions. They accept every value that an image can have: a value that the kernel's type cannot express is
//! saturated, never wrapped.

use crate::format::rows::{FileType, Time};
use crate::fs::{Attr, NewKind};
use fuser::{FileAttr, INodeNo};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Block size in bytes that `stat` reports as preferred: one page. The kernel reads ahead by itself, in much larger
/// requests.
const BLOCK_SIZE: u32 = 4096;

/// Owners and permissions to show instead of those that were packed (`uid=`, `gid=`, `umask=`, `fmask=`, `dmask=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disguise {
    /// User id that is shown as the owner of everything.
    pub uid: Option<u32>,
    /// Group id that is shown as the group of everything.
    pub gid: Option<u32>,
    /// Permission bits that are taken away from everything but directories: it is shown with 0777 without these bits.
    pub fmask: Option<u16>,
    /// Permission bits that are taken away from directories: they are shown with 0777 without these bits.
    pub dmask: Option<u16>,
}

impl Disguise {
    /// Returns whether anything is shown differently from what was packed. ACLs would then contradict it.
    pub fn is_any(&self) -> bool {
        *self != Disguise::default()
    }

    fn permissions(&self, attr: &Attr) -> u16 {
        let mask = if attr.file_type == FileType::Directory { self.dmask } else { self.fmask };
        mask.map_or(attr.permissions, |mask| 0o777 & !mask)
    }
}

/// Converts `attr` for the kernel.
pub(super) fn to_fuse(attr: &Attr, disguise: &Disguise) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.inode.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: to_system(attr.atime),
        mtime: to_system(attr.mtime),
        ctime: to_system(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: to_kind(attr.file_type),
        perm: disguise.permissions(attr),
        nlink: u32::try_from(attr.links).unwrap_or(u32::MAX),
        uid: disguise.uid.unwrap_or(attr.uid),
        gid: disguise.gid.unwrap_or(attr.gid),
        rdev: to_rdev(attr.device),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// Makes attributes of which only number and type are known: enough for a directory listing.
pub(super) fn only_type(inode: u64, file_type: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: to_kind(file_type),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// Makes attributes with inode 0: the kernel then remembers that the name does not exist.
pub(super) fn absent() -> FileAttr {
    only_type(0, FileType::Regular)
}

pub(super) fn to_kind(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::Directory => fuser::FileType::Directory,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Socket => fuser::FileType::Socket,
    }
}

/// Converts a time, which may be before 1970. Seconds may be negative; nanoseconds always count forward from them.
fn to_system(time: Time) -> SystemTime {
    let since = Duration::from_secs(time.secs.unsigned_abs());
    let whole = if time.secs < 0 { UNIX_EPOCH.checked_sub(since) } else { UNIX_EPOCH.checked_add(since) };
    whole.and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanos.into()))).unwrap_or(UNIX_EPOCH)
}

/// Converts a time that the kernel sets. The kernel's nanoseconds count forward, also before 1970, but fuser 0.18
/// subtracts them from 1970 together with the seconds. This function undoes that: it takes seconds and nanoseconds from
/// fuser's time as fuser put them in.
pub(super) fn from_system(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time { secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nanos: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs);
            Time { secs, nanos: before.subsec_nanos() }
        }
    }
}

/// Encodes a device number in Linux's 32-bit form: 12 bits of major, 20 of minor.
fn to_rdev((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// Decodes the major and minor number in `rdev`.
pub(super) fn from_rdev(rdev: u32) -> (u32, u32) {
    (rdev >> 8 & 0xfff, rdev & 0xff | rdev >> 12 & 0xf_ff00)
}

/// Returns the kind of file that mknod(2) asks for; `None` if it is not valid.
pub(super) fn kind_of(mode: u32, rdev: u32) -> Option<NewKind> {
    let (major, minor) = from_rdev(rdev);
    match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => Some(NewKind::Regular),
        libc::S_IFCHR => Some(NewKind::Device { file_type: FileType::CharDevice, major, minor }),
        libc::S_IFBLK => Some(NewKind::Device { file_type: FileType::BlockDevice, major, minor }),
        libc::S_IFIFO => Some(NewKind::Fifo),
        libc::S_IFSOCK => Some(NewKind::Socket),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::InodeId;

    fn attr(file_type: FileType) -> Attr {
        let time = Time { secs: 0, nanos: 0 };
        Attr {
            inode: InodeId(9),
            file_type,
            permissions: 0o4750,
            uid: u32::MAX,
            gid: 7,
            links: 1 << 40,
            size: 5,
            blocks: 8,
            mtime: time,
            ctime: time,
            atime: time,
            device: (259, 0x1_2345),
        }
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let to_fields = |time: SystemTime| match time.duration_since(UNIX_EPOCH) {
            Ok(after) => (i128::from(after.as_secs()), after.subsec_nanos()),
            Err(before) => {
                let nanos = before.duration().as_nanos() as i128;
                (-(nanos + 999_999_999) / 1_000_000_000, (-nanos).rem_euclid(1_000_000_000) as u32)
            }
        };
        for (secs, nanos) in
            [(0, 0), (-1, 0), (-1, 999_999_999), (-5, 1), (i64::MAX, 999_999_999), (i64::MIN, 0), (i64::MIN, 5)]
        {
            assert_eq!(to_fields(to_system(Time { secs, nanos })), (i128::from(secs), nanos), "{secs} {nanos}");
        }
    }

    #[test]
    fn device_numbers_are_encoded_as_the_kernel_decodes_them() {
        for (major, minor) in [(8, 1), (259, 0x1_2345), (0xfff, 0xf_ffff), (0, 0)] {
            let encoded = to_rdev((major, minor));
            let decoded = (encoded >> 8 & 0xfff, encoded & 0xff | encoded >> 12 & 0xf_ff00);
            assert_eq!(decoded, (major, minor));
            assert_eq!(from_rdev(encoded), (major, minor));
        }
    }

    #[test]
    fn times_before_1970_that_fuser_took_wrong_are_put_right() {
        // As in fuser 0.18, src/time.rs.
        let by_fuser = |secs: i64, nanos| match secs {
            0.. => UNIX_EPOCH + Duration::new(secs as u64, nanos),
            _ => UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos),
        };
        for (secs, nanos) in
            [(0, 0), (0, 5), (-1, 0), (-1, 999_999_999), (-5, 1), (-1 << 40, 7), (i64::MAX, 0), (i64::MIN + 1, 9)]
        {
            assert_eq!(from_system(by_fuser(secs, nanos)), Time { secs, nanos }, "{secs} {nanos}");
        }
        // The kernel drops the fraction of the earliest possible second.
        assert_eq!(from_system(by_fuser(i64::MIN, 0)), Time { secs: i64::MIN, nanos: 0 });
    }

    #[test]
    fn attributes_pass_unless_they_are_disguised() {
        let plain = to_fuse(&attr(FileType::Regular), &Disguise::default());
        assert_eq!((plain.perm, plain.uid, plain.gid, plain.nlink), (0o4750, u32::MAX, 7, u32::MAX));
        let disguise = Disguise { uid: Some(1000), gid: Some(100), fmask: Some(0o133), dmask: Some(0o022) };
        let file = to_fuse(&attr(FileType::Regular), &disguise);
        assert_eq!((file.perm, file.uid, file.gid), (0o644, 1000, 100));
        assert_eq!(to_fuse(&attr(FileType::Directory), &disguise).perm, 0o755);
        assert!(disguise.is_any() && !Disguise::default().is_any());
    }

    #[test]
    fn mknod_makes_what_the_mode_says() {
        let rdev = 8 << 8 | 3;
        assert!(matches!(kind_of(libc::S_IFREG | 0o644, 0), Some(NewKind::Regular)));
        assert!(matches!(kind_of(0o644, 0), Some(NewKind::Regular)));
        assert!(matches!(
            kind_of(libc::S_IFBLK, rdev),
            Some(NewKind::Device { file_type: FileType::BlockDevice, major: 8, minor: 3 })
        ));
        assert!(matches!(kind_of(libc::S_IFIFO, 0), Some(NewKind::Fifo)));
        assert!(matches!(kind_of(libc::S_IFSOCK, 0), Some(NewKind::Socket)));
        assert!(kind_of(libc::S_IFDIR, 0).is_none());
    }
}
