//! What is live: marking against a walk from the root directory, and what `info` makes of it.

#[path = "common/forge.rs"]
mod forge;

use floe::format::block::KeyRef;
use floe::format::frame::FrameKind;
use floe::format::ids::{InodeId, SubchunkId, SuperchunkId};
use floe::format::limits;
use floe::format::rows::{ContentRef, ContentRow, Extent, FileType, InodeRow, Time};
use floe::format::schema;
use floe::fs::start::look;
use floe::fs::{Live, LiveOptions, SetAttr};
use floe::meta::{Census, Image, ImageOptions, MarkError, Space, Usage, View, mark, space, tally};
use floe::storage::testing::{FolderHome, MemoryFolder, MemoryStorage};
use floe::storage::{LogHome, Storage};
use forge::{Forge, inode, noise, piece};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const NEVER: &dyn Fn() -> bool = &|| false;

/// Numbers that look random, the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn open(storage: &Arc<MemoryStorage>) -> Arc<Image> {
    Arc::new(Image::open(storage.clone() as Arc<dyn Storage>, ImageOptions::default()).unwrap())
}

fn writable(storage: &Arc<MemoryStorage>) -> Arc<Live> {
    let home: Arc<dyn LogHome> = Arc::new(FolderHome::new(Arc::new(MemoryFolder::new())));
    let found = look(storage.clone(), home, ImageOptions::default()).unwrap();
    let clock = Arc::new(|| Time { secs: 7, nanos: 0 });
    let options = LiveOptions { commit: Duration::from_secs(3600), clock, log_id: 5, segment_size: Some(16 << 10) };
    Live::new(storage.clone(), found, options).unwrap()
}

fn count(views: &[View]) -> Result<Census, MarkError> {
    tally(views.last().unwrap(), &mark(views, NEVER)?, NEVER)
}

fn measured(storage: &Arc<MemoryStorage>) -> (Usage, Space) {
    let image = open(storage);
    let usage = image.usage().unwrap();
    (usage, space(&image, &usage).unwrap())
}

/// Superchunks of 5 to 20 subchunks of 200 to 4,000 bytes, some of them composed.
fn superchunks(forge: &mut Forge, dice: &mut Dice, many: u64) -> Vec<u64> {
    let mut lens = vec![0];
    for _ in 0..many {
        let mut superchunk = Vec::new();
        for _ in 0..5 + dice.below(16) {
            let id = lens.len() as u64;
            let bytes = noise(dice.below(251) as u8, 200 + dice.below(3800) as usize);
            // Of some other's stored part and its own. What that is composed of does not matter.
            let source = dice.below(id) as usize;
            if source > 0 && dice.below(3) == 0 {
                let other = forge.superchunks.iter().chain([&superchunk]).flatten().nth(source - 1).unwrap().0.clone();
                let recipe = floe::format::recipe::Recipe::new(vec![
                    piece(source as u64, 0, other.len() as u32),
                    piece(id, 0, bytes.len() as u32),
                ]);
                let whole = [&other[..], &bytes].concat();
                lens.push(whole.len() as u64);
                superchunk.push((bytes, Some((recipe.unwrap(), whole))));
            } else {
                lens.push(bytes.len() as u64);
                superchunk.push((bytes, None));
            }
        }
        forge.superchunks.push(superchunk);
    }
    lens
}

/// Files in a few directories that use some of the subchunks, whole ones, slices and runs; some are used by nobody.
fn random_image(seed: u64) -> Forge {
    let mut dice = Dice(seed);
    let mut forge = Forge::new();
    forge.max_sources = 200;
    let lens = superchunks(&mut forge, &mut dice, 6);
    for dir in 2..5 {
        forge.directory(1, &format!("dir-{dir}"), dir);
    }
    for id in 10..40 {
        let (parent, name) = (1 + dice.below(4), format!("file-{id}"));
        let subchunk = 1 + dice.below(lens.len() as u64 - 1);
        let len = lens[subchunk as usize];
        match dice.below(4) {
            0 => forge.file(parent, &name, id, len, ContentRef::Subchunk(SubchunkId(subchunk))),
            1 => forge.file(parent, &name, id, 5000, ContentRef::None),
            kind => {
                let run = (subchunk..lens.len() as u64).take(2 + dice.below(4) as usize);
                let run: Vec<_> = run.map(|id| lens[id as usize] as u32).collect();
                let first = SubchunkId(subchunk);
                let row = if kind == 2 || run.len() < 2 {
                    ContentRow { length: len - 100, extent: Extent::Slice { subchunk: first, skip: 50 } }
                } else {
                    ContentRow {
                        length: run.iter().map(|&len| u64::from(len)).sum(),
                        extent: Extent::Run { first, lens: run },
                    }
                };
                forge.contents.insert((id, 0), row.clone());
                forge.file(parent, &name, id, row.length, ContentRef::Content(floe::format::ids::ContentId(id)));
            }
        }
    }
    // A content that no inode has.
    let extent = Extent::Slice { subchunk: SubchunkId(1 + dice.below(lens.len() as u64 - 1)), skip: 0 };
    forge.contents.insert((99, 0), ContentRow { length: 10, extent });
    let last = SubchunkId(lens.len() as u64 - 1);
    let row = InodeRow {
        links: 0,
        size: lens[last.0 as usize],
        content: ContentRef::Subchunk(last),
        ..inode(FileType::Regular)
    };
    forge.orphans.insert(50, row);
    forge
}

