//! Checks every frame of the log, from its beginning to its end: header, clear part, stored bytes.
//!
//! After a damaged header the scan continues where the frame ends according to the map, or else at the next header that
//! verifies. The stored bytes of data superchunks are left to `data`, which decodes them in the same read. Frames do
//! not overlap, with one exception: frames in the punched payload of a dead frame, of which only the clear list is
//! read. So any work done once for each frame is bounded by the size of the image.

use super::beside::After;
use super::clear::Clear;
use super::known::{Known, KnownFrame, Map, Namer, Super};
use super::report::{CheckError, CheckObserver, CheckReport, Finding, FindingKind, Findings, Severity};
use super::trees::Trees;
use super::{Check, ranges::Marks};
use crate::format::clear::ClearList;
use crate::format::codec;
use crate::format::frame::{Flags, FrameHeader, FrameKind};
use crate::format::head::{Head, incompat};
use crate::format::ids::{LogOffset, SuperchunkId};
use crate::format::limits::{LOG_START, SEQUENCES, SYNC_BLOCK};
use crate::format::place::Place;
use crate::format::rows::SuperchunkRow;
use crate::log::{self, LogError, LogReader};
use std::collections::HashSet;
use std::ops::Range;

/// A superchunk of file data that the scan of the log found.
#[derive(Debug, Clone, Copy)]
pub(super) struct DataFrame {
    /// Header of the frame. If it is damaged, it is rebuilt from the map.
    pub(super) header: FrameHeader,
    /// Superchunk that the frame belongs to; `None` if nothing refers to it.
    pub(super) owner: Option<SuperchunkId>,
    /// Whether the clear list is readable.
    pub(super) clear_good: bool,
    /// Whether the payload is punched, so that other frames may be in it.
    pub(super) punched: bool,
}

/// Frames that the scan of the log found.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Superchunks of file data, by offset.
    pub(super) data: Vec<DataFrame>,
    /// Offsets of all frames, ascending.
    offsets: Vec<u64>,
}

impl Frames {
    /// Returns the number of frames of all kinds.
    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Returns whether a frame begins at `offset`.
    pub(super) fn begins_at(&self, offset: LogOffset) -> bool {
        self.offsets.binary_search(&offset.0).is_ok()
    }
}

/// Compares the length of the file with the end of the log. Returns how many bytes are missing.
pub(super) fn check_length(log: &LogReader, after: After, findings: &mut Findings) -> Result<u64, CheckError> {
    let (len, end) = (log.storage().len()?, log.end());
    if len < end {
        let message = format!("the file is cut short: its log ends at offset {end}, but the file has {len} bytes");
        findings.add(Finding::new(FindingKind::Log, Severity::Recoverable, message).at(len));
        return Ok(end - len);
    }
    let (from, are) = match after {
        After::Frames(image_end) => (end.max(image_end), "are ignored"),
        After::Unknown => (end, "are not in its last checkpoint, and were not checked"),
    };
    if len > from {
        let message = format!("{} bytes after the end of the log {are}", len - from);
        findings.add(Finding::new(FindingKind::Log, Severity::Note, message).at(from));
    }
    Ok(0)
}

/// Scans the log of an image whose root cannot be read.
pub(super) fn without_root(
    log: &LogReader,
    heads: &[Head],
    why: &str,
    observer: &dyn CheckObserver,
    findings: &mut Findings,
    report: &mut CheckReport,
) -> Result<(), CheckError> {
    let message = format!("{why}: no file of the image can be read");
    findings.add(Finding::new(FindingKind::Root, Severity::Lost, message));
    let known = Known::of_heads(heads);
    let trees = Trees::default();
    let mut progress = |_: &FrameHeader| ();
    let mut scan = Scan::new(log, heads.first(), &known, &trees, findings, &mut progress)?;
    scan.run(observer, &mut |_, _, _, _| {})?;
    scan.finish();
    report.frames = scan.frames.len() as u64;
    Ok(())
}

