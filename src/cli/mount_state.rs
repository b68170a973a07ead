//! The mount of floe that a directory lies in, and what it says of itself (`user.floe.state`).
//!
//! Called by `freeze`, `gc_mount` and `sync`.

use super::Exit;
use super::sentence::told;
use crate::fs::FreezeReport;
use crate::fuse::{self, Mount, STATE_XATTR};
use anyhow::{Context as _, anyhow};
use rustix::io::Errno;
use std::collections::HashMap;
use std::path::Path;

/// Most bytes of a mount's state that are read.
const STATE_LEN: usize = 64 << 10;

/// Returns the innermost mount that holds `path` (absolute, without links), if it is one of floe.
///
/// # Errors
/// Fails if /proc is not mounted.
pub fn mount_of(path: &Path) -> anyhow::Result<Option<Mount>> {
    for dir in path.ancestors() {
        if let Some(mount) = fuse::mounted_on(dir)? {
            let is_floe = mount.is_floe() || fuse::mark::Daemon::of(&mount)?.is_some();
            return Ok(is_floe.then_some(mount));
        }
    }
    Ok(None)
}

/// Returns the mount of floe that a directory is in.
///
/// # Errors
/// Fails if it is in none, or cannot be examined.
pub fn mount_of_directory(dir: &Path) -> anyhow::Result<Mount> {
    let real = dir.canonicalize()?;
    mount_of(&real)?.ok_or_else(|| told(Exit::Failed, "it is in no mount of floe"))
}

/// The state of a writable mount at one moment: a name and a value on each line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountState(HashMap<String, String>);

impl MountState {
    /// Reads the state of the mount on `point`. Returns `None` if the mount is read-only and has no such state.
    ///
    /// # Errors
    /// Fails if its daemon has ended, or does not answer.
    pub fn of(point: &Path) -> anyhow::Result<Option<Self>> {
        let mut text = vec![0; STATE_LEN];
        match rustix::fs::getxattr(point, STATE_XATTR, &mut text) {
            Ok(len) => Ok(Some(Self::parse(&String::from_utf8_lossy(text.get(..len).unwrap_or_default())))),
            Err(Errno::NODATA) => Ok(None),
            Err(Errno::NOTCONN) => {
                Err(anyhow!("its daemon has died ('floe umount' takes away what is left of the mount)"))
            }
            Err(errno) => Err(std::io::Error::from(errno)).context("it cannot be asked"),
        }
    }

    /// Parses the text of a mount's state.
    pub fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        MountState(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Returns the value in the line that begins with `name`; `None` if there is no such line or its value is `-`.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| *value != "-")
    }

    /// Returns the number in the line that begins with `name`; `None` if there is no such line or no number in it.
    pub fn maybe(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// Returns the number in the line that begins with `name`; 0 if there is no such line or no number in it.
    pub fn number(&self, name: &str) -> u64 {
        self.maybe(name).unwrap_or(0)
    }

    /// Returns the report of the last freeze that somebody asked for, if there was one.
    pub fn last(&self) -> Option<FreezeReport> {
        self.report("last")
    }

    /// Returns the sum of the reports of all freezes of the mount.
    pub fn all(&self) -> FreezeReport {
        self.report("all").unwrap_or_default()
    }

    fn report(&self, of: &str) -> Option<FreezeReport> {
        let number = |name: &str| self.number(&format!("{of}_{name}"));
        Some(FreezeReport {
            files: self.maybe(&format!("{of}_files"))?,
            bytes: number("bytes"),
            frozen_bytes: number("frozen_bytes"),
            new_bytes: number("new_bytes"),
            stored_bytes: number("stored_bytes"),
            shared_bytes: number("shared_bytes"),
            superchunks: number("superchunks"),
            repacked: number("repacked"),
            repacked_saved_bytes: number("repacked_saved_bytes"),
            dropped: number("dropped"),
            failed: number("failed"),
            left_bytes: number("left_bytes"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_names_and_values_and_a_dash_is_none() {
        let state = MountState::parse("rate 12\nlevel -\nfailed no space left\nlast_files 3\nlast_bytes 7\n");
        assert_eq!((state.number("rate"), state.maybe("level"), state.number("missing")), (12, None, 0));
        assert_eq!(state.text("failed"), Some("no space left"));
        assert_eq!(state.last(), Some(FreezeReport { files: 3, bytes: 7, ..FreezeReport::default() }));
        assert_eq!(MountState::parse("rate 12\n").last(), None);
    }
}
