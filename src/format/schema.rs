//! The streams and columns of each table (section 8). The code for trees knows nothing else about a table.

/// Number of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u8);

/// Coding of an integer column (section 7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// The value.
    Plain,
    /// Zigzag of the difference to the row before.
    Delta,
    /// 0, or 1 + zigzag of the difference to the last value that was not 0.
    Nullable,
}

/// Which streams the rows of a table (at one kind of level) have.
#[derive(Debug, PartialEq, Eq)]
pub struct Schema {
    /// The table.
    pub table: TableId,
    /// Keys have a `b`.
    pub has_b: bool,
    /// Keys have a name.
    pub has_name: bool,
    /// Rows have a tail.
    pub has_tail: bool,
    /// Coding of each integer column.
    pub ints: &'static [Coding],
}

/// Leaves and interior blocks of one table.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// The name for messages.
    pub name: &'static str,
    /// The schema of leaves.
    pub leaf: Schema,
    /// The schema of interior blocks.
    pub interior: Schema,
}

impl Table {
    /// Number of the table.
    pub fn id(&self) -> TableId {
        self.leaf.table
    }

    /// The schema of blocks of this level.
    pub fn schema(&self, level: u8) -> &Schema {
        if level == 0 { &self.leaf } else { &self.interior }
    }
}

use Coding::{Delta as D, Nullable as N, Plain as P};

const BY_ID: &[Coding] = &[N];
const BY_PLACE: &[Coding] = &[D, D, P, P, P, P];

const fn table(
    number: u8,
    name: &'static str,
    has_b: bool,
    has_name: bool,
    ints: &'static [Coding],
    has_tail: bool,
    children: &'static [Coding],
) -> Table {
    let table = TableId(number);
    Table {
        name,
        leaf: Schema { table, has_b, has_name, has_tail, ints },
        interior: Schema { table, has_b, has_name, has_tail: true, ints: children },
    }
}

const INODE_COLUMNS: &[Coding] = &[P, P, P, P, P, D, P, N, N, N, N, N, P, P, P, P];

/// inode → attributes.
pub static INODES: Table = table(1, "inodes", false, false, INODE_COLUMNS, true, BY_ID);
/// (directory, name) → inode, type.
pub static DIRENTS: Table = table(2, "dirents", false, true, &[N, P], false, BY_ID);
/// (content, offset) → extents.
pub static CONTENTS: Table = table(3, "contents", true, false, &[N, P, P, P], true, BY_ID);
/// (set, piece) → bytes.
pub static XATTRS: Table = table(4, "xattrs", true, false, &[], true, BY_ID);
/// tiny content → bytes.
pub static TINY: Table = table(5, "tiny", false, false, &[], true, BY_ID);
/// Unlinked open inodes: inode → attributes.
pub static ORPHANS: Table = table(6, "orphans", false, false, INODE_COLUMNS, true, BY_ID);
/// First subchunk → identities.
pub static IDENTITIES: Table = table(7, "identities", false, false, &[P], true, BY_ID);
/// Where superchunks and subchunks are.
pub static MAP: Table = table(8, "map", true, false, &[N, D, D, P, P, P, P, P], true, BY_PLACE);
/// Snapshots by ordinal.
pub static SNAPSHOTS: Table = table(9, "snapshots", false, false, &[], true, BY_ID);
/// (inode, file offset) → length, frame of written bytes in the thaw log, offset in it.
pub static THAWED: Table = table(10, "thawed", true, false, &[P, D, P], true, BY_ID);
/// (kind, id) → users of what several inodes share.
pub static SHARES: Table = table(11, "shares", true, false, &[P], false, BY_ID);

/// All tables, by number from 1.
pub static TABLES: [&Table; 11] =
    [&INODES, &DIRENTS, &CONTENTS, &XATTRS, &TINY, &ORPHANS, &IDENTITIES, &MAP, &SNAPSHOTS, &THAWED, &SHARES];
