//! One batch: files are cut until there are enough new bytes, superchunks are published, and the files are spliced.
//!
//! The freezer's lock is held from the first look-up of a known subchunk to the last splice, so that nobody deletes a
//! subchunk that a file is about to name. A batch for a snapshot cuts the files of the snapshot's moment, and splices
//! them there, too. Called by `pass`.

use super::known::KnownSubchunks;
use super::moment::Moment;
use super::publish::publish;
use super::report::{FreezeHow, FreezeReport};
use super::source::{FileLayout, Reader};
use crate::format::block::KeyRef;
use crate::format::codec::Compression;
use crate::format::ids::{InodeId, SubchunkId};
use crate::format::limits;
use crate::format::rows::{ContentRef, FileType, InodeRow};
use crate::format::schema;
use crate::freeze::{
    Batch, BatchError, BatchOptions, Blocks, CutError, Cutting, DEFAULT_LIMIT, FileCut, Last, Layout, Packed, Priority,
    RegionPiece, Scope, SpanSource, Urgency, choose, cut_file,
};
use crate::fs::dirty::DirtyFiles;
use crate::fs::live::Live;
use crate::fs::ops::{Frozen, Piece, even_out, freeze};
use crate::fs::snapshot::Snapshot;
use crate::fs::{FsError, layout};
use crate::meta::View;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Most files in a batch: some data about each stays in memory until it is spliced.
const FILES: usize = 16 << 10;
/// Least number of superchunks in a batch, if the image's superchunks are large.
const SUPERCHUNKS: u64 = 2;

/// Position in the files where the next batch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    /// Inode number of the file where the next batch begins. All files before it are done.
    inode: InodeId,
    /// Offset in bytes in the file where the next batch begins. All bytes before it are done.
    offset: u64,
}

/// A file that was cut into subchunks.
struct Cut {
    inode: InodeId,
    row: InodeRow,
    from: u64,
    /// Whether the whole content was cut again, not only what changed.
    deep: bool,
    file: FileCut,
}

/// Result of cutting a file.
enum Outcome {
    Cut(Cut),
    /// The file becomes tiny: its bytes go to a row of a table, and it has no pieces.
    Tiny(Frozen),
    /// The file has nothing to freeze.
    Nothing,
}

