//! The thaw log beside an image: what the caller knows of it, and the result of checking it.

use super::report::{Finding, FindingKind, Severity};
use crate::format::head::Head;
use crate::meta::ThawedCount;
use crate::storage::Folder;
use std::sync::Arc;

/// What is known about an image's thaw log, so that it can be checked with the image.
#[derive(Clone, Default)]
pub enum LogBesideImage {
    /// Nothing. If the image may have a log, the report notes that the log was not checked.
    #[default]
    Unknown,
    /// This process writes the image, so only its last checkpoint can be checked.
    Writer(String),
    /// There is no log.
    None,
    /// The log is in this directory, and nobody writes.
    Folder {
        /// The directory.
        folder: Arc<dyn Folder>,
        /// Called after the check; returns who writes the image by then.
        writer: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    },
    /// There is a log, but it cannot be opened, for this reason.
    Closed(String),
}

/// The result of looking for a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum LogState {
    /// The log was not read, and may exist.
    #[default]
    Unknown,
    /// The log was read completely; other parts of the check need not report what it holds.
    Read,
    /// No log fits the image.
    Missing,
}

/// The findings in a log.
#[derive(Default)]
pub(super) struct LogChecked {
    /// The result of looking for it.
    pub(super) state: LogState,
    /// Damage and notes, with their paths.
    pub(super) findings: Vec<Finding>,
    /// Thawed ranges after replaying the log.
    pub(super) thawed: ThawedCount,
    /// Number of the last transaction in the thaw log; 0 if the log has none.
    pub(super) transactions: u64,
    /// End of the image's log as recorded by its last transaction; 0 if there is none.
    pub(super) image_end: u64,
    /// Superchunks frozen after the last checkpoint, if they were read.
    pub(super) superchunks: u64,
    /// Number of their subchunks whose content hashes match.
    pub(super) verified: u64,
    /// Number of their subchunks that are lost.
    pub(super) lost: u64,
    /// Whether more files are affected than are named.
    pub(super) incomplete: bool,
}

impl LogChecked {
    fn of(state: LogState, finding: Option<Finding>) -> Self {
        LogChecked { state, findings: finding.into_iter().collect(), ..LogChecked::default() }
    }

    /// Nobody looked at the log. The reason may be known.
    pub(super) fn unknown(head: &Head, why: Option<&str>) -> Self {
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let message = format!("the image is or was being written to: what its thaw log holds is not checked here{why}");
        let finding = Finding::new(FindingKind::Head, Severity::Note, message);
        Self::of(LogState::Unknown, is_open(head).then_some(finding))
    }

    /// This process writes the image.
    pub(super) fn written(who: &str) -> Self {
        let message = format!(
            "{who} writes the image: this is its last checkpoint; what was written since is in the thaw log, and is not \
             checked"
        );
        Self::of(LogState::Unknown, Some(about(Severity::Note, message)))
    }

    /// No log counts, for this reason.
    pub(super) fn missing(head: &Head, why: &str) -> Self {
        let message = format!("{why}: what was written after the last checkpoint is missing");
        Self::of(LogState::Missing, is_open(head).then(|| about(Severity::Note, message)))
    }

    /// Nothing in the log can be used.
    pub(super) fn damaged(message: String) -> Self {
        Self::of(LogState::Unknown, Some(about(Severity::Lost, message)))
    }
}

/// What follows the end of an image's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Frames up to this offset, according to the thaw log.
    Frames(u64),
    /// Unknown, because the thaw log was not read.
    Unknown,
}

impl After {
    /// Derives it from the result for the thaw log, if one was looked for.
    pub(super) fn of(head: &Head, log: Option<&LogChecked>) -> Self {
        match log {
            Some(log) if log.state != LogState::Unknown => After::Frames(log.image_end),
            _ if is_open(head) => After::Unknown,
            _ => After::Frames(0),
        }
    }
}

/// Whether the image has or should have a thaw log.
fn is_open(head: &Head) -> bool {
    !head.clean || head.thaw_log_id != 0
}

/// A finding about the thaw log.
pub(super) fn about(severity: Severity, message: String) -> Finding {
    Finding::new(FindingKind::ThawLog, severity, message)
}
