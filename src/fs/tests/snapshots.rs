//! Snapshots, on storages in memory: what they show while the head goes on, and what failures leave.

use super::world::{World, noise};
use crate::care::{self, CheckOptions, Severity};
use crate::format::block::KeyRef;
use crate::format::head::ro_compat;
use crate::format::ids::InodeId;
use crate::format::params::{Chunker, Params};
use crate::format::rows::inode::{TAG_ALLOCATED, TAG_WRITER};
use crate::format::rows::{ContentRef, InodeRow};
use crate::format::schema;
use crate::fs::freezing::control::Step;
use crate::fs::gc::{GcError, NoReaders};
use crate::fs::{
    FallocateMode, Finished, FreezeHow, Fs, FsOptions, Live, NewKind, NewNode, RenameFlags, SetAttr, SnapshotError,
    XattrFlags, digest,
};
use crate::meta::{Image, ImageOptions};
use crate::pack::PackOptions;
use crate::storage::Operation;
use crate::storage::testing::Fault;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const NEVER: &dyn Fn() -> bool = &|| false;

/// Small subchunks and superchunks.
pub fn params() -> Params {
    let chunker = Chunker::FastCdc { min: 1024, avg: 2048, max: 8192 };
    Params { chunker, superchunk_size: 1 << 20, ..Params::default() }
}

/// Batches of two superchunks.
fn world() -> World {
    let world = World::with(HOUR, &PackOptions { params: params(), ..PackOptions::default() }, Some(16 << 20));
    world.live.set_keep_out(Arc::new(|| Ok(Box::new(()) as NoReaders)));
    world
}

fn make(live: &Live, dir: InodeId, name: &str, kind: NewKind) -> InodeId {
    let node = NewNode { kind, mode: 0o755, umask: 0o022, uid: 0, gid: 0 };
    live.create(dir, name.as_bytes(), &node).unwrap().inode
}

pub fn file(live: &Live, name: &str, bytes: &[u8]) -> InodeId {
    let inode = make(live, InodeId::ROOT, name, NewKind::Regular);
    live.write(inode, 0, bytes, false).unwrap();
    inode
}

fn options() -> FsOptions {
    FsOptions { cache: 4 << 20, readahead: 0, verify: true }
}

/// Everything that is visible: a digest of names, attributes and bytes; and the times and link count of each inode.
pub type Seen = ([u8; 32], Vec<(u64, InodeRow)>);

pub fn seen(fs: &Fs) -> Seen {
    let snapshot = fs.snapshot();
    let view = snapshot.view();
    let mut rows = Vec::new();
    let mut cursor = view.cursor_at(&schema::INODES, KeyRef::new(0, 0)).unwrap();
    while let Some(row) = cursor.row() {
        let decoded = InodeRow::decode(row.ints(), row.tail()).unwrap();
        // Where the bytes are stored, and attributes about that, are not visible.
        let attributes = decoded.attributes.iter().filter(|(tag, _)| ![TAG_WRITER, TAG_ALLOCATED].contains(tag));
        let bare = InodeRow { content: ContentRef::None, attributes: attributes.cloned().collect(), ..decoded };
        rows.push((row.key().a, bare));
        cursor.advance(view).unwrap();
    }
    (digest(fs, InodeId::ROOT).unwrap(), rows)
}

pub fn head(live: &Arc<Live>) -> Seen {
    seen(&Fs::over(live.clone(), options()))
}

fn image(world: &World) -> Arc<Image> {
    Arc::new(Image::open(world.storage.clone(), ImageOptions::default()).unwrap())
}

pub fn fs_of(image: &Image, name: &str) -> Arc<Fs> {
    let (_, row) = image.snapshot_named(name.as_bytes()).unwrap().unwrap();
    Fs::new(Arc::new(image.at_snapshot(&row).unwrap()), options())
}

fn shown(world: &World, name: &str) -> Seen {
    seen(&fs_of(&image(world), name))
}

fn how() -> FreezeHow<'static> {
    FreezeHow::default()
}

