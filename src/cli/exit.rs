//! The exit statuses, all of them: this table is what README.md and the man page promise.

use std::process::ExitCode;

/// Exit status of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command succeeded.
    Done,
    /// The command failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The command ended, with findings: inputs that could not be read, or damage that `check` found.
    Findings,
    /// The image does not exist, or the file is not an image.
    NoImage,
    /// Another writer holds the lock of the image.
    Locked,
    /// The key is wrong. Reserved: nothing is encrypted yet.
    WrongKey,
    /// A signal interrupted the command.
    Interrupted,
    /// Status of mount(8)'s helper for wrong usage or no permission.
    MountUsage,
    /// Status of mount(8)'s helper for a system error.
    MountSystem,
    /// Status of mount(8)'s helper for a failed mount.
    MountFailed,
}

/// Name, number and meaning of every status, in the order in which they are documented.
pub const TABLE: [(Exit, u8, &str); 11] = [
    (Exit::Done, 0, "done"),
    (Exit::Failed, 1, "failed"),
    (Exit::Usage, 2, "wrong usage"),
    (Exit::Findings, 3, "done, with findings: inputs that could not be read, damage found by check"),
    (Exit::NoImage, 10, "no such image, or not one"),
    (Exit::Locked, 11, "locked by another writer; the message names its host and process"),
    (Exit::WrongKey, 12, "wrong key (reserved)"),
    (Exit::Interrupted, 130, "interrupted"),
    (Exit::MountUsage, 1, "as mount(8)'s helper: wrong usage or no permission"),
    (Exit::MountSystem, 2, "as mount(8)'s helper: system error"),
    (Exit::MountFailed, 32, "as mount(8)'s helper: the mount failed"),
];

impl Exit {
    /// Returns the number with which the process ends.
    pub fn code(self) -> u8 {
        TABLE.iter().find(|row| row.0 == self).map_or(1, |row| row.1)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Returns the table of exit statuses as lines of text, for help and man page.
pub fn help() -> String {
    let own = TABLE.iter().filter(|row| !row.2.starts_with("as mount"));
    let lines = own.map(|(_, code, meaning)| format!("  {code:>3}  {meaning}\n"));
    format!("Exit status:\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_the_number_that_is_promised() {
        let codes = TABLE.map(|(exit, _, _)| exit.code());
        assert_eq!(codes, [0, 1, 2, 3, 10, 11, 12, 130, 1, 2, 32]);
    }

    #[test]
    fn the_help_shows_each_status_of_its_own_once() {
        let help = help();
        assert_eq!(help.lines().count(), 9);
        assert!(help.contains("  130  interrupted\n"), "{help}");
    }
}
