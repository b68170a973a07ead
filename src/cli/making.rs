//! What `pack` and `mkfs` have in common: how an image is made.

use super::sentence::told;
use super::size::Human;
use super::{Exit, size, time};
use crate::format::codec::Compression;
use crate::format::limits;
use crate::format::params::{Chunker, HashKind, Params};
use crate::pack::PackOptions;
use crate::storage::Owner;
use anyhow::Context as _;
use std::io;

/// Smallest subchunk that `fixed:` may ask for, in bytes.
const FIXED_MIN: u64 = 64;

/// How data is cut and stored.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Codec")]
pub struct Codec {
    /// zstd:LEVEL (1 to 22), xz:LEVEL (0 to 9) or none
    #[arg(short = 'C', long, value_name = "CODEC", default_value_t = Compression::default())]
    compression: Compression,
    /// Size of the unit that is compressed as a whole, 1M to 64M
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = superchunk_size)]
    superchunk_size: u32,
    /// Compress superchunks in parts of this size, each of which can be read alone: for random reads
    #[arg(long, value_name = "SIZE", value_parser = part_size)]
    part_size: Option<u32>,
    /// How files are cut into subchunks: fastcdc (depends on the content) or fixed:SIZE
    #[arg(long, value_name = "HOW", default_value = "fastcdc", value_parser = chunker)]
    chunker: Chunker,
    /// Hash used to find duplicates: blake3 or xxh3 (faster, not proof against forgery)
    #[arg(long, value_name = "HASH", default_value = "blake3", value_parser = hash)]
    hash: HashKind,
}

fn superchunk_size(text: &str) -> Result<u32, String> {
    within(text, size::parse(text)?, limits::SUPERCHUNK_MIN.into(), limits::SUPERCHUNK_MAX.into())
}

fn part_size(text: &str) -> Result<u32, String> {
    within(text, size::parse(text)?, limits::PART_MIN.into(), limits::SUPERCHUNK_MAX.into())
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

/// The part of the options that every new image needs: its parameters, its time, its ids and its writer.
///
/// # Errors
/// If the sizes contradict each other, or the system gives no random bytes.
pub fn options(codec: &Codec, timestamp: Option<i64>) -> anyhow::Result<PackOptions> {
    if codec.part_size.is_some_and(|part| part > codec.superchunk_size) {
        return Err(told(Exit::Usage, "--part-size is more than --superchunk-size"));
    }
    Ok(PackOptions {
        params: Params {
            superchunk_size: codec.superchunk_size,
            part_size: codec.part_size,
            chunker: codec.chunker,
            hash: codec.hash,
            ..Params::default()
        },
        compression: codec.compression,
        timestamp,
        now: time::now(),
        seed: Some(random_seed().context("cannot get random bytes for the image's uuid")?),
        umask: umask(),
        writer: Some(Owner::current()),
        ..PackOptions::default()
    })
}

/// 32 random bytes.
///
/// # Errors
/// The kernel has none.
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

/// The process's umask, which can be asked for only by setting it; no thread that makes files runs yet.
fn umask() -> u32 {
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(umask);
    umask.as_raw_mode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_out_of_range_are_named_with_the_range() {
        assert_eq!(superchunk_size("16M"), Ok(16 << 20));
        assert_eq!(superchunk_size("100M"), Err("'100M' is not from 1.00 MiB to 64.0 MiB".into()));
        assert!(superchunk_size("4G").is_err() && superchunk_size("5000000000").is_err());
        assert!(part_size("1").is_err());
        assert_eq!(part_size("128K"), Ok(128 << 10));
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
