//! Head slots: the only live bytes of an image that are overwritten in place (section 3).

use super::frame::FRAME_HEADER;
use super::ids::LogOffset;
use super::layout::on_disk;
use super::params::{Params, RawParams};
use super::place::{Place, RawPlace};
use super::{FormatError, limits, sums};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Magic number: the first four bytes of an image.
pub const HEAD_MAGIC: [u8; 4] = *b"FLOE";
/// The format version this program writes and reads.
pub const VERSION: u16 = 1;

/// Incompatible feature bits.
pub mod incompat {
    /// Bit: some subchunk has a recipe.
    pub const RECIPES: u64 = 1;
    /// Bit: some superchunk has parts.
    pub const PARTS: u64 = 1 << 1;
    /// Bit: the codec xz is used.
    pub const XZ: u64 = 1 << 2;
    /// Bit: dictionaries are used.
    pub const DICTIONARY: u64 = 1 << 3;
    /// Bit: filters are used.
    pub const FILTERS: u64 = 1 << 4;
    /// The bits that this program can read.
    pub const KNOWN: u64 = RECIPES | PARTS | XZ | DICTIONARY | FILTERS;
}

/// Read-only compatible feature bits.
pub mod ro_compat {
    /// Bit: parity frames exist.
    pub const PARITY: u64 = 1;
    /// Bit: snapshots exist.
    pub const SNAPSHOTS: u64 = 1 << 1;
    /// The bits with which this program can write to an image.
    pub const KNOWN: u64 = PARITY | SNAPSHOTS;
}

on_disk! {
    /// A head slot on disk, not verified yet.
    pub struct RawHeadSlot {
        /// Magic number, [`HEAD_MAGIC`].
        magic: [u8; 4],
        /// Format version, [`VERSION`].
        version: U16,
        /// Minor format version.
        minor: U16,
        /// Feature bits that a program may ignore.
        compat: U64,
        /// Feature bits that a program must know to write to the image.
        ro_compat: U64,
        /// Feature bits that a program must know to read the image.
        incompat: U64,
        /// Id of this image.
        uuid: [u8; 16],
        /// Id of this history of the image: a copy that is changed separately gets another one.
        lineage: [u8; 16],
        /// Generation: one more with each head.
        generation: U64,
        /// Place of the newest root.
        root: RawPlace,
        /// The root hash (section 9).
        root_hash: [u8; 32],
        /// Id of the image's log.
        log_id: U64,
        /// Epoch: number of the writer's session, raised before a writer appends.
        epoch: U32,
        /// Flags; bit 0 says that no writer and no thaw log exists.
        flags: U32,
        /// Offset in bytes where the log ends.
        log_end: U64,
        /// Id of the thaw log that continues this image, 0 for none.
        thaw_log_id: U64,
        /// Parameters that the image was made with.
        params: RawParams,
        /// Reserved bytes, all zero.
        reserved: [u8; 252],
        /// CRC-32 of all bytes of the slot before this field.
        crc: U32,
    }
}

/// A verified head: the newest state of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Feature bits that a program may ignore.
    pub compat: u64,
    /// Feature bits that a program must know to write to the image.
    pub ro_compat: u64,
    /// Feature bits that a program must know to read the image.
    pub incompat: u64,
    /// Id of this image.
    pub uuid: [u8; 16],
    /// Id of this history of the image: a copy that is changed separately gets another one.
    pub lineage: [u8; 16],
    /// Generation: one more with each head.
    pub generation: u64,
    /// Place of the newest root.
    pub root: Place,
    /// The root hash (section 9).
    pub root_hash: [u8; 32],
    /// Id of the image's log.
    pub log_id: u64,
    /// Epoch: number of the writer's session.
    pub epoch: u32,
    /// Whether no writer and no thaw log exists.
    pub clean: bool,
    /// Offset in bytes where the log ends.
    pub log_end: LogOffset,
    /// Id of the thaw log that continues this image, 0 for none.
    pub thaw_log_id: u64,
    /// Parameters that the image was made with.
    pub params: Params,
}

