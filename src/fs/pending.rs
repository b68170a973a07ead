//! Operations that no commit contains yet.
//!
//! Only the last row of each key is kept, as only the state at the commit matters. Deleting a range drops the pending
//! rows in it. A group has deleted ranges first, then rows, then thawed and not-thawed ranges in their order, then
//! counters. So a row that was put after its range was deleted exists, and thawed ranges, which are not rows in the
//! log, keep their order.

use crate::format::block::{Key, Row};
use crate::format::schema::{Table, TableId};
use crate::format::transaction::{Counters, Operation};
use std::collections::BTreeMap;

/// Bytes that an operation counts in addition to its contents, for the limit on what waits for the next commit.
const EACH: u64 = 64;

/// Changes that the next commit will contain.
#[derive(Debug, Default)]
pub(super) struct Pending {
    ranges: Vec<Operation>,
    rows: BTreeMap<(TableId, Key), Operation>,
    thawed: Vec<Operation>,
    bytes: u64,
}

impl Pending {
    pub(super) fn row(&mut self, table: &'static Table, key: Key, row: Option<Row>) {
        let operation = match row {
            Some(row) => Operation::Put(table, row),
            None => Operation::Delete(table, key.clone()),
        };
        let bytes = weight(&operation);
        if let Some(old) = self.rows.insert((table.id(), key), operation) {
            self.bytes = self.bytes.saturating_sub(weight(&old));
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(super) fn delete_range(&mut self, table: &'static Table, from: Key, to: Key) {
        let range = (table.id(), from.clone())..(table.id(), to.clone());
        let inside: Vec<_> = self.rows.range(range).map(|(key, _)| key.clone()).collect();
        for key in inside {
            if let Some(old) = self.rows.remove(&key) {
                self.bytes = self.bytes.saturating_sub(weight(&old));
            }
        }
        self.bytes = self.bytes.saturating_add(EACH);
        self.ranges.push(Operation::DeleteRange(table, from, to));
    }

    /// Adds a thawed or not-thawed range.
    pub(super) fn thawed(&mut self, operation: Operation) {
        self.bytes = self.bytes.saturating_add(EACH);
        self.thawed.push(operation);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.rows.is_empty() && self.thawed.is_empty()
    }

    /// Returns the approximate bytes that the changes will take in the thaw log.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the operations for the next commit, in the order in which it writes them: the changes, then the
    /// counters. If there are no changes, there is nothing to commit, whatever the counters are.
    pub(super) fn into_group(self, counters: Counters) -> Vec<Operation> {
        if self.is_empty() {
            return Vec::new();
        }
        let rows = self.rows.into_values();
        self.ranges.into_iter().chain(rows).chain(self.thawed).chain([Operation::Counters(counters)]).collect()
    }
}

fn weight(operation: &Operation) -> u64 {
    let held = match operation {
        Operation::Put(_, row) => row.key.name.len() + 8 * row.ints.len() + row.tail.len(),
        Operation::Delete(_, key) => key.name.len(),
        _ => 0,
    };
    EACH.saturating_add(held as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::block::KeyRef;
    use crate::format::ids::InodeId;
    use crate::format::schema;

    fn row(a: u64, b: u64) -> Row {
        Row { key: KeyRef::new(a, b).to_key(), ints: vec![0, 0, 0, 5], tail: Vec::new() }
    }

    #[test]
    fn a_deleted_range_drops_the_rows_in_it_and_comes_before_rows_that_were_put_after_it() {
        let mut pending = Pending::default();
        let table = &schema::CONTENTS;
        let key = |a, b| KeyRef::new(a, b).to_key();
        for (a, b) in [(1, 9), (2, 0), (2, 5), (3, 0)] {
            pending.row(table, key(a, b), Some(row(a, b)));
        }
        let before = pending.bytes();
        pending.delete_range(table, key(2, 0), key(3, 0));
        assert!(pending.bytes() < before);
        pending.row(table, key(2, 5), Some(row(2, 5)));
        pending.row(table, key(2, 5), None);
        let thawed = Operation::NotThawed { inode: InodeId(1), offset: 0, len: 1 };
        pending.thawed(thawed.clone());
        let counters = Counters::default();
        let expected = vec![
            Operation::DeleteRange(table, key(2, 0), key(3, 0)),
            Operation::Put(table, row(1, 9)),
            Operation::Delete(table, key(2, 5)),
            Operation::Put(table, row(3, 0)),
            thawed,
            Operation::Counters(counters),
        ];
        assert_eq!(pending.into_group(counters), expected);
    }

    #[test]
    fn nothing_pending_is_no_group() {
        assert!(Pending::default().into_group(Counters { inode: 7, ..Counters::default() }).is_empty());
    }
}
