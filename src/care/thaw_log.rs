//! The thaw log beside an image: whether it fits and is whole, and which files have bytes in it or have lost bytes with it.
//!
//! All of it is read: heads, transactions, and all written bytes. Its transactions are replayed over the image, in memory,
//! so that ranges and names are those that a mount would bring back. Only what nobody writes at the same time can be
//! checked: a log that changed meanwhile, which the head slots show, counts as not looked at.

use super::Check;
use super::beside::{LogChecked, LogState, about};
use super::paths::{full_path, unnamed};
use super::report::{CheckError, Finding, MAX_PATHS, Severity};
use super::rows::each_row;
use crate::format::block::{Key, KeyRef};
use crate::format::head::Head;
use crate::format::ids::{InodeId, LogOffset};
use crate::format::root::Root;
use crate::format::rows::{DirentRow, FileType, ThawedBytes, ThawedRow};
use crate::format::schema::{self, Table};
use crate::format::transaction::{Operation, Thawed};
use crate::log::LogReader;
use crate::meta::{Image, MetaError, Overlay, View};
use crate::storage::{Folder, Storage};
use crate::thaw::{ImageState, Recovered, Slot, ThawError, recover};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Directories above one another whose names are looked for.
const MAX_DEPTH: usize = 4096;

/// Checks the log of an image that nobody writes.
///
/// # Errors
/// The log or the image cannot be read, or the observer cancelled.
pub(super) fn check(
    check: &Check<'_>,
    image: &Arc<Image>,
    folder: &Arc<dyn Folder>,
    storage: &Arc<dyn Storage>,
    heads: &[Head],
) -> Result<LogChecked, CheckError> {
    let mut log = match recover(Arc::clone(folder), &state(storage, heads)?) {
        Ok(Some(log)) => log,
        Ok(None) => return Ok(LogChecked::missing(check.image.head(), "the thaw log holds no commit")),
        Err(ThawError::Storage(error)) => return Err(error.into()),
        Err(ThawError::Foreign(misfit)) => {
            let message = format!("the thaw log beside the image does not fit it: {misfit}; nothing of it counts");
            let mut checked = LogChecked::missing(check.image.head(), "no thaw log fits");
            checked.findings.push(about(Severity::Note, message));
            return Ok(checked);
        }
        Err(error) => return Ok(LogChecked::damaged(error.to_string())),
    };
    log.verify_written()?;
    let root = check.image.root();
    let contained = if root.thaw_log_id == log.log_id() { root.thaw_transaction } else { 0 };
    let replayed = Replayed::of(image, &log, contained);
    let mut replayed = match replayed {
        Ok(replayed) => replayed,
        Err(ReplayError::Log(ThawError::Storage(error))) => return Err(error.into()),
        Err(ReplayError::Log(error)) => return Ok(LogChecked::damaged(error.to_string())),
        Err(ReplayError::Meta(error)) => {
            return Ok(LogChecked::damaged(format!("the thaw log cannot be laid over the image: {error}")));
        }
    };
    let mut checked = LogChecked { state: LogState::Read, transactions: log.last_transaction(), ..Default::default() };
    for (from, to) in log.lost_parts() {
        let message = format!("bytes {from} to {to} of the thaw log are damaged");
        checked.findings.push(about(Severity::Lost, message).at(from.0));
    }
    replayed.tell(&log, &mut checked)?;
    check.cancelled()?;
    Ok(checked)
}

/// What a log has to fit.
fn state(storage: &Arc<dyn Storage>, heads: &[Head]) -> Result<ImageState, CheckError> {
    let mut slots = Vec::new();
    for head in heads {
        let root = root(storage, head)?;
        let (root_log_id, thaw_transaction) = root.map_or((0, 0), |root| (root.thaw_log_id, root.thaw_transaction));
        let Head { generation, root_hash, thaw_log_id, .. } = *head;
        slots.push(Slot { generation, root_hash, thaw_log_id, root_log_id, thaw_transaction });
    }
    let (uuid, lineage) = heads.first().map_or(([0; 16], [0; 16]), |head| (head.uuid, head.lineage));
    Ok(ImageState { uuid, lineage, len: storage.len()?, slots })
}

