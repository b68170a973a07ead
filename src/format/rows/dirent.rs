//! Entries of directories (section 8.2).

use crate::format::ids::InodeId;
use crate::format::{FormatError, limits};

/// Type of a file, numbered as in `st_mode` and `d_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// Named pipe.
    Fifo,
    /// Character device.
    CharDevice,
    /// Directory.
    Directory,
    /// Block device.
    BlockDevice,
    /// Regular file.
    Regular,
    /// Symbolic link.
    Symlink,
    /// Socket.
    Socket,
}

impl FileType {
    /// Returns the type with this number: the upper four bits of a mode, as in `d_type`. `None` if there is no such
    /// type.
    pub fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }

    /// Returns the number of the type, the inverse of [`FileType::from_number`].
    pub fn number(self) -> u64 {
        match self {
            Self::Fifo => 1,
            Self::CharDevice => 2,
            Self::Directory => 4,
            Self::BlockDevice => 6,
            Self::Regular => 8,
            Self::Symlink => 10,
            Self::Socket => 12,
        }
    }

    /// Returns the type in a mode, or `None` if the mode has none that is known.
    pub fn of_mode(mode: u32) -> Option<Self> {
        Self::from_number(u64::from(mode >> 12))
    }
}

/// A directory entry, without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirentRow {
    /// Number of the inode that has this name.
    pub inode: InodeId,
    /// Type of the inode.
    pub file_type: FileType,
}

impl DirentRow {
    /// Returns the integers of the row.
    pub fn encode(&self) -> [u64; 2] {
        [self.inode.0, self.file_type.number()]
    }

    /// Decodes the integers of a row whose key has this name.
    ///
    /// # Errors
    /// Fails if name, inode or type is not allowed.
    pub fn decode(name: &[u8], ints: &[u64]) -> Result<Self, FormatError> {
        check_name(name)?;
        let &[inode, file_type] = ints else {
            return Err(FormatError::invalid("directory entry", "wrong number of columns"));
        };
        if inode == 0 || inode >= limits::INODE {
            return Err(FormatError::Limit { what: "inode of a directory entry", value: inode, limit: limits::INODE });
        }
        let file_type =
            FileType::from_number(file_type).ok_or(FormatError::invalid("directory entry", "unknown file type"))?;
        Ok(DirentRow { inode: InodeId(inode), file_type })
    }
}

/// Checks whether a directory may hold this name.
///
/// # Errors
/// Fails if the name is empty, too long, `.`, `..`, or holds `/` or a zero byte.
pub fn check_name(name: &[u8]) -> Result<(), FormatError> {
    if name.is_empty() || name.len() > limits::NAME_LEN {
        return Err(FormatError::Limit { what: "name", value: name.len() as u64, limit: limits::NAME_LEN as u64 });
    }
    if name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(FormatError::invalid("name", "a directory entry cannot have it"));
    }
    Ok(())
}
