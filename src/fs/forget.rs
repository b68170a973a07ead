//! Gives up a thaw log that is missing or damaged. What was only in it is lost, and the image records that.
//!
//! A checkpoint turns each range in the log into a lost one before a new log may begin. Reading such a range is an
//! error until it is overwritten, truncated or punched. Changes that no checkpoint contains are gone. Called by cli
//! when the user asks for it.

use super::begin::{open_log, raise_epoch};
use super::start::{StartError, look};
use crate::format::block::{KeyRef, Row};
use crate::format::ids::{InodeId, LogOffset};
use crate::format::rows::{ThawedBytes, ThawedRow, Time};
use crate::format::schema;
use crate::meta::{CheckpointInput, Heads, Image, ImageOptions, Overlay, ThawMark, write_checkpoint};
use crate::storage::{LogHome, Storage};
use crate::thaw::replay::Replayed;
use std::sync::Arc;

/// A range of a file whose written bytes are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostRange {
    /// Inode number of the file.
    pub inode: InodeId,
    /// Offset in the file of the range's first byte.
    pub offset: u64,
    /// Length of the range in bytes.
    pub len: u64,
}

/// What was lost when a thaw log was given up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// The lost ranges, by inode and offset.
    pub ranges: Vec<LostRange>,
    /// New name of the thaw log, if there was one.
    pub set_aside: Option<String>,
}

/// Gives up the thaw log of the image in `storage` if it is missing or damaged. If the log belongs to the image and is
/// whole, it is kept and nothing is written. `time` is the present time. An existing log is set aside.
///
/// # Errors
/// Fails with a [`StartError`]. The call may be repeated.
pub fn forget(
    storage: &Arc<dyn Storage>,
    home: &Arc<dyn LogHome>,
    options: ImageOptions,
    time: Time,
) -> Result<Forgotten, StartError> {
    match look(Arc::clone(storage), Arc::clone(home), options) {
        Ok(_) => return Ok(Forgotten::default()),
        Err(error) if error.can_forget() => {}
        Err(error) => return Err(error),
    }
    // `look` found that the image and its heads can be written.
    let mut heads = Heads::read(Arc::clone(storage))?;
    let image = Image::open(Arc::clone(storage), options)?;
    let (changes, ranges) = lose(&image)?;
    let newest = heads.newest();
    let (clean, thaw_log_id) = (newest.clean, newest.thaw_log_id);
    let epoch = raise_epoch(&mut heads, Some(thaw_log_id).filter(|_| !clean))?;
    let mut log = open_log(storage, heads.newest(), epoch, 0)?;
    let root = image.root();
    let replayed = Replayed::nothing(&image);
    //= format-spec.md#11.6
    //# Before a writer begins a new log in place of a missing one, it makes each of these rows a lost one (8.9), in a
    //# checkpoint.
    let written = write_checkpoint(
        &mut log,
        CheckpointInput {
            version: &image,
            changes: &changes,
            counters: replayed.counters,
            inodes: root.view.inodes,
            bytes: root.view.bytes,
            shared: 0,
            time,
            thaw: ThawMark::default(),
            snapshot: None,
        },
    )?;
    heads.publish(|head| {
        head.root = written.place;
        head.root_hash = written.root_hash;
        head.log_end = LogOffset(written.log_end);
        head.clean = true;
        head.thaw_log_id = 0;
    })?;
    let set_aside = match home.find()? {
        Some(_) => Some(home.set_aside()?),
        None => None,
    };
    Ok(Forgotten { ranges, set_aside })
}

/// Returns the rows of thawed ranges marked as lost, and the ranges.
fn lose(image: &Image) -> Result<(Overlay, Vec<LostRange>), StartError> {
    let (mut changes, mut ranges) = (Overlay::default(), Vec::new());
    let mut cursor =
        image.tree(&schema::THAWED).cursor_at(image, KeyRef::new(0, 0)).map_err(crate::meta::MetaError::from)?;
    while let Some(row) = cursor.row() {
        let key = row.key().to_key();
        let thawed = ThawedRow::decode(key.b, row.ints(), row.tail())?;
        if !thawed.is_lost() {
            let (ints, tail) = ThawedRow { bytes: ThawedBytes::Lost, ..thawed }.encode();
            ranges.push(LostRange { inode: InodeId(key.a), offset: key.b, len: thawed.length });
            let row = Row { key: key.clone(), ints: ints.to_vec(), tail: tail.to_vec() };
            changes.set(&schema::THAWED, key, Some(row));
        }
        cursor.advance(image).map_err(crate::meta::MetaError::from)?;
    }
    Ok((changes, ranges))
}
