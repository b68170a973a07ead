//! zpaq: method 3; its method 5 takes hours.

use super::kit::{Extract, Family, Kit, Place, Setting, Way};
use std::path::Path;
use std::process::Command;

pub(super) struct Zpaq;

impl Family for Zpaq {
    fn name(&self) -> &'static str {
        "zpaq"
    }

    fn programs(&self) -> &'static [(&'static str, &'static str)] {
        &[("zpaq", "zpaq")]
    }

    fn version(&self) -> &'static [&'static str] {
        &[]
    }

    fn settings(&self, _kit: &Kit) -> Vec<Setting> {
        vec![Setting::new("zpaq -m3", &["-m3"])]
    }

    fn pack(&self, kit: &Kit, place: &Place, arguments: &[String]) -> Vec<Command> {
        let mut command = kit.command("zpaq", &place.state);
        command.arg("a").arg(&place.image).arg(".").args(arguments);
        // With a summary it does not print a line for each file.
        command.arg(format!("-t{}", kit.jobs)).args(["-summary", "1"]).current_dir(&place.source);
        vec![command]
    }

    fn mounts(&self, _kit: &Kit, _place: &Place) -> Vec<Way> {
        Vec::new()
    }

    fn extract(&self, kit: &Kit, place: &Place, what: Extract<'_>) -> Option<Command> {
        let mut command = kit.command("zpaq", &place.state);
        command.arg("x").arg(&place.image);
        if let Extract::Directory(path) = what {
            command.arg(Path::new(".").join(path));
        }
        // It decodes and verifies, and writes nothing.
        command.arg("-test").arg(format!("-t{}", kit.jobs)).args(["-summary", "1"]);
        Some(command)
    }

    fn remark(&self) -> Option<&'static str> {
        Some("zpaq stores neither owners nor symlinks nor special files")
    }
}
