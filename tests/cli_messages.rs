//! What the commands say: on streams that nobody reads, as JSON for programs, and where something is not as asked.

mod common;

use common::left_out::need_fuse;
use common::{Lab, floe, floe_command, nasty, noise, prose, run, write};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn small(lab: &Lab) -> (PathBuf, PathBuf) {
    let source = lab.tree("source");
    write(source.join("dir/file"), "some bytes\n");
    write(source.join("text"), prose(1, 200_000));
    std::os::unix::fs::symlink("text", source.join("link")).expect("a link");
    let image = lab.pack(&[], &source, "small.floe");
    (source, image)
}

/// Every line of both streams, or the one document, is JSON; gives the types of the messages.
fn all_json(run: &common::run::Run, is_document: bool) -> Vec<String> {
    let mut kinds = Vec::new();
    let mut lines: Vec<String> = run.stderr.lines().map(str::to_owned).collect();
    if is_document && !run.stdout.is_empty() {
        serde_json::from_slice::<Value>(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.out()));
    } else {
        lines.extend(run.out().lines().map(str::to_owned));
    }
    for line in lines {
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: '{line}' of {run:?}"));
        kinds.push(value["message_type"].as_str().expect("a type").to_owned());
    }
    kinds
}

const DOCUMENTS: [&str; 4] = ["ls", "info", "check", "digest"];

#[test]
fn nothing_panics_where_standard_error_cannot_be_written() {
    let lab = Lab::new();
    let (source, image) = small(&lab);
    let missing = lab.image("missing.floe");
    let lines: [(&[&std::ffi::OsStr], i32); 7] = [
        (&["ls".as_ref(), missing.as_ref()], 10),
        (&["--nonsense".as_ref()], 2),
        (&["pack".as_ref(), "-vf".as_ref(), source.as_ref(), image.as_ref()], 0),
        (&["pack".as_ref(), "--progress=plain".as_ref(), "-f".as_ref(), source.as_ref(), image.as_ref()], 0),
        (&["cat".as_ref(), image.as_ref(), "nothing".as_ref()], 1),
        (&["mkfs".as_ref(), "-f".as_ref(), image.as_ref()], 0),
        (&["check".as_ref(), "--json".as_ref(), missing.as_ref()], 10),
    ];
    for (args, code) in lines {
        let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("/dev/full"));
        let (read, closed) = rustix::pipe::pipe().expect("a pipe");
        drop(read);
        for stream in [full(), Stdio::from(closed)] {
            let mut command = floe_command(args);
            let status = command.stdout(Stdio::null()).stderr(stream).status().expect("it runs");
            assert_eq!(status.code(), Some(code), "{args:?}");
        }
    }
}

#[test]
fn with_json_every_line_of_both_streams_is_json() {
    let lab = Lab::new();
    let source = lab.tree("nasty");
    nasty::build(&source, nasty::Extent::Small);
    let image = lab.image("nasty.floe");
    let packed = floe!("pack", "--json", "--exclude", "nothing-of-this-name", &source, &image);
    assert!(all_json(&packed, false).contains(&"warning".to_owned()), "{}", packed.stderr);
    let (out, bad) = (lab.tree("out"), lab.image("bad.floe"));
    for (command, is_document) in DOCUMENTS.iter().map(|name| (*name, true)).chain([("freeze", false), ("gc", false)]) {
        all_json(&floe!(command, "--json", &image).exits(0), is_document);
    }
    all_json(&floe!("extract", "--json", "-C", &out, &image), false);
    let again = floe!("extract", "--json", "-C", &out, &image).exits(3);
    assert!(
        all_json(&again, false).contains(&"warning".to_owned()) && !again.stderr.contains("\"error\""),
        "{again:?}"
    );
    // Damage in the middle, and the end cut off.
    let mut bytes = fs::read(&image).expect("the image");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 2000].fill(0x55);
    for len in [bytes.len(), bytes.len() * 3 / 4, 5000, 0] {
        fs::write(&bad, &bytes[..len]).expect("written");
        for command in DOCUMENTS {
            all_json(&floe!(command, "--json", &bad), true);
        }
        all_json(&floe!("extract", "--json", "--overwrite", "always", "-C", &out, &bad), false);
        all_json(&floe!("mkfs", "--json", &bad).exits(1), false);
    }
    // Wrong usage, too, wherever the option is.
    for args in [&["--json", "ls"][..], &["ls", "--json", "--nonsense"], &["--json", "nonsense"]] {
        let kinds = all_json(&run(floe_command(args)).exits(2), false);
        assert_eq!(kinds, ["exit_error"], "{args:?}");
    }
}

