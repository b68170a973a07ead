//! What `pack` and `mkfs` have in common: how an image is made.

use super::sentence::told;
use super::size::Human;
use super::{Exit, size, time};
use crate::format::codec::Compression;
use crate::format::limits;
use crate::format::params::{Chunker, HashKind, Params};
use crate::format::profile::{Profile, working_set};
use crate::pack::PackOptions;
use crate::storage::Owner;
use anyhow::Context as _;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use std::ffi::OsString;
use std::io;
use std::path::Path;

/// Smallest subchunk that `fixed:` may ask for, in bytes.
const FIXED_MIN: u64 = 64;
/// Shortest match that may be asked for, in bytes: a shorter one costs more than it saves.
const MATCH_MIN: u64 = 64;

/// How data is cut and stored.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Codec")]
pub struct Codec {
    /// Codec, sizes, matching and working set by name; the next options change a part of it
    #[arg(long, value_name = "NAME", default_value_t = Profile::default(), value_parser = profiles())]
    profile: Profile,
    /// zstd:LEVEL (1 to 22), xz:LEVEL (0 to 9) or none [default: by profile; zstd:12]
    #[arg(short = 'C', long, value_name = "CODEC")]
    compression: Option<Compression>,
    /// Size of the unit that is compressed as a whole, 1M to 64M [default: by profile; 4M]
    #[arg(long, value_name = "SIZE", value_parser = superchunk_size)]
    superchunk_size: Option<u32>,
    /// Compress superchunks of large files in parts of this size, each of which can be read alone: for random reads [default: by profile; 128K]
    #[arg(long, value_name = "SIZE", value_parser = part_size)]
    part_size: Option<u32>,
    /// Shortest range of earlier data that is not stored again; 0 for no matching [default: by profile; 128]
    #[arg(long, value_name = "BYTES", value_parser = min_match)]
    min_match: Option<u32>,
    /// How many other superchunks one superchunk may take data from: more makes the image smaller and slower to read [default: by profile; 12]
    #[arg(long, value_name = "N")]
    max_sources: Option<u8>,
    /// How files are cut into subchunks: fastcdc (depends on the content) or fixed:SIZE
    #[arg(long, value_name = "HOW", default_value = "fastcdc", value_parser = chunker)]
    chunker: Chunker,
    /// Hash used to find duplicates: blake3 or xxh3 (faster, not proof against forgery)
    #[arg(long, value_name = "HASH", default_value = "blake3", value_parser = hash)]
    hash: HashKind,
}

/// Returns a parser of the profiles' names, each with a text about its images. The figures in it are those of
/// `benches/README.md`.
fn profiles() -> impl TypedValueParser<Value = Profile> {
    let values = Profile::ALL.map(|profile| {
        PossibleValue::new(profile.name()).help(match profile {
            Profile::Fast => "zstd:3, superchunks of 4 MiB: about half the CPU time of balanced, a fifth larger",
            Profile::Balanced => "zstd:12, 4 MiB: the default",
            Profile::Small => "zstd:19, 16 MiB: smaller than balanced, many times the CPU time",
            Profile::Smallest => "xz:9, 16 MiB: smaller still; slow to read, and reading wants 512 MiB of memory",
        })
    });
    PossibleValuesParser::new(values).try_map(|name| name.parse::<Profile>())
}

fn superchunk_size(text: &str) -> Result<u32, String> {
    within(text, size::parse(text)?, limits::SUPERCHUNK_MIN.into(), limits::SUPERCHUNK_MAX.into())
}

fn part_size(text: &str) -> Result<u32, String> {
    within(text, size::parse(text)?, limits::PART_MIN.into(), limits::SUPERCHUNK_MAX.into())
}

fn min_match(text: &str) -> Result<u32, String> {
    match size::parse(text)? {
        0 => Ok(0),
        bytes => within(text, bytes, MATCH_MIN, limits::SUBCHUNK_LEN),
    }
}

