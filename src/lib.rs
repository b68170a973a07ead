//! floe: an archival filesystem that you can write to.

pub mod bench;
pub mod care;
pub mod chunk;
pub mod cli;
pub mod format;
pub mod freeze;
pub mod fs;
pub mod fuse;
pub mod inflate;
pub mod log;
pub mod meta;
pub mod pack;
pub mod storage;
pub mod table;
pub mod thaw;
