//! The other programs that `floe bench` runs: their results equal those made by hand, all data is read, and nothing
//! remains.
//!
//! Programs that are not installed are left out, which fails where everything must run. mkdwarfs is not in Debian and
//! is tested only by hand.

mod common;

use common::left_out::{is_root, left_out, need_fuse};
use common::{Lab, nasty, noise, prose, run, write};
use floe::bench::command::{CommandError, Limits};
use floe::bench::peers::{Extract, Found, Packed, Peer, Tools, look};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Generous for a machine that also runs other tests; a program that hangs ends here.
const LIMITS: Limits<'static> = Limits { time: Some(Duration::from_secs(120)), stop: &|| false };
const JOBS: usize = 2;

/// The tree that each peer packs: strange names, and enough of everything else.
fn tree(lab: &Lab) -> PathBuf {
    let root = lab.tree("tree");
    nasty::names(&root);
    write(root.join("data/noise"), noise(1, 300_000));
    write(root.join("data/again"), noise(1, 300_000));
    write(root.join("data/prose"), prose(2, 400_000));
    write(root.join("data/deeper/few"), b"few");
    write(root.join("data/deeper/none"), b"");
    std::os::unix::fs::symlink("data/noise", root.join("link")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    root
}

/// Regular files below a directory: path and bytes.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display())) {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path().strip_prefix(root).unwrap().to_owned();
                out.insert(path, fs::read(entry.path()).unwrap());
            }
        }
    }
    out
}

fn bytes(files: &BTreeMap<PathBuf, Vec<u8>>) -> usize {
    files.values().map(Vec::len).sum()
}

/// The peers of one program, with only these programs installed.
fn peers(lab: &Lab, programs: &[&str], begin: &str) -> Option<Vec<Peer>> {
    let (directory, mut path) = (lab.path("programs"), std::env::var_os("PATH").unwrap_or_default());
    // As the peers do: sbin is not in everybody's PATH.
    path.push(":/usr/sbin:/sbin");
    fs::create_dir(&directory).unwrap();
    for name in programs.iter().chain(&["fusermount3", "fusermount"]) {
        let there = std::env::split_paths(&path).map(|d| d.join(name)).find(|program| program.is_file());
        match there {
            Some(program) => std::os::unix::fs::symlink(program, directory.join(name)).unwrap(),
            None if name.starts_with("fusermount") => {}
            None => {
                left_out(&format!("there is no {name}"));
                return None;
            }
        }
    }
    let found = look(&Tools { path: directory.into(), kernel_mounts: is_root() }, &lab.path("look"), JOBS, &LIMITS);
    assert!(!lab.path("look").exists());
    Some(found.unwrap().peers.into_iter().filter(|peer| peer.name().starts_with(begin)).collect())
}

fn peer(lab: &Lab, programs: &[&str], name: &str) -> Option<Peer> {
    let mut all = peers(lab, programs, name)?;
    assert_eq!(all.len(), 1, "{name}");
    all.pop()
}

/// Packs into a directory of its own.
fn pack(lab: &Lab, peer: &Peer, source: &Path) -> Packed {
    let work = lab.path("work");
    fs::create_dir(&work).unwrap();
    let packed = peer.pack(source, &work, &LIMITS).unwrap_or_else(|e| panic!("{}: {e}", peer.name()));
    assert!(packed.ran.seconds > 0.0 && packed.ran.cpu_seconds > 0.0 && packed.ran.peak_memory > 0, "{:?}", packed.ran);
    packed
}

/// Packs by hand with a shell script that makes `$OUT` from `$TREE`; returns the size of the result in bytes.
fn by_hand(lab: &Lab, tree: &Path, script: &str) -> u64 {
    let (home, out) = (lab.path("home"), lab.path("by-hand.image"));
    fs::create_dir(&home).unwrap();
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &format!("PATH=$PATH:/usr/sbin:/sbin\n{script}")]);
    command.env("HOME", home).env("TREE", tree).env("OUT", &out);
    run(command).exits(0);
    let size = if out.is_dir() { bytes(&files(&out)) as u64 } else { out.metadata().unwrap().len() };
    assert!(size > 0);
    size
}

