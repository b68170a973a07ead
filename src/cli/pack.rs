//! `floe pack`: files and folders into a new image.

use super::args::{self, Resources};
use super::making::{self, Codec};
use super::open::shown;
use super::progress::{Progress, Step, clock, rate};
use super::sentence::told;
use super::size::{Human, counted, entries};
use super::{Context, Exit, descriptors, escape, output, signals, size, time};
use crate::fs::verify::{self, Verified};
use crate::pack::filter::{Contents, Decision, Filter, FilterDir, FilterEntry, FilterOptions, FilterRules, NameList};
use crate::pack::{PackObserver, PackOptions, PackSummary};
use anyhow::Context as _;
use parking_lot::Mutex;
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const EXAMPLES: &str = "\
A single directory becomes the root of the image. Several sources, or a single file, are put into the root under \
their own names. A source that is a link to a directory stands for that directory; a source that is a link to a file is \
packed as a link, or with -H as that file. The image gets its name only when it is complete; if packing fails, no image is left behind. \
If IMAGE is a symbolic link, the image is written to its target, which need not exist yet; the link stays. \
With --force only a regular file is replaced, and not while another process writes it, nor while its thaw log \
(IMAGE.thaw) holds bytes: they may be nowhere else. The image, the one it replaces, IMAGE.thaw and IMAGE.lock are \
left out of their own sources.

With --verify the finished image is read back and compared with the sources, which are read once more: bytes, types, \
permissions, owners, times of modification, extended attributes, link targets. Then the image gets its name. What has changed \
since it was packed is a warning. If something differs that has not changed, or cannot be read back, no image is written, and the \
status is 1.

Patterns work as in .gitignore: '*.o' matches anywhere, '/build' only at the top of a source, 'tmp/' only directories; \
the last pattern that matches decides, and '!' negates a pattern. With --include, files that match no pattern are \
left out; --exclude is applied after that.

Examples:
  floe pack ~/photos photos.floe
  floe pack src docs README.md project.floe --exclude '*.o' --exclude-caches
  floe pack --include '*.rs' --include '*.toml' --debug-filter project project.floe
  cd project && git ls-files -z | floe pack -0 --files-from - . ../project.floe
  floe pack --profile small logs logs.floe                         smaller, and slower to pack
  floe pack --chunker fixed:32K --part-size 128K disks disks.floe  for disk images, random reads
  floe pack --all-root --timestamp 2026-01-01T00:00:00Z tree tree.floe   the same bytes every time
  floe pack --verify ~/photos photos.floe                          compare the image with the files, too

Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but something could not be read as it is, 11 another process \
writes the image, 130 interrupted.
";

