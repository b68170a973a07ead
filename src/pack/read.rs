//! Reads files: open, find holes, cut, hash. Runs on several threads. Each takes a whole batch and passes its files on
//! in order, through the batch's own channel.

use super::PackOptions;
use super::dirs::{DirError, is_shortage};
use super::files::{Batch, Entry, FileJob, FilePart, ReadEnd, ReadExtent, Segment, allocated, mtime};
use super::portions::Portions;
use crate::chunk::Cutter;
use crate::format::params::HashKind;
use crate::format::rows::Identity;
use crossbeam_channel::{Receiver, Sender};
use rustix::fs::{Advice, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Number of bytes that are read at once and passed on together.
const SEGMENT: usize = 1 << 20;
/// Number of bytes requested first of a file whose size is 0. Some files in /proc return all their bytes to one read,
/// or none.
const PROBE: usize = 64 << 10;
/// Least size in bytes of files about which the kernel is advised that they are read sequentially.
const ADVISE: u64 = 4 << 20;

/// A batch of files, and the channel for the [`Segment`]s that are read of them.
pub(super) type ReadJob = (Arc<Batch>, Sender<Segment>);

/// Reads the files of batches until there are no more batches. With `portions` it reads only these portions of the
/// files.
pub(super) fn run(queue: &Receiver<ReadJob>, options: &PackOptions, portions: Option<&Portions>) {
    let cutter = Cutter::new(&options.params);
    while let Ok((batch, segments)) = queue.recv() {
        let (hash, segment) = (options.params.hash, Segment::default());
        let mut reader = Reader { cutter: &cutter, hash, portions, segments, segment };
        // If the filler hung up, nobody needs the error: the filler has its own.
        let _ = reader.read_batch(&batch);
    }
}

/// An error: the thread that fills superchunks has stopped and receives nothing more.
struct Gone;

struct Reader<'a> {
    cutter: &'a Cutter,
    hash: HashKind,
    portions: Option<&'a Portions>,
    segments: Sender<Segment>,
    segment: Segment,
}

/// Why a file cannot be read.
#[derive(Debug)]
pub enum Unreadable {
    /// A reason in words for the user.
    Because(String),
    /// Descriptors ran out.
    Shortage(Errno),
}

impl From<(&'static str, Errno)> for Unreadable {
    fn from((action, error): (&'static str, Errno)) -> Self {
        if is_shortage(error) {
            return Unreadable::Shortage(error);
        }
        Unreadable::Because(format!("cannot {action} it: {}", std::io::Error::from(error)))
    }
}

impl From<DirError> for Unreadable {
    fn from(error: DirError) -> Self {
        match error.shortage() {
            Some(error) => Unreadable::Shortage(error),
            None => Unreadable::Because(format!("cannot open the directory it is in: {error}")),
        }
    }
}

/// The place where a range of a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The range ends at this offset, where more data or a hole follows.
    At(u64),
    /// The range ends at the end of the file, which should be this offset.
    OfFile(u64),
}

/// The result of reading a range.
struct DataRead {
    /// Number of bytes read.
    len: u64,
    /// Whether the file has more bytes than it should.
    grew: bool,
}