fn chunker(text: &str) -> Result<Chunker, String> {
    match text.split_once(':') {
        None if text == "fastcdc" => Ok(Chunker::DEFAULT),
        Some(("fixed", len)) => {
            let len = within(len, size::parse(len)?, FIXED_MIN, limits::SUBCHUNK_LEN)?;
            Ok(Chunker::Fixed(len))
        }
        _ => Err(format!("'{text}' is not a chunker (fastcdc, or fixed:32K)")),
    }
}

fn within(text: &str, bytes: u64, min: u64, max: u64) -> Result<u32, String> {
    let fits = u32::try_from(bytes).ok().filter(|_| (min..=max).contains(&bytes));
    fits.ok_or_else(|| format!("'{text}' is not from {} to {}", Human(min), Human(max)))
}

fn hash(text: &str) -> Result<HashKind, String> {
    match text {
        "blake3" => Ok(HashKind::Blake3),
        "xxh3" => Ok(HashKind::Xxh3),
        _ => Err(format!("'{text}' is not a hash (blake3, or xxh3)")),
    }
}

/// Returns how many sources superchunks of another size than the profile's have: with larger ones fewer, so that they
/// need no more memory to read.
fn sources(own: &Params, superchunk_size: u32) -> u8 {
    let bytes = u64::from(own.max_sources) * u64::from(own.superchunk_size);
    (bytes / u64::from(superchunk_size)).clamp(1, own.max_sources.max(1).into()) as u8
}

impl Codec {
    /// Returns the parameters: those of the profile, changed by the other options. If codec or sizes are not those of
    /// the profile, the parameters name no profile.
    fn params(&self) -> anyhow::Result<(Params, Compression)> {
        let own = self.profile.params();
        let superchunk_size = self.superchunk_size.unwrap_or(own.superchunk_size);
        // The profile's parts may be too large for superchunks of a size that was given; those that were given may not.
        let part_size = self.part_size.or(own.part_size.filter(|part| *part <= superchunk_size));
        if part_size.is_some_and(|part| part > superchunk_size) {
            return Err(told(Exit::Usage, "--part-size is more than --superchunk-size"));
        }
        let compression = self.compression.unwrap_or(self.profile.compression());
        let (codec, level) = (compression.codec_number(), compression.level());
        let chosen = Params {
            superchunk_size,
            part_size,
            codec,
            level,
            max_sources: self.max_sources.unwrap_or_else(|| sources(&own, superchunk_size)),
            // Bytes can be compared before they are shared, but not before they are in an image.
            min_match: if self.hash == HashKind::Xxh3 { 0 } else { self.min_match.unwrap_or(own.min_match) },
            working_set: own.working_set.max(working_set(superchunk_size)),
            ..own
        };
        let profile = if chosen == own { own.profile } else { 0 };
        Ok((Params { profile, chunker: self.chunker, hash: self.hash, ..chosen }, compression))
    }
}

/// Returns the options that every new image needs: its parameters, its time, its ids and its writer.
///
/// # Errors
/// Fails if the sizes contradict each other, or the system gives no random bytes.
pub fn options(codec: &Codec, timestamp: Option<i64>) -> anyhow::Result<PackOptions> {
    let (params, compression) = codec.params()?;
    Ok(PackOptions {
        params,
        compression,
        timestamp: match timestamp {
            Some(given) => Some(given),
            None => source_date(std::env::var_os("SOURCE_DATE_EPOCH"))?,
        },
        now: time::now(),
        seed: Some(random_seed().context("cannot get random bytes for the image's uuid")?),
        umask: umask(),
        writer: Some(Owner::current()),
        ..PackOptions::default()
    })
}

/// Parses the value of the environment variable SOURCE_DATE_EPOCH, which is a time. An empty value counts as unset.
fn source_date(variable: Option<OsString>) -> anyhow::Result<Option<i64>> {
    let Some(text) = variable.filter(|text| !text.is_empty()) else { return Ok(None) };
    let parsed = text.to_str().map_or_else(|| Err("it is not text".to_owned()), time::parse);
    parsed.map(Some).map_err(|why| told(Exit::Usage, format!("SOURCE_DATE_EPOCH: {why}")))
}

