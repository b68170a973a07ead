//! Each operation of begin and of the end fails: once, and from then on.

use super::*;
use crate::storage::Operation as Op;
use crate::storage::testing::{Fault, FaultyStorage};
use crate::thaw::ThawError;

type Faulty = FaultyStorage<MemoryStorage>;

/// A disk whose operations can fail; with a log to continue if `crashed`.
fn disk(crashed: bool) -> (Arc<Faulty>, Disk) {
    let faulty = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(empty_image().image)));
    let folder = Arc::new(faulty.folder(MemoryFolder::new()));
    let disk = Disk::new(faulty.clone(), folder);
    if crashed {
        let mut session = disk.begin(0x11).unwrap();
        session.create("a", &bytes(1, 9000));
        session.commit();
        session.create("b", &bytes(2, 500));
        session.commit();
    }
    (faulty, disk)
}

#[test]
fn a_begin_that_fails_anywhere_loses_nothing_and_can_be_tried_again() {
    for crashed in [false, true] {
        let (faulty, whole) = disk(crashed);
        let found = whole.look().unwrap();
        let before = found_files(&found, "whole");
        let from = faulty.count();
        Session::begin(&whole, found, 0x12).unwrap();
        let operations = faulty.count() - from;
        assert!(operations > 15);
        let mut failed = 0;
        for n in 0..operations {
            for (fault, lasting) in [(Fault::Eio, false), (Fault::Eio, true), (Fault::Enospc, false)] {
                let (faulty, disk) = disk(crashed);
                let found = disk.look().unwrap();
                if lasting {
                    faulty.fail_from(n, fault);
                } else {
                    faulty.fail_nth(n, fault);
                }
                let begun = Session::begin(&disk, found, 0x12);
                failed += u32::from(begun.is_err());
                faulty.fail_no_more();
                drop(begun);
                let found = disk.look().unwrap_or_else(|e| panic!("operation {n}: {e}"));
                assert_eq!(found_files(&found, "again"), before, "operation {n}");
                let mut session = Session::begin(&disk, found, 0x13).unwrap_or_else(|e| panic!("operation {n}: {e}"));
                session.create("c", b"c");
                session.commit();
                let after = session.files();
                drop(session);
                assert_eq!(found_files(&disk.look().unwrap(), "after"), after, "operation {n}");
            }
        }
        assert!(u64::from(failed) > operations, "{failed} of {operations} operations matter");
    }
}

// Case 24.
#[test]
fn a_disk_that_has_no_space_to_reserve_is_begun_to_be_written_for_what_removes_something() {
    let (faulty, disk) = disk(true);
    faulty.fail_from_of(Op::Allocate, 0, Fault::Enospc);
    let mut session = disk.begin(0x12).unwrap();
    session.remove("a");
    session.commit();
    session.checkpoint();
    let error = session.log().append(b"more").unwrap_err();
    assert!(matches!(&error, ThawError::Storage(e) if e.raw_os_error() == Some(28)), "{error}");
    let expected = session.files();
    drop(session);
    assert_eq!(found_files(&disk.look().unwrap(), ""), expected);
    faulty.fail_no_more();
    disk.begin(0x13).unwrap().log().append(b"more").unwrap();
}

#[test]
fn an_end_that_fails_anywhere_leaves_an_image_that_is_complete_with_its_log() {
    for kept in [false, true] {
        let session = |disk: &Disk| {
            let mut session = disk.begin(0x12).unwrap();
            session.create("b", &bytes(2, 500));
            if !kept {
                session.range(InodeId(session.counters.inode - 1), 0, 500, None);
            }
            session.commit();
            session.checkpoint();
            session
        };
        let (faulty, whole) = disk(false);
        let ending = session(&whole);
        let (from, expected) = (faulty.count(), ending.files());
        ending.end();
        let operations = faulty.count() - from;
        for n in 0..operations {
            for lasting in [false, true] {
                let (faulty, disk) = disk(false);
                let ending = session(&disk);
                if lasting {
                    faulty.fail_from(n, Fault::Eio);
                } else {
                    faulty.fail_nth(n, Fault::Eio);
                }
                let ended = ending.try_end();
                faulty.fail_no_more();
                let what = format!("operation {n}: {ended:?}");
                let found = disk.look().unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(found_files(&found, &what), expected, "{what}");
                let mut session = Session::begin(&disk, found, 0x13).unwrap_or_else(|e| panic!("{what}: {e}"));
                session.create("c", b"c");
                session.commit();
                drop(session);
                assert_eq!(found_files(&disk.look().unwrap(), &what).len(), 2, "{what}");
            }
        }
    }
}
