//! The content of a directory, and how it differs from the expected one. Used only by `durable.rs`.

use super::ATTRIBUTE;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// A regular file.
#[derive(Clone, Debug, PartialEq)]
pub struct Regular {
    pub bytes: Arc<Vec<u8>>,
    pub mode: u32,
    pub xattr: Option<Vec<u8>>,
}

/// What is at a path; files with several names are identified by the first of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    File { first: String, file: Regular },
    Directory,
    Symlink(String),
}

/// Everything in a directory, by path.
pub type Tree = BTreeMap<String, Seen>;

/// Reads the content of a directory.
pub fn read_tree(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    let mut first_of = BTreeMap::new();
    let mut paths = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            if entry.file_type()?.is_dir() {
                directories.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let at = root.join(&path);
        let stat = fs::symlink_metadata(&at)?;
        let seen = if stat.is_dir() {
            Seen::Directory
        } else if stat.is_symlink() {
            Seen::Symlink(fs::read_link(&at)?.to_string_lossy().into_owned())
        } else {
            let mut value = [0; 256];
            let xattr = match rustix::fs::getxattr(&at, ATTRIBUTE, &mut value) {
                Ok(len) => Some(value[..len].to_vec()),
                Err(rustix::io::Errno::NODATA) => None,
                Err(errno) => return Err(errno.into()),
            };
            let bytes = Arc::new(fs::read(&at)?);
            assert_eq!(bytes.len() as u64, stat.len(), "the size of {path}");
            let first = first_of.entry(stat.ino()).or_insert_with(|| path.clone()).clone();
            Seen::File { first, file: Regular { bytes, mode: stat.mode() & 0o7777, xattr } }
        };
        tree.insert(path, seen);
    }
    Ok(tree)
}

/// Describes the differences; for bytes, where they differ and what the bytes tell about themselves.
pub fn differences(expected: &Tree, seen: &Tree) -> Vec<String> {
    let mut out = Vec::new();
    for (path, should) in expected {
        match (should, seen.get(path)) {
            (_, None) => out.push(format!("{path} is missing")),
            (should, Some(is)) if should == is => {}
            (Seen::File { first, file }, Some(Seen::File { first: is_first, file: is })) => {
                if first != is_first {
                    out.push(format!("{path} should be the same file as {first}, and is {is_first}"));
                }
                if (file.mode, &file.xattr) != (is.mode, &is.xattr) {
                    out.push(format!(
                        "{path} should have mode {:o} and xattr {:?}, and has {:o} and {:?}",
                        file.mode, file.xattr, is.mode, is.xattr
                    ));
                }
                if let Some(at) = first_difference(&file.bytes, &is.bytes) {
                    out.push(format!(
                        "{path} should have {} bytes, has {}, and differs at {at}: '{}' and not '{}'",
                        file.bytes.len(),
                        is.bytes.len(),
                        excerpt(&is.bytes, at),
                        excerpt(&file.bytes, at)
                    ));
                }
            }
            (should, Some(is)) => out.push(format!("{path} should be {should:?}, and is {is:?}")),
        }
    }
    out.extend(seen.keys().filter(|path| !expected.contains_key(*path)).map(|path| format!("{path} is too much")));
    out
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let common = a.iter().zip(b).position(|(a, b)| a != b);
    common.or_else(|| (a.len() != b.len()).then(|| a.len().min(b.len())))
}

fn excerpt(bytes: &[u8], at: usize) -> String {
    let end = bytes.len().min(at + 40);
    bytes.get(at..end).unwrap_or_default().escape_ascii().to_string()
}
