use super::testing::{Fault, FaultyStorage, MemoryStorage};
use super::*;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn file_storage(dir: &Path, bytes: &[u8]) -> FileStorage {
    let path = dir.join("image");
    std::fs::write(&path, bytes).unwrap();
    FileStorage::open(&path, Access::ReadWrite).unwrap()
}

/// The contract of the trait, for every backend.
fn behaves(storage: &dyn Storage) {
    assert!(storage.is_empty().unwrap());
    assert_eq!(storage.append(&[&vec![0; 32768]]).unwrap(), 0);
    assert_eq!(storage.append(&[b"one", b"", b"two"]).unwrap(), 32768);
    let many = vec![&b"x"[..]; 3000];
    assert_eq!(storage.append(&many).unwrap(), 32774);
    storage.sync().unwrap();
    assert_eq!(storage.len().unwrap(), 35774);

    let mut buf = [0; 8];
    storage.read_at(32768, &mut buf).unwrap();
    assert_eq!(&buf, b"onetwoxx");
    for (offset, have) in [(35770, 4), (35774, 0), (1 << 62, 0), (u64::MAX, 0)] {
        match storage.read_at(offset, &mut buf) {
            Err(StorageError::Short { offset: at, wanted: 8, got, .. }) => assert_eq!((at, got), (offset, have)),
            other => panic!("{other:?}"),
        }
    }

    let (old, new) = ([0; 512], [7; 512]);
    storage.replace_head(HeadIndex::B, &old, &new).unwrap();
    assert_eq!(storage.read_head(HeadIndex::B).unwrap(), new);
    assert_eq!(storage.read_head(HeadIndex::A).unwrap(), old);
    let refused = storage.replace_head(HeadIndex::B, &old, &[8; 512]);
    assert!(matches!(refused, Err(StorageError::HeadChanged { slot: HeadIndex::B, .. })));
    assert_eq!(storage.read_head(HeadIndex::B).unwrap(), new);

    storage.allocate(32768, 1 << 20).unwrap();
    storage.allocate(0, 0).unwrap();
    storage.start_writeback(0, 1 << 20).unwrap();
    assert_eq!(storage.len().unwrap(), 35774, "space is reserved and the length stays");
    storage.read_at(32768, &mut buf).unwrap();
    assert_eq!(&buf, b"onetwoxx");
    let space = storage.space().unwrap();
    assert!(space.free <= space.total && space.total > 0);

    storage.punch(32769, 4).unwrap();
    storage.punch(0, 0).unwrap();
    storage.punch(35773, u64::MAX).unwrap();
    storage.read_at(32768, &mut buf).unwrap();
    assert_eq!(&buf, b"o\0\0\0\0oxx");
    assert_eq!(storage.len().unwrap(), 35774);

    assert!(matches!(storage.truncate(35775), Err(StorageError::Longer { wanted: 35775, len: 35774, .. })));
    storage.truncate(32770).unwrap();
    assert_eq!(storage.append(&[b"new"]).unwrap(), 32770);
    storage.read_at(32769, &mut buf[..4]).unwrap();
    assert_eq!(&buf[..4], b"\0new");
}

#[test]
fn memory_and_file_behave_the_same() {
    behaves(&MemoryStorage::new());
    behaves(&FaultyStorage::new(MemoryStorage::new()));
    let dir = tempfile::tempdir().unwrap();
    behaves(&file_storage(dir.path(), b""));
}

#[test]
fn an_image_inside_a_larger_file_is_read_from_its_base_and_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, b"before|image").unwrap();
    let storage = FileStorage::open_within(&path, 7).unwrap();
    assert_eq!(storage.len().unwrap(), 5);
    let mut buf = [0; 5];
    storage.read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"image");
    assert!(storage.read_at(u64::MAX - 3, &mut buf).is_err());
    assert!(matches!(storage.append(&[b"x"]), Err(StorageError::ReadOnly { operation: Operation::Append, .. })));
    assert!(matches!(storage.punch(0, 1), Err(StorageError::ReadOnly { .. })));
    assert!(matches!(storage.truncate(0), Err(StorageError::ReadOnly { .. })));
    assert_eq!(FileStorage::open_within(&path, 13).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(std::fs::read(&path).unwrap(), b"before|image");
}

