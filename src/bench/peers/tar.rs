//! GNU tar with a compressor: one long stream. This is the smallest that zstd and xz can achieve, and must be read from
//! its start.

use super::kit::{Extract, Family, Kit, Place, Setting, Way};
use std::process::Command;

/// The compared program `tar | zstd --long`.
pub(super) static ZSTD: Tar = Tar {
    name: "tar | zstd --long",
    programs: &[("tar", "tar"), ("zstd", "zstd")],
    setting: "tar zstd:19 long",
    packs: "zstd -19 --long=31",
    unpacks: "zstd --long=31",
};
/// The compared program `tar | xz`.
pub(super) static XZ: Tar = Tar {
    name: "tar | xz",
    programs: &[("tar", "tar"), ("xz", "xz-utils")],
    setting: "tar xz:9",
    packs: "xz -9",
    unpacks: "xz -T0",
};

/// A compared program that consists of tar and one compressor.
pub(super) struct Tar {
    name: &'static str,
    programs: &'static [(&'static str, &'static str)],
    setting: &'static str,
    packs: &'static str,
    unpacks: &'static str,
}

impl Family for Tar {
    fn name(&self) -> &'static str {
        self.name
    }

    fn programs(&self) -> &'static [(&'static str, &'static str)] {
        self.programs
    }

    fn version(&self) -> &'static [&'static str] {
        &["--version"]
    }

    fn settings(&self, kit: &Kit) -> Vec<Setting> {
        // tar waits for the compressor, so its time counts, too.
        vec![Setting::new(self.setting, &["-I", &format!("{} -T{}", self.packs, kit.jobs)])]
    }

    fn pack(&self, kit: &Kit, place: &Place, arguments: &[String]) -> Vec<Command> {
        let mut command = kit.command("tar", &place.state);
        command.args(["--sort=name", "--sparse"]).args(arguments).arg("-cf").arg(&place.image);
        command.args(["--force-local", "-C"]).arg(&place.source).arg(".");
        vec![command]
    }

    fn mounts(&self, _kit: &Kit, _place: &Place) -> Vec<Way> {
        Vec::new()
    }

    fn extract(&self, kit: &Kit, place: &Place, what: Extract<'_>) -> Option<Command> {
        let mut command = kit.command("tar", &place.state);
        command.args(["-I", self.unpacks, "--force-local", "-xOf"]).arg(&place.image);
        if let Extract::Directory(path) = what {
            command.args(["--no-unquote", "--no-wildcards", "--"]).arg(std::path::Path::new(".").join(path));
        }
        Some(command)
    }
}
