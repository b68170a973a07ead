//! The parameters that an image was made with (section 4).

use super::layout::on_disk;
use super::{FormatError, limits};
use zerocopy::little_endian::{U32, U64};

on_disk! {
    /// [`Params`] as heads and roots hold them, not verified yet.
    pub struct RawParams {
        /// Most raw bytes of a superchunk.
        superchunk_size: U32,
        /// Raw bytes of a part, or 0 for superchunks without parts.
        part_size: U32,
        /// Length of the shortest subchunk in bytes.
        chunk_min: U32,
        /// Average length of a subchunk in bytes.
        chunk_avg: U32,
        /// Length of the longest subchunk in bytes.
        chunk_max: U32,
        /// Number of the chunker: 1 FastCDC, 2 fixed length.
        chunker: u8,
        /// Number of the hash for identities: 1 BLAKE3-24, 2 XXH3-128.
        hash: u8,
        /// Number of the default codec.
        codec: u8,
        /// Level of the default codec.
        level: i8,
        /// Most source superchunks that the recipes of one superchunk refer to.
        max_sources: u8,
        /// Number of the profile.
        profile: u8,
        /// Reserved bytes, zero.
        reserved0: [u8; 2],
        /// Size of the working set that a reader should have, in MiB.
        working_set: U32,
        /// Target size of a table block in raw bytes.
        table_block: U32,
        /// Length in bytes of the shortest range that a recipe takes from another subchunk.
        min_match: U32,
        /// Key from which the chunker computes the random numbers of its rolling hash (the gear table).
        chunk_key: [u8; 16],
        /// Id of the superchunk that holds the dictionary, 0 for none.
        dictionary: U64,
        /// Reserved bytes, zero.
        reserved1: [u8; 16],
    }
}

/// The method that cuts file data into subchunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunker {
    /// Content-defined chunking (section 15). Lengths are in bytes; `avg` is a power of two.
    FastCdc {
        /// Shortest length of a subchunk in bytes, except for a file's last subchunk.
        min: u32,
        /// Average length of a subchunk in bytes.
        avg: u32,
        /// Longest length of a subchunk in bytes.
        max: u32,
    },
    /// Subchunks of a fixed length, in bytes.
    Fixed(u32),
}

impl Chunker {
    /// FastCDC with lengths of 8, 32 and 128 KiB.
    pub const DEFAULT: Chunker = Chunker::FastCdc { min: 8 << 10, avg: 32 << 10, max: 128 << 10 };

    /// Returns the shortest subchunk that the chunker makes, in bytes. At the end of a file and before a hole a
    /// subchunk may be shorter.
    pub fn min_len(self) -> u32 {
        match self {
            Chunker::FastCdc { min, .. } => min,
            Chunker::Fixed(len) => len,
        }
    }

    /// Returns the longest subchunk that the chunker makes, in bytes.
    pub fn max_len(self) -> u32 {
        match self {
            Chunker::FastCdc { max, .. } => max,
            Chunker::Fixed(len) => len,
        }
    }
}

/// The hash of a subchunk's bytes that is the subchunk's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKind {
    /// The first 24 bytes of BLAKE3.
    Blake3,
    /// XXH3-128: fast, but not collision resistant against a hostile file. The image is then marked `trusted`.
    Xxh3,
}

impl HashKind {
    /// Returns the bytes of an identity on disk.
    pub fn width(self) -> usize {
        match self {
            HashKind::Blake3 => 24,
            HashKind::Xxh3 => 16,
        }
    }
}

/// The parameters that an image was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// Most raw bytes of a superchunk.
    pub superchunk_size: u32,
    /// Raw bytes of a part; `None` for superchunks without parts.
    pub part_size: Option<u32>,
    /// The method that cuts file data into subchunks.
    pub chunker: Chunker,
    /// Key from which the chunker computes the random numbers of its rolling hash (the gear table).
    pub chunk_key: [u8; 16],
    /// The hash that makes identities.
    pub hash: HashKind,
    /// Number of the default codec.
    pub codec: u8,
    /// Level of the default codec.
    pub level: i8,
    /// Most source superchunks that the recipes of one superchunk refer to.
    pub max_sources: u8,
    /// Number of the profile, 0 for none.
    pub profile: u8,
    /// Size of the working set that a reader should have, in MiB; 0 if it is not recorded.
    pub working_set: u32,
    /// Target size of a table block, in raw bytes.
    pub table_block: u32,
    /// Length in bytes of the shortest range that a recipe takes from another subchunk.
    pub min_match: u32,
    /// Id of the superchunk that holds the dictionary, 0 for none.
    pub dictionary: u64,
}

impl Params {
    /// Returns whether new subchunks get recipes. Where identities prove nothing they do not: bytes are compared in the
    /// stored parts, which must then be whole.
    pub fn makes_recipes(&self) -> bool {
        self.min_match > 0 && self.hash == HashKind::Blake3
    }

    /// Returns whether a packer needs the bytes of earlier superchunks again: for recipes, or to compare bytes.
    pub fn needs_earlier_bytes(&self) -> bool {
        self.makes_recipes() || self.hash == HashKind::Xxh3
    }

    /// Returns whether a superchunk of `raw_len` raw bytes is full: it has no room for a subchunk of the largest
    /// length.
    pub fn is_full(&self, raw_len: u32) -> bool {
        self.superchunk_size.saturating_sub(raw_len) < self.chunker.max_len()
    }
}

