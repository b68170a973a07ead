//! `floe mount IMAGE DIR`, and the same as mount(8)'s helper (`mount.floe IMAGE DIR -o …`).
//!
//! Everything that can be found wrong without a mount is found before the process goes into the background, so errors reach
//! whoever typed the command with their own exit status; the rest is reported through a pipe.

use super::open::shown;
use super::sentence::{sentence, told};
use super::{Context, Exit, descriptors};
use crate::fs::{Fs, FsOptions};
use crate::fuse::{self, MountOptions, daemon};
use crate::meta::{Image, ImageOptions};
use crate::storage::{FileStorage, LockError, ReaderLock};
use anyhow::{Context as _, anyhow, bail};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const HELP: &str = "\
push: a thread stores small files in the kernel's page cache ahead of a reader that reads files in the order in which it
listed them ('find', then reading). If the daemon of such a mount is killed (SIGKILL), it may hang in the kernel until
'umount -f DIR' or, on Linux 6.15 and newer, until the kernel's own time limit (/proc/sys/fs/fuse). Therefore it is off
by default. Without it a killed daemon ends at once.
";

/// `floe mount`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    /// The directory to mount it on
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Mount options, separated by commas: ro, dev, suid, noexec, allow_other, allow_root, auto_unmount, uid=, gid=,
    /// umask=, fmask=, dmask=, subtype=, fsname=, entry_timeout=, attr_timeout=, cache=256M, threads=N, readahead=N,
    /// offset=, verify, push
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    pub options: Vec<OsString>,
    /// Stay in the foreground
    #[arg(short = 'f', long)]
    pub foreground: bool,
}

/// Mounts, and returns once the mount can be used (or, with `-f`, when it ends).
///
/// # Errors
/// With what went wrong as its source: a wrong option, an image that is none, a mount point that will not do.
pub fn run(args: Args, _: &Context) -> anyhow::Result<Exit> {
    let mut options = MountOptions::default();
    for list in &args.options {
        options.take(list).map_err(|error| told(Exit::Usage, error.to_string()))?;
    }
    if options.writable {
        let image = shown(&args.image);
        bail!("cannot mount '{image}' for writing: this version mounts read-only (leave out 'rw')");
    }
    mount(&args.image, &args.dir, &options, args.foreground)?;
    Ok(Exit::Done)
}

fn mount(image: &Path, dir: &Path, options: &MountOptions, foreground: bool) -> anyhow::Result<()> {
    descriptors::raise();
    let inherited = daemon::Inherited::now();
    let opened = Opened::open(image, options)?;
    let fuse::Prepared { point, hides } = fuse::prepare(dir, &opened.path)?;
    if let Some(other) = hides {
        let (dir, other) = (shown(dir), shown(Path::new(&other)));
        eprintln!("warning: '{other}' is mounted on {dir} already; the new mount hides it");
    }
    if foreground {
        return serve(opened, &point, options, || Ok(()));
    }
    let inherited = inherited.context("cannot go into the background: /proc is needed")?;
    match daemon::fork(inherited).context("cannot go into the background")? {
        daemon::Side::Starter(starting) => {
            // The lock is the daemon's now; dropping it here would release it there.
            std::mem::forget(opened.lock);
            starting.wait().map_err(|message| anyhow!(message))
        }
        daemon::Side::Daemon(announcer) => std::process::exit(serve_in_background(opened, &point, options, announcer)),
    }
}

fn serve_in_background(opened: Opened, dir: &Path, options: &MountOptions, announcer: daemon::Announcer) -> i32 {
    let mut announcer = Some(announcer);
    let ready = || announcer.take().map_or(Ok(()), daemon::Announcer::ready);
    match serve(opened, dir, options, ready) {
        Ok(()) => 0,
        Err(error) => {
            if let Some(announcer) = announcer {
                announcer.failed(&sentence(&error));
            }
            1
        }
    }
}

/// An image that is checked as far as mounting goes. No thread has been started for it.
struct Opened {
    path: PathBuf,
    image: Image,
    lock: Option<ReaderLock>,
}

