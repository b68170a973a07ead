//! The reading passes over a mounted tree (or a tree on any file system), each with its time.
//!
//! All passes run in this process, with the system calls that `cat` and `find -ls` make; no link is followed. A
//! separate thread reads, so that a mount that does not answer blocks nobody: the waiting thread aborts the mount's
//! connection, and the reads fail. Called by `settings` and `run`.

use super::command::Limits;
use super::report::{Pass, Read};
use super::survey::{SPOT_LEN, Spot, Survey};
use super::tree::{Found, Visitor, walk};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, readlinkat, statat};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Number of bytes of one read call on a file that is read completely, as in `cat`.
const BLOCK: usize = 128 << 10;
/// Time after which random reads end, however many were made.
const RANDOM_TIME: Duration = Duration::from_secs(20);
/// Time after which a single read or stat is taken for one that never ends.
const STALLED: Duration = Duration::from_secs(120);
/// Interval at which the waiting thread checks the reader.
const LOOK: Duration = Duration::from_millis(100);
/// Time in which a reader must end after it is told to; after that the mount is aborted.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// The kinds of reading passes, in order.
pub const PASSES: [Read; 4] = [Read::InOrder, Read::OneDirectory, Read::Random, Read::Find];

/// Why a reading pass has no result.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The caller asked to stop.
    #[error("reading the mount was interrupted")]
    Interrupted,
    /// The pass took longer than allowed.
    #[error("reading the mount was stopped: it took longer than its limit of {seconds:.0} seconds")]
    OverLimit {
        /// Number of seconds that the pass took.
        seconds: f64,
    },
    /// The mount did not answer.
    #[error("reading the mount was stopped: a read got no answer for {} seconds", STALLED.as_secs())]
    Stalled,
    /// A file or directory could not be read.
    #[error("cannot read '{path}'")]
    Io {
        /// Path from the root, as far as it is known.
        path: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
}

/// Result of a reading pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Passed {
    /// Figures of the pass.
    pub pass: Pass,
    /// Number of random reads left out because the file does not exist: it was not packed.
    pub absent: usize,
}

