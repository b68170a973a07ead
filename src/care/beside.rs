//! The thaw log beside an image: what the caller knows of it, and the result of checking it.

use super::report::{Finding, FindingKind, Severity};
use crate::format::head::Head;
use crate::meta::ThawedCount;
use crate::storage::Folder;
use std::sync::Arc;

/// What is known about an image's thaw log, so that it can be checked with the image.
#[derive(Clone, Default)]
pub enum LogBesideImage {
    /// Nothing is known about a thaw log. If the image may have one, the report notes that it was not checked.
    #[default]
    Unknown,
    /// The process that this text names writes the image, so only its last checkpoint can be checked.
    Writer(String),
    /// The image has no thaw log.
    None,
    /// The thaw log is in this directory, and nobody writes to it.
    Folder {
        /// Directory of the log's segments.
        folder: Arc<dyn Folder>,
        /// Returns who writes the image, if somebody does. Called after the check, because a writer may have begun
        /// meanwhile.
        writer: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    },
    /// The image has a thaw log, but it cannot be opened, for this reason.
    Closed(String),
}

/// The result of looking for a thaw log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum LogState {
    /// The thaw log was not read, and may exist.
    #[default]
    Unknown,
    /// The thaw log was read completely; other parts of the check need not report what it holds.
    Read,
    /// No log fits the image.
    Missing,
}

/// Findings of the check of a thaw log.
#[derive(Default)]
pub(super) struct LogChecked {
    /// Whether the thaw log was found and read.
    pub(super) state: LogState,
    /// Damage and notes, with their paths.
    pub(super) findings: Vec<Finding>,
    /// Thawed ranges after replaying the thaw log.
    pub(super) thawed: ThawedCount,
    /// Number of the last transaction in the thaw log; 0 if the log has none.
    pub(super) transactions: u64,
    /// End of the image's log in bytes, as recorded by the thaw log's last transaction; 0 if there is none.
    pub(super) image_end: u64,
    /// Number of superchunks frozen after the last checkpoint, if they were read.
    pub(super) superchunks: u64,
    /// Number of subchunks frozen after the last checkpoint whose content hashes match.
    pub(super) verified: u64,
    /// Number of subchunks frozen after the last checkpoint that are lost.
    pub(super) lost: u64,
    /// Whether more files are affected than are named.
    pub(super) incomplete: bool,
}

impl LogChecked {
    fn of(state: LogState, finding: Option<Finding>) -> Self {
        LogChecked { state, findings: finding.into_iter().collect(), ..LogChecked::default() }
    }

    /// Makes the result for a thaw log that was not read, for the reason `why` if it is known.
    pub(super) fn unknown(head: &Head, why: Option<&str>) -> Self {
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let message = format!("the image is or was being written to: what its thaw log holds is not checked here{why}");
        let finding = Finding::new(FindingKind::Head, Severity::Note, message);
        Self::of(LogState::Unknown, is_open(head).then_some(finding))
    }

    /// Makes the result for an image that the process `who` writes.
    pub(super) fn written(who: &str) -> Self {
        let message = format!(
            "{who} writes the image: this is its last checkpoint; what was written since is in the thaw log, and is not \
             checked"
        );
        Self::of(LogState::Unknown, Some(about(Severity::Note, message)))
    }

    /// Makes the result for an image without a usable thaw log, for the reason `why`.
    pub(super) fn missing(head: &Head, why: &str) -> Self {
        let message = format!("{why}: what was written after the last checkpoint is missing");
        Self::of(LogState::Missing, is_open(head).then(|| about(Severity::Note, message)))
    }

    /// Makes the result for a thaw log of which nothing can be used.
    pub(super) fn damaged(message: String) -> Self {
        Self::of(LogState::Unknown, Some(about(Severity::Lost, message)))
    }
}

/// What may follow the end of an image's log that the head names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Frames follow, up to this offset, according to the thaw log.
    Frames(u64),
    /// It is unknown what follows, because the thaw log was not read.
    Unknown,
}

impl After {
    /// Says what may follow the end of the log, given the result `log` for the thaw log, if one was looked for.
    pub(super) fn of(head: &Head, log: Option<&LogChecked>) -> Self {
        match log {
            Some(log) if log.state != LogState::Unknown => After::Frames(log.image_end),
            _ if is_open(head) => After::Unknown,
            _ => After::Frames(0),
        }
    }
}

/// Returns whether the image has a thaw log, or should have one.
fn is_open(head: &Head) -> bool {
    !head.clean || head.thaw_log_id != 0
}

/// Makes a finding about the thaw log.
pub(super) fn about(severity: Severity, message: String) -> Finding {
    Finding::new(FindingKind::ThawLog, severity, message)
}
