//! Table blocks: sorted rows in column streams (section 7.2).
//!
//! [`BlockBuilder`] takes rows in key order and makes a block's raw bytes. [`Block::decode`] checks untrusted raw bytes
//! once and completely, and lays the rows out so that lookups need no further checks and no allocation. The memory of a
//! block is at most [`Block::memory_bound`] of the number of its raw bytes.

use super::bytes::{Cursor, put_delta, put_varint, zigzag};
use super::schema::{Coding, Schema, Table};
use super::{FormatError, limits};
use std::cmp::Ordering;

/// A key of a row in any table: ordered by `a`, `b`, then `name` bytewise. In tables without `b` it is 0; in tables
/// without names the name is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key {
    /// First part of the key.
    pub a: u64,
    /// Second part of the key; 0 in tables without it.
    pub b: u64,
    /// Third part of the key; empty in tables without names.
    pub name: Vec<u8>,
}

impl Key {
    /// Makes a key without a name.
    pub fn new(a: u64, b: u64) -> Self {
        Key { a, b, name: Vec::new() }
    }

    /// Makes a key with a name and without `b`.
    pub fn named(a: u64, name: &[u8]) -> Self {
        Key { a, b: 0, name: name.to_vec() }
    }

    /// Returns the key, borrowed.
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { a: self.a, b: self.b, name: &self.name }
    }
}

/// A borrowed [`Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRef<'a> {
    /// First part of the key.
    pub a: u64,
    /// Second part of the key; 0 in tables without it.
    pub b: u64,
    /// Third part of the key; empty in tables without names.
    pub name: &'a [u8],
}

impl<'a> KeyRef<'a> {
    /// Makes a key without a name.
    pub fn new(a: u64, b: u64) -> Self {
        KeyRef { a, b, name: &[] }
    }

    /// Makes a key with a name and without `b`.
    pub fn named(a: u64, name: &'a [u8]) -> Self {
        KeyRef { a, b: 0, name }
    }

    /// Returns the key, owned.
    pub fn to_key(self) -> Key {
        Key { a: self.a, b: self.b, name: self.name.to_vec() }
    }
}

/// A row of any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Key of the row.
    pub key: Key,
    /// Integer columns of the row: as many as the table's schema has.
    pub ints: Vec<u64>,
    /// Bytes of the row after its integer columns; empty in tables without tails.
    pub tail: Vec<u8>,
}

/// Number of streams for the keys of a block. A stream for each integer column follows, then those for the tails.
const KEY_STREAMS: usize = 5;
const TAIL_STREAMS: usize = 2;
/// Bytes of the fixed head of a block: table, level, number of integer columns, reserved byte, number of rows.
const FIXED: usize = 8;
/// Most bytes of names that one byte of a block can decode to. Names are front-coded, so one byte can repeat up to 255
/// bytes of the name before.
const NAME_EXPANSION: usize = 256;

/// Encodes rows, which are pushed in key order, as the raw bytes of one table block.
#[derive(Debug)]
pub struct BlockBuilder {
    schema: &'static Schema,
    level: u8,
    rows: u32,
    streams: Vec<Vec<u8>>,
    last: Key,
    last_ints: Vec<u64>,
}

impl BlockBuilder {
    /// Makes a builder without rows for a block of `table` at `level`; level 0 is a leaf.
    pub fn new(table: &'static Table, level: u8) -> Self {
        let schema = table.schema(level);
        BlockBuilder {
            schema,
            level,
            rows: 0,
            streams: vec![Vec::new(); KEY_STREAMS + schema.ints.len() + TAIL_STREAMS],
            last: Key::default(),
            last_ints: vec![0; schema.ints.len()],
        }
    }

    /// Returns whether no row was pushed since the builder was made or last finished.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Returns the number of rows pushed so far.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Returns the bytes that the block would have if it were finished now.
    pub fn len(&self) -> usize {
        FIXED + 4 * self.streams.len() + self.streams.iter().map(Vec::len).sum::<usize>()
    }

    /// Returns an upper bound of the bytes that [`BlockBuilder::push`] of this row adds.
    pub fn row_bound(key: KeyRef<'_>, ints: &[u64], tail: &[u8]) -> usize {
        10 * (5 + ints.len()) + key.name.len() + tail.len()
    }

