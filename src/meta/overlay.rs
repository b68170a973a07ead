//! The changed rows of all tables since a version of an image.
//!
//! An [`Overlay`] is one persistent map: a clone shares everything and costs a few reference counts, so it serves as a
//! snapshot. An entry is one allocation that holds the encoded key and row; a lookup allocates nothing. For each key
//! there is at most one entry: a row, or a tombstone, which says that there is no row. Pure: no I/O, no clock.
//!
//! Rows of `thawed` take 112 bytes each, those of inodes about 160 to 200. Measured with scattered keys on two busy
//! cores, for 1,000 and for 100,000 entries: a clone 12 ns, `get` 0.2 and 1.2 µs, `set` 0.4 and 1.5 µs, `set` where
//! each was preceded by a clone, so that the path is copied, 1.0 and 5.7 µs.
//!
//! Called by `view` and `merge`, which read a version under overlays; `checkpoint`, which applies one; `fs`, which
//! fills them.

use crate::format::block::{Key, KeyRef, Row};
use crate::format::bytes::{Cursor, put_varint};
use crate::format::schema::{TABLES, Table};
use crate::table::Change;
use equivalent::{Comparable, Equivalent};
use imbl::OrdSet;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

/// Length in bytes of the beginning of an entry: table number, `a` and `b` of the key. They are big-endian and in this
/// order, so that bytes compare like keys.
const PREFIX: usize = 1 + 8 + 8;
/// Most integer columns of a table.
const MAX_COLUMNS: usize = 16;
/// Overhead of an allocation in bytes: the two counts of an `Arc`, and the allocator's word. The allocator rounds up to
/// 16.
const ALLOCATION: usize = 16 + 8;
/// An entry's share of the nodes of the ordered map in memory that holds all entries, in bytes. A leaf of 16 entries
/// takes 304 bytes and is half full after ascending insertions; branches add a fifth. `tests/overlay_memory.rs`
/// compares it with what is allocated.
const NODE_SHARE: usize = 48;

/// One entry of an overlay: `PREFIX` bytes, varint length of the name, name, varint 0 for a tombstone or 1 + the number
/// of integers, these as varints, tail.
#[derive(Clone)]
pub(super) struct Entry(Arc<[u8]>);

impl Entry {
    fn new(table: &'static Table, key: KeyRef<'_>, row: Option<&Row>) -> Self {
        let mut bytes = Vec::with_capacity(PREFIX + 4 + key.name.len() + row.map_or(0, |row| row.tail.len() + 48));
        bytes.extend_from_slice(&prefix(table, key));
        put_varint(&mut bytes, key.name.len() as u64);
        bytes.extend_from_slice(key.name);
        match row {
            None => put_varint(&mut bytes, 0),
            Some(row) => {
                put_varint(&mut bytes, 1 + row.ints.len() as u64);
                row.ints.iter().for_each(|&value| put_varint(&mut bytes, value));
                bytes.extend_from_slice(&row.tail);
            }
        }
        Entry(bytes.into())
    }

    fn prefix(&self) -> &[u8; PREFIX] {
        // Every entry has its prefix.
        self.0.first_chunk().unwrap_or(&[0; PREFIX])
    }

    fn table(&self) -> u8 {
        let [table, ..] = *self.prefix();
        table
    }

    /// Splits the bytes after the prefix into the name and a cursor on the rest. Only `new` writes entries, so the
    /// cursor never returns an error here.
    fn split(&self) -> (&[u8], Cursor<'_>) {
        let mut rest = Cursor::new(self.0.get(PREFIX..).unwrap_or_default(), "overlay entry");
        let len = rest.varint().unwrap_or_default();
        (rest.take(len as usize).unwrap_or_default(), rest)
    }

    /// Returns the key of the entry.
    pub(super) fn key(&self) -> KeyRef<'_> {
        let [_, a, b] = self.prefix_parts();
        KeyRef { a, b, name: self.split().0 }
    }

    fn prefix_parts(&self) -> [u64; 3] {
        let [table, a0, a1, a2, a3, a4, a5, a6, a7, b @ ..] = *self.prefix();
        [u64::from(table), u64::from_be_bytes([a0, a1, a2, a3, a4, a5, a6, a7]), u64::from_be_bytes(b)]
    }

    /// Returns the row of the entry, or `None` if the entry is a tombstone.
    pub(super) fn row(&self) -> Option<OverlayRow> {
        let (name, mut rest) = self.split();
        let name_len = name.len();
        let width = rest.varint().unwrap_or_default().checked_sub(1)? as usize;
        let mut ints = [0; MAX_COLUMNS];
        for slot in ints.iter_mut().take(width) {
            *slot = rest.varint().unwrap_or_default();
        }
        let tail_len = rest.remaining();
        Some(OverlayRow { entry: self.clone(), name_len, tail_len, width: width.min(MAX_COLUMNS), ints })
    }

    /// Returns the bytes of memory that the entry takes, with its share of the ordered map in memory that holds all
    /// entries.
    fn bytes(&self) -> usize {
        (self.0.len() + ALLOCATION).next_multiple_of(16) + NODE_SHARE
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.prefix().cmp(other.prefix()).then_with(|| self.split().0.cmp(other.split().0))
    }
}

