//! Checks the complete head slots, and the roots they name.
//!
//! Both slots must verify, name the same root, and be followed only by zeros. An interrupted writer leaves slots that
//! name different roots.

use super::report::{CheckError, Finding, FindingKind, Findings, Severity};
use crate::format::Field;
use crate::format::head::{HEAD_MAGIC, Head, RawHeadSlot};
use crate::format::limits::HEAD_SLOT_SPAN;
use crate::format::reserved::{NotZero, not_zero};
use crate::format::root::{Root, RootLogical, RootPhysical};
use crate::log::LogReader;
use crate::meta::{HeadState, Slot};
use crate::storage::{HeadIndex, Storage};
use std::sync::Arc;

/// Generation of the second slot that `pack` writes.
const PACKED: u64 = 2;
/// Most reads of a slot that does not verify while its bytes keep changing.
const READS: usize = 16;
/// Flag bits of a head slot that have a meaning.
const KNOWN_FLAGS: u32 = 1;

/// Returns the heads that verify, newest first; at most two.
///
/// # Errors
/// Fails with `NotAnImage` if neither slot begins with the magic number, with `Unsupported` if a newer program wrote
/// the newest slot that verifies.
pub(super) fn check(storage: &dyn Storage, findings: &mut Findings) -> Result<Vec<Head>, CheckError> {
    let len = storage.len()?;
    let mut whole = true;
    let mut slots = Vec::new();
    let mut is_image = false;
    for index in HeadIndex::ALL {
        let bytes = span(storage, index, len)?;
        is_image |= bytes.starts_with(&HEAD_MAGIC);
        whole &= bytes.len() as u64 == HEAD_SLOT_SPAN;
        let slot = Slot::of(&bytes);
        match &slot.head {
            Ok(_) => check_reserved(index, &bytes, findings),
            Err(error) => {
                let message = format!("head slot {index} cannot be used: {error}");
                findings.add(Finding::new(FindingKind::Head, Severity::Recoverable, message).at(index.offset()));
            }
        }
        let rest = bytes.get(RawHeadSlot::SIZE..).unwrap_or_default();
        if let Some(at) = rest.iter().position(|&byte| byte != 0) {
            let offset = index.offset() + (RawHeadSlot::SIZE + at) as u64;
            let message = format!("a byte after head slot {index} is not zero; no file is affected");
            findings.add(Finding::new(FindingKind::Head, Severity::Recoverable, message).at(offset));
        }
        slots.push(slot);
    }
    let Ok([a, b]) = <[Slot; 2]>::try_from(slots) else { return Err(CheckError::NotAnImage) };
    let slots = HeadState { a, b, is_image };
    let heads: Vec<Head> = slots.newest_first().map_err(CheckError::Unsupported)?.into_iter().cloned().collect();
    if heads.is_empty() {
        if !is_image {
            return Err(CheckError::NotAnImage);
        }
        let message = "no head slot can be used: nothing in the image can be read";
        findings.add(Finding::new(FindingKind::Head, Severity::Lost, message).at(0));
        return Ok(heads);
    }
    if !whole {
        let message = format!("the file has only {len} bytes: the head slots are cut off");
        findings.add(Finding::new(FindingKind::Log, Severity::Lost, message).at(len));
    }
    if let [newer, older] = &heads[..] {
        compare(newer, older, findings);
    }
    Ok(heads)
}

/// Reads the bytes of a complete slot. A read can overlap a write by another process; damage reads the same each time.
fn span(storage: &dyn Storage, index: HeadIndex, len: u64) -> Result<Vec<u8>, CheckError> {
    let mut bytes = vec![0; len.saturating_sub(index.offset()).min(HEAD_SLOT_SPAN) as usize];
    storage.read_at(index.offset(), &mut bytes)?;
    for _ in 0..READS {
        if Slot::of(&bytes).head.is_ok() {
            break;
        }
        let mut again = vec![0; bytes.len()];
        storage.read_at(index.offset(), &mut again)?;
        if again == bytes {
            break;
        }
        bytes = again;
    }
    Ok(bytes)
}

/// Reports nonzero reserved bytes of a slot that verifies.
fn check_reserved(index: HeadIndex, bytes: &[u8], findings: &mut Findings) {
    let mut wrong = not_zero(bytes, RawHeadSlot::FIELDS);
    if RawHeadSlot::read(bytes, "head slot").is_ok_and(|raw| raw.flags.get() & !KNOWN_FLAGS != 0) {
        wrong.push(NotZero { offset: std::mem::offset_of!(RawHeadSlot, flags), name: "flags".to_owned() });
    }
    for NotZero { offset, name } in wrong {
        let message = format!("head slot {index}: {name} has reserved bits that are not zero");
        findings.add(Finding::new(FindingKind::Head, Severity::Note, message).at(index.offset() + offset as u64));
    }
}

