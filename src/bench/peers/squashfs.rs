//! mksquashfs: zstd as the distributions use it, and xz.

use super::kit::{Extract, Family, Kit, Place, Setting, Way};
use std::process::Command;

pub(super) struct Squashfs;

impl Family for Squashfs {
    fn name(&self) -> &'static str {
        "mksquashfs"
    }

    fn programs(&self) -> &'static [(&'static str, &'static str)] {
        &[("mksquashfs", "squashfs-tools")]
    }

    fn version(&self) -> &'static [&'static str] {
        &["-version"]
    }

    fn settings(&self, _kit: &Kit) -> Vec<Setting> {
        let zstd = ["-comp", "zstd", "-Xcompression-level", "15", "-b", "1M"];
        let zstd = Setting { optional: Some("zstd"), ..Setting::new("mksquashfs zstd:15", &zstd) };
        let xz = Setting { optional: Some("xz"), ..Setting::new("mksquashfs xz", &["-comp", "xz", "-b", "1M"]) };
        vec![zstd, xz]
    }

    fn pack(&self, kit: &Kit, place: &Place, arguments: &[String]) -> Vec<Command> {
        let mut command = kit.command("mksquashfs", &place.state);
        command.args([&place.source, &place.image]).args(["-noappend", "-quiet", "-no-progress"]).args(arguments);
        command.args(["-processors", &kit.jobs.to_string()]);
        vec![command]
    }

    fn mounts(&self, kit: &Kit, place: &Place) -> Vec<Way> {
        let mut ways = vec![Way::Kernel("squashfs")];
        // The low-level program is faster and needs less.
        for program in ["squashfuse_ll", "squashfuse"] {
            if kit.find(program).is_some() {
                let mut command = kit.command(program, &place.state);
                command.arg("-f").arg(&place.image);
                ways.push(Way::Program(command));
            }
        }
        ways
    }

    fn extract(&self, kit: &Kit, place: &Place, what: Extract<'_>) -> Option<Command> {
        let mut command = kit.command("unsquashfs", &place.state);
        command.args(["-quiet", "-no-progress", "-no-wildcards", "-processors", &kit.jobs.to_string(), "-dest"]);
        command.args([&place.out, &place.image]);
        if let Extract::Directory(path) = what {
            command.arg(path);
        }
        Some(command)
    }
}
