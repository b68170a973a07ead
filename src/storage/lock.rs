//! The locks of an image (section 16).
//!
//! The writer locks byte 0. Readers lock byte 1 shared; gc locks it exclusively while it frees space. So readers never
//! exclude the writer. The locks belong to the open file description: they end with it, however the process ends. Two
//! `File`s that were opened separately exclude each other, also in one process; a `File` and its `try_clone` do not.
//! `IMAGE.lock` only tells people who the writer is; no decision depends on it.

use rustix::fs::OFlags;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Offset of the byte of an image that its writer locks.
const WRITER: i64 = 0;
/// Offset of the byte that readers lock shared, and gc exclusively while it frees space.
pub(super) const READERS: i64 = 1;
/// An upper bound of the length of an `IMAGE.lock` that floe wrote, in bytes.
const NOTE_LEN: u64 = 4096;

/// Why a lock of an image was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process is the writer. The fields are from `IMAGE.lock`.
    #[error("cannot write '{}': {} is writing it", image.display(), who(.host, .pid))]
    Held {
        /// Path of the image.
        image: PathBuf,
        /// Name of the machine the writer runs on, if known.
        host: Option<String>,
        /// Process id of the writer there, if known.
        pid: Option<u32>,
    },
    /// A reader cannot begin because gc is freeing space.
    #[error("cannot open the image: gc is freeing space in it just now (try again in a moment)")]
    Freeing,
    /// gc cannot begin because another process reads the image.
    #[error("cannot free space in the image: another process reads it (try again when it has ended)")]
    Read,
    /// The file system has no locks on parts of a file. A reader may continue without one.
    #[error("cannot lock the image: its file system has no locks: {0}")]
    Unsupported(#[source] io::Error),
    /// The operating system reported another error.
    #[error("cannot lock the image: {0}")]
    Io(#[source] io::Error),
}

fn who(host: &Option<String>, pid: &Option<u32>) -> String {
    match (host, pid) {
        (Some(host), Some(pid)) => format!("process {pid} on host {host}"),
        _ => "another process".into(),
    }
}

/// The writing process, as named in `IMAGE.lock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the machine.
    pub host: String,
    /// The machine's boot id, empty if unknown: a process id is valid within one boot only.
    pub boot: String,
    /// Id of the process.
    pub pid: u32,
}

impl Owner {
    /// Returns the owner that stands for this process. Only this function of the library asks the kernel for it;
    /// callers pass the answer on.
    pub fn current() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Owner {
            host: one_line(&rustix::system::uname().nodename().to_string_lossy()),
            boot: one_line(&boot),
            pid: std::process::id(),
        }
    }

    fn note(&self) -> String {
        format!("host={}\nboot={}\npid={}\n", one_line(&self.host), one_line(&self.boot), self.pid)
    }

    fn parse(note: &str) -> Option<Self> {
        let value = |key: &str| note.lines().find_map(|line| line.strip_prefix(key));
        let pid = value("pid=")?.parse().ok()?;
        Some(Owner { host: one_line(value("host=")?), boot: one_line(value("boot=")?), pid })
    }
}

/// Removes control characters, which would disturb a terminal or the lines of `IMAGE.lock`, and limits the length.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(255).collect()
}

/// The writer's lock on an image: there is no other writer while this lives. Dropping it removes `IMAGE.lock` and
/// releases the lock.
#[derive(Debug)]
pub struct WriterLock {
    note: io::Result<Note>,
    // Released after the note is removed, so that the next writer's note is never removed.
    _lock: ByteLock,
}

impl WriterLock {
    /// Becomes the writer of the image in `file`, which is open for writing; `image` is its path. Never waits.
    ///
    /// # Errors
    /// Fails with [`LockError::Held`] if there is another writer.
    pub fn try_acquire(file: &File, image: &Path, owner: &Owner) -> Result<Self, LockError> {
        match ByteLock::writer(file)? {
            Some(lock) => Ok(WriterLock { note: Note::write(image, owner), _lock: lock }),
            None => Err(held(image)),
        }
    }

    /// Hands the lock to a child of the process that took it: `IMAGE.lock` now names `owner`. The parent must not drop
    /// its own value, which would release the lock for both.
    pub fn hand_to(&mut self, image: &Path, owner: &Owner) {
        // Dropping the old note would remove the new one: both have the same name.
        std::mem::forget(std::mem::replace(&mut self.note, Note::write(image, owner)));
    }

