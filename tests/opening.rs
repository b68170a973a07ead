//! From the head slots to the root: what is opened, what is opened only with a warning, and what is refused.

#[path = "common/forge.rs"]
mod forge;
#[path = "common/reforge.rs"]
mod reforge;

use floe::care::{self, CheckError, CheckOptions, CheckReport, Severity};
use floe::format::FormatError;
use floe::format::block::{Block, Row};
use floe::format::head::RawHeadSlot;
use floe::format::ids::{InodeId, SubchunkId};
use floe::format::limits::{self, HEAD_SLOT_SPAN};
use floe::format::params::{Params, RawParams};
use floe::format::place::RawPlace;
use floe::format::root::{Root, RootLogical, RootPhysical};
use floe::format::rows::ContentRef;
use floe::format::schema::{self, Table};
use floe::format::sums::{crc32, xxh3};
use floe::meta::{Image, ImageOptions, MetaError};
use floe::storage::HeadIndex;
use floe::storage::testing::MemoryStorage;
use forge::{noise, with_recipe};
use reforge::{AsItIs, Pieces, Tweak, encode_block};
use std::mem::offset_of;
use std::sync::Arc;

type Change<T> = fn(&mut T);

fn open(bytes: Vec<u8>) -> Result<Image, MetaError> {
    Image::open(Arc::new(MemoryStorage::from_bytes(bytes)), ImageOptions::default())
}

fn check(bytes: Vec<u8>) -> Result<CheckReport, CheckError> {
    care::check(Arc::new(MemoryStorage::from_bytes(bytes)), &CheckOptions::default(), &())
}

fn image() -> Vec<u8> {
    with_recipe().build().to_bytes()
}

/// Changes a slot and corrects its checksum.
fn slot(bytes: &mut [u8], index: HeadIndex, change: impl FnOnce(&mut RawHeadSlot)) {
    let slot = &mut bytes[index.offset() as usize..][..RawHeadSlot::SIZE];
    let mut raw = RawHeadSlot::read(slot, "head slot").unwrap();
    change(&mut raw);
    slot.copy_from_slice(zerocopy::IntoBytes::as_bytes(&raw));
    let (body, crc) = slot.split_at_mut(RawHeadSlot::SIZE - 4);
    crc.copy_from_slice(&crc32(body).to_le_bytes());
}

fn both(bytes: &mut [u8], change: impl Fn(&mut RawHeadSlot)) {
    HeadIndex::ALL.into_iter().for_each(|index| slot(bytes, index, &change));
}

/// Offsets of the stored bytes of the root and of its copy.
fn roots(bytes: &[u8]) -> [usize; 2] {
    let head = open(bytes.to_vec()).unwrap().head().clone();
    let at = |offset| head.root.stored_at(offset) as usize;
    [at(head.root.offset), at(head.root.copy.unwrap())]
}

/// Offset in the root's stored bytes of a field of the physical part.
const fn physical(offset: usize) -> usize {
    8 + RootLogical::SIZE + offset
}

/// Rewrites both copies of the root, and heads that name them; the copies' frame headers keep their old checksums.
fn new_root(bytes: &mut [u8], change: impl FnOnce(&mut Root)) {
    let mut root = *open(bytes.to_vec()).unwrap().root();
    change(&mut root);
    let (stored, hash) = root.encode();
    for at in roots(bytes) {
        bytes[at..at + stored.len()].copy_from_slice(&stored);
    }
    both(bytes, |head| {
        head.root_hash = hash;
        head.root.sum = xxh3(&stored).into();
    });
}

fn findings(report: &CheckReport) -> String {
    report.findings.iter().map(|finding| format!("{}\n", finding.message)).collect()
}

#[test]
fn a_forged_image_opens_without_a_warning_and_is_fit_for_writing() {
    let image = open(image()).unwrap();
    assert_eq!(image.warnings(), [] as [&str; 0]);
    image.fit_for_writing().unwrap();
}