/// `floe pack`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "floe pack [OPTIONS] SRC... IMAGE")]
pub struct Args {
    /// What to pack, then the image to make
    #[arg(value_name = "SRC... IMAGE", required = true)]
    paths: Vec<PathBuf>,
    /// Replace the image if it exists
    #[arg(short, long)]
    force: bool,
    /// Pack nothing; show how much there is to pack
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Read the finished image back and compare it with the sources before it gets its name
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    codec: Codec,
    #[command(flatten)]
    attributes: Attributes,
    #[command(flatten)]
    resources: Resources,
    /// Memory to use in total
    #[arg(long, value_name = "SIZE", default_value = "1.5G", value_parser = size::parse, help_heading = "Resources")]
    memory: u64,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Choose files")]
struct Choice {
    /// Leave out files and directories that match a pattern
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Leave out what matches a pattern in this file, one pattern per line
    #[arg(long, value_name = "FILE")]
    exclude_from: Vec<PathBuf>,
    /// Take only files that match a pattern
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave out the contents of directories tagged as caches (CACHEDIR.TAG)
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out the contents of directories that hold an entry of this name
    #[arg(long, value_name = "NAME")]
    exclude_if_present: Vec<OsString>,
    /// Leave out files larger than this
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    exclude_larger_than: Option<u64>,
    /// Pack the target of a source that is a link to a file; links below a source stay links
    #[arg(short = 'H', long)]
    dereference_args: bool,
    /// Stay on the sources' own file systems
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Take only the names listed in this file (- for standard input), one per line, relative to the source; the
    /// contents of a directory are taken only if its name ends with a slash
    #[arg(long, value_name = "FILE|-")]
    files_from: Option<PathBuf>,
    /// Names in --files-from end with a zero byte, not with a newline
    #[arg(short = '0', long, requires = "files_from")]
    null: bool,
    /// Pack nothing; show what would be taken or left out, and why
    #[arg(long)]
    debug_filter: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Attributes")]
struct Attributes {
    /// Store owners as numbers: floe always does
    #[arg(long)]
    numeric_owner: bool,
    /// Owner and group of everything, as numbers
    #[arg(long, value_name = "U:G", value_parser = args::owner)]
    owner: Option<(u32, u32)>,
    /// The same as --owner 0:0
    #[arg(long, conflicts_with = "owner")]
    all_root: bool,
    /// Time of the image, and the latest time of anything in it: seconds since 1970 or RFC 3339 [default: SOURCE_DATE_EPOCH, if it
    /// is set]. With the same files, options and timestamp an image has the same bytes
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    timestamp: Option<i64>,
}

impl Attributes {
    /// Returns owner and group of everything, if they are given.
    fn owner(&self) -> Option<(u32, u32)> {
        if self.all_root { Some((0, 0)) } else { self.owner }
    }
}

/// Runs `floe pack`.
///
/// # Errors
/// Fails if an option is wrong, a source does not exist, the image exists or cannot be written, or a signal came.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let (image, sources) = match args.paths.split_last() {
        Some((image, sources)) if !sources.is_empty() => (image, sources),
        _ => return Err(told(Exit::Usage, "both a source and an image are needed: SRC... IMAGE (try '--help')")),
    };
    making::refuse_standard_output(image)?;
    if args.choice.files_from.is_some() && sources.len() > 1 {
        return Err(told(Exit::Usage, "--files-from names files in one source, but several are given"));
    }
    let rules = Arc::new(args.choice.rules()?);
    let debug = args.choice.debug_filter;
    let speaker = debug.then(|| Arc::new(Speaker { rules: rules.clone(), failed: Mutex::new(None) }));
    let mut options = args.options()?;
    options.filter = match &speaker {
        Some(speaker) => speaker.clone(),
        None => rules.clone(),
    };

    let json = context.json;
    let observer = Observer::new(context, "packing", (0, 0));
    let mut later_findings = 0;
    let exit = if debug || args.dry_run {
        crate::pack::survey(sources, image, &options, &observer)?;
        let written = match speaker.and_then(|speaker| speaker.failed.lock().take()) {
            Some(error) => Err(error),
            None => observer.tell_survey(json),
        };
        output::whoever_reads(written)?;
        Exit::Done
    } else {
        signals::watch();
        let (summary, checked) = if args.verify {
            let (summary, checked) = pack_and_verify(sources, image, &options, &observer, context)?;
            (summary, Some(checked))
        } else {
            let packed = crate::pack::pack(sources, image, &options, &observer);
            observer.progress.finish();
            (packed?, None)
        };
        later_findings = checked.as_ref().map_or(0, |checked| checked.findings);
        for name in rules.unseen() {
            observer.progress.finding(name, "it is listed, but there is no such file in the source");
        }
        observer.tell_summary(&summary, checked.as_ref(), json)?;
        Exit::Done
    };
    for (option, pattern) in rules.unused() {
        let hint = "patterns are relative to the source; --debug-filter shows what decides";
        observer
            .progress
            .warning(&format!("{option} '{}' matches nothing ({hint})", escape::shown(pattern.as_bytes())));
    }
    Ok(if observer.progress.findings() + later_findings > 0 { Exit::Findings } else { exit })
}

/// The result of a verification.
struct Checked {
    verified: Verified,
    /// Number of warnings.
    findings: u64,
    elapsed: Duration,
}

/// Packs, verifies the image, and then gives it its name.
fn pack_and_verify(
    sources: &[PathBuf],
    image: &Path,
    options: &PackOptions,
    observer: &Observer,
    context: &Context,
) -> anyhow::Result<(PackSummary, Checked)> {
    let written = crate::pack::write(sources, image, options, observer);
    observer.progress.finish();
    let written = written?;
    let summary = written.summary();
    let checking = Observer::new(context, "verifying", (summary.files, summary.bytes));
    let verified = verify::verify(&written, &checking);
    checking.progress.finish();
    let (findings, elapsed) = (checking.progress.findings(), checking.progress.elapsed());
    let checked = Checked { verified: verified?, findings, elapsed };
    Ok((written.finish()?, checked))
}