/// Makes one reading pass over the tree at `root`; `cold` is copied into the result. `abort` makes all requests to a
/// mount that hangs fail.
///
/// # Errors
/// Fails if something cannot be read, the pass takes too long, or the caller asks to stop.
pub fn pass(
    read: Read,
    root: &Path,
    survey: &Arc<Survey>,
    cold: bool,
    limits: &Limits<'_>,
    abort: &dyn Fn(),
) -> Result<Passed, ReadError> {
    let control = Arc::new(Control::default());
    let (send, result) = channel();
    let reader = {
        let (root, survey, control) = (root.to_owned(), survey.clone(), control.clone());
        let job = move || drop(send.send(measure(read, root, &survey, &control, cold)));
        std::thread::Builder::new().name("bench-read".to_owned()).spawn(job)
    };
    let thread = reader.map_err(|source| ReadError::Io { path: String::new(), source })?;
    let outcome = watch(&result, &control, limits, abort);
    // A thread that is stuck in the kernel is left behind: it ends with the process.
    if !matches!(outcome, Err(ReadError::Stalled)) || thread.is_finished() {
        // Pass on its panic.
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
    outcome
}

/// State shared by reader and watcher.
#[derive(Default)]
struct Control {
    cancelled: AtomicBool,
    /// Counter that grows with each operation.
    done: AtomicU64,
}

impl Control {
    fn step(&self) -> io::Result<()> {
        self.done.fetch_add(1, Ordering::Relaxed);
        // Not `Interrupted`: the standard library retries on that.
        if self.cancelled.load(Ordering::Relaxed) { Err(io::Error::other("cancelled")) } else { Ok(()) }
    }
}

fn watch(
    result: &Receiver<Result<Passed, ReadError>>,
    control: &Control,
    limits: &Limits<'_>,
    abort: &dyn Fn(),
) -> Result<Passed, ReadError> {
    let began = Instant::now();
    let mut last = (control.done.load(Ordering::Relaxed), began);
    let why = loop {
        match result.recv_timeout(LOOK) {
            Ok(outcome) => return outcome,
            // The reader panicked; joining it reports that.
            Err(RecvTimeoutError::Disconnected) => return Err(ReadError::Interrupted),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let done = control.done.load(Ordering::Relaxed);
        if done != last.0 {
            last = (done, Instant::now());
        }
        let seconds = began.elapsed().as_secs_f64();
        if (limits.stop)() {
            break ReadError::Interrupted;
        } else if limits.time.is_some_and(|time| began.elapsed() >= time) {
            break ReadError::OverLimit { seconds };
        } else if last.1.elapsed() >= STALLED {
            break ReadError::Stalled;
        }
    };
    control.cancelled.store(true, Ordering::Relaxed);
    if result.recv_timeout(ENDS_WITHIN).is_ok() {
        return Err(why);
    }
    abort();
    if result.recv_timeout(ENDS_WITHIN).is_ok() { Err(why) } else { Err(ReadError::Stalled) }
}

fn measure(read: Read, root: PathBuf, survey: &Survey, control: &Control, cold: bool) -> Result<Passed, ReadError> {
    let mut at = String::new();
    let began = Instant::now();
    let measured = match read {
        Read::InOrder => contents(&root, control, &mut at),
        Read::OneDirectory => contents(&root.join(OsStr::from_bytes(&survey.directory)), control, &mut at),
        Read::Random => spots(&root, &survey.spots, control, &mut at),
        Read::Find => attributes(&root, control, &mut at),
    };
    let seconds = began.elapsed().as_secs_f64();
    let Done { bytes, operations, mut times, absent } =
        measured.map_err(|source| ReadError::Io { path: at, source })?;
    times.sort_unstable_by(f64::total_cmp);
    let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
    Ok(Passed { pass: Pass { read, mounted: true, cold, seconds, bytes, operations, p50, p99 }, absent })
}

/// Counts of the operations of a pass.
#[derive(Default)]
struct Done {
    bytes: u64,
    operations: u64,
    /// Duration of each operation in seconds, if they are measured singly.
    times: Vec<f64>,
    absent: usize,
}

/// Returns a percentile by the nearest rank: the smallest value that at least `percent` percent of all values do not
/// exceed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Reads every file below `root`, in path order.
fn contents(root: &Path, control: &Control, at: &mut String) -> io::Result<Done> {
    struct Reader<'a> {
        control: &'a Control,
        at: &'a mut String,
        block: Vec<u8>,
        done: Done,
    }
    impl Reader<'_> {
        fn file(&mut self, found: &Found<'_>) -> io::Result<()> {
            let file = found.open()?;
            loop {
                self.control.step()?;
                let len = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *self.block))?;
                self.done.operations += 1;
                self.done.bytes += len as u64;
                if len == 0 {
                    return Ok(());
                }
            }
        }
    }
    impl Visitor for Reader<'_> {
        fn entry(&mut self, found: &Found<'_>) -> io::Result<()> {
            if found.kind != FileType::RegularFile {
                return self.control.step();
            }
            self.file(found).inspect_err(|_| *self.at = shown(found.path))
        }

        fn unreadable(&mut self, path: &[u8], error: io::Error) -> io::Result<()> {
            *self.at = shown(path);
            Err(error)
        }
    }
    let mut reader = Reader { control, at, block: vec![0; BLOCK], done: Done::default() };
    walk(root, &mut reader)?;
    Ok(reader.done)
}

/// Opens a file and reads 4 KiB of it, for each spot. Opening counts, because every reader of 4 KiB must open the file.
fn spots(root: &Path, spots: &[Spot], control: &Control, at: &mut String) -> io::Result<Done> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let mut done = Done::default();
    let mut block = [0; SPOT_LEN as usize];
    let began = Instant::now();
    for spot in spots {
        if began.elapsed() >= RANDOM_TIME {
            break;
        }
        control.step()?;
        let from = Instant::now();
        let mut read = || -> io::Result<usize> {
            let file = open_below(&root, &spot.path)?;
            Ok(rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut block, spot.offset))?)
        };
        let len = match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                done.absent += 1;
                continue;
            }
            other => other.inspect_err(|_| *at = shown(&spot.path))?,
        };
        done.times.push(from.elapsed().as_secs_f64());
        done.bytes += len as u64;
        done.operations += 1;
    }
    Ok(done)
}

/// Opens a path below a directory, whatever its length.
fn open_below(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    const LONGEST: usize = 4000;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let (mut within, mut rest) = (None::<OwnedFd>, path);
    while rest.len() > LONGEST {
        let head = &rest[..LONGEST];
        // A name has at most 255 bytes.
        let cut = head.iter().rposition(|&byte| byte == b'/').ok_or(rustix::io::Errno::NAMETOOLONG)?;
        let directory = within.as_ref().unwrap_or(root).as_fd();
        let next = openat(directory, &rest[..cut], OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        rest = &rest[cut + 1..];
        within = Some(next);
    }
    Ok(openat(within.as_ref().unwrap_or(root), rest, flags, Mode::empty())?)
}

/// Reads what `find -ls` queries of each entry: its attributes, and the target of a link.
fn attributes(root: &Path, control: &Control, at: &mut String) -> io::Result<Done> {
    struct Lister<'a> {
        control: &'a Control,
        at: &'a mut String,
        done: Done,
    }
    impl Visitor for Lister<'_> {
        fn entry(&mut self, found: &Found<'_>) -> io::Result<()> {
            self.control.step()?;
            self.done.operations += 1;
            let look = || -> io::Result<()> {
                found.stat()?;
                if found.kind == FileType::Symlink {
                    readlinkat(found.directory, found.name, Vec::new())?;
                }
                Ok(())
            };
            look().inspect_err(|_| *self.at = shown(found.path))
        }

        fn unreadable(&mut self, path: &[u8], error: io::Error) -> io::Result<()> {
            *self.at = shown(path);
            Err(error)
        }
    }
    statat(rustix::fs::CWD, root, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut lister = Lister { control, at, done: Done { operations: 1, ..Done::default() } };
    walk(root, &mut lister)?;
    Ok(lister.done)
}

