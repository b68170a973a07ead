//! Programs of random operations: the same seed gives the same program.
//!
//! Operations name inodes, names and offsets by rank ("the third directory", "the size minus one"); the runner resolves
//! ranks with the model. So any part of a program is a program, and a failing one can be shrunk. There are few names,
//! directories and offsets, so that operations collide. Called by the tests.

use super::data::{Allocate, Attributes, Setting, Stamp};
use super::names::{Flags, New, NewKind};
use super::rng::{Rng, written};
use floe::format::rows::Time;

/// An inode by rank among those of its kind; occasionally one of another kind, or a missing one.
pub type Rank = u16;

/// A name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// One of the few.
    Fixed(u8),
    /// An existing name of the directory, by rank; a fixed one if it has none.
    Present(u16),
}

/// An offset, or a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// This offset.
    From(u64),
    /// The size plus this.
    Size(i64),
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// open(2) with O_CREAT and O_EXCL, mkdir(2), symlink(2), mknod(2).
    Create(Rank, Name, New),
    /// unlink(2).
    Unlink(Rank, Name),
    /// rmdir(2).
    Rmdir(Rank, Name),
    /// renameat2(2).
    Rename((Rank, Name), (Rank, Name), Flags),
    /// link(2).
    Link(Rank, (Rank, Name)),
    /// pwrite(2): offset, length, seed of the bytes, whether the kernel asks to clear setuid and setgid.
    Write(Rank, At, u32, u64, bool),
    /// pwrite(2) of zeros.
    WriteZeros(Rank, At, u32),
    /// ftruncate(2).
    Truncate(Rank, At),
    /// chmod(2) and others.
    Attributes(Rank, Attributes),
    /// setxattr(2): number of the name, length, seed.
    SetXattr(Rank, u8, u32, u64, Setting),
    /// removexattr(2).
    RemoveXattr(Rank, u8),
    /// fallocate(2).
    Fallocate(Rank, Allocate, At, u64),
    /// copy_file_range(2).
    Copy((Rank, At), (Rank, At), u64),
    /// open(2), for writing or not.
    Open(Rank, bool),
    /// close(2) of one of the open inodes.
    Release(u16),
    /// A read that sets the time of the last read.
    Touch(Rank),
    /// pread(2).
    Read(Rank, At, u32),
    /// lookup of any name.
    Lookup(Rank, Name),
    /// Compares everything.
    Compare,
    /// A commit: everything so far is safe.
    Commit,
    /// A checkpoint.
    Checkpoint,
    /// The reaper.
    Reap,
    /// Unmount and mount; nothing is frozen at the end.
    Remount,
    /// Unmount, which freezes everything, and mount.
    End,
    /// gc.
    Gc,
    /// A freeze, with operations while it runs.
    Freeze(Freeze),
    /// A snapshot, with operations while it is made.
    Snapshot(Freeze),
    /// A power cut; the number determines the fate of unsynced changes.
    Crash(u8, u64),
}

/// A freeze.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freeze {
    /// Whether open files, and data that does not fill a superchunk, are frozen, too.
    pub everything: bool,
    /// The level of zstd.
    pub level: Option<i32>,
    /// Whether contents that result from changes are cut again.
    pub deep: bool,
    /// The moment at which it is told to stop.
    pub stop: Option<u16>,
    /// Operations, each at a moment: the number of times that the freeze has asked whether to stop or has reported
    /// progress. Moments 0 and 1 are before it reads the state.
    pub during: Vec<(u16, Op)>,
}

impl Freeze {
    /// Freezes everything, with no operations in between.
    pub fn everything() -> Op {
        Op::Freeze(Freeze { everything: true, ..Freeze::default() })
    }
}

/// Names on which operations collide. The last one is too long.
pub fn fixed_name(number: u8) -> Vec<u8> {
    match number % 12 {
        8 => vec![b'l'; 255],
        9 => vec![0xff, b'\n', 0x80],
        10 => b"name of twenty bytes".to_vec(),
        11 if number % 24 == 11 => vec![b'x'; 256],
        n => vec![b'a' + n],
    }
}

