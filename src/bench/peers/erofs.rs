//! mkfs.erofs: for fast reading (lz4hc), zstd, and small (lzma with all fragments). Builds support different codecs.

use super::kit::{Extract, Family, Kit, Place, Setting, Way};
use std::process::Command;

pub(super) struct Erofs;

impl Family for Erofs {
    fn name(&self) -> &'static str {
        "mkfs.erofs"
    }

    fn programs(&self) -> &'static [(&'static str, &'static str)] {
        &[("mkfs.erofs", "erofs-utils")]
    }

    fn version(&self) -> &'static [&'static str] {
        &["-V"]
    }

    fn settings(&self, kit: &Kit) -> Vec<Setting> {
        let setting = |name, codec, arguments: &[&str]| {
            let alone: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
            // Older builds have one thread and do not know the option.
            let threads = [alone.clone(), vec![format!("--workers={}", kit.jobs)]].concat();
            Setting { name, arguments: vec![threads, alone], optional: Some(codec) }
        };
        vec![
            setting("mkfs.erofs lz4hc", "lz4hc", &["-zlz4hc,12", "-C65536"]),
            setting("mkfs.erofs zstd", "zstd", &["-zzstd,15", "-C65536"]),
            setting("mkfs.erofs lzma", "lzma", &["-zlzma,9", "-C1048576", "-Eall-fragments"]),
        ]
    }

    fn pack(&self, kit: &Kit, place: &Place, arguments: &[String]) -> Vec<Command> {
        let mut command = kit.command("mkfs.erofs", &place.state);
        // Without `--quiet` it prints a line for each file.
        command.arg("--quiet").args(arguments).args([&place.image, &place.source]);
        vec![command]
    }

    fn mounts(&self, kit: &Kit, place: &Place) -> Vec<Way> {
        let mut ways = vec![Way::Kernel("erofs")];
        if kit.find("erofsfuse").is_some() {
            let mut command = kit.command("erofsfuse", &place.state);
            command.arg("-f").arg(&place.image);
            ways.push(Way::Program(command));
        }
        ways
    }

    fn extract(&self, kit: &Kit, place: &Place, what: Extract<'_>) -> Option<Command> {
        // It cannot extract a part.
        let Extract::Everything = what else { return None };
        let mut command = kit.command("fsck.erofs", &place.state);
        // Without a directory it decodes everything and writes nothing.
        command.arg("--extract").arg(&place.image);
        Some(command)
    }
}
