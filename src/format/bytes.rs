//! Varints, zigzag, and a cursor over untrusted bytes.

use super::FormatError;

/// Appends `value` as unsigned LEB128.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Maps a signed number to an unsigned one so that numbers near zero stay small, negative ones too.
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Returns the signed number that [`zigzag`] maps to `value`.
pub const fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// Appends the difference `value - base` (modulo 2^64, read as signed) as a zigzag varint.
pub fn put_delta(out: &mut Vec<u8>, base: u64, value: u64) {
    put_varint(out, zigzag(value.wrapping_sub(base) as i64));
}

/// Reads values one after another from untrusted bytes. A read beyond the end is an error.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// Makes a cursor on the first of `bytes`; `what` names the structure in errors.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Cursor { bytes, what }
    }

    /// Returns the number of bytes that are not read yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the bytes that are not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Takes the next `n` bytes.
    ///
    /// # Errors
    /// `Truncated` if fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], FormatError> {
        match self.bytes.split_at_checked(n) {
            Some((head, tail)) => {
                self.bytes = tail;
                Ok(head)
            }
            None => Err(FormatError::Truncated { what: self.what, need: n as u64, have: self.bytes.len() as u64 }),
        }
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// `Truncated` at the end.
    pub fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    /// Takes `N` bytes as an array.
    ///
    /// # Errors
    /// `Truncated` if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        match self.bytes.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.bytes = tail;
                Ok(*head)
            }
            None => Err(FormatError::Truncated { what: self.what, need: N as u64, have: self.bytes.len() as u64 }),
        }
    }

    /// Takes a little-endian u32.
    ///
    /// # Errors
    /// `Truncated` if fewer than four bytes are left.
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Takes a little-endian u64.
    ///
    /// # Errors
    /// `Truncated` if fewer than eight bytes are left.
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Takes a varint in its shortest form.
    ///
    /// # Errors
    /// `Truncated` at the end; `Invalid` if it is overlong or above 2^64-1.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, FormatError> {
        if let [first, rest @ ..] = self.bytes
            && *first < 0x80
        {
            self.bytes = rest;
            return Ok(u64::from(*first));
        }
        if let [first, second @ 1..0x80, rest @ ..] = self.bytes {
            self.bytes = rest;
            return Ok(u64::from(*first & 0x7f) | u64::from(*second) << 7);
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, FormatError> {
        let mut value = 0u64;
        let mut bytes = self.bytes.iter();
        for i in 0..10 {
            let Some(&byte) = bytes.next() else { break };
            if i == 9 && byte > 1 {
                return Err(FormatError::invalid(self.what, "a varint is above 2^64-1"));
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                if byte == 0 && i > 0 {
                    return Err(FormatError::invalid(self.what, "a varint is not in its shortest form"));
                }
                self.bytes = bytes.as_slice();
                return Ok(value);
            }
        }
        Err(FormatError::Truncated {
            what: self.what,
            need: self.bytes.len() as u64 + 1,
            have: self.bytes.len() as u64,
        })
    }

    /// Takes a varint of at most `limit`; `what` names it in errors.
    ///
    /// # Errors
    /// As [`Cursor::varint`], or `Limit`.
    pub fn varint_to(&mut self, limit: u64, what: &'static str) -> Result<u64, FormatError> {
        let value = self.varint()?;
        if value > limit {
            return Err(FormatError::Limit { what, value, limit });
        }
        Ok(value)
    }

    /// Takes a zigzag varint and adds it to `base`, modulo 2^64.
    ///
    /// # Errors
    /// As [`Cursor::varint`].
    pub fn delta(&mut self, base: u64) -> Result<u64, FormatError> {
        Ok(base.wrapping_add(unzigzag(self.varint()?) as u64))
    }

    /// Checks that all bytes are read.
    ///
    /// # Errors
    /// Returns `Trailing` if bytes are left.
    pub fn end(&self) -> Result<(), FormatError> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(FormatError::Trailing { what: self.what, extra: self.bytes.len() as u64 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_and_deltas_come_back_as_they_went_in(value: u64, base: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_delta(&mut out, base, value);
            let mut cursor = Cursor::new(&out, "test");
            prop_assert_eq!(cursor.varint().unwrap(), value);
            prop_assert_eq!(cursor.delta(base).unwrap(), value);
            cursor.end().unwrap();
        }

        #[test]
        fn zigzag_is_a_bijection(value: i64) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn overlong_and_oversized_varints_are_refused() {
        for bytes in [&[0x80, 0x00][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], &[0x80]] {
            assert!(Cursor::new(bytes, "test").varint().is_err(), "{bytes:x?}");
        }
    }
}
