//! What programs read: JSON lines, each with a `message_type`. Results (`status`, `summary`, documents) go to standard output,
//! everything else (`note`, `warning`, `error`, `log`, `exit_error`) to standard error. Fields are only ever added.

use super::escape;
use crate::meta::{RangeCount, ThawedCount};
use serde::Serialize;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

/// Returns standard output, for results. Whoever takes it flushes it: an error on the last bytes is an error too.
pub fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(64 << 10, io::stdout().lock())
}

/// Progress of a long command, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Status {
    /// Fraction that is done, from 0 to 1; absent if the total is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent_done: Option<f64>,
    /// Number of bytes that are done.
    pub bytes_done: u64,
    /// Total number of bytes, as far as known.
    pub total_bytes: u64,
    /// Number of files that are done.
    pub files_done: u64,
    /// Estimated number of seconds left; absent if it cannot be estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_remaining: Option<u64>,
}

/// An error of one item, as JSON; the command continues.
#[derive(Debug, Serialize)]
pub struct ItemError<'a> {
    /// Name of the item.
    pub item: &'a str,
    /// Bytes of the name in hex, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_hex: Option<&'a str>,
    /// What is wrong with the item.
    pub message: &'a str,
}

/// The error with which a command failed, as JSON.
#[derive(Debug, Serialize)]
pub struct ExitError<'a> {
    /// The exit status.
    pub code: u8,
    /// Why the command failed.
    pub message: &'a str,
}

#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    message_type: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

/// Returns the result `written`, but no error if the reader has closed the pipe: whether somebody reads the output
/// changes neither what a command does nor its exit status.
///
/// # Errors
/// Fails with every other error.
pub fn whoever_reads(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes one line `{"message_type": kind, …}`, or nothing if the reader has closed the pipe.
///
/// # Errors
/// Fails if it cannot be written.
pub fn line(to: &mut dyn Write, kind: &str, body: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(&Line { message_type: kind, body })?;
    text.push(b'\n');
    whoever_reads(to.write_all(&text).and_then(|()| to.flush()))
}

/// Writes one document to standard output, or nothing if the reader has closed the pipe.
///
/// # Errors
/// Fails if it cannot be written.
pub fn document(body: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(body)?;
    text.push(b'\n');
    let mut out = stdout();
    whoever_reads(out.write_all(&text).and_then(|()| out.flush()))
}

/// A name in JSON, which has only text. A name that is not UTF-8 is shown with escapes, and its bytes follow in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Name {
    /// The name as text.
    pub path: String,
    /// Bytes of the name in hex, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
}

impl Name {
    /// Converts `name` for JSON.
    pub fn new(name: &[u8]) -> Self {
        match std::str::from_utf8(name) {
            Ok(text) => Name { path: text.to_owned(), path_hex: None },
            Err(_) => Name { path: escape::shown(name).into_owned(), path_hex: Some(hex(name)) },
        }
    }
}

/// Thawed ranges of files, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Thawed {
    /// Ranges whose bytes are in the thaw log.
    pub in_log: Ranges,
    /// Ranges whose bytes are lost.
    pub lost: Ranges,
}

/// How many ranges of files there are, and how many bytes they have in total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ranges {
    /// Number of ranges.
    pub ranges: u64,
    /// Sum of the lengths of the ranges in bytes.
    pub bytes: u64,
}

impl Thawed {
    /// Converts `count` for JSON.
    pub fn new(count: &ThawedCount) -> Self {
        let ranges = |count: &RangeCount| Ranges { ranges: count.ranges, bytes: count.bytes };
        Thawed { in_log: ranges(&count.in_log), lost: ranges(&count.lost) }
    }
}

/// Returns lower-case hexadecimal digits, two for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: &str, body: &impl Serialize) -> String {
        let mut out = Vec::new();
        line(&mut out, kind, body).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_line_says_what_it_is_first() {
        let status =
            Status { percent_done: Some(0.5), bytes_done: 1, total_bytes: 2, files_done: 3, seconds_remaining: None };
        let expected =
            "{\"message_type\":\"status\",\"percent_done\":0.5,\"bytes_done\":1,\"total_bytes\":2,\"files_done\":3}\n";
        assert_eq!(written("status", &status), expected);
        let expected = "{\"message_type\":\"exit_error\",\"code\":10,\"message\":\"no\"}\n";
        assert_eq!(written("exit_error", &ExitError { code: 10, message: "no" }), expected);
        let expected = "{\"message_type\":\"error\",\"item\":\"a\\nb\",\"message\":\"gone\"}\n";
        assert_eq!(written("error", &ItemError { item: "a\nb", item_hex: None, message: "gone" }), expected);
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
        struct Failing(ErrorKind);
        impl Write for Failing {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let body = ExitError { code: 1, message: "no" };
        assert!(line(&mut Failing(ErrorKind::BrokenPipe), "summary", &body).is_ok());
        let error = line(&mut Failing(ErrorKind::StorageFull), "summary", &body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn names_that_are_no_text_keep_their_bytes() {
        assert_eq!(Name::new(b"a\n"), Name { path: "a\n".into(), path_hex: None });
        assert_eq!(Name::new(b"\xff"), Name { path: r"\xff".into(), path_hex: Some("ff".into()) });
    }
}
