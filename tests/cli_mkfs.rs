//! `floe mkfs`: an empty image that all other commands accept, made under the same rules as a packed one.

mod common;

use common::left_out::need_fuse;
use common::{Lab, Mounted, floe};
use floe::format::profile::Profile;
use rustix::fs::{FlockOperation, fcntl_lock};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn an_empty_image_is_clean_and_holds_nothing_but_its_root() {
    let lab = Lab::new();
    let image = lab.image("x.floe");
    floe!("mkfs", &image).exits(0).says(&["x.floe", "zstd:12", "4.00 MiB"]);
    assert_eq!(lab.image_folder(), ["x.floe"]);
    // Its future contents are unknown, so only the owner may read it.
    assert_eq!(image.metadata().expect("an image").mode() & 0o777, 0o600);
    floe!("check", &image).exits(0);
    assert_eq!(floe!("ls", "-lR", &image).exits(0).out(), "");
    let info: Value = serde_json::from_slice(&floe!("info", "--json", &image).exits(0).stdout).expect("one document");
    assert_eq!(
        (&info["clean"], &info["counts"]["inodes"], &info["sizes"]["files"]),
        (&true.into(), &1.into(), &0.into())
    );
    floe!("extract", &image, "-C", lab.path("out")).exits(0);
    assert_eq!(fs::read_dir(lab.path("out")).expect("a directory").count(), 0);
}

#[test]
fn the_root_of_an_empty_image_belongs_to_its_maker_or_to_whom_owner_names() {
    need_fuse!();
    let lab = Lab::new();
    let owner = |name: &str, options: &[&str]| {
        let image = lab.image(name);
        let mut command = common::floe_command(["mkfs"]);
        command.args(options).arg(&image);
        common::run(command).exits(0);
        let mount = Mounted::new(&image, &lab.mount_point(name), &["-o", "ro"]);
        let root = mount.path().metadata().expect("a root");
        mount.unmount();
        (root.uid(), root.gid(), root.mode() & 0o7777)
    };
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw(), 0o755);
    assert_eq!(owner("mine", &[]), me);
    assert_eq!(owner("theirs", &["--owner", "1234:5678"]), (1234, 5678, 0o755));
    assert_eq!(owner("roots", &["--all-root"]), (0, 0, 0o755));
}

#[test]
fn codec_sizes_chunker_and_hash_are_those_that_were_asked_for() {
    let lab = Lab::new();
    let image = lab.image("x.floe");
    floe!(
        "mkfs",
        "-C",
        "xz:6",
        "--superchunk-size",
        "16M",
        "--part-size",
        "1M",
        "--chunker",
        "fixed:32K",
        "--hash",
        "xxh3",
        &image
    )
    .exits(0);
    let info: Value = serde_json::from_slice(&floe!("info", "--json", &image).exits(0).stdout).expect("one document");
    let params = &info["params"];
    assert_eq!(params["compression"], "xz:6");
    assert_eq!((&params["superchunk_size"], &params["part_size"]), (&(16 << 20).into(), &(1 << 20).into()));
    assert_eq!((&params["chunker"], &params["hash"]), (&"fixed 32.0 KiB".into(), &"xxh3".into()));
    floe!("check", &image).exits(0);
    floe!("mkfs", "-f", "-C", "rar", &image).exits(2).says(&["rar"]);
    floe!("mkfs", "-f", "--superchunk-size", "1M", "--part-size", "2M", &image).exits(2).says(&["--part-size"]);
}

