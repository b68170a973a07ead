//! Opens an image: reads the head slots and the root.

use super::MetaError;
use crate::format::FormatError;
use crate::format::head::{HEAD_MAGIC, Head, RawHeadSlot};
use crate::format::root::Root;
use crate::log::{LogError, LogReader};
use crate::storage::{HeadIndex, Storage};
use std::io::ErrorKind;
use std::sync::Arc;

/// Most times that a head slot that does not verify is read again, while its bytes keep changing.
const READS: usize = 16;

/// The decoded contents of one head slot.
#[derive(Debug)]
pub struct Slot {
    /// Generation of the head, if its checksum is right, whether or not this program supports its version.
    pub generation: Option<u64>,
    /// The head, or the reason why it cannot be used.
    pub head: Result<Head, FormatError>,
}

impl Slot {
    /// Decodes a head slot at the beginning of `bytes`. Bytes after the slot are ignored.
    pub fn of(bytes: &[u8]) -> Slot {
        match RawHeadSlot::read(bytes, "head slot") {
            Ok(raw) => Slot { generation: raw.verify().ok().map(|()| raw.generation.get()), head: raw.validate() },
            Err(error) => Slot { generation: None, head: Err(error) },
        }
    }
}

/// The decoded contents of both head slots.
#[derive(Debug)]
pub struct HeadState {
    /// Head slot A, at offset 0.
    pub a: Slot,
    /// Head slot B.
    pub b: Slot,
    /// Whether either slot has the magic number.
    pub is_image: bool,
}

impl HeadState {
    /// Returns the usable heads, the newest first.
    ///
    /// # Errors
    /// Returns `Unsupported` if the newest slot that verifies needs a newer program.
    pub fn newest_first(&self) -> Result<Vec<&Head>, FormatError> {
        let slots = [&self.a, &self.b];
        let newest = self.newest_generation();
        //= format-spec.md#3
        //# If a program does not support the head, it refuses the image and says so; it never takes the other slot instead.
        for slot in slots {
            if let (Err(error @ FormatError::Unsupported { .. }), true) = (&slot.head, slot.generation == newest) {
                return Err(error.clone());
            }
        }
        let mut heads: Vec<&Head> = slots.into_iter().filter_map(|slot| slot.head.as_ref().ok()).collect();
        heads.sort_by_key(|head| std::cmp::Reverse(head.generation));
        Ok(heads)
    }

    /// Returns the error to report if neither head can be used.
    pub(super) fn unusable(self) -> MetaError {
        match (self.is_image, self.a.head, self.b.head) {
            (true, Err(FormatError::Magic { .. }), Err(error)) | (true, Err(error), _) => MetaError::Head(error),
            _ => MetaError::NotAnImage,
        }
    }

    /// Returns the generation of the newest slot that verifies.
    fn newest_generation(&self) -> Option<u64> {
        self.a.generation.max(self.b.generation)
    }
}

/// Reads both head slots.
///
/// # Errors
/// Fails only if the storage fails; if the file is too short for a slot, the state of that slot is `Truncated`.
pub fn read_heads(storage: &dyn Storage) -> Result<HeadState, MetaError> {
    let len = storage.len()?;
    let mut is_image = false;
    let mut slot = |index: HeadIndex| -> Result<Slot, MetaError> {
        let end = index.offset() + RawHeadSlot::SIZE as u64;
        if len < end {
            let head = Err(FormatError::Truncated { what: "head slot", need: end, have: len });
            return Ok(Slot { generation: None, head });
        }
        let mut bytes = storage.read_head(index)?;
        // A read may overlap with a write; a damaged slot reads the same each time.
        for _ in 0..READS {
            if Slot::of(&bytes).head.is_ok() {
                break;
            }
            let again = storage.read_head(index)?;
            if again == bytes {
                break;
            }
            bytes = again;
        }
        is_image |= bytes.starts_with(&HEAD_MAGIC);
        Ok(Slot::of(&bytes))
    };
    let (a, b) = (slot(HeadIndex::A)?, slot(HeadIndex::B)?);
    Ok(HeadState { a, b, is_image })
}

/// A head with its root, and the problems found while both were read.
pub(super) struct Found {
    pub(super) head: Head,
    pub(super) root: Root,
    pub(super) log: LogReader,
    /// Problems that do not prevent reading the image.
    pub(super) warnings: Vec<String>,
    /// Reasons why the image must not be written to.
    pub(super) doubts: Vec<String>,
}