/// Names of xattrs: files and directories may have any in `user.`, everything in `trusted.`.
pub fn xattr_name(number: u8, user: bool) -> Vec<u8> {
    let prefix = if user { "user." } else { "trusted." };
    match number % 6 {
        5 => format!("{prefix}{}", "n".repeat(255 - prefix.len())).into_bytes(),
        n => format!("{prefix}{n}").into_bytes(),
    }
}

/// How often a program does something besides plain operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Once in so many operations: commit.
    pub commit: u64,
    /// Once in so many: checkpoint, reap.
    pub checkpoint: u64,
    /// Once in so many: remount.
    pub remount: u64,
    /// Once in so many: crash.
    pub crash: u64,
    /// Once in so many: freeze.
    pub freeze: u64,
    /// Once in so many: make a snapshot.
    pub snapshot: u64,
    /// Once in so many: compare everything.
    pub compare: u64,
    /// Most bytes of one write.
    pub longest: u32,
    /// Most bytes of an xattr value.
    pub xattr: u32,
    /// Whether there are files of exabytes.
    pub far: bool,
}

impl Mix {
    /// Only operations.
    pub const PLAIN: Mix = Mix {
        commit: 0,
        checkpoint: 0,
        remount: 0,
        crash: 0,
        freeze: 0,
        snapshot: 0,
        compare: 50,
        longest: 1 << 20,
        xattr: 1 << 20,
        far: true,
    };
    /// What every file system of the kernel supports.
    pub const KERNEL: Mix = Mix { xattr: 60, far: false, ..Mix::PLAIN };
    /// With every event of a file system's life.
    pub const LIFE: Mix =
        Mix { commit: 12, checkpoint: 40, remount: 80, crash: 60, freeze: 25, snapshot: 120, ..Mix::PLAIN };
}

/// Programs of one seed.
pub struct Programs {
    rng: Rng,
    mix: Mix,
}

/// Sizes at which writing tends to go wrong: those of tiny files, pages, subchunks, superchunks.
const BORDERS: [u64; 16] =
    [0, 1, 128, 511, 512, 513, 4096, 8192, 16384, 32768, 65536, 98304, 131_072, 262_144, 1 << 20, (1 << 20) + 32768];
/// Sizes of sparse files far beyond memory.
const FAR: [u64; 4] = [1 << 30, 1 << 40, (1 << 62) + 1, (1 << 63) - 1 - (1 << 21)];

impl Programs {
    /// The program of `seed`, as an iterator without end.
    pub fn new(seed: u64, mix: Mix) -> Self {
        Programs { rng: Rng::new(seed), mix }
    }

    fn rank(&mut self) -> Rank {
        // Usually one of the first few, so that operations collide; 0 for a wrong one.
        let rank = if self.rng.one_in(4) { 1 + self.rng.below(500) } else { 1 + self.rng.below(5) };
        if self.rng.one_in(40) { 0 } else { rank as Rank }
    }

    fn name(&mut self) -> Name {
        let most = if self.rng.one_in(6) { 24 } else { 7 };
        Name::Fixed(self.rng.below(most) as u8)
    }

    fn present(&mut self) -> Name {
        if self.rng.one_in(5) { self.name() } else { Name::Present(self.rng.below(8) as u16) }
    }

    fn at(&mut self) -> At {
        match self.rng.below(10) {
            0..=4 => {
                let border = self.rng.of(&BORDERS);
                At::From((border + self.rng.below(3)).saturating_sub(1))
            }
            5 => At::From(self.rng.below(300_000)),
            6 if self.mix.far && self.rng.one_in(6) => At::From(self.rng.of(&FAR)),
            7 => At::Size(0),
            _ => {
                let way = self.rng.of(&[-1, 1, -511, -512, 512, -4096, 4095, -32768, 32768, 100_000]);
                At::Size(way)
            }
        }
    }