fn prefix(table: &'static Table, key: KeyRef<'_>) -> [u8; PREFIX] {
    let [a0, a1, a2, a3, a4, a5, a6, a7] = key.a.to_be_bytes();
    let [b0, b1, b2, b3, b4, b5, b6, b7] = key.b.to_be_bytes();
    [table.id().0, a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7]
}

/// A position to search for in the ordered map of entries: at a key, or just before or after it.
struct Probe<'a> {
    prefix: [u8; PREFIX],
    name: &'a [u8],
    /// How the position compares with an entry that has exactly this key.
    side: Ordering,
}

impl<'a> Probe<'a> {
    fn new(table: &'static Table, key: KeyRef<'a>, side: Ordering) -> Self {
        Probe { prefix: prefix(table, key), name: key.name, side }
    }

    /// Returns the position before the first entry of a table.
    fn first(table: &'static Table) -> Self {
        Probe::new(table, KeyRef::new(0, 0), Ordering::Less)
    }
}

impl Equivalent<Entry> for Probe<'_> {
    fn equivalent(&self, entry: &Entry) -> bool {
        self.compare(entry) == Ordering::Equal
    }
}

impl Comparable<Entry> for Probe<'_> {
    fn compare(&self, entry: &Entry) -> Ordering {
        self.prefix.cmp(entry.prefix()).then_with(|| self.name.cmp(entry.split().0)).then(self.side)
    }
}

/// A row of an overlay. It keeps its entry alive and borrows nothing.
#[derive(Clone)]
pub struct OverlayRow {
    entry: Entry,
    name_len: usize,
    tail_len: usize,
    width: usize,
    ints: [u64; MAX_COLUMNS],
}

impl OverlayRow {
    /// Returns the key of the row.
    pub fn key(&self) -> KeyRef<'_> {
        let key = self.entry.key();
        debug_assert_eq!(key.name.len(), self.name_len);
        key
    }

    /// Returns the integer columns of the row.
    pub fn ints(&self) -> &[u64] {
        self.ints.get(..self.width).unwrap_or_default()
    }

    /// Returns the tail of the row: its bytes after the integer columns.
    pub fn tail(&self) -> &[u8] {
        let bytes = &self.entry.0;
        bytes.get(bytes.len().saturating_sub(self.tail_len)..).unwrap_or_default()
    }

    /// Returns an owned copy of the row.
    pub fn to_row(&self) -> Row {
        Row { key: self.key().to_key(), ints: self.ints().to_vec(), tail: self.tail().to_vec() }
    }
}

impl std::fmt::Debug for OverlayRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_row().fmt(f)
    }
}

/// Changes of rows, for every table, that are not in the image yet. They are kept in memory in key order; a tombstone
/// hides a deleted row of the layers below.
#[derive(Clone)]
pub struct Overlay {
    entries: OrdSet<Entry>,
    /// Bytes of memory of all entries.
    bytes: usize,
    /// Number of entries of each table, by table number from 1.
    counts: [u32; TABLES.len()],
}

impl Default for Overlay {
    fn default() -> Self {
        Overlay { entries: OrdSet::new(), bytes: 0, counts: [0; TABLES.len()] }
    }
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("entries", &self.len()).field("bytes", &self.bytes).finish()
    }
}

impl Overlay {
    /// Sets the row of a key. `None` sets a tombstone, which hides the row of lower layers.
    ///
    /// # Panics
    /// Panics if the row does not fit the table: that is a bug of the caller; no input causes it.
    pub fn set(&mut self, table: &'static Table, key: Key, row: Option<Row>) {
        if let Some(row) = &row {
            assert_eq!(row.ints.len(), table.leaf.ints.len(), "a row of {} needs its columns", table.name);
            debug_assert_eq!(row.key, key);
        }
        let entry = Entry::new(table, key.as_ref(), row.as_ref());
        self.bytes = self.bytes.saturating_add(entry.bytes());
        match self.entries.insert(entry) {
            Some(old) => self.bytes = self.bytes.saturating_sub(old.bytes()),
            None => self.count(table, |count| count.saturating_add(1)),
        }
    }

