//! A `pack` that is killed leaves nothing under the image's name, and the next run cleans up and succeeds.

mod common;

use common::compare::assert_same;
use common::run::{wait, with_signals};
use common::{Lab, floe, floe_command, noise, write};
use floe::pack::filter::{Contents, Decision, Filter, FilterDir, FilterEntry, Why};
use floe::pack::{PackError, PackObserver, PackOptions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Large enough for many writes to the image.
fn source(lab: &Lab) -> PathBuf {
    let source = lab.tree("source");
    for i in 0..24 {
        write(source.join(format!("{i:02}")), noise(i, 1 << 20));
    }
    source
}

/// Reports every change of files in the directory of the images.
fn watch(lab: &Lab) -> OwnedFd {
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify works");
    let what = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVE;
    inotify::add_watch(&watch, lab.path("images"), what).expect("a folder can be watched");
    watch
}

/// Waits until the temporary file was written `writes` times; returns `false` if the image appears first.
fn wait_for_writes(watch: &OwnedFd, writes: usize) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    let mut seen = 0;
    loop {
        match events.next() {
            Ok(event) if event.events().contains(ReadFlags::MOVED_TO) => return false,
            Ok(event) => {
                let temporary = event.file_name().is_some_and(|n| n.to_bytes().ends_with(b".floe-tmp"));
                seen += usize::from(temporary && event.events().contains(ReadFlags::MODIFY));
                if seen >= writes {
                    return true;
                }
            }
            Err(rustix::io::Errno::AGAIN) => {
                let limit = Timespec { tv_sec: 120, tv_nsec: 0 };
                let ready = poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&limit)).expect("it can be polled");
                assert!(ready > 0, "nothing was written for two minutes");
            }
            Err(e) => panic!("inotify: {e}"),
        }
    }
}

/// Starts packing under `env` with this option.
fn start(source: &Path, image: &Path, force: bool, signals: &str) -> Child {
    let mut floe = floe_command(["pack", "--superchunk-size", "1M", "-j", "1", "-C", "zstd:1"]);
    if force {
        floe.arg("-f");
    }
    floe.arg(source).arg(image);
    let mut command = with_signals(&floe, signals);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("floe runs")
}

/// Starts packing, and sends a signal after `writes` writes. `None` if packing was faster.
fn interrupt(lab: &Lab, source: &Path, image: &Path, writes: usize, signal: Signal) -> Option<ExitStatus> {
    // The child must not inherit ignored signals from the tests; a shell ignores some for background jobs.
    interrupt_with(lab, source, image, writes, signal, "--default-signal=INT,TERM,HUP")
}

fn interrupt_with(
    lab: &Lab,
    source: &Path,
    image: &Path,
    writes: usize,
    signal: Signal,
    signals: &str,
) -> Option<ExitStatus> {
    let watch = watch(lab);
    let mut child = start(source, image, image.exists(), signals);
    let in_time = wait_for_writes(&watch, writes);
    kill_process(Pid::from_child(&child), signal).expect("the child is there until it is waited for");
    let status = wait(&mut child).expect("it ends");
    in_time.then_some(status)
}

#[test]
fn a_killed_pack_leaves_no_image_and_the_next_one_leaves_nothing_else() {
    let lab = Lab::new();
    let source = source(&lab);
    let image = lab.image("x.floe");
    let mut interrupted = 0;
    for writes in [1, 2, 5, 10, 20] {
        if let Some(status) = interrupt(&lab, &source, &image, writes, Signal::KILL) {
            assert_eq!(status.code(), None, "it was killed");
            assert!(!image.exists(), "an unfinished image has the name of a finished one, after {writes} writes");
            interrupted += 1;
        }
        floe!("pack", "-f", &source, &image).exits(0);
        assert_eq!(lab.image_folder(), ["x.floe"]);
        floe!("check", &image).exits(0);
        fs::remove_file(&image).expect("it can be removed");
    }
    assert!(interrupted > 0, "packing was quicker each time");
    floe!("pack", &source, &image).exits(0);
    let out = lab.tree("out");
    floe!("extract", &image, "-C", &out).exits(0);
    assert_same(&source, &out);
}

#[test]
fn a_pack_over_an_image_that_is_killed_leaves_the_old_image_whole() {
    let lab = Lab::new();
    let source = source(&lab);
    let image = lab.image("x.floe");
    let small = lab.tree("small");
    write(small.join("file"), "precious");
    lab.pack(&[], &small, "x.floe");
    let before = fs::read(&image).expect("an image");
    let killed = interrupt(&lab, &source, &image, 3, Signal::KILL);
    assert!(killed.is_some(), "24 MiB were packed in three writes");
    assert!(fs::read(&image).expect("an image") == before);
    floe!("check", &image).exits(0);
    floe!("pack", "-f", &source, &image).exits(0);
    assert_eq!(lab.image_folder(), ["x.floe"]);
}

