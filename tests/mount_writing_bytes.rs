//! A writable mount beside a plain directory: bytes, holes, descriptors of every kind, shared maps.

mod common;

use common::left_out::{left_out, need_fuse};
use common::twin::{Twin, errno, os};
use common::{noise, prose};
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom as StdSeek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

fn rw(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("it opens")
}

fn size(file: &File) -> u64 {
    file.metadata().expect("fstat").len()
}

#[test]
fn bytes_are_written_over_appended_and_cut_as_in_a_plain_file() {
    need_fuse!();
    let mut twin = Twin::new("");
    twin.both(|dir| {
        let file = rw(&dir.join("file"));
        let mut sizes = Vec::new();
        for (seed, at, len) in
            [(1, 0, 10), (2, 5, 100), (3, 4090, 20), (4, 1 << 20, 70_000), (5, 3, 1), (6, 900_000, 300_000)]
        {
            file.write_all_at(&noise(seed, len), at).expect("a write");
            sizes.push(size(&file));
        }
        for len in [1_100_000, 1_050_000, 4000, 10_000, 4000, 0, 3_000_000] {
            file.set_len(len).expect("ftruncate");
            file.write_all_at(b"mark", len / 2).expect("a write");
            sizes.push(size(&file));
        }
        let mut append = OpenOptions::new().append(true).open(dir.join("file")).expect("it opens");
        let mut append2 = OpenOptions::new().append(true).open(dir.join("file")).expect("it opens");
        for n in 0..20 {
            append.write_all(&[n; 777]).expect("a write");
            append2.write_all(&[n + 100; 333]).expect("a write");
        }
        sizes.push(size(&file));
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).expect("it can be read");
        (sizes, blake3::hash(&bytes), file.read_at(&mut [0; 10], u64::MAX >> 1).map_err(|e| e.kind()))
    });
    twin.both(|dir| {
        os(fs::write(dir.join("large"), noise(7, 40 << 20)).and_then(|()| fs::metadata(dir.join("large"))))
            .map(|m| m.len())
    });
    twin.both(|dir| os(fs::copy(dir.join("large"), dir.join("copy"))));
    twin.both(|dir| os(rw(&dir.join("far")).write_at(b"x", (1 << 40) + 5)));
    twin.both(|dir| os(rw(&dir.join("far")).set_len(1 << 41)));
    twin.both(|dir| os(fs::remove_file(dir.join("large"))));
    twin.check_and_remount();
}

#[test]
fn many_writers_of_many_files_each_find_what_they_wrote() {
    need_fuse!();
    let mut twin = Twin::new("commit=1");
    twin.both(|dir| {
        std::thread::scope(|scope| {
            for writer in 0..8u64 {
                scope.spawn(move || {
                    let mine = dir.join(format!("writer-{writer}"));
                    fs::create_dir(&mine).expect("a directory");
                    for n in 0..60 {
                        let path = mine.join(format!("file-{n}"));
                        let bytes = prose(writer * 1000 + n, (n * n * 7) as usize);
                        fs::write(&path, &bytes).expect("a write");
                        assert_eq!(fs::read(&path).expect("a read"), bytes);
                        match n % 4 {
                            0 => fs::rename(&path, mine.join(format!("moved-{n}"))).expect("a rename"),
                            1 => fs::remove_file(&path).expect("unlink"),
                            2 => fs::hard_link(&path, mine.join(format!("link-{n}"))).expect("a link"),
                            _ => rw(&path).write_all_at(b"over", n * 3).expect("a write"),
                        }
                    }
                });
            }
            // All of them write to one file, too.
            for writer in 0..4u64 {
                scope.spawn(move || {
                    let file = rw(&dir.join("shared"));
                    for n in 0..200 {
                        file.write_all_at(&[writer as u8 + 1; 100], (n * 4 + writer) * 100).expect("a write");
                    }
                });
            }
        });
        fs::read_dir(dir).expect("a listing").count()
    });
    twin.check_and_remount();
}

