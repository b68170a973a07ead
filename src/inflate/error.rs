//! Why the bytes of a subchunk cannot be read.

use crate::format::FormatError;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::log::LogError;
use crate::meta::{ComposeError, MetaError};
use std::sync::Arc;
use thiserror::Error;

/// Why the bytes of a subchunk cannot be read. Cheap to clone: every thread that waits for an inflation gets the same
/// error.
#[derive(Debug, Clone, Error)]
pub enum InflateError {
    /// The look-up of the subchunk in the tables failed.
    #[error("cannot look up subchunk {id} in the map of the image: {source}")]
    Lookup {
        /// Id of the subchunk.
        id: SubchunkId,
        /// Why the look-up failed.
        #[source]
        source: Arc<MetaError>,
    },
    /// The map has no such subchunk or superchunk, their rows contradict each other, or the thread that inflated the
    /// superchunk panicked.
    #[error("cannot read subchunk {id}: {why}")]
    Inconsistent {
        /// Id of the subchunk.
        id: SubchunkId,
        /// What is wrong.
        why: &'static str,
    },
    /// No copy of the superchunk can be read.
    #[error("cannot read superchunk {id}: {source}")]
    Read {
        /// Id of the superchunk.
        id: SuperchunkId,
        /// Why the superchunk cannot be read.
        #[source]
        source: Arc<LogError>,
    },
    /// The superchunk cannot be decoded, though its checksum is right.
    #[error("cannot decompress superchunk {id}: {source}")]
    Decode {
        /// Id of the superchunk.
        id: SuperchunkId,
        /// Why the superchunk cannot be decoded.
        #[source]
        source: FormatError,
    },
    /// The bytes of the subchunk do not match its content hash.
    #[error("subchunk {id} is damaged: content hash mismatch in superchunk {superchunk}")]
    Damaged {
        /// Id of the subchunk.
        id: SubchunkId,
        /// Id of the superchunk that holds the subchunk.
        superchunk: SuperchunkId,
    },
}

/// Returns a function for `map_err` that makes the error of subchunk `id` whose look-up in the tables failed.
pub(super) fn lookup(id: SubchunkId) -> impl FnOnce(MetaError) -> InflateError {
    move |error| InflateError::Lookup { id, source: Arc::new(error) }
}

/// Returns a function for `map_err` that makes the error of subchunk `id` whose recipe cannot be used.
pub(super) fn compose(id: SubchunkId) -> impl FnOnce(ComposeError) -> InflateError {
    move |error| match error {
        ComposeError::Lookup(error) => lookup(id)(error),
        ComposeError::Unknown => {
            InflateError::Inconsistent { id, why: "its recipe names a subchunk that does not exist" }
        }
        ComposeError::Outside => {
            InflateError::Inconsistent { id, why: "its recipe names bytes outside the stored part of their subchunk" }
        }
    }
}