fn compare(newer: &Head, older: &Head, findings: &mut Findings) {
    let mut wrong = |severity, what: &str| {
        let message = format!("the head slots disagree: {what}");
        findings.add(Finding::new(FindingKind::Head, severity, message).at(0));
    };
    if newer.generation != older.generation.saturating_add(1) {
        wrong(Severity::Recoverable, "their generations are not consecutive");
    }
    if (newer.uuid, newer.lineage, newer.log_id) != (older.uuid, older.lineage, older.log_id) {
        wrong(Severity::Recoverable, "they belong to different images");
    }
    if newer.epoch < older.epoch || newer.log_end < older.log_end {
        wrong(Severity::Recoverable, "the newer one has an older epoch or an earlier log end");
    }
    if newer.generation <= PACKED && *newer != (Head { generation: newer.generation, ..older.clone() }) {
        wrong(Severity::Recoverable, "both should be equal");
    } else if (newer.root, newer.root_hash) != (older.root, older.root_hash) {
        wrong(Severity::Note, "they name different roots, as after an interrupted writer");
    }
}

/// Verifies both copies of each root that a slot names. The scan of the log checks their frames.
pub(super) fn check_roots(
    storage: &Arc<dyn Storage>,
    heads: &[Head],
    findings: &mut Findings,
) -> Result<(), CheckError> {
    let mut stored = Vec::new();
    for (n, head) in heads.iter().enumerate() {
        let first = heads.first().filter(|_| n > 0);
        if first.is_some_and(|first| head.root == first.root && head.root_hash == first.root_hash) {
            continue;
        }
        let log = LogReader::new(storage.clone(), head.log_id, head.log_end.0)?;
        let mut good = 0;
        let mut wrong = Vec::new();
        for offset in head.root.offsets() {
            match log.stored_unverified(&head.root, offset, &mut stored) {
                Ok(true) => match Root::decode(&stored, &head.root_hash) {
                    Ok(root) => {
                        if good == 0 {
                            check_root(head, &root, offset.0, &stored, findings);
                        }
                        good += 1;
                    }
                    Err(error) => wrong.push((offset, error.to_string())),
                },
                Ok(false) => wrong.push((offset, "wrong checksum".to_owned())),
                Err(error) => wrong.push((offset, error.to_string())),
            }
        }
        for (offset, why) in wrong {
            let (severity, rest) = match (good, n) {
                (1.., _) => (Severity::Recoverable, "no file is affected: the other copy is good"),
                (0, 0) => (Severity::Lost, "no copy of the newest root is good"),
                _ => (Severity::Recoverable, "no file is affected: it is the root before the newest"),
            };
            let message = format!("root at offset {offset} is damaged: {why}; {rest}");
            findings.add(Finding::new(FindingKind::Root, severity, message).at(offset.0));
        }
    }
    Ok(())
}

/// Checks a root that verifies: its reserved bytes are zero, and its parameters are those of the head.
fn check_root(head: &Head, root: &Root, offset: u64, stored: &[u8], findings: &mut Findings) {
    let logical_len = stored.first_chunk::<4>().map_or(0, |len| u32::from_le_bytes(*len) as usize);
    let logical = stored.get(8..).unwrap_or_default();
    let physical = logical.get(logical_len..).unwrap_or_default();
    let parts: [(&[u8], &'static [Field]); 2] = [(logical, RootLogical::FIELDS), (physical, RootPhysical::FIELDS)];
    //= format-spec.md#1
    //# Bytes called *zero* are written as zero; a reader of data ignores them, `check` reports them if they are not
    //# zero.
    for NotZero { name, .. } in parts.into_iter().flat_map(|(part, fields)| not_zero(part, fields)) {
        let message = format!("root at offset {offset}: {name} has reserved bits that are not zero");
        findings.add(Finding::new(FindingKind::Root, Severity::Note, message).at(offset));
    }
    //= format-spec.md#4
    //# A reader uses those of the root, and warns if a head slot has others; a writer refuses such an image, and
    //# `check` reports it.
    if head.params != root.params {
        let message = "the parameters in the head differ from those in the root; the root counts";
        findings.add(Finding::new(FindingKind::Head, Severity::Recoverable, message).at(0));
    }
}
