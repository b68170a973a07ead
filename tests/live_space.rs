//! Which data is live: marking is compared with a walk from the root directory, and with the figures of `info`.

#[path = "common/forge.rs"]
mod forge;
#[path = "common/liveness.rs"]
mod liveness;

use floe::format::frame::FrameKind;
use floe::format::ids::{InodeId, LogOffset, SubchunkId, SuperchunkId};
use floe::format::limits;
use floe::format::rows::{ContentRef, FileType};
use floe::fs::{Live, SetAttr};
use floe::meta::{Census, Image, ImageOptions, MarkError, Space, Usage, View, mark, space, tally};
use floe::storage::Storage;
use floe::storage::testing::MemoryStorage;
use forge::{Forge, noise};
use liveness::{Dice, expected, needed, random_image, writable};
use std::sync::Arc;

const NEVER: &dyn Fn() -> bool = &|| false;

fn open(storage: &Arc<MemoryStorage>) -> Arc<Image> {
    Arc::new(Image::open(storage.clone() as Arc<dyn Storage>, ImageOptions::default()).unwrap())
}

fn count(views: &[View]) -> Result<Census, MarkError> {
    tally(views.last().unwrap(), mark(views, NEVER)?, NEVER)
}

fn measured(storage: &Arc<MemoryStorage>) -> (Usage, Space) {
    let image = open(storage);
    let usage = image.usage().unwrap();
    (usage, space(&image, &usage).unwrap())
}

fn found(census: &Census) -> Vec<(u32, u64)> {
    let data = census.superchunks.iter().filter(|tally| tally.row.kind == FrameKind::SUPERCHUNK);
    data.map(|tally| (tally.live, tally.live_raw)).collect()
}

//= format-spec.md#8.10
//= type=test
//# A program that decides what is live must start from the inodes of the head, the orphans and the inodes of all
//# snapshots, and never from the rows of this table or of the tables that inodes name.
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
        let live = writable(&(storage.clone() as Arc<dyn Storage>));
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
            let view = live.snapshot().view().clone();
            let census = count(std::slice::from_ref(&view)).unwrap();
            assert_eq!(found(&census), expected(&forge, &needed(&view)), "seed {seed}, round {round}");
            // With what the last checkpoint needs, more is live.
            let root = View::of(view.version().clone());
            let both = needed(&root).union(&needed(&view)).copied().collect();
            for views in [[root.clone(), view.clone()], [view, root]] {
                assert_eq!(found(&count(&views).unwrap()), expected(&forge, &both), "seed {seed}, round {round}");
            }
            live.checkpoint_now().unwrap();
            let view = live.snapshot().view().clone();
            let census = count(std::slice::from_ref(&view)).unwrap();
            assert_eq!(found(&census), expected(&forge, &needed(&view)), "seed {seed}, round {round}, checkpointed");
            assert_eq!(census.unknown, 0);
        }
        // Both at once: the union.
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
    // Only the composed file remains.
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
    let live = writable(&(storage.clone() as Arc<dyn Storage>));
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
    for frame in image.log().scan(LogOffset(limits::LOG_START)).map(Result::unwrap) {
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
        let live = writable(&(storage.clone() as Arc<dyn Storage>));
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
