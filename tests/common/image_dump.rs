//! Dumps an image byte by byte with notes, as in section 18 of `format-spec.md`, and parses such a dump back to bytes.
//!
//! A dump shows every nonzero byte; lines in `hex` fences hold an offset, bytes, and a note after `;`.

use floe::format::Field;
use floe::format::block::Block;
use floe::format::bytes::{Cursor, unzigzag};
use floe::format::clear::{ClearList, Listed};
use floe::format::frame::{FRAME_HEADER, FrameHeader, FrameKind, RawFrameHeader};
use floe::format::head::RawHeadSlot;
use floe::format::ids::LogOffset;
use floe::format::limits::{HEAD_SLOT_SPAN, LOG_START};
use floe::format::params::RawParams;
use floe::format::place::RawPlace;
use floe::format::root::{RootLogical, RootPhysical};
use floe::format::schema::{Coding, TABLES, Table};
use floe::format::tree_ref::RawTreeRef;
use floe::format::view::RawView;
use std::collections::HashMap;
use std::fmt::Write;

const END: &str = "end of the image";

/// Names of the integer columns, where the specification names them.
const INODE_COLUMNS: &[&str] = &[
    "mode", "uid", "gid", "links", "size", "mtime", "mtime_ns", "subchunk", "content", "tiny", "xattrs", "parent",
    "ctime", "ctime_ns", "atime", "atime_ns",
];
const COLUMNS: [&[&str]; 11] = [
    INODE_COLUMNS,
    &["inode", "type"],
    &["subchunk", "count", "skip", "length"],
    &[],
    &[],
    INODE_COLUMNS,
    &["count"],
    &[
        "kind / superchunk",
        "offset / position",
        "copy",
        "clear_len / count",
        "stored_len / composed",
        "raw_len",
        "codec",
        "flags",
    ],
    &[],
    &["length", "frame", "offset"],
    &["users"],
];

struct Dump<'a> {
    image: &'a [u8],
    out: String,
    seen: HashMap<&'a [u8], usize>,
}

/// The whole image as markdown.
pub fn dump(image: &[u8]) -> String {
    let mut dump = Dump { image, out: String::new(), seen: HashMap::new() };
    let mut log_end = image.len() as u64;
    for (slot, at) in [("A", 0), ("B", HEAD_SLOT_SPAN as usize)] {
        dump.begin(&format!("Head slot {slot}, at {at}"));
        dump.fields(at, RawHeadSlot::FIELDS, "");
        dump.end();
        let raw = RawHeadSlot::read(&image[at..], "head slot").expect("the image has head slots");
        log_end = raw.validate().expect("the head slots verify").log_end.0;
    }
    let mut at = LOG_START;
    while at < log_end {
        let log_id = RawHeadSlot::read(image, "head slot").expect("it was read above").log_id.get();
        let raw = RawFrameHeader::read(&image[at as usize..], "frame header").expect("a frame at the next offset");
        let header = raw.validate(log_id, LogOffset(at)).expect("each frame verifies");
        dump.frame(&header);
        at += header.frame_len();
    }
    dump.out.push_str("```hex\n");
    let _ = writeln!(dump.out, "{:08x}  ; {END}\n```", image.len());
    dump.out
}

/// The bytes that a dump shows; all other bytes are zero.
pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<u8>, String> {
    let (mut out, mut fenced, mut ended) = (Vec::new(), false, false);
    for line in lines {
        if line.starts_with("```") {
            fenced = line.trim() == "```hex";
            continue;
        }
        if !fenced || line.trim().is_empty() {
            continue;
        }
        let (bytes, note) = line.split_once(';').unwrap_or((line, ""));
        let mut words = bytes.split_whitespace();
        let offset =
            words.next().and_then(|w| usize::from_str_radix(w, 16).ok()).ok_or(format!("offset in '{line}'"))?;
        let bytes: Vec<u8> = words
            .map(|w| u8::from_str_radix(w, 16).map_err(|e| format!("byte '{w}' in '{line}': {e}")))
            .collect::<Result<_, _>>()?;
        if offset < out.len() || ended || offset > 1 << 24 {
            return Err(format!("'{line}' is out of order"));
        }
        ended = note.trim() == END;
        out.resize(offset, 0);
        out.extend_from_slice(&bytes);
    }
    if ended { Ok(out) } else { Err(format!("no line '; {END}'")) }
}

