//! Care for images: `check` examines every byte and never writes.
//!
//! Order of work: head slots and roots; the tables from the roots down, by hash; the frames of the log from its
//! beginning to its end; map, frames and clear lists against one another; the data; how names, inodes and contents fit
//! together; last the paths of the files that each finding affects. Time and memory are bounded by the size of the
//! image and of its tables, whatever the image claims: tables are joined only by look-up, and nothing is followed
//! further than the format allows. Called by cli.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod beside;
mod clear;
mod compose;
mod cut;
mod data;
mod frames;
mod frozen;
mod head;
mod known;
mod namespace;
mod paths;
mod ranges;
mod report;
mod rows;
mod shares;
mod snapshots;
mod thaw_log;
mod thawed;
mod trees;

pub use beside::LogBesideImage;

pub use report::{
    CheckError, CheckObserver, CheckOptions, CheckReport, Finding, FindingKind, MAX_FINDINGS, MAX_PATHS, Severity,
    Subset,
};

use crate::format::head::Head;
use crate::log::LogReader;
use crate::meta::{Image, ImageOptions};
use crate::storage::Storage;
use beside::{After, LogChecked, LogState};
use report::Findings;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most times that the heads are read again if they change during the check.
const ATTEMPTS: usize = 16;
/// Bytes of memory for cached table blocks.
const BLOCK_CACHE: usize = 64 << 20;

/// State shared by all parts of a check.
struct Check<'a> {
    image: &'a Image,
    options: &'a CheckOptions,
    observer: &'a dyn CheckObserver,
    done: AtomicU64,
    total: u64,
}

impl Check<'_> {
    /// Adds `bytes` to the bytes examined and reports the total.
    fn progress(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.observer.progress(done.min(self.total), self.total);
    }

    fn cancelled(&self) -> Result<(), CheckError> {
        if self.observer.cancelled() { Err(CheckError::Cancelled) } else { Ok(()) }
    }
}

/// Checks an image; reports what is wrong with it and which files that affects. It does not look for a thaw log. Damage
/// is in the report and not an error.
///
/// # Errors
/// Fails only if the image cannot be checked at all: it is not an image, its storage cannot be read, or the observer
/// cancelled.
pub fn check(
    storage: Arc<dyn Storage>,
    options: &CheckOptions,
    observer: &dyn CheckObserver,
) -> Result<CheckReport, CheckError> {
    check_with_log(storage, &LogBesideImage::Unknown, options, observer)
}

/// Checks an image and its thaw log. If somebody writes the image, only its last checkpoint is checked.
///
/// # Errors
/// Fails as [`check`] does, and if the log cannot be read for a reason other than damage.
pub fn check_with_log(
    storage: Arc<dyn Storage>,
    beside: &LogBesideImage,
    options: &CheckOptions,
    observer: &dyn CheckObserver,
) -> Result<CheckReport, CheckError> {
    let mut report = CheckReport::default();
    if let LogBesideImage::Writer(who) = beside {
        report.writer = Some(who.clone());
    }
    for _ in 0..ATTEMPTS {
        let mut findings = Findings::default();
        let heads = head::check(&*storage, &mut findings)?;
        let Some(newest) = heads.first() else {
            return Ok(finish(report, findings));
        };
        let image = match Image::open(storage.clone(), ImageOptions { block_cache: BLOCK_CACHE }) {
            Ok(image) => Arc::new(image),
            Err(error) => {
                head::check_roots(&storage, &heads, &mut findings)?;
                let log = LogReader::new(storage.clone(), newest.log_id, newest.log_end.0)?;
                report.missing = frames::check_length(&log, After::of(newest, None), &mut findings)?;
                report.bytes = newest.log_end.0;
                frames::without_root(&log, &heads, &error.to_string(), observer, &mut findings, &mut report)?;
                return Ok(finish(report, findings));
            }
        };
        // If they differ, a checkpoint came in between: the image was opened with other heads than those seen.
        if heads.contains(image.head()) {
            let opened = Opened { storage, heads, image };
            return check_opened(&opened, beside, options, observer, findings, report);
        }
    }
    Err(CheckError::Changing)
}

