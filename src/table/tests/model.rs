//! Compares trees with a `BTreeMap` after the same changes.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::Bound;

/// Number of keys; with blocks of [`TARGET`] bytes they need three levels, in dirents four.
const KEYS: u64 = 3000;
const TARGET: usize = 1100;

static SOME: [&Table; 4] = [&schema::INODES, &schema::DIRENTS, &schema::CONTENTS, &schema::MAP];

fn tables() -> impl Strategy<Value = &'static Table> {
    (0..SOME.len()).prop_map(|i| SOME[i])
}

fn some_rows(table: &'static Table, count: u64, step: u64, seed: u64) -> Rows {
    (0..count).map(|i| (key(table, i * step % KEYS), value(table, seed.wrapping_add(i)))).collect()
}

/// Part of a batch.
#[derive(Debug, Clone)]
enum Edit {
    Put { at: u64, seed: u64 },
    Delete { at: u64 },
    PutRange { from: u64, count: u64, step: u64, seed: u64 },
    DeleteRange { from: u64, count: u64, step: u64 },
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        5 => (0..KEYS, any::<u64>()).prop_map(|(at, seed)| Edit::Put { at, seed }),
        5 => (0..KEYS).prop_map(|at| Edit::Delete { at }),
        1 => (0..KEYS, 1..400u64, 1..9u64, any::<u64>())
            .prop_map(|(from, count, step, seed)| Edit::PutRange { from, count, step, seed }),
        2 => (0..KEYS, 1..1500u64, 1..3u64)
            .prop_map(|(from, count, step)| Edit::DeleteRange { from, count, step }),
        1 => Just(Edit::DeleteRange { from: 0, count: KEYS, step: 1 }),
    ]
}

fn batch(table: &'static Table, edits: &[Edit]) -> BTreeMap<Key, Change> {
    let mut batch = BTreeMap::new();
    let mut put = |at: u64, seed: u64| {
        let key = key(table, at % KEYS);
        let (ints, tail) = value(table, seed);
        batch.insert(key.clone(), Change::Put(Row { key, ints, tail }));
    };
    for edit in edits {
        match *edit {
            Edit::Put { at, seed } => put(at, seed),
            Edit::PutRange { from, count, step, seed } => {
                (0..count).for_each(|i| put(from + i * step, seed.wrapping_add(i)));
            }
            _ => {}
        }
    }
    for edit in edits {
        let (from, count, step) = match *edit {
            Edit::Delete { at } => (at, 1, 1),
            Edit::DeleteRange { from, count, step } => (from, count, step),
            _ => continue,
        };
        for i in 0..count {
            let key = key(table, (from + i * step) % KEYS);
            batch.entry(key.clone()).or_insert(Change::Delete(key));
        }
    }
    batch
}

fn change_model(rows: &mut Rows, batch: &BTreeMap<Key, Change>) {
    for (key, change) in batch {
        match change {
            Change::Put(row) => drop(rows.insert(key.clone(), (row.ints.clone(), row.tail.clone()))),
            Change::Delete(_) => drop(rows.remove(key)),
        }
    }
}

/// Blocks of a tree by number, and its leaves' first keys.
fn blocks_of(tree: &Tree, store: &Store) -> (BTreeSet<u64>, Vec<Key>) {
    let (mut numbers, mut leaves, mut rows) = (BTreeSet::new(), Vec::new(), 0);
    tree.walk(store, &mut |visit| {
        let block = visit.block.as_ref().expect("all blocks are good");
        let number = number(&visit.child.expect("all children are good"));
        assert!(numbers.insert(number), "a block is visited once");
        assert!(visit.lower.is_none_or(|lower| lower <= block.key(0)));
        if visit.level == 0 {
            leaves.push(block.key(0).to_key());
            rows += block.len() as u64;
        } else if visit.lower.is_none() {
            assert!(block.len() > 1, "a root above others has more than one child");
        }
        assert!(store.blocks[&number].len() <= 2 * TARGET);
        Onward::Into
    });
    assert_eq!(rows, tree.rows);
    (numbers, leaves)
}

