//! `floe bench` with the real binary and real mounts. Its figures equal those of the commands by hand; failures are
//! reported and the rest continues; however it ends, nothing remains.

mod common;

use common::left_out::{is_root, left_out, need_fuse, need_program, need_root};
use common::mounted::wait_until_ended;
use common::run::{wait, with_signals};
use common::{Lab, Run, floe, floe_command, noise, prose, run, spawn, write};
use floe::bench::{Entry, Kind, Outcome, Read, Report, html};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// One of every kind: names, duplicates, text, noise, a link, a hole.
fn tree(lab: &Lab) -> PathBuf {
    let root = lab.tree("tree");
    write(root.join("data/noise"), noise(1, 300_000));
    write(root.join("data/again"), noise(1, 300_000));
    write(root.join("data/prose"), prose(2, 1_500_000));
    write(root.join("few/one"), b"one");
    write(root.join("few/none"), b"");
    std::os::unix::fs::symlink("data/noise", root.join("link")).unwrap();
    fs::hard_link(root.join("few/one"), root.join("few/linked")).unwrap();
    let hole = fs::File::create(root.join("hole")).unwrap();
    hole.set_len(1 << 20).unwrap();
    root
}

/// The work directory of one test.
fn work(lab: &Lab) -> PathBuf {
    // Whatever fails, no mount outlives the lab.
    lab.mount_point("unused");
    let path = lab.path("work");
    fs::create_dir(&path).unwrap();
    path
}

fn bench(work: &Path, tree: &Path, options: &[&str]) -> Command {
    let mut floe = floe_command(["bench", "--work"]);
    floe.arg(work).args(options).arg(tree).env("SOURCE_DATE_EPOCH", "1700000000");
    with_signals(&floe, "--default-signal=INT,TERM,HUP")
}

fn report(run: &Run) -> Report {
    serde_json::from_slice(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", run.out()))
}

fn size(entry: &Entry) -> u64 {
    entry.size.as_ref().unwrap_or_else(|| panic!("{entry:?}")).total
}

fn failure(entry: &Entry) -> &str {
    match &entry.outcome {
        Outcome::Failed { message } => message,
        other => panic!("{}: {other:?}", entry.name),
    }
}

/// No file, mount or process refers to the directory any more.
#[track_caller]
fn nothing_is_left(work: &Path) {
    let files: Vec<_> = fs::read_dir(work).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.is_empty(), "{files:?}");
    let name = work.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let left: Vec<_> = mounts.lines().filter(|line| line.contains(&format!("{name}/"))).collect();
    assert!(left.is_empty(), "{left:?}");
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        assert!(!command.contains(name), "{} lives: {command}", process.path().display());
    }
}