/// An image and the heads it was opened with, newest first.
struct Opened {
    storage: Arc<dyn Storage>,
    heads: Vec<Head>,
    image: Arc<Image>,
}

fn check_opened(
    opened: &Opened,
    beside: &LogBesideImage,
    options: &CheckOptions,
    observer: &dyn CheckObserver,
    mut findings: Findings,
    mut report: CheckReport,
) -> Result<CheckReport, CheckError> {
    let Opened { storage, heads, image } = opened;
    head::check_roots(storage, heads, &mut findings)?;
    let newest = heads.first().unwrap_or(image.head());
    report.bytes = newest.log_end.0;
    report.readable = true;
    let check = Check {
        image,
        options,
        observer,
        done: AtomicU64::new(0),
        total: image.head().log_end.0.saturating_sub(crate::format::limits::LOG_START),
    };

    let trees = trees::check(&check, &mut findings, &mut report)?;
    let mut map = known::Map::read(&check, &trees, &mut findings)?;
    let known = known::Known::new(heads, &map, &trees);
    let mut clear = clear::Clear::default();
    let frames = frames::check(&check, &known, &trees, &mut map, &mut clear, &mut findings)?;
    report.frames = frames.len() as u64;
    clear.settle();
    clear::compare_with_map(&check, &map, &mut clear, &trees, &mut findings)?;
    data::check(&check, &frames, &map, &clear, &trees, &mut findings, &mut report)?;
    namespace::check(&check, &map, &trees, &mut findings, &mut report)?;
    let log = log_beside(&check, opened, beside, &mut report)?;
    let image_log = LogReader::new(storage.clone(), newest.log_id, newest.log_end.0)?;
    report.missing = frames::check_length(&image_log, After::of(newest, Some(&log)), &mut findings)?;
    report.superchunks += log.superchunks;
    report.superchunks_read += log.superchunks;
    report.subchunks_verified += log.verified;
    report.subchunks_lost += log.lost;
    thawed::check(&check, &trees, log.state, &mut findings, &mut report)?;
    shares::check(&check, &trees, &mut findings)?;
    report.paths_incomplete = snapshots::check(&check, &map, &mut findings)?;
    report.paths_incomplete |= paths::resolve(&check, &mut findings)? | log.incomplete;
    if log.state == LogState::Read {
        report.thawed = log.thawed;
        report.transactions = Some(log.transactions);
    }
    for finding in log.findings {
        findings.add(finding);
    }
    Ok(finish(report, findings))
}

/// Checks the log beside an image, as far as that is possible.
fn log_beside(
    check: &Check<'_>,
    opened: &Opened,
    beside: &LogBesideImage,
    report: &mut CheckReport,
) -> Result<LogChecked, CheckError> {
    let Opened { storage, heads, image } = opened;
    let (folder, writer) = match beside {
        LogBesideImage::Unknown => return Ok(LogChecked::unknown(image.head(), None)),
        LogBesideImage::Closed(why) => return Ok(LogChecked::unknown(image.head(), Some(why))),
        LogBesideImage::Writer(who) => return Ok(LogChecked::written(who)),
        LogBesideImage::None => return Ok(LogChecked::missing(image.head(), "the thaw log is missing")),
        LogBesideImage::Folder { folder, writer } => (folder, writer),
    };
    let checked = thaw_log::check(check, image, folder, storage, heads);
    // A process that began to write meanwhile holds the lock, or has ended. It changes the heads before the log.
    if let Some(who) = writer() {
        report.writer = Some(who.clone());
        return Ok(LogChecked::written(&who));
    }
    if head::check(&**storage, &mut Findings::default())? != *heads {
        return Err(CheckError::Changing);
    }
    checked
}

fn finish(mut report: CheckReport, findings: Findings) -> CheckReport {
    report.findings = findings.list;
    report.suppressed = findings.suppressed;
    report
}
