//! Damage as users see it: `check` reports it, names files and never writes; everything else stays readable.

mod common;

use common::left_out::need_fuse;
use common::{Lab, Mounted, floe, noise, prose, write};
use floe::format::clear::ClearList;
use floe::format::frame::{FRAME_HEADER, FrameHeader, FrameKind, RawFrameHeader};
use floe::format::head::{Head, RawHeadSlot};
use floe::format::ids::LogOffset;
use floe::format::limits::{HEAD_SLOT_SPAN, LOG_START};
use std::fs;
use std::path::{Path, PathBuf};

const FILES: &[&str] = &["a/first", "b/second", "c/third", "tiny"];

struct Image {
    path: PathBuf,
    bytes: Vec<u8>,
    head: Head,
    frames: Vec<FrameHeader>,
}

impl Image {
    /// A small image of several superchunks.
    fn new(lab: &Lab) -> Self {
        let source = lab.tree("source");
        write(source.join(FILES[0]), noise(1, 700_000));
        write(source.join(FILES[1]), prose(2, 900_000));
        write(source.join(FILES[2]), noise(3, 800_000));
        write(source.join(FILES[3]), "few");
        let path = lab.pack(&["--superchunk-size", "1M", "-C", "zstd:1"], &source, "good.floe");
        let bytes = fs::read(&path).expect("an image");
        let head = RawHeadSlot::read(&bytes, "head").and_then(|h| h.validate()).expect("a good head");
        let mut frames = Vec::new();
        let mut at = LOG_START;
        while at < head.log_end.0 {
            let raw = RawFrameHeader::read(&bytes[at as usize..], "frame").expect("a frame");
            let frame = raw.validate(head.log_id, LogOffset(at)).expect("a good frame");
            at += frame.frame_len();
            frames.push(frame);
        }
        Image { path, bytes, head, frames }
    }

    fn stored(&self, frame: &FrameHeader) -> std::ops::Range<usize> {
        let start = frame.offset.0 as usize + FRAME_HEADER + frame.clear_len as usize;
        start..start + frame.stored_len as usize
    }

    /// A copy with some bytes changed.
    fn damaged(&self, name: &str, at: impl IntoIterator<Item = usize>) -> PathBuf {
        let mut bytes = self.bytes.clone();
        for at in at {
            bytes[at] ^= 0x55;
        }
        let path = self.path.with_file_name(name);
        fs::write(&path, bytes).expect("a copy");
        path
    }
}

/// Runs `check`, expects findings, and returns its output. The image must not change.
#[track_caller]
fn findings(image: &Path) -> String {
    let before = fs::read(image).expect("an image");
    let done = floe!("check", image).exits(3);
    assert!(fs::read(image).expect("an image") == before, "check wrote to the image");
    format!("{}{}", done.out(), done.stderr)
}

#[test]
fn check_reports_a_changed_byte_in_every_part_of_every_frame() {
    let lab = Lab::new();
    let image = Image::new(&lab);
    floe!("check", &image.path).exits(0);
    for frame in &image.frames {
        let start = frame.offset.0 as usize;
        let stored = image.stored(frame);
        let mut places = vec![start + 5, start + 63];
        if frame.clear_len > 0 {
            places.push(start + FRAME_HEADER + frame.clear_len as usize / 2);
        }
        if !stored.is_empty() {
            places.extend([stored.start, (stored.start + stored.end) / 2, stored.end - 1]);
        }
        for at in places {
            let path = image.damaged("bad.floe", [at]);
            let done = floe!("check", &path);
            assert_eq!(done.code, Some(3), "byte {at} in {} at {start}: {done:?}", frame.kind.name());
        }
    }
}

#[test]
fn check_names_the_files_that_a_damaged_superchunk_held() {
    let lab = Lab::new();
    let image = Image::new(&lab);
    let superchunks: Vec<_> = image.frames.iter().filter(|f| f.kind == FrameKind::SUPERCHUNK).collect();
    assert!(superchunks.len() >= 2, "the image has several superchunks");
    let mut named = Vec::new();
    for frame in superchunks {
        let stored = image.stored(frame);
        let said = findings(&image.damaged("bad.floe", stored.clone().step_by(97)));
        let here: Vec<_> = FILES.iter().filter(|f| said.contains(**f)).collect();
        assert!(!here.is_empty(), "no file is named in:\n{said}");
        assert!(here.len() < FILES.len(), "not all files lie in one superchunk:\n{said}");
        named.extend(here);
    }
    for file in &FILES[..3] {
        assert!(named.contains(&file), "{file} was never named");
    }
}