/// Polls until `asked` returns a value.
#[track_caller]
fn until<T>(what: &str, child: &mut Child, mut asked: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = asked() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{what}: not within two minutes");
        if let Some(status) = child.try_wait().unwrap() {
            panic!("{what}: it ended before, {status}");
        }
        std::thread::yield_now();
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[track_caller]
fn is_interrupted(mut child: Child, work: &Path) {
    let status = wait(&mut child).expect("it ends");
    assert_eq!(status.code(), Some(130), "{status}");
    nothing_is_left(work);
}

/// A directory that is alone in PATH, with scripts in it.
fn programs(lab: &Lab, scripts: &[(&str, &str)]) -> PathBuf {
    let directory = lab.path("programs");
    fs::create_dir(&directory).unwrap();
    for (name, script) in scripts {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

#[test]
fn figures_are_those_of_packing_by_hand_and_add_up() {
    need_fuse!();
    let lab = Lab::new();
    let (tree, work) = (tree(&lab), work(&lab));
    let done = run(bench(&work, &tree, &["--profiles", "fast,zstd:5", "--json", "-j", "2"])).exits(0);
    nothing_is_left(&work);
    let report = report(&done);
    let options: [&[&str]; 2] = [&["--profile", "fast"], &["-C", "zstd:5"]];
    assert_eq!(
        report.entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(),
        ["floe fast", "floe zstd:5"]
    );
    for (entry, options) in report.entries.iter().zip(options) {
        let mut command = floe_command(["pack", "--json", "-j2"]);
        let image = lab.image(&entry.name);
        command.args(options).arg(&tree).arg(&image).env("SOURCE_DATE_EPOCH", "1700000000");
        let packed = run(command).exits(0);
        assert_eq!(size(entry), image.metadata().unwrap().len(), "{entry:?}");
        let line = packed.out().lines().last().unwrap().to_owned();
        let summary: serde_json::Value = serde_json::from_str(&line).unwrap();
        let source = &report.source;
        assert_eq!(summary["bytes"], source.bytes, "{summary}");
        assert_eq!(summary["directories"], source.directories, "{summary}");
        let found = entry.size.as_ref().unwrap();
        let parts = found.parts.as_ref().unwrap();
        let sum = parts.data + parts.metadata + parts.identities + parts.clear_lists + parts.other;
        assert_eq!(sum, found.total);
        assert!(parts.data > 300_000 && parts.metadata > 0 && parts.identities > 0, "{parts:?}");
        let saved = found.saved.as_ref().unwrap();
        assert_eq!(summary["shared_bytes"], saved.deduplication);
        let info: serde_json::Value = serde_json::from_slice(&floe!("info", "--json", &image).exits(0).stdout).unwrap();
        assert_eq!(info["matching"]["matched"], saved.matching.unwrap_or(0));
        assert!(
            saved.deduplication >= 300_000 && saved.superchunks > 0 && saved.alone > saved.superchunks,
            "{saved:?}"
        );
        let packing = entry.packing.as_ref().unwrap();
        assert!(packing.cpu_seconds > 0.0 && packing.peak_memory > 1 << 20, "{packing:?}");
        assert_eq!(entry.read_costs.iter().map(|cost| cost.working_set >> 20).collect::<Vec<_>>(), [64, 256]);
        // Less than 1: duplicate data is inflated only once.
        let once = 1_800_000.0 / 2_100_000.0;
        assert!(
            entry.read_costs.iter().all(|cost| (cost.in_order - once).abs() < 0.01 && cost.random > 0.0),
            "{entry:?}"
        );
    }
    for entry in &report.entries {
        assert_eq!((entry.kind, &entry.outcome), (Kind::Floe, &Outcome::Done));
        let reads: Vec<_> = entry.passes.iter().map(|pass| pass.read).collect();
        assert_eq!(reads, [Read::InOrder, Read::OneDirectory, Read::Random, Read::Find]);
        assert!(entry.passes.iter().all(|pass| pass.mounted && pass.cold == is_root() && pass.seconds > 0.0));
        // The hard link is read a second time.
        assert_eq!(entry.passes[0].bytes, report.source.bytes + 3);
        assert_eq!(entry.passes[1].bytes, 2_100_000);
        assert_eq!((entry.passes[2].operations, entry.passes[2].p99.is_some()), (2000, true));
        // The root, two directories, seven names in them, the link and the hole.
        assert_eq!(entry.passes[3].operations, 11);
    }
}

#[test]
fn the_table_and_the_page_show_what_json_says() {
    let lab = Lab::new();
    let (tree, work, page) = (tree(&lab), work(&lab), lab.path("page.html"));
    let with_page = |options: &[&str]| {
        let mut command = bench(&work, &tree, options);
        command.args(["--profiles", "fast", "--html"]).arg(&page);
        run(command)
    };
    let text = with_page(&[]).exits(0).out();
    assert!(text.contains("floe fast") && text.lines().all(|line| line.chars().count() <= 100), "{text}");
    // The page of an earlier run is replaced.
    let report = report(&with_page(&["--json"]).exits(0));
    assert_eq!(fs::read_to_string(&page).unwrap(), html(&report));
    fs::write(&page, "mine").unwrap();
    with_page(&[]).exits(1).says(&["page.html", "is no page of 'floe bench'"]);
    assert_eq!(fs::read_to_string(&page).unwrap(), "mine");
    nothing_is_left(&work);
}

#[test]
fn wrong_usage_and_places_that_will_not_do_are_refused_before_anything_is_done() {
    let lab = Lab::new();
    let (tree, work) = (tree(&lab), work(&lab));
    for (options, word) in [
        (&["--profiles", "tiny"][..], "neither a profile"),
        (&["--profiles", "fast,fast"], "twice"),
        (&["--peer-limit", "soon"], "not a time"),
        (&["--with-peers", "--sample", "1M"], "cannot be used with"),
        (&["--sample-fast", "1M", "--sample", "1M"], "cannot be used with"),
    ] {
        run(bench(&work, &tree, options)).exits(2).says(&[word]);
    }
    run(bench(&work, &tree.join("data/noise"), &[])).exits(2).says(&["is no directory"]);
    run(bench(&work, &tree.join("nowhere"), &[])).exits(1).says(&["cannot read"]);
    run(bench(&tree.join("data"), &tree, &[])).exits(1).says(&["is inside the source"]);
    run(bench(&work, &tree, &["--html", "/proc"])).exits(1).says(&["cannot write the page"]);
    nothing_is_left(&work);
}

#[test]
fn a_sample_of_everything_predicts_what_is_packed() {
    let lab = Lab::new();
    let (tree, work) = (tree(&lab), work(&lab));
    let done = run(bench(&work, &tree, &["--profiles", "fast,zstd:5", "--json", "--sample", "1G"])).exits(0);
    nothing_is_left(&work);
    let report = report(&done);
    assert!(report.method.sample.as_ref().is_some_and(|sample| sample.bytes == 1 << 30 && !sample.fast));
    for (entry, options) in report.entries.iter().zip([["--profile", "fast"], ["-C", "zstd:5"]]) {
        let size = entry.size.as_ref().unwrap();
        let image = lab.pack(&options, &tree, &entry.name);
        assert_eq!(size.total, image.metadata().unwrap().len(), "{entry:?}");
        assert_eq!(size.range.map(|range| (range.low, range.high)), Some((size.total, size.total)));
        assert!(entry.packing.is_none() && entry.passes.is_empty(), "it was not timed");
    }
}

#[test]
fn a_peer_that_fails_is_missing_or_takes_too_long_is_said_and_the_rest_goes_on() {
    let lab = Lab::new();
    let (tree, work) = (tree(&lab), work(&lab));
    // Only the tree has a name with "few" in it, so the trial before it works.
    let script = r#"
case "$1" in -version) echo 'mksquashfs version 9.9 (2031/01/01)'; exit 0 ;; esac
if [ -d "$1/few" ]; then
    case "$*" in *zstd*) echo 'the disk is on fire' >&2; exit 7 ;; *) exec /bin/sleep 600 ;; esac
fi
echo hsqs >"$2"
"#;
    let directory = programs(&lab, &[("mksquashfs", script)]);
    let options = ["--profiles", "fast", "--with-peers", "--peer-limit", "2s", "--json"];
    let mut command = bench(&work, &tree, &options);
    command.env("PATH", &directory);
    let done = run(command).exits(3);
    nothing_is_left(&work);
    let report = report(&done);
    assert_eq!(report.method.peer_limit, Some(2.0));
    let [own, fails, hangs] = &report.entries[..] else { panic!("{:#?}", report.entries) };
    assert_eq!((own.name.as_str(), &own.outcome), ("floe fast", &Outcome::Done));
    assert!(fails.name.contains("zstd") && failure(fails).contains("the disk is on fire"), "{fails:?}");
    assert!(matches!(hangs.outcome, Outcome::OverLimit { seconds } if seconds >= 2.0), "{hangs:?}");
    let missing: Vec<_> = report.missing.iter().map(|missing| missing.name.as_str()).collect();
    for name in ["borg", "restic", "zpaq", "mkdwarfs"] {
        assert!(missing.iter().any(|found| found.contains(name)), "{name} is not in {missing:?}");
    }
    assert!(report.missing.iter().all(|missing| !missing.package.is_empty()));
}

