//! A worker that changes a directory and knows which of its changes a crash may undo.
//!
//! A worker is the only writer of its directory, so its changes are a sequence. After a crash the directory must be
//! exactly in the state after some prefix of that sequence, which includes everything up to the last sync that
//! returned. So no byte appears that was never written, and no change without those before it. The kernel splits a
//! write into several requests. Written bytes tell who wrote them, and in which change. Used by
//! `tests/writing_kill.rs`.

#[path = "durable_tree.rs"]
mod tree;

use rustix::fs::{FallocateFlags, XattrFlags};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use tree::{Regular, Seen, Tree, differences, read_tree};

/// Longest file.
const SIZE_MAX: u64 = 512 << 10;
/// The kernel's page.
const PAGE: u64 = 4096;
/// Files that a worker keeps open.
const HANDLES_MAX: usize = 6;
const DIRECTORIES: [&str; 4] = ["a", "b", "c", "d"];
const FILES: [&str; 8] = ["f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7"];
const ATTRIBUTE: &str = "user.durable";

/// Pseudorandom numbers from a seed.
pub struct Rng(u64);

impl Rng {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn choose<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len() as u64) as usize) }
    }
}

/// Identifies a file independently of its names, in order of creation.
type FileId = u64;

/// One change. It names files by id, because they are also written through handles.
#[derive(Clone, Debug)]
enum Change {
    Create { path: String, file: FileId, mode: u32 },
    Write { file: FileId, offset: u64, bytes: Arc<Vec<u8>> },
    Truncate { file: FileId, size: u64 },
    Punch { file: FileId, offset: u64, len: u64 },
    Chmod { file: FileId, mode: u32 },
    SetXattr { file: FileId, value: Vec<u8> },
    RemoveXattr { file: FileId },
    Rename { from: String, to: String },
    Unlink { path: String },
    Link { from: String, to: String },
    Mkdir { path: String },
    Rmdir { path: String },
    Symlink { path: String, target: String },
}

#[derive(Clone, Debug, PartialEq)]
enum Name {
    File(FileId),
    Directory,
    Symlink(String),
}

/// The expected tree of a directory.
#[derive(Clone, Debug, Default)]
pub struct State {
    names: BTreeMap<String, Name>,
    files: BTreeMap<FileId, Regular>,
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

impl State {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Create { path, file, mode } => {
                self.names.insert(path.clone(), Name::File(*file));
                self.files.insert(*file, Regular { bytes: Arc::default(), mode: *mode, xattr: None });
            }
            Change::Write { file, offset, bytes: new } => {
                let bytes = self.bytes(*file);
                let end = *offset as usize + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset as usize..end].copy_from_slice(new);
            }
            Change::Truncate { file, size } => self.bytes(*file).resize(*size as usize, 0),
            Change::Punch { file, offset, len } => {
                let bytes = self.bytes(*file);
                let end = (*offset + *len).min(bytes.len() as u64) as usize;
                if (*offset as usize) < end {
                    bytes[*offset as usize..end].fill(0);
                }
            }
            Change::Chmod { file, mode } => self.file(*file).mode = *mode,
            Change::SetXattr { file, value } => self.file(*file).xattr = Some(value.clone()),
            Change::RemoveXattr { file } => self.file(*file).xattr = None,
            Change::Rename { from, to } => {
                let below: Vec<String> = self.names.keys().filter(|p| is_below(p, from)).cloned().collect();
                for path in below {
                    if let Some(name) = self.names.remove(&path) {
                        self.names.insert(format!("{to}{}", &path[from.len()..]), name);
                    }
                }
                if let Some(name) = self.names.remove(from) {
                    self.names.insert(to.clone(), name);
                }
            }
            Change::Unlink { path } | Change::Rmdir { path } => {
                self.names.remove(path);
            }
            Change::Link { from, to } => {
                let name = self.names[from].clone();
                self.names.insert(to.clone(), name);
            }
            Change::Mkdir { path } => {
                self.names.insert(path.clone(), Name::Directory);
            }
            Change::Symlink { path, target } => {
                self.names.insert(path.clone(), Name::Symlink(target.clone()));
            }
        }
    }

    fn file(&mut self, file: FileId) -> &mut Regular {
        self.files.get_mut(&file).expect("a file that was created")
    }

    fn bytes(&mut self, file: FileId) -> &mut Vec<u8> {
        Arc::make_mut(&mut self.file(file).bytes)
    }

    fn paths_of(&self, file: FileId) -> impl Iterator<Item = &String> {
        self.names.iter().filter(move |(_, name)| **name == Name::File(file)).map(|(path, _)| path)
    }

    /// The tree that should be found.
    fn tree(&self) -> Tree {
        let seen = |name: &Name| match name {
            Name::File(id) => {
                let first = self.paths_of(*id).next().cloned().unwrap_or_default();
                Seen::File { first, file: self.files[id].clone() }
            }
            Name::Directory => Seen::Directory,
            Name::Symlink(target) => Seen::Symlink(target.clone()),
        };
        self.names.iter().map(|(path, name)| (path.clone(), seen(name))).collect()
    }

    /// Removes files without a name: after a crash nobody holds them open.
    fn forget_unnamed(&mut self) {
        let named: Vec<FileId> =
            self.names.values().filter_map(|n| if let Name::File(id) = n { Some(*id) } else { None }).collect();
        self.files.retain(|id, _| named.contains(id));
    }
}