/// Finds the newest root that can be read. Warnings report the head slots and roots that were skipped.
///
/// # Errors
/// Fails if there is no usable head whose root can be read, or if the newest head is not supported.
pub(super) fn find(storage: &Arc<dyn Storage>) -> Result<Found, MetaError> {
    let heads = read_heads(&**storage)?;
    let mut warnings = Vec::new();
    for (name, slot) in [("A", &heads.a), ("B", &heads.b)] {
        if let Err(error) = &slot.head {
            warnings.push(format!("head slot {name} cannot be used: {error}"));
        }
    }
    let len = storage.len()?;
    let mut first_error = None;
    for head in heads.newest_first().map_err(MetaError::Unsupported)? {
        let log = LogReader::new(storage.clone(), head.log_id, head.log_end.0.min(len))?;
        match read_root(&log, head, &mut warnings) {
            Ok((root, mut doubts)) => {
                if heads.newest_generation() > Some(head.generation) {
                    doubts.push("its newest state cannot be read".to_owned());
                }
                if head.log_end.0 > len {
                    warnings.push(format!("the file has {len} bytes, but its log ends at {}", head.log_end));
                    doubts.push("it is cut short".to_owned());
                }
                //= format-spec.md#4
                //# A reader uses those of the root, and warns if a head slot has others; a writer refuses such an
                //# image, and `check` reports it.
                if head.params != root.params {
                    let why = "the parameters in its head are not those in its root".to_owned();
                    warnings.push(format!("{why}; those of the root count"));
                    doubts.push(why);
                }
                return Ok(Found { head: head.clone(), root, log, warnings, doubts });
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
    Err(first_error.unwrap_or_else(|| heads.unusable()))
}

/// Returns the root that a head names, from the first copy whose checksum is right, or `None` if there is no such copy.
///
/// # Errors
/// Fails if the storage cannot be read: then nothing is known about the root.
pub fn root_of(storage: &Arc<dyn Storage>, head: &Head) -> Result<Option<Root>, MetaError> {
    let log = LogReader::new(Arc::clone(storage), head.log_id, head.log_end.0.min(storage.len()?))?;
    let mut stored = Vec::new();
    for offset in head.root.offsets() {
        match log.stored_unverified(&head.root, offset, &mut stored) {
            Ok(true) => {}
            Err(LogError::Storage(error)) if error.kind() != ErrorKind::UnexpectedEof => return Err(error.into()),
            Ok(false) | Err(_) => continue,
        }
        if let Ok(root) = Root::decode(&stored, &head.root_hash) {
            return Ok(Some(root));
        }
    }
    Ok(None)
}

/// Reads the root that a head names, from the copy if necessary, and returns the reasons why the image must not be
/// written to. Copies whose checksum is right come first: the root hash does not cover the place of the map and the
/// next free ids of subchunks and superchunks.
fn read_root(log: &LogReader, head: &Head, warnings: &mut Vec<String>) -> Result<(Root, Vec<String>), MetaError> {
    let mut first_error = None;
    let mut by_hash_alone = None;
    let mut stored = Vec::new();
    //= format-spec.md#9
    //# Only the checksum in its Place covers the physical part, so a reader prefers a copy whose checksum is right to
    //# one of which only the root hash is right.
    for offset in head.root.offsets() {
        let attempt = log
            .stored_unverified(&head.root, offset, &mut stored)
            .map_err(MetaError::from)
            .and_then(|right| Ok((right, Root::decode(&stored, &head.root_hash)?)));
        match attempt {
            Ok((true, root)) => return Ok((root, Vec::new())),
            Ok((false, root)) => {
                warnings.push(format!("the checksum of the root at {offset} is wrong"));
                by_hash_alone.get_or_insert(root);
            }
            Err(error) => {
                warnings.push(format!("the root at {offset} cannot be used: {error}"));
                first_error.get_or_insert(error);
            }
        }
    }
    //= format-spec.md#9
    //# A root of which only the hash is right may be read, with a warning; a writer refuses it.
    if let Some(root) = by_hash_alone {
        let warning = "no copy of the root has a right checksum: what it says of where data is may be wrong; names and \
                       contents are verified by hash";
        warnings.push(warning.to_owned());
        return Ok((root, vec!["no copy of its root has a right checksum".to_owned()]));
    }
    // `offsets` has at least one element, so there was an error.
    Err(first_error.unwrap_or(MetaError::NotAnImage))
}
