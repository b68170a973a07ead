//! A table block from arbitrary bytes, and its rows as typed values.

#![no_main]

use floe::format::block::{Block, BlockBuilder};
use floe::format::ids::SubchunkId;
use floe::format::limits;
use floe::format::params::HashKind;
use floe::format::recipe::RecipeRow;
use floe::format::rows::{
    ContentRow, DirentRow, InodeRow, ShareKey, ShareRow, SnapshotRow, SubchunkRun, SuperchunkRow, ThawedRow, XattrSet, identity,
    map,
};
use floe::format::schema::{Coding, TABLES, Table};
use libfuzzer_sys::fuzz_target;

fn typed(table: &Table, key: floe::format::block::KeyRef<'_>, ints: &[u64], tail: &[u8]) {
    match table.name {
        "inodes" | "orphans" => drop(InodeRow::decode(ints, tail)),
        "dirents" => drop(DirentRow::decode(key.name, ints)),
        "contents" => drop(ContentRow::decode(key.b, ints, tail)),
        "xattrs" => drop(XattrSet::decode(tail)),
        "identities" => {
            for kind in [HashKind::Blake3, HashKind::Xxh3] {
                for index in [0, 1, 63, 64, u64::MAX] {
                    let _ = identity::decode_one(kind, ints, tail, index);
                }
            }
        }
        "map" => match key.a {
            map::SPACE_SUPERCHUNKS => drop(SuperchunkRow::decode(ints, tail)),
            map::SPACE_SUBCHUNKS => drop(SubchunkRun::decode(SubchunkId(key.b), ints, tail)),
            _ => drop(RecipeRow::decode(SubchunkId(key.b), ints, tail)),
        },
        "snapshots" => drop(SnapshotRow::decode(tail)),
        "thawed" => {
            if let Ok(row) = ThawedRow::decode(key.b, ints, tail) {
                let (again, same_tail) = row.encode();
                assert_eq!((&again[..], &same_tail[..]), (ints, tail));
            }
        }
        "shares" => {
            if let Ok(key) = ShareKey::decode(key.a, key.b) {
                assert_eq!(ShareKey::unpack(key.pack()), Ok(key));
            }
            let _ = ShareRow::decode(ints);
        }
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&level, raw)) = data.split_first() else { return };
    let level = level % (limits::TREE_LEVELS + 1);
    let Some(table) = raw.first().and_then(|&number| TABLES.get(usize::from(number).wrapping_sub(1))) else { return };
    let Ok(block) = Block::decode(table, level, raw) else { return };
    let mut builder = BlockBuilder::new(table, level);
    let mut writable = true;
    for row in 0..block.len() {
        let (key, ints, tail) = (block.key(row), block.ints(row), block.tail(row));
        assert!(row == 0 || block.key(row - 1) < key);
        if level == 0 {
            typed(table, key, ints, tail);
        }
        let schema = table.schema(level);
        writable &= ints.iter().zip(schema.ints).all(|(&v, c)| *c != Coding::Nullable || v < limits::ID);
        if writable {
            builder.push(key, ints, tail);
        }
    }
    assert!(writable, "a nullable column holds what cannot be written");
    // Written again, the block has the same rows.
    let again = builder.finish();
    let again = Block::decode(table, level, &again).expect("what was just written can be read");
    assert_eq!(again.len(), block.len());
    for row in 0..block.len() {
        assert_eq!(
            (again.key(row), again.ints(row), again.tail(row)),
            (block.key(row), block.ints(row), block.tail(row))
        );
    }
});
