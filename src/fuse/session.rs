//! Mounting, and serving what is mounted.
//!
//! The mount(2) call is made here rather than by fuser: the source is an argument of its own there, so that commas and
//! bytes that are not UTF-8 survive, and the type can be `fuse.floe`. Who may not call it goes through fusermount3, by
//! fuser. Once [`mount`] returns the kernel has been answered, and requests wait until [`Mounted::serve`].

use super::adapter::Adapter;
use super::error::MountError;
use super::mountpoint::{Own, Unmount, unmount};
use super::options::{Access, Atime, MountOptions};
use super::push::Pusher;
use crate::fs::Fs;
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::MountFlags;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Fewest event loops where nobody says otherwise: while one inflates another must be there to answer from the caches.
const MIN_THREADS: usize = 2;

/// Descriptors that a mount needs besides those of its event loops.
const BESIDES: usize = 5;

/// How far the kernel reads ahead, in KiB. Its own 128 cost eight times the round trips of large files.
const KERNEL_READAHEAD_KIB: u32 = 1024;

/// A filesystem that is mounted, and not yet served.
pub struct Mounted {
    session: Session<Adapter>,
    mountpoint: PathBuf,
    own: Own,
    pusher: Option<Arc<Pusher>>,
}

/// Mounts `fs` on `mountpoint` (absolute). `source` is what /proc/mounts shows unless `fsname=` says otherwise.
///
/// # Errors
/// /dev/fuse, mount(2) or fusermount3 refuse, the kernel speaks another protocol, or there are too few descriptors.
pub fn mount(fs: Arc<Fs>, mountpoint: &Path, source: &OsStr, options: &MountOptions) -> Result<Mounted, MountError> {
    check_descriptors(event_loops(options))?;
    let pusher = options.push.then(|| Pusher::new(fs.clone()));
    let adapter = Adapter::new(fs, options.clone(), pusher.clone());
    let source = options.fsname.as_deref().map_or(source, OsStr::from_bytes);
    let (session, own) = match mount_directly(mountpoint, source, options)? {
        Some(device) => {
            // Without its number it cannot be served, and would stay behind, dead.
            let own = Own::on(mountpoint).inspect_err(|_| {
                if let Err(error) = unmount(mountpoint, Unmount::Detach) {
                    tracing::warn!(%error, "a mount that failed stays behind");
                }
            })?;
            (start(adapter, device, own, mountpoint, options)?, own)
        }
        None => (mount_by_helper(adapter, mountpoint, source, options)?, Own::on(mountpoint)?),
    };
    let mounted = Mounted { session, mountpoint: mountpoint.to_path_buf(), own, pusher };
    mounted.widen_readahead();
    Ok(mounted)
}

impl Mounted {
    /// The mount, to be unmounted.
    pub fn own(&self) -> Own {
        self.own
    }

    /// Serves the mount until it is unmounted, on as many threads as the options say.
    ///
    /// # Errors
    /// The connection to the kernel broke.
    pub fn serve(self) -> Result<(), MountError> {
        let Mounted { session, mountpoint, pusher, .. } = self;
        if let Some(pusher) = pusher {
            match session.as_fd().try_clone_to_owned() {
                Ok(device) => pusher.start(device),
                Err(error) => tracing::debug!(%error, "no descriptor to push files through"),
            }
        }
        session.run().map_err(|error| MountError::Connection { dir: mountpoint, error })
    }

    /// FUSE can only ask for less read-ahead than the kernel's default; more is had through sysfs, by root. Without, large
    /// files are merely slower, so failing is no error.
    fn widen_readahead(&self) {
        // DONT_SYNC: a question that had to go through to the daemon, which does not serve yet, would hang here for ever.
        let Ok(stat) = rustix::fs::statx(CWD, &self.mountpoint, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE) else {
            return;
        };
        let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", stat.stx_dev_major, stat.stx_dev_minor);
        if let Err(error) = std::fs::write(&path, KERNEL_READAHEAD_KIB.to_string()) {
            tracing::debug!(path, %error, "the kernel's read-ahead stays as it is");
        }
    }
}

/// The connection, or nothing where only fusermount3 may mount.
fn mount_directly(mountpoint: &Path, source: &OsStr, options: &MountOptions) -> Result<Option<OwnedFd>, MountError> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| MountError::Device { error: errno.into() })?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw()
    );
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    // Of root and the owner alone the kernel knows nothing: fuser turns the others away.
    if options.access != Access::Owner {
        data.push_str(",allow_other");
    }
    let file_system = format!("fuse.{}", options.subtype);
    let refused = |error| MountError::Refused { dir: mountpoint.to_path_buf(), error };
    let data = CString::new(data).map_err(|error| refused(error.into()))?;
    match rustix::mount::mount(source, mountpoint, file_system, mount_flags(options), &*data) {
        Ok(()) => Ok(Some(device)),
        Err(rustix::io::Errno::PERM) => Ok(None),
        Err(errno) => Err(refused(errno.into())),
    }
}

