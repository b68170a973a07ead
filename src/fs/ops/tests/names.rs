//! Names: making, removing, moving and linking them.

use super::super::create::{NewKind, NewNode, create};
use super::super::link::link;
use super::super::names::LINKS;
use super::super::reap::reap_step;
use super::super::rename::{RenameFlags, rename};
use super::super::unlink::{rmdir, unlink};
use super::bytes::both_count;
use super::{Draft, ROOT, World};
use crate::format::ids::InodeId;
use crate::format::rows::FileType;
use crate::fs::FsError;

const PLAIN: RenameFlags = RenameFlags { no_replace: false, exchange: false };
const NO_REPLACE: RenameFlags = RenameFlags { no_replace: true, exchange: false };
const EXCHANGE: RenameFlags = RenameFlags { no_replace: false, exchange: true };

impl World {
    pub(super) fn unlink(&mut self, parent: InodeId, name: &str) -> Result<(), FsError> {
        self.run(|draft| unlink(draft, parent, name.as_bytes()))
    }

    pub(super) fn rmdir(&mut self, parent: InodeId, name: &str) -> Result<(), FsError> {
        self.run(|draft| rmdir(draft, parent, name.as_bytes()))
    }

    pub(super) fn link(&mut self, inode: InodeId, parent: InodeId, name: &str) -> Result<(), FsError> {
        self.run(|draft| link(draft, inode, parent, name.as_bytes())).map(|_| ())
    }

    pub(super) fn rename(
        &mut self,
        from: (InodeId, &str),
        to: (InodeId, &str),
        flags: RenameFlags,
    ) -> Result<(), FsError> {
        self.run(|draft| rename(draft, (from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()), flags))
    }

    pub(super) fn find(&self, parent: InodeId, name: &str) -> Option<InodeId> {
        self.view().lookup(parent, name.as_bytes()).unwrap().map(|entry| entry.inode)
    }
}

fn errno<T>(result: Result<T, FsError>) -> rustix::io::Errno {
    match result {
        Ok(_) => panic!("it succeeds"),
        Err(error) => error.errno(),
    }
}

#[test]
fn files_of_every_type_are_made_as_they_were_asked_for() {
    let mut world = World::new();
    let kinds = [
        (NewKind::Regular, FileType::Regular, 1),
        (NewKind::Directory, FileType::Directory, 2),
        (NewKind::Symlink(b"to/it".to_vec()), FileType::Symlink, 1),
        (NewKind::Device { file_type: FileType::CharDevice, major: 1, minor: 3 }, FileType::CharDevice, 1),
        (NewKind::Fifo, FileType::Fifo, 1),
        (NewKind::Socket, FileType::Socket, 1),
    ];
    for (n, (kind, file_type, links)) in kinds.into_iter().enumerate() {
        let inode = world.make(ROOT, &format!("{n}"), kind);
        let row = world.row(inode);
        assert_eq!((row.file_type, row.links, row.uid, row.gid), (file_type, links, 5, 6));
        assert_eq!(row.permissions, if file_type == FileType::Symlink { 0o777 } else { 0o644 });
        assert_eq!([row.mtime, row.ctime, row.atime], [world.now; 3]);
        assert_eq!(world.row(ROOT).mtime, world.now);
    }
    assert_eq!(world.row(world.find(ROOT, "2").unwrap()).target, b"to/it");
    assert_eq!(world.row(world.find(ROOT, "3").unwrap()).device(), (1, 3));
    world.scan();
}

#[test]
fn what_linux_refuses_to_make_is_refused_with_its_errno() {
    use rustix::io::Errno;
    let mut world = World::new();
    let file = world.file("file");
    let node = |kind| NewNode { kind, mode: 0o644, umask: 0, uid: 0, gid: 0 };
    let mut make = |parent, name: &[u8], kind| errno(world.run(|draft| create(draft, parent, name, &node(kind))));
    assert_eq!(make(ROOT, b"file", NewKind::Regular), Errno::EXIST);
    assert_eq!(make(ROOT, &[b'x'; 256], NewKind::Regular), Errno::NAMETOOLONG);
    assert_eq!(make(ROOT, b"..", NewKind::Directory), Errno::INVAL);
    assert_eq!(make(file, b"x", NewKind::Regular), Errno::NOTDIR);
    assert_eq!(make(InodeId(99), b"x", NewKind::Regular), Errno::NOENT);
    assert_eq!(make(ROOT, b"x", NewKind::Symlink(vec![b'x'; 4096])), Errno::NAMETOOLONG);
    assert_eq!(make(ROOT, b"x", NewKind::Symlink(Vec::new())), Errno::NOENT);
    world.make(ROOT, &"x".repeat(255), NewKind::Symlink(vec![b'x'; 4095]));
    world.scan();
}

