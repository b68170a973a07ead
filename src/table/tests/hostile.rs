//! Hostile trees.

use super::*;
use crate::format::block::BlockBuilder;
use proptest::prelude::*;

const TABLE: &Table = &schema::TINY;

/// A leaf with these keys.
fn leaf(store: &mut Store, keys: &[u64]) -> ChildRef {
    let mut block = BlockBuilder::new(TABLE, 0);
    for &key in keys {
        block.push(KeyRef::new(key, 0), &[], b"x");
    }
    store.put(TABLE, 0, block.finish())
}

/// An interior block with these children.
fn interior(store: &mut Store, level: u8, children: &[(u64, ChildRef)]) -> ChildRef {
    let mut block = BlockBuilder::new(TABLE, level);
    for (key, child) in children {
        let (ints, tail) = child.encode();
        block.push(KeyRef::new(*key, 0), &ints, &tail);
    }
    store.put(TABLE, level, block.finish())
}

fn tree(root: ChildRef, levels: u8, rows: u64) -> Tree {
    Tree { table: TABLE, root: Some((root, levels)), rows }
}

/// The result of a walk: number of visits, and of errors among them.
fn visits(tree: &Tree, store: &Store) -> (usize, usize) {
    let (mut all, mut bad) = (0, 0);
    tree.walk(store, &mut |visit| {
        all += 1;
        bad += usize::from(visit.block.is_err());
        Onward::Into
    });
    (all, bad)
}

#[test]
fn a_separator_may_be_below_the_first_key_of_its_child() {
    let mut store = Store::default();
    let (a, b, c) = (leaf(&mut store, &[5, 6]), leaf(&mut store, &[15, 16]), leaf(&mut store, &[25]));
    let (ab, c) = (interior(&mut store, 1, &[(3, a), (10, b)]), interior(&mut store, 1, &[(22, c)]));
    let root = interior(&mut store, 2, &[(1, ab), (20, c)]);
    let tree = tree(root, 3, 5);
    let floor = |key| tree.floor(&store, KeyRef::new(key, 0)).unwrap().map(|row| row.key().a);
    assert_eq!([0, 2, 4].map(floor), [None; 3]);
    assert_eq!([5, 12, 15, 21, 23, 99].map(floor), [5, 6, 15, 16, 16, 25].map(Some));
    for (from, first) in [(0, 5), (4, 5), (7, 15), (12, 15), (17, 25), (21, 25), (23, 25)] {
        assert_eq!(tree.cursor_at(&store, KeyRef::new(from, 0)).unwrap().row().unwrap().key().a, first);
    }
    for (at, inserted) in [0, 2, 4, 12, 21, 23].into_iter().enumerate() {
        let put = Change::Put(Row { key: Key::new(inserted, 0), ints: vec![], tail: vec![] });
        let mut sink = store.sink();
        let applied = apply(&tree, &store, &mut sink, 1100, &mut std::iter::once(put)).unwrap();
        store.absorb(sink);
        let mut keys: Vec<u64> = rows_of(&applied.tree, &store).unwrap().keys().map(|key| key.a).collect();
        assert!(keys.is_sorted() && keys.contains(&inserted) && keys.len() == 6, "{at}");
        keys.retain(|&key| key != inserted);
        assert_eq!(keys, [5, 6, 15, 16, 25]);
    }
}

#[test]
fn a_block_named_by_many_parents_is_read_once_and_refused_elsewhere() {
    let mut store = Store::default();
    let mut below = leaf(&mut store, &[10]);
    for level in 1..limits::TREE_LEVELS {
        let children: Vec<_> = (0..40).map(|key| (key, below)).collect();
        below = interior(&mut store, level, &children);
    }
    let wide = tree(below, limits::TREE_LEVELS, 1);
    store.reads.set(0);
    let (all, bad) = visits(&wide, &store);
    assert!(all <= 1 + 40 * 11 && bad >= all - 12, "{all} visits, {bad} refused");
    assert!(store.reads.get() <= all);
    assert!(matches!(rows_of(&wide, &store), Err(TableError::OutOfRange { .. })));
}

