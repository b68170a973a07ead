//! Measures one peer: packs with it, and reads the result through a mount if possible, otherwise by the peer's own
//! extraction. Called by `run`.

use super::forecast::Work;
use super::peers::{Extract, Packed, Peer};
use super::reading::PASSES;
use super::report::{Entry, Pass, Read};
use super::turn::{EntryError, READING, Turn, doing};
use super::work::drop_caches;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Weight of packing, relative to about 1 for floe's fastest setting: a guess.
const PACKING: f64 = 10.0;

/// Returns the steps of measuring a compared program, in the order of [`measure`].
pub(super) fn steps() -> Vec<(Work, f64)> {
    let mut steps = vec![(Work::Pack, PACKING)];
    steps.extend(PASSES.iter().map(|_| (Work::Read, READING)));
    steps
}

/// Measures one program that floe is compared with. On a failure `entry` holds what was measured before. A pass that
/// exceeds the limit is noted and left out.
pub(super) fn measure(turn: &Turn<'_>, peer: &Peer, entry: &mut Entry) -> Result<(), EntryError> {
    let work = turn.work.fresh("entry")?;
    let (source, limit) = (&turn.plan.source, turn.plan.peer_limit);
    let packed = turn.step(&entry.name, "packing", limit, |limits, _| Ok(peer.pack(source, &work, limits)?))?;
    let bytes = turn.survey.bytes;
    entry.packing = Some(turn.packing(&packed.ran));
    entry.size = Some(super::report::Size {
        total: packed.size,
        ratio: bytes as f64 / packed.size.max(1) as f64,
        range: None,
        parts: None,
        saved: None,
    });
    if let Some(remark) = peer.remark() {
        turn.note(remark.to_owned());
    }
    for read in PASSES {
        match one_pass(turn, &entry.name, read, &packed) {
            Ok(done) => entry.passes.extend(done),
            Err(error) => match error.over_limit() {
                Some(seconds) => {
                    turn.note(format!("{}: {} was stopped after {seconds:.0} seconds", entry.name, doing(read)));
                }
                None => return Err(error),
            },
        }
    }
    Ok(())
}

fn one_pass(turn: &Turn<'_>, entry: &str, read: Read, packed: &Packed) -> Result<Option<Pass>, EntryError> {
    turn.step(entry, doing(read), turn.plan.peer_limit, |limits, _| {
        let point = turn.work.fresh("mnt")?;
        let Some(mount) = packed.mount(&point, limits)? else {
            let directory = Path::new(OsStr::from_bytes(&turn.survey.directory));
            let (what, bytes) = match read {
                Read::InOrder => (Extract::Everything, turn.survey.bytes),
                Read::OneDirectory if !turn.survey.directory.is_empty() => {
                    (Extract::Directory(directory), turn.survey.directory_bytes)
                }
                _ => return Ok(None),
            };
            let cold = drop_caches();
            let ran = packed.extract(what, limits)?;
            let pass =
                |seconds| Pass { read, mounted: false, cold, seconds, bytes, operations: 1, p50: None, p99: None };
            return Ok(ran.map(|ran| pass(ran.seconds)));
        };
        let cold = drop_caches();
        let done = turn.pass(read, mount.root(), cold, limits);
        // A reading error says more than an error at unmounting.
        let ended = mount.end();
        let done = done?;
        ended?;
        Ok(Some(done))
    })
}