fn names(image: &Image) -> Vec<(u64, String)> {
    let name = |name: Vec<u8>| String::from_utf8(name).unwrap();
    image.snapshots().unwrap().into_iter().map(|(ordinal, row)| (ordinal, name(row.name))).collect()
}

#[track_caller]
fn assert_clean(world: &World, what: &str) {
    let options = CheckOptions { jobs: 1, ..CheckOptions::default() };
    let report = care::check(world.storage.clone(), &options, &()).unwrap();
    let bad: Vec<_> = report.findings.iter().filter(|finding| finding.severity > Severity::Note).collect();
    assert!(bad.is_empty(), "{what}: {bad:#?}");
}

type Between = Arc<Mutex<dyn FnMut(&Arc<Live>, Step) + Send>>;

/// Calls `act` between all steps.
pub fn between(live: &Arc<Live>, act: impl FnMut(&Arc<Live>, Step) + Send + 'static) {
    fn arm(live: Weak<Live>, act: Between) {
        let (strong, again) = (live.upgrade().unwrap(), live.clone());
        strong.freezer.set_hook_anywhere(move |step| {
            (act.lock())(&live.upgrade().unwrap(), step);
            arm(again.clone(), act.clone());
        });
    }
    arm(Arc::downgrade(live), Arc::new(Mutex::new(act)));
}

/// The files that exist when snapshots are made: in the log, in the image, in both, with holes, tiny, open, linked,
/// sharing bytes, and one that is open and has no name.
struct Tree {
    all: Vec<InodeId>,
    nameless: InodeId,
}

fn tree(live: &Arc<Live>) -> Tree {
    let dir = make(live, InodeId::ROOT, "dir", NewKind::Directory);
    make(live, dir, "link", NewKind::Symlink(b"../a".to_vec()));
    let frozen = file(live, "frozen", &noise(300_000, 1));
    let both = file(live, "both", &noise(300_000, 2));
    let gone = file(live, "gone", &noise(5000, 3));
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    live.write(both, 100_000, &noise(30_000, 4), false).unwrap();
    live.write(both, 299_000, &noise(9000, 5), false).unwrap();
    let thawed = file(live, "thawed", &noise(3_000_000, 6));
    let copy = file(live, "copy", &noise(3_000_000, 6));
    let sparse = file(live, "sparse", &noise(2000, 7));
    live.write(sparse, 400_000, &noise(3000, 8), false).unwrap();
    let (tiny, open) = (file(live, "tiny", b"tiny"), file(live, "open", &noise(50_000, 9)));
    live.set_xattr(open, b"user.a", &[7; 3000], XattrFlags::default()).unwrap();
    live.link(tiny, dir, b"tiny too").unwrap();
    let nameless = file(live, "nameless", &noise(60_000, 10));
    let all = vec![frozen, both, thawed, copy, sparse, tiny, open];
    for &inode in all.iter().chain([&nameless, &gone]) {
        live.open(inode, true).unwrap();
    }
    live.unlink(InodeId::ROOT, b"nameless").unwrap();
    live.unlink(InodeId::ROOT, b"gone").unwrap();
    Tree { all, nameless }
}

/// Changes a part of everything, differently each time.
fn change(live: &Live, tree: &Tree, n: u64) {
    for (at, &inode) in (0..).zip(&tree.all) {
        let seed = 1000 + n * 100 + at;
        match (n + at) % 6 {
            0 => live.write(inode, 10_000 * n, &noise(20_000, seed), false).unwrap(),
            1 => _ = live.set_attr(inode, &SetAttr { size: Some(2000 + n), ..SetAttr::default() }).unwrap(),
            2 => live.write(inode, 720_000 + n * 1000, &noise(5000, seed), false).unwrap(),
            3 => live.fallocate(inode, 500, 150_000, FallocateMode::PunchHole).unwrap(),
            4 => live.set_xattr(inode, b"user.n", &[n as u8; 2000], XattrFlags::default()).unwrap(),
            _ => live.write(inode, 0, &noise(400_000, seed), false).unwrap(),
        }
    }
    let name = |n: u64| if n == 0 { "thawed".to_owned() } else { format!("thawed {n}") };
    let (from, to) = (name(n), name(n + 1));
    live.rename(InodeId::ROOT, from.as_bytes(), InodeId::ROOT, to.as_bytes(), RenameFlags::default()).unwrap();
    live.write(tree.nameless, 0, &noise(100, n), false).unwrap();
    file(live, &format!("new {n}"), &noise(30_000, n));
    // Removes one name after another. The file with the name "open" is open.
    if let Some(name) = ["copy", "open", "both", "frozen"].get(n as usize) {
        live.unlink(InodeId::ROOT, name.as_bytes()).unwrap();
    }
}

