//! Checks what was frozen since the last checkpoint: superchunks that the thaw log refers to, and no root yet, and those
//! that were packed again: of these, the root refers to an older frame.
//!
//! Each of their subchunks is read as a mount would read it, by the rows restored from the log, and compared with its
//! content hash, whatever the checksum of its superchunk says. All are read, whichever subset of the image's data is
//! requested: there are no more than one checkpoint covers. Memory: the working set, and 16 bytes for each range of
//! lost subchunks. Called by `thaw_log`.

use super::Check;
use super::beside::about;
use super::ranges::RangeSet;
use super::report::{CheckError, Finding, Severity};
use crate::format::block::KeyRef;
use crate::format::frame::FrameKind;
use crate::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use crate::format::place::Place;
use crate::format::rows::map::{SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::rows::{ContentRef, ContentRow, Extent, InodeRow, SubchunkRun, SuperchunkRow};
use crate::format::schema::{self, Table};
use crate::inflate::WorkingSet;
use crate::meta::{MetaError, View};
use crate::table::Change;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Result of checking what was frozen after the last checkpoint.
#[derive(Default)]
pub(super) struct Frozen {
    /// Findings, each with the inodes that it affects.
    pub(super) findings: Vec<(Finding, BTreeSet<u64>)>,
    /// Number of superchunks read.
    pub(super) superchunks: u64,
    /// Number of subchunks whose content hashes match.
    pub(super) verified: u64,
    /// Number of subchunks that are lost, or whose rows are lost.
    pub(super) lost: u64,
}

/// Faults of one kind.
#[derive(Default)]
struct Wrong {
    count: u64,
    /// Offset and description of the first fault.
    first: Option<(u64, String)>,
    /// Subchunks that are lost by the faults of this kind.
    subchunks: RangeSet,
}

impl Wrong {
    fn add(&mut self, at: u64, why: impl FnOnce() -> String) {
        self.count = self.count.saturating_add(1);
        self.first.get_or_insert_with(|| (at, why()));
    }

    /// Makes one finding for all faults, and returns it with the inodes that use the lost subchunks.
    fn tell(
        mut self,
        view: &View,
        severity: Severity,
        message: impl FnOnce(u64, &str) -> String,
    ) -> Result<Option<(Finding, BTreeSet<u64>)>, MetaError> {
        let Some((at, why)) = self.first else { return Ok(None) };
        self.subchunks.settle();
        let inodes = if self.subchunks.is_empty() { BTreeSet::new() } else { users(view, &self.subchunks)? };
        Ok(Some((about(severity, message(self.count, &why)).at(at), inodes)))
    }
}

/// Reads everything that was frozen according to the active overlay of `view`. The image's frames up to the log's end
/// must be readable.
///
/// # Errors
/// Fails if the tables cannot be read, or the observer cancelled.
pub(super) fn check(check: &Check<'_>, view: &View) -> Result<Frozen, CheckError> {
    let mut frozen = Frozen::default();
    let mut frames = Wrong::default();
    let mut lost = Wrong::default();
    let (mut all, mut places) = (0, 0u64);
    // Superchunks that the root has, too: they were packed again, and their subchunks have no new rows.
    let mut again = BTreeSet::new();
    for row in puts(view, &schema::MAP, SPACE_SUPERCHUNKS) {
        check.cancelled()?;
        places = places.saturating_add(1);
        if let Ok(Some(_)) = view.version().superchunk(SuperchunkId(row.key.b)) {
            again.insert(row.key.b);
        }
        match SuperchunkRow::decode(&row.ints, &row.tail) {
            Ok(known) => {
                for offset in known.place.offsets() {
                    if let Some(why) = frame_is_wrong(check, SuperchunkId(row.key.b), &known, offset) {
                        frames.add(offset.0, || why);
                    }
                }
            }
            Err(error) => frames.add(0, || format!("the row of superchunk {} is wrong: {error}", row.key.b)),
        }
    }
    if !check.options.quick {
        frozen.superchunks = places;
        let ahead = check.options.jobs.saturating_sub(1);
        let set = WorkingSet::new(Arc::clone(view.version()), (check.options.memory / 2) as usize, ahead);
        let set = set.verifying(true);
        let mut bytes = Vec::new();
        let mut verify = |key: u64, ints: &[u64], tail: &[u8], only: Option<&BTreeSet<u64>>| {
            let run = match SubchunkRun::decode(SubchunkId(key), ints, tail) {
                Ok(run) if only.is_some_and(|only| !only.contains(&run.superchunk.0)) => return Ok(()),
                Ok(run) => run,
                Err(_) if only.is_some() => return Ok(()),
                Err(error) => {
                    lost.add(0, || format!("the row of subchunk {key} is wrong: {error}"));
                    lost.subchunks.insert(key..key.saturating_add(1));
                    return Ok(());
                }
            };
            for (id, len) in (run.first.0..).map(SubchunkId).zip(&run.lens) {
                check.cancelled()?;
                all += 1;
                let len = view.recipe(id).ok().flatten().map_or(*len, |recipe| recipe.subchunk_len());
                bytes.clear();
                bytes.resize(len as usize, 0);
                match set.read_subchunk(view, id, 0, &mut bytes) {
                    Ok(()) => frozen.verified += 1,
                    Err(error) => {
                        lost.add(offset_of(view, run.superchunk), || error.to_string());
                        lost.subchunks.insert(id.0..id.0.saturating_add(1));
                    }
                }
            }
            Ok::<_, CheckError>(())
        };
        for row in puts(view, &schema::MAP, SPACE_SUBCHUNKS) {
            verify(row.key.b, &row.ints, &row.tail, None)?;
        }
        let root = View::of(Arc::clone(view.version()));
        let from = KeyRef::new(SPACE_SUBCHUNKS, 0);
        // Damage of the root's map is told elsewhere.
        let mut cursor = if again.is_empty() { None } else { root.cursor_at(&schema::MAP, from).ok() };
        while let Some(cursor) = &mut cursor
            && let Some(row) = cursor.row().filter(|row| row.key().a == SPACE_SUBCHUNKS)
        {
            verify(row.key().b, row.ints(), row.tail(), Some(&again))?;
            if cursor.advance(&root).is_err() {
                break;
            }
        }
    }
    frozen.lost = lost.count;
    let hit = lost.count > 0;
    let told = lost.tell(view, Severity::Lost, |count, first| {
        format!("{count} of {all} subchunks that were frozen after the last checkpoint are lost; the first: {first}")
    })?;
    frozen.findings.extend(told);
    let told = frames.tell(view, Severity::Recoverable, |count, first| {
        let files = if hit { "" } else { "; no file is affected" };
        format!("{count} frames that were written after the last checkpoint are damaged; the first: {first}{files}")
    })?;
    frozen.findings.extend(told);
    let told = nowhere(check, view)?.tell(view, Severity::Lost, |count, first| {
        format!(
            "{count} subchunks of files that were written after the last checkpoint do not exist; the first: {first}"
        )
    })?;
    frozen.findings.extend(told);
    Ok(frozen)
}

/// Returns the rows with key part `a` that the active overlay puts into a table.
fn puts<'v>(view: &'v View, table: &'static Table, a: u64) -> impl Iterator<Item = crate::format::block::Row> + 'v {
    let changes = view.active().changes(table).map(|change| match change {
        Change::Put(row) => Some(row),
        Change::Delete(_) => None,
    });
    changes.flatten().filter(move |row| row.key.a == a)
}

/// Returns why a frame of a superchunk does not match its row, if it does not.
fn frame_is_wrong(check: &Check<'_>, id: SuperchunkId, known: &SuperchunkRow, offset: LogOffset) -> Option<String> {
    let log = check.image.log();
    let place = &known.place;
    let why = match log.header(offset) {
        Ok(header) if header.kind != FrameKind::SUPERCHUNK || known.kind != header.kind => {
            Some("it does not hold file data".to_owned())
        }
        Ok(header) if (Place { offset, copy: None, ..*place }) != Place::of(&header) => {
            Some("its header and its row differ".to_owned())
        }
        Ok(header) => log.clear_part(&header).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    let why = why.or_else(|| {
        if check.options.quick {
            return None;
        }
        match log.stored_unverified(place, offset, &mut Vec::new()) {
            Ok(true) => None,
            Ok(false) => Some("wrong checksum of its stored bytes".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    });
    why.map(|why| format!("superchunk {id} at offset {offset}: {why}"))
}

fn offset_of(view: &View, id: SuperchunkId) -> u64 {
    view.superchunk(id).ok().flatten().map_or(0, |row| row.place.offset.0)
}

/// Returns the subchunks that changed files and contents refer to, and that have no row in the map.
fn nowhere(check: &Check<'_>, view: &View) -> Result<Wrong, CheckError> {
    let mut wrong = Wrong::default();
    let mut look_for = |id: SubchunkId| {
        if let Ok(None) = view.locate(id) {
            wrong.add(0, || format!("subchunk {id}"));
            wrong.subchunks.insert(id.0..id.0.saturating_add(1));
        }
    };
    for table in [&schema::INODES, &schema::ORPHANS, &schema::CONTENTS] {
        for change in view.active().changes(table) {
            check.cancelled()?;
            let Change::Put(row) = change else { continue };
            if table.id() != schema::CONTENTS.id() {
                if let Ok(InodeRow { content: ContentRef::Subchunk(id), .. }) = InodeRow::decode(&row.ints, &row.tail) {
                    look_for(id);
                }
            } else if let Ok(row) = ContentRow::decode(row.key.b, &row.ints, &row.tail) {
                ids(&row.extent).map(SubchunkId).for_each(&mut look_for);
            }
        }
    }
    Ok(wrong)
}

/// Returns the ids of the subchunks in an extent.
fn ids(extent: &Extent) -> std::ops::Range<u64> {
    match extent {
        Extent::Hole => 0..0,
        Extent::Slice { subchunk, .. } => subchunk.0..subchunk.0.saturating_add(1),
        Extent::Run { first, lens } => first.0..first.0.saturating_add(lens.len() as u64),
    }
}

/// Returns the inodes of the view that use these subchunks.
fn users(view: &View, subchunks: &RangeSet) -> Result<BTreeSet<u64>, MetaError> {
    let mut contents = BTreeSet::new();
    let mut cursor = view.cursor_at(&schema::CONTENTS, KeyRef::new(0, 0))?;
    while let Some(row) = cursor.row() {
        if let Ok(content) = ContentRow::decode(row.key().b, row.ints(), row.tail())
            && subchunks.touches(&ids(&content.extent))
        {
            contents.insert(row.key().a);
        }
        cursor.advance(view)?;
    }
    let mut inodes = BTreeSet::new();
    for table in [&schema::INODES, &schema::ORPHANS] {
        let mut cursor = view.cursor_at(table, KeyRef::new(0, 0))?;
        while let Some(row) = cursor.row() {
            let hit = match InodeRow::decode(row.ints(), row.tail()).map(|inode| inode.content) {
                Ok(ContentRef::Subchunk(id)) => subchunks.contains(id.0),
                Ok(ContentRef::Content(id)) => contents.contains(&id.0),
                _ => false,
            };
            if hit {
                inodes.insert(row.key().a);
            }
            cursor.advance(view)?;
        }
    }
    Ok(inodes)
}