impl Reader<'_> {
    fn read_batch(&mut self, batch: &Batch) -> Result<(), Gone> {
        for entry in &batch.entries {
            if let Entry::File { job, .. } = entry {
                self.segment.parts.push(FilePart::default());
                let end = match self.read_file(job)? {
                    Ok(end) => end,
                    Err(Unreadable::Because(why)) => ReadEnd::Failed(why),
                    Err(Unreadable::Shortage(error)) => ReadEnd::Shortage(error.into()),
                };
                self.part().end = Some(end);
                if self.segment.bytes.len() >= SEGMENT {
                    self.flush()?;
                }
            }
        }
        if !self.segment.parts.is_empty() {
            self.flush()?;
        }
        Ok(())
    }

    fn part(&mut self) -> &mut FilePart {
        if self.segment.parts.is_empty() {
            self.segment.parts.push(FilePart::default());
        }
        let last = self.segment.parts.len() - 1;
        &mut self.segment.parts[last]
    }

    fn flush(&mut self) -> Result<(), Gone> {
        self.segments.send(std::mem::take(&mut self.segment)).map_err(|_| Gone)
    }

    fn read_file(&mut self, job: &FileJob) -> Result<Result<ReadEnd, Unreadable>, Gone> {
        let size = job.stat.st_size as u64;
        if self.portions.is_some_and(|portions| portions.of(job.start, size).is_empty()) {
            if size > 0 {
                self.part().extents.push(ReadExtent::Hole(size));
            }
            return Ok(Ok(ReadEnd::Whole));
        }
        let (file, stat) = match open(job) {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        let size = stat.st_size as u64;
        let sparse = allocated(&stat) < size;
        let all = || std::iter::once(0..size).collect();
        let wanted = self.portions.map_or_else(all, |portions| portions.of(job.start, size));
        // Bytes packed so far, including holes.
        let mut at = 0;
        loop {
            // A file without holes needs no search for them. With holes, data is read from one border to the next.
            let (data, end) = if sparse || self.portions.is_some() {
                match next_wanted(&file, at, size, sparse, &wanted) {
                    Ok(range) => range,
                    Err(error) => return Ok(Err(error)),
                }
            } else {
                (at, size)
            };
            if data > at {
                self.part().extents.push(ReadExtent::Hole(data - at));
            }
            if data == size && size > 0 {
                at = size;
                break;
            }
            let until = if end == size { End::OfFile(size) } else { End::At(end) };
            let read = match self.read_data(&file, data, until)? {
                Ok(read) => read,
                Err(error) => return Ok(Err(error)),
            };
            at = data + read.len;
            if read.grew {
                return Ok(Ok(ReadEnd::Changed(format!("it grew while it was read: its first {at} bytes are packed"))));
            }
            if at < end {
                let what = format!("it shrank while it was read: {at} of {size} bytes are packed");
                return Ok(Ok(ReadEnd::Changed(what)));
            }
            if at >= size {
                break;
            }
        }
        Ok(match rustix::fs::fstat(&file) {
            Ok(now) if now.st_size > stat.st_size => {
                Ok(ReadEnd::Changed(format!("it grew while it was read: its first {at} bytes are packed")))
            }
            Ok(now) if mtime(&now) != mtime(&job.stat) || [now.st_size, stat.st_size] != [job.stat.st_size; 2] => {
                Ok(ReadEnd::Changed("it changed while it was read".into()))
            }
            Ok(_) => Ok(ReadEnd::Whole),
            Err(error) => Err(("stat", error).into()),
        })
    }

    /// Cuts and hashes the bytes from `from` on.
    ///
    /// Some file systems do not know a file's size before it is read, and report 0 or too little (/proc, some over
    /// FUSE). If the file continues after its end and its reported size has not changed, it is read until it returns no
    /// more bytes.
    fn read_data(&mut self, file: &OwnedFd, from: u64, until: End) -> Result<Result<DataRead, Unreadable>, Gone> {
        let max = self.cutter.max_len();
        let mut at = from;
        let (mut to, mut probe) = match until {
            End::At(to) => (to, false),
            End::OfFile(to) => (to, true),
        };
        let mut grew = false;
        // The segment's bytes from here on are read but not yet cut.
        let mut uncut = self.segment.bytes.len();
        loop {
            let want = (to - at).min((SEGMENT + max) as u64) as usize;
            let room = want.min((SEGMENT + max).saturating_sub(self.segment.bytes.len()).max(max));
            // One more byte tells whether the file continues, without another call.
            let more = match until {
                End::OfFile(0) if probe => PROBE,
                End::OfFile(_) if probe && room as u64 == to - at => 1,
                _ => 0,
            };
            let mut got = match read_at(file, at, room, more, &mut self.segment.bytes) {
                Ok(got) => got,
                Err(error) => return Ok(Err(("read", error).into())),
            };
            if got > room {
                let now = match rustix::fs::fstat(file) {
                    Ok(now) => now.st_size as u64,
                    Err(error) => return Ok(Err(("stat", error).into())),
                };
                probe = false;
                if now <= to {
                    to = u64::MAX;
                } else if to == 0 {
                    // The size is known now.
                    to = now.max(got as u64);
                } else {
                    grew = true;
                    self.segment.bytes.truncate(self.segment.bytes.len() - (got - room));
                    got = room;
                }
            }
            at += got as u64;
            let last = at == to || got < room;
            while self.segment.bytes.len() - uncut >= max || (last && self.segment.bytes.len() > uncut) {
                let rest = &self.segment.bytes[uncut..];
                let len = self.cutter.cut(rest);
                let subchunk = &rest[..len];
                let identity = Identity::of(self.hash, subchunk);
                self.part().extents.push(ReadExtent::Data { len: len as u32, identity });
                uncut += len;
            }
            if last {
                return Ok(Ok(DataRead { len: at - from, grew }));
            }
            if self.segment.bytes.len() >= SEGMENT {
                let rest = self.segment.bytes.split_off(uncut);
                self.flush()?;
                self.segment.bytes = rest;
                self.segment.bytes.reserve(SEGMENT + max);
                uncut = 0;
            }
        }
    }
}

