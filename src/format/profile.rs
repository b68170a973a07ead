//! The profiles: named sets of parameters, from the fastest to pack to the smallest.
//!
//! [`Profile::params`] is the only place that defines them. The values come from `benches/profiles.sh`, see
//! `benches/README.md`. An image records the number of its profile and also all its parameters: a later version may
//! change a profile, and the parameters of an existing image stay as they are. Called by cli and bench.

use super::FormatError;
use super::codec::Compression;
use super::params::Params;
use std::fmt;
use std::str::FromStr;

/// A named set of parameters for a new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// This profile packs several times as fast as the default.
    Fast,
    /// This profile balances speed and size. It is the default.
    #[default]
    Balanced,
    /// This profile makes a smaller image, which is read nearly as fast and packed much more slowly.
    Small,
    /// This profile makes the image as small as possible, however long packing and reading take.
    Smallest,
}

/// Number of superchunks that a working set should hold. With fewer, files that are read at the same time evict each
/// other's.
const WORKING_SUPERCHUNKS: u64 = 16;

/// Returns the working set in MiB that a reader of superchunks of `superchunk_size` bytes should have.
pub fn working_set(superchunk_size: u32) -> u32 {
    // A u32 times a small factor, in MiB, fits.
    (u64::from(superchunk_size) * WORKING_SUPERCHUNKS).div_ceil(1 << 20) as u32
}

/// The parameters that a profile sets.
struct Entry {
    compression: Compression,
    superchunk_size: u32,
    part_size: Option<u32>,
    /// Most superchunks that one superchunk takes data from, and the shortest range that it takes.
    max_sources: u8,
    min_match: u32,
    /// Working set of a reader, in MiB.
    working_set: u32,
}

impl Profile {
    /// All profiles, from the fastest to pack to the smallest.
    pub const ALL: [Profile; 4] = [Profile::Fast, Profile::Balanced, Profile::Small, Profile::Smallest];

    fn entry(self) -> Entry {
        let parts = Some(128 << 10);
        let (compression, superchunk_size, part_size, max_sources, min_match, working_set) = match self {
            Profile::Fast => (Compression::Zstd(3), 4 << 20, parts, 12, 256, 64),
            Profile::Balanced => (Compression::Zstd(12), 4 << 20, parts, 12, 128, 64),
            Profile::Small => (Compression::Zstd(19), 16 << 20, None, 14, 128, 256),
            Profile::Smallest => (Compression::Xz(9), 16 << 20, None, 24, 128, 512),
        };
        Entry { compression, superchunk_size, part_size, max_sources, min_match, working_set }
    }

    /// Returns the parameters of the profile's images; codec and level are those of [`Profile::compression`].
    pub fn params(self) -> Params {
        let Entry { compression, superchunk_size, part_size, max_sources, min_match, working_set } = self.entry();
        let (codec, level) = (compression.codec_number(), compression.level());
        Params {
            superchunk_size,
            part_size,
            codec,
            level,
            profile: self.number(),
            max_sources,
            min_match,
            working_set,
            ..Params::default()
        }
    }

    /// Returns the profile's codec and level.
    pub fn compression(self) -> Compression {
        self.entry().compression
    }

    /// Returns the profile's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Fast => "fast",
            Profile::Balanced => "balanced",
            Profile::Small => "small",
            Profile::Smallest => "smallest",
        }
    }

    /// Returns the number that stands for this profile in an image's parameters.
    pub fn number(self) -> u8 {
        match self {
            Profile::Fast => 1,
            Profile::Balanced => 2,
            Profile::Small => 3,
            Profile::Smallest => 4,
        }
    }

    /// Returns the profile with this number, or `None` for 0 (no profile) and for profiles of later versions.
    pub fn from_number(number: u8) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.number() == number)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let found = Profile::ALL.into_iter().find(|profile| profile.name() == text);
        found.ok_or(FormatError::invalid("profile", "use fast, balanced, small or smallest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::params::RawParams;

    #[test]
    fn the_parameters_of_every_profile_are_valid_and_name_its_codec_and_number() {
        for profile in Profile::ALL {
            let params = profile.params();
            assert_eq!(RawParams::from(&params).validate().unwrap(), params, "{profile}");
            assert_eq!(Compression::from_numbers(params.codec, params.level).unwrap(), profile.compression());
            assert_eq!(Profile::from_number(params.profile), Some(profile));
        }
    }

    #[test]
    fn names_and_numbers_are_those_of_the_format() {
        let all = Profile::ALL.map(|profile| (profile.number(), profile.name()));
        assert_eq!(all, [(1, "fast"), (2, "balanced"), (3, "small"), (4, "smallest")]);
        assert!(Profile::ALL.iter().all(|profile| profile.to_string().parse::<Profile>().unwrap() == *profile));
        assert!("".parse::<Profile>().is_err() && "Fast".parse::<Profile>().is_err());
        assert_eq!((Profile::from_number(0), Profile::from_number(5)), (None, None));
    }

    #[test]
    fn balanced_is_the_default_and_has_the_default_sizes() {
        let (own, before) = (Profile::Balanced.params(), Params::default());
        assert_eq!((Profile::default(), Profile::Balanced.compression()), (Profile::Balanced, Compression::default()));
        assert_eq!(
            (own.superchunk_size, own.level, own.chunker),
            (before.superchunk_size, before.level, before.chunker)
        );
    }

    #[test]
    fn a_superchunk_and_its_sources_fit_into_the_working_set() {
        for params in Profile::ALL.map(Profile::params) {
            let needed = (u64::from(params.max_sources) + 1) * u64::from(params.superchunk_size);
            assert!(needed < u64::from(params.working_set) << 20, "{params:?}");
        }
    }

    #[test]
    fn the_working_set_of_every_profile_suits_its_superchunks() {
        for params in Profile::ALL.map(Profile::params) {
            assert!(params.working_set >= working_set(params.superchunk_size));
        }
    }
}
