//! `floe ls`: what an image holds, sorted by the bytes of the names.

use super::args::{self, ImageAndPaths};
use super::open::{Opened, shown};
use super::sentence::unless_unread;
use super::time::Utc;
use super::walk::Walk;
use super::{Context, Exit, escape, output, tell};
use crate::format::rows::FileType;
use crate::fs::{Attr, Fs};
use anyhow::Context as _;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const EXAMPLES: &str = "\
Names are sorted by their bytes, and times are UTC. On a terminal, what is not printable in a name is shown as an escape; \
into a pipe names go as they are. Of several directories each has a heading. A path that is not in the image is an error, and \
the others are still listed.

Examples:
  floe ls photos.floe                 what the root holds
  floe ls -l photos.floe 2024/may     a directory, with attributes
  floe ls -R photos.floe              everything, one path a line
  floe ls -R --json photos.floe | jq '.entries[] | select(.size > 1000000) | .path'
";

/// `floe ls`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "floe ls [OPTIONS] IMAGE [PATH]...")]
pub struct Args {
    #[command(flatten)]
    image: ImageAndPaths,
    /// Show type, permissions, links, owner, group, size and time
    #[arg(short, long)]
    long: bool,
    /// List everything below, each with its path from the image's root
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// Runs `floe ls`.
///
/// # Errors
/// Fails if the image cannot be opened or read, or has no such path.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let (image, mut paths) = args.image.resolve()?;
    if paths.is_empty() {
        paths.push(Vec::new());
    }
    let opened = Opened::open(&image)?;
    opened.tell_of_checkpoint(&image);
    let fs = opened.fs(false);
    let mut printer = Printer {
        out: Box::new(output::stdout()),
        format: match (context.json, args.long) {
            (true, _) => Format::Json,
            (false, true) => Format::Long,
            (false, false) => Format::Names,
        },
        escaped: io::stdout().is_terminal(),
        entries: 0,
    };
    printer.begin()?;
    let mut exit = Exit::Done;
    let (mut others, mut dirs) = (Vec::new(), Vec::new());
    for path in &paths {
        match fs.resolve(path) {
            Ok(attr) if attr.is_dir() => dirs.push((path, attr)),
            Ok(attr) => others.push((path, attr)),
            Err(error) => {
                // The others are still listed.
                let (listed, hint) = (shown_path(path), hint(path, &image.path));
                tell::error(path, &format!("cannot list '{listed}' in '{}': {error}{hint}", shown(&image.path)));
                exit = Exit::Failed;
            }
        }
    }
    let mut print = || -> anyhow::Result<()> {
        for (path, attr) in &others {
            printer.entry(&fs, path, attr)?;
        }
        let is_one = paths.len() == 1;
        for (n, (path, attr)) in dirs.iter().enumerate() {
            printer.heading(path, is_one || args.recursive, n == 0 && others.is_empty())?;
            let with_path = args.recursive || context.json && !is_one;
            let listed = list(&fs, path, attr, args.recursive, with_path, &mut printer);
            listed.with_context(|| format!("cannot list '{}' in '{}'", shown_path(path), shown(&image.path)))?;
        }
        Ok(())
    };
    let printed = print();
    // Also after an error: what was printed is a whole document.
    let ended = printer.end();
    unless_unread(printed.and_then(|()| Ok(ended?)))?;
    Ok(exit)
}

/// Returns a hint at what people may have meant by a path that is not in the image.
fn hint(path: &[u8], image: &Path) -> &'static str {
    let is_image = args::image_variable().is_some() && args::clean(image.as_os_str().as_bytes()) == path;
    if is_image { " (FLOE_IMAGE names the image, so each argument is a path in it)" } else { "" }
}

fn list(
    fs: &Fs,
    path: &[u8],
    attr: &Attr,
    recursive: bool,
    with_path: bool,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    // What is in a directory is listed by name, as ls(1) does it; what is below, by path.
    let from = if with_path { path } else { &[] };
    Walk::new(fs).below(attr.inode, from, &mut |path, attr| {
        printer.entry(fs, path, attr)?;
        Ok(recursive)
    })
}

fn shown_path(path: &[u8]) -> std::borrow::Cow<'_, str> {
    if path.is_empty() { "/".into() } else { escape::shown(path) }
}

enum Format {
    Names,
    Long,
    Json,
}

struct Printer {
    out: Box<dyn Write>,
    format: Format,
    /// Whether names are shown with escapes.
    escaped: bool,
    entries: u64,
}

impl Printer {
    fn begin(&mut self) -> io::Result<()> {
        match self.format {
            Format::Json => self.out.write_all(b"{\"entries\":["),
            _ => Ok(()),
        }
    }

    /// Prints the name of a directory whose entries follow, if several are listed.
    fn heading(&mut self, path: &[u8], is_alone: bool, is_first: bool) -> io::Result<()> {
        if is_alone || matches!(self.format, Format::Json) {
            return Ok(());
        }
        if !is_first {
            self.out.write_all(b"\n")?;
        }
        self.name(if path.is_empty() { b"/" } else { path })?;
        self.out.write_all(b":\n")
    }

    fn end(&mut self) -> io::Result<()> {
        if let Format::Json = self.format {
            self.out.write_all(b"\n]}\n")?;
        }
        self.out.flush()
    }