#[test]
fn synchronous_writes_return_when_they_are_committed() {
    need_fuse!();
    // Nothing else commits.
    let mut twin = Twin::new("commit=3600");
    let flags = [OFlags::SYNC, OFlags::DSYNC, OFlags::SYNC | OFlags::DIRECT, OFlags::DSYNC | OFlags::APPEND];
    let pending = |dir: &Path| {
        let mut text = [0; 4096];
        let len = rustix::fs::getxattr(dir, "user.floe.state", &mut text).expect("it answers");
        let text = String::from_utf8_lossy(&text[..len]).into_owned();
        text.lines().find_map(|line| line.strip_prefix("pending_bytes ")).expect("a line").to_owned()
    };
    for (n, flags) in flags.into_iter().enumerate() {
        let block = Aligned::of(&noise(n as u64, 8192));
        let results = twin.value(|dir| {
            let open = OFlags::CREATE | OFlags::WRONLY | flags;
            let file = File::from(
                rustix::fs::open(dir.join(format!("file-{n}")), open, Mode::RUSR | Mode::WUSR).expect("it opens"),
            );
            (os((&file).write(block.bytes())), os((&file).write(block.bytes())))
        });
        assert_eq!(results, (Ok(8192), Ok(8192)));
        assert_eq!(pending(twin.dir()), "0", "{flags:?}");
    }
    fs::write(twin.dir().join("later"), b"x").and(fs::write(twin.plain().join("later"), b"x")).expect("a write");
    assert_ne!(pending(twin.dir()), "0", "an ordinary write is committed later");
    twin.check_and_remount();
}

/// A buffer with an address that O_DIRECT accepts everywhere.
struct Aligned(Vec<u8>, usize, usize);

impl Aligned {
    const TO: usize = 4096;

    fn of(bytes: &[u8]) -> Self {
        let mut buffer = vec![0; bytes.len() + Self::TO];
        let skip = buffer.as_ptr().align_offset(Self::TO);
        buffer[skip..skip + bytes.len()].copy_from_slice(bytes);
        Aligned(buffer, skip, bytes.len())
    }

    fn bytes(&self) -> &[u8] {
        &self.0[self.1..self.1 + self.2]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0[self.1..self.1 + self.2]
    }
}

#[test]
fn direct_buffered_and_mapped_writes_see_each_other() {
    need_fuse!();
    let mut twin = Twin::new("");
    let open = |dir: &Path, flags| {
        rustix::fs::open(dir.join("file"), OFlags::CREATE | OFlags::RDWR | flags, Mode::RUSR | Mode::WUSR)
    };
    if open(twin.plain(), OFlags::DIRECT).is_err() {
        return left_out("the file system below has no O_DIRECT");
    }
    twin.both(|dir| {
        let (direct, buffered): (OwnedFd, OwnedFd) =
            (open(dir, OFlags::DIRECT).expect("it opens"), open(dir, OFlags::empty()).expect("it opens"));
        let (direct, buffered) = (File::from(direct), File::from(buffered));
        buffered.write_all_at(&noise(1, 64 << 10), 0).expect("a buffered write");
        direct.write_all_at(Aligned::of(&noise(2, 8192)).bytes(), 4096).expect("a direct write");
        let mut seen = vec![0; 64 << 10];
        buffered.read_exact_at(&mut seen, 0).expect("a buffered read");
        let mut hashes = vec![blake3::hash(&seen)];
        // SAFETY: only this test changes the file's length.
        let mut map = unsafe { memmap2::MmapMut::map_mut(&buffered) }.expect("a shared map");
        map[5000..6000].copy_from_slice(&noise(3, 1000));
        map.flush().expect("msync");
        let mut block = Aligned::of(&[0; 16 << 10]);
        direct.read_exact_at(block.bytes_mut(), 0).expect("a direct read");
        hashes.push(blake3::hash(block.bytes()));
        direct.write_all_at(Aligned::of(&noise(4, 4096)).bytes(), 0).expect("a direct write");
        hashes.push(blake3::hash(&map[..]));
        // Written through the map after the descriptors are closed, and never synced.
        drop((direct, buffered));
        map[60_000..61_000].copy_from_slice(&noise(5, 1000));
        drop(map);
        hashes.push(blake3::hash(&fs::read(dir.join("file")).expect("it can be read")));
        hashes
    });
    twin.check_and_remount();
}

