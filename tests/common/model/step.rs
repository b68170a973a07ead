//! Makes one operation on the model and on the file system under test: the results and everything it touched must be
//! equal. Called by the tests.

use super::data::Attributes;
use super::program::{At, Name, Op, Rank, fixed_name, xattr_name};
use super::rng::written;
use super::state::{Attr, Id, Kind, Model};
use super::subject::Subject;
use floe::format::rows::Time;
use std::fmt::Debug;

/// A number that no inode has.
const NOBODY: Id = (1 << 48) - 7;
/// Most bytes of a name.
const NAME_MAX: usize = 255;
/// Most pages of all files: beyond it a program empties files.
const PAGES: usize = 3000;
/// Most inodes.
const INODES: usize = 120;

/// The model, and the state of comparing an operation.
pub struct Stepper<'a> {
    /// The model.
    pub model: &'a mut Model,
    /// The file system.
    pub subject: &'a mut dyn Subject,
    /// The clock's time.
    pub now: Time,
    touched: Vec<Id>,
    /// Whether times may have changed, but need not have.
    loose: bool,
}

/// Makes one operation. The caller makes those of the storage (commits and the like).
///
/// # Errors
/// What differs.
pub fn step(model: &mut Model, subject: &mut dyn Subject, now: Time, op: &Op) -> Result<(), String> {
    let before = model.clone();
    let mut stepper = Stepper { model, subject, now, touched: Vec::new(), loose: false };
    stepper.run(op)?;
    let touched = std::mem::take(&mut stepper.touched);
    let loose = stepper.loose;
    for id in before.nodes.keys().copied().filter(|id| !model.nodes.contains_key(id)) {
        subject.forgotten(id);
    }
    for id in touched {
        if let (true, Ok(found)) = (loose && subject.has_times(), subject.attributes(id)) {
            adopt_times(&before, model, id, &found, now)?;
        }
        let expected = model.node(id).map(Attr::of);
        let found = subject.attributes(id);
        let (expected, found) = match subject.has_times() {
            true => (expected, found),
            false => (expected.map(Attr::timeless), found.map(Attr::timeless)),
        };
        same(&format!("attributes of inode {id}"), &expected, &found)?;
    }
    Ok(())
}

/// Adopts times that may be either the old ones or the current time.
fn adopt_times(before: &Model, model: &mut Model, id: Id, found: &Attr, now: Time) -> Result<(), String> {
    let (Ok(old), Ok(_)) = (before.node(id), model.node(id)) else { return Ok(()) };
    let node = model.node_mut(id);
    let times = [
        ("mtime", &mut node.mtime, old.mtime, found.mtime),
        ("ctime", &mut node.ctime, old.ctime, found.ctime),
        ("atime", &mut node.atime, old.atime, found.atime),
    ];
    for (what, ours, old, found) in times {
        if found != old && found != now {
            return Err(format!("{what} of inode {id} is {found:?}, before it was {old:?}, now it is {now:?}"));
        }
        *ours = found;
    }
    Ok(())
}

fn same<T: PartialEq + Debug>(what: &str, expected: &T, found: &T) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    Err(format!("{what}:\n  expected {expected:?}\n  found    {found:?}"))
}

