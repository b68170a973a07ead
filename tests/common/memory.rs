//! A filesystem that is written in memory: an image and its thaw log, small subchunks, and what is in it.

#![allow(dead_code, reason = "each test binary uses its own part")]

use floe::care::{CheckReport, Severity};
use floe::format::ids::InodeId;
use floe::format::params::{Chunker, Params};
use floe::format::rows::Time;
use floe::fs::start::look;
use floe::fs::{Fs, FsOptions, Live, LiveOptions, NewKind, NewNode};
use floe::meta::ImageOptions;
use floe::pack::{PackOptions, empty_into};
use floe::storage::testing::{FolderHome, MemoryStorage};
use floe::storage::{Folder, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Longer than any test: no commit is made that nobody asks for.
pub const HOUR: Duration = Duration::from_secs(3600);

/// Bytes of files, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Small subchunks and superchunks, packed at level 12.
pub fn params() -> Params {
    let chunker = Chunker::FastCdc { min: 1024, avg: 2048, max: 8192 };
    Params { chunker, superchunk_size: 1 << 20, ..Params::default() }
}

/// The bytes of an empty image, packed at level 12.
pub fn empty(params: Params) -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::new());
    let compression = "zstd:12".parse().unwrap();
    empty_into(storage.clone(), &PackOptions { params, compression, ..PackOptions::default() }).unwrap();
    storage.to_bytes()
}

/// Opens an image and its thaw log for writing. The clock advances a second each time it is read.
pub fn open(storage: Arc<dyn Storage>, folder: Arc<dyn Folder>, session: u64) -> Arc<Live> {
    let found = look(storage.clone(), Arc::new(FolderHome::new(folder)), ImageOptions::default()).unwrap();
    let seconds = AtomicI64::new(1000);
    let clock = Arc::new(move || Time { secs: seconds.fetch_add(1, Ordering::Relaxed), nanos: 0 });
    let options = LiveOptions { commit: HOUR, clock, log_id: session, segment_size: Some(64 << 10), budget: None };
    Live::new(storage, found, options).unwrap()
}

/// Makes a file in the root directory.
pub fn write(live: &Live, name: &str, bytes: &[u8]) -> InodeId {
    let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0o022, uid: 0, gid: 0 };
    let inode = live.create(InodeId::ROOT, name.as_bytes(), &node).unwrap().inode;
    live.write(inode, 0, bytes, false).unwrap();
    inode
}

/// Names and inodes of the files in the root directory.
pub fn inodes(live: &Live) -> Vec<(String, InodeId)> {
    let view = live.snapshot().view().clone();
    let (mut entries, mut inodes) = (view.dirents(InodeId::ROOT, None).unwrap(), Vec::new());
    while let Some((name, entry)) = entries.peek().unwrap() {
        inodes.push((String::from_utf8(name.to_vec()).unwrap(), entry.inode));
        entries.advance(&view).unwrap();
    }
    inodes
}

/// Names and bytes of the files in the root directory.
pub fn files(live: &Arc<Live>) -> Files {
    let fs = Fs::over(live.clone(), FsOptions { readahead: 0, ..FsOptions::default() });
    let read = |(name, inode)| {
        let mut bytes = Vec::new();
        fs.read(inode, 0, usize::MAX >> 1, &mut bytes).unwrap();
        (name, bytes)
    };
    inodes(live).into_iter().map(read).collect()
}

/// Expects that a check has found nothing but notes.
#[track_caller]
pub fn assert_clean(report: &CheckReport, what: &str) {
    let bad: Vec<_> = report.findings.iter().filter(|finding| finding.severity > Severity::Note).collect();
    assert!(bad.is_empty(), "{what}: {bad:#?}");
}