impl<'a> Dump<'a> {
    fn begin(&mut self, title: &str) {
        let _ = write!(self.out, "**{title}**\n\n```hex\n");
    }

    fn end(&mut self) {
        self.out.push_str("```\n\n");
    }

    /// Lines for `image[at..at + len]`; the first one has the note.
    fn put(&mut self, at: usize, len: usize, note: &str) {
        let mut note = Some(note);
        for start in (at..at + len).step_by(16) {
            let bytes = &self.image[start..(start + 16).min(at + len)];
            if bytes.iter().all(|&b| b == 0) {
                continue;
            }
            let hex: Vec<_> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let line = match note.take() {
                Some(note) => format!("{start:08x}  {:<48}; {note}", hex.join(" ")),
                None => format!("{start:08x}  {}", hex.join(" ")),
            };
            self.out.push_str(&line);
            self.out.push('\n');
        }
    }

    fn fields(&mut self, at: usize, fields: &[Field], prefix: &str) {
        for field in fields {
            let (start, name) = (at + field.offset, format!("{prefix}{}", field.name));
            let nested = match (field.name, field.size) {
                ("params", RawParams::SIZE) => Some(RawParams::FIELDS),
                ("root" | "map", RawPlace::SIZE) => Some(RawPlace::FIELDS),
                ("view", RawView::SIZE) => Some(RawView::FIELDS),
                (tree, RawTreeRef::SIZE) if tree.ends_with("_tree") => Some(RawTreeRef::FIELDS),
                _ => None,
            };
            if let Some(nested) = nested {
                self.fields(start, nested, &format!("{name}."));
                continue;
            }
            let bytes = &self.image[start..start + field.size];
            let note = match field.name {
                "magic" => format!("{name} \"{}\"", bytes.escape_ascii()),
                "crc" | "sum" | "log_id" | "hash" | "root_hash" | "uuid" | "lineage" => name,
                _ if field.size <= 8 => {
                    let mut value = [0; 8];
                    value[..field.size].copy_from_slice(bytes);
                    format!("{name} {}", u64::from_le_bytes(value))
                }
                _ => name,
            };
            self.put(start, field.size, &note);
        }
    }

    fn frame(&mut self, header: &FrameHeader) {
        let at = header.offset.0 as usize;
        self.begin(&format!("A {} of {} bytes, at {at}", header.kind.name(), header.frame_len()));
        self.fields(at, RawFrameHeader::FIELDS, "");
        let clear = at + FRAME_HEADER;
        let stored = clear + header.clear_len as usize;
        let mut parts = Vec::new();
        if header.kind.has_clear_list() {
            let bytes = &self.image[clear..stored];
            let list = ClearList::decode(bytes, header.raw_len).expect("clear lists verify");
            self.clear_list(clear, bytes);
            parts = list.subchunks;
        }
        let bytes = &self.image[stored..stored + header.stored_len as usize];
        let first = *self.seen.entry(bytes).or_insert(at);
        if first != at {
            self.put(stored, bytes.len(), &format!("stored bytes, the same as of the frame at {first}"));
        } else if header.codec != 0 || header.flags.parts() {
            self.put(stored, bytes.len(), &format!("stored bytes, codec {}", header.codec));
        } else {
            match header.kind {
                FrameKind::ROOT => self.root(stored),
                FrameKind::MAP_BLOCK => self.block(stored, bytes.len()),
                FrameKind::SUPERCHUNK | FrameKind::TABLE_GROUP => {
                    let mut at = stored;
                    for Listed { id, len, .. } in parts {
                        if header.kind == FrameKind::SUPERCHUNK {
                            self.put(at, len as usize, &format!("subchunk {id}, {len} bytes"));
                        } else {
                            self.out.push_str(&format!("{at:08x}  ; subchunk {id}, {len} bytes\n"));
                            self.block(at, len as usize);
                        }
                        at += len as usize;
                    }
                }
                _ => self.put(stored, bytes.len(), "stored bytes"),
            }
        }
        self.end();
    }

