//! `floe freeze --status DIR`: what is thawed, and how far the freezer of a mount is.
//!
//! Called by `freeze`.

use super::mount_state::{MountState, mount_of_directory};
use super::open::shown;
use super::progress::RATE_FROM_BYTES;
use super::size::{Human, counted};
use super::{Exit, output};
use crate::fs::FreezeReport;
use crate::fuse::Mount;
use anyhow::Context as _;
use serde::Serialize;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The document that `floe freeze --status --json` prints.
#[derive(Serialize)]
struct Document {
    mount: output::Name,
    image: output::Name,
    read_only: bool,
    #[serde(flatten)]
    state: Option<State>,
}

#[derive(Serialize)]
struct State {
    thawed_bytes: u64,
    thawed_files: u64,
    failed_files: u64,
    log_bytes: u64,
    log_segments: u64,
    pending_bytes: u64,
    overlay_bytes: u64,
    uncommitted_seconds: Option<u64>,
    checkpoint_seconds: Option<u64>,
    working_set_bytes: u64,
    freeze: Option<String>,
    freezing: bool,
    percent_done: Option<f64>,
    bytes_done: u64,
    total_bytes: u64,
    stored_bytes: u64,
    bytes_per_second: u64,
    level: Option<i64>,
    error: Option<String>,
    failed: Option<String>,
    last: Option<Last>,
}

#[derive(Serialize)]
struct Last {
    files: u64,
    frozen_bytes: u64,
    new_bytes: u64,
    stored_bytes: u64,
    shared_bytes: u64,
    superchunks: u64,
    dropped_files: u64,
    failed_files: u64,
    left_bytes: u64,
}

impl State {
    fn new(state: &MountState) -> Self {
        let n = |name| state.number(name);
        let (freezing, bytes_done, total_bytes) =
            (n("freezer_running") > 0, n("freezer_done_bytes"), n("freezer_total_bytes"));
        let share = bytes_done as f64 / total_bytes.max(1) as f64;
        State {
            thawed_bytes: n("queue_bytes"),
            thawed_files: n("queue_files"),
            failed_files: n("failed_files"),
            log_bytes: n("log_bytes"),
            log_segments: n("segments"),
            pending_bytes: n("pending_bytes"),
            overlay_bytes: n("overlay_bytes"),
            uncommitted_seconds: state.maybe("uncommitted_age"),
            checkpoint_seconds: state.maybe("checkpoint_age"),
            working_set_bytes: n("working_set_bytes"),
            freeze: state.text("freezing").map(str::to_owned),
            freezing,
            percent_done: (freezing && total_bytes > 0).then(|| share.min(1.0)),
            bytes_done,
            total_bytes,
            stored_bytes: n("freezer_stored_bytes"),
            bytes_per_second: n("rate"),
            level: state.text("level").and_then(|level| level.parse().ok()),
            error: state.text("freezer_error").map(str::to_owned),
            failed: state.text("failed").map(str::to_owned),
            last: state.last().map(Last::new),
        }
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut line = |name: &str, value: &str| writeln!(out, "{name:<16} {value}");
        let thawed = match self.thawed_bytes {
            0 => "nothing".to_owned(),
            bytes => format!("{} of {}", Human(bytes), counted(self.thawed_files, "file")),
        };
        line("thawed", &thawed)?;
        line("freezer", &self.freezer())?;
        if self.failed_files > 0 {
            let files = counted(self.failed_files, "file");
            line("cannot freeze", &format!("{files}: bytes cannot be read ('floe check' of the image says why)"))?;
        }
        let log = format!("{} in {}", Human(self.log_bytes), counted(self.log_segments, "segment"));
        line("thaw log", if self.log_segments == 0 { "none" } else { &log })?;
        let durable = match self.uncommitted_seconds {
            None => "everything".to_owned(),
            Some(age) => format!("all but {}, the oldest change {}", Human(self.pending_bytes), ago(age)),
        };
        line("durable", &durable)?;
        let checkpoint = self.checkpoint_seconds.map_or("none since it was mounted".to_owned(), ago);
        line("checkpoint", &checkpoint)?;
        line("working set", &Human(self.working_set_bytes).to_string())?;
        match &self.failed {
            Some(why) => line("failed", &format!("{why}: the mount changes nothing more")),
            None => Ok(()),
        }
    }