/// Changes one directory, and knows what must be in it.
pub struct Worker {
    number: u64,
    root: PathBuf,
    rng: Rng,
    handles: BTreeMap<FileId, File>,
    next_file: FileId,
    changes: u64,
    now: State,
    /// The state at the last sync that returned.
    durable: State,
    /// Changes since then; the last one may not have happened.
    since: Vec<Change>,
}

impl Worker {
    /// A worker in an empty directory.
    pub fn new(number: u64, seed: u64, root: PathBuf) -> Self {
        let rng = Rng::new(seed.wrapping_add(number.wrapping_mul(0x1234_5678_9abc)));
        let (now, durable) = (State::default(), State::default());
        Worker {
            number,
            root,
            rng,
            handles: BTreeMap::new(),
            next_file: 1,
            changes: 0,
            now,
            durable,
            since: Vec::new(),
        }
    }

    /// Makes one change or one sync.
    ///
    /// # Errors
    /// A call failed. It is unknown whether its change was made.
    pub fn step(&mut self) -> io::Result<()> {
        match self.rng.below(100) {
            0..=9 => self.sync(),
            10..=11 => self.close_one(),
            _ => match self.choose_change() {
                Some(change) => self.make(change),
                None => Ok(()),
            },
        }
    }

    /// Number of changes made.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The path of a file that has only this name.
    pub fn held(&self) -> Option<String> {
        let single = |name: &Name| matches!(name, Name::File(id) if self.now.paths_of(*id).count() == 1);
        self.now.names.iter().find(|(_, name)| single(name)).map(|(path, _)| path.clone())
    }

    /// Appends to a file.
    ///
    /// # Errors
    /// A call failed.
    pub fn append(&mut self, path: &str, len: usize) -> io::Result<()> {
        let Some(Name::File(file)) = self.now.names.get(path) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let (file, offset) = (*file, self.now.files[file].bytes.len() as u64);
        self.make(Change::Write { file, offset, bytes: Arc::new(self.record(file, offset, len)) })
    }

    /// Everything so far is durable, whoever synced it.
    pub fn all_is_durable(&mut self) {
        self.durable = self.now.clone();
        self.since.clear();
    }

    /// Closes all files.
    pub fn close_all(&mut self) {
        self.handles.clear();
    }

    /// The directory must be in the state after some prefix of the changes; the worker continues from there.
    ///
    /// # Errors
    /// It is not; the message says what differs.
    pub fn check_after_crash(&mut self) -> Result<(), String> {
        let seen = read_tree(&self.root).map_err(|e| format!("worker {}: cannot be read: {e}", self.number))?;
        let mut state = self.durable.clone();
        let mut states = vec![state.clone()];
        for change in self.since.iter().flat_map(requests) {
            state.apply(&change);
            states.push(state.clone());
        }
        // From the end: usually everything is there.
        let found = states.iter().rposition(|state| state.tree() == seen);
        let Some(found) = found else {
            let each = states.iter().map(|state| differences(&state.tree(), &seen)).enumerate();
            let mut each: Vec<(usize, Vec<String>)> = each.collect();
            each.sort_by_key(|(_, differences)| differences.len());
            let fewest = each.first().map_or(0, |(_, differences)| differences.len());
            let nearest: Vec<String> = each
                .iter()
                .take_while(|(_, differences)| differences.len() == fewest)
                .map(|(n, differences)| format!("after {n} changes: {}", differences.join("; ")))
                .collect();
            let since: Vec<String> = self.since.iter().map(describe).collect();
            return Err(format!(
                "worker {}: the directory is not as it was after any of the {} changes since the last sync.\n\
                 Nearest: {}\nSince: {}",
                self.number,
                self.since.len(),
                nearest.join("\n"),
                since.join(", ")
            ));
        };
        self.now = states.swap_remove(found);
        self.now.forget_unnamed();
        self.all_is_durable();
        Ok(())
    }

