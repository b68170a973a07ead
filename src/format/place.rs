//! Where a frame is, and the checksum of its stored bytes (section 3.1).

use super::frame::{FRAME_HEADER, Flags, FrameHeader};
use super::ids::LogOffset;
use super::layout::on_disk;
use super::{FormatError, limits};
use zerocopy::little_endian::{U16, U32, U64};

on_disk! {
    /// A [`Place`] as heads and roots hold it, not verified yet.
    pub struct RawPlace {
        /// Offset in bytes of the frame's header.
        offset: U64,
        /// Offset in bytes of the header of the frame's copy, or 0 for none.
        copy: U64,
        /// Length of the clear part in bytes.
        clear_len: U32,
        /// Length of the stored (compressed) bytes.
        stored_len: U32,
        /// Length in bytes after decoding.
        raw_len: U32,
        /// Number of the codec.
        codec: u8,
        /// Reserved, zero.
        reserved: u8,
        /// Flags of the frame's header.
        flags: U16,
        /// XXH3-64 checksum of the stored bytes.
        sum: U64,
    }
}

/// Where a frame is, with everything needed to read and verify its stored bytes without its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Offset in bytes of the frame's header, at least [`limits::LOG_START`].
    pub offset: LogOffset,
    /// Offset in bytes of a second frame with the same contents, if there is one.
    pub copy: Option<LogOffset>,
    /// Length of the clear part in bytes.
    pub clear_len: u32,
    /// Length of the stored (compressed) bytes.
    pub stored_len: u32,
    /// Length in bytes after decoding, at most [`limits::RAW_LEN`].
    pub raw_len: u32,
    /// Number of the codec, whether known or not.
    pub codec: u8,
    /// Flags of the frame.
    pub flags: Flags,
    /// XXH3-64 checksum of the stored bytes.
    pub sum: u64,
}

impl Place {
    /// Returns the place of the frame with this header, without a copy.
    pub fn of(header: &FrameHeader) -> Self {
        Place {
            offset: header.offset,
            copy: None,
            clear_len: header.clear_len,
            stored_len: header.stored_len,
            raw_len: header.raw_len,
            codec: header.codec,
            flags: header.flags,
            sum: header.sum,
        }
    }

    /// Returns the offset in bytes of the first stored byte of the frame at `offset`, which is the frame itself or its
    /// copy.
    pub fn stored_at(&self, offset: LogOffset) -> u64 {
        offset.0 + FRAME_HEADER as u64 + u64::from(self.clear_len)
    }

    /// Returns the bytes of the whole frame.
    pub fn frame_len(&self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.clear_len) + u64::from(self.stored_len)
    }

    /// Returns the offsets of the frame and of its copy, the frame's own first.
    pub fn offsets(&self) -> impl Iterator<Item = LogOffset> + use<> {
        std::iter::once(self.offset).chain(self.copy)
    }

    /// Returns the place if its numbers are within the limits.
    ///
    /// # Errors
    /// Returns `Limit` if a number is out of bounds.
    pub fn checked(self) -> Result<Self, FormatError> {
        for offset in self.offsets() {
            if offset.0 < limits::LOG_START || offset.0 > limits::IMAGE_LEN {
                return Err(FormatError::Limit {
                    what: "offset of a frame",
                    value: offset.0,
                    limit: limits::IMAGE_LEN,
                });
            }
        }
        //= format-spec.md#14
        //# A reader refuses anything above its limit before it allocates memory for it.
        for (what, value, limit) in [
            ("clear part of a frame", self.clear_len, limits::CLEAR_LEN),
            ("stored bytes of a frame", self.stored_len, limits::STORED_LEN),
            ("raw bytes of a frame", self.raw_len, limits::RAW_LEN),
        ] {
            if u64::from(value) > limit {
                return Err(FormatError::Limit { what, value: value.into(), limit });
            }
        }
        Ok(self)
    }
}

impl RawPlace {
    /// Returns the place, or `None` if the offset is zero.
    ///
    /// # Errors
    /// Fails as [`Place::checked`] does.
    pub fn validate(&self) -> Result<Option<Place>, FormatError> {
        if self.offset.get() == 0 {
            return Ok(None);
        }
        Place {
            offset: LogOffset(self.offset.get()),
            copy: (self.copy.get() != 0).then(|| LogOffset(self.copy.get())),
            clear_len: self.clear_len.get(),
            stored_len: self.stored_len.get(),
            raw_len: self.raw_len.get(),
            codec: self.codec,
            flags: Flags(self.flags.get()),
            sum: self.sum.get(),
        }
        .checked()
        .map(Some)
    }
}

impl From<Option<Place>> for RawPlace {
    fn from(place: Option<Place>) -> Self {
        let Some(p) = place else {
            return zerocopy::FromZeros::new_zeroed();
        };
        RawPlace {
            offset: p.offset.0.into(),
            copy: p.copy.map_or(0, |c| c.0).into(),
            clear_len: p.clear_len.into(),
            stored_len: p.stored_len.into(),
            raw_len: p.raw_len.into(),
            codec: p.codec,
            reserved: 0,
            flags: p.flags.0.into(),
            sum: p.sum.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= format-spec.md#14
    //= type=test
    //# A reader refuses anything above its limit before it allocates memory for it.
    #[test]
    fn a_place_with_an_offset_or_a_length_out_of_bounds_is_refused() {
        let good = Place {
            offset: LogOffset(limits::LOG_START),
            copy: Some(LogOffset(limits::IMAGE_LEN)),
            clear_len: limits::CLEAR_LEN as u32,
            stored_len: limits::STORED_LEN as u32,
            raw_len: limits::RAW_LEN as u32,
            codec: 77,
            flags: Flags::default(),
            sum: 5,
        };
        let raw = RawPlace::from(Some(good));
        assert_eq!(raw.validate(), Ok(Some(good)));
        assert_eq!(RawPlace::from(None).validate(), Ok(None));
        let changes: [fn(&mut RawPlace); 6] = [
            |raw| raw.offset = (limits::LOG_START - 1).into(),
            |raw| raw.offset = (limits::IMAGE_LEN + 1).into(),
            |raw| raw.copy = (limits::IMAGE_LEN + 1).into(),
            |raw| raw.clear_len += 1,
            |raw| raw.stored_len += 1,
            |raw| raw.raw_len += 1,
        ];
        for change in changes {
            let mut raw = raw;
            change(&mut raw);
            assert!(raw.validate().is_err());
        }
    }
}