/// Freezes one batch of files from `from` on. Returns where the next batch begins, or `None` after the last file.
pub(super) fn run(
    live: &Live,
    how: &FreezeHow<'_>,
    which: Which,
    from: Cursor,
    report: &mut FreezeReport,
    observer: &dyn Fn(u64, u64),
    mut moment: Option<&mut Moment>,
) -> Result<Option<Cursor>, FsError> {
    let mut freezer = live.freezing.lock();
    let began = Instant::now();
    let (head, dirty) = {
        let mut state = live.lock_state();
        state.check_latch()?;
        state.dirty.expire(Instant::now());
        (state.snapshot(), state.dirty.clone())
    };
    if which == Which::Dirty && dirty.bytes() == 0 && moment.is_none() {
        return Ok(None);
    }
    // The first change rewrites what was found at the start: those ranges then name other frames.
    if !live.has_begun() {
        live.begin()?;
        return Ok(Some(from));
    }
    let now = match &mut moment {
        None => head.clone(),
        Some(moment) => {
            moment.learn(head.view())?;
            moment.snapshot().clone()
        }
    };
    let options = options(live, how, &now)?;
    let bytes = if which == Which::Dirty && moment.is_none() { dirty.bytes() } else { u64::MAX };
    // Writers do not wait for a better ratio.
    freezer.read_anchors(head.view(), bytes.min(options.limit), &|| (how.stop)() || live.pressure.is_pressed())?;
    let (working_set, known) = freezer.prepare(head.view())?;
    let reader = Reader::new(&now, &working_set);
    let is_urgent = || is_urgent(live, how);
    let is_fast = is_fast(options.compression, Compression::from_numbers(options.params.codec, options.params.level)?);
    let mut batch = Batch::new(options, &known).map_err(of_batch)?;
    batch.set_urgency(Urgency { is_urgent: &is_urgent, left: &live.left_behind });
    let (mut outcomes, mut next) = (Vec::new(), None);
    let mut after = from.inode;
    let next_of = |after: InodeId, moment: Option<&Moment>| match moment {
        Some(moment) => moment.next_file(after),
        None => next_file(which, &dirty, how, after, &now),
    };
    while let Some(inode) = next_of(after, moment.as_deref())? {
        let offset = if inode == from.inode { from.offset } else { 0 };
        if (how.stop)() || batch.is_full() || outcomes.len() >= FILES {
            next = Some(Cursor { inode, offset });
            break;
        }
        after = InodeId(inode.0.saturating_add(1));
        match cut(&reader, how, (inode, offset), &mut batch) {
            Ok(Outcome::Nothing) => {}
            Ok(Outcome::Tiny(frozen)) => outcomes.push(Outcome::Tiny(frozen)),
            Ok(Outcome::Cut(cut)) => {
                next = cut.file.next.map(|offset| Cursor { inode, offset });
                outcomes.push(Outcome::Cut(cut));
                if next.is_some() {
                    break;
                }
            }
            Err(CutError::Layout(error)) => match &mut moment {
                Some(moment) => _ = moment.unreadable.get_or_insert((inode, error)),
                None => hold(live, inode, &error),
            },
            Err(CutError::Batch(error)) => return Err(of_batch(error)),
        }
        let cut = batch.new_bytes().saturating_add(batch.shared_bytes());
        let stored = report.stored_bytes.saturating_add(batch.stored_bytes());
        observer(report.frozen_bytes.saturating_add(cut), stored);
    }
    let stopped = (how.stop)();
    if stopped && !how.everything {
        // The caller wants to end, and nobody waits for this batch.
        return Ok(None);
    }
    // The next batch fills up the last superchunk with more files. At the end it is written as it is, if the rest is to
    // be frozen, too.
    let last = match next.is_none() || stopped {
        true if how.everything || how.rest => Last::Keep,
        // The log has to become shorter, however little is left of its bytes.
        _ if how.open_files => Last::KeepIfAlone,
        _ => Last::Drop,
    };
    let raw = batch.new_bytes().saturating_add(batch.shared_bytes());
    let packed = batch.finish(last).map_err(of_batch)?;
    let mut first = SubchunkId(0);
    if !packed.is_empty() {
        let (subchunk, superchunk) = publish(live, &packed)?;
        first = subchunk;
        freezer.add(&packed, first, superchunk);
    }
    report.superchunks = report.superchunks.saturating_add(packed.superchunks.len() as u64);
    for superchunk in &packed.superchunks {
        report.new_bytes = report.new_bytes.saturating_add(superchunk.raw_len.into());
        report.stored_bytes = report.stored_bytes.saturating_add(superchunk.frame_len());
    }
    #[cfg(test)]
    live.freezer.at(super::control::Step::Published);
    if let Some(moment) = &mut moment {
        moment.learn(live.snapshot().view())?;
    }
    // The first file of which something is left for the next batch.
    let mut unfinished: Option<Cursor> = None;
    for outcome in outcomes {
        let (frozen, is_all) = match outcome {
            Outcome::Nothing => continue,
            Outcome::Tiny(frozen) => (frozen, true),
            Outcome::Cut(cut) => {
                let (frozen, goes_on) = frozen(&reader, &cut, &packed, first, is_fast)?;
                if let Some(offset) = goes_on {
                    unfinished = unfinished.or(Some(Cursor { inode: cut.inode, offset }));
                }
                (frozen, goes_on.is_none())
            }
        };
        match &mut moment {
            Some(moment) => {
                moment.splice(&frozen)?;
                // It may have changed since the snapshot's moment. That does not mean that it keeps changing.
                splice(live, how, &frozen, is_all, true, report)?;
            }
            None => splice(live, how, &frozen, is_all, false, report)?,
        }
        observer(report.frozen_bytes, report.stored_bytes);
    }
    let superchunk = now.view().params().superchunk_size.into();
    live.pressure.froze(raw, began.elapsed(), packed.superchunks.len() as u64, superchunk);
    live.delays.wake();
    Ok(match next {
        None => None,
        // If a batch leaves a whole file over, the next batch would do the same.
        Some(next) => unfinished.filter(|unfinished| *unfinished != from).or(Some(next)),
    })
}

