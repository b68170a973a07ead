//! `floe info`: what an image is made of, and what its bytes are spent on.

use super::args::{ImageArg, Place};
use super::open::{self, Opened, shown};
use super::size::{Human, counted};
use super::time::Utc;
use super::{Context, Exit, output, tell};
use crate::format::codec::Compression;
use crate::format::head::VERSION;
use crate::format::params::{Chunker, HashKind, Params};
use crate::format::profile::Profile;
use crate::meta::{self, Image, Matched, Space, ThawedCount, Usage};
use crate::storage::Storage;
use anyhow::Context as _;
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

const EXAMPLES: &str = "\
Reads headers and tables, no data. 'live' counts what files or snapshots need, 'dead' what is left of deleted and overwritten \
files. The stored bytes of a superchunk that is partly live are divided in proportion to its raw bytes. What is dead takes space until \
'floe gc' frees it, which takes superchunks that are wholly dead.

Examples:
  floe info photos.floe
  floe info --json photos.floe | jq .sizes
";

/// `floe info`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    image: ImageArg,
}

/// Runs `floe info`: shows what the image consists of.
///
/// # Errors
/// Fails if the image cannot be opened, or its tables cannot be read.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let place = args.image.resolve()?;
    let path = &place.path;
    let opened = Opened::open(&place)?;
    let what = || format!("cannot read image '{}'", shown(path));
    let usage = opened.image.usage().with_context(what)?;
    let thawed = opened.image.thawed_count().with_context(what)?;
    let bytes = opened.storage.len().with_context(what)?;
    let space = space(path, &opened, &usage);
    let matched = opened.image.matched();
    // The map is damaged then, of which the warning above says enough.
    if let (Err(why), true) = (&matched, space.is_some()) {
        tell::warning(format!("{}: it is not known what matching saved: {why}", shown(path)));
    }
    let beside = Beside::of(&place, &opened);
    let measured = Measured { bytes, usage: &usage, thawed: &thawed, space, matched: matched.ok() };
    let info = Info::new(shown(path).into_owned(), &opened.image, &measured, beside);
    if context.json {
        output::document(&info)?;
    } else {
        let mut out = output::stdout();
        info.print(&mut out)?;
        out.flush()?;
    }
    Ok(Exit::Done)
}

/// Returns the live and dead bytes. If they cannot be counted, in a damaged image, it prints a warning and returns
/// `None`.
fn space(path: &Path, opened: &Opened, usage: &Usage) -> Option<Space> {
    let why = match meta::space(&opened.image, usage) {
        Ok(space) if space.unknown == 0 => return Some(space),
        Ok(space) => format!("the map lacks {} that files need", counted(space.unknown, "subchunk")),
        Err(error) => error.to_string(),
    };
    tell::warning(format!("{}: it is not known what is live and what is dead: {why}", shown(path)));
    None
}

/// Figures that were measured of an image.
struct Measured<'a> {
    /// Length of the file in bytes.
    bytes: u64,
    usage: &'a Usage,
    thawed: &'a ThawedCount,
    space: Option<Space>,
    matched: Option<Matched>,
}

#[derive(Serialize)]
struct Info {
    image: String,
    format_version: u16,
    uuid: String,
    lineage: String,
    generation: u64,
    clean: bool,
    root_hash: String,
    view_hash: String,
    time: i64,
    packed_time: i64,
    params: ParamsShown,
    counts: Counts,
    sizes: Sizes,
    /// Live and dead bytes; absent if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    space: Option<SpaceShown>,
    /// What matching saved and costs; absent if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    matching: Option<MatchingShown>,
    thawed: output::Thawed,
    /// The process that writes the image, if there is one: all figures are then of its last checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    writer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thaw_log: Option<LogShown>,
    warnings: Vec<String>,
}

/// Files beside the image: thaw log and lock.
#[derive(Default)]
struct Beside {
    writer: Option<String>,
    log: Option<LogShown>,
}

#[derive(Serialize)]
struct LogShown {
    directory: output::Name,
    bytes: u64,
}

impl Beside {
    fn of(place: &Place, opened: &Opened) -> Self {
        let writer = open::writer(place, &opened.storage).map(|writer| writer.to_string());
        let log = open::thaw_log(place).unwrap_or_else(|error| {
            tell::warning(error.to_string());
            None
        });
        let log = log.map(|log| LogShown {
            directory: output::Name::new(log.directory.as_os_str().as_encoded_bytes()),
            bytes: log.bytes,
        });
        Beside { writer, log }
    }
}

#[derive(Serialize)]
struct ParamsShown {
    /// Name of the profile; absent if codec and sizes are no profile's, or one's that this version does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'static str>,
    compression: String,
    superchunk_size: u32,
    part_size: Option<u32>,
    chunker: String,
    hash: &'static str,
    trusted: bool,
    /// Most other superchunks that the recipes of one superchunk take bytes from.
    max_sources: u8,
    /// Least bytes that a recipe takes from another subchunk; 0 if the image is packed without matching.
    min_match: u32,
    table_block: u32,
    working_set: u64,
}

