//! Makes the next version of an image from the root that a checkpoint wrote.
//!
//! Invariant: versions of one image share only storage, block caches, dictionary and the offset up to which frames can
//! be read. Blocks are cached by hash or place, so an old version stays readable as long as somebody holds it. Called
//! by fs at the end of a checkpoint.

use super::open::Found;
use super::{Image, MetaError};
use crate::format::FormatError;
use crate::format::head::Head;
use crate::format::root::Root;
use std::sync::Arc;

impl Image {
    /// Returns the version that `head` names, with the root `root`. Reads only the length of the storage. The older
    /// version (`self`) can then read the new frames of the log, too.
    ///
    /// # Errors
    /// Returns `Unfit` if `self` must not be written to, or if the head is of another image or the parameters
    /// differ; `Format` if the head names another root; `CutShort` if the storage ends before the head's log does.
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

    /// Records that frames of the log up to offset `end` are complete and synced. Every version of the image may then
    /// read them by their places, though no root names them yet. The highest `end` counts.
    pub fn raise_end(&self, end: u64) {
        self.log().raise(end);
    }
}