/// Returns the options of the next batch, or of packing superchunks again.
pub(super) fn options(live: &Live, how: &FreezeHow<'_>, now: &Snapshot) -> Result<BatchOptions, FsError> {
    let params = *now.view().params();
    let least = u64::from(params.superchunk_size).saturating_mul(SUPERCHUNKS);
    let limit = live.pressure.batch(DEFAULT_LIMIT, least);
    let compression = match (Compression::from_numbers(params.codec, params.level)?, how.level) {
        (Compression::Zstd(_) | Compression::Xz(_), Some(level)) => Compression::Zstd(level),
        (own, None) if how.by_rate => live.pressure.compression(own, limit),
        (own, _) => own,
    };
    Ok(BatchOptions {
        params,
        compression,
        compressors: live.compressors.load(Ordering::Relaxed).max(1),
        priority: priority(live, how),
        limit,
    })
}

/// Returns whether a compression is one that is chosen to be faster than the image's own.
fn is_fast(compression: Compression, own: Compression) -> bool {
    match (compression, own) {
        (Compression::Zstd(level), Compression::Zstd(own)) => level < own,
        (Compression::Zstd(_), Compression::Xz(_)) => true,
        _ => false,
    }
}

/// Returns the priority of the compressors. If writers are faster than the freezer, the threads run at normal priority.
/// Idle priority is not used while somebody asks for a freeze, or while threads at idle priority still run whose work
/// others took over.
fn priority(live: &Live, how: &FreezeHow<'_>) -> Priority {
    match how.priority {
        _ if live.pressure.is_pressed() => Priority::Normal,
        Priority::Idle if live.freezer.is_asked() || !live.left_behind.is_empty() => Priority::Low,
        own => own,
    }
}

/// Returns whether somebody waits for a batch whose compressors run at low priority: writers, somebody who asked for a
/// freeze, or a filesystem that is ending.
pub(super) fn is_urgent(live: &Live, how: &FreezeHow<'_>) -> bool {
    live.pressure.is_pressed() || how.priority == Priority::Idle && live.freezer.is_asked() || (how.stop)()
}

/// The files that a batch looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The batch looks at files with bytes in the thaw log.
    Dirty,
    /// The batch looks at files whose content was made by changes, not by chunking it from its start.
    Uneven,
}

/// Returns the next file, from `from` on, that may be frozen.
fn next_file(
    which: Which,
    dirty: &DirtyFiles,
    how: &FreezeHow<'_>,
    from: InodeId,
    now: &Snapshot,
) -> Result<Option<InodeId>, FsError> {
    if which == Which::Uneven {
        return next_uneven(now.view(), from);
    }
    let time = Instant::now();
    // A file without a name is deleted when it is closed. It gets space in the image only if the log has to be emptied.
    let found = dirty.iter_from(from).find(|(inode, file)| {
        let has_to_go = how.everything || how.open_files && !file.is_held(time);
        has_to_go || file.is_eligible(time) && !now.is_nameless(*inode)
    });
    Ok(found.map(|(inode, _)| inode))
}

fn next_uneven(view: &View, from: InodeId) -> Result<Option<InodeId>, FsError> {
    let mut cursor = view.cursor_at(&schema::INODES, KeyRef::new(from.0, 0))?;
    while let Some(row) = cursor.row() {
        if InodeRow::decode(row.ints(), row.tail())?.is_uneven() {
            return Ok(Some(InodeId(row.key().a)));
        }
        cursor.advance(view)?;
    }
    Ok(None)
}

