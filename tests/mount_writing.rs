//! A writable mount beside a plain directory: names, attributes and permissions. Each step is done to both, through the
//! kernel.

mod common;

use common::left_out::{need_fuse, need_root};
use common::twin::{Twin, as_user, errno, os};
use common::xattrs;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// A user other than root, and a group that is not its own.
const NOBODY: u32 = 65534;
const OTHER: u32 = 4321;

/// Type, mode, owners, links and size, which are equal on any file system.
fn facts(path: &Path) -> Result<(u32, u32, u32, u64, u64), i32> {
    let stat = |m: fs::Metadata| {
        let size = if m.is_dir() { 0 } else { m.size() };
        (m.mode(), m.uid(), m.gid(), m.nlink(), size)
    };
    os(fs::symlink_metadata(path)).map(stat)
}

fn create(path: &Path, bytes: &[u8]) -> Result<(), i32> {
    os(fs::write(path, bytes))
}

fn mode(path: &Path, mode: u32) -> Result<(), i32> {
    os(fs::set_permissions(path, Permissions::from_mode(mode)))
}

#[test]
fn names_come_and_go_as_in_a_plain_directory() {
    need_fuse!();
    let mut twin = Twin::new("");
    twin.both(|dir| {
        let at = |name: &str| dir.join(name);
        let results = [
            create(&at("file"), b"bytes"),
            os(fs::create_dir(at("dir"))),
            os(fs::create_dir(at("dir"))),
            os(fs::create_dir(at("file/x"))),
            create(&at("dir/inner"), b"inner"),
            os(symlink("dir/inner", at("link"))),
            os(symlink("x".repeat(4095), at("long"))),
            os(symlink("x".repeat(4096), at("longer"))),
            os(symlink("", at("empty"))),
            os(fs::hard_link(at("file"), at("dir/hard"))),
            os(fs::hard_link(at("file"), at("dir/hard"))),
            os(fs::hard_link(at("dir"), at("dir2"))),
            os(fs::hard_link(at("link"), at("link2"))),
            os(fs::remove_dir(at("dir"))),
            os(fs::remove_dir(at("file"))),
            os(fs::remove_file(at("dir"))),
            os(fs::remove_file(at("missing"))),
            create(&at(&"n".repeat(255)), b""),
            create(&at(&"n".repeat(256)), b""),
            create(&at("missing/x"), b""),
            os(fs::create_dir_all(at("a/b/c/d"))),
            os(fs::remove_dir(at("a/b/c/d"))),
            os(File::options().write(true).create_new(true).open(at("file")).map(drop)),
        ];
        let seen = ["", "file", "dir", "dir/hard", "link", "link2", "long", "a", "a/b/c"].map(|name| facts(&at(name)));
        (results, seen, os(fs::read(at("link"))), os(fs::read_link(at("long"))))
    });
    twin.check_and_remount();
    twin.both(|dir| (os(fs::remove_dir_all(dir.join("a"))), os(fs::remove_file(dir.join("file")))));
    twin.both(|dir| facts(&dir.join("dir/hard")));
    twin.check_and_remount();
}

#[test]
fn renames_replace_exchange_and_refuse_as_in_a_plain_directory() {
    need_fuse!();
    let mut twin = Twin::new("");
    let rename = |dir: &Path, from: &str, to: &str, flags| {
        errno(rustix::fs::renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags))
    };
    let plain = RenameFlags::empty();
    twin.both(|dir| {
        for name in ["a", "b", "c"] {
            create(&dir.join(name), name.as_bytes()).expect("a new file");
        }
        os(fs::create_dir_all(dir.join("d/e/f"))).expect("new directories");
        os(fs::create_dir_all(dir.join("full/x"))).expect("new directories");
        fs::hard_link(dir.join("c"), dir.join("c2")).expect("a link");
        [
            rename(dir, "a", "b", plain),
            rename(dir, "a", "b", plain),
            rename(dir, "b", "c", RenameFlags::NOREPLACE),
            rename(dir, "b", "new", RenameFlags::NOREPLACE),
            rename(dir, "new", "d", plain),
            rename(dir, "d", "new", plain),
            rename(dir, "d", "full", plain),
            rename(dir, "full", "full/x/y", plain),
            rename(dir, "new", "c", RenameFlags::EXCHANGE),
            rename(dir, "new", "d/e", RenameFlags::EXCHANGE),
            rename(dir, "new", "missing", RenameFlags::EXCHANGE),
            rename(dir, "d", "d/e", RenameFlags::EXCHANGE),
            rename(dir, "c", "c2", RenameFlags::EXCHANGE | RenameFlags::NOREPLACE),
            rename(dir, "c2", "c", plain),
            rename(dir, "full/x", "d/moved", plain),
            rename(dir, "d/moved", "full", plain),
            rename(dir, "full", "full", plain),
        ]
    });
    twin.both(|dir| ["", "b", "c", "c2", "d", "d/e", "new", "full", "d/moved"].map(|name| facts(&dir.join(name))));
    twin.both(|dir| os(fs::read_dir(dir.join("new")).map(|entries| entries.count())));
    twin.check_and_remount();
}