    /// Appends a row.
    ///
    /// # Panics
    /// Panics if the key does not ascend or the row does not fit the schema: that is a bug of the caller; no
    /// input causes it.
    #[expect(
        clippy::indexing_slicing,
        reason = "there are as many streams as the schema has; the rows written are our own"
    )]
    pub fn push(&mut self, key: KeyRef<'_>, ints: &[u64], tail: &[u8]) {
        assert!(self.rows == 0 || self.last.as_ref() < key, "keys of a table block must ascend");
        assert_eq!(ints.len(), self.schema.ints.len(), "a row of table {} needs its columns", self.schema.table.0);
        assert!(self.schema.has_tail || tail.is_empty());
        let same_a = self.rows > 0 && self.last.a == key.a;
        let same_ab = same_a && self.last.b == key.b;
        put_varint(&mut self.streams[0], key.a - if self.rows > 0 { self.last.a } else { 0 });
        if self.schema.has_b {
            put_varint(&mut self.streams[1], key.b - if same_a { self.last.b } else { 0 });
        }
        if self.schema.has_name {
            let shared =
                if same_ab { self.last.name.iter().zip(key.name).take_while(|(x, y)| x == y).count() } else { 0 };
            put_varint(&mut self.streams[2], shared as u64);
            put_varint(&mut self.streams[3], (key.name.len() - shared) as u64);
            self.streams[4].extend_from_slice(&key.name[shared..]);
        }
        for (i, (&value, coding)) in ints.iter().zip(self.schema.ints).enumerate() {
            let out = &mut self.streams[KEY_STREAMS + i];
            let last = &mut self.last_ints[i];
            match coding {
                Coding::Plain => put_varint(out, value),
                Coding::Delta => {
                    put_delta(out, *last, value);
                    *last = value;
                }
                Coding::Nullable if value == 0 => out.push(0),
                Coding::Nullable => {
                    assert!(value < limits::ID, "a nullable column holds ids");
                    put_varint(out, 1 + zigzag(value.wrapping_sub(*last) as i64));
                    *last = value;
                }
            }
        }
        if self.schema.has_tail {
            let at = KEY_STREAMS + self.schema.ints.len();
            put_varint(&mut self.streams[at], tail.len() as u64);
            self.streams[at + 1].extend_from_slice(tail);
        }
        self.last.a = key.a;
        self.last.b = key.b;
        self.last.name.clear();
        self.last.name.extend_from_slice(key.name);
        self.rows += 1;
    }

    /// Returns the block's raw bytes. The builder is empty again afterwards.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        out.extend_from_slice(&[self.schema.table.0, self.level, self.schema.ints.len() as u8, 0]);
        out.extend_from_slice(&self.rows.to_le_bytes());
        for stream in &self.streams {
            out.extend_from_slice(&(stream.len() as u32).to_le_bytes());
        }
        for stream in &mut self.streams {
            out.extend_from_slice(stream);
            stream.clear();
        }
        self.rows = 0;
        self.last = Key::default();
        self.last_ints.fill(0);
        out
    }
}

/// A verified table block: rows by index, in key order.
#[derive(Debug)]
pub struct Block {
    level: u8,
    width: usize,
    reserved: u8,
    a: Vec<u64>,
    b: Vec<u64>,
    names: Vec<u8>,
    name_ends: Vec<u32>,
    ints: Vec<u64>,
    tails: Vec<u8>,
    tail_ends: Vec<u32>,
}

