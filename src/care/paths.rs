//! Finds the paths of the files that the findings affect.
//!
//! Subchunks lead to contents, contents to inodes, inodes to names: one walk of each of these tables. One more walk of
//! the dirents finds the names of the parent directories. Nothing recurses, so neither a cycle of directories nor many
//! names of one inode cost more than the number of rows.

use super::Check;
use super::ranges::{FindingId, Hits, Marks};
use super::report::{CheckError, Finding, Findings, MAX_PATHS, MAX_PATHS_ALL, MAX_PATHS_BYTES};
use super::rows::each_row;
use crate::format::ids::InodeId;
use crate::format::rows::inode::XattrRef;
use crate::format::rows::{ContentRef, DirentRow, FileType, InodeRow};
use crate::format::{limits, schema};
use std::collections::HashMap;

/// Most contents and inodes that are remembered; paths of further ones are not counted.
const MAX_HITS: usize = 4 << 20;
/// Number of levels above a file that are searched for names.
const MAX_DEPTH: usize = 4096;
/// Longest path that is listed completely, in bytes.
const MAX_PATH: usize = 64 << 10;

/// Adds the paths to the findings. Returns true if more paths are affected than could be counted.
pub(super) fn resolve(check: &Check<'_>, findings: &mut Findings) -> Result<bool, CheckError> {
    let mut hits = std::mem::take(&mut findings.hits);
    if hits.is_empty() {
        return Ok(false);
    }
    hits.settle();
    let mut search = Search { check, findings: &mut findings.list, incomplete: false, named: Vec::new() };
    search.contents(&mut hits)?;
    let inodes = search.inodes(&hits)?;
    search.names(&hits, &inodes)?;
    search.paths()?;
    for finding in search.findings.iter_mut() {
        finding.paths.sort();
    }
    Ok(search.incomplete)
}

struct Search<'a> {
    check: &'a Check<'a>,
    findings: &'a mut Vec<Finding>,
    incomplete: bool,
    /// Names that will be listed as paths: the finding, the directory's inode, and the name in it.
    named: Vec<(FindingId, u64, Vec<u8>)>,
}