//= format-spec.md#7.3
//= type=test
//# A reader refuses a block whose hash or checksum is not the one that its parent names, and a block with a key that is
//# below its row's key in the parent, or not below the key of the parent's next row.
#[test]
fn rows_outside_the_range_their_parent_gives_are_refused() {
    let mut store = Store::default();
    let (good, wide, low) = (leaf(&mut store, &[1, 2]), leaf(&mut store, &[11, 31]), leaf(&mut store, &[25, 40]));
    let root = interior(&mut store, 1, &[(1, good), (10, wide), (30, low)]);
    let tree = tree(root, 2, 6);
    let get = |key| tree.get(&store, KeyRef::new(key, 0));
    assert!(get(1).unwrap().is_some());
    for key in [11, 31] {
        assert!(matches!(get(key), Err(TableError::OutOfRange { .. })));
        assert!(matches!(tree.floor(&store, KeyRef::new(key, 0)), Err(TableError::OutOfRange { .. })));
        assert!(matches!(tree.cursor_at(&store, KeyRef::new(key, 0)), Err(TableError::OutOfRange { .. })));
    }
    assert_eq!(visits(&tree, &store), (4, 2));

    let mut cursor = tree.cursor_at(&store, KeyRef::new(2, 0)).unwrap();
    for _ in 0..2 {
        assert!(cursor.advance(&store).is_err());
        assert_eq!(cursor.row().unwrap().key().a, 2, "the cursor stays where it was");
    }
    for key in [1, 12] {
        let delete = Change::Delete(Key::new(key, 0));
        let joins = apply(&tree, &store, &mut store.sink(), 1100, &mut std::iter::once(delete));
        assert!(matches!(joins, Err(TableError::OutOfRange { .. })));
    }
}

/// Returns the same block for every reference.
struct Mirror(Arc<Block>);

impl BlockSource for Mirror {
    fn block(&self, _: &'static Table, _: u8, _: &ChildRef) -> Result<Arc<Block>, TableError> {
        Ok(Arc::clone(&self.0))
    }
}

#[test]
fn a_block_that_is_its_own_child_ends_the_way_down() {
    let mut store = Store::default();
    let child = leaf(&mut store, &[1]);
    let root = interior(&mut store, 5, &[(1, child)]);
    let block = store.block(TABLE, 5, &root).unwrap();
    let tree = tree(root, 6, 1);
    assert!(matches!(tree.get(&Mirror(block), KeyRef::new(1, 0)), Err(TableError::OutOfRange { .. })));
}

#[test]
fn roots_with_impossible_levels_or_counts_are_refused() {
    let mut store = Store::default();
    let root = leaf(&mut store, &[1, 2]);
    for levels in [0, 13, 255] {
        let tree = tree(root, levels, 2);
        assert!(matches!(tree.get(&store, KeyRef::new(1, 0)), Err(TableError::TooDeep { .. })));
        assert_eq!(visits(&tree, &store), (1, 1));
    }
    let delete = |rows, keys: &[u64]| {
        let changes: Vec<_> = keys.iter().map(|&key| Change::Delete(Key::new(key, 0))).collect();
        apply(&tree(root, 1, rows), &store, &mut store.sink(), 1100, &mut changes.into_iter())
    };
    assert!(delete(2, &[1, 2]).unwrap().tree.root.is_none());
    assert!(matches!(delete(0, &[1]), Err(TableError::Format { .. })));
    assert!(matches!(delete(1, &[1]), Err(TableError::Format { .. })));
    assert!(matches!(delete(3, &[1, 2]), Err(TableError::Format { .. })));
}

#[test]
fn a_walk_reports_lost_blocks_continues_and_skips_unwanted_blocks() {
    let mut store = Store::default();
    let leaves = [1, 11, 21, 31].map(|key| (key, leaf(&mut store, &[key])));
    let (left, right) = (interior(&mut store, 1, &leaves[..2]), interior(&mut store, 1, &leaves[2..]));
    let root = interior(&mut store, 2, &[(1, left), (21, right)]);
    let tree = tree(root, 3, 4);
    store.blocks.remove(&number(&leaves[1].1));
    let mut lost = Vec::new();
    tree.walk(&store, &mut |visit| {
        if visit.block.is_err() {
            lost.push((visit.level, visit.child, visit.lower.map(|k| k.a), visit.upper.map(|k| k.a)));
        }
        Onward::Into
    });
    assert_eq!(lost, [(0, Some(leaves[1].1), Some(11), Some(21))]);

    for (answer, expected) in [(Onward::Into, 6), (Onward::Past, 2), (Onward::Stop, 2)] {
        let mut seen = 0;
        tree.walk_where(&store, &mut |_, child| *child != leaves[1].1, &mut |visit| {
            seen += 1;
            if visit.level == 2 || visit.child == Some(right) { Onward::Into } else { answer }
        });
        let expected = if answer == Onward::Past { expected + 3 } else { expected };
        assert_eq!(seen, expected, "{answer:?}");
    }
}

