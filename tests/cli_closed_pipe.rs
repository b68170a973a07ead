//! Every command that prints JSON, writing to a pipe whose reader closes it: at once, or after the first byte.

mod common;

use common::left_out::need_fuse;
use common::mounted::is_mounted;
use common::{Lab, Mounted, floe_command, prose, spawn, write};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;

/// What a command prints to standard output with `--json`.
#[derive(Clone, Copy, PartialEq)]
enum Prints {
    /// A value a line.
    Lines,
    /// One value.
    Document,
}

/// The result of a command whose reader closed the pipe.
struct Closed {
    code: i32,
    /// What the command wrote before.
    stdout: Vec<u8>,
    stderr: String,
}

/// Runs a command whose reader closes the pipe at once, or after the first byte and what else is in the pipe then. Every value in
/// these tests is shorter than a pipe's buffer, so the kernel takes it in one piece.
fn closed(args: &[OsString], after_first: bool) -> Closed {
    let mut command = floe_command(args);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut stderr = tempfile::tempfile().expect("a temporary file");
    let mut stdout = Vec::new();
    command.stdout(writer).stderr(Stdio::from(stderr.try_clone().expect("a descriptor")));
    let mut reader = Some(reader);
    if !after_first {
        drop(reader.take());
    }
    let mut child = spawn(&mut command).expect("floe runs");
    // The pipe's other end is the command's alone from now on.
    drop(command);
    if let Some(mut reader) = reader {
        let mut first = [0];
        let len = reader.read(&mut first).expect("the pipe is read");
        stdout.extend(&first[..len]);
        rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK).expect("a pipe's flag");
        match reader.read_to_end(&mut stdout) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            _ => {}
        }
    }
    let status = common::run::wait(&mut child).unwrap_or_else(|| panic!("{args:?} has not ended"));
    let mut said = String::new();
    std::io::Seek::rewind(&mut stderr).expect("a temporary file is read");
    stderr.read_to_string(&mut said).expect("messages are text");
    Closed { code: status.code().unwrap_or_else(|| panic!("{args:?}: {status}")), stdout, stderr: said }
}

fn parsed(line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)))
}

/// Expects that everything the command wrote is JSON, and that nothing on standard output is cut off. Returns the exit status.
#[track_caller]
fn parses(args: &[&OsStr], prints: Prints, after_first: bool) -> i32 {
    let args: Vec<OsString> = args.iter().map(OsString::from).chain([OsString::from("--json")]).collect();
    let Closed { code, stdout, stderr } = closed(&args, after_first);
    if let Some((last, lines)) = stdout.split_last() {
        assert_eq!(*last, b'\n', "{args:?} wrote a part of a line: {}", String::from_utf8_lossy(&stdout));
        match prints {
            Prints::Document => _ = parsed(&stdout),
            Prints::Lines => lines.split(|&byte| byte == b'\n').for_each(|line| {
                assert!(parsed(line)["message_type"].is_string(), "{}", String::from_utf8_lossy(line));
            }),
        }
    }
    // Every command that succeeds prints something.
    assert!(!after_first || code != 0 || !stdout.is_empty(), "{args:?}");
    for line in stderr.lines() {
        assert!(parsed(line.as_bytes())["message_type"].is_string(), "{args:?}: {line}");
    }
    code
}

/// Two files, text of more than one subchunk, and a name that is no text.
fn source(lab: &Lab) -> PathBuf {
    let source = lab.tree("source");
    write(source.join("dir/file"), "some bytes\n");
    write(source.join("text"), prose(1, 3_000_000));
    write(source.join(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"no\xfftext")), "more\n");
    symlink("text", source.join("link")).expect("a link");
    source
}

