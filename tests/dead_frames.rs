//! Images with superchunks in the punched payload of a dead frame: reading, check and salvage work as with any other
//! image.

#[path = "common/forge.rs"]
mod forge;

use floe::care::{self, CheckOptions, CheckReport, Severity};
use floe::format::frame::{FRAME_HEADER, FrameHeader, FrameKind};
use floe::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use floe::format::limits::LOG_START;
use floe::format::rows::ContentRef;
use floe::fs::{Fs, FsOptions};
use floe::meta::{Image, ImageOptions};
use floe::storage::Storage;
use floe::storage::testing::MemoryStorage;
use forge::{Forge, noise};
use std::sync::Arc;

/// Eight superchunks; the first five lie in a dead one.
fn image() -> (Forge, Arc<MemoryStorage>) {
    let mut forge = Forge::new();
    forge.in_dead = 5;
    for n in 1..=8u8 {
        forge.superchunks.push(vec![(noise(n, 1000 * usize::from(n)), None)]);
        let id = u64::from(n);
        forge.file(1, &format!("file-{n}"), 1 + id, 1000 * id, ContentRef::Subchunk(SubchunkId(id)));
    }
    let storage = forge.build();
    (forge, storage)
}

fn open(storage: &Arc<MemoryStorage>) -> Arc<Fs> {
    let image = Image::open(storage.clone() as Arc<dyn Storage>, ImageOptions::default()).unwrap();
    Fs::new(Arc::new(image), FsOptions { readahead: 0, ..FsOptions::default() })
}

fn check(storage: &Arc<MemoryStorage>) -> CheckReport {
    care::check(storage.clone() as Arc<dyn Storage>, &CheckOptions::default(), &()).unwrap()
}

fn frames(storage: &Arc<MemoryStorage>) -> Vec<FrameHeader> {
    open(storage).image().log().scan(LogOffset(LOG_START)).map(Result::unwrap).collect()
}

/// The files that cannot be read; all others have their bytes.
fn unreadable(forge: &Forge, storage: &Arc<MemoryStorage>) -> Vec<String> {
    let fs = open(storage);
    let read = |n: usize| {
        let attr = fs.resolve(format!("file-{n}").as_bytes()).unwrap();
        let mut bytes = Vec::new();
        fs.read(attr.inode, 0, attr.size as usize, &mut bytes).map(|()| bytes).ok()
    };
    let mut lost = Vec::new();
    for (n, superchunk) in (1..).zip(&forge.superchunks) {
        match read(n) {
            Some(bytes) => assert!(bytes == superchunk[0].0, "file-{n}"),
            None => lost.push(format!("file-{n}")),
        }
    }
    lost
}

/// Paths of what is lost.
fn named(report: &CheckReport) -> Vec<String> {
    let lost = report.findings.iter().filter(|finding| finding.severity == Severity::Lost);
    lost.flat_map(|finding| &finding.paths).map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}

#[test]
fn an_image_with_frames_in_a_dead_one_reads_and_checks_as_any_other() {
    let (forge, storage) = image();
    let found = frames(&storage);
    let inside = found.iter().filter(|frame| frame.offset.0 < stored_end(&found[0])).count();
    assert_eq!((inside, found[0].kind), (6, FrameKind::SUPERCHUNK), "the dead one, and five in it");
    let report = check(&storage);
    assert_eq!(report.findings, []);
    assert_eq!((report.superchunks, report.superchunks_read, report.subchunks_verified), (8, 8, 8));
    assert_eq!(unreadable(&forge, &storage), [""; 0]);
}

#[test]
fn each_byte_is_counted_once_in_what_the_image_is_spent_on() {
    let (_, storage) = image();
    let usage = open(&storage).image().usage().unwrap();
    let parts = usage.heads + usage.data + usage.clear_lists + usage.identities + usage.tables;
    assert_eq!(parts + usage.roots + usage.punched + usage.parity + usage.other, storage.len().unwrap());
    assert_eq!((usage.superchunks, usage.damaged), (9, 0));
}

//= format-spec.md#13
//= type=test
//# Of two frames with the same superchunk id, the one with the higher sequence counts; the same holds for two frames
//# that name the same subchunk id.
#[test]
fn with_the_map_lost_the_frames_in_a_dead_one_count_and_not_the_dead_one() {
    let (forge, storage) = image();
    for frame in frames(&storage).iter().filter(|frame| frame.kind == FrameKind::MAP_BLOCK) {
        storage.flip(frame.offset.0 + FRAME_HEADER as u64, 1).unwrap();
    }
    let report = check(&storage);
    assert!(report.damaged());
    assert_eq!(named(&report), [""; 0], "{report:#?}");
    assert_eq!(report.subchunks_verified, 8);
    assert_eq!(unreadable(&forge, &storage), [""; 0]);
}

#[test]
fn damage_in_a_payload_hits_what_lies_there_and_nothing_else() {
    let (forge, storage) = image();
    let found = frames(&storage);
    let dead = found[0].offset.0;
    for frame in &found[1..6] {
        let subchunk = open(&storage).image().superchunk(SuperchunkId(1)).unwrap().unwrap();
        assert_ne!(subchunk.place.offset.0, dead);
        // The header: the information in the map is enough.
        for at in [0, 30] {
            storage.flip(frame.offset.0 + at, 1).unwrap();
            let report = check(&storage);
            assert!(report.damaged(), "byte {at} of the header at {}", frame.offset);
            assert_eq!((named(&report), report.subchunks_verified), (vec![], 8), "{report:#?}");
            assert_eq!(unreadable(&forge, &storage), [""; 0]);
            storage.flip(frame.offset.0 + at, 1).unwrap();
        }
        // The clear list, then the data.
        let stored = frame.offset.0 + frame.frame_len() - u64::from(frame.stored_len);
        for (at, lost) in [(frame.offset.0 + FRAME_HEADER as u64, false), (stored, true)] {
            storage.flip(at, 1).unwrap();
            let report = check(&storage);
            assert!(report.damaged());
            assert_eq!(named(&report).len(), usize::from(lost), "{report:#?}");
            assert_eq!(named(&report), unreadable(&forge, &storage));
            storage.flip(at, 1).unwrap();
        }
    }
    // A byte of a free block of the payload, or of the rest of the dead frame, means nothing.
    for at in [stored_end(&found[5]), dead + found[0].frame_len() - 1] {
        storage.flip(at, 1).unwrap();
        assert_eq!(check(&storage).findings, []);
        storage.flip(at, 1).unwrap();
    }
}

fn stored_end(frame: &FrameHeader) -> u64 {
    frame.offset.0 + frame.frame_len()
}
