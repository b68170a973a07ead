//! The head slots over their whole span, and the roots they name.
//!
//! Both slots must verify and be followed by zeros only. In an image that was packed in one go (generations 1 and 2) they
//! name the same root; later on the older slot names the root before.

use super::report::{CheckError, Finding, FindingKind, Findings, Severity};
use crate::format::FormatError;
use crate::format::head::{HEAD_MAGIC, Head, RawHeadSlot};
use crate::format::limits::HEAD_SLOT_SPAN;
use crate::format::root::Root;
use crate::log::LogReader;
use crate::storage::{HeadIndex, Storage};
use std::sync::Arc;

/// Generation of the second slot that `pack` writes.
const PACKED: u64 = 2;

/// The heads that verify, newest first; at most two.
///
/// # Errors
/// `NotAnImage` if neither slot begins like one, `Unsupported` if a newer program wrote all slots that verify.
pub(super) fn check(storage: &dyn Storage, findings: &mut Findings) -> Result<Vec<Head>, CheckError> {
    let len = storage.len()?;
    let mut heads = Vec::new();
    let mut first_error = None;
    let (mut is_image, mut whole) = (false, true);
    for slot in HeadIndex::ALL {
        let mut bytes = vec![0; len.saturating_sub(slot.offset()).min(HEAD_SLOT_SPAN) as usize];
        storage.read_at(slot.offset(), &mut bytes)?;
        is_image |= bytes.starts_with(&HEAD_MAGIC);
        whole &= bytes.len() as u64 == HEAD_SLOT_SPAN;
        match RawHeadSlot::read(&bytes, "head slot").and_then(|raw| raw.validate()) {
            Ok(head) => heads.push(head),
            Err(error) => {
                let message = format!("head slot {slot} cannot be used: {error}");
                findings.add(Finding::new(FindingKind::Head, Severity::Recoverable, message).at(slot.offset()));
                first_error.get_or_insert(error);
            }
        }
        let rest = bytes.get(RawHeadSlot::SIZE..).unwrap_or_default();
        if let Some(at) = rest.iter().position(|&byte| byte != 0) {
            let offset = slot.offset() + (RawHeadSlot::SIZE + at) as u64;
            let message = format!("byte behind head slot {slot} is not zero; no file is hit");
            findings.add(Finding::new(FindingKind::Head, Severity::Recoverable, message).at(offset));
        }
    }
    if heads.is_empty() {
        return Err(match first_error {
            _ if !is_image => CheckError::NotAnImage,
            Some(error @ FormatError::Unsupported { .. }) => CheckError::Unsupported(error),
            _ => {
                let message = "no head slot can be used: nothing of the image can be read";
                findings.add(Finding::new(FindingKind::Head, Severity::Lost, message).at(0));
                return Ok(heads);
            }
        });
    }
    if !whole {
        let message = format!("the file has {len} bytes: not even the head slots are whole");
        findings.add(Finding::new(FindingKind::Log, Severity::Lost, message).at(len));
    }
    heads.sort_by_key(|head| std::cmp::Reverse(head.generation));
    if let [newer, older] = &heads[..] {
        compare(newer, older, findings);
    }
    let clean = heads[0].clean;
    if !clean || heads[0].thaw_log_id != 0 {
        let message = "the image is or was being written to: what its thaw log holds is not checked here";
        findings.add(Finding::new(FindingKind::Head, Severity::Note, message));
    }
    Ok(heads)
}

fn compare(newer: &Head, older: &Head, findings: &mut Findings) {
    let mut wrong = |what: &str| {
        let message = format!("the head slots disagree: {what}");
        findings.add(Finding::new(FindingKind::Head, Severity::Recoverable, message).at(0));
    };
    if newer.generation != older.generation.saturating_add(1) {
        wrong("their generations do not follow one another");
    }
    if (newer.uuid, newer.lineage, newer.log_id) != (older.uuid, older.lineage, older.log_id) {
        wrong("they are of different images");
    }
    if newer.epoch < older.epoch || newer.log_end < older.log_end {
        wrong("the newer one knows less of the log");
    }
    if newer.generation <= PACKED && *newer != (Head { generation: newer.generation, ..older.clone() }) {
        wrong("both should say the same");
    }
}

/// Verifies both copies of each root that a slot names. Their frames are looked at when the log is scanned.
pub(super) fn check_roots(
    storage: &Arc<dyn Storage>,
    heads: &[Head],
    findings: &mut Findings,
) -> Result<(), CheckError> {
    let mut stored = Vec::new();
    for (n, head) in heads.iter().enumerate() {
        if n > 0 && head.root == heads[0].root && head.root_hash == heads[0].root_hash {
            continue;
        }
        let log = LogReader::new(storage.clone(), head.log_id, head.log_end.0)?;
        let mut good = 0;
        let mut wrong = Vec::new();
        for offset in head.root.offsets() {
            match log.stored_unverified(&head.root, offset, &mut stored) {
                Ok(true) => match Root::decode(&stored, &head.root_hash) {
                    Ok(_) => good += 1,
                    Err(error) => wrong.push((offset, error.to_string())),
                },
                Ok(false) => wrong.push((offset, "its sum is wrong".to_owned())),
                Err(error) => wrong.push((offset, error.to_string())),
            }
        }
        for (offset, why) in wrong {
            let (severity, rest) = match (good, n) {
                (1.., _) => (Severity::Recoverable, "no file is hit: the other copy is good"),
                (0, 0) => (Severity::Lost, "no copy of the newest root is good"),
                _ => (Severity::Recoverable, "no file is hit: it is the root before the newest"),
            };
            let message = format!("root at {offset} is damaged: {why}; {rest}");
            findings.add(Finding::new(FindingKind::Root, severity, message).at(offset.0));
        }
    }
    Ok(())
}