fn check_lookups(tree: &Tree, store: &Store, rows: &Rows, probes: &[u64]) -> Result<(), TestCaseError> {
    let mut roaming = tree.cursor_at(store, KeyRef::new(0, 0)).unwrap();
    let levels = tree.root.map_or(0, |root| usize::from(root.1));
    for &probe in probes {
        let exact = key(tree.table, probe % KEYS);
        let mut beside = exact.clone();
        match () {
            () if tree.table.leaf.has_name => beside.name.extend_from_slice(&[b'!'][..(probe % 2) as usize]),
            () if tree.table.leaf.has_b => beside.b += probe % 3,
            () => beside.a += probe % 5,
        }
        for wanted in [exact, beside] {
            store.reads.set(0);
            let got = tree.get(store, wanted.as_ref()).unwrap();
            prop_assert!(store.reads.get() <= levels);
            prop_assert_eq!(got.map(|r| r.to_row()), rows.get_key_value(&wanted).map(row));
            store.reads.set(0);
            let got = tree.floor(store, wanted.as_ref()).unwrap();
            prop_assert!(store.reads.get() <= 2 * levels);
            prop_assert_eq!(got.map(|r| r.to_row()), rows.range(..=&wanted).next_back().map(row));
            let mut cursor = tree.cursor_at(store, wanted.as_ref()).unwrap();
            roaming.seek(store, wanted.as_ref()).unwrap();
            let mut expected = rows.range((Bound::Included(&wanted), Bound::Unbounded));
            for _ in 0..40 {
                let next = expected.next().map(row);
                prop_assert_eq!(cursor.row().map(|r| r.to_row()), next.clone());
                prop_assert_eq!(roaming.row().map(|r| r.to_row_ref().to_row()), next);
                cursor.advance(store).unwrap();
                roaming.advance(store).unwrap();
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_table_loaded_in_bulk_is_read_as_it_was_given(
        table in tables(), count in prop_oneof![0..3u64, 0..KEYS], seed: u64,
        probes in prop::collection::vec(any::<u64>(), 20),
    ) {
        let rows = some_rows(table, count, 7, seed);
        let mut store = Store::default();
        let tree = store.load(table, TARGET, &rows);
        prop_assert_eq!(tree.rows, rows.len() as u64);
        prop_assert_eq!(&rows_of(&tree, &store).unwrap(), &rows);
        blocks_of(&tree, &store);
        check_lookups(&tree, &store, &rows, &probes)?;
    }

    #[test]
    fn batches_change_a_tree_as_they_change_a_map_and_leave_the_old_one_alone(
        table in tables(), count in prop_oneof![Just(0u64), 0..KEYS], seed: u64,
        batches in prop::collection::vec(prop::collection::vec(edit(), 0..12), 1..6),
        probes in prop::collection::vec(any::<u64>(), 6),
    ) {
        let mut rows = some_rows(table, count, 11, seed);
        let mut store = Store::default();
        let mut tree = store.load(table, TARGET, &rows);
        for edits in &batches {
            let batch = batch(table, edits);
            let before = rows.clone();
            change_model(&mut rows, &batch);
            let (old_blocks, old_leaves) = blocks_of(&tree, &store);

            let mut sink = store.sink();
            let applied = apply(&tree, &store, &mut sink, TARGET, &mut batch.values().cloned()).unwrap();
            let puts = store.absorb(sink);
            let new = applied.tree;

            prop_assert_eq!(new.rows, rows.len() as u64);
            prop_assert_eq!(&rows_of(&new, &store).unwrap(), &rows);
            prop_assert_eq!(&rows_of(&tree, &store).unwrap(), &before);
            check_lookups(&new, &store, &rows, &probes)?;

            let (new_blocks, _) = blocks_of(&new, &store);
            let replaced: BTreeSet<u64> = applied.replaced.iter().map(number).collect();
            prop_assert_eq!(replaced.len(), applied.replaced.len());
            prop_assert!(replaced.is_disjoint(&new_blocks));
            let gone: BTreeSet<u64> = old_blocks.difference(&new_blocks).copied().collect();
            prop_assert!(gone.is_subset(&replaced));

            // Only blocks on the way to a changed leaf, its neighbours, and blocks for new rows are written.
            let changed = batch.iter().filter(|(key, change)| match change {
                Change::Put(put) => before.get(*key) != Some(&(put.ints.clone(), put.tail.clone())),
                Change::Delete(_) => before.contains_key(*key),
            });
            let (mut touched, mut bytes) = (BTreeSet::new(), 0);
            for (key, change) in changed {
                touched.insert(old_leaves.partition_point(|first| first <= key));
                if let Change::Put(r) = change {
                    bytes += crate::format::block::BlockBuilder::row_bound(key.as_ref(), &r.ints, &r.tail);
                }
            }
            let levels = tree.root.map_or(0, |r| r.1).max(new.root.map_or(0, |r| r.1));
            let bound = usize::from(levels) * (2 * touched.len() + bytes / TARGET + 2);
            if touched.is_empty() {
                prop_assert!(puts.is_empty() && replaced.is_empty() && new == tree);
            } else {
                prop_assert!(puts.len() <= bound, "{} blocks for {} leaves, bound {}", puts.len(), touched.len(), bound);
            }
            tree = new;
        }
    }
}

#[test]
fn the_trees_of_these_tests_have_three_levels_and_more() {
    for table in SOME {
        let tree = Store::default().load(table, TARGET, &some_rows(table, KEYS, 1, 9));
        assert!(tree.root.unwrap().1 >= 3, "{}", table.name);
    }
    let tree = Store::default().load(&schema::DIRENTS, TARGET, &some_rows(&schema::DIRENTS, KEYS, 1, 9));
    assert!(tree.root.unwrap().1 >= 4);
}

#[test]
fn a_bulk_load_writes_leaves_first_and_then_level_by_level() {
    let store = Store::default();
    let mut sink = store.sink();
    let mut loader = BulkLoader::new(&schema::DIRENTS, TARGET);
    for (key, (ints, tail)) in &some_rows(&schema::DIRENTS, KEYS, 1, 1) {
        loader.push(&mut sink, key.as_ref(), ints, tail).unwrap();
    }
    loader.finish_leaves(&mut sink).unwrap();
    assert!(sink.puts.iter().all(|(level, raw)| *level == 0 && raw.len() <= TARGET));
    let full = sink.puts.iter().filter(|(_, raw)| raw.len() > TARGET / 2).count();
    assert!(full + 1 >= sink.puts.len());
    loader.finish(&mut sink).unwrap();
    assert!(sink.puts.is_sorted_by_key(|(level, _)| *level));
}

#[test]
fn rows_appended_batch_by_batch_make_full_blocks() {
    let table = &schema::CONTENTS;
    let mut store = Store::default();
    let mut tree = Tree::empty(table);
    for i in 0..1500 {
        let (ints, tail) = value(table, i);
        let put = Change::Put(Row { key: key(table, i), ints, tail });
        let mut sink = store.sink();
        tree = apply(&tree, &store, &mut sink, TARGET, &mut std::iter::once(put)).unwrap().tree;
        store.absorb(sink);
    }
    let mut lens = Vec::new();
    tree.walk(&store, &mut |visit| {
        lens.extend(visit.child.filter(|_| visit.level == 0).map(|child| store.blocks[&number(&child)].len()));
        Onward::Into
    });
    lens.pop();
    assert!(lens.iter().all(|len| (TARGET..TARGET + 200).contains(len)), "{lens:?}");
}

#[test]
fn leaves_that_shrink_join_their_neighbours() {
    let table = &schema::INODES;
    let mut store = Store::default();
    let tree = store.load(table, TARGET, &some_rows(table, KEYS, 1, 3));
    let mut deletes = (0..KEYS).filter(|i| i % 10 != 0).map(|i| Change::Delete(key(table, i)));
    let mut sink = store.sink();
    let thin = apply(&tree, &store, &mut sink, TARGET, &mut deletes).unwrap().tree;
    store.absorb(sink);
    let (before, after) = (blocks_of(&tree, &store).0.len(), blocks_of(&thin, &store).0.len());
    assert!(after * 3 < before, "{before} blocks became {after}");
}

#[test]
fn a_tree_that_lost_nearly_all_rows_has_one_level_again() {
    for table in SOME {
        let mut store = Store::default();
        let tree = store.load(table, TARGET, &some_rows(table, KEYS, 1, 3));
        for left in [0, 1234, KEYS - 1] {
            let mut deletes: Vec<Change> =
                (0..KEYS).filter(|&i| i != left).map(|i| Change::Delete(key(table, i))).collect();
            deletes.sort_by(|a, b| a.key().cmp(&b.key()));
            let mut sink = store.sink();
            let applied = apply(&tree, &store, &mut sink, TARGET, &mut deletes.into_iter()).unwrap();
            store.absorb(sink);
            assert_eq!((applied.tree.root.unwrap().1, applied.tree.rows), (1, 1));
        }
    }
}

#[test]
fn a_kept_block_with_one_child_does_not_become_the_root() {
    let table = &schema::INODES;
    let mut store = Store::default();
    // The bulk loader's last interior block has one child for some numbers of leaves.
    let (rows, tree) = (3..KEYS)
        .map(|count| (some_rows(table, count, 1, 3), count))
        .find_map(|(rows, _)| {
            let tree = store.load(table, TARGET, &rows);
            let mut last = 0;
            tree.walk(&store, &mut |visit| {
                if visit.level == 1 {
                    last = visit.block.unwrap().len();
                }
                Onward::Into
            });
            (tree.root?.1 == 3 && last == 1).then_some((rows, tree))
        })
        .expect("some count gives a last block with one child");
    let last_leaf = blocks_of(&tree, &store).1.pop().unwrap();
    let mut deletes = rows.range(..&last_leaf).map(|(key, _)| Change::Delete(key.clone()));
    let mut sink = store.sink();
    let applied = apply(&tree, &store, &mut sink, TARGET, &mut deletes).unwrap();
    assert!(sink.puts.is_empty(), "the leaf that is left is the root");
    store.absorb(sink);
    assert_eq!(applied.tree.root.unwrap().1, 1);
    assert_eq!(
        rows_of(&applied.tree, &store).unwrap(),
        rows.range(&last_leaf..).map(|(k, v)| (k.clone(), v.clone())).collect()
    );
}

#[test]
fn references_of_roots_come_back() {
    let mut store = Store::default();
    let tree = store.load(&schema::TINY, TARGET, &some_rows(&schema::TINY, 50, 1, 1));
    assert_eq!(Tree::from_ref(&schema::TINY, &tree.to_ref().unwrap()), tree);
    let map = store.load(&schema::MAP, TARGET, &some_rows(&schema::MAP, 50, 1, 1));
    assert_eq!(Tree::from_map(&map.to_map_ref().unwrap()), map);
}

#[test]
fn rows_that_cannot_be_stored_are_refused() {
    let mut sink = Sink { first: limits::LOG_START, puts: Vec::new() };
    let mut loader = BulkLoader::new(&schema::TINY, TARGET);
    let mut push = |a: u64, len: usize| loader.push(&mut sink, KeyRef::new(a, 0), &[], &vec![0; len]);
    push(5, 200_000).unwrap();
    assert!(matches!(push(5, 1), Err(TableError::OutOfOrder { .. })));
    assert!(matches!(push(4, 1), Err(TableError::OutOfOrder { .. })));
    assert!(matches!(push(6, 262_144), Err(TableError::RowTooLarge { .. })));
    push(6, 200_000).unwrap();

    let mut names = BulkLoader::new(&schema::DIRENTS, TARGET);
    let long = names.push(&mut sink, KeyRef::named(1, &[b'x'; 256]), &[1, 1], &[]);
    assert!(matches!(long, Err(TableError::RowTooLarge { .. })));
    for (ints, tail) in [(&[1u64][..], &b""[..]), (&[1, 1], b"x"), (&[u64::MAX, 1], b"")] {
        let misfit = names.push(&mut sink, KeyRef::named(1, b"x"), ints, tail);
        assert!(matches!(misfit, Err(TableError::Misfit { .. })));
    }

    let store = Store::default();
    let changes = [2, 1].map(|a| Change::Delete(Key::new(a, 0)));
    let applied = apply(&Tree::empty(&schema::TINY), &store, &mut sink, TARGET, &mut changes.into_iter());
    assert!(matches!(applied, Err(TableError::OutOfOrder { .. })));
    let large = Change::Put(Row { key: Key::new(1, 0), ints: vec![], tail: vec![0; 262_144] });
    let applied = apply(&Tree::empty(&schema::TINY), &store, &mut sink, TARGET, &mut std::iter::once(large));
    assert!(matches!(applied, Err(TableError::RowTooLarge { .. })));
}
