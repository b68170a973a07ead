//! Transactions of the thaw log (section 11): the changes of a commit, as operations on rows and on thawed ranges.

use super::block::{Key, KeyRef, Row};
use super::bytes::{Cursor, put_varint};
use super::ids::{InodeId, LogOffset};
use super::root::Root;
use super::schema::{TABLES, Table};
use super::thaw::{MORE_FOLLOWS, TRANSACTION_LEN, TransactionHead};
use super::{FormatError, limits};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{I64, U32, U64};

const WHAT: &str = "transaction";

/// The next free ids of everything that is numbered. They only grow, also across checkpoints. Replay uses
/// [`Counters::larger`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Next free inode number.
    pub inode: u64,
    /// Next free content id.
    pub content: u64,
    /// Next free tiny content id.
    pub tiny: u64,
    /// Next free id of an xattr set.
    pub xattrs: u64,
    /// Next free ordinal of a snapshot.
    pub ordinal: u64,
    /// Next free subchunk id.
    pub subchunk: u64,
    /// Next free superchunk id.
    pub superchunk: u64,
}

impl Counters {
    /// Returns the counters of a root.
    pub fn of(root: &Root) -> Counters {
        Counters {
            inode: root.next_inode,
            content: root.next_content,
            tiny: root.next_tiny,
            xattrs: root.next_xattrs,
            ordinal: root.next_ordinal,
            subchunk: root.next_subchunk,
            superchunk: root.next_superchunk,
        }
    }

    /// Returns, for each counter, the larger of the two values.
    pub fn larger(self, other: Counters) -> Counters {
        //= format-spec.md#11.3
        //# In a replay, a counter becomes the larger of the value in the log and its value before; it must never become
        //# smaller.
        Counters {
            inode: self.inode.max(other.inode),
            content: self.content.max(other.content),
            tiny: self.tiny.max(other.tiny),
            xattrs: self.xattrs.max(other.xattrs),
            ordinal: self.ordinal.max(other.ordinal),
            subchunk: self.subchunk.max(other.subchunk),
            superchunk: self.superchunk.max(other.superchunk),
        }
    }
}

/// A range of a file whose bytes are in the thaw log, or are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thawed {
    /// Inode number of the file.
    pub inode: InodeId,
    /// Offset in the file of the range's first byte.
    pub offset: u64,
    /// Length of the range in bytes, at least 1.
    pub len: u64,
    /// Offset in the thaw log of the frame of written bytes, or [`Thawed::LOST`] if the bytes are lost.
    pub frame: LogOffset,
    /// Offset of the range's first byte in the frame's raw bytes.
    pub within: u64,
    /// XXH3-64 checksum of all raw bytes of the frame, so that a range can name any part of them.
    pub sum: u64,
}

impl Thawed {
    /// Frame offset of a lost range: a segment frame is at offset 0, never a frame of written bytes.
    pub const LOST: LogOffset = LogOffset(0);
}

/// One change in a transaction of the thaw log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Inserts a row, or replaces the row with the same key.
    Put(&'static Table, Row),
    /// Deletes the row with this key.
    Delete(&'static Table, Key),
    /// Deletes all rows whose key is at least the first and below the second. The first is below the second.
    DeleteRange(&'static Table, Key, Key),
    /// Records that a range of a file was written: its bytes are in the thaw log.
    Thawed(Thawed),
    /// Records that no byte of a range is thawed any more: the thawed ones were frozen or cut off.
    NotThawed {
        /// Inode number of the file.
        inode: InodeId,
        /// Offset in the file of the range's first byte.
        offset: u64,
        /// Length of the range in bytes, at least 1.
        len: u64,
    },
    /// Sets the counters of next free ids.
    Counters(Counters),
    /// Records a checkpoint: the root of the head slot with this generation contains all transactions before this one.
    Checkpoint {
        /// Generation of the head slot.
        generation: u64,
    },
}

/// The head of a transaction: its number, its time, and what was durable before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionInfo {
    /// Number of the transaction: one more than that of the one before; the first is 1.
    pub number: u64,
    /// Checksum (`sum`) of the frame of the transaction before, 0 for the first.
    pub previous_sum: u64,
    /// Offset in bytes up to which the thaw log was synced before this transaction was written.
    pub durable_upto: u64,
    /// Offset in bytes up to which the image was synced before this transaction was written.
    pub image_end: u64,
    /// Time of the commit, seconds since 1970.
    pub time: i64,
    /// Nanoseconds after the second `time`, below 10^9.
    pub time_ns: u32,
    /// Whether the next transaction belongs to the same group.
    pub more_follows: bool,
}

/// A transaction of the thaw log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Head of the transaction: its number, its time, and what was durable before it.
    pub info: TransactionInfo,
    /// Changes of the transaction, in order.
    pub operations: Vec<Operation>,
}

