//! A cache of rows of the map, decoded, of one version of an image.
//!
//! A composed subchunk needs many look-ups: of each run of subchunks that its recipe names, and of each superchunk. A
//! look-up in the tree of the map takes ten times as long as one here. A version never changes, so nothing here gets
//! old. Called by `image`.

use super::ByteLru;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::limits;
use crate::format::rows::{SubchunkRun, SuperchunkRow};
use std::sync::Arc;

/// Bytes of runs that are kept: about 1,400 full runs, which name 5 GiB of file data.
const RUNS: usize = 1 << 20;
/// Bytes of rows of superchunks that are kept: about 1,000 rows.
const SUPERCHUNKS: usize = 256 << 10;
const SHARDS: usize = 4;
/// Number of ids that share an entry. A full run has two entries.
const IDS: u64 = limits::RUN / 2;

/// Rows of the map that were looked up.
pub(super) struct MapCache {
    /// The run that was used last, of those that have one of [`IDS`] ids, by these ids' common quotient.
    runs: ByteLru<u64, Arc<SubchunkRun>>,
    superchunks: ByteLru<SuperchunkId, SuperchunkRow>,
}

impl MapCache {
    pub(super) fn new() -> Self {
        MapCache { runs: ByteLru::new(RUNS, SHARDS), superchunks: ByteLru::new(SUPERCHUNKS, SHARDS) }
    }

    /// Returns the run that has the subchunk, if it is here.
    pub(super) fn run(&self, id: SubchunkId) -> Option<Arc<SubchunkRun>> {
        self.runs.get(&(id.0 / IDS)).filter(|run| run.has(id))
    }

    /// Keeps the run that has the subchunk.
    pub(super) fn keep_run(&self, id: SubchunkId, run: &Arc<SubchunkRun>) {
        let bytes = size_of::<SubchunkRun>() + size_of_val(run.lens.as_slice()) + size_of_val(run.composed.as_slice());
        self.runs.insert(id.0 / IDS, Arc::clone(run), bytes);
    }

    /// Returns the row of a superchunk, if it is here.
    pub(super) fn superchunk(&self, id: SuperchunkId) -> Option<SuperchunkRow> {
        self.superchunks.get(&id)
    }

    /// Keeps the row of a superchunk.
    pub(super) fn keep_superchunk(&self, id: SuperchunkId, row: SuperchunkRow) {
        self.superchunks.insert(id, row, 0);
    }

    /// Returns the bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.runs.bytes() + self.superchunks.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, len: usize) -> Arc<SubchunkRun> {
        let (first, superchunk) = (SubchunkId(first), SuperchunkId(first));
        Arc::new(SubchunkRun { first, superchunk, position: 0, lens: vec![1; len], composed: Vec::new() })
    }

    #[test]
    fn a_run_is_found_by_any_of_its_ids_that_was_looked_up_near_and_by_no_other() {
        let cache = MapCache::new();
        let (one, two) = (run(100, 20), run(120, 128));
        cache.keep_run(SubchunkId(101), &one);
        assert!((100..120).all(|id| cache.run(SubchunkId(id)).as_ref() == Some(&one)));
        assert!([99, 120, 127, 0, u64::MAX].iter().all(|id| cache.run(SubchunkId(*id)).is_none()));
        cache.keep_run(SubchunkId(121), &two);
        assert_eq!(cache.run(SubchunkId(127)).as_ref(), Some(&two));
        assert_eq!(cache.run(SubchunkId(101)), None, "the run used last takes the entry");
        assert_eq!(cache.run(SubchunkId(128)), None, "other ids have another entry");
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = MapCache::new();
        for n in 1..100_000 {
            cache.keep_run(SubchunkId(n * 128), &run(n * 128, 128));
        }
        assert!(cache.bytes() <= RUNS, "{}", cache.bytes());
    }
}