/// A tmpfs of a given size, unmounted when the value is dropped.
struct Small(PathBuf);

impl Small {
    fn new(lab: &Lab, size: &str) -> Option<Small> {
        let at = lab.path(size);
        fs::create_dir(&at).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "floe-test"]).arg(&at);
        command.status().unwrap().success().then_some(Small(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_fails_one_entry_and_the_rest_goes_on() {
    need_root!();
    let lab = Lab::new();
    let tree = lab.tree("tree");
    write(tree.join("prose"), prose(3, 12 << 20));
    let Some(small) = Small::new(&lab, "6m") else { return left_out("no tmpfs can be mounted") };
    let done = run(bench(&small.0, &tree, &["--profiles", "none,fast", "--json"])).exits(3);
    let report = report(&done);
    let [full, fits] = &report.entries[..] else { panic!("{:#?}", report.entries) };
    assert!(failure(full).contains("No space left"), "{full:?}");
    assert_eq!(fits.outcome, Outcome::Done);
    assert!(size(fits) < 6 << 20);
    assert!(report.notes.iter().any(|note| note.contains("6 MiB free")), "{:?}", report.notes);
    nothing_is_left(&small.0);
    let Some(tiny) = Small::new(&lab, "1m") else { return };
    run(bench(&tiny.0, &tree, &["--json"])).exits(1).says(&["MiB free", "--work"]);
    nothing_is_left(&tiny.0);
}

#[test]
fn without_rights_what_cannot_be_read_is_said_and_passes_are_warm_or_left_out() {
    need_root!();
    need_program!("setpriv");
    let lab = Lab::new();
    let (tree, work) = (tree(&lab), work(&lab));
    fs::set_permissions(tree.join("data/again"), fs::Permissions::from_mode(0o0)).unwrap();
    for path in [lab.path("trees"), lab.path("trees/.."), work.clone()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::chown(&work, Some(65534), Some(65534)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_floe"), "bench", "--json"]);
    command.args(["--profiles", "fast", "--work"]).arg(&work).arg(&tree);
    let done = run(command);
    if done.code == Some(126) {
        return left_out("others may not run the binary");
    }
    let report = report(&done.exits(3));
    nothing_is_left(&work);
    let noted = |words: &[&str]| report.notes.iter().any(|note| words.iter().all(|word| note.contains(word)));
    assert!(noted(&["could not read 1 ", "data/again"]), "{:?}", report.notes);
    assert!(noted(&["caches", "only root", "warm"]) && !report.method.cold, "{:?}", report.notes);
    let entry = &report.entries[0];
    assert_eq!((&entry.outcome, entry.size.is_some()), (&Outcome::Done, true));
    let can_mount = fs::metadata("/dev/fuse").is_ok_and(|meta| meta.permissions().mode() & 0o006 == 0o006);
    if can_mount {
        assert!(entry.passes.len() == 4 && entry.passes.iter().all(|pass| !pass.cold), "{entry:?}");
    } else {
        assert!(entry.passes.is_empty() && noted(&["not read through a mount", "/dev/fuse"]), "{report:?}");
    }
}

#[test]
fn interrupted_while_it_packs_it_leaves_nothing() {
    let lab = Lab::new();
    let (tree, work, page) = (lab.tree("tree"), work(&lab), lab.path("page.html"));
    write(tree.join("noise"), noise(1, 48 << 20));
    let mut command = bench(&work, &tree, &["--profiles", "xz:9"]);
    command.arg("--html").arg(&page);
    let mut child = spawn(&mut command).unwrap();
    until("packing", &mut child, || {
        let run = fs::read_dir(&work).ok()?.flatten().next()?.path();
        let image = fs::read_dir(run.join("entry")).ok()?.flatten().next()?;
        image.metadata().is_ok_and(|meta| meta.len() > 0).then_some(())
    });
    signal(&child, Signal::INT);
    is_interrupted(child, &work);
    let left: Vec<_> = fs::read_dir(lab.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("page")), "{left:?}");
}

#[test]
fn interrupted_while_an_image_is_mounted_it_leaves_nothing() {
    need_fuse!();
    for ending in [Signal::TERM, Signal::HUP] {
        let lab = Lab::new();
        let (tree, work) = (tree(&lab), work(&lab));
        let mut child = spawn(&mut bench(&work, &tree, &["--profiles", "fast"])).unwrap();
        until("a mount", &mut child, || mount_below(&work));
        signal(&child, ending);
        is_interrupted(child, &work);
    }
}

fn mount_below(work: &Path) -> Option<()> {
    let name = format!(" {}/", work.display());
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&name).then_some(())
}

/// The process whose command line contains all these words.
fn process(words: &[&str]) -> Option<Pid> {
    let has_them = |entry: &fs::DirEntry| {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        words.iter().all(|word| command.contains(word))
    };
    let found = fs::read_dir("/proc").ok()?.flatten().find(has_them)?;
    Pid::from_raw(found.file_name().to_str()?.parse().ok()?)
}

#[test]
fn interrupted_while_the_mount_that_it_reads_does_not_answer_it_leaves_nothing() {
    need_fuse!();
    // Only root may abort the connection of a mount.
    need_root!();
    let lab = Lab::new();
    let (tree, work) = (tree(&lab), work(&lab));
    write(tree.join("noise"), noise(1, 24 << 20));
    let mut child = spawn(&mut bench(&work, &tree, &["--profiles", "fast"])).unwrap();
    until("a mount", &mut child, || mount_below(&work));
    let daemon = until("its daemon", &mut child, || process(&[" mount -f ", work.to_str().unwrap()]));
    kill_process(daemon, Signal::STOP).unwrap();
    let tasks = format!("/proc/{}/task", child.id());
    until("a reader that waits", &mut child, || {
        let task = fs::read_dir(&tasks)
            .ok()?
            .flatten()
            .find(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "bench-read"))?;
        let waits = fs::read_to_string(task.path().join("wchan")).ok()?;
        (waits.contains("fuse") || waits.contains("request_wait")).then_some(())
    });
    signal(&child, Signal::INT);
    is_interrupted(child, &work);
}

#[test]
fn interrupted_while_a_peer_packs_it_ends_all_of_its_processes() {
    let lab = Lab::new();
    let (tree, work) = (tree(&lab), work(&lab));
    let pids = lab.path("pids");
    let script = format!(
        r#"
case "$1" in -version) echo 'mksquashfs version 9.9 (2031/01/01)'; exit 0 ;; esac
if [ -d "$1/few" ]; then /bin/sleep 600 & echo $$ $! >'{}'; wait; fi
echo hsqs >"$2"
"#,
        pids.display()
    );
    let directory = programs(&lab, &[("mksquashfs", &script)]);
    let mut command = bench(&work, &tree, &["--profiles", "none", "--with-peers"]);
    let mut child = spawn(command.env("PATH", &directory)).unwrap();
    let both =
        until("a peer that packs", &mut child, || fs::read_to_string(&pids).ok().filter(|text| text.ends_with('\n')));
    signal(&child, Signal::INT);
    is_interrupted(child, &work);
    for pid in both.split_whitespace() {
        wait_until_ended(Pid::from_raw(pid.parse().unwrap()).unwrap());
    }
}
