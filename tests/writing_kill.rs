//! A writable mount's daemon that is killed at random moments: nothing synced is lost, and no byte appears that was not
//! written.
//!
//! Four workers each change a directory (`common/durable.rs` knows what must be in it). The daemon is killed while they
//! work, while it is unmounted, or while it recovers; in one test it only serves, in another everything also freezes.
//! `FLOE_LONG=1` runs 300 rounds; `FLOE_SEED` selects the seed.

mod common;
#[path = "common/durable.rs"]
mod durable;

use common::guardian::Guardian;
use common::left_out::need_fuse;
use common::mounted::{ends_within, is_mounted, mount_line};
use common::run::{floe_command, spawn, wait};
use common::{Lab, floe};
use durable::{Rng, Worker};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Number of rounds: the default, and with `FLOE_LONG=1`.
const ROUNDS: (u64, u64) = (6, 300);
/// Time in which a killed daemon must end.
const END_LIMIT: Duration = Duration::from_secs(1);
/// Time limit of one mount; after that its connection is aborted.
const MOUNT_LIMIT: Duration = Duration::from_secs(300);
const WORKERS: u64 = 4;
/// Most changes and syncs of all workers before a kill.
const STEPS_MAX: u64 = 1500;
/// When image and thaw log together reach this size in bytes, a new image is begun.
const LOG_MAX: u64 = 160 << 20;
/// An image whose files are frozen is larger than this; an empty one has 36 KiB.
const FROZEN: u64 = 64 << 10;
const SEED: u64 = 19;

/// An image whose daemon is our child, mounted and killed repeatedly.
struct Target {
    image: PathBuf,
    dir: PathBuf,
    daemon: Option<(Child, OwnedFd)>,
    guardian: Option<Guardian>,
    /// Whether everything freezes at once.
    freezes: bool,
    slowest_end: Duration,
}

impl Target {
    fn new(image: PathBuf, dir: PathBuf, freezes: bool) -> Self {
        // Small superchunks: many freezes are needed to fill one.
        floe!("mkfs", "--superchunk-size", "1M", &image).exits(0);
        Target { image, dir, daemon: None, guardian: None, freezes, slowest_end: Duration::ZERO }
    }

    fn start(&mut self) {
        self.guardian = Some(Guardian::over(&self.dir, MOUNT_LIMIT));
        let mut command = floe_command(["mount", "-f"]);
        if self.freezes {
            command.args(["-o", "freeze=eager"]);
        }
        command.arg(&self.image).arg(&self.dir).stdout(Stdio::null());
        let child = spawn(&mut command).expect("floe runs");
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a pidfd");
        self.daemon = Some((child, process));
    }

    /// Mounts, and returns after the mount appeared.
    fn mount(&mut self) {
        self.start();
        let mounts = File::open("/proc/self/mounts").expect("/proc is mounted");
        let begun = Instant::now();
        while !is_mounted(&self.dir) {
            let (_, process) = self.daemon.as_ref().expect("it was started");
            // The kernel reports POLLPRI and POLLERR when the mount table changes.
            let mut fds = [PollFd::new(process, PollFlags::IN), PollFd::new(&mounts, PollFlags::PRI)];
            let tick = Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = poll(&mut fds, Some(&tick));
            assert!(fds[0].revents().is_empty(), "'floe mount' ended instead of mounting");
            assert!(begun.elapsed() < MOUNT_LIMIT, "not mounted after {MOUNT_LIMIT:?}");
        }
    }

    /// Kills the daemon, which must end at once, and removes the dead mount.
    fn kill(&mut self) {
        let (mut child, process) = self.daemon.take().expect("it was started");
        // It may have ended already, after an unmount.
        let _ = kill_process(Pid::from_child(&child), Signal::KILL);
        let begun = Instant::now();
        let ended = ends_within(&process, END_LIMIT);
        self.slowest_end = self.slowest_end.max(begun.elapsed());
        if !ended {
            // Aborts the connection, so that neither daemon nor workers hang for ever.
            self.guardian = None;
        }
        wait(&mut child).expect("a killed daemon ends");
        assert!(ended, "the daemon had not ended {END_LIMIT:?} after it was killed");
    }

    fn clear(&mut self) {
        if mount_line(&self.dir).is_some() {
            floe!("umount", &self.dir).exits(0);
        }
        assert!(!is_mounted(&self.dir), "the dead mount is taken away");
        self.guardian = None;
    }