mod tag {
    pub const PUT: u64 = 1;
    pub const DELETE: u64 = 2;
    pub const THAWED: u64 = 3;
    pub const NOT_THAWED: u64 = 4;
    pub const COUNTERS: u64 = 5;
    pub const CHECKPOINT: u64 = 6;
    pub const DELETE_RANGE: u64 = 7;
}

impl TransactionInfo {
    /// Encodes a transaction of `count` operations as raw bytes. `body` holds the operations as [`Operation::put`]
    /// encoded them.
    ///
    /// # Errors
    /// Returns `Limit` if there are more than [`TRANSACTION_LEN`] bytes; `Invalid` for a number or a time that readers
    /// refuse.
    pub fn encode(&self, count: u32, body: &[u8]) -> Result<Vec<u8>, FormatError> {
        check_info(self.number, self.time_ns)?;
        let head = TransactionHead {
            number: U64::new(self.number),
            previous_sum: U64::new(self.previous_sum),
            durable_upto: U64::new(self.durable_upto),
            image_end: U64::new(self.image_end),
            time: I64::new(self.time),
            time_ns: U32::new(self.time_ns),
            operations: U32::new(count),
            flags: U32::new(if self.more_follows { MORE_FOLLOWS } else { 0 }),
            reserved: U32::new(0),
        };
        let out = [head.as_bytes(), body].concat();
        within_limit(out.len() as u64)?;
        Ok(out)
    }
}

//= format-spec.md#11.3
//# The raw bytes of a transaction must be at most 1 MiB.
fn within_limit(value: u64) -> Result<(), FormatError> {
    if value > TRANSACTION_LEN {
        return Err(FormatError::Limit { what: "bytes of a transaction", value, limit: TRANSACTION_LEN });
    }
    Ok(())
}

fn check_info(number: u64, time_ns: u32) -> Result<(), FormatError> {
    if time_ns >= 1_000_000_000 {
        return Err(FormatError::invalid(WHAT, "its time has a second or more of nanoseconds"));
    }
    if number == 0 {
        return Err(FormatError::invalid(WHAT, "it has number 0"));
    }
    Ok(())
}