//= format-spec.md#3
//= type=test
//# If a program does not support the head, it refuses the image and says so; it never takes the other slot instead.
//= format-spec.md#0
//= type=test
//# The format already defines everything that later versions of the program write; a program refuses what it does not
//# know by the feature bits (section 3.2), never by guessing.
#[test]
fn a_newest_head_that_is_not_supported_is_refused_and_not_passed_over() {
    let changes: [fn(&mut RawHeadSlot); 3] = [
        |head| head.incompat = (1 << 40).into(),
        |head| head.version = 2.into(),
        |head| head.incompat = (1 << 6).into(),
    ];
    for change in changes {
        let mut bytes = image();
        slot(&mut bytes, HeadIndex::B, change);
        let error = open(bytes.clone()).map(|_| ()).unwrap_err();
        assert!(matches!(error, MetaError::Unsupported(FormatError::Unsupported { .. })), "{error}");
        assert!(error.to_string().contains("needs"), "{error}");
        let error = check(bytes).map(|_| ()).unwrap_err();
        assert!(matches!(error, CheckError::Unsupported(_)), "{error}");
    }
}

#[test]
fn an_older_head_that_is_not_supported_is_only_a_warning() {
    let mut bytes = image();
    slot(&mut bytes, HeadIndex::A, |head| head.incompat = (1 << 40).into());
    let image = open(bytes.clone()).unwrap();
    assert!(image.warnings()[0].contains("head slot A"), "{:?}", image.warnings());
    assert!(findings(&check(bytes).unwrap()).contains("head slot A"));
}

#[test]
fn a_slot_that_was_torn_leaves_the_other_in_use() {
    let mut bytes = image();
    bytes[HeadIndex::B.offset() as usize + 100] ^= 1;
    let image = open(bytes).unwrap();
    assert_eq!(image.head().generation, 1);
    assert!(image.warnings()[0].contains("head slot B"), "{:?}", image.warnings());
    // A crash while a slot is written leaves exactly this; a writer continues from it.
    image.fit_for_writing().unwrap();
}

//= format-spec.md#3
//= type=test
//# A reader refuses a slot whose `epoch` is not below 2^24, or whose `log_end` is not a multiple of 4096.
#[test]
fn a_head_with_an_epoch_or_an_end_of_the_log_out_of_bounds_is_refused() {
    let changes: [fn(&mut RawHeadSlot); 3] = [
        |head| head.epoch = limits::EPOCH.into(),
        |head| head.log_end = (head.log_end.get() - 1).into(),
        |head| head.log_end = (head.log_end.get() + 512).into(),
    ];
    for change in changes {
        let mut bytes = image();
        both(&mut bytes, change);
        assert!(matches!(open(bytes), Err(MetaError::Head(_))));
    }
    let mut bytes = image();
    both(&mut bytes, |head| head.epoch = (limits::EPOCH - 1).into());
    open(bytes).unwrap();
}

//= format-spec.md#9
//= type=test
//# Only the checksum in its Place covers the physical part, so a reader prefers a copy whose checksum is right to one
//# of which only the root hash is right.
#[test]
fn a_copy_of_the_root_with_a_right_checksum_comes_first() {
    for field in [offset_of!(RootPhysical, map), offset_of!(RootPhysical, next_subchunk)] {
        let mut bytes = image();
        let before = *open(bytes.clone()).unwrap().root();
        let at = roots(&bytes)[0] + physical(field);
        bytes[at] ^= 0x10;
        let image = open(bytes).unwrap();
        assert_eq!(*image.root(), before);
        assert!(image.warnings()[0].contains("checksum"), "{:?}", image.warnings());
        image.fit_for_writing().unwrap();
    }
}

//= format-spec.md#9
//= type=test
//# A root of which only the hash is right may be read, with a warning; a writer refuses it.
#[test]
fn a_root_whose_hash_alone_is_right_is_read_with_a_warning_and_never_written_to() {
    let mut bytes = image();
    for at in roots(&bytes) {
        bytes[at + physical(offset_of!(RootPhysical, next_subchunk))] ^= 0x40;
    }
    let image = open(bytes).unwrap();
    let warnings = image.warnings().join("\n");
    assert!(warnings.contains("where data is"), "{warnings}");
    let error = image.fit_for_writing().unwrap_err();
    assert!(matches!(error, MetaError::Unfit { .. }), "{error}");
    assert!(error.to_string().contains("checksum"), "{error}");
}