impl Opened {
    fn open(path: &Path, options: &MountOptions) -> anyhow::Result<Self> {
        let context = || format!("cannot open image '{}'", shown(path));
        let storage = FileStorage::open_within(path, options.offset).with_context(context)?;
        let path = path.canonicalize().with_context(context)?;
        // Before the head is read: what it names is not freed from here on.
        let lock = match ReaderLock::shared(storage.file()) {
            Ok(lock) => Some(lock),
            Err(LockError::Unsupported(error)) => {
                tracing::debug!(%error, "reading without a lock");
                None
            }
            Err(error) => return Err(error).with_context(context),
        };
        let image = Image::open(Arc::new(storage), ImageOptions::default()).with_context(context)?;
        for warning in image.warnings() {
            eprintln!("warning: {}: {warning}", shown(&path));
        }
        Ok(Opened { path, image, lock })
    }
}

/// Mounts, calls `ready`, and serves until the mount is gone.
fn serve(
    opened: Opened,
    dir: &Path,
    options: &MountOptions,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> anyhow::Result<()> {
    if options.auto_unmount {
        daemon::leave_watchman(dir).context("cannot watch over the mount")?;
    }
    tame_allocator();
    let termination = daemon::Termination::watch().context("cannot wait for signals")?;
    let served = serve_until_unmounted(opened, dir, options, &termination, ready);
    termination.finish();
    served
}

fn serve_until_unmounted(
    opened: Opened,
    dir: &Path,
    options: &MountOptions,
    termination: &daemon::Termination,
    ready: impl FnOnce() -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let Opened { path, image, lock: _lock } = opened;
    let defaults = FsOptions::default();
    let fs_options = FsOptions {
        cache: options.cache.unwrap_or(defaults.cache),
        readahead: options.readahead.unwrap_or(defaults.readahead),
        verify: options.verify,
    };
    let fs = Fs::new(Arc::new(image), fs_options);
    let mounted = fuse::mount(fs, dir, path.as_os_str(), options)?;
    let own = mounted.own();
    termination.of(own, daemon::Ending::read_only());
    let served = daemon::Mark::set(&own).context("cannot mark the daemon").and_then(|_mark| {
        ready().context("cannot go into the background")?;
        Ok(mounted.serve()?)
    });
    if served.is_err() {
        // The connection is closed by now, so what is left of the mount is dead.
        own.unmount(fuse::Unmount::Detach)?;
    }
    served
}

/// Superchunks come and go in megabytes. glibc would take them from its heaps, of which there may be eight a core, and each
/// heap keeps what it once had: measured, 421 MiB resident where 296 do, at the same speed.
fn tame_allocator() {
    #[cfg(target_env = "gnu")]
    {
        const HEAPS: i32 = 2;
        const MAP_FROM: i32 = 1 << 20;
        // SAFETY: mallopt may be called at any time; this is before the first thread.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, HEAPS);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM);
        }
    }
}

/// Whether a command line is mount(8)'s: called `mount.floe` (or `mount.fuse.floe`), or as `floe IMAGE DIR -o …`, which is
/// how mount(8) runs the program of a `fuse.floe` entry in fstab.
pub fn is_helper_call(argv: &[OsString]) -> bool {
    let name = argv.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name.as_bytes().starts_with(b"mount.")) {
        return true;
    }
    let is_option = |at: usize| argv.get(at).is_none_or(|arg| arg.as_bytes().starts_with(b"-"));
    !is_option(1) && !is_option(2) && argv.get(3).is_some_and(|arg| arg == "-o") && !is_option(4) && argv.len() == 5
}

/// Mounts as mount(8)'s helper; gives mount(8)'s exit status. Says what is wrong on stderr.
pub fn run_helper(argv: &[OsString]) -> i32 {
    let call = match HelperCall::parse(argv.get(1..).unwrap_or_default()) {
        Ok(call) => call,
        Err(message) => {
            eprintln!("error: {message}\nusage: mount.floe IMAGE DIR [-sfnv] [-o OPTIONS]");
            return Exit::MountUsage.code().into();
        }
    };
    if call.options.writable {
        // mount(8) says rw wherever nobody says ro; with a read-only medium it goes on likewise.
        eprintln!("warning: '{}' is mounted read-only", shown(&call.image));
    }
    let result = match call.fake {
        true => Opened::open(&call.image, &call.options).map(drop),
        false => mount(&call.image, &call.dir, &call.options, false),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {}", sentence(&error));
            Exit::MountFailed.code().into()
        }
    }
}