    fn entry(&mut self, fs: &Fs, path: &[u8], attr: &Attr) -> anyhow::Result<()> {
        let target = match self.format {
            Format::Long | Format::Json if attr.is_symlink() => Some(fs.readlink(attr.inode)?),
            _ => None,
        };
        match self.format {
            Format::Names => self.name(path)?,
            Format::Long => {
                write!(self.out, "{} ", Line(attr))?;
                self.name(path)?;
                if let Some(target) = &target {
                    self.out.write_all(b" -> ")?;
                    self.name(target)?;
                }
            }
            Format::Json => {
                self.out.write_all(if self.entries == 0 { b"\n" } else { b",\n" })?;
                let entry = Entry::new(path, attr, target.as_deref());
                // As an `io::Error` it says whether the reader closed the pipe.
                serde_json::to_writer(&mut self.out, &entry).map_err(io::Error::from)?;
            }
        }
        if !matches!(self.format, Format::Json) {
            self.out.write_all(b"\n")?;
        }
        self.entries += 1;
        Ok(())
    }

    fn name(&mut self, name: &[u8]) -> io::Result<()> {
        if self.escaped { self.out.write_all(escape::shown(name).as_bytes()) } else { self.out.write_all(name) }
    }
}

/// Shows the columns of `ls -l` before the name.
struct Line<'a>(&'a Attr);

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let attr = self.0;
        let size = match attr.file_type {
            FileType::CharDevice | FileType::BlockDevice => format!("{}, {}", attr.device.0, attr.device.1),
            _ => attr.size.to_string(),
        };
        let (mode, time) = (mode(attr), Utc(attr.mtime.secs));
        write!(f, "{mode} {:>3} {:>5} {:>5} {size:>12} {time}", attr.links, attr.uid, attr.gid)
    }
}

/// Returns type and permissions such as `drwxr-xr-x`, with `s`, `S`, `t` and `T` as ls(1) has them.
fn mode(attr: &Attr) -> String {
    let bit = |bit: u16, letter| if attr.permissions & bit != 0 { letter } else { '-' };
    let special =
        |special: u16, execute: u16, both, alone| match (attr.permissions & special, attr.permissions & execute) {
            (0, 0) => '-',
            (0, _) => 'x',
            (_, 0) => alone,
            _ => both,
        };
    let letters = [
        letter(attr.file_type),
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        special(0o4000, 0o100, 's', 'S'),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        special(0o2000, 0o010, 's', 'S'),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        special(0o1000, 0o001, 't', 'T'),
    ];
    letters.iter().collect()
}

fn letter(file_type: FileType) -> char {
    match file_type {
        FileType::Fifo => 'p',
        FileType::CharDevice => 'c',
        FileType::Directory => 'd',
        FileType::BlockDevice => 'b',
        FileType::Regular => '-',
        FileType::Symlink => 'l',
        FileType::Socket => 's',
    }
}

#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    path: output::Name,
    #[serde(rename = "type")]
    file_type: &'static str,
    inode: u64,
    /// Permission bits in octal digits.
    permissions: String,
    links: u64,
    uid: u32,
    gid: u32,
    size: u64,
    allocated: u64,
    mtime: i64,
    mtime_nanoseconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
}

impl Entry {
    fn new(path: &[u8], attr: &Attr, target: Option<&[u8]>) -> Self {
        let target = target.map(output::Name::new);
        let is_device = matches!(attr.file_type, FileType::CharDevice | FileType::BlockDevice);
        Entry {
            path: output::Name::new(path),
            file_type: match attr.file_type {
                FileType::Fifo => "fifo",
                FileType::CharDevice => "character device",
                FileType::Directory => "directory",
                FileType::BlockDevice => "block device",
                FileType::Regular => "file",
                FileType::Symlink => "symlink",
                FileType::Socket => "socket",
            },
            inode: attr.inode.0,
            permissions: format!("{:04o}", attr.permissions),
            links: attr.links,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            allocated: attr.blocks.saturating_mul(512),
            mtime: attr.mtime.secs,
            mtime_nanoseconds: attr.mtime.nanos,
            target: target.as_ref().map(|name| name.path.clone()),
            target_hex: target.and_then(|name| name.path_hex),
            device: is_device.then_some(attr.device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::InodeId;
    use crate::format::rows::Time;

    fn attr(file_type: FileType, permissions: u16) -> Attr {
        let time = Time { secs: 1_700_000_000, nanos: 5 };
        Attr {
            inode: InodeId(7),
            file_type,
            permissions,
            uid: 1000,
            gid: 100,
            links: 1,
            size: 42,
            blocks: 1,
            mtime: time,
            ctime: time,
            atime: time,
            device: (8, 1),
        }
    }

    #[test]
    fn modes_are_shown_as_ls_shows_them() {
        assert_eq!(mode(&attr(FileType::Directory, 0o755)), "drwxr-xr-x");
        assert_eq!(mode(&attr(FileType::Regular, 0o6644)), "-rwSr-Sr--");
        assert_eq!(mode(&attr(FileType::Regular, 0o6755)), "-rwsr-sr-x");
        assert_eq!(mode(&attr(FileType::Directory, 0o1777)), "drwxrwxrwt");
        assert_eq!(mode(&attr(FileType::Socket, 0o1000)), "s--------T");
    }

    #[test]
    fn a_device_has_numbers_where_a_file_has_a_size() {
        let line = Line(&attr(FileType::BlockDevice, 0o660)).to_string();
        assert_eq!(line, "brw-rw----   1  1000   100         8, 1 2023-11-14 22:13:20");
    }

    #[test]
    fn entries_in_json_keep_names_that_are_no_text() {
        let entry = Entry::new(b"a/\xff", &attr(FileType::Symlink, 0o777), Some(b"b"));
        let json = serde_json::to_value(&entry).unwrap();
        assert_eq!(json["path_hex"], "612fff");
        assert_eq!((&json["type"], &json["target"]), (&"symlink".into(), &"b".into()));
        assert!(json.get("target_hex").is_none() && json.get("device").is_none());
    }
}
