//! A thaw log of version 1 that every version must read: `tests/fixtures/v1/thaw-log/`, and the expected result of
//! recovery.
//!
//! Two segments count, 0 and 2. Segment 1 is abandoned: it holds the first transaction of a group whose second never
//! reached the disk, and segment 2 names the end of the log before it. In segment 0 the header of one frame of written
//! bytes is damaged, which loses the one range that names it. `FLOE_BLESS=1 cargo test --test thaw_fixture` makes the
//! files again; that is allowed only before version 1 is final.

use floe::format::block::{Key, Row};
use floe::format::ids::InodeId;
use floe::format::schema::{DIRENTS, TINY};
use floe::format::transaction::{Counters, Operation, Thawed, Transaction};
use floe::storage::testing::MemoryFolder;
use floe::storage::{DirectoryFolder, Folder};
use floe::thaw::{Appended, Binding, ImageState, Recovered, Slot, ThawError, ThawLog, recover};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOG: u64 = 0x666c_6f65_7468_6177;
const SEGMENT: u64 = 16 << 10;

fn binding() -> Binding {
    Binding { uuid: *b"fixture of v1 uu", lineage: *b"fixture of v1 li", generation: 2, root_hash: [0x5a; 32] }
}

fn image() -> ImageState {
    let Binding { uuid, lineage, generation, root_hash } = binding();
    let slot = Slot { generation, root_hash, thaw_log_id: LOG, root_log_id: 0, thaw_transaction: 0 };
    ImageState { uuid, lineage, len: 65536, slots: vec![slot] }
}

fn thawed(inode: u64, offset: u64, within: u64, len: u64, appended: Appended) -> Operation {
    let Appended { frame, sum, .. } = appended;
    Operation::Thawed(Thawed { inode: InodeId(inode), offset, len, frame, within, sum })
}

fn tiny(id: u64, byte: u8, len: usize) -> Operation {
    Operation::Put(&TINY, Row { key: Key::new(id, 0), ints: Vec::new(), tail: vec![byte; len] })
}

fn counters(inode: u64) -> Operation {
    Operation::Counters(Counters { inode, content: 5, tiny: 9, xattrs: 1, ordinal: 1, subchunk: 77, superchunk: 3 })
}

/// The log as a crash left it, after another process continued it.
fn build() -> BTreeMap<u64, Vec<u8>> {
    let folder = Arc::new(MemoryFolder::new());
    let mut log = ThawLog::create(folder.clone(), binding(), LOG, 1, SEGMENT).expect("memory takes it");
    let hail = log.append(&[b'h'; 700]).expect("it fits");
    let snow = log.append(&[b's'; 600]).expect("it fits");
    let entry = Row { key: Key::named(1, b"snow"), ints: vec![12, 8], tail: Vec::new() };
    let first = vec![
        Operation::DeleteRange(&DIRENTS, Key::named(1, b"a"), Key::named(1, b"b")),
        Operation::Put(&DIRENTS, entry),
        thawed(12, 0, 0, 600, snow),
        thawed(13, 4096, 100, 600, hail),
        counters(14),
    ];
    log.commit(first, 40960, (1_700_000_000, 1)).expect("memory takes it");
    let second = vec![
        Operation::Delete(&TINY, Key::new(4, 0)),
        Operation::NotThawed { inode: InodeId(12), offset: 0, len: 100 },
        Operation::Checkpoint { generation: 2 },
    ];
    log.commit(second, 45056, (1_700_000_005, 0)).expect("memory takes it");
    // A group of two transactions. The second is in segment 2, which the crash leaves empty.
    let begun = log.begin(vec![tiny(5, b'5', 6000), tiny(6, b'6', 6000)], 45056, (1_700_000_010, 0));
    begun.expect("it fits").sync().expect("memory is durable");
    drop(log);
    let mut segments = folder.to_segments();
    segments.retain(|&number, _| number < 2);
    let folder = Arc::new(MemoryFolder::from_segments(segments));
    let recovered = recover(folder.clone(), &image()).expect("it fits").expect("it has commits");
    // The root contains all transactions. Otherwise they would be written again, because the log does not show that all
    // are durable.
    let last = recovered.last_transaction();
    let mut log = recovered.resume(binding(), 2, last).expect("memory takes it").0;
    let sleet = log.append(&[b'l'; 300]).expect("it fits");
    let lost = Thawed { inode: InodeId(13), offset: 8192, len: 10, frame: Thawed::LOST, within: 0, sum: 0 };
    let third = vec![thawed(15, 0, 0, 300, sleet), Operation::Thawed(lost), counters(16)];
    log.commit(third, 49152, (1_700_000_020, 999_999_999)).expect("memory takes it");
    drop(log);
    let mut segments = folder.to_segments();
    segments.retain(|_, content| !content.is_empty());
    let first = segments.get_mut(&0).expect("there is a first segment");
    first[hail.frame.0 as usize + 50] ^= 0x10;
    segments
}