impl Choice {
    fn rules(&self) -> anyhow::Result<FilterRules> {
        let wrong = |error: crate::pack::filter::PatternError| told(Exit::Usage, error.to_string());
        let mut options = FilterOptions {
            exclude_caches: self.exclude_caches,
            exclude_if_present: self.exclude_if_present.iter().cloned().map(OsString::into_vec).collect(),
            exclude_larger_than: self.exclude_larger_than,
            ..FilterOptions::default()
        };
        for file in &self.exclude_from {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read '{}'", shown(file)))?;
            options.exclude.add_lines(&text, file).map_err(wrong)?;
        }
        self.exclude.iter().try_for_each(|pattern| options.exclude.add(pattern)).map_err(wrong)?;
        self.include.iter().try_for_each(|pattern| options.include.add(pattern)).map_err(wrong)?;
        if let Some(file) = &self.files_from {
            let text = read_list(file).with_context(|| format!("cannot read '{}'", shown(file)))?;
            let separator = if self.null { 0 } else { b'\n' };
            options.list = Some(NameList::parse(&text, separator).map_err(wrong)?);
        }
        FilterRules::new(options).map_err(wrong)
    }
}

fn read_list(file: &Path) -> io::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut text = Vec::new();
        return io::stdin().lock().read_to_end(&mut text).map(|_| text);
    }
    std::fs::read(file)
}

impl Args {
    fn options(&self) -> anyhow::Result<PackOptions> {
        let temp_dir = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
        Ok(PackOptions {
            jobs: self.resources.jobs(),
            memory: self.memory,
            force: self.force,
            dereference_sources: self.choice.dereference_args,
            one_file_system: self.choice.one_file_system,
            owner: self.attributes.owner(),
            open_directories: descriptors::directories(descriptors::raise()),
            temp_dir: temp_dir.map(PathBuf::from),
            ..making::options(&self.codec, self.attributes.timestamp)?
        })
    }
}

/// A filter that decides as the filter rules do, and prints each decision and its reason.
struct Speaker {
    rules: Arc<FilterRules>,
    /// Error of standard output, if it had one.
    failed: Mutex<Option<io::Error>>,
}

impl Speaker {
    fn say(&self, what: &str, path: &[u8], why: &str) {
        let mut failed = self.failed.lock();
        if failed.is_none() {
            *failed = writeln!(io::stdout(), "{what}  {}  ({why})", escape::shown(path)).err();
        }
    }
}

