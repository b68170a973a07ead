//! The errors of decoding.

use thiserror::Error;

/// Why bytes are not a valid value. Each variant has the figures that a person needs.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// There are fewer bytes than the value needs.
    #[error("cut short: {what} needs {need} bytes, but there are only {have}")]
    Truncated {
        /// Name of the value that was read.
        what: &'static str,
        /// Number of bytes that the value needs.
        need: u64,
        /// Number of bytes that there are.
        have: u64,
    },
    /// Bytes are left after the end of a value that should fill its container.
    #[error("{extra} bytes too many after the end of {what}")]
    Trailing {
        /// Name of the value that was read.
        what: &'static str,
        /// Number of bytes that are left.
        extra: u64,
    },
    /// A structure has a wrong magic number.
    #[error("wrong magic number of {what}: its first bytes are {found:02x?}")]
    Magic {
        /// Name of the structure.
        what: &'static str,
        /// The four bytes found in place of the magic number.
        found: [u8; 4],
    },
    /// A stored checksum does not match the bytes that it covers.
    #[error("checksum of {what} is wrong: stored {stored:#x}, computed {computed:#x}")]
    Checksum {
        /// Name of what the checksum covers.
        what: &'static str,
        /// The checksum that is stored.
        stored: u64,
        /// The checksum computed from the bytes.
        computed: u64,
    },
    /// A stored cryptographic hash does not match the bytes that it covers.
    #[error("hash mismatch: the content of {what} does not match its stored hash")]
    Hash {
        /// Name of what the hash covers.
        what: &'static str,
    },
    /// A number exceeds its limit.
    #[error("out of bounds: {what} is {value}, the limit is {limit}")]
    Limit {
        /// Name of the number that exceeds its limit.
        what: &'static str,
        /// The number's value.
        value: u64,
        /// The largest (or only) value allowed.
        limit: u64,
    },
    /// A structure or field has a value that the format does not allow.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// Name of the structure or field.
        what: &'static str,
        /// What is wrong with the value.
        why: &'static str,
    },
    /// The image was made by a newer program, and this one cannot read it.
    #[error(
        "the image needs a newer floe: it has format version {version} with incompatible features {incompat:#x}, and \
         this program reads version 1 with features {known:#x}"
    )]
    Unsupported {
        /// Format version of the image.
        version: u16,
        /// Incompatible feature bits of the image.
        incompat: u64,
        /// Incompatible feature bits that this program knows.
        known: u64,
    },
    /// The decoder of a codec failed.
    #[error("cannot decode {what}: {why}")]
    Decode {
        /// Name of the codec, or of what was decoded.
        what: &'static str,
        /// Error message of the decoder.
        why: String,
    },
}

impl FormatError {
    /// Makes a [`FormatError::Invalid`].
    pub const fn invalid(what: &'static str, why: &'static str) -> Self {
        FormatError::Invalid { what, why }
    }
}
