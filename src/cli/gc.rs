//! `floe gc`: gives back the space of what is dead.

use super::open::{not_an_image, shown};
use super::sentence::told;
use super::size::Human;
use super::{Context, Exit, gc_mount, output, signals, tell, time};
use crate::fs::gc::{GcError, GcHow, GcReport, NoReaders, gc_image};
use crate::fs::start::StartError;
use crate::meta::MetaError;
use crate::storage::{
    Access, DirectoryHome, FileStorage, GcLock, HomeOptions, LockError, LogHome, Owner, Storage, StorageError,
    WriterLock, readers_here,
};
use anyhow::Context as _;
use serde::Serialize;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const EXAMPLES: &str = "\
Superchunks of which nothing is live any more, neither in the files nor in a snapshot, lose their rows and then their bytes: \
these become holes of the file, which keeps its length. What is dead in a superchunk that is partly live stays. \
Bytes are not freed while another process reads the image: gc waits until all such readers have ended. It may be interrupted at \
any moment; the next gc goes on where it ended.

A writable mount frees such space by itself when a quarter of its superchunks is dead (and 64 MiB) and nothing has changed for a minute; \
for DIR, a directory of the mount, it does so now. Only root and the user who mounted the image may ask for \
this.

Examples:
  floe gc photos.floe
  floe gc /mnt                               free space in the image of a mount
  floe gc -n photos.floe                     say what would be freed
  floe gc --no-wait photos.floe              fail if somebody reads the image, and say who

Exit status: 0 done, 1 failed, 2 wrong usage, 10 no image, 11 another process writes the image, or reads it with --no-wait,
130 interrupted.
";

/// Time between two checks whether readers have ended.
const PAUSE: Duration = Duration::from_millis(100);

/// `floe gc`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A directory of a writable mount, or an image that is not mounted
    #[arg(value_name = "DIR|IMAGE")]
    image: PathBuf,
    /// Write nothing; show what would be freed (only for an image that is not mounted)
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not wait for readers of the image: fail, and say who they are
    #[arg(long)]
    no_wait: bool,
}

#[derive(Serialize)]
struct Summary {
    image: output::Name,
    dry_run: bool,
    superchunks: u64,
    frames: u64,
    freed_bytes: u64,
    left_bytes: u64,
}

/// Runs `floe gc`: frees the space of dead bytes.
///
/// # Errors
/// Fails if there is no image, it cannot be written, or it is not known what may be freed.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let what = || format!("cannot free space in image '{}'", shown(&args.image));
    let is_directory = args.image.metadata().is_ok_and(|found| found.is_dir());
    if is_directory && args.dry_run {
        return Err(told(Exit::Usage, "-n is for an image that is not mounted; of a mount, see 'floe info IMAGE'"));
    }
    let freed = if is_directory { gc_mount::free(&args.image, args.no_wait) } else { free(&args) };
    let report = match freed {
        Err(error) if error.chain().any(|cause| matches!(cause.downcast_ref(), Some(MetaError::NotAnImage))) => {
            return Err(not_an_image(&args.image, 0));
        }
        report => report.with_context(what)?,
    };
    tell(&args, &report, context)?;
    Ok(Exit::Done)
}

fn free(args: &Args) -> anyhow::Result<GcReport> {
    let path = match args.image.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(told(Exit::NoImage, "no such file")),
        path => path?,
    };
    let storage = Arc::new(FileStorage::open(&path, Access::ReadWrite)?);
    let _lock = WriterLock::try_acquire(storage.file(), &path, &Owner::current())?;
    let home: Arc<dyn LogHome> = Arc::new(DirectoryHome::new(&path, HomeOptions::default())?);
    signals::watch();
    let how = GcHow {
        dry_run: args.dry_run,
        time: time::now(),
        no_readers: &|| keep_readers_out(&storage, &path, args.no_wait),
        stop: &signals::interrupted,
    };
    let image: Arc<dyn Storage> = storage.clone();
    gc_image(&image, &home, &how).map_err(|error| explained(error, &storage, &path))
}

/// Waits for readers of the image, and keeps others from beginning.
fn keep_readers_out(storage: &FileStorage, path: &Path, no_wait: bool) -> Result<NoReaders, LockError> {
    let mut is_told = false;
    loop {
        match GcLock::try_acquire(storage.file()) {
            Err(LockError::Read) if !no_wait && !signals::interrupted() => {}
            done => return Ok(Box::new(done?)),
        }
        if !is_told {
            tell::note(format_args!("waiting until {} read '{}' no more", who(storage), shown(path)));
            is_told = true;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Returns a text that names the processes that read the image.
fn who(storage: &FileStorage) -> String {
    match &readers_here(storage.file())[..] {
        [] => "readers on another host or of another user".to_owned(),
        [pid] => format!("process {pid}"),
        all => format!("processes {}", all.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    }
}

fn explained(error: GcError, storage: &FileStorage, path: &Path) -> anyhow::Error {
    match error {
        GcError::Stopped => told(Exit::Interrupted, "interrupted; the next gc goes on"),
        GcError::Readers(LockError::Read) if signals::interrupted() => {
            told(Exit::Interrupted, "interrupted while it waited for readers; the next gc goes on")
        }
        GcError::Readers(LockError::Read) => {
            let who = who(storage);
            told(Exit::Locked, format!("{who} read it: nothing is freed until they have ended"))
        }
        GcError::ThawLog { place } => told(
            Exit::Failed,
            format!(
                "the thaw log '{place}' has changes that the image does not have: run 'floe freeze {}' first",
                shown(path)
            ),
        ),
        GcError::Punch(StorageError::Io { source, .. }) if source.kind() == ErrorKind::Unsupported => {
            told(Exit::Failed, "the file system cannot free space within a file")
        }
        GcError::Start(StartError::Meta(error)) => error.into(),
        error => error.into(),
    }
}

fn tell(args: &Args, report: &GcReport, context: &Context) -> io::Result<()> {
    if context.json {
        let summary = Summary {
            image: output::Name::new(args.image.as_os_str().as_encoded_bytes()),
            dry_run: args.dry_run,
            superchunks: report.superchunks,
            frames: report.frames,
            freed_bytes: report.freed_bytes,
            left_bytes: report.left_bytes,
        };
        return output::line(&mut io::stdout(), "summary", &summary);
    }
    let did = if args.dry_run { "would free" } else { "freed" };
    let rest = match report.left_bytes {
        0 => String::new(),
        bytes => format!("; {} are dead in superchunks that are partly live, and stay", Human(bytes)),
    };
    tell::line(&format!("{did} {} in '{}'{rest}", Human(report.freed_bytes), shown(&args.image)));
    Ok(())
}
