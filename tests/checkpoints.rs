//! A program of operations on rows of all tables survives checkpoints and reopening: after each step the view equals an
//! in-memory map.

#[path = "common/rows.rs"]
mod rows;

use floe::format::block::{Key, KeyRef, Row};
use floe::format::schema::{self, TABLES, Table};
use floe::format::transaction::Counters;
use floe::meta::{Image, ImageOptions, Overlay, View, counters_are_free, estimate};
use floe::storage::testing::MemoryStorage;
use floe::table::Onward;
use proptest::prelude::*;
use rows::{Writer, empty_image, key_of, row_of};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Small blocks make high trees from few rows.
const BLOCK: u32 = 1024;
/// Keys usually come from `FEW` different values, sometimes from `MANY`.
const FEW: u64 = 20;
const MANY: u64 = 2000;
const TAIL: usize = 60;

type Rows = BTreeMap<(u8, Key), Row>;

#[derive(Debug, Clone)]
enum Step {
    Put(&'static Table, Row),
    /// Many rows at once, so that trees grow high.
    Fill(&'static Table, Vec<Row>),
    Delete(&'static Table, Key),
    /// Tombstones for all rows from the first key on and below the second.
    DeleteRange(&'static Table, Key, Key),
    /// The changes go to the overlay of a checkpoint; further changes go to an overlay above it.
    Seal,
    /// The sealed overlay becomes a version.
    Checkpoint,
    /// The storage's bytes are opened again: changes in no checkpoint are lost.
    Reopen,
}

fn table() -> impl Strategy<Value = &'static Table> {
    (0..TABLES.len()).prop_map(|at| TABLES[at])
}

fn step() -> impl Strategy<Value = Step> {
    let put = table().prop_flat_map(|table| row_of(table, FEW, TAIL).prop_map(move |row| Step::Put(table, row)));
    let fill = table().prop_flat_map(|table| {
        prop::collection::vec(row_of(table, MANY, TAIL), 100..300).prop_map(move |rows| Step::Fill(table, rows))
    });
    let delete = table().prop_flat_map(|table| key_of(table, FEW).prop_map(move |key| Step::Delete(table, key)));
    let range = table().prop_flat_map(|table| {
        (key_of(table, FEW), key_of(table, FEW)).prop_map(move |(a, b)| {
            let (from, to) = if a < b { (a, b) } else { (b, a) };
            Step::DeleteRange(table, from, to)
        })
    });
    prop_oneof![
        60 => put,
        20 => delete,
        2 => fill,
        4 => range,
        2 => Just(Step::Seal),
        4 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
    ]
}

/// The image with its overlays, and the expected rows.
struct Program {
    memory: Arc<MemoryStorage>,
    writer: Writer,
    sealed: Option<Overlay>,
    active: Overlay,
    rows: Rows,
    /// Expected rows at the sealing, and at the last checkpoint.
    sealed_rows: Rows,
    durable_rows: Rows,
}

/// The initial rows of an image, without the map's own.
fn rows_of(image: &Image) -> Rows {
    let mut rows = Rows::new();
    for table in TABLES {
        let mut cursor = image.tree(table).cursor_at(image, KeyRef::new(0, 0)).unwrap();
        while let Some(row) = cursor.row().map(|row| row.to_row()) {
            if !is_maps_own(table, &row.key) {
                rows.insert((table.id().0, row.key.clone()), row);
            }
            cursor.advance(image).unwrap();
        }
    }
    rows
}

/// Whether it is a row of the map that floe makes itself.
fn is_maps_own(table: &Table, key: &Key) -> bool {
    table.id() == schema::MAP.id() && key.a < 100
}

impl Program {
    fn new(start: Vec<u8>) -> Program {
        let memory = Arc::new(MemoryStorage::from_bytes(start));
        let writer = Writer::open_any(memory.clone()).unwrap();
        let rows = rows_of(&writer.version);
        let (sealed_rows, durable_rows) = (rows.clone(), rows.clone());
        Program { memory, writer, sealed: None, active: Overlay::default(), rows, sealed_rows, durable_rows }
    }

    fn view(&self) -> View {
        View::live(self.writer.version.clone(), self.sealed.clone(), self.active.clone())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Put(table, row) => self.put(table, row),
            Step::Fill(table, rows) => rows.into_iter().for_each(|row| self.put(table, row)),
            Step::Delete(table, key) => self.delete(table, key),
            Step::DeleteRange(table, from, to) => {
                let id = table.id().0;
                let range = self.rows.range((id, from)..(id, to));
                let keys: Vec<Key> = range.map(|((_, key), _)| key.clone()).collect();
                keys.into_iter().for_each(|key| self.delete(table, key));
            }
            Step::Seal => self.seal(),
            Step::Checkpoint => {
                self.seal();
                let sealed = self.sealed.take().unwrap_or_default();
                let bound = estimate(&sealed, &self.writer.version);
                let begin = self.writer.log.end();
                let old = self.writer.version.clone();
                self.writer.checkpoint(&sealed).map_err(TestCaseError::fail)?;
                let took = self.writer.log.end() - begin;
                prop_assert!(took <= bound, "{} entries took {took}, estimated {bound}", sealed.len());
                // Readers of the previous version still see its rows.
                prop_assert!(rows_of(&old) == self.durable_rows, "the old version has changed");
                self.durable_rows = self.sealed_rows.clone();
                prop_assert!(rows_of(&self.writer.version) == self.durable_rows, "the new version has other rows");
                self.is_sound()?;
                self.compare()?;
            }
            Step::Reopen => {
                self.memory = Arc::new(MemoryStorage::from_bytes(self.memory.to_bytes()));
                self.writer = Writer::open_any(self.memory.clone()).map_err(TestCaseError::fail)?;
                (self.sealed, self.active) = (None, Overlay::default());
                self.rows = self.durable_rows.clone();
                self.compare()?;
            }
        }
        Ok(())
    }

    fn put(&mut self, table: &'static Table, row: Row) {
        self.active.set(table, row.key.clone(), Some(row.clone()));
        self.rows.insert((table.id().0, row.key.clone()), row);
    }

    fn delete(&mut self, table: &'static Table, key: Key) {
        self.rows.remove(&(table.id().0, key.clone()));
        self.active.set(table, key, None);
    }

    fn seal(&mut self) {
        if self.sealed.is_none() {
            self.sealed = Some(std::mem::take(&mut self.active));
            self.sealed_rows = self.rows.clone();
        }
    }

    /// Compares every table: each row by its key, the floor of existing and missing keys, and all rows in order.
    fn compare(&self) -> Result<(), TestCaseError> {
        let view = self.view();
        for table in TABLES {
            let id = table.id().0;
            let of_table = || self.rows.range((id, Key::default())..(id + 1, Key::default())).map(|(_, row)| row);
            for row in of_table() {
                let got = view.get(table, row.key.as_ref()).unwrap().map(|row| row.to_row());
                prop_assert_eq!(got.as_ref(), Some(row));
                for key in [row.key.clone(), Key { b: row.key.b.wrapping_add(1), ..row.key.clone() }] {
                    let floor = view.floor(table, key.as_ref()).unwrap().map(|row| row.to_row());
                    let floor = floor.filter(|row| !is_maps_own(table, &row.key));
                    let want = self.rows.range((Bound::Included((id, Key::default())), Bound::Included((id, key))));
                    prop_assert_eq!(floor.as_ref(), want.map(|(_, row)| row).next_back());
                }
            }
            let gone = self.durable_rows.range((id, Key::default())..(id + 1, Key::default()));
            for ((_, key), _) in gone.filter(|(key, _)| !self.rows.contains_key(key)) {
                prop_assert!(view.get(table, key.as_ref()).unwrap().is_none(), "{} has {key:?}", table.name);
            }
            let mut cursor = view.cursor_at(table, KeyRef::new(0, 0)).unwrap();
            let mut all = Vec::new();
            while let Some(row) = cursor.row().map(|row| row.to_row()) {
                if !is_maps_own(table, &row.key) {
                    all.push(row);
                }
                cursor.advance(&view).unwrap();
            }
            prop_assert!(all.iter().eq(of_table()), "{}: {all:?} in order", table.name);
        }
        Ok(())
    }

    /// Every block of every tree is readable, and each tree has as many rows as the root says.
    fn is_sound(&self) -> Result<(), TestCaseError> {
        let image = Image::open(self.memory.clone(), ImageOptions::default()).unwrap();
        prop_assert_eq!(image.root(), self.writer.version.root());
        prop_assert_eq!(image.warnings(), [""; 0]);
        for table in TABLES {
            let (tree, mut rows) = (image.tree(table), 0);
            let mut wrong = None;
            tree.walk(&image, &mut |visit| {
                match visit.block {
                    Ok(block) if block.level() == 0 => rows += block.len() as u64,
                    Ok(_) => {}
                    Err(error) => wrong = Some(error.to_string()),
                }
                Onward::Into
            });
            prop_assert_eq!(wrong, None);
            prop_assert_eq!(rows, tree.rows, "{}", table.name);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 8,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn rows_survive_checkpoints_and_reopening(steps in prop::collection::vec(step(), 0..400)) {
        let mut program = Program::new(empty_image(BLOCK));
        for step in steps {
            program.step(step)?;
        }
        program.compare()?;
        program.step(Step::Checkpoint)?;
        program.step(Step::Reopen)?;
    }
}

// Case 9.
#[test]
fn counters_of_a_replayed_state_are_compared_with_the_last_keys_of_the_view() {
    let writer = Writer::open(Arc::new(MemoryStorage::from_bytes(empty_image(BLOCK)))).unwrap();
    let free = Counters::of(writer.version.root());
    counters_are_free(&View::of(writer.version.clone()), &free).unwrap();
    let given: [(&'static Table, u64); 6] = [
        (&schema::INODES, free.inode),
        (&schema::ORPHANS, free.inode),
        (&schema::CONTENTS, free.content),
        (&schema::TINY, free.tiny),
        (&schema::XATTRS, free.xattrs),
        (&schema::SNAPSHOTS, free.ordinal),
    ];
    for (at, (table, next)) in given.into_iter().enumerate() {
        let row = Row { key: Key::new(next, 0), ints: vec![0; table.leaf.ints.len()], tail: Vec::new() };
        let mut overlay = Overlay::default();
        overlay.set(table, row.key.clone(), Some(row.clone()));
        // It does not matter which overlay has the row.
        for view in [
            View::live(writer.version.clone(), None, overlay.clone()),
            View::live(writer.version.clone(), Some(overlay.clone()), Overlay::default()),
        ] {
            let error = counters_are_free(&view, &free).unwrap_err().to_string();
            assert!(error.contains(table.name), "{}: {error}", table.name);
            let next = |own: usize, next: u64| if own == at || (own < 2 && at < 2) { next + 1 } else { next };
            let larger = Counters {
                inode: next(0, free.inode),
                content: next(2, free.content),
                tiny: next(3, free.tiny),
                xattrs: next(4, free.xattrs),
                ordinal: next(5, free.ordinal),
                ..free
            };
            counters_are_free(&view, &larger).unwrap();
        }
    }
    // Inode 1 is the root directory, and table blocks have ids, so these ids are in use.
    for wrong in [Counters { inode: 1, ..free }, Counters { subchunk: 1, ..free }, Counters { superchunk: 1, ..free }] {
        assert!(counters_are_free(&View::of(writer.version.clone()), &wrong).is_err(), "{wrong:?}");
    }
    for beyond in [Counters { tiny: (1 << 62) + 1, ..free }, Counters { xattrs: 0, ..free }] {
        assert!(counters_are_free(&View::of(writer.version.clone()), &beyond).is_err(), "{beyond:?}");
    }
}
