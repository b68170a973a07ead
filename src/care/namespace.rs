//! Checks how names, inodes, contents and xattrs fit together.
//!
//! Each table is walked in key order and joined to the others by look-up; each content is examined once, however many
//! inodes share it. Counting the names of inodes needs a counter for each inode. This is done for a window of inodes at
//! a time, with one walk of the dirents for each window: memory is bounded, and an image of usual size needs one walk.

use super::Check;
use super::cut::ShortSubchunks;
use super::known::Map;
use super::report::{CheckError, CheckReport, Finding, FindingKind, Findings, Severity};
use super::rows::each_row;
use super::trees::Trees;
use crate::format::block::KeyRef;
use crate::format::frame::FrameKind;
use crate::format::ids::{ContentId, InodeId, SubchunkId, TinyId};
use crate::format::rows::inode::XattrRef;
use crate::format::rows::{ContentRef, ContentRow, DirentRow, Extent, FileType, InodeRow, XattrSet};
use crate::format::schema::{self, Table};
use crate::format::{FormatError, limits};
use std::collections::HashMap;

/// Inodes whose names are counted in one walk of the dirents (40 bytes each).
const WINDOW: usize = 2 << 20;
/// Most contents with holes whose data bytes are remembered (24 bytes each).
const MAX_SPARSE: usize = 1 << 20;

/// What the walk of the dirents needs to know of an inode.
struct Facts {
    id: u64,
    parent: u64,
    links: u64,
    /// Number of names that refer to the inode.
    names: u64,
    /// Number of subdirectories of the inode.
    subdirectories: u64,
    file_type: FileType,
}

/// Checks the filesystem as the head shows it.
pub(super) fn check(
    check: &Check<'_>,
    map: &Map,
    trees: &Trees,
    findings: &mut Findings,
    report: &mut CheckReport,
) -> Result<(), CheckError> {
    let short = ShortSubchunks::new(check.image.params().chunker.min_len());
    let mut namespace = Namespace { check, map, trees, findings, sparse: HashMap::new(), short };
    namespace.contents()?;
    namespace.xattrs()?;
    namespace.tiny()?;
    let upwards = namespace.inodes(report)?;
    namespace.short_subchunks();
    namespace.orphans()?;
    namespace.names(report)?;
    if upwards {
        namespace.cycles()?;
    }
    Ok(())
}

struct Namespace<'a> {
    check: &'a Check<'a>,
    map: &'a Map,
    trees: &'a Trees,
    findings: &'a mut Findings,
    /// Number of bytes outside holes of each content that has holes, by content id.
    sparse: HashMap<u64, u64>,
    short: ShortSubchunks,
}

/// Why a subchunk cannot be read as `len` bytes or more, if it cannot.
type Wrong = Option<String>;