/// Returns a path, made safe to show.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::super::survey::survey;
    use super::*;
    use std::fs;

    const NEVER: Limits<'static> = Limits { time: None, stop: &|| false };

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::write(root.path().join("a/b/large"), vec![7; 2 << 20]).unwrap();
        fs::write(root.path().join("a/small"), "small").unwrap();
        fs::write(root.path().join("z"), vec![1; 8 << 20]).unwrap();
        std::os::unix::fs::symlink("nowhere", root.path().join("link")).unwrap();
        root
    }

    #[test]
    fn each_pass_reads_what_it_is_called_after() {
        let root = tree();
        let survey = Arc::new(survey(root.path(), &|| false).unwrap());
        let done = PASSES.map(|read| pass(read, root.path(), &survey, true, &NEVER, &|| {}).unwrap().pass);
        assert_eq!(done.each_ref().map(|pass| pass.read), PASSES);
        assert!(done.iter().all(|pass| pass.mounted && pass.cold && pass.seconds > 0.0));
        let [all, one, random, find] = &done;
        assert_eq!(all.bytes, survey.bytes);
        assert_eq!((survey.directory.as_slice(), one.bytes), (&b"a/b"[..], 2 << 20));
        assert_eq!((random.operations, random.p50.is_some()), (2000, true));
        assert!(random.p50 <= random.p99 && random.bytes > 1999 * SPOT_LEN, "{random:?}");
        // The root, a, a/b, three files and a link.
        assert_eq!((find.operations, find.bytes, find.p50), (7, 0, None));
    }

    #[test]
    fn what_was_not_packed_is_left_out_and_what_cannot_be_read_is_named() {
        let root = tree();
        let survey = Arc::new(survey(root.path(), &|| false).unwrap());
        let z = root.path().join("z");
        fs::remove_file(&z).unwrap();
        let passed = pass(Read::Random, root.path(), &survey, true, &NEVER, &|| {}).unwrap();
        assert!(passed.absent > 1000 && passed.pass.operations == 2000 - passed.absent as u64, "{passed:?}");
        fs::create_dir(&z).unwrap();
        let error = pass(Read::Random, root.path(), &survey, true, &NEVER, &|| {}).unwrap_err();
        assert!(matches!(&error, ReadError::Io { path, .. } if path == "z"), "{error}");
    }

    #[test]
    fn an_end_is_heeded_at_the_next_read() {
        let root = tree();
        let control = Control { cancelled: AtomicBool::new(true), ..Control::default() };
        assert!(contents(root.path(), &control, &mut String::new()).is_err());
        assert!(spots(root.path(), &[Spot { path: (*b"z").into(), offset: 0 }], &control, &mut String::new()).is_err());
        assert!(attributes(root.path(), &control, &mut String::new()).is_err());
    }

    #[test]
    fn a_reader_that_hangs_has_its_mount_aborted() {
        let (send, result) = channel();
        let control = Control::default();
        let limits = Limits { time: Some(Duration::ZERO), stop: &|| false };
        // Only the abort lets the reader end.
        let sender = std::cell::RefCell::new(Some(send));
        let abort = || {
            let failed = Err(ReadError::Io { path: String::new(), source: io::ErrorKind::NotConnected.into() });
            if let Some(send) = sender.take() {
                send.send(failed).unwrap();
            }
        };
        let error = watch(&result, &control, &limits, &abort).unwrap_err();
        assert!(matches!(error, ReadError::OverLimit { .. }), "{error}");
        assert!(control.cancelled.into_inner() && sender.take().is_none());
    }

    #[test]
    fn percentiles_are_measured_values() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 99)), (Some(100.0), Some(198.0)));
        assert_eq!(percentile(&times[..1], 99), Some(1.0));
        assert_eq!(percentile(&[], 50), None);
    }
}