/// Case 30: mapped pages are written back after the last handle is closed, also for a file that lost its name
/// meanwhile.
#[test]
fn what_is_mapped_outlives_its_descriptor_and_its_name() {
    need_fuse!();
    let mut twin = Twin::new("");
    twin.both(|dir| {
        let mut hashes = Vec::new();
        for name in ["kept", "unlinked"] {
            let file = rw(&dir.join(name));
            file.set_len(100_000).expect("ftruncate");
            // SAFETY: only this test changes the file's length.
            let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.expect("a shared map");
            drop(file);
            if name == "unlinked" {
                fs::remove_file(dir.join(name)).expect("unlink");
            }
            map[10_000..90_000].copy_from_slice(&noise(9, 80_000));
            map.flush().expect("msync");
            hashes.push(blake3::hash(&map));
            map[..5].copy_from_slice(b"later");
        }
        hashes
    });
    twin.check_and_remount();
}

fn data(file: &File) -> Vec<(u64, u64)> {
    let (mut out, mut at) = (Vec::new(), 0);
    while let Ok(begin) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(file, SeekFrom::Hole(begin)).expect("a hole follows, or the end");
        out.push((begin, at));
    }
    out
}

#[test]
fn fallocate_allocates_punches_and_zeroes() {
    need_fuse!();
    let mut twin = Twin::new("");
    let steps = [
        (FallocateFlags::empty(), 0, 100_000),
        (FallocateFlags::KEEP_SIZE, 0, 1 << 20),
        (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 8192),
        (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 50_001, 20_002),
        (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 90_000, 1 << 20),
        (FallocateFlags::ZERO_RANGE, 30_000, 3000),
        (FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 95_000, 50_000),
        (FallocateFlags::ZERO_RANGE, 95_000, 50_000),
        (FallocateFlags::empty(), 10, 0),
        (FallocateFlags::PUNCH_HOLE, 0, 10),
        (FallocateFlags::empty(), u64::MAX >> 1, 10),
    ];
    twin.both(|dir| {
        let file = rw(&dir.join("file"));
        file.write_all_at(&noise(1, 80_000), 0).expect("a write");
        steps.map(|(flags, at, len)| {
            let result = errno(rustix::fs::fallocate(&file, flags, at, len));
            let mut bytes = Vec::new();
            (&file).seek(StdSeek::Start(0)).and_then(|_| (&file).read_to_end(&mut bytes)).expect("it can be read");
            (result, size(&file), blake3::hash(&bytes))
        })
    });
    for collapse in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        let done = rustix::fs::fallocate(rw(&twin.dir().join("file")), collapse, 0, 4096);
        assert_eq!(done, Err(rustix::io::Errno::OPNOTSUPP));
    }
    twin.check_and_remount();
}

#[test]
fn holes_are_found_where_nothing_was_written() {
    need_fuse!();
    let mut twin = Twin::new("");
    twin.both(|dir| {
        let file = rw(&dir.join("sparse"));
        file.set_len(10 << 20).expect("ftruncate");
        for at in [1 << 20, 5 << 20, (9 << 20) + 4096] {
            file.write_all_at(&noise(at, 64 << 10), at).expect("a write");
        }
        let before = data(&file);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, 5 << 20, 32 << 10).expect("a punch");
        let past = errno(rustix::fs::seek(&file, SeekFrom::Data(10 << 20)));
        (before, data(&file), past, errno(rustix::fs::seek(&file, SeekFrom::Hole(20 << 20))))
    });
    twin.check_and_remount();
    twin.both(|dir| data(&rw(&dir.join("sparse"))));
}

#[test]
fn ranges_are_copied_within_the_mount() {
    need_fuse!();
    let mut twin = Twin::new("");
    twin.both(|dir| {
        let (from, to) = (rw(&dir.join("from")), rw(&dir.join("to")));
        from.write_all_at(&noise(1, 300_000), 0).expect("a write");
        from.set_len(500_000).expect("ftruncate");
        to.write_all_at(&noise(2, 100_000), 0).expect("a write");
        let copy = |(at, to_at, len): (u64, u64, usize)| {
            let (mut done, mut at, mut to_at) = (0, at, to_at);
            while done < len {
                match rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), len - done) {
                    Ok(0) => break,
                    Ok(more) => done += more,
                    Err(error) => return Err(error.raw_os_error()),
                }
            }
            Ok((done, size(&to)))
        };
        let ranges =
            [(0, 50_000, 10_000), (1234, 7, 100_000), (290_000, 400_000, 100_000), (499_990, 0, 100), (600_000, 0, 5)];
        let done = ranges.map(copy);
        let whole = rw(&dir.join("whole"));
        let copied = rustix::fs::copy_file_range(&from, Some(&mut 0), &whole, Some(&mut 0), 1 << 30);
        // Later changes to the source do not affect the copy.
        from.write_all_at(b"changed", 1000).expect("a write");
        let hash = |path: &str| blake3::hash(&fs::read(dir.join(path)).expect("it can be read"));
        let overlap = errno(rustix::fs::copy_file_range(&from, Some(&mut 0), &from, Some(&mut 10), 100));
        (done, errno(copied), hash("from"), hash("to"), hash("whole"), overlap)
    });
    twin.check_and_remount();
}

