//! `floe digest`: one hash over a tree's paths, attributes and identities, whatever the image looks like inside.

use super::args::ImageAndPaths;
use super::open::{Opened, shown};
use super::sentence::told;
use super::{Context, Exit, escape, output};
use crate::fs::FsError;
use anyhow::Context as _;
use serde::Serialize;
use std::io::Write;

const EXAMPLES: &str = "\
Two images with equal digests hold equal trees, whatever their codec, order or superchunk size.

Examples:
  floe digest photos.floe
  floe digest photos.floe 2024/may
";

/// `floe digest`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "floe digest [OPTIONS] IMAGE [PATH]")]
pub struct Args {
    #[command(flatten)]
    image: ImageAndPaths,
}

#[derive(Serialize)]
struct Document {
    digest: String,
    #[serde(flatten)]
    path: output::Name,
}

/// Runs `floe digest`: prints the digest.
///
/// # Errors
/// Fails if the image cannot be opened or has no such path; with [`Exit::Findings`] if something in it cannot be read.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let (image, paths) = args.image.resolve()?;
    let path = match paths.as_slice() {
        [] => &[][..],
        [path] => path,
        _ => return Err(told(Exit::Usage, "digest takes one path at most")),
    };
    let opened = Opened::open(&image)?;
    opened.tell_of_checkpoint(&image);
    let fs = opened.fs(false);
    let what = || format!("cannot make a digest of '{}' in '{}'", escape::shown(path), shown(&image.path));
    let attr = fs.resolve(path).with_context(what)?;
    let digest = match crate::fs::digest(&fs, attr.inode) {
        Ok(digest) => output::hex(&digest),
        Err(error @ FsError::Io(_)) => return Err(told(Exit::Findings, format!("{}: {error}", what()))),
        Err(error) => return Err(error).with_context(what),
    };
    if context.json {
        output::document(&Document { digest, path: output::Name::new(path) })?;
    } else {
        let mut out = output::stdout();
        writeln!(out, "{digest}")?;
        out.flush()?;
    }
    Ok(Exit::Done)
}
