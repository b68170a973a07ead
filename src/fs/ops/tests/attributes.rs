//! Modes, owners, times, extended attributes, ACLs.

use super::super::atime::touch_atime;
use super::super::create::{NewKind, NewNode, create};
use super::super::setattr::{NewTime, SetAttr, set_attr};
use super::super::unlink::unlink;
use super::super::xattr::{XattrFlags, remove_xattr, set_xattr};
use super::{ROOT, World};
use crate::format::ids::InodeId;
use crate::format::rows::inode::XattrRef;
use crate::format::rows::{ShareKey, Time};
use crate::format::schema;
use crate::fs::FsError;
use rustix::io::Errno;

const NOTHING: XattrFlags = XattrFlags { create: false, replace: false, clear_setgid: false };

impl World {
    pub(super) fn set(&mut self, inode: InodeId, changes: SetAttr) -> Result<(), FsError> {
        let done = self.run_with(&[], |draft, append| set_attr(draft, inode, &changes, append));
        done.map(|row| assert!(row.is_some()))
    }

    pub(super) fn set_xattr(&mut self, inode: InodeId, name: &str, value: &[u8]) -> Result<(), FsError> {
        self.run(|draft| set_xattr(draft, inode, name.as_bytes(), value, NOTHING))
    }

    pub(super) fn remove_xattr(&mut self, inode: InodeId, name: &str) -> Result<(), FsError> {
        self.run(|draft| remove_xattr(draft, inode, name.as_bytes()))
    }

    pub(super) fn xattr(&self, inode: InodeId, name: &str) -> Option<Vec<u8>> {
        self.view().xattrs(&self.row(inode)).unwrap().get(name.as_bytes()).map(<[u8]>::to_vec)
    }
}

fn errno(result: Result<(), FsError>) -> Errno {
    result.expect_err("it succeeds").errno()
}

fn mode(mode: u16) -> SetAttr {
    SetAttr { mode: Some(mode), ..SetAttr::default() }
}

/// An ACL with a named user and a mask.
fn acl(owner: u16, user: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    let none = u32::MAX;
    let entries = [(1u16, owner, none), (2, user, 1000), (4, group, none), (0x10, mask, none), (0x20, other, none)];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

fn plain_acl(owner: u16, group: u16, other: u16) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions) in [(1u16, owner), (4, group), (0x20, other)] {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&u32::MAX.to_le_bytes());
    }
    value
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

#[test]
fn only_what_is_asked_for_is_set_and_ctime_always() {
    let mut world = World::new();
    let file = world.file("a");
    let before = world.row(file);
    world.set(file, SetAttr::default()).unwrap();
    assert_eq!(world.row(file), crate::format::rows::InodeRow { ctime: world.now, ..before.clone() });
    let past = Time { secs: -5, nanos: 999_999_999 };
    let times = SetAttr { atime: Some(NewTime::At(past)), mtime: Some(NewTime::Now), ..SetAttr::default() };
    world.set(file, times).unwrap();
    assert_eq!((world.row(file).atime, world.row(file).mtime, world.row(file).ctime), (past, world.now, world.now));
    world.set(file, SetAttr { ctime: Some(past), ..mode(0o1777) }).unwrap();
    assert_eq!((world.row(file).ctime, world.row(file).permissions), (past, 0o1777));
    let wrong = NewTime::At(Time { secs: 0, nanos: 1_000_000_000 });
    assert_eq!(errno(world.set(file, SetAttr { mtime: Some(wrong), ..SetAttr::default() })), Errno::INVAL);
    let dir = world.dir(ROOT, "d");
    assert_eq!(errno(world.set(dir, SetAttr { size: Some(0), ..SetAttr::default() })), Errno::ISDIR);
    let fifo = world.make(ROOT, "p", NewKind::Fifo);
    assert_eq!(errno(world.set(fifo, SetAttr { size: Some(0), ..SetAttr::default() })), Errno::INVAL);
    assert_eq!(errno(world.set(InodeId(99), SetAttr::default())), Errno::NOENT);
    world.scan();
}

#[test]
fn a_new_owner_takes_setuid_and_setgid_away_but_from_directories() {
    let mut world = World::new();
    let (file, dir) = (world.file("a"), world.dir(ROOT, "d"));
    world.set_xattr(file, "security.capability", b"cap").unwrap();
    for (before, after) in [(0o6755, 0o755), (0o2644, 0o2644), (0o4644, 0o644), (0o7777, 0o1777)] {
        world.set(file, mode(before)).unwrap();
        world.set(file, SetAttr { uid: Some(5), ..SetAttr::default() }).unwrap();
        assert_eq!(world.row(file).permissions, after);
    }
    assert_eq!(world.xattr(file, "security.capability"), None);
    // Linux passes the mode that it computed from both.
    world.set(file, SetAttr { gid: Some(9), ..mode(0o6755) }).unwrap();
    assert_eq!((world.row(file).permissions, world.row(file).gid), (0o6755, 9));
    world.set(dir, mode(0o2755)).unwrap();
    world.set(dir, SetAttr { gid: Some(9), ..SetAttr::default() }).unwrap();
    assert_eq!(world.row(dir).permissions, 0o2755);
}

