//! Scans all tables of a view: counters, totals and rows must agree with the inodes. Called by the runner.

use floe::format::block::KeyRef;
use floe::format::ids::InodeId;
use floe::format::root::Root;
use floe::format::rows::inode::XattrRef;
use floe::format::rows::{ContentRef, ContentRow, DirentRow, FileType, InodeRow, ShareKey, ShareRow, ThawedRow};
use floe::format::schema::{self, Table};
use floe::meta::View;
use std::collections::{BTreeMap, BTreeSet};

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scan {
    /// Inodes that have a name.
    pub inodes: u64,
    /// Bytes of files among them.
    pub bytes: u64,
    /// Inodes without a name.
    pub orphans: u64,
}

/// A row: the parts of its key, its integers, its tail.
type Found = (u64, u64, Vec<u8>, Vec<u64>, Vec<u8>);

struct Tables<'a> {
    view: &'a View,
    wrong: Vec<String>,
}

impl Tables<'_> {
    fn rows(&mut self, table: &'static Table) -> Vec<Found> {
        let mut rows = Vec::new();
        let mut cursor = match self.view.cursor_at(table, KeyRef::new(0, 0)) {
            Ok(cursor) => cursor,
            Err(error) => {
                self.wrong.push(format!("table {}: {error}", table.name));
                return rows;
            }
        };
        while let Some(row) = cursor.row() {
            let key = row.key();
            rows.push((key.a, key.b, key.name.to_vec(), row.ints().to_vec(), row.tail().to_vec()));
            if let Err(error) = cursor.advance(self.view) {
                self.wrong.push(format!("table {}: {error}", table.name));
                break;
            }
        }
        rows
    }

    fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    fn inodes(&mut self, table: &'static Table) -> BTreeMap<InodeId, InodeRow> {
        let mut inodes = BTreeMap::new();
        for (a, _, _, ints, tail) in self.rows(table) {
            match InodeRow::decode(&ints, &tail) {
                Ok(row) => drop(inodes.insert(InodeId(a), row)),
                Err(error) => self.wrong(format!("{} {a}: {error}", table.name)),
            }
        }
        inodes
    }
}

/// Scans. `reaped`: nothing waits for deletion, so every row must have a user.
///
/// # Errors
/// All that is wrong.
pub fn scan(view: &View, reaped: bool) -> Result<Scan, String> {
    let mut tables = Tables { view, wrong: Vec::new() };
    let named = tables.inodes(&schema::INODES);
    let orphans = tables.inodes(&schema::ORPHANS);
    for inode in named.keys().filter(|inode| orphans.contains_key(inode)) {
        tables.wrong.push(format!("inode {inode} has a name and is an orphan"));
    }
    let users = users(named.values().chain(orphans.values()));
    shares(&mut tables, &users);
    used(&mut tables, &users, reaped);
    sizes(&mut tables, named.iter().chain(&orphans));
    names(&mut tables, &named);
    if tables.wrong.is_empty() {
        let files = named.values().filter(|row| row.file_type == FileType::Regular);
        let bytes = files.map(|row| row.size).fold(0u64, u64::wrapping_add);
        return Ok(Scan { inodes: named.len() as u64, bytes, orphans: orphans.len() as u64 });
    }
    Err(tables.wrong.join("\n"))
}

fn users<'a>(rows: impl Iterator<Item = &'a InodeRow>) -> BTreeMap<ShareKey, u64> {
    let mut users = BTreeMap::new();
    for row in rows {
        for key in ShareKey::used_by(row) {
            *users.entry(key).or_insert(0) += 1;
        }
    }
    users
}

fn shares(tables: &mut Tables<'_>, users: &BTreeMap<ShareKey, u64>) {
    let mut expected: BTreeMap<ShareKey, u64> = users.clone();
    expected.retain(|_, count| *count > 1);
    let mut found = BTreeMap::new();
    for (a, b, _, ints, _) in tables.rows(&schema::SHARES) {
        match (ShareKey::decode(a, b), ShareRow::decode(&ints)) {
            (Ok(key), Ok(row)) => drop(found.insert(key, row.users)),
            (key, row) => tables.wrong(format!("shares ({a}, {b}): {key:?} {row:?}")),
        }
    }
    if found != expected {
        tables.wrong(format!("shares are {found:?}, the inodes say {expected:?}"));
    }
}

/// Rows that inodes refer to exist; after the reaper has run, no other rows exist.
fn used(tables: &mut Tables<'_>, users: &BTreeMap<ShareKey, u64>, reaped: bool) {
    use floe::format::rows::ShareKind::{Content, Tiny, Xattrs};
    for (kind, table) in [(Content, &schema::CONTENTS), (Tiny, &schema::TINY), (Xattrs, &schema::XATTRS)] {
        let there: BTreeSet<u64> = tables.rows(table).iter().map(|row| row.0).collect();
        let named: BTreeSet<u64> = users.keys().filter(|key| key.kind == kind).map(|key| key.id).collect();
        for id in named.difference(&there) {
            tables.wrong(format!("{} {id} has users and no row", table.name));
        }
        if reaped {
            for id in there.difference(&named) {
                tables.wrong(format!("{} {id} has rows and no user", table.name));
            }
        }
    }
}

