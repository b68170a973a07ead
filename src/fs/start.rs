//! Makes a state from an image and its thaw log's directory. It can be read at once, and written from the first change
//! on.
//!
//! [`look`] only reads. It looks into the log's directory whatever the head slots say: a log with commits that no root
//! contains is never ignored and never removed. Only a log that neither slot's root needs may be removed silently. A
//! log that does not belong to the image is set aside at the first change. A log that the image needs and that is
//! missing or damaged is an error; the image can still be read without it. Callers: cli and tests (look), live (begin).

use crate::format::FormatError;
use crate::format::head::Head;
use crate::format::limits;
use crate::log::LogError;
use crate::meta::{
    CheckpointError, HeadError, Heads, Image, ImageOptions, MetaError, ThawedCount, read_heads, root_of,
};
use crate::storage::{LogHome, Storage, StorageError};
use crate::thaw::replay::{BroughtBack, ReplayError, Replayed, replay};
use crate::thaw::{Contents, ImageState, Misfit, Recovered, Segments, Slot, ThawError, examine};
use std::io::ErrorKind;
use std::sync::Arc;
use thiserror::Error;

/// Why an image cannot be written to.
#[derive(Debug, Error)]
pub enum StartError {
    /// The image cannot be read, or no writer may continue from its state.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A head slot could not be written.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The image's log could not be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A checkpoint could not be made.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The image, or the thaw log's directory, could not be read or changed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The thaw log could not be read or written.
    #[error(transparent)]
    Thaw(ThawError),
    /// The image needs a thaw log, and there is none that belongs to it.
    #[error(
        "the thaw log of the image is missing: {place} {}; it has {} bytes of files, and changes that no checkpoint \
         contains",
        missing(.misfit), .count.in_log.bytes
    )]
    LogMissing {
        /// Path where the log should be.
        place: String,
        /// Why another log that is there does not belong to the image.
        misfit: Option<Misfit>,
        /// The ranges of files whose bytes are in the thaw log, according to the image.
        count: ThawedCount,
    },
    /// The thaw log is damaged. Nothing was replayed from it, and nothing of it may be overwritten.
    #[error("the thaw log at {place} is damaged: {why}")]
    Damaged {
        /// Path of the thaw log.
        place: String,
        /// What is wrong with the log.
        why: String,
    },
    /// The largest epoch is reached: no more sessions can write to the image.
    #[error(
        "the image cannot be written to: it was opened for writing {epoch} times, and no epoch number is left (pack \
         its files into a new image)"
    )]
    NoEpoch {
        /// The largest epoch, which is reached.
        epoch: u32,
    },
}

fn missing(misfit: &Option<Misfit>) -> String {
    match misfit {
        Some(misfit) => format!("has another one: {misfit}"),
        None => "does not exist".to_owned(),
    }
}

impl StartError {
    /// Returns the kind of error of the storage, if it was one.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            StartError::Storage(error)
            | StartError::Thaw(ThawError::Storage(error))
            | StartError::Log(LogError::Storage(error)) => Some(error.kind()),
            StartError::Checkpoint(error) => error.storage_kind(),
            _ => None,
        }
    }

    /// Returns whether the user may give up the thaw log ([`forget`](super::forget::forget)).
    pub fn can_forget(&self) -> bool {
        matches!(self, StartError::LogMissing { .. } | StartError::Damaged { .. })
    }
}

/// An image and its thaw log as they were found. Nothing has been written yet.
pub struct Found {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) home: Arc<dyn LogHome>,
    pub(super) heads: Heads,
    pub(super) image: Arc<Image>,
    pub(super) replayed: Replayed,
    pub(super) log: FoundLog,
    /// Ids that thaw logs of the image have had. A new log must not get one of them.
    pub(super) used: Vec<u64>,
}

