//! Other programs that pack a tree: which exist, what they can do here, how they pack, and how their results are read.
//!
//! One file for each family. A program's abilities are found by trying it, never by its version. Invariants: every
//! program gets as many threads as floe if it has an option for that; it sees no settings of the user, and writes
//! nothing outside the directory it is given. Called by `bench::run`.

mod borg;
mod dwarfs;
mod erofs;
mod kit;
mod restic;
mod serve;
mod squashfs;
mod tar;
mod zpaq;

pub use kit::{Extract, Tools, is_program};
pub use serve::Mount;

use super::command::{CommandError, Limits, Ran, run, run_accepting, run_discarding};
use super::report::Missing;
use kit::{Family, Kit, Place, Setting, cannot};
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// All families of compared programs, in the order in which they are shown.
static FAMILIES: &[&dyn Family] = &[
    &squashfs::Squashfs,
    &erofs::Erofs,
    &dwarfs::Dwarfs,
    &borg::Borg,
    &restic::Restic,
    &zpaq::Zpaq,
    &tar::ZSTD,
    &tar::XZ,
];

/// Time within which a program must print its version, or pack a small file.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// Number of bytes that a program packs as a trial: enough to be compressed.
const PROBE: usize = 64 << 10;
/// Shown as the version of a program if the program prints none.
const UNKNOWN: &str = "unknown";
/// Most bytes of a version; a longer word is not a version.
const MAX_VERSION: usize = 40;

/// Programs that are installed, and those that are not.
pub struct Found {
    /// Installed programs, one for each setting, in display order.
    pub peers: Vec<Peer>,
    /// Programs that are not installed, and settings that installed programs do not support.
    pub missing: Vec<Missing>,
}

/// Finds which of the programs that floe is compared with can be run. `work` is an absolute path of a directory. It is
/// created if it is missing, and removed before this returns.
///
/// # Errors
/// Fails if the directory cannot be made, or the caller asked to stop. A program that fails is reported as missing, not
/// as an error.
pub fn look(tools: &Tools, work: &Path, jobs: usize, limits: &Limits<'_>) -> Result<Found, CommandError> {
    let kit = Kit::new(tools, jobs);
    let place = probe_tree(work).map_err(|source| cannot("the peers", source))?;
    let limits = Limits { time: Some(ANSWERS_WITHIN), ..*limits };
    let mut found = Found { peers: Vec::new(), missing: Vec::new() };
    let done = FAMILIES.iter().try_for_each(|&family| look_at(family, &kit, &place, &limits, &mut found));
    let removed = fs::remove_dir_all(work).map_err(|source| cannot("the peers", source));
    done.and(removed).map(|()| found)
}

fn look_at(
    family: &'static dyn Family,
    kit: &Kit,
    place: &Place,
    limits: &Limits<'_>,
    found: &mut Found,
) -> Result<(), CommandError> {
    let absent: Vec<_> = family.programs().iter().filter(|(program, _)| kit.find(program).is_none()).collect();
    if !absent.is_empty() {
        let packages: Vec<_> = absent.iter().map(|(_, package)| *package).collect();
        found.missing.push(Missing { name: family.name().to_owned(), package: packages.join(", ") });
        return Ok(());
    }
    let version = versions(family, kit, place, limits)?;
    for setting in family.settings(kit) {
        match takes(family, kit, place, limits, &setting)? {
            Ok(arguments) => found.peers.push(Peer::new(family, kit, &setting, arguments, &version)),
            Err(reason) => {
                let codec = setting.optional.unwrap_or_default();
                let package = family.programs().first().map_or("", |(_, package)| package);
                tracing::debug!(setting = setting.name, %reason, "a peer does not accept a setting");
                let version = if version == UNKNOWN { "one" } else { &version };
                let package = format!("{package} built with {codec}, unlike the installed {version}");
                found.missing.push(Missing { name: setting.name.to_owned(), package });
            }
        }
    }
    Ok(())
}

fn versions(family: &dyn Family, kit: &Kit, place: &Place, limits: &Limits<'_>) -> Result<String, CommandError> {
    let mut said = Vec::new();
    for (program, _) in family.programs() {
        let mut command = kit.command(program, &place.state);
        command.args(family.version()).current_dir(&place.state);
        // Without a command, or with an unknown option, a program prints its version and fails.
        let version = match run_accepting(&mut command, limits, &[0, 1, 2]) {
            Ok(ran) => version_in(&ran.output).or_else(|| version_in(ran.message.as_bytes())),
            Err(CommandError::Interrupted) => return Err(CommandError::Interrupted),
            Err(_) => None,
        };
        let version = version.unwrap_or_else(|| UNKNOWN.to_owned());
        said.push(if family.programs().len() == 1 { version } else { format!("{program} {version}") });
    }
    Ok(said.join(", "))
}

