//! How the commands treat users and programs: names, exit statuses, and what goes to which stream.

mod common;

use common::{Lab, floe, floe_command, nasty, prose, run, write};
use floe::meta::{Image, ImageOptions};
use floe::storage::{Access, FileStorage};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

fn small(lab: &Lab) -> (PathBuf, PathBuf) {
    let source = lab.tree("source");
    write(source.join("dir/file"), "some bytes\n");
    write(source.join("text"), prose(1, 200_000));
    fs::set_permissions(source.join("text"), fs::Permissions::from_mode(0o644)).expect("chmod");
    let image = lab.pack(&[], &source, "small.floe");
    (source, image)
}

fn documents(text: &str) -> Vec<Value> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON: {e}: {line}")))
        .collect()
}

#[test]
fn wrong_usage_is_exit_2_and_says_what_is_wrong() {
    floe!("pack").exits(2);
    floe!("no-such-command").exits(2).says(&["no-such-command"]);
    floe!("pack", "--no-such-option", "a", "b").exits(2).says(&["--no-such-option"]);
    let lab = Lab::new();
    let source = lab.tree("source");
    for (option, value) in [
        ("--superchunk-size", "100M"),
        ("--superchunk-size", "nonsense"),
        ("--part-size", "1"),
        ("-C", "lzma9000"),
        ("-C", "zstd:99"),
        ("--chunker", "fixed:0"),
        ("--hash", "md5"),
        ("--profile", "tiny"),
        ("--owner", "not:numbers:at:all"),
    ] {
        let done = floe!("pack", option, value, &source, lab.image("x.floe")).exits(2);
        assert!(done.stderr.contains(value), "'{value}' is not named in: {}", done.stderr);
        assert_eq!(lab.image_folder(), Vec::<String>::new(), "{option} {value} left something behind");
    }
}

#[test]
fn plain_pack_is_the_balanced_profile_byte_for_byte() {
    let lab = Lab::new();
    let (source, _) = small(&lab);
    let packed = |options: &[&str], name: &str| {
        let mut command = floe_command(["pack", "--timestamp", "1700000000"]);
        command.args(options).arg(&source).arg(lab.image(name));
        run(command).exits(0);
        fs::read(lab.image(name)).expect("an image")
    };
    let plain = packed(&[], "plain.floe");
    assert!(plain == packed(&["--profile", "balanced"], "balanced.floe"));
    assert!(plain != packed(&["--profile", "fast"], "fast.floe"));
    let same_as_fast = packed(&["--profile", "fast", "-C", "zstd:12"], "mixed.floe");
    assert!(plain != same_as_fast, "with another codec than its own it is no profile");
}

