//! Checks whether a thaw log fits an image, that is, continues its current state. Pure.

use crate::format::head::Head;
use crate::format::root::Root;
use thiserror::Error;

/// The image, and the state of it, that a segment of a thaw log continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Id of the image.
    pub uuid: [u8; 16],
    /// Id of the image's history: a copy that is changed separately gets another one.
    pub lineage: [u8; 16],
    /// Generation of a head slot of the image.
    pub generation: u64,
    /// Hash of the root that the head slot of this generation names.
    pub root_hash: [u8; 32],
}

/// What a head slot and its root say about thaw logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Generation of the slot.
    pub generation: u64,
    /// Root hash in the slot.
    pub root_hash: [u8; 32],
    /// Id of the log that continues the image, according to the slot; 0 for none.
    pub thaw_log_id: u64,
    /// Id of the log whose transactions the root contains; 0 for none.
    pub root_log_id: u64,
    /// Number of the last transaction that the root contains; 0 for none.
    pub thaw_transaction: u64,
}

impl Slot {
    /// Collects what a head slot says of the thaw log, from its `head` and the head's root; `None` for a root that
    /// cannot be read.
    pub fn of(head: &Head, root: Option<&Root>) -> Self {
        Slot {
            generation: head.generation,
            root_hash: head.root_hash,
            thaw_log_id: head.thaw_log_id,
            root_log_id: root.map_or(0, |root| root.thaw_log_id),
            thaw_transaction: root.map_or(0, |root| root.thaw_transaction),
        }
    }
}

/// The part of an image's state that a thaw log has to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageState {
    /// Id of the image.
    pub uuid: [u8; 16],
    /// Id of the image's history.
    pub lineage: [u8; 16],
    /// Length of the image's file in bytes.
    pub len: u64,
    /// The head slots that verify.
    pub slots: Vec<Slot>,
}

/// The part of a log's state that has to fit an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// Id of the log.
    pub log_id: u64,
    /// Bindings of the segments that count.
    pub bindings: Vec<Binding>,
    /// Number of the last transaction that counts.
    pub last_transaction: u64,
    /// Offset in the image up to which it was synced before the last transaction was written.
    pub image_end: u64,
}

/// Why a thaw log does not fit an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Misfit {
    /// The log is of another image: the ids differ.
    #[error("it is the log of another image")]
    Uuid,
    /// The log is of a copy of the image that was changed separately: the ids of the history differ.
    #[error("it is the thaw log of a copy of the image that was changed separately")]
    Lineage,
    /// No head slot names the log.
    #[error("no head slot of the image names this thaw log")]
    LogId,
    /// The root of a generation is not the one that the log continues.
    #[error("the thaw log continues another root than the one that generation {generation} of the image has")]
    Root {
        /// Generation of the head slot.
        generation: u64,
    },
    /// The log is older than the root: it lacks transactions that the root contains.
    #[error(
        "the image contains the thaw log's transactions up to number {contained}, but the log ends with number {last}"
    )]
    EndsBefore {
        /// Number of the last transaction that the root contains.
        contained: u64,
        /// Number of the last transaction in the log.
        last: u64,
    },
    /// The log is younger than the root: transactions between them are missing.
    #[error(
        "the image contains the thaw log's transactions up to number {contained}, but the first one in the log comes \
         after number {before}"
    )]
    BeginsAfter {
        /// Number of the last transaction that the root contains.
        contained: u64,
        /// Number of the transaction before the first one in the log.
        before: u64,
    },
    /// The image is shorter than it was when the log was written.
    #[error(
        "the thaw log was written when the image had at least {image_end} bytes, but now the image has {len} bytes"
    )]
    ImageShort {
        /// Number of bytes of the image that were synced.
        image_end: u64,
        /// Length of the image in bytes.
        len: u64,
    },
}

/// Checks whether a thaw log fits the image by its id and by what the heads of its segments name. The log's
/// transactions are not looked at.
///
/// # Errors
/// Fails with the first thing that does not fit.
pub fn fits_by_name(log_id: u64, bindings: &[Binding], image: &ImageState) -> Result<(), Misfit> {
    if bindings.iter().any(|binding| binding.uuid != image.uuid) {
        return Err(Misfit::Uuid);
    }
    if bindings.iter().any(|binding| binding.lineage != image.lineage) {
        return Err(Misfit::Lineage);
    }
    if log_id == 0 || image.slots.iter().all(|slot| slot.thaw_log_id != log_id) {
        return Err(Misfit::LogId);
    }
    for slot in &image.slots {
        let other = |binding: &Binding| binding.generation == slot.generation && binding.root_hash != slot.root_hash;
        if bindings.iter().any(other) {
            return Err(Misfit::Root { generation: slot.generation });
        }
    }
    Ok(())
}