/// The stored parts that a view needs, found by its names and its orphans.
fn needed(view: &View) -> BTreeSet<u64> {
    let mut inodes = Vec::new();
    let mut dirs = vec![InodeId::ROOT];
    while let Some(dir) = dirs.pop() {
        let mut entries = view.dirents(dir, None).unwrap();
        while let Some((_, entry)) = entries.next(view).unwrap() {
            if entry.file_type == FileType::Directory {
                dirs.push(entry.inode);
            }
            inodes.push(view.inode(entry.inode).unwrap().unwrap());
        }
    }
    let mut orphans = view.cursor_at(&schema::ORPHANS, KeyRef::new(0, 0)).unwrap();
    while let Some(row) = orphans.row() {
        inodes.push(InodeRow::decode(row.ints(), row.tail()).unwrap());
        orphans.advance(view).unwrap();
    }
    let mut named = BTreeSet::new();
    for inode in inodes {
        match inode.content {
            ContentRef::Subchunk(id) => drop(named.insert(id.0)),
            ContentRef::Content(id) => {
                let mut extents = view.extents(id, 0).unwrap();
                while let Some((_, row)) = extents.next(view).unwrap() {
                    match row.extent {
                        Extent::Hole => {}
                        Extent::Slice { subchunk, .. } => drop(named.insert(subchunk.0)),
                        Extent::Run { first, lens } => named.extend(first.0..first.0 + lens.len() as u64),
                    }
                }
            }
            _ => {}
        }
    }
    let sources = named.iter().filter_map(|&id| view.version().recipe(SubchunkId(id)).unwrap());
    let sources: Vec<_> = sources.flat_map(|recipe| recipe.pieces().to_vec()).map(|piece| piece.subchunk.0).collect();
    named.into_iter().chain(sources).collect()
}

/// What is live of each superchunk of data, as the names say: subchunks and raw bytes.
fn expected(forge: &Forge, needed: &BTreeSet<u64>) -> Vec<(u32, u64)> {
    let mut id = 0;
    let of_one = |superchunk: &Vec<forge::Subchunk>| {
        let lens = superchunk.iter().map(|(stored, _)| {
            id += 1;
            needed.contains(&id).then_some(stored.len() as u64)
        });
        lens.flatten().fold((0, 0), |(live, raw), len| (live + 1, raw + len))
    };
    forge.superchunks.iter().map(of_one).collect()
}

fn found(census: &Census) -> Vec<(u32, u64)> {
    let data = census.superchunks.iter().filter(|tally| tally.row.kind == FrameKind::SUPERCHUNK);
    data.map(|tally| (tally.live, tally.live_raw)).collect()
}

//= format-spec.md#8.10
//= type=test
//# Whoever decides what is live must ask the inodes of the head, the orphans and the inodes of all snapshots, and never the
//# rows of this or another table that those name.
#[test]
fn marking_finds_what_a_walk_from_the_root_directory_finds_and_no_more() {
    let (mut dead, mut partly) = (0, 0);
    for seed in 0..60 {
        let forge = random_image(seed);
        let storage = forge.build();
        let view = View::of(open(&storage));
        let census = count(std::slice::from_ref(&view)).unwrap();
        assert_eq!(found(&census), expected(&forge, &needed(&view)), "seed {seed}");
        assert_eq!(census.unknown, 0);
        let groups = census.superchunks.iter().filter(|tally| tally.row.kind == FrameKind::TABLE_GROUP);
        assert!(groups.into_iter().all(|tally| tally.is_whole()), "all blocks of an image made at once are reached");
        dead += census.dead().count();
        partly += census.superchunks.iter().filter(|tally| !tally.is_dead() && !tally.is_whole()).count();
    }
    assert!(dead > 3 && partly > 60, "{dead} {partly}");
}

