//! All handlers run through this guard, so that none can lose a request or end its thread.
//!
//! A handler computes and returns; only the adapter, after the guard, replies. A panic is caught here, answered with
//! EIO, and latches the mount: the state that a panic leaves is not trusted again. (If a reply is dropped nevertheless,
//! fuser answers it with EIO.)

use crate::fs::FsError;
use fuser::Errno;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// Why a handler of a FUSE request has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The filesystem returned an error.
    Fs(FsError),
    /// The kernel only gets this error number.
    Errno(Errno),
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        Failure::Fs(error)
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Failure::Errno(errno)
    }
}

/// A function that is called at the first panic, with its message.
type OnPanic = Box<dyn Fn(&str) + Send + Sync>;

/// Runs handlers of FUSE requests. The first panic closes it for good.
#[derive(Default)]
pub(super) struct Guard {
    latched: AtomicBool,
    on_panic: Option<OnPanic>,
}

impl Guard {
    /// Makes a guard that calls `on_panic` with the message of the first panic, on the thread that panicked.
    pub(super) fn telling(on_panic: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Guard { latched: AtomicBool::new(false), on_panic: Some(Box::new(on_panic)) }
    }

    #[cfg(test)]
    /// Returns whether a handler has panicked.
    pub(super) fn is_latched(&self) -> bool {
        self.latched.load(Ordering::Relaxed)
    }

    /// Runs `handler`, and returns its result or the error number for the kernel.
    pub(super) fn run<T>(
        &self,
        operation: &'static str,
        inode: u64,
        handler: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Errno> {
        if self.latched.load(Ordering::Relaxed) {
            return Err(Errno::EIO);
        }
        // What the handler leaves half done is never used again: the latch below prevents it.
        let outcome = catch_unwind(AssertUnwindSafe(handler));
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Errno(errno))) => Err(errno),
            Ok(Err(Failure::Fs(error))) => {
                let errno = error.errno();
                if errno == rustix::io::Errno::IO {
                    tracing::error!(operation, inode, %error, "answered with EIO");
                }
                Err(Errno::from_i32(errno.raw_os_error()))
            }
            Err(payload) => {
                let is_first = !self.latched.swap(true, Ordering::Relaxed);
                let message = panic_message(payload.as_ref());
                tracing::error!(operation, inode, message, "panicked: the mount answers EIO from now on");
                if let Some(on_panic) = self.on_panic.as_ref().filter(|_| is_first)
                    && let Err(second) = catch_unwind(AssertUnwindSafe(|| on_panic(message)))
                {
                    std::mem::forget(second);
                }
                // Dropping a payload may panic, too; a leak is better than a dead thread.
                std::mem::forget(payload);
                Err(Errno::EIO)
            }
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T>(result: Result<T, Errno>) -> Option<i32> {
        result.err().map(Errno::code)
    }

    #[test]
    fn answers_and_errors_pass_through() {
        let guard = Guard::default();
        assert_eq!(guard.run("test", 1, || Ok(7)).ok(), Some(7));
        assert_eq!(code(guard.run("test", 1, || Err::<(), _>(FsError::NotFound.into()))), Some(Errno::ENOENT.code()));
        assert_eq!(code(guard.run("test", 1, || Err::<(), _>(Errno::ERANGE.into()))), Some(Errno::ERANGE.code()));
        assert_eq!(guard.run("test", 1, || Ok(7)).ok(), Some(7), "an error latches nothing");
    }

    #[test]
    fn a_panic_answers_eio_and_latches_the_mount() {
        let guard = Guard::default();
        let panics = || -> Result<(), Failure> { std::panic::resume_unwind(Box::new("a bug")) };
        assert_eq!(code(guard.run("test", 1, panics)), Some(Errno::EIO.code()));
        assert_eq!(code(guard.run("test", 1, || Ok(7))), Some(Errno::EIO.code()));
    }

    #[test]
    fn the_first_panic_is_told_and_what_it_is_told_to_may_panic() {
        let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = told.clone();
        let guard = Guard::telling(move |message| {
            noted.lock().unwrap().push(message.to_owned());
            std::panic::resume_unwind(Box::new("again"));
        });
        let panics = || -> Result<(), Failure> { std::panic::resume_unwind(Box::new("a bug")) };
        assert!(!guard.is_latched());
        assert_eq!(code(guard.run("test", 1, panics)), Some(Errno::EIO.code()));
        assert_eq!(code(guard.run("test", 1, panics)), Some(Errno::EIO.code()));
        assert!(guard.is_latched());
        assert_eq!(*told.lock().unwrap(), ["a bug"]);
    }

    #[test]
    fn a_panic_whose_payload_panics_in_turn_is_survived() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let guard = Guard::default();
        let panics = || -> Result<(), Failure> { std::panic::resume_unwind(Box::new(Bomb)) };
        assert_eq!(code(guard.run("test", 1, panics)), Some(Errno::EIO.code()));
    }
}
