//! The map rebuilt from what superchunks say of themselves, for when a leaf of the map is lost. Recipes cannot be.
//!
//! One scan over headers and clear lists (no stored bytes are read). What the lists say is kept in the form in which the map
//! has it, as runs: about 3 bytes a subchunk, and never more than 2 bytes for each byte of the image. Where an id stands
//! more than once (a superchunk written twice, or moved), the frame with the highest sequence counts.

use super::Located;
use crate::format::clear::{ClearList, Listed};
use crate::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use crate::format::limits;
use crate::format::place::Place;
use crate::format::rows::{SubchunkRun, SuperchunkRow};
use crate::log::{LogReader, Scan};
use std::cmp::Reverse;

/// Bytes of the image for each run that is kept. Runs beyond that are left out: a run stands for a subchunk at least,
/// whose identity, row in the map and stored bytes take more than this in any image but one that was made to exhaust memory.
const BYTES_A_RUN: u64 = 96;

/// A frame with a clear list.
struct Frame {
    superchunk: SuperchunkId,
    sequence: u64,
    offset: LogOffset,
}

/// Subchunks with neighbouring ids: at most [`limits::RUN`], as in a row of the map.
struct Run {
    first: SubchunkId,
    /// Where its lengths and bits begin in [`ClearLists::tails`].
    tail: u64,
    /// Index of its frame.
    frame: u32,
    position: u32,
    tail_len: u16,
    count: u8,
    composed: bool,
}

/// Where things lie, as the clear lists have it.
pub(super) struct ClearLists {
    log: LogReader,
    /// In the order they lie.
    frames: Vec<Frame>,
    /// Indices of the frames by superchunk; of one superchunk the highest sequence first.
    by_superchunk: Vec<u32>,
    /// By first id; of one id the highest sequence first, and none that is within one before it.
    runs: Vec<Run>,
    tails: Vec<u8>,
}

impl ClearLists {
    fn new(log: LogReader) -> Self {
        ClearLists { log, frames: Vec::new(), by_superchunk: Vec::new(), runs: Vec::new(), tails: Vec::new() }
    }

    /// Reads all clear lists that verify; what does not is stepped over.
    pub(super) fn scan(log: &LogReader) -> Self {
        let mut lists = ClearLists::new(log.clone());
        let most = log.end() / BYTES_A_RUN;
        let mut scan = Scan::new(log.clone(), LogOffset(limits::LOG_START));
        while let Some(next) = scan.next() {
            match next {
                Ok(header) if header.kind.has_clear_list() => {
                    let list =
                        log.clear_part(&header).ok().and_then(|bytes| ClearList::decode(&bytes, header.raw_len).ok());
                    if let Some(list) = list {
                        let frame = lists.frames.len() as u32;
                        let (superchunk, sequence, offset) = (list.superchunk, header.sequence, header.offset);
                        lists.frames.push(Frame { superchunk, sequence, offset });
                        lists.add(frame, &list, most);
                    }
                }
                Ok(_) => {}
                Err((offset, _)) => match scan.find_next(LogOffset(offset.0 + 1)) {
                    Some(good) => scan.resume_at(good),
                    None => break,
                },
            }
        }
        lists.sort();
        lists
    }

