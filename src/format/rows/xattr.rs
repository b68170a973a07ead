//! Sets of extended attributes (section 8.4).

use crate::format::bytes::{Cursor, put_varint};
use crate::format::{FormatError, limits};

/// One extended attribute: its name with prefix, and its value as the kernel gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Name, for example `user.x`, `security.capability` or `system.posix_acl_access`.
    pub name: Vec<u8>,
    /// Value in bytes.
    pub value: Vec<u8>,
}

/// The extended attributes of an inode, ascending by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct XattrSet(pub Vec<Xattr>);

impl XattrSet {
    /// Makes a set of these attributes, given in any order. Of two with the same name, the one with the smaller value
    /// counts.
    pub fn new(mut attributes: Vec<Xattr>) -> Self {
        attributes.sort();
        attributes.dedup_by(|later, first| later.name == first.name);
        XattrSet(attributes)
    }

    /// Returns the value of the attribute with this name, or `None`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let at = self.0.binary_search_by(|x| x.name.as_slice().cmp(name)).ok()?;
        self.0.get(at).map(|x| x.value.as_slice())
    }

    /// Returns the encoded set.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for Xattr { name, value } in &self.0 {
            for bytes in [name, value] {
                put_varint(&mut out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
        }
        out
    }

    /// Decodes all of `bytes` as one set.
    ///
    /// # Errors
    /// Fails if the bytes are not a valid set.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "xattr set";
        if bytes.len() > limits::XATTR_SET {
            return Err(FormatError::Limit { what: WHAT, value: bytes.len() as u64, limit: limits::XATTR_SET as u64 });
        }
        let mut cursor = Cursor::new(bytes, WHAT);
        let mut out: Vec<Xattr> = Vec::new();
        while cursor.remaining() > 0 {
            let len = cursor.varint_to(255, "name of an xattr")? as usize;
            let name = cursor.take(len)?.to_vec();
            let len = cursor.varint_to(limits::XATTR_VALUE as u64, "value of an xattr")? as usize;
            let value = cursor.take(len)?.to_vec();
            if name.is_empty() || name.contains(&0) || out.last().is_some_and(|last| last.name >= name) {
                return Err(FormatError::invalid(WHAT, "names are empty, hold a zero byte, or do not ascend"));
            }
            out.push(Xattr { name, value });
        }
        Ok(XattrSet(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_comes_back_sorted() {
        let x = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.into() };
        let set = XattrSet::new(vec![x("user.b", b""), x("trusted.a", b"\0\xff"), x("user.b", b"later")]);
        assert_eq!(XattrSet::decode(&set.encode()).unwrap(), set);
        assert_eq!(set.get(b"trusted.a"), Some(&b"\0\xff"[..]));
        assert_eq!(set.get(b"user.b"), Some(&b""[..]));
        assert_eq!(set.get(b"user.c"), None);
    }
}
