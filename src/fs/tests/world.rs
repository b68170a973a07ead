//! An empty image and its thaw log in memory. Each operation can be made to fail or wait.

use super::gate::Gate;
use crate::format::ids::InodeId;
use crate::format::rows::Time;
use crate::fs::live::{Live, LiveOptions};
use crate::fs::start::{FoundLog, look};
use crate::fs::{Fs, FsError, FsOptions, NewKind, NewNode};
use crate::meta::ImageOptions;
use crate::pack::{PackOptions, empty_into};
use crate::storage::testing::{FaultyStorage, FolderHome, MemoryFolder, MemoryStorage};
use crate::storage::{Folder, LogHome, Operation, Storage};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Smallest segments, so that there are many.
const SEGMENT: u64 = 16 << 10;

pub struct World {
    pub storage: Arc<FaultyStorage<MemoryStorage>>,
    /// Faults of the thaw log's segments and names.
    pub faults: FaultyStorage<MemoryStorage>,
    folder: Arc<dyn Folder>,
    /// The gate for syncs of the thaw log's segments.
    pub gate: Gate,
    pub live: Arc<Live>,
    budget: Option<u64>,
    sessions: AtomicU64,
}

impl World {
    pub fn new() -> Self {
        World::committing_every(Duration::from_secs(3600))
    }

    pub fn committing_every(commit: Duration) -> Self {
        World::of(commit, &PackOptions::default())
    }

    /// A world with an image made with these options.
    pub fn of(commit: Duration, options: &PackOptions) -> Self {
        World::with(commit, options, None)
    }

    /// A world whose log has at most this many bytes, in sixteen segments.
    pub fn with_budget(budget: u64) -> Self {
        World::with(Duration::from_secs(3600), &PackOptions::default(), Some(budget))
    }

    pub fn with(commit: Duration, options: &PackOptions, budget: Option<u64>) -> Self {
        let storage = Arc::new(FaultyStorage::new(MemoryStorage::new()));
        empty_into(storage.clone(), options).unwrap();
        let faults = FaultyStorage::new(MemoryStorage::new());
        let folder: Arc<dyn Folder> = Arc::new(faults.folder(MemoryFolder::new()));
        let gate = Gate::default();
        let of_syncs = gate.clone();
        faults.before(Operation::Sync, move |_| of_syncs.pass());
        let live = open(storage.clone(), folder.clone(), commit, budget, 1);
        World { storage, faults, folder, gate, live, budget, sessions: AtomicU64::new(1) }
    }

    /// The filesystem that a mount after a crash shows, if no written byte was lost.
    pub fn reopened(&self) -> Arc<Live> {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        open(self.storage.clone(), self.folder.clone(), Duration::from_secs(3600), self.budget, session)
    }

    /// The end of the image that the last counted transaction of the thaw log names; 0 without one.
    pub fn end_after_a_crash(&self) -> u64 {
        let home: Arc<dyn LogHome> = Arc::new(FolderHome::new(self.folder.clone()));
        match look(self.storage.clone(), home, ImageOptions::default()).unwrap().log {
            FoundLog::Resume(recovered, _) => recovered.image_end(),
            _ => 0,
        }
    }

    /// Flips a bit in some written bytes of the thaw log.
    pub fn damage_written(&self, bytes: &[u8]) {
        for number in self.folder.list().unwrap() {
            let segment = self.folder.open(number).unwrap();
            let mut all = vec![0; segment.len().unwrap() as usize];
            segment.read_at(0, &mut all).unwrap();
            if let Some(at) = all.windows(bytes.len()).position(|window| window == bytes) {
                all[at] ^= 1;
                segment.truncate(0).unwrap();
                segment.append(&[&all]).unwrap();
                return;
            }
        }
        panic!("the thaw log does not have these bytes");
    }

    pub fn segments(&self) -> Vec<u64> {
        self.folder.list().unwrap()
    }
}

/// Opens what is there. The clock advances a second each time it is read.
pub fn open(
    storage: Arc<dyn Storage>,
    folder: Arc<dyn Folder>,
    commit: Duration,
    budget: Option<u64>,
    session: u64,
) -> Arc<Live> {
    let home: Arc<dyn LogHome> = Arc::new(FolderHome::new(folder));
    let found = look(storage.clone(), home, ImageOptions::default()).unwrap();
    let seconds = AtomicI64::new(1000);
    let clock = Arc::new(move || Time { secs: seconds.fetch_add(1, Ordering::Relaxed), nanos: 0 });
    let segment = budget.map_or(SEGMENT, |budget| budget / 16);
    let options = LiveOptions { commit, clock, log_id: 0x1000 + session, segment_size: Some(segment), budget };
    Live::new(storage, found, options).unwrap()
}

/// Bytes that do not repeat.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// An empty file in the root directory.
pub fn create(live: &Live, name: &str) -> InodeId {
    let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0o022, uid: 0, gid: 0 };
    live.create(InodeId::ROOT, name.as_bytes(), &node).unwrap().inode
}

/// A file with these bytes in the root directory.
pub fn file(live: &Live, name: &str, bytes: &[u8]) -> InodeId {
    let inode = create(live, name);
    live.write(inode, 0, bytes, false).unwrap();
    inode
}

/// All bytes of a file.
pub fn read(live: &Arc<Live>, inode: InodeId) -> Vec<u8> {
    let fs = Fs::over(live.clone(), FsOptions::default());
    let mut out = Vec::new();
    fs.read(inode, 0, usize::MAX >> 1, &mut out).unwrap();
    out
}

/// The mtime of the root, in seconds. These tests change it and look at it.
pub fn mark(live: &Live) -> i64 {
    live.snapshot().view().inode(InodeId::ROOT).unwrap().unwrap().mtime.secs
}

/// Changes the mark, by an operation that counts as removing something.
pub fn set_mark_removing(live: &Live, secs: i64) -> Result<(), FsError> {
    live.transact(|draft| {
        draft.removes();
        let mut root = draft.inode(InodeId::ROOT)?;
        root.mtime.secs = secs;
        draft.put_inode(InodeId::ROOT, &root);
        Ok(())
    })
}

/// Changes the mark.
pub fn set_mark(live: &Live, secs: i64) -> Result<(), FsError> {
    live.transact(|draft| {
        let mut root = draft.inode(InodeId::ROOT)?;
        root.mtime.secs = secs;
        draft.put_inode(InodeId::ROOT, &root);
        Ok(())
    })
}
