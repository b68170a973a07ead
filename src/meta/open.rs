//! From the head slots to the root.

use super::{Image, ImageOptions, MetaError};
use crate::format::FormatError;
use crate::format::head::{HEAD_MAGIC, Head, RawHeadSlot};
use crate::format::ids::LogOffset;
use crate::format::root::Root;
use crate::log::LogReader;
use crate::storage::{HeadIndex, Storage};
use std::sync::Arc;

/// What the two head slots hold.
#[derive(Debug)]
pub struct HeadState {
    /// Slot A, or what is wrong with it.
    pub a: Result<Head, FormatError>,
    /// Slot B, or what is wrong with it.
    pub b: Result<Head, FormatError>,
    /// Whether either slot has the magic number.
    pub is_image: bool,
}

impl HeadState {
    /// The heads that verify, the newest first.
    pub fn newest_first(&self) -> Vec<&Head> {
        let mut heads: Vec<&Head> = [&self.a, &self.b].into_iter().filter_map(|slot| slot.as_ref().ok()).collect();
        heads.sort_by_key(|head| std::cmp::Reverse(head.generation));
        heads
    }
}

/// Reads both head slots.
///
/// # Errors
/// Only what the storage says; a file too short for a slot gives a `Truncated` slot.
pub fn read_heads(storage: &dyn Storage) -> Result<HeadState, MetaError> {
    let len = storage.len()?;
    let mut is_image = false;
    let mut slot = |index: HeadIndex, end: u64| -> Result<Result<Head, FormatError>, MetaError> {
        if len < end {
            return Ok(Err(FormatError::Truncated { what: "head slot", need: end, have: len }));
        }
        let bytes = storage.read_head(index)?;
        is_image |= bytes.starts_with(&HEAD_MAGIC);
        Ok(RawHeadSlot::read(&bytes, "head slot").and_then(|raw| raw.validate()))
    };
    let a = slot(HeadIndex::A, RawHeadSlot::SIZE as u64)?;
    let b = slot(HeadIndex::B, crate::format::limits::HEAD_SLOT_SPAN + RawHeadSlot::SIZE as u64)?;
    Ok(HeadState { a, b, is_image })
}

/// Opens the newest root that can be read. Warnings tell of slots and roots that were passed over.
pub(super) fn open(storage: Arc<dyn Storage>, options: ImageOptions) -> Result<Image, MetaError> {
    let heads = read_heads(&*storage)?;
    let mut warnings = Vec::new();
    for (name, slot) in [("A", &heads.a), ("B", &heads.b)] {
        if let Err(error) = slot {
            warnings.push(format!("head slot {name} cannot be used: {error}"));
        }
    }
    let len = storage.len()?;
    let mut first_error = None;
    for head in heads.newest_first() {
        let log = LogReader::new(storage.clone(), head.log_id, head.log_end.0.min(len))?;
        match read_root(&log, head) {
            Ok((root, root_warnings)) => {
                warnings.extend(root_warnings);
                if head.log_end.0 > len {
                    warnings.push(format!("the file has {len} bytes, but its log ends at {}", head.log_end));
                }
                return Ok(Image::new(head.clone(), root, log, warnings, options));
            }
            Err(error) => {
                let error = if head.log_end.0 > len {
                    MetaError::CutShort { log_end: head.log_end.0, len }
                } else {
                    MetaError::Root { offset: head.root.offset.0, source: Box::new(error) }
                };
                warnings.push(error.to_string());
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.unwrap_or_else(|| match (heads.is_image, heads.a, heads.b) {
        (true, Err(FormatError::Magic { .. }), Err(error)) | (true, Err(error), _) => MetaError::Head(error),
        _ => MetaError::NotAnImage,
    }))
}

/// Reads the root, from its copy if need be; says so in the warnings.
fn read_root(log: &LogReader, head: &Head) -> Result<(Root, Vec<String>), MetaError> {
    let mut warnings = Vec::new();
    let mut first_error = None;
    let mut stored = Vec::new();
    for offset in head.root.offsets() {
        let attempt = log
            .stored_unverified(&head.root, offset, &mut stored)
            .map_err(MetaError::from)
            .and_then(|_| Ok(Root::decode(&stored, &head.root_hash)?));
        match attempt {
            Ok(root) => return Ok((root, warnings)),
            Err(error) => {
                warnings.push(format!("the root at {} cannot be used: {error}", LogOffset(offset.0)));
                first_error.get_or_insert(error);
            }
        }
    }
    // `offsets` has at least one element, so there was an error.
    Err(first_error.unwrap_or(MetaError::NotAnImage))
}