#[test]
fn a_path_that_is_not_a_file_is_refused_with_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let socket = dir.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        for (path, is) in [
            (dir.path(), "directory"),
            (&pipe, "pipe"),
            (&socket, "socket"),
            (Path::new("/dev/null"), "character device"),
        ] {
            let error = FileStorage::open(path, access).unwrap_err();
            assert!(matches!(&error, StorageError::NotAnImage { found, .. } if *found == is), "{error}");
        }
        let missing = FileStorage::open(&dir.path().join("missing"), access).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.to_string().contains("missing"));
    }
}

#[test]
fn a_flipped_byte_is_flipped_back_by_the_same_mask() {
    let storage = MemoryStorage::from_bytes(vec![1, 2, 3]);
    storage.flip(1, 0x80).unwrap();
    assert_eq!(storage.to_bytes(), [1, 0x82, 3]);
    storage.flip(1, 0x80).unwrap();
    assert_eq!(storage.to_bytes(), [1, 2, 3]);
    assert!(storage.flip(3, 1).is_err());
}

#[test]
fn the_operation_that_is_to_fail_fails_and_no_other() {
    let storage = FaultyStorage::new(MemoryStorage::new());
    storage.fail_nth(1, Fault::Eio);
    storage.fail_nth_of(Operation::Sync, 1, Fault::Enospc);
    storage.append(&[b"a"]).unwrap();
    let error = storage.append(&[b"b"]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    storage.append(&[b"c"]).unwrap();
    storage.sync().unwrap();
    assert_eq!(storage.sync().unwrap_err().kind(), ErrorKind::StorageFull);
    storage.sync().unwrap();
    assert_eq!(storage.inner().to_bytes(), b"ac");
    let kinds: Vec<_> = storage.records().iter().map(|r| r.operation).collect();
    use Operation::{Append, Sync};
    assert_eq!(kinds, [Append, Append, Append, Sync, Sync, Sync]);

    storage.fail_short(0, 2, Fault::Enospc);
    assert!(storage.append(&[b"d", b"ef"]).is_err());
    assert_eq!(storage.inner().to_bytes(), b"acde");

    storage.fail_from(0, Fault::Eio);
    assert!(storage.len().is_err() && storage.sync().is_err());
    storage.fail_no_more();
    assert_eq!(storage.len().unwrap(), 4);
    assert_eq!(storage.count(), 10);
}

fn owner() -> Owner {
    Owner { host: "north\n".into(), boot: "b00t".into(), pid: 77 }
}

fn image_twice(dir: &Path) -> (PathBuf, std::fs::File, std::fs::File) {
    let path = dir.join("image.floe");
    std::fs::write(&path, b"").unwrap();
    let open = || std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    (path.clone(), open(), open())
}

#[test]
fn a_second_writer_is_refused_and_told_who_the_first_is() {
    let dir = tempfile::tempdir().unwrap();
    let (path, first, second) = image_twice(dir.path());
    let note = dir.path().join("image.floe.lock");
    let lock = WriterLock::try_acquire(&first, &path, &owner()).unwrap();
    assert!(lock.note_error().is_none());
    assert_eq!(std::fs::read_to_string(&note).unwrap(), "host=north\nboot=b00t\npid=77\n");
    match WriterLock::try_acquire(&second, &path, &Owner::current()).unwrap_err() {
        LockError::Held { host, pid, .. } => assert_eq!((host.as_deref(), pid), (Some("north"), Some(77))),
        other => panic!("{other}"),
    }
    drop(lock);
    assert!(!note.exists());
    WriterLock::try_acquire(&second, &path, &Owner::current()).unwrap();
}

#[test]
fn a_reader_becomes_gc_and_a_reader_again_if_it_is_the_only_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.floe");
    std::fs::write(&path, b"x").unwrap();
    let open = || std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let (first, second) = (open(), open());
    let (own, other) = (ReaderLock::shared(&first).unwrap(), ReaderLock::shared(&second).unwrap());
    let Err((own, LockError::Read)) = own.into_gc() else { panic!("there is another reader") };
    // It still is a reader.
    drop(other);
    assert!(matches!(GcLock::try_acquire(&second), Err(LockError::Read)));
    let gc = own.into_gc().map_err(|(_, error)| error).unwrap();
    assert!(matches!(ReaderLock::shared(&second), Err(LockError::Freeing)));
    let own = gc.into_reader().unwrap();
    assert!(matches!(GcLock::try_acquire(&second), Err(LockError::Read)));
    drop(ReaderLock::shared(&second).unwrap());
    drop(own);
    drop(GcLock::try_acquire(&second).unwrap());
}