    /// Removes the entry of this key. For a deletion this is enough, without a tombstone, if no lower layer has a row
    /// with this key. So rows that are made and deleted between two checkpoints leave nothing.
    pub fn forget(&mut self, table: &'static Table, key: KeyRef<'_>) {
        if let Some(old) = self.entries.remove(&Probe::new(table, key, Ordering::Equal)) {
            self.bytes = self.bytes.saturating_sub(old.bytes());
            self.count(table, |count| count.saturating_sub(1));
        }
    }

    fn count(&mut self, table: &'static Table, change: impl Fn(u32) -> u32) {
        if let Some(count) = self.counts.get_mut(usize::from(table.id().0).wrapping_sub(1)) {
            *count = change(*count);
        }
    }

    /// Returns the entry of a key: `None` without an entry, `Some(None)` for a tombstone, else the row.
    pub fn get(&self, table: &'static Table, key: KeyRef<'_>) -> Option<Option<OverlayRow>> {
        if self.says_nothing_of(table) {
            return None;
        }
        self.entries.get(&Probe::new(table, key, Ordering::Equal)).map(Entry::row)
    }

    /// Returns whether the overlay has no entry of this table.
    pub fn says_nothing_of(&self, table: &'static Table) -> bool {
        self.entries_of(table) == 0
    }

    /// Returns the number of entries of this table, tombstones included.
    pub fn entries_of(&self, table: &'static Table) -> usize {
        self.counts.get(usize::from(table.id().0).wrapping_sub(1)).map_or(0, |&count| count as usize)
    }

    /// Iterates over all changes of a table, in key order.
    pub fn changes(&self, table: &'static Table) -> impl Iterator<Item = Change> + '_ {
        self.ascending(table, Probe::first(table)).map(|entry| match entry.row() {
            Some(row) => Change::Put(row.to_row()),
            None => Change::Delete(entry.key().to_key()),
        })
    }

    /// Iterates over the entries of a table from `key` on, in key order.
    pub(super) fn entries_from(&self, table: &'static Table, key: KeyRef<'_>) -> impl Iterator<Item = &Entry> {
        self.ascending(table, Probe::new(table, key, Ordering::Less))
    }

    /// Iterates over the entries of a table whose keys are after `key`, in key order.
    pub(super) fn entries_after(&self, table: &'static Table, key: KeyRef<'_>) -> impl Iterator<Item = &Entry> {
        self.ascending(table, Probe::new(table, key, Ordering::Greater))
    }

    /// Iterates over the entries of a table from `key` backwards.
    pub(super) fn entries_down_from(&self, table: &'static Table, key: KeyRef<'_>) -> impl Iterator<Item = &Entry> {
        let (from, to) = (Probe::first(table), Probe::new(table, key, Ordering::Greater));
        self.entries.range::<_, Probe<'_>>((Bound::Included(&from), Bound::Included(&to))).rev()
    }

    fn ascending(&self, table: &'static Table, from: Probe<'_>) -> impl Iterator<Item = &Entry> {
        let entries = self.entries.range::<_, Probe<'_>>((Bound::Included(&from), Bound::Unbounded));
        entries.take_while(move |entry| entry.table() == table.id().0)
    }

    /// Returns the bytes of memory of all entries, each with its share of the ordered map that holds them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the bytes of encoded keys and rows, without the overhead in memory. The result may be up to 15 bytes too
    /// high for each entry.
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.saturating_sub(self.len().saturating_mul(ALLOCATION + NODE_SHARE))
    }

    /// Returns the number of entries, tombstones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the overlay has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::schema;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Model = BTreeMap<(u8, Key), Option<Row>>;

    fn key_of(table: &'static Table) -> impl Strategy<Value = Key> + use<> {
        let b = if table.leaf.has_b { prop_oneof![0u64..4, any::<u64>()].boxed() } else { Just(0).boxed() };
        let name = prop::collection::vec(
            prop_oneof![Just(0u8), Just(255), 97u8..100],
            0..=3 * usize::from(table.leaf.has_name),
        );
        (prop_oneof![0u64..4, any::<u64>()], b, name).prop_map(|(a, b, name)| Key { a, b, name })
    }