/// Renaming over an open file, and unlinking one.
#[test]
fn what_is_open_outlives_its_name() {
    need_fuse!();
    let mut twin = Twin::new("");
    twin.both(|dir| {
        let path = dir.join("open");
        let mut open = File::options().read(true).write(true).create_new(true).open(&path).expect("a new file");
        open.write_all(b"before").expect("it can be written");
        let other = File::open(&path).expect("it opens");
        fs::remove_file(&path).expect("unlink");
        open.write_all_at(b"after all", 3).expect("it can still be written");
        let mut bytes = [0; 32];
        let len = other.read_at(&mut bytes, 0).expect("it can still be read");
        open.set_len(5).expect("ftruncate");
        let meta = other.metadata().expect("fstat");
        let by_handle = (meta.nlink(), meta.size(), errno(rustix::fs::fchmod(&open, Mode::from_raw_mode(0o640))));
        let mode = open.metadata().expect("fstat").mode();
        drop(open);
        let still = other.read_at(&mut [0; 32], 0).map_err(|e| e.kind());
        (bytes[..len].to_vec(), by_handle, mode, still, path.exists())
    });
    twin.both(|dir| {
        create(&dir.join("old"), b"old bytes").expect("a new file");
        create(&dir.join("new"), b"new").expect("a new file");
        let open = File::options().read(true).write(true).open(dir.join("old")).expect("it opens");
        fs::rename(dir.join("new"), dir.join("old")).expect("a rename");
        open.write_all_at(b"X", 0).expect("it can be written");
        let mut bytes = [0; 9];
        open.read_exact_at(&mut bytes, 0).expect("it can be read");
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
        // A file without a name cannot get one again.
        let relinked = errno(rustix::fs::linkat(CWD, link, CWD, dir.join("again"), AtFlags::SYMLINK_FOLLOW));
        (bytes, open.metadata().expect("fstat").nlink(), os(fs::read(dir.join("old"))), relinked)
    });
    twin.both(|dir| {
        let path = dir.join("dir");
        fs::create_dir(&path).expect("a directory");
        let open = File::open(&path).expect("it opens");
        fs::remove_dir(&path).expect("rmdir");
        let inside = errno(rustix::fs::openat(&open, "x", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR)).map(drop);
        let listed = Dir::read_from(&open).map(|dir| dir.filter_map(Result::ok).count());
        (open.metadata().map(|m| m.nlink()).map_err(|e| e.kind()), inside, errno(listed))
    });
    twin.check_and_remount();
}

#[test]
fn devices_fifos_and_sockets_are_made() {
    need_fuse!();
    need_root!();
    let mut twin = Twin::new("");
    let bits = Mode::from_raw_mode(0o640);
    twin.both(|dir| {
        let make = |name: &str, kind, device| errno(rustix::fs::mknodat(CWD, dir.join(name), kind, bits, device));
        let made = [
            make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            make("block", FileType::BlockDevice, rustix::fs::makedev(259, 0x1_2345)),
            make("fifo", FileType::Fifo, 0),
            make("socket", FileType::Socket, 0),
            make("regular", FileType::RegularFile, 0),
            make("fifo", FileType::Fifo, 0),
        ];
        fs::write(dir.join("null"), b"gone").expect("the device works");
        let devices = ["null", "block", "fifo", "socket", "regular"].map(|name| {
            let meta = fs::symlink_metadata(dir.join(name)).expect("it is there");
            (meta.mode(), meta.rdev(), meta.size())
        });
        (made, devices)
    });
    twin.check_and_remount();
}

