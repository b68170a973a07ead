//! Arguments that several commands share.

use super::exit::Exit;
use super::sentence::told;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The variable that names the image for commands that read one.
pub const IMAGE_VARIABLE: &str = "FLOE_IMAGE";

/// The image, for commands that read one and name nothing in it.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageArg {
    /// The image
    #[arg(value_name = "IMAGE", env = IMAGE_VARIABLE, hide_env_values = true)]
    pub image: PathBuf,
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
}

impl ImageAndPaths {
    /// The image, and the paths cleaned by [`clean`].
    ///
    /// # Errors
    /// With [`Exit::Usage`] if no image is named.
    pub fn resolve(self) -> anyhow::Result<(PathBuf, Vec<Vec<u8>>)> {
        self.resolve_with(std::env::var_os(IMAGE_VARIABLE).filter(|name| !name.is_empty()))
    }

    fn resolve_with(self, variable: Option<OsString>) -> anyhow::Result<(PathBuf, Vec<Vec<u8>>)> {
        let clean = |path: &OsString| clean(path.as_bytes());
        match (variable, self.image) {
            (None, Some(image)) => Ok((image.into(), self.paths.iter().map(clean).collect())),
            (Some(image), first) => Ok((image.into(), first.iter().chain(&self.paths).map(clean).collect())),
            (None, None) => {
                Err(told(Exit::Usage, format!("no image is named: give IMAGE, or set {IMAGE_VARIABLE} (try '--help')")))
            }
        }
    }
}

/// A path in an image without leading, trailing and double slashes and without `.`; the root is empty. `..` stays: no entry has this name.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}

/// `--json`.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct JsonArg {
    /// Speak JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// `-j`.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Resources")]
pub struct Resources {
    /// Threads that work [default: one a core]
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
}

impl Resources {
    /// Threads that work: what was asked for, or as many as there are cores.
    pub fn jobs(self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.map_or_else(cores, usize::from)
    }
}

/// Who owns what is packed: `U:G` in numbers.
///
/// # Errors
/// If it is anything else.
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
        ImageAndPaths { image: args.next(), paths: args.collect() }.resolve_with(variable.map(OsString::from))
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