impl Block {
    /// Verifies the raw bytes of a block of `table` at `level`, and decodes them.
    ///
    /// # Errors
    /// Returns `Invalid`, `Limit` or `Truncated` if the bytes are not such a block.
    pub fn decode(table: &'static Table, level: u8, raw: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "table block";
        //= format-spec.md#7.2
        //# A reader refuses a block whose table or level is not the expected one, whose keys do not ascend, or whose
        //# streams do not hold exactly its rows.
        if raw.len() as u64 > limits::TABLE_BLOCK {
            return Err(FormatError::Limit { what: WHAT, value: raw.len() as u64, limit: limits::TABLE_BLOCK });
        }
        let schema = table.schema(level);
        let width = schema.ints.len();
        let mut cursor = Cursor::new(raw, WHAT);
        let [table, own_level, own_width, reserved] = cursor.array::<4>()?;
        if [table, own_level, own_width] != [schema.table.0, level, width as u8] {
            return Err(FormatError::invalid(WHAT, "it is of another table or level"));
        }
        let rows = cursor.u32()? as usize;
        let mut lengths = [0usize; 32];
        let streams = KEY_STREAMS + width + TAIL_STREAMS;
        for length in lengths.iter_mut().take(streams) {
            *length = cursor.u32()? as usize;
        }
        // Every row has at least one byte in stream `a`, so this bounds all allocations below.
        if rows == 0 || rows > lengths[0] {
            return Err(FormatError::invalid(WHAT, "its number of rows does not fit its streams"));
        }
        let mut parts: [&[u8]; 32] = [&[]; 32];
        for (part, &length) in parts.iter_mut().zip(&lengths).take(streams) {
            *part = cursor.take(length)?;
        }
        cursor.end()?;

        let mut block = Block {
            level,
            width,
            reserved,
            a: Vec::with_capacity(rows),
            b: Vec::new(),
            names: Vec::new(),
            name_ends: Vec::new(),
            ints: Vec::new(),
            tails: Vec::new(),
            tail_ends: Vec::new(),
        };
        block.decode_keys(schema, rows, &parts)?;
        let mut parts = parts.into_iter().skip(KEY_STREAMS);
        let columns: Vec<_> = parts.by_ref().take(width).collect();
        block.decode_ints(schema, rows, &columns)?;
        let (tail_lens, tails) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if schema.has_tail {
            let mut cursor = Cursor::new(tail_lens, WHAT);
            block.tail_ends.reserve_exact(rows);
            let mut end = 0u64;
            for _ in 0..rows {
                end += cursor.varint_to(tails.len() as u64 - end, "length of a tail")?;
                block.tail_ends.push(end as u32);
            }
            cursor.end()?;
            if end != tails.len() as u64 {
                return Err(FormatError::invalid(WHAT, "its tails do not fill their stream"));
            }
            block.tails = tails.to_vec();
        } else if !tail_lens.is_empty() || !tails.is_empty() {
            return Err(FormatError::invalid(WHAT, "it has tails where its table has none"));
        }
        Ok(block)
    }

    fn decode_keys(&mut self, schema: &Schema, rows: usize, parts: &[&[u8]; 32]) -> Result<(), FormatError> {
        const WHAT: &str = "keys of a table block";
        let disorder = FormatError::invalid(WHAT, "they do not ascend");
        let [mut a, mut b, mut shared, mut name_lens, mut names] =
            [parts[0], parts[1], parts[2], parts[3], parts[4]].map(|part| Cursor::new(part, WHAT));
        if schema.has_b {
            self.b.reserve_exact(rows);
        }
        if schema.has_name {
            self.name_ends.reserve_exact(rows);
        }
        let (mut last_a, mut last_b, mut last_name) = (0u64, 0u64, 0..0usize);
        for row in 0..rows {
            let step = a.varint()?;
            let key_a = last_a.checked_add(step).ok_or_else(|| disorder.clone())?;
            let same_a = row > 0 && step == 0;
            let mut same_ab = same_a;
            if schema.has_b {
                let step = b.varint()?;
                let key_b = if same_a { last_b } else { 0 }.checked_add(step).ok_or_else(|| disorder.clone())?;
                same_ab = same_a && step == 0;
                self.b.push(key_b);
                last_b = key_b;
            }
            if schema.has_name {
                let limit = if same_ab { last_name.len() as u64 } else { 0 };
                let shared = shared.varint_to(limit, "shared bytes of a name")? as usize;
                let own = name_lens.varint_to((limits::NAME_LEN - shared) as u64, "bytes of a name")? as usize;
                let own = names.take(own)?;
                if same_ab {
                    // The names ascend only if this one is greater after the shared bytes.
                    let before = self.names.get(last_name.start + shared..last_name.end).unwrap_or_default();
                    if before.cmp(own) != Ordering::Less {
                        return Err(disorder);
                    }
                }
                let start = self.names.len();
                self.names.extend_from_within(last_name.start..last_name.start + shared);
                self.names.extend_from_slice(own);
                last_name = start..self.names.len();
                self.name_ends.push(self.names.len() as u32);
            } else if same_ab {
                return Err(disorder);
            }
            self.a.push(key_a);
            last_a = key_a;
        }
        for cursor in [a, b, shared, name_lens, names] {
            cursor.end()?;
        }
        Ok(())
    }

    fn decode_ints(&mut self, schema: &Schema, rows: usize, parts: &[&[u8]]) -> Result<(), FormatError> {
        const WHAT: &str = "column of a table block";
        if parts.iter().any(|part| part.len() < rows) {
            return Err(FormatError::invalid(WHAT, "it has fewer values than there are rows"));
        }
        self.ints = vec![0; rows * self.width];
        for (column, (part, coding)) in parts.iter().zip(schema.ints).enumerate() {
            let mut cursor = Cursor::new(part, WHAT);
            let mut last = 0u64;
            for slot in self.ints.iter_mut().skip(column).step_by(self.width) {
                let value = cursor.varint()?;
                *slot = match coding {
                    Coding::Plain => value,
                    Coding::Delta => {
                        last = last.wrapping_add(super::bytes::unzigzag(value) as u64);
                        last
                    }
                    Coding::Nullable if value == 0 => 0,
                    Coding::Nullable => {
                        last = last.wrapping_add(super::bytes::unzigzag(value - 1) as u64);
                        if last == 0 || last >= limits::ID {
                            return Err(FormatError::Limit { what: WHAT, value: last, limit: limits::ID });
                        }
                        last
                    }
                };
            }
            cursor.end()?;
        }
        Ok(())
    }

