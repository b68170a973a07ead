//! Contents shared by a deep freeze, as `check` sees them: at the end, and after a power cut anywhere in between.

use floe::care::{self, CheckOptions, Severity};
use floe::format::ids::InodeId;
use floe::format::params::{Chunker, Params};
use floe::format::rows::{ContentRef, Time};
use floe::fs::start::look;
use floe::fs::{Finished, FreezeHow, Fs, FsOptions, Live, LiveOptions, NewKind, NewNode};
use floe::meta::ImageOptions;
use floe::pack::{PackOptions, empty_into};
use floe::storage::testing::{FolderHome, History, MemoryFolder, MemoryStorage, Remains};
use floe::storage::{Folder, Storage};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
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

type Files = BTreeMap<String, Vec<u8>>;

fn empty() -> Vec<u8> {
    let chunker = Chunker::FastCdc { min: 1024, avg: 2048, max: 8192 };
    let params = Params { chunker, superchunk_size: 1 << 20, ..Params::default() };
    let storage = Arc::new(MemoryStorage::new());
    empty_into(storage.clone(), &PackOptions { params, ..PackOptions::default() }).unwrap();
    storage.to_bytes()
}

fn open(storage: Arc<dyn Storage>, folder: Arc<dyn Folder>, session: u64) -> Arc<Live> {
    let found = look(storage.clone(), Arc::new(FolderHome::new(folder)), ImageOptions::default()).unwrap();
    let seconds = AtomicI64::new(1000);
    let clock = Arc::new(move || Time { secs: seconds.fetch_add(1, Ordering::Relaxed), nanos: 0 });
    let options = LiveOptions { commit: HOUR, clock, log_id: session, segment_size: Some(64 << 10), budget: None };
    Live::new(storage, found, options).unwrap()
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn write(live: &Live, name: &str, bytes: &[u8]) -> InodeId {
    let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0o022, uid: 0, gid: 0 };
    let inode = live.create(InodeId::ROOT, name.as_bytes(), &node).unwrap().inode;
    live.write(inode, 0, bytes, false).unwrap();
    inode
}

/// Names and bytes of all files, and the number of their contents.
fn files(live: &Arc<Live>) -> (Files, usize) {
    let view = live.snapshot().view().clone();
    let fs = Fs::over(live.clone(), FsOptions { readahead: 0, ..FsOptions::default() });
    let mut entries = view.dirents(InodeId::ROOT, None).unwrap();
    let (mut files, mut contents) = (Files::new(), BTreeSet::new());
    while let Some((name, entry)) = entries.peek().unwrap() {
        let (name, mut bytes) = (String::from_utf8(name.to_vec()).unwrap(), Vec::new());
        fs.read(entry.inode, 0, usize::MAX >> 1, &mut bytes).unwrap();
        match view.inode(entry.inode).unwrap().unwrap().content {
            ContentRef::Content(id) => _ = contents.insert((1, id.0)),
            ContentRef::Tiny(id) => _ = contents.insert((2, id.0)),
            _ => {}
        }
        files.insert(name, bytes);
        entries.advance(&view).unwrap();
    }
    (files, contents.len())
}

#[track_caller]
fn assert_clean(storage: Arc<dyn Storage>, what: &str) {
    let report = care::check(storage, &CheckOptions { jobs: 1, ..CheckOptions::default() }, &()).unwrap();
    let bad: Vec<_> = report.findings.iter().filter(|finding| finding.severity > Severity::Note).collect();
    assert!(bad.is_empty(), "{what}: {bad:#?}");
}

#[test]
fn check_finds_nothing_after_a_power_cut_anywhere_in_a_deep_freeze_that_shares() {
    let history = History::new(Remains { image: empty(), segments: BTreeMap::new() });
    let live = open(Arc::new(history.storage()), Arc::new(history.folder()), 1);
    let (bytes, tiny) = (noise(20_000, 1), noise(200, 2));
    let mut inodes = Vec::new();
    for n in 0..3 {
        inodes.push(write(&live, &format!("{n}"), &bytes));
        inodes.push(write(&live, &format!("tiny {n}"), &tiny));
    }
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    live.checkpoint_now().unwrap();
    let (expected, contents) = files(&live);
    assert_eq!(contents, 6);
    let begin = history.len();
    live.freeze_now(&DEEP, &|_| ()).unwrap();
    live.commit_now().unwrap();
    let committed = history.len();
    assert_eq!(files(&live), (expected.clone(), 2));
    live.checkpoint_now().unwrap();
    // Each must be copied first, and one will be deleted.
    live.write(inodes[0], 5000, b"changed", false).unwrap();
    live.write(inodes[3], 50, b"changed", false).unwrap();
    live.unlink(InodeId::ROOT, b"2").unwrap();
    live.reap_now().unwrap();
    live.freeze_now(&DEEP, &|_| ()).unwrap();
    let changed = files(&live);
    assert_eq!((changed.0.len(), changed.1), (5, 4));
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    let mut cuts = 0;
    for n in begin..=history.len() {
        history.each_cut(n, 6, |left, what| {
            cuts += 1;
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(left.image));
            let live = open(storage.clone(), Arc::new(MemoryFolder::from_segments(left.segments)), 9);
            let found = files(&live);
            let shared = (expected.clone(), 2);
            let allowed: &[_] = match n < committed {
                true => &[(expected.clone(), 6), shared],
                false => &[shared, changed.clone()],
            };
            // Everything shared before a commit is in it, or nothing.
            assert!(allowed.contains(&found), "{what}: {} contents of {:?}", found.1, found.0.keys());
            if cuts % 3 == 0 {
                live.freeze_now(&DEEP, &|_| ()).unwrap();
                assert_eq!(files(&live).0, found.0, "{what}");
                live.end(HOUR).unwrap();
                drop(live);
                assert_clean(storage, what);
            }
        });
    }
    assert!(cuts > 100, "{cuts}");
}
