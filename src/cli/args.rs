//! Arguments that several commands share.

use super::escape;
use super::exit::Exit;
use super::sentence::told;
use super::size;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Name of the environment variable that names the image for commands that read one.
pub const IMAGE_VARIABLE: &str = "FLOE_IMAGE";

/// The file and offset where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Path of the file.
    pub path: PathBuf,
    /// Offset in the file where the image begins, in bytes.
    pub offset: u64,
}

/// Where in its file an image begins.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Offset {
    /// Where the image begins in its file, in bytes
    #[arg(long, value_name = "SIZE", default_value_t = 0, value_parser = size::parse, hide_default_value = true)]
    offset: u64,
}

/// The image, for commands that read one and name nothing in it.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageArg {
    /// The image; if the environment variable FLOE_IMAGE names it, leave it out here
    #[arg(value_name = "IMAGE")]
    image: Option<OsString>,
    #[command(flatten)]
    offset: Offset,
}

impl ImageArg {
    /// Returns the image.
    ///
    /// # Errors
    /// Fails with [`Exit::Usage`] if none is named, or both here and by the environment.
    pub fn resolve(self) -> anyhow::Result<Place> {
        let (path, others) = image_first(image_variable(), self.image.into_iter().collect())?;
        match others.first() {
            None => Ok(Place { path, offset: self.offset.offset }),
            Some(other) => Err(too_many(&path, other)),
        }
    }
}

/// The image and paths in it. Where FLOE_IMAGE names the image, every argument is a path.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageAndPaths {
    /// The image; if the environment variable FLOE_IMAGE names it, leave it out here
    #[arg(value_name = "IMAGE")]
    image: Option<OsString>,
    /// Paths in the image
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    #[command(flatten)]
    offset: Offset,
}

impl ImageAndPaths {
    /// Returns the image, and the paths cleaned by [`clean`].
    ///
    /// # Errors
    /// Fails with [`Exit::Usage`] if no image is named.
    pub fn resolve(self) -> anyhow::Result<(Place, Vec<Vec<u8>>)> {
        self.resolve_with(image_variable())
    }

    fn resolve_with(self, variable: Option<OsString>) -> anyhow::Result<(Place, Vec<Vec<u8>>)> {
        let (path, paths) = image_first(variable, self.image.into_iter().chain(self.paths).collect())?;
        let paths = paths.iter().map(|path| clean(path.as_bytes())).collect();
        Ok((Place { path, offset: self.offset.offset }, paths))
    }
}

/// Returns the value of [`IMAGE_VARIABLE`], if it is set.
pub fn image_variable() -> Option<OsString> {
    std::env::var_os(IMAGE_VARIABLE).filter(|name| !name.is_empty())
}

/// Returns the image and the other arguments: the first argument is the image, unless the environment variable, whose
/// value is `variable`, names it.
///
/// # Errors
/// Fails with [`Exit::Usage`] if no image is named.
pub fn image_first(variable: Option<OsString>, args: Vec<OsString>) -> anyhow::Result<(PathBuf, Vec<OsString>)> {
    if let Some(image) = variable {
        return Ok((image.into(), args));
    }
    let mut args = args.into_iter();
    match args.next() {
        Some(image) => Ok((image.into(), args.collect())),
        None => {
            Err(told(Exit::Usage, format!("no image is named: give IMAGE, or set {IMAGE_VARIABLE} (try '--help')")))
        }
    }
}

/// Makes the error for an argument that has no meaning because the environment variable [`IMAGE_VARIABLE`] names the
/// image.
pub fn too_many(image: &Path, arg: &OsString) -> anyhow::Error {
    let (image, arg) = (escape::shown(image.as_os_str().as_bytes()), escape::shown(arg.as_bytes()));
    told(
        Exit::Usage,
        format!(
            "'{arg}' is one argument too many: {IMAGE_VARIABLE} names the image '{image}' (unset it to name another)"
        ),
    )
}

/// Returns a path in an image without leading, trailing and double slashes and without `.`; the root is empty. `..`
/// stays: no entry has this name.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}

/// The option `-j`: how many threads a command uses.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Resources")]
pub struct Resources {
    /// Threads that work [default: one a core]
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
}

impl Resources {
    /// Returns the number of threads that work: what was asked for, or as many as there are cores.
    pub fn jobs(self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.map_or_else(cores, usize::from)
    }
}

/// Parses the owner of what is packed: `U:G` in numbers.
///
/// # Errors
/// Fails if the text is anything else.
pub fn owner(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(':').and_then(|(user, group)| Some((id(user)?, id(group)?)));
    parsed.ok_or_else(|| format!("'{text}' is not an owner (numbers of user and group, like 1000:100)"))
}

fn id(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variable: Option<&str>, args: &[&str]) -> anyhow::Result<(PathBuf, Vec<Vec<u8>>)> {
        let mut args = args.iter().map(OsString::from);
        let args = ImageAndPaths { image: args.next(), paths: args.collect(), offset: Offset { offset: 7 } };
        let (place, paths) = args.resolve_with(variable.map(OsString::from))?;
        assert_eq!(place.offset, 7);
        Ok((place.path, paths))
    }

    #[test]
    fn the_first_argument_is_the_image_unless_the_environment_names_it() {
        let (image, paths) = resolve(None, &["a.floe", "/b/", "c"]).unwrap();
        assert_eq!((image, paths), ("a.floe".into(), vec![b"b".to_vec(), b"c".to_vec()]));
        let (image, paths) = resolve(Some("a.floe"), &["b", "./c//d/."]).unwrap();
        assert_eq!((image, paths), ("a.floe".into(), vec![b"b".to_vec(), b"c/d".to_vec()]));
        let (_, paths) = resolve(Some("a.floe"), &[]).unwrap();
        assert!(paths.is_empty());
        assert!(resolve(None, &[]).is_err());
    }

    #[test]
    fn the_root_has_an_empty_path() {
        for root in ["", "/", ".", "./", "//./"] {
            assert_eq!(clean(root.as_bytes()), b"", "{root}");
        }
        assert_eq!(clean(b"a/../b"), b"a/../b");
    }

    #[test]
    fn owners_are_two_numbers() {
        assert_eq!(owner("0:4294967295"), Ok((0, u32::MAX)));
        for wrong in ["", "1", ":", "1:", "root:root", "1:2:3", "-1:0", "+1:0", "0:4294967296"] {
            assert!(owner(wrong).is_err(), "{wrong}");
        }
    }
}