/// Scans the log, passes clear lists to `clear`, and completes `map` where it is damaged.
pub(super) fn check(
    check: &Check<'_>,
    known: &Known,
    trees: &Trees,
    map: &mut Map,
    clear: &mut Clear,
    findings: &mut Findings,
) -> Result<Frames, CheckError> {
    let log = check.image.log();
    let quick = check.options.quick;
    let mut progress = |header: &FrameHeader| {
        let later = header.kind == FrameKind::SUPERCHUNK && !quick;
        check.progress(if later { header.frame_len() - u64::from(header.stored_len) } else { header.frame_len() });
    };
    let mut found = Vec::new();
    let mut scan = Scan::new(log, Some(check.image.head()), known, trees, findings, &mut progress)?;
    scan.run(check.observer, &mut |header, owner, list, marks| {
        let lost_row = trees.superchunks.contains(list.superchunk.0);
        if lost_row {
            let row = SuperchunkRow { kind: header.kind, place: Place::of(header) };
            found.push((header.sequence, Super { id: list.superchunk, row }));
            trees.superchunk_findings.of_one(list.superchunk.0, &mut |finding| {
                list.subchunks.iter().for_each(|listed| marks.add(listed.id.0..listed.id.0 + 1, finding));
            });
        }
        if let Some(owner) = owner {
            clear.add(check, trees, map, owner, header, list);
        }
    })?;
    scan.finish();
    let frames = std::mem::take(&mut scan.frames);
    clear.unreachable = std::mem::take(&mut scan.unreachable);
    clear.damaged = std::mem::take(&mut scan.damaged_clear);
    map.add_from_frames(found);
    Ok(frames)
}

/// A frame with damaged stored bytes. How bad that is depends on its copy.
struct Damaged {
    header: FrameHeader,
    named: Option<KnownFrame>,
    why: String,
}

/// A callback for clear lists. It gets the header, the owner and the clear list of each superchunk and table group, and
/// the findings about subchunks, to which it may add.
type OnClear<'c> = &'c mut dyn FnMut(&FrameHeader, Option<SuperchunkId>, &ClearList, &mut Marks);

struct Scan<'a> {
    log: &'a LogReader,
    head: Option<&'a Head>,
    readable: u64,
    known: &'a Known,
    trees: &'a Trees,
    findings: &'a mut Findings,
    progress: &'a mut dyn FnMut(&FrameHeader),
    frames: Frames,
    sequences: Vec<u64>,
    damaged: Vec<Damaged>,
    damaged_clear: HashSet<SuperchunkId>,
    unreachable: HashSet<SuperchunkId>,
    /// Feature bits that frames use and the head does not name.
    features: u64,
    /// Offset of the next header that verifies after the last damage.
    next_valid: Option<LogOffset>,
    stored: Vec<u8>,
}

impl<'a> Scan<'a> {
    fn new(
        log: &'a LogReader,
        head: Option<&'a Head>,
        known: &'a Known,
        trees: &'a Trees,
        findings: &'a mut Findings,
        progress: &'a mut dyn FnMut(&FrameHeader),
    ) -> Result<Self, CheckError> {
        let readable = log.end().min(log.storage().len()?);
        Ok(Scan {
            log,
            head,
            readable,
            known,
            trees,
            findings,
            progress,
            frames: Frames::default(),
            sequences: Vec::new(),
            damaged: Vec::new(),
            damaged_clear: HashSet::new(),
            unreachable: HashSet::new(),
            features: 0,
            next_valid: None,
            stored: Vec::new(),
        })
    }

    fn add(&mut self, kind: FindingKind, severity: Severity, offset: LogOffset, message: String) {
        self.findings.add(Finding::new(kind, severity, message).at(offset.0));
    }

    fn run(&mut self, observer: &dyn CheckObserver, on_clear: OnClear<'_>) -> Result<(), CheckError> {
        let mut scan = self.log.scan(LogOffset(LOG_START));
        // The part of a dead frame's stored bytes that is still to be examined.
        let mut payload = 0..0;
        while let Some(next) = scan.next() {
            if observer.cancelled() {
                return Err(CheckError::Cancelled);
            }
            let at = match &next {
                Ok(header) => header.offset,
                Err((at, _)) => *at,
            };
            if at.0 >= self.readable {
                break; // That the file is cut short was reported.
            }
            self.known_within(payload.start..payload.end.min(at.0), on_clear);
            payload.start = payload.start.max(at.0);
            match next {
                Ok(header) => {
                    let end = header.offset.0 + header.frame_len();
                    let punched = scan.punched().is_some_and(|outer| outer.offset == header.offset);
                    if punched || scan.punched().is_none() && self.known.at(header.offset).is_empty() {
                        payload = end - u64::from(header.stored_len)..end;
                    } else {
                        payload.start = end;
                    }
                    self.frame(&header, true, punched, on_clear);
                }
                Err((at, error)) => {
                    let next = self.after_damage(at, &error, &mut scan, on_clear);
                    scan.resume_at(next);
                }
            }
        }
        self.known_within(payload, on_clear);
        Ok(())
    }