#[test]
fn modes_owners_and_the_setuid_rules_are_those_of_linux() {
    need_fuse!();
    need_root!();
    let mut twin = Twin::new("allow_other");
    let chown = |path: &Path, uid, gid| {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        errno(rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
    };
    twin.both(|dir| {
        let mut seen = Vec::new();
        for (n, bits) in [0o4755, 0o6755, 0o2755, 0o2745, 0o6745, 0o1777, 0o7777, 0].into_iter().enumerate() {
            let (by_root, by_user) = (dir.join(format!("root-{n}")), dir.join(format!("user-{n}")));
            for path in [&by_root, &by_user] {
                create(path, b"bytes").expect("a new file");
                chown(path, NOBODY, NOBODY).expect("chown");
                mode(path, bits).expect("chmod");
            }
            seen.push(facts(&by_root));
            // Writes by root keep the bits, a chown by root does not.
            File::options().append(true).open(&by_root).expect("it opens").write_all(b"x").expect("a write");
            seen.push(facts(&by_root));
            chown(&by_root, OTHER, OTHER).expect("chown");
            seen.push(facts(&by_root));
            let file = File::options().write(true).open(&by_user).expect("it opens");
            let changed = as_user(NOBODY, NOBODY, &[], || {
                let wrote = os(file.write_at(b"y", 1));
                let after_write = os(file.metadata()).map(|m| m.mode());
                (wrote, after_write, os(file.set_permissions(Permissions::from_mode(bits))), os(file.set_len(2)))
            });
            let (wrote, after_write, chmod, truncate) = changed;
            seen.push(facts(&by_user));
            seen.push(after_write.map(|mode| (mode, 0, 0, 0, 0)));
            seen.push(wrote.and(chmod).and(truncate).map(|()| (0, 0, 0, 0, 0)));
        }
        // A user outside the group may not set setgid.
        let path = dir.join("foreign");
        create(&path, b"").expect("a new file");
        chown(&path, NOBODY, OTHER).expect("chown");
        let file = File::options().write(true).open(&path).expect("it opens");
        let set = || os(file.set_permissions(Permissions::from_mode(0o2755)));
        let outside = (as_user(NOBODY, NOBODY, &[], set), facts(&path));
        let inside = (as_user(NOBODY, NOBODY, &[OTHER], set), facts(&path));
        let given_away = as_user(NOBODY, NOBODY, &[], || errno(rustix::fs::fchown(&file, Some(Uid::ROOT), None)));
        let stranger = as_user(OTHER, OTHER, &[], || os(file.set_permissions(Permissions::from_mode(0o777))));
        (seen, outside, inside, given_away, stranger)
    });
    twin.both(|dir| {
        // A setgid directory passes on its group, and to directories also setgid.
        let shared = dir.join("shared");
        fs::create_dir(&shared).expect("a directory");
        chown(&shared, NOBODY, OTHER).expect("chown");
        mode(&shared, 0o2777).expect("chmod");
        let fd = File::open(&shared).expect("it opens");
        as_user(NOBODY, NOBODY, &[], || {
            let create = OFlags::CREATE | OFlags::WRONLY;
            let file = errno(rustix::fs::openat(&fd, "file", create, Mode::from_raw_mode(0o2775))).map(drop);
            let made = errno(rustix::fs::mkdirat(&fd, "dir", Mode::from_raw_mode(0o755)));
            (file, made, errno(rustix::fs::symlinkat("x", &fd, "link")))
        })
        .0
        .expect("a new file");
        ["file", "dir", "link"].map(|name| facts(&shared.join(name)))
    });
    twin.both(|dir| {
        // In a sticky directory nobody may remove or rename another user's file.
        let sticky = dir.join("sticky");
        fs::create_dir(&sticky).expect("a directory");
        mode(&sticky, 0o1777).expect("chmod");
        create(&sticky.join("roots"), b"").expect("a new file");
        let fd = File::open(&sticky).expect("it opens");
        as_user(NOBODY, NOBODY, &[], || {
            let unlink = errno(rustix::fs::unlinkat(&fd, "roots", AtFlags::empty()));
            (unlink, errno(rustix::fs::renameat(&fd, "roots", &fd, "mine")))
        })
    });
    twin.check_and_remount();
}

/// A step, and the name whose times it may change.
type Step = (&'static str, fn(&Path));

#[test]
fn times_are_set_and_change_with_what_is_done() {
    need_fuse!();
    let mut twin = Twin::new("");
    let time = |secs, nanos| Timespec { tv_sec: secs, tv_nsec: nanos };
    let set = |path: &Path, access, modification| {
        let times = Timestamps { last_access: access, last_modification: modification };
        errno(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW))
    };
    let times = |path: &Path| {
        let Stat { st_atime, st_atime_nsec, st_mtime, st_mtime_nsec, .. } =
            rustix::fs::lstat(path).expect("it is there");
        ((st_atime, st_atime_nsec), (st_mtime, st_mtime_nsec))
    };
    let old =
        [time(0, 0), time(-1, 999_999_999), time(-1_000_000_000, 1), time(1, 5), time(4_000_000_000, 999_999_999)];
    twin.both(|dir| {
        fs::create_dir(dir.join("dir")).expect("a directory");
        create(&dir.join("file"), b"bytes").expect("a new file");
        symlink("file", dir.join("link")).expect("a symlink");
        let mut seen = Vec::new();
        for name in ["file", "dir", "link"] {
            for (&a, &m) in old.iter().zip(old.iter().rev()) {
                set(&dir.join(name), a, m).expect("times can be set");
                seen.push(times(&dir.join(name)));
            }
        }
        seen
    });
    // Every step changes the same times in both, to the current time.
    let long_ago = time(1000, 0);
    let omit = time(0, rustix::fs::UTIME_OMIT as _);
    let now = time(0, rustix::fs::UTIME_NOW as _);
    let steps: [Step; 9] = [
        ("file", |dir| drop(File::options().append(true).open(dir.join("file")).and_then(|mut f| f.write_all(b"x")))),
        ("file", |dir| drop(File::options().write(true).open(dir.join("file")).and_then(|f| f.set_len(2)))),
        ("file", |dir| drop(File::options().write(true).truncate(true).open(dir.join("file")))),
        ("file", |dir| drop(fs::set_permissions(dir.join("file"), Permissions::from_mode(0o600)))),
        ("dir", |dir| drop(fs::write(dir.join("dir/new"), b""))),
        ("dir", |dir| drop(fs::rename(dir.join("dir/new"), dir.join("dir/newer")))),
        ("dir", |dir| drop(fs::remove_file(dir.join("dir/newer")))),
        ("file", |dir| drop(fs::read(dir.join("file")))),
        ("dir", |dir| drop(fs::read_dir(dir.join("dir")).map(Iterator::count))),
    ];
    for (n, (name, step)) in steps.into_iter().enumerate() {
        // The mount does not keep the time of access.
        twin.both(|dir| {
            let path = dir.join(name);
            set(&path, long_ago, long_ago).expect("times can be set");
            let before = rustix::fs::lstat(&path).expect("it is there");
            step(dir);
            let after = rustix::fs::lstat(&path).expect("it is there");
            let ctime = |stat: &Stat| (stat.st_ctime, stat.st_ctime_nsec);
            (n, after.st_mtime == 1000, ctime(&before) == ctime(&after))
        });
    }
    twin.both(|dir| {
        let path = dir.join("file");
        set(&path, omit, time(7, 8)).expect("one time can be set");
        set(&path, time(5, 6), omit).expect("one time can be set");
        let seen = times(&path);
        set(&path, now, now).expect("times can be set to now");
        (seen, times(&path).0 == times(&path).1, times(&path).0.0 > 1_700_000_000)
    });
    twin.both(|dir| {
        set(&dir.join("file"), time(0, 0), time(12345, 67)).and(set(&dir.join("dir"), omit, time(-5, 300)))
    });
    twin.check_and_remount();
    twin.both(|dir| (times(&dir.join("file")), times(&dir.join("dir")).1));
}

#[test]
fn attributes_are_set_replaced_listed_and_removed() {
    need_fuse!();
    need_root!();
    let mut twin = Twin::new("");
    twin.both(|dir| {
        let path = dir.join("file");
        create(&path, b"bytes").expect("a new file");
        fs::create_dir(dir.join("dir")).expect("a directory");
        symlink("x", dir.join("link")).expect("a symlink");
        let set = |name: &str, value: &[u8], flags| errno(rustix::fs::lsetxattr(&path, name, value, flags));
        let plain = XattrFlags::empty();
        let results = [
            set("user.a", b"one", plain),
            set("user.a", b"two", XattrFlags::CREATE),
            set("user.b", b"", XattrFlags::REPLACE),
            set("user.a", b"three", XattrFlags::REPLACE),
            set("user.b", b"", XattrFlags::CREATE),
            set("trusted.t", &[0, 255, 10], plain),
            set("security.capability", &CAPABILITY, plain),
            set("nonsense", b"x", plain),
            errno(xattrs::set(&dir.join("dir"), b"user.d", b"on a directory")),
            errno(xattrs::set(&dir.join("link"), b"user.l", b"on a symlink")),
            errno(xattrs::set(&dir.join("link"), b"trusted.l", b"on a symlink")),
            errno(rustix::fs::lremovexattr(&path, "user.missing")),
        ];
        let mut value = [0; 3];
        let get = |name: &str, value: &mut [u8]| errno(rustix::fs::lgetxattr(&path, name, value));
        let read =
            [get("user.a", &mut value), get("user.a", &mut []), get("user.c", &mut []), get("user.b", &mut value)];
        let removed = errno(rustix::fs::lremovexattr(&path, "user.b"));
        let listed = errno(xattrs::all(File::open(&path).expect("it opens")));
        // A write by root removes capabilities.
        fs::OpenOptions::new().append(true).open(&path).expect("it opens").write_all(b"more").expect("a write");
        (results, read, removed, listed, errno(xattrs::all(File::open(&path).expect("it opens"))))
    });
    twin.check_and_remount();
}

/// A file capability: cap_net_raw, effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An ACL in the kernel's form: tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        out.extend(tag.to_le_bytes());
        out.extend(perm.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    out
}

#[test]
fn acls_are_enforced_handed_on_and_move_with_the_mode() {
    need_fuse!();
    need_root!();
    let mut twin = Twin::new("allow_other");
    const ANY: u32 = u32::MAX;
    let full = acl(&[(1, 6, ANY), (2, 6, NOBODY), (4, 4, ANY), (0x10, 6, ANY), (0x20, 0, ANY)]);
    let minimal = acl(&[(1, 7, ANY), (4, 5, ANY), (0x20, 1, ANY)]);
    let inherited = acl(&[(1, 7, ANY), (2, 7, NOBODY), (4, 5, ANY), (0x10, 7, ANY), (0x20, 0, ANY)]);
    let all = |path: &Path| errno(xattrs::all(File::open(path).expect("it opens")));
    twin.both(|dir| {
        let path = dir.join("file");
        create(&path, b"bytes").expect("a new file");
        let set = |path: &Path, name: &[u8], value: &[u8]| errno(xattrs::set(path, name, value));
        let access = b"system.posix_acl_access".as_slice();
        let mut seen = vec![(set(&path, access, &full), facts(&path), all(&path))];
        let fd = File::options().read(true).open(&path).expect("it opens");
        let reopened = as_user(NOBODY, NOBODY, &[], || {
            os(File::options().write(true).open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd))))
        });
        // chmod changes the mask.
        seen.push((mode(&path, 0o640), facts(&path), all(&path)));
        seen.push((set(&path, access, &minimal), facts(&path), all(&path)));
        seen.push((set(&path, access, b"nonsense"), facts(&path), all(&path)));
        seen.push((set(&path, b"system.posix_acl_default", &full), facts(&path), all(&path)));
        (seen, reopened.map(drop))
    });
    twin.both(|dir| {
        let parent = dir.join("parent");
        fs::create_dir(&parent).expect("a directory");
        errno(xattrs::set(&parent, b"system.posix_acl_default", &inherited)).expect("a default ACL");
        create(&parent.join("file"), b"").expect("a new file");
        fs::create_dir(parent.join("dir")).expect("a directory");
        create(&parent.join("dir/deeper"), b"").expect("a new file");
        symlink("x", parent.join("link")).expect("a symlink");
        let fifo = errno(rustix::fs::mknodat(CWD, parent.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0));
        let seen = ["", "file", "dir", "dir/deeper"].map(|name| (facts(&parent.join(name)), all(&parent.join(name))));
        (seen, fifo, facts(&parent.join("fifo")), facts(&parent.join("link")))
    });
    twin.both(|dir| errno(rustix::fs::lremovexattr(dir.join("parent"), "system.posix_acl_default")));
    twin.check_and_remount();
}

