//! `floe mount IMAGE DIR`, and the same as mount(8)'s helper (`mount.floe IMAGE DIR -o …`).
//!
//! The two command lines; what they start is in `serve`.

use super::open::shown;
use super::opening::{How, Opened};
use super::sentence::{sentence, told};
use super::{Context, Exit, args, output, serve, size, tell};
use crate::fuse::{self, MountOptions};
use serde::Serialize;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const HELP: &str = "\
The mount is writable unless something is in the way, and then it is read-only and says why: somebody else writes the \
image, the file or its directory cannot be written, the file system has no locks, or the thaw log is missing or damaged. \
With 'rw' each of these is an error.

What is written goes to the thaw log first, IMAGE.thaw, beside the image or in thaw=DIR, and is safe after fsync, 'floe sync \
DIR', or 5 seconds (commit=). What is closed freezes in the background: it is compressed into the image and leaves the log. \
Until 'floe freeze DIR' or 'floe umount DIR' has ended, image and log belong together. After a crash the next writable mount \
brings back what was committed. freeze=off: nothing freezes unless 'floe freeze' asks for it; unmounting keeps the log. \
freeze=eager: everything freezes at once, in small pieces (for tests).

push: a thread stores small files in the kernel's page cache ahead of a reader that reads files in the order in which it \
listed them ('find', then reading). If the daemon of such a mount is killed (SIGKILL), it may hang in the kernel until \
'umount -f DIR' or, on Linux 6.15 and newer, until the kernel's own time limit (/proc/sys/fs/fuse). Therefore it is off \
by default. Without it a killed daemon ends at once.
";

/// `floe mount`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP, override_usage = "floe mount [OPTIONS] IMAGE DIR")]
pub struct Args {
    /// The image, and the directory to mount it on; if the environment variable FLOE_IMAGE names the image, DIR alone
    #[arg(value_name = "IMAGE DIR", required = true)]
    places: Vec<OsString>,
    /// Mount options, separated by commas: ro, rw, dev, suid, noexec, relatime, strictatime, sync, commit=5, thaw=DIR,
    /// volatile, budget=1G, memory=512M, freeze=auto|off|eager, allow_other, allow_root, auto_unmount, subtype=, fsname=,
    /// entry_timeout=, attr_timeout=, cache=256M, threads=N, readahead=N, verify; with ro also: uid=, gid=, umask=, fmask=,
    /// dmask=, offset=, push. Without ro and rw, the mount is writable where the image is
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    pub options: Vec<OsString>,
    /// Stay in the foreground
    #[arg(short = 'f', long)]
    pub foreground: bool,
    /// If the thaw log is missing or damaged, give up what is in it: list the files that lose bytes, and mount writable.
    /// Reading these bytes is an error until they are overwritten. A log that fits is not given up
    #[arg(long)]
    pub forget_thaw: bool,
    /// Where the image begins in its file, in bytes: the same as -o offset=
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    offset: Option<u64>,
}

impl Args {
    /// Returns the image, and the directory to mount it on. `variable` is the value of the environment variable that
    /// may name the image.
    fn places(&self, variable: Option<OsString>) -> anyhow::Result<(PathBuf, PathBuf)> {
        let (image, dirs) = args::image_first(variable, self.places.clone())?;
        match dirs.as_slice() {
            [dir] => Ok((image, dir.into())),
            [] => Err(told(Exit::Usage, "both an image and a directory are needed: IMAGE DIR (try '--help')")),
            [_, other, ..] => match args::image_variable() {
                Some(_) => Err(args::too_many(&image, other)),
                None => Err(told(Exit::Usage, format!("'{}' is one argument too many", shown(Path::new(other))))),
            },
        }
    }
}

#[derive(Serialize)]
struct Summary {
    image: output::Name,
    mount: output::Name,
    read_only: bool,
}

/// Runs `floe mount`: returns once the mount can be used (or, with `-f`, when it ends).
///
/// # Errors
/// Fails for a wrong option, an image that is none, or a mount point that cannot be used; the reason is the error's
/// source.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let mut options = MountOptions::default();
    for list in &args.options {
        options.take(list).map_err(|error| told(Exit::Usage, error.to_string()))?;
    }
    options.offset = args.offset.unwrap_or(options.offset);
    let how = How { foreground: args.foreground, forget_thaw: args.forget_thaw };
    let (image, dir) = args.places(args::image_variable())?;
    // What is wrong with it is told when it is mounted on.
    let point = fuse::absolute(&dir).unwrap_or_else(|_| dir.clone());
    let (name, point) =
        (output::Name::new(image.as_os_str().as_bytes()), output::Name::new(point.as_os_str().as_bytes()));
    let mounted = |read_only| match context.json {
        true => output::line(&mut io::stdout(), "summary", &Summary { image: name, mount: point, read_only }),
        false => Ok(()),
    };
    serve::mount(&image, &dir, &options, how, mounted)?;
    Ok(Exit::Done)
}

/// Returns whether a command line is mount(8)'s: called `mount.floe` (or `mount.fuse.floe`), or as
/// `floe IMAGE DIR -o …`, which is how mount(8) runs the program of a `fuse.floe` entry in fstab.
pub fn is_helper_call(argv: &[OsString]) -> bool {
    let name = argv.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name.as_bytes().starts_with(b"mount.")) {
        return true;
    }
    let is_option = |at: usize| argv.get(at).is_none_or(|arg| arg.as_bytes().starts_with(b"-"));
    !is_option(1) && !is_option(2) && argv.get(3).is_some_and(|arg| arg == "-o") && !is_option(4) && argv.len() == 5
}

/// Mounts as mount(8)'s helper, and returns mount(8)'s exit status. Prints what is wrong to standard error.
pub fn run_helper(argv: &[OsString]) -> i32 {
    let call = match HelperCall::parse(argv.get(1..).unwrap_or_default()) {
        Ok(call) => call,
        Err(message) => {
            tell::text(&format!("error: {message}\nusage: mount.floe IMAGE DIR [-sfnv] [-o OPTIONS]"));
            return Exit::MountUsage.code().into();
        }
    };
    let result = match call.fake {
        true => Opened::open(&call.image, &call.options, How::default()).map(drop),
        false => serve::mount(&call.image, &call.dir, &call.options, How::default(), |_| Ok(())),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            tell::exit_error(Exit::MountFailed, &sentence(&error));
            Exit::MountFailed.code().into()
        }
    }
}

#[derive(Debug)]
struct HelperCall {
    image: PathBuf,
    dir: PathBuf,
    options: MountOptions,
    /// Whether `-f` was given: do everything except the mount itself.
    fake: bool,
}

impl HelperCall {
    /// Parses `IMAGE DIR [-sfnv] [-N namespace] [-o options] [-t type.subtype]`, as mount(8) calls its helpers.
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
        // mount(8) says rw wherever nobody says ro; with a read-only medium it goes on likewise.
        options.writable = false;
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
        assert_eq!(args.places(None).unwrap(), ("a.floe".into(), "mnt".into()));
        assert!(args.places(Some("b.floe".into())).is_err());
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
        assert!(call.fake && !call.options.writable && !call.options.read_only);
        let error = HelperCall::parse(&strings(&["a.floe", "mnt", "-o", "what"])).unwrap_err();
        assert!(error.contains("what"));
        for wrong in [&["a.floe"][..], &["a", "b", "c"], &["a", "b", "-o"], &["a", "b", "-x"], &["a", "b", "-on", "ro"]]
        {
            assert!(HelperCall::parse(&strings(wrong)).is_err(), "{wrong:?}");
        }
    }
}
