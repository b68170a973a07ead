//! What is known of the thaw log beside an image, and what became of it in a check.

use super::report::{Finding, FindingKind, Severity};
use crate::format::head::Head;
use crate::meta::ThawedCount;
use crate::storage::Folder;
use std::sync::Arc;

/// What is known of an image's thaw log, to check it with the image.
#[derive(Clone, Default)]
pub enum LogBesideImage {
    /// Nothing: what is in a log is noted.
    #[default]
    Unknown,
    /// This one writes the image, so that only its last checkpoint can be checked.
    Writer(String),
    /// There is none.
    None,
    /// It is in this folder, and nobody writes.
    Folder {
        /// The folder.
        folder: Arc<dyn Folder>,
        /// Asked afterwards who writes by then.
        writer: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    },
    /// There is one, and it cannot be opened, for this reason.
    Closed(String),
}

/// What became of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum LogState {
    /// It was not read, and may be there.
    #[default]
    Unknown,
    /// It was read whole: nothing more is to be said of what it holds.
    Read,
    /// There is none that fits.
    Missing,
}

/// What was found in a log.
#[derive(Default)]
pub(super) struct LogChecked {
    /// What became of it.
    pub(super) state: LogState,
    /// What is wrong with it, and notes; with their paths.
    pub(super) findings: Vec<Finding>,
    /// Ranges as the log leaves them.
    pub(super) thawed: ThawedCount,
    /// Number of its last transaction; 0 if it has none.
    pub(super) transactions: u64,
    /// Up to where frames of the image count, by its last transaction; 0 if it has none.
    pub(super) image_end: u64,
    /// Superchunks that were frozen after the last checkpoint, where they were read.
    pub(super) superchunks: u64,
    /// Subchunks of those that have their identities.
    pub(super) verified: u64,
    /// Whether more files are hit than are named.
    pub(super) incomplete: bool,
}

impl LogChecked {
    fn of(state: LogState, finding: Option<Finding>) -> Self {
        LogChecked { state, findings: finding.into_iter().collect(), ..LogChecked::default() }
    }

    /// Nobody looked at it, for a reason that may be known.
    pub(super) fn unknown(head: &Head, why: Option<&str>) -> Self {
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let message = format!("the image is or was being written to: what its thaw log holds is not checked here{why}");
        let finding = Finding::new(FindingKind::Head, Severity::Note, message);
        Self::of(LogState::Unknown, is_open(head).then_some(finding))
    }

    /// This one writes to it.
    pub(super) fn written(who: &str) -> Self {
        let message = format!(
            "{who} writes the image: this is its last checkpoint; what was written since is in the thaw log, and is not \
             checked"
        );
        Self::of(LogState::Unknown, Some(about(Severity::Note, message)))
    }

    /// There is none that counts, for this reason.
    pub(super) fn missing(head: &Head, why: &str) -> Self {
        let message = format!("{why}: what was written after the last checkpoint is not there");
        Self::of(LogState::Missing, is_open(head).then(|| about(Severity::Note, message)))
    }

    /// Nothing of it can be used.
    pub(super) fn damaged(message: String) -> Self {
        Self::of(LogState::Unknown, Some(about(Severity::Lost, message)))
    }
}

/// What is after the end of an image's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Frames up to this offset, by the thaw log.
    Frames(u64),
    /// What a thaw log says that was not read.
    Unknown,
}

impl After {
    /// By what became of the thaw log, if one was looked for.
    pub(super) fn of(head: &Head, log: Option<&LogChecked>) -> Self {
        match log {
            Some(log) if log.state != LogState::Unknown => After::Frames(log.image_end),
            _ if is_open(head) => After::Unknown,
            _ => After::Frames(0),
        }
    }
}

/// Whether the image has, or should have, a thaw log.
fn is_open(head: &Head) -> bool {
    !head.clean || head.thaw_log_id != 0
}

/// A finding about the log.
pub(super) fn about(severity: Severity, message: String) -> Finding {
    Finding::new(FindingKind::ThawLog, severity, message)
}
