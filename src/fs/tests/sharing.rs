//! A deep freeze shares equal contents. How that works with changes at each moment.

use super::world::{World, file, noise, read};
use crate::format::block::KeyRef;
use crate::format::ids::InodeId;
use crate::format::params::{Chunker, Params};
use crate::format::rows::{ContentRef, InodeRow, ShareKey, ShareRow};
use crate::format::schema;
use crate::fs::freezing::control::Step;
use crate::fs::{FallocateMode, Finished, FreezeHow, FreezeReport, Live, SetAttr};
use crate::pack::PackOptions;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn world() -> World {
    let chunker = Chunker::FastCdc { min: 1024, avg: 2048, max: 8192 };
    let params = Params { chunker, superchunk_size: 1 << 20, ..Params::default() };
    World::of(HOUR, &PackOptions { params, ..PackOptions::default() })
}

fn row(live: &Live, inode: InodeId) -> Option<InodeRow> {
    live.snapshot().view().inode(inode).unwrap()
}

fn content(live: &Live, inode: InodeId) -> ContentRef {
    row(live, inode).unwrap().content
}

fn freeze(live: &Live, deep: bool) -> FreezeReport {
    let report = live.freeze_now(&FreezeHow { deep, ..FreezeHow::everything() }, &|_| ()).unwrap();
    scan(live);
    report
}

/// Checks that the users of each shared object are as many as the table says, and that every row of a content or tiny
/// content has a user.
fn scan(live: &Live) {
    let view = live.snapshot().view().clone();
    let (mut users, mut said) = (BTreeMap::<(u64, u64), u64>::new(), BTreeMap::new());
    for table in [&schema::INODES, &schema::ORPHANS] {
        let mut cursor = view.cursor_at(table, KeyRef::new(0, 0)).unwrap();
        while let Some(row) = cursor.row() {
            let row = InodeRow::decode(row.ints(), row.tail()).unwrap();
            ShareKey::used_by(&row).for_each(|key| *users.entry(key.encode()).or_default() += 1);
            cursor.advance(&view).unwrap();
        }
    }
    let mut cursor = view.cursor_at(&schema::SHARES, KeyRef::new(0, 0)).unwrap();
    while let Some(row) = cursor.row() {
        said.insert((row.key().a, row.key().b), ShareRow::decode(row.ints()).unwrap().users);
        cursor.advance(&view).unwrap();
    }
    for (table, kind) in [(&schema::CONTENTS, 1), (&schema::TINY, 2)] {
        let mut cursor = view.cursor_at(table, KeyRef::new(0, 0)).unwrap();
        while let Some(row) = cursor.row() {
            assert!(users.contains_key(&(kind, row.key().a)), "{} {} is nobody's", table.name, row.key().a);
            cursor.advance(&view).unwrap();
        }
    }
    users.retain(|_, users| *users > 1);
    assert_eq!(said, users);
}

#[test]
fn files_with_equal_contents_share_one_after_a_deep_freeze_and_not_before() {
    let world = world();
    let live = &world.live;
    let (bytes, tiny) = (noise(100_000, 1), noise(300, 2));
    let equal: Vec<_> = (0..4).map(|n| file(live, &format!("equal {n}"), &bytes)).collect();
    let tinies: Vec<_> = (0..3).map(|n| file(live, &format!("tiny {n}"), &tiny)).collect();
    let others = [file(live, "longer", &noise(100_001, 1)), file(live, "other tiny", &noise(300, 3))];
    // Frozen in two steps: the same parts in other rows.
    let late = file(live, "in steps", &bytes[..50_000]);
    freeze(live, false);
    live.write(late, 50_000, &bytes[50_000..], false).unwrap();
    // A hole after the end of the content belongs to the inode.
    live.set_attr(equal[3], &SetAttr { size: Some(150_000), ..SetAttr::default() }).unwrap();
    freeze(live, false);
    let before: Vec<_> = equal.iter().chain(&tinies).map(|&inode| content(live, inode)).collect();
    assert!((1..before.len()).all(|n| !before[..n].contains(&before[n])));
    let rows: Vec<_> = equal.iter().chain(&tinies).map(|&inode| row(live, inode).unwrap()).collect();
    let report = freeze(live, true);
    assert_eq!((report.files, report.frozen_bytes, report.shared_bytes), (0, 0, 600));
    let all: Vec<_> = equal.iter().chain([&late]).map(|&inode| content(live, inode)).collect();
    assert!(all.iter().all(|content| *content == all[0] && matches!(content, ContentRef::Content(_))));
    assert!(tinies.iter().all(|&inode| content(live, inode) == content(live, tinies[0])));
    assert!(others.iter().all(|&inode| ![all[0], content(live, tinies[0])].contains(&content(live, inode))));
    // Nothing else of an inode changes, including its times.
    for (&inode, before) in equal.iter().chain(&tinies).zip(rows) {
        assert_eq!(row(live, inode), Some(InodeRow { content: content(live, inode), ..before }));
    }
    assert_eq!(freeze(live, true).shared_bytes, 0);
    // Later changes copy the content first.
    live.write(equal[1], 10, b"changed", false).unwrap();
    live.write(tinies[1], 10, b"changed", false).unwrap();
    live.fallocate(equal[2], 5000, 20_000, FallocateMode::PunchHole).unwrap();
    live.unlink(InodeId::ROOT, b"equal 0").unwrap();
    live.reap_now().unwrap();
    let changed = |bytes: &[u8]| [&bytes[..10], b"changed", &bytes[17..]].concat();
    let punched = [&bytes[..5000], &[0; 20_000], &bytes[25_000..]].concat();
    let longer = [&bytes[..], &[0; 50_000]].concat();
    let expected = [
        (equal[1], changed(&bytes)),
        (equal[2], punched),
        (equal[3], longer),
        (late, bytes.clone()),
        (tinies[0], tiny.clone()),
        (tinies[1], changed(&tiny)),
        (tinies[2], tiny.clone()),
    ];
    for deep in [false, true] {
        freeze(live, deep);
        assert!(expected.iter().all(|(inode, bytes)| read(live, *inode) == *bytes));
    }
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    let live = world.reopened();
    assert!(expected.iter().all(|(inode, bytes)| read(&live, *inode) == *bytes));
    scan(&live);
}

