//! The subchunks of the image by their identities, so that equal bytes are stored once.
//!
//! Invariant: an index has only subchunks whose rows are in the state. Those of a batch are added after its rows are
//! pending [8]. The index is built at the first freeze, and dropped by whoever deletes subchunks. Called by `batch` and
//! `publish`.

use crate::chunk::DedupIndex;
use crate::format::block::KeyRef;
use crate::format::ids::SubchunkId;
use crate::format::params::HashKind;
use crate::format::rows::{Identity, identity};
use crate::format::schema;
use crate::freeze::{Known, Packed};
use crate::fs::FsError;
use crate::fs::carried::CarryOver;
use crate::inflate::WorkingSet;
use crate::meta::{Image, View};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of memory that the index of known subchunks may take before it moves to files.
const SPILL_AFTER: usize = 64 << 20;
/// Least size of the freezer's working set in bytes; it also has room for two superchunks of the image.
const WORKING_SET: usize = 16 << 20;

/// What the freezes of one mount share: the index of known subchunks and the working set. It is locked from the first
/// look-up of a batch to its last splice.
#[derive(Default)]
pub(in crate::fs) struct Freezer {
    index: Option<DedupIndex>,
    working_set: Option<Arc<WorkingSet>>,
    /// Directory in which a large index of known subchunks is stored, in unlinked files.
    spill: PathBuf,
    /// Progress of copying live ranges out of the thaw log's oldest segments, so that these can be removed. Nothing is
    /// copied while files are being frozen: both hold this lock.
    pub(in crate::fs) carry: CarryOver,
}

impl Freezer {
    /// Sets the directory in which a large index of known subchunks is stored, in unlinked files.
    pub(super) fn set_spill(&mut self, folder: PathBuf) {
        self.spill = folder;
    }

    /// Returns the directory in which a large index of known subchunks is stored.
    pub(super) fn spill(&self) -> &Path {
        &self.spill
    }

    /// Drops the index of known subchunks, because some subchunks are about to be deleted. The next freeze makes an
    /// index of the rest.
    pub(in crate::fs) fn forget(&mut self) {
        self.index = None;
    }

    /// Returns the working set, and the index of all subchunks that the view has.
    pub(super) fn prepare(&mut self, view: &View) -> Result<(Arc<WorkingSet>, &mut DedupIndex), FsError> {
        let index = match self.index.take() {
            Some(index) => index,
            None => build(view, self.spill.clone())?,
        };
        let working_set = self.working_set.get_or_insert_with(|| Arc::new(working_set(view.version())));
        Ok((Arc::clone(working_set), self.index.insert(index)))
    }

    /// Adds the subchunks of a batch to the index. Their rows wait for the next commit.
    pub(super) fn add(&mut self, packed: &Packed, first: SubchunkId) {
        let insert =
            |index: &mut DedupIndex| packed.identities(first).try_for_each(|(id, identity)| index.insert(identity, id));
        if let Some(Err(error)) = self.index.as_mut().map(insert) {
            // Without them some bytes are stored twice; nothing else is wrong.
            tracing::warn!(%error, "the known subchunks are read again at the next freeze");
            self.forget();
        }
    }
}

fn working_set(image: &Arc<Image>) -> WorkingSet {
    let superchunk = image.params().superchunk_size as usize;
    WorkingSet::new(Arc::clone(image), superchunk.saturating_mul(2).max(WORKING_SET), 0)
}

/// Makes an index of all subchunks of file data that the view's rows name, in the order of their ids.
fn build(view: &View, spill: PathBuf) -> Result<DedupIndex, FsError> {
    let mut index = DedupIndex::new(SPILL_AFTER, &spill);
    let kind = view.params().hash;
    let mut cursor = view.cursor_at(&schema::IDENTITIES, KeyRef::new(0, 0))?;
    while let Some(row) = cursor.row() {
        let first = row.key().a;
        for n in 0.. {
            let Some(found) = identity::decode_one(kind, row.ints(), row.tail(), n)
                .or_else(|error| if n == 0 { Err(error) } else { Ok(None) })?
            else {
                break;
            };
            let id = SubchunkId(first.saturating_add(n));
            index.insert(found, id).map_err(|error| FsError::io(error.to_string()))?;
        }
        cursor.advance(view)?;
    }
    Ok(index)
}

/// Finds subchunks with given bytes in the index of known subchunks.
pub(super) struct KnownSubchunks<'a> {
    pub(super) index: &'a DedupIndex,
    pub(super) working_set: &'a WorkingSet,
    pub(super) view: &'a View,
}

impl Known for KnownSubchunks<'_> {
    type Error = FsError;

    fn find(&self, identity: &Identity, bytes: &[u8]) -> Result<Option<SubchunkId>, FsError> {
        let Some(id) = self.index.get(identity) else { return Ok(None) };
        if self.view.params().hash != HashKind::Xxh3 {
            return Ok(Some(id));
        }
        let mut known = vec![0; bytes.len()];
        // A subchunk that cannot be read, or is shorter, does not count as equal.
        let same = self.working_set.read_subchunk(self.view, id, 0, &mut known).is_ok() && known == bytes;
        // A longer one almost certainly has another identity, but that is no proof.
        Ok((same && self.view.locate(id)?.is_some_and(|located| located.len as usize == bytes.len())).then_some(id))
    }
}