fn root(storage: &Arc<dyn Storage>, head: &Head) -> Result<Option<Root>, CheckError> {
    let log = LogReader::new(Arc::clone(storage), head.log_id, head.log_end.0)?;
    let mut stored = Vec::new();
    for offset in head.root.offsets() {
        if let Ok(true) = log.stored_unverified(&head.root, offset, &mut stored)
            && let Ok(root) = Root::decode(&stored, &head.root_hash)
        {
            return Ok(Some(root));
        }
    }
    Ok(None)
}

enum ReplayError {
    Log(ThawError),
    Meta(MetaError),
}

impl From<ThawError> for ReplayError {
    fn from(error: ThawError) -> Self {
        ReplayError::Log(error)
    }
}

impl From<MetaError> for ReplayError {
    fn from(error: MetaError) -> Self {
        ReplayError::Meta(error)
    }
}

/// The image with the names, inodes and ranges that the log brings back.
struct Replayed {
    view: View,
    /// (inode, first byte) → end, frame.
    ranges: BTreeMap<(u64, u64), (u64, LogOffset)>,
}

impl Replayed {
    fn of(image: &Arc<Image>, log: &Recovered, contained: u64) -> Result<Self, ReplayError> {
        let view = View::live(Arc::clone(image), None, Overlay::default());
        let mut replayed = Replayed { view, ranges: BTreeMap::new() };
        each_row(image, &schema::THAWED, 0, &mut |key, ints, tail| {
            if let Ok(row) = ThawedRow::decode(key.b, ints, tail) {
                let frame = match row.bytes {
                    ThawedBytes::InLog { frame, .. } => frame,
                    ThawedBytes::Lost => Thawed::LOST,
                };
                replayed.ranges.insert((key.a, key.b), (key.b.saturating_add(row.length), frame));
            }
            true
        });
        log.replay(contained, |transaction| {
            transaction.operations.into_iter().try_for_each(|operation| replayed.apply(operation))
        })?;
        Ok(replayed)
    }

    /// Of the tables only names and inodes are asked for.
    fn apply(&mut self, operation: Operation) -> Result<(), ReplayError> {
        let matters = |table: &'static Table| [schema::DIRENTS.id(), schema::INODES.id()].contains(&table.id());
        match operation {
            Operation::Put(table, row) if matters(table) => {
                self.view.active_mut().set(table, row.key.clone(), Some(row));
            }
            Operation::Delete(table, key) if matters(table) => self.view.active_mut().set(table, key, None),
            Operation::DeleteRange(table, from, to) if matters(table) => {
                let mut keys: Vec<Key> = Vec::new();
                let mut cursor = self.view.cursor_at(table, from.as_ref())?;
                while let Some(row) = cursor.row().filter(|row| row.key() < to.as_ref()) {
                    keys.push(row.key().to_key());
                    cursor.advance(&self.view)?;
                }
                keys.into_iter().for_each(|key| self.view.active_mut().set(table, key, None));
            }
            Operation::Thawed(t) => {
                let end = t.offset.saturating_add(t.len);
                self.clear(t.inode.0, t.offset, end);
                self.ranges.insert((t.inode.0, t.offset), (end, t.frame));
            }
            Operation::NotThawed { inode, offset, len } => self.clear(inode.0, offset, offset.saturating_add(len)),
            _ => {}
        }
        Ok(())
    }

