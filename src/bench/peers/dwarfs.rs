//! mkdwarfs: the level that reads fast, and its default.

use super::kit::{Extract, Family, Kit, Place, Setting, Way};
use std::process::Command;

pub(super) struct Dwarfs;

impl Family for Dwarfs {
    fn name(&self) -> &'static str {
        "mkdwarfs"
    }

    fn programs(&self) -> &'static [(&'static str, &'static str)] {
        &[("mkdwarfs", "github.com/mhx/dwarfs, not in Debian")]
    }

    fn version(&self) -> &'static [&'static str] {
        &["--help"]
    }

    fn settings(&self, _kit: &Kit) -> Vec<Setting> {
        vec![Setting::new("mkdwarfs -l5", &["-l5"]), Setting::new("mkdwarfs -l7", &["-l7"])]
    }

    fn pack(&self, kit: &Kit, place: &Place, arguments: &[String]) -> Vec<Command> {
        let mut command = kit.command("mkdwarfs", &place.state);
        command.arg("-i").arg(&place.source).arg("-o").arg(&place.image).args(arguments);
        command.args(["--with-devices", "--with-specials", "--no-progress", "--log-level=warn"]);
        command.arg(format!("--num-workers={}", kit.jobs));
        vec![command]
    }

    fn mounts(&self, kit: &Kit, place: &Place) -> Vec<Way> {
        let mut ways = Vec::new();
        if kit.find("dwarfs").is_some() {
            let mut command = kit.command("dwarfs", &place.state);
            command.arg("-f").arg("-o").arg(format!("workers={}", kit.jobs)).arg(&place.image);
            ways.push(Way::Program(command));
        }
        ways
    }

    fn extract(&self, kit: &Kit, place: &Place, what: Extract<'_>) -> Option<Command> {
        let Extract::Everything = what else { return None };
        let mut command = kit.command("dwarfsextract", &place.state);
        command.arg("-i").arg(&place.image).args(["-f", "gnutar", "--log-level=warn"]);
        command.arg(format!("--num-workers={}", kit.jobs));
        Some(command)
    }
}