#[test]
fn a_reader_that_went_away_ends_a_listing_quietly() {
    let lab = Lab::new();
    let (_, image) = small(&lab);
    for args in [&["ls", "-R"][..], &["ls", "--json"], &["info", "--json"], &["check"], &["help"], &["cat"]] {
        let (read, closed) = rustix::pipe::pipe().expect("a pipe");
        drop(read);
        let mut command = floe_command(args);
        if args[0] != "help" {
            command.arg(&image);
        }
        if args[0] == "cat" {
            command.arg("text");
        }
        let done = command.stdout(closed).output().expect("it runs");
        assert_eq!((done.status.code(), done.stderr), (Some(0), Vec::new()), "{args:?}");
    }
}

#[test]
fn quiet_json_has_only_the_summary() {
    let lab = Lab::new();
    let (source, image) = small(&lab);
    assert_eq!(all_json(&floe!("pack", "-qf", "--json", &source, &image).exits(0), false), ["summary"]);
}

#[test]
fn help_is_a_command_and_options_may_come_before_theirs() {
    let lab = Lab::new();
    let (source, _) = small(&lab);
    assert_eq!(floe!("help").exits(0).out(), floe!("--help").exits(0).out());
    assert_eq!(floe!("help", "pack").exits(0).out(), floe!("pack", "--help").exits(0).out());
    floe!("help", "nonsense").exits(2).says(&["nonsense"]);
    let image = lab.image("x.floe");
    floe!("-C", "zstd:1", "--json", "--exclude", "ls", "pack", &source, &image).exits(0);
    all_json(&floe!("--json", "ls", &image).exits(0), true);
    floe!("-n", "pack", &source, lab.image("y.floe")).exits(0);
    assert!(!lab.image("y.floe").exists());
    floe!("--nonsense", "pack", &source, &image).exits(2).says(&["--nonsense"]);
}

#[test]
fn a_pattern_that_matches_nothing_is_named() {
    let lab = Lab::new();
    let (source, image) = small(&lab);
    let absolute = source.join("text").display().to_string();
    for pattern in [absolute.as_str(), "./text", "source/text", "*.o"] {
        let done = floe!("pack", "-qf", "--exclude", pattern, "--exclude", "link", &source, &image).exits(0);
        assert_eq!(done.stderr.matches("matches nothing").count(), 1, "{}", done.stderr);
        assert!(done.stderr.contains(&format!("--exclude '{pattern}'")), "{}", done.stderr);
    }
    let done = floe!("pack", "-f", "--include", "*.rs", "--exclude", "link", &source, &image).exits(0);
    assert!(done.stderr.contains("--include '*.rs' matches nothing"), "{}", done.stderr);
}

#[test]
fn dot_and_dot_dot_among_several_sources_have_their_own_names() {
    let lab = Lab::new();
    let (source, _) = small(&lab);
    let other = lab.tree("other");
    write(other.join("inner/x"), "x");
    let image = lab.image("dots.floe");
    let mut command = floe_command(["pack", ".", ".."]);
    command.arg(&source).arg(&image).current_dir(other.join("inner"));
    run(command).exits(0);
    assert_eq!(floe!("ls", &image).exits(0).out(), "inner\nother\nsource\n");
}

