//! `floe cat`: files of an image, one behind another, to standard output.

use super::args::ImageAndPaths;
use super::open::{Opened, shown};
use super::sentence::told;
use super::{Context, Exit, escape, output, tell};
use crate::format::rows::FileType;
use crate::fs::{Attr, Fs, FsError};
use std::io::{self, Write};

const EXAMPLES: &str = "\
Examples:
  floe cat photos.floe notes/2024.txt
  floe cat logs.floe var/log/syslog.1 var/log/syslog | grep panic
";

/// Number of bytes read at once.
const PIECE: usize = 1 << 20;

/// `floe cat`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "floe cat [OPTIONS] IMAGE PATH...")]
pub struct Args {
    #[command(flatten)]
    image: ImageAndPaths,
}

/// Runs `floe cat`: writes the files to standard output. One that cannot be read is named, and the others are still
/// written.
///
/// # Errors
/// Fails if the image cannot be opened, or if standard output cannot be written.
pub fn run(args: Args, _: &Context) -> anyhow::Result<Exit> {
    let (image, paths) = args.image.resolve()?;
    if paths.is_empty() {
        return Err(told(Exit::Usage, "no file is named: give PATH (try '--help')"));
    }
    let opened = Opened::open(&image)?;
    opened.tell_of_checkpoint(&image);
    let fs = opened.fs(true);
    let mut out = output::stdout();
    let mut exit = Exit::Done;
    let mut write = || -> io::Result<()> {
        for path in &paths {
            match copy(&fs, path, &mut out) {
                Ok(()) => {}
                Err(CatError::Write(error)) => return Err(error),
                Err(CatError::Read(error)) => {
                    // On a terminal the message comes after what was read.
                    let flushed = out.flush();
                    tell::error(
                        path,
                        &format!("cannot read '{}' in '{}': {error}", escape::shown(path), shown(&image.path)),
                    );
                    // What the image cannot give is a finding; what it does not have was asked for by mistake.
                    match error {
                        FsError::Io(_) if exit == Exit::Done => exit = Exit::Findings,
                        FsError::Io(_) => {}
                        _ => exit = Exit::Failed,
                    }
                    flushed?;
                }
            }
        }
        out.flush()
    };
    output::whoever_reads(write())?;
    Ok(exit)
}

/// Why a file could not be copied.
pub enum CatError {
    /// The file cannot be read in the image.
    Read(FsError),
    /// The bytes could not be written.
    Write(io::Error),
}

impl From<FsError> for CatError {
    fn from(error: FsError) -> Self {
        CatError::Read(error)
    }
}

fn copy(fs: &Fs, path: &[u8], out: &mut dyn Write) -> Result<(), CatError> {
    let attr = fs.resolve_following(path)?;
    copy_file(fs, &attr, out)
}

/// Writes the bytes of a file to `out`.
///
/// # Errors
/// Fails if it is no regular file, cannot be read, or if `out` cannot be written.
pub fn copy_file(fs: &Fs, attr: &Attr, out: &mut dyn Write) -> Result<(), CatError> {
    match attr.file_type {
        FileType::Regular => {}
        FileType::Directory => return Err(FsError::IsDirectory.into()),
        _ => return Err(FsError::NotRegular.into()),
    }
    let mut piece = Vec::new();
    let mut offset = 0;
    while offset < attr.size {
        piece.clear();
        fs.read(attr.inode, offset, PIECE, &mut piece)?;
        if piece.is_empty() {
            break;
        }
        offset += piece.len() as u64;
        out.write_all(&piece).map_err(CatError::Write)?;
    }
    Ok(())
}