    fn change() -> impl Strategy<Value = (&'static Table, Key, Option<Row>)> {
        (0..schema::TABLES.len()).prop_flat_map(|at| {
            let table = schema::TABLES[at];
            let ints = prop::collection::vec(prop_oneof![0u64..300, any::<u64>()], table.leaf.ints.len());
            let tail = prop::collection::vec(any::<u8>(), 0..=20 * usize::from(table.leaf.has_tail));
            (Just(table), key_of(table), any::<bool>(), ints, tail).prop_map(|(table, key, live, ints, tail)| {
                let row = live.then(|| Row { key: key.clone(), ints, tail });
                (table, key, row)
            })
        })
    }

    fn changes_of(model: &Model, table: &'static Table) -> Vec<Change> {
        let of_table = model.iter().filter(|((id, _), _)| *id == table.id().0);
        of_table.map(|((_, key), row)| row.clone().map_or(Change::Delete(key.clone()), Change::Put)).collect()
    }

    fn is_model(overlay: &Overlay, model: &Model) -> Result<(), TestCaseError> {
        prop_assert_eq!(overlay.len(), model.len());
        let bytes: usize = overlay.entries.iter().map(Entry::bytes).sum();
        prop_assert_eq!(overlay.bytes(), bytes);
        for table in schema::TABLES {
            let want = changes_of(model, table);
            prop_assert_eq!(overlay.entries_of(table), want.len());
            prop_assert_eq!(overlay.changes(table).collect::<Vec<_>>(), want);
        }
        for ((id, key), row) in model {
            let got = overlay.get(schema::TABLES[usize::from(*id) - 1], key.as_ref());
            prop_assert_eq!(got.map(|row| row.map(|row| row.to_row())), Some(row.clone()));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn an_overlay_says_what_was_set_last_and_its_clone_what_was_set_before_it(
            before in prop::collection::vec(change(), 0..60),
            after in prop::collection::vec((change(), any::<bool>()), 0..60),
        ) {
            let (mut overlay, mut model) = (Overlay::default(), Model::new());
            for (table, key, row) in before {
                overlay.set(table, key.clone(), row.clone());
                model.insert((table.id().0, key), row);
            }
            let (snapshot, old) = (overlay.clone(), model.clone());
            for ((table, key, row), forget) in after {
                if forget {
                    overlay.forget(table, key.as_ref());
                    model.remove(&(table.id().0, key));
                } else {
                    overlay.set(table, key.clone(), row.clone());
                    model.insert((table.id().0, key), row);
                }
            }
            is_model(&overlay, &model)?;
            is_model(&snapshot, &old)?;
        }

        #[test]
        fn entries_from_after_and_down_from_a_key_are_those_of_an_ordered_map(
            (table, rows, probes) in (0..schema::TABLES.len()).prop_flat_map(|at| {
                let table = schema::TABLES[at];
                (Just(table), prop::collection::btree_set(key_of(table), 0..80), prop::collection::vec(key_of(table), 1..20))
            }),
        ) {
            let mut overlay = Overlay::default();
            // Entries of neighbouring tables must not appear.
            for other in schema::TABLES {
                overlay.set(other, Key::new(0, 0), None);
                overlay.set(other, Key { a: u64::MAX, b: u64::MAX, name: vec![255; 4] }, None);
            }
            overlay.forget(table, KeyRef::new(0, 0));
            overlay.forget(table, Key { a: u64::MAX, b: u64::MAX, name: vec![255; 4] }.as_ref());
            rows.iter().for_each(|key| overlay.set(table, key.clone(), None));
            let keys = |entries: &mut dyn Iterator<Item = &Entry>| entries.map(|entry| entry.key().to_key()).collect::<Vec<_>>();
            for probe in probes.iter().chain(&rows) {
                let key = probe.as_ref();
                prop_assert_eq!(keys(&mut overlay.entries_from(table, key)), rows.range(probe.clone()..).cloned().collect::<Vec<_>>());
                let after = (Bound::Excluded(probe.clone()), Bound::Unbounded);
                prop_assert_eq!(keys(&mut overlay.entries_after(table, key)), rows.range(after).cloned().collect::<Vec<_>>());
                prop_assert_eq!(keys(&mut overlay.entries_down_from(table, key)), rows.range(..=probe.clone()).rev().cloned().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn no_table_has_more_columns_than_a_row_of_an_overlay_holds() {
        assert!(schema::TABLES.iter().all(|table| table.leaf.ints.len() <= MAX_COLUMNS));
        assert!(schema::TABLES.iter().enumerate().all(|(at, table)| usize::from(table.id().0) == at + 1));
    }
}
