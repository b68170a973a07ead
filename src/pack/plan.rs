//! How many threads fit in the memory limit.

use super::superchunk::compressor_memory;
use super::{PackError, PackOptions, matching, stored};
use std::path::{Path, PathBuf};

/// Most bytes of memory that everything except the compressors takes: queues of read data, rows before they go to a
/// temporary file, the index of a few million subchunks, the program itself.
const BASE: u64 = 160 << 20;
/// Divisor of the memory: rows and identities move to temporary files beyond one part in this many.
const SPILL_SHARE: u64 = 4;
/// Most threads that read files. More only make a spinning disk seek.
const MAX_READERS: usize = 8;

/// Number of threads, and thresholds in bytes, that fit into the memory limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) readers: usize,
    pub(super) compressors: usize,
    /// Number of bytes in memory beyond which rows move to a temporary file, and so does the dedup index.
    pub(super) spill_after: usize,
    /// Directory for temporary files.
    pub(super) temp_dir: PathBuf,
    /// Whether the stamps of the inodes are kept, so that the image can be verified.
    pub(super) stamps: bool,
}

impl Plan {
    /// Makes a plan. Lowers the number of compressors until they fit into the memory.
    pub(super) fn new(options: &PackOptions, image: &Path) -> Result<Self, PackError> {
        let each = compressor_memory(options.compression, options.params.superchunk_size);
        let jobs = options.jobs.max(1) as u64;
        let base = BASE + matching::memory(&options.params) + stored::memory(&options.params);
        let fit = options.memory.saturating_sub(base) / each;
        if fit == 0 {
            return Err(PackError::Memory { given: options.memory, need: base + each });
        }
        Ok(Plan {
            readers: options.jobs.clamp(2, MAX_READERS),
            compressors: jobs.min(fit) as usize,
            spill_after: (options.memory / SPILL_SHARE / 2) as usize,
            temp_dir: options.temp_dir.clone().unwrap_or_else(|| match image.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            }),
            stamps: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::profile::Profile;

    #[test]
    fn the_memory_by_default_suffices_for_every_profile() {
        for profile in Profile::ALL {
            let (params, compression) = (profile.params(), profile.compression());
            let options = PackOptions { params, compression, jobs: 64, ..PackOptions::default() };
            assert!(Plan::new(&options, Path::new("x")).unwrap().compressors > 0, "{profile}");
        }
    }

    #[test]
    fn threads_give_way_to_memory() {
        let many = PackOptions { jobs: 1000, memory: 1 << 30, ..PackOptions::default() };
        let plan = Plan::new(&many, Path::new("x")).unwrap();
        assert!((1..1000).contains(&plan.compressors), "{plan:?}");
        assert!(matches!(
            Plan::new(&PackOptions { memory: 1 << 20, ..many }, Path::new("x")),
            Err(PackError::Memory { .. })
        ));
    }
}
