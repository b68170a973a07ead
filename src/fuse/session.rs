//! Mounts filesystems, and serves them.
//!
//! The mount(2) call is made here, not by fuser: there the source is an argument of its own, so commas and bytes that
//! are not UTF-8 survive, and the type can be `fuse.floe`. Users who may not call mount(2) go through fusermount3, by
//! fuser. When [`mount`] returns, the kernel's first request has been answered; later requests wait until
//! [`Mounted::serve`].

use super::adapter::Adapter;
use super::error::MountError;
use super::follow::Follower;
use super::mountpoint::{Own, Unmount, unmount};
use super::near::Traffic;
use super::options::{Access, Atime, MountOptions};
use super::parked::{Late, Parked};
use super::push::Pusher;
use super::writing::Writing;
use crate::fs::{Fs, Live};
use fuser::{Config, Filesystem, MountOption, Session, SessionACL};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::MountFlags;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Least number of event loops by default: while one inflates, another can answer from the caches. More loops than
/// cores are slower: the kernel wakes them in turn, each on the core where it slept longest. (Measured on two cores:
/// unpacking 12,170 files into a file system in memory took 1.4 to 2.7 s with two, 3.2 to 3.8 s with four.)
const MIN_THREADS: usize = 2;

/// Number of file descriptors that a mount needs in addition to those of its event loops.
const BESIDES: usize = 5;

/// Number of KiB that the kernel reads ahead. Its default of 128 needs eight times as many round trips for large files.
const KERNEL_READAHEAD_KIB: u32 = 1024;

/// A filesystem that is mounted, but not yet served.
pub struct Mounted {
    served: Served,
    mountpoint: PathBuf,
    own: Own,
}

/// The filesystem that is served, and the threads that end with the event loops.
enum Served {
    Reading(Session<Adapter>, Option<Arc<Pusher>>),
    Writing(Session<Writing>, Arc<Parked<Late>>, Arc<Traffic>),
}

/// Mounts `fs` read-only on `mountpoint` (absolute). /proc/mounts shows `source`, unless `fsname=` says otherwise.
///
/// # Errors
/// Fails if /dev/fuse, mount(2) or fusermount3 refuse, the kernel uses another protocol, or there are too few
/// descriptors.
pub fn mount(fs: Arc<Fs>, mountpoint: &Path, source: &OsStr, options: &MountOptions) -> Result<Mounted, MountError> {
    let pusher = options.push.then(|| Pusher::new(fs.clone()));
    let adapter = Adapter::new(fs, options.clone(), pusher.clone());
    let mount = Mounting { mountpoint, source, options, is_writable: false };
    let (session, own) = mount.establish(adapter)?;
    Ok(mount.finished(Served::Reading(session, pusher), own))
}

/// Mounts `live` writable on `mountpoint` (absolute). `fs` is the same filesystem for requests that only read. The
/// options must be valid for a writable mount.
///
/// # Errors
/// Fails as [`mount`] does.
pub fn mount_writable(
    live: Arc<Live>,
    fs: Arc<Fs>,
    mountpoint: &Path,
    source: &OsStr,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    let parked = Parked::new();
    let writing = Writing::new(live, fs, options.clone(), Arc::clone(&parked));
    let traffic = writing.traffic();
    let mount = Mounting { mountpoint, source, options, is_writable: true };
    let (session, own) = mount.establish(writing)?;
    Ok(mount.finished(Served::Writing(session, parked, traffic), own))
}

impl Mounted {
    /// Returns the mount, so that it can be unmounted.
    pub fn own(&self) -> Own {
        self.own
    }

    /// Serves the mount until it is unmounted, on as many threads as the options say. Whoever still waits for a commit
    /// at the end gets EIO.
    ///
    /// # Errors
    /// Fails if the connection to the kernel broke.
    pub fn serve(self) -> Result<(), MountError> {
        let Mounted { served, mountpoint, .. } = self;
        let end = match served {
            Served::Reading(session, pusher) => {
                if let Some(pusher) = pusher {
                    match session.as_fd().try_clone_to_owned() {
                        Ok(device) => pusher.start(device),
                        Err(error) => tracing::debug!(%error, "no descriptor for pushing files"),
                    }
                }
                session.run()
            }
            Served::Writing(session, parked, traffic) => {
                let follower = Follower::start(traffic);
                let end = session.run();
                drop(follower);
                parked.drain();
                end
            }
        };
        end.map_err(|error| MountError::Connection { dir: mountpoint, error })
    }

