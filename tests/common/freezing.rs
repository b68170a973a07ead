//! A file and an image in memory, byte by byte, and freezing the file into the image.

#![allow(dead_code, reason = "each test binary uses its own part")]

use floe::chunk::Cutter;
use floe::format::clear::ClearList;
use floe::format::codec::{Compression, Decoder};
use floe::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use floe::format::params::{Chunker, Params};
use floe::format::recipe;
use floe::format::rows::Identity;
use floe::freeze::{
    Batch, BatchOptions, Cutting, FileCut, KeptFile, Known, Last, Layout, Packed, RegionPiece, Span, SpanSource,
    cut_file,
};
use floe::pack::matching::{AnchorIndex, Source as MatchSource};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// Parameters so small that a few kilobytes are many subchunks.
pub fn small() -> Params {
    let chunker = Chunker::FastCdc { min: 64, avg: 256, max: 1024 };
    Params { superchunk_size: 8192, chunker, ..Params::default() }
}

/// Bytes that look random.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// The subchunks of an image.
pub struct Image {
    pub params: Params,
    pub subchunks: Vec<Vec<u8>>,
    index: HashMap<Identity, SubchunkId>,
    /// Clear list and raw bytes of each superchunk, by id - 1.
    superchunks: Vec<(ClearList, Arc<Vec<u8>>)>,
    /// The superchunk of each subchunk and the range of its stored part there, by id - 1.
    parts: Vec<(usize, Range<usize>)>,
    anchors: AnchorIndex,
    /// Number of composed subchunks.
    pub composed: usize,
}

impl Known for Image {
    type Error = String;

    fn find(&self, identity: &Identity, bytes: &[u8]) -> Result<Option<SubchunkId>, String> {
        let found = self.index.get(identity).copied();
        if let Some(id) = found {
            assert_eq!(self.bytes(id), bytes);
        }
        Ok(found)
    }

    fn anchors(&self) -> Option<&AnchorIndex> {
        Some(&self.anchors)
    }

    fn source(&self, id: SuperchunkId) -> Option<MatchSource> {
        let (list, raw) = &self.superchunks[id.0 as usize - 1];
        Some(MatchSource::new(list, raw.clone()))
    }
}

impl Image {
    pub fn new(params: Params) -> Self {
        Image {
            params,
            subchunks: Vec::new(),
            index: HashMap::new(),
            superchunks: Vec::new(),
            parts: Vec::new(),
            anchors: AnchorIndex::new(1 << 20),
            composed: 0,
        }
    }

    pub fn bytes(&self, id: SubchunkId) -> &[u8] {
        &self.subchunks[id.0 as usize - 1]
    }

    fn part(&self, id: SubchunkId) -> &[u8] {
        let (superchunk, range) = &self.parts[id.0 as usize - 1];
        &self.superchunks[*superchunk].1[range.clone()]
    }

