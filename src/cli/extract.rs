//! `floe extract`: files of an image into a folder, or to standard output.

use super::args::ImageAndPaths;
use super::cat::{CatError, copy_file};
use super::open::{Opened, shown};
use super::progress::{Progress, Step, clock};
use super::sentence::{told, unless_unread};
use super::size::{Human, counted, entries};
use super::walk::Walk;
use super::{Context, Exit, descriptors, escape, output, signals, tell};
use crate::format::rows::FileType;
use crate::fs::extract::{self, ExtractError, ExtractObserver, ExtractOptions, ExtractSummary, Overwrite, Pick};
use crate::fs::{Attr, Fs};
use crate::pack::filter::{Decision, Filter, FilterEntry, FilterOptions, FilterRules, PatternError, Why};
use crate::storage::{self, FileId, LogBeside};
use anyhow::Context as _;
use serde::Serialize;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Paths are paths in the image; a directory is extracted with everything in it. Nothing is ever written outside DIR, \
whatever the image says. Symbolic links are made but never followed. Holes stay holes. The image itself, its thaw log \
(IMAGE.thaw) and its lock (IMAGE.lock) are never replaced, even with --overwrite=always.

Owners, set-id bits of files that belonged to somebody else, and the xattrs 'trusted.*' and 'security.*' are restored by \
root only. What other users extract belongs to them, and that is no warning (-v says so once). A device that cannot be made is an error, \
as for tar: the rest is extracted, and the exit status is 3.

Examples:
  floe extract photos.floe -C out                    everything
  floe extract photos.floe 2024/may 2024/june -C out
  floe extract photos.floe --include '*.jpg' --strip-components 1 -C out
  floe extract photos.floe notes/todo.txt --stdout | less
  floe extract photos.floe -C out --overwrite changed    once more, only what differs

Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but something is missing, 10 no image, 130 interrupted.
";

/// Most directories that are held open: more make nothing faster.
const OPEN_DIRECTORIES: usize = 64;

/// `floe extract`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "floe extract [OPTIONS] IMAGE [PATH]... -C DIR")]
pub struct Args {
    #[command(flatten)]
    image: ImageAndPaths,
    /// The directory to extract into; it is made if it is not there
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".", conflicts_with = "stdout")]
    directory: PathBuf,
    /// Extract only what matches a pattern (gitignore's syntax)
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave out what matches a pattern; applied after --include
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Strip N leading components from each path; paths that have no more are left out
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "stdout")]
    strip_components: usize,
    /// What to do with a name that exists already: keep it, replace it if type, size or time differ, or replace it
    /// [default: never, and say so]
    #[arg(long, value_name = "WHEN", conflicts_with = "stdout")]
    overwrite: Option<When>,
    /// Write the bytes of files to standard output, one file after another
    #[arg(long)]
    stdout: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum When {
    Never,
    Changed,
    Always,
}

impl From<When> for Overwrite {
    fn from(when: When) -> Self {
        match when {
            When::Never => Overwrite::Never,
            When::Changed => Overwrite::Changed,
            When::Always => Overwrite::Always,
        }
    }
}

/// Runs `floe extract`.
///
/// # Errors
/// Fails if the image cannot be opened or has not all of the paths, the directory cannot be used, or a signal came.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let rules = rules(&args)?;
    let (image, paths) = args.image.resolve()?;
    let opened = Opened::open(&image)?;
    opened.tell_of_checkpoint(&image);
    let fs = opened.fs(true);
    let mut attrs = Vec::new();
    for path in &paths {
        // Before anything is written: half of what was asked for would look like all of it.
        let attr = fs.resolve(path);
        attrs.push(
            attr.with_context(|| format!("cannot extract '{}' from '{}'", escape::shown(path), shown(&image.path)))?,
        );
    }
    let pick = |path: &[u8], file_type| pick(&rules, path, file_type);
    if args.stdout {
        return to_stdout(&fs, &paths, &attrs, &pick);
    }
    signals::watch();
    let total = if paths.is_empty() { opened.image.root().view.bytes } else { 0 };
    let json = context.json;
    let observer =
        Observer { progress: Progress::new(context, true, "extracting"), total, verbose: context.verbose > 0 };
    let own = own_files(&image.path, opened.storage.file())
        .with_context(|| format!("cannot look at '{}'", shown(&image.path)))?;
    let options = ExtractOptions {
        overwrite: args.overwrite.map_or(Overwrite::Never, Overwrite::from),
        strip_components: args.strip_components,
        filter: &pick,
        open_directories: descriptors::directories(descriptors::raise()).min(OPEN_DIRECTORIES),
        own,
    };
    let extracted = extract::extract(&fs, &paths, &args.directory, &options, &observer);
    observer.progress.finish();
    let summary = match extracted {
        Err(ExtractError::Cancelled) => return Err(told(Exit::Interrupted, "interrupted")),
        extracted => extracted.with_context(|| format!("cannot extract '{}'", shown(&image.path)))?,
    };
    observer.tell_summary(&summary, json)?;
    for (option, pattern) in rules.unused() {
        observer.progress.warning(&format!("{option} '{}' matches nothing", escape::shown(pattern.as_bytes())));
    }
    let unasked = args.overwrite.is_none() && summary.skipped > 0;
    if unasked {
        let names = counted(summary.skipped, "name");
        observer.progress.warning(&format!("{names} left as they were (--overwrite says what to do with them)"));
    }
    Ok(if unasked || observer.progress.findings() > 0 { Exit::Findings } else { Exit::Done })
}