#[test]
fn a_source_that_is_a_link_to_a_file_is_a_link_or_with_an_option_the_file() {
    let lab = Lab::new();
    let (source, _) = small(&lab);
    let other = lab.tree("other");
    std::os::unix::fs::symlink(source.join("dir/file"), other.join("alias")).expect("a link");
    let image = lab.image("x.floe");
    floe!("pack", other.join("alias"), source.join("dir"), &image).exits(0);
    assert!(floe!("ls", "-l", &image, "alias").exits(0).out().starts_with('l'));
    floe!("pack", "-fH", other.join("alias"), source.join("dir"), &image).exits(0);
    assert_eq!(floe!("cat", &image, "alias").exits(0).out(), "some bytes\n");
    assert!(floe!("ls", "-l", &image, "alias").exits(0).out().starts_with('-'));
    floe!("check", &image).exits(0);
}

#[test]
fn an_image_is_neither_written_to_a_stream_nor_read_from_one() {
    let lab = Lab::new();
    let (source, _) = small(&lab);
    for args in [&["pack", "source", "-"][..], &["mkfs", "-"]] {
        let mut command = floe_command(args);
        command.current_dir(source.parent().expect("a directory"));
        run(command).exits(2).says(&["standard output", "./-"]);
    }
    floe!("ls", "-").exits(10).says(&["standard input"]);
}

#[test]
fn pack_and_extract_count_alike() {
    let lab = Lab::new();
    let (source, image) = small(&lab);
    fs::hard_link(source.join("text"), source.join("again")).expect("a link");
    let counts = "2 files, 2 links or special files, 2 directories";
    floe!("pack", "-f", &source, &image).exits(0).says(&[&format!("packed {counts}")]);
    floe!("extract", "-C", lab.tree("out"), &image).exits(0).says(&[&format!("extracted {counts}")]);
}

#[test]
fn the_variable_names_the_image_for_every_command_that_reads_one() {
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let with = |args: &[&str]| {
        let mut command = floe_command(args);
        command.env("FLOE_IMAGE", &image);
        run(command)
    };
    for command in ["info", "check", "ls", "digest"] {
        with(&[command]).exits(0);
    }
    with(&["cat", "dir/file"]).exits(0);
    for command in ["info", "check"] {
        with(&[command, "other.floe"]).exits(2).says(&["FLOE_IMAGE", "other.floe"]);
    }
    let named = image.display().to_string();
    with(&["ls", &named]).exits(1).says(&["FLOE_IMAGE names the image"]);
    with(&["mount", "other.floe", "/mnt"]).exits(2).says(&["FLOE_IMAGE"]);
}

#[test]
fn several_directories_are_listed_under_their_names_and_what_is_missing_is_told() {
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let done =
        floe!("ls", &image, "dir", "nothing", "text", "/").exits(1).says(&["cannot list 'nothing' in", "no such file"]);
    assert_eq!(done.out(), "text\n\ndir:\nfile\n\n/:\ndir\nlink\ntext\n");
    assert_eq!(floe!("ls", &image, "dir").exits(0).out(), "file\n");
}

#[test]
fn an_image_inside_a_file_is_read_at_its_offset() {
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let outer = lab.image("outer");
    write(&outer, [vec![7; 4096], fs::read(&image).expect("the image")].concat());
    for command in ["ls", "info", "check", "digest"] {
        floe!(command, "--offset", "4K", &outer).exits(0);
    }
    assert_eq!(floe!("cat", "--offset=4096", &outer, "dir/file").exits(0).out(), "some bytes\n");
    floe!("extract", "--offset", "4096", "-C", lab.tree("out"), &outer).exits(0);
    floe!("info", "--offset", "8K", &outer).exits(10).says(&["at offset 8192"]);
    floe!("info", "--offset", "1G", &outer).exits(10).says(&["ends before offset 1073741824"]);
}

#[test]
fn check_says_what_it_did_not_read() {
    let lab = Lab::new();
    let (_, image) = small(&lab);
    assert!(floe!("check", "--quick", &image).exits(0).out().contains("the data was not read"));
    assert!(floe!("check", &image).exits(0).out().starts_with("no damage: "));
}

