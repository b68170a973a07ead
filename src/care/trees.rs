//! Checks every block of every tree, from the roots down, each against the hash in its parent.
//!
//! If a block is unreadable, the rows in a range of keys are lost. The rest of the check, and the search for paths,
//! work with that range. The scan of the log verifies both copies of everything that is written twice.

use super::Check;
use super::ranges::{Marks, RangeSet};
use super::report::{CheckError, CheckReport, Finding, FindingKind, Findings, Severity};
use crate::format::block::KeyRef;
use crate::format::place::Place;
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::schema::{self, TABLES, Table};
use crate::table::{ChildRef, Onward, TableError, Visit};
use std::collections::HashSet;
use std::ops::Range;

/// Most unreadable blocks whose places are remembered. If there are more, it is not known for some damaged frames that
/// they hold such a block: then they are only reported as damaged.
const MAX_REFUSED: usize = 1 << 16;

/// The result of walking all trees.
#[derive(Debug, Default)]
pub(super) struct Trees {
    /// Ids of inodes whose rows are lost. The next fields hold the ids whose rows other tables have lost; for dirents,
    /// the ids of the directories.
    pub(super) inodes: RangeSet,
    pub(super) dirents: RangeSet,
    pub(super) contents: RangeSet,
    pub(super) xattrs: RangeSet,
    pub(super) tiny: RangeSet,
    pub(super) orphans: RangeSet,
    pub(super) thawed: RangeSet,
    /// Kinds of shared things (numbers in the table of shares) whose rows are lost.
    pub(super) shares: RangeSet,
    pub(super) identities: RangeSet,
    /// Ids of superchunks whose rows in the map are lost. The next fields hold the lost ids of the map's other spaces.
    pub(super) superchunks: RangeSet,
    pub(super) subchunks: RangeSet,
    pub(super) recipes: RangeSet,
    /// The finding that reports a superchunk whose row is lost.
    pub(super) superchunk_findings: Marks,
    /// Places of the map's blocks, readable or not.
    pub(super) map_blocks: Vec<Place>,
    /// Ids of table groups with an unreadable block, and offsets of unreadable blocks of the map.
    pub(super) lost_groups: HashSet<u64>,
    pub(super) lost_frames: HashSet<u64>,
}

/// A range of lost keys, as the walk reports it.
struct Gap<'a> {
    lower: KeyRef<'a>,
    upper: Option<KeyRef<'a>>,
}

impl Gap<'_> {
    /// Returns the values of `a` whose rows may be lost; `next` is greater than all existing ids.
    fn ids(&self, next: u64) -> Range<u64> {
        let end = match self.upper {
            None => next,
            Some(upper) if upper.b == 0 && upper.name.is_empty() => upper.a,
            Some(upper) => upper.a.saturating_add(1),
        };
        self.lower.a..end.max(self.lower.a)
    }

    /// Returns the values of `b` in this space of the map whose rows may be lost.
    fn in_space(&self, space: u64, next: u64) -> Range<u64> {
        let start = match self.lower.a {
            a if a < space => 0,
            a if a == space => self.lower.b,
            _ => return 0..0,
        };
        let end = match self.upper {
            Some(upper) if upper.a < space => return 0..0,
            Some(upper) if upper.a == space => upper.b,
            _ => next,
        };
        start..end.max(start)
    }
}

/// Walks all trees.
pub(super) fn check(check: &Check<'_>, findings: &mut Findings, report: &mut CheckReport) -> Result<Trees, CheckError> {
    // Walk the map first: it is needed to find the others.
    let others = TABLES.into_iter().filter(|table| table.id() != schema::MAP.id());
    let tables: Vec<&'static Table> = std::iter::once(&schema::MAP).chain(others).collect();
    check_tables(check, &tables, findings, report)
}

/// Walks the trees of the given tables.
pub(super) fn check_tables(
    check: &Check<'_>,
    tables: &[&'static Table],
    findings: &mut Findings,
    report: &mut CheckReport,
) -> Result<Trees, CheckError> {
    let mut trees = Trees::default();
    for &table in tables {
        check.cancelled()?;
        walk(check, table, &mut trees, findings, report);
    }
    for set in [
        &mut trees.inodes,
        &mut trees.dirents,
        &mut trees.contents,
        &mut trees.xattrs,
        &mut trees.tiny,
        &mut trees.orphans,
        &mut trees.thawed,
        &mut trees.shares,
        &mut trees.identities,
        &mut trees.superchunks,
        &mut trees.subchunks,
        &mut trees.recipes,
    ] {
        set.settle();
    }
    trees.superchunk_findings.settle();
    Ok(trees)
}

fn walk(
    check: &Check<'_>,
    table: &'static Table,
    trees: &mut Trees,
    findings: &mut Findings,
    report: &mut CheckReport,
) {
    let tree = check.image.tree(table);
    let (mut rows, mut whole, mut refused, mut reserved) = (0u64, true, 0, 0u64);
    tree.walk(check.image, &mut |visit: &Visit<'_>| {
        if check.observer.cancelled() {
            return Onward::Stop;
        }
        if let Some(ChildRef::Frame(place)) = visit.child {
            refused += usize::from(visit.block.is_err());
            if visit.block.is_ok() || refused <= MAX_REFUSED {
                trees.map_blocks.push(place);
            }
        }
        report.table_blocks += 1;
        reserved += u64::from(visit.block.is_ok_and(|block| block.reserved() != 0));
        match visit.block {
            Ok(block) if block.level() == 0 => rows += block.len() as u64,
            Ok(_) => {}
            Err(error) => {
                whole = false;
                lost(check, table, visit, error, trees, findings);
            }
        }
        Onward::Into
    });
    //= format-spec.md#7.2
    //# A reader ignores the reserved byte, `check` reports it if it is not zero.
    if reserved > 0 {
        let message = format!("table {}: {reserved} blocks have a reserved byte that is not zero", table.name);
        findings.add(Finding::new(FindingKind::Table, Severity::Note, message).in_table(table.name));
    }
    if whole && rows != tree.rows {
        let message = format!("table {} has {rows} rows, but its root says {}", table.name, tree.rows);
        findings.add(Finding::new(FindingKind::Table, Severity::Recoverable, message).in_table(table.name));
    }
}