// Case 18.
#[test]
fn a_snapshot_shows_its_moment_whatever_changes_between_the_steps_of_making_it() {
    let world = world();
    let live = &world.live;
    let tree = Arc::new(tree(live));
    let moment = head(live);
    let steps = Arc::new(Mutex::new(Vec::new()));
    let (told, of_hook) = (steps.clone(), tree.clone());
    between(live, move |live, step| {
        let n = told.lock().len() as u64;
        change(live, &of_hook, n);
        told.lock().push(step);
        if matches!(step, Step::Taken | Step::Frozen | Step::Packed) {
            // Others freeze and make checkpoints meanwhile; gc is kept out. If they freeze first, nothing is left for a
            // batch.
            if step != Step::Taken {
                live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
            }
            live.checkpoint_now().unwrap();
            assert!(matches!(live.gc_now(NEVER), Err(GcError::Snapshot)));
        }
    });
    let ordinal = live.snapshot_now(b"first", b"a comment", &how()).unwrap();
    between(live, |_, _| ());
    let steps = steps.lock().clone();
    let batches = steps.iter().filter(|step| **step == Step::Frozen).count();
    assert!(steps[..2] == [Step::Sealed, Step::Taken] && batches >= 2, "{steps:?}");
    assert!(steps[steps.len() - 2..] == [Step::Packed, Step::Sealed], "{steps:?}");
    assert!(head(live) != moment);
    assert!(shown(&world, "first") == moment);
    let after = head(live);
    live.commit_now().unwrap();
    assert!(head(&world.reopened()) == after);
    // What the head no longer has is kept for the snapshot.
    for &inode in tree.all.iter().chain([&tree.nameless]) {
        live.release(inode, true);
    }
    for n in 0..40 {
        for name in ["sparse".to_owned(), "tiny".to_owned(), format!("thawed {n}"), format!("new {n}")] {
            let _ = live.unlink(InodeId::ROOT, name.as_bytes());
        }
    }
    live.reap_now().unwrap();
    live.checkpoint_now().unwrap();
    let freed = live.gc_now(NEVER).unwrap();
    assert!(freed.freed_bytes > 0, "{freed:?}");
    assert!(shown(&world, "first") == moment, "after gc");
    let last = head(live);
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    let image = image(&world);
    assert_eq!((names(&image), ordinal), (vec![(1, "first".to_owned())], 1));
    let (_, row) = image.snapshot_named(b"first").unwrap().unwrap();
    assert_eq!((row.comment, image.head().ro_compat & ro_compat::SNAPSHOTS), (b"a comment".to_vec(), 2));
    assert!(shown(&world, "first") == moment && seen(&Fs::new(image, options())) == last);
    assert_clean(&world, "at the end");
    // The next session continues from there.
    let live = world.reopened();
    assert_eq!(live.snapshot_now(b"second", b"", &how()).unwrap(), 2);
    assert!(shown(&world, "first") == moment && shown(&world, "second") == last);
}