fn describe_operation(operation: &Operation) -> String {
    let key = |key: &Key| format!("{} {} '{}'", key.a, key.b, String::from_utf8_lossy(&key.name));
    match operation {
        Operation::Put(table, row) => {
            format!("put {} {} {:?} tail of {} bytes", table.name, key(&row.key), row.ints, row.tail.len())
        }
        Operation::Delete(table, at) => format!("delete {} {}", table.name, key(at)),
        Operation::DeleteRange(table, from, to) => {
            format!("delete {} from {} to before {}", table.name, key(from), key(to))
        }
        Operation::Thawed(t) => {
            format!(
                "thawed inode {} offset {} length {} frame {} within {} sum {:016x}",
                t.inode, t.offset, t.len, t.frame, t.within, t.sum
            )
        }
        Operation::NotThawed { inode, offset, len } => {
            format!("not thawed inode {inode} offset {offset} length {len}")
        }
        Operation::Counters(c) => {
            format!(
                "counters {} {} {} {} {} {} {}",
                c.inode, c.content, c.tiny, c.xattrs, c.ordinal, c.subchunk, c.superchunk
            )
        }
        Operation::Checkpoint { generation } => format!("checkpoint {generation}"),
    }
}

/// The result of recovery, line by line.
fn describe(recovered: &Recovered) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("a string takes it");
    line(format!("log {:016x}", recovered.log_id()));
    line(format!("transactions after {} up to {}", recovered.before(), recovered.last_transaction()));
    line(format!("end {}", recovered.end()));
    line(format!("image end {}", recovered.image_end()));
    let mut lost_ranges = Vec::new();
    let replayed = recovered.replay(0, |Transaction { info, operations }| {
        line(format!(
            "transaction {} after {:016x} durable {} image {} time {}.{:09} more {}",
            info.number,
            info.previous_sum,
            info.durable_upto,
            info.image_end,
            info.time,
            info.time_ns,
            info.more_follows
        ));
        for operation in &operations {
            line(format!("  {}", describe_operation(operation)));
            if let Operation::Thawed(t) = operation {
                let lost = recovered.is_lost(t.frame);
                if lost {
                    lost_ranges.push(format!("lost inode {} offset {} length {}", t.inode, t.offset, t.len));
                }
                let written = (!lost).then(|| {
                    recovered.segment(t.frame).expect("it is in a segment that counts").written(t.frame, t.sum)
                });
                line(match written {
                    None => "    lost".to_owned(),
                    Some(written) => {
                        let written = written.expect("it verifies");
                        format!("    {} bytes of '{}'", written.len(), char::from(written[t.within as usize]))
                    }
                });
            }
        }
        Ok::<(), ThawError>(())
    });
    replayed.expect("it can be replayed");
    for (from, to) in recovered.lost_parts() {
        line(format!("lost from {from} to {to}"));
    }
    // No lost range is overwritten.
    lost_ranges.into_iter().for_each(&mut line);
    out
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1/thaw-log")
}

/// The files of the fixture.
fn files() -> BTreeMap<u64, Vec<u8>> {
    let mut out = BTreeMap::new();
    for number in 0..3u64 {
        let path = fixture().join(format!("{number:016x}"));
        out.insert(number, fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    }
    out
}

#[test]
fn a_thaw_log_of_version_1_is_recovered_as_it_was_when_version_1_was_made() {
    if std::env::var_os("FLOE_BLESS").is_some() {
        fs::create_dir_all(fixture()).expect("it can be made");
        let segments = build();
        let recovered = recover(Arc::new(MemoryFolder::from_segments(segments.clone())), &image());
        let answer = describe(&recovered.expect("it is whole").expect("it has commits"));
        for (number, content) in segments {
            fs::write(fixture().join(format!("{number:016x}")), content).expect("it can be written");
        }
        fs::write(fixture().join("answer.txt"), answer).expect("it can be written");
    }
    let answer = fs::read_to_string(fixture().join("answer.txt")).expect("the fixture has its answer");
    // In a real directory, because version control does not keep its mode.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let folder = Arc::new(DirectoryFolder::create(&dir.path().join("v1.floe.thaw")).expect("it can be made"));
    for (number, content) in files() {
        let segment = folder.create(number).expect("it is new");
        segment.append(&[&content]).expect("there is space");
    }
    let recovered = recover(folder.clone(), &image()).expect("it is whole").expect("it has commits");
    assert_eq!(describe(&recovered), answer);
    // The log can be continued.
    let last = recovered.last_transaction();
    let mut log = recovered.resume(binding(), 3, last).expect("it fits").0;
    assert_eq!(log.commit(Vec::new(), 49152, (1_700_000_030, 0)).expect("there is space"), last + 1);
    drop(log);
    let again = recover(folder, &image()).expect("it is whole").expect("it has commits");
    assert_eq!(again.last_transaction(), last + 1);
    for (number, content) in files() {
        let path = dir.path().join(format!("v1.floe.thaw/{number:016x}"));
        assert_eq!(fs::read(path).expect("it is there"), content, "nothing is cut off or written over");
    }
}

#[test]
fn a_log_made_now_is_recovered_as_the_one_of_the_fixture() {
    let recovered = recover(Arc::new(MemoryFolder::from_segments(build())), &image());
    let answer = fs::read_to_string(fixture().join("answer.txt")).expect("the fixture has its answer");
    assert_eq!(describe(&recovered.expect("it is whole").expect("it has commits")), answer);
    assert_eq!(build(), build(), "it is made alike each time");
}