impl Namespace<'_> {
    fn table(&mut self, table: &'static Table, severity: Severity, message: String) -> super::ranges::FindingId {
        self.findings.add(Finding::new(FindingKind::Table, severity, message).in_table(table.name))
    }

    fn inode_is(&mut self, severity: Severity, inode: u64, why: &str) {
        let message = format!("inode {inode}: {why}");
        let id = self.findings.add(Finding::new(FindingKind::Namespace, severity, message));
        self.findings.hits.inodes.add(inode..inode.saturating_add(1), id);
    }

    /// Returns the length of a data subchunk in bytes; `None` if its recipe is lost, which was reported. An error says
    /// why it has no length. If the map is damaged there, the subchunk is not reported.
    fn subchunk(&self, id: SubchunkId) -> Result<Option<u64>, String> {
        let located = match self.check.image.locate(id) {
            Ok(Some(located)) => located,
            Ok(None) => return Err(format!("subchunk {id} does not exist")),
            Err(error) => return Err(format!("subchunk {id} cannot be found: {error}")),
        };
        match self.map.get(located.superchunk) {
            Some(known) if known.row.kind == FrameKind::SUPERCHUNK => {}
            Some(_) => return Err(format!("subchunk {id} is not file data")),
            None => return Err(format!("subchunk {id} is in superchunk {}, which does not exist", located.superchunk)),
        }
        if !located.composed {
            return Ok(Some(located.len.into()));
        }
        let recipe = self.check.image.recipe(id).ok().flatten();
        Ok(recipe.map(|recipe| recipe.subchunk_len().into()))
    }

    /// Returns what is wrong with a row of a content, if anything.
    fn extent(&self, row: &ContentRow) -> Wrong {
        let whole = |id: SubchunkId, len: u64| match self.subchunk(id) {
            Ok(Some(found)) if found != len => Some(format!("subchunk {id} has {found} bytes, not {len}")),
            Ok(_) => None,
            Err(why) => Some(why),
        };
        match &row.extent {
            Extent::Hole => None,
            Extent::Slice { subchunk, skip } => match self.subchunk(*subchunk) {
                Ok(Some(len)) if u64::from(*skip) + row.length > len => {
                    Some(format!("subchunk {subchunk} has {len} bytes, too few"))
                }
                Ok(_) => None,
                Err(why) => Some(why),
            },
            Extent::Run { first, lens } => {
                (first.0..).zip(lens).find_map(|(id, &len)| whole(SubchunkId(id), len.into()))
            }
        }
    }

    /// Checks that the rows of each content follow one another without gaps and overlaps, and that the subchunks that
    /// they name are long enough.
    fn contents(&mut self) -> Result<(), CheckError> {
        let next = self.check.image.root().next_content;
        let mut current = 0;
        let mut end: Option<u64> = None;
        let (mut data, mut holes) = (0u64, false);
        each_row(self.check.image, &schema::CONTENTS, 0, &mut |key, ints, tail| {
            if key.a != current {
                self.remember_sparse(current, data, holes);
                (current, data, holes) = (key.a, 0, false);
                let begins = key.b == 0 || self.trees.contents.contains(key.a);
                end = begins.then_some(key.b);
                if key.a == 0 || key.a >= next {
                    self.content_is(key.a, format!("ids are below {next}, which is the next free one"));
                }
                if !begins {
                    self.content_is(key.a, format!("it begins at offset {} instead of 0", key.b));
                }
            }
            match ContentRow::decode(key.b, ints, tail) {
                Err(error) => {
                    self.content_is(key.a, error.to_string());
                    end = None;
                }
                Ok(row) => {
                    if let Some(end) = end
                        && end != key.b
                        && !self.trees.contents.contains(key.a)
                    {
                        self.content_is(key.a, format!("its extents have a gap or overlap at offset {}", key.b));
                    }
                    end = Some(key.b + row.length);
                    self.short.row(key.a, key.b, &row);
                    match row.extent {
                        Extent::Hole => holes = true,
                        _ => data = data.saturating_add(row.length),
                    }
                    if let Some(why) = self.extent(&row) {
                        self.content_is(key.a, why);
                    }
                }
            }
            !self.check.observer.cancelled()
        });
        self.remember_sparse(current, data, holes);
        self.check.cancelled()
    }

    fn remember_sparse(&mut self, content: u64, data: u64, holes: bool) {
        if holes && self.sparse.len() < MAX_SPARSE {
            self.sparse.insert(content, data);
        }
    }

    //= format-spec.md#15
    //# A subchunk shorter than chunk_min must end a file, or data before a hole, except in an
    //# uneven content (8.1, tag 6).
    fn short_subchunks(&mut self) {
        // Orphans use contents, too.
        each_row(self.check.image, &schema::ORPHANS, 0, &mut |_, ints, tail| {
            if let Ok(row) = InodeRow::decode(ints, tail)
                && let ContentRef::Content(id) = row.content
            {
                self.short.user(id.0, row.is_uneven());
            }
            !self.check.observer.cancelled()
        });
        for (content, offset) in self.short.take() {
            let message =
                format!("content {content}: the subchunk at offset {offset} is shorter than the chunker's minimum");
            let id = self.table(&schema::CONTENTS, Severity::Recoverable, message);
            self.findings.hits.contents.add(content..content.saturating_add(1), id);
        }
    }

    fn content_is(&mut self, content: u64, why: String) {
        let id = self.table(&schema::CONTENTS, Severity::Lost, format!("content {content}: {why}"));
        self.findings.hits.contents.add(content..content.saturating_add(1), id);
    }

    /// Checks that each xattr set is complete.
    fn xattrs(&mut self) -> Result<(), CheckError> {
        let next = self.check.image.root().next_xattrs;
        let mut current = 0;
        let mut bytes: Result<Vec<u8>, &'static str> = Ok(Vec::new());
        let mut pieces = 0;
        let finish = |this: &mut Self, id: u64, bytes: Result<Vec<u8>, &'static str>| {
            let why = match bytes {
                _ if id == 0 || this.trees.xattrs.contains(id) => return,
                _ if id >= next => format!("ids are below {next}, which is the next free one"),
                Err(why) => why.to_owned(),
                Ok(bytes) => match XattrSet::decode(&bytes) {
                    Ok(_) => return,
                    Err(error) => error.to_string(),
                },
            };
            let finding = this.table(&schema::XATTRS, Severity::Lost, format!("xattr set {id}: {why}"));
            this.findings.hits.xattrs.add(id..id.saturating_add(1), finding);
        };
        each_row(self.check.image, &schema::XATTRS, 1, &mut |key, _, tail| {
            if key.a != current {
                finish(self, current, std::mem::replace(&mut bytes, Ok(Vec::new())));
                (current, pieces) = (key.a, 0);
            }
            bytes = match std::mem::replace(&mut bytes, Err("")) {
                Err(why) => Err(why),
                Ok(_) if key.b != pieces => Err("its pieces are not consecutive"),
                Ok(bytes) if bytes.len() + tail.len() > limits::XATTR_SET => Err("it is too long"),
                Ok(mut bytes) => {
                    bytes.extend_from_slice(tail);
                    Ok(bytes)
                }
            };
            pieces += 1;
            !self.check.observer.cancelled()
        });
        finish(self, current, bytes);
        self.check.cancelled()
    }

    fn tiny(&mut self) -> Result<(), CheckError> {
        let next = self.check.image.root().next_tiny;
        each_row(self.check.image, &schema::TINY, 0, &mut |key, _, tail| {
            let len = tail.len() as u64;
            if key.a == 0 || key.a >= next || len == 0 || len >= limits::TINY_LEN {
                let message = format!("tiny content {} of {len} bytes has an invalid id or length", key.a);
                let id = self.table(&schema::TINY, Severity::Recoverable, message);
                self.findings.hits.tiny.add(key.a..key.a.saturating_add(1), id);
            }
            !self.check.observer.cancelled()
        });
        self.check.cancelled()
    }

    /// Checks each inode's row by itself and against what it refers to. Returns whether some directory's parent has a
    /// higher number: only then can there be a cycle.
    fn inodes(&mut self, report: &mut CheckReport) -> Result<bool, CheckError> {
        let root = self.check.image.root();
        let (mut many, mut bytes, mut upwards, mut has_root) = (0u64, 0u64, false, false);
        each_row(self.check.image, &schema::INODES, 0, &mut |key, ints, tail| {
            many += 1;
            has_root |= key.a == InodeId::ROOT.0;
            let row = match InodeRow::decode(ints, tail) {
                Ok(row) => row,
                Err(error) => {
                    self.inode_is(Severity::Lost, key.a, &error.to_string());
                    return true;
                }
            };
            if key.a == 0 || key.a >= root.next_inode {
                let why = format!("numbers are below {}, which is the next free one", root.next_inode);
                self.inode_is(Severity::Recoverable, key.a, &why);
            }
            if let ContentRef::Content(id) = row.content {
                self.short.user(id.0, row.is_uneven());
            }
            if row.file_type == FileType::Regular {
                bytes = bytes.wrapping_add(row.size);
            }
            let is_root = key.a == InodeId::ROOT.0;
            match row.parent {
                Some(parent) if is_root && parent != InodeId::ROOT => {
                    self.inode_is(Severity::Recoverable, key.a, "the root directory has a parent");
                }
                Some(parent) if !is_root && parent.0 >= key.a => upwards = true,
                None if is_root => self.inode_is(Severity::Lost, key.a, "the root is not a directory"),
                _ => {}
            }
            if let Some((severity, why)) = self.content_of(&row) {
                self.inode_is(severity, key.a, &why);
            }
            if let Some(why) = self.xattrs_of(&row) {
                self.inode_is(Severity::Lost, key.a, &why);
            }
            !self.check.observer.cancelled()
        });
        self.check.cancelled()?;
        report.inodes = many;
        if self.trees.inodes.is_empty() {
            if !has_root {
                let message = "there is no root directory".to_owned();
                self.table(&schema::INODES, Severity::Lost, message);
            }
            for (what, said, found) in [("inodes", root.view.inodes, many), ("bytes in files", root.view.bytes, bytes)]
            {
                if said != found {
                    let message = format!("the root says {said} {what}, there are {found}");
                    self.findings.add(Finding::new(FindingKind::Root, Severity::Recoverable, message));
                }
            }
        }
        Ok(upwards)
    }

    /// Checks each orphan: an inode that was open when it lost its last name. Faults in it affect no file.
    fn orphans(&mut self) -> Result<(), CheckError> {
        let next = self.check.image.root().next_inode;
        each_row(self.check.image, &schema::ORPHANS, 0, &mut |key, ints, tail| {
            let wrong = |this: &mut Self, why: &str| {
                this.table(&schema::ORPHANS, Severity::Recoverable, format!("orphan {}: {why}", key.a));
            };
            let row = match InodeRow::decode(ints, tail) {
                Ok(row) => row,
                Err(error) => {
                    wrong(self, &error.to_string());
                    return true;
                }
            };
            if key.a <= InodeId::ROOT.0 || key.a >= next {
                wrong(self, &format!("numbers are below {next}, which is the next free one"));
            }
            if row.links != 0 {
                wrong(self, &format!("its link count is {}, it should be 0", row.links));
            }
            //= format-spec.md#8.6
            //# A number never has a row in both tables.
            if self.check.image.inode(InodeId(key.a)).is_ok_and(|row| row.is_some()) {
                self.inode_is(Severity::Recoverable, key.a, "it is also an orphan");
            }
            if let Some((_, why)) = self.content_of(&row) {
                wrong(self, &why);
            }
            if let Some(why) = self.xattrs_of(&row) {
                wrong(self, &why);
            }
            !self.check.observer.cancelled()
        });
        self.check.cancelled()
    }

    /// Returns what is wrong with the content reference of a row, if anything.
    fn content_of(&self, row: &InodeRow) -> Option<(Severity, String)> {
        let sized = |found: u64, what: String| {
            (found != row.size)
                .then(|| (Severity::Lost, format!("it has {} bytes, but its {what} has {found}", row.size)))
        };
        let lost = |why: String| Some((Severity::Lost, why));
        match row.content {
            ContentRef::None => None,
            ContentRef::Subchunk(id) => match self.subchunk(id) {
                Ok(Some(len)) => sized(len, format!("subchunk {id}")),
                Ok(None) => None,
                Err(why) => lost(why),
            },
            ContentRef::Tiny(id) if self.trees.tiny.contains(id.0) => None,
            ContentRef::Tiny(id) => match self.tiny_len(id) {
                Some(len) => sized(len, format!("tiny content {id}")),
                None => lost(format!("there is no tiny content {id}")),
            },
            ContentRef::Content(id) if self.trees.contents.contains(id.0) => None,
            ContentRef::Content(id) => match self.content_end(id) {
                //= format-spec.md#8.3
                //# A content never ends after the size of an inode that names it.
                Some(Ok(end)) if end > row.size => {
                    lost(format!("it has {} bytes, but its content {id} ends at offset {end}", row.size))
                }
                Some(Ok(end)) => self.allocated_of(row, id, end),
                Some(Err(_)) => None, // The row was reported.
                None => lost(format!("there is no content {id}")),
            },
        }
    }

    /// Returns what is wrong with the number of bytes outside holes, if anything; `end` is the end of the content.
    fn allocated_of(&self, row: &InodeRow, id: ContentId, end: u64) -> Option<(Severity, String)> {
        let (said, found) = (row.allocated().unwrap_or(end), self.sparse.get(&id.0).copied().unwrap_or(end));
        let unknown = self.sparse.len() >= MAX_SPARSE;
        (said != found && !unknown).then(|| {
            (Severity::Recoverable, format!("{found} of its bytes are outside holes, but its row says {said}"))
        })
    }

    fn tiny_len(&self, id: TinyId) -> Option<u64> {
        let row = self.check.image.tree(&schema::TINY).get(self.check.image, KeyRef::new(id.0, 0)).ok()??;
        Some(row.tail().len() as u64)
    }

    /// Returns the end of a content in bytes, by its last row.
    fn content_end(&self, id: ContentId) -> Option<Result<u64, FormatError>> {
        let tree = self.check.image.tree(&schema::CONTENTS);
        let row = tree.floor(self.check.image, KeyRef::new(id.0, u64::MAX)).ok()??;
        let (key, ints, tail) = (row.key(), row.ints(), row.tail());
        (key.a == id.0).then(|| ContentRow::decode(key.b, ints, tail).map(|row| key.b + row.length))
    }

    fn xattrs_of(&self, row: &InodeRow) -> Option<String> {
        match &row.xattrs {
            XattrRef::None => None,
            XattrRef::Inline(bytes) => XattrSet::decode(bytes).err().map(|error| error.to_string()),
            XattrRef::Set(id) if self.trees.xattrs.contains(id.0) => None,
            XattrRef::Set(id) => {
                let tree = self.check.image.tree(&schema::XATTRS);
                let found = tree.get(self.check.image, KeyRef::new(id.0, 0));
                matches!(found, Ok(None)).then(|| format!("there is no xattr set {id}"))
            }
        }
    }

    /// Checks that each name refers to an inode of its type, and that each inode has as many names as its row says.
    fn names(&mut self, report: &mut CheckReport) -> Result<(), CheckError> {
        let mut from = 0;
        for round in 0.. {
            let mut facts = Vec::new();
            each_row(self.check.image, &schema::INODES, from, &mut |key, ints, tail| {
                if let Ok(row) = InodeRow::decode(ints, tail) {
                    facts.push(Facts {
                        id: key.a,
                        parent: row.parent.map_or(0, |parent| parent.0),
                        links: row.links,
                        names: 0,
                        subdirectories: 0,
                        file_type: row.file_type,
                    });
                }
                facts.len() < WINDOW && !self.check.observer.cancelled()
            });
            self.check.cancelled()?;
            let last = facts.len() < WINDOW;
            let end = if last { u64::MAX } else { facts.last().map_or(u64::MAX, |fact| fact.id.saturating_add(1)) };
            self.count_names(&mut facts, from..end, round == 0, report)?;
            self.compare_counts(&facts);
            if last {
                break;
            }
            from = end;
        }
        Ok(())
    }

    /// Walks all dirents once, and counts the names of the inodes in `window`.
    fn count_names(
        &mut self,
        facts: &mut [Facts],
        window: std::ops::Range<u64>,
        first: bool,
        report: &mut CheckReport,
    ) -> Result<(), CheckError> {
        let mut dir: Option<(u64, Option<usize>)> = None;
        each_row(self.check.image, &schema::DIRENTS, 0, &mut |key, ints, _| {
            report.names += u64::from(first);
            if dir.is_none_or(|(id, _)| id != key.a) {
                let at = facts.binary_search_by_key(&key.a, |fact| fact.id).ok();
                dir = Some((key.a, at));
                let is_dir = at.and_then(|at| facts.get(at)).is_some_and(|fact| fact.file_type == FileType::Directory);
                if window.contains(&key.a) && !is_dir && !self.trees.inodes.contains(key.a) {
                    let message = format!("inode {} has entries, but is not a directory", key.a);
                    self.table(&schema::DIRENTS, Severity::Lost, message);
                }
            }
            let row = match DirentRow::decode(key.name, ints) {
                Ok(row) => row,
                Err(error) if first => {
                    let message = format!("an entry of directory {} is wrong: {error}", key.a);
                    let id = self.table(&schema::DIRENTS, Severity::Lost, message);
                    self.findings.hits.directories.add(key.a..key.a.saturating_add(1), id);
                    return true;
                }
                Err(_) => return true,
            };
            if row.file_type == FileType::Directory
                && let Some((_, Some(at))) = dir
                && let Some(fact) = facts.get_mut(at)
            {
                fact.subdirectories += 1;
            }
            if window.contains(&row.inode.0) {
                self.name(facts, key, &row);
            }
            !self.check.observer.cancelled()
        });
        self.check.cancelled()
    }

    fn name(&mut self, facts: &mut [Facts], key: KeyRef<'_>, row: &DirentRow) {
        let inode = row.inode.0;
        let at = facts.binary_search_by_key(&inode, |fact| fact.id);
        let Some(fact) = at.ok().and_then(|at| facts.get_mut(at)) else {
            if !self.trees.inodes.contains(inode) {
                self.inode_is(Severity::Lost, inode, "a directory names it, but it does not exist");
            }
            return;
        };
        fact.names += 1;
        if fact.file_type != row.file_type {
            self.inode_is(Severity::Lost, inode, "its type differs from the one in its directory");
        } else if fact.file_type == FileType::Directory && fact.parent != key.a {
            let why = format!("it is named in directory {}, but its parent is {}", key.a, fact.parent);
            self.inode_is(Severity::Recoverable, inode, &why);
        }
    }

    fn compare_counts(&mut self, facts: &[Facts]) {
        if !self.trees.dirents.is_empty() {
            return; // Names are lost, which was reported: counts prove nothing then.
        }
        for fact in facts {
            let is_root = fact.id == InodeId::ROOT.0;
            let is_dir = fact.file_type == FileType::Directory;
            let expected = if is_dir { fact.subdirectories.saturating_add(2) } else { fact.names };
            if fact.names == 0 && !is_root {
                self.inode_is(Severity::Lost, fact.id, "no directory names it");
            } else if is_dir && fact.names > u64::from(!is_root) {
                self.inode_is(Severity::Recoverable, fact.id, "a directory with more than one name");
            } else if fact.links != expected {
                let why = format!("its link count is {}, it should be {expected}", fact.links);
                self.inode_is(Severity::Recoverable, fact.id, &why);
            }
        }
    }

    /// Finds directories that are their own ancestors: they cannot be reached from the root.
    fn cycles(&mut self) -> Result<(), CheckError> {
        let room = (self.check.options.memory / 24).max(1 << 20) as usize;
        let mut parents: Vec<(u64, u64)> = Vec::new();
        each_row(self.check.image, &schema::INODES, 0, &mut |key, ints, tail| {
            if let Ok(InodeRow { parent: Some(parent), .. }) = InodeRow::decode(ints, tail) {
                parents.push((key.a, parent.0));
            }
            parents.len() < room && !self.check.observer.cancelled()
        });
        self.check.cancelled()?;
        if parents.len() >= room {
            let message = format!("more than {room} directories: not searched for cycles, to limit memory");
            self.findings.add(Finding::new(FindingKind::Namespace, Severity::Note, message));
            return Ok(());
        }
        // 0: not visited yet; otherwise the round in which it was visited.
        let mut seen = vec![0u32; parents.len()];
        for start in 0..parents.len() {
            let round = start as u32 + 1;
            let mut at = start;
            while let (Some(slot), Some(&(id, parent))) = (seen.get_mut(at), parents.get(at)) {
                if *slot == round {
                    self.inode_is(Severity::Lost, id, "the directory is its own ancestor: no path leads to it");
                }
                if *slot != 0 || id == InodeId::ROOT.0 {
                    break;
                }
                *slot = round;
                match parents.binary_search_by_key(&parent, |(id, _)| *id) {
                    Ok(next) => at = next,
                    Err(_) => break,
                }
            }
        }
        Ok(())
    }
}