    /// Returns why there is no `IMAGE.lock`, if it could not be written: a read-only directory, or a file with that
    /// name that floe did not write. The lock works nevertheless.
    pub fn note_error(&self) -> Option<&io::Error> {
        self.note.as_ref().err()
    }
}

/// The writer of an image, as far as known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The contents of `IMAGE.lock`, if it can be read. They are only for people: the file is written a moment after
    /// the lock is taken.
    pub owner: Option<Owner>,
}

impl Holder {
    /// Returns the writer that has locked byte 0 of `file`, which holds `image`; takes no lock. Returns `None` if there
    /// is no writer, or if the file system has no locks.
    pub fn of(file: &File, image: &Path) -> Option<Self> {
        let held = query_lock(file, WRITER, Share::Shared).ok()?;
        held.then(|| Holder { owner: read_note(&note_path(image)).ok().flatten() })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, pid) = self.owner.as_ref().map(|owner| (owner.host.clone(), owner.pid)).unzip();
        f.write_str(&who(&host, &pid))
    }
}

/// Makes the error for an image that another process has locked: it names the process in `IMAGE.lock`.
pub(super) fn held(image: &Path) -> LockError {
    let (host, pid) = read_note(&note_path(image)).ok().flatten().map(|o| (o.host, o.pid)).unzip();
    LockError::Held { image: image.to_owned(), host, pid }
}

/// The file `IMAGE.lock`, which names the writer. It is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Note(PathBuf);