#[test]
fn a_root_of_which_no_copy_is_right_gives_way_to_that_of_the_older_slot_but_not_for_writing() {
    let mut bytes = image();
    slot(&mut bytes, HeadIndex::B, |head| head.root_hash[0] ^= 1);
    let image = open(bytes).unwrap();
    assert_eq!(image.head().generation, 1);
    assert!(image.fit_for_writing().is_err());
}

//= format-spec.md#4
//= type=test
//# A reader uses those of the root, and warns if a head slot has others; a writer refuses such an image, and `check`
//# reports it.
#[test]
fn parameters_of_head_and_root_that_differ_are_told_and_those_of_the_root_count() {
    let mut bytes = image();
    both(&mut bytes, |head| head.params.working_set = 777.into());
    let image = open(bytes.clone()).unwrap();
    assert_eq!(image.params().working_set, Params::default().working_set);
    assert!(image.warnings()[0].contains("parameters"), "{:?}", image.warnings());
    assert!(image.fit_for_writing().is_err());
    assert!(findings(&check(bytes).unwrap()).contains("parameters"));
}

//= format-spec.md#3.2
//= type=test
//# A reader refuses an image with an incompat bit that it does not know; a writer refuses one with an incompat or
//# ro_compat bit that it does not know.
//= format-spec.md#0
//= type=test
//# The format already defines everything that later versions of the program write; a program refuses what it does not
//# know by the feature bits (section 3.2), never by guessing.
#[test]
fn a_feature_that_a_writer_must_know_makes_an_image_unfit_for_writing() {
    let mut bytes = image();
    both(&mut bytes, |head| head.ro_compat = (1 << 9).into());
    assert!(open(bytes).unwrap().fit_for_writing().is_err());
    let mut bytes = image();
    both(&mut bytes, |head| head.ro_compat = 3.into());
    open(bytes).unwrap().fit_for_writing().unwrap();
    let mut bytes = image();
    both(&mut bytes, |head| head.compat = u64::MAX.into());
    open(bytes).unwrap().fit_for_writing().unwrap();
    let mut bytes = image();
    both(&mut bytes, |head| head.incompat = (1 << 5).into());
    assert!(matches!(open(bytes), Err(MetaError::Unsupported(_))));
}

