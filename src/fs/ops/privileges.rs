//! What a file loses when somebody writes to it or changes its owner: setuid, setgid and file capabilities.

use super::sets;
use crate::format::rows::{FileType, InodeRow};
use crate::fs::FsError;
use crate::fs::draft::Draft;

const SETUID: u16 = 0o4000;
pub(super) const SETGID: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o010;
/// Name of the xattr with the capabilities that a program has when it runs.
const CAPABILITIES: &[u8] = b"security.capability";

/// Clears setuid, setgid and capabilities of a file (`setattr_should_drop_suidgid` in Linux). Setgid without execute
/// permission for the group is no privilege and stays; directories keep everything.
pub(super) fn clear(draft: &mut Draft, row: &mut InodeRow) -> Result<(), FsError> {
    if row.file_type == FileType::Directory {
        return Ok(());
    }
    row.permissions &= !SETUID;
    if row.permissions & (SETGID | GROUP_EXECUTE) == SETGID | GROUP_EXECUTE {
        row.permissions &= !SETGID;
    }
    sets::remove(draft, row, CAPABILITIES).map(|_| ())
}