    /// Adds what a batch packed; returns the id of its first subchunk.
    pub fn append(&mut self, packed: &Packed) -> SubchunkId {
        let first = SubchunkId(self.subchunks.len() as u64 + 1);
        let first_superchunk = SuperchunkId(self.superchunks.len() as u64 + 1);
        for superchunk in &packed.superchunks {
            let (mut raw, encoded) = (Vec::new(), &superchunk.encoded);
            let len = superchunk.raw_len;
            Decoder::new().decode(encoded.codec, encoded.flags, &encoded.stored, len, None, &mut raw).unwrap();
            assert_eq!(superchunk.first, self.subchunks.len() as u64 + 1 - first.0);
            assert_eq!(superchunk.short, !self.params.is_full(superchunk.raw_len));
            let number = self.superchunks.len();
            let list = superchunk.clear_list(first, SuperchunkId(number as u64 + 1));
            let mut end = 0;
            for (id, listed) in (self.parts.len() as u64 + 1..).zip(&list.subchunks) {
                assert_eq!(listed.id.0, id);
                self.parts.push((number, end..end + listed.len as usize));
                end += listed.len as usize;
            }
            assert_eq!(end, raw.len());
            self.superchunks.push((list.clone(), Arc::new(raw)));
            let recipes: HashMap<_, _> = superchunk.recipes(first).into_iter().collect();
            let mut sources = HashSet::new();
            for (listed, identity) in list.subchunks.iter().zip(&superchunk.identities) {
                assert_eq!(listed.composed, recipes.contains_key(&listed.id));
                let bytes = match recipes.get(&listed.id) {
                    None => self.part(listed.id).to_vec(),
                    Some(recipe) => {
                        sources.extend(recipe.pieces().iter().map(|piece| self.parts[piece.subchunk.0 as usize - 1].0));
                        let piece = |piece: &recipe::Piece| {
                            &self.part(piece.subchunk)[piece.offset as usize..][..piece.len as usize]
                        };
                        recipe.pieces().iter().flat_map(piece).copied().collect()
                    }
                };
                assert_eq!(*identity, Identity::of(self.params.hash, &bytes));
                self.subchunks.push(bytes);
            }
            sources.remove(&number);
            assert!(sources.len() <= usize::from(self.params.max_sources));
            self.composed += recipes.len();
        }
        packed.add_anchors(first_superchunk, &mut self.anchors);
        assert_eq!(self.subchunks.len() as u64 + 1 - first.0, packed.subchunks());
        self.index.extend(packed.identities(first).map(|(id, identity)| (identity, id)));
        first
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Hole,
    Lost,
    Tiny(u32),
    Thawed(u64, u32),
    Stored(u64, u32),
}

impl Source {
    fn next(self) -> Source {
        match self {
            Source::Tiny(at) => Source::Tiny(at + 1),
            Source::Thawed(frame, at) => Source::Thawed(frame, at + 1),
            Source::Stored(id, at) => Source::Stored(id, at + 1),
            other => other,
        }
    }
}

/// A file: the source of each byte, and its value.
#[derive(Default, Clone)]
pub struct File {
    pub sources: Vec<Source>,
    pub bytes: Vec<u8>,
    frames: u64,
    /// A freeze reported that the content is uneven.
    pub uneven: bool,
    /// It was truncated or punched: some subchunks may be used only in part.
    pub sliced: bool,
}

impl File {
    pub fn tiny(bytes: &[u8]) -> Self {
        let sources = (0..bytes.len() as u32).map(Source::Tiny).collect();
        File { sources, bytes: bytes.to_vec(), ..File::default() }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn resize(&mut self, len: usize) {
        self.sliced |= len < self.len();
        self.sources.resize(len, Source::Hole);
        self.bytes.resize(len, 0);
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.resize(self.len().max(at + bytes.len()));
        self.frames += 1;
        for (n, &byte) in bytes.iter().enumerate() {
            self.sources[at + n] = Source::Thawed(self.frames, n as u32);
            self.bytes[at + n] = byte;
        }
    }

    pub fn set(&mut self, at: usize, len: usize, source: Source) {
        let end = self.len().min(at + len);
        self.sliced = true;
        if at < end {
            self.sources[at..end].fill(source);
            self.bytes[at..end].fill(0);
        }
    }

    pub fn is_data(&self, at: usize) -> bool {
        !matches!(self.sources[at], Source::Hole | Source::Lost)
    }

    pub fn has_thawed(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, Source::Thawed(..)))
    }

    /// Ranges of data between holes, lost ranges and the ends.
    pub fn runs(&self) -> Vec<(usize, usize)> {
        let mut out: Vec<(usize, usize)> = Vec::new();
        for at in (0..self.len()).filter(|&at| self.is_data(at)) {
            match out.last_mut() {
                Some((_, end)) if *end == at => *end += 1,
                _ => out.push((at, at + 1)),
            }
        }
        out
    }

    /// Where a subchunk or another source begins within a range, and the end of the range.
    pub fn borders(&self, (begin, end): (usize, usize)) -> Vec<usize> {
        let inner = (begin + 1..end).filter(|&at| self.sources[at - 1].next() != self.sources[at]);
        [begin].into_iter().chain(inner).chain([end]).collect()
    }

    /// Whether a range consists of whole subchunks; the last one may lack its end.
    pub fn is_even(&self, image: &Image, run: (usize, usize)) -> bool {
        let borders = self.borders(run);
        borders.windows(2).all(|border| match self.sources[border[0]] {
            Source::Stored(id, 0) => border[1] == run.1 || image.bytes(SubchunkId(id)).len() == border[1] - border[0],
            _ => false,
        })
    }

    pub fn layout<'a>(&'a self, image: &'a Image) -> Seen<'a> {
        Seen { file: self, image, read: 0, fail_from: usize::MAX }
    }
}

/// A file as the freezer sees it.
pub struct Seen<'a> {
    file: &'a File,
    image: &'a Image,
    pub read: u64,
    /// Bytes from here on cannot be read.
    pub fail_from: usize,
}