#[test]
fn every_profile_packs_with_the_memory_that_is_given_by_default_and_gives_its_tree_back() {
    let lab = Lab::new();
    let (source, _) = small(&lab);
    let digests: Vec<_> = ["fast", "balanced", "small", "smallest"]
        .map(|profile| {
            let image = lab.pack(&["--profile", profile], &source, &format!("by-{profile}.floe"));
            floe!("check", &image).exits(0);
            floe!("digest", &image).exits(0).out()
        })
        .into();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[test]
fn help_and_version_are_asked_for_and_so_go_to_standard_output() {
    for args in [vec!["--help"], vec!["pack", "--help"], vec!["mount", "--help"], vec!["--version"]] {
        let done = run(floe_command(&args)).exits(0);
        assert!(!done.stdout.is_empty(), "{args:?}");
        assert_eq!(done.stderr, "", "{args:?}");
    }
    assert!(floe!("--version").out().contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn pack_refuses_an_existing_file_without_force() {
    let lab = Lab::new();
    let (source, image) = small(&lab);
    let before = fs::read(&image).expect("the image can be read");
    floe!("pack", &source, &image).exits(1).says(&["small.floe", "--force"]);
    assert!(fs::read(&image).expect("the image can be read") == before);
    write(source.join("new"), "new");
    floe!("pack", &source, &image, "-f").exits(0);
    assert!(floe!("ls", &image).exits(0).out().contains("new"));
    let precious = lab.image("precious");
    write(&precious, "not an image");
    floe!("pack", &source, &precious).exits(1);
    assert_eq!(fs::read(&precious).expect("it is there"), b"not an image");
}

#[test]
fn a_source_that_is_not_there_is_named() {
    let lab = Lab::new();
    floe!("pack", lab.path("nowhere"), lab.image("x.floe")).exits(1).says(&["nowhere"]);
    assert_eq!(lab.image_folder(), Vec::<String>::new());
}

#[test]
fn an_image_cannot_be_made_inside_the_folder_that_is_packed_of_itself() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("file"), "x");
    let image = source.join("inside.floe");
    // Either refused, or packed without itself: never itself inside itself.
    let done = floe!("pack", &source, &image);
    if done.code == Some(0) {
        let listed = floe!("ls", "-R", &image).exits(0).out();
        assert!(!listed.contains("inside.floe") && !listed.contains("floe-tmp"), "{listed}");
    }
}

#[test]
fn options_stand_anywhere_on_the_line() {
    let lab = Lab::new();
    let (source, _) = small(&lab);
    floe!("pack", &source, lab.image("late.floe"), "-C", "zstd:1", "-q").exits(0);
    floe!("-q", "pack", "-C", "zstd:1", &source, lab.image("early.floe")).exits(0);
}

#[test]
fn what_is_no_image_is_exit_10() {
    let lab = Lab::new();
    let other = lab.image("other");
    write(&other, vec![b'x'; 100_000]);
    let empty = lab.image("empty");
    write(&empty, "");
    let out = lab.tree("out");
    for image in [other, empty, lab.image("missing")] {
        for command in ["ls", "info", "check", "digest"] {
            floe!(command, &image)
                .exits(10)
                .says(&["error:", &image.file_name().unwrap_or_default().to_string_lossy()]);
        }
        floe!("cat", &image, "x").exits(10);
        floe!("extract", &image, "-C", &out).exits(10);
    }
    let folder = lab.tree("folder");
    floe!("info", &folder).exits(10);
}

#[test]
fn results_go_to_standard_output_and_all_else_to_standard_error() {
    let lab = Lab::new();
    let (source, image) = small(&lab);
    let done = floe!("pack", &source, lab.image("x.floe")).exits(0);
    assert_eq!(done.out(), "", "pack has no result but the image");
    assert!(!done.stderr.contains('\r') && !done.stderr.contains('\x1b'), "no bar and no colour into a file");
    let done = floe!("pack", "-q", &source, lab.image("y.floe")).exits(0);
    assert_eq!((done.out().as_str(), done.stderr.as_str()), ("", ""));
    let done = floe!("ls", "-R", &image).exits(0);
    assert_eq!(done.stderr, "");
    assert!(done.out().contains("dir/file"), "{}", done.out());
    let done = floe!("cat", &image, "dir/file").exits(0);
    assert_eq!((done.out().as_str(), done.stderr.as_str()), ("some bytes\n", ""));
}

#[test]
fn cat_writes_the_bytes_of_every_file_named_and_fails_on_what_is_none() {
    let lab = Lab::new();
    let (source, image) = small(&lab);
    let done = floe!("cat", &image, "dir/file", "/text").exits(0);
    let expected =
        [fs::read(source.join("dir/file")).unwrap_or_default(), fs::read(source.join("text")).unwrap_or_default()];
    assert!(done.stdout == expected.concat());
    floe!("cat", &image, "dir/nothing").exits(1).says(&["dir/nothing"]);
    floe!("cat", &image, "dir").exits(1).says(&["dir"]);
}

#[test]
fn a_broken_pipe_is_no_panic() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("large"), prose(1, 8 << 20));
    let image = lab.pack(&["-C", "zstd:1"], &source, "large.floe");
    let mut child = floe_command(["cat"])
        .arg(&image)
        .arg("large")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("floe runs");
    drop(child.stdout.take());
    let done = child.wait_with_output().expect("floe ends");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn documents_and_streams_of_json_are_what_interface_promises() {
    let lab = Lab::new();
    let (source, image) = small(&lab);
    for command in ["info", "ls", "check"] {
        let done = floe!(command, "--json", &image).exits(0);
        let text = done.out();
        serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{command} --json is no document: {e}\n{text}"));
    }
    let done = floe!("pack", "--json", &source, lab.image("x.floe")).exits(0);
    let lines = documents(&done.out());
    let kind = |line: &Value| line["message_type"].as_str().map(str::to_owned);
    assert_eq!(lines.last().and_then(kind).as_deref(), Some("summary"), "{lines:?}");
    assert!(lines.iter().all(|l| kind(l).is_some()), "{lines:?}");
    let done = floe!("pack", "--json", &source, &image).exits(1);
    let lines = documents(&format!("{}{}", done.out(), done.stderr));
    let last = lines.last().expect("an error is said");
    assert_eq!((kind(last).as_deref(), last["code"].as_i64()), (Some("exit_error"), Some(1)), "{last}");
    assert!(last["message"].as_str().is_some_and(|m| m.contains("small.floe")), "{last}");
}

