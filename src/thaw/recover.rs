//! Reading a thaw log back: which transactions count, where it ends, and whether that is damage.
//!
//! Segments are read in order and every frame is verified. The log ends at the first frame that does not verify, or does
//! not continue the chain of transactions. That is where an interrupted writer came to, unless something behind it says
//! that this very place was synced: a transaction's `durable_upto`, or a later segment, which is begun only when all
//! before it is durable. Then it is damage, and nothing may be overwritten.

use super::ThawError;
use super::log::{Continued, ThawLog};
use super::segment::{Binding, Chain, Identity, at, frame, placed};
use crate::format::frame::{FRAME_HEADER, FRAME_MAGIC, FrameHeader, FrameKind, RawFrameHeader};
use crate::format::ids::LogOffset;
use crate::format::thaw::SegmentHead;
use crate::format::transaction::Transaction;
use crate::format::{FormatError, limits};
use crate::log::{LogError, LogReader};
use crate::storage::{Folder, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes read at once in search of headers.
const WINDOW: usize = 1 << 20;

/// A thaw log that was read.
pub struct Recovered {
    folder: Arc<dyn Folder>,
    log_id: u64,
    segment_size: u64,
    segments: BTreeMap<u64, Arc<dyn Storage>>,
    /// Segments in which nothing counts.
    void: Vec<u64>,
    /// Where the log ends, in the last of `segments`.
    end: u64,
    /// Number of the transaction before the first that is there.
    before: u64,
    chain: Chain,
    next_sequence: u64,
    transactions: Vec<LogOffset>,
}

/// What the first frame of a segment says.
struct First {
    head: SegmentHead,
    log_id: u64,
}

/// Reads the thaw log in `folder`; `None` if nothing was ever committed to one there. `accepts` says whether the image is
/// in a state that a log with this binding and id continues; if not, why. Writes nothing.
///
/// # Errors
/// `Foreign` if it is not accepted; `Damaged`; or if a segment cannot be read.
pub fn recover(
    folder: Arc<dyn Folder>,
    accepts: impl FnOnce(&Binding, u64) -> Result<(), &'static str>,
) -> Result<Option<Recovered>, ThawError> {
    let numbers = folder.list()?;
    let Some(&lowest) = numbers.first() else { return Ok(None) };
    let first = match first_frame(folder.open(lowest)?) {
        Ok(first) if first.head.segment.get() == lowest => first,
        other => {
            let why = other.err().map_or_else(|| "it is another segment's".to_owned(), |error| error.to_string());
            for &number in &numbers {
                if let Some(at) = committed_somewhere(folder.open(number)?.as_ref())? {
                    return Err(ThawError::Damaged { at: LogOffset(0), durable: at, why });
                }
            }
            return Ok(None);
        }
    };
    let head = &first.head;
    let binding = Binding {
        uuid: head.uuid,
        lineage: head.lineage,
        generation: head.generation.get(),
        root_hash: head.root_hash,
    };
    accepts(&binding, first.log_id).map_err(|why| ThawError::Foreign { why })?;
    let chain = Chain { number: head.last_transaction.get(), sum: head.last_sum.get() };
    let mut recovered = Recovered {
        folder,
        log_id: first.log_id,
        segment_size: head.segment_size.get(),
        segments: BTreeMap::new(),
        void: Vec::new(),
        end: 0,
        before: chain.number,
        chain,
        next_sequence: 1,
        transactions: Vec::new(),
    };
    recovered.read_segments(&numbers, &binding)?;
    Ok(Some(recovered))
}

impl Recovered {
    /// Number of the last transaction that counts.
    pub fn last_transaction(&self) -> u64 {
        self.chain.number
    }

    /// The log's id.
    pub fn log_id(&self) -> u64 {
        self.log_id
    }

    /// Hands all transactions with a number above `contained`, in order, to `each`.
    ///
    /// # Errors
    /// `Foreign` if some between `contained` and the first that is there are missing; what `each` returns; or if one
    /// cannot be read any more.
    pub fn replay<E: From<ThawError>>(
        &self,
        contained: u64,
        mut each: impl FnMut(Transaction) -> Result<(), E>,
    ) -> Result<(), E> {
        if contained < self.before {
            return Err(ThawError::Foreign { why: "transactions that the image does not contain are missing" }.into());
        }
        let mut bytes = Vec::new();
        for &offset in self.transactions.iter().skip((contained - self.before) as usize) {
            let storage = self.segments.get(&(offset.0 / self.segment_size)).cloned();
            let storage = storage.ok_or(ThawError::Foreign { why: "a segment is missing" })?;
            let reader = LogReader::new(storage, self.log_id, u64::MAX).map_err(ThawError::from)?;
            frame(&reader, offset, &mut bytes)?;
            each(Transaction::decode(&bytes).map_err(|source| ThawError::Transaction { offset, source })?)?;
        }
        Ok(())
    }

    /// Cuts off what does not count, and goes on writing in a new segment. `binding` is of the head the image has now;
    /// `epoch` the image's, raised durably.
    ///
    /// # Errors
    /// If that cannot be made durable. What counts is untouched in any case.
    pub fn resume(self, binding: Binding, epoch: u32) -> Result<ThawLog, ThawError> {
        for &number in self.void.iter().rev() {
            self.folder.remove(number)?;
        }
        if let Some(last) = self.segments.values().next_back() {
            if last.len()? > self.end {
                last.truncate(self.end)?;
            }
            // Also where nothing is cut off: a writer that was killed may not have synced what was read here, and all before a
            // new segment has to be durable.
            last.sync()?;
        }
        self.folder.sync()?;
        let identity = Identity { binding, log_id: self.log_id, epoch, segment_size: self.segment_size };
        let Recovered { folder, chain, next_sequence, segments, .. } = self;
        ThawLog::proceed(folder, identity, Continued { chain, next_sequence, segments })
    }

    fn read_segments(&mut self, numbers: &[u64], binding: &Binding) -> Result<(), ThawError> {
        let mut failed: Option<(u64, String)> = None;
        for (n, &number) in numbers.iter().enumerate() {
            let opened = self.folder.open(number)?;
            let storage = placed(opened, number, self.segment_size)?;
            if failed.is_none() && n > 0 && number != numbers[n - 1] + 1 {
                failed = Some((self.end, format!("segment {} is missing", numbers[n - 1] + 1)));
            }
            match failed {
                None => {
                    failed = self.read_segment(number, &storage, binding)?;
                    let begun = failed.as_ref().is_none_or(|(at, _)| *at > number * self.segment_size);
                    if begun {
                        self.segments.insert(number, Arc::clone(&storage));
                    } else {
                        self.void.push(number);
                    }
                    if let Some((at, why)) = &failed {
                        self.look_behind(*at, why, number, &storage)?;
                        // A segment that never began leaves the end where the one before has it.
                        if begun {
                            self.end = *at;
                        }
                    }
                }
                Some((at, ref why)) => {
                    self.look_behind(at, why, number, &storage)?;
                    self.void.push(number);
                }
            }
        }
        Ok(())
    }

    /// Reads one segment. Returns where and why it fails, if it does; else the log's end is its end.
    fn read_segment(
        &mut self,
        number: u64,
        storage: &Arc<dyn Storage>,
        binding: &Binding,
    ) -> Result<Option<(u64, String)>, ThawError> {
        let base = number * self.segment_size;
        let end = storage.len()?;
        let reader = LogReader::new(Arc::clone(storage), self.log_id, end)?;
        let mut bytes = Vec::new();
        let mut at = base;
        while at < end || at == base {
            let header = match frame(&reader, LogOffset(at), &mut bytes) {
                Ok(header) => header,
                Err(error) => return Ok(Some((at, error.to_string()))),
            };
            if let Err(why) = self.take(number, base, &header, &bytes, binding) {
                return Ok(Some((at, why)));
            }
            self.next_sequence = self.next_sequence.max(header.sequence.saturating_add(1));
            at += header.frame_len();
        }
        self.end = at;
        Ok(None)
    }

    /// Takes a verified frame, or says why it does not continue the log.
    fn take(
        &mut self,
        number: u64,
        base: u64,
        header: &FrameHeader,
        stored: &[u8],
        binding: &Binding,
    ) -> Result<(), String> {
        let first = header.offset.0 == base;
        if first != (header.kind == FrameKind::SEGMENT) {
            return Err("a segment does not begin with its own frame".into());
        }
        match header.kind {
            FrameKind::SEGMENT => {
                let head = SegmentHead::read(stored, "segment").map_err(|error| error.to_string())?;
                let continues = head.uuid == binding.uuid
                    && head.lineage == binding.lineage
                    && head.segment.get() == number
                    && head.segment_size.get() == self.segment_size
                    && head.last_transaction.get() == self.chain.number
                    && head.last_sum.get() == self.chain.sum;
                if continues { Ok(()) } else { Err("a segment does not continue the one before".into()) }
            }
            FrameKind::WRITTEN | FrameKind::PAD => Ok(()),
            FrameKind::TRANSACTION => {
                let transaction = Transaction::decode(stored).map_err(|error| error.to_string())?;
                if transaction.number != self.chain.number + 1 || transaction.previous_sum != self.chain.sum {
                    return Err("a transaction does not continue the one before".into());
                }
                self.chain = Chain { number: transaction.number, sum: header.sum };
                self.transactions.push(header.offset);
                Ok(())
            }
            _ => Err("a frame that has no place in a thaw log".into()),
        }
    }

    /// Looks in a segment for anything that says that the log's end `at` was durable once.
    fn look_behind(&self, at: u64, why: &str, number: u64, storage: &Arc<dyn Storage>) -> Result<(), ThawError> {
        let base = number * self.segment_size;
        let reader = LogReader::new(Arc::clone(storage), self.log_id, storage.len()?)?;
        let mut bytes = Vec::new();
        let mut from = base.max(at.saturating_add(1));
        while let Some(found) = reader.find_next(LogOffset(from)) {
            from = found.0 + 1;
            let Ok(header) = frame(&reader, found, &mut bytes) else { continue };
            let durable = match header.kind {
                FrameKind::SEGMENT => base,
                FrameKind::TRANSACTION => Transaction::decode(&bytes).map_or(0, |t| t.durable_upto),
                _ => 0,
            };
            if durable > at {
                let (at, durable) = (LogOffset(at), LogOffset(durable));
                return Err(ThawError::Damaged { at, durable, why: why.to_owned() });
            }
            from = found.0 + header.frame_len();
        }
        Ok(())
    }
}

/// The first frame of a segment whose log and place are not known yet: what it says of both is believed, then verified.
fn first_frame(storage: Arc<dyn Storage>) -> Result<First, ThawError> {
    let invalid = |source| ThawError::Log(LogError::format(LogOffset(0), source));
    let mut bytes = vec![0; FRAME_HEADER];
    storage.read_at(0, &mut bytes)?;
    let header = own_header(&bytes).map_err(invalid)?;
    if header.kind != FrameKind::SEGMENT || header.stored_len as usize != SegmentHead::SIZE || header.clear_len != 0 {
        return Err(invalid(FormatError::invalid("segment", "it does not begin with a segment frame")));
    }
    let reader = LogReader::new(at(storage, header.offset.0), header.log_id, u64::MAX)?;
    frame(&reader, header.offset, &mut bytes)?;
    let head = SegmentHead::read(&bytes, "segment").map_err(invalid)?;
    let base = head.segment.get().checked_mul(head.segment_size.get());
    if head.segment_size.get() == 0 || base != Some(header.offset.0) || header.offset.0 > limits::IMAGE_LEN {
        return Err(invalid(FormatError::invalid("segment", "it does not lie where its number says")));
    }
    Ok(First { head, log_id: header.log_id })
}

/// A header that verifies as one of the log and at the offset that it names itself.
fn own_header(bytes: &[u8]) -> Result<FrameHeader, FormatError> {
    let raw = RawFrameHeader::read(bytes, "frame header")?;
    raw.validate(raw.log_id.get(), LogOffset(raw.own_offset.get()))
}

/// Whether there is a transaction anywhere in a segment whose beginning is lost; the first one's own offset.
fn committed_somewhere(storage: &dyn Storage) -> Result<Option<LogOffset>, ThawError> {
    let len = storage.len()?;
    let mut window = Vec::new();
    let mut at = 0;
    while at + FRAME_HEADER as u64 <= len {
        window.resize((len - at).min(WINDOW as u64) as usize, 0);
        storage.read_at(at, &mut window)?;
        for start in 0..=window.len() - FRAME_HEADER {
            let bytes = &window[start..start + FRAME_HEADER];
            if bytes.starts_with(&FRAME_MAGIC)
                && let Ok(header) = own_header(bytes)
                && header.kind == FrameKind::TRANSACTION
            {
                return Ok(Some(header.offset));
            }
        }
        at += (window.len() - (FRAME_HEADER - 1)) as u64;
    }
    Ok(None)
}
