//! Compares layers with an ordered map, and counts their steps.

use super::merge::Layers;
use super::overlay::Overlay;
use crate::format::block::{Block, Key, KeyRef, Row};
use crate::format::ids::SubchunkId;
use crate::format::schema::{self, Table};
use crate::format::sums::Hash24;
use crate::table::{BlockSink, BlockSource, BulkLoader, ChildRef, TableError, Tree};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Blocks in memory; those in `lost` cannot be read.
#[derive(Default)]
struct Store {
    blocks: Vec<(Arc<Block>, u8)>,
    lost: RefCell<HashSet<u64>>,
    reads: Cell<usize>,
}

impl BlockSource for Store {
    fn block(&self, _: &'static Table, _: u8, child: &ChildRef) -> Result<Arc<Block>, TableError> {
        self.reads.set(self.reads.get() + 1);
        let ChildRef::Block { id, .. } = child else { panic!("a map block") };
        match self.blocks.get(id.0 as usize - 1) {
            Some((block, _)) if !self.lost.borrow().contains(&id.0) => Ok(block.clone()),
            _ => Err(TableError::source("it is lost")),
        }
    }
}

impl BlockSink for Store {
    fn put(&mut self, table: &'static Table, level: u8, raw: Vec<u8>) -> Result<ChildRef, TableError> {
        let hash = Hash24::of(&raw);
        self.blocks.push((Arc::new(Block::decode(table, level, &raw).unwrap()), level));
        Ok(ChildRef::Block { id: SubchunkId(self.blocks.len() as u64), hash })
    }
}

type Model = BTreeMap<Key, Row>;

fn load<'a>(table: &'static Table, rows: impl IntoIterator<Item = &'a Row>) -> (Store, Tree) {
    let mut store = Store::default();
    let mut loader = BulkLoader::new(table, 1 << 10);
    for row in rows {
        loader.push(&mut store, row.key.as_ref(), &row.ints, &row.tail).unwrap();
    }
    let tree = loader.finish(&mut store).unwrap();
    (store, tree)
}

/// Keys that often collide: few directories, short names, some with a zero byte or 0xFF.
fn key(table: &'static Table) -> BoxedStrategy<Key> {
    if table.leaf.has_name {
        let byte = prop_oneof![Just(0u8), Just(255), 97u8..100];
        let long = (0usize..40, any::<u8>()).prop_map(|(n, byte)| vec![byte.max(1); 200 + n]);
        let name = prop_oneof![9 => prop::collection::vec(byte, 0..5), 1 => long];
        (0u64..4, name).prop_map(|(a, name)| Key { a, b: 0, name }).boxed()
    } else {
        (0u64..4, prop_oneof![9 => 0u64..60, 1 => Just(u64::MAX)]).prop_map(|(a, b)| Key::new(a, b)).boxed()
    }
}

fn row(table: &'static Table, key: Key, seed: u64) -> Row {
    let ints = (0..table.leaf.ints.len() as u64).map(|i| (seed * 7 + i) % 1000).collect();
    let tail = if table.leaf.has_tail { vec![seed as u8; seed as usize % 40] } else { Vec::new() };
    Row { key, ints, tail }
}

type Changes = Vec<(Key, bool, u64)>;

fn changes(table: &'static Table, most: usize) -> impl Strategy<Value = Changes> {
    prop::collection::vec((key(table), any::<bool>(), 0u64..1000), 0..most)
}

/// The changes of a layer, for the model and for the overlay.
fn lay(table: &'static Table, changes: &Changes, model: &mut Model) -> Overlay {
    let mut overlay = Overlay::default();
    for (key, live, seed) in changes {
        let row = live.then(|| row(table, key.clone(), *seed));
        match &row {
            Some(row) => model.insert(key.clone(), row.clone()),
            None => model.remove(key),
        };
        overlay.set(table, key.clone(), row);
    }
    overlay
}

fn rows_from(layers: &Layers<'_>, source: &Store, key: KeyRef<'_>) -> Vec<Row> {
    rows_within(layers, source, key, None)
}

