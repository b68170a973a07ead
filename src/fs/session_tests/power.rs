//! Power cuts after every event of begin, commits, checkpoints and the end.

use super::*;
use crate::storage::testing::FileId;

/// A history and the states of the files: every committed one, and the event from which on it is acknowledged.
struct Told {
    history: History,
    /// (Events before the commit began, events when it was acknowledged, files).
    states: Vec<(usize, usize, Files)>,
}

impl Told {
    fn new(history: History) -> Self {
        Told { history, states: vec![(0, 0, Files::new())] }
    }

    fn commit(&mut self, session: &mut Session) {
        let before = self.history.len();
        session.commit();
        self.states.push((before, self.history.len(), session.files()));
    }

    /// Checks that what is found after `n` events is a state that was acknowledged by then, or one whose commit had
    /// begun.
    fn check(&self, n: usize, found: &Files, what: &str) {
        let first = self.states.iter().rposition(|state| state.1 <= n).unwrap();
        let allowed = self.states[first..].iter().filter(|state| state.0 <= n);
        let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
        assert!(
            allowed.clone().any(|state| state.2 == *found),
            "{what}: found {:?}, expected one of {:?}",
            names(found),
            allowed.map(|state| names(&state.2)).collect::<Vec<_>>()
        );
    }
}

/// Two sessions. The first begins, and is killed after a commit that nobody synced. The second continues the log, makes
/// two checkpoints, removes segments, and ends; with `complete`, everything is in the image at the end.
fn live(complete: bool) -> Told {
    let mut told = Told::new(History::new(empty_image()));
    let disk = Disk::recording(&told.history);
    let mut session = disk.begin(0x11).unwrap();
    for n in 0..3 {
        session.create(&format!("a{n}"), &bytes(n, 5000));
        told.commit(&mut session);
    }
    session.create("b", &bytes(7, 700));
    let (before, image_end) = (told.history.len(), session.writer.image.end());
    let pending = std::mem::take(&mut session.pending);
    session.counters.inode += 1;
    let pending = [pending, vec![Operation::Counters(session.counters)]].concat();
    drop(session.log().begin(pending, image_end, (1, 1)).unwrap());
    told.states.push((before, usize::MAX, session.files()));
    drop(session);
    let disk = Disk::now(&told.history);
    let mut session = disk.begin(0x12).unwrap();
    // From now on, what was recovered is acknowledged.
    let last = told.states.last_mut().unwrap();
    last.1 = told.history.len();
    assert_eq!(session.files(), last.2);
    session.remove("a1");
    told.commit(&mut session);
    session.checkpoint();
    session.create("c", &bytes(9, 9000));
    told.commit(&mut session);
    session.write(InodeId(2), 1000, &bytes(11, 2000));
    told.commit(&mut session);
    if complete {
        for name in ["a0", "a2", "b", "c"] {
            session.remove(name);
        }
        session.create("empty", b"x");
        session.range(InodeId(session.counters.inode - 1), 0, 1, None);
        told.commit(&mut session);
    }
    session.checkpoint();
    let finished = session.end();
    assert_eq!(matches!(finished, Finished::Removed), complete, "{finished:?}");
    assert_eq!(told.history.now().segments.is_empty(), complete);
    told
}

// Cases 20 and 25: after a power cut at any point of begin, of continuing a log, and of the end.
#[test]
fn a_power_cut_anywhere_loses_nothing_that_was_committed() {
    for complete in [false, true] {
        let told = live(complete);
        let mut count = 0;
        for n in 0..=told.history.len() {
            told.history.each_cut(n, 12, |left, what| {
                count += 1;
                let disk = Disk::of(left);
                let found = disk.look().unwrap_or_else(|e| panic!("{what}: {e}"));
                let before = found_files(&found, what);
                told.check(n, &before, what);
                assert!(found.replayed().lost.is_empty(), "{what}");
                // The next session can continue and end.
                let mut session = Session::begin(&disk, found, 0x99).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(session.files(), before, "{what}");
                session.create("more", &bytes(3, 300));
                session.commit();
                let after = session.files();
                let finished = if count % 2 == 0 {
                    session.checkpoint();
                    session.end()
                } else {
                    drop(session);
                    Finished::Untouched
                };
                let found = disk.look().unwrap_or_else(|e| panic!("{what}, then {finished:?}: {e}"));
                assert_eq!(found_files(&found, what), after, "{what}, then {finished:?}");
            });
        }
        assert!(count > 1000, "only {count} cuts");
    }
}

#[test]
fn a_second_power_cut_while_a_session_begins_or_ends_loses_nothing_either() {
    let told = live(true);
    let mut count = 0;
    for n in (0..=told.history.len()).step_by(5) {
        told.history.each_cut(n, 1, |left, what| {
            let second = History::new(left);
            let disk = Disk::recording(&second);
            let found = disk.look().unwrap();
            let before = found_files(&found, what);
            let mut session = Session::begin(&disk, found, 0x99).unwrap();
            session.create("more", b"more");
            let begun = second.len();
            session.commit();
            let committed = second.len();
            let after = session.files();
            session.checkpoint();
            session.end();
            for m in 0..=second.len() {
                second.each_cut(m, 1, |left, then| {
                    count += 1;
                    let found = Disk::of(left).look().unwrap_or_else(|e| panic!("{what}, then {then}: {e}"));
                    let files = found_files(&found, then);
                    let right =
                        if m >= committed { files == after } else { files == before || m > begun && files == after };
                    assert!(right, "{what}, then {then}: {:?}", files.keys());
                });
            }
        });
    }
    assert!(count > 2000, "only {count} cuts");
}

// After a failed sync the page cache may have what the disk lacks, and the next process is not told.
#[test]
fn a_failed_sync_before_the_crash_does_not_lose_what_the_next_session_commits() {
    let mut told = Told::new(History::new(empty_image()));
    let mut session = Disk::recording(&told.history).begin(0x11).unwrap();
    session.create("a", &bytes(1, 5000));
    told.commit(&mut session);
    session.create("b", &bytes(2, 9000));
    let image_end = session.writer.image.end();
    let mut pending = std::mem::take(&mut session.pending);
    pending.push(Operation::Counters(session.counters));
    drop(session.log().begin(pending, image_end, (1, 1)).unwrap());
    for number in 0..4 {
        told.history.fail_sync(FileId::Segment(number));
    }
    drop(session);
    let disk = Disk::now(&told.history);
    let mut session = disk.begin(0x12).unwrap();
    assert_eq!(session.files().len(), 2);
    told.states.push((told.history.len(), told.history.len(), session.files()));
    session.create("c", &bytes(3, 900));
    told.commit(&mut session);
    let from = told.history.len();
    session.create("d", &bytes(4, 4000));
    told.commit(&mut session);
    for n in from..=told.history.len() {
        told.history.each_cut(n, 16, |left, what| {
            let found = Disk::of(left).look().unwrap_or_else(|e| panic!("{what}: {e}"));
            told.check(n, &found_files(&found, what), what);
        });
    }
}