/// Cuts into subchunks what is to be frozen of one file: what has changed, or all of it if `how.deep` asks for that.
fn cut(
    reader: &Reader<'_>,
    how: &FreezeHow<'_>,
    (inode, offset): (InodeId, u64),
    batch: &mut Batch<'_, KnownSubchunks<'_>>,
) -> Result<Outcome, CutError<FsError>> {
    let view = reader.view();
    let row = view.inode(inode).and_then(|row| row.map_or_else(|| view.orphan(inode), |row| Ok(Some(row))));
    let row = row.map_err(|error| CutError::Layout(error.into()))?;
    let Some(row) = row.filter(|row| row.file_type == FileType::Regular) else { return Ok(Outcome::Nothing) };
    let mut file = FileLayout::new(reader, inode, row);
    if let Some(frozen) = tiny(reader, inode, &mut file).map_err(CutError::Layout)? {
        return Ok(Outcome::Tiny(frozen));
    }
    let is_uneven = file.row().is_uneven();
    let deep = how.deep && is_uneven;
    let (scope, blocks) = match deep {
        true => (Scope::Everything, Blocks::Image),
        false => (Scope::Changed, choose(&mut file, view.params(), is_uneven).map_err(CutError::Layout)?),
    };
    let cut = cut_file(&mut file, Cutting { scope, blocks }, offset, batch, how.stop)?;
    Ok(Outcome::Cut(Cut { inode, row: file.into_row(), from: offset, deep, file: cut }))
}

/// Reads a file whose bytes are to be in a row of a table: a short one without holes.
fn tiny(reader: &Reader<'_>, inode: InodeId, file: &mut FileLayout<'_>) -> Result<Option<Frozen>, FsError> {
    let row = file.row().clone();
    if row.size == 0 || row.size >= limits::TINY_LEN {
        return Ok(None);
    }
    let sources = layout::spans(reader.view(), inode, &row, (0, row.size), &|_| Ok(0))?;
    if sources.iter().any(|span| matches!(span.source, SpanSource::Hole)) {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(row.size).unwrap_or(0)];
    file.read(0, &mut bytes)?;
    let was_tiny = tiny_of(reader, &row)?;
    Ok(Some(Frozen {
        inode,
        size: row.size,
        sources,
        pieces: Vec::new(),
        whole: true,
        deep: false,
        uneven: false,
        fast: false,
        tiny: Some(bytes),
        was_tiny,
    }))
}

fn tiny_of(reader: &Reader<'_>, row: &InodeRow) -> Result<Option<Vec<u8>>, FsError> {
    Ok(match row.content {
        ContentRef::Tiny(id) => Some(reader.view().tiny(id)?),
        _ => None,
    })
}

/// Returns what of a file can be spliced, and where the next batch begins in it if that is not all.
fn frozen(
    reader: &Reader<'_>,
    cut: &Cut,
    packed: &Packed,
    first: SubchunkId,
    is_fast: bool,
) -> Result<(Frozen, Option<u64>), FsError> {
    let kept = packed.kept(&cut.file);
    let (mut pieces, mut sources) = (Vec::new(), Vec::new());
    let (mut uneven, mut fast) = (false, false);
    for region in &kept.regions {
        uneven |= region.uneven;
        let mut begin = region.begin;
        for &RegionPiece { len, piece, saved, .. } in &region.pieces {
            let subchunk = packed.id(piece, first).ok_or_else(|| FsError::io("a subchunk of a batch has no id"))?;
            pieces.push(Piece { begin, len, subchunk, saved });
            fast |= is_fast && matches!(piece, crate::freeze::Piece::New(_));
            begin = begin.saturating_add(len.into());
        }
        let range = (region.begin, region.end.min(cut.row.size));
        sources.extend(layout::spans(reader.view(), cut.inode, &cut.row, range, &|_| Ok(0))?);
    }
    let mut whole = cut.from == 0 && kept.next.is_none();
    if whole {
        match holes_between(reader, cut, &pieces)? {
            Some(holes) => {
                sources.extend(holes);
                sources.sort_unstable_by_key(|span| span.begin);
            }
            None => whole = false,
        }
    }
    let was_tiny = tiny_of(reader, &cut.row)?;
    let (inode, size) = (cut.inode, cut.row.size);
    let deep = cut.deep;
    Ok((Frozen { inode, size, sources, pieces, whole, deep, uneven, fast, tiny: None, was_tiny }, kept.next))
}

