//! Codec and level, as written on the command line and as recorded in the parameters.

use super::{CODECS, Codec, FormatError, RAW, XZ, ZSTD, codec};
use std::fmt;
use std::str::FromStr;

/// A compression codec and its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Bytes are stored as they are.
    None,
    /// Codec zstd with a level from 1 to 22.
    Zstd(i32),
    /// Codec xz with a preset from 0 to 9.
    Xz(u32),
}

impl Compression {
    /// Returns the codec's number in frames and parameters.
    pub const fn codec_number(self) -> u8 {
        match self {
            Compression::None => RAW,
            Compression::Zstd(_) => ZSTD,
            Compression::Xz(_) => XZ,
        }
    }

    /// Returns the level as the image's parameters record it, 0 for no compression.
    pub fn level(self) -> i8 {
        self.wide_level().clamp(i8::MIN.into(), i8::MAX.into()) as i8
    }

    /// Returns the compression with these numbers in the image's parameters.
    ///
    /// # Errors
    /// Returns `Invalid` for an unknown codec; `Limit` for a level that the codec does not have.
    pub fn from_numbers(number: u8, level: i8) -> Result<Self, FormatError> {
        let compression = match number {
            RAW => Compression::None,
            ZSTD => Compression::Zstd(level.into()),
            XZ => Compression::Xz(u32::try_from(level).unwrap_or(u32::MAX)),
            _ => return Err(FormatError::invalid("codec", "this version does not know it")),
        };
        compression.validate().map(|_| compression)
    }

    pub(super) fn wide_level(self) -> i32 {
        match self {
            Compression::None => 0,
            Compression::Zstd(level) => level,
            Compression::Xz(preset) => i32::try_from(preset).unwrap_or(i32::MAX),
        }
    }

    /// Returns the codec if the level is one that it has.
    pub(super) fn validate(self) -> Result<&'static Codec, FormatError> {
        let codec = codec(self.codec_number())?;
        let level = self.wide_level();
        if codec.levels.contains(&level) {
            return Ok(codec);
        }
        let limit = if level < *codec.levels.start() { codec.levels.start() } else { codec.levels.end() };
        Err(FormatError::Limit { what: "compression level", value: level.max(0) as u64, limit: *limit as u64 })
    }
}

impl Default for Compression {
    /// Returns zstd at its default level.
    fn default() -> Self {
        Compression::Zstd(super::zstd::CODEC.default_level)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(super::name(self.codec_number()))?;
        match self {
            Compression::None => Ok(()),
            _ => write!(f, ":{}", self.wide_level()),
        }
    }
}

impl FromStr for Compression {
    type Err = FormatError;

    /// Parses a name as on the command line: `none`, `zstd`, `zstd:15`, `xz`, `xz:9`.
    fn from_str(text: &str) -> Result<Self, FormatError> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let codec = CODECS
            .iter()
            .find(|codec| codec.name == name)
            .ok_or(FormatError::invalid("compression", "use none, zstd:1 to zstd:22, or xz:0 to xz:9"))?;
        let level = match level {
            None => codec.default_level as i8,
            Some(_) if codec.number == RAW => return Err(FormatError::invalid("compression", "none has no level")),
            Some(level) => level
                .parse()
                .map_err(|_| FormatError::invalid("compression", "the level is not a number from 0 to 22"))?,
        };
        Compression::from_numbers(codec.number, level)
    }
}
