//! Reading a directory that changes meanwhile [17].
//!
//! A [`DirHandle`] numbers the names that it returns, and goes on with the first name that is present after the last
//! one it returned. So a name that is there from the beginning to the end is returned once, and a name that was removed
//! is not returned any more. A handle pins nothing. For telldir and seekdir it remembers the names of the last reply,
//! and one in [`SPARSE`] of the names before that. To find a name between two remembered names, it counts. If the names
//! there have changed since, it goes on after the remembered one: some names may come twice, but none is left out.
//! Called by fuse.

use super::read::{Fs, Moment};
use super::{Attr, DirEntry, FsError};
use crate::format::ids::InodeId;
use crate::format::rows::FileType;
use crate::format::sums::xxh3;

/// Cookies from 0 to this one mean the beginning, `.` and `..`.
const FIRST_COOKIES: u64 = 2;
/// Distance of remembered names: before the last reply, one name out of this many is remembered; fewer if the directory
/// is very large.
const SPARSE: u64 = 64;
/// Largest distance between two remembered names, as long as there is memory for them.
const SPARSE_MAX: u64 = 1 << 16;
/// Bytes of memory for the remembered names of one handle.
const MARKS_BYTES: usize = 256 << 10;

/// A remembered name of a directory, from which reading can continue.
#[derive(Debug)]
struct Mark {
    /// Number (cookie) of the name.
    cookie: u64,
    /// The name; empty for the beginning of the directory.
    name: Box<[u8]>,
    /// Whether a reader came here by seekdir(3). Then it does not continue the names that were returned before it.
    jump: bool,
    /// Hashes of the names since the previous remembered name, combined by exclusive or.
    hash: u64,
}

impl Mark {
    fn bytes(&self) -> usize {
        size_of::<Self>() + 16 + self.name.len()
    }
}

/// The names of the last reply to a reader.
#[derive(Debug, Default)]
struct Reply {
    /// The number after which the reader asked for names, and the number before that of the first name in the reply.
    /// They differ after a seekdir(3).
    asked: u64,
    before: u64,
    /// The name after which the reply begins; empty for the beginning of the directory.
    after: Vec<u8>,
    names: Vec<u8>,
    ends: Vec<usize>,
}

impl Reply {
    fn push(&mut self, name: &[u8]) {
        self.names.extend_from_slice(name);
        self.ends.push(self.names.len());
    }

    /// Returns the names with their numbers.
    fn names(&self) -> impl Iterator<Item = (u64, &[u8])> {
        (1..=self.ends.len() as u64).map_while(|n| {
            let cookie = self.before.saturating_add(n);
            self.get(cookie).map(|name| (cookie, name))
        })
    }

    /// Returns the name with this number, or `None`.
    fn get(&self, cookie: u64) -> Option<&[u8]> {
        if cookie == self.asked || cookie == self.before {
            return Some(&self.after);
        }
        let at = usize::try_from(cookie.checked_sub(self.before)?.checked_sub(1)?).ok()?;
        let end = *self.ends.get(at)?;
        let begin = at.checked_sub(1).and_then(|at| self.ends.get(at)).copied().unwrap_or(0);
        self.names.get(begin..end)
    }

    /// Returns the number of the last name.
    fn last(&self) -> u64 {
        self.before.saturating_add(self.ends.len() as u64)
    }
}

/// An open directory. It gives names stable numbers (cookies), although the directory changes while it is read.
#[derive(Debug)]
pub struct DirHandle {
    dir: InodeId,
    /// Remembered names, in the order of their numbers.
    marks: Vec<Mark>,
    bytes: usize,
    sparse: u64,
    /// Number of the names that were returned since the last remembered name and before the last reply, and their
    /// hashes combined by exclusive or.
    since: u64,
    hash: u64,
    reply: Reply,
}

/// Position in a directory from which reading continues.
enum Place {
    /// Reading continues after this name; if it is empty, at the beginning of the directory.
    After(Vec<u8>),
    /// Reading continues after the last name of the directory: nothing is left to read.
    End,
}

impl DirHandle {
    /// Opens the directory `dir`. Reads nothing yet.
    pub fn new(dir: InodeId) -> Self {
        let reply = Reply { before: FIRST_COOKIES, ..Reply::default() };
        let mut handle = DirHandle { dir, marks: Vec::new(), bytes: 0, sparse: SPARSE, since: 0, hash: 0, reply };
        handle.mark(FIRST_COOKIES, &[], true);
        handle
    }

    /// Passes the present entries after the one with number `cookie` to `each`, in the byte order of their names, until
    /// it returns false. The entry for which it returned false comes first again in a call with the number before it.
    /// `.` and `..` are left out: the first name has a number above 2, and 0 to 2 are before it.
    ///
    /// # Errors
    /// `NotDirectory`, `NotFound` or `Io`.
    pub fn read(&mut self, fs: &Fs, cookie: u64, each: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), FsError> {
        self.read_in(&fs.now(), cookie, each)
    }

