//! Checks snapshots: each is checked like the head, with the map that all share.
//!
//! Data was verified once for all of them, by the identities of the head; those of a snapshot must not differ from
//! these. Each snapshot takes time in proportion to its tables.

use super::known::Map;
use super::ranges::Marks;
use super::report::{CheckError, CheckReport, Finding, FindingKind, Findings, Severity};
use super::rows::each_row;
use super::trees::Trees;
use super::{Check, namespace, paths, trees};
use crate::format::head::ro_compat;
use crate::format::ids::SubchunkId;
use crate::format::rows::{SnapshotRow, identity};
use crate::format::schema::{self, Table};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

/// The tables of a snapshot's view.
const VIEW: [&Table; 6] =
    [&schema::INODES, &schema::DIRENTS, &schema::CONTENTS, &schema::XATTRS, &schema::TINY, &schema::IDENTITIES];

/// Checks all snapshots. Returns true if more paths are affected than could be counted.
pub(super) fn check(check: &Check<'_>, map: &Map, findings: &mut Findings) -> Result<bool, CheckError> {
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    each_row(check.image, &schema::SNAPSHOTS, 0, &mut |key, _, tail| {
        match SnapshotRow::decode(tail) {
            Ok(row) => all.push((key.a, row)),
            Err(error) => wrong.push(format!("its row {} is wrong: {error}", key.a)),
        }
        !check.observer.cancelled()
    });
    check.cancelled()?;
    if !all.is_empty() && check.image.head().ro_compat & ro_compat::SNAPSHOTS == 0 {
        let message = "the head does not say that there are snapshots";
        findings.add(Finding::new(FindingKind::Head, Severity::Recoverable, message));
    }
    let mut names = HashMap::new();
    for (ordinal, row) in &all {
        //= format-spec.md#10
        //# No two snapshots of an image have the same name.
        if let Some(other) = names.insert(&row.name, ordinal) {
            wrong.push(format!("snapshots {other} and {ordinal} have the same name"));
        }
    }
    for why in wrong {
        let message = format!("table {}: {why}", schema::SNAPSHOTS.name);
        findings.add(Finding::new(FindingKind::Table, Severity::Lost, message).in_table(schema::SNAPSHOTS.name));
    }
    let damaged = findings.hits.subchunks.under(0);
    let mut incomplete = false;
    for (_, row) in &all {
        check.cancelled()?;
        incomplete |= one(check, map, row, &damaged, findings)?;
    }
    Ok(incomplete)
}

fn one(
    check: &Check<'_>,
    map: &Map,
    row: &SnapshotRow,
    damaged: &Marks,
    findings: &mut Findings,
) -> Result<bool, CheckError> {
    let image = check.image.at_snapshot(row)?;
    let shown =
        Check { image: &image, options: check.options, observer: check.observer, done: AtomicU64::new(0), total: 0 };
    let (mut inner, mut report) = (Findings::default(), CheckReport::default());
    // This is finding number 0; it is kept only if it affects a file.
    inner.add(Finding::new(FindingKind::Data, Severity::Lost, "data of its files is damaged"));
    let trees = trees::check_tables(&shown, &VIEW, &mut inner, &mut report)?;
    namespace::check(&shown, map, &trees, &mut inner, &mut report)?;
    counts(row, &trees, &report, &mut inner);
    identities(check, &shown, &mut inner)?;
    inner.hits.subchunks.take_in(damaged);
    let incomplete = paths::resolve(&shown, &mut inner)?;
    let name = row.name.escape_ascii();
    for (n, mut finding) in inner.list.into_iter().enumerate() {
        if n == 0 && finding.paths.is_empty() && finding.more_paths == 0 {
            continue;
        }
        finding.message = format!("snapshot '{name}': {}", finding.message);
        findings.add(finding);
    }
    findings.suppressed = findings.suppressed.saturating_add(inner.suppressed);
    Ok(incomplete)
}

/// Compares the number of inodes with the snapshot's row.
fn counts(row: &SnapshotRow, trees: &Trees, report: &CheckReport, findings: &mut Findings) {
    if trees.inodes.is_empty() && report.inodes != row.view.inodes {
        let message = format!("it has {} inodes, but its row says {}", report.inodes, row.view.inodes);
        findings.add(Finding::new(FindingKind::Table, Severity::Recoverable, message).in_table(schema::INODES.name));
    }
}

/// Checks that a snapshot and the head have the same identity for each subchunk that both know.
fn identities(check: &Check<'_>, shown: &Check<'_>, findings: &mut Findings) -> Result<(), CheckError> {
    let tree = |check: &Check<'_>| check.image.root().view.identities_tree;
    if tree(check) == tree(shown) {
        return Ok(());
    }
    let kind = check.image.params().hash;
    each_row(shown.image, &schema::IDENTITIES, 0, &mut |key, ints, tail| {
        for n in 0.. {
            let id = SubchunkId(key.a.saturating_add(n));
            let of_snapshot = match identity::decode_one(kind, ints, tail, n) {
                Ok(Some(identity)) => identity,
                Ok(None) => break,
                Err(error) => {
                    let message = format!("table {}: row {} is wrong: {error}", schema::IDENTITIES.name, key.a);
                    findings.add(Finding::new(FindingKind::Table, Severity::Recoverable, message));
                    break;
                }
            };
            if matches!(check.image.identity(id), Ok(Some(of_head)) if of_head != of_snapshot) {
                let message = format!("subchunk {id} has a different content hash in the head");
                let finding = Finding::new(FindingKind::Data, Severity::Lost, message).of_subchunks(id.0, id.0);
                let finding = findings.add(finding);
                findings.hits.subchunks.add(id.0..id.0.saturating_add(1), finding);
            }
        }
        !check.observer.cancelled()
    });
    check.cancelled()
}