#[test]
fn of_a_cut_image_the_cause_is_told_first() {
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let bytes = fs::read(&image).expect("the image");
    let cut = lab.image("cut.floe");
    write(&cut, &bytes[..bytes.len() - 1024]);
    let done = floe!("check", &cut).exits(3);
    assert!(done.out().starts_with("the file is cut short: 1.00 KiB of "), "{}", done.out());
    let json: Value = serde_json::from_slice(&floe!("check", "--json", &cut).exits(3).stdout).expect("a document");
    assert_eq!(json["missing_bytes"], 1024);
}

#[test]
fn a_mount_that_fails_says_once_why_and_on_what() {
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let missing = lab.image("missing.floe").display().to_string();
    let done = floe!("mount", &missing, lab.tree("m")).exits(10).says(&["o such file"]);
    assert_eq!(done.stderr.matches("missing.floe").count(), 1, "{}", done.stderr);
    let outer = lab.image("outer");
    write(&outer, [vec![7; 4096], fs::read(&image).expect("the image")].concat());
    let done = floe!("mount", "--offset", "4K", &outer, lab.path("no-directory")).exits(1).says(&["no-directory"]);
    assert!(!done.stderr.contains("read-only"), "{}", done.stderr);
    floe!("mount", "-o", "offset=8192,ro", &outer, lab.tree("m2")).exits(10).says(&["at offset 8192"]);
}

#[test]
fn a_target_that_cannot_be_is_named_as_it_was_given() {
    let lab = Lab::new();
    let (source, image) = small(&lab);
    let again = |args: &[&str]| {
        let mut command = floe_command(args);
        command.current_dir(image.parent().expect("a directory"));
        run(command)
    };
    let source = source.display().to_string();
    again(&["pack", &source, "small.floe"]).exits(1).says(&["error: cannot write 'small.floe': the file exists"]);
    again(&["pack", &source, "nothing/x.floe"]).exits(1).says(&["cannot open the directory 'nothing'"]);
    again(&["extract", "small.floe", "-C", "small.floe"]).exits(1).says(&["Not a directory"]);
}

#[test]
fn a_replaced_image_keeps_its_owner_and_mode() {
    let lab = Lab::new();
    let (source, image) = small(&lab);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o640)).expect("chmod");
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&image, Some(1234), Some(2345)).expect("chown");
    }
    floe!("pack", "-f", &source, &image).exits(0);
    let after = fs::metadata(&image).expect("it is there");
    assert_eq!(after.mode() & 0o7777, 0o640);
    if is_root {
        assert_eq!((after.uid(), after.gid()), (1234, 2345));
    }
}

#[test]
fn an_empty_source_date_is_unset() {
    let lab = Lab::new();
    let (source, _) = small(&lab);
    for (date, code) in [("", 0), ("1700000000", 0), ("yesterday", 2)] {
        let mut command = floe_command(["pack", "-f"]);
        command.arg(&source).arg(lab.image("x.floe")).env("SOURCE_DATE_EPOCH", date);
        run(command).exits(code);
    }
}