    /// Passes entries with the attributes that each has at the same moment, otherwise like [`DirHandle::read`].
    ///
    /// # Errors
    /// Fails as [`DirHandle::read`] does. An inode that cannot be read is passed as its error.
    pub fn read_plus(
        &mut self,
        fs: &Fs,
        cookie: u64,
        each: &mut dyn FnMut(DirEntry<'_>, Result<Attr, FsError>) -> bool,
    ) -> Result<(), FsError> {
        let now = fs.now();
        self.read_in(&now, cookie, &mut |entry| each(entry, now.attr(entry.inode)))
    }

    fn read_in(
        &mut self,
        now: &Moment<'_>,
        cookie: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), FsError> {
        if now.row(self.dir)?.file_type != FileType::Directory {
            return Err(FsError::NotDirectory);
        }
        let Place::After(name) = self.locate(now, cookie)? else { return Ok(()) };
        let after = (!name.is_empty()).then_some(name.as_slice());
        let mut entries = now.view().dirents(self.dir, after)?;
        self.begin(cookie, &name);
        while let Some((name, row)) = entries.peek()? {
            let cookie = self.reply.last().saturating_add(1);
            if !each(DirEntry { inode: row.inode, file_type: row.file_type, name, cookie }) {
                break;
            }
            self.reply.push(name);
            entries.advance(now.view())?;
        }
        Ok(())
    }

    /// Finds the position after the name with number `cookie`.
    fn locate(&self, now: &Moment<'_>, cookie: u64) -> Result<Place, FsError> {
        if cookie <= FIRST_COOKIES {
            return Ok(Place::After(Vec::new()));
        }
        if let Some(name) = self.reply.get(cookie) {
            return Ok(Place::After(name.to_vec()));
        }
        if cookie > self.reply.last() {
            return Ok(Place::End);
        }
        let next = self.marks.partition_point(|mark| mark.cookie <= cookie);
        let Some(mark) = next.checked_sub(1).and_then(|at| self.marks.get(at)) else {
            // The mark was dropped.
            return Ok(Place::After(Vec::new()));
        };
        let (last, hash) = match self.marks.get(next) {
            Some(next) if !next.jump => (next.cookie, next.hash),
            Some(_) => return Ok(Place::After(mark.name.to_vec())),
            None => (self.reply.before, self.hash),
        };
        let steps = cookie.saturating_sub(mark.cookie);
        Ok(Place::After(self.step(now, mark, steps, last, hash)?))
    }

    /// Returns the name that is `steps` names after the remembered name `mark`, if the names up to number `last` are
    /// still those that were returned, whose hash is `hash`. Otherwise returns the remembered name.
    fn step(&self, now: &Moment<'_>, mark: &Mark, steps: u64, last: u64, hash: u64) -> Result<Vec<u8>, FsError> {
        let after = (!mark.name.is_empty()).then_some(&*mark.name);
        let mut entries = now.view().dirents(self.dir, after)?;
        let mut found = mark.name.to_vec();
        let mut left = hash;
        for n in 1..=last.saturating_sub(mark.cookie) {
            let Some((name, _)) = entries.peek()? else { break };
            left ^= xxh3(name);
            if n == steps {
                found = name.to_vec();
            }
            entries.advance(now.view())?;
        }
        Ok(if left == 0 { found } else { mark.name.to_vec() })
    }

    /// Remembers some names of the last reply, and begins a reply after `name`, which has number `cookie`.
    fn begin(&mut self, cookie: u64, name: &[u8]) {
        let old = std::mem::take(&mut self.reply);
        for (number, name) in old.names() {
            self.since += 1;
            self.hash ^= xxh3(name);
            if self.since >= self.sparse {
                self.mark(number, name, false);
            }
        }
        let last = old.last();
        self.reply = Reply { asked: cookie, before: last, after: name.to_vec(), ..Reply::default() };
        if cookie != last && last > FIRST_COOKIES {
            // The reader went elsewhere. What comes now gets new numbers, so the old numbers keep their names.
            if let Some(name) = old.get(last).filter(|_| self.since > 0) {
                self.mark(last, name, false);
            }
            self.reply.before = last.saturating_add(1);
            self.mark(self.reply.before, name, true);
        }
    }

    fn mark(&mut self, cookie: u64, name: &[u8], jump: bool) {
        let mark = Mark { cookie, name: name.into(), jump, hash: std::mem::take(&mut self.hash) };
        self.since = 0;
        self.bytes = self.bytes.saturating_add(mark.bytes());
        self.marks.push(mark);
        if self.bytes > MARKS_BYTES {
            self.thin();
        }
    }

    /// Drops half of the remembered names (marks): every second one, or the oldest ones if that frees too little. A
    /// mark stays if the next one was made by a jump, or if there is no next one.
    fn thin(&mut self) {
        self.sparse = (self.sparse * 2).min(SPARSE_MAX);
        let old = std::mem::take(&mut self.marks);
        let mut rest = old.into_iter().peekable();
        let (mut hash, mut dropped) = (0, false);
        while let Some(mut mark) = rest.next() {
            mark.hash ^= std::mem::take(&mut hash);
            let closes = rest.peek().is_none_or(|next| next.jump);
            dropped = !(dropped || mark.jump || closes);
            if dropped {
                hash = mark.hash;
            } else {
                self.marks.push(mark);
            }
        }
        self.bytes = self.marks.iter().map(Mark::bytes).sum();
        if self.bytes > MARKS_BYTES / 4 * 3 {
            let half = self.marks.len() / 2;
            let first = self.marks.iter().skip(half).position(|mark| mark.jump).map_or(half, |at| half + at);
            self.marks.drain(..first);
            self.bytes = self.marks.iter().map(Mark::bytes).sum();
        }
    }

    /// Returns the bytes of memory that the handle takes.
    pub fn memory(&self) -> usize {
        let reply = &self.reply;
        size_of::<Self>() + self.bytes + reply.after.len() + reply.names.capacity() + 8 * reply.ends.capacity()
    }
}
