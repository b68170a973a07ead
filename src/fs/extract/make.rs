//! Makes one file, link or device in a directory of the target. Never follows a link that has its name.

use super::target::{TargetError, is_fatal, is_shortage, open_beneath};
use crate::format::rows::FileType;
use crate::fs::{Attr, Fs, FsError, SeekTo};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Number of bytes that are read and written at once.
const STEP: u64 = 1 << 20;

/// Why a file was not made in the target.
#[derive(Debug)]
pub(super) enum MakeError {
    /// The name exists in the target.
    Exists,
    /// The file cannot be read in the image.
    Read(FsError),
    /// The file cannot be written in the target.
    Write(std::io::Error),
    /// The file would replace the image that is being read, or a file that belongs to it.
    Own,
    /// The observer asked to stop.
    Cancelled,
}

impl MakeError {
    /// Returns the error, if the process has run out of descriptors: such an error is not about a single file.
    pub(super) fn shortage(&self) -> Option<Errno> {
        match self {
            MakeError::Write(error) => Errno::from_io_error(error).filter(|error| is_shortage(*error)),
            _ => None,
        }
    }
}

impl MakeError {
    /// Returns the error, if it concerns the whole target, so that every further file would meet it.
    pub(super) fn fatal(&self) -> Option<Errno> {
        match self {
            MakeError::Write(error) => Errno::from_io_error(error).filter(|error| is_fatal(*error)),
            _ => None,
        }
    }
}

impl From<TargetError> for MakeError {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::Os(error) => error.into(),
            TargetError::Own => MakeError::Own,
        }
    }
}

impl From<Errno> for MakeError {
    fn from(error: Errno) -> Self {
        if error == Errno::EXIST { MakeError::Exists } else { MakeError::Write(error.into()) }
    }
}

impl From<FsError> for MakeError {
    fn from(error: FsError) -> Self {
        MakeError::Read(error)
    }
}

/// Makes a file of any type but a directory, and opens it so that its attributes can be set.
///
/// `go_on` is called with the number of bytes just written, and returns whether to go on.
pub(super) fn make(
    fs: &Fs,
    attr: &Attr,
    dir: BorrowedFd<'_>,
    name: &[u8],
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<OwnedFd, MakeError> {
    match attr.file_type {
        FileType::Regular => return file(fs, attr, dir, name, go_on),
        FileType::Symlink => rustix::fs::symlinkat(fs.readlink(attr.inode)?, dir, name)?,
        FileType::Directory => return Err(MakeError::Read(FsError::IsDirectory)),
        FileType::Fifo => node(dir, name, rustix::fs::FileType::Fifo, attr)?,
        FileType::Socket => node(dir, name, rustix::fs::FileType::Socket, attr)?,
        FileType::CharDevice => node(dir, name, rustix::fs::FileType::CharacterDevice, attr)?,
        FileType::BlockDevice => node(dir, name, rustix::fs::FileType::BlockDevice, attr)?,
    }
    let fd = open_beneath_link(dir, name).inspect_err(|error| {
        if is_shortage(*error) {
            // It is made again once there are descriptors, or not at all.
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
    })?;
    // The descriptor must be open on what was just made: somebody else may have replaced it.
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::of_mode(stat.st_mode) != Some(attr.file_type) {
        return Err(MakeError::Write(std::io::Error::other("it was replaced by something else while it was made")));
    }
    Ok(fd)
}

/// Opens a name that may be a link, without following it, to set its attributes.
fn open_beneath_link(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn node(dir: BorrowedFd<'_>, name: &[u8], kind: rustix::fs::FileType, attr: &Attr) -> Result<(), Errno> {
    let device = rustix::fs::makedev(attr.device.0, attr.device.1);
    rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)
}

fn file(
    fs: &Fs,
    attr: &Attr,
    dir: BorrowedFd<'_>,
    name: &[u8],
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<OwnedFd, MakeError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let file = File::from(open_beneath(dir, name, flags, Mode::RUSR | Mode::WUSR)?);
    match write(fs, attr, &file, go_on) {
        Ok(()) => Ok(file.into()),
        Err(error) => {
            // A partial file under its name would be mistaken for the whole one. If it cannot be removed, the first
            // error says enough.
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
            Err(error)
        }
    }
}

/// Writes the bytes of a regular file and leaves its holes out.
fn write(fs: &Fs, attr: &Attr, file: &File, go_on: &mut dyn FnMut(u64) -> bool) -> Result<(), MakeError> {
    let has_holes = attr.blocks.saturating_mul(512) < attr.size;
    if has_holes {
        file.set_len(attr.size).map_err(MakeError::Write)?;
    }
    let mut buffer = Vec::new();
    let (mut at, mut data_end) = (0, if has_holes { 0 } else { attr.size });
    while at < attr.size {
        if at == data_end {
            at = match fs.seek(attr.inode, at, SeekTo::Data) {
                Ok(data) => data,
                Err(FsError::NoData) => break,
                Err(error) => return Err(error.into()),
            };
            data_end = fs.seek(attr.inode, at, SeekTo::Hole)?;
        }
        let len = STEP.min(data_end - at);
        buffer.clear();
        fs.read(attr.inode, at, len as usize, &mut buffer)?;
        if buffer.is_empty() {
            return Err(FsError::io("the file ends before its size").into());
        }
        file.write_all_at(&buffer, at).map_err(MakeError::Write)?;
        at += buffer.len() as u64;
        if !go_on(buffer.len() as u64) {
            return Err(MakeError::Cancelled);
        }
    }
    Ok(())
}
