//! From an error to what people are told: one sentence, and an exit status.

use super::exit::Exit;
use crate::care::CheckError;
use crate::format::FormatError;
use crate::fs::verify::VerifyError;
use crate::meta::MetaError;
use crate::pack::PackError;
use crate::storage::{AtomicError, LockError, Operation, StorageError};
use anyhow::Error;
use std::error::Error as StdError;
use std::io;

/// Returns the error and its causes as one sentence. Many errors quote their cause; nothing is repeated.
pub fn sentence(error: &Error) -> String {
    let mut out = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // A cause may name the file, too.
        let text = match text.split_once(": ") {
            Some((name, rest)) if out.contains(&format!("'{}'", name.trim_matches('\''))) => rest,
            _ => &text,
        };
        if out.is_empty() {
            out = text.to_owned();
        } else if !out.ends_with(text) && !out.contains(&format!(": {text}")) && !out.contains(&format!("({text})")) {
            out = format!("{out}: {text}");
        }
    }
    without_errno(&out)
}

/// Returns the text without suffixes such as ` (os error 2)`: the number means nothing to people and interrupts the
/// sentence.
pub(super) fn without_errno(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => out.push_str(rest),
            _ => out = format!("{out} (os error {part}"),
        }
    }
    out
}

/// Returns whether the error only says that the reader of stdout has ended: the quiet end of `floe ls … | head`.
pub fn is_broken_pipe(error: &Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Returns the result of writing to standard output, but success if nobody reads that any more: the command goes on, and
/// what it has found decides its exit status. [`output::whoever_reads`](super::output::whoever_reads) does it for plain I/O.
///
/// # Errors
/// Returns any other error of `written`.
pub fn unless_unread(written: anyhow::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        written => written,
    }
}

/// Returns the exit status: that of the first error of the chain that has one.
pub fn exit_of(error: &Error) -> Exit {
    error.chain().find_map(exit_of_one).unwrap_or(Exit::Failed)
}

fn exit_of_one(error: &(dyn StdError + 'static)) -> Option<Exit> {
    if let Some(told) = error.downcast_ref::<Told>() {
        return Some(told.exit);
    }
    // No image is left, so the status does not say that the image is none.
    match error.downcast_ref() {
        Some(VerifyError::Pack(error)) => return exit_of_one(error),
        Some(_) => return Some(Exit::Failed),
        None => {}
    }
    if let Some(error) = error.downcast_ref::<PackError>() {
        return Some(match error {
            PackError::Cancelled => Exit::Interrupted,
            PackError::Appear(AtomicError::Lock(LockError::Held { .. }) | AtomicError::Unknown { .. }) => Exit::Locked,
            _ => Exit::Failed,
        });
    }
    if let Some(CheckError::Cancelled) = error.downcast_ref() {
        return Some(Exit::Interrupted);
    }
    // Without a head that verifies nothing says that it is an image; one for a newer program is one.
    if let Some(MetaError::NotAnImage | MetaError::Head(FormatError::Checksum { .. })) = error.downcast_ref() {
        return Some(Exit::NoImage);
    }
    if let Some(LockError::Held { .. }) = error.downcast_ref() {
        return Some(Exit::Locked);
    }
    match error.downcast_ref::<StorageError>()? {
        StorageError::NotAnImage { .. } => Some(Exit::NoImage),
        StorageError::Io { operation: Operation::Open, source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Some(Exit::NoImage)
        }
        _ => None,
    }
}

/// An error with its message and exit status, which may be anywhere in a chain.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Told {
    /// Exit status of the program.
    pub exit: Exit,
    message: String,
}

/// Makes an error without a cause that ends with the status `exit`.
pub fn told(exit: Exit, message: impl Into<String>) -> Error {
    Error::new(Told { exit, message: message.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn a_chain_of_errors_is_one_sentence() {
        let error =
            Err::<(), _>(anyhow!("no such file")).context("cannot read").context("cannot pack 'a'").unwrap_err();
        assert_eq!(sentence(&error), "cannot pack 'a': cannot read: no such file");
    }

    #[test]
    fn a_cause_that_was_quoted_is_not_repeated() {
        for quoting in ["cannot write: disk full", "cannot write (disk full), and cannot cut off"] {
            let error = Err::<(), _>(anyhow!("disk full")).context(quoting).unwrap_err();
            assert_eq!(sentence(&error), quoting);
        }
    }

    #[test]
    fn a_file_is_named_once() {
        for cause in ["a.floe: cannot open: no such file", "'a.floe': cannot open: no such file"] {
            let error = Err::<(), _>(anyhow!(cause)).context("cannot mount 'a.floe'").unwrap_err();
            assert_eq!(sentence(&error), "cannot mount 'a.floe': cannot open: no such file");
        }
        let error = Err::<(), _>(anyhow!("b.floe: no such file")).context("cannot mount 'a.floe'").unwrap_err();
        assert_eq!(sentence(&error), "cannot mount 'a.floe': b.floe: no such file");
    }

    #[test]
    fn numbers_of_the_system_are_left_out() {
        let error = Error::new(io::Error::from_raw_os_error(2)).context("cannot open");
        assert_eq!(sentence(&error), "cannot open: No such file or directory");
        assert_eq!(without_errno("a (os error 2): b (os error x) c"), "a: b (os error x) c");
    }

    #[test]
    fn the_error_decides_the_status_whatever_it_is_wrapped_in() {
        assert_eq!(exit_of(&Error::new(MetaError::NotAnImage).context("cannot open image 'a'")), Exit::NoImage);
        assert_eq!(exit_of(&Error::new(PackError::Cancelled).context("cannot pack 'a'")), Exit::Interrupted);
        assert_eq!(exit_of(&Error::new(VerifyError::Pack(PackError::Cancelled))), Exit::Interrupted);
        assert_eq!(exit_of(&Error::new(VerifyError::Image(MetaError::NotAnImage))), Exit::Failed);
        assert_eq!(exit_of(&told(Exit::Usage, "no").context("again")), Exit::Usage);
        assert_eq!(exit_of(&anyhow!("anything")), Exit::Failed);
        let missing = |operation| StorageError::Io {
            operation,
            offset: None,
            path: None,
            source: io::ErrorKind::NotFound.into(),
        };
        assert_eq!(exit_of(&Error::new(missing(Operation::Open))), Exit::NoImage);
        assert_eq!(exit_of(&Error::new(missing(Operation::Append))), Exit::Failed);
        let folder_is_missing = PackError::Image { image: "a".into(), source: missing(Operation::Open) };
        assert_eq!(exit_of(&Error::new(folder_is_missing)), Exit::Failed);
        let held = LockError::Held { image: "a".into(), host: None, pid: None };
        assert_eq!(exit_of(&Error::new(held)), Exit::Locked);
    }

    #[test]
    fn a_reader_that_went_away_is_known_through_a_context() {
        let broken = || Error::new(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_broken_pipe(&broken()) && is_broken_pipe(&broken().context("cannot write to standard output")));
        assert!(!is_broken_pipe(&Error::new(io::Error::from(io::ErrorKind::StorageFull))));
    }
}