fn mount_flags(options: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::RDONLY;
    flags.set(MountFlags::NODEV, !options.dev);
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NOEXEC, !options.exec);
    flags.set(MountFlags::NOATIME, options.atime == Some(Atime::Never));
    flags
}

/// Answers the kernel's first request; a mount that could not be is taken back.
fn start(
    adapter: Adapter,
    device: OwnedFd,
    own: Own,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<Session<Adapter>, MountError> {
    Session::from_fd(adapter, device, access(options), config(options, Vec::new())).map_err(|error| {
        if let Err(error) = own.unmount(Unmount::Detach) {
            tracing::warn!(%error, "a mount that failed stays behind");
        }
        MountError::Connection { dir: mountpoint.to_path_buf(), error }
    })
}

fn mount_by_helper(
    adapter: Adapter,
    mountpoint: &Path,
    source: &OsStr,
    options: &MountOptions,
) -> Result<Session<Adapter>, MountError> {
    let config = config(options, helper_options(source, options));
    Session::new(adapter, mountpoint, &config)
        .map_err(|error| MountError::Refused { dir: mountpoint.to_path_buf(), error })
}

/// fuser joins these with commas for fusermount3, which takes a comma behind a backslash for part of a value.
fn helper_options(source: &OsStr, options: &MountOptions) -> Vec<MountOption> {
    let source = source.to_string_lossy().replace('\\', "\\\\").replace(',', "\\,");
    let mut list = vec![MountOption::RO, MountOption::FSName(source), MountOption::Subtype(options.subtype.clone())];
    if options.default_permissions {
        list.push(MountOption::DefaultPermissions);
    }
    list.push(if options.dev { MountOption::Dev } else { MountOption::NoDev });
    list.push(if options.suid { MountOption::Suid } else { MountOption::NoSuid });
    list.push(if options.exec { MountOption::Exec } else { MountOption::NoExec });
    if options.atime == Some(Atime::Never) {
        list.push(MountOption::NoAtime);
    }
    list
}

/// Whom fuser turns away. Without `allow_other` the kernel does that itself, and better: requests it makes on somebody's
/// behalf would fail in fuser.
fn access(options: &MountOptions) -> SessionACL {
    match options.access {
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Owner | Access::Everybody => SessionACL::All,
    }
}

/// Each event loop opens its descriptor when the mount is served, which is too late to tell anybody that there is none.
fn check_descriptors(loops: usize) -> Result<(), MountError> {
    let open = || rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    // Besides: the connection itself, the daemon's mark, the pusher, and what is read in /proc and /sys on the way.
    let opened = (0..loops + BESIDES).map(|_| open()).collect::<Result<Vec<_>, _>>();
    opened.map(drop).map_err(|errno| MountError::Descriptors { loops, error: errno.into() })
}

fn event_loops(options: &MountOptions) -> usize {
    let cores = std::thread::available_parallelism().map_or(MIN_THREADS, usize::from);
    options.threads.unwrap_or(cores.max(MIN_THREADS))
}

fn config(options: &MountOptions, mount_options: Vec<MountOption>) -> Config {
    let mut config = Config::default();
    config.acl = match options.access {
        Access::Owner => SessionACL::Owner,
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Everybody => SessionACL::All,
    };
    config.mount_options = mount_options;
    config.n_threads = Some(event_loops(options));
    config.clone_fd = true;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_only_and_trust_nothing_unless_told() {
        let mut options = MountOptions::default();
        assert_eq!(mount_flags(&options), MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID);
        options.take(OsStr::new("dev,suid,noexec,noatime")).unwrap();
        assert_eq!(mount_flags(&options), MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOATIME);
    }

    #[test]
    fn a_comma_in_the_source_survives_the_mount_helper() {
        let list = helper_options(OsStr::new("/a,b\\c.floe"), &MountOptions::default());
        assert!(list.contains(&MountOption::FSName("/a\\,b\\\\c.floe".into())));
    }

    #[test]
    fn there_are_two_event_loops_or_more_unless_fewer_are_asked_for() {
        let mut options = MountOptions::default();
        assert!(config(&options, Vec::new()).n_threads >= Some(MIN_THREADS));
        options.threads = Some(1);
        assert_eq!(config(&options, Vec::new()).n_threads, Some(1));
    }
}