impl Layout for Seen<'_> {
    type Error = String;

    fn size(&self) -> u64 {
        self.file.len() as u64
    }

    fn span(&mut self, offset: u64) -> Result<Span, String> {
        let sources = &self.file.sources;
        let (mut begin, mut end) = (offset as usize, offset as usize + 1);
        let joins = |at: usize| sources[at - 1].next() == sources[at];
        while begin > 0 && joins(begin) {
            begin -= 1;
        }
        while end < sources.len() && joins(end) {
            end += 1;
        }
        let source = match sources[begin] {
            Source::Hole => SpanSource::Hole,
            Source::Lost => SpanSource::Lost,
            Source::Tiny(_) => SpanSource::Tiny,
            Source::Thawed(frame, skip) => SpanSource::Thawed { frame: LogOffset(frame), skip, sum: 0 },
            Source::Stored(id, skip) => {
                let subchunk_len = self.image.bytes(SubchunkId(id)).len() as u32;
                SpanSource::Stored { subchunk: SubchunkId(id), skip, subchunk_len }
            }
        };
        Ok(Span { begin: begin as u64, len: (end - begin) as u64, source })
    }

    fn thawed(&mut self, from: u64) -> Result<Option<u64>, String> {
        let mut sources = self.file.sources.iter().enumerate().skip(from as usize);
        Ok(sources.find(|(_, source)| matches!(source, Source::Thawed(..))).map(|(at, _)| at as u64))
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), String> {
        let range = offset as usize..offset as usize + out.len();
        assert!(range.clone().all(|at| self.file.is_data(at)), "a hole or a lost range is read: {range:?}");
        if range.end > self.fail_from {
            return Err("cannot be read".into());
        }
        self.read += out.len() as u64;
        out.copy_from_slice(&self.file.bytes[range]);
        Ok(())
    }
}

pub fn options(params: Params, limit: u64) -> BatchOptions {
    BatchOptions {
        params,
        compression: Compression::Zstd(1),
        compressors: 1,
        priority: floe::freeze::Priority::Normal,
        limit,
    }
}

/// The result of one batch.
pub struct Round {
    pub cut: FileCut,
    pub kept: KeptFile,
    pub read: u64,
}

/// Freezes one batch.
pub fn freeze_once(
    file: &mut File,
    image: &mut Image,
    how: Cutting,
    (from, limit, keep_last): (u64, u64, bool),
) -> Round {
    let mut batch = Batch::new(options(image.params, limit), &*image).unwrap();
    let mut seen = file.layout(image);
    let cut = cut_file(&mut seen, how, from, &mut batch, &|| false).unwrap();
    let read = seen.read;
    let packed = batch.finish(if keep_last { Last::Keep } else { Last::Drop }).unwrap();
    let kept = packed.kept(&cut);
    let first = image.append(&packed);
    let mut floor = from;
    for region in &kept.regions {
        assert!(region.begin >= floor && region.end > region.begin);
        floor = region.end;
        let mut at = region.begin as usize;
        for &RegionPiece { len, piece, .. } in &region.pieces {
            let id = packed.id(piece, first).unwrap();
            assert_eq!(image.bytes(id), &file.bytes[at..at + len as usize], "at {at}");
            for n in 0..len {
                file.sources[at + n as usize] = Source::Stored(id.0, n);
            }
            at += len as usize;
        }
        assert_eq!(at as u64, region.end);
        file.uneven |= region.uneven;
    }
    Round { cut, kept, read }
}

/// Freezes everything, in batches of `limit` new bytes; with `drop_first` the first batch keeps only full superchunks.
pub fn freeze(file: &mut File, image: &mut Image, how: Cutting, limit: u64, drop_first: bool) -> Vec<Round> {
    let (mut from, mut rounds) = (0, Vec::new());
    loop {
        let keep_last = !(drop_first && rounds.is_empty());
        let round = freeze_once(file, image, how, (from, limit, keep_last));
        let next = round.kept.next;
        rounds.push(round);
        assert!(rounds.len() < 2000, "no progress from {from}");
        match next {
            Some(next) => from = next,
            None => return rounds,
        }
    }
}

/// The cuts of a range that is cut from its start.
pub fn cut_anew(params: &Params, file: &File, (begin, end): (usize, usize)) -> Vec<usize> {
    let cutter = Cutter::new(params);
    let (mut out, mut at) = (vec![begin], begin);
    while at < end {
        at += cutter.cut(&file.bytes[at..end]);
        out.push(at);
    }
    out
}