    /// Returns the reserved byte of the block, which is zero in blocks of this version. Only `check` looks at it.
    pub fn reserved(&self) -> u8 {
        self.reserved
    }

    /// Returns the level of the block, 0 for a leaf.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Returns the number of rows, at least one.
    pub fn len(&self) -> usize {
        self.a.len()
    }

    /// Returns false: a block has at least one row.
    pub fn is_empty(&self) -> bool {
        self.a.is_empty()
    }

    /// Returns the key of row number `row`.
    ///
    /// # Panics
    /// Panics if `row` is not below [`Block::len`], as all accessors by row do.
    #[expect(
        clippy::indexing_slicing,
        reason = "the caller answers for `row`; the streams have as many values as there are rows"
    )]
    pub fn key(&self, row: usize) -> KeyRef<'_> {
        KeyRef {
            a: self.a[row],
            b: if self.b.is_empty() { 0 } else { self.b[row] },
            name: Self::slice(&self.names, &self.name_ends, row),
        }
    }

    /// Returns the integer columns of row number `row`.
    #[expect(
        clippy::indexing_slicing,
        reason = "the caller answers for `row`; there is a value for each row and column"
    )]
    pub fn ints(&self, row: usize) -> &[u64] {
        &self.ints[row * self.width..(row + 1) * self.width]
    }

    /// Returns the tail of row number `row`.
    pub fn tail(&self, row: usize) -> &[u8] {
        Self::slice(&self.tails, &self.tail_ends, row)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the caller answers for `row`; decoding checked that the ends ascend and are within the bytes"
    )]
    fn slice<'a>(bytes: &'a [u8], ends: &[u32], row: usize) -> &'a [u8] {
        if ends.is_empty() {
            return &[];
        }
        let start = if row == 0 { 0 } else { ends[row - 1] as usize };
        &bytes[start..ends[row] as usize]
    }

    /// Returns row number `row`, owned.
    pub fn row(&self, row: usize) -> Row {
        Row { key: self.key(row).to_key(), ints: self.ints(row).to_vec(), tail: self.tail(row).to_vec() }
    }

    /// Returns how many rows have a key below `key`: the index of the first row whose key is not below it.
    pub fn lower_bound(&self, key: KeyRef<'_>) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Returns the index of the last row whose key is not above `key`, or `None`.
    pub fn floor(&self, key: KeyRef<'_>) -> Option<usize> {
        let at = self.lower_bound(key);
        if at < self.len() && self.key(at) == key { Some(at) } else { at.checked_sub(1) }
    }

    /// Returns the bytes of memory that the block takes.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + 8 * (self.a.capacity() + self.b.capacity() + self.ints.capacity())
            + 4 * (self.name_ends.capacity() + self.tail_ends.capacity())
            + self.names.capacity()
            + self.tails.capacity()
    }

    /// Returns an upper bound of the memory in bytes that a block of `raw` raw bytes takes.
    pub const fn memory_bound(raw: usize) -> usize {
        // Integers grow at most eightfold (one byte becomes a u64), a name by the bytes it shares; vectors may double.
        size_of::<Self>() + raw * (8 + 2 * NAME_EXPANSION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::schema;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn rows_of(table: &'static Table) -> impl Strategy<Value = BTreeMap<Key, (Vec<u64>, Vec<u8>)>> {
        let s = &table.leaf;
        let b = if s.has_b { 0u64..5 } else { 0..1 };
        let name = prop::collection::vec(97u8..100, 0..=if s.has_name { 6 } else { 0 });
        let key = (prop_oneof![0u64..4, any::<u64>()], b, name).prop_map(|(a, b, name)| Key { a, b, name });
        let ints = s.ints.iter().map(|c| match c {
            Coding::Nullable => prop_oneof![Just(0u64), 1..limits::ID].boxed(),
            _ => any::<u64>().boxed(),
        });
        let tail = prop::collection::vec(any::<u8>(), 0..=if s.has_tail { 20 } else { 0 });
        prop::collection::btree_map(key, (ints.collect::<Vec<_>>(), tail), 1..40)
    }

    /// A block of dirents that claims `rows` rows and has these streams: a, shared, name_len, name, inode, type.
    fn dirents(rows: u32, streams: [&[u8]; 6]) -> Vec<u8> {
        let [a, shared, name_len, name, inode, kind] = streams;
        let streams = [a, &[], shared, name_len, name, inode, kind, &[], &[]];
        let mut raw = vec![2, 0, 2, 0];
        raw.extend_from_slice(&rows.to_le_bytes());
        streams.iter().for_each(|stream| raw.extend_from_slice(&(stream.len() as u32).to_le_bytes()));
        streams.iter().for_each(|stream| raw.extend_from_slice(stream));
        raw
    }

    //= format-spec.md#7.2
    //= type=test
    //# A reader refuses a block whose table or level is not the expected one, whose keys do not ascend, or whose
    //# streams do not hold exactly its rows.
    #[test]
    fn a_block_of_another_table_or_level_out_of_order_or_with_too_much_or_too_little_is_refused() {
        let good: [&[u8]; 6] = [&[1, 0], &[0, 1], &[2, 1], b"abc", &[3, 1], &[8, 8]];
        let decode = |rows, streams| Block::decode(&schema::DIRENTS, 0, &dirents(rows, streams));
        let block = decode(2, good).unwrap();
        assert_eq!((block.key(0).name, block.key(1).name), (&b"ab"[..], &b"ac"[..]));
        let raw = dirents(2, good);
        assert!(Block::decode(&schema::INODES, 0, &raw).is_err());
        assert!(Block::decode(&schema::DIRENTS, 1, &raw).is_err());
        let with = |at: usize, stream: &'static [u8]| {
            let mut streams = good;
            streams[at] = stream;
            streams
        };
        for (what, rows, streams) in [
            ("no row", 0, good),
            ("a row less than its streams hold", 1, good),
            ("a row more", 3, good),
            ("a name that is the one before", 2, with(4 - 1, b"abb")),
            ("a name below the one before", 2, with(4 - 1, b"aba")),
            ("more name bytes than the names have", 2, with(3, b"abcd")),
            ("fewer", 2, with(3, b"ab")),
            ("more shared bytes than the name before has", 2, with(1, &[0, 3])),
            ("a value too much in a column", 2, with(4, &[3, 1, 1])),
            ("a value too few", 2, with(5, &[8])),
        ] {
            assert!(decode(rows, streams).is_err(), "{what}");
        }
        assert!(Block::decode(&schema::DIRENTS, 0, &[&raw[..], b"x"].concat()).is_err());
        for cut in 0..raw.len() {
            assert!(Block::decode(&schema::DIRENTS, 0, &raw[..cut]).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn blocks_of_every_table_come_back_as_they_went_in(
            (table, rows) in (0..schema::TABLES.len()).prop_flat_map(|i| (Just(schema::TABLES[i]), rows_of(schema::TABLES[i])))
        ) {
            let mut builder = BlockBuilder::new(table, 0);
            for (key, (ints, tail)) in &rows {
                builder.push(key.as_ref(), ints, tail);
            }
            let expected = builder.len();
            let raw = builder.finish();
            prop_assert_eq!(raw.len(), expected);
            let block = Block::decode(table, 0, &raw).unwrap();
            prop_assert!(block.memory() <= Block::memory_bound(raw.len()));
            let got: Vec<Row> = (0..block.len()).map(|i| block.row(i)).collect();
            let want: Vec<Row> = rows.iter().map(|(key, (ints, tail))| Row { key: key.clone(), ints: ints.clone(), tail: tail.clone() }).collect();
            prop_assert_eq!(got, want);
            for (i, key) in rows.keys().enumerate() {
                prop_assert_eq!(block.lower_bound(key.as_ref()), i);
                prop_assert_eq!(block.floor(key.as_ref()), Some(i));
            }
        }

        #[test]
        fn a_changed_byte_gives_a_block_or_an_error(
            (table, rows) in (0..schema::TABLES.len()).prop_flat_map(|i| (Just(schema::TABLES[i]), rows_of(schema::TABLES[i]))),
            at: prop::sample::Index, value: u8,
        ) {
            let mut builder = BlockBuilder::new(table, 0);
            for (key, (ints, tail)) in &rows {
                builder.push(key.as_ref(), ints, tail);
            }
            let mut raw = builder.finish();
            let at = at.index(raw.len());
            raw[at] = value;
            if let Ok(block) = Block::decode(table, 0, &raw) {
                for i in 1..block.len() {
                    prop_assert!(block.key(i - 1) < block.key(i));
                }
            }
        }
    }
}