#[test]
fn locks_are_kept_by_the_kernel() {
    need_fuse!();
    use rustix::fs::FlockOperation::{NonBlockingLockExclusive, Unlock};
    let twin = Twin::new("");
    twin.both(|dir| {
        let (one, two) = (rw(&dir.join("file")), rw(&dir.join("file")));
        let flock = |file, how| errno(rustix::fs::flock(file, how));
        [
            flock(&one, NonBlockingLockExclusive),
            flock(&two, NonBlockingLockExclusive),
            flock(&one, Unlock),
            flock(&two, NonBlockingLockExclusive),
            errno(rustix::fs::fcntl_lock(&one, NonBlockingLockExclusive)),
        ]
    });
}

/// Case 17.
#[test]
fn a_directory_that_changes_while_it_is_listed_shows_each_lasting_name_once() {
    need_fuse!();
    let twin = Twin::new("");
    twin.both(|dir| {
        let many = dir.join("many");
        fs::create_dir(&many).expect("a directory");
        for n in 0..3000 {
            fs::write(many.join(format!("{n:05}-with-a-name-of-some-length")), b"").expect("a new file");
        }
        let mut seen = std::collections::BTreeMap::<_, u32>::new();
        for (n, entry) in fs::read_dir(&many).expect("a listing").enumerate() {
            let name = entry.expect("an entry").file_name().into_string().expect("text");
            if n % 100 == 0 {
                // Every third name is removed on the way, and others are added.
                for m in (0..3000).step_by(3).skip(n / 100 * 40).take(40) {
                    let _ = fs::remove_file(many.join(format!("{m:05}-with-a-name-of-some-length")));
                    fs::write(many.join(format!("new-{m}")), b"").expect("a new file");
                }
            }
            *seen.entry(name).or_default() += 1;
        }
        let lasting = |name: &String| name[..5].parse::<u32>().is_ok_and(|n| n % 3 != 0);
        let once = seen.iter().filter(|(name, _)| lasting(name)).all(|(_, &times)| times == 1);
        let again = fs::read_dir(&many).expect("a listing").count();
        (once, seen.keys().filter(|name| lasting(name)).count(), again)
    });
    twin.both(|dir| {
        // telldir, seekdir: a position stays valid as long as the directory is open.
        let mut listing =
            rustix::fs::Dir::read_from(File::open(dir.join("many")).expect("it opens")).expect("a listing");
        let first: Vec<_> = listing.by_ref().take(50).map(|e| e.expect("an entry").file_name().to_owned()).collect();
        listing.rewind();
        let again: Vec<_> = listing.by_ref().take(50).map(|e| e.expect("an entry").file_name().to_owned()).collect();
        (first == again, listing.count())
    });
    twin.both(|dir| os(fs::remove_dir_all(dir.join("many"))));
    twin.check();
}

#[test]
fn an_inode_keeps_its_number_and_programs_run_from_the_mount() {
    need_fuse!();
    let mut twin = Twin::new("");
    fs::copy("/bin/true", twin.dir().join("true")).expect("a copy");
    fs::copy("/bin/true", twin.plain().join("true")).expect("a copy");
    let number = |twin: &Twin| fs::metadata(twin.dir().join("true")).expect("stat").ino();
    let before = number(&twin);
    twin.both(|dir| common::status(&mut std::process::Command::new(dir.join("true"))).expect("it runs").success());
    fs::rename(twin.dir().join("true"), twin.dir().join("x")).expect("a rename");
    fs::rename(twin.dir().join("x"), twin.dir().join("true")).expect("a rename");
    assert_eq!(number(&twin), before);
    twin.check_and_remount();
    assert_eq!(number(&twin), before);
}
