//! Rows of the snapshots table (section 10).

use crate::format::bytes::{Cursor, put_varint};
use crate::format::view::{RawView, View};
use crate::format::{FormatError, limits};
use zerocopy::IntoBytes;

use super::Time;

/// A row of the snapshots table: a view under a name. The snapshot's ordinal is the row's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Name of the snapshot: 1 to 255 bytes, by the rules for names in directories.
    pub name: Vec<u8>,
    /// A comment for people, at most [`limits::SNAPSHOT_COMMENT`] bytes; may be empty.
    pub comment: Vec<u8>,
    /// Time when the snapshot was made.
    pub time: Time,
    /// The trees that the snapshot shows.
    pub view: View,
}

impl SnapshotRow {
    /// Returns the row's tail.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.name.len() + self.comment.len() + RawView::SIZE + 24);
        for bytes in [&self.name, &self.comment] {
            put_varint(&mut out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        out.extend_from_slice(&self.time.secs.to_le_bytes());
        out.extend_from_slice(&self.time.nanos.to_le_bytes());
        out.extend_from_slice(self.view.encode().as_bytes());
        out
    }

    /// Decodes the row from its tail.
    ///
    /// # Errors
    /// Fails if the tail is not valid.
    pub fn decode(tail: &[u8]) -> Result<Self, FormatError> {
        //= format-spec.md#10
        //# A reader refuses a row whose name breaks the rules of 8.2, whose nanoseconds are not below 10^9, whose view
        //# is not valid, or with bytes after the view.
        let mut cursor = Cursor::new(tail, "snapshot");
        let len = cursor.varint_to(limits::NAME_LEN as u64, "name of a snapshot")? as usize;
        let name = cursor.take(len)?.to_vec();
        super::dirent::check_name(&name)?;
        let len = cursor.varint_to(limits::SNAPSHOT_COMMENT, "comment of a snapshot")? as usize;
        let comment = cursor.take(len)?.to_vec();
        let (secs, nanos) = (cursor.u64()? as i64, cursor.u32()?);
        if nanos > limits::NANOS {
            return Err(FormatError::Limit {
                what: "nanoseconds of a snapshot",
                value: nanos.into(),
                limit: limits::NANOS.into(),
            });
        }
        let view = RawView::read(cursor.take(RawView::SIZE)?, "view of a snapshot")?.validate()?;
        cursor.end()?;
        Ok(SnapshotRow { name, comment, time: Time { secs, nanos }, view })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::SubchunkId;
    use crate::format::sums::Hash24;
    use crate::format::tree_ref::{TreeRef, TreeRoot};

    fn row() -> SnapshotRow {
        let tree = |block| TreeRef {
            root: Some(TreeRoot { block: SubchunkId(block), hash: Hash24([block as u8; 24]), levels: 2 }),
            rows: 100 + block,
        };
        SnapshotRow {
            name: b"before the thaw".to_vec(),
            comment: "first snow \u{2744}".into(),
            time: Time { secs: -5, nanos: 999_999_999 },
            view: View {
                inodes_tree: tree(9),
                dirents_tree: tree(8),
                identities_tree: tree(7),
                inodes: 12,
                bytes: 3456,
                ..View::default()
            },
        }
    }

    #[test]
    fn a_snapshot_comes_back_with_its_empty_trees() {
        let row = row();
        let tail = row.encode();
        assert_eq!(tail.len(), 1 + 15 + 1 + 14 + 8 + 4 + 304);
        assert_eq!(SnapshotRow::decode(&tail).unwrap(), row);
        let bare = SnapshotRow { comment: Vec::new(), view: View::default(), ..row };
        assert_eq!(SnapshotRow::decode(&bare.encode()).unwrap(), bare);
    }

    //= format-spec.md#10
    //= type=test
    //# A reader refuses a row whose name breaks the rules of 8.2, whose nanoseconds are not below 10^9, whose view is
    //# not valid, or with bytes after the view.
    #[test]
    fn a_snapshot_with_a_bad_name_time_view_or_end_is_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
            let bad = SnapshotRow { name: name.to_vec(), ..row() };
            assert!(SnapshotRow::decode(&bad.encode()).is_err(), "{name:?}");
        }
        let bad = SnapshotRow { time: Time { secs: 0, nanos: 1_000_000_000 }, ..row() };
        assert!(SnapshotRow::decode(&bad.encode()).is_err());
        let bad = SnapshotRow { comment: vec![0; 4097], ..row() };
        assert!(SnapshotRow::decode(&bad.encode()).is_err());
        let whole = row().encode();
        let mut other = whole.clone();
        // The number of the first tree's table.
        other[whole.len() - 304] = 2;
        assert!(SnapshotRow::decode(&other).is_err());
        for cut in 0..whole.len() {
            assert!(SnapshotRow::decode(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(SnapshotRow::decode(&[&whole[..], b"x"].concat()).is_err());
    }
}
