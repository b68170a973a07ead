//! Compares the shares table with a count of the inodes and orphans that use each key.
//!
//! One walk of the inodes counts the smallest keys in use, as many as there is room for; the next walk counts the keys
//! after them. So memory is bounded, and an image of usual size needs one walk.

use super::Check;
use super::report::{CheckError, Finding, FindingKind, Findings, Severity};
use super::rows::each_row;
use super::trees::Trees;
use crate::format::rows::{InodeRow, ShareKey, ShareRow};
use crate::format::schema::{self, Table};
use crate::meta::Image;

/// Most keys whose users are counted in one walk over the tables; with the keys that are not yet sorted, they take 160
/// MiB.
const MAX_KEYS: u64 = 4 << 20;
const MIN_KEYS: u64 = 64 << 10;

/// Compares the table of shares with a count of the inodes that use each content and xattr set.
pub(super) fn check(check: &Check<'_>, trees: &Trees, findings: &mut Findings) -> Result<(), CheckError> {
    let room = (check.options.memory / 64).clamp(MIN_KEYS, MAX_KEYS) as usize;
    wrong_keys(check, findings)?;
    if !trees.inodes.is_empty() || !trees.orphans.is_empty() {
        return Ok(()); // Users are lost, which was reported: counts prove nothing then.
    }
    let mut from = 0;
    loop {
        let mut users = Users::new(from, room);
        //= format-spec.md#8.10
        //# A program that decides what is live must start from the inodes of the head, the orphans and the inodes of
        //# all snapshots, and never from the rows of this table or of the tables that inodes name.
        for table in [&schema::INODES, &schema::ORPHANS] {
            each_row(check.image, table, 0, &mut |_, ints, tail| {
                if let Ok(row) = InodeRow::decode(ints, tail) {
                    ShareKey::used_by(&row).for_each(|key| users.add(key.pack()));
                }
                !check.observer.cancelled()
            });
        }
        check.cancelled()?;
        users.merge();
        compare(check.image, &users, trees.shares.is_empty(), findings);
        check.cancelled()?;
        match users.end {
            Some(end) => from = end,
            None => return Ok(()),
        }
    }
}

/// Reports rows that are wrong in themselves: no content or xattr set can have such a key or number of users.
fn wrong_keys(check: &Check<'_>, findings: &mut Findings) -> Result<(), CheckError> {
    each_row(check.image, &schema::SHARES, 0, &mut |key, ints, _| {
        if let Err(error) = ShareKey::decode(key.a, key.b).and(ShareRow::decode(ints)) {
            wrong(findings, format!("its row ({}, {}) is wrong: {error}", key.a, key.b));
        }
        !check.observer.cancelled()
    });
    check.cancelled()
}

fn wrong(findings: &mut Findings, why: String) {
    let table: &Table = &schema::SHARES;
    let message = format!("table {}: {why}", table.name);
    findings.add(Finding::new(FindingKind::Table, Severity::Recoverable, message).in_table(table.name));
}

/// Compares the rows from `users.from` to `users.end` with the counts. `whole` is false if rows are lost; then a
/// missing row is not reported.
fn compare(image: &Image, users: &Users, whole: bool, findings: &mut Findings) {
    let mut counted = users.counted.iter().peekable();
    let missing = |packed: u64, users: u64, findings: &mut Findings| {
        if let (true, 2.., Ok(key)) = (whole, users, ShareKey::unpack(packed)) {
            wrong(findings, format!("it has no row for {} {}, which has {users} users", key.kind.name(), key.id));
        }
    };
    each_row(image, &schema::SHARES, users.from >> 62, &mut |key, ints, _| {
        let (Ok(key), Ok(row)) = (ShareKey::decode(key.a, key.b), ShareRow::decode(ints)) else { return true };
        let packed = key.pack();
        if packed < users.from {
            return true;
        }
        if users.end.is_some_and(|end| packed >= end) {
            return false;
        }
        while let Some(&(other, many)) = counted.next_if(|(other, _)| *other < packed) {
            missing(other, many, findings);
        }
        let many = counted.next_if(|(other, _)| *other == packed).map_or(0, |(_, many)| *many);
        let what = || format!("{} {}", key.kind.name(), key.id);
        match many {
            0 => wrong(findings, format!("it has a row for {}, which has no user", what())),
            1 => wrong(findings, format!("it has a row for {}, which has 1 user", what())),
            many if many != row.users => {
                wrong(findings, format!("{} has {many} users, but its row says {}", what(), row.users));
            }
            _ => {}
        }
        true
    });
    for &(packed, many) in counted {
        missing(packed, many, findings);
    }
}

/// Number of users of each key, for the smallest keys from `from` on.
struct Users {
    from: u64,
    /// The first key that is not counted; `None` if all are.
    end: Option<u64>,
    room: usize,
    counted: Vec<(u64, u64)>,
    fresh: Vec<u64>,
}

impl Users {
    fn new(from: u64, room: usize) -> Self {
        Users { from, end: None, room, counted: Vec::new(), fresh: Vec::new() }
    }

    fn add(&mut self, key: u64) {
        if key < self.from || self.end.is_some_and(|end| key >= end) {
            return;
        }
        self.fresh.push(key);
        if self.fresh.len() >= self.room {
            self.merge();
        }
    }

    /// Moves the keys in `fresh` to `counted`. If that then has more than `room` keys, the largest are dropped: another
    /// walk counts them.
    fn merge(&mut self) {
        self.fresh.sort_unstable();
        let mut fresh =
            self.fresh.chunk_by(|a, b| a == b).filter_map(|same| Some((*same.first()?, same.len() as u64))).peekable();
        let mut merged = Vec::with_capacity(self.room.min(self.counted.len() + self.fresh.len()));
        let mut counted = std::mem::take(&mut self.counted).into_iter().peekable();
        let end = loop {
            let next = match (counted.peek(), fresh.peek()) {
                (None, None) => break self.end,
                (Some(&(a, many)), Some(&(b, more))) if a == b => {
                    fresh.next();
                    counted.next();
                    (a, many + more)
                }
                (Some(&(a, _)), Some(&(b, _))) if b < a => fresh.next().unwrap_or((b, 0)),
                (None, Some(&first)) => fresh.next().unwrap_or(first),
                (Some(&first), _) => counted.next().unwrap_or(first),
            };
            if merged.len() >= self.room {
                break Some(next.0);
            }
            merged.push(next);
        };
        self.end = end;
        self.counted = merged;
        self.fresh.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn walks_with_little_room_count_together_what_one_counts(
            uses in prop::collection::vec(0u64..60, 0..300),
            room in 1usize..20,
        ) {
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            uses.iter().for_each(|key| *model.entry(*key).or_default() += 1);
            let (mut from, mut all) = (0, Vec::new());
            for _ in 0..=uses.len() {
                let mut users = Users::new(from, room);
                uses.iter().for_each(|&key| users.add(key));
                users.merge();
                prop_assert!(users.counted.len() <= room);
                all.extend(users.counted);
                match users.end {
                    Some(end) => from = end,
                    None => break,
                }
            }
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }
}