#[test]
fn setgid_directories_hand_on_their_group() {
    let mut world = World::new();
    let dir = world.dir(ROOT, "d");
    world.set(dir, SetAttr { gid: Some(77), ..mode(0o2775) }).unwrap();
    let (file, sub) = (world.make(dir, "f", NewKind::Regular), world.dir(dir, "s"));
    assert_eq!((world.row(file).gid, world.row(file).permissions), (77, 0o644));
    assert_eq!((world.row(sub).gid, world.row(sub).permissions), (77, 0o2644));
}

#[test]
fn a_read_is_noted_after_a_change_and_once_a_day() {
    let mut world = World::new();
    let file = world.file("a");
    let made = world.now;
    world.run(|draft| touch_atime(draft, file, false)).unwrap();
    let first = world.now;
    assert_eq!((world.row(file).atime, world.row(file).ctime), (first, made));
    world.run(|draft| touch_atime(draft, file, false)).unwrap();
    assert_eq!(world.row(file).atime, first);
    world.now.secs += 24 * 60 * 60;
    world.run(|draft| touch_atime(draft, file, false)).unwrap();
    assert_eq!(world.row(file).atime, world.now);
    world.write(file, 0, b"x").unwrap();
    world.run(|draft| touch_atime(draft, file, false)).unwrap();
    assert_eq!(world.row(file).atime, world.now);
    world.run(|draft| touch_atime(draft, file, true)).unwrap();
    assert_eq!(world.row(file).atime, world.now);
}

#[test]
fn xattrs_are_set_replaced_and_removed_small_and_large() {
    let mut world = World::new();
    let file = world.file("a");
    for len in [0usize, 10, 110, 200, 40_000, 65_536, 5, 300, 1] {
        let value: Vec<u8> = (0..len).map(|n| n as u8).collect();
        world.set_xattr(file, "user.x", &value).unwrap();
        assert_eq!(world.xattr(file, "user.x"), Some(value));
        assert_eq!(matches!(world.row(file).xattrs, XattrRef::Inline(_)), len <= 110);
        assert_eq!(world.row(file).ctime, world.now);
        world.scan();
    }
    for n in 0..15 {
        world.set_xattr(file, &format!("user.{n}"), &[7; 65_536]).unwrap();
    }
    world.scan();
    assert_eq!(errno(world.set_xattr(file, "user.more", &[7; 65_536])), Errno::NOSPC);
    for n in 0..15 {
        world.remove_xattr(file, &format!("user.{n}")).unwrap();
    }
    world.remove_xattr(file, "user.x").unwrap();
    assert_eq!((&world.row(file).xattrs, world.rows(&schema::XATTRS)), (&XattrRef::None, vec![]));
    world.set_xattr(file, "user.x", &[7; 65_536]).unwrap();
    world.run(|draft| unlink(draft, ROOT, b"a")).unwrap();
    world.scan();
}

#[test]
fn a_set_that_others_have_too_is_left_to_them() {
    let mut world = World::new();
    let (file, other) = (world.file("a"), world.file("b"));
    world.set_xattr(file, "user.x", &[7; 300]).unwrap();
    let shared = world.row(file).xattrs;
    let mut row = world.row(other);
    row.xattrs = shared.clone();
    world
        .run(|draft| {
            draft.put_inode(other, &row);
            for key in ShareKey::used_by(&row).collect::<Vec<_>>() {
                super::super::shares::add_user(draft, key)?;
            }
            Ok(())
        })
        .unwrap();
    world.scan();
    world.set_xattr(file, "user.y", b"y").unwrap();
    assert_eq!((world.row(other).xattrs, world.xattr(other, "user.y")), (shared, None));
    assert_eq!(world.xattr(file, "user.x"), Some(vec![7; 300]));
    world.scan();
    world.remove_xattr(other, "user.x").unwrap();
    world.scan();
}