#[test]
fn whatever_a_command_wrote_before_its_reader_went_away_is_whole_json() {
    let lab = Lab::new();
    let source = source(&lab);
    let image = lab.pack(&[], &source, "image.floe");
    // Its content is damaged, and a copy ends too early.
    let (bad, short) = (lab.image("bad.floe"), lab.image("short.floe"));
    let mut bytes = fs::read(&image).expect("the image");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 2000].fill(0x55);
    fs::write(&bad, &bytes).expect("written");
    fs::write(&short, &bytes[..5000]).expect("written");
    let (new, empty, out) = (lab.image("new.floe"), lab.image("empty.floe"), lab.tree("out"));
    let work = lab.tree("work");
    let word = OsStr::new;
    let arg = |path: &'static str| word(path);
    for after_first in [false, true] {
        let check = |args: &[&OsStr], prints| parses(args, prints, after_first);
        for image in [&image, &bad, &short] {
            let image = image.as_os_str();
            let ends_as_read = |args: &[&OsStr], prints| {
                let read = common::run(floe_command(args.iter().chain([&word("--json")])));
                read.exits(check(args, prints));
            };
            for command in ["ls", "info", "check", "digest"] {
                ends_as_read(&[arg(command), image], Prints::Document);
            }
            ends_as_read(
                &[arg("extract"), arg("--overwrite=always"), arg("-C"), out.as_os_str(), image],
                Prints::Lines,
            );
            ends_as_read(&[arg("gc"), arg("-n"), image], Prints::Lines);
            ends_as_read(&[arg("freeze"), arg("-n"), image], Prints::Lines);
            ends_as_read(&[arg("ls"), arg("-R"), image, arg("nothing"), arg("/")], Prints::Document);
        }
        // People are told by the exit status, too, what a check has found.
        let args = [OsString::from("check"), bad.clone().into_os_string()];
        assert_eq!(closed(&args, after_first).code, 3);
        // And that a file is not there, before nobody read any more.
        let args = ["cat".into(), image.clone().into_os_string(), "nothing".into(), "text".into()];
        assert_eq!(closed(&args, after_first).code, 1);
        let image = image.as_os_str();
        for command in ["gc", "freeze"] {
            assert_eq!(check(&[arg(command), image], Prints::Lines), 0, "{command}");
        }
        let (source, new) = (source.as_os_str(), new.as_os_str());
        let pack = [arg("pack"), arg("--exclude=nothing-of-this-name"), arg("-f")];
        assert_eq!(check(&[&pack[..], &[source, new]].concat(), Prints::Lines), 0);
        assert_eq!(check(&[&pack[..], &[arg("-n"), source, new]].concat(), Prints::Lines), 0);
        // The image is complete.
        common::run(floe_command([arg("check"), new])).exits(0);
        // The image exists already.
        assert_eq!(check(&[arg("pack"), source, new], Prints::Lines), 1);
        assert_eq!(check(&[arg("mkfs"), arg("-f"), empty.as_os_str()], Prints::Lines), 0);
        check(&[arg("bench"), arg("--work"), work.as_os_str(), arg("--sample-fast=1M"), source], Prints::Document);
    }
}

#[test]
fn a_listing_longer_than_the_pipe_ends_quietly_and_one_of_a_damaged_directory_is_a_whole_document() {
    let lab = Lab::new();
    let source = lab.tree("many");
    for n in 0..3000 {
        write(source.join(format!("{}/a-long-name-{n}", n % 40)), [n as u8]);
    }
    let image = lab.pack(&[], &source, "many.floe");
    let args = ["ls", "-R", "--json"].map(OsString::from);
    for after_first in [false, true] {
        let Closed { code, stderr, .. } = closed(&[&args[..], &[image.clone().into()]].concat(), after_first);
        assert_eq!((code, stderr.as_str()), (0, ""));
    }
    // Some of the damage is in a block of the directory's table that is read after the listing has begun.
    let (bytes, bad, mut began) = (fs::read(&image).expect("the image"), lab.image("bad.floe"), 0);
    for begin in (32 << 10..bytes.len()).step_by(1024) {
        let mut bytes = bytes.clone();
        let end = bytes.len().min(begin + 1024);
        bytes[begin..end].fill(0x55);
        fs::write(&bad, bytes).expect("written");
        let done = common::run(floe_command(args.iter().chain([&bad.clone().into()])));
        if !done.stdout.is_empty() {
            assert!(parsed(&done.stdout)["entries"].is_array());
        }
        let messages: Vec<_> = done.stderr.lines().map(|line| parsed(line.as_bytes())).collect();
        let is_last = |message: &Value| message["message_type"] == "exit_error";
        began += usize::from(!done.stdout.is_empty() && messages.last().is_some_and(is_last));
    }
    assert!(began > 0);
}

#[test]
fn a_mount_is_used_and_ended_also_where_nobody_reads_what_is_said_of_it() {
    need_fuse!();
    let lab = Lab::new();
    let image = lab.image("image.floe");
    common::floe!("mkfs", &image).exits(0);
    let dir = lab.mount_point("m");
    let word = OsStr::new;
    for after_first in [false, true] {
        let check = |args: &[&OsStr], prints| assert_eq!(parses(args, prints, after_first), 0, "{args:?}");
        check(&[word("mount"), image.as_os_str(), dir.as_os_str()], Prints::Lines);
        assert!(is_mounted(&dir));
        write(dir.join("file"), prose(2, 2_000_000));
        check(&[word("sync"), dir.as_os_str()], Prints::Lines);
        check(&[word("freeze"), word("--status"), dir.as_os_str()], Prints::Document);
        check(&[word("freeze"), word("-n"), dir.as_os_str()], Prints::Lines);
        check(&[word("freeze"), dir.as_os_str()], Prints::Lines);
        check(&[word("gc"), dir.as_os_str()], Prints::Lines);
        check(&[word("umount"), dir.as_os_str()], Prints::Lines);
        assert!(!is_mounted(&dir));
    }
    let mounted = Mounted::new(&image, &dir, &[]);
    assert_eq!(fs::read(mounted.join("file")).expect("the file"), prose(2, 2_000_000));
    mounted.unmount();
}
