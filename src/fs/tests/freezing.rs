//! Freezing, on storages in memory: what files become, and how it meets changes, failures and the end.

use super::world::World;
use crate::format::ids::InodeId;
use crate::format::params::{Chunker, Params};
use crate::format::rows::{ContentRef, InodeRow};
use crate::format::schema;
use crate::fs::freezing::Step;
use crate::fs::{
    FallocateMode, Finished, FreezeHow, FreezeReport, Fs, FsOptions, Live, NewKind, NewNode, RenameFlags, SetAttr,
};
use crate::pack::PackOptions;
use crate::storage::Operation;
use crate::storage::testing::Fault;
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// Small subchunks and superchunks, so that there are many.
fn options() -> PackOptions {
    let chunker = Chunker::FastCdc { min: 1024, avg: 2048, max: 8192 };
    PackOptions { params: Params { chunker, superchunk_size: 1 << 20, ..Params::default() }, ..PackOptions::default() }
}

fn world() -> World {
    World::of(HOUR, &options())
}

/// Bytes that do not repeat.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn create(live: &Live, name: &str) -> InodeId {
    let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0o022, uid: 0, gid: 0 };
    live.create(InodeId::ROOT, name.as_bytes(), &node).unwrap().inode
}

fn file(live: &Live, name: &str, bytes: &[u8]) -> InodeId {
    let inode = create(live, name);
    live.write(inode, 0, bytes, false).unwrap();
    inode
}

fn read(live: &Arc<Live>, inode: InodeId) -> Vec<u8> {
    let fs = Fs::over(live.clone(), FsOptions::default());
    let mut out = Vec::new();
    fs.read(inode, 0, usize::MAX >> 1, &mut out).unwrap();
    out
}

fn row(live: &Live, inode: InodeId) -> InodeRow {
    let view = live.snapshot().view().clone();
    view.inode(inode).unwrap().unwrap()
}

fn freeze(live: &Live) -> FreezeReport {
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap()
}

fn thawed_rows(live: &Live) -> usize {
    let view = live.snapshot().view().clone();
    let mut cursor = view.cursor_at(&schema::THAWED, crate::format::block::KeyRef::new(0, 0)).unwrap();
    let mut rows = 0;
    while cursor.row().is_some() {
        rows += 1;
        cursor.advance(&view).unwrap();
    }
    rows
}

#[test]
fn what_was_written_is_frozen_and_the_log_goes_at_the_end() {
    let world = world();
    let live = &world.live;
    let contents = [noise(100, 1), noise(700, 2), noise(300_000, 3), Vec::new()];
    let files: Vec<_> = (0..).zip(&contents).map(|(n, bytes)| file(live, &format!("{n}"), bytes)).collect();
    live.write(files[3], 100_000, &noise(50_000, 4), false).unwrap();
    let expected: Vec<_> = files.iter().map(|&inode| read(live, inode)).collect();
    let report = freeze(live);
    assert_eq!((report.files, report.left_bytes, report.dropped), (4, 0, 0));
    assert_eq!(report.frozen_bytes, report.bytes);
    assert_eq!((thawed_rows(live), live.status().unwrap().thawed_bytes), (0, 0));
    let all = |live: &Arc<Live>| files.iter().map(|&inode| read(live, inode)).collect::<Vec<_>>();
    assert_eq!(all(live), expected);
    assert!(matches!(row(live, files[0]).content, ContentRef::Tiny(_)));
    assert!(matches!(row(live, files[1]).content, ContentRef::Subchunk(_)));
    assert!(matches!(row(live, files[2]).content, ContentRef::Content(_)));
    assert_eq!((row(live, files[2]).allocated(), row(live, files[3]).allocated()), (None, Some(50_000)));
    assert!(files.iter().all(|&inode| !row(live, inode).is_uneven()));
    live.commit_now().unwrap();
    assert_eq!(all(&world.reopened()), expected);
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    assert_eq!(world.segments(), [0u64; 0]);
    assert_eq!(all(&world.reopened()), expected);
}