    /// Raises the kernel's read-ahead. FUSE can only reduce the default; root can raise it through sysfs. Without it,
    /// large files are merely slower, so a failure is not an error.
    fn widen_readahead(&self) {
        // DONT_SYNC: a request to the daemon, which does not serve yet, would hang for ever.
        let Ok(stat) = rustix::fs::statx(CWD, &self.mountpoint, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE) else {
            return;
        };
        let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", stat.stx_dev_major, stat.stx_dev_minor);
        if let Err(error) = std::fs::write(&path, KERNEL_READAHEAD_KIB.to_string()) {
            tracing::debug!(path, %error, "the kernel's read-ahead stays as it is");
        }
    }
}

/// A mount that is being made.
struct Mounting<'a> {
    mountpoint: &'a Path,
    source: &'a OsStr,
    options: &'a MountOptions,
    is_writable: bool,
}

impl Mounting<'_> {
    /// Mounts the filesystem, and answers the kernel's first request.
    fn establish<F: Filesystem>(&self, filesystem: F) -> Result<(Session<F>, Own), MountError> {
        check_descriptors(self.event_loops())?;
        match self.mount_directly()? {
            Some(device) => {
                // Without its number it cannot be served, and a dead mount would remain.
                let own = Own::on(self.mountpoint).inspect_err(|_| {
                    if let Err(error) = unmount(self.mountpoint, Unmount::Detach) {
                        tracing::warn!(%error, "a failed mount could not be removed");
                    }
                })?;
                Ok((self.start(filesystem, device, own)?, own))
            }
            None => Ok((self.mount_by_helper(filesystem)?, Own::on(self.mountpoint)?)),
        }
    }

    fn finished(&self, served: Served, own: Own) -> Mounted {
        let mounted = Mounted { served, mountpoint: self.mountpoint.to_path_buf(), own };
        mounted.widen_readahead();
        mounted
    }

    fn source(&self) -> &OsStr {
        self.options.fsname.as_deref().map_or(self.source, OsStr::from_bytes)
    }

    /// Mounts with mount(2), and returns the descriptor of the connection; `None` if only fusermount3 may mount.
    fn mount_directly(&self) -> Result<Option<OwnedFd>, MountError> {
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| MountError::Device { error: errno.into() })?;
        let mut data = format!(
            "fd={},rootmode=40000,user_id={},group_id={}",
            device.as_raw_fd(),
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw()
        );
        if self.options.default_permissions {
            data.push_str(",default_permissions");
        }
        // The kernel has no option for "root and the owner only": fuser rejects everybody else.
        if self.options.access != Access::Owner {
            data.push_str(",allow_other");
        }
        let file_system = format!("fuse.{}", self.options.subtype);
        let refused = |error| MountError::Refused { dir: self.mountpoint.to_path_buf(), error };
        let data = CString::new(data).map_err(|error| refused(error.into()))?;
        match rustix::mount::mount(self.source(), self.mountpoint, file_system, self.flags(), &*data) {
            Ok(()) => Ok(Some(device)),
            Err(rustix::io::Errno::PERM) => Ok(None),
            Err(errno) => Err(refused(errno.into())),
        }
    }

    /// Returns when reads change the time of the last access. By default they never do on a writable mount.
    fn atime(&self) -> Option<Atime> {
        if self.is_writable { Some(self.options.atime.unwrap_or_default()) } else { self.options.atime }
    }

    fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, !self.is_writable);
        flags.set(MountFlags::SYNCHRONOUS, self.is_writable && self.options.sync);
        flags.set(MountFlags::NODEV, !self.options.dev);
        flags.set(MountFlags::NOSUID, !self.options.suid);
        flags.set(MountFlags::NOEXEC, !self.options.exec);
        flags.set(MountFlags::NODIRATIME, self.options.nodiratime);
        flags.set(MountFlags::NOATIME, self.atime() == Some(Atime::Never));
        flags.set(MountFlags::STRICTATIME, self.is_writable && self.atime() == Some(Atime::Always));
        flags
    }

    /// Answers the kernel's first request. If that fails, the mount is removed.
    fn start<F: Filesystem>(&self, filesystem: F, device: OwnedFd, own: Own) -> Result<Session<F>, MountError> {
        Session::from_fd(filesystem, device, access(self.options), self.config(Vec::new())).map_err(|error| {
            if let Err(error) = own.unmount(Unmount::Detach) {
                tracing::warn!(%error, "a failed mount could not be removed");
            }
            MountError::Connection { dir: self.mountpoint.to_path_buf(), error }
        })
    }

    fn mount_by_helper<F: Filesystem>(&self, filesystem: F) -> Result<Session<F>, MountError> {
        Session::new(filesystem, self.mountpoint, &self.config(self.helper_options()))
            .map_err(|error| MountError::Refused { dir: self.mountpoint.to_path_buf(), error })
    }

    /// Returns the options for fusermount3. fuser joins these with commas. There, a comma after a backslash is part of
    /// the value.
    fn helper_options(&self) -> Vec<MountOption> {
        let options = self.options;
        let source = self.source().to_string_lossy().replace('\\', "\\\\").replace(',', "\\,");
        let access = if self.is_writable { MountOption::RW } else { MountOption::RO };
        let mut list = vec![access, MountOption::FSName(source), MountOption::Subtype(options.subtype.clone())];
        if options.default_permissions {
            list.push(MountOption::DefaultPermissions);
        }
        list.push(if options.dev { MountOption::Dev } else { MountOption::NoDev });
        list.push(if options.suid { MountOption::Suid } else { MountOption::NoSuid });
        list.push(if options.exec { MountOption::Exec } else { MountOption::NoExec });
        if self.atime() == Some(Atime::Never) {
            list.push(MountOption::NoAtime);
        }
        if self.is_writable && options.sync {
            list.push(MountOption::Sync);
        }
        list
    }

    fn event_loops(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(MIN_THREADS, usize::from);
        self.options.threads.unwrap_or(cores.max(MIN_THREADS))
    }

    fn config(&self, mount_options: Vec<MountOption>) -> Config {
        let mut config = Config::default();
        config.acl = match self.options.access {
            Access::Owner => SessionACL::Owner,
            Access::OwnerAndRoot => SessionACL::RootAndOwner,
            Access::Everybody => SessionACL::All,
        };
        config.mount_options = mount_options;
        config.n_threads = Some(self.event_loops());
        config.clone_fd = true;
        config
    }
}

