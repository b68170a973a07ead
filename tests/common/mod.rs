//! What the tests of the real binary share: running it, a work directory, mounting, and reporting what was left out.
#![allow(dead_code, unused_macros, unused_imports, reason = "each test binary uses its own part")]

pub mod compare;
pub mod guardian;
pub mod image_dump;
pub mod left_out;
pub mod mounted;
pub mod nasty;
pub mod run;
pub mod spec_text;
pub mod twin;
pub mod xattrs;

pub use guardian::Guardian;
pub use left_out::{has_program, is_root};
pub use mounted::Mounted;
pub use run::{Run, floe_command, run, spawn, status};
pub use twin::Twin;

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

/// Runs floe with the given arguments (anything that converts to an `OsString`) until it ends.
macro_rules! floe {
    ($($arg:expr),* $(,)?) => {
        $crate::common::run($crate::common::floe_command([$(std::ffi::OsString::from($arg)),*]))
    };
}
pub(crate) use floe;

/// The directory of one test: sources, images and mount points side by side, removed at the end.
///
/// They are side by side because floe refuses a mount point inside the image's directory. The directory is in
/// `target/tmp`, on a real disk; /tmp may be a tmpfs without holes or xattrs.
pub struct Lab {
    // Dropped first: a mount would prevent removing the directory.
    guardian: OnceCell<Guardian>,
    root: tempfile::TempDir,
}

impl Lab {
    /// An empty lab.
    pub fn new() -> Self {
        let root = tempfile::Builder::new()
            .prefix("floe-test-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("target/tmp is writable");
        for name in ["images", "mounts", "trees"] {
            fs::create_dir(root.path().join(name)).expect("a new folder");
        }
        Lab { root, guardian: OnceCell::new() }
    }

    /// A path below the lab, not created.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The path of an image, not created.
    pub fn image(&self, name: &str) -> PathBuf {
        self.path("images").join(name)
    }

    /// A new empty directory for a tree.
    pub fn tree(&self, name: &str) -> PathBuf {
        let path = self.path("trees").join(name);
        fs::create_dir(&path).expect("a new folder");
        path
    }

    /// A directory with the nasty tree, without the files of several MiB.
    pub fn small_nasty_tree(&self) -> PathBuf {
        let path = self.tree("nasty");
        nasty::build(&path, nasty::Extent::Small);
        path
    }

    /// A new mount point; no mount on it outlives the lab.
    pub fn mount_point(&self, name: &str) -> PathBuf {
        self.guardian.get_or_init(|| Guardian::over(self.root.path(), guardian::LAB));
        let path = self.path("mounts").join(name);
        fs::create_dir(&path).expect("a new folder");
        path
    }

    /// Packs `source` with more options and expects exit status 0.
    pub fn pack(&self, options: &[&str], source: &Path, name: &str) -> PathBuf {
        let image = self.image(name);
        let mut command = floe_command(["pack"]);
        command.args(options).arg(source).arg(&image);
        run(command).exits(0);
        image
    }

    /// Names in the directory of the images, sorted.
    pub fn image_folder(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("images")).expect("the folder is there");
        let mut names: Vec<_> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// Writes a file of a tree, and makes its parent directories.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    let path = path.as_ref();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("folders can be made");
    }
    fs::write(path, bytes).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}

/// Incompressible bytes, the same every time.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Text that compresses well, the same every time.
pub fn prose(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "snow ",
        "falls ",
        "loose ",
        "is ",
        "pressed ",
        "together ",
        "and ",
        "freezes ",
        "ice ",
        "drifts ",
        "with ",
        "the ",
        "current ",
        "until\n",
        "it ",
        "thaws.\n",
    ];
    let mut out = Vec::with_capacity(len + 16);
    for byte in noise(seed, len) {
        if out.len() >= len {
            break;
        }
        out.extend_from_slice(WORDS[usize::from(byte % 16)].as_bytes());
    }
    out.truncate(len);
    out
}
