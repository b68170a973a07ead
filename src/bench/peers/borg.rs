//! borg 1: a repository without encryption. borg 2 has different commands and is not supported.

use super::kit::{Extract, Family, Kit, Place, Setting, Way};
use std::ffi::OsString;
use std::process::Command;

pub(super) struct Borg;

impl Borg {
    fn command(kit: &Kit, place: &Place, name: &str) -> Command {
        let mut command = kit.command("borg", &place.state);
        // Without HOME, Python finds the user's own packages through the user database; borg has its own variable.
        command.env_remove("HOME").env("PYTHONDONTWRITEBYTECODE", "1");
        command.env_remove("XDG_CACHE_HOME").env_remove("XDG_CONFIG_HOME").env("BORG_BASE_DIR", &place.state);
        command.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        command.arg(name);
        command
    }

    fn archive(place: &Place) -> OsString {
        let mut archive = place.image.clone().into_os_string();
        archive.push("::a");
        archive
    }
}

impl Family for Borg {
    fn name(&self) -> &'static str {
        "borg"
    }

    fn programs(&self) -> &'static [(&'static str, &'static str)] {
        &[("borg", "borgbackup")]
    }

    fn version(&self) -> &'static [&'static str] {
        &["--version"]
    }

    fn settings(&self, _kit: &Kit) -> Vec<Setting> {
        let setting = |name, codec| Setting::new(name, &["--compression", codec]);
        vec![setting("borg zstd,9", "zstd,9"), setting("borg lzma,6", "lzma,6")]
    }

    fn pack(&self, kit: &Kit, place: &Place, arguments: &[String]) -> Vec<Command> {
        let mut init = Self::command(kit, place, "init");
        init.args(["--encryption", "none"]).arg(&place.image);
        let mut create = Self::command(kit, place, "create");
        create.args(arguments).arg(Self::archive(place)).arg(".").current_dir(&place.source);
        vec![init, create]
    }

    fn mounts(&self, kit: &Kit, place: &Place) -> Vec<Way> {
        let mut command = Self::command(kit, place, "mount");
        command.arg("-f").arg(Self::archive(place));
        vec![Way::Program(command)]
    }

    fn extract(&self, kit: &Kit, place: &Place, what: Extract<'_>) -> Option<Command> {
        let mut command = Self::command(kit, place, "extract");
        command.arg("--dry-run").arg(Self::archive(place));
        if let Extract::Directory(path) = what {
            let mut prefix = OsString::from("pp:");
            prefix.push(path);
            command.arg(prefix);
        }
        Some(command)
    }

    fn remark(&self) -> Option<&'static str> {
        Some("borg 1 packs with one thread; its repository is made without encryption")
    }
}
