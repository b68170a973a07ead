//! Finds readers that read in order, and decides how far to look ahead of each.
//!
//! Pure: the ids of subchunks that are read come in, and stretches of ids to look at come out. Ids ascend in packing
//! order, which is path order, so a sequence crosses the borders of files and of superchunks. What inflates for these
//! ids is found by `coming`: a composed subchunk may need nothing of its own superchunk. Invariants: readers that read
//! here and there get no stretch. A stretch is at most as long as what its reader has come through in order. Each id
//! is in one stretch of a reader, and one stretch of a reader is looked at at a time. Called by `ahead`.

use crate::format::ids::SubchunkId;
use parking_lot::Mutex;

/// Number of readers that are followed at a time.
const READERS: usize = 16;
/// Number of ids that a reader may skip: subchunks of files that it does not read, or that repeat older ones.
const SLACK: u64 = 64;
/// Number of ids that a reader may go back: the kernel's own read-ahead sends requests that several event loops answer.
const BACK: u64 = 16;
/// Divisor: so many skipped ids cost one subchunk of what a reader has come through in order.
const SKIPPED: u64 = 4;
/// Number of subchunks that a reader has read in order when the first stretch is looked at. A read of 128 KiB here and
/// there takes about five.
const START: u64 = 16;
/// Most ids of a stretch.
const LONGEST: u64 = 8192;
/// Number of reads of other readers after which a reader counts as gone.
const IDLE: u64 = 4096;

/// A reader that is followed. The number is in use once: a reader that takes the place of another has another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reader {
    place: usize,
    number: u64,
}

/// What something is inflated ahead for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Purpose {
    pub(super) reader: Reader,
    /// The first subchunk that needs it.
    pub(super) subchunk: SubchunkId,
}

/// Ids of subchunks that a reader is likely to read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) reader: Reader,
    pub(super) from: SubchunkId,
    /// The id after the last one.
    pub(super) end: SubchunkId,
}

#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    /// Number of the reader; 0 if there is none yet.
    number: u64,
    /// Highest id that was read.
    at: u64,
    /// Number of subchunks read in order.
    run: u64,
    /// The first id that was in no stretch.
    planned: u64,
    /// The id from which on the next stretch is needed.
    mark: u64,
    /// Whether a stretch is being looked at.
    busy: bool,
    /// Value of the clock when the reader last read.
    used: u64,
}

#[derive(Default)]
struct State {
    readers: [Progress; READERS],
    clock: u64,
    numbers: u64,
}

/// The readers of a working set that are followed.
#[derive(Default)]
pub(super) struct Sequences {
    state: Mutex<State>,
}

impl Sequences {
    /// Records that a subchunk is read. Returns the stretch to look at now, if there is one; the caller must pass it to
    /// [`Sequences::looked`].
    pub(super) fn is_read(&self, id: SubchunkId) -> Option<Stretch> {
        let id = id.0;
        let mut state = self.state.lock();
        let State { readers, clock, numbers } = &mut *state;
        *clock += 1;
        let is_near = |reader: &Progress| {
            reader.number != 0 && id.saturating_add(BACK) >= reader.at && id <= reader.at.saturating_add(SLACK)
        };
        let near = readers.iter_mut().enumerate().filter(|(_, reader)| is_near(reader));
        let Some((place, reader)) = near.min_by_key(|(_, reader)| reader.at.abs_diff(id)) else {
            *numbers += 1;
            if let Some(oldest) = readers.iter_mut().min_by_key(|reader| reader.used) {
                *oldest = Progress { number: *numbers, at: id, run: 1, used: *clock, ..Progress::default() };
            }
            return None;
        };
        reader.used = *clock;
        if id > reader.at {
            let skipped = id - reader.at - 1;
            reader.run = reader.run.saturating_sub(skipped / SKIPPED).saturating_add(1);
            reader.at = id;
        }
        if reader.run < START || reader.busy || reader.at < reader.mark {
            return None;
        }
        let next = reader.at.saturating_add(1);
        let (from, end) = (reader.planned.max(next), next.saturating_add(reader.run.min(LONGEST)));
        if from >= end {
            return None;
        }
        reader.busy = true;
        let reader = Reader { place, number: reader.number };
        Some(Stretch { reader, from: SubchunkId(from), end: SubchunkId(end) })
    }

    /// Records that a stretch was looked at up to the id `to`, exclusive. The next stretch begins there. It is needed
    /// when the reader is half way to it, or at once if the reader was faster than this stretch was looked at.
    pub(super) fn looked(&self, stretch: &Stretch, to: SubchunkId) {
        let mut state = self.state.lock();
        let Some(reader) = state.get(stretch.reader) else { return };
        reader.busy = false;
        reader.planned = to.0;
        let way = if reader.at > stretch.from.0 { 0 } else { (to.0.saturating_sub(reader.at) / 2).max(1) };
        reader.mark = reader.at.saturating_add(way);
    }