    /// Handles frames that are referred to and should lie within the stored bytes of a dead frame, but that the scan
    /// did not find. Either their headers are damaged, or the dead frame is damaged where it would show that it is
    /// punched.
    fn known_within(&mut self, range: Range<u64>, on_clear: OnClear<'_>) {
        let mut at = range.start;
        while let Some(offset) = self.known.next(LogOffset(at)).filter(|offset| offset.0 < range.end) {
            at = offset.0 + 1;
            let Some(known) = self.known.at(offset).first().copied() else { continue };
            let end = offset.0.saturating_add(known.place.frame_len());
            if end > range.end || offset.0 % SYNC_BLOCK != 0 {
                continue;
            }
            match self.log.header(offset) {
                Ok(header) if header.offset.0 + header.frame_len() == end => self.frame(&header, true, false, on_clear),
                Ok(_) => continue,
                Err(error) => self.known_by_place(&known, &error, on_clear),
            }
            at = end;
        }
    }

    /// Reports the damaged header of a frame of the image's log whose place is known from the tables, and checks the
    /// rest of the frame. `on_clear` is called with the frame's clear list, if it has one.
    fn known_by_place(&mut self, known: &KnownFrame, error: &LogError, on_clear: OnClear<'_>) {
        let message = format!(
            "header of the {} at offset {} is damaged: {}; no file is affected: the map has the same information",
            known.kind.name(),
            known.offset,
            plain(error)
        );
        self.add(FindingKind::Frame, Severity::Recoverable, known.offset, message);
        self.frame(&header_from(known, self.log.log_id()), false, false, on_clear);
    }

    /// Handles a header that does not verify; returns where to continue.
    fn after_damage(
        &mut self,
        at: LogOffset,
        error: &LogError,
        scan: &mut log::Scan,
        on_clear: OnClear<'_>,
    ) -> LogOffset {
        if let Some(known) = self.known.at(at).first().copied() {
            let end = at.0 + known.place.frame_len();
            if end <= self.readable {
                self.known_by_place(&known, error, on_clear);
                return LogOffset(end);
            }
        }
        let mut next = match self.next_valid {
            Some(next) if next > at => next,
            _ => scan.find_next(LogOffset(at.0 + 1)).unwrap_or(LogOffset(self.readable)),
        };
        self.next_valid = Some(next);
        if let Some(known) = self.known.next(LogOffset(at.0 + 1)) {
            next = next.min(known);
        }
        next = next.min(LogOffset(self.readable));
        let message = format!("{} bytes at offset {at} are not a valid frame: {}", next.0 - at.0, plain(error));
        self.add(FindingKind::Frame, Severity::Recoverable, at, message);
        next
    }

    /// Checks a frame whose header verifies or is known from elsewhere.
    fn frame(&mut self, header: &FrameHeader, header_good: bool, punched: bool, on_clear: OnClear<'_>) {
        self.frames.offsets.push(header.offset.0);
        if header_good {
            self.sequences.push(header.sequence);
            self.header(header);
        }
        let named = self.named(header, header_good);
        let mut owner = match named {
            Some(KnownFrame { namer: Namer::Superchunk(id), .. }) => Some(id),
            _ => None,
        };
        let mut clear_good = true;
        if header.kind.has_clear_list() {
            let list = self
                .log
                .clear_part(header)
                .map_err(|error| plain(&error))
                .and_then(|bytes| ClearList::decode(&bytes, header.raw_len).map_err(|error| error.to_string()));
            match list {
                Ok(list) => {
                    if owner.is_some_and(|owner| owner != list.superchunk) {
                        let message =
                            format!("the frame is superchunk {}, but the map says {owner:?}", list.superchunk);
                        self.add(FindingKind::Map, Severity::Lost, header.offset, message);
                        owner = None;
                    } else if owner.is_none() && self.trees.superchunks.contains(list.superchunk.0) {
                        owner = Some(list.superchunk);
                    }
                    if list.subchunks.iter().any(|listed| listed.composed) {
                        self.features |= incompat::RECIPES;
                    }
                    on_clear(header, owner, &list, &mut self.findings.hits.subchunks);
                }
                Err(why) => {
                    clear_good = false;
                    let rest = match owner {
                        Some(id) => {
                            self.damaged_clear.insert(id);
                            "no file is affected: the map has the same information"
                        }
                        None => "nothing refers to the frame",
                    };
                    let message = format!(
                        "clear list of the {} at offset {} is damaged: {why}; {rest}",
                        header.kind.name(),
                        header.offset
                    );
                    self.add(FindingKind::Frame, Severity::Recoverable, header.offset, message);
                }
            }
        } else if let Err(error) = self.log.clear_part(header) {
            let message = format!(
                "clear part of the frame at offset {} is damaged: {}; no file is affected",
                header.offset,
                plain(&error)
            );
            self.add(FindingKind::Frame, Severity::Recoverable, header.offset, message);
        }
        if header.kind == FrameKind::SUPERCHUNK {
            self.frames.data.push(DataFrame { header: *header, owner, clear_good, punched });
        } else if !punched || named.is_some() {
            self.stored(header, named);
        }
        (self.progress)(header);
    }

