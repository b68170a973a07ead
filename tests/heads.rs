//! Publishing a head: at every power cut and after every fault one slot names a complete root, and another writer's
//! head is never overwritten.

use floe::format::frame::FrameKind;
use floe::format::head::Head;
use floe::format::ids::{InodeId, LogOffset};
use floe::format::limits::{SYNC_BLOCK, first_sequence};
use floe::format::params::Params;
use floe::format::root::Root;
use floe::format::rows::Time;
use floe::log::LogWriter;
use floe::meta::{HeadError, Heads, Image, ImageOptions, append_twice};
use floe::pack::{PackOptions, empty_into};
use floe::storage::testing::{Fate, Fault, FaultyStorage, History, MemoryStorage, Remains};
use floe::storage::{HeadIndex, Operation, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The image's time after the checkpoint; before it, the time is 0.
const NEW: i64 = 77;

fn image() -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::new());
    empty_into(storage.clone(), &PackOptions { now: Time::default(), ..PackOptions::default() }).unwrap();
    storage.to_bytes()
}

/// Appends a new root durably; returns the change of a head that names it.
fn append_root(storage: &Arc<dyn Storage>) -> impl Fn(&mut Head) + use<> {
    let image = Image::open(storage.clone(), ImageOptions::default()).unwrap();
    let (head, root) = (image.head(), Root { time: NEW, ..*image.root() });
    let (stored, root_hash) = root.encode();
    let epoch = head.epoch + 1;
    let mut log = LogWriter::new(storage.clone(), head.log_id, epoch, first_sequence(epoch), head.log_end.0).unwrap();
    let place = append_twice(&mut log, FrameKind::ROOT, &stored).unwrap();
    log.sync().unwrap();
    let log_end = LogOffset(log.end());
    move |head| {
        head.root = place;
        head.root_hash = root_hash;
        head.log_end = log_end;
        head.epoch = epoch;
    }
}

/// The time of the root that can be opened.
fn time_of(bytes: Vec<u8>, what: &str) -> i64 {
    let image = Image::open(Arc::new(MemoryStorage::from_bytes(bytes)), ImageOptions::default());
    image.unwrap_or_else(|error| panic!("{what}: {error}")).root().time
}

/// All fates of unsynced changes: kept, dropped, and each single sector torn away or written alone.
fn fates() -> Vec<Fate> {
    let torn = (0..8).flat_map(|sector| [1 << sector, !(1 << sector)]);
    let torn = torn.flat_map(|sectors| [(sectors, true, false), (sectors, false, false), (sectors, true, true)]);
    let torn = torn.map(|(sectors, length, block)| Fate::Torn { sectors, length, block });
    [Fate::Kept, Fate::Dropped].into_iter().chain(torn).collect()
}

// Case 12.
#[test]
fn after_a_power_cut_at_every_event_the_image_opens_with_the_old_or_the_new_root() {
    let start = image();
    let history = History::new(Remains { image: start, segments: BTreeMap::new() });
    let storage: Arc<dyn Storage> = Arc::new(history.storage());
    let change = append_root(&storage);
    let appended = history.len();
    let mut heads = Heads::read(storage).unwrap();
    heads.publish(change).unwrap();
    // Write a slot, sync, write the other slot, sync.
    assert_eq!(history.len(), appended + 4);
    for n in 0..=history.len() {
        for fate in fates() {
            let time = time_of(history.cut(n, || fate).image, &format!("{fate:?} after {n} events"));
            assert!(time == 0 || time == NEW);
            if n <= appended {
                assert_eq!(time, 0, "{fate:?} after {n} events");
            }
            // The first slot is synced: the new root is durable.
            if n >= appended + 2 {
                assert_eq!(time, NEW, "{fate:?} after {n} events");
            }
        }
    }
}

#[test]
fn both_slots_name_the_same_root_after_a_publication_with_the_next_two_generations() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(image()));
    let mut heads = Heads::read(storage.clone()).unwrap();
    assert_eq!(heads.newest().generation, 2);
    for round in 1..4 {
        heads.publish(append_root(&storage)).unwrap();
        for heads in [&heads, &Heads::read(storage.clone()).unwrap()] {
            let slots: Vec<&Head> = heads.slots().collect();
            assert_eq!(slots.iter().map(|head| head.generation).collect::<Vec<_>>(), [1 + 2 * round, 2 + 2 * round]);
            assert_eq!((slots[0].root, slots[0].root_hash), (slots[1].root, slots[1].root_hash));
            assert_eq!(heads.newest(), slots[1]);
        }
    }
}