#[test]
fn readers_never_exclude_the_writer_and_only_gc_excludes_readers() {
    let dir = tempfile::tempdir().unwrap();
    let (path, first, second) = image_twice(dir.path());
    let third = std::fs::File::open(&path).unwrap();
    let _writer = WriterLock::try_acquire(&first, &path, &owner()).unwrap();
    let readers = [ReaderLock::shared(&second).unwrap(), ReaderLock::shared(&third).unwrap()];
    assert!(matches!(GcLock::try_acquire(&first), Err(LockError::Read)));
    drop(readers);
    let gc = GcLock::try_acquire(&first).unwrap();
    assert!(matches!(ReaderLock::shared(&third), Err(LockError::Freeing)));
    drop(gc);
    ReaderLock::shared(&third).unwrap();
    assert!(matches!(WriterLock::try_acquire(&second, &path, &owner()), Err(LockError::Held { .. })));
}

#[test]
fn a_dead_writers_note_is_replaced_and_a_strangers_file_of_that_name_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (path, first, _) = image_twice(dir.path());
    let note = dir.path().join("image.floe.lock");
    std::fs::write(&note, "host=old\nboot=x\npid=1\n").unwrap();
    drop(WriterLock::try_acquire(&first, &path, &owner()).unwrap());
    assert!(!note.exists());

    for stranger in ["[[package]]\n", ""] {
        std::fs::write(&note, stranger).unwrap();
        let lock = WriterLock::try_acquire(&first, &path, &owner()).unwrap();
        assert_eq!(lock.note_error().unwrap().kind(), ErrorKind::AlreadyExists);
        drop(lock);
        assert_eq!(std::fs::read_to_string(&note).unwrap(), stranger);
    }
}

fn names_in(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    names
}

fn create(target: &Path, replace: bool) -> Result<AtomicFile, AtomicError> {
    AtomicFile::create(Target::claim(target, replace)?, None)
}

#[test]
fn an_image_has_its_name_only_when_it_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a.floe");
    let atomic = create(&target, false).unwrap();
    assert_eq!(names_in(dir.path()), [".a.floe.floe-tmp"]);
    assert_eq!(atomic.file().metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    atomic.file().write_all(b"whole").unwrap();
    atomic.finish(0o640).unwrap();
    assert_eq!(names_in(dir.path()), ["a.floe"]);
    assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o640);

    assert!(matches!(create(&target, false), Err(AtomicError::Exists(path)) if path == target));
    let late = dir.path().join("b.floe");
    let second = create(&late, false).unwrap();
    std::fs::write(&late, b"quicker").unwrap();
    assert!(matches!(second.finish(0o600), Err(AtomicError::Exists(path)) if path == late));
    assert_eq!(std::fs::read(&late).unwrap(), b"quicker");
    std::fs::remove_file(&late).unwrap();
    assert_eq!(names_in(dir.path()), ["a.floe"]);
    assert_eq!(std::fs::read(&target).unwrap(), b"whole");

    let third = create(&target, true).unwrap();
    third.file().write_all(b"newer").unwrap();
    third.finish(0o600).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"newer");

    drop(create(&target, true).unwrap());
    assert_eq!(names_in(dir.path()), ["a.floe"]);
}

