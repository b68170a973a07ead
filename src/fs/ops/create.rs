//! Makes files of every type.

use super::{attributes, names, sets};
use crate::format::ids::InodeId;
use crate::format::limits;
use crate::format::rows::inode::XattrRef;
use crate::format::rows::{ContentRef, DirentRow, FileType, InodeRow, Xattr, XattrSet};
use crate::fs::acl::{self, Acl};
use crate::fs::draft::Draft;
use crate::fs::live::Live;
use crate::fs::{Attr, FsError};

/// The kind of file to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewKind {
    /// An empty regular file.
    Regular,
    /// An empty directory.
    Directory,
    /// A symlink to this target.
    Symlink(Vec<u8>),
    /// A device. `file_type` says whether it is a block or a character device.
    Device {
        /// Type of the device.
        file_type: FileType,
        /// Major number of the device.
        major: u32,
        /// Minor number of the device.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A file to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNode {
    /// Kind of the file.
    pub kind: NewKind,
    /// Permission bits as requested. The umask is not applied yet.
    pub mode: u16,
    /// Umask of the caller. It is ignored if the directory has a default ACL.
    pub umask: u16,
    /// User id of the owner.
    pub uid: u32,
    /// Id of the group. A setgid directory gives its own group instead.
    pub gid: u32,
}

/// Makes a file in `parent` under `name`.
pub(in crate::fs) fn create(
    draft: &mut Draft,
    parent: InodeId,
    name: &[u8],
    node: &NewNode,
) -> Result<(InodeId, InodeRow), FsError> {
    names::check(name)?;
    let dir = names::directory(draft, parent)?;
    if draft.lookup(parent, name)?.is_some() {
        return Err(FsError::Exists);
    }
    let inode = draft.new_inode()?;
    let mut row = new_row(draft, parent, node)?;
    inherit(draft, &dir, node, &mut row)?;
    draft.put_inode(inode, &row);
    draft.put_dirent(parent, name, &DirentRow { inode, file_type: row.file_type });
    names::directory_changed(draft, parent, i64::from(row.file_type == FileType::Directory))?;
    draft.count(1, 0);
    Ok((inode, row))
}

/// Returns the new row, without anything that it inherits from the directory.
fn new_row(draft: &Draft, parent: InodeId, node: &NewNode) -> Result<InodeRow, FsError> {
    let (mut size, mut links, mut target) = (0, 1, Vec::new());
    let file_type = match &node.kind {
        NewKind::Regular => FileType::Regular,
        NewKind::Directory => {
            links = 2;
            FileType::Directory
        }
        NewKind::Symlink(to) => {
            if to.len() > limits::SYMLINK_LEN {
                return Err(FsError::NameTooLong);
            }
            if to.is_empty() || to.contains(&0) {
                return Err(FsError::NotFound);
            }
            size = to.len() as u64;
            target.clone_from(to);
            FileType::Symlink
        }
        NewKind::Device { file_type: file_type @ (FileType::BlockDevice | FileType::CharDevice), major, minor } => {
            size = u64::from(*major) << 32 | u64::from(*minor);
            *file_type
        }
        NewKind::Device { .. } => return Err(FsError::Invalid),
        NewKind::Fifo => FileType::Fifo,
        NewKind::Socket => FileType::Socket,
    };
    Ok(InodeRow {
        file_type,
        permissions: if file_type == FileType::Symlink { 0o777 } else { node.mode & 0o7777 },
        uid: node.uid,
        gid: node.gid,
        links,
        size,
        mtime: draft.now(),
        ctime: draft.now(),
        atime: draft.now(),
        content: ContentRef::None,
        xattrs: XattrRef::None,
        parent: (file_type == FileType::Directory).then_some(parent),
        target,
        attributes: Vec::new(),
    })
}

/// Applies what the file inherits from its directory: the group if the directory is setgid, and the default ACL, which
/// replaces the umask.
fn inherit(draft: &mut Draft, dir: &InodeRow, node: &NewNode, row: &mut InodeRow) -> Result<(), FsError> {
    use super::privileges::SETGID;
    if dir.permissions & SETGID != 0 {
        row.gid = dir.gid;
        if row.file_type == FileType::Directory {
            row.permissions |= SETGID;
        }
    }
    if row.file_type == FileType::Symlink {
        return Ok(());
    }
    let default = draft.view().xattrs(dir)?.get(acl::DEFAULT).map(<[u8]>::to_vec).unwrap_or_default();
    // An image may contain a value that no kernel would have set. It is ignored.
    let Some(handed_on) = Acl::decode(&default).ok().flatten() else {
        row.permissions &= !(node.umask & 0o777);
        return Ok(());
    };
    let (mode, access) = handed_on.inherit(row.permissions);
    row.permissions = mode;
    let mut set = Vec::new();
    set.extend(access.map(|acl| Xattr { name: acl::ACCESS.to_vec(), value: acl.encode() }));
    if row.file_type == FileType::Directory {
        set.push(Xattr { name: acl::DEFAULT.to_vec(), value: default });
    }
    sets::set(draft, row, &XattrSet::new(set))
}

impl Live {
    /// Makes a file in directory `parent` under `name`.
    ///
    /// # Errors
    /// Fails with `Exists`, `NotFound`, `NotDirectory`, `NameTooLong`, `Invalid`, `NoSpace` or `ReadOnly`, or with `Io`
    /// if tables cannot be read.
    pub fn create(&self, parent: InodeId, name: &[u8], node: &NewNode) -> Result<Attr, FsError> {
        self.transact(|draft| {
            let (inode, row) = create(draft, parent, name, node)?;
            attributes::of(draft.view(), inode, &row)
        })
    }
}