    fn unmount(&mut self) {
        floe!("umount", &self.dir).exits(0);
        let (mut child, _) = self.daemon.take().expect("it was started");
        let status = wait(&mut child).expect("the daemon ends");
        assert!(status.success(), "the daemon ended with {status}");
        assert!(!is_mounted(&self.dir));
        self.guardian = None;
    }

    /// Bytes of image and thaw log.
    fn size(&self) -> u64 {
        let mut log = self.image.clone().into_os_string();
        log.push(".thaw");
        let entries = fs::read_dir(log).into_iter().flatten().flatten();
        let log: u64 = entries.filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum();
        log + fs::metadata(&self.image).map_or(0, |image| image.len())
    }

    fn remove(&mut self) {
        let mut log = self.image.clone().into_os_string();
        log.push(".thaw");
        let _ = fs::remove_dir_all(log);
        fs::remove_file(&self.image).expect("the image can be removed");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.guardian = None;
        if let Some((mut child, _)) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// When the daemon is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    Working,
    Unmounting,
    Recovering,
}

const MOMENTS: [Moment; 5] =
    [Moment::Working, Moment::Working, Moment::Working, Moment::Unmounting, Moment::Recovering];

/// Waits this long without sleeping: moments shorter than a scheduler tick matter.
fn spin(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::thread::yield_now();
    }
}

/// Lets the workers work until `steps` are made. Then calls `end` while they continue, unless they must stop first.
fn work(workers: &mut [Worker], steps: u64, stop_first: bool, end: impl FnOnce(&AtomicBool)) {
    let (made, stop, killed) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let body = |worker: &mut Worker| {
        while !stop.load(SeqCst) {
            if let Err(error) = worker.step() {
                assert!(killed.load(SeqCst), "a call failed before the daemon was killed: {error}");
                break;
            }
            made.fetch_add(1, SeqCst);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| body(worker))).collect();
        // A worker that has ended has failed: its thread reports why.
        while made.load(SeqCst) < steps && !threads.iter().any(|t| t.is_finished()) {
            std::thread::yield_now();
        }
        if stop_first {
            stop.store(true, SeqCst);
        } else {
            end(&killed);
        }
    });
}

/// A new image, mounted, with a directory for each worker.
fn begin(lab: &Lab, dir: &Path, seed: u64, freezes: bool) -> (Target, Vec<Worker>) {
    let mut target = Target::new(lab.image("kill.floe"), dir.to_owned(), freezes);
    target.mount();
    let places: Vec<PathBuf> = (0..WORKERS).map(|n| dir.join(format!("w{n}"))).collect();
    places.iter().for_each(|place| fs::create_dir(place).expect("a directory can be made"));
    File::open(dir).and_then(|d| d.sync_all()).expect("the root can be synced");
    (target, places.into_iter().zip(0..).map(|(place, n)| Worker::new(n, seed, place)).collect())
}

/// Mounts after a crash; each worker's directory must be in the state after a prefix of its changes.
fn mount_after_crash(target: &mut Target, workers: &mut [Worker], when: &str) {
    target.mount();
    for worker in workers {
        worker.check_after_crash().unwrap_or_else(|e| panic!("{when}: {e}"));
    }
}

/// One round: work, and a kill at some moment; the image is unmounted at the end.
fn round(target: &mut Target, workers: &mut [Worker], rng: &mut Rng) -> Moment {
    let moment = MOMENTS[rng.below(MOMENTS.len() as u64) as usize];
    // Sometimes soon after the mount, when the log was just begun or continued.
    let steps = if rng.below(4) == 0 { rng.below(30) } else { rng.below(STEPS_MAX) };
    let jitter = Duration::from_micros(rng.below(3000));
    let dir = target.dir.clone();
    if moment == Moment::Unmounting {
        work(workers, steps, true, |_| {});
        workers.iter_mut().for_each(Worker::close_all);
        let mut unmount = spawn(floe_command(["umount"]).arg(&dir).stderr(Stdio::piped())).expect("floe runs");
        spin(jitter * 20);
        target.kill();
        let done = wait(&mut unmount).expect("'floe umount' ends").success();
        let mut said = String::new();
        unmount.stderr.take().expect("a pipe").read_to_string(&mut said).expect("it says something");
        // An unmount that came after the kill removes the dead mount, and says so.
        if done && !said.contains("had died") {
            workers.iter_mut().for_each(Worker::all_is_durable);
        }
    } else {
        work(workers, steps, false, |killed| {
            spin(jitter);
            killed.store(true, SeqCst);
            target.kill();
        });
        workers.iter_mut().for_each(Worker::close_all);
    }
    target.clear();
    if moment == Moment::Recovering {
        target.start();
        spin(jitter * 10);
        target.kill();
        target.clear();
    }
    moment
}

