//! Reads a thaw log: which transactions count, where the log ends, what is damaged and what is lost.
//!
//! Every header and every transaction is verified. Written bytes are verified only from the highest `durable_upto` on;
//! those before it were synced with the transactions that name them, and are verified when they are read. Recovery
//! never writes or cuts off anything. A read error ends the recovery; it is never taken for the end of the log.

use super::ThawError;
use super::fit::{Binding, ImageState, LogState, Misfit, fits, fits_by_name};
use super::lost::LostFrames;
use super::segment::{Chain, Segment, is_plain};
use super::segments::Segments;
use super::survey::{Extent, Survey};
use super::walk::{Step, walk};
use crate::format::frame::{FrameHeader, FrameKind};
use crate::format::ids::LogOffset;
use crate::format::thaw::TRANSACTION_LEN;
use crate::format::transaction::{Transaction, TransactionInfo};
use crate::storage::{Folder, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A thaw log that was read from its directory, and whose transactions were verified. Nothing of it has been changed.
pub struct Recovered {
    pub(super) folder: Arc<dyn Folder>,
    pub(super) log_id: u64,
    pub(super) segment_size: u64,
    /// Every file of the directory, by segment number.
    pub(super) files: BTreeMap<u64, Arc<dyn Storage>>,
    /// The parts of the log that count, in order.
    pub(super) extents: Vec<Extent>,
    /// Offset up to which the log is durable, according to the log itself.
    pub(super) durable: u64,
    /// Offset where the log ends.
    pub(super) end: u64,
    /// Number of the transaction before the first one in the log.
    before: u64,
    /// Number and checksum of the transaction before the first one in the log, as the head of the first segment names
    /// them.
    begin: Chain,
    pub(super) chain: Chain,
    image_end: u64,
    transactions: Vec<LogOffset>,
    lost: LostFrames,
}

/// What was found in an extent, except written bytes and pads.
enum Event {
    /// The head of the next segment.
    Head { base: u64, last: Chain },
    /// A transaction that verifies.
    Transaction(Found),
    /// Bytes in which no header verifies; or, if `fatal`, a frame that is certainly not written bytes.
    Bad { at: u64, until: u64, why: String, fatal: bool },
}

/// A transaction that verifies.
#[derive(Clone, Copy)]
struct Found {
    at: u64,
    end: u64,
    sum: u64,
    info: TransactionInfo,
}

/// What the directory of a thaw log holds.
pub enum Contents {
    /// Nothing that counts: no segment has a head, and there is no transaction.
    Nothing,
    /// A log without a complete group, and with no transaction before it.
    Empty {
        /// Id of the log.
        log_id: u64,
        /// Whether the log belongs to the image.
        fits: Result<(), Misfit>,
    },
    /// A log with commits.
    Log {
        /// The recovered log.
        recovered: Box<Recovered>,
        /// Whether the log continues the current state of the image.
        fits: Result<(), Misfit>,
    },
}

/// Reads the thaw log in `folder` and checks whether it fits `image`. Writes nothing.
///
/// # Errors
/// Fails with `Foreign` if the log is damaged and belongs to another image, with `Damaged`, or if it cannot be read.
pub fn examine(folder: Arc<dyn Folder>, image: &ImageState) -> Result<Contents, ThawError> {
    let Some(survey) = Survey::of(folder.as_ref())? else { return Ok(Contents::Nothing) };
    let (log_id, bindings) = (survey.log_id, survey.bindings());
    let by_name = || fits_by_name(log_id, &bindings, image);
    match read(folder, survey) {
        Ok(None) => Ok(Contents::Empty { log_id, fits: by_name() }),
        Ok(Some(recovered)) => {
            let fits = fits(&recovered.state(), image);
            Ok(Contents::Log { recovered: Box::new(recovered), fits })
        }
        Err(ThawError::Storage(error)) => Err(error.into()),
        // Damage of another image's log is not reported.
        Err(error) => by_name().map_or_else(|misfit| Err(misfit.into()), |()| Err(error)),
    }
}

/// Reads the thaw log in `folder`, which must fit `image`. Returns `None` if there is no log with a commit. Writes
/// nothing.
///
/// # Errors
/// Fails with `Foreign` if the log does not fit, with `Damaged`, or if it cannot be read.
pub fn recover(folder: Arc<dyn Folder>, image: &ImageState) -> Result<Option<Recovered>, ThawError> {
    match examine(folder, image)? {
        Contents::Nothing | Contents::Empty { .. } => Ok(None),
        Contents::Log { recovered, fits } => {
            fits?;
            Ok(Some(*recovered))
        }
    }
}

/// Reads the log in `folder`, whatever image it belongs to.
pub(super) fn recover_any(folder: Arc<dyn Folder>) -> Result<Option<Recovered>, ThawError> {
    match Survey::of(folder.as_ref())? {
        Some(survey) => read(folder, survey),
        None => Ok(None),
    }
}

fn read(folder: Arc<dyn Folder>, survey: Survey) -> Result<Option<Recovered>, ThawError> {
    let line = survey.line()?;
    let Some(first) = line.extents.first() else { return Ok(None) };
    let (begin, start) = (first.head.last, first.head.end);
    let (events, durable) = look(&line.extents, line.durable)?;
    let (mut counted, lost) = judge(events, begin, durable)?;
    let torn = torn_written(&line.extents, &counted, durable)?;
    // The transactions of complete groups before the first torn written bytes count.
    let whole = counted.iter().rposition(|t| !t.info.more_follows && torn.is_none_or(|torn| t.end <= torn));
    if let Some(partial) = counted.get(whole.map_or(0, |last| last + 1)).filter(|t| t.at < durable) {
        let why = "the rest of a group of transactions is missing".to_owned();
        return Err(ThawError::Damaged { at: LogOffset(partial.at), durable: LogOffset(durable), why });
    }
    counted.truncate(whole.map_or(0, |last| last + 1));
    let last = counted.last();
    let chain = last.map_or(begin, |t| Chain { number: t.info.number, sum: t.sum });
    if chain.number == 0 {
        return Ok(None);
    }
    let read = last.map_or(0, |t| t.end).max(start);
    let end = read.max(durable);
    let mut extents = line.extents;
    if !extents.iter().any(|extent| extent.segment.base < end && end <= extent.limit) {
        let why = "bytes that were synced are missing".to_owned();
        return Err(ThawError::Damaged { at: LogOffset(read), durable: LogOffset(durable), why });
    }
    extents.retain(|extent| extent.segment.base < end);
    if let Some(extent) = extents.last_mut() {
        extent.limit = extent.limit.min(end);
    }
    Ok(Some(Recovered {
        folder,
        log_id: survey.log_id,
        segment_size: survey.segment_size,
        files: survey.files,
        extents,
        durable,
        end,
        before: begin.number,
        begin,
        chain,
        image_end: last.map_or(0, |t| t.info.image_end),
        transactions: counted.iter().map(|t| LogOffset(t.at)).collect(),
        lost,
    }))
}

/// Returns everything in the extents except written bytes and pads, and the highest `durable_upto`.
fn look(extents: &[Extent], mut durable: u64) -> Result<(Vec<Event>, u64), ThawError> {
    let mut events = Vec::new();
    let mut stored = Vec::new();
    for extent in extents {
        events.push(Event::Head { base: extent.segment.base, last: extent.head.last });
        walk(&extent.segment, extent.head.end, extent.limit, |step| {
            match step {
                Step::Bad { at, until, why } => events.push(Event::Bad { at, until, why, fatal: false }),
                Step::Frame(header) => match verify(&extent.segment, &header, &mut stored)? {
                    None => {}
                    Some(Ok(found)) => {
                        durable = durable.max(found.info.durable_upto);
                        events.push(Event::Transaction(found));
                    }
                    Some(Err(why)) => {
                        let (at, until) = (header.offset.0, header.offset.0.saturating_add(header.frame_len()));
                        events.push(Event::Bad { at, until, why: why.to_owned(), fatal: true });
                    }
                },
            }
            Ok(true)
        })?;
    }
    Ok((events, durable))
}

/// Returns the transaction in a frame, or what is wrong with it; `None` for written bytes and pads.
fn verify(
    segment: &Segment,
    header: &FrameHeader,
    stored: &mut Vec<u8>,
) -> Result<Option<Result<Found, &'static str>>, ThawError> {
    if !is_plain(header) {
        return Ok(Some(Err("a frame has a codec, flags or a clear part, which a thaw log does not have")));
    }
    match header.kind {
        FrameKind::WRITTEN | FrameKind::PAD => return Ok(None),
        FrameKind::TRANSACTION if u64::from(header.stored_len) <= TRANSACTION_LEN => {}
        _ => return Ok(Some(Err("a frame of a kind or size that a thaw log does not have"))),
    }
    if !segment.stored(header, stored)? {
        return Ok(Some(Err("checksum mismatch in a transaction")));
    }
    let at = header.offset;
    let transaction = Transaction::decode(stored).map_err(|source| ThawError::Transaction { offset: at, source })?;
    let end = at.0.saturating_add(header.frame_len());
    Ok(Some(Ok(Found { at: at.0, end, sum: header.sum, info: transaction.info })))
}

