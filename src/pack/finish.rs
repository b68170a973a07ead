//! The end of packing: writes tables, map and root, and last the head slots; each only after what it refers to is
//! synced.

use super::append::{Appended, PACK_EPOCH, begin_log};
use super::fill::{Filled, log_id};
use super::{PackError, PackOptions, PackSummary, superchunk};
use crate::format::frame::FrameKind;
use crate::format::head::{Head, incompat};
use crate::format::ids::LogOffset;
use crate::format::limits;
use crate::format::root::Root;
use crate::format::rows::Time;
use crate::format::tree_ref::TreeRef;
use crate::format::view::View;
use crate::format::{codec, schema};
use crate::meta::{Heads, TableWriter, append_twice};
use crate::storage::Storage;
use std::path::Path;
use std::sync::Arc;

/// An image that is complete except for its name.
pub(super) struct Finished {
    /// Bytes that the leaves of each table occupy.
    pub(super) leaves: LeafBytes,
    pub(super) summary: PackSummary,
    /// Whether the image holds something that not everybody may read.
    pub(super) private: bool,
}

/// Bytes of the image that the leaves of each table occupy, as frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeafBytes {
    /// Bytes of the leaves of the identities table.
    pub identities: u64,
    /// Bytes of the leaves of the shares table: users of shared contents, tiny contents and xattr sets.
    pub shares: u64,
    /// Bytes of the leaves of the tiny table: contents of small files.
    pub tiny: u64,
    /// Bytes of the leaves of the xattrs table.
    pub xattrs: u64,
    /// Bytes of the leaves of the contents table: extents of files.
    pub contents: u64,
    /// Bytes of the leaves of the inodes table.
    pub inodes: u64,
    /// Bytes of the leaves of the dirents table: names of files.
    pub dirents: u64,
}