    fn clear_list(&mut self, at: usize, bytes: &'a [u8]) {
        let mut cursor = Cursor::new(bytes, "clear list");
        let step = |dump: &mut Self, cursor: &mut Cursor<'_>, count: usize, note: &str| {
            let from = bytes.len() - cursor.remaining();
            let values: Vec<u64> = (0..count).map(|_| cursor.varint().expect("clear lists verify")).collect();
            let to = bytes.len() - cursor.remaining();
            // A zero inside a list matters, so these bytes are shown even if `put` would skip them.
            let hex: Vec<_> = bytes[from..to].iter().map(|b| format!("{b:02x}")).collect();
            for (i, line) in hex.chunks(16).enumerate() {
                let note = if i == 0 { format!("; clear list: {note} {values:?}") } else { String::new() };
                let line = format!("{:08x}  {:<48}{note}", at + from + 16 * i, line.join(" "));
                let _ = writeln!(dump.out, "{}", line.trim_end());
            }
            values
        };
        step(self, &mut cursor, 1, "superchunk");
        let runs = step(self, &mut cursor, 1, "runs")[0];
        for _ in 0..runs {
            step(self, &mut cursor, 1, "first id, zigzag difference");
            let header = step(self, &mut cursor, 1, "twice the count, and 1 if bits follow")[0];
            let (count, bits) = ((header >> 1) as usize, if header & 1 == 1 { (header >> 1).div_ceil(8) } else { 0 });
            let from = bytes.len() - cursor.remaining();
            cursor.take(bits as usize).expect("clear lists verify");
            self.put(at + from, bits as usize, "bits of the composed");
            step(self, &mut cursor, count, "lengths");
        }
        self.put(at + bytes.len() - 4, 4, "crc");
    }

    fn root(&mut self, at: usize) {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| self.image[at + i]));
        let (logical, physical) = (word(at), word(at + 4));
        self.put(at, 4, &format!("length of the logical part {logical}"));
        self.put(at + 4, 4, &format!("length of the physical part {physical}"));
        self.fields(at + 8, RootLogical::FIELDS, "");
        self.fields(at + 8 + logical as usize, RootPhysical::FIELDS, "");
    }

    fn block(&mut self, at: usize, len: usize) {
        let raw = &self.image[at..at + len];
        let (table, level) = (TABLES[usize::from(raw[0]) - 1], raw[1]);
        Block::decode(table, level, raw).expect("table blocks are right");
        let width = usize::from(raw[2]);
        let rows = u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]);
        self.put(at, 4, &format!("table {} ({}), level {level}, {width} integers", raw[0], table.name));
        self.put(at + 4, 4, &format!("rows {rows}"));
        let lengths: Vec<usize> = raw[8..8 + 4 * (7 + width)]
            .chunks_exact(4)
            .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]) as usize)
            .collect();
        self.put(at + 8, 4 * lengths.len(), &format!("lengths of the streams {lengths:?}"));
        let mut start = at + 8 + 4 * lengths.len();
        for (i, length) in lengths.into_iter().enumerate() {
            let note = stream_note(table, level, i, &self.image[start..start + length]);
            self.put(start, length, &note);
            start += length;
        }
    }
}

/// Name of stream `i`, and its values.
fn stream_note(table: &Table, level: u8, i: usize, bytes: &[u8]) -> String {
    let codings = table.schema(level).ints;
    let columns = if level == 0 { COLUMNS[usize::from(table.id().0) - 1] } else { &[] };
    let name = match i {
        0..5 => ["a", "b", "shared", "name_len", "name"][i].to_owned(),
        _ if i - 5 < codings.len() => columns.get(i - 5).map_or(format!("integer {}", i - 5), |n| (*n).to_owned()),
        _ if i - 5 == codings.len() => "tail_len".to_owned(),
        _ => "tail".to_owned(),
    };
    if name == "name" || name == "tail" {
        return format!("{name} \"{}\"", bytes.escape_ascii());
    }
    let mut cursor = Cursor::new(bytes, "stream");
    let mut plain = Vec::new();
    while cursor.remaining() > 0 {
        plain.push(cursor.varint().expect("the block was decoded"));
    }
    let mut last = 0u64;
    let values: Vec<u64> = plain
        .into_iter()
        .map(|value| match codings.get(i.wrapping_sub(5)) {
            Some(Coding::Delta) => {
                last = last.wrapping_add(unzigzag(value) as u64);
                last
            }
            Some(Coding::Nullable) if value > 0 => {
                last = last.wrapping_add(unzigzag(value - 1) as u64);
                last
            }
            _ => value,
        })
        .collect();
    format!("{name} {values:?}")
}