/// Returns the transactions that continue one another, incomplete groups included, and the parts of the log in which
/// only written bytes can have been lost. The log ends where these transactions end.
///
/// # Errors
/// Fails with `Damaged` if they end before `durable`.
fn judge(events: Vec<Event>, begin: Chain, durable: u64) -> Result<(Vec<Found>, LostFrames), ThawError> {
    let damaged = |at: u64, why: String| ThawError::Damaged { at: LogOffset(at), durable: LogOffset(durable), why };
    let mut chain = begin;
    let (mut found, mut lost) = (Vec::new(), LostFrames::default());
    // Parts in which no header verifies. The next transaction or head shows whether a transaction was lost in them.
    let mut gaps: Vec<(u64, u64, String)> = Vec::new();
    for event in events {
        let (at, joins) = match &event {
            Event::Bad { at, .. } if *at >= durable => break,
            //= format-spec.md#11.5
            //# A damaged log is not replayed at all, and nothing of it must be overwritten.
            Event::Bad { at, why, fatal: true, .. } => return Err(damaged(*at, why.clone())),
            Event::Bad { at, until, why, fatal: false } => {
                gaps.push((*at, *until, why.clone()));
                continue;
            }
            Event::Head { base, last } => (*base, *last == chain),
            Event::Transaction(t) => {
                (t.at, Some(t.info.number) == chain.number.checked_add(1) && t.info.previous_sum == chain.sum)
            }
        };
        if !joins {
            if at < durable && gaps.is_empty() {
                return Err(damaged(at, "transactions before it are missing".to_owned()));
            }
            break;
        }
        let mut torn = false;
        for (from, to, _) in gaps.drain(..) {
            lost.add(from, to.min(durable));
            torn |= to > durable;
        }
        if torn {
            // The gap reaches beyond `durable`, so the frame at `durable` does not verify and the log ends there.
            // Before `durable` only written bytes are lost.
            break;
        }
        if let Event::Transaction(t) = event {
            chain = Chain { number: t.info.number, sum: t.sum };
            found.push(t);
        }
    }
    match gaps.into_iter().next() {
        Some((at, _, why)) => Err(damaged(at, why)),
        None => Ok((found, lost)),
    }
}

