//! Checks the thaw log beside an image: whether it fits and is complete, and which files have bytes in it or lost bytes
//! with it.
//!
//! All of it is read: heads, transactions, and all written bytes. Its transactions are replayed over the image in
//! memory, so ranges and names are those that a mount would restore; so is everything that was frozen and is in no root
//! yet. A log can be checked only while nobody writes: if it changed meanwhile, which the head slots show, it counts as
//! not examined.

use super::Check;
use super::beside::{LogChecked, LogState, about};
use super::frozen;
use super::paths::{full_path, unnamed};
use super::report::{CheckError, Finding, MAX_PATHS, Severity};
use crate::format::block::KeyRef;
use crate::format::head::Head;
use crate::format::ids::InodeId;
use crate::format::rows::{DirentRow, FileType, ThawedRow};
use crate::format::schema;
use crate::meta::{Image, MetaError, View, root_of};
use crate::storage::{Folder, Storage};
use crate::thaw::replay::{ReplayError, replay};
use crate::thaw::{ImageState, Slot, ThawError, recover};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Number of levels of parent directories that are searched for names.
const MAX_DEPTH: usize = 4096;

/// Checks the thaw log of an image that nobody is writing.
///
/// # Errors
/// Fails if the log or the image cannot be read, or if the observer cancelled.
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
            let message = format!("the thaw log beside the image does not fit it: {misfit}; it is ignored");
            let mut checked = LogChecked::missing(check.image.head(), "no thaw log fits");
            checked.findings.push(about(Severity::Note, message));
            return Ok(checked);
        }
        Err(error) => return Ok(LogChecked::damaged(error.to_string())),
    };
    log.verify_written()?;
    let root = check.image.root();
    let contained = if root.thaw_log_id == log.log_id() { root.thaw_transaction } else { 0 };
    let replayed = match replay(image, &log, contained) {
        Ok(replayed) => replayed,
        Err(ReplayError::Thaw(ThawError::Storage(error))) => return Err(error.into()),
        Err(ReplayError::Meta(error)) => {
            return Ok(LogChecked::damaged(format!("the thaw log cannot be replayed over the image: {error}")));
        }
        Err(error) => return Ok(LogChecked::damaged(error.to_string())),
    };
    let mounted = Mounted(View::live(Arc::clone(image), None, replayed.overlay));
    let mut checked = LogChecked { state: LogState::Read, transactions: log.last_transaction(), ..Default::default() };
    for (from, to) in log.lost_parts() {
        let message = format!("bytes {from} to {to} of the thaw log are damaged");
        checked.findings.push(about(Severity::Lost, message).at(from.0));
    }
    mounted.tell(&mut checked)?;
    // Everything in the image that a transaction refers to was synced before the transaction.
    image.raise_end(log.image_end());
    checked.image_end = log.image_end();
    let frozen = frozen::check(check, &mounted.0)?;
    (checked.superchunks, checked.verified, checked.lost) = (frozen.superchunks, frozen.verified, frozen.lost);
    for (mut finding, inodes) in frozen.findings {
        if !inodes.is_empty() {
            checked.incomplete |= mounted.name(&inodes, &mut finding).is_err();
        }
        checked.findings.push(finding);
    }
    check.cancelled()?;
    Ok(checked)
}

/// Returns the part of the image's state that a thaw log must fit.
fn state(storage: &Arc<dyn Storage>, heads: &[Head]) -> Result<ImageState, CheckError> {
    // The check of the heads reports what is wrong with a root.
    let slots = heads.iter().map(|head| Slot::of(head, root_of(storage, head).ok().flatten().as_ref())).collect();
    let (uuid, lineage) = heads.first().map_or(([0; 16], [0; 16]), |head| (head.uuid, head.lineage));
    Ok(ImageState { uuid, lineage, len: storage.len()?, slots })
}

/// The image as a mount would show it, with the thaw log replayed.
struct Mounted(View);

impl Mounted {
    /// Counts the thawed ranges, and names the files that have lost ranges or ranges in the log.
    fn tell(&self, checked: &mut LogChecked) -> Result<(), CheckError> {
        let (mut in_log, mut lost) = (BTreeSet::new(), BTreeSet::new());
        let mut cursor = self.0.cursor_at(&schema::THAWED, KeyRef::new(0, 0))?;
        while let Some(row) = cursor.row() {
            let key = row.key();
            let thawed = ThawedRow::decode(key.b, row.ints(), row.tail()).map_err(MetaError::from)?;
            checked.thawed.add(&thawed);
            if thawed.is_lost() {
                lost.insert(key.a)
            } else {
                in_log.insert(key.a)
            };
            cursor.advance(&self.0)?;
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

    /// Adds the paths of inodes to a finding. Inodes without a name, which only an open file used, are left out.
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
                let parent = self.0.inode(InodeId(at))?.and_then(|row| row.parent).map_or(0, |parent| parent.0);
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
        let mut cursor = self.0.cursor_at(&schema::DIRENTS, KeyRef::new(0, 0))?;
        while let Some(row) = cursor.row() {
            let key = row.key();
            if let Ok(entry) = DirentRow::decode(key.name, row.ints()) {
                each(key.a, key.name, &entry);
            }
            cursor.advance(&self.0)?;
        }
        Ok(())
    }
}