#[test]
fn removing_the_last_name_removes_the_file_and_another_name_keeps_it() {
    let mut world = World::new();
    let file = world.file("a");
    world.write(file, 0, b"bytes").unwrap();
    world.link(file, ROOT, "b").unwrap();
    assert_eq!((world.row(file).links, world.row(file).ctime), (2, world.now));
    world.unlink(ROOT, "a").unwrap();
    assert_eq!((world.row(file).links, world.row(file).ctime), (1, world.now));
    world.scan();
    world.unlink(ROOT, "b").unwrap();
    assert_eq!((world.view().inode(file).unwrap(), world.view().orphan(file).unwrap()), (None, None));
    assert_eq!(world.row(ROOT).mtime, world.now);
    world.scan();
}

#[test]
fn only_empty_directories_are_removed_and_only_by_rmdir() {
    use rustix::io::Errno;
    let mut world = World::new();
    let dir = world.dir(ROOT, "d");
    world.make(dir, "f", NewKind::Regular);
    assert_eq!(world.row(ROOT).links, 3);
    assert_eq!(errno(world.rmdir(ROOT, "d")), Errno::NOTEMPTY);
    assert_eq!(errno(world.unlink(ROOT, "d")), Errno::ISDIR);
    assert_eq!(errno(world.rmdir(dir, "f")), Errno::NOTDIR);
    assert_eq!(errno(world.rmdir(ROOT, "x")), Errno::NOENT);
    assert_eq!(errno(world.unlink(ROOT, "x")), Errno::NOENT);
    assert_eq!(errno(world.unlink(ROOT, &"x".repeat(300))), Errno::NAMETOOLONG);
    world.unlink(dir, "f").unwrap();
    world.rmdir(ROOT, "d").unwrap();
    assert_eq!((world.row(ROOT).links, world.view().inode(dir).unwrap()), (2, None));
    let node = NewNode { kind: NewKind::Regular, mode: 0, umask: 0, uid: 0, gid: 0 };
    assert_eq!(errno(world.run(|draft| create(draft, dir, b"x", &node))), Errno::NOENT);
    world.scan();
}

// Case 18.
#[test]
fn an_open_file_without_a_name_keeps_its_row_and_bytes_until_it_is_closed() {
    let mut world = World::new();
    let file = world.file("a");
    world.write(file, 0, b"some bytes").unwrap();
    let before = world.row(file);
    world.open(file);
    world.unlink(ROOT, "a").unwrap();
    let orphan = world.view().orphan(file).unwrap().unwrap();
    assert_eq!(orphan, crate::format::rows::InodeRow { links: 0, ctime: world.now, ..before });
    assert_eq!(world.view().inode(file).unwrap(), None);
    world.scan();
    // Whoever has it open can go on using it.
    world.write(file, 5, b"BYTES, more of them").unwrap();
    world.truncate(file, 12).unwrap();
    assert_eq!(world.read(file), b"some BYTES, ");
    assert_eq!(errno(world.link(file, ROOT, "again")), rustix::io::Errno::NOENT);
    assert!(world.run(|draft| reap_step(draft, file)).unwrap());
    assert_eq!(world.read(file), b"some BYTES, ");
    world.scan();
    world.close(file);
    assert!(world.run(|draft| reap_step(draft, file)).unwrap());
    assert_eq!(world.view().orphan(file).unwrap(), None);
    assert!(world.run(|draft| reap_step(draft, file)).unwrap());
    world.scan();
}