impl Search<'_> {
    /// Adds the contents that use affected subchunks.
    fn contents(&mut self, hits: &mut Hits) -> Result<(), CheckError> {
        if !hits.subchunks.is_empty() {
            let mut found = Marks::default();
            each_row(self.check.image, &schema::CONTENTS, 0, &mut |key, ints, _| {
                if let &[first, count, _, _] = ints
                    && first != 0
                {
                    let count = count.min(limits::RUN);
                    hits.subchunks.of(first..first.saturating_add(count), &mut |finding| {
                        found.add(key.a..key.a.saturating_add(1), finding);
                    });
                }
                found.len() < MAX_HITS && !self.check.observer.cancelled()
            });
            self.incomplete |= found.len() >= MAX_HITS;
            found.settle();
            hits.contents = std::mem::take(&mut hits.contents).joined(found);
        }
        self.check.cancelled()
    }

    /// Returns the inodes that are affected through their rows.
    fn inodes(&mut self, hits: &Hits) -> Result<Vec<(u64, FindingId)>, CheckError> {
        let mut found: Vec<(u64, FindingId)> = Vec::new();
        each_row(self.check.image, &schema::INODES, 0, &mut |key, ints, tail| {
            let Ok(row) = InodeRow::decode(ints, tail) else { return true };
            let from = found.len();
            let mut add = |finding| {
                if !found.iter().skip(from).any(|known| *known == (key.a, finding)) {
                    found.push((key.a, finding));
                }
            };
            match row.content {
                ContentRef::None => {}
                ContentRef::Subchunk(id) => hits.subchunks.of_one(id.0, &mut add),
                ContentRef::Content(id) => hits.contents.of_one(id.0, &mut add),
                ContentRef::Tiny(id) => hits.tiny.of_one(id.0, &mut add),
            }
            if let XattrRef::Set(id) = row.xattrs {
                hits.xattrs.of_one(id.0, &mut add);
            }
            if row.file_type == FileType::Directory {
                hits.directories.of_one(key.a, &mut add);
            }
            found.len() < MAX_HITS && !self.check.observer.cancelled()
        });
        self.incomplete |= found.len() >= MAX_HITS;
        self.check.cancelled()?;
        Ok(found)
    }

    /// Finds the names of affected inodes, counts them, and keeps those to list.
    fn names(&mut self, hits: &Hits, inodes: &[(u64, FindingId)]) -> Result<(), CheckError> {
        debug_assert!(inodes.is_sorted_by_key(|(inode, _)| *inode));
        let mut has_name = vec![false; inodes.len()];
        let image = self.check.image;
        let observer = self.check.observer;
        each_row(image, &schema::DIRENTS, 0, &mut |key, ints, _| {
            let Some(&inode) = ints.first() else { return true };
            let start = inodes.partition_point(|(id, _)| *id < inode);
            let from = inodes.iter().zip(&mut has_name).skip(start);
            for ((_, finding), has_name) in from.take_while(|((id, _), _)| *id == inode) {
                *has_name = true;
                self.name(*finding, key.a, key.name);
            }
            // A finding may come more than once; only a few different ones are listed.
            let mut told = [None; 8];
            hits.inodes.of_one(inode, &mut |finding| {
                if !told.contains(&Some(finding))
                    && let Some(free) = told.iter_mut().find(|slot| slot.is_none())
                {
                    *free = Some(finding);
                }
            });
            told.iter().flatten().for_each(|finding| self.name(*finding, key.a, key.name));
            !observer.cancelled()
        });
        for ((inode, finding), _) in inodes.iter().zip(&has_name).filter(|(_, has_name)| !**has_name) {
            let path = if *inode == InodeId::ROOT.0 { b".".to_vec() } else { unnamed(*inode) };
            self.list(*finding, path);
        }
        let mut root = Vec::new();
        hits.inodes.of_one(InodeId::ROOT.0, &mut |finding| root.push(finding));
        root.into_iter().for_each(|finding| self.list(finding, b".".to_vec()));
        self.check.cancelled()
    }

    fn has_room(&self, finding: FindingId) -> bool {
        let listed = self.findings.get(finding as usize).map_or(0, |finding| finding.paths.len());
        listed < MAX_PATHS && self.named.len() < MAX_PATHS_ALL
    }

    /// Lists a complete path.
    fn list(&mut self, finding: FindingId, path: Vec<u8>) {
        let room = self.has_room(finding);
        let Some(finding) = self.findings.get_mut(finding as usize) else { return };
        if room {
            finding.paths.push(path);
        } else {
            finding.more_paths += 1;
        }
    }

    /// Adds a name to the paths that a finding lists. If the finding lists enough paths, the name is only counted. The
    /// new path stays empty until the path of the directory `dir` is known.
    fn name(&mut self, finding: FindingId, dir: u64, name: &[u8]) {
        let room = self.has_room(finding);
        let Some(target) = self.findings.get_mut(finding as usize) else { return };
        if room {
            target.paths.push(Vec::new());
            self.named.push((finding, dir, name.to_vec()));
        } else {
            target.more_paths += 1;
        }
    }

    /// Completes the names to paths.
    fn paths(&mut self) -> Result<(), CheckError> {
        let image = self.check.image;
        // The directories above the names: the parent and the name of each.
        let mut above: HashMap<u64, (u64, Option<Vec<u8>>)> = HashMap::new();
        for (_, dir, _) in &self.named {
            let mut at = *dir;
            for _ in 0..MAX_DEPTH {
                if at == InodeId::ROOT.0 || above.contains_key(&at) {
                    break;
                }
                let parent = image.inode(InodeId(at)).ok().flatten().and_then(|row| row.parent);
                above.insert(at, (parent.map_or(0, |parent| parent.0), None));
                match parent {
                    Some(parent) => at = parent.0,
                    None => break,
                }
            }
        }
        if !above.is_empty() {
            let observer = self.check.observer;
            each_row(image, &schema::DIRENTS, 0, &mut |key, ints, _| {
                if let Ok(row) = DirentRow::decode(key.name, ints)
                    && row.file_type == FileType::Directory
                    && let Some((parent, name @ None)) = above.get_mut(&row.inode.0)
                {
                    // If the directory's own row is lost, the directory that names it is its parent.
                    if *parent == key.a || *parent == 0 {
                        *parent = key.a;
                        *name = Some(key.name.to_vec());
                    }
                }
                !observer.cancelled()
            });
            self.check.cancelled()?;
        }
        let mut filled: HashMap<FindingId, usize> = HashMap::new();
        let mut room = MAX_PATHS_BYTES;
        for (finding, dir, name) in std::mem::take(&mut self.named) {
            let path = full_path(&above, dir, name);
            match room.checked_sub(path.len()) {
                Some(left) => room = left,
                // The remaining ones have no path and are only counted.
                None => break,
            }
            let Some(listed) = self.findings.get_mut(finding as usize) else { continue };
            let from = filled.entry(finding).or_default();
            let free = listed.paths.iter_mut().enumerate().skip(*from).find(|(_, path)| path.is_empty());
            if let Some((at, free)) = free {
                *from = at + 1;
                *free = path;
            }
        }
        for finding in self.findings.iter_mut() {
            let all = finding.paths.len();
            finding.paths.retain(|path| !path.is_empty());
            finding.more_paths += (all - finding.paths.len()) as u64;
        }
        Ok(())
    }
}

pub(super) fn unnamed(inode: u64) -> Vec<u8> {
    format!("<inode {inode}>").into_bytes()
}

pub(super) fn full_path(above: &HashMap<u64, (u64, Option<Vec<u8>>)>, dir: u64, name: Vec<u8>) -> Vec<u8> {
    let mut parts = vec![name];
    let mut len = 0;
    let mut at = dir;
    for depth in 0.. {
        if at == InodeId::ROOT.0 {
            break;
        }
        if depth >= MAX_DEPTH || len > MAX_PATH {
            parts.push(b"...".to_vec());
            break;
        }
        match above.get(&at) {
            Some((parent, Some(name))) => {
                len += name.len() + 1;
                parts.push(name.clone());
                at = *parent;
            }
            _ => {
                parts.push(unnamed(at));
                break;
            }
        }
    }
    parts.reverse();
    parts.join(&b'/')
}
