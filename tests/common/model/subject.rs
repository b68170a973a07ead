//! The interface of a file system under test: floe's, and the kernel's, which tests the model itself.

use super::data::{Allocate, Attributes, Setting};
use super::names::{Flags, New};
use super::state::{Attr, Id, Model};
use rustix::io::Errno;

/// A file system with operations on inodes.
pub trait Subject {
    /// Creates, and gives the new inode's number.
    fn create(&mut self, dir: Id, name: &[u8], new: &New) -> Result<Id, Errno>;
    /// unlink(2).
    fn unlink(&mut self, dir: Id, name: &[u8]) -> Result<(), Errno>;
    /// rmdir(2).
    fn rmdir(&mut self, dir: Id, name: &[u8]) -> Result<(), Errno>;
    /// renameat2(2).
    fn rename(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), flags: Flags) -> Result<(), Errno>;
    /// link(2).
    fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<(), Errno>;
    /// pwrite(2).
    fn write(&mut self, id: Id, offset: u64, bytes: &[u8], clear_privileges: bool) -> Result<(), Errno>;
    /// ftruncate(2).
    fn truncate(&mut self, id: Id, size: u64) -> Result<(), Errno>;
    /// chmod(2) and others.
    fn set_attributes(&mut self, id: Id, changes: Attributes) -> Result<(), Errno>;
    /// setxattr(2).
    fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], how: Setting) -> Result<(), Errno>;
    /// removexattr(2).
    fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Result<(), Errno>;
    /// fallocate(2).
    fn fallocate(&mut self, id: Id, how: Allocate, offset: u64, len: u64) -> Result<(), Errno>;
    /// copy_file_range(2): how many bytes were copied.
    fn copy(&mut self, from: (Id, u64), to: (Id, u64), len: u64) -> Result<u64, Errno>;
    /// open(2).
    fn open(&mut self, id: Id, writing: bool) -> Result<(), Errno>;
    /// The last close(2) of one open(2).
    fn release(&mut self, id: Id, writing: bool);
    /// A read that sets the time of the last read, if the file system does so.
    fn touch(&mut self, id: Id) -> Result<(), Errno>;
    /// stat(2).
    fn attributes(&mut self, id: Id) -> Result<Attr, Errno>;
    /// pread(2).
    fn read(&mut self, id: Id, offset: u64, len: u64) -> Result<Vec<u8>, Errno>;
    /// The inode that a name refers to.
    fn lookup(&mut self, dir: Id, name: &[u8]) -> Result<Id, Errno>;
    /// Everything in it, found from the root down. Inconsistencies are described in the error.
    fn whole(&mut self) -> Result<Model, String>;
    /// Whether its times are those of the test's clock.
    fn has_times(&self) -> bool {
        true
    }
    /// An inode is gone, in the model.
    fn forgotten(&mut self, id: Id) {
        let _ = id;
    }
}