#[test]
fn what_linux_refuses_of_xattrs_is_refused_with_its_errno() {
    let mut world = World::new();
    let (file, link) = (world.file("a"), world.make(ROOT, "l", NewKind::Symlink(b"a".to_vec())));
    for (name, value, expected) in [
        ("user.".to_owned(), 0, Errno::INVAL),
        ("user.x".to_owned(), 65_537, Errno::TOOBIG),
        (format!("user.{}", "x".repeat(251)), 0, Errno::RANGE),
        (String::new(), 0, Errno::RANGE),
        ("other.x".to_owned(), 0, Errno::OPNOTSUPP),
        ("user.floe.where".to_owned(), 0, Errno::OPNOTSUPP),
    ] {
        assert_eq!(errno(world.set_xattr(file, &name, &vec![0; value])), expected, "{name}");
    }
    world.set_xattr(file, &format!("user.{}", "x".repeat(250)), b"").unwrap();
    assert_eq!(errno(world.set_xattr(link, "user.x", b"")), Errno::PERM);
    world.set_xattr(link, "trusted.x", b"").unwrap();
    assert_eq!(errno(world.remove_xattr(file, "user.x")), Errno::NODATA);
    assert_eq!(errno(world.remove_xattr(file, "user.floe.where")), Errno::OPNOTSUPP);
    let (create, replace) = (XattrFlags { create: true, ..NOTHING }, XattrFlags { replace: true, ..NOTHING });
    let set = |draft: &mut _, flags| set_xattr(draft, file, b"user.x", b"", flags);
    assert_eq!(errno(world.run(|draft| set(draft, replace))), Errno::NODATA);
    world.run(|draft| set(draft, create)).unwrap();
    assert_eq!(errno(world.run(|draft| set(draft, create))), Errno::EXIST);
    world.run(|draft| set(draft, replace)).unwrap();
    assert_eq!(errno(world.set_xattr(link, ACCESS, &acl(7, 7, 7, 7, 7))), Errno::OPNOTSUPP);
    assert_eq!(errno(world.set_xattr(file, DEFAULT, &acl(7, 7, 7, 7, 7))), Errno::ACCESS);
    assert_eq!(errno(world.set_xattr(file, ACCESS, &[1, 2, 3])), Errno::INVAL);
    world.scan();
}

#[test]
fn an_acl_sets_the_mode_and_is_kept_only_where_the_mode_does_not_say_it_all() {
    let mut world = World::new();
    let file = world.file("a");
    world.set(file, mode(0o2644)).unwrap();
    world.set_xattr(file, ACCESS, &acl(6, 7, 5, 4, 1)).unwrap();
    assert_eq!((world.row(file).permissions, world.xattr(file, ACCESS)), (0o2641, Some(acl(6, 7, 5, 4, 1))));
    // The mode changes the mask.
    world.set(file, mode(0o750)).unwrap();
    assert_eq!(world.xattr(file, ACCESS), Some(acl(7, 7, 5, 5, 0)));
    world.set_xattr(file, ACCESS, &plain_acl(6, 4, 0)).unwrap();
    assert_eq!((world.row(file).permissions, world.xattr(file, ACCESS)), (0o640, None));
    world.set_xattr(file, ACCESS, &acl(6, 7, 5, 4, 1)).unwrap();
    world.remove_xattr(file, ACCESS).unwrap();
    assert_eq!((world.row(file).permissions, world.xattr(file, ACCESS)), (0o641, None));
    world.remove_xattr(file, ACCESS).unwrap();
    world.set(file, mode(0o2755)).unwrap();
    let kill = XattrFlags { clear_setgid: true, ..NOTHING };
    world.run(|draft| set_xattr(draft, file, ACCESS.as_bytes(), &plain_acl(7, 5, 5), kill)).unwrap();
    assert_eq!(world.row(file).permissions, 0o755);
}

#[test]
fn a_default_acl_is_handed_on_and_takes_the_place_of_the_umask() {
    let mut world = World::new();
    let dir = world.dir(ROOT, "d");
    world.set_xattr(dir, DEFAULT, &acl(7, 6, 5, 7, 0)).unwrap();
    let node = |kind| NewNode { kind, mode: 0o664, umask: 0o077, uid: 0, gid: 0 };
    let mut make = |name: &[u8], kind| world.run(|draft| create(draft, dir, name, &node(kind))).unwrap().0;
    let (file, sub) = (make(b"f", NewKind::Regular), make(b"s", NewKind::Directory));
    let link = make(b"l", NewKind::Symlink(b"f".to_vec()));
    assert_eq!((world.row(file).permissions, world.xattr(file, ACCESS)), (0o660, Some(acl(6, 6, 5, 6, 0))));
    assert_eq!(world.xattr(file, DEFAULT), None);
    assert_eq!((world.row(sub).permissions, world.xattr(sub, DEFAULT)), (0o660, Some(acl(7, 6, 5, 7, 0))));
    assert_eq!((world.row(link).permissions, world.row(link).xattrs), (0o777, XattrRef::None));
    // If an ACL says no more than a mode, no ACL is stored.
    world.set_xattr(dir, DEFAULT, &plain_acl(6, 4, 0)).unwrap();
    let file = world.run(|draft| create(draft, dir, b"g", &node(NewKind::Regular))).unwrap().0;
    assert_eq!((world.row(file).permissions, world.xattr(file, ACCESS)), (0o640, None));
    world.scan();
}