/// Opens a file, if it is still the one that the scan saw.
pub(super) fn open(job: &FileJob) -> Result<(OwnedFd, Stat), Unreadable> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let name = OsStr::from_bytes(job.at.as_ref().unwrap_or(&job.name));
    let dir = job.dir.fd()?;
    let open = |flags| job.dir.pool().with_room(|| rustix::fs::openat(&*dir, name, flags, rustix::fs::Mode::empty()));
    // Reading for a backup should not change the access time; only the owner may request that.
    let file = match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        opened => opened,
    }
    .map_err(|error| ("open", error))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| ("stat", error))?;
    if (stat.st_mode ^ job.stat.st_mode) & 0o170000 != 0 {
        return Err(Unreadable::Because("it is no regular file any more".into()));
    }
    if is_another(&stat, &job.stat) {
        return Err(Unreadable::Because("another file has its name by now".into()));
    }
    if stat.st_size as u64 >= ADVISE {
        // Only advice: if it fails, reading is slower but still right.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
    }
    Ok((file, stat))
}

/// Returns whether the opened file is not the file that the scan saw, and must not be packed with the scan's metadata.
///
/// With a different owner or different permissions, bytes would become readable for users who may not read them. With
/// more than one name, the other names would get the bytes of a foreign file. Any other file that took the name is
/// packed with a warning that it changed: many programs save files that way.
fn is_another(opened: &Stat, seen: &Stat) -> bool {
    let same = (opened.st_dev, opened.st_ino) == (seen.st_dev, seen.st_ino);
    let rights = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    !same && (seen.st_nlink > 1 || rights(opened) != rights(seen))
}

/// Returns the next wanted range of data at or after `at` in a file of `size` bytes; both ends are `size` if there is
/// none.
fn next_wanted(
    file: &OwnedFd,
    at: u64,
    size: u64,
    sparse: bool,
    wanted: &[Range<u64>],
) -> Result<(u64, u64), Unreadable> {
    for range in wanted.iter().filter(|range| range.end > at) {
        let from = range.start.max(at);
        let (data, end) = if sparse { next_data(file, from, size)? } else { (from, size) };
        if data < range.end {
            return Ok((data, end.min(range.end)));
        }
    }
    Ok((size, size))
}

/// Returns the next range of data at or after `at` in a file of `size` bytes; both ends are `size` if there is none.
pub(super) fn next_data(file: &OwnedFd, at: u64, size: u64) -> Result<(u64, u64), Unreadable> {
    let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        // A file system without holes: everything is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, size)),
        Err(error) => return Err(("find data in", error).into()),
    };
    if data == size {
        return Ok((size, size));
    }
    let hole = match rustix::fs::seek(file, SeekFrom::Hole(data)) {
        Ok(hole) => hole.min(size),
        // It shrank between the two calls; reading will notice.
        Err(Errno::NXIO) => size,
        Err(error) => return Err(("find holes in", error).into()),
    };
    Ok((data, if hole > data { hole } else { size }))
}

/// Appends `len` bytes from offset `at`, and up to `more` further bytes that the same reads return. Returns the number
/// of bytes; it is less than `len` only at the end of the file.
fn read_at(file: &OwnedFd, at: u64, len: usize, more: usize, out: &mut Vec<u8>) -> Result<usize, Errno> {
    let start = out.len();
    out.resize(start + len + more, 0);
    let mut done = 0;
    while done < len.max(usize::from(more > 0)) {
        match rustix::io::pread(file, &mut out[start + done..], at + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(Errno::INTR) => {}
            Err(error) => {
                out.truncate(start);
                return Err(error);
            }
        }
    }
    out.truncate(start + done);
    Ok(done)
}
