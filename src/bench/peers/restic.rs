//! restic: a local repository of version 2 with its best compression.

use super::kit::{Extract, Family, Kit, Place, Setting, Way};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) struct Restic;

impl Restic {
    fn command(kit: &Kit, place: &Place, name: &str) -> Command {
        let mut command = kit.command("restic", &place.state);
        // It has no option for the number of threads; Go's variable bounds those that compute.
        command.env("RESTIC_PASSWORD", "floe").env("GOMAXPROCS", kit.jobs.to_string());
        command.env("RESTIC_CACHE_DIR", &place.state);
        command.arg(name).arg("--repo").arg(&place.image);
        command
    }
}

impl Family for Restic {
    fn name(&self) -> &'static str {
        "restic"
    }

    fn programs(&self) -> &'static [(&'static str, &'static str)] {
        &[("restic", "restic")]
    }

    fn version(&self) -> &'static [&'static str] {
        &["version"]
    }

    fn settings(&self, _kit: &Kit) -> Vec<Setting> {
        vec![Setting::new("restic max", &["--compression", "max"])]
    }

    fn pack(&self, kit: &Kit, place: &Place, arguments: &[String]) -> Vec<Command> {
        let mut init = Self::command(kit, place, "init");
        init.args(["--repository-version", "2"]);
        let mut backup = Self::command(kit, place, "backup");
        backup.arg("--quiet").args(arguments).arg(".").current_dir(&place.source);
        vec![init, backup]
    }

    fn mounts(&self, kit: &Kit, place: &Place) -> Vec<Way> {
        let mut command = Self::command(kit, place, "mount");
        command.arg("--no-lock");
        vec![Way::Program(command)]
    }

    fn root(&self, at: &Path) -> io::Result<PathBuf> {
        // A link named by the snapshot's time.
        at.join("snapshots/latest").canonicalize()
    }

    fn extract(&self, kit: &Kit, place: &Place, what: Extract<'_>) -> Option<Command> {
        let mut command = Self::command(kit, place, "dump");
        let mut path = OsString::from("/");
        if let Extract::Directory(directory) = what {
            path.push(directory);
        }
        command.args(["--no-lock", "latest"]).arg(path);
        Some(command)
    }

    fn remark(&self) -> Option<&'static str> {
        Some("restic encrypts always")
    }
}