#[test]
fn a_profile_is_recorded_with_all_it_stands_for_and_what_is_given_beside_it_wins() {
    let lab = Lab::new();
    let image = lab.image("x.floe");
    let params = |options: &[&str]| {
        let mut command = common::floe_command(["mkfs", "-f"]);
        command.args(options).arg(&image);
        common::run(command).exits(0);
        let info = floe!("info", "--json", &image).exits(0);
        serde_json::from_slice::<Value>(&info.stdout).expect("one document")["params"].take()
    };
    for profile in Profile::ALL {
        let (shown, expected) = (params(&["--profile", profile.name()]), profile.params());
        assert_eq!(shown["profile"], profile.name());
        assert_eq!(shown["compression"], profile.compression().to_string());
        assert_eq!(shown["superchunk_size"], expected.superchunk_size);
        assert_eq!(shown["part_size"], expected.part_size.map_or(Value::Null, Value::from));
        assert_eq!(shown["working_set"], u64::from(expected.working_set) << 20);
        assert!(floe!("info", &image).exits(0).out().contains(profile.name()));
    }
    assert_eq!(params(&[])["profile"], "balanced");
    let mixed = params(&["--profile", "fast", "--superchunk-size", "1M"]);
    assert_eq!((&mixed["compression"], &mixed["superchunk_size"]), (&"zstd:3".into(), &(1 << 20).into()));
    assert!(mixed.get("profile").is_none(), "an image that differs from a profile has its name: {mixed}");
    floe!("mkfs", "-f", "--profile", "tiny", &image).exits(2).says(&["tiny", "smallest"]);
}

#[test]
fn an_image_that_exists_is_replaced_only_with_force_and_not_under_its_writer() {
    let lab = Lab::new();
    let tree = lab.tree("source");
    common::write(tree.join("file"), "precious");
    let image = lab.pack(&[], &tree, "x.floe");
    let before = fs::read(&image).expect("an image");
    floe!("mkfs", &image).exits(1).says(&["x.floe", "exists", "--force"]);

    fs::write(lab.image("x.floe.lock"), "host=north\nboot=b00t\npid=4711\n").expect("a note");
    let writer = File::options().read(true).write(true).open(&image).expect("it opens");
    fcntl_lock(&writer, FlockOperation::NonBlockingLockExclusive).expect("it can be locked");
    floe!("mkfs", "-f", &image).exits(11).says(&["cannot write", "x.floe", "process 4711 on host north"]);
    drop(writer);
    fs::remove_file(lab.image("x.floe.lock")).expect("a note");

    let log = lab.image("x.floe.thaw");
    fs::create_dir(&log).expect("a new directory");
    fs::set_permissions(&log, fs::Permissions::from_mode(0o700)).expect("a mode");
    fs::write(log.join("0000000000000000"), [7; 77]).expect("a segment");
    floe!("mkfs", "-f", &image).exits(1).says(&["x.floe.thaw", "77 bytes", "remove that directory"]);
    assert_eq!(fs::read(&image).expect("an image"), before);
    fs::remove_dir_all(&log).expect("a log");

    floe!("mkfs", "-f", &image).exits(0);
    assert_eq!(floe!("ls", &image).exits(0).out(), "");
    floe!("mkfs", "-f", lab.path("images")).exits(1).says(&["it is a directory"]);
    floe!("mkfs", lab.path("no/such/directory/x.floe")).exits(1).says(&["no/such/directory"]);
}

#[test]
fn programs_get_a_summary_and_the_same_bytes_for_the_same_time() {
    let lab = Lab::new();
    let made = |name: &str| {
        let image = lab.image(name);
        let out = floe!("mkfs", "--json", "--timestamp", "1700000000", "--owner", "1:2", &image).exits(0);
        (serde_json::from_str::<Value>(&out.out()).expect("one line of JSON"), fs::read(&image).expect("an image"))
    };
    let ((one, first), (_, second)) = (made("one.floe"), made("two.floe"));
    assert!(first == second, "the same options and time give the same bytes");
    assert_eq!((&one["message_type"], &one["compression"]), (&"summary".into(), &"zstd:12".into()));
    assert!(one["image"]["path"].as_str().is_some_and(|path| path.ends_with("one.floe")));
    assert_eq!(one["image_bytes"], first.len());
    let refused = floe!("mkfs", "--json", lab.image("one.floe")).exits(1);
    let error: Value = serde_json::from_str(&refused.stderr).expect("one line of JSON");
    assert_eq!((&error["message_type"], &error["code"]), (&"exit_error".into(), &1.into()));
    let (three, four) = (lab.image("three.floe"), lab.image("four.floe"));
    floe!("mkfs", &three).exits(0);
    floe!("mkfs", &four).exits(0);
    assert!(fs::read(three).expect("an image") != fs::read(four).expect("an image"), "uuids differ");
}