/// The thaw log that was found.
pub(super) enum FoundLog {
    /// There is no thaw log, and none is needed.
    None,
    /// There is a thaw log, or the rest of one, that neither root needs. If it has commits, both roots contain them.
    Leftover(Option<Box<Recovered>>),
    /// There is a thaw log to continue; the number is that of the last transaction that the image's root contains.
    Resume(Box<Recovered>, u64),
    /// There is a thaw log that does not belong to the image, for this reason, and that the image does not need.
    Aside(String),
}

impl Found {
    /// Returns the image in the state of its newest checkpoint when it was opened.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Returns the changes since the image's newest checkpoint that the thaw log has.
    pub fn replayed(&self) -> &Replayed {
        &self.replayed
    }

    /// Returns the segments that ranges in the log name.
    pub fn segments(&self) -> Arc<Segments> {
        Arc::new(match &self.log {
            FoundLog::Resume(recovered, _) => recovered.segments(),
            _ => Segments::default(),
        })
    }

    /// Returns what the thaw log has and the image lacks; `None` if there is nothing.
    pub fn brought_back(&self) -> Option<BroughtBack> {
        match &self.log {
            FoundLog::Resume(..) if self.replayed.changes(&self.image) => Some(self.replayed.brought_back),
            _ => None,
        }
    }

    /// Returns whether a thaw log of this image exists, needed or not.
    pub fn has_log(&self) -> bool {
        matches!(&self.log, FoundLog::Leftover(_) | FoundLog::Resume(..))
    }

    /// Returns why the existing thaw log will be set aside at the first change, if it will be.
    pub fn set_aside_reason(&self) -> Option<&str> {
        match &self.log {
            FoundLog::Aside(why) => Some(why),
            _ => None,
        }
    }
}

/// A head slot, and the version that it names, if that can be read.
struct Known {
    head: Head,
    version: Option<Arc<Image>>,
}

/// Reads the image in `storage` and its thaw log in `home`, and finds out how to continue. Writes nothing.
///
/// # Errors
/// Fails with a [`StartError`].
pub fn look(storage: Arc<dyn Storage>, home: Arc<dyn LogHome>, options: ImageOptions) -> Result<Found, StartError> {
    let heads = Heads::read(Arc::clone(&storage))?;
    let image = Arc::new(Image::open(Arc::clone(&storage), options)?);
    image.fit_for_writing()?;
    slots_are_usable(&*storage, &heads, &image)?;
    let known = known(&heads, &image)?;
    let mut found = Found {
        used: used_ids(&known),
        replayed: Replayed::nothing(&image),
        log: FoundLog::None,
        storage,
        home,
        heads,
        image,
    };
    let judged = judge(&found, &known)?;
    (found.log, found.replayed) = judged;
    if let FoundLog::Resume(recovered, _) = &found.log {
        // Includes what was frozen since the last checkpoint: it was synced before its rows were committed.
        found.image.raise_end(recovered.image_end());
    }
    Ok(found)
}

/// Checks that every head slot whose checksum is right can be used. If one breaks a rule, another program wrote it.
fn slots_are_usable(storage: &dyn Storage, heads: &Heads, image: &Image) -> Result<(), StartError> {
    let state = read_heads(storage)?;
    for slot in [&state.a, &state.b] {
        if let (Some(_), Err(error)) = (slot.generation, &slot.head) {
            return Err(MetaError::Unfit { why: format!("a head slot breaks the rules: {error}") }.into());
        }
    }
    if heads.newest() != image.head() {
        return Err(MetaError::Unfit { why: "its head changed while it was opened".to_owned() }.into());
    }
    match heads.slots().map(|head| head.epoch).max() {
        Some(epoch) if epoch.checked_add(1).is_none_or(|next| next >= limits::EPOCH) => {
            Err(StartError::NoEpoch { epoch })
        }
        _ => Ok(()),
    }
}

fn known(heads: &Heads, image: &Arc<Image>) -> Result<Vec<Known>, StartError> {
    let mut known = Vec::new();
    for head in heads.slots() {
        let same = (head.root, head.root_hash) == (image.head().root, image.head().root_hash);
        let version = if same { Some(Arc::clone(image)) } else { older(image, head)?.map(Arc::new) };
        known.push(Known { head: head.clone(), version });
    }
    Ok(known)
}