/// Returns whose requests fuser accepts. Without `allow_other` the kernel itself rejects those of other users, which is
/// better: fuser would also reject requests that the kernel makes for somebody.
fn access(options: &MountOptions) -> SessionACL {
    match options.access {
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Owner | Access::Everybody => SessionACL::All,
    }
}

/// Checks that there are enough descriptors. Each event loop opens its own only when serving begins, which is too late
/// to report an error.
fn check_descriptors(loops: usize) -> Result<(), MountError> {
    let open = || rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    // The others are: the connection itself, the daemon's mark, the pusher, and files of /proc and /sys.
    let opened = (0..loops + BESIDES).map(|_| open()).collect::<Result<Vec<_>, _>>();
    opened.map(drop).map_err(|errno| MountError::Descriptors { loops, error: errno.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(options: &MountOptions, is_writable: bool) -> Mounting<'_> {
        Mounting { mountpoint: Path::new("/m"), source: OsStr::new("/a,b\\c.floe"), options, is_writable }
    }

    #[test]
    fn read_only_mounts_trust_nothing_unless_told() {
        let mut options = MountOptions::default();
        assert_eq!(mount(&options, false).flags(), MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID);
        options.take(OsStr::new("dev,suid,noexec,noatime,sync")).unwrap();
        let flags = MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOATIME;
        assert_eq!(mount(&options, false).flags(), flags);
        assert!(mount(&options, false).helper_options().contains(&MountOption::RO));
    }

    #[test]
    fn writable_mounts_keep_no_times_of_access_unless_told() {
        let mut options = MountOptions::default();
        let usual = MountFlags::NODEV | MountFlags::NOSUID;
        assert_eq!(mount(&options, true).flags(), usual | MountFlags::NOATIME);
        options.take(OsStr::new("strictatime,nodiratime,sync")).unwrap();
        let flags = usual | MountFlags::STRICTATIME | MountFlags::NODIRATIME | MountFlags::SYNCHRONOUS;
        assert_eq!(mount(&options, true).flags(), flags);
        options.take(OsStr::new("relatime,async")).unwrap();
        assert_eq!(mount(&options, true).flags(), usual | MountFlags::NODIRATIME);
        let list = mount(&options, true).helper_options();
        assert!(list.contains(&MountOption::RW) && !list.contains(&MountOption::NoAtime));
    }

    #[test]
    fn a_comma_in_the_source_survives_the_mount_helper() {
        let options = MountOptions::default();
        let list = mount(&options, false).helper_options();
        assert!(list.contains(&MountOption::FSName("/a\\,b\\\\c.floe".into())));
    }

    #[test]
    fn there_are_enough_event_loops_unless_fewer_are_asked_for() {
        let mut options = MountOptions::default();
        assert!(mount(&options, false).event_loops() >= MIN_THREADS);
        assert_eq!(mount(&options, true).event_loops(), mount(&options, false).event_loops());
        options.threads = Some(1);
        assert_eq!(mount(&options, true).config(Vec::new()).n_threads, Some(1));
    }
}