#[test]
fn a_damaged_slot_is_the_older_one() {
    for damaged in HeadIndex::ALL {
        let memory = MemoryStorage::from_bytes(image());
        memory.flip(damaged.offset() + 70, 1).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FaultyStorage::new(memory));
        let mut heads = Heads::read(storage.clone()).unwrap();
        let survivor = heads.newest().generation;
        assert_eq!(heads.slots().count(), 1);
        let change = append_root(&storage);
        // Whatever happens to the first write, it does not touch the intact slot.
        let whole = storage.read_head(damaged.other()).unwrap();
        let faulty = FaultyStorage::new(storage.clone());
        faulty.fail_nth_of(Operation::Sync, 0, Fault::Eio);
        let mut failing = Heads::read(Arc::new(faulty)).unwrap();
        assert!(matches!(failing.publish(&change), Err(HeadError::NotDurable { slot, .. }) if slot == damaged));
        assert_eq!(storage.read_head(damaged.other()).unwrap(), whole);
        heads = Heads::read(storage.clone()).unwrap();
        heads.publish(change).unwrap();
        assert_eq!(heads.slots().count(), 2);
        assert!(heads.slots().all(|head| head.generation > survivor));
    }
}

#[test]
fn an_image_without_a_head_that_can_be_used_is_no_image_for_a_writer() {
    let memory = MemoryStorage::from_bytes(image());
    for slot in HeadIndex::ALL {
        memory.flip(slot.offset() + 70, 1).unwrap();
    }
    assert!(Heads::read(Arc::new(memory)).is_err());
    assert!(Heads::read(Arc::new(MemoryStorage::new())).is_err());
}

// Case 12.
#[test]
fn a_slot_that_another_writer_changed_stops_this_one_before_it_writes_anything() {
    for changed in HeadIndex::ALL {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(image()));
        let mut heads = Heads::read(storage.clone()).unwrap();
        let change = append_root(&storage);
        let old = storage.read_head(changed).unwrap();
        let mut other = heads.newest().clone();
        other.generation = 9;
        storage.replace_head(changed, &old, &other.encode()).unwrap();
        let before = HeadIndex::ALL.map(|slot| storage.read_head(slot).unwrap());
        assert!(matches!(heads.publish(&change), Err(HeadError::HeadChanged { slot }) if slot == changed));
        assert_eq!(HeadIndex::ALL.map(|slot| storage.read_head(slot).unwrap()), before);
        // It does not begin again, even if the slot is as it was.
        storage.replace_head(changed, &other.encode(), &old).unwrap();
        assert!(heads.is_stopped());
        assert!(matches!(heads.publish(&change), Err(HeadError::Stopped)));
    }
}

// Case 12.
#[test]
fn a_slot_changed_between_the_look_and_the_write_is_not_written_over() {
    for slot in HeadIndex::ALL {
        let memory = Arc::new(MemoryStorage::from_bytes(image()));
        let faulty = FaultyStorage::new(memory.clone());
        // Another writer changes the slot right before it is written.
        faulty.before(Operation::ReplaceHead, move |record| {
            if record.offset == slot.offset() {
                memory.flip(slot.offset() + 40, 1).unwrap();
            }
        });
        let storage: Arc<dyn Storage> = Arc::new(faulty);
        let change = append_root(&storage);
        let mut heads = Heads::read(storage.clone()).unwrap();
        let other = storage.read_head(slot.other()).unwrap();
        assert!(matches!(heads.publish(&change), Err(HeadError::HeadChanged { slot: changed }) if changed == slot));
        assert!(matches!(heads.publish(&change), Err(HeadError::Stopped)));
        // Slot A is the older one: if B was changed, A is already published durably.
        assert_eq!(storage.read_head(slot.other()).unwrap() == other, slot == HeadIndex::A);
    }
}