    fn len(&mut self) -> u32 {
        let len = match self.rng.below(16) {
            0..=3 => 1 + self.rng.below(16),
            4..=7 => self.rng.of(&[511, 512, 513, 4095, 4096, 4097, 8192]),
            8..=12 => 1 + self.rng.below(20_000),
            13 | 14 => self.rng.of(&[32767, 32768, 32769, 65536, 131_072]),
            _ => self.rng.of(&[200_000, 1 << 20, 0]),
        };
        (len as u32).min(self.mix.longest)
    }

    fn new_node(&mut self) -> New {
        let kind = match self.rng.below(16) {
            0..=8 => NewKind::Regular,
            9..=11 => NewKind::Directory,
            12 | 13 => {
                let len = self.rng.of(&[1, 20, 127, 128, 4095]);
                NewKind::Symlink(written(self.rng.next(), len))
            }
            14 => NewKind::Device { char: self.rng.one_in(2), number: (self.rng.below(200) as u32, 300) },
            _ => {
                if self.rng.one_in(2) {
                    NewKind::Fifo
                } else {
                    NewKind::Socket
                }
            }
        };
        let bits = if kind == NewKind::Directory { 0o1777 } else { 0o7777 };
        let mode = (self.rng.of(&[0o644, 0o755, 0o777, 0o600, 0o4755, 0o2755, 0o6711, 0o2644, 0o1777]) & bits) as u16;
        let umask = self.rng.of(&[0, 0o022, 0o077]);
        New { kind, mode, umask, uid: self.rng.below(3) as u32, gid: self.rng.below(3) as u32 }
    }

    fn stamp(&mut self) -> Stamp {
        match self.rng.below(4) {
            0 => Stamp::Now,
            1 => Stamp::At(Time { secs: -1, nanos: 999_999_999 }),
            _ => Stamp::At(Time { secs: self.rng.below(1 << 33) as i64, nanos: self.rng.below(1_000_000_000) as u32 }),
        }
    }

    fn attributes(&mut self) -> Attributes {
        let mut changes = Attributes::default();
        match self.rng.below(4) {
            0 | 1 => changes.mode = Some(self.rng.of(&[0o4755, 0o2755, 0o6777, 0o2644, 0o600, 0, 0o7777])),
            2 => {
                changes.uid = (!self.rng.one_in(3)).then(|| self.rng.below(4) as u32);
                changes.gid = (!self.rng.one_in(3)).then(|| self.rng.below(4) as u32);
            }
            _ => {
                changes.atime = self.rng.one_in(2).then(|| self.stamp());
                changes.mtime = (changes.atime.is_none() || self.rng.one_in(2)).then(|| self.stamp());
            }
        }
        changes
    }

    fn xattr_len(&mut self) -> u32 {
        let len = match self.rng.below(8) {
            0..=3 => self.rng.below(60) as u32,
            4 | 5 => self.rng.of(&[100, 110, 118, 119, 120, 121, 128, 129, 256]),
            6 => self.rng.of(&[32_700, 32_760, 32_767, 32_768, 33_000]),
            _ => self.rng.of(&[65_536, 65_537, 1000]),
        };
        len.min(self.mix.xattr)
    }

    fn special(&mut self) -> Option<Op> {
        let Mix { commit, checkpoint, remount, crash, freeze, snapshot, compare, .. } = self.mix;
        let mut one_in = |n: u64| n > 0 && self.rng.one_in(n);
        if one_in(commit) {
            Some(Op::Commit)
        } else if one_in(checkpoint) {
            Some(Op::Checkpoint)
        } else if one_in(checkpoint) {
            Some(Op::Reap)
        } else if one_in(remount) {
            Some(Op::Remount)
        } else if freeze > 0 && one_in(remount) {
            Some(Op::End)
        } else if one_in(freeze) {
            Some(Op::Freeze(self.freezing()))
        } else if freeze > 0 && one_in(checkpoint) {
            Some(Op::Gc)
        } else if one_in(compare) {
            Some(Op::Compare)
        } else if one_in(crash) {
            Some(Op::Crash(self.rng.below(4) as u8, self.rng.next()))
        } else if one_in(snapshot) {
            Some(Op::Snapshot(self.freezing()))
        } else {
            None
        }
    }