/// A mount shows every file of the tree with its bytes. Afterwards the mount and its program are gone.
fn reads_through_a_mount(lab: &Lab, packed: &Packed, tree: &Path) {
    let at = lab.mount_point("peer");
    let mount = packed.mount(&at, &LIMITS).unwrap().expect("it can be mounted");
    let (got, wanted) = (files(mount.root()), files(tree));
    assert_eq!(bytes(&got), bytes(&wanted));
    assert!(got == wanted, "files differ: {:?} {:?}", got.keys(), wanted.keys());
    mount.end().unwrap();
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    // Dropping a mount also ends it.
    drop(packed.mount(&at, &LIMITS).unwrap());
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    fs::remove_dir(at).unwrap();
}

/// Extracts; returns the program's output, which for most programs is what they extract.
fn extracts(packed: &Packed, what: Extract<'_>) -> Vec<u8> {
    let ran = packed.extract(what, &LIMITS).unwrap().expect("it can be extracted");
    assert!(ran.cpu_seconds > 0.0 && ran.output.is_empty(), "{ran:?}");
    run(packed.extraction(what).unwrap()).exits(0).stdout
}

/// Extraction reads all data: it fails if a byte is damaged.
fn extraction_fails_on_damage(packed: &Packed, image: &Path) {
    let file = fs::File::options().read(true).write(true).open(image).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], middle).unwrap();
    let error = packed.extract(Extract::Everything, &LIMITS).unwrap_err();
    assert!(matches!(error, CommandError::Failed { .. }), "{error}");
}

/// Nothing is mounted or runs in the lab, no loop device remains, and after the work directory is removed no file
/// remains.
fn nothing_is_left(lab: &Lab, source: &Path, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let root = lab.path("");
    let root = root.to_str().unwrap().trim_end_matches('/');
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.lines().find(|line| line.contains(root)), None);
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        // The guardian of the lab is still running.
        assert!(!line.contains(&format!("{root}/")), "{} runs: {line}", process.path().display());
    }
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        assert!(!file.contains(root), "{} holds {file}", device.path().display());
    }
    assert!(files(source) == *before, "the source has changed");
    fs::remove_dir_all(lab.path("work")).unwrap();
    let mut names: Vec<_> = fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.retain(|name| !["home", "by-hand.image", "programs"].iter().any(|own| name == own));
    names.sort();
    assert_eq!(names, ["images", "mounts", "trees"]);
}

/// The files that these programs keep in the user's home, with their mtimes.
fn homes() -> Vec<(PathBuf, Option<std::time::SystemTime>)> {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    let names = [".cache/borg", ".config/borg", ".cache/restic", ".config/restic", ".cache/dwarfs"];
    names.iter().map(|n| home.join(n)).map(|p| (p.clone(), p.metadata().and_then(|m| m.modified()).ok())).collect()
}

#[test]
fn mksquashfs_makes_what_it_makes_by_hand_and_all_of_it_is_read() {
    need_fuse!();
    let scripts =
        [("mksquashfs zstd:15", "-comp zstd -Xcompression-level 15 -b 1M"), ("mksquashfs xz", "-comp xz -b 1M")];
    for (name, options) in scripts {
        let lab = Lab::new();
        let tree = tree(&lab);
        let before = files(&tree);
        let Some(peer) = peer(&lab, &["mksquashfs", "unsquashfs", "squashfuse"], name) else { return };
        let packed = pack(&lab, &peer, &tree);
        let hand = by_hand(&lab, &tree, &format!("mksquashfs \"$TREE\" \"$OUT\" -noappend {options} >/dev/null"));
        assert_eq!(packed.size, hand);
        reads_through_a_mount(&lab, &packed, &tree);
        extracts(&packed, Extract::Everything);
        extracts(&packed, Extract::Directory(Path::new("data/deeper")));
        nothing_is_left(&lab, &tree, &before);
    }
}