fn rows_within(layers: &Layers<'_>, source: &Store, key: KeyRef<'_>, end: Option<Key>) -> Vec<Row> {
    let mut cursor = layers.cursor_at(key, end).unwrap();
    let mut rows = Vec::new();
    while let Some(row) = cursor.row() {
        rows.push(row.to_row());
        cursor.advance_in(source).unwrap();
    }
    cursor.advance_in(source).unwrap();
    assert!(cursor.row().is_none(), "a cursor after the last row stays there");
    rows
}

const TABLES: [&Table; 3] = [&schema::DIRENTS, &schema::CONTENTS, &schema::THAWED];

proptest! {
    // Case 27.
    #[test]
    fn three_layers_answer_as_one_map(
        (table, below, sealed, active, probes) in (0..TABLES.len()).prop_flat_map(|at| {
            let table = TABLES[at];
            let probes = prop::collection::vec(key(table), 1..20);
            (Just(table), changes(table, 200), changes(table, 60), changes(table, 60), probes)
        }),
        layers in 0..4u8,
    ) {
        let mut model = Model::new();
        lay(table, &below, &mut model);
        let (store, tree) = load(table, model.values());
        let sealed = (layers & 1 != 0).then(|| lay(table, &sealed, &mut model));
        let active = (layers & 2 != 0).then(|| lay(table, &active, &mut model));
        let layers = Layers::new(tree, &store, [active.as_ref(), sealed.as_ref()]);
        for probe in probes.iter().chain(model.keys()) {
            let key = probe.as_ref();
            prop_assert_eq!(layers.get(key).unwrap().map(|row| row.to_row()), model.get(probe).cloned());
            let floor = model.range(..=probe.clone()).next_back().map(|(_, row)| row.clone());
            prop_assert_eq!(layers.floor(key, 0).unwrap().map(|row| row.to_row()), floor.clone());
            let within = floor.filter(|row| row.key.a == probe.a);
            prop_assert_eq!(layers.floor(key, key.a).unwrap().map(|row| row.to_row()), within);
        }
        for probe in &probes {
            let want: Vec<Row> = model.range(probe.clone()..).map(|(_, row)| row.clone()).collect();
            prop_assert_eq!(rows_from(&layers, &store, probe.as_ref()), want);
            for end in &probes {
                let rows = model.iter().filter(|(key, _)| (probe..end).contains(key));
                let want: Vec<Row> = rows.map(|(_, row)| row.clone()).collect();
                prop_assert_eq!(rows_within(&layers, &store, probe.as_ref(), Some(end.clone())), want);
            }
        }
    }
}

/// A table of `n` rows, and an overlay that deletes the rows for which `dead` is true.
fn deleted(n: u64, dead: impl Fn(u64) -> bool) -> (Store, Tree, Overlay) {
    let table = &schema::CONTENTS;
    let rows: Vec<Row> = (0..n).map(|b| row(table, Key::new(1, b), b % 50)).collect();
    let (store, tree) = load(table, &rows);
    let mut overlay = Overlay::default();
    (0..n).filter(|&b| dead(b)).for_each(|b| overlay.set(table, Key::new(1, b), None));
    (store, tree, overlay)
}

// Case 27.
#[test]
fn going_over_tombstones_reads_each_block_below_once() {
    let n = 40_000;
    let (store, tree, overlay) = deleted(n, |b| b > 0 && b + 1 < n);
    let layers = Layers::new(tree, &store, [Some(&overlay), None]);
    let blocks = store.blocks.len();
    for ask in [
        &(|| assert_eq!(rows_from(&layers, &store, KeyRef::new(0, 0)).len(), 2)) as &dyn Fn(),
        &|| assert_eq!(layers.floor(KeyRef::new(1, n - 2), 0).unwrap().unwrap().key().b, 0),
        &|| assert_eq!(layers.cursor_at(KeyRef::new(1, 1), None).unwrap().row().unwrap().key().b, n - 1),
    ] {
        store.reads.set(0);
        ask();
        assert!(store.reads.get() <= blocks + 20, "{} reads of {blocks} blocks", store.reads.get());
    }
}