// Case 18.
#[test]
fn what_is_replaced_while_it_is_open_becomes_an_orphan_too() {
    let mut world = World::new();
    let (file, other) = (world.packed_tiny("a", b"tiny"), world.packed_tiny("b", b"other"));
    world.open(other);
    world.rename((ROOT, "a"), (ROOT, "b"), PLAIN).unwrap();
    assert_eq!(world.find(ROOT, "b"), Some(file));
    assert_eq!(world.read(other), b"other");
    world.scan();
    let (dir, replaced) = (world.dir(ROOT, "d"), world.dir(ROOT, "e"));
    world.open(replaced);
    world.rename((ROOT, "d"), (ROOT, "e"), PLAIN).unwrap();
    assert_eq!(world.find(ROOT, "e"), Some(dir));
    assert_eq!(world.view().orphan(replaced).unwrap().unwrap().links, 0);
    world.scan();
    world.close(other);
    world.close(replaced);
    for orphan in [other, replaced] {
        assert!(world.run(|draft| reap_step(draft, orphan)).unwrap());
    }
    world.scan();
}

#[test]
fn names_are_moved_replaced_and_exchanged() {
    use rustix::io::Errno;
    let mut world = World::new();
    let (d, e) = (world.dir(ROOT, "d"), world.dir(ROOT, "e"));
    let (sub, full) = (world.dir(d, "sub"), world.dir(e, "full"));
    let (file, inner) = (world.file("file"), world.make(full, "inner", NewKind::Regular));
    assert_eq!(errno(world.rename((ROOT, "no"), (d, "x"), PLAIN)), Errno::NOENT);
    assert_eq!(errno(world.rename((ROOT, "file"), (e, "full"), PLAIN)), Errno::ISDIR);
    assert_eq!(errno(world.rename((d, "sub"), (ROOT, "file"), PLAIN)), Errno::NOTDIR);
    assert_eq!(errno(world.rename((d, "sub"), (e, "full"), PLAIN)), Errno::NOTEMPTY);
    assert_eq!(errno(world.rename((ROOT, "file"), (full, "inner"), NO_REPLACE)), Errno::EXIST);
    assert_eq!(errno(world.rename((ROOT, "file"), (d, "x"), EXCHANGE)), Errno::NOENT);
    let both = RenameFlags { no_replace: true, exchange: true };
    assert_eq!(errno(world.rename((ROOT, "file"), (d, "x"), both)), Errno::INVAL);
    // A directory that moves counts in its new parent.
    world.rename((d, "sub"), (e, "moved"), NO_REPLACE).unwrap();
    assert_eq!((world.row(d).links, world.row(e).links, world.row(sub).parent), (2, 4, Some(e)));
    assert_eq!([world.row(d).mtime, world.row(e).mtime, world.row(sub).ctime], [world.now; 3]);
    world.scan();
    world.rename((e, "moved"), (ROOT, "file"), EXCHANGE).unwrap();
    assert_eq!((world.find(ROOT, "file"), world.find(e, "moved")), (Some(sub), Some(file)));
    world.scan();
    world.rename((ROOT, "file"), (e, "full"), EXCHANGE).unwrap();
    assert_eq!((world.row(sub).parent, world.row(full).parent), (Some(e), Some(ROOT)));
    world.scan();
    world.rename((e, "moved"), (full, "inner"), PLAIN).unwrap();
    assert_eq!(world.view().inode(inner).unwrap(), None);
    // Both are names of one file: both stay.
    world.link(file, ROOT, "twin").unwrap();
    world.rename((ROOT, "twin"), (full, "inner"), PLAIN).unwrap();
    assert_eq!((world.find(ROOT, "twin"), world.row(file).links), (Some(file), 2));
    assert_eq!(errno(world.rename((ROOT, "twin"), (ROOT, "twin"), NO_REPLACE)), Errno::EXIST);
    world.rename((ROOT, "twin"), (ROOT, "twin"), PLAIN).unwrap();
    world.scan();
}

#[test]
fn a_directory_replaces_an_empty_one() {
    let mut world = World::new();
    let (d, e) = (world.dir(ROOT, "d"), world.dir(ROOT, "e"));
    let (sub, empty) = (world.dir(d, "sub"), world.dir(e, "empty"));
    world.rename((d, "sub"), (e, "empty"), PLAIN).unwrap();
    assert_eq!((world.find(e, "empty"), world.view().inode(empty).unwrap()), (Some(sub), None));
    world.scan();
    world.rename((ROOT, "d"), (ROOT, "e"), PLAIN).unwrap_err();
    world.rename((e, "empty"), (ROOT, "d"), PLAIN).unwrap();
    assert_eq!((world.find(ROOT, "d"), world.view().inode(d).unwrap()), (Some(sub), None));
    world.scan();
}

