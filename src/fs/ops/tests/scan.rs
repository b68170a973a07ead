//! Checks everything in which rows must agree, as `floe check` does, and compares the totals with a count.

use super::{ROOT, World};
use crate::format::ids::InodeId;
use crate::format::rows::{
    ContentRef, ContentRow, DirentRow, Extent, FileType, InodeRow, ShareKey, ShareKind, ShareRow, ThawedRow, XattrSet,
};
use crate::format::{limits, schema};
use std::collections::{BTreeMap, BTreeSet};

/// The end of each content, and its bytes that are not in holes.
type Contents = BTreeMap<u64, (u64, u64)>;

impl World {
    /// Compares all rows with each other and with the totals.
    pub(super) fn scan(&self) {
        let decode = |table| -> BTreeMap<u64, InodeRow> {
            let rows = self.rows(table).into_iter();
            rows.map(|row| (row.key.a, InodeRow::decode(&row.ints, &row.tail).unwrap())).collect()
        };
        let (inodes, orphans) = (decode(&schema::INODES), decode(&schema::ORPHANS));
        let sizes = inodes.values().filter(|row| row.file_type == FileType::Regular).map(|row| row.size as i64);
        assert_eq!((self.inodes, self.bytes), (inodes.len() as i64, sizes.sum()), "totals");
        for (inode, row) in &orphans {
            assert!(row.links == 0 && !inodes.contains_key(inode), "orphan {inode}");
        }
        let counters = self.ids.counters();
        assert!(inodes.keys().chain(orphans.keys()).all(|&inode| inode < counters.inode));
        self.names(&inodes);
        let contents = self.contents();
        let all: BTreeMap<u64, &InodeRow> = inodes.iter().chain(&orphans).map(|(&inode, row)| (inode, row)).collect();
        for (inode, row) in &all {
            self.body(*inode, row, &contents);
        }
        self.users(&all, &contents);
        self.thawed(&all);
        self.log();
    }

    /// Checks that the log says the same as the memory.
    fn log(&self) {
        let tables = schema::TABLES.into_iter().filter(|table| table.id() != schema::MAP.id());
        for table in tables {
            let replayed = self.replayed.iter().filter(|((id, _), _)| *id == table.id()).map(|(_, row)| row.clone());
            assert_eq!(self.rows(table), replayed.collect::<Vec<_>>(), "{} after a replay", table.name);
        }
    }

    /// Checks names and directories.
    fn names(&self, inodes: &BTreeMap<u64, InodeRow>) {
        let (mut names, mut subdirectories) = (BTreeMap::<u64, u64>::new(), BTreeMap::<u64, u64>::new());
        for row in self.rows(&schema::DIRENTS) {
            let entry = DirentRow::decode(&row.key.name, &row.ints).unwrap();
            let inode = &inodes[&entry.inode.0];
            assert_eq!(inode.file_type, entry.file_type);
            assert_eq!(inodes[&row.key.a].file_type, FileType::Directory);
            *names.entry(entry.inode.0).or_default() += 1;
            if entry.file_type == FileType::Directory {
                *subdirectories.entry(row.key.a).or_default() += 1;
                assert_eq!(inode.parent, Some(InodeId(row.key.a)));
            }
        }
        for (inode, row) in inodes {
            let names = names.get(inode).copied().unwrap_or(0);
            if row.file_type == FileType::Directory {
                assert_eq!(names, u64::from(InodeId(*inode) != ROOT), "names of directory {inode}");
                assert_eq!(
                    row.links,
                    2 + subdirectories.get(inode).copied().unwrap_or(0),
                    "links of directory {inode}"
                );
                self.below_root(inodes, *inode);
            } else {
                assert_eq!(row.links, names, "names of {inode}");
            }
        }
    }