impl Head {
    /// Returns the encoded slot of 512 bytes, with its checksum.
    pub fn encode(&self) -> [u8; RawHeadSlot::SIZE] {
        let mut raw = RawHeadSlot {
            magic: HEAD_MAGIC,
            version: VERSION.into(),
            minor: 0.into(),
            compat: self.compat.into(),
            ro_compat: self.ro_compat.into(),
            incompat: self.incompat.into(),
            uuid: self.uuid,
            lineage: self.lineage,
            generation: self.generation.into(),
            root: Some(self.root).into(),
            root_hash: self.root_hash,
            log_id: self.log_id.into(),
            epoch: self.epoch.into(),
            flags: u32::from(self.clean).into(),
            log_end: self.log_end.0.into(),
            thaw_log_id: self.thaw_log_id.into(),
            params: (&self.params).into(),
            reserved: [0; 252],
            crc: 0.into(),
        };
        raw.crc = crc(&raw).into();
        let mut out = [0; RawHeadSlot::SIZE];
        out.copy_from_slice(raw.as_bytes());
        out
    }
}

/// Returns the CRC-32 of all bytes of the slot before the checksum field.
fn crc(raw: &RawHeadSlot) -> u32 {
    raw.as_bytes().split_last_chunk::<4>().map_or(0, |(before, _)| sums::crc32(before))
}

impl RawHeadSlot {
    /// Checks that the slot has the magic number and the right checksum. A slot that verifies may still not be
    /// supported by this program; its generation counts, whatever its version is.
    ///
    /// # Errors
    /// Returns `Magic` or `Checksum`.
    pub fn verify(&self) -> Result<(), FormatError> {
        if self.magic != HEAD_MAGIC {
            return Err(FormatError::Magic { what: "head slot", found: self.magic });
        }
        let computed = crc(self);
        if computed != self.crc.get() {
            return Err(FormatError::Checksum {
                what: "head slot",
                stored: self.crc.get().into(),
                computed: computed.into(),
            });
        }
        Ok(())
    }

    /// Returns the head, if the slot verifies and this program can read such an image.
    ///
    /// # Errors
    /// Fails as [`RawHeadSlot::verify`] does; with `Unsupported` for an unknown version or feature; else with what is
    /// wrong with the fields.
    pub fn validate(&self) -> Result<Head, FormatError> {
        self.verify()?;
        let (version, features) = (self.version.get(), self.incompat.get());
        //= format-spec.md#3.2
        //# A reader refuses an image with an incompat bit that it does not know; a writer refuses one with an incompat or
        //# ro_compat bit that it does not know.
        //= format-spec.md#0
        //# The format already defines everything that later versions of the program write; a program refuses what it
        //# does not know by the feature bits (section 3.2), never by guessing.
        if version != VERSION || features & !incompat::KNOWN != 0 {
            return Err(FormatError::Unsupported { version, incompat: features, known: incompat::KNOWN });
        }
        let root = self.root.validate()?.ok_or(FormatError::invalid("head slot", "it names no root"))?;
        let log_end = self.log_end.get();
        if !(limits::LOG_START..=limits::IMAGE_LEN).contains(&log_end) {
            return Err(FormatError::Limit { what: "end of the log", value: log_end, limit: limits::IMAGE_LEN });
        }
        //= format-spec.md#3
        //# A reader refuses a slot whose `epoch` is not below 2^24, or whose `log_end` is not a multiple of 4096.
        let epoch = self.epoch.get();
        if epoch >= limits::EPOCH {
            return Err(FormatError::Limit { what: "epoch", value: epoch.into(), limit: u64::from(limits::EPOCH) - 1 });
        }
        if !log_end.is_multiple_of(limits::SYNC_BLOCK) {
            return Err(FormatError::invalid("head slot", "the end of its log is not a multiple of 4096"));
        }
        for offset in root.offsets() {
            if offset.0 + root.frame_len() > log_end {
                return Err(FormatError::invalid("head slot", "its root lies after the end of the log"));
            }
        }
        //= format-spec.md#3.1
        //# A reader refuses the Place of a root or a map block with the dictionary flag.
        if root.flags.dictionary() {
            return Err(FormatError::invalid("head slot", "its root needs the dictionary"));
        }
        if root.raw_len != root.stored_len || root.codec != 0 || (root.stored_len as usize) < FRAME_HEADER {
            return Err(FormatError::invalid("head slot", "the place of its root does not describe a root"));
        }
        Ok(Head {
            compat: self.compat.get(),
            ro_compat: self.ro_compat.get(),
            incompat: features,
            uuid: self.uuid,
            lineage: self.lineage,
            generation: self.generation.get(),
            root,
            root_hash: self.root_hash,
            log_id: self.log_id.get(),
            epoch,
            clean: self.flags.get() & 1 != 0,
            log_end: LogOffset(log_end),
            thaw_log_id: self.thaw_log_id.get(),
            params: self.params.validate()?,
        })
    }
}