#[test]
fn a_digest_depends_on_the_tree_and_on_nothing_else() {
    let lab = Lab::new();
    let source = lab.small_nasty_tree();
    let digest = |options: &[&str], name: &str| {
        let image = lab.pack(options, &source, name);
        let out = floe!("digest", &image).exits(0).out();
        out.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let first = digest(&[], "a.floe");
    assert!(first.len() >= 32, "'{first}'");
    assert_eq!(first, digest(&["-C", "none", "--superchunk-size", "1M", "-j", "1"], "b.floe"));
    assert_eq!(first, digest(&["--part-size", "32K"], "c.floe"));
    fs::set_permissions(source.join("sizes/random-1"), fs::Permissions::from_mode(0o640)).expect("chmod");
    let second = digest(&[], "d.floe");
    assert_ne!(first, second, "a mode changed");
    nasty::set_times(&source.join("sizes/random-1"), 5, 5);
    let third = digest(&[], "e.floe");
    assert_ne!(second, third, "a time changed");
    fs::write(source.join("sizes/random-1"), "z").expect("it can be written");
    nasty::set_times(&source.join("sizes/random-1"), 5, 5);
    assert_ne!(third, digest(&[], "f.floe"), "a byte changed");
}

#[test]
fn an_image_that_holds_what_not_everybody_may_read_is_not_for_everybody() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("public"), "x");
    for (name, mode) in [("public", 0o644), (".", 0o755)] {
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let mode = |name: &str| {
        let image = lab.pack(&[], &source, name);
        fs::metadata(image).expect("the image is there").permissions().mode() & 0o777
    };
    let public = mode("public.floe");
    assert_eq!(public & 0o400, 0o400);
    write(source.join("secret"), "x");
    fs::set_permissions(source.join("secret"), fs::Permissions::from_mode(0o600)).expect("chmod");
    assert_eq!(mode("secret.floe"), 0o600);
}

#[test]
fn source_date_epoch_is_the_same_as_timestamp() {
    let lab = Lab::new();
    let (source, _) = small(&lab);
    let one = lab.pack(&["--timestamp", "1234567890"], &source, "one.floe");
    let two = lab.image("two.floe");
    let mut command = floe_command(["pack"]);
    command.arg(&source).arg(&two).env("SOURCE_DATE_EPOCH", "1234567890");
    run(command).exits(0);
    assert!(fs::read(one).expect("an image") == fs::read(two).expect("an image"));
}

fn opened(image: &Path) -> Image {
    let storage = FileStorage::open(image, Access::ReadOnly).expect("the image is there");
    Image::open(Arc::new(storage), ImageOptions::default()).expect("it is an image")
}

#[test]
fn two_images_of_one_tree_have_names_of_their_own_and_the_same_view() {
    let lab = Lab::new();
    let (source, one) = small(&lab);
    let one = opened(&one);
    let two = opened(&lab.pack(&[], &source, "two.floe"));
    assert_eq!(one.root().view.hash(), two.root().view.hash());
    assert_ne!(one.head().uuid, two.head().uuid);
    assert_ne!(one.head().lineage, two.head().lineage);
    assert_ne!(one.head().log_id, two.head().log_id);
    let dated = || opened(&lab.pack(&["-f", "--timestamp", "5"], &source, "dated.floe"));
    assert_eq!(dated().head(), dated().head());
}

#[test]
fn an_image_keeps_the_time_of_packing() {
    let lab = Lab::new();
    let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs() as i64;
    let (source, image) = small(&lab);
    let after = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs() as i64;
    let packed = opened(&image).root().packed_time;
    assert!((before..=after).contains(&packed), "{before} {packed} {after}");
    let dated = lab.pack(&["--timestamp", "86400"], &source, "dated.floe");
    assert_eq!(opened(&dated).root().packed_time, 86400);
}

#[test]
fn info_says_what_the_image_is_made_of() {
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let text = floe!("info", &image).exits(0).out();
    for word in ["uuid", "fastcdc", "zstd"] {
        assert!(text.to_lowercase().contains(word), "'{word}' is not in\n{text}");
    }
}

#[test]
fn the_filter_says_what_it_would_take_and_why() {
    let lab = Lab::new();
    let (source, _) = small(&lab);
    let image = lab.image("x.floe");
    let done = floe!("pack", "--debug-filter", "--exclude", "text", &source, &image).exits(0);
    let said = format!("{}{}", done.out(), done.stderr);
    assert!(said.contains("text") && said.contains("dir/file"), "{said}");
    assert!(!image.exists(), "--debug-filter packs nothing");
}