/// Returns the first word of numbers with dots in between.
fn version_in(said: &[u8]) -> Option<String> {
    let said = String::from_utf8_lossy(said);
    let words = said.split(|c: char| !c.is_ascii_alphanumeric() && !".-+~".contains(c));
    let words = words.map(|word| word.trim_start_matches('v').trim_end_matches(['.', '-']));
    let is_version = |word: &&str| {
        let number = word.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let rest = word.strip_prefix(number).and_then(|rest| rest.strip_prefix('.'));
        let dotted = rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        !number.is_empty() && dotted && word.len() <= MAX_VERSION
    };
    words.filter(is_version).map(str::to_owned).next()
}

/// Returns the first of a setting's argument lists that the program accepts; otherwise the program's message about the
/// last one.
fn takes(
    family: &dyn Family,
    kit: &Kit,
    place: &Place,
    limits: &Limits<'_>,
    setting: &Setting,
) -> Result<Result<Vec<String>, String>, CommandError> {
    if setting.optional.is_none() {
        return Ok(Ok(setting.arguments.first().cloned().unwrap_or_default()));
    }
    let mut reason = String::new();
    for arguments in &setting.arguments {
        let tried = family.pack(kit, place, arguments).iter_mut().try_for_each(|c| run(c, limits).map(drop));
        match tried.and_then(|()| remove(&place.image).map_err(|source| cannot(family.name(), source))) {
            Ok(()) => return Ok(Ok(arguments.clone())),
            Err(CommandError::Interrupted) => return Err(CommandError::Interrupted),
            Err(CommandError::Failed { message, .. }) => reason = message,
            Err(error) => reason = error.to_string(),
        }
    }
    Ok(Err(reason))
}

fn probe_tree(work: &Path) -> io::Result<Place> {
    let place = Place::make(&work.join("tree"), work)?;
    fs::create_dir_all(&place.source)?;
    fs::write(place.source.join("file"), b"probe ".repeat(PROBE / 6))?;
    Ok(place)
}

/// A program that floe is compared with, with one setting.
pub struct Peer {
    family: &'static dyn Family,
    kit: Kit,
    name: &'static str,
    arguments: Vec<String>,
    version: String,
    options: String,
}

impl Peer {
    fn new(family: &'static dyn Family, kit: &Kit, setting: &Setting, arguments: Vec<String>, version: &str) -> Self {
        let shown = family.pack(kit, &Place::to_show(), &arguments).last().map(kit::line).unwrap_or_default();
        Peer { family, kit: kit.clone(), name: setting.name, arguments, version: version.to_owned(), options: shown }
    }

    /// Returns the short and unique name of the program with its setting.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Returns the version that the program reports.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the command that packs, with DIR and IMAGE for the paths.
    pub fn options(&self) -> &str {
        &self.options
    }

    /// Returns what a reader of the figures must know, if anything.
    pub fn remark(&self) -> Option<&'static str> {
        self.family.remark()
    }

    /// Packs `source` into `work`. Both are absolute, and `work` is an empty directory for this program alone. The
    /// caller removes it in any case. `limits` apply to all commands together.
    ///
    /// # Errors
    /// Fails if a command fails, or is killed because of `limits`.
    pub fn pack(&self, source: &Path, work: &Path, limits: &Limits<'_>) -> Result<Packed, CommandError> {
        let fail = |source| cannot(self.name, source);
        let place = Place::make(source, work).map_err(fail)?;
        let commands = self.family.pack(&self.kit, &place, &self.arguments);
        let ran = run_all(commands, limits)?;
        let size = size_of(&place.image).map_err(fail)?;
        Ok(Packed { family: self.family, kit: self.kit.clone(), place, ran, size })
    }
}

/// Runs commands one after another, within one limit. Their output is discarded.
fn run_all(commands: Vec<Command>, limits: &Limits<'_>) -> Result<Ran, CommandError> {
    let began = Instant::now();
    let mut all: Option<Ran> = None;
    for mut command in commands {
        let left = limits.time.map(|time| time.saturating_sub(began.elapsed()));
        let ran = match run_discarding(&mut command, &Limits { time: left, ..*limits }, &[0]) {
            Err(CommandError::OverLimit { .. }) => {
                return Err(CommandError::OverLimit { seconds: began.elapsed().as_secs_f64() });
            }
            other => other?,
        };
        all = Some(match all {
            None => ran,
            Some(before) => Ran {
                seconds: before.seconds + ran.seconds,
                cpu_seconds: before.cpu_seconds + ran.cpu_seconds,
                peak_memory: before.peak_memory.max(ran.peak_memory),
                ..ran
            },
        });
    }
    all.ok_or_else(|| cannot("nothing", io::Error::other("there is no command that packs")))
}

