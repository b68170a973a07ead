//! Random programs. After each, the rows agree, and every file has the bytes that a plain model has.

use super::super::fallocate::FallocateMode;
use super::super::reap::reap_step;
use super::super::rename::RenameFlags;
use super::super::setattr::SetAttr;
use super::{NewKind, ROOT, World, run};
use crate::format::ids::{InodeId, SubchunkId};
use crate::format::rows::ContentRef;
use crate::fs::FsError;
use crate::fs::content::{hole, slice};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Step {
    Make { dir: usize, name: usize, kind: usize },
    Unlink { dir: usize, name: usize },
    Rmdir { dir: usize, name: usize },
    Rename { from: (usize, usize), to: (usize, usize), flags: usize },
    Link { file: usize, dir: usize, name: usize },
    Write { file: usize, offset: u64, len: usize },
    Truncate { file: usize, size: u64 },
    Fallocate { file: usize, offset: u64, len: u64, mode: usize },
    Copy { from: (usize, u64), to: (usize, u64), len: u64 },
    Xattr { file: usize, name: usize, len: usize },
    Chmod { file: usize, mode: u16 },
    Open { file: usize },
    Close { file: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let (dir, name, file) = (0usize..4, 0usize..4, 0usize..12);
    let place = (dir.clone(), name.clone());
    let (offset, len) = (prop_oneof![Just(0u64), 0u64..150], prop_oneof![1u64..20, 1u64..200]);
    prop_oneof![
        4 => (place.clone(), 0usize..9).prop_map(|((dir, name), kind)| Step::Make { dir, name, kind }),
        2 => place.clone().prop_map(|(dir, name)| Step::Unlink { dir, name }),
        1 => place.clone().prop_map(|(dir, name)| Step::Rmdir { dir, name }),
        3 => (place.clone(), place.clone(), 0usize..3).prop_map(|(from, to, flags)| Step::Rename { from, to, flags }),
        2 => (file.clone(), place).prop_map(|(file, (dir, name))| Step::Link { file, dir, name }),
        5 => (file.clone(), offset.clone(), 0usize..120).prop_map(|(file, offset, len)| Step::Write { file, offset, len }),
        3 => (file.clone(), offset.clone()).prop_map(|(file, size)| Step::Truncate { file, size }),
        3 => (file.clone(), offset.clone(), len.clone(), 0usize..5)
            .prop_map(|(file, offset, len, mode)| Step::Fallocate { file, offset, len, mode }),
        3 => ((file.clone(), offset.clone()), (file.clone(), offset), len)
            .prop_map(|(from, to, len)| Step::Copy { from, to, len }),
        2 => (file.clone(), 0usize..3, prop_oneof![0usize..40, 100usize..400])
            .prop_map(|(file, name, len)| Step::Xattr { file, name, len }),
        1 => (file.clone(), 0u16..0o10000).prop_map(|(file, mode)| Step::Chmod { file, mode }),
        1 => file.clone().prop_map(|file| Step::Open { file }),
        1 => file.prop_map(|file| Step::Close { file }),
    ]
}

/// The world, and the expected contents of its files.
struct Test {
    world: World,
    dirs: Vec<InodeId>,
    files: Vec<InodeId>,
    bytes: BTreeMap<InodeId, Vec<u8>>,
    open: BTreeSet<InodeId>,
    next_byte: u8,
}

impl Test {
    fn new() -> Self {
        let mut world = World::new();
        let rows = [run(10, &[10, 12, 8]), hole(20), slice(SubchunkId(20), 5, 15), run(30, &[9, 11])];
        let packed = world.packed_rows("packed", &rows);
        let files = vec![
            packed,
            world.packed_twin("twin", packed),
            world.packed_tiny("tiny", b"a tiny file"),
            world.packed("subchunk", 60, ContentRef::Subchunk(SubchunkId(9))),
        ];
        let bytes = files.iter().map(|&file| (file, world.read(file))).collect();
        Test { world, dirs: vec![ROOT], files, bytes, open: BTreeSet::new(), next_byte: 1 }
    }

    fn dir(&self, n: usize) -> InodeId {
        self.dirs[n % self.dirs.len()]
    }

    fn file(&self, n: usize) -> InodeId {
        self.files[n % self.files.len()]
    }

    /// Runs a step. A step that is refused changes nothing.
    fn run(&mut self, step: Step) -> Result<(), FsError> {
        match step {
            Step::Make { dir, name, kind } => {
                let parent = self.dir(dir);
                if self.world.find(parent, NAMES[name]).is_some() || self.world.view().inode(parent)?.is_none() {
                    return Ok(());
                }
                let made = match kind {
                    0..3 => NewKind::Directory,
                    3 => NewKind::Symlink(b"target".to_vec()),
                    4 => NewKind::Fifo,
                    _ => NewKind::Regular,
                };
                let is_regular = made == NewKind::Regular;
                let inode = self.world.make(parent, NAMES[name], made);
                match kind {
                    0..3 => self.dirs.push(inode),
                    _ => self.files.push(inode),
                }
                if is_regular {
                    self.bytes.insert(inode, Vec::new());
                }
            }
            Step::Unlink { dir, name } => self.world.unlink(self.dir(dir), NAMES[name])?,
            Step::Rmdir { dir, name } => self.world.rmdir(self.dir(dir), NAMES[name])?,
            Step::Rename { from, to, flags } => {
                let flags = RenameFlags { no_replace: flags == 1, exchange: flags == 2 };
                self.world.rename((self.dir(from.0), NAMES[from.1]), (self.dir(to.0), NAMES[to.1]), flags)?;
            }
            Step::Link { file, dir, name } => self.world.link(self.file(file), self.dir(dir), NAMES[name])?,
            Step::Write { file, offset, len } => {
                let (inode, byte) = (self.file(file), self.next_byte);
                self.world.write(inode, offset, &vec![byte; len])?;
                self.next_byte = self.next_byte.wrapping_add(1).max(1);
                let end = offset as usize + len;
                let bytes = self.bytes.get_mut(&inode).unwrap();
                if len > 0 {
                    bytes.resize(bytes.len().max(end), 0);
                    bytes[offset as usize..end].fill(byte);
                }
            }
            Step::Truncate { file, size } => {
                self.world.truncate(self.file(file), size)?;
                self.bytes.get_mut(&self.file(file)).unwrap().resize(size as usize, 0);
            }
            Step::Fallocate { file, offset, len, mode } => {
                let (zeros, grows, mode) = match mode {
                    0 => (false, true, FallocateMode::Allocate),
                    1 => (false, false, FallocateMode::KeepSize),
                    2 => (true, true, FallocateMode::ZeroRange { keep_size: false }),
                    3 => (true, false, FallocateMode::ZeroRange { keep_size: true }),
                    _ => (true, false, FallocateMode::PunchHole),
                };
                self.world.fallocate(self.file(file), offset, len, mode)?;
                let bytes = self.bytes.get_mut(&self.file(file)).unwrap();
                if grows {
                    bytes.resize(bytes.len().max((offset + len) as usize), 0);
                }
                if zeros {
                    bytes.iter_mut().skip(offset as usize).take(len as usize).for_each(|byte| *byte = 0);
                }
            }
            Step::Copy { from, to, len } => {
                let (source, target) = ((self.file(from.0), from.1), (self.file(to.0), to.1));
                let copied = self.world.copy(source, target, len)? as usize;
                let piece = self.bytes[&source.0].iter().skip(source.1 as usize).take(len as usize);
                let piece: Vec<u8> = piece.copied().collect();
                assert_eq!(piece.len(), copied);
                let bytes = self.bytes.get_mut(&target.0).unwrap();
                if copied > 0 {
                    let end = target.1 as usize + copied;
                    bytes.resize(bytes.len().max(end), 0);
                    bytes[target.1 as usize..end].copy_from_slice(&piece);
                }
            }
            Step::Xattr { file, name, len } => {
                let (inode, name) = (self.file(file), format!("user.{}", NAMES[name]));
                match len {
                    0 => self.world.remove_xattr(inode, &name)?,
                    _ => self.world.set_xattr(inode, &name, &vec![7; len])?,
                }
            }
            Step::Chmod { file, mode } => {
                let inode = self.file(file);
                self.world.set(inode, SetAttr { mode: Some(mode), uid: Some(1), ..SetAttr::default() })?;
            }
            Step::Open { file } => {
                let inode = self.file(file);
                if self.world.view().inode(inode)?.is_some() {
                    self.world.open(inode);
                    self.open.insert(inode);
                }
            }
            Step::Close { file } => self.close(self.file(file))?,
        }
        Ok(())
    }

    fn close(&mut self, inode: InodeId) -> Result<(), FsError> {
        self.world.close(inode);
        self.open.remove(&inode);
        if self.world.view().orphan(inode)?.is_some() {
            assert!(self.world.run(|draft| reap_step(draft, inode))?);
        }
        Ok(())
    }

    fn check(&self) {
        self.world.scan();
        for (&inode, bytes) in &self.bytes {
            let there = self.world.view().inode(inode).unwrap().or(self.world.view().orphan(inode).unwrap());
            if there.is_some() {
                assert_eq!(&self.world.read(inode), bytes, "inode {inode}");
            } else {
                assert!(!self.open.contains(&inode));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn after_any_program_rows_agree_with_totals_shares_and_bytes(steps in prop::collection::vec(step(), 1..60)) {
        let mut test = Test::new();
        for step in steps {
            match test.run(step.clone()) {
                Err(FsError::Io(why)) => panic!("{step:?}: {why}"),
                _ => test.check(),
            }
        }
        for inode in test.open.clone() {
            test.close(inode).unwrap();
        }
        prop_assert_eq!(test.world.rows(&crate::format::schema::ORPHANS), vec![]);
        test.check();
    }
}