    fn clear(&mut self, inode: u64, from: u64, to: u64) {
        let before = self.ranges.range((inode, 0)..(inode, from)).next_back();
        let inside = self.ranges.range((inode, from)..(inode, to));
        let touched: Vec<_> = before.into_iter().chain(inside).map(|(key, range)| (key.1, *range)).collect();
        for (start, (end, frame)) in touched.into_iter().filter(|(_, (end, _))| *end > from) {
            self.ranges.remove(&(inode, start));
            if start < from {
                self.ranges.insert((inode, start), (from, frame));
            }
            if end > to {
                self.ranges.insert((inode, to), (end, frame));
            }
        }
    }

    /// Counts the ranges, and names the files they are in.
    fn tell(&mut self, log: &Recovered, checked: &mut LogChecked) -> Result<(), CheckError> {
        let (mut in_log, mut lost) = (BTreeSet::new(), BTreeSet::new());
        for (&(inode, offset), &(end, frame)) in &self.ranges {
            let len = end.saturating_sub(offset);
            if log.is_lost(frame) {
                checked.thawed.lost.add(len);
                lost.insert(inode);
            } else {
                checked.thawed.in_log.add(len);
                in_log.insert(inode);
            }
        }
        let thawed = checked.thawed;
        for (severity, count, inodes, what) in [
            (Severity::Lost, thawed.lost, lost, "lost: reading there fails until they are overwritten or cut off"),
            (Severity::Note, thawed.in_log, in_log, "in the thaw log: the image alone is not complete"),
        ] {
            if inodes.is_empty() {
                continue;
            }
            let message = format!("{} bytes of files, in {} ranges, are {what}", count.bytes, count.ranges);
            let mut finding = about(severity, message);
            checked.incomplete |= self.name(&inodes, &mut finding).is_err();
            checked.findings.push(finding);
        }
        Ok(())
    }

    /// Gives a finding the paths of inodes; those without a name, which only held an open file, are left out.
    fn name(&self, inodes: &BTreeSet<u64>, finding: &mut Finding) -> Result<(), MetaError> {
        let mut named: Vec<(u64, Vec<u8>)> = Vec::new();
        self.each_name(&mut |dir, name, row| {
            if inodes.contains(&row.inode.0) {
                if named.len() < MAX_PATHS {
                    named.push((dir, name.to_vec()));
                } else {
                    finding.more_paths = finding.more_paths.saturating_add(1);
                }
            }
        })?;
        let mut above: HashMap<u64, (u64, Option<Vec<u8>>)> = HashMap::new();
        for (dir, _) in &named {
            let mut at = *dir;
            for _ in 0..MAX_DEPTH {
                if at == InodeId::ROOT.0 || above.contains_key(&at) {
                    break;
                }
                let parent = self.view.inode(InodeId(at))?.and_then(|row| row.parent).map_or(0, |parent| parent.0);
                above.insert(at, (parent, None));
                at = parent;
            }
        }
        if !above.is_empty() {
            self.each_name(&mut |dir, name, row| {
                if row.file_type == FileType::Directory
                    && let Some((parent, found @ None)) = above.get_mut(&row.inode.0)
                    && *parent == dir
                {
                    *found = Some(name.to_vec());
                }
            })?;
        }
        finding.paths = named.into_iter().map(|(dir, name)| full_path(&above, dir, name)).collect();
        if finding.paths.is_empty() && finding.more_paths == 0 {
            finding.paths = inodes.iter().take(MAX_PATHS).map(|inode| unnamed(*inode)).collect();
        }
        finding.paths.sort();
        Ok(())
    }

    fn each_name(&self, each: &mut dyn FnMut(u64, &[u8], &DirentRow)) -> Result<(), MetaError> {
        let mut cursor = self.view.cursor_at(&schema::DIRENTS, KeyRef::new(0, 0))?;
        while let Some(row) = cursor.row() {
            let key = row.key();
            if let Ok(entry) = DirentRow::decode(key.name, row.ints()) {
                each(key.a, key.name, &entry);
            }
            cursor.advance(&self.view)?;
        }
        Ok(())
    }
}
