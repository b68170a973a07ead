//! The streams and columns of each table (section 8). The code for trees knows nothing else about a table.

/// Number of a table in blocks and references.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u8);

/// How an integer column of a table block is coded (section 7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// The value itself.
    Plain,
    /// The zigzag-coded difference to the row before.
    Delta,
    /// 0 for 0; else 1 + the zigzag-coded difference to the last value that was not 0.
    Nullable,
}

/// The columns that the rows of a table have, either in leaves or in interior blocks.
#[derive(Debug, PartialEq, Eq)]
pub struct Schema {
    /// Number of the table.
    pub table: TableId,
    /// Whether keys have a second part `b`.
    pub has_b: bool,
    /// Whether keys have a name.
    pub has_name: bool,
    /// Whether rows have a tail: bytes after the integer columns.
    pub has_tail: bool,
    /// Coding of each integer column.
    pub ints: &'static [Coding],
}

/// A table: its name, and the schemas of its leaves and of its interior blocks.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Name of the table for messages.
    pub name: &'static str,
    /// Schema of leaves.
    pub leaf: Schema,
    /// Schema of interior blocks, which name their child blocks.
    pub interior: Schema,
}

impl Table {
    /// Returns the number of the table.
    pub fn id(&self) -> TableId {
        self.leaf.table
    }

    /// Returns the schema of blocks of this level; level 0 is a leaf.
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

/// Table 1, inodes: inode → attributes.
pub static INODES: Table = table(1, "inodes", false, false, INODE_COLUMNS, true, BY_ID);
/// Table 2, directory entries: (directory, name) → inode, type.
pub static DIRENTS: Table = table(2, "dirents", false, true, &[N, P], false, BY_ID);
/// Table 3, contents of files: (content, offset) → extents.
pub static CONTENTS: Table = table(3, "contents", true, false, &[N, P, P, P], true, BY_ID);
/// Table 4, xattr sets: (set, piece) → bytes.
pub static XATTRS: Table = table(4, "xattrs", true, false, &[], true, BY_ID);
/// Table 5, contents of small files: tiny content → bytes.
pub static TINY: Table = table(5, "tiny", false, false, &[], true, BY_ID);
/// Table 6, inodes without a name that are still open: inode → attributes.
pub static ORPHANS: Table = table(6, "orphans", false, false, INODE_COLUMNS, true, BY_ID);
/// Table 7, identities: id of the first subchunk → identities of a run of subchunks.
pub static IDENTITIES: Table = table(7, "identities", false, false, &[P], true, BY_ID);
/// Table 8, the map: where superchunks and subchunks are, and the recipes of composed subchunks.
pub static MAP: Table = table(8, "map", true, false, &[N, D, D, P, P, P, P, P], true, BY_PLACE);
/// Table 9, snapshots: ordinal → name, comment, time and view.
pub static SNAPSHOTS: Table = table(9, "snapshots", false, false, &[], true, BY_ID);
/// Table 10, file data that is in the thaw log: (inode, file offset) → length, frame of written bytes, offset in it.
pub static THAWED: Table = table(10, "thawed", true, false, &[P, D, P], true, BY_ID);
/// Table 11, shares: (kind, id) → number of inodes that use a shared content or xattr set.
pub static SHARES: Table = table(11, "shares", true, false, &[P], false, BY_ID);

/// All tables, by number from 1.
pub static TABLES: [&Table; 11] =
    [&INODES, &DIRENTS, &CONTENTS, &XATTRS, &TINY, &ORPHANS, &IDENTITIES, &MAP, &SNAPSHOTS, &THAWED, &SHARES];
