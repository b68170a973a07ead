//! From one version of an image to the next: what a checkpoint wrote becomes a root to read by.
//!
//! Invariant: versions of one image share storage, block caches, dictionary and how far frames can be read, and nothing else.
//! Blocks are cached by hash or place, so an old version stays readable beside the new one for as long as anybody holds it. Called by who ends a
//! checkpoint.

use super::open::Found;
use super::{Image, MetaError};
use crate::format::FormatError;
use crate::format::head::Head;
use crate::format::root::Root;
use std::sync::Arc;

impl Image {
    /// The version that `head` names, whose root is `root`. Reads nothing but the length of the storage. What it has in the
    /// log, the version that it follows can read, too.
    ///
    /// # Errors
    /// `Unfit` if no writer may go on from this version, or the head is of another image; `Format` if the root is not the
    /// one that the head names; `CutShort` if the storage ends before the head's log does.
    pub fn successor(&self, head: Head, root: Root) -> Result<Image, MetaError> {
        if let Some(why) = self.doubts().first() {
            return Err(MetaError::Unfit { why: why.clone() });
        }
        let old = self.head();
        if (head.uuid, head.lineage, head.log_id) != (old.uuid, old.lineage, old.log_id) {
            return Err(MetaError::Unfit { why: "its new head is that of another image".to_owned() });
        }
        if head.params != root.params || root.params != self.root().params {
            return Err(MetaError::Unfit { why: "its parameters would change".to_owned() });
        }
        if root.encode().1 != head.root_hash {
            return Err(FormatError::Hash { what: "root" }.into());
        }
        let storage = self.log().storage();
        let (log_end, len) = (head.log_end.0, storage.len()?);
        if log_end > len {
            return Err(MetaError::CutShort { log_end, len });
        }
        let log = self.log().up_to(log_end)?;
        let found = Found { head, root, log, warnings: Vec::new(), doubts: Vec::new() };
        Ok(Image::version(found, Arc::clone(&self.shared)))
    }

    /// Frames of the log up to `end` are whole and synced: every version of the image may read them by their places from now
    /// on, though no root has them yet. Of several ends the furthest counts.
    pub fn raise_end(&self, end: u64) {
        self.log().raise(end);
    }
}