//= format-spec.md#11.6
//# A log that does not fit is set aside and reported; it must never be replayed.
/// Checks whether the thaw log fits the image: it belongs to this image and continues each root that names it.
///
/// # Errors
/// Fails with the first thing that does not fit.
pub fn fits(log: &LogState, image: &ImageState) -> Result<(), Misfit> {
    fits_by_name(log.log_id, &log.bindings, image)?;
    let last = log.last_transaction;
    for slot in image.slots.iter().filter(|slot| slot.root_log_id == log.log_id) {
        if slot.thaw_transaction > last {
            return Err(Misfit::EndsBefore { contained: slot.thaw_transaction, last });
        }
    }
    if log.image_end > image.len {
        return Err(Misfit::ImageShort { image_end: log.image_end, len: image.len });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Binding {
        Binding { uuid: [1; 16], lineage: [2; 16], generation: 7, root_hash: [3; 32] }
    }

    fn image() -> ImageState {
        let slot = Slot { generation: 7, root_hash: [3; 32], thaw_log_id: 9, root_log_id: 9, thaw_transaction: 5 };
        let older = Slot { generation: 6, root_hash: [4; 32], thaw_log_id: 8, root_log_id: 8, thaw_transaction: 99 };
        ImageState { uuid: [1; 16], lineage: [2; 16], len: 100_000, slots: vec![older, slot] }
    }

    fn log() -> LogState {
        LogState { log_id: 9, bindings: vec![binding()], last_transaction: 5, image_end: 100_000 }
    }

    #[test]
    fn a_log_fits_if_a_head_names_it_and_it_goes_as_far_as_the_roots_do() {
        assert_eq!(fits(&log(), &image()), Ok(()));
        assert_eq!(fits(&LogState { last_transaction: 6, image_end: 0, ..log() }, &image()), Ok(()));
        // The root of a generation that no slot has any more does not matter.
        let gone = Binding { generation: 5, root_hash: [9; 32], ..binding() };
        assert_eq!(fits(&LogState { bindings: vec![gone, binding()], ..log() }, &image()), Ok(()));
        // Transactions of another log that a root contains do not matter.
        let slots = image().slots.iter().map(|slot| Slot { root_log_id: 8, thaw_transaction: 99, ..*slot }).collect();
        assert_eq!(fits(&log(), &ImageState { slots, ..image() }), Ok(()));
    }

    //= format-spec.md#11.6
    //= type=test
    //# A log that does not fit is set aside and reported; it must never be replayed.
    #[test]
    fn each_misfit_is_reported() {
        let with = |bindings: Vec<Binding>| fits(&LogState { bindings, ..log() }, &image());
        assert_eq!(with(vec![binding(), Binding { uuid: [0; 16], ..binding() }]), Err(Misfit::Uuid));
        assert_eq!(with(vec![Binding { lineage: [0; 16], ..binding() }]), Err(Misfit::Lineage));
        let root = Binding { root_hash: [0; 32], ..binding() };
        assert_eq!(with(vec![root]), Err(Misfit::Root { generation: 7 }));
        assert_eq!(with(vec![binding(), Binding { generation: 6, ..binding() }]), Err(Misfit::Root { generation: 6 }));
        for log_id in [0, 7] {
            assert_eq!(fits(&LogState { log_id, ..log() }, &image()), Err(Misfit::LogId));
        }
        let nobody = image().slots.iter().map(|slot| Slot { thaw_log_id: 0, ..*slot }).collect();
        let nobody = ImageState { slots: nobody, ..image() };
        assert_eq!(fits(&LogState { log_id: 0, ..log() }, &nobody), Err(Misfit::LogId));
        let short = fits(&LogState { last_transaction: 4, ..log() }, &image());
        assert_eq!(short, Err(Misfit::EndsBefore { contained: 5, last: 4 }));
        let cut = fits(&log(), &ImageState { len: 99_999, ..image() });
        assert_eq!(cut, Err(Misfit::ImageShort { image_end: 100_000, len: 99_999 }));
    }
}