    fn below_root(&self, inodes: &BTreeMap<u64, InodeRow>, inode: u64) {
        let mut at = inode;
        for _ in 0..=inodes.len() {
            if InodeId(at) == ROOT {
                return;
            }
            at = inodes[&at].parent.unwrap().0;
        }
        panic!("directory {inode} is in a ring");
    }

    fn contents(&self) -> Contents {
        let mut contents = Contents::new();
        let mut last_is_hole = BTreeMap::new();
        for row in self.rows(&schema::CONTENTS) {
            let (end, data) = contents.entry(row.key.a).or_default();
            let extent = ContentRow::decode(row.key.b, &row.ints, &row.tail).unwrap();
            assert_eq!(*end, row.key.b, "content {} is not tiled", row.key.a);
            let is_hole = extent.extent == Extent::Hole;
            *end += extent.length;
            *data += if is_hole { 0 } else { extent.length };
            let before = last_is_hole.insert(row.key.a, is_hole);
            assert!(before != Some(true) || !is_hole, "two holes of content {} side by side", row.key.a);
        }
        assert!(last_is_hole.values().all(|is_hole| !is_hole), "a content ends in a hole");
        contents
    }

    fn body(&self, inode: u64, row: &InodeRow, contents: &Contents) {
        match row.content {
            ContentRef::None | ContentRef::Subchunk(_) => assert_eq!(row.allocated(), None, "inode {inode}"),
            ContentRef::Tiny(id) => {
                assert_eq!(self.view().tiny(id).unwrap().len() as u64, row.size, "tiny inode {inode}");
                assert!((1..limits::TINY_LEN).contains(&row.size));
            }
            ContentRef::Content(id) => {
                let (end, data) = contents[&id.0];
                assert!(end <= row.size, "inode {inode} of {} bytes has a content that ends at {end}", row.size);
                assert_eq!(row.allocated().unwrap_or(end), data, "inode {inode}");
            }
        }
        let set: XattrSet = self.view().xattrs(row).unwrap();
        assert!(set.0.is_sorted());
    }

    /// Checks that users are as in `shares`, and that everything has a user.
    fn users(&self, all: &BTreeMap<u64, &InodeRow>, contents: &Contents) {
        let mut users = BTreeMap::<ShareKey, u64>::new();
        for row in all.values() {
            ShareKey::used_by(row).for_each(|key| *users.entry(key).or_default() += 1);
        }
        let shares: BTreeMap<ShareKey, u64> = (self.rows(&schema::SHARES).into_iter())
            .map(|row| (ShareKey::decode(row.key.a, row.key.b).unwrap(), ShareRow::decode(&row.ints).unwrap().users))
            .collect();
        let shared: BTreeMap<_, _> = users.iter().filter(|(_, users)| **users > 1).map(|(&key, &n)| (key, n)).collect();
        assert_eq!(shares, shared);
        let used = |kind| -> BTreeSet<u64> { users.keys().filter(|key| key.kind == kind).map(|key| key.id).collect() };
        let there = |table| -> BTreeSet<u64> { self.rows(table).into_iter().map(|row| row.key.a).collect() };
        assert_eq!(contents.keys().copied().collect::<BTreeSet<_>>(), used(ShareKind::Content));
        assert_eq!(there(&schema::TINY), used(ShareKind::Tiny));
        assert_eq!(there(&schema::XATTRS), used(ShareKind::Xattrs));
    }

    fn thawed(&self, all: &BTreeMap<u64, &InodeRow>) {
        let mut last = (0, 0);
        for row in self.rows(&schema::THAWED) {
            let range = ThawedRow::decode(row.key.b, &row.ints, &row.tail).unwrap();
            let inode = all[&row.key.a];
            let end = row.key.b + range.length;
            assert!(inode.file_type == FileType::Regular && end <= inode.size, "thawed range of inode {}", row.key.a);
            assert!(last.0 != row.key.a || last.1 <= row.key.b, "ranges of inode {} overlap", row.key.a);
            last = (row.key.a, end);
        }
    }
}