//= format-spec.md#10
//= type=test
//# An inode without a name at that moment is not in it, even if it was open.
// Case 18.
#[test]
fn what_had_no_name_is_outside_the_snapshot_and_what_loses_it_later_is_inside() {
    let world = world();
    let live = &world.live;
    let (orphan, later) = (file(live, "orphan", &noise(70_000, 1)), file(live, "later", &noise(70_000, 2)));
    live.open(orphan, true).unwrap();
    live.unlink(InodeId::ROOT, b"orphan").unwrap();
    let moment = head(live);
    let mut steps = 0;
    between(live, move |live, step| {
        steps += 1;
        if steps == 1 {
            assert_eq!(step, Step::Sealed);
            live.open(later, true).unwrap();
            live.unlink(InodeId::ROOT, b"later").unwrap();
        }
    });
    live.snapshot_now(b"s", b"", &how()).unwrap();
    between(live, |_, _| ());
    let fs = fs_of(&image(&world), "s");
    assert!(seen(&fs) == moment);
    let view = fs.snapshot().view().clone();
    let mut bytes = Vec::new();
    fs.read(later, 0, 100_000, &mut bytes).unwrap();
    assert_eq!(bytes, noise(70_000, 2));
    assert!(view.inode(orphan).unwrap().is_none() && view.orphan(orphan).unwrap().is_none());
    assert!(fs.read(orphan, 0, 10, &mut bytes).is_err());
    assert!(!view.has_thawed());
    for table in [&schema::INODES, &schema::CONTENTS, &schema::TINY, &schema::XATTRS] {
        let mut cursor = view.cursor_at(table, KeyRef::new(0, 0)).unwrap();
        let mut rows = Vec::new();
        while let Some(row) = cursor.row() {
            rows.push(row.key().a);
            cursor.advance(&view).unwrap();
        }
        rows.dedup();
        // The root and one file, which has one content.
        let expected = [(1, 2), (3, 1)].into_iter().find(|(id, _)| *id == table.id().0).map_or(0, |(_, many)| many);
        assert_eq!(rows.len(), expected, "{}", table.name);
    }
    // The head has both as long as they are open.
    let of_head = Fs::over(live.clone(), options());
    for (inode, seed) in [(orphan, 1), (later, 2)] {
        bytes.clear();
        of_head.read(inode, 0, 100_000, &mut bytes).unwrap();
        assert_eq!(bytes, noise(70_000, seed));
    }
    live.end(HOUR).unwrap();
    assert_clean(&world, "at the end");
}

//= format-spec.md#10
//= type=test
//# No two snapshots of an image have the same name.
#[test]
fn a_taken_name_an_invalid_name_and_a_long_comment_are_refused() {
    let world = world();
    let live = &world.live;
    file(live, "a", b"a");
    assert_eq!(live.snapshot_now(b"s", b"", &how()).unwrap(), 1);
    let error = live.snapshot_now(b"s", b"", &how()).unwrap_err();
    assert_eq!(error.to_string(), "cannot make a snapshot 's': one of this name already exists (choose another name)");
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
        assert!(matches!(live.snapshot_now(name, b"", &how()), Err(SnapshotError::Name(_))), "{name:?}");
    }
    let long = [b'c'; 4097];
    assert!(matches!(live.snapshot_now(b"t", &long, &how()), Err(SnapshotError::Comment { len: 4097 })));
    assert_eq!(live.snapshot_now(b"t", &long[1..], &how()).unwrap(), 2);
    live.end(HOUR).unwrap();
    let live = world.reopened();
    assert!(matches!(live.snapshot_now(b"t", b"", &how()), Err(SnapshotError::Exists { .. })));
    assert_eq!(names(&image(&world)), [(1, "s".to_owned()), (2, "t".to_owned())]);
}