#[test]
fn without_root_a_squashfs_is_mounted_by_squashfuse() {
    need_fuse!();
    let lab = Lab::new();
    let tree = tree(&lab);
    let before = files(&tree);
    if peers(&lab, &["mksquashfs", "squashfuse"], "mksquashfs").is_none() {
        return;
    }
    let tools = Tools { path: lab.path("programs").into(), kernel_mounts: false };
    let found = look(&tools, &lab.path("look"), JOBS, &LIMITS).unwrap();
    let packed = pack(&lab, &found.peers[0], &tree);
    let at = lab.mount_point("fuse");
    let mount = packed.mount(&at, &LIMITS).unwrap().unwrap();
    let line = common::mounted::mount_line(&at).unwrap();
    assert!(line.contains("fuse"), "{line}");
    assert!(files(mount.root()) == before);
    // A file in it is open: it is detached nevertheless, and its program ends.
    let inside = fs::File::open(mount.root().join("data/noise")).unwrap();
    let error = mount.end().unwrap_err();
    assert!(error.to_string().contains("umount"), "{error}");
    drop(inside);
    assert!(!common::mounted::is_mounted(&at));
    fs::remove_dir(at).unwrap();
    nothing_is_left(&lab, &tree, &before);
}

#[test]
fn mkfs_erofs_makes_what_it_makes_by_hand_and_all_of_it_is_read() {
    let lab = Lab::new();
    let tree = tree(&lab);
    let Some(peer) = peer(&lab, &["mkfs.erofs", "fsck.erofs"], "mkfs.erofs lz4hc") else { return };
    // Version 1.5 cannot pack names of 255 bytes: it fails and reports that.
    let work = lab.path("work");
    fs::create_dir(&work).unwrap();
    match peer.pack(&tree, &work, &LIMITS) {
        Ok(packed) => assert!(packed.size > 0),
        Err(CommandError::Failed { message, .. }) => assert!(message.contains("erofs"), "{message}"),
        Err(other) => panic!("{other}"),
    }
    fs::remove_dir_all(&work).unwrap();
    for entry in fs::read_dir(tree.join("names")).unwrap().flatten() {
        if entry.file_name().len() == 255 {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let before = files(&tree);
    let packed = pack(&lab, &peer, &tree);
    let hand = by_hand(&lab, &tree, "mkfs.erofs -zlz4hc,12 -C65536 \"$OUT\" \"$TREE\" >/dev/null");
    assert_eq!(packed.size, hand);
    if is_root() {
        reads_through_a_mount(&lab, &packed, &tree);
    }
    extracts(&packed, Extract::Everything);
    assert!(packed.extract(Extract::Directory(Path::new("data")), &LIMITS).unwrap().is_none());
    nothing_is_left(&lab, &tree, &before);
}

#[test]
fn borg_makes_what_it_makes_by_hand_and_all_of_it_is_read() {
    need_fuse!();
    let homes_before = homes();
    for codec in ["zstd,9", "lzma,6"] {
        let lab = Lab::new();
        let tree = tree(&lab);
        let before = files(&tree);
        let Some(peer) = peer(&lab, &["borg"], &format!("borg {codec}")) else { return };
        let packed = pack(&lab, &peer, &tree);
        let script = format!("borg init -e none \"$OUT\"; cd \"$TREE\"; borg create -C {codec} \"$OUT::a\" .");
        same_but_for_random_numbers(packed.size, by_hand(&lab, &tree, &script));
        let at = lab.mount_point("try");
        // Its FUSE library is in another package.
        let mounts = packed.mount(&at, &LIMITS).unwrap().is_some();
        fs::remove_dir(at).unwrap();
        if mounts {
            reads_through_a_mount(&lab, &packed, &tree);
        } else {
            left_out("borg cannot mount: there is no python3-pyfuse3");
        }
        extracts(&packed, Extract::Everything);
        extracts(&packed, Extract::Directory(Path::new("data/deeper")));
        nothing_is_left(&lab, &tree, &before);
    }
    assert_eq!(homes(), homes_before);
}

#[test]
fn restic_makes_what_it_makes_by_hand_and_all_of_it_is_read() {
    need_fuse!();
    let homes_before = homes();
    let lab = Lab::new();
    let tree = tree(&lab);
    let before = files(&tree);
    let Some(peer) = peer(&lab, &["restic"], "restic") else { return };
    let packed = pack(&lab, &peer, &tree);
    let script = "export RESTIC_PASSWORD=x; restic init --repository-version 2 -r \"$OUT\"
        cd \"$TREE\"; restic backup --compression max -r \"$OUT\" .";
    same_but_for_random_numbers(packed.size, by_hand(&lab, &tree, script));
    reads_through_a_mount(&lab, &packed, &tree);
    // The output is a tar stream.
    let all = extracts(&packed, Extract::Everything).len();
    assert!(all > bytes(&before) && all.is_multiple_of(512), "{all}");
    let directory = extracts(&packed, Extract::Directory(Path::new("data/deeper"))).len();
    assert!((1..8 << 10).contains(&directory), "{directory}");
    nothing_is_left(&lab, &tree, &before);
    assert_eq!(homes(), homes_before);
}

/// The repository holds times, host names and random numbers, and restic cuts files at random positions.
fn same_but_for_random_numbers(size: u64, hand: u64) {
    assert!(size.abs_diff(hand) < hand / 50 + 2048, "{size} {hand}");
}

#[test]
fn zpaq_makes_what_it_makes_by_hand_and_all_of_it_is_read() {
    let lab = Lab::new();
    let tree = tree(&lab);
    let before = files(&tree);
    let Some(peer) = peer(&lab, &["zpaq"], "zpaq") else { return };
    let packed = pack(&lab, &peer, &tree);
    let hand = by_hand(&lab, &tree, "cd \"$TREE\"; zpaq a \"$OUT\" . -m3 -t2 >/dev/null");
    assert_eq!(packed.size, hand);
    assert!(packed.mount(&lab.mount_point("none"), &LIMITS).unwrap().is_none());
    let said = String::from_utf8(extracts(&packed, Extract::Everything)).unwrap();
    // In millions of bytes.
    assert!(said.contains(&format!("Extracting {:.6} MB", bytes(&before) as f64 / 1e6)), "{said}");
    let said = String::from_utf8(extracts(&packed, Extract::Directory(Path::new("data/deeper")))).unwrap();
    assert!(said.contains("Extracting 0.000003 MB in 2 files"), "{said}");
    extraction_fails_on_damage(&packed, &lab.path("work/packed.image"));
    nothing_is_left(&lab, &tree, &before);
}

#[test]
fn tar_makes_what_it_makes_by_hand_and_all_of_it_is_read() {
    for (program, name, compress) in
        [("zstd", "tar zstd:19 long", "zstd -19 --long=31 -T2"), ("xz", "tar xz:9", "xz -9 -T2")]
    {
        let lab = Lab::new();
        let tree = tree(&lab);
        let before = files(&tree);
        let Some(peer) = peer(&lab, &["tar", program], name) else { return };
        let packed = pack(&lab, &peer, &tree);
        let script = format!("tar --sort=name --sparse -C \"$TREE\" -cf - . | {compress} >\"$OUT\"");
        assert_eq!(packed.size, by_hand(&lab, &tree, &script));
        assert!(packed.mount(&lab.mount_point("none"), &LIMITS).unwrap().is_none());
        assert_eq!(extracts(&packed, Extract::Everything).len(), bytes(&before));
        let part = extracts(&packed, Extract::Directory(Path::new("names")));
        assert_eq!(part.len(), bytes(&files(&tree.join("names"))));
        assert_eq!(extracts(&packed, Extract::Directory(Path::new("data/deeper"))), b"few");
        extraction_fails_on_damage(&packed, &lab.path("work/packed.image"));
        nothing_is_left(&lab, &tree, &before);
    }
}

#[test]
fn what_is_not_installed_is_named_with_the_package_that_brings_it() {
    let lab = Lab::new();
    // mkfs.erofs may be in sbin, which is always searched.
    let found = look_in(&lab, &[]);
    let missing: Vec<_> = found.missing.iter().map(|m| (m.name.as_str(), m.package.as_str())).collect();
    for one in [
        ("mksquashfs", "squashfs-tools"),
        ("mkdwarfs", "github.com/mhx/dwarfs, not in Debian"),
        ("borg", "borgbackup"),
        ("restic", "restic"),
        ("zpaq", "zpaq"),
        ("tar | zstd --long", "tar, zstd"),
        ("tar | xz", "tar, xz-utils"),
    ] {
        assert!(missing.contains(&one), "{one:?} is not in {missing:?}");
    }
}

/// Looks for peers with only these scripts installed.
fn look_in(lab: &Lab, programs: &[(&str, &str)]) -> Found {
    let directory = lab.path("programs");
    fs::create_dir(&directory).unwrap();
    for (name, script) in programs {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let tools = Tools { path: directory.into(), kernel_mounts: false };
    look(&tools, &lab.path("look"), JOBS, &LIMITS).unwrap()
}

fn named<'a>(found: &'a Found, name: &str) -> &'a Peer {
    found.peers.iter().find(|peer| peer.name() == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn a_codec_is_missing_where_the_installed_program_says_so() {
    let old = r#"case "$*" in
        -V) echo "mkfs.erofs 1.5"; exit 1;;
        *--workers*) echo "mkfs.erofs: unrecognized option" >&2; exit 1;;
        *zlz4hc*) for word; do case $word in */packed.image) echo image >"$word";; esac; done;;
        *) echo "<E> erofs: Cannot find a valid compressor" >&2; exit 1;;
    esac"#;
    let lab = Lab::new();
    let found = look_in(&lab, &[("mkfs.erofs", old)]);
    let peer = named(&found, "mkfs.erofs lz4hc");
    assert_eq!((peer.version(), peer.options()), ("1.5", "mkfs.erofs --quiet -zlz4hc,12 -C65536 IMAGE DIR"));
    assert_eq!(found.peers.len(), 1);
    for codec in ["zstd", "lzma"] {
        let missing = found.missing.iter().find(|m| m.name == format!("mkfs.erofs {codec}")).unwrap();
        let wanted = format!("erofs-utils built with {codec}, unlike the installed 1.5");
        assert_eq!(missing.package, wanted);
    }

    let new = r#"case "$*" in
        -V) echo "mkfs.erofs (erofs-utils) 1.8.10";;
        *) for word; do case $word in */packed.image) echo image >"$word";; esac; done;;
    esac"#;
    let lab = Lab::new();
    let found = look_in(&lab, &[("mkfs.erofs", new)]);
    let options: Vec<_> = found.peers.iter().map(|peer| (peer.version(), peer.options())).collect();
    let wanted = [
        ("1.8.10", "mkfs.erofs --quiet -zlz4hc,12 -C65536 --workers=2 IMAGE DIR"),
        ("1.8.10", "mkfs.erofs --quiet -zzstd,15 -C65536 --workers=2 IMAGE DIR"),
        ("1.8.10", "mkfs.erofs --quiet -zlzma,9 -C1048576 -Eall-fragments --workers=2 IMAGE DIR"),
    ];
    assert_eq!(options, wanted);
}

