//! `floe check`: everything that is wrong with an image, and which files that hits. Never writes.

use super::args::{ImageArg, Place, Resources};
use super::open::{self, not_an_image, open_storage, shown};
use super::progress::{Progress, Step};
use super::size::{Human, counted};
use super::{Context, Exit, escape, output, signals, size};
use crate::care::{self, CheckError, CheckObserver, CheckOptions, CheckReport, Finding, LogBesideImage, Subset};
use crate::storage::{DirectoryFolder, FileStorage};
use anyhow::Context as _;
use serde::Serialize;
use std::io::{self, Write};
use std::sync::Arc;

const EXAMPLES: &str = "\
Without options everything is read and verified. The N-th of M parts is the same one each \
time, so 1/7, 2/7 and so on, one a day, cover all of the image in a week. The thaw log beside the image (IMAGE.thaw) is verified, too, always as a whole. While \
somebody writes the image, its last checkpoint is checked, and not the log.

Examples:
  floe check photos.floe
  floe check --quick photos.floe                     all metadata, no data
  floe check --read-data-subset 5% photos.floe       all metadata, and a sample of the data
  floe check --json photos.floe | jq '.findings[].paths[].path'

Exit status: 0 no damage, 1 failed, 2 wrong usage, 3 damage was found, 10 no image, 130 interrupted.
";

/// Number of paths shown with a finding; `-v` shows all that are known.
const PATHS_SHOWN: usize = 10;

/// `floe check`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    image: ImageArg,
    /// Verify all metadata, but read no data
    #[arg(long)]
    quick: bool,
    /// Verify all metadata, but only a part of the data: the N-th of M parts, a percentage, or a number of bytes
    #[arg(long, value_name = "N/M|P%|SIZE", value_parser = subset, conflicts_with = "quick")]
    read_data_subset: Option<Subset>,
    #[command(flatten)]
    resources: Resources,
    /// Memory for the buffers of all threads
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size::parse, help_heading = "Resources")]
    memory: u64,
}

fn subset(text: &str) -> Result<Subset, String> {
    let wrong = || format!("'{text}' is no part of the data (like 1/7, 5% or 2G)");
    if let Some((part, of)) = text.split_once('/') {
        let (part, of) = part.parse().ok().zip(of.parse().ok()).ok_or_else(wrong)?;
        return if (1..=of).contains(&part) { Ok(Subset::Part { part, of }) } else { Err(wrong()) };
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.parse().map_err(|_| wrong())?;
        return if percent > 0.0 && percent <= 100.0 { Ok(Subset::Percent(percent)) } else { Err(wrong()) };
    }
    size::parse(text).map(Subset::Bytes).map_err(|_| wrong())
}

/// Runs `floe check`.
///
/// # Errors
/// Fails if there is no image, it cannot be read at all, or a signal came.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let place = args.image.resolve()?;
    let path = &place.path;
    let (storage, _lock) = open_storage(&place)?;
    let options = CheckOptions {
        quick: args.quick,
        subset: args.read_data_subset.unwrap_or(Subset::All),
        jobs: args.resources.jobs(),
        memory: args.memory,
    };
    let observer = Observer(Progress::new(context, false, "checking"));
    signals::watch();
    let beside = log_beside(&place, &storage);
    let checked = care::check_with_log(storage, &beside, &options, &observer);
    observer.0.finish();
    let report = match checked {
        Err(CheckError::NotAnImage) => return Err(not_an_image(path, place.offset)),
        Err(error @ CheckError::Cancelled) => return Err(error.into()),
        checked => checked.with_context(|| format!("cannot check '{}'", shown(path)))?,
    };
    if context.json {
        output::document(&Document::new(shown(path).into_owned(), &report))?;
    } else {
        let mut out = output::stdout();
        output::whoever_reads(print(&report, context, &mut out).and_then(|()| out.flush()))?;
    }
    Ok(if report.damaged() { Exit::Findings } else { Exit::Done })
}

fn log_beside(place: &Place, storage: &Arc<FileStorage>) -> LogBesideImage {
    if let Some(writer) = open::writer(place, storage) {
        return LogBesideImage::Writer(writer.to_string());
    }
    let folder = match open::thaw_log(place) {
        Ok(None) => return LogBesideImage::None,
        Ok(Some(log)) => DirectoryFolder::open_read_only(&log.directory),
        Err(error) => Err(error),
    };
    match folder {
        Ok(folder) => {
            let (place, storage) = (place.clone(), Arc::clone(storage));
            let writer = Arc::new(move || open::writer(&place, &storage).map(|writer| writer.to_string()));
            LogBesideImage::Folder { folder: Arc::new(folder), writer }
        }
        Err(error) => LogBesideImage::Closed(error.to_string()),
    }
}

struct Observer(Progress);

impl CheckObserver for Observer {
    fn progress(&self, done: u64, total: u64) {
        self.0.step(Step { bytes: done, total, ..Step::default() });
    }

    fn cancelled(&self) -> bool {
        signals::interrupted()
    }
}