#[derive(Serialize)]
struct Counts {
    inodes: u64,
    subchunks: u64,
    superchunks: u64,
    /// Superchunks of file data that are compressed in parts; absent if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    superchunks_in_parts: Option<u64>,
}

#[derive(Serialize)]
struct Sizes {
    /// Bytes of all regular files.
    files: u64,
    /// Raw bytes of all different subchunks ever stored.
    unique: u64,
    /// Bytes that deduplication saved.
    shared: u64,
    image: u64,
    data: u64,
    data_raw: u64,
    clear_lists: u64,
    identities: u64,
    other_metadata: u64,
    heads: u64,
    punched: u64,
    parity: u64,
    other: u64,
    damaged: u64,
}

/// Bytes that files and snapshots need, and bytes that nothing needs.
#[derive(Serialize)]
struct SpaceShown {
    live_data: u64,
    live_tables: u64,
    dead_data: u64,
    dead_tables: u64,
    /// Dead bytes of frames in which nothing is live.
    wholly_dead: u64,
    /// Bytes of punched holes, which take no space.
    punched: u64,
}

/// What recipes save and cost.
#[derive(Serialize)]
struct MatchingShown {
    /// Number of subchunks with a recipe.
    composed: u64,
    /// Number of the pieces of all recipes.
    pieces: u64,
    /// Raw bytes taken from other subchunks.
    matched: u64,
    /// Bytes of the image for recipes; they are part of the other metadata.
    recipes: u64,
}

impl Info {
    fn new(name: String, image: &Image, measured: &Measured<'_>, beside: Beside) -> Self {
        let (head, root) = (image.head(), image.root());
        let Measured { bytes: image_bytes, usage, thawed, space, matched } = *measured;
        Info {
            image: name,
            format_version: VERSION,
            uuid: uuid(&head.uuid),
            lineage: uuid(&head.lineage),
            generation: head.generation,
            clean: head.clean,
            root_hash: output::hex(&head.root_hash),
            view_hash: output::hex(&root.view.hash()),
            time: root.time,
            packed_time: root.packed_time,
            params: ParamsShown::new(&root.params),
            counts: Counts {
                inodes: root.view.inodes,
                subchunks: root.subchunks,
                superchunks: usage.superchunks,
                superchunks_in_parts: matched.map(|matched| matched.in_parts),
            },
            sizes: Sizes {
                files: root.view.bytes,
                unique: root.unique_bytes,
                shared: root.shared_bytes,
                image: image_bytes,
                data: usage.data,
                data_raw: usage.data_raw,
                clear_lists: usage.clear_lists,
                identities: usage.identities,
                other_metadata: usage.other_metadata(),
                heads: usage.heads,
                punched: usage.punched,
                parity: usage.parity,
                other: usage.other,
                damaged: usage.damaged,
            },
            space: space.map(|space| SpaceShown {
                live_data: space.live_data,
                live_tables: space.live_tables,
                dead_data: space.dead_data,
                dead_tables: space.dead_tables,
                wholly_dead: space.wholly_dead,
                punched: usage.punched,
            }),
            matching: matched.map(|matched| MatchingShown {
                composed: matched.composed,
                pieces: matched.pieces,
                matched: matched.bytes,
                recipes: matched.recipe_bytes,
            }),
            thawed: output::Thawed::new(thawed),
            writer: beside.writer,
            thaw_log: beside.log,
            warnings: image.warnings().to_vec(),
        }
    }