impl Note {
    /// Writes `IMAGE.lock`. The caller holds the lock.
    pub(super) fn write(image: &Path, owner: &Owner) -> io::Result<Self> {
        let path = note_path(image);
        write_note(&path, owner)?;
        Ok(Note(path))
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // If the note stays, the next writer replaces it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A reader's shared lock on an image: gc frees nothing while this lives.
#[derive(Debug)]
pub struct ReaderLock {
    _lock: ByteLock,
}

impl ReaderLock {
    /// Becomes a reader of the image in `file`. Never waits.
    ///
    /// # Errors
    /// Fails with [`LockError::Freeing`] while gc frees space. [`LockError::Unsupported`] may be ignored.
    pub fn shared(file: &File) -> Result<Self, LockError> {
        let lock = ByteLock::acquire(file, READERS, Share::Shared)?.ok_or(LockError::Freeing)?;
        Ok(ReaderLock { _lock: lock })
    }

    /// Changes the lock to exclusive in one step, if there are no other readers. [`GcLock::into_reader`] changes it
    /// back.
    ///
    /// # Errors
    /// Fails with [`LockError::Read`] while there are other readers; never waits. The lock stays shared.
    pub fn into_gc(self) -> Result<GcLock, (ReaderLock, LockError)> {
        match self._lock.become_one(Share::Exclusive) {
            Ok(true) => Ok(GcLock { _lock: self._lock }),
            Ok(false) => Err((self, LockError::Read)),
            Err(error) => Err((self, error)),
        }
    }
}

/// The exclusive lock of gc on an image: there is no other reader while this lives.
#[derive(Debug)]
pub struct GcLock {
    _lock: ByteLock,
}

impl GcLock {
    /// Keeps readers out of the image in `file`, which is open for writing. Never waits. A [`ReaderLock`] of the same
    /// `File` does not prevent that; it becomes this lock.
    ///
    /// # Errors
    /// Fails with [`LockError::Read`] while there are readers.
    pub fn try_acquire(file: &File) -> Result<Self, LockError> {
        let lock = ByteLock::acquire(file, READERS, Share::Exclusive)?.ok_or(LockError::Read)?;
        Ok(GcLock { _lock: lock })
    }

    /// Changes the lock to shared in one step: other readers are allowed again.
    ///
    /// # Errors
    /// Fails if the lock cannot be changed; it is then released.
    pub fn into_reader(self) -> Result<ReaderLock, LockError> {
        match self._lock.become_one(Share::Shared)? {
            true => Ok(ReaderLock { _lock: self._lock }),
            false => Err(LockError::Freeing),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Share {
    Shared,
    Exclusive,
    Released,
}

/// One locked byte of an open file description, released when dropped.
#[derive(Debug)]
pub(super) struct ByteLock {
    file: File,
    byte: i64,
}

impl ByteLock {
    /// Locks byte 0 exclusively, for the writer. Returns `None` if another process has locked it.
    pub(super) fn writer(file: &File) -> Result<Option<Self>, LockError> {
        Self::acquire(file, WRITER, Share::Exclusive)
    }

    /// Locks byte 0 shared, so that there is no writer; the file may be open for reading only. Returns `None` if there
    /// is a writer.
    pub(super) fn no_writer(file: &File) -> Result<Option<Self>, LockError> {
        Self::acquire(file, WRITER, Share::Shared)
    }

    fn acquire(file: &File, byte: i64, share: Share) -> Result<Option<Self>, LockError> {
        // Before the lock is taken, so that an error leaves nothing locked.
        let file = file.try_clone().map_err(LockError::Io)?;
        Ok(try_lock(&file, byte, share)?.then_some(ByteLock { file, byte }))
    }

    /// Changes the kind of the lock. Returns false, with the lock unchanged, if another lock prevents it.
    fn become_one(&self, share: Share) -> Result<bool, LockError> {
        try_lock(&self.file, self.byte, share)
    }
}

impl Drop for ByteLock {
    fn drop(&mut self) {
        // If this fails, the lock ends with the last descriptor of the file.
        let _ = set_lock(&self.file, self.byte, Share::Released);
    }
}

/// Returns whether another lock prevents one of this kind.
fn query_lock(file: &File, byte: i64, share: Share) -> io::Result<bool> {
    let mut lock = one_byte(byte, share);
    // SAFETY: the descriptor is open for as long as `file` is borrowed; F_OFD_GETLK reads and writes one `flock`, which
    // outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) };
    if result == 0 { Ok(i32::from(lock.l_type) != libc::F_UNLCK) } else { Err(io::Error::last_os_error()) }
}

fn one_byte(byte: i64, share: Share) -> libc::flock {
    let kind = match share {
        Share::Shared => libc::F_RDLCK,
        Share::Exclusive => libc::F_WRLCK,
        Share::Released => libc::F_UNLCK,
    };
    // SAFETY: `flock` consists of integers, for which all zeros are a valid value; l_pid must be zero.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = byte;
    lock.l_len = 1;
    lock
}

/// Locks the byte. Returns false if another lock prevents it.
fn try_lock(file: &File, byte: i64, share: Share) -> Result<bool, LockError> {
    match set_lock(file, byte, share) {
        Ok(()) => Ok(true),
        Err(e) => match e.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::EINVAL) => Err(LockError::Unsupported(e)),
            _ => Err(LockError::Io(e)),
        },
    }
}

fn set_lock(file: &File, byte: i64, share: Share) -> io::Result<()> {
    let lock = one_byte(byte, share);
    loop {
        // SAFETY: the descriptor is open for as long as `file` is borrowed; F_OFD_SETLK reads one `flock`, which
        // outlives the call.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Returns the path of `IMAGE.lock` beside the image.
fn note_path(image: &Path) -> PathBuf {
    let mut path = OsString::from(image);
    path.push(".lock");
    path.into()
}

/// Returns device and inode number of `IMAGE.lock`, if floe wrote the file of that name.
pub fn note_beside(image: &Path) -> Option<(u64, u64)> {
    let path = note_path(image);
    read_note(&path).ok()??;
    let found = path.symlink_metadata().ok()?;
    Some((found.dev(), found.ino()))
}

/// Reads the contents of `IMAGE.lock`; `None` if floe did not write it.
fn read_note(path: &Path) -> io::Result<Option<Owner>> {
    // A link must not be followed, and a pipe must not make us wait.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut note = Vec::new();
    file.take(NOTE_LEN).read_to_end(&mut note)?;
    Ok(Owner::parse(&String::from_utf8_lossy(&note)))
}

/// Replaces `IMAGE.lock`. Byte 0 is locked, so an existing file of floe is from a dead writer. A file of another
/// program is left alone: an image named `Cargo` must not destroy a `Cargo.lock`.
fn write_note(path: &Path, owner: &Owner) -> io::Result<()> {
    match read_note(path) {
        Ok(Some(_)) => std::fs::remove_file(path)?,
        Ok(None) => return Err(ErrorKind::AlreadyExists.into()),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(owner.note().as_bytes()).inspect_err(|_| {
        // Remove half a note: it would not be recognised and never replaced. Report the error of the write.
        let _ = std::fs::remove_file(path);
    })
}
