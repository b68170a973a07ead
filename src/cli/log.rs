//! Log messages of the library: to standard error, as text or JSON lines; those of a daemon to the system's log.
//!
//! Invariant: a log that cannot be written never stops or slows the program. Called by `main` and `serve`.

use super::{output, tell};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Path of the socket where syslogd or journald listens.
const SYSTEM_LOG: &str = "/dev/log";
/// Facility of daemons (RFC 5424, 6.2.1), times 8.
const DAEMON: u8 = 3 << 3;

/// Most different messages that a daemon logs: each is logged once, so that one damaged place does not fill the log.
const MESSAGES: usize = 4096;

/// The system's log, if this process has become a daemon.
static SYSTEM: OnceLock<Option<System>> = OnceLock::new();

struct System {
    socket: UnixDatagram,
    /// Name of the image that the daemon serves, added to each message.
    image: String,
    /// Hashes of the messages that were logged.
    logged: Mutex<HashSet<u64>>,
}

impl System {
    fn connect(log: &str, image: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(log)?;
        socket.set_nonblocking(true)?;
        Ok(System { socket, image: image.to_owned(), logged: Mutex::default() })
    }

    fn log(&self, level: Level, line: &[u8]) {
        let mut logged = self.logged.lock();
        if logged.len() < MESSAGES && logged.insert(xxhash_rust::xxh3::xxh3_64(line)) {
            // If nobody reads, nobody can be told.
            let _ = self.socket.send(&datagram(level, std::process::id(), &self.image, line));
        }
    }
}

/// Logs messages of this level and above from now on.
pub fn start(level: LevelFilter) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = tracing_subscriber::fmt::format().without_time().with_target(level >= LevelFilter::DEBUG);
    let log = tracing_subscriber::fmt().with_writer(Target).with_ansi(colour && !tell::is_json());
    // An error of the log itself would be printed with a macro that panics.
    log.with_max_level(level).log_internal_errors(false).event_format(Lines(text)).init();
}

/// Sends messages to the system's log from now on: this process is the daemon of `image`, and nobody reads its standard
/// error.
pub fn to_system(image: &str) {
    SYSTEM.get_or_init(|| System::connect(SYSTEM_LOG, image).ok());
}

/// Sends each message to standard error or, if the process is a daemon by then, to the system's log.
struct Target;

impl<'a> MakeWriter<'a> for Target {
    type Writer = Sink;

    fn make_writer(&'a self) -> Sink {
        Sink(Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Sink {
        Sink(*metadata.level())
    }
}

struct Sink(Level);

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match SYSTEM.get() {
            None => io::stderr().write_all(line)?,
            Some(Some(system)) => system.log(self.0, line),
            Some(None) => {}
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Encodes a message as syslog(3) sends it.
fn datagram(level: Level, pid: u32, image: &str, line: &[u8]) -> Vec<u8> {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    [format!("<{}>floe[{pid}]: {image}: ", DAEMON | severity).as_bytes(), line.trim_ascii()].concat()
}

/// Formats each message as one line: text, or JSON.
struct Lines(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if SYSTEM.get().is_some() {
            // Without the colours of a terminal.
            let mut text = String::new();
            self.0.format_event(context, Writer::new(&mut text), event)?;
            return to.write_str(&text);
        }
        if !tell::is_json() {
            return self.0.format_event(context, to, event);
        }
        let mut text = Text::default();
        event.record(&mut text);
        let body = Logged { level: event.metadata().level().as_str(), message: &(text.message + &text.fields) };
        let mut line = Vec::new();
        output::line(&mut line, "log", &body).map_err(|_| fmt::Error)?;
        to.write_str(&String::from_utf8_lossy(&line))
    }
}

#[derive(Serialize)]
struct Logged<'a> {
    level: &'a str,
    message: &'a str,
}

/// Collects the text of a message and its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_log_gets_facility_severity_name_and_process() {
        assert_eq!(datagram(Level::ERROR, 7, "x.floe", b"ERROR damaged\n"), b"<27>floe[7]: x.floe: ERROR damaged");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(System::connect(path.to_str().unwrap(), "").is_err(), "nobody listens");
        let listener = UnixDatagram::bind(&path).unwrap();
        let system = System::connect(path.to_str().unwrap(), "x.floe").unwrap();
        for message in ["one", "one", "two", "one"] {
            system.log(Level::WARN, message.as_bytes());
        }
        for message in ["one", "two"] {
            let mut got = [0; 64];
            let len = listener.recv(&mut got).unwrap();
            assert!(got[..len].ends_with(format!(": x.floe: {message}").as_bytes()));
        }
        listener.set_nonblocking(true).unwrap();
        assert!(listener.recv(&mut [0; 64]).is_err(), "each message is logged once");
    }
}