#[test]
fn files_outside_the_damage_are_extracted_and_the_damaged_ones_named() {
    let lab = Lab::new();
    let image = Image::new(&lab);
    let first = image.frames.iter().find(|f| f.kind == FrameKind::SUPERCHUNK).expect("a superchunk");
    let stored = image.stored(first);
    let path = image.damaged("bad.floe", stored.step_by(101));
    let out = lab.tree("out");
    let done = floe!("extract", &path, "-C", &out);
    assert!(matches!(done.code, Some(1 | 3)), "{done:?}");
    assert!(done.stderr.contains(FILES[0]), "{}", done.stderr);
    assert!(!done.stderr.contains(FILES[2]), "{}", done.stderr);
    assert!(fs::read(out.join(FILES[2])).expect("it lies elsewhere") == noise(3, 800_000));
    assert_eq!(fs::read(out.join(FILES[3])).expect("it lies in a table"), b"few");
    floe!("cat", &path, FILES[0]).exits(3).says(&[FILES[0]]);
    assert!(floe!("cat", &path, FILES[2]).exits(0).stdout == noise(3, 800_000));
}

#[test]
fn one_head_slot_or_one_root_is_enough_to_read_everything() {
    let lab = Lab::new();
    let image = Image::new(&lab);
    let roots: Vec<_> = image.frames.iter().filter(|f| f.kind == FrameKind::ROOT).collect();
    assert_eq!(roots.len(), 2, "the root is written twice");
    let damages: &[(&str, usize)] = &[
        ("slot A", 20),
        ("slot B", HEAD_SLOT_SPAN as usize + 20),
        ("root", image.stored(roots[0]).start + 30),
        ("copy of the root", image.stored(roots[1]).start + 30),
        ("header of the root", roots[0].offset.0 as usize + 3),
    ];
    for (what, at) in damages {
        let path = image.damaged("bad.floe", [*at]);
        let done = floe!("cat", &path, FILES[1]);
        assert!(done.code == Some(0) && done.stdout == prose(2, 900_000), "{what}: {done:?}");
        findings(&path);
    }
    let path = image.damaged("bad.floe", [20, HEAD_SLOT_SPAN as usize + 20]);
    floe!("ls", &path).exits(10);
    let path = image.damaged("bad.floe", roots.iter().map(|r| image.stored(r).start + 30));
    assert!(matches!(floe!("ls", &path).code, Some(1 | 10)));
}

#[test]
fn interior_table_blocks_and_the_map_survive_one_damaged_copy() {
    let lab = Lab::new();
    let image = Image::new(&lab);
    for frame in image.frames.iter().filter(|f| matches!(f.kind, FrameKind::MAP_BLOCK | FrameKind::TABLE_GROUP)) {
        // Another frame with the same checksum is a copy.
        let copies = image.frames.iter().filter(|f| f.kind == frame.kind && f.sum == frame.sum).count();
        if copies == 2 {
            let path = image.damaged("bad.floe", image.stored(frame));
            assert!(floe!("cat", &path, FILES[0]).exits(0).stdout == noise(1, 700_000));
            findings(&path);
        }
    }
}

#[test]
fn every_truncation_is_reported() {
    let lab = Lab::new();
    let image = Image::new(&lab);
    let ends = image.frames.iter().flat_map(|f| [f.offset.0, f.offset.0 + 10, f.offset.0 + f.frame_len() - 1]);
    let lengths = [0, 1, 511, 512, 16384, 32767].into_iter().chain(ends);
    let path = image.path.with_file_name("short.floe");
    for len in lengths {
        fs::write(&path, &image.bytes[..len as usize]).expect("a copy");
        let done = floe!("check", &path);
        assert!(matches!(done.code, Some(3 | 10)), "{len} of {} bytes: {done:?}", image.bytes.len());
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    }
    assert_eq!(image.bytes.len() as u64, image.head.log_end.0, "an image ends where its log ends");
}

#[test]
fn reads_of_a_damaged_file_fail_in_the_mount_and_all_else_can_be_read() {
    need_fuse!();
    let lab = Lab::new();
    let image = Image::new(&lab);
    let first = image.frames.iter().find(|f| f.kind == FrameKind::SUPERCHUNK).expect("a superchunk");
    let list = &image.bytes[first.offset.0 as usize + FRAME_HEADER..][..first.clear_len as usize];
    assert!(ClearList::decode(list, first.raw_len).expect("a good list").subchunks.len() > 2);
    let path = image.damaged("bad.floe", image.stored(first).step_by(89));
    let mount = Mounted::new(&path, &lab.mount_point("m"), &[]);
    let error = fs::read(mount.join(FILES[0])).expect_err("its bytes are gone");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert!(fs::read(mount.join(FILES[2])).expect("it lies elsewhere") == noise(3, 800_000));
    assert_eq!(fs::read(mount.join(FILES[3])).expect("it lies in a table"), b"few");
}
