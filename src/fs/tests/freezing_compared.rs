//! The result of freezes, compared with what `pack` makes of the same files, and after power cuts.

use super::world::{self, create, noise};
use crate::format::ids::InodeId;
use crate::format::params::{Chunker, Params};
use crate::format::rows::{ContentRef, Identity, InodeRow};
use crate::freeze::SpanSource;
use crate::fs::{Finished, FreezeHow, Fs, FsOptions, Live, layout};
use crate::meta::{Image, ImageOptions, View};
use crate::pack::{PackObserver, PackOptions, empty_into, pack};
use crate::storage::testing::{History, MemoryFolder, MemoryStorage, Remains};
use crate::storage::{Access, FileStorage, Folder, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn options() -> PackOptions {
    let chunker = Chunker::FastCdc { min: 1024, avg: 2048, max: 8192 };
    PackOptions { params: Params { chunker, superchunk_size: 1 << 20, ..Params::default() }, ..PackOptions::default() }
}

fn empty() -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::new());
    empty_into(storage.clone(), &options()).unwrap();
    storage.to_bytes()
}

fn open(storage: Arc<dyn Storage>, folder: Arc<dyn Folder>, session: u64) -> Arc<Live> {
    world::open(storage, folder, HOUR, None, session)
}

fn of(left: Remains) -> Arc<Live> {
    let folder = Arc::new(MemoryFolder::from_segments(left.segments));
    open(Arc::new(MemoryStorage::from_bytes(left.image)), folder, 9)
}

/// Names and bytes of the files in the root directory.
type Files = BTreeMap<String, Vec<u8>>;

fn files(live: &Arc<Live>) -> Files {
    let view = live.snapshot().view().clone();
    let fs = Fs::over(live.clone(), FsOptions { readahead: 0, ..FsOptions::default() });
    let mut entries = view.dirents(InodeId::ROOT, None).unwrap();
    let mut files = Files::new();
    while let Some((name, entry)) = entries.peek().unwrap() {
        let (name, mut bytes) = (String::from_utf8(name.to_vec()).unwrap(), Vec::new());
        fs.read(entry.inode, 0, usize::MAX >> 1, &mut bytes).unwrap();
        files.insert(name, bytes);
        entries.advance(&view).unwrap();
    }
    files
}

/// What the row of a file says of its bytes, without ids: the kind of its content, its attributes, and the lengths and
/// identities of its parts.
type Shape = (&'static str, Vec<(u64, Vec<u8>)>, Vec<(u64, Option<Identity>)>);

fn shape(view: &View, name: &str) -> (InodeRow, Shape) {
    let inode = view.lookup(InodeId::ROOT, name.as_bytes()).unwrap().unwrap().inode;
    let row = view.inode(inode).unwrap().unwrap();
    let kind = match row.content {
        ContentRef::None => "none",
        ContentRef::Tiny(_) => "tiny",
        ContentRef::Subchunk(_) => "subchunk",
        ContentRef::Content(_) => "content",
    };
    let len_of = |id| layout::subchunk_len(view, id);
    let spans = layout::spans(view, inode, &row, (0, row.size), &len_of).unwrap();
    let parts = spans.iter().map(|span| match span.source {
        SpanSource::Stored { subchunk, .. } => {
            assert!(span.whole().is_some(), "{name}: a part of a subchunk");
            (span.len, view.identity(subchunk).unwrap())
        }
        _ => (span.len, None),
    });
    let parts = parts.collect();
    (row.clone(), (kind, row.attributes, parts))
}

struct Silent;

impl PackObserver for Silent {
    fn warning(&self, path: &[u8], message: &str) {
        panic!("{}: {message}", path.escape_ascii());
    }
}

#[test]
fn files_become_what_pack_makes_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let (source, image) = (dir.path().join("source"), dir.path().join("image"));
    std::fs::create_dir(&source).unwrap();
    let live = open(Arc::new(MemoryStorage::from_bytes(empty())), Arc::new(MemoryFolder::new()), 1);
    let zeros = vec![0; 200_000];
    let text: Vec<u8> = (0..60_000u32).flat_map(|n| format!("{} ", n / 7).into_bytes()).collect();
    let all: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("one byte", b"x".to_vec()),
        ("largest tiny", noise(511, 1)),
        ("smallest subchunk", noise(512, 2)),
        ("one subchunk", noise(1000, 3)),
        ("some subchunks", noise(30_000, 4)),
        ("more than a superchunk", noise(3 << 20, 5)),
        ("the same", noise(30_000, 4)),
        ("the same and more", [noise(30_000, 4), noise(5000, 6)].concat()),
        ("text", text),
        ("zeros that were written", zeros),
    ];
    for (name, bytes) in &all {
        std::fs::write(source.join(name), bytes).unwrap();
        let inode = create(&live, name);
        // In pieces, some of them out of order.
        let mut pieces: Vec<_> = bytes.chunks(70_000).enumerate().collect();
        pieces.reverse();
        for (n, piece) in pieces {
            live.write(inode, n as u64 * 70_000, piece, false).unwrap();
        }
    }
    let holes = create(&live, "holes");
    let file = std::fs::File::create(source.join("holes")).unwrap();
    for (at, len) in [(1 << 20, 50_000), (3 << 20, 2000)] {
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(len, at), at).unwrap();
        live.write(holes, at, &noise(len, at), false).unwrap();
    }
    drop(file);
    let names: Vec<_> = all.iter().map(|(name, _)| *name).chain(["holes"]).collect();
    pack(&[source], &image, &PackOptions { timestamp: Some(0), ..options() }, &Silent).unwrap();
    let storage = Arc::new(FileStorage::open(&image, Access::ReadOnly).unwrap());
    let packed = View::of(Arc::new(Image::open(storage, ImageOptions::default()).unwrap()));
    let compare = |live: &Live, when: &str| {
        let view = live.snapshot().view().clone();
        for name in &names {
            let ((ours, frozen), (theirs, packed)) = (shape(&view, name), shape(&packed, name));
            assert_eq!(ours.size, theirs.size);
            if *name == "holes" {
                // The file system rounds the ends of data to whole blocks.
                assert_eq!(frozen.0, packed.0);
            } else {
                assert_eq!(frozen, packed, "{name}, {when}");
            }
        }
    };
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    compare(&live, "at once");
    // Changed in the middle and at the end, cut off and extended again, and frozen after each; then made as before.
    for (name, bytes) in all.iter().filter(|(_, bytes)| bytes.len() > 20_000) {
        let inode = live.snapshot().view().lookup(InodeId::ROOT, name.as_bytes()).unwrap().unwrap().inode;
        let freeze = || live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
        live.write(inode, 12_000, b"something else", false).unwrap();
        freeze();
        live.write(inode, bytes.len() as u64, &noise(3000, 8), false).unwrap();
        freeze();
        let size = |size| crate::fs::SetAttr { size: Some(size), ..Default::default() };
        live.set_attr(inode, &size(15_000)).unwrap();
        freeze();
        live.write(inode, 15_000, &bytes[15_000..], false).unwrap();
        live.write(inode, 12_000, &bytes[12_000..12_014], false).unwrap();
        freeze();
    }
    compare(&live, "after changes");
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
}