/// Returns the spans between the pieces, if all of them are holes.
fn holes_between(
    reader: &Reader<'_>,
    cut: &Cut,
    pieces: &[Piece],
) -> Result<Option<Vec<crate::freeze::Span>>, FsError> {
    let mut file = FileLayout::new(reader, cut.inode, cut.row.clone());
    let (mut holes, mut at) = (Vec::new(), 0);
    let ends = pieces.iter().map(|piece| (piece.begin, piece.end())).chain([(cut.row.size, cut.row.size)]);
    for (begin, end) in ends {
        while at < begin {
            let mut span = file.span(at)?;
            if span.source != SpanSource::Hole {
                return Ok(None);
            }
            let stop = span.begin.saturating_add(span.len).min(begin);
            (span.begin, span.len) = (at, stop.saturating_sub(at));
            holes.push(span);
            at = stop.max(at.saturating_add(1));
        }
        at = end;
    }
    Ok(Some(holes))
}

/// Splices the pieces of a file into its content, by several operations if there are many.
fn splice(
    live: &Live,
    how: &FreezeHow<'_>,
    frozen: &Frozen,
    is_all: bool,
    may_be_changed: bool,
    report: &mut FreezeReport,
) -> Result<(), FsError> {
    if frozen.pieces.is_empty() && frozen.tiny.is_none() {
        return Ok(());
    }
    let (mut bytes, mut saved, mut changed, mut next) = (0u64, 0u64, false, Some(0));
    while let Some(first) = next {
        let done = live.transact(|draft| freeze(draft, frozen, first))?;
        if done.gone {
            return Ok(());
        }
        (bytes, changed) = (bytes.saturating_add(done.bytes), changed || done.changed);
        saved = saved.saturating_add(done.saved);
        next = done.next;
    }
    if frozen.deep && is_all {
        live.transact(|draft| even_out(draft, frozen.inode))?;
    }
    let mut state = live.lock_state();
    if changed {
        report.files = report.files.saturating_add(u64::from(is_all));
        report.frozen_bytes = report.frozen_bytes.saturating_add(bytes);
        report.shared_bytes = report.shared_bytes.saturating_add(saved);
        live.saved.fetch_add(saved, Ordering::Relaxed);
        state.dirty.spliced(frozen.inode);
        drop(state);
        if is_all {
            (how.frozen)(frozen.inode);
        }
    } else if !may_be_changed {
        report.dropped = report.dropped.saturating_add(1);
        state.dirty.dropped(frozen.inode, Instant::now());
    }
    Ok(())
}

fn hold(live: &Live, inode: InodeId, error: &FsError) {
    if live.lock_state().dirty.hold(inode, Instant::now()) {
        tracing::warn!(inode = inode.0, %error, "a file cannot be frozen");
    }
}

fn of_batch(error: BatchError<FsError>) -> FsError {
    match error {
        BatchError::Known(error) => error,
        error => FsError::io(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::world::World;
    use crate::fs::{NewKind, NewNode};

    #[test]
    fn a_batch_in_the_background_is_urgent_for_writers_who_asks_and_the_end() {
        let how = |priority, stop| FreezeHow { priority, stop, ..FreezeHow::default() };
        let (own, asked) = (how(Priority::Idle, &|| false), how(Priority::Low, &|| false));
        let urgent = |live: &Live| (is_urgent(live, &own), is_urgent(live, &asked));
        let world = World::with_budget(16 << 20);
        let live = &world.live;
        assert_eq!((urgent(live), priority(live, &own)), ((false, false), Priority::Idle));
        assert!(is_urgent(live, &how(Priority::Idle, &|| true)) && is_urgent(live, &how(Priority::Low, &|| true)));
        live.request_freeze(false);
        assert_eq!((urgent(live), priority(live, &own)), ((true, false), Priority::Low));
        assert_eq!(priority(live, &asked), Priority::Low);
        let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0o022, uid: 0, gid: 0 };
        let inode = live.create(InodeId::ROOT, b"a", &node).unwrap().inode;
        (0..10).for_each(|n| live.write(inode, n << 20, &[7; 1 << 20], false).unwrap());
        assert_eq!((urgent(live), priority(live, &own)), ((true, true), Priority::Normal));
        assert_eq!(priority(live, &asked), Priority::Normal);
    }
}