#[test]
fn bytes_that_cannot_be_read_and_a_stop_leave_no_snapshot_and_the_head_as_it_is() {
    let world = world();
    let live = &world.live;
    let bad = file(live, "bad", &noise(5000, 1));
    file(live, "good", &noise(5000, 2));
    assert!(matches!(
        live.snapshot_now(b"s", b"", &FreezeHow { stop: &|| true, ..how() }),
        Err(SnapshotError::Stopped)
    ));
    world.damage_written(&noise(5000, 1)[100..200]);
    let again = file(live, "good too", &noise(5000, 3));
    match live.snapshot_now(b"s", b"", &how()).unwrap_err() {
        SnapshotError::Unreadable { inode, .. } => assert_eq!(inode, bad),
        other => panic!("{other}"),
    }
    assert_eq!(names(&image(&world)), []);
    // gc may run again, and without the file a snapshot can be made.
    live.gc_now(NEVER).unwrap();
    live.unlink(InodeId::ROOT, b"bad").unwrap();
    let moment = head(live);
    live.snapshot_now(b"s", b"", &how()).unwrap();
    assert!(shown(&world, "s") == moment);
    let mut bytes = Vec::new();
    fs_of(&image(&world), "s").read(again, 0, 9000, &mut bytes).unwrap();
    assert_eq!(bytes, noise(5000, 3));
}

#[test]
fn whichever_operation_of_the_image_fails_there_is_a_whole_snapshot_or_none_and_the_head_loses_nothing() {
    let (mut failed, mut made) = (0, 0);
    for n in 0.. {
        let world = world();
        let live = &world.live;
        file(live, "a", &noise(300_000, 1));
        file(live, "b", b"tiny");
        live.commit_now().unwrap();
        let moment = head(live);
        let asked = world.storage.count();
        world.storage.fail_nth(n, if n.is_multiple_of(2) { Fault::Eio } else { Fault::Enospc });
        let done = live.snapshot_now(b"s", b"", &how());
        let happened = world.storage.count() - asked > n;
        world.storage.fail_no_more();
        failed += u64::from(done.is_err());
        assert!(head(live) == moment, "operation {n}");
        let there = names(&image(&world)).len();
        assert!(there == 1 || done.is_err(), "operation {n}: {done:?}");
        made += there;
        if there == 1 {
            assert!(shown(&world, "s") == moment, "operation {n}");
        }
        if live.latched().is_none() && there == 0 {
            let ordinal = live.snapshot_now(b"s", b"", &how()).unwrap();
            assert!(shown(&world, "s") == moment && ordinal <= 2, "operation {n}, and again");
        }
        let live = world.reopened();
        assert!(head(&live) == moment, "operation {n}, after a crash");
        live.set_keep_out(Arc::new(|| Ok(Box::new(()) as NoReaders)));
        live.unlink(InodeId::ROOT, b"a").unwrap();
        live.gc_now(NEVER).unwrap();
        if names(&image(&world)).len() == 1 {
            assert!(shown(&world, "s") == moment, "operation {n}, after gc");
        }
        live.end(HOUR).unwrap();
        assert_clean(&world, &format!("operation {n}"));
        if !happened {
            break;
        }
    }
    assert!(failed > 15 && made > 1, "{failed} {made}");
}

#[test]
fn a_snapshot_after_a_checkpoint_that_was_given_up_shows_what_came_since_it() {
    let world = world();
    let live = &world.live;
    file(live, "a", &noise(5000, 1));
    world.storage.fail_nth_of(Operation::Append, 0, Fault::Enospc);
    assert!(live.checkpoint_now().is_err() && live.latched().is_none());
    file(live, "b", &noise(5000, 2));
    let moment = head(live);
    live.snapshot_now(b"s", b"", &how()).unwrap();
    assert!(shown(&world, "s") == moment);
    live.end(HOUR).unwrap();
    assert_clean(&world, "at the end");
}

#[test]
fn snapshots_made_at_once_each_have_their_own_ordinal() {
    let world = world();
    let live = &world.live;
    file(live, "a", &noise(50_000, 1));
    let ordinals = std::thread::scope(|scope| {
        let made = |n: u64| live.snapshot_now(format!("{n}").as_bytes(), b"", &how()).unwrap();
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || made(n))).collect();
        let mut ordinals: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        ordinals.sort_unstable();
        ordinals
    });
    assert_eq!(ordinals, [1, 2, 3, 4]);
    assert_eq!(names(&image(&world)).len(), 4);
}