#[test]
fn a_peer_that_fails_says_why_and_the_rest_goes_on() {
    let lab = Lab::new();
    let found = look_in(
        &lab,
        &[
            ("zpaq", "echo no >&2; exit 1"),
            ("restic", "kill -9 $$"),
            ("borg", r"printf '\033[31m 1. .2 \377\000'"),
            ("mksquashfs", "echo broken >&2; exit 7"),
            (
                "mkdwarfs",
                r#"echo "mkdwarfs (v9.8.7)"; while [ $# -gt 0 ]; do [ "$1" = -o ] && echo packed >"$2"; shift; done"#,
            ),
        ],
    );
    let tree = lab.tree("tree");
    write(tree.join("file"), b"bytes");
    let outcome = |name: &str| {
        let (peer, work) = (named(&found, name), lab.path("work"));
        fs::create_dir(&work).unwrap();
        let outcome = peer.pack(&tree, &work, &LIMITS).map(|packed| packed.size).map_err(|error| error.to_string());
        fs::remove_dir_all(work).unwrap();
        (peer.version().to_owned(), outcome)
    };
    let (version, failed) = outcome("zpaq -m3");
    assert_eq!(version, "unknown");
    assert!(failed.unwrap_err().ends_with("/zpaq failed (exit status: 1): no"));
    let (version, failed) = outcome("restic max");
    assert_eq!(version, "unknown");
    let failed = failed.unwrap_err();
    assert!(failed.contains("signal: 9"), "{failed}");
    let (version, failed) = outcome("borg zstd,9");
    assert_eq!(version, "unknown");
    let failed = failed.unwrap_err();
    assert!(failed.contains("borg zstd,9"), "{failed}");
    for name in ["mksquashfs zstd:15", "mksquashfs xz"] {
        let missing = found.missing.iter().find(|missing| missing.name == name).unwrap();
        assert!(missing.package.ends_with(", unlike the installed one"), "{}", missing.package);
    }
    assert_eq!(outcome("mkdwarfs -l7"), ("9.8.7".to_owned(), Ok(7)));
}