    fn freezer(&self) -> String {
        if self.freezing {
            let mut text = match self.percent_done {
                Some(share) => format!("at work: {:.0}% of {}", share * 100.0, Human(self.total_bytes)),
                None => "at work".to_owned(),
            };
            if self.bytes_per_second > 0 && self.total_bytes >= RATE_FROM_BYTES {
                text.push_str(&format!(", {}/s", Human(self.bytes_per_second)));
            }
            if let Some(level) = self.level {
                text.push_str(&format!(", at level {level}"));
            }
            return text;
        }
        match (&self.error, self.thawed_bytes) {
            (Some(why), _) => format!("waits after a failure: {why}"),
            (None, 0) => "has nothing to do".into(),
            (None, _) if self.freeze.as_deref() == Some("off") => "waits to be asked (freeze=off)".into(),
            (None, _) => "waits until nobody writes, or much is thawed".into(),
        }
    }
}

/// Returns a time such as `5 s ago` or `3 min ago`.
fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        _ => format!("{} h ago", seconds / 3600),
    }
}

impl Last {
    fn new(report: FreezeReport) -> Self {
        Last {
            files: report.files,
            frozen_bytes: report.frozen_bytes,
            new_bytes: report.new_bytes,
            stored_bytes: report.stored_bytes,
            shared_bytes: report.shared_bytes,
            superchunks: report.superchunks,
            dropped_files: report.dropped,
            failed_files: report.failed,
            left_bytes: report.left_bytes,
        }
    }
}

/// Runs `floe freeze --status`.
///
/// # Errors
/// Fails if the directory is in no mount of floe, or the mount does not answer.
pub fn run(dir: &Path, named: &str, json: bool) -> anyhow::Result<Exit> {
    let cannot = || format!("cannot show the state of '{named}'");
    let mount = mount_of_directory(dir).with_context(cannot)?;
    let state = MountState::of(&mount.point).with_context(cannot)?.map(|state| State::new(&state));
    show(&mount, state, json)?;
    Ok(Exit::Done)
}

fn show(mount: &Mount, state: Option<State>, json: bool) -> io::Result<()> {
    if json {
        return output::document(&Document {
            mount: output::Name::new(mount.point.as_os_str().as_bytes()),
            image: output::Name::new(mount.source.as_bytes()),
            read_only: state.is_none(),
            state,
        });
    }
    let mut out = output::stdout();
    let image = Path::new(&mount.source);
    writeln!(out, "{:<16} {} on {}", "mount", shown(image), shown(&mount.point))?;
    match state {
        Some(state) => state.print(&mut out)?,
        None => writeln!(out, "{:<16} read-only: nothing is thawed or frozen", "freezer")?,
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> String {
        let mut out = Vec::new();
        State::new(&MountState::parse(text)).print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn people_are_told_what_the_freezer_does_or_waits_for() {
        let thawed = "queue_bytes 2048\nqueue_files 1\n";
        let at_work = "freezer_running 1\nfreezer_total_bytes 4194304\nfreezer_done_bytes 1048576\nrate 512\nlevel 3\n";
        assert!(printed(&[thawed, at_work].concat()).contains("at work: 25% of 4.00 MiB, 512 B/s, at level 3"));
        let little = at_work.replace("4194304", "4096").replace("1048576", "1024");
        assert!(printed(&[thawed, &little].concat()).contains("at work: 25% of 4.00 KiB, at level 3"));
        assert!(printed(&[thawed, "freezing off\n"].concat()).contains("waits to be asked"));
        let by_itself = [thawed, "freezing auto\n"].concat();
        assert!(printed(&by_itself).contains("thawed           2.00 KiB of 1 file\n"));
        assert!(printed(&by_itself).contains("waits until nobody writes"));
        assert!(printed("freezer_error no space\n").contains("waits after a failure: no space"));
        assert!(printed("").contains("has nothing to do"));
        assert!(printed("failed the disk\n").contains("the disk: the mount changes nothing more"));
        assert!(printed("failed_files 2\n").contains("2 files: bytes cannot be read"));
    }

    #[test]
    fn ages_are_shown_in_one_unit() {
        assert_eq!([ago(5), ago(119), ago(120), ago(7200)], ["5 s ago", "119 s ago", "2 min ago", "2 h ago"]);
    }
}
