//! Tests of the thaw log: commits, crashes at any byte, damage, failing operations, power cuts.

mod carry;
mod damage;
mod faults;
mod leftovers;
mod model;
mod power;

use super::{Appended, Binding, ImageState, Recovered, Slot, ThawError, ThawLog, recover};
use crate::format::ids::{InodeId, LogOffset};
use crate::format::sums::xxh3;
use crate::format::transaction::{Operation, Thawed, Transaction};
use crate::storage::Folder;
use crate::storage::testing::{History, MemoryFolder, Remains};
use std::collections::BTreeMap;
use std::sync::Arc;

const SEGMENT: u64 = 16 << 10;
const LOG: u64 = 0x1122_3344_5566_7788;

fn binding() -> Binding {
    Binding { uuid: [1; 16], lineage: [2; 16], generation: 3, root_hash: [4; 32] }
}

/// An image whose root contains the log's transactions up to `contained`.
fn image(contained: u64) -> ImageState {
    let slot =
        Slot { generation: 3, root_hash: [4; 32], thaw_log_id: LOG, root_log_id: LOG, thaw_transaction: contained };
    ImageState { uuid: [1; 16], lineage: [2; 16], len: 1 << 20, slots: vec![slot] }
}

fn create(folder: Arc<dyn Folder>) -> Result<ThawLog, ThawError> {
    ThawLog::create(folder, binding(), LOG, 1, SEGMENT)
}

fn read(folder: Arc<dyn Folder>) -> Result<Option<Recovered>, ThawError> {
    recover(folder, &image(0))
}

/// The number of the last transaction of the log in a folder.
fn last(folder: Arc<dyn Folder>) -> u64 {
    read(folder).unwrap().map_or(0, |recovered| recovered.last_transaction())
}

fn transactions(recovered: &Recovered, contained: u64) -> Vec<Transaction> {
    let mut all = Vec::new();
    recovered
        .replay(contained, |transaction| {
            all.push(transaction);
            Ok::<(), ThawError>(())
        })
        .unwrap();
    all
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (xxh3(&(seed ^ (n / 7)).to_le_bytes()) >> (n % 7)) as u8).collect()
}

/// The operation that the filesystem writes for appended bytes: it names all of them.
fn names(inode: u64, appended: Appended) -> Operation {
    Operation::Thawed(Thawed {
        inode: InodeId(inode),
        offset: 0,
        len: appended.len,
        frame: appended.frame,
        within: 0,
        sum: appended.sum,
    })
}

/// `n` operations that take about ten bytes each.
fn many(n: u64) -> Vec<Operation> {
    (0..n).map(|n| Operation::Checkpoint { generation: u64::MAX - n }).collect()
}

/// Appends and commits; returns the operations of each transaction. Each write belongs to a different inode.
fn fill(log: &mut ThawLog, commits: u64, len: usize) -> Vec<Vec<Operation>> {
    (0..commits)
        .map(|n| {
            let appended = log.append(&bytes(n, len)).unwrap();
            let number = log.last_transaction() + 1;
            let operations = vec![names(number, appended), Operation::Checkpoint { generation: n }];
            assert_eq!(log.commit(operations.clone(), n, (n as i64, 5)).unwrap(), number);
            operations
        })
        .collect()
}

/// Asserts that all written bytes that transactions name can be read and match their checksum.
fn check_named(recovered: &Recovered, contained: u64) {
    for transaction in transactions(recovered, contained) {
        for operation in transaction.operations {
            if let Operation::Thawed(t) = operation {
                let written = recovered.segment(t.frame).unwrap().written(t.frame, t.sum).unwrap();
                assert_eq!(written.len() as u64, t.len);
            }
        }
    }
}

/// Inode, offset and length of the ranges that name lost frames. (No range is overwritten.)
fn lost_ranges(recovered: &Recovered) -> Vec<(u64, u64, u64)> {
    let operations = transactions(recovered, 0).into_iter().flat_map(|transaction| transaction.operations);
    let lost = operations.filter_map(|operation| match operation {
        Operation::Thawed(t) if recovered.is_lost(t.frame) => Some((t.inode.0, t.offset, t.len)),
        _ => None,
    });
    lost.collect()
}

fn nothing() -> Remains {
    Remains { image: Vec::new(), segments: BTreeMap::new() }
}

fn memory(segments: BTreeMap<u64, Vec<u8>>) -> Arc<MemoryFolder> {
    Arc::new(MemoryFolder::from_segments(segments))
}

/// See [`History::each_cut`].
fn cuts(history: &History, n: usize, random: u64, each: impl FnMut(Remains, &str)) {
    history.each_cut(n, random, each);
}

fn offsets(list: &[(u64, u64)]) -> Vec<(LogOffset, LogOffset)> {
    list.iter().map(|&(from, to)| (LogOffset(from), LogOffset(to))).collect()
}
