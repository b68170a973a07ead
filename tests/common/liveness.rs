//! Random images in which only some subchunks are live, and the result of a walk from the root directory.
#![allow(dead_code, reason = "each test binary uses its own part")]

use crate::forge::{self, Forge, inode, noise, piece};
use floe::format::block::KeyRef;
use floe::format::ids::{ContentId, InodeId, SubchunkId};
use floe::format::recipe::Recipe;
use floe::format::rows::{ContentRef, ContentRow, Extent, FileType, InodeRow, Time};
use floe::format::schema;
use floe::fs::start::look;
use floe::fs::{Live, LiveOptions};
use floe::meta::{ImageOptions, View};
use floe::storage::testing::{FolderHome, MemoryFolder};
use floe::storage::{LogHome, Storage};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Numbers that look random, the same each time.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// The filesystem of an image, writable, with an empty thaw log.
pub fn writable(storage: &Arc<dyn Storage>) -> Arc<Live> {
    writable_with(storage, Arc::new(FolderHome::new(Arc::new(MemoryFolder::new()))))
}

/// The same, with this thaw log.
pub fn writable_with(storage: &Arc<dyn Storage>, home: Arc<dyn LogHome>) -> Arc<Live> {
    let found = look(storage.clone(), home, ImageOptions::default()).unwrap();
    let clock = Arc::new(|| Time { secs: 7, nanos: 0 });
    let options =
        LiveOptions { commit: Duration::from_secs(3600), clock, log_id: 5, segment_size: Some(16 << 10), budget: None };
    Live::new(storage.clone(), found, options).unwrap()
}

/// Superchunks of 5 to 20 subchunks of 200 to 4,000 bytes, some of them composed.
fn superchunks(forge: &mut Forge, dice: &mut Dice, many: u64) -> Vec<u64> {
    let mut lens = vec![0];
    for _ in 0..many {
        let mut superchunk = Vec::new();
        for _ in 0..5 + dice.below(16) {
            let id = lens.len() as u64;
            let bytes = noise(dice.below(251) as u8, 200 + dice.below(3800) as usize);
            // Composed of another subchunk's stored part and its own. The source may itself be composed.
            let source = dice.below(id) as usize;
            if source > 0 && dice.below(3) == 0 {
                let other = forge.superchunks.iter().chain([&superchunk]).flatten().nth(source - 1).unwrap().0.clone();
                let recipe =
                    Recipe::new(vec![piece(source as u64, 0, other.len() as u32), piece(id, 0, bytes.len() as u32)]);
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

/// Files in a few directories that use some of the subchunks: whole ones, slices and runs; some subchunks are unused.
pub fn random_image(seed: u64) -> Forge {
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
                forge.file(parent, &name, id, row.length, ContentRef::Content(ContentId(id)));
            }
        }
    }
    // A content without an inode.
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

/// The stored parts that a view needs, found through its names and its orphans.
pub fn needed(view: &View) -> BTreeSet<u64> {
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
    // A composed source keeps its recipe.
    let mut open: Vec<u64> = named.iter().copied().collect();
    while let Some(id) = open.pop() {
        let pieces = view.version().recipe(SubchunkId(id)).unwrap().map(|recipe| recipe.pieces().to_vec());
        open.extend(pieces.unwrap_or_default().iter().map(|piece| piece.subchunk.0).filter(|&id| named.insert(id)));
    }
    named
}

/// The live part of each data superchunk according to the names: subchunks and raw bytes.
pub fn expected(forge: &Forge, needed: &BTreeSet<u64>) -> Vec<(u32, u64)> {
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
