//! Ctrl-C: the first asks a long command to stop and clean up, the second ends the process as ever.

use crate::fuse::daemon::is_ignored;
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Records SIGINT, SIGTERM and SIGHUP from now on instead of ending the process; a second one ends it. A signal that
/// was ignored when the process was started (nohup, a shell that runs it in the background) stays ignored.
pub fn watch() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        if is_ignored(signal) {
            continue;
        }
        // SAFETY: all-zero bytes are a valid sigaction: no flags, an empty mask, the default action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SA_RESTART: no read or write in the middle of the work is to fail for it.
        action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
        action.sa_sigaction = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler does nothing but store to an atomic, which is async-signal-safe; `action` is initialised and the
        // old action is not asked for. It fails only for an invalid signal, which these are not.
        unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    }
}

/// Returns whether a signal asked for an end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
