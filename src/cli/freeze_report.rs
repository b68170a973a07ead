//! What a freeze did, or would do, as people and programs are told of it.
//!
//! Called by `freeze` for an image and by `freeze_mount` for a mount.

use super::progress::{Progress, clock, rate};
use super::size::{Human, counted};
use super::{Context, Exit, output, tell};
use crate::fs::{FreezeReport, FreezerStatus};
use anyhow::anyhow;
use serde::Serialize;
use std::io;
use std::time::Duration;

/// Result of a freeze, to be shown to people or programs.
pub struct Done {
    /// Figures of the freeze.
    pub report: FreezeReport,
    /// Whether the image alone is complete now.
    pub is_complete: bool,
    /// Duration of the freeze.
    pub elapsed: Duration,
}

#[derive(Serialize)]
struct Summary {
    files: u64,
    bytes: u64,
    frozen_bytes: u64,
    new_bytes: u64,
    stored_bytes: u64,
    shared_bytes: u64,
    superchunks: u64,
    repacked: u64,
    repacked_saved_bytes: u64,
    dropped_files: u64,
    failed_files: u64,
    left_bytes: u64,
    complete: bool,
    seconds: f64,
}

impl Done {
    /// Prints the result for people or programs.
    ///
    /// # Errors
    /// Fails if standard output cannot be written.
    pub fn tell(&self, progress: &Progress) -> io::Result<()> {
        let report = &self.report;
        if progress.is_json() {
            let summary = Summary {
                files: report.files,
                bytes: report.bytes,
                frozen_bytes: report.frozen_bytes,
                new_bytes: report.new_bytes,
                stored_bytes: report.stored_bytes,
                shared_bytes: report.shared_bytes,
                superchunks: report.superchunks,
                repacked: report.repacked,
                repacked_saved_bytes: report.repacked_saved_bytes,
                dropped_files: report.dropped,
                failed_files: report.failed,
                left_bytes: report.left_bytes,
                complete: self.is_complete,
                seconds: self.elapsed.as_secs_f64(),
            };
            return output::line(&mut io::stdout(), "summary", &summary);
        }
        self.lines().iter().for_each(|line| progress.say(line));
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        let report = &self.report;
        if report.bytes == 0 && report.frozen_bytes == 0 && report.superchunks == 0 && report.repacked == 0 {
            return vec!["nothing to freeze: no bytes of files are in the thaw log".into()];
        }
        let mut first = format!(
            "froze {} of {} in {}",
            Human(report.frozen_bytes),
            counted(report.files, "file"),
            clock(self.elapsed)
        );
        if let Some(rate) = rate(report.frozen_bytes, self.elapsed) {
            first.push_str(&format!(", {rate}"));
        }
        let mut lines = vec![first];
        if report.new_bytes > 0 {
            lines.push(format!(
                "  new: {}, which take {} in the image ({:.2}:1), in {}",
                Human(report.new_bytes),
                Human(report.stored_bytes),
                report.new_bytes as f64 / report.stored_bytes.max(1) as f64,
                counted(report.superchunks, "superchunk")
            ));
        }
        if report.shared_bytes > 0 {
            lines.push(format!("  shared: {}, which the image has already", Human(report.shared_bytes)));
        }
        if report.repacked > 0 {
            lines.push(format!(
                "  packed again: {}, which take {} less ('floe gc' frees that)",
                counted(report.repacked, "superchunk"),
                Human(report.repacked_saved_bytes)
            ));
        }
        if report.left_bytes > 0 {
            let why = match (report.failed, report.dropped) {
                (0, 0) => "written meanwhile".to_owned(),
                (0, files) => format!("{} changed meanwhile", counted(files, "file")),
                (files, _) => format!("{} cannot be read ('floe check' says why)", counted(files, "file")),
            };
            lines.push(format!("  left in the thaw log: {}: {why}", Human(report.left_bytes)));
        }
        lines
    }

    /// Returns the exit status.
    pub fn exit(&self) -> Exit {
        if self.report.failed > 0 { Exit::Findings } else { Exit::Done }
    }
}

#[derive(Serialize)]
struct Survey {
    dry_run: bool,
    files: u64,
    bytes: u64,
}

/// Prints what would be frozen.
///
/// # Errors
/// Fails if standard output cannot be written.
pub fn tell_survey(found: &FreezerStatus, json: bool) -> io::Result<()> {
    let (files, bytes) = (found.queue_files, found.queue_bytes);
    if json {
        return output::line(&mut io::stdout(), "summary", &Survey { dry_run: true, files, bytes });
    }
    tell::line(&format!("{} of {} would be frozen", Human(bytes), counted(files, "file")));
    Ok(())
}

/// Prints that a read-only mount has nothing to freeze.
pub fn nothing_to_freeze(named: &str, context: &Context) -> anyhow::Result<Exit> {
    if context.json {
        let done = Done { report: FreezeReport::default(), is_complete: true, elapsed: Duration::ZERO };
        done.tell(&Progress::new(context, true, ""))?;
    } else {
        tell::note(format_args!("'{named}' is mounted read-only: there is nothing to freeze"));
    }
    Ok(Exit::Done)
}

/// Makes the error for a mount that may not be asked to freeze.
pub fn refused(errno: rustix::io::Errno) -> anyhow::Error {
    use rustix::io::Errno;
    match errno {
        Errno::PERM | Errno::ACCESS => anyhow!("only who mounted it, and root, may have it frozen"),
        Errno::OPNOTSUPP => anyhow!(
            "the mount does not know how: it is a part of one ('mount --bind'), or its daemon is that of an earlier version"
        ),
        errno => anyhow!(std::io::Error::from(errno)).context("the mount cannot be asked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(report: FreezeReport) -> Vec<String> {
        Done { report, is_complete: true, elapsed: Duration::from_secs(2) }.lines()
    }

    #[test]
    fn the_report_says_what_is_new_what_was_there_and_what_is_left_and_why() {
        let report = FreezeReport {
            files: 2,
            bytes: 5 << 20,
            frozen_bytes: 4 << 20,
            new_bytes: 3 << 20,
            stored_bytes: 1 << 20,
            shared_bytes: 1 << 20,
            superchunks: 1,
            repacked: 2,
            repacked_saved_bytes: 1 << 20,
            left_bytes: 1 << 20,
            ..FreezeReport::default()
        };
        assert_eq!(
            lines(report),
            [
                "froze 4.00 MiB of 2 files in 0:02, 2.00 MiB/s",
                "  new: 3.00 MiB, which take 1.00 MiB in the image (3.00:1), in 1 superchunk",
                "  shared: 1.00 MiB, which the image has already",
                "  packed again: 2 superchunks, which take 1.00 MiB less ('floe gc' frees that)",
                "  left in the thaw log: 1.00 MiB: written meanwhile",
            ]
        );
        let few = FreezeReport { files: 1, bytes: 11, frozen_bytes: 11, ..FreezeReport::default() };
        assert_eq!(lines(few), ["froze 11 B of 1 file in 0:02"]);
        let failed = FreezeReport { failed: 1, ..report };
        assert!(lines(failed).last().is_some_and(|line| line.contains("1 file cannot be read")));
        assert_eq!(Done { report: failed, is_complete: false, elapsed: Duration::ZERO }.exit(), Exit::Findings);
        assert!(lines(FreezeReport::default())[0].starts_with("nothing to freeze"));
    }
}