// Case 23.
#[test]
fn no_directory_gets_into_itself() {
    use rustix::io::Errno;
    let mut world = World::new();
    let a = world.dir(ROOT, "a");
    let b = world.dir(a, "b");
    let c = world.dir(b, "c");
    assert_eq!(errno(world.rename((ROOT, "a"), (a, "x"), PLAIN)), Errno::INVAL);
    assert_eq!(errno(world.rename((ROOT, "a"), (c, "x"), PLAIN)), Errno::INVAL);
    assert_eq!(errno(world.rename((b, "c"), (ROOT, "a"), PLAIN)), Errno::NOTEMPTY);
    world.make(ROOT, "f", NewKind::Regular);
    assert_eq!(
        errno(world.rename((ROOT, "f"), (ROOT, "a"), EXCHANGE).and(world.rename((ROOT, "f"), (c, "x"), PLAIN))),
        Errno::INVAL
    );
    assert_eq!(errno(world.rename((b, "c"), (ROOT, "f"), EXCHANGE)), Errno::INVAL);
    world.scan();
}

// Case 23.
#[test]
fn of_two_renames_that_would_make_a_loop_together_one_is_evaluated_again() {
    let mut world = World::new();
    let (a, b) = (world.dir(ROOT, "a"), world.dir(ROOT, "b"));
    let (deep_a, deep_b) = (world.dir(a, "deep"), world.dir(b, "deep"));
    let (mut one, mut other) = (world.draft(), world.draft());
    rename(&mut one, (ROOT, b"a"), (deep_b, b"a"), PLAIN).unwrap();
    rename(&mut other, (ROOT, b"b"), (deep_a, b"b"), PLAIN).unwrap();
    assert!(!both_count(&one.claims, &other.claims) && !both_count(&other.claims, &one.claims));
    world.rename((ROOT, "a"), (deep_b, "a"), PLAIN).unwrap();
    let again = world.run(|draft| rename(draft, (ROOT, b"b"), (deep_a, b"b"), PLAIN));
    assert_eq!(errno(again), rustix::io::Errno::INVAL);
    world.scan();
}

// Case 23.
#[test]
fn nothing_is_made_in_a_directory_that_is_removed_meanwhile() {
    let mut world = World::new();
    let dir = world.dir(ROOT, "d");
    let file = world.file("f");
    let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0, uid: 0, gid: 0 };
    let mut removing = world.draft();
    rmdir(&mut removing, ROOT, b"d").unwrap();
    let (mut creating, mut linking, mut moving) = (world.draft(), world.draft(), world.draft());
    create(&mut creating, dir, b"x", &node).unwrap();
    link(&mut linking, file, dir, b"x").unwrap();
    rename(&mut moving, (ROOT, b"f"), (dir, b"x"), PLAIN).unwrap();
    for other in [&creating, &linking, &moving] {
        assert!(!both_count(&removing.claims, &other.claims) && !both_count(&other.claims, &removing.claims));
    }
    // Operations on unrelated directories do not disturb each other.
    let (mut here, mut there) = (world.draft(), world.draft());
    create(&mut here, dir, b"x", &node).unwrap();
    create(&mut there, ROOT, b"x", &node).unwrap();
    assert!(both_count(&here.claims, &there.claims));
}

#[test]
fn names_of_one_file_are_as_many_as_ext4_has_at_most_and_directories_have_one() {
    use rustix::io::Errno;
    let mut world = World::new();
    let (dir, file) = (world.dir(ROOT, "d"), world.file("f"));
    assert_eq!(errno(world.link(dir, ROOT, "x")), Errno::PERM);
    assert_eq!(errno(world.link(file, ROOT, "d")), Errno::EXIST);
    assert_eq!(errno(world.link(dir, ROOT, "f")), Errno::EXIST);
    assert_eq!(errno(world.link(file, file, "x")), Errno::NOTDIR);
    assert_eq!(errno(world.link(InodeId(77), ROOT, "x")), Errno::NOENT);
    let mut row = world.row(file);
    row.links = LINKS;
    let put = |draft: &mut Draft| {
        draft.put_inode(file, &row);
        Ok(())
    };
    world.run(put).unwrap();
    assert_eq!(errno(world.link(file, ROOT, "x")), Errno::MLINK);
}