/// Returns the offset of the first frame of written bytes from `durable` on, before the end of the last transaction,
/// whose checksum is wrong.
fn torn_written(extents: &[Extent], found: &[Found], durable: u64) -> Result<Option<u64>, ThawError> {
    let Some(end) = found.last().map(|t| t.end).filter(|&end| end > durable) else { return Ok(None) };
    // Begin after the last transaction before `durable`: headers are found from there. Frames before `durable` are not
    // checked.
    let from = found.iter().rev().find(|t| t.end <= durable).map_or(0, |t| t.end);
    let mut torn = None;
    let mut stored = Vec::new();
    for Extent { head, segment, limit, .. } in extents.iter().filter(|e| e.limit > from && e.segment.base < end) {
        walk(segment, head.end.max(from), (*limit).min(end), |step| {
            if let Step::Frame(header) = step
                && header.kind == FrameKind::WRITTEN
                && header.offset.0 >= durable
                && !segment.stored(&header, &mut stored)?
            {
                torn = Some(header.offset.0);
            }
            Ok(torn.is_none())
        })?;
        if torn.is_some() {
            break;
        }
    }
    Ok(torn)
}

fn changed(at: LogOffset, why: &str) -> ThawError {
    ThawError::Damaged { at, durable: at, why: why.to_owned() }
}

impl Recovered {
    /// Returns the number of the last transaction that counts; at least 1.
    pub fn last_transaction(&self) -> u64 {
        self.chain.number
    }

    /// Returns the number of the transaction before the first one in the log.
    pub fn before(&self) -> u64 {
        self.before
    }

    /// Returns the log's id.
    pub fn log_id(&self) -> u64 {
        self.log_id
    }

    /// Returns the segments that count, for reading.
    pub fn segments(&self) -> Segments {
        let by_number = self.extents.iter().map(|extent| (extent.number, extent.segment.clone()));
        Segments::new(self.segment_size, by_number.collect())
    }

    /// Returns the offset where the transaction with this number ends; `None` if it is not in the log.
    ///
    /// # Errors
    /// Fails if the log can no longer be read.
    pub fn transaction_end(&self, number: u64) -> Result<Option<LogOffset>, ThawError> {
        let n = number.checked_sub(self.before).and_then(|n| n.checked_sub(1));
        let Some(&at) = n.and_then(|n| self.transactions.get(usize::try_from(n).ok()?)) else { return Ok(None) };
        let (_, header) = self.header(at)?;
        Ok(Some(LogOffset(at.0.saturating_add(header.frame_len()))))
    }

    /// Returns the last transaction that ends at or before `offset`.
    pub(super) fn chain_at(&self, offset: u64) -> Result<Chain, ThawError> {
        let count = self.transactions.partition_point(|at| at.0 < offset);
        match count.checked_sub(1).and_then(|n| self.transactions.get(n)) {
            None => Ok(self.begin),
            Some(&at) => {
                let (_, header) = self.header(at)?;
                Ok(Chain { number: self.before.saturating_add(count as u64), sum: header.sum })
            }
        }
    }