#[test]
fn what_is_not_offered_is_refused_with_its_error() {
    need_fuse!();
    need_root!();
    let twin = Twin::new("");
    let open = rustix::fs::open(twin.dir(), OFlags::TMPFILE | OFlags::WRONLY, Mode::RUSR);
    assert_eq!(open.map(drop), Err(rustix::io::Errno::OPNOTSUPP));
    create(&twin.dir().join("file"), b"").expect("a new file");
    let file = twin.dir().join("file");
    let whiteout = rustix::fs::renameat_with(CWD, &file, CWD, twin.dir().join("x"), RenameFlags::WHITEOUT);
    assert_eq!(whiteout, Err(rustix::io::Errno::INVAL));
    for name in ["user.floe.state", "user.floe.where", "user.floe.counters"] {
        assert_eq!(
            rustix::fs::setxattr(&file, name, b"x", XattrFlags::empty()),
            Err(rustix::io::Errno::OPNOTSUPP),
            "{name}"
        );
    }
}

#[test]
fn the_state_of_the_mount_and_of_a_file_can_be_asked() {
    need_fuse!();
    let twin = Twin::new("commit=3600");
    let ask = |path: &Path| {
        let mut text = [0; 4096];
        let len = rustix::fs::getxattr(path, "user.floe.state", &mut text).expect("it answers");
        String::from_utf8(text[..len].to_vec()).expect("text")
    };
    let file = twin.dir().join("file");
    create(&file, &[7; 10_000]).expect("a new file");
    assert_eq!(ask(&file), "thawed_bytes 10000\nlost_bytes 0\nfrozen_bytes 0\n");
    let root = ask(twin.dir());
    for name in ["overlay_bytes", "pending_bytes", "log_bytes", "segments 1\n", "failed -\n"] {
        assert!(root.contains(name), "{name} is not in {root}");
    }
    assert!(!root.contains("overlay_bytes 0\n") && !root.contains("pending_bytes 0\n"), "{root}");
    let mut names = [0; 100];
    assert_eq!(rustix::fs::listxattr(&file, &mut names), Ok(0), "it is not listed");
}