#[derive(Debug)]
struct HelperCall {
    image: PathBuf,
    dir: PathBuf,
    options: MountOptions,
    /// `-f`: all but the mount itself.
    fake: bool,
}

impl HelperCall {
    /// `IMAGE DIR [-sfnv] [-N namespace] [-o options] [-t type.subtype]`, as mount(8) calls its helpers.
    fn parse(args: &[OsString]) -> Result<Self, String> {
        let (mut paths, mut lists) = (Vec::new(), Vec::new());
        let (mut fake, mut sloppy) = (false, false);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_bytes() {
                [b'-', b'o' | b't' | b'N'] => {
                    let value = args.next().ok_or(format!("'{}' needs a value", arg.to_string_lossy()))?;
                    if arg == "-o" {
                        lists.push(value);
                    }
                }
                [b'-', flags @ ..] if !flags.is_empty() => {
                    if !flags.iter().all(|flag| b"sfnv".contains(flag)) {
                        return Err(format!("unknown option '{}'", arg.to_string_lossy()));
                    }
                    fake |= flags.contains(&b'f');
                    sloppy |= flags.contains(&b's');
                }
                _ => paths.push(PathBuf::from(arg)),
            }
        }
        let [image, dir] = <[PathBuf; 2]>::try_from(paths).map_err(|_| "expected an image and a directory")?;
        let mut options = MountOptions::default();
        for list in lists {
            let taken = if sloppy { options.take_known(list) } else { options.take(list) };
            taken.map_err(|error| error.to_string())?;
        }
        Ok(HelperCall { image, dir, options, fake })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        mount: Args,
    }

    fn strings(args: &[&str]) -> Vec<OsString> {
        args.iter().map(OsString::from).collect()
    }

    #[test]
    fn options_stand_anywhere_on_the_line() {
        let args = Cli::try_parse_from(["mount", "-o", "ro", "a.floe", "-f", "mnt", "-o", "cache=1M"]).unwrap().mount;
        assert_eq!((args.image, args.dir), ("a.floe".into(), "mnt".into()));
        assert!(args.foreground);
        assert_eq!(args.options, strings(&["ro", "cache=1M"]));
    }

    #[test]
    fn calls_by_mount_are_told_from_commands() {
        assert!(is_helper_call(&strings(&["/sbin/mount.floe", "a.floe", "mnt"])));
        assert!(is_helper_call(&strings(&["floe", "a.floe", "mnt", "-o", "rw"])));
        assert!(!is_helper_call(&strings(&["floe", "mount", "a.floe", "mnt"])));
        assert!(!is_helper_call(&strings(&["floe", "mount", "a.floe", "-o", "ro", "mnt"])));
        assert!(!is_helper_call(&strings(&["floe", "-V"])));
        assert!(!is_helper_call(&strings(&["floe"])));
    }

    #[test]
    fn the_helper_is_called_as_mount_calls_it() {
        let call =
            HelperCall::parse(&strings(&["a.floe", "mnt", "-sfn", "-t", "floe", "-o", "rw,nosuid,what"])).unwrap();
        assert_eq!((call.image, call.dir), ("a.floe".into(), "mnt".into()));
        assert!(call.fake && call.options.writable);
        let error = HelperCall::parse(&strings(&["a.floe", "mnt", "-o", "what"])).unwrap_err();
        assert!(error.contains("what"));
        for wrong in [&["a.floe"][..], &["a", "b", "c"], &["a", "b", "-o"], &["a", "b", "-x"], &["a", "b", "-on", "ro"]]
        {
            assert!(HelperCall::parse(&strings(wrong)).is_err(), "{wrong:?}");
        }
    }
}