//= format-spec.md#2.1
//= type=test
//# the writer's session; never above the head's `epoch`
#[test]
fn frames_of_an_epoch_above_the_heads_or_with_a_sequence_of_another_are_reported_by_check() {
    let mut bytes = image();
    both(&mut bytes, |head| head.epoch = 0.into());
    let report = check(bytes).unwrap();
    assert!(findings(&report).contains("the frame is of epoch 1, the head's is 0"), "{}", findings(&report));

    let mut bytes = image();
    let header = &mut bytes[limits::LOG_START as usize..][..64];
    header[24..32].copy_from_slice(&(limits::first_sequence(1) - 1).to_le_bytes());
    let crc = crc32(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    let report = check(bytes).unwrap();
    assert!(findings(&report).contains("does not belong to its epoch 1"), "{}", findings(&report));
}

#[test]
fn an_image_that_was_cut_short_is_unfit_for_writing() {
    let mut bytes = image();
    // The pad at the end is missing; everything is readable.
    bytes.truncate(bytes.len() - 16);
    assert!(open(bytes).unwrap().fit_for_writing().is_err());
}

//= format-spec.md#9
//= type=test
//# Before a writer uses a counter, it compares it with the last key of the tables with these ids; it refuses an image
//# in which a counter is not above that key.
#[test]
fn a_counter_that_is_not_above_the_last_key_makes_an_image_unfit_for_writing() {
    let changes: [(&str, Change<Root>); 3] = [
        ("next inode", |root| root.next_inode -= 1),
        ("next subchunk", |root| root.next_subchunk -= 1),
        ("next superchunk", |root| root.next_superchunk -= 1),
    ];
    for (words, change) in changes {
        let mut bytes = image();
        new_root(&mut bytes, change);
        let image = open(bytes).unwrap();
        assert_eq!(image.warnings(), [] as [&str; 0]);
        let error = image.fit_for_writing().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

//= format-spec.md#1
//= type=test
//# Bytes called *zero* are written as zero; a reader of data ignores them, `check` reports them if they are not zero.
#[test]
fn reserved_bytes_that_are_not_zero_are_ignored_by_readers_and_reported_by_check() {
    let before = image();
    assert_eq!(findings(&check(before.clone()).unwrap()), "");
    let mut changed: Vec<(&str, Vec<u8>)> = Vec::new();
    let heads: [(&str, Change<RawHeadSlot>); 5] = [
        ("reserved", |head| head.reserved[7] = 1),
        ("root.reserved", |head| head.root.reserved = 1),
        ("params.reserved0", |head| head.params.reserved0[1] = 1),
        ("params.reserved1", |head| head.params.reserved1[15] = 1),
        ("flags", |head| head.flags = (head.flags.get() | 2).into()),
    ];
    for (what, change) in heads {
        let mut bytes = before.clone();
        slot(&mut bytes, HeadIndex::A, change);
        changed.push((what, bytes));
    }
    let mut bytes = before.clone();
    bytes[2 * HEAD_SLOT_SPAN as usize - 1] = 1;
    changed.push(("head slot B is not zero", bytes));
    for (what, bytes) in changed {
        open(bytes.clone()).unwrap();
        let report = check(bytes).unwrap();
        assert_eq!(report.findings.len(), 1, "{what}:\n{}", findings(&report));
        assert!(findings(&report).contains(what), "{what}:\n{}", findings(&report));
    }
    for (what, at) in [
        ("reserved", 8 + offset_of!(RootLogical, reserved)),
        ("params.reserved1", 8 + offset_of!(RootLogical, params) + 79),
        ("view.inodes_tree.reserved", 8 + offset_of!(RootLogical, view) + 2),
        ("shares_tree.block", 8 + offset_of!(RootLogical, shares_tree) + 8),
        ("reserved", physical(offset_of!(RootPhysical, reserved))),
        ("map.reserved", physical(29)),
        ("reserved1", physical(offset_of!(RootPhysical, reserved1))),
    ] {
        let mut bytes = before.clone();
        let [first, second] = roots(&bytes);
        let len = 8 + RootLogical::SIZE + RootPhysical::SIZE;
        for start in [first, second] {
            bytes[start + at] = 1;
        }
        let stored = bytes[first..first + len].to_vec();
        let hash = floe::format::root::root_hash(&stored[8..8 + RootLogical::SIZE]);
        for start in [first, second] {
            // The frame's own checksum, at byte 48 of its header, and that of the header.
            let header = &mut bytes[start - 64..start];
            header[48..56].copy_from_slice(&xxh3(&stored).to_le_bytes());
            let crc = crc32(&header[..60]);
            header[60..].copy_from_slice(&crc.to_le_bytes());
        }
        both(&mut bytes, |head| {
            head.root_hash = hash;
            head.root.sum = xxh3(&stored).into();
        });
        open(bytes.clone()).unwrap();
        let report = check(bytes).unwrap();
        assert_eq!(report.findings.len(), 1, "{what}:\n{}", findings(&report));
        assert!(findings(&report).contains(what), "{what}:\n{}", findings(&report));
    }
}

/// Sets the reserved byte of each table block.
struct ReservedBytes;

impl Tweak for ReservedBytes {
    fn block(&mut self, _: &'static Table, _: u8, raw: &mut Vec<u8>) {
        raw[3] = 7;
    }
}

//= format-spec.md#7.2
//= type=test
//# A reader ignores the reserved byte, `check` reports it if it is not zero.
#[test]
fn a_reserved_byte_of_a_table_block_is_ignored_by_readers_and_reported_by_check() {
    let bytes = Pieces::of(&image()).write(&mut ReservedBytes);
    let image = open(bytes.clone()).unwrap();
    assert!(image.lookup(InodeId::ROOT, b"composed").unwrap().is_some());
    let report = check(bytes).unwrap();
    for table in ["inodes", "dirents", "identities", "map"] {
        let words = format!("table {table}: ");
        let found = report.findings.iter().find(|finding| finding.message.starts_with(&words));
        let found = found.unwrap_or_else(|| panic!("{table} is not in\n{}", findings(&report)));
        assert!(found.severity == Severity::Note && found.message.contains("reserved"), "{}", found.message);
    }
}

/// Sets the dictionary flag in the place of one kind of frame.
#[derive(Default)]
struct NeedsDictionary {
    map_root: bool,
    map_child: bool,
    superchunk: u64,
}

impl Tweak for NeedsDictionary {
    fn rows(&mut self, table: &'static Table, rows: &mut Vec<Row>) {
        for row in rows.iter_mut().filter(|row| table.id() == schema::MAP.id() && row.key.a == 0) {
            if row.key.b == self.superchunk {
                row.ints[7] |= 2;
            }
        }
    }
    fn block(&mut self, table: &'static Table, level: u8, raw: &mut Vec<u8>) {
        if !self.map_child || table.id() != schema::MAP.id() || level == 0 {
            return;
        }
        let block = Block::decode(table, level, raw).unwrap();
        let rows: Vec<Row> = (0..block.len())
            .map(|row| {
                let mut row = block.row(row);
                row.ints[5] |= 2;
                row
            })
            .collect();
        *raw = encode_block(table.schema(level), level, &rows);
    }
    fn root(&mut self, logical: &mut Vec<u8>, physical: &mut Vec<u8>) {
        logical[offset_of!(RootLogical, params) + offset_of!(RawParams, dictionary)] = 1;
        if self.map_root {
            physical[offset_of!(RawPlace, flags)] |= 2;
        }
    }
    fn head(&mut self, _: usize, head: &mut [u8]) {
        head[offset_of!(RawHeadSlot, incompat)] |= 8;
    }
}

/// An image whose map has more than one level.
fn many_files() -> Vec<u8> {
    let mut forge = with_recipe();
    for id in 100..300 {
        forge.superchunks.push(vec![(noise(id as u8, 100 + id), None)]);
        forge.file(
            1,
            &format!("file-{id}"),
            id as u64,
            100 + id as u64,
            ContentRef::Subchunk(SubchunkId(id as u64 - 95)),
        );
    }
    forge.build().to_bytes()
}

//= format-spec.md#3.1
//= type=test
//# A reader refuses the Place of a root or a map block with the dictionary flag.
#[test]
fn a_root_or_map_block_that_needs_the_dictionary_is_refused() {
    let good = Pieces::of(&many_files());
    assert_eq!(findings(&check(good.write(&mut AsItIs)).unwrap()), "");
    let bytes = good.write(&mut NeedsDictionary { map_root: true, ..NeedsDictionary::default() });
    let error = open(bytes.clone()).map(|_| ()).unwrap_err();
    assert!(format!("{error:?}").contains("dictionary"), "{error:?}");
    assert!(!check(bytes).unwrap().readable);

    // The block is needed to find the dictionary, which is needed for the block: this once recursed until the stack
    // overflowed.
    let bytes = good.write(&mut NeedsDictionary { map_child: true, ..NeedsDictionary::default() });
    let image = open(bytes.clone()).unwrap();
    let _ = image.dictionary();
    let _ = image.lookup(InodeId::ROOT, b"file-100");
    assert!(findings(&check(bytes).unwrap()).contains("needs the dictionary"));

    let mut bytes = good.write(&mut AsItIs);
    both(&mut bytes, |head| head.root.flags = 2.into());
    assert!(matches!(open(bytes), Err(MetaError::Head(_))));
}

#[test]
fn a_dictionary_that_needs_the_dictionary_is_refused() {
    let good = Pieces::of(&many_files());
    let bytes = good.write(&mut NeedsDictionary { superchunk: 1, ..NeedsDictionary::default() });
    let image = open(bytes.clone()).unwrap();
    let error = image.dictionary().unwrap_err();
    assert!(error.to_string().contains("dictionary"), "{error}");
    let report = check(bytes).unwrap();
    assert!(report.damaged(), "{:#?}", report.findings);
}
