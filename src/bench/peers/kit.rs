//! What the families of peers share: how their programs are found, and their environment.
//!
//! Invariant: a program started here sees none of the user's settings and writes only below the given state directory.
//! Used by every file in this directory.

use crate::bench::command::CommandError;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories of administrator programs, which may be missing in PATH.
const MORE_DIRECTORIES: &[&str] = &["/usr/sbin", "/sbin"];

/// The programs and rights that the machine provides.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Directories to search for programs, as in PATH.
    pub path: OsString,
    /// Whether the kernel may be asked to mount an image: the user is root.
    pub kernel_mounts: bool,
}

/// The installed programs, and the number of threads that they may use.
#[derive(Debug, Clone)]
pub(super) struct Kit {
    path: OsString,
    /// Whether the kernel may be asked to mount.
    pub kernel_mounts: bool,
    /// Number of threads that a program may use.
    pub jobs: usize,
}

impl Kit {
    pub fn new(tools: &Tools, jobs: usize) -> Self {
        let mut path = tools.path.clone();
        for directory in MORE_DIRECTORIES {
            if !path.is_empty() {
                path.push(":");
            }
            path.push(directory);
        }
        Kit { path, kernel_mounts: tools.kernel_mounts, jobs: jobs.max(1) }
    }

    /// Returns the path of a program, if it is installed.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        // An empty or relative directory in PATH would mean another directory after `current_dir`.
        let directories =
            self.path.as_bytes().split(|&byte| byte == b':').map(|name| Path::new(OsStr::from_bytes(name)));
        let absolute = directories.filter(|directory| directory.is_absolute());
        absolute.map(|directory| directory.join(program)).find(|path| is_program(path))
    }

    /// Makes a command for a program with an environment of its own: home, caches and temporary files are below
    /// `state`.
    pub fn command(&self, program: &str, state: &Path) -> Command {
        // If it is missing, use only its name: starting it then reports that.
        let mut command = Command::new(self.find(program).unwrap_or_else(|| program.into()));
        command.env_clear().env("PATH", &self.path).env("LC_ALL", "C.UTF-8").env("TMPDIR", state);
        command.env("HOME", state).env("XDG_CACHE_HOME", state).env("XDG_CONFIG_HOME", state);
        command
    }
}

/// Returns whether the path is a file that somebody may execute.
pub fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The paths of a packed tree, or of one to be packed.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Absolute path of the directory to pack.
    pub source: PathBuf,
    /// Absolute path of the image or the repository.
    pub image: PathBuf,
    /// Absolute path for homes, caches and temporary files.
    pub state: PathBuf,
    /// Absolute path of the directory for extracted files, used for programs that cannot extract to nowhere.
    pub out: PathBuf,
}

impl Place {
    /// Makes the paths: everything except the source is in `work`. Makes the state directory.
    pub fn make(source: &Path, work: &Path) -> io::Result<Self> {
        let place = Place {
            source: source.to_owned(),
            // zpaq adds an extension to a name without one.
            image: work.join("packed.image"),
            state: work.join("state"),
            out: work.join("out"),
        };
        std::fs::create_dir_all(&place.state)?;
        Ok(place)
    }

    /// Makes placeholders instead of paths, to show a command.
    pub fn to_show() -> Self {
        Place { source: "DIR".into(), image: "IMAGE".into(), state: "STATE".into(), out: "OUT".into() }
    }
}

/// The part of a packed tree to extract.
#[derive(Debug, Clone, Copy)]
pub enum Extract<'a> {
    /// Everything is extracted.
    Everything,
    /// Only this directory is extracted, given relative to the tree's root.
    Directory(&'a Path),
}

/// A way to mount an image.
pub(super) enum Way {
    /// A mount by the kernel, through a loop device, with this filesystem type.
    Kernel(&'static str),
    /// A mount by a program that serves until it is unmounted; the mount point is the last argument.
    Program(Command),
}

/// One setting of a family of programs that floe is compared with.
pub(super) struct Setting {
    /// Short and unique name of the setting.
    pub name: &'static str,
    /// Lists of arguments that may make the setting: the first list that the program accepts is used.
    pub arguments: Vec<Vec<String>>,
    /// Feature that the program may have been built without. It is tested.
    pub optional: Option<&'static str>,
}

impl Setting {
    /// Makes a setting that every build of the program supports.
    pub fn new(name: &'static str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        Setting { name, arguments: vec![arguments], optional: None }
    }
}

/// A family of peers, the programs that floe is compared with: one program, or two that work together, with several
/// settings.
pub(super) trait Family: Sync {
    /// Returns the name to show if the program is missing.
    fn name(&self) -> &'static str;
    /// Returns the programs that pack, each with the Debian package that provides it, or with its origin. All are asked
    /// for their versions.
    fn programs(&self) -> &'static [(&'static str, &'static str)];
    /// Returns the arguments that make the program print its version.
    fn version(&self) -> &'static [&'static str];
    /// Returns the settings, in display order.
    fn settings(&self, kit: &Kit) -> Vec<Setting>;
    /// Returns the commands that pack, in order; the last one is shown as the options.
    fn pack(&self, kit: &Kit, place: &Place, arguments: &[String]) -> Vec<Command>;
    /// Returns the ways to mount, the best first.
    fn mounts(&self, kit: &Kit, place: &Place) -> Vec<Way>;
    /// Returns the path of the tree below the mount point.
    fn root(&self, at: &Path) -> io::Result<PathBuf> {
        Ok(at.to_owned())
    }
    /// Returns the command that reads and decodes what is requested; its output is discarded.
    fn extract(&self, kit: &Kit, place: &Place, what: Extract<'_>) -> Option<Command>;
    /// Returns what a reader of the figures must know, if anything.
    fn remark(&self) -> Option<&'static str> {
        None
    }
}

/// Makes the error for a failed file operation while `program` is prepared.
pub(super) fn cannot(program: &str, source: io::Error) -> CommandError {
    CommandError::Start { program: program.to_owned(), source }
}

/// Returns a command as a user would type it.
pub(super) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(word).collect::<Vec<_>>().join(" ")
}

fn word(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.contains([' ', '*', '?', '\'']) { format!("'{}'", word.replace('\'', r"'\''")) } else { word.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kit(path: &str) -> Kit {
        Kit::new(&Tools { path: path.into(), kernel_mounts: false }, 3)
    }

    #[test]
    fn a_program_is_a_file_that_may_be_run_in_an_absolute_directory() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("packs");
        std::fs::write(&program, "").unwrap();
        let kit = kit(&format!("src:.::{}", directory.path().display()));
        assert_eq!(kit.find("packs"), None);
        assert_eq!(kit.find("bench"), None);
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(kit.find("packs"), Some(program));
    }

    #[test]
    fn a_command_is_shown_as_it_is_typed() {
        let mut command = kit("").command("/usr/bin/tar", Path::new("/x"));
        command.args(["-I", "zstd -19", "it's", "DIR"]);
        assert_eq!(line(&command), r"tar -I 'zstd -19' 'it'\''s' DIR");
    }
}