/// Writes tables, map, root and heads. `at` is the name of the image in errors.
pub(super) fn finish(
    mut filled: Filled,
    appended: Appended,
    storage: Arc<dyn Storage>,
    at: &Path,
    options: &PackOptions,
) -> Result<Finished, PackError> {
    let id = filled.log_id.unwrap_or_else(|| log_id(options, &[]));
    let Appended { log, mut map, has_recipes } = appended;
    let mut log = match log {
        Some(log) => log,
        None => begin_log(storage.clone(), id).map_err(|source| PackError::log(at, source))?,
    };
    let data_end = log.end();

    let params = crate::format::params::Params {
        codec: options.compression.codec_number(),
        level: options.compression.level(),
        ..options.params
    };
    let (mut next_subchunk, mut next_superchunk) = (filled.next_subchunk, filled.next_superchunk);
    let mut writer = TableWriter::new(
        &mut log,
        &mut map,
        &mut next_subchunk,
        &mut next_superchunk,
        options.compression,
        params.table_block as usize,
    );
    let rows = &mut filled.rows;
    let identities = superchunk::identity_rows(options.params.hash, filled.index.iter()).map(Ok);
    // In writing order. Names and inodes are read together, so they come last, next to the interior blocks.
    let mut leaves = LeafBytes::default();
    let identities_tree = writer.load(&schema::IDENTITIES, identities)?.to_ref()?;
    leaves.identities = writer.log_end() - data_end;
    let shares_tree = writer.load(&schema::SHARES, rows.share_rows()?)?.to_ref()?;
    leaves.shares = writer.log_end() - data_end - leaves.sum();
    let tiny_tree = writer.load(&schema::TINY, rows.tiny_rows())?.to_ref()?;
    leaves.tiny = writer.log_end() - data_end - leaves.sum();
    let xattrs_tree = writer.load(&schema::XATTRS, rows.xattr_rows())?.to_ref()?;
    leaves.xattrs = writer.log_end() - data_end - leaves.sum();
    let contents_tree = writer.load(&schema::CONTENTS, rows.content_rows())?.to_ref()?;
    leaves.contents = writer.log_end() - data_end - leaves.sum();
    let inodes_tree = writer.load(&schema::INODES, rows.inode_rows())?.to_ref()?;
    leaves.inodes = writer.log_end() - data_end - leaves.sum();
    let dirents_tree = writer.load(&schema::DIRENTS, rows.dirent_rows())?.to_ref()?;
    leaves.dirents = writer.log_end() - data_end - leaves.sum();
    let interior_offset = writer.flush_interior()?;
    let (map_tree, _) = writer.finish_map()?;

    let newest = rows.newest;
    let (time, time_ns) = options.timestamp.map_or((newest.secs, newest.nanos), |secs| (secs, 0));
    // With a timestamp the same input gives the same bytes, so the image does not record when it was packed.
    let packed = options.timestamp.map_or(options.now, |secs| Time { secs, nanos: 0 });
    let mut summary = filled.summary;
    let view = View {
        inodes_tree,
        dirents_tree,
        contents_tree,
        xattrs_tree,
        tiny_tree,
        identities_tree,
        inodes: rows.next_inode - 1,
        bytes: summary.bytes,
    };
    let root = Root {
        view,
        params,
        time,
        time_ns,
        next_inode: rows.next_inode,
        next_content: rows.next_content,
        next_tiny: rows.next_tiny,
        next_xattrs: rows.next_xattrs,
        next_ordinal: 1,
        orphans_tree: TreeRef::default(),
        thawed_tree: TreeRef::default(),
        shares_tree,
        snapshots_tree: TreeRef::default(),
        map: map_tree.to_map_ref()?,
        next_subchunk,
        next_superchunk,
        thaw_log_id: 0,
        thaw_transaction: 0,
        thaw_offset: 0,
        interior_offset,
        unique_bytes: summary.unique_bytes,
        shared_bytes: summary.shared_bytes,
        subchunks: summary.subchunks,
        packed_time: packed.secs,
        packed_time_ns: packed.nanos,
    };
    let (stored, root_hash) = root.encode();
    let on_log = |source| PackError::log(at, source);
    let place = append_twice(&mut log, FrameKind::ROOT, &stored).map_err(on_log)?;
    // The sync also pads the last block, so that a later writer begins in a fresh one.
    log.sync().map_err(on_log)?;

    let mut features = 0;
    if params.codec == codec::XZ {
        features |= incompat::XZ;
    }
    if params.part_size.is_some() {
        features |= incompat::PARTS;
    }
    if has_recipes {
        features |= incompat::RECIPES;
    }
    let head = Head {
        compat: 0,
        ro_compat: 0,
        incompat: features,
        uuid: derive(b"floe uuid", &root_hash, id, options),
        lineage: derive(b"floe lineage", &root_hash, id, options),
        generation: 0,
        root: place,
        root_hash,
        log_id: id,
        epoch: PACK_EPOCH,
        clean: true,
        log_end: LogOffset(log.end()),
        thaw_log_id: 0,
        params,
    };
    Heads::create(storage, head).map_err(|source| PackError::Head { image: at.to_owned(), source })?;

    summary.image_bytes = log.end();
    summary.data_bytes = data_end - limits::LOG_START;
    summary.metadata_bytes = log.end() - data_end;
    summary.root_hash = root_hash;
    Ok(Finished { leaves, summary, private: filled.rows.private })
}

impl LeafBytes {
    /// Returns the sum over all tables, in bytes.
    pub fn sum(&self) -> u64 {
        let LeafBytes { identities, shares, tiny, xattrs, contents, inodes, dirents } = *self;
        identities + shares + tiny + xattrs + contents + inodes + dirents
    }
}

/// Returns sixteen bytes in the form of a UUID of version 8 (RFC 9562: custom). They depend on content and options, and
/// on the seed if there is one.
fn derive(what: &[u8], root_hash: &[u8; 32], log_id: u64, options: &PackOptions) -> [u8; 16] {
    let mut out = [0; 16];
    let mut hasher = blake3::Hasher::new();
    hasher.update(what).update(root_hash).update(&log_id.to_le_bytes()).update(options.seed_bytes());
    hasher.finalize_xof().fill(&mut out);
    out[6] = out[6] & 0x0f | 0x80;
    out[8] = out[8] & 0x3f | 0x80;
    out
}