#[test]
fn a_leftover_without_a_lock_is_removed_and_a_locked_one_means_busy() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a");
    let leftover = dir.path().join(".a.floe-tmp");
    std::fs::write(&leftover, b"left by a crash").unwrap();
    let atomic = create(&target, false).unwrap();
    let mut found = Vec::new();
    atomic.file().read_to_end(&mut found).unwrap();
    assert!(found.is_empty());

    assert!(matches!(create(&target, false), Err(AtomicError::Lock(LockError::Held { image, .. })) if image == target));
    atomic.finish(0o600).unwrap();
    assert_eq!(names_in(dir.path()), ["a"]);

    std::fs::create_dir(&leftover).unwrap();
    assert!(create(&target, true).is_err());
}

#[test]
fn names_that_are_not_utf8_and_names_as_long_as_can_be_work() {
    let dir = tempfile::tempdir().unwrap();
    for name in [&b"\xff\xfe"[..], &[b'n'; 255], &[b'n'; 245], &[b'n'; 246]] {
        let target = dir.path().join(std::ffi::OsStr::from_bytes(name));
        create(&target, false).unwrap().finish(0o600).unwrap();
        assert!(target.exists());
        std::fs::remove_file(&target).unwrap();
        assert!(names_in(dir.path()).is_empty());
    }
    assert!(matches!(create(Path::new("/"), false), Err(AtomicError::NotAFile { found: "directory", .. })));
    assert!(matches!(create(Path::new(".."), false), Err(AtomicError::NotAFile { .. })));
}

#[test]
fn of_many_concurrent_writers_of_one_name_each_succeeds_or_gets_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    match create(&target, true).map(|a| a.file().write_all(b"whole").map(|()| a)) {
                        Ok(a) => a.unwrap().finish(0o600).unwrap(),
                        Err(AtomicError::Lock(LockError::Held { .. })) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    assert_eq!(std::fs::read(&target).unwrap(), b"whole");
    assert_eq!(names_in(dir.path()), ["a"]);
}

//= format-spec.md#16
//= type=test
//# A program must not replace an image whose byte 0 another process has locked.
#[test]
fn the_image_that_is_replaced_has_no_writer_until_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (path, first, second) = image_twice(dir.path());
    let writer = WriterLock::try_acquire(&first, &path, &owner()).unwrap();
    match create(&path, true) {
        Err(AtomicError::Lock(LockError::Held { pid: Some(77), .. })) => {}
        other => panic!("{other:?}"),
    }
    drop(writer);
    let atomic = create(&path, true).unwrap();
    assert!(matches!(WriterLock::try_acquire(&first, &path, &owner()), Err(LockError::Held { .. })));
    atomic.finish(0o600).unwrap();
    WriterLock::try_acquire(&second, &path, &owner()).unwrap();
}

#[test]
fn a_file_that_came_to_the_name_meanwhile_is_replaced_only_if_nobody_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, ..) = image_twice(dir.path());
    let newer = dir.path().join("newer");
    let put = || {
        std::fs::write(&newer, b"newer").unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&newer).unwrap();
        std::fs::rename(&newer, &path).unwrap();
        file
    };
    let atomic = create(&path, true).unwrap();
    let file = put();
    let writer = WriterLock::try_acquire(&file, &path, &owner()).unwrap();
    assert!(matches!(atomic.finish(0o600), Err(AtomicError::Lock(LockError::Held { pid: Some(77), .. }))));
    drop(writer);
    assert_eq!(std::fs::read(&path).unwrap(), b"newer");

    let atomic = create(&path, true).unwrap();
    put();
    atomic.finish(0o600).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"");

    let atomic = create(&path, true).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert!(matches!(atomic.finish(0o600), Err(AtomicError::NotAFile { .. })));
    assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("elsewhere"));
}

#[test]
fn who_makes_an_image_is_named_in_its_note_until_it_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a");
    let atomic = AtomicFile::create(Target::claim(&target, false).unwrap(), Some(&owner())).unwrap();
    assert_eq!(names_in(dir.path()), [".a.floe-tmp", "a.lock"]);
    match create(&target, false) {
        Err(AtomicError::Lock(error)) => {
            assert_eq!(
                error.to_string(),
                format!("cannot write '{}': process 77 on host north is writing it", target.display())
            );
        }
        other => panic!("{other:?}"),
    }
    atomic.finish(0o600).unwrap();
    assert_eq!(names_in(dir.path()), ["a"]);
}
