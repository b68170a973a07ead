//! What the freezer knows of the image: its subchunks by their identities, so that equal bytes are stored once, and the
//! anchors in its superchunks, so that similar data is.
//!
//! Invariant: an index has only what has rows in the state. What a batch brings is added after its rows are pending
//! [8]. Whoever deletes subchunks drops the index of subchunks, which is built again at the next freeze, and takes the
//! superchunks out of the index of anchors. That index only says where to look: a superchunk is used only if the state
//! has it, and it is verified. Called by `batch` and gc.

use super::anchors::ImageAnchors;
use super::verified;
use crate::chunk::DedupIndex;
use crate::format::block::KeyRef;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::params::HashKind;
use crate::format::rows::{Identity, identity};
use crate::format::schema;
use crate::freeze::{Known, Packed};
use crate::fs::carried::CarryOver;
use crate::fs::{FsError, layout};
use crate::inflate::WorkingSet;
use crate::meta::{Image, View};
use crate::pack::matching::{AnchorIndex, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of memory that the index of known subchunks may take before it moves to files.
const SPILL_AFTER: usize = 64 << 20;
/// Least size of the freezer's working set in bytes; it also has room for two superchunks of the image.
const WORKING_SET: usize = 16 << 20;
/// Largest size of the freezer's working set in bytes, for superchunks that recipes refer to; unless it has room for just
/// two superchunks.
const SOURCES: usize = 64 << 20;

/// What the freezes of one mount share: the index of known subchunks and the working set. It is locked from the first
/// look-up of a batch to its last splice.
#[derive(Default)]
pub(in crate::fs) struct Freezer {
    index: Option<DedupIndex>,
    anchors: Option<ImageAnchors>,
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

    /// Drops the index of known subchunks, because those of the superchunks for which `goes` is true are about to be
    /// deleted. The next freeze makes an index of the rest.
    pub(in crate::fs) fn forget(&mut self, goes: impl Fn(SuperchunkId) -> bool) {
        self.index = None;
        if let Some(anchors) = &mut self.anchors {
            anchors.index_mut().remove(goes);
        }
    }

    /// Returns the working set.
    pub(super) fn working_set(&mut self, view: &View) -> Arc<WorkingSet> {
        Arc::clone(self.working_set.get_or_insert_with(|| Arc::new(working_set(view.version()))))
    }

    /// Reads superchunks from before this mount, so that a freeze of about `bytes` bytes finds what resembles them, until
    /// `stop` returns true. Does nothing in an image without recipes.
    pub(super) fn read_anchors(&mut self, view: &View, bytes: u64, stop: &dyn Fn() -> bool) -> Result<(), FsError> {
        if !view.params().makes_recipes() {
            return Ok(());
        }
        let anchors = match self.anchors.take() {
            Some(anchors) => anchors,
            None => ImageAnchors::new(view)?,
        };
        self.anchors.insert(anchors).read(view, bytes, stop)
    }

    /// Returns the working set, and what is known of the image that the view shows.
    pub(super) fn prepare<'a>(&'a mut self, view: &'a View) -> Result<(Arc<WorkingSet>, KnownSubchunks<'a>), FsError> {
        let index = match self.index.take() {
            Some(index) => index,
            None => build(view, self.spill.clone())?,
        };
        let working_set = self.working_set(view);
        let anchors = self.anchors.as_ref().map(ImageAnchors::index);
        let known =
            KnownSubchunks { index: self.index.insert(index), anchors, working_set: Arc::clone(&working_set), view };
        Ok((working_set, known))
    }

    /// Adds a batch's subchunks and the anchors in its superchunks. Their rows wait for the next commit. The ids are those
    /// of its first subchunk and superchunk.
    pub(super) fn add(&mut self, packed: &Packed, first: SubchunkId, superchunk: SuperchunkId) {
        if let Some(anchors) = &mut self.anchors {
            packed.add_anchors(superchunk, anchors.index_mut());
        }
        let insert =
            |index: &mut DedupIndex| packed.identities(first).try_for_each(|(id, identity)| index.insert(identity, id));
        if let Some(Err(error)) = self.index.as_mut().map(insert) {
            // Without them some bytes are stored twice; nothing else is wrong.
            tracing::warn!(%error, "the known subchunks are read again at the next freeze");
            self.index = None;
        }
    }
}

fn working_set(image: &Arc<Image>) -> WorkingSet {
    let params = image.params();
    let superchunk = params.superchunk_size as usize;
    let mut size = superchunk.saturating_mul(2).max(WORKING_SET);
    if params.min_match > 0 {
        size = size.max(superchunk.saturating_mul(usize::from(params.max_sources).saturating_add(1)).min(SOURCES));
    }
    WorkingSet::new(Arc::clone(image), size, 0)
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

/// Finds subchunks with given bytes, and superchunks with similar data.
pub(super) struct KnownSubchunks<'a> {
    index: &'a DedupIndex,
    anchors: Option<&'a AnchorIndex>,
    working_set: Arc<WorkingSet>,
    view: &'a View,
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
        Ok((same && layout::subchunk_len(self.view, id)? as usize == bytes.len()).then_some(id))
    }

    fn anchors(&self) -> Option<&AnchorIndex> {
        self.anchors
    }

    fn source(&self, id: SuperchunkId) -> Option<Source> {
        verified::source(self.view, id)
    }
}
