//! Rebuilds the map from the clear lists of superchunks, if a leaf of the map is lost. Recipes cannot be rebuilt.
//!
//! One scan reads headers and clear lists, and stored bytes only to see whether a payload is punched. The lists are
//! kept in the form of the map, as runs: about 3 bytes for each subchunk. If an id is named more than once (a
//! superchunk was written twice or moved), the frame with the highest sequence counts.
//!
//! Memory has a fixed budget, whatever the image holds. If the lists do not fit, they are scanned a second time, and
//! only what the map has lost is kept. If that does not fit either, the last subchunks of data in the log are left out
//! and cannot be read. A quarter of the budget is reserved for superchunks and table groups, so that data does not
//! displace the tables.

use super::Located;
use crate::format::block::KeyRef;
use crate::format::clear::{ClearList, Listed};
use crate::format::frame::{FrameHeader, FrameKind};
use crate::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use crate::format::limits;
use crate::format::place::Place;
use crate::format::rows::map::{SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::rows::{SubchunkRun, SuperchunkRow};
use crate::log::{LogReader, Scan};
use crate::table::{BlockSource, Onward, Tree};
use std::cmp::Reverse;

/// Memory budget for clear lists in bytes: enough for about 4 million subchunks. At worst, while a vector grows, it
/// takes twice as much, plus temporarily a clear list (4 MiB) and the window of a scan (1 MiB). Together with 32 MiB of
/// table blocks this is below the 64 MiB that a mount may take besides its working set.
const BUDGET: usize = 12 << 20;
/// Most ranges of lost keys that are kept. After as many failed reads of blocks, the rest of the map counts as lost.
const MAX_LOST: usize = 16 << 10;

/// Key of a row of the map: its space, and the id.
type MapKey = (u64, u64);

/// Keys of the map whose rows are in damaged blocks.
#[derive(Debug, Default)]
pub(super) struct LostKeys {
    /// Disjoint, ascending ranges of keys. The end is exclusive; `None` is after all keys.
    ranges: Vec<(MapKey, Option<MapKey>)>,
}

impl LostKeys {
    /// Finds the lost keys by reading each block of the map once. After [`MAX_LOST`] failures, all keys that follow
    /// count as lost.
    pub(super) fn of(map: &Tree, source: &dyn BlockSource) -> Self {
        let key = |key: KeyRef<'_>| (key.a, key.b);
        let mut ranges = Vec::new();
        map.walk(source, &mut |visit| {
            if visit.block.is_ok() {
                return Onward::Into;
            }
            ranges.push((visit.lower.map_or((0, 0), key), visit.upper.map(key)));
            if ranges.len() < MAX_LOST {
                return Onward::Past;
            }
            if let Some((_, end)) = ranges.last_mut() {
                *end = None;
            }
            Onward::Stop
        });
        LostKeys { ranges }
    }

    /// Returns whether a row that covers an id from `first` to `last` may be lost. Rows whose key is before `first` may
    /// cover it, too.
    fn touch(&self, space: u64, first: u64, last: u64) -> bool {
        let first = if space == SPACE_SUBCHUNKS { first.saturating_sub(limits::RUN - 1) } else { first };
        let at = self.ranges.partition_point(|(_, end)| end.is_some_and(|end| end <= (space, first)));
        self.ranges.get(at).is_some_and(|(begin, _)| *begin <= (space, last))
    }
}

/// A frame of the log that has a clear list.
struct Frame {
    superchunk: SuperchunkId,
    sequence: u64,
    offset: LogOffset,
}

/// Subchunks with consecutive ids in one superchunk: at most [`limits::RUN`], as in a row of the map.
struct Run {
    first: SubchunkId,
    /// Index in [`ClearLists::tails`] where the lengths of the subchunks begin, and the bits that tell which of them
    /// are composed.
    tail: u64,
    /// Index of the run's frame in [`ClearLists::frames`].
    frame: u32,
    position: u32,
    tail_len: u16,
    count: u8,
    composed: bool,
}

/// Makes room in `vec` for `more` elements. The vector grows by an eighth, so little of it is unused.
fn grow<T>(vec: &mut Vec<T>, more: usize) -> &mut Vec<T> {
    if vec.capacity() - vec.len() < more {
        vec.reserve_exact(more.max(vec.len() / 8).max(1024));
    }
    vec
}

/// Index of where superchunks and subchunks are, built from the clear lists of the frames. It is used in place of
/// damaged blocks of the map.
pub(super) struct ClearLists {
    log: LogReader,
    /// Frames with clear lists, in the order of their offsets.
    frames: Vec<Frame>,
    /// Indices of the frames, sorted by superchunk id; for one superchunk the highest sequence comes first.
    by_superchunk: Vec<u32>,
    /// Runs of subchunks, sorted by first id. For one first id the highest sequence comes first, and a later run is
    /// kept only if it is longer.
    runs: Vec<Run>,
    tails: Vec<u8>,
}

impl ClearLists {
    fn new(log: LogReader) -> Self {
        ClearLists { log, frames: Vec::new(), by_superchunk: Vec::new(), runs: Vec::new(), tails: Vec::new() }
    }

    /// Reads all clear lists that verify, and skips the others. If they do not fit the budget, only what the keys that
    /// `lost` returns need is kept, as far as it fits.
    pub(super) fn scan(log: &LogReader, lost: impl FnOnce() -> LostKeys) -> Self {
        ClearLists::scan_within(BUDGET, log, lost)
    }

    fn scan_within(budget: usize, log: &LogReader, lost: impl FnOnce() -> LostKeys) -> Self {
        let mut lists = ClearLists::read(budget, log, None).unwrap_or_else(|| {
            tracing::warn!("the clear lists are too many to be kept: keeping what the map has lost");
            ClearLists::read(budget, log, Some(&lost())).unwrap_or_else(|| ClearLists::new(log.clone()))
        });
        lists.sort();
        lists
    }

    /// Reads the clear lists. With `lost`: keeps what lost keys need, as far as it fits the budget. Without: keeps
    /// everything, or returns `None` if not everything fits.
    fn read(budget: usize, log: &LogReader, lost: Option<&LostKeys>) -> Option<Self> {
        let mut lists = ClearLists::new(log.clone());
        let mut all_fit = true;
        let mut scan = Scan::new(log.clone(), LogOffset(limits::LOG_START));
        while let Some(next) = scan.next() {
            match next {
                Ok(header) if header.kind.has_clear_list() => {
                    if let Ok(bytes) = log.clear_part(&header)
                        && !lists.add(&header, &bytes, budget, lost)
                    {
                        // Without `lost` all are needed, but not all fit.
                        lost?;
                        all_fit = false;
                    }
                }
                Ok(_) => {}
                Err((offset, _)) => match scan.find_next(LogOffset(offset.0 + 1)) {
                    Some(good) => scan.resume_at(good),
                    None => break,
                },
            }
        }
        if !all_fit {
            tracing::warn!("more of the map is lost than can be kept of the clear lists: some files cannot be read");
        }
        Some(lists)
    }

    /// Returns the bytes in use.
    fn len(&self) -> usize {
        self.frames.len() * (size_of::<Frame>() + size_of::<u32>())
            + self.runs.len() * size_of::<Run>()
            + self.tails.len()
    }

    /// Adds the contents of a clear list, if the list verifies. Returns false if something did not fit the budget.
    fn add(&mut self, header: &FrameHeader, bytes: &[u8], budget: usize, lost: Option<&LostKeys>) -> bool {
        let (frames, runs, tails) = (self.frames.len(), self.runs.len(), self.tails.len());
        let is_table = header.kind == FrameKind::TABLE_GROUP;
        // The superchunk is known after the whole list was read.
        grow(&mut self.frames, 1).push(Frame {
            superchunk: SuperchunkId(0),
            sequence: header.sequence,
            offset: header.offset,
        });
        let for_runs = if is_table { budget } else { budget / 4 * 3 };
        let mut all_fit = self.len() <= budget;
        let mut row = SubchunkRun {
            first: SubchunkId(0),
            superchunk: SuperchunkId(0),
            position: 0,
            lens: Vec::new(),
            composed: Vec::new(),
        };
        let walked = ClearList::walk(bytes, header.raw_len, |Listed { id, len, composed }| {
            let count = row.lens.len() as u64;
            if count == limits::RUN || count > 0 && id.0 != row.first.0 + count {
                all_fit &= self.add_run(&mut row, frames as u32, for_runs, lost);
            }
            if row.lens.is_empty() {
                row.first = id;
            }
            row.lens.push(len);
            row.composed.push(composed);
        });
        if !row.lens.is_empty() {
            all_fit &= self.add_run(&mut row, frames as u32, for_runs, lost);
        }
        let is_kept = |superchunk: SuperchunkId, has_runs: bool| {
            has_runs || lost.is_none_or(|lost| lost.touch(SPACE_SUPERCHUNKS, superchunk.0, superchunk.0))
        };
        match (walked, self.frames.last_mut()) {
            (Ok(superchunk), Some(frame)) if is_kept(superchunk, self.runs.len() > runs) => {
                frame.superchunk = superchunk;
                if self.len() <= budget {
                    return all_fit;
                }
                all_fit = false;
            }
            (Ok(_), _) => {}
            (Err(_), _) => all_fit = true,
        }
        self.frames.truncate(frames);
        self.runs.truncate(runs);
        self.tails.truncate(tails);
        all_fit
    }

    /// Adds a run if it fits the budget. With `lost`, a run that no lost key needs is skipped. Empties `row` and moves
    /// its position after the run. Returns false if the run was needed and did not fit.
    fn add_run(&mut self, row: &mut SubchunkRun, frame: u32, budget: usize, lost: Option<&LostKeys>) -> bool {
        let (first, position, count) = (row.first, row.position, row.lens.len());
        // The lengths of a list add up to at most the raw length of a superchunk.
        let next = row.lens.iter().fold(position, |at, len| at.saturating_add(*len));
        let last = first.0 + (count as u64).saturating_sub(1);
        let needed = lost.is_none_or(|lost| lost.touch(SPACE_SUBCHUNKS, first.0, last));
        let (_, tail) = if needed { row.encode() } else { ([0; 8], Vec::new()) };
        let composed = row.composed.contains(&true);
        row.position = next;
        row.lens.clear();
        row.composed.clear();
        if !needed {
            return true;
        }
        if self.len() + size_of::<Run>() + tail.len() > budget {
            return false;
        }
        let begin = self.tails.len() as u64;
        grow(&mut self.tails, tail.len()).extend_from_slice(&tail);
        // At most 128 lengths of 3 bytes and 16 bytes of bits.
        let (count, tail_len) = (count as u8, tail.len() as u16);
        grow(&mut self.runs, 1).push(Run { first, tail: begin, frame, position, tail_len, count, composed });
        true
    }

    fn sort(&mut self) {
        let frames = &self.frames;
        let sequence = |index: u32| frames.get(index as usize).map_or(0, |frame| frame.sequence);
        let mut by_superchunk: Vec<u32> = (0..frames.len() as u32).collect();
        by_superchunk.sort_unstable_by_key(|&index| {
            (frames.get(index as usize).map(|frame| frame.superchunk), Reverse(sequence(index)))
        });
        let mut runs = std::mem::take(&mut self.runs);
        runs.sort_unstable_by_key(|run| (run.first, Reverse(sequence(run.frame)), Reverse(run.count)));
        // Of several runs with the same first id, a later one counts only if it is longer than all before it.
        let (mut first, mut longest) = (None, 0);
        runs.retain(|run| {
            if first != Some(run.first) {
                (first, longest) = (Some(run.first), 0);
            }
            let reaches_further = run.count > longest;
            longest = longest.max(run.count);
            reaches_further
        });
        runs.shrink_to_fit();
        self.runs = runs;
        self.by_superchunk = by_superchunk;
    }

    fn frame(&self, index: u32) -> Option<&Frame> {
        self.frames.get(index as usize)
    }

    /// Returns where a subchunk is. It looks at most at [`limits::RUN`] runs for each of [`limits::RUN`] ids; in an
    /// image that is not hostile, usually at one run.
    pub(super) fn locate(&self, id: SubchunkId) -> Option<Located> {
        let after = self.runs.partition_point(|run| run.first <= id);
        let candidates = self.runs.get(..after)?.iter().rev().take_while(|run| id.0 - run.first.0 < limits::RUN);
        let covering = candidates.filter(|run| id.0 - run.first.0 < u64::from(run.count));
        let (run, frame) = covering
            .filter_map(|run| Some((run, self.frame(run.frame)?)))
            .max_by_key(|(_, frame)| (frame.sequence, frame.offset))?;
        let tail = usize::try_from(run.tail).ok()?;
        let tail = self.tails.get(tail..tail + usize::from(run.tail_len))?;
        let position = run.position.into();
        let ints = [frame.superchunk.0, position, 0, run.count.into(), run.composed.into(), 0, 0, 0];
        SubchunkRun::find(run.first, &ints, tail, id).ok().flatten()
    }

    /// Returns where a superchunk is: its frame with the highest sequence, and a second frame with the same header
    /// fields as its copy.
    pub(super) fn superchunk(&self, id: SuperchunkId) -> Option<SuperchunkRow> {
        let of = |index: &u32| self.frame(*index).map(|frame| frame.superchunk);
        let begin = self.by_superchunk.partition_point(|index| of(index) < Some(id));
        let own = self.by_superchunk.get(begin..)?.iter().take_while(|index| of(index) == Some(id));
        let mut headers = own.filter_map(|index| self.log.header(self.frame(*index)?.offset).ok());
        let newest = headers.next()?;
        let place = Place::of(&newest);
        // A writer writes the copy right after the first frame.
        let copy = headers
            .next()
            .filter(|other| other.kind == newest.kind && Place { offset: place.offset, ..Place::of(other) } == place);
        Some(SuperchunkRow { kind: newest.kind, place: Place { copy: copy.map(|header| header.offset), ..place } })
    }

    /// Returns the bytes of memory that the index takes.
    #[cfg(test)]
    fn memory(&self) -> usize {
        self.frames.capacity() * size_of::<Frame>()
            + self.by_superchunk.capacity() * size_of::<u32>()
            + self.runs.capacity() * size_of::<Run>()
            + self.tails.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::block::Block;
    use crate::format::bytes::{put_delta, put_varint};
    use crate::format::frame::Flags;
    use crate::format::schema::{self, Table};
    use crate::format::sums;
    use crate::log::{LogWriter, NewFrame};
    use crate::storage::Storage;
    use crate::storage::testing::MemoryStorage;
    use crate::table::{BlockSink, BulkLoader, ChildRef, TableError};
    use std::sync::Arc;

    /// A log of superchunks with stored bytes of zeros and these clear lists, which are given without their checksum.
    fn log(lists: &[(Vec<u8>, u32)]) -> LogReader {
        log_of(lists, |_| FrameKind::SUPERCHUNK)
    }

    /// Like [`log`], with frames of these kinds.
    fn log_of(lists: &[(Vec<u8>, u32)], kind: impl Fn(usize) -> FrameKind) -> LogReader {
        let storage = Arc::new(MemoryStorage::from_bytes(vec![0; limits::LOG_START as usize]));
        let mut writer = LogWriter::new(storage as Arc<dyn Storage>, 7, 1, 1, limits::LOG_START).unwrap();
        for (n, (body, raw_len)) in lists.iter().enumerate() {
            let clear = [&body[..], &sums::crc32(body).to_le_bytes()].concat();
            let stored = vec![0; *raw_len as usize];
            let sum = sums::xxh3(&stored);
            let (kind, codec, flags) = (kind(n), crate::format::codec::RAW, Flags::default());
            writer
                .append(NewFrame { kind, codec, flags, clear: &clear, stored: &stored, raw_len: *raw_len, sum })
                .unwrap();
        }
        writer.reader().unwrap()
    }

    fn body(superchunk: u64, subchunks: &[(u64, u32, bool)]) -> (Vec<u8>, u32) {
        let subchunks: Vec<_> =
            subchunks.iter().map(|&(id, len, composed)| Listed { id: SubchunkId(id), len, composed }).collect();
        let raw_len = subchunks.iter().map(|listed| listed.len).sum();
        let mut list = ClearList { superchunk: SuperchunkId(superchunk), subchunks }.encode();
        list.truncate(list.len() - 4);
        (list, raw_len)
    }

    fn found(lists: &ClearLists, id: u64) -> Option<(u64, u32, u32, bool)> {
        lists.locate(SubchunkId(id)).map(|l| (l.superchunk.0, l.position, l.len, l.composed))
    }

    /// The lost keys if the whole map is lost.
    fn all() -> LostKeys {
        LostKeys { ranges: vec![((0, 0), None)] }
    }

    #[test]
    fn clear_lists_made_to_exhaust_memory_take_no_more_than_the_budget() {
        let mut lists = Vec::new();
        for superchunk in 1..=2u64 {
            // The largest number of runs of one subchunk in a list; all lists name the same subchunks.
            let mut body = vec![superchunk as u8];
            put_varint(&mut body, limits::SUBCHUNKS);
            let mut next = 0;
            for n in 0..limits::SUBCHUNKS {
                put_delta(&mut body, next, 1 + 2 * n);
                next = 2 + 2 * n;
                body.extend_from_slice(&[2, 1]);
            }
            lists.push((body, limits::SUBCHUNKS as u32));
            // And one run of that many subchunks.
            let mut body = vec![superchunk as u8 + 10, 1, 2];
            put_varint(&mut body, limits::SUBCHUNKS << 1);
            body.resize(body.len() + limits::SUBCHUNKS as usize, 1);
            lists.push((body, limits::SUBCHUNKS as u32));
        }
        lists.extend((20..=40_000).map(|id| body(id, &[(id, 1, false)])));
        let log = log(&lists);
        let lists = ClearLists::scan(&log, all);
        assert!(lists.len() <= BUDGET, "{}", lists.len());
        assert!(lists.memory() <= BUDGET / 8 * 9 + (64 << 10), "{}", lists.memory());
        assert_eq!(found(&lists, 1), Some((1, 0, 1, false)), "the first in the log are kept");
        assert!(lists.superchunk(SuperchunkId(40_000)).is_some(), "data leaves room for superchunks");
    }

    #[test]
    fn of_more_lists_than_fit_those_are_kept_that_the_map_has_lost() {
        let lists: Vec<_> = (1..=200u64)
            .map(|n| body(n, &(0..1000).map(|i| (1 + n * 1000 + i, 1, false)).collect::<Vec<_>>()))
            .collect();
        let log = log(&lists);
        let lost = || LostKeys {
            ranges: vec![
                ((0, 150), Some((0, 151))),
                ((1, 120_000), Some((1, 121_200))),
                ((1, 199_500), Some((1, 199_600))),
            ],
        };
        let lists = ClearLists::scan_within(40 << 10, &log, lost);
        assert!(lists.len() <= 40 << 10, "{}", lists.len());
        assert!(lists.superchunk(SuperchunkId(150)).is_some());
        assert!(lists.superchunk(SuperchunkId(151)).is_none(), "the map has it");
        for id in [120_000, 120_001, 121_199, 199_500, 199_599] {
            let n = (id - 1) / 1000;
            assert_eq!(found(&lists, id), Some((n, ((id - 1) % 1000) as u32, 1, false)));
        }
        assert_eq!(found(&lists, 3000), None, "the map has it");
        let whole = ClearLists::scan_within(1 << 20, &log, || unreachable!("all of them fit"));
        assert!(found(&whole, 3000).is_some() && whole.superchunk(SuperchunkId(151)).is_some());
    }

    #[test]
    fn tables_are_kept_though_there_is_more_data_than_fits() {
        let mut lists: Vec<_> = (1..=100u64)
            .map(|n| body(n, &(0..1000).map(|i| (1 + n * 1000 + i, 1, false)).collect::<Vec<_>>()))
            .collect();
        lists.push(body(101, &[(7, 9, false)]));
        let log = log_of(&lists, |n| if n == 100 { FrameKind::TABLE_GROUP } else { FrameKind::SUPERCHUNK });
        let lists = ClearLists::scan_within(32 << 10, &log, all);
        assert!(lists.len() <= 32 << 10, "{}", lists.len());
        assert_eq!(found(&lists, 7), Some((101, 0, 9, false)));
        assert_eq!(found(&lists, 1001), Some((1, 0, 1, false)));
        assert_eq!(found(&lists, 100_001), None, "the last data in the log");
    }

    #[test]
    fn what_a_list_said_before_it_proved_wrong_does_not_count() {
        let (mut wrong, raw_len) = body(1, &(1..=300).map(|id| (id, 1, false)).collect::<Vec<_>>());
        wrong.push(0);
        let log = log(&[(wrong, raw_len), body(2, &[(500, 3, false)])]);
        let lists = ClearLists::scan(&log, all);
        assert_eq!((lists.frames.len(), lists.runs.len()), (1, 1));
        assert_eq!(found(&lists, 500), Some((2, 0, 3, false)));
        assert_eq!(found(&lists, 1), None);
    }

    /// Blocks of the map by their frames' offsets.
    #[derive(Default)]
    struct Blocks(std::collections::HashMap<u64, Vec<u8>>);

    impl BlockSink for Blocks {
        fn put(&mut self, _: &'static Table, _: u8, raw: Vec<u8>) -> Result<ChildRef, TableError> {
            let offset = LogOffset(limits::LOG_START + self.0.len() as u64 * 64);
            let len = raw.len() as u32;
            let (codec, flags, sum) = (crate::format::codec::RAW, Flags::default(), sums::xxh3(&raw));
            self.0.insert(offset.0, raw);
            let place = Place { offset, copy: None, clear_len: 0, stored_len: len, raw_len: len, codec, flags, sum };
            Ok(ChildRef::Frame(place))
        }
    }

    impl BlockSource for Blocks {
        fn block(&self, table: &'static Table, level: u8, child: &ChildRef) -> Result<Arc<Block>, TableError> {
            let ChildRef::Frame(place) = child else { return Err(TableError::Source("no place".into())) };
            let raw = self.0.get(&place.offset.0).ok_or(TableError::Source("it is lost".into()))?;
            Block::decode(table, level, raw).map(Arc::new).map_err(|error| TableError::Source(error.to_string().into()))
        }
    }

    #[test]
    fn the_keys_of_lost_leaves_are_lost_and_no_others() {
        let mut blocks = Blocks::default();
        let mut loader = BulkLoader::new(&schema::MAP, 1024);
        for n in 1..=400 {
            loader.push(&mut blocks, KeyRef::new(SPACE_SUPERCHUNKS, n), &[1, n, 0, 0, 1, 1, 0, 0], &[0; 8]).unwrap();
        }
        for n in 0..400 {
            let ints = [1, 0, 0, limits::RUN, 0, 0, 0, 0];
            loader.push(&mut blocks, KeyRef::new(SPACE_SUBCHUNKS, 1 + n * limits::RUN), &ints, &[1; 128]).unwrap();
        }
        let map = loader.finish(&mut blocks).unwrap();
        assert!(LostKeys::of(&map, &blocks).ranges.is_empty());
        let mut leaves = Vec::new();
        map.walk(&blocks, &mut |visit| {
            if let (0, Some(ChildRef::Frame(place)), Ok(block)) = (visit.level, visit.child, visit.block) {
                let last = block.key(block.len() - 1);
                leaves.push((place.offset.0, (block.key(0).a, block.key(0).b), (last.a, last.b)));
            }
            Onward::Into
        });
        for &(offset, (a, first), (to, last)) in &leaves {
            let raw = blocks.0.remove(&offset).unwrap();
            let lost = LostKeys::of(&map, &blocks);
            assert!(lost.touch(a, first, first) && lost.touch(to, last, last));
            if to == SPACE_SUBCHUNKS {
                assert!(lost.touch(to, last + limits::RUN - 1, last + limits::RUN - 1), "of the last row");
                let is_last = Some(&(to, last)) == leaves.last().map(|(_, _, last)| last);
                assert_eq!(lost.touch(to, last + 2 * limits::RUN, u64::MAX - 1), is_last, "up to the next leaf");
            }
            assert!(a == SPACE_SUBCHUNKS || first == 1 || !lost.touch(a, 1, first - 1));
            blocks.0.insert(offset, raw);
        }
        let all = LostKeys::of(&map, &Blocks::default());
        assert!(all.touch(SPACE_SUPERCHUNKS, 1, 1) && all.touch(SPACE_SUBCHUNKS, u64::MAX, u64::MAX));
        assert!(leaves.len() > 20);
    }

    #[test]
    fn of_two_frames_that_name_one_id_the_higher_sequence_counts() {
        let first: Vec<_> = (1..=300).map(|id| (id, id as u32, id % 2 == 0)).collect();
        let log = log(&[
            body(1, &first),
            body(2, &[(250, 9, false), (5, 0, true), (6, 7, false)]),
            body(2, &[(251, 4, false), (5, 0, true), (6, 7, false)]),
            body(3, &[(900, 1, false)]),
            body(3, &[(900, 1, false)]),
        ]);
        let lists = ClearLists::scan(&log, || unreachable!("all of them fit"));
        assert_eq!(found(&lists, 1), Some((1, 0, 1, false)));
        assert_eq!(found(&lists, 200), Some((1, 199 * 100, 200, true)));
        assert_eq!(found(&lists, 300), Some((1, 299 * 150, 300, true)));
        assert_eq!(found(&lists, 5), Some((2, 4, 0, true)));
        assert_eq!(found(&lists, 6), Some((2, 4, 7, false)));
        assert_eq!(found(&lists, 301), None);
        assert_eq!(found(&lists, 0), None);
        let headers: Vec<_> = log.scan(LogOffset(limits::LOG_START)).map(Result::unwrap).collect();
        let place = |id| lists.superchunk(SuperchunkId(id)).map(|row| (row.place.offset, row.place.copy));
        assert_eq!(place(1), Some((headers[0].offset, None)));
        assert_eq!(place(2), Some((headers[2].offset, None)), "they are not the same");
        assert_eq!(place(3), Some((headers[4].offset, Some(headers[3].offset))), "they are");
        assert_eq!(place(4), None);
    }
}
