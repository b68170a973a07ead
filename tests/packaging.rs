//! What is packaged beside the program: the magic of file(1), manual pages, completions, examples for fstab and systemd.

mod common;

use common::left_out::need_program;
use common::{Lab, floe, run, write};
use floe::fuse::MountOptions;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1").join(name)
}

/// What file(1) says of a file by floe's magic alone.
fn file(path: &Path) -> String {
    let mut command = Command::new("file");
    command.arg("-b").arg("-m").arg(packaging("magic")).arg(path);
    run(command).exits(0).out().trim().to_owned()
}

#[test]
fn file_names_images_with_version_and_uuid_and_nothing_else() {
    need_program!("file");
    let lab = Lab::new();
    let image = fixture("zstd.floe");
    let info = floe!("info", &image).exits(0).out();
    let uuid = info.lines().find_map(|line| line.strip_prefix("uuid ")).expect("a line with the uuid").trim();
    assert_eq!(file(&image), format!("floe image, version 1, UUID {uuid}"));

    let thawed = file(&fixture("thawed.floe"));
    assert!(thawed.ends_with(", mounted or not complete without its thaw log"), "{thawed}");

    let mut bytes = fs::read(&image).expect("the fixture");
    bytes[..4].fill(0);
    let damaged = lab.path("damaged.floe");
    write(&damaged, bytes);
    assert_eq!(file(&damaged), "floe image, version 1, first head slot damaged");

    let text = lab.path("text");
    write(&text, "FLOES are large flat pieces of ice that drift on the sea.\n");
    assert!(!file(&text).contains("image"), "{}", file(&text));
}

#[test]
fn an_installation_has_a_page_for_each_command_completions_and_the_helper_of_mount() {
    let lab = Lab::new();
    let root = lab.path("root");
    let mut command = Command::new("bash");
    command.arg(packaging("install.sh")).arg(env!("CARGO_BIN_EXE_floe")).arg("/usr").env("DESTDIR", &root);
    run(command).exits(0);

    let help = floe!("--help").exits(0).out();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut wanted: BTreeSet<String> = listed
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .map(|name| format!("floe-{name}.1"))
        .collect();
    assert!(wanted.contains("floe-pack.1"), "{help}");
    wanted.insert("floe.1".to_owned());
    let pages: BTreeSet<String> = fs::read_dir(root.join("usr/share/man/man1"))
        .expect("a directory of pages")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    assert_eq!(pages, wanted);
    for page in &pages {
        let text = fs::read_to_string(root.join("usr/share/man/man1").join(page)).expect("a page");
        assert!(text.contains(".SH NAME"), "{page}: {text}");
    }

    let completions =
        ["bash-completion/completions/floe", "zsh/vendor-completions/_floe", "fish/vendor_completions.d/floe.fish"];
    for path in completions {
        let script = fs::read_to_string(root.join("usr/share").join(path)).expect("a script");
        assert!(script.contains("superchunk-size") && script.contains("smallest"), "{path}");
    }
    assert_eq!(fs::read_link(root.join("usr/sbin/mount.floe")).expect("a link"), Path::new("/usr/bin/floe"));
    assert!(root.join("usr/bin/floe").exists());
}

#[test]
fn mount_options_in_the_examples_are_options_of_floe() {
    let takes = |options: &str| MountOptions::default().take(OsStr::new(options));
    let fstab = fs::read_to_string(packaging("fstab.example")).expect("an example");
    let mut lines = 0;
    for line in fstab.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let fields: Vec<_> = line.split_whitespace().collect();
        assert_eq!((fields.len(), fields[2]), (6, "floe"), "{line}");
        takes(fields[3]).unwrap_or_else(|error| panic!("{line}: {error}"));
        lines += 1;
    }
    assert!(lines >= 3, "{fstab}");

    let unit = fs::read_to_string(packaging("photos.mount")).expect("a unit");
    let value = |text: &str, key: &str| -> String {
        let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {key} in {text}")).to_owned()
    };
    takes(&value(&unit, "Options")).unwrap_or_else(|error| panic!("{error}"));
    // systemd refuses units that are not named after their mount point.
    let automount = fs::read_to_string(packaging("photos.automount")).expect("a unit");
    assert_eq!(value(&unit, "Type"), "floe");
    for text in [unit, automount] {
        assert_eq!(value(&text, "Where"), "/photos");
    }
}