    fn add(&mut self, frame: u32, list: &ClearList, most: u64) {
        let mut position = 0;
        for neighbours in list.subchunks.chunk_by(|a, b| b.id.0 == a.id.0 + 1) {
            for run in neighbours.chunks(limits::RUN as usize) {
                let [Listed { id: first, .. }, ..] = *run else { continue };
                let row = SubchunkRun {
                    first,
                    superchunk: list.superchunk,
                    position,
                    lens: run.iter().map(|listed| listed.len).collect(),
                    composed: run.iter().map(|listed| listed.composed).collect(),
                };
                let (_, tail) = row.encode();
                if self.runs.len() as u64 >= most {
                    return;
                }
                // At most 128 lengths of 3 bytes and 16 bytes of bits.
                let (count, tail_len) = (run.len() as u8, tail.len() as u16);
                let composed = row.composed.contains(&true);
                self.runs.push(Run {
                    first,
                    tail: self.tails.len() as u64,
                    frame,
                    position,
                    tail_len,
                    count,
                    composed,
                });
                self.tails.extend_from_slice(&tail);
                position += row.lens.iter().sum::<u32>();
            }
        }
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
        // Of the runs that begin with one id a later one counts only where it is longer than all before it.
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

    /// Where a subchunk lies. Looks at no more than [`limits::RUN`] runs for each of as many ids before it, at one in
    /// images that nobody made for the purpose.
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

    /// Where a superchunk lies: its last frame, and another that says the same as its copy.
    pub(super) fn superchunk(&self, id: SuperchunkId) -> Option<SuperchunkRow> {
        let of = |index: &u32| self.frame(*index).map(|frame| frame.superchunk);
        let begin = self.by_superchunk.partition_point(|index| of(index) < Some(id));
        let own = self.by_superchunk.get(begin..)?.iter().take_while(|index| of(index) == Some(id));
        let mut headers = own.filter_map(|index| self.log.header(self.frame(*index)?.offset).ok());
        let newest = headers.next()?;
        let place = Place::of(&newest);
        // A writer writes a superchunk twice in a row.
        let copy = headers
            .next()
            .filter(|other| other.kind == newest.kind && Place { offset: place.offset, ..Place::of(other) } == place);
        Some(SuperchunkRow { kind: newest.kind, place: Place { copy: copy.map(|header| header.offset), ..place } })
    }

    /// Bytes of memory.
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
    use crate::format::bytes::{put_delta, put_varint};
    use crate::format::frame::{Flags, FrameKind};
    use crate::format::sums;
    use crate::log::{LogWriter, NewFrame};
    use crate::storage::Storage;
    use crate::storage::testing::MemoryStorage;
    use std::sync::Arc;

    /// A log of superchunks with these clear lists, given without checksum, and stored bytes of zeros.
    fn log(lists: &[(Vec<u8>, u32)]) -> LogReader {
        let storage = Arc::new(MemoryStorage::from_bytes(vec![0; limits::LOG_START as usize]));
        let mut writer = LogWriter::new(storage as Arc<dyn Storage>, 7, 1, 1, limits::LOG_START).unwrap();
        for (body, raw_len) in lists {
            let clear = [&body[..], &sums::crc32(body).to_le_bytes()].concat();
            let stored = vec![0; *raw_len as usize];
            let sum = sums::xxh3(&stored);
            let (kind, codec, flags) = (FrameKind::SUPERCHUNK, crate::format::codec::RAW, Flags::default());
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

    #[test]
    fn clear_lists_made_to_exhaust_memory_take_less_than_twice_the_image() {
        let mut lists = Vec::new();
        for superchunk in 1..=4u64 {
            // As many runs of one subchunk as a list may have; all lists name the same ones.
            let mut body = vec![superchunk as u8];
            put_varint(&mut body, limits::SUBCHUNKS);
            let mut next = 0;
            for n in 0..limits::SUBCHUNKS {
                put_delta(&mut body, next, 1 + 2 * n);
                next = 2 + 2 * n;
                body.extend_from_slice(&[2, 1]);
            }
            lists.push((body, limits::SUBCHUNKS as u32));
            // And one run of as many.
            let mut body = vec![superchunk as u8 + 10, 1, 2];
            put_varint(&mut body, limits::SUBCHUNKS << 1);
            body.resize(body.len() + limits::SUBCHUNKS as usize, 1);
            lists.push((body, limits::SUBCHUNKS as u32));
        }
        let log = log(&lists);
        let lists = ClearLists::scan(&log);
        assert_eq!(lists.frames.len(), 8, "all of them are valid");
        assert!((lists.memory() as u64) < 2 * log.end(), "{} of {}", lists.memory(), log.end());
        assert!(lists.locate(SubchunkId(1)).is_some());
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
        let lists = ClearLists::scan(&log);
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
