//! Who may do what with an image at the same time (section 16).
//!
//! Byte 0 is locked by the writer, byte 1 by readers (shared) and by gc while it frees (exclusive); so readers never
//! exclude the writer. The locks belong to the open file description: they end with it, however the process ends.
//! They count between two `File`s that were opened apart, in one process too, but not between a `File` and its
//! `try_clone`. `IMAGE.lock` only tells people who the writer is; nothing is decided by it.

use rustix::fs::OFlags;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Byte that the writer locks.
const WRITER: i64 = 0;
/// Byte that readers share, and that gc locks for itself while it frees.
pub(super) const READERS: i64 = 1;
/// More than an `IMAGE.lock` that floe wrote ever holds, in bytes.
const NOTE_LEN: u64 = 4096;

/// Why a lock was not got.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody else is writing; what `IMAGE.lock` says of them.
    #[error("cannot write '{}': {} is writing it", image.display(), who(.host, .pid))]
    Held {
        /// The image.
        image: PathBuf,
        /// Name of the machine the writer runs on, if known.
        host: Option<String>,
        /// Process id of the writer there, if known.
        pid: Option<u32>,
    },
    /// A reader could not begin because gc is freeing space just now.
    #[error("gc is freeing space in the image just now: try again in a moment")]
    Freeing,
    /// gc could not begin because somebody reads the image.
    #[error("somebody reads the image: space can be freed when they have ended")]
    Read,
    /// The file system has no such locks. A reader may go on without.
    #[error("the file system cannot lock the image: {0}")]
    Unsupported(#[source] io::Error),
    /// Anything else.
    #[error("cannot lock the image: {0}")]
    Io(#[source] io::Error),
}

fn who(host: &Option<String>, pid: &Option<u32>) -> String {
    match (host, pid) {
        (Some(host), Some(pid)) => format!("process {pid} on host {host}"),
        _ => "another process".into(),
    }
}

/// Which process writes, as `IMAGE.lock` tells people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the machine.
    pub host: String,
    /// Id of its boot, empty if unknown: a process id of another boot means nothing.
    pub boot: String,
    /// Process id.
    pub pid: u32,
}

impl Owner {
    /// This process. The one place of the library that asks the kernel who it is; callers hand the answer down.
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

/// Without what would disturb a terminal or the lines of the note, and not longer than a name.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(255).collect()
}

/// Byte 0: there is no other writer while this lives. Dropping it removes `IMAGE.lock` and lets go.
#[derive(Debug)]
pub struct WriterLock {
    note: io::Result<Note>,
    // Let go after the note is removed, so that it is never the next writer's note that goes.
    _lock: ByteLock,
}

impl WriterLock {
    /// Becomes the writer of the image that `file`, open for writing, holds; `image` is its path.
    ///
    /// # Errors
    /// [`LockError::Held`] if there is one; never waits.
    pub fn try_acquire(file: &File, image: &Path, owner: &Owner) -> Result<Self, LockError> {
        match ByteLock::writer(file)? {
            Some(lock) => Ok(WriterLock { note: Note::write(image, owner), _lock: lock }),
            None => Err(held(image)),
        }
    }

    /// From now on another process has the lock, a child of the one that took it: `IMAGE.lock` names it. The parent must not
    /// drop its own value, which would let go for both.
    pub fn hand_to(&mut self, image: &Path, owner: &Owner) {
        // Dropping the old note would remove the new one, which has the same name.
        std::mem::forget(std::mem::replace(&mut self.note, Note::write(image, owner)));
    }

    /// Why there is no `IMAGE.lock`, if it could not be written (a folder that is read-only, or a file of that name
    /// that floe did not write). The lock holds all the same.
    pub fn note_error(&self) -> Option<&io::Error> {
        self.note.as_ref().err()
    }
}

/// Who writes an image, as far as can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What `IMAGE.lock` says, if it can be read. Only for people: it is written a moment after the lock is taken.
    pub owner: Option<Owner>,
}