    /// The directory must be as it was left.
    ///
    /// # Errors
    /// It is not; the message says what differs.
    pub fn check_all(&self) -> Result<(), String> {
        let seen = read_tree(&self.root).map_err(|e| format!("worker {}: cannot be read: {e}", self.number))?;
        let differences = differences(&self.now.tree(), &seen);
        if differences.is_empty() { Ok(()) } else { Err(format!("worker {}: {}", self.number, differences.join("; "))) }
    }

    fn make(&mut self, change: Change) -> io::Result<()> {
        self.changes += 1;
        self.since.push(change.clone());
        self.perform(&change)?;
        self.now.apply(&change);
        Ok(())
    }

    /// A sync of any kind. Afterwards everything is durable: floe commits everything at once.
    fn sync(&mut self) -> io::Result<()> {
        let handles: Vec<&File> = self.handles.values().collect();
        match (self.rng.below(4), self.rng.choose(&handles)) {
            (0 | 1, Some(file)) => file.sync_all()?,
            (2, Some(file)) => file.sync_data()?,
            (_, _) => File::open(&self.root)?.sync_all()?,
        }
        self.all_is_durable();
        Ok(())
    }

    fn close_one(&mut self) -> io::Result<()> {
        let open: Vec<FileId> = self.handles.keys().copied().collect();
        if let Some(file) = self.rng.choose(&open).copied() {
            self.handles.remove(&file);
        }
        Ok(())
    }

    fn choose_change(&mut self) -> Option<Change> {
        let roll = self.rng.below(100);
        let named: Vec<String> =
            self.now.names.iter().filter(|(_, n)| matches!(n, Name::File(_))).map(|(p, _)| p.clone()).collect();
        if roll < 14 || named.len() < 4 {
            let path = self.new_path()?;
            return Some(match self.rng.below(12) {
                0 => Change::Symlink { target: format!("to-{}", self.changes), path },
                1 if !named.is_empty() => Change::Link { from: self.rng.choose(&named)?.clone(), to: path },
                _ => {
                    self.next_file += 1;
                    Change::Create { path, file: self.next_file, mode: 0o600 }
                }
            });
        }
        if roll < 20 {
            return self.change_directories();
        }
        if roll < 26 {
            let from = self.rng.choose(&named)?.clone();
            // Sometimes over another file, which disappears in the same step.
            let over = self.rng.choose(&named)?.clone();
            let to = if self.rng.below(2) == 0 { over } else { self.new_path()? };
            // Renaming a file over itself changes nothing, and removes no name.
            return (self.now.names[&from] != *self.now.names.get(&to).unwrap_or(&Name::Directory))
                .then_some(Change::Rename { from, to });
        }
        if roll < 30 {
            let paths: Vec<String> =
                self.now.names.iter().filter(|(_, n)| **n != Name::Directory).map(|(p, _)| p.clone()).collect();
            return Some(Change::Unlink { path: self.rng.choose(&paths)?.clone() });
        }
        self.change_file()
    }

    fn change_file(&mut self) -> Option<Change> {
        // Open files may have lost their names.
        let mut files: Vec<FileId> = self.handles.keys().copied().collect();
        files.extend(self.now.names.values().filter_map(|n| if let Name::File(id) = n { Some(*id) } else { None }));
        let file = *self.rng.choose(&files)?;
        let size = self.now.files[&file].bytes.len() as u64;
        let roll = self.rng.below(100);
        Some(match roll {
            0..=69 => {
                let len = match self.rng.below(10) {
                    0 => 1 + self.rng.below(128 << 10),
                    1..=4 => 1 + self.rng.below(16 << 10),
                    _ => 1 + self.rng.below(3000),
                };
                let offset = match self.rng.below(4) {
                    0 | 1 => size,
                    2 => self.rng.below(size + 1),
                    _ => self.rng.below(size + 30_000),
                };
                let offset = offset.min(SIZE_MAX - len);
                Change::Write { file, offset, bytes: Arc::new(self.record(file, offset, len as usize)) }
            }
            70..=79 => Change::Truncate { file, size: self.rng.below((size + 5000).min(SIZE_MAX)) },
            80..=84 => Change::Punch { file, offset: self.rng.below(size + 1), len: 1 + self.rng.below(20_000) },
            85..=89 => Change::Chmod { file, mode: 0o600 | self.rng.below(64) as u32 },
            90..=96 => {
                let len = 1 + self.rng.below(200) as usize;
                Change::SetXattr { file, value: self.record(file, 0, len) }
            }
            _ if self.now.files[&file].xattr.is_some() => Change::RemoveXattr { file },
            _ => return None,
        })
    }