/// Returns device and inode of the image, its thaw log and its lock.
fn own_files(path: &Path, image: &File) -> anyhow::Result<Vec<FileId>> {
    let metadata = image.metadata()?;
    let path = storage::follow(path)?;
    // What cannot be looked at cannot be written to either.
    let log = LogBeside::find(&path).ok().flatten().map_or_else(Vec::new, |log| log.files);
    let lock = storage::note_beside(&path);
    Ok(std::iter::once((metadata.dev(), metadata.ino())).chain(log).chain(lock).collect())
}

fn rules(args: &Args) -> anyhow::Result<FilterRules> {
    let wrong = |error: PatternError| told(Exit::Usage, error.to_string());
    let mut options = FilterOptions::default();
    args.include.iter().try_for_each(|pattern| options.include.add(pattern)).map_err(wrong)?;
    args.exclude.iter().try_for_each(|pattern| options.exclude.add(pattern)).map_err(wrong)?;
    FilterRules::new(options).map_err(wrong)
}

/// Returns what the filter rules decide about a path. They are asked as `pack` asks them.
fn pick(rules: &FilterRules, path: &[u8], file_type: FileType) -> Pick {
    let is_dir = file_type == FileType::Directory;
    match rules.decide(&FilterEntry { path, is_dir, size: 0 }) {
        Decision::Take(Why::OnTheWay) => Pick::Search,
        Decision::Take(_) => Pick::Take,
        Decision::Skip(_) => Pick::Skip,
    }
}

/// Writes the bytes of the files at and below `paths` to standard output; without paths, of all files.
fn to_stdout(
    fs: &Fs,
    paths: &[Vec<u8>],
    attrs: &[Attr],
    pick: &dyn Fn(&[u8], FileType) -> Pick,
) -> anyhow::Result<Exit> {
    let mut out = output::stdout();
    let exit = Cell::new(Exit::Done);
    let mut visit = |path: &[u8], attr: &Attr| -> anyhow::Result<bool> {
        let picked = pick(path, attr.file_type);
        if picked == Pick::Take && attr.file_type == FileType::Regular {
            match copy_file(fs, attr, &mut out) {
                Ok(()) => {}
                Err(CatError::Write(error)) => return Err(error.into()),
                Err(CatError::Read(error)) => {
                    tell::error(path, &format!("cannot read '{}': {error}", escape::shown(path)));
                    exit.set(Exit::Findings);
                }
            }
        }
        Ok(picked != Pick::Skip)
    };
    let mut write = || -> anyhow::Result<()> {
        let mut walk = Walk::new(fs);
        if paths.is_empty() {
            walk.below(crate::format::ids::InodeId::ROOT, b"", &mut visit)?;
        }
        for (path, attr) in paths.iter().zip(attrs) {
            if path.is_empty() || visit(path, attr)? && attr.is_dir() {
                walk.below(attr.inode, path, &mut visit)?;
            }
        }
        Ok(())
    };
    let written = write();
    let flushed = out.flush();
    unless_unread(written.and_then(|()| Ok(flushed?)))?;
    Ok(exit.get())
}

struct Observer {
    progress: Progress,
    /// Total number of bytes, 0 if unknown.
    total: u64,
    verbose: bool,
}

impl ExtractObserver for Observer {
    fn extracted(&self, path: &[u8]) {
        if self.verbose {
            self.progress.list(path);
        }
    }

    fn progress(&self, files: u64, bytes: u64) {
        self.progress.step(Step { files, bytes, total: self.total, stored: None });
    }

    fn note(&self, _: &[u8], message: &str) {
        if self.verbose {
            self.progress.say(&format!("note: {message}"));
        }
    }

    fn warning(&self, path: &[u8], message: &str) {
        self.progress.finding(path, message);
    }

    fn error(&self, path: &[u8], message: &str) {
        self.progress.fault(path, message);
    }

    fn cancelled(&self) -> bool {
        signals::interrupted()
    }
}

#[derive(Serialize)]
struct Summary {
    files: u64,
    /// Number of links, further names of files, devices, FIFOs and sockets.
    others: u64,
    directories: u64,
    bytes: u64,
    skipped: u64,
    warnings: u64,
    errors: u64,
    seconds: f64,
}

impl Observer {
    fn tell_summary(&self, summary: &ExtractSummary, json: bool) -> io::Result<()> {
        let elapsed = self.progress.elapsed();
        if json {
            let summary = Summary {
                files: summary.files.saturating_sub(summary.others),
                others: summary.others,
                directories: summary.directories,
                bytes: summary.bytes,
                skipped: summary.skipped,
                warnings: summary.warnings,
                errors: summary.errors,
                seconds: elapsed.as_secs_f64(),
            };
            return output::line(&mut io::stdout(), "summary", &summary);
        }
        let files = counted(summary.files.saturating_sub(summary.others), "file");
        let others = entries(summary.others, summary.directories);
        self.progress.say(&format!("extracted {files}, {others}, {} in {}", Human(summary.bytes), clock(elapsed)));
        if summary.errors > 0 {
            self.progress.say(&format!("{}, see above", counted(summary.errors, "error")));
        }
        Ok(())
    }
}