    /// Returns whether the reader is still expected to come to the subchunk.
    pub(super) fn wants(&self, purpose: &Purpose) -> bool {
        let mut state = self.state.lock();
        let clock = state.clock;
        let reader = state.get(purpose.reader);
        reader.is_some_and(|reader| reader.at <= purpose.subchunk.0 && clock - reader.used < IDLE)
    }
}

impl State {
    fn get(&mut self, reader: Reader) -> Option<&mut Progress> {
        self.readers.get_mut(reader.place).filter(|progress| progress.number == reader.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stretches for these reads, each looked at completely and at once.
    fn stretches(sequences: &Sequences, ids: impl IntoIterator<Item = u64>) -> Vec<(u64, u64, u64)> {
        let mut found = Vec::new();
        for id in ids {
            if let Some(stretch) = sequences.is_read(SubchunkId(id)) {
                sequences.looked(&stretch, stretch.end);
                found.push((id, stretch.from.0, stretch.end.0));
            }
        }
        found
    }

    #[test]
    fn a_reader_in_order_gets_stretches_that_join_and_are_as_long_as_its_way() {
        let found = stretches(&Sequences::default(), 100..400);
        assert_eq!(found[0], (115, 116, 132));
        assert!(found.windows(2).all(|pair| pair[0].2 == pair[1].1), "{found:?}");
        assert!(found.iter().all(|(at, _, end)| end - at - 1 == at - 99), "{found:?}");
        assert!(found.len() < 10, "{found:?}");
        let long = stretches(&Sequences::default(), 1..100_000);
        assert!(long.iter().all(|(at, from, end)| end - at - 1 <= LONGEST && from > at), "{long:?}");
    }

    #[test]
    fn a_stretch_that_was_looked_at_in_part_is_continued_there() {
        let sequences = Sequences::default();
        let first = (1..=START).find_map(|id| sequences.is_read(SubchunkId(id))).unwrap();
        assert_eq!(sequences.is_read(SubchunkId(17)), None, "one stretch at a time");
        sequences.looked(&first, SubchunkId(20));
        let second = sequences.is_read(SubchunkId(18)).unwrap();
        assert_eq!(second.from, SubchunkId(20));
        // Nothing could be done: it is tried again from the next subchunk on.
        sequences.looked(&second, second.from);
        assert_eq!(sequences.is_read(SubchunkId(18)), None);
        let third = sequences.is_read(SubchunkId(19)).unwrap();
        assert_eq!(third.from, SubchunkId(20));
        // The reader is faster than the stretch is looked at.
        assert_eq!((20..30).find_map(|id| sequences.is_read(SubchunkId(id))), None);
        sequences.looked(&third, third.end);
        assert_eq!(sequences.is_read(SubchunkId(29)).map(|fourth| fourth.from), Some(third.end));
    }

    #[test]
    fn reads_here_and_there_get_no_stretch_nor_does_one_place_that_is_read_again_and_again() {
        for len in [1000u64, 5000, 50_000] {
            let ids = (1..20_000u64).map(|n| 1 + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % len);
            assert_eq!(stretches(&Sequences::default(), ids), [], "{len}");
        }
        let sequences = Sequences::default();
        assert_eq!(stretches(&sequences, (0..1000).flat_map(|_| [7, 8, 9])), []);
    }

    #[test]
    fn readers_side_by_side_each_get_theirs() {
        let sequences = Sequences::default();
        let found = stretches(&sequences, (0..200).flat_map(|n| (1..=4).map(move |k| k * 10_000 + n)));
        let of = |k: u64| found.iter().filter(move |(at, _, _)| at / 10_000 == k);
        assert!((1..=4).all(|k| of(k).map(|(_, _, end)| end - k * 10_000).max().unwrap() > 200), "{found:?}");
    }

    #[test]
    fn a_reader_whose_requests_are_out_of_order_or_skip_some_files_is_in_order() {
        let ids = (0..100u64).flat_map(|n| [4 * n + 3, 4 * n + 2, 4 * n + 5, 4 * n + 4]);
        assert!(!stretches(&Sequences::default(), ids).is_empty());
        let ids = (0..400u64).filter(|n| n % 5 < 3 || n % 50 > 30);
        assert!(!stretches(&Sequences::default(), ids).is_empty());
    }

    #[test]
    fn what_a_reader_has_passed_or_will_not_come_to_is_not_wanted() {
        let sequences = Sequences::default();
        let stretch = (1..=START).find_map(|id| sequences.is_read(SubchunkId(id))).unwrap();
        let wants = |id| sequences.wants(&Purpose { reader: stretch.reader, subchunk: SubchunkId(id) });
        assert!(wants(START) && wants(20) && !wants(START - 1));
        (0..IDLE).for_each(|_| assert!(sequences.is_read(SubchunkId(5000)).is_none()));
        assert!(!wants(20), "the reader has stopped");
        sequences.is_read(SubchunkId(17));
        assert!(wants(20));
        (1..=READERS as u64).for_each(|n| assert!(sequences.is_read(SubchunkId(n << 20)).is_none()));
        assert!(!wants(20), "another reader has its place");
        sequences.looked(&stretch, stretch.end);
    }
}
