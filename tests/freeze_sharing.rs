//! Contents shared by a deep freeze, as `check` sees them: at the end, and after a power cut anywhere in between.

#[path = "common/memory.rs"]
mod memory;

use floe::care::{self, CheckOptions};
use floe::format::ids::InodeId;
use floe::format::rows::ContentRef;
use floe::fs::{Finished, FreezeHow, Live};
use floe::storage::Storage;
use floe::storage::testing::{History, MemoryFolder, MemoryStorage, Remains};
use memory::{Files, HOUR, assert_clean, empty, files, inodes, open, params, write};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const DEEP: FreezeHow<'static> = FreezeHow {
    everything: true,
    open_files: false,
    rest: false,
    level: None,
    by_rate: false,
    deep: true,
    priority: floe::freeze::Priority::Normal,
    stop: &|| false,
    frozen: &|_| (),
};

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Names and bytes of all files, and the number of their contents.
fn contents(live: &Arc<Live>) -> (Files, usize) {
    let view = live.snapshot().view().clone();
    let content = |(_, inode)| match view.inode(inode).unwrap().unwrap().content {
        ContentRef::Content(id) => Some((1, id.0)),
        ContentRef::Tiny(id) => Some((2, id.0)),
        _ => None,
    };
    let contents: BTreeSet<_> = inodes(live).into_iter().filter_map(content).collect();
    (files(live), contents.len())
}

#[test]
fn check_finds_nothing_after_a_power_cut_anywhere_in_a_deep_freeze_that_shares() {
    let history = History::new(Remains { image: empty(params()), segments: BTreeMap::new() });
    let live = open(Arc::new(history.storage()), Arc::new(history.folder()), 1);
    let (bytes, tiny) = (noise(20_000, 1), noise(200, 2));
    let mut inodes = Vec::new();
    for n in 0..3 {
        inodes.push(write(&live, &format!("{n}"), &bytes));
        inodes.push(write(&live, &format!("tiny {n}"), &tiny));
    }
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    live.checkpoint_now().unwrap();
    let (expected, number) = contents(&live);
    assert_eq!(number, 6);
    let begin = history.len();
    live.freeze_now(&DEEP, &|_| ()).unwrap();
    live.commit_now().unwrap();
    let committed = history.len();
    assert_eq!(contents(&live), (expected.clone(), 2));
    live.checkpoint_now().unwrap();
    // Each must be copied first, and one will be deleted.
    live.write(inodes[0], 5000, b"changed", false).unwrap();
    live.write(inodes[3], 50, b"changed", false).unwrap();
    live.unlink(InodeId::ROOT, b"2").unwrap();
    live.reap_now().unwrap();
    live.freeze_now(&DEEP, &|_| ()).unwrap();
    let changed = contents(&live);
    assert_eq!((changed.0.len(), changed.1), (5, 4));
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    let mut cuts = 0;
    for n in begin..=history.len() {
        history.each_cut(n, 6, |left, what| {
            cuts += 1;
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(left.image));
            let live = open(storage.clone(), Arc::new(MemoryFolder::from_segments(left.segments)), 9);
            let found = contents(&live);
            let shared = (expected.clone(), 2);
            let allowed: &[_] = match n < committed {
                true => &[(expected.clone(), 6), shared],
                false => &[shared, changed.clone()],
            };
            // Everything shared before a commit is in it, or nothing.
            assert!(allowed.contains(&found), "{what}: {} contents of {:?}", found.1, found.0.keys());
            if cuts % 3 == 0 {
                live.freeze_now(&DEEP, &|_| ()).unwrap();
                assert_eq!(contents(&live).0, found.0, "{what}");
                live.end(HOUR).unwrap();
                drop(live);
                let report = care::check(storage, &CheckOptions { jobs: 1, ..CheckOptions::default() }, &()).unwrap();
                assert_clean(&report, what);
            }
        });
    }
    assert!(cuts > 100, "{cuts}");
}
