//! A source and sink in memory, and rows for test trees.

mod hostile;
mod model;

use super::*;
use crate::format::block::{Key, Row};
use crate::format::frame::Flags;
use crate::format::ids::{LogOffset, SubchunkId};
use crate::format::place::Place;
use crate::format::schema::{self, Coding};
use crate::format::sums::{Hash24, xxh3};
use crate::format::{FormatError, limits};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

/// Blocks by id, or by the offset of their frame.
#[derive(Default)]
struct Store {
    blocks: HashMap<u64, Vec<u8>>,
    next: u64,
    reads: Cell<usize>,
}

fn number(child: &ChildRef) -> u64 {
    match child {
        ChildRef::Block { id, .. } => id.0,
        ChildRef::Frame(place) => place.offset.0,
    }
}

impl BlockSource for Store {
    fn block(&self, table: &'static Table, level: u8, child: &ChildRef) -> Result<Arc<Block>, TableError> {
        self.reads.set(self.reads.get() + 1);
        let raw = self.blocks.get(&number(child)).ok_or_else(|| TableError::source("it is not there"))?;
        let good = match child {
            ChildRef::Block { hash, .. } => *hash == Hash24::of(raw),
            ChildRef::Frame(place) => place.sum == xxh3(raw),
        };
        if !good {
            return Err(TableError::source(FormatError::Hash { what: "table block" }));
        }
        Block::decode(table, level, raw).map(Arc::new).map_err(TableError::format(table))
    }
}

/// A sink that collects blocks, so that the store can be the source at the same time.
#[derive(Default)]
struct Sink {
    first: u64,
    puts: Vec<(u8, Vec<u8>)>,
}

impl BlockSink for Sink {
    fn put(&mut self, table: &'static Table, level: u8, raw: Vec<u8>) -> Result<ChildRef, TableError> {
        let at = self.first + self.puts.len() as u64;
        let child = if table.id() == schema::MAP.id() {
            ChildRef::Frame(Place {
                offset: LogOffset(at),
                copy: (level > 0).then_some(LogOffset(at + 1)),
                clear_len: 0,
                stored_len: raw.len() as u32,
                raw_len: raw.len() as u32,
                codec: 0,
                flags: Flags(0),
                sum: xxh3(&raw),
            })
        } else {
            ChildRef::Block { id: SubchunkId(at), hash: Hash24::of(&raw) }
        };
        self.puts.push((level, raw));
        Ok(child)
    }
}

impl Store {
    fn sink(&self) -> Sink {
        Sink { first: limits::LOG_START + self.next, puts: Vec::new() }
    }

    /// Adds the blocks of the sink; returns their levels in order.
    fn absorb(&mut self, sink: Sink) -> Vec<u8> {
        self.next += sink.puts.len() as u64;
        let number = sink.first..;
        number.zip(sink.puts).map(|(at, (level, raw))| (self.blocks.insert(at, raw), level).1).collect()
    }

    fn put(&mut self, table: &'static Table, level: u8, raw: Vec<u8>) -> ChildRef {
        let mut sink = self.sink();
        let child = sink.put(table, level, raw).unwrap();
        self.absorb(sink);
        child
    }

    fn load(&mut self, table: &'static Table, target: usize, rows: &Rows) -> Tree {
        let mut sink = self.sink();
        let mut loader = BulkLoader::new(table, target);
        for (key, (ints, tail)) in rows {
            loader.push(&mut sink, key.as_ref(), ints, tail).unwrap();
        }
        let tree = loader.finish(&mut sink).unwrap();
        self.absorb(sink);
        tree
    }
}

type Rows = BTreeMap<Key, (Vec<u64>, Vec<u8>)>;

/// The `i`-th key of a table: names of up to 200 bytes in dirents.
fn key(table: &'static Table, i: u64) -> Key {
    if table.leaf.has_name {
        let name = format!("{:05}{}", i % 400, "x".repeat((i * 37 % 196) as usize));
        Key { a: i / 400, b: 0, name: name.into_bytes() }
    } else if table.leaf.has_b {
        Key::new(i / 700, i % 700 * 3)
    } else {
        Key::new(i * 5, 0)
    }
}

/// Integers and tail of a row, from a seed.
fn value(table: &'static Table, seed: u64) -> (Vec<u64>, Vec<u8>) {
    let mix = |i: u64| (seed.wrapping_add(i)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (seed % 40);
    let ints = table.leaf.ints.iter().zip(1..).map(|(coding, i)| match coding {
        Coding::Nullable => mix(i) % limits::ID,
        _ => mix(i),
    });
    let tail = if table.leaf.has_tail { vec![seed as u8; (seed % 90) as usize] } else { Vec::new() };
    (ints.collect(), tail)
}

fn row((key, (ints, tail)): (&Key, &(Vec<u64>, Vec<u8>))) -> Row {
    Row { key: key.clone(), ints: ints.clone(), tail: tail.clone() }
}

/// All rows, by cursor.
fn rows_of(tree: &Tree, source: &dyn BlockSource) -> Result<Rows, TableError> {
    let mut rows = Rows::new();
    let mut cursor = tree.cursor_at(source, KeyRef::new(0, 0))?;
    while let Some(row) = cursor.row() {
        assert!(rows.last_key_value().is_none_or(|(last, _)| last.as_ref() < row.key()));
        let row = row.to_row();
        rows.insert(row.key, (row.ints, row.tail));
        cursor.advance(source)?;
    }
    Ok(rows)
}