    fn change_directories(&mut self) -> Option<Change> {
        let path = (*self.rng.choose(&DIRECTORIES)?).to_owned();
        if !self.now.names.contains_key(&path) {
            return Some(Change::Mkdir { path });
        }
        if !self.now.names.keys().any(|p| is_below(p, &path)) {
            return Some(Change::Rmdir { path });
        }
        let to = (*self.rng.choose(&DIRECTORIES)?).to_owned();
        (!self.now.names.contains_key(&to)).then_some(Change::Rename { from: path, to })
    }

    /// A free path in an existing directory.
    fn new_path(&mut self) -> Option<String> {
        let name = *self.rng.choose(&FILES)?;
        let directory = *self.rng.choose(&DIRECTORIES)?;
        let path = match self.now.names.contains_key(directory) && self.rng.below(3) > 0 {
            true => format!("{directory}/{name}"),
            false => name.to_owned(),
        };
        (!self.now.names.contains_key(&path)).then_some(path)
    }

    /// Bytes that tell who wrote them, when, to which file and where.
    fn record(&self, file: FileId, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 40);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            bytes.extend_from_slice(format!("<w{} c{} f{file} @{at}>", self.number, self.changes).as_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// The open file: kept open, or opened by a name.
    fn open(&mut self, file: FileId) -> io::Result<&File> {
        if !self.handles.contains_key(&file) {
            if self.handles.len() >= HANDLES_MAX {
                self.close_one()?;
            }
            let path = self.now.paths_of(file).next().cloned();
            let path = path.ok_or_else(|| io::Error::other("a file with neither name nor handle"))?;
            let opened = OpenOptions::new().read(true).write(true).open(self.root.join(path))?;
            self.handles.insert(file, opened);
        }
        Ok(&self.handles[&file])
    }

    fn perform(&mut self, change: &Change) -> io::Result<()> {
        let at = |path: &str| self.root.join(path);
        match change {
            Change::Create { path, file, mode } => {
                let (path, mut options) = (at(path), OpenOptions::new());
                let created = options.read(true).write(true).create_new(true).mode(*mode).open(path)?;
                if self.handles.len() < HANDLES_MAX {
                    self.handles.insert(*file, created);
                }
            }
            Change::Write { file, offset, bytes } => {
                let written = self.open(*file)?.write_at(bytes, *offset)?;
                if written != bytes.len() {
                    return Err(io::Error::other(format!("{written} of {} bytes were written", bytes.len())));
                }
            }
            Change::Truncate { file, size } => self.open(*file)?.set_len(*size)?,
            Change::Punch { file, offset, len } => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(self.open(*file)?, mode, *offset, *len)?;
            }
            Change::Chmod { file, mode } => self.open(*file)?.set_permissions(Permissions::from_mode(*mode))?,
            Change::SetXattr { file, value } => {
                rustix::fs::fsetxattr(self.open(*file)?, ATTRIBUTE, value, XattrFlags::empty())?;
            }
            Change::RemoveXattr { file } => rustix::fs::fremovexattr(self.open(*file)?, ATTRIBUTE)?,
            Change::Rename { from, to } => fs::rename(at(from), at(to))?,
            Change::Unlink { path } => fs::remove_file(at(path))?,
            Change::Link { from, to } => fs::hard_link(at(from), at(to))?,
            Change::Mkdir { path } => fs::create_dir(at(path))?,
            Change::Rmdir { path } => fs::remove_dir(at(path))?,
            Change::Symlink { path, target } => std::os::unix::fs::symlink(target, at(path))?,
        }
        Ok(())
    }
}

/// The requests that make up a change; a crash may keep only the first of them. The kernel splits a write at page
/// borders.
fn requests(change: &Change) -> Vec<Change> {
    let Change::Write { file, offset, bytes } = change else { return vec![change.clone()] };
    let cuts = (offset / PAGE + 1..).map(|page| (page * PAGE - offset) as usize).take_while(|cut| *cut < bytes.len());
    let part = |len: usize| Change::Write { file: *file, offset: *offset, bytes: Arc::new(bytes[..len].to_vec()) };
    cuts.chain([bytes.len()]).map(part).collect()
}

fn describe(change: &Change) -> String {
    match change {
        Change::Write { file, offset, bytes } => format!("write f{file} @{offset} +{}", bytes.len()),
        Change::SetXattr { file, .. } => format!("xattr f{file}"),
        other => format!("{other:?}"),
    }
}