#[test]
fn marking_follows_changes_before_and_after_their_checkpoint() {
    for seed in 0..30 {
        let mut dice = Dice(seed + 1000);
        let forge = random_image(seed);
        let storage = forge.build();
        let live = writable(&storage);
        let named = |dice: &mut Dice, live: &Live| {
            let view = live.snapshot().view().clone();
            let parent = InodeId(1 + dice.below(4));
            let mut names = Vec::new();
            let mut entries = view.dirents(parent, None).unwrap();
            while let Some((name, entry)) = entries.next(&view).unwrap() {
                if entry.file_type == FileType::Regular {
                    names.push((parent, name, entry.inode));
                }
            }
            let at = dice.below(names.len().max(1) as u64) as usize;
            names.get(at).cloned()
        };
        for round in 0..3 {
            for _ in 0..8 {
                let Some((parent, name, id)) = named(&mut dice, &live) else { continue };
                match dice.below(5) {
                    0 | 1 => live.unlink(parent, &name).unwrap(),
                    2 => {
                        let size = Some(dice.below(3000));
                        live.set_attr(id, &SetAttr { size, ..SetAttr::default() }).unwrap();
                    }
                    3 => {
                        // Deleted while it is open.
                        live.open(id, false).unwrap();
                        live.unlink(parent, &name).unwrap();
                    }
                    _ => {
                        if let Some((_, _, to)) = named(&mut dice, &live).filter(|(_, _, to)| *to != id) {
                            drop(live.copy_range(id, 0, to, 0, 1 << 20));
                        }
                    }
                }
            }
            // What the last checkpoint has still counts, beside what came since.
            let view = live.snapshot().view().clone();
            let before = needed(&View::of(view.version().clone()));
            let both = before.union(&needed(&view)).copied().collect();
            let census = count(&[view]).unwrap();
            assert_eq!(found(&census), expected(&forge, &both), "seed {seed}, round {round}");
            live.checkpoint_now().unwrap();
            let view = live.snapshot().view().clone();
            let census = count(std::slice::from_ref(&view)).unwrap();
            assert_eq!(found(&census), expected(&forge, &needed(&view)), "seed {seed}, round {round}, checkpointed");
            assert_eq!(census.unknown, 0);
        }
        // Both at once: what either has.
        let (old, new) = (View::of(open(&forge.build())), live.snapshot().view().clone());
        let both = needed(&old).union(&needed(&new)).copied().collect();
        assert_eq!(found(&count(&[old, new]).unwrap()), expected(&forge, &both), "seed {seed}");
    }
}

#[test]
fn a_recipe_keeps_the_stored_parts_that_it_uses_and_nothing_else_of_them() {
    let mut forge = forge::with_recipe();
    let composed = forge.inodes.values().find(|row| row.content == ContentRef::Subchunk(SubchunkId(4)));
    assert!(composed.is_some());
    // Only the file that is composed is left.
    forge
        .inodes
        .retain(|_, row| row.file_type == FileType::Directory || row.content == ContentRef::Subchunk(SubchunkId(4)));
    let inodes = forge.inodes.clone();
    forge.dirents.retain(|_, entry| inodes.contains_key(&entry.inode.0));
    let view = View::of(open(&forge.build()));
    assert_eq!(found(&count(std::slice::from_ref(&view)).unwrap()), [(1, 5000), (1, 6000), (1, 100)]);
    // Without it, its sources are dead.
    forge.inodes.retain(|_, row| row.file_type == FileType::Directory);
    forge.dirents.clear();
    let view = View::of(open(&forge.build()));
    assert_eq!(found(&count(std::slice::from_ref(&view)).unwrap()), [(0, 0), (0, 0), (0, 0)]);
}