#[test]
fn the_mount_says_that_it_is_writable_and_keeps_no_times_of_access() {
    need_fuse!();
    let twin = Twin::new("");
    let line = common::mounted::mount_line(twin.dir()).expect("it is mounted");
    let options: Vec<_> = line.split(' ').nth(3).expect("options").split(',').collect();
    assert!(options.contains(&"rw") && options.contains(&"noatime"), "{line}");
    let space = rustix::fs::statvfs(twin.dir()).expect("statfs works");
    let below = rustix::fs::statvfs(twin.image()).expect("statfs works");
    assert!(space.f_bavail > 0 && space.f_bavail <= below.f_blocks * below.f_frsize / space.f_frsize);
    assert!(space.f_ffree > 1 << 30 && space.f_namemax == 255);
}

#[test]
fn with_relatime_and_strictatime_reads_are_noted() {
    need_fuse!();
    for (options, notes_again) in [("relatime", false), ("strictatime", true), ("noatime", false)] {
        let twin = Twin::new(options);
        let file = twin.dir().join("file");
        create(&file, b"bytes").expect("a new file");
        let old = Timespec { tv_sec: 1000, tv_nsec: 0 };
        let set = |access, modification| {
            let times = Timestamps { last_access: access, last_modification: modification };
            rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty()).expect("times can be set");
        };
        let read = || {
            let handle = File::open(&file).expect("it opens");
            // Bypass the page cache, which records no access.
            rustix::fs::fadvise(&handle, 0, None, rustix::fs::Advice::DontNeed).expect("advice is taken");
            handle.read_at(&mut [0; 8], 0).expect("it can be read");
            fs::metadata(&file).expect("stat").atime()
        };
        set(old, old);
        let first = read();
        assert_eq!(first > 1000, options != "noatime", "{options}");
        let today = Timespec { tv_sec: first.max(1000) - 60, tv_nsec: 0 };
        set(today, old);
        let ctime = fs::metadata(&file).expect("stat").ctime();
        let again = read();
        // The times were changed after the time of access, so relatime records this read too.
        assert_eq!(again != today.tv_sec, options != "noatime", "{options}, changed at {ctime}");
        let once_more = { read() };
        assert!(once_more >= again && (notes_again || once_more == again), "{options}");
    }
}