#[test]
fn a_peer_over_its_limit_and_one_that_is_interrupted_are_killed() {
    let lab = Lab::new();
    let script = r#"[ "$1" = a ] || exit 1; echo $$ >"$TMPDIR/../../pid"; exec /bin/sleep 600"#;
    let found = look_in(&lab, &[("zpaq", script)]);
    let (tree, work, pid) = (lab.tree("tree"), lab.path("work"), lab.path("pid"));
    fs::create_dir(&work).unwrap();
    let zpaq = named(&found, "zpaq -m3");
    let limits = Limits { time: Some(Duration::from_millis(100)), stop: &|| false };
    let error = zpaq.pack(&tree, &work, &limits).err().unwrap();
    assert!(matches!(error, CommandError::OverLimit { seconds } if seconds >= 0.1), "{error}");
    let _ = fs::remove_file(&pid);
    let stop = || pid.exists();
    let error = zpaq.pack(&tree, &work, &Limits { time: LIMITS.time, stop: &stop }).err().unwrap();
    assert!(matches!(error, CommandError::Interrupted), "{error}");
    nothing_runs(&fs::read_to_string(&pid).unwrap());
}

fn nothing_runs(pid: &str) {
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "{pid} runs");
}

#[test]
fn a_server_that_does_not_mount_is_no_way_and_one_that_hangs_is_killed_when_an_end_is_asked_for() {
    let lab = Lab::new();
    let packs = r#"while [ $# -gt 0 ]; do [ "$1" = -o ] && echo packed >"$2"; shift; done; exit 0"#;
    let serves = r#"[ -e "$TMPDIR/../../hang" ] || exit 3; echo $$ >"$TMPDIR/../../pid"; exec /bin/sleep 600"#;
    let found = look_in(&lab, &[("mkdwarfs", packs), ("dwarfs", serves)]);
    let (tree, work, at, pid) = (lab.tree("tree"), lab.path("work"), lab.mount_point("at"), lab.path("pid"));
    fs::create_dir(&work).unwrap();
    let packed = named(&found, "mkdwarfs -l5").pack(&tree, &work, &LIMITS).unwrap();
    assert!(packed.mount(&at, &LIMITS).unwrap().is_none());
    // It cannot be extracted, either.
    assert!(packed.extract(Extract::Everything, &LIMITS).unwrap().is_none());
    write(lab.path("hang"), b"");
    let stop = || fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'));
    let error = packed.mount(&at, &Limits { time: LIMITS.time, stop: &stop }).err().unwrap();
    assert!(matches!(error, CommandError::Interrupted), "{error}");
    nothing_runs(&fs::read_to_string(&pid).unwrap());
}

#[test]
fn a_peer_sees_nothing_of_the_users_settings() {
    let lab = Lab::new();
    let found = look_in(&lab, &[("zpaq", r#"[ "$1" = a ] && /usr/bin/env -0 >"$2"; exit 0"#)]);
    let (tree, work) = (lab.tree("tree"), lab.path("work"));
    fs::create_dir(&work).unwrap();
    named(&found, "zpaq -m3").pack(&tree, &work, &LIMITS).unwrap();
    let seen = fs::read(work.join("packed.image")).unwrap();
    let of_the_shell = [&b"PWD"[..], b"OLDPWD", b"SHLVL", b"_", b"LC_ALL", b"PATH"];
    let mut below = 0;
    for variable in seen.split(|&b| b == 0).filter(|v| !v.is_empty()) {
        let at = variable.iter().position(|&b| b == b'=').unwrap();
        let (name, value) = (&variable[..at], Path::new(OsStr::from_bytes(&variable[at + 1..])));
        if !of_the_shell.contains(&name) {
            assert!(value.starts_with(&work), "{}", String::from_utf8_lossy(variable));
            below += 1;
        }
    }
    assert_eq!(below, 4, "{}", String::from_utf8_lossy(&seen));
}
