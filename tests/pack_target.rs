//! Where `pack` writes: it replaces only regular files that nobody writes, links stay, and an image is not packed into
//! itself.

mod common;

use common::run::wait;
use common::{Lab, floe, floe_command, left_out, noise, run, write};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, fcntl_lock};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

fn small_source(lab: &Lab) -> PathBuf {
    let source = lab.tree("source");
    write(source.join("file"), "precious");
    source
}

fn opened(path: &Path) -> File {
    File::options().read(true).write(true).open(path).expect("it opens")
}

/// Packs onto a target that must be refused. The source does not exist; the refusal must come before that is noticed.
fn refused(target: &Path, word: &str) {
    for force in [&[][..], &["-f"]] {
        let mut command = floe_command(["pack"]);
        command.args(force).arg("/nonexistent/source").arg(target);
        run(command).exits(1).says(&["cannot write", word]);
    }
}

#[test]
fn a_directory_a_fifo_and_a_socket_stay_what_they_are_and_are_refused_before_anything_is_read() {
    let lab = Lab::new();
    let fifo = lab.image("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
    let socket = lab.image("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let dir = lab.image("dir");
    fs::create_dir(&dir).expect("a directory");
    refused(&fifo, "it is a FIFO");
    refused(&socket, "it is a socket");
    refused(&dir, "it is a directory");
    refused(&dir.join(""), "it is a directory");
    refused(&dir.join(".."), "it is a directory");
    refused(&lab.image("new/"), "the name of a directory");
    refused(&lab.image("new/."), "the name of a directory");
    for (name, target) in [("to-fifo", "fifo"), ("to-dir", "dir")] {
        symlink(target, lab.image(name)).expect("a link");
        refused(&lab.image(name), "it is a");
        assert_eq!(fs::read_link(lab.image(name)).expect("still a link"), Path::new(target));
    }
    let kind = |path: &Path| fs::symlink_metadata(path).expect("it is there").file_type();
    assert!(kind(&fifo).is_fifo() && kind(&socket).is_socket() && kind(&dir).is_dir());
    assert_eq!(lab.image_folder(), ["dir", "fifo", "socket", "to-dir", "to-fifo"]);
}

#[test]
fn a_device_stays_a_device() {
    left_out::need_root!();
    let lab = Lab::new();
    let device = lab.image("null");
    let null = rustix::fs::makedev(1, 3);
    if rustix::fs::mknodat(CWD, &device, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, null).is_err() {
        return left_out::left_out("no device can be made");
    }
    refused(&device, "it is a character device");
    symlink("null", lab.image("link")).expect("a link");
    refused(&lab.image("link"), "it is a character device");
    let found = fs::symlink_metadata(&device).expect("it is there");
    assert!(found.file_type().is_char_device() && found.rdev() == null);
    assert_eq!(lab.image_folder(), ["link", "null"]);
}

#[test]
fn a_link_stays_and_the_image_is_written_where_it_leads() {
    let lab = Lab::new();
    let source = small_source(&lab);
    let elsewhere = lab.tree("elsewhere");
    let real = elsewhere.join("real.floe");
    let link = lab.image("link.floe");
    symlink("second.floe", &link).expect("a link");
    symlink("../trees/elsewhere/real.floe", lab.image("second.floe")).expect("a link");

    // Its target does not exist yet.
    floe!("pack", &source, &link).exits(0);
    assert!(fs::symlink_metadata(&real).expect("it is there").is_file());
    floe!("check", &link).exits(0);

    // Its target is a file.
    fs::write(&real, "old").expect("it can be written");
    floe!("pack", &source, &link).exits(1).says(&["exists", "--force"]);
    assert_eq!(fs::read(&real).expect("it is there"), b"old");
    floe!("pack", "-f", &source, &link).exits(0);
    floe!("check", &real).exits(0);

    assert_eq!(fs::read_link(&link).expect("still a link"), Path::new("second.floe"));
    assert_eq!(lab.image_folder(), ["link.floe", "second.floe"]);
    let names: Vec<_> = fs::read_dir(&elsewhere).expect("a directory").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["real.floe"]);

    // Its target is in a missing directory.
    symlink("no/such/directory/x.floe", lab.image("lost")).expect("a link");
    floe!("pack", &source, lab.image("lost")).exits(1).says(&["no/such/directory"]);
    symlink("loop", lab.image("loop")).expect("a link");
    floe!("pack", "-f", &source, lab.image("loop")).exits(1).says(&["loop"]);
}

#[test]
fn an_image_that_a_writer_has_locked_is_not_replaced_and_the_writer_is_named() {
    let lab = Lab::new();
    let source = small_source(&lab);
    let image = lab.pack(&[], &source, "x.floe");
    let before = fs::read(&image).expect("an image");
    let note = lab.image("x.floe.lock");
    fs::write(&note, "host=north\nboot=b00t\npid=4711\n").expect("a note");
    let writer = opened(&image);
    fcntl_lock(&writer, FlockOperation::NonBlockingLockExclusive).expect("it can be locked");
    for image in [image.clone(), image.with_extension("link")] {
        if image.extension().is_some_and(|e| e == "link") {
            symlink("x.floe", &image).expect("a link");
        }
        let done = floe!("pack", "-f", &source, &image).exits(11);
        let done = done.says(&["cannot write '", "x.floe': process 4711 on host north is writing it"]);
        assert!(!done.stderr.contains("floe-tmp") && !done.stderr.contains("remove"), "{}", done.stderr);
    }
    assert!(fs::read(&image).expect("an image") == before);
    assert_eq!(lab.image_folder(), ["x.floe", "x.floe.lock", "x.link"]);
    drop(writer);
    floe!("pack", "-f", &source, &image).exits(0);
    assert_eq!(lab.image_folder(), ["x.floe", "x.link"]);
}

#[test]
fn while_an_image_is_packed_anew_nobody_else_writes_it_and_who_does_is_named() {
    let lab = Lab::new();
    let source = small_source(&lab);
    let image = lab.pack(&[], &source, "x.floe");
    let large = lab.tree("large");
    for i in 0..64 {
        write(large.join(format!("{i:02}")), noise(i, 1 << 20));
    }
    let mut first = floe_command(["pack", "-f", "-j", "1", "-C", "zstd:19"]);
    first.arg(&large).arg(&image).stdout(Stdio::null()).stderr(Stdio::null());
    let mut first = first.spawn().expect("floe runs");
    let pid = Pid::from_child(&first);
    let note = lab.image("x.floe.lock");
    while fs::read_to_string(&note).unwrap_or_default().is_empty() {
        assert!(first.try_wait().expect("it can be asked").is_none(), "64 MiB were packed in no time");
        std::thread::yield_now();
    }
    kill_process(pid, Signal::STOP).expect("it can be stopped");
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let who = format!("process {} on host {host} is writing it", pid.as_raw_nonzero());
    let locked = fcntl_lock(opened(&image), FlockOperation::NonBlockingLockExclusive);
    let second = floe!("pack", "-f", &source, &image);
    kill_process(pid, Signal::CONT).expect("it goes on");
    assert!(locked.is_err(), "the image could be locked while it was about to be replaced");
    second.exits(11).says(&[&who]);
    assert!(wait(&mut first).expect("it ends").success());
    floe!("check", &image).exits(0);
    assert_eq!(lab.image_folder(), ["x.floe"]);
}

#[test]
fn an_image_packed_into_its_own_source_again_and_again_keeps_its_size() {
    let lab = Lab::new();
    let source = small_source(&lab);
    write(source.join("more"), noise(1, 300_000));
    for options in [&[][..], &["--timestamp", "1700000000"]] {
        let image = source.join("x.floe");
        let mut sizes = Vec::new();
        for turn in 0..5 {
            let mut command = floe_command(["pack", "-f"]);
            command.args(options).arg(&source).arg(&image);
            let done = run(command).exits(0);
            assert_eq!(done.stderr.contains("x.floe: left out"), turn > 0, "{}", done.stderr);
            sizes.push(fs::metadata(&image).expect("an image").len());
        }
        assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
        let listed = floe!("ls", &image).exits(0).out();
        assert_eq!(listed.lines().collect::<Vec<_>>(), ["file", "more"]);
        fs::remove_file(&image).expect("it can be removed");
    }
}

#[test]
fn what_belongs_to_the_image_is_left_out_by_whatever_way_it_is_met_and_nothing_else_is() {
    let lab = Lab::new();
    let source = small_source(&lab);
    let image = source.join("x.floe");
    floe!("pack", &source, &image).exits(0);
    fs::create_dir(source.join("x.floe.thaw")).expect("a directory");
    write(source.join("x.floe.thaw/0000000000000001"), "");
    write(source.join("x.floe.lock"), "host=old\nboot=x\npid=1\n");
    write(source.join(".x.floe.floe-tmp"), "left by a crash");
    write(source.join("y.floe.lock"), "another's");
    symlink("x.floe", source.join("link")).expect("a link");
    fs::hard_link(&image, source.join("another-name")).expect("a hard link");
    let done = floe!("pack", "-f", &source, source.join("link")).exits(0);
    let done = done.says(&["x.floe: left out", "x.floe.thaw: left out", "another-name: left out"]);
    assert_eq!(done.stderr.matches("left out").count(), 3, "{}", done.stderr);
    let listed = floe!("ls", &image).exits(0).out();
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["file", "link", "y.floe.lock"]);
}

