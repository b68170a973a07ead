//! Recipes that freezes make, beside gc and snapshots, on storages in memory.

use super::world::{World, file, noise, read};
use crate::care::{self, CheckOptions, Severity};
use crate::format::ids::{InodeId, SubchunkId, SuperchunkId};
use crate::format::params::{Chunker, Params};
use crate::format::rows::{ContentRef, Extent};
use crate::fs::freezing::control::Step;
use crate::fs::gc::NoReaders;
use crate::fs::{Finished, FreezeHow, Fs, FsOptions, Live};
use crate::meta::{Image, ImageOptions, View};
use crate::pack::PackOptions;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const NEVER: &dyn Fn() -> bool = &|| false;

fn world() -> World {
    let chunker = Chunker::FastCdc { min: 1024, avg: 2048, max: 8192 };
    let params = Params { chunker, superchunk_size: 1 << 20, min_match: 128, ..Params::default() };
    let world = World::of(HOUR, &PackOptions { params, ..PackOptions::default() });
    world.live.set_keep_out(Arc::new(|| Ok(Box::new(()) as NoReaders)));
    world
}

/// Bytes in which one byte in 900 differs from those of every other version, and no other.
fn version(number: usize) -> Vec<u8> {
    let mut bytes = noise(300_000, 1);
    bytes.iter_mut().skip(number * 97 % 900).step_by(900).for_each(|byte| *byte ^= number as u8);
    bytes
}

fn freeze(live: &Live) {
    assert_eq!(live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap().left_bytes, 0);
}

/// The superchunks with the stored parts that the recipes of a file's subchunks use.
fn sources(view: &View, inode: InodeId) -> BTreeSet<SuperchunkId> {
    let ContentRef::Content(content) = view.inode(inode).unwrap().unwrap().content else {
        panic!("it is one subchunk")
    };
    let (mut extents, mut sources) = (view.extents(content, 0).unwrap(), BTreeSet::new());
    while let Some((_, extent)) = extents.next(view).unwrap() {
        let Extent::Run { first, lens } = extent.extent else { continue };
        for id in (first.0..).take(lens.len()).map(SubchunkId) {
            let recipe = view.recipe(id).unwrap();
            let pieces = recipe.iter().flat_map(|recipe| recipe.pieces());
            sources.extend(pieces.map(|piece| view.locate(piece.subchunk).unwrap().unwrap().superchunk));
        }
    }
    sources
}

#[track_caller]
fn assert_clean(world: &World) {
    let report = care::check(world.storage.clone(), &CheckOptions { jobs: 1, ..CheckOptions::default() }, &()).unwrap();
    let bad: Vec<_> = report.findings.iter().filter(|finding| finding.severity > Severity::Note).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

// Case 8.
#[test]
fn gc_does_not_run_between_the_choice_of_a_source_and_the_change_of_the_file_that_needs_it() {
    let world = world();
    let live = &world.live;
    file(live, "a", &version(0));
    freeze(live);
    // Only the recipes of the next file will need it.
    live.unlink(InodeId::ROOT, b"a").unwrap();
    live.checkpoint_now().unwrap();
    let b = file(live, "b", &version(1));
    let gc = Arc::new(Mutex::new(None));
    let (weak, started) = (Arc::downgrade(live), Arc::clone(&gc));
    live.freezer.set_hook(Step::Published, move || {
        let live = weak.upgrade().unwrap();
        assert!(live.freezing.try_lock().is_none());
        *started.lock() = Some(std::thread::spawn(move || live.gc_now(NEVER).unwrap()));
    });
    freeze(live);
    gc.lock().take().unwrap().join().unwrap();
    let view = live.snapshot().view().clone();
    let sources = sources(&view, b);
    assert!(sources.len() >= 2 && sources.iter().all(|id| view.superchunk(*id).unwrap().is_some()), "{sources:?}");
    drop(view);
    assert!(read(live, b) == version(1));
    assert!(read(&world.reopened(), b) == version(1));
    // Without a freeze in between, gc frees both.
    live.unlink(InodeId::ROOT, b"b").unwrap();
    assert!(live.gc_now(NEVER).unwrap().freed_bytes > 250_000);
    let view = live.snapshot().view().clone();
    assert!(sources.iter().all(|id| view.superchunk(*id).unwrap().is_none()));
    drop(view);
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    assert_clean(&world);
}

#[test]
fn a_snapshot_may_need_recipes_that_the_head_needs_no_longer() {
    let world = world();
    let live = &world.live;
    file(live, "a", &version(0));
    freeze(live);
    file(live, "b", &version(1));
    // It is frozen for the snapshot, and written to meanwhile.
    let weak = Arc::downgrade(live);
    live.freezer.set_hook(Step::Published, move || {
        let live = weak.upgrade().unwrap();
        live.write(file(&live, "c", b""), 0, &version(2), false).unwrap();
    });
    let how = FreezeHow::everything();
    live.snapshot_now(b"first", b"", &how).unwrap();
    for name in ["a", "b", "c"] {
        live.unlink(InodeId::ROOT, name.as_bytes()).unwrap();
    }
    live.reap_now().unwrap();
    live.checkpoint_now().unwrap();
    live.gc_now(NEVER).unwrap();
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    assert_clean(&world);
    let image = Image::open(world.storage.clone(), ImageOptions::default()).unwrap();
    let (_, row) = image.snapshot_named(b"first").unwrap().unwrap();
    let image = Arc::new(image.at_snapshot(&row).unwrap());
    let view = View::of(Arc::clone(&image));
    let fs = Fs::new(image, FsOptions { readahead: 0, verify: true, ..FsOptions::default() });
    for (name, number) in [("a", 0), ("b", 1)] {
        let inode = view.lookup(InodeId::ROOT, name.as_bytes()).unwrap().unwrap().inode;
        assert_eq!(sources(&view, inode).is_empty(), name == "a");
        let mut bytes = Vec::new();
        fs.read(inode, 0, usize::MAX >> 1, &mut bytes).unwrap();
        assert!(bytes == version(number), "{name}");
    }
    assert!(view.lookup(InodeId::ROOT, b"c").unwrap().is_none());
}