// Case 5.
#[test]
fn what_is_changed_of_a_file_or_its_equal_while_they_come_to_share_stays() {
    type Change = fn(&Live, InodeId, &str);
    let changes: [(&str, Change); 8] = [
        ("write", |live, inode, _| live.write(inode, 100, b"changed", false).unwrap()),
        ("write, frozen", |live, inode, _| {
            live.write(inode, 100, b"changed", false).unwrap();
            live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
        }),
        ("append, frozen", |live, inode, _| {
            live.write(inode, row(live, inode).unwrap().size, &[7; 3000], false).unwrap();
            live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
        }),
        ("cut off", |live, inode, _| {
            live.set_attr(inode, &SetAttr { size: Some(150), ..SetAttr::default() }).unwrap();
        }),
        ("cut off and grown", |live, inode, _| {
            for size in [0, 400] {
                live.set_attr(inode, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
            }
        }),
        ("punched", |live, inode, _| live.fallocate(inode, 50, 100, FallocateMode::PunchHole).unwrap()),
        ("unlinked", |live, _, name| {
            live.unlink(InodeId::ROOT, name.as_bytes()).unwrap();
            live.reap_now().unwrap();
        }),
        ("unlinked while it is open", |live, inode, name| {
            live.open(inode, false).unwrap();
            live.unlink(InodeId::ROOT, name.as_bytes()).unwrap();
        }),
    ];
    for (what, change) in changes {
        for (step, victim, len) in [Step::Gathered, Step::Compared]
            .into_iter()
            .flat_map(|step| (0..3).map(move |victim| (step, victim)))
            .flat_map(|(step, victim)| [300, 60_000].map(|len| (step, victim, len)))
        {
            let told = format!("{what}, {step:?}, file {victim}, {len} bytes");
            let world = world();
            let live = &world.live;
            let bytes = noise(len, 1);
            let files: Vec<_> = (0..3).map(|n| file(live, &format!("{n}"), &bytes)).collect();
            freeze(live, false);
            let expected = Arc::new(parking_lot::Mutex::new(None));
            let (weak, store, inode) = (Arc::downgrade(live), expected.clone(), files[victim]);
            live.freezer.set_hook(step, move || {
                let live = weak.upgrade().unwrap();
                change(&live, inode, &format!("{victim}"));
                let there = live.snapshot().view().inode(inode).unwrap();
                *store.lock() = Some(there.map(|_| read(&live, inode)));
            });
            freeze(live, true);
            let expected = expected.lock().take().expect(&told);
            let holds = |live: &Arc<Live>, when: &str| {
                scan(live);
                for (n, &inode) in files.iter().enumerate() {
                    let wanted = if n == victim { expected.as_ref() } else { Some(&bytes) };
                    assert_eq!(row(live, inode).is_some(), wanted.is_some(), "{told}, {when}");
                    assert!(wanted.is_none_or(|wanted| read(live, inode) == *wanted), "{told}, {when}");
                }
            };
            holds(live, "shared");
            // The two that did not change share, whichever was to be the first.
            freeze(live, true);
            let same: Vec<_> = (0..3).filter(|n| *n != victim).map(|n| content(live, files[n])).collect();
            assert_eq!(same[0], same[1], "{told}");
            holds(live, "again");
            assert_eq!(live.end(HOUR).unwrap(), Finished::Removed, "{told}");
            holds(&world.reopened(), "after the end");
        }
    }
}

#[test]
fn a_root_counts_what_freezes_found_to_be_there_once() {
    let world = world();
    let live = &world.live;
    let shared = |live: &Live| live.snapshot().view().version().root().shared_bytes;
    let (bytes, tiny) = (noise(100_000, 1), noise(300, 2));
    (0..3).for_each(|n| _ = file(live, &format!("{n}"), &bytes));
    (0..3).for_each(|n| _ = file(live, &format!("tiny {n}"), &tiny));
    assert_eq!(freeze(live, false).shared_bytes, 200_000);
    live.checkpoint_now().unwrap();
    assert_eq!(shared(live), 200_000);
    // Data that is cut again beside a change was in the image already, but that saves nothing.
    let changed = file(live, "3", &bytes);
    freeze(live, false);
    live.write(changed, 50_000, b"changed", false).unwrap();
    assert_eq!(freeze(live, true).shared_bytes, 600);
    live.checkpoint_now().unwrap();
    assert_eq!(shared(live), 300_600);
    live.checkpoint_now().unwrap();
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    assert_eq!(shared(&world.reopened()), 300_600);
}