impl Transaction {
    /// Encodes the transaction as raw bytes.
    ///
    /// # Errors
    /// Returns `Limit` if there are more than [`TRANSACTION_LEN`] bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        for operation in &self.operations {
            operation.put(&mut body);
        }
        // Each operation takes at least two bytes, so a count above u32 exceeds the limit of bytes, too.
        self.info.encode(u32::try_from(self.operations.len()).unwrap_or(u32::MAX), &body)
    }

    /// Decodes the raw bytes of a transaction. Takes memory in proportion to them only.
    ///
    /// # Errors
    /// Fails if the bytes are not a valid transaction; an unknown operation or flag is an error, too.
    pub fn decode(raw: &[u8]) -> Result<Self, FormatError> {
        within_limit(raw.len() as u64)?;
        let mut cursor = Cursor::new(raw, WHAT);
        let head = TransactionHead::read(cursor.take(TransactionHead::SIZE)?, WHAT)?;
        check_info(head.number.get(), head.time_ns.get())?;
        if head.flags.get() & !MORE_FOLLOWS != 0 {
            return Err(FormatError::invalid(WHAT, "a flag is set that this version does not know"));
        }
        let mut operations = Vec::new();
        for _ in 0..head.operations.get() {
            operations.push(Operation::take(&mut cursor)?);
        }
        cursor.end()?;
        let info = TransactionInfo {
            number: head.number.get(),
            previous_sum: head.previous_sum.get(),
            durable_upto: head.durable_upto.get(),
            image_end: head.image_end.get(),
            time: head.time.get(),
            time_ns: head.time_ns.get(),
            more_follows: head.flags.get() & MORE_FOLLOWS != 0,
        };
        Ok(Transaction { info, operations })
    }
}

impl Operation {
    /// Appends the operation as a transaction holds it: tag, length, body.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        let tag = self.encode(&mut body);
        put_varint(out, tag);
        put_varint(out, body.len() as u64);
        out.extend_from_slice(&body);
    }

    /// Checks that a reader accepts one operation that [`Operation::put`] encoded.
    ///
    /// # Errors
    /// Fails with the error with which a reader would refuse the operation.
    pub fn check(encoded: &[u8]) -> Result<(), FormatError> {
        let mut cursor = Cursor::new(encoded, WHAT);
        Operation::take(&mut cursor)?;
        cursor.end()
    }

    fn take(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let tag = cursor.varint()?;
        let len = cursor.varint_to(TRANSACTION_LEN, "length of an operation")?;
        let mut body = Cursor::new(cursor.take(len as usize)?, "operation of a transaction");
        let operation = Operation::decode(tag, &mut body)?;
        body.end()?;
        Ok(operation)
    }

    /// Appends the body of the operation, and returns its tag.
    fn encode(&self, out: &mut Vec<u8>) -> u64 {
        match self {
            Operation::Put(table, row) => {
                out.push(table.id().0);
                put_key(out, row.key.as_ref());
                put_varint(out, row.ints.len() as u64);
                for &value in &row.ints {
                    put_varint(out, value);
                }
                put_varint(out, row.tail.len() as u64);
                out.extend_from_slice(&row.tail);
                tag::PUT
            }
            Operation::Delete(table, key) => {
                out.push(table.id().0);
                put_key(out, key.as_ref());
                tag::DELETE
            }
            Operation::DeleteRange(table, from, to) => {
                out.push(table.id().0);
                put_key(out, from.as_ref());
                put_key(out, to.as_ref());
                tag::DELETE_RANGE
            }
            Operation::Thawed(t) => {
                for value in [t.inode.0, t.offset, t.len, t.frame.0, t.within] {
                    put_varint(out, value);
                }
                out.extend_from_slice(&t.sum.to_le_bytes());
                tag::THAWED
            }
            Operation::NotThawed { inode, offset, len } => {
                for value in [inode.0, *offset, *len] {
                    put_varint(out, value);
                }
                tag::NOT_THAWED
            }
            Operation::Counters(c) => {
                for value in [c.inode, c.content, c.tiny, c.xattrs, c.ordinal, c.subchunk, c.superchunk] {
                    put_varint(out, value);
                }
                tag::COUNTERS
            }
            Operation::Checkpoint { generation } => {
                put_varint(out, *generation);
                tag::CHECKPOINT
            }
        }
    }

    fn decode(tag: u64, body: &mut Cursor<'_>) -> Result<Self, FormatError> {
        Ok(match tag {
            tag::PUT => {
                let table = take_table(body)?;
                let key = take_key(table, body)?;
                let columns = table.leaf.ints.len() as u64;
                if body.varint()? != columns {
                    return Err(FormatError::invalid(WHAT, "a row does not have its table's columns"));
                }
                let ints = (0..columns).map(|_| body.varint()).collect::<Result<Vec<_>, _>>()?;
                check_nullable(table, &ints)?;
                let tail = body.varint_to(body.remaining() as u64, "length of a tail")?;
                let tail = body.take(tail as usize)?.to_vec();
                if !table.leaf.has_tail && !tail.is_empty() {
                    return Err(FormatError::invalid(WHAT, "a row has a tail where its table has none"));
                }
                Operation::Put(table, Row { key, ints, tail })
            }
            tag::DELETE => {
                let table = take_table(body)?;
                Operation::Delete(table, take_key(table, body)?)
            }
            tag::DELETE_RANGE => {
                let table = take_table(body)?;
                let (from, to) = (take_key(table, body)?, take_key(table, body)?);
                if from >= to {
                    return Err(FormatError::invalid(WHAT, "a range of deleted keys is empty"));
                }
                Operation::DeleteRange(table, from, to)
            }
            tag::THAWED => {
                let (inode, offset, len) = take_range(body)?;
                let [frame, within] = [body.varint()?, body.varint()?];
                if within.checked_add(len).is_none_or(|end| end > limits::RAW_LEN) {
                    return Err(FormatError::Limit { what: "thawed range", value: len, limit: limits::RAW_LEN });
                }
                let sum = body.u64()?;
                if frame == Thawed::LOST.0 && (within, sum) != (0, 0) {
                    return Err(FormatError::invalid(WHAT, "a lost range names bytes"));
                }
                Operation::Thawed(Thawed { inode, offset, len, frame: LogOffset(frame), within, sum })
            }
            tag::NOT_THAWED => {
                let (inode, offset, len) = take_range(body)?;
                Operation::NotThawed { inode, offset, len }
            }
            tag::COUNTERS => {
                let mut next = || body.varint_to(limits::ID, "counter");
                Operation::Counters(Counters {
                    inode: next()?,
                    content: next()?,
                    tiny: next()?,
                    xattrs: next()?,
                    ordinal: next()?,
                    subchunk: next()?,
                    superchunk: next()?,
                })
            }
            tag::CHECKPOINT => Operation::Checkpoint { generation: body.varint()? },
            //= format-spec.md#11.3
            //# A reader that meets an unknown operation or flag must stop and report it; it must not skip the operation.
            _ => return Err(FormatError::invalid(WHAT, "an operation that this version does not know")),
        })
    }
}

