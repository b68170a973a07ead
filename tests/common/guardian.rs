//! No mount outlives its test: after a time limit, or when the test's process ends for any reason, its connection is
//! aborted.
//!
//! A separate process watches, so this works even if every thread of the test hangs in a request that nobody answers.
//! It ends when the value is dropped; then, too, it removes mounts that are still there.

use super::run::spawn;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Time limit of one mount.
pub const MOUNT: Duration = Duration::from_secs(600);
/// Time limit of all mounts of a lab together: long tests mount repeatedly.
pub const LAB: Duration = Duration::from_secs(3600);

/// `$1` is the directory, `$2` the limit in seconds. Standard input ends when the test drops the guardian or dies.
/// Paths in mountinfo have no spaces, because these are escaped; so is the path to look for.
const SCRIPT: &str = r#"
timeout "$2" cat >/dev/null
dir=$(printf %s "$1" | sed 's/\\/\\134/g; s/ /\\040/g')
mountpoint -q /sys/fs/fuse/connections || mount -t fusectl none /sys/fs/fuse/connections 2>/dev/null
while read -r id parent device root point rest; do
    case "$point/" in "$dir"/*) ;; *) continue ;; esac
    case "$rest" in *" - fuse"*) ;; *) continue ;; esac
    echo "guardian: aborting the mount on $point" >&2
    echo 1 >"/sys/fs/fuse/connections/${device#*:}/abort"
    point=$(printf %s "$point" | sed 's/\\040/ /g; s/\\134/\\/g')
    umount -l "$point" || fusermount3 -u -z "$point"
done </proc/self/mountinfo
"#;

/// Watches all mounts on a directory and below it.
pub struct Guardian {
    watch: Option<Child>,
}

impl Guardian {
    /// Begins to watch, for at most `limit`.
    pub fn over(dir: &Path, limit: Duration) -> Self {
        use std::os::unix::process::CommandExt;
        let dir = dir.canonicalize().expect("the directory is there");
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "guardian"]).arg(dir).arg(limit.as_secs_f64().to_string());
        // In its own process group: a signal that ends all of the test's processes does not end this one.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let watch = spawn(&mut command).expect("sh runs");
        Guardian { watch: Some(watch) }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            drop(watch.stdin.take());
            // It did what it could; the test reports what is wrong.
            let _ = watch.wait();
        }
    }
}
