//! The state that a writable filesystem begins with: a version, what was replayed over it, and what both say of the
//! thaw log.

use super::FsError;
use super::dirty::DirtyFiles;
use super::frames::Frames;
use super::state::{Basis, Totals};
use crate::format::block::KeyRef;
use crate::format::ids::{InodeId, LogOffset};
use crate::format::rows::{ThawedBytes, ThawedRow};
use crate::format::schema;
use crate::meta::{Image, View};
use crate::thaw::Segments;
use crate::thaw::replay::Replayed;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Offset that stands for the beginning of this session in the thaw log, as long as this session has written no log:
/// every frame is then older.
pub(super) const NO_SESSION: LogOffset = LogOffset(u64::MAX);

/// Reads all rows of the tables `thawed` and `orphans`, and makes the state to begin with. `session` is the offset in
/// bytes at which the log ended when this mount began to write.
///
/// # Errors
/// Fails if the rows cannot be read.
pub(super) fn of(
    image: &Arc<Image>,
    replayed: &Replayed,
    segments: Arc<Segments>,
    session: LogOffset,
) -> Result<Basis, FsError> {
    let view = View::live(Arc::clone(image), None, replayed.overlay.clone());
    let (mut now, mut files) = (BTreeMap::new(), BTreeMap::new());
    let mut cursor = view.cursor_at(&schema::THAWED, KeyRef::new(0, 0))?;
    while let Some(row) = cursor.row() {
        let thawed = ThawedRow::decode(row.key().b, row.ints(), row.tail())?;
        if let ThawedBytes::InLog { frame, .. } = thawed.bytes {
            let bytes: &mut u64 = now.entry(segments.number(frame)).or_default();
            *bytes = bytes.saturating_add(thawed.length);
            let bytes: &mut u64 = files.entry(InodeId(row.key().a)).or_default();
            *bytes = bytes.saturating_add(thawed.length);
        }
        cursor.advance(&view)?;
    }
    let mut orphans = BTreeSet::new();
    let mut cursor = view.cursor_at(&schema::ORPHANS, KeyRef::new(0, 0))?;
    while let Some(row) = cursor.row() {
        orphans.insert(InodeId(row.key().a));
        cursor.advance(&view)?;
    }
    Ok(Basis {
        version: Arc::clone(image),
        active: replayed.overlay.clone(),
        totals: Totals { inodes: replayed.inodes, bytes: replayed.bytes },
        orphans,
        frames: Frames::found(now, segments.lowest()),
        dirty: DirtyFiles::found(files, Instant::now()),
        segments,
        session,
        lost: replayed.lost.clone(),
    })
}
