//! Why mounting or unmounting failed.

use std::io;
use std::path::PathBuf;

/// Why a mount could not be made, served or removed, with what a person needs to correct it.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point cannot be examined.
    #[error("cannot use {} as a mount point: {error}", dir.display())]
    Unusable {
        /// Path of the mount point.
        dir: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The mount point is not a directory.
    #[error("cannot mount on {}: it is not a directory", dir.display())]
    NotDirectory {
        /// Path of the mount point.
        dir: PathBuf,
    },
    /// The mount would hide the image.
    #[error("cannot mount on {}: the mount would hide the image {} (choose a directory beside it)", dir.display(), image.display())]
    HidesImage {
        /// Path of the mount point.
        dir: PathBuf,
        /// Path of the image.
        image: PathBuf,
    },
    /// The mount point belongs to the thaw log.
    #[error("cannot mount on {}: this directory belongs to the image's thaw log (choose another)", dir.display())]
    InThawLog {
        /// Path of the mount point.
        dir: PathBuf,
    },
    /// /dev/fuse cannot be opened.
    #[error("cannot open /dev/fuse: {error} ({})", explain_device(error))]
    Device {
        /// The error of the operating system.
        error: io::Error,
    },
    /// The process may not open enough file descriptors.
    #[error(
        "cannot serve the mount with {loops} threads: {error} (choose fewer with '-o threads=N', or raise the limit of open \
         files: 'ulimit -n')"
    )]
    Descriptors {
        /// Number of threads that answer the kernel.
        loops: usize,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The kernel, or fusermount3, refused the mount.
    #[error("cannot mount on {}: {error}", dir.display())]
    Refused {
        /// Path of the mount point.
        dir: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The kernel and floe could not agree on a protocol, or the connection was lost.
    #[error("the kernel's FUSE connection of the mount {} failed: {error}", dir.display())]
    Connection {
        /// Path of the mount point.
        dir: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The list of mounts cannot be read.
    #[error("cannot read /proc/self/mountinfo: {error} (is /proc mounted?)")]
    Mounts {
        /// The error of the operating system.
        error: io::Error,
    },
    /// Another mount covers the mount to be removed.
    #[error("cannot unmount {}: another mount covers it (unmount that one first)", dir.display())]
    Covered {
        /// Path of the mount point.
        dir: PathBuf,
    },
    /// Unmounting failed.
    #[error("cannot unmount {}: {}", dir.display(), explain_unmount(error))]
    Unmount {
        /// Path of the mount point.
        dir: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
}

fn explain_device(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "may you use it? In a container, it has to be allowed, for example with '--device /dev/fuse'"
        }
        io::ErrorKind::NotFound => "is the kernel's fuse module loaded, or, in a container, is the device there?",
        _ => "is the kernel's fuse module loaded?",
    }
}

fn explain_unmount(error: &io::Error) -> String {
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::BUSY) => {
            "it is in use (a file in it is open, or a process has its working directory there; 'fuser -vm' names it)"
                .into()
        }
        Some(rustix::io::Errno::INVAL) => "nothing is mounted there".into(),
        _ => error.to_string(),
    }
}
