//! Handles of files, and how the kernel should treat a file that was opened. Pure. Called by `writing`.

use fuser::{FileHandle, FopenFlags};

/// Handle of a file that is open for reading only. Handles only say whether writing is allowed through them.
const READING: FileHandle = FileHandle(1);
pub(super) const WRITING: FileHandle = FileHandle(2);

/// Returns whether a file is opened for writing.
pub(super) fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// Returns how the kernel should treat a file that was opened. Its cached pages stay: nothing else changes them. For a
/// handle that only reads, no flush is needed: closing it cannot fail.
pub(super) fn opened(flags: i32) -> (FileHandle, FopenFlags) {
    match writes(flags) {
        true => (WRITING, FopenFlags::FOPEN_KEEP_CACHE),
        false => (READING, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
    }
}