#[test]
fn a_lock_file_that_is_not_of_floe_is_packed() {
    let lab = Lab::new();
    let source = small_source(&lab);
    write(source.join("Cargo.lock"), "[[package]]\n");
    for _ in 0..2 {
        floe!("pack", "-f", &source, source.join("Cargo")).exits(0);
        let listed = floe!("ls", source.join("Cargo")).exits(0).out();
        assert_eq!(listed.lines().collect::<Vec<_>>(), ["Cargo.lock", "file"]);
    }
    assert_eq!(fs::read(source.join("Cargo.lock")).expect("it is there"), b"[[package]]\n");
}

#[test]
fn an_image_is_not_wrapped_in_itself() {
    let lab = Lab::new();
    let source = small_source(&lab);
    let image = lab.pack(&[], &source, "x.floe");
    let before = fs::read(&image).expect("an image");
    floe!("pack", "-f", &image, &image).exits(1).says(&["into itself", "only source"]);
    symlink("x.floe", lab.image("link")).expect("a link");
    floe!("pack", "-f", &image, lab.image("link")).exits(1).says(&["only source"]);
    assert!(fs::read(&image).expect("an image") == before);

    floe!("pack", "-f", &source, &image, &image).exits(0).says(&["x.floe: left out"]);
    assert_eq!(floe!("ls", "-R", &image).exits(0).out().matches("x.floe").count(), 0);
    floe!("extract", &image, "source/file", "-C", lab.tree("out")).exits(0);
    floe!("pack", "-n", &source, &image, &image).exits(0).says(&["x.floe: left out"]);
}

