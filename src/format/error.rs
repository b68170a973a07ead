//! The errors of decoding.

use thiserror::Error;

/// Why bytes are not a valid value. Each variant has the figures that a person needs.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// Fewer bytes than the value needs.
    #[error("cut short: {what} needs {need} bytes, but there are only {have}")]
    Truncated {
        /// The value that was read.
        what: &'static str,
        /// Bytes it needs.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// Bytes after the end of a value that should fill its container.
    #[error("{extra} bytes too many after the end of {what}")]
    Trailing {
        /// The value that was read.
        what: &'static str,
        /// Bytes left over.
        extra: u64,
    },
    /// The magic number is wrong.
    #[error("wrong magic number of {what}: its first bytes are {found:02x?}")]
    Magic {
        /// The structure.
        what: &'static str,
        /// The bytes found.
        found: [u8; 4],
    },
    /// A checksum or hash does not match.
    #[error("checksum of {what} is wrong: stored {stored:#x}, computed {computed:#x}")]
    Checksum {
        /// What is covered.
        what: &'static str,
        /// The stored checksum.
        stored: u64,
        /// The computed checksum.
        computed: u64,
    },
    /// A cryptographic hash does not match.
    #[error("hash mismatch: the content of {what} does not match its stored hash")]
    Hash {
        /// What is covered.
        what: &'static str,
    },
    /// A number beyond its limit.
    #[error("limit exceeded: {what} is {value}, the limit is {limit}")]
    Limit {
        /// The number.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The largest (or only) value allowed.
        limit: u64,
    },
    /// A value that the format does not allow.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// The structure or field.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The image was made by a newer program.
    #[error(
        "the image needs a newer floe: it has format version {version} with incompatible features {incompat:#x}, and this \
         program reads version 1 with features {known:#x}"
    )]
    Unsupported {
        /// Its version.
        version: u16,
        /// Its incompatible feature bits.
        incompat: u64,
        /// The bits this program knows.
        known: u64,
    },
    /// A decoder failed.
    #[error("cannot decode {what}: {why}")]
    Decode {
        /// Codec.
        what: &'static str,
        /// Message of the decoder.
        why: String,
    },
}

impl FormatError {
    /// Shorthand for [`FormatError::Invalid`].
    pub const fn invalid(what: &'static str, why: &'static str) -> Self {
        FormatError::Invalid { what, why }
    }
}