/// The result of packing with a program that floe is compared with.
pub struct Packed {
    family: &'static dyn Family,
    kit: Kit,
    place: Place,
    /// Total cost of the commands.
    pub ran: Ran,
    /// Bytes of the image, or of all files of the repository.
    pub size: u64,
}

impl Packed {
    /// Mounts the result at an empty directory, whose path is absolute and without symlinks. Returns `None` if no way
    /// to mount works here.
    ///
    /// # Errors
    /// Fails if the mount was killed because of `limits`, or is mounted and cannot be examined.
    pub fn mount(&self, at: &Path, limits: &Limits<'_>) -> Result<Option<Mount>, CommandError> {
        serve::mount(self.family, &self.kit, &self.place, at, limits)
    }

    /// Returns the command that [`Packed::extract`] runs. Depending on the program it writes the bytes of the files or
    /// a tar stream to standard output, or nothing. Programs that must write files write below the work directory.
    pub fn extraction(&self, what: Extract<'_>) -> Option<Command> {
        self.family.extract(&self.kit, &self.place, what)
    }

    /// Lets the program's own extraction read and decode what is requested, and discards the output. Returns `None` if
    /// the program cannot extract this, or if the command for it is not installed.
    ///
    /// # Errors
    /// Fails if the program fails, or is killed because of `limits`.
    pub fn extract(&self, what: Extract<'_>, limits: &Limits<'_>) -> Result<Option<Ran>, CommandError> {
        let Some(mut command) = self.extraction(what) else { return Ok(None) };
        // Removes the files of programs that must write some, also those of an earlier run of the command.
        let remove = || remove(&self.place.out).map_err(|source| cannot(self.family.name(), source));
        remove()?;
        let ran = run_discarding(&mut command, limits, &[0]);
        remove()?;
        match ran {
            Ok(ran) => Ok(Some(ran)),
            Err(CommandError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Returns the bytes of a file, or of all regular files below a directory, each name counted.
fn size_of(path: &Path) -> io::Result<u64> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut sum = 0;
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                directories.push(entry.path());
            } else {
                sum += metadata.len();
            }
        }
    }
    Ok(sum)
}

/// Removes a file or a tree, if it exists.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("mksquashfs version 4.5.1 (2022/03/17)", Some("4.5.1")),
            ("mkfs.erofs 1.5\nusage", Some("1.5")),
            ("mkfs.erofs (erofs-utils) 1.8.10-g1a2b", Some("1.8.10-g1a2b")),
            ("\n mkdwarfs (v0.9.8, fbthrift v2024.03.04.00)", Some("0.9.8")),
            ("restic 0.14.0 compiled with go1.19.8 on linux/amd64", Some("0.14.0")),
            ("*** Zstandard CLI (64-bit) v1.5.4, by Yann Collet ***", Some("1.5.4")),
            ("zpaq v7.15 journaling archiver, compiled Jan  5 2021", Some("7.15")),
            ("xz (XZ Utils) 5.4.1\nliblzma 5.4.1", Some("5.4.1")),
            ("\u{1b}[31m\0 . .. v v. 1. .1 \u{fffd}", None),
            ("", None),
        ] {
            assert_eq!(version_in(said.as_bytes()).as_deref(), version, "{said:?}");
        }
        assert_eq!(version_in(format!("1.{}", "2".repeat(100)).as_bytes()), None);
    }

    #[test]
    fn names_of_settings_differ() {
        let kit = Kit::new(&Tools { path: "".into(), kernel_mounts: false }, 2);
        let mut names: Vec<_> = FAMILIES.iter().flat_map(|family| family.settings(&kit)).map(|s| s.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn the_size_of_a_repository_is_that_of_its_files() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        fs::write(directory.path().join("one"), "12345").unwrap();
        fs::write(directory.path().join("a/b/two"), "123").unwrap();
        assert_eq!(size_of(directory.path()).unwrap(), 8);
        assert_eq!(size_of(&directory.path().join("one")).unwrap(), 5);
        assert!(size_of(&directory.path().join("none")).is_err());
    }
}