/// Returns the version of the image that `head` names, which is not that of `image`; `None` if its root is damaged.
pub(super) fn older(image: &Image, head: &Head) -> Result<Option<Image>, StartError> {
    let root = root_of(image.log().storage(), head)?;
    Ok(root.and_then(|root| image.successor(head.clone(), root).ok()))
}

fn used_ids(known: &[Known]) -> Vec<u64> {
    let mut used = Vec::new();
    for Known { head, version } in known {
        used.extend([head.log_id, head.thaw_log_id]);
        used.extend(version.as_ref().map(|version| version.root().thaw_log_id));
    }
    used
}

/// What the head slots and their roots need of a thaw log.
struct Needs {
    /// Whether a slot is not clean, or a root has ranges in a log.
    any: bool,
    /// Thawed ranges that the newest root has.
    count: ThawedCount,
    /// Whether a root has ranges in a log.
    ranges: bool,
}

impl Needs {
    fn of(found: &Found, known: &[Known]) -> Result<Self, StartError> {
        let (mut ranges, mut count) = (false, ThawedCount::default());
        for version in known.iter().filter_map(|known| known.version.as_ref()).filter(|version| version.has_thawed()) {
            let of_version = version.thawed_count()?;
            ranges |= of_version.in_log.ranges > 0;
            if Arc::ptr_eq(version, &found.image) {
                count = of_version;
            }
        }
        Ok(Needs { any: ranges || known.iter().any(|known| !known.head.clean), count, ranges })
    }

    fn missing(&self, found: &Found, misfit: Option<Misfit>) -> StartError {
        StartError::LogMissing { place: found.home.describe(), misfit, count: self.count }
    }
}

fn judge(found: &Found, known: &[Known]) -> Result<(FoundLog, Replayed), StartError> {
    let needs = Needs::of(found, known)?;
    let nothing = || Replayed::nothing(&found.image);
    let damaged = |why: String| StartError::Damaged { place: found.home.describe(), why };
    let Some(folder) = found.home.find()? else {
        return if needs.any { Err(needs.missing(found, None)) } else { Ok((FoundLog::None, nothing())) };
    };
    let state = image_state(found, known)?;
    let contents = match examine(folder, &state) {
        Ok(contents) => contents,
        Err(ThawError::Storage(error)) => return Err(error.into()),
        Err(ThawError::Foreign(misfit)) if needs.any => return Err(needs.missing(found, Some(misfit))),
        Err(error) if needs.any => return Err(damaged(error.to_string())),
        // Nothing needs it, whatever it is.
        Err(error) => return Ok((FoundLog::Aside(error.to_string()), nothing())),
    };
    match contents {
        Contents::Nothing if needs.any => Err(needs.missing(found, None)),
        Contents::Nothing => Ok((FoundLog::Leftover(None), nothing())),
        Contents::Empty { log_id, fits } => {
            // It was begun before the slots named it, or nothing was committed to it since then. So every slot that is
            // not clean must name it.
            let named = known.iter().all(|known| known.head.clean || known.head.thaw_log_id == log_id);
            let contained = known.iter().filter_map(|known| known.version.as_ref());
            let older = contained.map(|version| version.root()).any(|root| root.thaw_log_id == log_id);
            match fits {
                _ if needs.ranges || !named || older => Err(needs.missing(found, fits.err())),
                // Another image may be put beside this directory. Its log has no commit yet.
                Err(misfit @ (Misfit::Uuid | Misfit::Lineage)) => Ok((FoundLog::Aside(misfit.to_string()), nothing())),
                _ => Ok((FoundLog::Leftover(None), nothing())),
            }
        }
        Contents::Log { recovered, fits } => log_with_commits(found, known, &needs, recovered, fits),
    }
}

