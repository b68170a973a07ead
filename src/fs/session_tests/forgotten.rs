//! Giving up a log.

use super::*;
use crate::fs::forget::LostRange;
use crate::fs::forget::forget;
use crate::meta::ThawedCount;

const TIME: Time = Time { secs: 99, nanos: 0 };

/// Files a and b, whose bytes are not in the image; file c is only in the log.
fn remains() -> Remains {
    let folder = Arc::new(MemoryFolder::new());
    let image = Arc::new(MemoryStorage::from_bytes(empty_image().image));
    let mut session = Disk::new(image.clone(), folder.clone()).begin(0x11).unwrap();
    session.create("a", &bytes(1, 3000));
    session.create("b", &bytes(2, 5000));
    session.commit();
    session.write(InodeId(3), 1000, &bytes(3, 500));
    session.commit();
    session.checkpoint();
    session.create("c", b"c");
    session.commit();
    drop(session);
    Remains { image: image.to_bytes(), segments: folder.to_segments() }
}

fn give_up(disk: &Disk) -> Result<crate::fs::forget::Forgotten, StartError> {
    forget(&disk.storage, &disk.home, ImageOptions::default(), TIME)
}

fn expected() -> Vec<LostRange> {
    let range = |inode, offset, len| LostRange { inode: InodeId(inode), offset, len };
    vec![range(2, 0, 3000), range(3, 0, 1000), range(3, 1000, 500), range(3, 1500, 3500)]
}

//= format-spec.md#11.6
//= type=test
//# Before a writer begins a new log in place of a missing one, it makes each of these rows a lost one (8.9), in a
//# checkpoint.
#[test]
fn what_was_in_a_missing_log_is_lost_and_nothing_else() {
    let disk = Disk::of(Remains { segments: BTreeMap::new(), ..remains() });
    let refused = disk.look().err().unwrap();
    assert!(refused.can_forget() && refused.to_string().contains("8000 bytes"), "{refused}");
    let forgotten = give_up(&disk).unwrap();
    assert_eq!((forgotten.ranges, forgotten.set_aside), (expected(), None));
    let found = disk.look().unwrap();
    let ThawedCount { in_log, lost } = found.image().thawed_count().unwrap();
    assert_eq!((in_log.ranges, lost.ranges, lost.bytes), (0, 4, 8000));
    assert_eq!(found_files(&found, ""), Files::from([("a".to_owned(), None), ("b".to_owned(), None)]));
    assert!(found.heads.slots().all(|head| head.clean && head.thaw_log_id == 0));
    // The image can be written again, and overwritten bytes can be read.
    let mut session = Session::begin(&disk, found, 0x12).unwrap();
    session.write(InodeId(2), 0, &bytes(9, 3000));
    session.commit();
    drop(session);
    assert_eq!(found_files(&disk.look().unwrap(), "")["a"], Some(bytes(9, 3000)));
}

#[test]
fn a_damaged_log_is_set_aside_when_it_is_given_up_and_a_whole_one_is_not_given_up() {
    let folder = Arc::new(MemoryFolder::from_segments(remains().segments));
    let home = Arc::new(FolderHome::new(folder.clone()));
    let storage = Arc::new(MemoryStorage::from_bytes(remains().image));
    let disk = Disk { storage: storage.clone(), home: home.clone() };
    assert_eq!(give_up(&disk).unwrap(), Default::default());
    assert_eq!(storage.to_bytes(), remains().image, "nothing is written");
    let mut segments = remains().segments;
    for content in segments.values_mut().filter(|content| !content.is_empty()) {
        content[100] ^= 1;
    }
    let folder = Arc::new(MemoryFolder::from_segments(segments.clone()));
    let home = Arc::new(FolderHome::new(folder.clone()));
    let disk = Disk { storage, home: home.clone() };
    assert!(matches!(disk.look(), Err(StartError::Damaged { .. })));
    let forgotten = give_up(&disk).unwrap();
    assert_eq!(forgotten.ranges, expected());
    assert!(forgotten.set_aside.is_some());
    assert_eq!(home.aside(), [segments]);
    disk.begin(0x12).unwrap();
}

#[test]
fn a_power_cut_while_a_log_is_given_up_leaves_it_as_it_was_or_given_up() {
    let history = History::new(Remains { segments: BTreeMap::new(), ..remains() });
    give_up(&Disk::recording(&history)).unwrap();
    let mut count = 0;
    for n in 0..=history.len() {
        history.each_cut(n, 16, |left, what| {
            count += 1;
            let disk = Disk::of(left);
            match disk.look() {
                Ok(_) => {}
                Err(error) if error.can_forget() && n < history.len() => drop(give_up(&disk).unwrap()),
                Err(error) => panic!("{what}: {error}"),
            }
            let found = disk.look().unwrap_or_else(|e| panic!("{what}: {e}"));
            let files = found_files(&found, what);
            assert_eq!(files, Files::from([("a".to_owned(), None), ("b".to_owned(), None)]), "{what}");
        });
    }
    assert!(count > 200, "only {count} cuts");
}