/// Refuses `-` as the image: an image is not written from its beginning to its end.
///
/// # Errors
/// Fails with [`Exit::Usage`] if the image is named so.
pub fn refuse_standard_output(image: &Path) -> anyhow::Result<()> {
    if image.as_os_str() == "-" {
        let why = "an image cannot be written to standard output: name a file ('./-' is a file of this name)";
        return Err(told(Exit::Usage, why));
    }
    Ok(())
}

/// Returns 32 random bytes.
///
/// # Errors
/// Fails if the kernel has none.
pub fn random_seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    let mut filled = 0;
    while let Some(rest) = seed.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(seed)
}

/// Returns the process's umask, which can be asked for only by setting it: call it while no other thread makes files.
pub fn umask() -> u32 {
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(umask);
    umask.as_raw_mode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn sizes_out_of_range_are_named_with_the_range() {
        assert_eq!(superchunk_size("16M"), Ok(16 << 20));
        assert_eq!(superchunk_size("100M"), Err("'100M' is not from 1.00 MiB to 64.0 MiB".into()));
        assert!(superchunk_size("4G").is_err() && superchunk_size("5000000000").is_err());
        assert!(part_size("1").is_err());
        assert_eq!(part_size("128K"), Ok(128 << 10));
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        codec: Codec,
    }

    fn params(line: &[&str]) -> (Params, Compression) {
        let line = Line::try_parse_from(std::iter::once("x").chain(line.iter().copied())).unwrap();
        line.codec.params().unwrap()
    }

    #[test]
    fn a_name_gives_what_the_table_says_and_no_name_gives_balanced() {
        for profile in Profile::ALL {
            assert_eq!(params(&["--profile", profile.name()]), (profile.params(), profile.compression()));
        }
        assert_eq!(params(&[]), params(&["--profile", "balanced"]));
        // What the profile has anyway, and what it says nothing of, is no other profile.
        assert_eq!(params(&["-C", "zstd:12", "--superchunk-size", "4M"]), params(&[]));
        assert_eq!(params(&["--chunker", "fixed:32K"]).0.profile, Profile::Balanced.number());
    }

    #[test]
    fn what_is_given_beside_a_profile_changes_that_part_of_it_and_the_image_has_none_then() {
        let fast = Profile::Fast.params();
        let (changed, compression) = params(&["--profile", "fast", "-C", "xz:6"]);
        assert_eq!(compression, Compression::Xz(6));
        assert_eq!(changed, Params { codec: 2, level: 6, profile: 0, ..fast });
        let (changed, compression) = params(&["--profile", "fast", "--superchunk-size", "1M", "--part-size", "64K"]);
        assert_eq!(compression, Profile::Fast.compression());
        assert_eq!(changed, Params { superchunk_size: 1 << 20, part_size: Some(64 << 10), profile: 0, ..fast });
    }

    #[test]
    fn larger_superchunks_want_a_larger_working_set() {
        assert_eq!(params(&["--superchunk-size", "32M"]).0.working_set, 512);
        assert_eq!(params(&["--superchunk-size", "1M"]).0.working_set, Profile::Balanced.params().working_set);
    }

    #[test]
    fn an_empty_source_date_is_none() {
        let date = |text: &str| source_date(Some(text.into()));
        assert_eq!(source_date(None).unwrap(), None);
        assert_eq!(date("").unwrap(), None);
        assert_eq!(date("1700000000").unwrap(), Some(1_700_000_000));
        assert!(date("yesterday").is_err());
    }

    #[test]
    fn chunkers_are_named_with_their_size() {
        assert_eq!(chunker("fastcdc"), Ok(Chunker::DEFAULT));
        assert_eq!(chunker("fixed:32K"), Ok(Chunker::Fixed(32 << 10)));
        for wrong in ["fixed", "fixed:0", "fixed:", "fixed:2M", "fastcdc:32K", "rabin"] {
            assert!(chunker(wrong).is_err(), "{wrong}");
        }
    }
}
