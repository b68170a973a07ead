//! Finds the segments of a directory that make up the log, by their heads alone.
//!
//! Each head names where the log ended before it, so the log is followed from the highest head down. Everything between
//! that end and the segment's own start was abandoned and does not count, whole segments included.

use super::ThawError;
use super::fit::Binding;
use super::segment::{Head, Segment, is_plain};
use super::walk::{Step, walk};
use crate::format::frame::FrameKind;
use crate::format::ids::LogOffset;
use crate::format::thaw::TRANSACTION_LEN;
use crate::format::transaction::Transaction;
use crate::storage::{Folder, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The segments in the directory of a thaw log, with their heads.
pub(super) struct Survey {
    pub(super) log_id: u64,
    pub(super) segment_size: u64,
    /// Every file of the directory, by segment number.
    pub(super) files: BTreeMap<u64, Arc<dyn Storage>>,
    /// Heads of the files that begin with a head of this log.
    heads: BTreeMap<u64, Head>,
    /// Reasons why files of the directory have no valid head of this log, by segment number.
    headless: BTreeMap<u64, String>,
}

/// A part of the log: frames of one segment.
#[derive(Clone)]
pub(super) struct Extent {
    pub(super) number: u64,
    pub(super) head: Head,
    pub(super) segment: Segment,
    /// Offset where the log leaves this segment for the next one; in the last extent, where the segment's bytes or the
    /// log end. All frames that count end at or before it.
    pub(super) limit: u64,
}

/// The extents of a log in order, and its durable end.
pub(super) struct Line {
    pub(super) extents: Vec<Extent>,
    /// The highest `durable_upto` of the heads, and of all segments after the extents.
    pub(super) durable: u64,
}

/// The place where the log cannot be followed down to lower segments.
struct Break {
    /// Number of the segment without a head.
    number: u64,
    why: String,
}

impl Survey {
    /// Reads all heads. Returns `None` if there is no head and no transaction.
    ///
    /// # Errors
    /// Fails with `Damaged` if there are transactions but no head, or if something cannot be read.
    pub(super) fn of(folder: &dyn Folder) -> Result<Option<Self>, ThawError> {
        let mut files = BTreeMap::new();
        let (mut heads, mut headless) = (BTreeMap::new(), BTreeMap::new());
        for number in folder.list()? {
            let storage = folder.open(number)?;
            match Segment::head(number, &storage)? {
                Ok(head) => drop(heads.insert(number, head)),
                Err(why) => drop(headless.insert(number, why)),
            }
            files.insert(number, storage);
        }
        let Some((_, highest)) = heads.last_key_value() else {
            for (number, storage) in &files {
                let segment = Segment { log_id: 0, base: 0, storage: Arc::clone(storage) };
                if segment.has_transaction()? {
                    let why = headless.remove(number).unwrap_or_default();
                    return Err(ThawError::Damaged { at: LogOffset(0), durable: LogOffset(0), why });
                }
            }
            return Ok(None);
        };
        let (log_id, segment_size, binding) = (highest.log_id, highest.segment_size, highest.binding);
        heads.retain(|&number, head| {
            let same = head.log_id == log_id
                && head.segment_size == segment_size
                && head.binding.uuid == binding.uuid
                && head.binding.lineage == binding.lineage;
            if !same {
                headless.insert(number, format!("segment {number} is of another log"));
            }
            same
        });
        Ok(Some(Survey { log_id, segment_size, files, heads, headless }))
    }

    /// Returns the bindings of all heads.
    pub(super) fn bindings(&self) -> Vec<Binding> {
        self.heads.values().map(|head| head.binding).collect()
    }

    /// Follows the log from the highest head down.
    ///
    /// # Errors
    /// Fails with `Damaged` if a segment without a head was synced, according to another segment, or if something
    /// cannot be read.
    pub(super) fn line(&self) -> Result<Line, ThawError> {
        let mut breaks = Vec::new();
        let mut below = u64::MAX;
        let mut extents = Vec::new();
        while let Some((&top, _)) = self.heads.range(..=below).next_back() {
            match self.follow(top)? {
                Ok(found) => {
                    extents = found;
                    break;
                }
                Err(broken) => {
                    // A head that the log cannot be followed down from is after the log's end, and so is everything
                    // from the break on.
                    below = broken.number.saturating_sub(1);
                    let first = broken.number == 0;
                    breaks.push(broken);
                    if first {
                        break;
                    }
                }
            }
        }
        let top = extents.last().map(|extent| extent.number);
        let mut durable = extents.iter().map(|extent| extent.head.durable_upto).max().unwrap_or(0);
        for (&number, storage) in self.files.range(top.map_or(0, |top| top.saturating_add(1))..) {
            durable = durable.max(self.claim(number, storage)?);
        }
        for Break { number, why } in breaks {
            let at = number.saturating_mul(self.segment_size);
            if at < durable {
                return Err(ThawError::Damaged { at: LogOffset(at), durable: LogOffset(durable), why });
            }
        }
        Ok(Line { extents, durable })
    }

    /// Returns the extents from the lowest segment up to `top`.
    fn follow(&self, top: u64) -> Result<Result<Vec<Extent>, Break>, ThawError> {
        let mut extents = Vec::new();
        let mut number = top;
        let mut limit = None;
        loop {
            let found = self.heads.get(&number).zip(self.segment(number));
            let Some((&head, segment)) = found.filter(|(head, _)| limit.is_none_or(|limit| head.end <= limit)) else {
                // Segments are removed durably and lowest first: if there are no files below, this segment was removed.
                if self.files.range(..=number).next().is_none() {
                    break;
                }
                let missing = || format!("segment {number} is missing");
                return Ok(Err(Break { number, why: self.headless.get(&number).cloned().unwrap_or_else(missing) }));
            };
            let limit_here = match limit {
                Some(limit) => limit,
                None => segment.end()?,
            };
            extents.push(Extent { number, head, segment, limit: limit_here });
            let Some(last) = head.previous_end.checked_sub(1) else { break };
            // This is below `number`: a head's `previous_end` is at most its own segment's start.
            number = last.checked_div(self.segment_size).unwrap_or(0);
            limit = Some(head.previous_end);
        }
        extents.reverse();
        Ok(Ok(extents))
    }

    fn segment(&self, number: u64) -> Option<Segment> {
        Segment::at(self.log_id, number, self.segment_size, Arc::clone(self.files.get(&number)?))
    }

    /// Returns the highest `durable_upto` in the head and the transactions of a segment after the log's end.
    fn claim(&self, number: u64, storage: &Arc<dyn Storage>) -> Result<u64, ThawError> {
        let mut durable = self.heads.get(&number).map_or(0, |head| head.durable_upto);
        let Some(segment) = Segment::at(self.log_id, number, self.segment_size, Arc::clone(storage)) else {
            return Ok(durable);
        };
        let mut stored = Vec::new();
        walk(&segment, segment.base, segment.end()?, |step| {
            if let Step::Frame(header) = step
                && header.kind == FrameKind::TRANSACTION
                && is_plain(&header)
                && u64::from(header.stored_len) <= TRANSACTION_LEN
                && segment.stored(&header, &mut stored)?
            {
                let at = header.offset;
                let decoded = Transaction::decode(&stored);
                let transaction = decoded.map_err(|source| ThawError::Transaction { offset: at, source })?;
                durable = durable.max(transaction.info.durable_upto);
            }
            Ok(true)
        })?;
        Ok(durable)
    }
}