    /// Checks the fields of a header that differ by kind.
    fn header(&mut self, header: &FrameHeader) {
        let Some(head) = self.head else { return };
        //= format-spec.md#2.1
        //# the writer's session; never above the head's `epoch`
        if header.epoch > head.epoch {
            let message = format!("the frame is of epoch {}, the head's is {}", header.epoch, head.epoch);
            self.add(FindingKind::Frame, Severity::Recoverable, header.offset, message);
        }
        if header.sequence / SEQUENCES != u64::from(header.epoch) {
            let message =
                format!("the frame's sequence {} does not belong to its epoch {}", header.sequence, header.epoch);
            self.add(FindingKind::Frame, Severity::Recoverable, header.offset, message);
        }
        let plain =
            header.codec == codec::RAW && header.flags == Flags::default() && header.raw_len == header.stored_len;
        if header.kind == FrameKind::PAD && !plain {
            let message = "a pad has a codec, flags, or a raw length that differs from its stored length".to_owned();
            self.add(FindingKind::Frame, Severity::Note, header.offset, message);
        }
        //= format-spec.md#5
        //# Every superchunk without the bit must be full.
        if header.kind == FrameKind::SUPERCHUNK && !header.flags.short() && !head.params.is_full(header.raw_len) {
            let message = format!(
                "the superchunk has {} of {} bytes, and is not marked as short; no file is affected",
                header.raw_len, head.params.superchunk_size
            );
            self.add(FindingKind::Frame, Severity::Recoverable, header.offset, message);
        }
        if header.flags.parts() {
            self.features |= incompat::PARTS;
        }
        if header.flags.dictionary() {
            self.features |= incompat::DICTIONARY;
        }
        if header.flags.filter() != 0 {
            self.features |= incompat::FILTERS;
        }
        if header.codec == codec::XZ {
            self.features |= incompat::XZ;
        }
    }

    /// Compares the frame's header with the rows, blocks and head slots that refer to the frame.
    fn named(&mut self, header: &FrameHeader, header_good: bool) -> Option<KnownFrame> {
        let known = self.known.at(header.offset);
        let first = *known.first()?;
        let names: HashSet<_> = known
            .iter()
            .filter_map(|k| match k.namer {
                Namer::Superchunk(id) => Some(id),
                _ => None,
            })
            .collect();
        if names.len() > 1 {
            let message = format!("{} superchunks of the map refer to one frame", names.len());
            self.add(FindingKind::Map, Severity::Lost, header.offset, message);
        }
        if header_good {
            let p = &first.place;
            let said = (first.kind, p.clear_len, p.stored_len, p.raw_len, p.codec, p.flags, p.sum);
            let own = (
                header.kind,
                header.clear_len,
                header.stored_len,
                header.raw_len,
                header.codec,
                header.flags,
                header.sum,
            );
            if said != own {
                let message = format!("the header at offset {} and what refers to the frame disagree", header.offset);
                self.add(FindingKind::Map, Severity::Recoverable, header.offset, message);
            }
        }
        Some(first)
    }

    /// Checks the stored bytes of all kinds except data.
    fn stored(&mut self, header: &FrameHeader, named: Option<KnownFrame>) {
        if named.is_some_and(|named| named.namer == Namer::Head) {
            return; // The roots were verified before.
        }
        let mut stored = std::mem::take(&mut self.stored);
        let why = match self.log.stored_unverified(&Place::of(header), header.offset, &mut stored) {
            Err(error) => Some(plain(&error)),
            Ok(false) => Some("wrong checksum".to_owned()),
            Ok(true) if header.kind == FrameKind::PAD && stored.iter().any(|&byte| byte != 0) => {
                Some("a pad that is not zero".to_owned())
            }
            Ok(true) => None,
        };
        self.stored = stored;
        if let Some(why) = why {
            self.damaged.push(Damaged { header: *header, named, why });
        }
    }

