//! `floe mkfs`: an empty image, to be mounted and written to.

use super::args;
use super::making::{self, Codec};
use super::open::shown;
use super::size::Human;
use super::{Context, Exit, output, tell, time};
use crate::pack::{PackOptions, PackSummary, empty};
use serde::Serialize;
use std::io;
use std::path::PathBuf;

const EXAMPLES: &str = "\
The image holds an empty root directory. What is written through a mount of it is stored with the codec, chunker and \
hash chosen here. An existing file is not touched without --force. With --force only a regular file is replaced, and not \
while another process writes it, nor while its thaw log (IMAGE.thaw) holds bytes: they may be nowhere else.

Examples:
  floe mkfs notes.floe && floe mount notes.floe /mnt
  floe mkfs --chunker fixed:32K disks.floe            for disk images and databases
  floe mkfs --profile small logs.floe                 smaller, and slower to freeze

Exit status: 0 done, 1 failed, 2 wrong usage, 11 another process writes the image.
";

/// `floe mkfs`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image to make
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Replace the image if it exists
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    codec: Codec,
    #[command(flatten)]
    root: Root,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Attributes")]
struct Root {
    /// Owner and group of the root directory, as numbers [default: who runs this]
    #[arg(long, value_name = "U:G", value_parser = args::owner)]
    owner: Option<(u32, u32)>,
    /// The same as --owner 0:0
    #[arg(long, conflicts_with = "owner")]
    all_root: bool,
    /// Time of the image and its root directory: seconds since 1970 or RFC 3339 [default: SOURCE_DATE_EPOCH, if
    /// it is set]. With the same options and timestamp an image has the same bytes
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    timestamp: Option<i64>,
}

/// Runs `floe mkfs`: makes an empty image.
///
/// # Errors
/// Fails if an option is wrong, or the image exists or cannot be written.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    making::refuse_standard_output(&args.image)?;
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let caller = (user.as_raw(), group.as_raw());
    let options = PackOptions {
        force: args.force,
        owner: Some(if args.root.all_root { (0, 0) } else { args.root.owner.unwrap_or(caller) }),
        ..making::options(&args.codec, args.root.timestamp)?
    };
    let made = empty(&args.image, &options)?;
    tell(&args, &options, &made, context)?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Summary {
    image: output::Name,
    image_bytes: u64,
    compression: String,
    superchunk_size: u32,
    root_hash: String,
}

fn tell(args: &Args, options: &PackOptions, made: &PackSummary, context: &Context) -> io::Result<()> {
    let (compression, superchunk_size) = (options.compression.to_string(), options.params.superchunk_size);
    if context.json {
        let summary = Summary {
            image: output::Name::new(args.image.as_os_str().as_encoded_bytes()),
            image_bytes: made.image_bytes,
            compression,
            superchunk_size,
            root_hash: output::hex(&made.root_hash),
        };
        return output::line(&mut io::stdout(), "summary", &summary);
    }
    tell::line(&format!(
        "made the empty image '{}': {}, {compression}, superchunks of {}",
        shown(&args.image),
        Human(made.image_bytes),
        Human(superchunk_size.into())
    ));
    Ok(())
}