#[test]
fn a_daemon_killed_at_random_moments_loses_nothing_that_was_synced() {
    need_fuse!();
    killed(false);
}

#[test]
fn a_daemon_killed_while_it_freezes_loses_nothing_that_was_synced() {
    need_fuse!();
    killed(true);
}

fn killed(freezes: bool) {
    let lab = Lab::new();
    let dir = lab.mount_point("m").canonicalize().expect("it was made");
    let rounds = if std::env::var_os("FLOE_LONG").is_some() { ROUNDS.1 } else { ROUNDS.0 };
    let seed = std::env::var("FLOE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(SEED);
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let (mut images, mut slowest, mut steps, mut largest) = (0, Duration::ZERO, 0, 0);
    let mut current = None;
    for number in 0..rounds {
        let (mut target, mut workers) = current.take().unwrap_or_else(|| begin(&lab, &dir, seed + number, freezes));
        let moment = round(&mut target, &mut workers, &mut rng);
        let when = format!("after round {number} of seed {seed}, killed when {moment:?}");
        floe!("check", &target.image).exits(0);
        mount_after_crash(&mut target, &mut workers, &when);
        largest = largest.max(fs::metadata(&target.image).map_or(0, |image| image.len()));
        if target.size() < LOG_MAX && number + 1 < rounds {
            current = Some((target, workers));
            continue;
        }
        // Without a kill nothing is lost.
        target.unmount();
        floe!("check", &target.image).exits(0);
        target.mount();
        for worker in &workers {
            worker.check_all().unwrap_or_else(|e| panic!("{when}, then unmounted: {e}"));
        }
        target.unmount();
        target.remove();
        images += 1;
        slowest = slowest.max(target.slowest_end);
        steps += workers.iter().map(Worker::changes).sum::<u64>();
    }
    println!(
        "{rounds} rounds on {images} images, {steps} changes; the slowest end took {slowest:?}, the largest image had {largest} bytes"
    );
    assert!(!freezes || largest > FROZEN, "hardly anything was frozen: the largest image had {largest} bytes");
}

/// A worker that changed a directory on a real disk.
fn on_disk(lab: &Lab, steps: usize) -> (PathBuf, Worker) {
    let place = lab.tree("w");
    let mut worker = Worker::new(1, SEED, place.clone());
    for _ in 0..steps {
        worker.step().expect("a disk takes all of it");
    }
    (place, worker)
}

#[test]
fn the_oracle_agrees_with_a_disk() {
    let lab = Lab::new();
    let (_, mut worker) = on_disk(&lab, 3000);
    worker.check_all().unwrap();
    worker.close_all();
    worker.check_after_crash().unwrap();
    worker.check_all().unwrap();
}

#[test]
fn the_oracle_finds_a_byte_that_was_not_written() {
    let lab = Lab::new();
    let (place, mut worker) = on_disk(&lab, 3000);
    worker.close_all();
    let held = worker.held().expect("a file");
    worker.append(&held, 1000).unwrap();
    let file = place.join(held);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = worker.check_after_crash().expect_err("a byte was changed");
    assert!(error.contains(&format!("differs at {middle}")), "{error}");
}

#[test]
fn the_oracle_finds_a_synced_change_that_was_taken_back() {
    let lab = Lab::new();
    let (place, mut worker) = on_disk(&lab, 3000);
    worker.all_is_durable();
    worker.close_all();
    fs::remove_file(place.join(worker.held().expect("a file"))).unwrap();
    worker.check_after_crash().expect_err("a file is gone");
}

#[test]
fn the_oracle_takes_any_prefix_after_the_last_sync_but_nothing_else() {
    let lab = Lab::new();
    let (place, mut worker) = on_disk(&lab, 3000);
    worker.all_is_durable();
    worker.close_all();
    let held = worker.held().expect("a file");
    let path = place.join(&held);
    let before = fs::read(&path).unwrap();
    worker.append(&held, 100).unwrap();
    let once = fs::read(&path).unwrap();
    worker.append(&held, 100).unwrap();
    let twice = fs::read(&path).unwrap();
    worker.close_all();
    fs::write(&path, [&before[..], &twice[once.len()..]].concat()).unwrap();
    worker.check_after_crash().expect_err("the second append without the first");
    for kept in [&once, &before] {
        fs::write(&path, kept).unwrap();
        if kept == &once {
            worker.check_after_crash().unwrap();
        } else {
            worker.check_after_crash().expect_err("what one recovery showed, the next shows too");
        }
    }
}