/// A thaw log beside an image, with `bytes` bytes in a segment.
fn thaw_log(image: &Path, bytes: usize) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".thaw");
    let log = PathBuf::from(name);
    fs::create_dir(&log).expect("a new directory");
    fs::set_permissions(&log, fs::Permissions::from_mode(0o700)).expect("a mode");
    fs::write(log.join("0000000000000000"), noise(1, bytes)).expect("a segment");
    log
}

#[test]
fn an_image_whose_thaw_log_holds_bytes_is_not_replaced_until_the_log_is_removed() {
    let lab = Lab::new();
    let source = small_source(&lab);
    let image = lab.pack(&[], &source, "x.floe");
    let before = fs::read(&image).expect("an image");
    let log = thaw_log(&image, 4321);
    floe!("pack", "-f", &source, &image).exits(1).says(&["x.floe.thaw", "4321 bytes", "remove that directory"]);
    assert_eq!(fs::read(&image).expect("an image"), before);
    // The image is gone: no new image of its name may be created beside the log either.
    fs::rename(&image, lab.image("y.floe")).expect("another name");
    floe!("pack", &source, &image).exits(1).says(&["x.floe.thaw", "4321 bytes"]);
    assert_eq!(lab.image_folder(), ["x.floe.thaw", "y.floe"]);

    // Through a pointer.
    fs::rename(&log, lab.path("log")).expect("another place");
    fs::write(&log, format!("{}\n", lab.path("log").display())).expect("a pointer");
    fs::set_permissions(&log, fs::Permissions::from_mode(0o600)).expect("a mode");
    floe!("pack", &source, &image).exits(1).says(&["4321 bytes"]);
    fs::rename(lab.path("log"), lab.path("elsewhere")).expect("another place");
    floe!("pack", &source, &image).exits(1).says(&["x.floe", "is not known", "No such file"]);

    fs::remove_file(&log).expect("a pointer");
    floe!("pack", &source, &image).exits(0);
}

#[test]
fn the_thaw_log_and_the_lock_of_the_image_are_left_out_of_its_source_in_a_survey_too() {
    let lab = Lab::new();
    let source = small_source(&lab);
    let image = source.join("x.floe");
    thaw_log(&image, 0);
    fs::write(source.join("x.floe.lock"), "host=north\nboot=b00t\npid=4711\n").expect("a note");
    // Somebody's files, whatever their names suggest.
    write(source.join("y.floe.thaw/0000000000000000"), "a file");
    let what = "it is the thaw log of the image that is being written";
    let survey =
        floe!("pack", "-n", &source, &image).exits(0).says(&["note: x.floe.thaw: ", what, "note: x.floe.lock: "]);
    assert!(survey.stderr.contains("2 files"), "{}", survey.stderr);
    floe!("pack", &source, &image).exits(0).says(&["note: x.floe.thaw: ", what, "packed 2 files"]);
    let listed = floe!("ls", "-R", &image).exits(0).out();
    assert!(!listed.contains("x.floe") && listed.contains("y.floe.thaw"), "{listed}");

    // A lock file that floe did not write is packed.
    write(source.join("x.floe.lock"), "some program's");
    floe!("pack", "-n", "-f", &source, &image).exits(0).says(&["3 files", "note: x.floe: "]);
    floe!("pack", "-f", &source, &image).exits(0).says(&["packed 3 files"]);
}
