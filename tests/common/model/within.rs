//! One directory of a filesystem, treated as a whole filesystem: several threads then run programs on one filesystem,
//! each with its own model. Called by the test of threads.

use super::data::{Allocate, Attributes, Setting};
use super::machine::{Machine, whole_of};
use super::names::{Flags, New};
use super::state::{Attr, Id, Model, ROOT};
use super::subject::Subject;
use floe::format::ids::InodeId;
use rustix::io::Errno;

/// The content of one directory.
pub struct Within {
    /// The filesystem.
    pub machine: Machine,
    /// The directory.
    pub root: Id,
}

impl Within {
    fn to(&self, id: Id) -> Id {
        match id {
            ROOT => self.root,
            id => id,
        }
    }
}

impl Subject for Within {
    fn create(&mut self, dir: Id, name: &[u8], new: &New) -> Result<Id, Errno> {
        self.machine.create(self.to(dir), name, new)
    }

    fn unlink(&mut self, dir: Id, name: &[u8]) -> Result<(), Errno> {
        self.machine.unlink(self.to(dir), name)
    }

    fn rmdir(&mut self, dir: Id, name: &[u8]) -> Result<(), Errno> {
        self.machine.rmdir(self.to(dir), name)
    }

    fn rename(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), flags: Flags) -> Result<(), Errno> {
        self.machine.rename((self.to(from.0), from.1), (self.to(to.0), to.1), flags)
    }

    fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<(), Errno> {
        self.machine.link(self.to(id), self.to(dir), name)
    }

    fn write(&mut self, id: Id, offset: u64, bytes: &[u8], clear_privileges: bool) -> Result<(), Errno> {
        self.machine.write(self.to(id), offset, bytes, clear_privileges)
    }

    fn truncate(&mut self, id: Id, size: u64) -> Result<(), Errno> {
        self.machine.truncate(self.to(id), size)
    }

    fn set_attributes(&mut self, id: Id, changes: Attributes) -> Result<(), Errno> {
        self.machine.set_attributes(self.to(id), changes)
    }

    fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], how: Setting) -> Result<(), Errno> {
        self.machine.set_xattr(self.to(id), name, value, how)
    }

    fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Result<(), Errno> {
        self.machine.remove_xattr(self.to(id), name)
    }

    fn fallocate(&mut self, id: Id, how: Allocate, offset: u64, len: u64) -> Result<(), Errno> {
        self.machine.fallocate(self.to(id), how, offset, len)
    }

    fn copy(&mut self, from: (Id, u64), to: (Id, u64), len: u64) -> Result<u64, Errno> {
        self.machine.copy((self.to(from.0), from.1), (self.to(to.0), to.1), len)
    }

    fn open(&mut self, id: Id, writing: bool) -> Result<(), Errno> {
        self.machine.open(self.to(id), writing)
    }

    fn release(&mut self, id: Id, writing: bool) {
        self.machine.release(self.to(id), writing);
    }

    fn touch(&mut self, id: Id) -> Result<(), Errno> {
        self.machine.touch(self.to(id))
    }

    fn attributes(&mut self, id: Id) -> Result<Attr, Errno> {
        self.machine.attributes(self.to(id))
    }

    fn read(&mut self, id: Id, offset: u64, len: u64) -> Result<Vec<u8>, Errno> {
        self.machine.read(self.to(id), offset, len)
    }

    fn lookup(&mut self, dir: Id, name: &[u8]) -> Result<Id, Errno> {
        self.machine.lookup(self.to(dir), name)
    }

    fn whole(&mut self) -> Result<Model, String> {
        whole_of(&self.machine.fs, InodeId(self.root))
    }

    /// Threads share the clock.
    fn has_times(&self) -> bool {
        false
    }
}