fn print(report: &CheckReport, context: &Context, out: &mut dyn Write) -> io::Result<()> {
    if report.missing > 0 {
        // The cause, before all that follows from it.
        writeln!(
            out,
            "the file is cut short: {} of {} are missing at its end (was it copied or downloaded completely?)",
            Human(report.missing),
            Human(report.bytes)
        )?;
    }
    for finding in &report.findings {
        writeln!(out, "{}: {}", finding.severity.name(), escape::shown(finding.message.as_bytes()))?;
        let shown = if context.verbose > 0 { usize::MAX } else { PATHS_SHOWN };
        for path in finding.paths.iter().take(shown) {
            writeln!(out, "  {}", escape::shown(path))?;
        }
        let left = finding.paths.len().saturating_sub(shown) as u64 + finding.more_paths;
        if left > 0 {
            writeln!(out, "  and {left} more")?;
        }
    }
    if report.suppressed > 0 {
        writeln!(out, "and {} more findings", report.suppressed)?;
    }
    if report.paths_incomplete {
        writeln!(out, "more files are hit than are named here")?;
    }
    for (what, thawed) in [("in the thaw log", report.thawed.in_log), ("lost", report.thawed.lost)] {
        if thawed.ranges > 0 && !context.quiet {
            writeln!(out, "{what}: {} in {}", Human(thawed.bytes), counted(thawed.ranges, "range"))?;
        }
    }
    if let Some(last) = report.transactions.filter(|_| !context.quiet) {
        writeln!(out, "thaw log: verified, with all written bytes, up to transaction {last}")?;
    }
    if !context.quiet {
        let lost = match report.subchunks_lost {
            0 => String::new(),
            1 => ", 1 is lost".to_owned(),
            many => format!(", {many} are lost"),
        };
        writeln!(
            out,
            "{}: {} in {} frames, {} table blocks, {} inodes, {} names; read {} of {} superchunks, verified {}{lost}",
            verdict(report),
            Human(report.bytes),
            report.frames,
            report.table_blocks,
            report.inodes,
            report.names,
            report.superchunks_read,
            report.superchunks,
            counted(report.subchunks_verified, "subchunk"),
        )?;
    }
    Ok(())
}

/// Returns the verdict: what was found, and in which part of the image.
fn verdict(report: &CheckReport) -> &'static str {
    match (report.damaged(), report.superchunks_read) {
        (true, _) => "damaged",
        (false, read) if read == report.superchunks => "no damage",
        (false, 0) => "no damage in the metadata; the data was not read",
        (false, _) => "no damage in what was read, which is not all of the data",
    }
}

#[derive(Serialize)]
struct Document<'a> {
    image: String,
    damaged: bool,
    readable: bool,
    findings: Vec<FindingShown<'a>>,
    findings_suppressed: u64,
    paths_incomplete: bool,
    /// Number of bytes that are missing at the end of the file.
    missing_bytes: u64,
    bytes: u64,
    frames: u64,
    table_blocks: u64,
    inodes: u64,
    names: u64,
    superchunks: u64,
    superchunks_read: u64,
    subchunks_verified: u64,
    subchunks_lost: u64,
    thawed: output::Thawed,
    /// The process that writes the image, if there is one: then only the last checkpoint was checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    writer: Option<&'a str>,
    /// Number of the thaw log's last transaction, if the log was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    transactions: Option<u64>,
}

#[derive(Serialize)]
struct FindingShown<'a> {
    kind: &'static str,
    severity: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    superchunk: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subchunks: Option<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<&'static str>,
    paths: Vec<output::Name>,
    more_paths: u64,
}

impl<'a> Document<'a> {
    fn new(image: String, report: &'a CheckReport) -> Self {
        Document {
            image,
            damaged: report.damaged(),
            readable: report.readable,
            findings: report.findings.iter().map(FindingShown::new).collect(),
            findings_suppressed: report.suppressed,
            paths_incomplete: report.paths_incomplete,
            missing_bytes: report.missing,
            bytes: report.bytes,
            frames: report.frames,
            table_blocks: report.table_blocks,
            inodes: report.inodes,
            names: report.names,
            superchunks: report.superchunks,
            superchunks_read: report.superchunks_read,
            subchunks_verified: report.subchunks_verified,
            subchunks_lost: report.subchunks_lost,
            thawed: output::Thawed::new(&report.thawed),
            writer: report.writer.as_deref(),
            transactions: report.transactions,
        }
    }
}

impl<'a> FindingShown<'a> {
    fn new(finding: &'a Finding) -> Self {
        FindingShown {
            kind: finding.kind.name(),
            severity: finding.severity.name(),
            message: &finding.message,
            offset: finding.offset,
            superchunk: finding.superchunk,
            subchunks: finding.subchunks,
            table: finding.table,
            paths: finding.paths.iter().map(|path| output::Name::new(path)).collect(),
            more_paths: finding.more_paths,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_data_is_a_fraction_a_percentage_or_a_size() {
        assert_eq!(subset("1/7"), Ok(Subset::Part { part: 1, of: 7 }));
        assert_eq!(subset("2.5%"), Ok(Subset::Percent(2.5)));
        assert_eq!(subset("2G"), Ok(Subset::Bytes(2 << 30)));
        for wrong in ["", "0/7", "8/7", "1/0", "1/2/3", "0%", "101%", "NaN%", "-1%", "%", "x"] {
            assert!(subset(wrong).is_err(), "{wrong}");
        }
    }
}