fn log_with_commits(
    found: &Found,
    known: &[Known],
    needs: &Needs,
    recovered: Box<Recovered>,
    fits: Result<(), Misfit>,
) -> Result<(FoundLog, Replayed), StartError> {
    let log_id = recovered.log_id();
    let aside = |misfit: Misfit| {
        if needs.any {
            return Err(needs.missing(found, Some(misfit)));
        }
        let why = ThawError::from(misfit).to_string();
        Ok((FoundLog::Aside(why), Replayed::nothing(&found.image)))
    };
    match fits {
        Ok(()) => {}
        // A log whose removal was interrupted: the slots are clean, and the roots say which transactions they contain.
        Err(Misfit::LogId) if !needs.any && is_contained(known, &recovered)? => {
            return Ok((FoundLog::Leftover(Some(recovered)), Replayed::nothing(&found.image)));
        }
        Err(misfit) => return aside(misfit),
    }
    let root = found.image.root();
    let contained = if root.thaw_log_id == log_id { root.thaw_transaction } else { 0 };
    let damaged = |why: String| StartError::Damaged { place: found.home.describe(), why };
    if found.image.has_thawed() && needs.count.in_log.ranges > 0 && root.thaw_log_id != log_id {
        return Err(damaged(format!("the image has ranges in log {:#x}, this one is {log_id:#x}", root.thaw_log_id)));
    }
    let end = recovered.transaction_end(contained).map_err(StartError::of_log)?;
    if let Some(end) = end.filter(|end| end.0 != root.thaw_offset) {
        let said = root.thaw_offset;
        return Err(damaged(format!("transaction {contained} ends at offset {end}, in the image's root at {said}")));
    }
    let replayed = match replay(&found.image, &recovered, contained) {
        Ok(replayed) => replayed,
        Err(ReplayError::Thaw(ThawError::Foreign(misfit))) => return aside(misfit),
        Err(ReplayError::Thaw(ThawError::Storage(error))) => return Err(error.into()),
        Err(ReplayError::Meta(error)) => return Err(error.into()),
        Err(error @ (ReplayError::Thaw(_) | ReplayError::Transaction { .. })) => {
            return Err(damaged(error.to_string()));
        }
    };
    if !needs.ranges && !replayed.changes(&found.image) && is_contained(known, &recovered)? {
        return Ok((FoundLog::Leftover(Some(recovered)), replayed));
    }
    Ok((FoundLog::Resume(recovered, contained), replayed))
}

/// Returns whether the roots of all head slots contain everything that was committed to the thaw log.
fn is_contained(known: &[Known], recovered: &Recovered) -> Result<bool, StartError> {
    for Known { version, .. } in known {
        let Some(version) = version else { return Ok(false) };
        let root = version.root();
        if root.thaw_log_id != recovered.log_id() {
            return Ok(false);
        }
        match replay(version, recovered, root.thaw_transaction) {
            Ok(replayed) if !replayed.changes(version) => {}
            Ok(_) | Err(ReplayError::Thaw(ThawError::Foreign(_))) => return Ok(false),
            Err(ReplayError::Meta(error)) => return Err(error.into()),
            Err(ReplayError::Thaw(ThawError::Storage(error))) => return Err(error.into()),
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

fn image_state(found: &Found, known: &[Known]) -> Result<ImageState, StartError> {
    let head = found.heads.newest();
    let slots = known.iter().map(|Known { head, version }| Slot::of(head, version.as_deref().map(Image::root)));
    Ok(ImageState { uuid: head.uuid, lineage: head.lineage, len: found.storage.len()?, slots: slots.collect() })
}

impl StartError {
    pub(super) fn of_log(error: ThawError) -> Self {
        match error {
            ThawError::Storage(error) => StartError::Storage(error),
            error => StartError::Thaw(error),
        }
    }
}

impl From<FormatError> for StartError {
    fn from(error: FormatError) -> Self {
        StartError::Meta(error.into())
    }
}