    fn state(&self) -> String {
        match (&self.writer, self.clean, &self.thaw_log) {
            (Some(writer), ..) => format!("{writer} writes it; this is its last checkpoint"),
            (None, true, _) => "clean".to_owned(),
            (None, false, Some(_)) => "not complete without its thaw log".to_owned(),
            (None, false, None) => "not complete: its thaw log is missing".to_owned(),
        }
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut line = |name: &str, value: &dyn Display| writeln!(out, "{name:<16} {value}");
        let (p, c, s) = (&self.params, &self.counts, &self.sizes);
        line("image", &self.image)?;
        line("format", &format!("floe {}, generation {}", self.format_version, self.generation))?;
        line("state", &self.state())?;
        if let Some(log) = &self.thaw_log {
            line("thaw log", &format!("{} in '{}'", Human(log.bytes), log.directory.path))?;
        }
        line("uuid", &self.uuid)?;
        line("lineage", &self.lineage)?;
        line("root hash", &self.root_hash)?;
        line("view hash", &self.view_hash)?;
        line("newest change", &format!("{} UTC", Utc(self.time)))?;
        line("packed", &format!("{} UTC", Utc(self.packed_time)))?;
        if let Some(profile) = p.profile {
            line("profile", &profile)?;
        }
        line("compression", &p.compression)?;
        let parts = p.part_size.map_or_else(String::new, |size| format!(", in parts of {}", Human(size.into())));
        line("superchunks", &format!("{}{parts}", Human(p.superchunk_size.into())))?;
        if let Some(count) = c.superchunks_in_parts.filter(|count| *count > 0) {
            line("in parts", &counted(count, "superchunk"))?;
        }
        if p.min_match > 0 {
            let (least, most) = (Human(p.min_match.into()), counted(p.max_sources.into(), "other superchunk"));
            line("matching", &format!("{least} or more, from at most {most}"))?;
        }
        line("chunker", &p.chunker)?;
        line("hash", &format!("{}{}", p.hash, if p.trusted { " (not proof against forgery)" } else { "" }))?;
        line("working set", &format!("{} or more", Human(p.working_set)))?;
        line("inodes", &c.inodes)?;
        line("files", &Human(s.files))?;
        line(
            "unique",
            &format!(
                "{} in {}, {}",
                Human(s.unique),
                counted(c.subchunks, "subchunk"),
                counted(c.superchunks, "superchunk")
            ),
        )?;
        // Packing counts it, freezing does not.
        if s.shared > 0 {
            line("repeated", &Human(s.shared))?;
        }
        let matching = self.matching.as_ref().filter(|matching| matching.composed > 0);
        if let Some(matching) = matching {
            let composed = counted(matching.composed, "composed subchunk");
            line("matched", &format!("{} in {composed}", Human(matching.matched)))?;
        }
        for (name, thawed) in [("in the thaw log", self.thawed.in_log), ("lost", self.thawed.lost)] {
            if thawed.ranges > 0 {
                line(name, &format!("{} in {}", Human(thawed.bytes), counted(thawed.ranges, "range")))?;
            }
        }
        line("size", &format!("{} ({:.2}:1)", Human(s.image), ratio(s.files, s.image)))?;
        line("  data", &format!("{} ({:.2}:1)", Human(s.data), ratio(s.data_raw, s.data)))?;
        line("  clear lists", &Human(s.clear_lists))?;
        let each = |bytes, count, what| format!("{} ({:.1} B for each {what})", Human(bytes), ratio(bytes, count));
        line("  content hashes", &each(s.identities, c.subchunks, "subchunk"))?;
        line("  other metadata", &each(s.other_metadata, c.inodes, "inode"))?;
        if let Some(matching) = matching {
            line("    recipes", &each(matching.recipes, matching.composed, "composed subchunk"))?;
        }
        line("  heads", &Human(s.heads))?;
        for (name, bytes) in
            [("  punched", s.punched), ("  parity", s.parity), ("  other", s.other), ("  damaged", s.damaged)]
        {
            if bytes > 0 {
                line(name, &Human(bytes))?;
            }
        }
        if let Some(s) = &self.space {
            let parts = |data, tables| format!("{} of data, {} of tables", Human(data), Human(tables));
            line("live", &parts(s.live_data, s.live_tables))?;
            line("dead", &parts(s.dead_data, s.dead_tables))?;
        }
        Ok(())
    }
}

impl ParamsShown {
    fn new(params: &Params) -> Self {
        let compression = Compression::from_numbers(params.codec, params.level);
        ParamsShown {
            profile: Profile::from_number(params.profile).map(Profile::name),
            compression: compression.map_or_else(|_| format!("codec {}", params.codec), |known| known.to_string()),
            superchunk_size: params.superchunk_size,
            part_size: params.part_size,
            chunker: match params.chunker {
                Chunker::FastCdc { min, avg, max } => {
                    format!("fastcdc {}, {}, {}", Human(min.into()), Human(avg.into()), Human(max.into()))
                }
                Chunker::Fixed(len) => format!("fixed {}", Human(len.into())),
            },
            hash: match params.hash {
                HashKind::Blake3 => "blake3",
                HashKind::Xxh3 => "xxh3",
            },
            trusted: params.hash == HashKind::Xxh3,
            max_sources: params.max_sources,
            min_match: params.min_match,
            table_block: params.table_block,
            working_set: u64::from(params.working_set) << 20,
        }
    }
}

fn ratio(whole: u64, part: u64) -> f64 {
    whole as f64 / part.max(1) as f64
}

fn uuid(bytes: &[u8; 16]) -> String {
    let hex = output::hex(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_shown_in_five_groups() {
        assert_eq!(uuid(&[0xab; 16]), "abababab-abab-abab-abab-abababababab");
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!(ratio(5, 0), 5.0);
        assert_eq!(ratio(6, 4), 1.5);
    }
}