impl Stepper<'_> {
    fn ranked(list: &[Id], rank: Rank) -> Id {
        match list {
            [] => NOBODY,
            list => list[(usize::from(rank) + list.len() - 1) % list.len()],
        }
    }

    fn dir(&self, rank: Rank) -> Id {
        match rank {
            // Something other than a directory, or nothing.
            0 if self.now.secs % 2 == 0 => Self::ranked(&self.model.files(), 1),
            0 => NOBODY,
            rank => Self::ranked(&self.model.directories(), rank),
        }
    }

    fn file(&self, rank: Rank) -> Id {
        if rank == 0 { NOBODY } else { Self::ranked(&self.model.files(), rank) }
    }

    fn any(&self, rank: Rank) -> Id {
        let all: Vec<Id> = self.model.nodes.keys().copied().collect();
        if rank == 0 { NOBODY } else { Self::ranked(&all, rank) }
    }

    fn name(&self, dir: Id, name: Name) -> Vec<u8> {
        let present = |rank: u16| {
            let names = self.model.names(dir).ok()?;
            let at = usize::from(rank) % names.len().max(1);
            names.keys().nth(at).cloned()
        };
        match name {
            Name::Fixed(number) => fixed_name(number),
            Name::Present(rank) => present(rank).unwrap_or_else(|| fixed_name(rank as u8 % 7)),
        }
    }

    fn offset(&self, id: Id, at: At) -> u64 {
        match at {
            At::From(offset) => offset,
            At::Size(way) => self.model.bytes(id).map_or(0, |bytes| bytes.size()).saturating_add_signed(way),
        }
    }

    fn touch(&mut self, ids: &[Id]) {
        self.touched.extend_from_slice(ids);
    }

    fn run(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Create(..) | Op::Unlink(..) | Op::Rmdir(..) | Op::Rename(..) | Op::Link(..) | Op::Lookup(..) => {
                self.names(op)
            }
            Op::Write(..) | Op::WriteZeros(..) | Op::Truncate(..) | Op::Fallocate(..) | Op::Copy(..) | Op::Read(..) => {
                self.data(op)
            }
            Op::Attributes(..)
            | Op::SetXattr(..)
            | Op::RemoveXattr(..)
            | Op::Open(..)
            | Op::Release(..)
            | Op::Touch(..) => self.inodes(op),
            Op::Compare => self.compare(),
            Op::Commit
            | Op::Checkpoint
            | Op::Reap
            | Op::Remount
            | Op::End
            | Op::Gc
            | Op::Freeze(..)
            | Op::Snapshot(..)
            | Op::Crash(..) => Ok(()),
        }
    }

    /// Compares everything.
    pub fn compare(&mut self) -> Result<(), String> {
        let found = self.subject.whole()?;
        let named = self.model.closed();
        let difference = match self.subject.has_times() {
            true => named.difference(&found),
            false => named.timeless().difference(&found.timeless()),
        };
        difference.map_or(Ok(()), |difference| Err(format!("all that there is: {difference}")))
    }

    fn names(&mut self, op: &Op) -> Result<(), String> {
        let now = self.now;
        match op {
            Op::Create(dir, name, new) => {
                let dir = self.dir(*dir);
                let name = self.name(dir, *name);
                if self.model.nodes.len() > INODES {
                    return Ok(());
                }
                self.touch(&[dir]);
                let expected = self.model.may_create(dir, &name);
                let found = self.subject.create(dir, &name, new);
                // Either of the two errors is right: the kernel calls the file system only for directories.
                if self.model.names(dir).is_err() && found.is_err() {
                    return Ok(());
                }
                same("create", &expected, &found.map(drop))?;
                if let Ok(id) = found {
                    if self.model.nodes.contains_key(&id) {
                        return Err(format!("the new inode has number {id}, which another has"));
                    }
                    self.model.create(dir, &name, new, id, now);
                    self.touch(&[id]);
                }
                Ok(())
            }
            Op::Unlink(dir, name) | Op::Rmdir(dir, name) => {
                let dir = self.dir(*dir);
                let name = self.name(dir, *name);
                self.touch(&[dir]);
                if self.model.names(dir).is_err() {
                    return Ok(());
                }
                self.touched.extend(self.model.lookup(dir, &name));
                if matches!(op, Op::Unlink(..)) {
                    same("unlink", &self.model.unlink(dir, &name, now), &self.subject.unlink(dir, &name))
                } else {
                    same("rmdir", &self.model.rmdir(dir, &name, now), &self.subject.rmdir(dir, &name))
                }
            }
            Op::Rename((dir, name), (to_dir, to_name), flags) => {
                let (dir, to_dir) = (self.dir(*dir), self.dir(*to_dir));
                let (name, to_name) = (self.name(dir, *name), self.name(to_dir, *to_name));
                self.touch(&[dir, to_dir]);
                self.touched.extend(self.model.lookup(dir, &name));
                self.touched.extend(self.model.lookup(to_dir, &to_name));
                let (from, to) = ((dir, name.as_slice()), (to_dir, to_name.as_slice()));
                let odd = self.model.names(dir).is_err()
                    || self.model.names(to_dir).is_err()
                    || name.len().max(to_name.len()) > NAME_MAX;
                let expected = self.model.rename(from, to, *flags, now);
                let found = self.subject.rename(from, to, *flags);
                // Either of the two errors is right.
                if odd && expected.is_err() && found.is_err() {
                    return Ok(());
                }
                same("rename", &expected, &found)
            }
            Op::Link(inode, (dir, name)) => {
                let (inode, dir) = (self.any(*inode), self.dir(*dir));
                let name = self.name(dir, *name);
                if inode == NOBODY || self.model.names(dir).is_err() {
                    return Ok(());
                }
                self.touch(&[inode, dir]);
                same("link", &self.model.link(inode, dir, &name, now), &self.subject.link(inode, dir, &name))
            }
            Op::Lookup(dir, name) => {
                let dir = self.dir(*dir);
                let name = self.name(dir, *name);
                // The kernel calls the file system only for directories.
                if self.model.names(dir).is_err() {
                    return Ok(());
                }
                same("lookup", &self.model.lookup(dir, &name), &self.subject.lookup(dir, &name))
            }
            _ => Ok(()),
        }
    }

    fn data(&mut self, op: &Op) -> Result<(), String> {
        let now = self.now;
        match op {
            Op::Write(file, at, len, ..) | Op::WriteZeros(file, at, len) => {
                let id = self.file(*file);
                if self.model.pages() > PAGES {
                    return self.data(&Op::Truncate(*file, At::From(0)));
                }
                let offset = self.offset(id, *at);
                let (bytes, clear) = match op {
                    Op::Write(.., seed, clear) => (written(*seed, *len as usize), *clear),
                    _ => (vec![0; *len as usize], false),
                };
                if bytes.is_empty() && id == NOBODY {
                    return Ok(());
                }
                self.touch(&[id]);
                same(
                    &format!("write of {len} bytes at {offset} of inode {id}"),
                    &self.model.write(id, offset, &bytes, clear, now),
                    &self.subject.write(id, offset, &bytes, clear),
                )?;
                self.around(id, offset, (*len).into())
            }
            Op::Truncate(file, at) => {
                let id = self.file(*file);
                let size = self.offset(id, *at);
                let before = self.model.bytes(id).map(|bytes| bytes.size());
                self.touch(&[id]);
                self.loose = before == Ok(size);
                same(
                    &format!("truncate of inode {id} to {size}"),
                    &self.model.truncate(id, size, now),
                    &self.subject.truncate(id, size),
                )?;
                self.around(id, size, 0)
            }
            Op::Fallocate(file, how, at, len) => {
                let id = self.file(*file);
                let offset = self.offset(id, *at);
                self.touch(&[id]);
                self.loose = true;
                same(
                    &format!("fallocate {how:?} of {len} bytes at {offset} of inode {id}"),
                    &self.model.fallocate(id, *how, offset, *len, now),
                    &self.subject.fallocate(id, *how, offset, *len),
                )?;
                self.around(id, offset, *len)
            }
            Op::Copy((from, at), (to, to_at), len) => {
                let (from, to) = (self.file(*from), self.file(*to));
                if self.model.pages() > PAGES {
                    return self.data(&Op::Truncate(1, At::From(0)));
                }
                let (from, to) = ((from, self.offset(from, *at)), (to, self.offset(to, *to_at)));
                self.touch(&[from.0, to.0]);
                self.loose = true;
                let expected = self.model.may_copy(from, to, *len);
                let found = self.subject.copy(from, to, *len);
                let what = format!("copy of {len} bytes from {from:?} to {to:?}");
                match (expected, found) {
                    // Fewer bytes are allowed, but not none.
                    (Ok(most), Ok(copied)) if copied <= most && (copied > 0 || most == 0) => {
                        self.model.copied(from, to, copied, now);
                        self.around(to.0, to.1, copied)
                    }
                    (expected, found) => same(&what, &expected, &found),
                }
            }
            Op::Read(file, at, len) => {
                let id = self.file(*file);
                let offset = self.offset(id, *at);
                self.around(id, offset, (*len).into())
            }
            _ => Ok(()),
        }
    }

    /// The bytes of a range, with a margin on both sides.
    fn around(&mut self, id: Id, offset: u64, len: u64) -> Result<(), String> {
        const MARGIN: u64 = 5000;
        const MOST: u64 = 2 << 20;
        let Ok(bytes) = self.model.bytes(id) else { return Ok(()) };
        let (from, len) = (offset.saturating_sub(MARGIN), len.min(MOST) + 2 * MARGIN);
        let expected = bytes.read(from, len);
        let found = self.subject.read(id, from, len).map_err(|errno| format!("reading inode {id}: {errno:?}"))?;
        if expected == found {
            return Ok(());
        }
        let differs = (0..expected.len().max(found.len())).find(|&at| expected.get(at) != found.get(at)).unwrap_or(0);
        Err(format!(
            "bytes of inode {id} differ at {}: expected {} bytes, {:x?}…, found {} bytes, {:x?}…",
            from + differs as u64,
            expected.len(),
            &expected[differs.min(expected.len())..(differs + 8).min(expected.len())],
            found.len(),
            &found[differs.min(found.len())..(differs + 8).min(found.len())],
        ))
    }

    fn inodes(&mut self, op: &Op) -> Result<(), String> {
        let now = self.now;
        match op {
            Op::Attributes(inode, changes) => {
                let id = self.any(*inode);
                let changes = self.sensible(id, *changes);
                self.touch(&[id]);
                self.loose = changes == Attributes::default();
                same(
                    "set attributes",
                    &self.model.set_attributes(id, changes, now),
                    &self.subject.set_attributes(id, changes),
                )
            }
            Op::SetXattr(inode, name, len, seed, how) => {
                let id = self.any(*inode);
                let (name, value) = (self.xattr(id, *name), written(*seed, *len as usize));
                self.touch(&[id]);
                same(
                    "set xattr",
                    &self.model.set_xattr(id, &name, &value, *how, now),
                    &self.subject.set_xattr(id, &name, &value, *how),
                )
            }
            Op::RemoveXattr(inode, name) => {
                let id = self.any(*inode);
                let name = self.xattr(id, *name);
                self.touch(&[id]);
                same("remove xattr", &self.model.remove_xattr(id, &name, now), &self.subject.remove_xattr(id, &name))
            }
            Op::Open(inode, writing) => {
                let id = self.file(*inode);
                same("open", &self.model.open(id, *writing), &self.subject.open(id, *writing))
            }
            Op::Release(rank) => {
                let open: Vec<(Id, bool)> = self.model.open_ones();
                if let Some(&(id, writing)) = open.get(usize::from(*rank) % open.len().max(1)) {
                    self.model.release(id, writing);
                    self.subject.release(id, writing);
                    // Without a name it may exist until the reaper comes: bytes from the page cache arrive late.
                    if self.model.nodes.contains_key(&id) {
                        self.touch(&[id]);
                    }
                }
                Ok(())
            }
            Op::Touch(inode) => {
                let id = self.file(*inode);
                self.touch(&[id]);
                self.loose = true;
                same("touch", &self.model.node(id).map(drop), &self.subject.touch(id))
            }
            _ => Ok(()),
        }
    }

    /// A symlink's mode cannot be changed.
    fn sensible(&self, id: Id, mut changes: Attributes) -> Attributes {
        if self.model.node(id).is_ok_and(|node| matches!(node.kind, Kind::Symlink(_))) {
            changes.mode = None;
        }
        changes
    }

    fn xattr(&self, id: Id, number: u8) -> Vec<u8> {
        let plain = self.model.node(id).is_ok_and(|node| node.is_dir() || matches!(node.kind, Kind::Regular(_)));
        xattr_name(number, plain && number.is_multiple_of(2))
    }
}
