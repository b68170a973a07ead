//! The end of writing to an image, as people are told of it.
//!
//! Called by `serve` when a mount ends, and by `freeze` for an image that is not mounted.

use super::open::shown;
use super::sentence::sentence;
use super::size::{Human, counted};
use crate::fs::{Finished, FreezerStatus, Live};
use crate::fuse::mark::Outcome;
use anyhow::Context as _;
use std::path::Path;
use std::time::Duration;

/// Result of ending the writing of an image.
pub struct Ended {
    /// The state of the image and its thaw log, or the error.
    pub result: anyhow::Result<Finished>,
    named: String,
    left: FreezerStatus,
}

impl Ended {
    /// Ends the writing of an image. The bytes in the thaw log are frozen for at most `limit`; the rest stays there.
    pub fn of(live: &Live, path: &Path, limit: Duration) -> Self {
        let named = shown(path).into_owned();
        let result = live.end(limit).with_context(|| format!("the end of writing '{named}' failed"));
        Ended { result, named, left: live.freezer_status() }
    }

    /// Returns the message for people; it is empty if the image is complete and its thaw log gone.
    pub fn outcome(&self) -> Outcome {
        match &self.result {
            Ok(Finished::Untouched | Finished::Removed) => Outcome::Done(String::new()),
            Ok(Finished::Left { place, why }) => Outcome::Done(format!(
                "the image is complete; its empty thaw log '{place}' could not be removed: {why}"
            )),
            Ok(Finished::Kept { bytes, place }) => Outcome::Done(self.kept(*bytes, place)),
            Err(error) => Outcome::Failed(sentence(error)),
        }
    }

    fn kept(&self, log_bytes: u64, place: &str) -> String {
        let FreezerStatus { queue_bytes, queue_files, failed_files, .. } = self.left;
        let named = &self.named;
        if queue_bytes == 0 {
            return format!(
                "the image alone is not complete: its thaw log '{place}' has {}; keep both together, or run \
                 'floe freeze {named}'",
                Human(log_bytes)
            );
        }
        let bytes = format!("{} of {}", Human(queue_bytes), counted(queue_files, "file"));
        let what = match failed_files {
            0 => format!("keep both together, or run 'floe freeze {named}'"),
            _ => format!(
                "{} cannot be frozen, for bytes in the log cannot be read: see 'floe check {named}', and keep both together",
                counted(failed_files, "file")
            ),
        };
        format!("the image alone is not complete: {bytes} stay in its thaw log '{place}'; {what}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(left: FreezerStatus) -> String {
        let result = Ok(Finished::Kept { bytes: 4096, place: "/a.floe.thaw".into() });
        match (Ended { result, named: "/a.floe".into(), left }).outcome() {
            Outcome::Done(text) => text,
            Outcome::Failed(why) => panic!("{why}"),
        }
    }

    #[test]
    fn what_stays_in_the_log_is_counted_and_the_command_that_freezes_it_is_named() {
        let left = FreezerStatus { queue_bytes: 2048, queue_files: 2, ..FreezerStatus::default() };
        let text = told(left.clone());
        for part in ["2.00 KiB of 2 files stay in its thaw log '/a.floe.thaw'", "run 'floe freeze /a.floe'"] {
            assert!(text.contains(part), "{text}");
        }
        let text = told(FreezerStatus { failed_files: 1, ..left });
        assert!(text.contains("1 file cannot be frozen") && text.contains("floe check /a.floe"), "{text}");
        let text = told(FreezerStatus::default());
        assert!(text.contains("has 4.00 KiB") && text.contains("run 'floe freeze /a.floe'"), "{text}");
    }

    #[test]
    fn a_complete_image_is_not_worth_a_word() {
        let ended = Ended { result: Ok(Finished::Removed), named: "a".into(), left: FreezerStatus::default() };
        assert_eq!(ended.outcome(), Outcome::Done(String::new()));
    }
}