#[test]
fn a_deep_freeze_makes_uneven_contents_even() {
    let live = open(Arc::new(MemoryStorage::from_bytes(empty())), Arc::new(MemoryFolder::new()), 1);
    let bytes = noise(300_000, 1);
    let inode = create(&live, "a");
    live.write(inode, 0, &bytes, false).unwrap();
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    // Punching leaves parts of subchunks.
    live.fallocate(inode, 50_001, 3, crate::fs::FallocateMode::PunchHole).unwrap();
    live.write(inode, 50_001, &bytes[50_001..50_004], false).unwrap();
    live.fallocate(inode, 200_001, 3, crate::fs::FallocateMode::PunchHole).unwrap();
    let row = |live: &Live| live.snapshot().view().inode(inode).unwrap().unwrap();
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    assert!(row(&live).is_uneven());
    let (before, attributes) = (files(&live), row(&live).mtime);
    let report = live.freeze_now(&FreezeHow { deep: true, ..FreezeHow::everything() }, &|_| ()).unwrap();
    assert!(!row(&live).is_uneven() && report.files == 1 && report.dropped == 0, "{report:?}");
    assert_eq!((files(&live), row(&live).mtime), (before.clone(), attributes));
    let ((_, shape), allocated) = (shape(live.snapshot().view(), "a"), row(&live).allocated());
    assert_eq!((shape.0, allocated), ("content", Some(299_997)));
    let again = live.freeze_now(&FreezeHow { deep: true, ..FreezeHow::everything() }, &|_| ()).unwrap();
    assert_eq!((again.files, again.new_bytes), (0, 0));
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
}

/// A history with freezes and checkpoints, and the files after each commit: (events before it began, events when it had
/// ended, files).
fn history() -> (History, Vec<(usize, usize, Files)>) {
    let history = History::new(Remains { image: empty(), segments: BTreeMap::new() });
    let live = open(Arc::new(history.storage()), Arc::new(history.folder()), 1);
    let mut states = vec![(0, 0, Files::new())];
    let mut commit = |live: &Arc<Live>| {
        let before = history.len();
        live.commit_now().unwrap();
        states.push((before, history.len(), files(live)));
    };
    let freeze = |live: &Live| assert_eq!(live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap().left_bytes, 0);
    let (a, b) = (create(&live, "a"), create(&live, "b"));
    live.write(a, 0, &noise(30_000, 1), false).unwrap();
    live.write(b, 0, b"tiny", false).unwrap();
    commit(&live);
    freeze(&live);
    commit(&live);
    live.write(a, 10_000, &noise(500, 2), false).unwrap();
    commit(&live);
    freeze(&live);
    // Frozen, not committed, and written to again: the commit has both.
    live.write(a, 29_000, &noise(3000, 3), false).unwrap();
    commit(&live);
    live.checkpoint_now().unwrap();
    freeze(&live);
    live.checkpoint_now().unwrap();
    live.unlink(InodeId::ROOT, b"b").unwrap();
    live.write(create(&live, "c"), 0, &noise(20_000, 4), false).unwrap();
    commit(&live);
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    (history, states)
}

// Case 25: rows of superchunks and their bytes; every prefix of a history with freezes and checkpoints.
#[test]
fn a_power_cut_anywhere_in_a_freeze_loses_nothing_that_was_committed() {
    let (history, states) = history();
    let mut cuts = 0;
    for n in 0..=history.len() {
        history.each_cut(n, 6, |left, what| {
            cuts += 1;
            let live = of(left);
            let found = files(&live);
            let first = states.iter().rposition(|state| state.1 <= n).unwrap();
            let allowed = states[first..].iter().filter(|state| state.0 <= n);
            assert!(allowed.clone().any(|state| state.2 == found), "{what}: {:?}", found.keys());
            // The filesystem can continue: freeze, and end.
            if cuts % 5 == 0 {
                live.write(create(&live, "more"), 0, &noise(5000, 7), false).unwrap();
                let expected = files(&live);
                live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
                assert!(files(&live) == expected, "{what}: frozen");
                assert_eq!(live.end(HOUR).unwrap(), Finished::Removed, "{what}");
                assert!(files(&live) == expected, "{what}: ended");
            }
        });
    }
    assert!(cuts > 500, "{cuts}");
}