fn put_key(out: &mut Vec<u8>, key: KeyRef<'_>) {
    put_varint(out, key.a);
    put_varint(out, key.b);
    put_varint(out, key.name.len() as u64);
    out.extend_from_slice(key.name);
}

fn take_table(body: &mut Cursor<'_>) -> Result<&'static Table, FormatError> {
    let number = body.u8()?;
    TABLES
        .iter()
        .find(|table| table.id().0 == number)
        .copied()
        .ok_or_else(|| FormatError::invalid(WHAT, "a row of a table that this version does not know"))
}

/// Takes a key, which must have only the parts that its table has: later code relies on that.
fn take_key(table: &Table, body: &mut Cursor<'_>) -> Result<Key, FormatError> {
    let (a, b) = (body.varint()?, body.varint()?);
    let name = body.varint_to(limits::NAME_LEN as u64, "length of a name")?;
    let name = body.take(name as usize)?.to_vec();
    if (!table.leaf.has_b && b != 0) || (!table.leaf.has_name && !name.is_empty()) {
        return Err(FormatError::invalid(WHAT, "a key has a part that its table does not have"));
    }
    Ok(Key { a, b, name })
}

/// Checks that nullable columns of a row hold ids within their limit.
fn check_nullable(table: &Table, ints: &[u64]) -> Result<(), FormatError> {
    let nullable = table.leaf.ints.iter().zip(ints).filter(|(coding, _)| **coding == super::schema::Coding::Nullable);
    match nullable.map(|(_, &value)| value).find(|&value| value >= limits::ID) {
        Some(value) => Err(FormatError::Limit { what: "id in a row", value, limit: limits::ID }),
        None => Ok(()),
    }
}

/// Takes inode, offset and length of a range of at least one byte that ends within the largest possible file.
fn take_range(body: &mut Cursor<'_>) -> Result<(InodeId, u64, u64), FormatError> {
    let (inode, offset, len) = (body.varint()?, body.varint()?, body.varint()?);
    if inode == 0 || inode >= limits::ID {
        return Err(FormatError::Limit { what: "inode of a thawed range", value: inode, limit: limits::ID });
    }
    if len == 0 {
        return Err(FormatError::invalid(WHAT, "a thawed range is empty"));
    }
    match offset.checked_add(len) {
        Some(end) if end <= i64::MAX as u64 => Ok((InodeId(inode), offset, len)),
        _ => Err(FormatError::Limit { what: "end of a thawed range", value: offset, limit: i64::MAX as u64 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = (&'static Table, Row)> {
        let parts = (
            prop::sample::select(TABLES.to_vec()),
            (any::<u64>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..20)),
            prop::collection::vec(0..limits::ID, 16),
            prop::collection::vec(any::<u8>(), 0..50),
        );
        parts.prop_map(|(table, (a, b, name), ints, tail)| {
            let leaf = &table.leaf;
            let key = Key { a, b: if leaf.has_b { b } else { 0 }, name: if leaf.has_name { name } else { Vec::new() } };
            let tail = if leaf.has_tail { tail } else { Vec::new() };
            (table, Row { key, ints: ints[..leaf.ints.len()].to_vec(), tail })
        })
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let range = (1..limits::ID, 0..1u64 << 40, 1..limits::RAW_LEN / 2);
        prop_oneof![
            row().prop_map(|(table, row)| Operation::Put(table, row)),
            row().prop_map(|(table, row)| Operation::Delete(table, row.key)),
            (row(), 1..u64::MAX).prop_map(|((table, row), more)| {
                let to = Key { a: row.key.a.saturating_add(more), ..row.key.clone() };
                if row.key < to { Operation::DeleteRange(table, row.key, to) } else { Operation::Delete(table, to) }
            }),
            (range.clone(), prop_oneof![Just(0), any::<u64>()], 0..limits::RAW_LEN / 2, any::<u64>()).prop_map(
                |((inode, offset, len), frame, within, sum)| {
                    let (inode, frame) = (InodeId(inode), LogOffset(frame));
                    let (within, sum) = if frame == Thawed::LOST { (0, 0) } else { (within, sum) };
                    Operation::Thawed(Thawed { inode, offset, len, frame, within, sum })
                }
            ),
            range.prop_map(|(inode, offset, len)| Operation::NotThawed { inode: InodeId(inode), offset, len }),
            prop::array::uniform7(0..=limits::ID).prop_map(
                |[inode, content, tiny, xattrs, ordinal, subchunk, superchunk]| {
                    Operation::Counters(Counters { inode, content, tiny, xattrs, ordinal, subchunk, superchunk })
                }
            ),
            any::<u64>().prop_map(|generation| Operation::Checkpoint { generation }),
        ]
    }

    prop_compose! {
        fn transaction()(
            number in 1..u64::MAX, previous_sum: u64, durable_upto: u64, image_end: u64, time: i64,
            time_ns in 0..1_000_000_000u32, more_follows: bool, operations in prop::collection::vec(operation(), 0..20),
        ) -> Transaction {
            let info =
                TransactionInfo { number, previous_sum, durable_upto, image_end, time, time_ns, more_follows };
            Transaction { info, operations }
        }
    }

    proptest! {
        #[test]
        fn a_transaction_comes_back(transaction in transaction()) {
            let raw = transaction.encode().unwrap();
            prop_assert_eq!(Transaction::decode(&raw), Ok(transaction));
        }

        #[test]
        fn a_transaction_cut_short_or_too_long_is_refused(transaction in transaction(), cut: prop::sample::Index) {
            let mut raw = transaction.encode().unwrap();
            prop_assert!(Transaction::decode(&raw[..cut.index(raw.len())]).is_err());
            raw.push(0);
            prop_assert!(Transaction::decode(&raw).is_err());
        }

        #[test]
        fn any_bytes_give_an_error_or_a_transaction(transaction in transaction(), at: prop::sample::Index, bits: u8) {
            let mut raw = transaction.encode().unwrap();
            let at = at.index(raw.len());
            raw[at] ^= bits;
            if let Ok(transaction) = Transaction::decode(&raw) {
                prop_assert_eq!(Transaction::decode(&transaction.encode().unwrap()), Ok(transaction));
            }
        }
    }

    fn small(operations: Vec<Operation>) -> Transaction {
        let info = TransactionInfo {
            number: 1,
            previous_sum: 0,
            durable_upto: 0,
            image_end: 0,
            time: 0,
            time_ns: 0,
            more_follows: false,
        };
        Transaction { info, operations }
    }

    //= format-spec.md#11.3
    //= type=test
    //# A reader that meets an unknown operation or flag must stop and report it; it must not skip the operation.
    #[test]
    fn an_operation_or_a_flag_that_is_not_known_is_refused_not_passed_over() {
        let good = small(vec![Operation::Checkpoint { generation: 1 }]).encode().unwrap();
        let flags = TransactionHead::FIELDS.iter().find(|field| field.name == "flags").unwrap().offset;
        for (at, value) in [(TransactionHead::SIZE, 8), (flags, 2), (flags + 3, 0x80)] {
            let mut raw = good.clone();
            raw[at] = value;
            let error = Transaction::decode(&raw).unwrap_err().to_string();
            assert!(error.contains("does not know"), "{error}");
        }
    }

    //= format-spec.md#11.3
    //= type=test
    //# The raw bytes of a transaction must be at most 1 MiB.
    #[test]
    fn a_transaction_of_more_than_a_mebibyte_is_neither_written_nor_read() {
        let row = Row { key: Key::new(1, 0), ints: Vec::new(), tail: vec![7; TRANSACTION_LEN as usize] };
        let long = small(vec![Operation::Put(&super::super::schema::TINY, row)]);
        assert!(matches!(long.encode(), Err(FormatError::Limit { .. })));
        let raw = vec![0; TRANSACTION_LEN as usize + 1];
        assert!(matches!(Transaction::decode(&raw), Err(FormatError::Limit { .. })));
    }

    #[test]
    fn a_range_of_deleted_keys_that_is_empty_or_reversed_is_refused() {
        for (from, to) in [(5, 5), (6, 5)] {
            let range = Operation::DeleteRange(TABLES[0], Key::new(from, 0), Key::new(to, 0));
            assert!(Transaction::decode(&small(vec![range]).encode().unwrap()).is_err());
        }
    }

    //= format-spec.md#11.3
    //= type=test
    //# In a replay, a counter becomes the larger of the value in the log and its value before; it must never become
    //# smaller.
    #[test]
    fn counters_never_become_smaller() {
        let counters = |[inode, content, tiny, xattrs, ordinal, subchunk, superchunk]: [u64; 7]| Counters {
            inode,
            content,
            tiny,
            xattrs,
            ordinal,
            subchunk,
            superchunk,
        };
        let (a, b) = (counters([1, 9, 1, 9, 1, 9, 1]), counters([5, 5, 5, 5, 5, 5, 5]));
        assert_eq!(a.larger(b), counters([5, 9, 5, 9, 5, 9, 5]));
        assert_eq!(b.larger(a), a.larger(b));
    }
}