impl Filter for Speaker {
    fn decide(&self, entry: &FilterEntry<'_>) -> Decision<'_> {
        let decision = self.rules.decide(entry);
        match decision {
            Decision::Take(why) => self.say("take", entry.path, &why.to_string()),
            Decision::Skip(why) => self.say("skip", entry.path, &why.to_string()),
        }
        decision
    }

    fn enter(&self, dir: &FilterDir<'_>) -> Contents<'_> {
        let contents = self.rules.enter(dir);
        if let Contents::Only(tag) = contents {
            let path = [dir.path, b"/*"].concat();
            self.say("skip", path.strip_prefix(b"/").unwrap_or(&path), &format!("tagged by '{}'", escape::shown(tag)));
        }
        contents
    }
}

struct Observer {
    progress: Progress,
    /// Total number of files and bytes.
    total: Mutex<(u64, u64)>,
    verbose: bool,
}

impl PackObserver for Observer {
    fn wants_total(&self) -> bool {
        self.progress.is_shown()
    }

    fn total(&self, files: u64, bytes: u64) {
        *self.total.lock() = (files, bytes);
    }

    fn progress(&self, files: u64, bytes: u64, stored: u64) {
        let total = self.total.lock().1;
        self.progress.step(Step { files, bytes, total, stored: Some(stored) });
    }

    fn verified(&self, files: u64, bytes: u64) {
        let total = self.total.lock().1;
        self.progress.step(Step { files, bytes, total, stored: None });
    }

    fn packed(&self, path: &[u8]) {
        if self.verbose {
            self.progress.list(path);
        }
    }

    fn warning(&self, path: &[u8], message: &str) {
        self.progress.finding(path, message);
    }

    fn note(&self, path: &[u8], message: &str) {
        self.progress.say(&format!("note: {}: {message}", escape::shown(path)));
    }

    fn cancelled(&self) -> bool {
        signals::interrupted()
    }
}

#[derive(Serialize)]
struct Summary {
    files: u64,
    directories: u64,
    symlinks: u64,
    specials: u64,
    hard_links: u64,
    bytes: u64,
    image_bytes: u64,
    data_bytes: u64,
    metadata_bytes: u64,
    unique_bytes: u64,
    shared_bytes: u64,
    subchunks: u64,
    superchunks: u64,
    warnings: u64,
    seconds: f64,
    root_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<VerifiedShown>,
}

/// What was compared with the sources after packing. Its time is not part of the summary's.
#[derive(Serialize)]
struct VerifiedShown {
    names: u64,
    files: u64,
    bytes: u64,
    warnings: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Survey {
    dry_run: bool,
    files: u64,
    bytes: u64,
}

impl Observer {
    /// Makes the observer of what is `verb` ("packing"). `total` is the number of files and bytes, as far as known.
    fn new(context: &Context, verb: &'static str, total: (u64, u64)) -> Self {
        let progress = Progress::new(context, true, verb);
        Observer { progress, total: Mutex::new(total), verbose: context.verbose > 0 }
    }

    fn tell_survey(&self, json: bool) -> io::Result<()> {
        let (files, bytes) = *self.total.lock();
        if json {
            return output::line(&mut io::stdout(), "summary", &Survey { dry_run: true, files, bytes });
        }
        self.progress.say(&format!("{}, {} would be packed", counted(files, "file"), Human(bytes)));
        Ok(())
    }

    fn tell_summary(&self, summary: &PackSummary, checked: Option<&Checked>, json: bool) -> io::Result<()> {
        let elapsed = self.progress.elapsed().saturating_sub(checked.map_or(Duration::ZERO, |checked| checked.elapsed));
        let warnings = self.progress.findings() + checked.map_or(0, |checked| checked.findings);
        if json {
            let summary = Summary {
                files: summary.files,
                directories: summary.directories,
                symlinks: summary.symlinks,
                specials: summary.specials,
                hard_links: summary.hard_links,
                bytes: summary.bytes,
                image_bytes: summary.image_bytes,
                data_bytes: summary.data_bytes,
                metadata_bytes: summary.metadata_bytes,
                unique_bytes: summary.unique_bytes,
                shared_bytes: summary.shared_bytes,
                subchunks: summary.subchunks,
                superchunks: summary.superchunks,
                warnings,
                seconds: elapsed.as_secs_f64(),
                root_hash: output::hex(&summary.root_hash),
                verified: checked.map(|checked| VerifiedShown {
                    names: checked.verified.names,
                    files: checked.verified.files,
                    bytes: checked.verified.bytes,
                    warnings: checked.findings,
                    seconds: checked.elapsed.as_secs_f64(),
                }),
            };
            return output::line(&mut io::stdout(), "summary", &summary);
        }
        let rated = |bytes, time| rate(bytes, time).map_or_else(String::new, |rate| format!(", {rate}"));
        self.progress.say(&format!(
            "packed {}, {}, {} ({} of it repeats), into {} ({:.2}:1) in {}{}",
            counted(summary.files, "file"),
            entries(summary.symlinks + summary.specials + summary.hard_links, summary.directories),
            Human(summary.bytes),
            Human(summary.shared_bytes),
            Human(summary.image_bytes),
            summary.bytes as f64 / summary.image_bytes.max(1) as f64,
            clock(elapsed),
            rated(summary.bytes, elapsed),
        ));
        if let Some(Checked { verified, elapsed, .. }) = checked {
            self.progress.say(&format!(
                "compared with the sources: {}, {}, in {}{}",
                counted(verified.files, "file"),
                Human(verified.bytes),
                clock(*elapsed),
                rated(verified.bytes, *elapsed),
            ));
        }
        if warnings > 0 {
            self.progress.say(&format!("{}, see above", counted(warnings, "warning")));
        }
        Ok(())
    }
}