#[test]
fn a_snapshot_keeps_what_was_deleted_since() {
    let mut forge = random_image(5);
    forge.orphans.clear();
    forge.snapshots.insert(1, ("before".to_owned(), String::new()));
    let storage = forge.build();
    let before = needed(&View::of(open(&storage)));
    let live = writable(&storage);
    for parent in (1..5).map(InodeId) {
        let view = live.snapshot().view().clone();
        let mut entries = view.dirents(parent, None).unwrap();
        while let Some((name, entry)) = entries.next(&view).unwrap() {
            if entry.file_type == FileType::Regular {
                live.unlink(parent, &name).unwrap();
            }
        }
    }
    live.checkpoint_now().unwrap();
    let view = live.snapshot().view().clone();
    assert!(needed(&view).is_empty() && !before.is_empty());
    let census = count(&[view]).unwrap();
    assert_eq!(found(&census), expected(&forge, &before));
    assert_eq!(census.unknown, 0);
}

#[test]
fn whatever_is_damaged_nothing_counts_as_dead_that_is_not() {
    let forge = random_image(3);
    let whole = forge.build();
    let image = open(&whole);
    let right = found(&count(&[View::of(image.clone())]).unwrap());
    let (mut errors, mut same) = (0, 0);
    for frame in image.log().scan(floe::format::ids::LogOffset(limits::LOG_START)).map(Result::unwrap) {
        if ![FrameKind::TABLE_GROUP, FrameKind::MAP_BLOCK].contains(&frame.kind) {
            continue;
        }
        let begin = frame.offset.0 + frame.frame_len() - u64::from(frame.stored_len);
        for at in [0, 17, u64::from(frame.stored_len) / 2] {
            let damaged = Arc::new(MemoryStorage::from_bytes(whole.to_bytes()));
            damaged.flip(begin + at, 0x20).unwrap();
            match count(&[View::of(open(&damaged))]) {
                Err(error) => {
                    assert!(matches!(error, MarkError::Meta(_)), "{error}");
                    errors += 1;
                }
                // A leaf of names is not needed, and interior blocks have copies.
                Ok(census) => {
                    assert_eq!(found(&census), right, "byte {at} of the frame at {}", frame.offset);
                    same += 1;
                }
            }
        }
    }
    assert!(errors > 5 && same > 20, "{errors} {same}");
}

#[test]
fn marking_stops_when_it_is_told_to() {
    let view = View::of(open(&random_image(1).build()));
    assert!(matches!(mark(std::slice::from_ref(&view), &|| true), Err(MarkError::Stopped)));
}

#[test]
fn each_byte_of_data_and_tables_is_live_or_dead() {
    for seed in 0..10 {
        let forge = random_image(seed);
        let storage = forge.build();
        let (usage, space) = measured(&storage);
        assert_eq!(space.live_data + space.dead_data, usage.data + usage.clear_lists);
        assert_eq!(space.live_tables + space.dead_tables, usage.tables + usage.identities + usage.roots);
        assert_eq!((space.dead_tables, space.unknown), (0, 0), "nothing of the tables was ever replaced");
        let live = writable(&storage);
        live.set_attr(InodeId::ROOT, &SetAttr { mode: Some(0o711), ..SetAttr::default() }).unwrap();
        live.checkpoint_now().unwrap();
        let (usage, after) = measured(&storage);
        assert_eq!((after.live_data, after.dead_data), (space.live_data, space.dead_data));
        assert_eq!(after.live_tables + after.dead_tables, usage.tables + usage.identities + usage.roots);
        assert!(after.dead_tables > 1000, "the old root, the old map and what changed: {after:?}");
        assert!(after.live_tables.abs_diff(space.live_tables) < 2000, "{space:?} {after:?}");
    }
}

#[test]
fn of_a_partly_live_superchunk_its_share_of_the_raw_bytes_counts() {
    let mut forge = Forge::new();
    forge.superchunks = vec![vec![(noise(1, 3000), None), (noise(2, 1000), None)], vec![(noise(3, 700), None)]];
    forge.file(1, "a", 2, 1000, ContentRef::Subchunk(SubchunkId(2)));
    let storage = forge.build();
    let census = count(&[View::of(open(&storage))]).unwrap();
    let (partly, dead) = (census.get(SuperchunkId(1)).unwrap(), census.get(SuperchunkId(2)).unwrap());
    assert_eq!((partly.live_bytes(), partly.live_raw), (partly.bytes() / 4, 1000));
    assert!(dead.is_dead() && dead.live_bytes() == 0 && dead.bytes() > 700);
    let (_, space) = measured(&storage);
    assert_eq!((space.live_data, space.wholly_dead), (partly.bytes() / 4, dead.bytes()));
}
