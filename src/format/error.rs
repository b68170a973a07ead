//! What can be wrong with bytes.

use thiserror::Error;

/// Why bytes are not what they claim to be. Each variant has the figures a person needs to see it.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// Fewer bytes than the value needs.
    #[error("{what} needs {need} bytes, only {have} are there")]
    Truncated {
        /// The value that was read.
        what: &'static str,
        /// Bytes it needs.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// Bytes after the end of a value that should fill its container.
    #[error("{what} is followed by {extra} bytes that belong to nothing")]
    Trailing {
        /// The value that was read.
        what: &'static str,
        /// Bytes left over.
        extra: u64,
    },
    /// The magic number is another.
    #[error("bad magic in {what}: found {found:02x?}")]
    Magic {
        /// The structure.
        what: &'static str,
        /// What stood there.
        found: [u8; 4],
    },
    /// A checksum or hash does not match.
    #[error("checksum of {what} is wrong: stored {stored:#x}, computed {computed:#x}")]
    Checksum {
        /// What is covered.
        what: &'static str,
        /// The checksum that stood there.
        stored: u64,
        /// The checksum of the bytes.
        computed: u64,
    },
    /// A cryptographic hash does not match.
    #[error("hash of {what} does not match")]
    Hash {
        /// What is covered.
        what: &'static str,
    },
    /// A number beyond its limit.
    #[error("{what} is {value}, the limit is {limit}")]
    Limit {
        /// The number.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The largest (or only) value allowed.
        limit: u64,
    },
    /// A value that the format does not allow.
    #[error("{what}: {why}")]
    Invalid {
        /// The structure or field.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Made by a newer program.
    #[error(
        "the image needs format version {version} with incompatible features {incompat:#x}; this program reads version 1 with features {known:#x}"
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
