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
        /// The subchunk.
        id: SubchunkId,
        /// Why.
        #[source]
        source: Arc<MetaError>,
    },
    /// The map has no such subchunk or superchunk, or they contradict each other.
    #[error("cannot read subchunk {id}, because the image contradicts itself: {why}")]
    Inconsistent {
        /// The subchunk.
        id: SubchunkId,
        /// What is wrong.
        why: &'static str,
    },
    /// The superchunk cannot be read at all.
    #[error("cannot read superchunk {id}: {source}")]
    Read {
        /// The superchunk.
        id: SuperchunkId,
        /// Why.
        #[source]
        source: Arc<LogError>,
    },
    /// The superchunk does not decode, though its checksum is right.
    #[error("cannot decompress superchunk {id}: {source}")]
    Decode {
        /// The superchunk.
        id: SuperchunkId,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// The bytes are damaged.
    #[error("subchunk {id} is damaged: content hash mismatch in superchunk {superchunk}")]
    Damaged {
        /// The subchunk.
        id: SubchunkId,
        /// Where it lies.
        superchunk: SuperchunkId,
    },
}

/// Makes the error of a look-up for subchunk `id`.
pub(super) fn lookup(id: SubchunkId) -> impl FnOnce(MetaError) -> InflateError {
    move |error| InflateError::Lookup { id, source: Arc::new(error) }
}

/// Makes the error of a recipe for subchunk `id`.
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
