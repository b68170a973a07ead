//! Checks thawed ranges. Lost ranges are damage; ranges in the thaw log are a note, unless the log is missing. Both
//! findings name their files.

use super::Check;
use super::beside::LogState;
use super::ranges::{FindingId, NO_FINDING};
use super::report::{CheckError, CheckReport, Finding, FindingKind, Findings, Severity};
use super::rows::each_row;
use super::trees::Trees;
use crate::format::block::KeyRef;
use crate::format::rows::{FileType, InodeRow, ThawedRow};
use crate::format::schema::{self, Table};
use crate::meta::RangeCount;

/// Checks every row of the table of thawed ranges, and counts the ranges. If the thaw log was read, the ranges are
/// reported with it instead.
pub(super) fn check(
    check: &Check<'_>,
    trees: &Trees,
    log: LogState,
    findings: &mut Findings,
    report: &mut CheckReport,
) -> Result<(), CheckError> {
    let in_log_severity = if log == LogState::Missing { Severity::Lost } else { Severity::Note };
    let mut file = File::default();
    let (mut lost, mut in_log) = (Told::default(), Told::default());
    each_row(check.image, &schema::THAWED, 0, &mut |key, ints, tail| {
        if file.inode != key.a {
            file = File::of(check, trees, key.a);
            if let Some(why) = file.wrong {
                wrong(findings, key.a, Severity::Recoverable, why.to_owned());
            }
        }
        let row = match ThawedRow::decode(key.b, ints, tail) {
            Ok(row) => row,
            Err(error) => {
                wrong(findings, key.a, Severity::Lost, error.to_string());
                return true;
            }
        };
        report.thawed.add(&row);
        // Decoding has checked the addition for overflow.
        let end = key.b + row.length;
        if key.b < file.end {
            wrong(findings, key.a, Severity::Lost, format!("its thawed ranges overlap at offset {}", key.b));
        }
        if file.size.is_some_and(|size| end > size) {
            wrong(
                findings,
                key.a,
                Severity::Recoverable,
                format!("its thawed range at offset {} ends after the file", key.b),
            );
        }
        file.end = file.end.max(end);
        if file.named && log != LogState::Read {
            let (told, severity) =
                if row.is_lost() { (&mut lost, Severity::Lost) } else { (&mut in_log, in_log_severity) };
            told.count.add(row.length);
            let finding = *told.finding.get_or_insert_with(|| findings.add(about(severity, String::new())));
            findings.hits.inodes.add(key.a..key.a.saturating_add(1), finding);
        }
        !check.observer.cancelled()
    });
    check.cancelled()?;
    lost.tell(findings, "lost: reading there fails until they are overwritten or cut off");
    in_log.tell(
        findings,
        match log {
            LogState::Missing => "in a missing thaw log: reading there fails",
            LogState::Unknown | LogState::Read => "in the thaw log: without it, reading there fails",
        },
    );
    let (root, head) = (check.image.root(), check.image.head());
    if report.thawed.in_log.ranges > 0 && (root.thaw_log_id == 0 || head.clean) {
        let message =
            format!("{} thawed ranges are in a thaw log, but the head names none", report.thawed.in_log.ranges);
        findings.add(about(Severity::Recoverable, message));
    }
    Ok(())
}

fn about(severity: Severity, message: String) -> Finding {
    let table: &Table = &schema::THAWED;
    Finding::new(FindingKind::Table, severity, message).in_table(table.name)
}

fn wrong(findings: &mut Findings, inode: u64, severity: Severity, why: String) {
    let id = findings.add(about(severity, format!("table thawed: inode {inode}: {why}")));
    findings.hits.inodes.add(inode..inode.saturating_add(1), id);
}

/// A finding about thawed ranges, of any number of files.
#[derive(Default)]
struct Told {
    finding: Option<FindingId>,
    count: RangeCount,
}

impl Told {
    fn tell(&self, findings: &mut Findings, what: &str) {
        let Some(finding) = self.finding.filter(|finding| *finding != NO_FINDING) else { return };
        if let Some(finding) = findings.list.get_mut(finding as usize) {
            finding.message =
                format!("{} bytes of files, in {} ranges, are {what}", self.count.bytes, self.count.ranges);
        }
    }
}

/// The inode whose ranges are being checked.
#[derive(Default)]
struct File {
    inode: u64,
    /// Offset in the file where the previous range ends.
    end: u64,
    size: Option<u64>,
    /// Whether the inode is one of the head's files; an orphan has no name.
    named: bool,
    wrong: Option<&'static str>,
}

impl File {
    fn of(check: &Check<'_>, trees: &Trees, inode: u64) -> Self {
        let find = |table: &'static Table| {
            let row = check.image.tree(table).get(check.image, KeyRef::new(inode, 0)).ok()??;
            InodeRow::decode(row.ints(), row.tail()).ok()
        };
        let file = File { inode, ..File::default() };
        let (row, named) = match find(&schema::INODES) {
            Some(row) => (row, true),
            None => match find(&schema::ORPHANS) {
                Some(row) => (row, false),
                None if trees.inodes.contains(inode) => return File { named: true, ..file },
                None if trees.orphans.contains(inode) => return file,
                None => return File { wrong: Some("it has thawed ranges, but does not exist"), ..file },
            },
        };
        let regular = row.file_type == FileType::Regular;
        let wrong = (!regular).then_some("it has thawed ranges, but is not a regular file");
        File { size: regular.then_some(row.size), named, wrong, ..file }
    }
}