impl Default for Params {
    fn default() -> Self {
        Params {
            superchunk_size: 4 << 20,
            part_size: None,
            chunker: Chunker::DEFAULT,
            chunk_key: [0; 16],
            hash: HashKind::Blake3,
            codec: 1,
            level: 12,
            max_sources: 8,
            profile: 0,
            working_set: 64,
            table_block: 64 << 10,
            min_match: 0,
            dictionary: 0,
        }
    }
}

impl From<&Params> for RawParams {
    fn from(p: &Params) -> Self {
        let (chunker, min, avg, max) = match p.chunker {
            Chunker::FastCdc { min, avg, max } => (1, min, avg, max),
            Chunker::Fixed(len) => (2, len, len, len),
        };
        RawParams {
            superchunk_size: p.superchunk_size.into(),
            part_size: p.part_size.unwrap_or(0).into(),
            chunk_min: min.into(),
            chunk_avg: avg.into(),
            chunk_max: max.into(),
            chunker,
            hash: match p.hash {
                HashKind::Blake3 => 1,
                HashKind::Xxh3 => 2,
            },
            codec: p.codec,
            level: p.level,
            max_sources: p.max_sources,
            profile: p.profile,
            reserved0: [0; 2],
            working_set: p.working_set.into(),
            table_block: p.table_block.into(),
            min_match: p.min_match.into(),
            chunk_key: p.chunk_key,
            dictionary: p.dictionary.into(),
            reserved1: [0; 16],
        }
    }
}

impl RawParams {
    /// Returns the parameters, if they are within the limits.
    ///
    /// # Errors
    /// Returns `Limit` or `Invalid` for the first field that is not.
    pub fn validate(&self) -> Result<Params, FormatError> {
        let within = |what, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) {
                Ok(value)
            } else {
                Err(FormatError::Limit { what, value: value.into(), limit: if value < min { min } else { max }.into() })
            }
        };
        let superchunk_size =
            within("superchunk size", self.superchunk_size.get(), limits::SUPERCHUNK_MIN, limits::SUPERCHUNK_MAX)?;
        let part_size = match self.part_size.get() {
            0 => None,
            size => Some(within("part size", size, limits::PART_MIN, superchunk_size)?),
        };
        let longest = limits::SUBCHUNK_LEN as u32;
        let max = within("longest subchunk", self.chunk_max.get(), 64, longest)?;
        let avg = within("average subchunk", self.chunk_avg.get(), 64, max)?;
        let min = within("shortest subchunk", self.chunk_min.get(), 1, avg)?;
        let chunker = match self.chunker {
            1 if avg.is_power_of_two() => Chunker::FastCdc { min, avg, max },
            1 => return Err(FormatError::invalid("parameters", "the average subchunk is not a power of two")),
            2 if min == max => Chunker::Fixed(max),
            2 => return Err(FormatError::invalid("parameters", "a fixed chunker with different lengths")),
            _ => return Err(FormatError::invalid("parameters", "unknown chunker")),
        };
        let hash = match self.hash {
            1 => HashKind::Blake3,
            2 => HashKind::Xxh3,
            _ => return Err(FormatError::invalid("parameters", "unknown hash")),
        };
        //= format-spec.md#4
        //# A reader refuses parameters in which a size is out of its bounds, or (max_sources + 1) × superchunk_size is above 2 GiB.
        let sources = (u64::from(self.max_sources) + 1) * u64::from(superchunk_size);
        if sources > limits::SOURCE_BYTES {
            return Err(FormatError::Limit {
                what: "bytes of a superchunk and its sources",
                value: sources,
                limit: limits::SOURCE_BYTES,
            });
        }
        let table_block = within("table block", self.table_block.get(), 1024, limits::TABLE_BLOCK as u32)?;
        Ok(Params {
            superchunk_size,
            part_size,
            chunker,
            chunk_key: self.chunk_key,
            hash,
            codec: self.codec,
            level: self.level,
            max_sources: self.max_sources,
            profile: self.profile,
            working_set: self.working_set.get(),
            table_block,
            min_match: self.min_match.get(),
            dictionary: self.dictionary.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_parameters_are_valid_and_come_back() {
        for params in [
            Params::default(),
            Params {
                chunker: Chunker::Fixed(32 << 10),
                part_size: Some(128 << 10),
                hash: HashKind::Xxh3,
                ..Params::default()
            },
        ] {
            assert_eq!(RawParams::from(&params).validate().unwrap(), params);
        }
    }

    //= format-spec.md#4
    //= type=test
    //# A reader refuses parameters in which a size is out of its bounds, or (max_sources + 1) × superchunk_size is above 2 GiB.
    #[test]
    fn sizes_beyond_the_limits_are_refused() {
        let bad = |change: fn(&mut RawParams)| {
            let mut raw = RawParams::from(&Params::default());
            change(&mut raw);
            raw.validate().is_err()
        };
        assert!(bad(|p| p.superchunk_size = 0.into()));
        assert!(bad(|p| p.superchunk_size = u32::MAX.into()));
        assert!(bad(|p| p.part_size = 1.into()));
        assert!(bad(|p| p.chunk_avg = 33_000.into()));
        assert!(bad(|p| p.chunk_max = u32::MAX.into()));
        assert!(bad(|p| p.hash = 3));
        assert!(bad(|p| p.chunker = 0));
        assert!(bad(|p| p.table_block = 0.into()));
        let sources = |superchunk_size: u32, max_sources| {
            RawParams::from(&Params { superchunk_size, max_sources, ..Params::default() }).validate().is_ok()
        };
        assert!(sources(64 << 20, 31) && !sources(64 << 20, 32));
        assert!(sources(8 << 20, 255) && !sources((8 << 20) + 1, 255));
    }
}
