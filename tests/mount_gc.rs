//! gc through a writable mount: by the command, beside readers of the image, and for users with permission.

mod common;

use common::left_out::need_fuse;
use common::{Lab, Mounted, floe};
use floe::storage::{Access, FileStorage, ReaderLock};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("one document")
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn space(image: &Path) -> Value {
    json(&floe!("info", "--json", image).exits(0).stdout)["space"].clone()
}

#[test]
fn what_was_deleted_in_a_mount_is_freed_when_it_is_asked_and_nobody_else_reads() {
    need_fuse!();
    let lab = Lab::new();
    let (image, point) = (lab.image("x.floe"), lab.mount_point("m"));
    floe!("mkfs", "--superchunk-size", "1M", &image).exits(0);
    let mount = Mounted::as_asked(&image, &point, &[]);
    for n in 0..8 {
        fs::write(point.join(format!("f{n}")), noise(n, 2 << 20)).unwrap();
    }
    drop(mount);
    floe!("check", &image).exits(0);
    assert_eq!(space(&image)["wholly_dead"].as_u64().map(|dead| dead > 4 << 20), Some(false));

    let mount = Mounted::as_asked(&image, &point, &[]);
    for n in 2..8 {
        fs::remove_file(point.join(format!("f{n}"))).unwrap();
    }
    // A dry run needs an image, and a directory that is not a mount is refused.
    floe!("gc", "-n", &point).exits(2);
    floe!("gc", lab.path("images")).exits(1).says(&["no mount of floe"]);
    let reader = FileStorage::open(&image, Access::ReadOnly).unwrap();
    let lock = ReaderLock::shared(reader.file()).unwrap();
    floe!("gc", "--no-wait", &point).exits(11).says(&["another process reads it"]);
    assert_eq!(space(&image)["punched"], 0);
    drop(lock);
    let done = json(&floe!("gc", "--json", &point).exits(0).stdout);
    assert!(done["freed_bytes"].as_u64() > Some(11 << 20), "{done}");
    assert!(space(&image)["punched"].as_u64() >= done["freed_bytes"].as_u64());
    // The mount still reads, is a reader of its image again, and writes.
    for n in 0..2 {
        assert!(fs::read(point.join(format!("f{n}"))).unwrap() == noise(n, 2 << 20));
    }
    floe!("gc", "--no-wait", &image).exits(11).says(&["is writing it"]);
    fs::write(point.join("again"), noise(5, 2 << 20)).unwrap();
    drop(mount);
    floe!("check", &image).exits(0);
    let mount = Mounted::new(&image, &point, &["-o", "ro"]);
    assert!(fs::read(point.join("again")).unwrap() == noise(5, 2 << 20), "what was freed is stored anew");
    floe!("gc", &point).exits(1).says(&["read-only"]);
    drop(mount);
}