impl Holder {
    /// Asks whether byte 0 of `file`, which holds `image`, is locked by a writer; takes no lock. `None` where there are no
    /// locks.
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

/// The error of who finds byte 0 locked: names whom `IMAGE.lock` names.
pub(super) fn held(image: &Path) -> LockError {
    let (host, pid) = read_note(&note_path(image)).ok().flatten().map(|o| (o.host, o.pid)).unzip();
    LockError::Held { image: image.to_owned(), host, pid }
}

/// `IMAGE.lock`, removed when dropped.
#[derive(Debug)]
pub(super) struct Note(PathBuf);

impl Note {
    /// Writes it. To be called by who has the lock.
    pub(super) fn write(image: &Path, owner: &Owner) -> io::Result<Self> {
        let path = note_path(image);
        write_note(&path, owner)?;
        Ok(Note(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // A note left behind misleads nobody for long: the next writer replaces it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Byte 1, shared: nothing is freed while this lives.
#[derive(Debug)]
pub struct ReaderLock {
    _lock: ByteLock,
}

impl ReaderLock {
    /// Becomes a reader of the image that `file` holds.
    ///
    /// # Errors
    /// [`LockError::Freeing`] while gc frees; never waits. [`LockError::Unsupported`] may be ignored.
    pub fn shared(file: &File) -> Result<Self, LockError> {
        let lock = ByteLock::acquire(file, READERS, Share::Shared)?.ok_or(LockError::Freeing)?;
        Ok(ReaderLock { _lock: lock })
    }

    /// Keeps all other readers out, in one step: [`GcLock::into_reader`] is the way back.
    ///
    /// # Errors
    /// [`LockError::Read`] while there are others; never waits. The lock stays as it was.
    pub fn into_gc(self) -> Result<GcLock, (ReaderLock, LockError)> {
        match self._lock.become_one(Share::Exclusive) {
            Ok(true) => Ok(GcLock { _lock: self._lock }),
            Ok(false) => Err((self, LockError::Read)),
            Err(error) => Err((self, error)),
        }
    }
}

/// Byte 1, exclusive: nobody reads while this lives.
#[derive(Debug)]
pub struct GcLock {
    _lock: ByteLock,
}

impl GcLock {
    /// Keeps readers out of the image that `file`, open for writing, holds. A [`ReaderLock`] of the same `File` does
    /// not keep it from that, and is used up by it.
    ///
    /// # Errors
    /// [`LockError::Read`] while there are readers; never waits.
    pub fn try_acquire(file: &File) -> Result<Self, LockError> {
        let lock = ByteLock::acquire(file, READERS, Share::Exclusive)?.ok_or(LockError::Read)?;
        Ok(GcLock { _lock: lock })
    }

    /// Lets other readers in again, and is one itself, in one step.
    ///
    /// # Errors
    /// If the lock cannot be changed: then it is let go.
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

/// One locked byte of an open file description, let go when dropped.
#[derive(Debug)]
pub(super) struct ByteLock {
    file: File,
    byte: i64,
}

impl ByteLock {
    /// Byte 0 for its only writer; `None` if somebody else has it.
    pub(super) fn writer(file: &File) -> Result<Option<Self>, LockError> {
        Self::acquire(file, WRITER, Share::Exclusive)
    }

    /// Byte 0 for who sees to it that there is no writer, and needs the file open for reading only; `None` if there is one.
    pub(super) fn no_writer(file: &File) -> Result<Option<Self>, LockError> {
        Self::acquire(file, WRITER, Share::Shared)
    }

    fn acquire(file: &File, byte: i64, share: Share) -> Result<Option<Self>, LockError> {
        // Before the lock is taken, so that an error here leaves nothing locked.
        let file = file.try_clone().map_err(LockError::Io)?;
        Ok(try_lock(&file, byte, share)?.then_some(ByteLock { file, byte }))
    }

    /// Changes how it is locked; false if somebody else is in the way, and then it is as it was.
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

/// Whether a lock that somebody else has would keep one of this kind from being taken.
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
    // SAFETY: `flock` is plain integers, for which all zeros is a value; zero is also what l_pid must be.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = byte;
    lock.l_len = 1;
    lock
}

/// Whether the byte is locked now as asked for; false if somebody else is in the way.
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

/// `IMAGE.lock` beside the image.
fn note_path(image: &Path) -> PathBuf {
    let mut path = OsString::from(image);
    path.push(".lock");
    path.into()
}

/// Device and inode of `IMAGE.lock`, if floe wrote the file of that name.
pub fn note_beside(image: &Path) -> Option<(u64, u64)> {
    let path = note_path(image);
    read_note(&path).ok()??;
    let found = path.symlink_metadata().ok()?;
    Some((found.dev(), found.ino()))
}

/// What the note says; `None` if it is not one of floe's.
fn read_note(path: &Path) -> io::Result<Option<Owner>> {
    // Whatever a stranger put there (a link, a pipe) must not lead elsewhere or make us wait.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut note = Vec::new();
    file.take(NOTE_LEN).read_to_end(&mut note)?;
    Ok(Owner::parse(&String::from_utf8_lossy(&note)))
}

/// Writes the note anew. Called with byte 0 locked, so that what floe left there is a dead writer's. Another program's
/// file is left alone: an image called `Cargo` must not cost anybody their `Cargo.lock`.
fn write_note(path: &Path, owner: &Owner) -> io::Result<()> {
    match read_note(path) {
        Ok(Some(_)) => std::fs::remove_file(path)?,
        Ok(None) => return Err(ErrorKind::AlreadyExists.into()),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(owner.note().as_bytes()).inspect_err(|_| {
        // Half a note would never be replaced, as it is not recognised; the error of the write is the one that counts.
        let _ = std::fs::remove_file(path);
    })
}