// Case 12.
#[test]
fn a_failed_write_or_sync_ends_all_publishing_and_a_failed_look_does_not() {
    let start = image();
    let count = {
        let (faulty, change) = prepared(&start);
        let mut heads = Heads::read(faulty.clone()).unwrap();
        let before = faulty.count();
        heads.publish(change).unwrap();
        faulty.count() - before
    };
    // Twice: read two slots back, write one, sync once.
    assert_eq!(count, 8);
    for n in 0..count {
        let (faulty, change) = prepared(&start);
        let mut heads = Heads::read(faulty.clone()).unwrap();
        faulty.fail_nth(n, Fault::Eio);
        let error = heads.publish(&change).unwrap_err();
        let looked = matches!(error, HeadError::ReadBack { .. });
        assert_eq!(looked, n % 4 < 2, "operation {n}: {error}");
        assert_eq!(error.is_final(), !looked);
        assert_eq!(heads.is_stopped(), !looked);
        let records = faulty.count();
        match heads.publish(&change) {
            Ok(()) => {
                assert!(looked);
                assert!(heads.slots().all(|head| head.root == heads.newest().root));
                assert_eq!(time_of(faulty.inner().to_bytes(), "published again"), NEW);
            }
            Err(error) => {
                assert!(matches!(error, HeadError::Stopped), "operation {n}: {error}");
                assert_eq!(faulty.count(), records, "a stopped writer touches nothing");
            }
        }
    }
}

/// An image with a new root that no head names yet.
fn prepared(start: &[u8]) -> (Arc<FaultyStorage<MemoryStorage>>, impl Fn(&mut Head) + use<>) {
    let faulty = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(start.to_vec())));
    let change = append_root(&(faulty.clone() as Arc<dyn Storage>));
    (faulty, change)
}

#[test]
fn a_head_that_no_reader_would_take_is_not_written() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(image()));
    let mut heads = Heads::read(storage.clone()).unwrap();
    let before = HeadIndex::ALL.map(|slot| storage.read_head(slot).unwrap());
    let inside = |head: &mut Head| head.log_end = LogOffset(head.log_end.0 + SYNC_BLOCK / 2);
    assert!(matches!(heads.publish(inside), Err(HeadError::Invalid(_))));
    assert_eq!(HeadIndex::ALL.map(|slot| storage.read_head(slot).unwrap()), before);
    heads.publish(|head| head.clean = false).unwrap();
}

#[test]
fn a_version_has_only_a_successor_of_its_own_image_whose_root_is_the_one_its_head_names() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(image()));
    let old = Image::open(storage.clone(), ImageOptions::default()).unwrap();
    let mut heads = Heads::read(storage.clone()).unwrap();
    heads.publish(append_root(&storage)).unwrap();
    let (head, root) = (heads.newest().clone(), Root { time: NEW, ..*old.root() });
    let new = old.successor(head.clone(), root).unwrap();
    assert_eq!((new.root(), new.log().end()), (&root, head.log_end.0));
    let opened = Image::open(storage.clone(), ImageOptions::default()).unwrap();
    assert_eq!((new.root(), new.head(), new.log().end()), (opened.root(), opened.head(), opened.log().end()));
    // Both are read through one cache.
    let before = old.block_memory();
    assert!(new.inode(InodeId::ROOT).unwrap().is_some());
    let read = new.block_memory();
    assert!(read > before && old.inode(InodeId::ROOT).unwrap().is_some());
    // What a version keeps besides are decoded rows of its own map.
    assert_eq!(new.block_memory(), read);

    let refused = |head: Head, root: Root| old.successor(head, root).err().map(|error| error.to_string()).unwrap();
    let why = refused(Head { lineage: [0; 16], ..head.clone() }, root);
    assert!(why.contains("another image"), "{why}");
    let why = refused(head.clone(), *old.root());
    assert!(why.contains("root"), "{why}");
    let params = Params { level: root.params.level + 1, ..root.params };
    let why = refused(Head { params, ..head.clone() }, Root { params, ..root });
    assert!(why.contains("parameters"), "{why}");
    let why = refused(Head { log_end: LogOffset(head.log_end.0 + SYNC_BLOCK), ..head }, root);
    assert!(why.contains("cut short"), "{why}");
}
