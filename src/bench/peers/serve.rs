//! A mounted image, served by the kernel or by a program until it is unmounted.
//!
//! Invariant: when a [`Mount`] is dropped, the mount and the program are gone, too. Used only by `mod`.

use super::kit::{Family, Kit, Place, Way, cannot};
use crate::bench::command::{CommandError, Limits};
use crate::bench::mounts::Mounted;
use std::path::{Path, PathBuf};

/// A mounted image. Dropping it unmounts it.
#[derive(Debug)]
pub struct Mount {
    mounted: Mounted,
    root: PathBuf,
}

impl Mount {
    /// Returns the path of the root of the packed tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Unmounts, and waits until the serving program has ended.
    ///
    /// # Errors
    /// Fails if the mount is in use and could only be detached, or its program failed or had to be killed.
    pub fn end(self) -> Result<(), CommandError> {
        self.mounted.end()
    }
}

/// Mounts an image at an empty directory by the first way that works; returns `None` if none does.
pub(super) fn mount(
    family: &dyn Family,
    kit: &Kit,
    place: &Place,
    at: &Path,
    limits: &Limits<'_>,
) -> Result<Option<Mount>, CommandError> {
    for way in family.mounts(kit, place) {
        let mounted = match way {
            Way::Kernel(kind) if kit.kernel_mounts => Mounted::kernel(kind, &place.image, at, limits),
            Way::Kernel(_) => continue,
            Way::Program(mut command) => Mounted::serve(command.arg(at), at, limits),
        };
        match mounted {
            Ok(mounted) => {
                let root = family.root(at).map_err(|source| cannot(family.name(), source))?;
                return Ok(Some(Mount { mounted, root }));
            }
            Err(error @ (CommandError::Interrupted | CommandError::OverLimit { .. })) => return Err(error),
            // The kernel lacks this filesystem or this codec, or the program lacks something.
            Err(_) => {}
        }
    }
    Ok(None)
}