/// A file system with this much space, unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(dir: PathBuf, size: &str) -> Option<Self> {
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&dir).output();
        done.is_ok_and(|done| done.status.success()).then_some(Tmpfs(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_extraction_with_one_error() {
    let lab = Lab::new();
    let source = lab.tree("source");
    for n in 0..40 {
        write(source.join(format!("file-{n:02}")), noise(n, 100_000));
    }
    let image = lab.pack(&[], &source, "x.floe");
    let Some(full) = Tmpfs::new(lab.tree("full"), "1M") else {
        return common::left_out::left_out("a tmpfs needs root");
    };
    let done = floe!("extract", "-C", &full.0, &image).exits(1).says(&["No space left on device"]);
    assert_eq!(done.stderr.matches("No space left").count(), 1, "{}", done.stderr);
    assert!(!done.stderr.contains("os error"), "{}", done.stderr);
    let json = floe!("extract", "--json", "--overwrite", "always", "-C", &full.0, &image).exits(1);
    assert!(all_json(&json, false).contains(&"exit_error".to_owned()));
    let packed = floe!("pack", "--json", "-C", "none", &source, full.0.join("y.floe")).exits(1);
    assert!(all_json(&packed, false).contains(&"exit_error".to_owned()));
}

#[test]
fn completion_offers_fixed_values_and_man_pages_keep_the_lines_of_examples() {
    let script = floe!("completions", "bash").exits(0).out();
    for values in ["zstd:3 zstd:12", "blake3 xxh3", "fastcdc fixed:4K", "allow_other"] {
        assert!(script.contains(values), "{values}");
    }
    let page = floe!("man", "pack").exits(0).out();
    assert!(page.contains(".TP\nfloe pack ~/photos photos.floe\n"), "{page}");
    assert!(page.contains(".SH \"EXIT STATUS\""), "{page}");
    for command in ["completions", "man", "help"] {
        assert!(floe!("--help").exits(0).out().contains(&format!("\n  {command} ")), "{command}");
    }
}

#[test]
fn help_fits_the_terminal() {
    for width in [60, 80, 100] {
        for command in ["pack", "mount", "ls", "freeze", "bench", "check", "extract", "gc", "umount", "mkfs"] {
            let mut line = floe_command(["help", command]);
            line.env("COLUMNS", width.to_string());
            let help = run(line).exits(0).out();
            let too_long: Vec<_> = help.lines().filter(|line| line.chars().count() > width).collect();
            assert!(too_long.is_empty(), "{command} at {width}: {too_long:#?}");
        }
    }
}

#[test]
fn mount_and_umount_speak_json_and_refuse_what_cannot_be() {
    need_fuse!();
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let dir = lab.mount_point("m");
    let done = floe!("mount", "--json", &image, &dir).exits(0);
    let summary: Value = serde_json::from_slice(&done.stdout).expect("one line");
    assert_eq!(summary["read_only"], false, "{summary}");
    assert_eq!(all_json(&floe!("sync", "--json", &dir).exits(0), false), ["summary"]);
    assert_eq!(all_json(&floe!("umount", "--json", &dir).exits(0), false), ["summary"]);
    assert_eq!(all_json(&floe!("umount", "--json", &dir).exits(1), false), ["exit_error"]);
    floe!("mount", "-o", "remount,ro", &image, &dir).exits(2).says(&["cannot be remounted"]);
    assert_eq!(all_json(&floe!("mount", "--json", "-o", "nonsense", &image, &dir).exits(2), false), ["exit_error"]);
}

#[test]
fn damage_that_a_mount_meets_is_in_the_system_log_once() {
    need_fuse!();
    let log = Path::new("/dev/log");
    if log.symlink_metadata().is_ok() || !rustix::process::geteuid().is_root() {
        return common::left_out::left_out("there is a system log already, or none can be made");
    }
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("file"), noise(1, 300_000));
    let image = lab.pack(&["-C", "none"], &source, "x.floe");
    let mut bytes = fs::read(&image).expect("the image");
    bytes[150_000] ^= 1;
    fs::write(&image, bytes).expect("written");
    let listener = UnixDatagram::bind(log).expect("a socket");
    let dir = lab.mount_point("m");
    floe!("mount", "-o", "ro,cache=1M,readahead=0", &image, &dir).exits(0);
    let read = (fs::read(dir.join("file")), fs::read(dir.join("file")));
    floe!("umount", &dir).exits(0);
    fs::remove_file(log).expect("removed");
    assert!(read.0.is_err() && read.1.is_err());
    listener.set_nonblocking(true).expect("non-blocking");
    let mut said = Vec::new();
    let mut message = [0; 4096];
    while let Ok(len) = listener.recv(&mut message) {
        said.push(String::from_utf8_lossy(&message[..len]).into_owned());
    }
    let damaged: Vec<_> = said.iter().filter(|line| line.contains("superchunk 1 at offset")).collect();
    assert_eq!(damaged.len(), 1, "{said:?}");
    assert!(damaged[0].starts_with("<28>floe[") && damaged[0].contains("x.floe"), "{said:?}");
}