#[test]
fn an_interrupted_pack_cleans_up_by_itself_and_is_exit_130() {
    let lab = Lab::new();
    let source = source(&lab);
    let status = interrupt(&lab, &source, &lab.image("x.floe"), 2, Signal::INT).expect("it was in time");
    assert_eq!(status.code(), Some(130));
    assert_eq!(lab.image_folder(), Vec::<String>::new());
    let status = interrupt(&lab, &source, &lab.image("x.floe"), 2, Signal::TERM).expect("it was in time");
    assert_ne!(status.code(), Some(0));
    assert_eq!(lab.image_folder(), Vec::<String>::new());
}

#[test]
fn a_pack_that_ignores_hangups_goes_on_when_the_terminal_goes() {
    let lab = Lab::new();
    let source = source(&lab);
    for (signal, name) in [(Signal::HUP, "HUP"), (Signal::INT, "INT")] {
        let ignores = format!("--ignore-signal={name}");
        let status = interrupt_with(&lab, &source, &lab.image("x.floe"), 2, signal, &ignores).expect("it was in time");
        assert_eq!(status.code(), Some(0), "{name}");
        assert_eq!(lab.image_folder(), ["x.floe"]);
        fs::remove_file(lab.image("x.floe")).expect("it can be removed");
    }
}

#[test]
fn a_leftover_of_another_image_that_is_still_being_packed_is_let_alone() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("file"), "x");
    let busy = lab.image(".x.floe.floe-tmp");
    write(&busy, "somebody writes this");
    let held = File::options().read(true).write(true).open(&busy).expect("it opens");
    rustix::fs::fcntl_lock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("it can be locked");
    floe!("pack", &source, lab.image("x.floe")).exits(11);
    assert_eq!(fs::read(&busy).expect("it is there"), b"somebody writes this");
    floe!("pack", &source, lab.image("y.floe")).exits(0);
    assert_eq!(lab.image_folder(), [".x.floe.floe-tmp", "y.floe"]);
    drop(held);
    floe!("pack", &source, lab.image("x.floe")).exits(0);
    assert_eq!(lab.image_folder(), ["x.floe", "y.floe"]);
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing_behind() {
    common::left_out::need_root!();
    let lab = Lab::new();
    let source = source(&lab);
    let small = lab.mount_point("small");
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "floe-test"]).arg(&small).status();
    if !mounted.is_ok_and(|s| s.success()) {
        return common::left_out::left_out("no tmpfs can be mounted");
    }
    let done = floe!("pack", "--superchunk-size", "1M", &source, small.join("x.floe"));
    let left: Vec<_> = fs::read_dir(&small).expect("a folder").flatten().map(|e| e.file_name()).collect();
    let unmounted = std::process::Command::new("umount").arg(&small).status();
    assert!(unmounted.is_ok_and(|s| s.success()));
    let done = done.exits(1);
    assert!(done.stderr.to_lowercase().contains("no space"), "{}", done.stderr);
    assert!(left.is_empty(), "{left:?}");
}

/// Leaves everything out, and counts the calls.
#[derive(Default)]
struct Nothing(AtomicU64);

impl Filter for Nothing {
    fn decide(&self, _: &FilterEntry<'_>) -> Decision<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Decision::Skip(Why::Default)
    }

    fn enter(&self, _: &FilterDir<'_>) -> Contents<'_> {
        Contents::All
    }
}

/// Asks to stop at once, and wants the total.
struct Stop;

impl PackObserver for Stop {
    fn wants_total(&self) -> bool {
        true
    }

    fn warning(&self, path: &[u8], message: &str) {
        panic!("{}: {message}", String::from_utf8_lossy(path));
    }

    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn an_interrupt_ends_the_walks_too_even_where_everything_is_left_out() {
    let lab = Lab::new();
    let source = lab.tree("source");
    for n in 0..500 {
        write(source.join(format!("{n}")), "x");
    }
    let filter = Arc::new(Nothing::default());
    let options = PackOptions { filter: filter.clone(), ..PackOptions::default() };
    let packed = floe::pack::pack(std::slice::from_ref(&source), &lab.image("x.floe"), &options, &Stop);
    assert!(matches!(packed, Err(PackError::Cancelled)), "{packed:?}");
    let surveyed = floe::pack::survey(&[source], &lab.image("x.floe"), &options, &Stop);
    assert!(matches!(surveyed, Err(PackError::Cancelled)), "{surveyed:?}");
    assert_eq!(filter.0.load(Ordering::Relaxed), 0);
    assert_eq!(lab.image_folder(), Vec::<String>::new());
}
