//! Many threads on one filesystem, with commits, checkpoints and reaping between their operations. Afterwards all rows
//! agree, and a mount after a crash shows the same.

use super::super::{FallocateMode, NewKind, NewNode, RenameFlags, SetAttr, XattrFlags};
use super::World;
use crate::format::ids::InodeId;
use crate::fs::snapshot::Snapshot;
use crate::fs::tests::world;
use crate::fs::{FsError, Live};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const THREADS: u64 = 4;
const STEPS: u64 = 300;
const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];

/// Random numbers by Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8(14), 2003.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn name(&mut self) -> &'static [u8] {
        NAMES[self.below(NAMES.len() as u64) as usize]
    }
}

/// The rows, counters and totals of a filesystem, for the check.
fn rows_of(live: &Live) -> World {
    let snapshot: Snapshot = live.snapshot();
    let totals = live.totals();
    let mut world = World {
        snapshot,
        ids: live.ids.clone(),
        inodes: totals.inodes as i64,
        bytes: totals.bytes as i64,
        replayed: BTreeMap::new(),
        frames: RefCell::new(Vec::new()),
        now: live.now(),
    };
    world.replay_is_here();
    world
}

/// A directory or a file that existed a moment ago, found by walking down some names.
fn walk(live: &Live, numbers: &mut Numbers) -> Result<(InodeId, InodeId), FsError> {
    let view = live.snapshot().view().clone();
    let (mut dir, mut file) = (InodeId::ROOT, InodeId::ROOT);
    for _ in 0..numbers.below(5) {
        let Some(entry) = view.lookup(dir, numbers.name())? else { continue };
        match entry.file_type {
            crate::format::rows::FileType::Directory => dir = entry.inode,
            _ => file = entry.inode,
        }
    }
    Ok((dir, file))
}

fn step(live: &Live, numbers: &mut Numbers, open: &mut Vec<InodeId>) -> Result<(), FsError> {
    let ((dir, file), (other_dir, other_file)) = (walk(live, numbers)?, walk(live, numbers)?);
    let (name, other) = (numbers.name(), numbers.name());
    let (offset, len) = (numbers.below(3000), numbers.below(500));
    match numbers.below(16) {
        0..4 => {
            let kind = if numbers.below(3) == 0 { NewKind::Directory } else { NewKind::Regular };
            live.create(dir, name, &NewNode { kind, mode: 0o644, umask: 0, uid: 0, gid: 0 }).map(|_| ())
        }
        4 => live.unlink(dir, name),
        5 => live.rmdir(dir, name),
        6..8 => {
            let flags = RenameFlags { exchange: numbers.below(4) == 0, ..RenameFlags::default() };
            live.rename(dir, name, other_dir, other, flags)
        }
        8 => live.link(file, dir, name).map(|_| ()),
        9..11 => live.write(file, offset, &vec![7; len as usize], false),
        11 => live.set_attr(file, &SetAttr { size: Some(offset), ..SetAttr::default() }).map(|_| ()),
        12 => live.copy_range(file, 0, other_file, numbers.below(2) * offset, 5000).map(|_| ()),
        13 => live.fallocate(file, offset, len.max(1), FallocateMode::PunchHole),
        14 => live.set_xattr(file, b"user.x", &vec![7; len as usize], XattrFlags::default()),
        _ => match open.pop() {
            Some(inode) if numbers.below(2) == 0 => {
                live.release(inode, false);
                Ok(())
            }
            closed => {
                open.extend(closed);
                live.open(file, false)?;
                open.push(file);
                Ok(())
            }
        },
    }
}

// Cases 7, 18, 23.
#[test]
fn threads_that_change_the_same_files_and_directories_leave_rows_that_agree() {
    for seed in 0..40 {
        let world = world::World::new();
        let (live, done): (&Arc<Live>, _) = (&world.live, &AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    let (mut numbers, mut open) = (Numbers(seed * THREADS + thread + 1), Vec::new());
                    for n in 0..STEPS {
                        match step(live, &mut numbers, &mut open) {
                            Err(error @ (FsError::Io(_) | FsError::ReadOnly | FsError::NoSpace)) => {
                                panic!("seed {seed}, thread {thread}, step {n}: {error}");
                            }
                            Ok(()) => _ = done.fetch_add(1, Ordering::Relaxed),
                            Err(_) => {}
                        }
                        if thread == 0 && n % 50 == 49 {
                            live.checkpoint_now().unwrap();
                        } else if n % 40 == 39 {
                            live.commit_now().unwrap();
                        }
                        if n % 60 == 59 {
                            live.reap_now().unwrap();
                        }
                    }
                    open.into_iter().for_each(|inode| live.release(inode, false));
                });
            }
        });
        assert!(done.load(Ordering::Relaxed) > THREADS * STEPS / 4, "most steps are refused");
        live.reap_now().unwrap();
        let rows = rows_of(live);
        rows.scan();
        assert_eq!(rows.rows(&crate::format::schema::ORPHANS), []);
        live.commit_now().unwrap();
        let recovered = rows_of(&world.reopened());
        recovered.scan();
        for table in crate::format::schema::TABLES {
            let tables = [crate::format::schema::MAP.id(), crate::format::schema::THAWED.id()];
            if !tables.contains(&table.id()) {
                assert_eq!(recovered.rows(table), rows.rows(table), "{} after a crash", table.name);
            }
        }
    }
}