/// Fails after a number of reads and writes.
struct Failing<'a> {
    store: &'a Store,
    sink: Sink,
    left: &'a Cell<usize>,
}

impl Failing<'_> {
    fn spend(&self) -> Result<(), TableError> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| TableError::source("it failed"))?;
        self.left.set(left);
        Ok(())
    }
}

impl BlockSource for Failing<'_> {
    fn block(&self, table: &'static Table, level: u8, child: &ChildRef) -> Result<Arc<Block>, TableError> {
        self.spend()?;
        self.store.block(table, level, child)
    }
}

impl BlockSink for Failing<'_> {
    fn put(&mut self, table: &'static Table, level: u8, raw: Vec<u8>) -> Result<ChildRef, TableError> {
        self.spend()?;
        self.sink.put(table, level, raw)
    }
}

#[test]
fn whichever_read_or_write_fails_the_error_is_handed_on_and_the_old_tree_stays() {
    let table = &schema::CONTENTS;
    let mut store = Store::default();
    let rows: Rows = (0..2000).map(|i| (key(table, i), value(table, i))).collect();
    let tree = store.load(table, 1100, &rows);
    let changes: Vec<Change> = (0..60).map(|i| Change::Delete(key(table, i * 7))).collect();
    let left = Cell::new(0);
    for budget in 0.. {
        left.set(budget);
        let source = Failing { store: &store, sink: store.sink(), left: &left };
        let mut sink = Failing { store: &store, sink: store.sink(), left: &left };
        match apply(&tree, &source, &mut sink, 1100, &mut changes.iter().cloned()) {
            Err(error) => assert!(matches!(error, TableError::Source(_)), "{error}"),
            Ok(applied) => {
                assert!(budget > 20);
                assert_eq!(applied.tree.rows, 2000 - 60);
                break;
            }
        }
    }
    assert_eq!(rows_of(&tree, &store).unwrap(), rows);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn children_out_of_any_integers_are_named_or_refused(
        table in (0..schema::TABLES.len()).prop_map(|i| schema::TABLES[i]),
        ints in prop::collection::vec(prop_oneof![0u64..100_000, any::<u64>()], 0..8),
        tail in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        if let Ok(child) = ChildRef::decode(table, &ints, &tail) {
            prop_assert!(child.fits(table));
            prop_assert_eq!(child.encode(), (ints, tail));
        }
    }

    #[test]
    fn trees_of_any_blocks_give_rows_in_order_or_errors(
        links in prop::collection::vec(prop::collection::btree_map(0u64..60, any::<prop::sample::Index>(), 1..6), 12),
        changes in prop::collection::btree_map(0u64..60, any::<bool>(), 0..20),
        probe in 0u64..60,
    ) {
        let mut store = Store::default();
        let mut levels: Vec<Vec<ChildRef>> = Vec::new();
        for (i, link) in links.iter().enumerate() {
            let level = i / 4;
            let child = if level == 0 {
                leaf(&mut store, &link.keys().copied().collect::<Vec<_>>())
            } else {
                let children: Vec<_> = link.iter().map(|(&key, at)| (key, *at.get(&levels[level - 1]))).collect();
                interior(&mut store, level as u8, &children)
            };
            levels.resize_with(level + 1, Vec::new);
            levels[level].push(child);
        }
        let tree = tree(levels[2][0], 3, 30);
        let (all, _) = visits(&tree, &store);
        prop_assert!(all <= 1 + 12 * 6);
        // `rows_of` asserts the order.
        let _ = rows_of(&tree, &store);
        let _ = tree.get(&store, KeyRef::new(probe, 0));
        let floor = tree.floor(&store, KeyRef::new(probe, 0));
        prop_assert!(floor.ok().flatten().is_none_or(|row| row.key().a <= probe));
        let mut changes = changes.into_iter().map(|(a, put)| {
            let key = Key::new(a, 0);
            if put { Change::Put(Row { key, ints: vec![], tail: vec![] }) } else { Change::Delete(key) }
        });
        let mut sink = store.sink();
        if let Ok(applied) = apply(&tree, &store, &mut sink, 1100, &mut changes) {
            store.absorb(sink);
            let _ = rows_of(&applied.tree, &store);
        }
    }
}