/// Reports an unreadable block, and what that affects.
fn lost(
    check: &Check<'_>,
    table: &'static Table,
    visit: &Visit<'_>,
    error: &TableError,
    trees: &mut Trees,
    findings: &mut Findings,
) {
    let root = check.image.root();
    let gap = Gap { lower: visit.lower.unwrap_or(KeyRef::new(0, 0)), upper: visit.upper };
    let what = if visit.level == 0 { "a leaf".to_owned() } else { format!("a block at level {}", visit.level) };
    let (next, severity, ids, rest) = match table.id().0 {
        1 => (root.next_inode, Severity::Lost, "inodes", "the files with these inodes cannot be read"),
        2 => (root.next_inode, Severity::Lost, "directories", "names in these directories are lost"),
        3 => (root.next_content, Severity::Lost, "contents", "the files with these contents cannot be read there"),
        4 => (root.next_xattrs, Severity::Lost, "xattr sets", "the xattrs of these files are lost"),
        5 => (root.next_tiny, Severity::Lost, "tiny contents", "the files with these contents cannot be read"),
        6 => (root.next_inode, Severity::Recoverable, "orphans", "no file is affected"),
        7 => (
            root.next_subchunk,
            Severity::Recoverable,
            "identities of subchunks",
            "these files can be read, but not be verified",
        ),
        8 => (0, Severity::Recoverable, "keys", "the clear lists have the same information, except recipes"),
        10 => {
            (root.next_inode, Severity::Lost, "inodes", "which bytes of these files are not in the image is not known")
        }
        11 => (4, Severity::Recoverable, "kinds", "no file is affected"),
        _ => (root.next_ordinal, Severity::Lost, "snapshots", "these snapshots are lost"),
    };
    let range = gap.ids(next);
    let keys = match table.id().0 {
        8 => format!("({}, {}) and up", gap.lower.a, gap.lower.b),
        _ => format!("{} to {}", range.start, range.end.saturating_sub(1).max(range.start)),
    };
    let message = format!("table {}: {what} with {ids} {keys} cannot be read: {error}; {rest}", table.name);
    let mut finding = Finding::new(FindingKind::Table, severity, message).in_table(table.name);
    match visit.child {
        Some(ChildRef::Block { id, .. }) => {
            finding = finding.of_subchunks(id.0, id.0);
            if let Ok(Some(located)) = check.image.locate(id) {
                finding = finding.in_superchunk(located.superchunk.0);
                if trees.lost_groups.len() < MAX_REFUSED {
                    trees.lost_groups.insert(located.superchunk.0);
                }
                if let Ok(Some(row)) = check.image.superchunk(located.superchunk) {
                    finding = finding.at(row.place.offset.0);
                }
            }
        }
        Some(ChildRef::Frame(place)) => {
            if trees.lost_frames.len() < MAX_REFUSED {
                trees.lost_frames.insert(place.offset.0);
            }
            finding = finding.at(place.offset.0);
        }
        None => {}
    }
    let id = findings.add(finding);
    let hits = &mut findings.hits;
    match table.id().0 {
        1 => {
            trees.inodes.insert(range.clone());
            hits.inodes.add(range, id);
        }
        2 => {
            trees.dirents.insert(range.clone());
            hits.directories.add(range, id);
        }
        3 => {
            trees.contents.insert(range.clone());
            hits.contents.add(range, id);
        }
        4 => {
            trees.xattrs.insert(range.clone());
            hits.xattrs.add(range, id);
        }
        5 => {
            trees.tiny.insert(range.clone());
            hits.tiny.add(range, id);
        }
        6 => trees.orphans.insert(range),
        11 => trees.shares.insert(range),
        7 => {
            trees.identities.insert(range.clone());
            hits.subchunks.add(range, id);
        }
        10 => {
            trees.thawed.insert(range.clone());
            hits.inodes.add(range, id);
        }
        8 => {
            let superchunks = gap.in_space(SPACE_SUPERCHUNKS, root.next_superchunk);
            trees.superchunks.insert(superchunks.clone());
            trees.superchunk_findings.add(superchunks, id);
            let subchunks = gap.in_space(SPACE_SUBCHUNKS, root.next_subchunk);
            trees.subchunks.insert(subchunks.clone());
            hits.subchunks.add(subchunks, id);
            // Which subchunks lack a recipe because of this is known only after all composed ones are known.
            trees.recipes.insert(gap.in_space(SPACE_RECIPES, root.next_subchunk));
        }
        _ => {}
    }
}