    /// Returns the offset where the log ends: after the last complete group.
    pub fn end(&self) -> LogOffset {
        LogOffset(self.end)
    }

    /// Returns the offset up to which the image was synced before the last transaction was written; 0 without a
    /// transaction.
    pub fn image_end(&self) -> u64 {
        self.image_end
    }

    /// Returns the part of the log's state that has to fit an image.
    pub fn state(&self) -> LogState {
        LogState {
            log_id: self.log_id,
            bindings: self.extents.iter().map(|extent| extent.head.binding).collect::<Vec<Binding>>(),
            last_transaction: self.chain.number,
            image_end: self.image_end,
        }
    }

    /// Checks whether the log continues a root that contains the transactions up to `contained`.
    pub(super) fn joins(&self, contained: u64) -> Result<(), Misfit> {
        let (before, last) = (self.before, self.chain.number);
        if contained > last {
            return Err(Misfit::EndsBefore { contained, last });
        }
        if contained < before {
            return Err(Misfit::BeginsAfter { contained, before });
        }
        Ok(())
    }

    /// Calls `each` for all transactions with a number above `contained`, in order. The image's root contains those up
    /// to `contained`.
    ///
    /// # Errors
    /// Fails with `Foreign` if the log ends before `contained`, or begins after the transaction that follows it; with
    /// the error of `each`; or if a transaction can no longer be read.
    pub fn replay<E: From<ThawError>>(
        &self,
        contained: u64,
        mut each: impl FnMut(Transaction) -> Result<(), E>,
    ) -> Result<(), E> {
        self.joins(contained).map_err(ThawError::from)?;
        let skipped = usize::try_from(contained.saturating_sub(self.before)).unwrap_or(usize::MAX);
        let mut stored = Vec::new();
        for &offset in self.transactions.iter().skip(skipped) {
            each(self.transaction(offset, &mut stored)?)?;
        }
        Ok(())
    }

    fn header(&self, offset: LogOffset) -> Result<(Segment, FrameHeader), ThawError> {
        let segment = self.segment(offset).ok_or_else(|| changed(offset, "its segment is missing"))?;
        let header = segment.header(offset.0, segment.end()?)?.map_err(|why| changed(offset, &why))?;
        Ok((segment, header))
    }

    fn transaction(&self, offset: LogOffset, stored: &mut Vec<u8>) -> Result<Transaction, ThawError> {
        let (segment, header) = self.header(offset)?;
        if !segment.stored(&header, stored)? {
            return Err(changed(offset, "it has changed since it was verified"));
        }
        Transaction::decode(stored).map_err(|source| ThawError::Transaction { offset, source })
    }

    /// Returns the segment that a frame of the log is in.
    pub fn segment(&self, frame: LogOffset) -> Option<Segment> {
        self.extent(frame).map(|extent| extent.segment.clone())
    }

    /// Whether a frame of written bytes is known to be damaged, is at an offset where the log has no bytes, or is
    /// [`Thawed::LOST`].
    ///
    /// [`Thawed::LOST`]: crate::format::transaction::Thawed::LOST
    pub fn is_lost(&self, frame: LogOffset) -> bool {
        self.lost.contain(frame)
            || self.extent(frame).is_none_or(|extent| frame.0 < extent.head.end || frame.0 >= extent.limit)
    }

    /// Returns the extent that is in the segment of a frame.
    fn extent(&self, frame: LogOffset) -> Option<&Extent> {
        let number = frame.0.checked_div(self.segment_size)?;
        let n = self.extents.binary_search_by_key(&number, |extent| extent.number).ok()?;
        self.extents.get(n)
    }

    /// Returns the parts of the log in which frames of written bytes are known to be damaged, as start and end.
    pub fn lost_parts(&self) -> Vec<(LogOffset, LogOffset)> {
        self.lost.parts().map(|(from, to)| (LogOffset(from), LogOffset(to))).collect()
    }

    /// Verifies all written bytes, for `check`. Damaged frames count as lost from now on.
    ///
    /// # Errors
    /// Fails if something cannot be read.
    pub fn verify_written(&mut self) -> Result<(), ThawError> {
        let mut stored = Vec::new();
        for Extent { head, segment, limit, .. } in &self.extents {
            let lost = &mut self.lost;
            walk(segment, head.end, *limit, |step| {
                if let Step::Frame(header) = step
                    && header.kind == FrameKind::WRITTEN
                    && !segment.stored(&header, &mut stored)?
                {
                    lost.add(header.offset.0, header.offset.0.saturating_add(header.frame_len()));
                }
                Ok(true)
            })?;
        }
        Ok(())
    }
}