// Case 27.
#[test]
fn a_floor_within_one_object_does_not_go_over_the_tombstones_of_the_one_before() {
    let (store, tree, mut overlay) = deleted(40_000, |_| true);
    overlay.set(&schema::CONTENTS, Key::new(3, 0), None);
    let layers = Layers::new(tree, &store, [None, Some(&overlay)]);
    store.reads.set(0);
    assert!(layers.floor(KeyRef::new(2, 7), 2).unwrap().is_none());
    assert!(layers.floor(KeyRef::new(3, 7), 3).unwrap().is_none());
    assert!(store.reads.get() <= 20, "{} reads", store.reads.get());
}

// Case 27.
#[test]
fn a_cursor_within_a_range_does_not_go_over_the_tombstones_after_it() {
    let n = 40_000;
    let (store, tree, mut overlay) = deleted(n, |_| true);
    overlay.set(&schema::CONTENTS, Key::new(1, 5), Some(row(&schema::CONTENTS, Key::new(1, 5), 1)));
    let layers = Layers::new(tree, &store, [Some(&overlay), None]);
    store.reads.set(0);
    for (from, end, rows) in [(0, 6, 1), (6, 9, 0), (100, 101, 0), (5, 5, 0)] {
        let found = rows_within(&layers, &store, KeyRef::new(1, from), Some(Key::new(1, end)));
        assert_eq!(found.len(), rows, "from {from} to {end}");
    }
    assert!(store.reads.get() <= 40, "{} reads", store.reads.get());
}

#[test]
fn a_cursor_stays_where_it_was_when_a_block_cannot_be_read_and_goes_on_when_it_can() {
    let n = 2_000;
    let (store, tree, mut overlay) = deleted(n, |b| b % 3 == 0);
    for b in (0..n).filter(|b| b % 3 == 1) {
        overlay.set(&schema::CONTENTS, Key::new(1, b), Some(row(&schema::CONTENTS, Key::new(1, b), 999)));
    }
    let layers = Layers::new(tree, &store, [Some(&overlay), None]);
    let want = rows_from(&layers, &store, KeyRef::new(0, 0));
    assert!(want.iter().all(|row| row.key.b % 3 != 0) && want.len() as u64 == n - n.div_ceil(3));
    let leaves: Vec<u64> =
        store.blocks.iter().enumerate().filter(|(_, (_, level))| *level == 0).map(|(at, _)| at as u64 + 1).collect();
    assert!(leaves.len() > 5);
    let mut cursor = layers.cursor_at(KeyRef::new(0, 0), None).unwrap();
    store.lost.borrow_mut().extend(leaves);
    let (mut rows, mut errors) = (Vec::new(), 0);
    while let Some(at) = cursor.row().map(|row| row.to_row()) {
        rows.push(at.clone());
        if cursor.advance_in(&store).is_err() {
            assert_eq!(cursor.row().map(|row| row.to_row()), Some(at.clone()));
            assert!(cursor.advance_in(&store).is_err(), "what cannot be read is not left out");
            let lost = store.lost.take();
            cursor.advance_in(&store).unwrap();
            store.lost.replace(lost);
            errors += 1;
        }
    }
    assert!(errors > 5, "{errors} errors");
    assert_eq!(rows, want);
}

#[test]
fn a_cursor_goes_over_the_overlay_as_it_was() {
    let (store, tree, mut overlay) = deleted(300, |b| b % 2 == 0);
    let layers = Layers::new(tree, &store, [Some(&overlay), None]);
    let mut cursor = layers.cursor_at(KeyRef::new(0, 0), None).unwrap();
    (0..300).for_each(|b| overlay.set(&schema::CONTENTS, Key::new(1, b), None));
    let mut rows = 0;
    while let Some(row) = cursor.row() {
        assert_eq!(row.key().b % 2, 1);
        rows += 1;
        cursor.advance_in(&store).unwrap();
    }
    assert_eq!(rows, 150);
}