/// No content and no thawed range ends after its file.
fn sizes<'a>(tables: &mut Tables<'_>, inodes: impl Iterator<Item = (&'a InodeId, &'a InodeRow)>) {
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    for (a, b, _, ints, tail) in tables.rows(&schema::CONTENTS) {
        match ContentRow::decode(b, &ints, &tail) {
            Ok(row) => {
                let end = ends.insert(a, b + row.length).unwrap_or(0);
                if end != b {
                    tables.wrong(format!("content {a} has an extent at {b}, the one before ends at {end}"));
                }
            }
            Err(error) => tables.wrong(format!("content {a}: {error}")),
        }
    }
    let mut thawed: BTreeMap<u64, u64> = BTreeMap::new();
    for (a, b, _, ints, tail) in tables.rows(&schema::THAWED) {
        match ThawedRow::decode(b, &ints, &tail) {
            Ok(row) => {
                if row.is_lost() {
                    tables.wrong(format!("inode {a} has lost {} bytes at {b}", row.length));
                }
                let end = thawed.insert(a, b + row.length).unwrap_or(0);
                if end > b {
                    tables.wrong(format!("inode {a} has a thawed range at {b}, the one before ends at {end}"));
                }
            }
            Err(error) => tables.wrong(format!("thawed range of {a}: {error}")),
        }
    }
    for (inode, row) in inodes {
        let content = match row.content {
            ContentRef::Content(id) => ends.get(&id.0).copied().unwrap_or(0),
            ContentRef::Tiny(id) => tables.view.tiny(id).map_or(0, |bytes| bytes.len() as u64),
            _ => 0,
        };
        let end = thawed.remove(&inode.0).unwrap_or(0);
        if row.file_type == FileType::Regular && (content > row.size || end > row.size) {
            let size = row.size;
            tables.wrong(format!("inode {inode} has {size} bytes, its content {content}, its thawed ranges {end}"));
        }
        if let XattrRef::Inline(set) = &row.xattrs
            && set.is_empty()
        {
            tables.wrong(format!("inode {inode} has an empty set of xattrs"));
        }
    }
    for inode in thawed.keys() {
        tables.wrong(format!("inode {inode} has thawed ranges and no row"));
    }
}

/// Link counts and parents agree with the directories.
fn names(tables: &mut Tables<'_>, inodes: &BTreeMap<InodeId, InodeRow>) {
    let mut links: BTreeMap<InodeId, u64> = BTreeMap::from([(InodeId::ROOT, 2)]);
    for (a, _, name, ints, _) in tables.rows(&schema::DIRENTS) {
        let entry = match DirentRow::decode(&name, &ints) {
            Ok(entry) => entry,
            Err(error) => {
                tables.wrong(format!("name in {a}: {error}"));
                continue;
            }
        };
        let Some(row) = inodes.get(&entry.inode) else {
            tables.wrong(format!("directory {a} has a name for inode {}, which is not there", entry.inode));
            continue;
        };
        if row.file_type != entry.file_type {
            tables.wrong(format!("directory {a} says that inode {} is a {:?}", entry.inode, entry.file_type));
        }
        if !inodes.contains_key(&InodeId(a)) {
            tables.wrong(format!("there are names in inode {a}, which is not there"));
        }
        if row.file_type == FileType::Directory {
            *links.entry(InodeId(a)).or_insert(0) += 1;
            *links.entry(entry.inode).or_insert(0) += 2;
            if row.parent != Some(InodeId(a)) {
                tables.wrong(format!("directory {} lies in {a} and says {:?}", entry.inode, row.parent));
            }
        } else {
            *links.entry(entry.inode).or_insert(0) += 1;
        }
    }
    for (inode, row) in inodes {
        let found = links.get(inode).copied().unwrap_or(0);
        if row.links != found {
            tables.wrong(format!("inode {inode} says it has {} links, it has {found}", row.links));
        }
    }
}

/// Checks that a root's counters are above all ids of its tables, and that its totals are right.
///
/// # Errors
/// What is wrong.
pub fn root(view: &View, root: &Root, scan: Scan) -> Result<(), String> {
    let mut tables = Tables { view, wrong: Vec::new() };
    let mut last = |table: &'static Table| tables.rows(table).last().map_or(0, |row| row.0);
    let inode = last(&schema::INODES).max(last(&schema::ORPHANS));
    let ids = [
        ("inode", root.next_inode, inode),
        ("content", root.next_content, last(&schema::CONTENTS)),
        ("tiny", root.next_tiny, last(&schema::TINY)),
        ("xattrs", root.next_xattrs, last(&schema::XATTRS)),
    ];
    for (what, next, last) in ids {
        if next <= last {
            return Err(format!("the next {what} is {next}, and there is {last}"));
        }
    }
    let totals = (root.view.inodes, root.view.bytes);
    if totals != (scan.inodes, scan.bytes) {
        return Err(format!("the root says {totals:?} inodes and bytes, a scan {scan:?}"));
    }
    Ok(())
}
