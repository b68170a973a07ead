//! The model as a subject of itself: computes the result of an operation. Called by the tests of faults, where
//! operations may fail.

use super::Op;
use super::data::{Allocate, Attributes, Setting};
use super::names::{Flags, New};
use super::state::{Attr, Id, Model};
use super::step::step;
use super::subject::Subject;
use floe::format::rows::Time;
use rustix::io::Errno;

/// A copy of the model, and the number for a new inode.
pub struct Echo {
    model: Model,
    next: Id,
    now: Time,
}

/// The model after an operation that succeeds; a new inode gets the number `next`.
pub fn after(model: &Model, op: &Op, next: Id, now: Time) -> Model {
    let mut after = model.clone();
    let mut echo = Echo { model: model.clone(), next, now };
    step(&mut after, &mut echo, now, op).expect("the model agrees with itself");
    after
}

impl Subject for Echo {
    fn create(&mut self, dir: Id, name: &[u8], new: &New) -> Result<Id, Errno> {
        self.model.may_create(dir, name)?;
        self.model.create(dir, name, new, self.next, self.now);
        Ok(self.next)
    }

    fn unlink(&mut self, dir: Id, name: &[u8]) -> Result<(), Errno> {
        self.model.unlink(dir, name, self.now)
    }

    fn rmdir(&mut self, dir: Id, name: &[u8]) -> Result<(), Errno> {
        self.model.rmdir(dir, name, self.now)
    }

    fn rename(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), flags: Flags) -> Result<(), Errno> {
        self.model.rename(from, to, flags, self.now)
    }

    fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<(), Errno> {
        self.model.link(id, dir, name, self.now)
    }

    fn write(&mut self, id: Id, offset: u64, bytes: &[u8], clear_privileges: bool) -> Result<(), Errno> {
        self.model.write(id, offset, bytes, clear_privileges, self.now)
    }

    fn truncate(&mut self, id: Id, size: u64) -> Result<(), Errno> {
        self.model.truncate(id, size, self.now)
    }

    fn set_attributes(&mut self, id: Id, changes: Attributes) -> Result<(), Errno> {
        self.model.set_attributes(id, changes, self.now)
    }

    fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], how: Setting) -> Result<(), Errno> {
        self.model.set_xattr(id, name, value, how, self.now)
    }

    fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Result<(), Errno> {
        self.model.remove_xattr(id, name, self.now)
    }

    fn fallocate(&mut self, id: Id, how: Allocate, offset: u64, len: u64) -> Result<(), Errno> {
        self.model.fallocate(id, how, offset, len, self.now)
    }

    fn copy(&mut self, from: (Id, u64), to: (Id, u64), len: u64) -> Result<u64, Errno> {
        let len = self.model.may_copy(from, to, len)?;
        self.model.copied(from, to, len, self.now);
        Ok(len)
    }

    fn open(&mut self, id: Id, writing: bool) -> Result<(), Errno> {
        self.model.open(id, writing)
    }

    fn release(&mut self, id: Id, writing: bool) {
        self.model.release(id, writing);
    }

    fn touch(&mut self, id: Id) -> Result<(), Errno> {
        self.model.node(id).map(drop)
    }

    fn attributes(&mut self, id: Id) -> Result<Attr, Errno> {
        self.model.node(id).map(Attr::of)
    }

    fn read(&mut self, id: Id, offset: u64, len: u64) -> Result<Vec<u8>, Errno> {
        Ok(self.model.bytes(id)?.read(offset, len))
    }

    fn lookup(&mut self, dir: Id, name: &[u8]) -> Result<Id, Errno> {
        self.model.lookup(dir, name)
    }

    fn whole(&mut self) -> Result<Model, String> {
        Ok(self.model.closed())
    }
}