    fn freezing(&mut self) -> Freeze {
        let level = self.rng.of(&[None, None, Some(1), Some(3), Some(12)]);
        let count = if self.rng.one_in(2) { 0 } else { 1 + self.rng.below(8) };
        let mut during: Vec<(u16, Op)> = (0..count)
            .map(|_| {
                let longest = self.rng.of(&[3, 12, 100]);
                let op = match self.rng.below(20) {
                    0 => Op::Commit,
                    1 => Op::Checkpoint,
                    2 => Op::Reap,
                    _ => self.operation(),
                };
                (self.rng.below(longest) as u16, op)
            })
            .collect();
        during.sort_by_key(|(moment, _)| *moment);
        let stop = self.rng.one_in(5).then(|| self.rng.below(60) as u16);
        Freeze { everything: self.rng.one_in(2), level, deep: self.rng.one_in(4), stop, during }
    }

    fn operation(&mut self) -> Op {
        match self.rng.below(100) {
            0..=13 => Op::Create(self.rank(), self.name(), self.new_node()),
            14..=20 => Op::Unlink(self.rank(), self.present()),
            21..=23 => Op::Rmdir(self.rank(), self.present()),
            24..=33 => {
                let flags = self.rng.of(&[(false, false), (false, false), (true, false), (false, true), (false, true)]);
                let flags = if self.rng.one_in(60) { (true, true) } else { flags };
                let flags = Flags { no_replace: flags.0, exchange: flags.1 };
                let to = if self.rng.one_in(2) { self.present() } else { self.name() };
                Op::Rename((self.rank(), self.present()), (self.rank(), to), flags)
            }
            34..=37 => Op::Link(self.rank(), (self.rank(), self.name())),
            38..=56 => Op::Write(self.rank(), self.at(), self.len(), self.rng.next(), self.rng.one_in(4)),
            57 => Op::WriteZeros(self.rank(), self.at(), self.len()),
            58..=65 => Op::Truncate(self.rank(), if self.rng.one_in(6) { At::From(0) } else { self.at() }),
            66..=69 => Op::Attributes(self.rank(), self.attributes()),
            70..=75 => {
                let how = self.rng.of(&[Setting::Any, Setting::Any, Setting::Create, Setting::Replace]);
                Op::SetXattr(self.rank(), self.rng.below(6) as u8, self.xattr_len(), self.rng.next(), how)
            }
            76..=78 => Op::RemoveXattr(self.rank(), self.rng.below(6) as u8),
            79..=84 => {
                let how = self.rng.of(&[
                    Allocate::Grow,
                    Allocate::Keep,
                    Allocate::Punch,
                    Allocate::Punch,
                    Allocate::Zero,
                    Allocate::ZeroKeep,
                ]);
                let len = if self.rng.one_in(40) { 0 } else { u64::from(self.len()) };
                Op::Fallocate(self.rank(), how, self.at(), len)
            }
            85..=89 => {
                let (from, to) = ((self.rank(), self.at()), (self.rank(), self.at()));
                let len = if self.rng.one_in(3) { 1 << 22 } else { u64::from(self.len()) };
                if self.rng.one_in(3) {
                    // The whole file.
                    return Op::Copy((from.0, At::From(0)), (to.0, At::From(0)), 1 << 22);
                }
                Op::Copy(from, to, len)
            }
            90..=92 => Op::Open(self.rank(), self.rng.one_in(2)),
            93..=95 => Op::Release(self.rng.below(8) as u16),
            96 => Op::Touch(self.rank()),
            97 | 98 => Op::Read(self.rank(), self.at(), self.len()),
            _ => Op::Lookup(self.rank(), self.name()),
        }
    }
}

impl Iterator for Programs {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        let special = self.special();
        Some(special.unwrap_or_else(|| self.operation()))
    }
}
