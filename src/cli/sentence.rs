//! From an error to what people are told: one sentence, and an exit status.

use super::exit::Exit;
use anyhow::Error;
use std::io;

/// The error and its causes as one sentence. Many errors quote their cause; nothing is said twice.
pub fn sentence(error: &Error) -> String {
    let mut out = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if out.is_empty() {
            out = text;
        } else if !out.ends_with(&text) {
            out = format!("{out}: {text}");
        }
    }
    without_errno(&out)
}

/// ` (os error 2)` says nothing to people, and in the middle of a sentence it is in the way.
fn without_errno(text: &str) -> String {
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

/// Whether the error is no more than that the reader of stdout went away: the quiet end of `floe ls … | head`.
pub fn is_broken_pipe(error: &Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// An error with the exit status it is to end with; found anywhere in a chain.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Told {
    /// The status.
    pub exit: Exit,
    message: String,
}

/// An error without a cause that ends with `exit`.
pub fn told(exit: Exit, message: impl Into<String>) -> Error {
    Error::new(Told { exit, message: message.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn a_chain_of_errors_is_one_sentence() {
        let error = Err::<(), _>(anyhow!("no such file")).context("cannot read").context("cannot pack 'a'").unwrap_err();
        assert_eq!(sentence(&error), "cannot pack 'a': cannot read: no such file");
    }

    #[test]
    fn a_cause_that_was_quoted_is_not_repeated() {
        let error = Err::<(), _>(anyhow!("disk full")).context("cannot write: disk full").unwrap_err();
        assert_eq!(sentence(&error), "cannot write: disk full");
    }

    #[test]
    fn numbers_of_the_system_are_left_out() {
        let error = Error::new(io::Error::from_raw_os_error(2)).context("cannot open");
        assert_eq!(sentence(&error), "cannot open: No such file or directory");
        assert_eq!(without_errno("a (os error 2): b (os error x) c"), "a: b (os error x) c");
    }

    #[test]
    fn a_reader_that_went_away_is_known_through_a_context() {
        let broken = || Error::new(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_broken_pipe(&broken()) && is_broken_pipe(&broken().context("cannot write to standard output")));
        assert!(!is_broken_pipe(&Error::new(io::Error::from(io::ErrorKind::StorageFull))));
    }
}
