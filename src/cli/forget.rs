//! `floe mount --forget-thaw`: gives a thaw log up that is missing or damaged, and lists the files that lose bytes with it.

use super::open::shown;
use super::sentence::unless_unread;
use super::size::{Human, counted};
use super::walk::Walk;
use super::{escape, output, tell, time};
use crate::format::ids::InodeId;
use crate::fs::forget::{Forgotten, forget};
use crate::fs::{Fs, FsOptions};
use crate::meta::{Image, ImageOptions};
use crate::storage::{LogHome, Storage};
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Gives up the thaw log of an image and tells people about it. Call it if the image cannot be written otherwise.
///
/// # Errors
/// Fails if the log cannot be given up; it may be tried again.
pub fn forget_thaw_log(path: &Path, storage: &Arc<dyn Storage>, home: &Arc<dyn LogHome>) -> anyhow::Result<()> {
    let what = || format!("cannot give up the thaw log of '{}'", shown(path));
    let forgotten = forget(storage, home, ImageOptions::default(), time::now()).with_context(what)?;
    let image = Image::open(Arc::clone(storage), ImageOptions::default()).with_context(what)?;
    tell(path, &Fs::new(Arc::new(image), FsOptions { readahead: 0, ..FsOptions::default() }), &forgotten)
}

fn tell(path: &Path, fs: &Fs, forgotten: &Forgotten) -> anyhow::Result<()> {
    let mut lost: BTreeMap<InodeId, (u64, u64)> = BTreeMap::new();
    for range in &forgotten.ranges {
        let (ranges, bytes) = lost.entry(range.inode).or_default();
        (*ranges, *bytes) = (ranges.saturating_add(1), bytes.saturating_add(range.len));
    }
    let bytes = lost.values().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    tell::warning(format_args!(
        "the thaw log of '{}' is given up: {} of {} are lost, and whatever was written after the last checkpoint",
        shown(path),
        Human(bytes),
        counted(lost.len() as u64, "file"),
    ));
    if let Some(aside) = &forgotten.set_aside {
        tell::note(format_args!("what was there is now '{}'", shown(Path::new(aside))));
    }
    // The log is given up, and what was asked for goes on, whether somebody reads the list or not.
    unless_unread(list(fs, lost))
}

/// Lists the files that lose bytes, each with the number of its ranges and the bytes that it loses.
fn list(fs: &Fs, lost: BTreeMap<InodeId, (u64, u64)>) -> anyhow::Result<()> {
    // Without a thread or a mount yet, so standard output is the caller's.
    let mut out = output::stdout();
    let mut left = lost.clone();
    Walk::new(fs).below(InodeId::ROOT, b"", &mut |name, attr| {
        if let Some((ranges, bytes)) = lost.get(&attr.inode) {
            left.remove(&attr.inode);
            writeln!(out, "{}  ({} in {})", escape::shown(name), Human(*bytes), counted(*ranges, "range"))?;
        }
        Ok(true)
    })?;
    for (inode, (ranges, bytes)) in left {
        writeln!(out, "<inode {}>  ({} in {})", inode.0, Human(bytes), counted(ranges, "range"))?;
    }
    out.flush()?;
    Ok(())
}