    /// Reports faults that are known only after all frames were seen.
    fn finish(&mut self) {
        self.report_damaged();
        self.report_missing();
        self.sequences.sort_unstable();
        if !self.sequences.is_sorted_by(|a, b| a < b) {
            let message = "two frames have the same sequence number".to_owned();
            self.add(FindingKind::Log, Severity::Recoverable, LogOffset(LOG_START), message);
        }
        if let Some(head) = self.head
            && self.features & !head.incompat != 0
        {
            let message =
                format!("the head does not name the features {:#x} that frames use", self.features & !head.incompat);
            self.add(FindingKind::Head, Severity::Recoverable, LogOffset(0), message);
        }
    }

    fn report_damaged(&mut self) {
        let damaged = std::mem::take(&mut self.damaged);
        let bad: HashSet<LogOffset> = damaged.iter().map(|damaged| damaged.header.offset).collect();
        for Damaged { header, named, why } in damaged {
            let good_copy = named.and_then(|named| {
                named.place.offsets().find(|other| !bad.contains(other) && self.frames.begins_at(*other))
            });
            let lost = named.is_some_and(|named| match named.namer {
                Namer::Superchunk(id) => self.trees.lost_groups.contains(&id.0),
                _ => self.trees.lost_frames.contains(&named.place.offset.0),
            });
            let (severity, rest) = match (named, good_copy, lost) {
                (None, ..) => (Severity::Recoverable, "no file is affected: nothing refers to it".to_owned()),
                (_, Some(copy), _) => {
                    (Severity::Recoverable, format!("no file is affected: the frame at offset {copy} is a good copy"))
                }
                (_, _, true) if header.kind == FrameKind::MAP_BLOCK => {
                    (Severity::Recoverable, "see the findings about the map".to_owned())
                }
                (_, _, true) => (Severity::Lost, "see the findings about the tables for what is lost".to_owned()),
                (_, _, false) => {
                    (Severity::Recoverable, "no file is affected: every block in it can still be read".to_owned())
                }
            };
            let message = format!(
                "stored bytes of the {} at offset {} are damaged: {why}; {rest}",
                header.kind.name(),
                header.offset
            );
            let mut finding = Finding::new(FindingKind::Frame, severity, message).at(header.offset.0);
            if let Some(KnownFrame { namer: Namer::Superchunk(id), .. }) = named {
                finding = finding.in_superchunk(id.0);
            }
            self.findings.add(finding);
        }
    }

    /// Reports frames that are referred to and were not found.
    fn report_missing(&mut self) {
        let mut cut = 0u64;
        for known in self.known.all() {
            if self.frames.begins_at(known.offset) {
                continue;
            }
            let is_cut = known.offset.0.saturating_add(known.place.frame_len()) > self.readable;
            cut += u64::from(is_cut);
            let other = known.place.offsets().any(|offset| self.frames.begins_at(offset));
            if let (Namer::Superchunk(id), false, false) = (known.namer, other, known.is_copy()) {
                self.unreachable.insert(id);
            }
            if !is_cut {
                let severity = if other { Severity::Recoverable } else { Severity::Lost };
                let message =
                    format!("a {} should be at offset {}, but there is none", known.kind.name(), known.offset);
                self.findings.add(Finding::new(FindingKind::Map, severity, message).at(known.offset.0));
            }
        }
        if cut > 0 {
            let message = format!("{cut} frames that are referred to are beyond the end of the file");
            self.add(FindingKind::Log, Severity::Recoverable, LogOffset(self.readable), message);
        }
    }
}

/// Rebuilds a header from what refers to the frame.
fn header_from(known: &KnownFrame, log_id: u64) -> FrameHeader {
    FrameHeader {
        kind: known.kind,
        codec: known.place.codec,
        flags: known.place.flags,
        log_id,
        epoch: 0,
        clear_len: known.place.clear_len,
        sequence: 0,
        offset: known.offset,
        stored_len: known.place.stored_len,
        raw_len: known.place.raw_len,
        sum: known.place.sum,
    }
}

/// Returns the message without the offset, which the finding holds.
fn plain(error: &LogError) -> String {
    match error {
        LogError::Format { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}
