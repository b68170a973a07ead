//! xz: one .xz stream without integrity check, with a dictionary as large as the input and a filter for machine code if
//! it helps.

use super::machine::{self, Machine};
use super::{Codec, Decompress, FormatError, XZ, failed};
use std::mem::MaybeUninit;
use xz2::stream::{Action, Check, Error, Filters, LzmaOptions, Status, Stream};

const WHAT: &str = "xz";
const DICTIONARY_MIN: usize = 4 << 10;
const DICTIONARY_MAX: usize = 64 << 20;
/// Memory limit of a decoder in bytes: the largest dictionary, plus tables and buffers.
const DECODER_MEMORY: u64 = DICTIONARY_MAX as u64 + (8 << 20);
/// Bytes of memory that a decoder takes besides its dictionary.
const DECODER_TABLES: usize = 256 << 10;
/// The xz preset that is used to try a branch filter on a sample.
const TRIAL_PRESET: u32 = 0;
/// A branch filter is used if it saves at least one byte in this many bytes.
const LEAST_GAIN: usize = 256;
/// Bytes that salvaging decodes in one step. Nothing of a failed step is kept, because its bytes have not passed the
/// branch filter.
const SALVAGE_STEP: usize = 4096;

pub(super) const CODEC: Codec = Codec {
    number: XZ,
    name: "xz",
    levels: 0..=9,
    default_level: 6,
    probe_from: 0,
    compress: |level, raw, out| {
        let preset = level as u32;
        let machine = choose_machine(raw)?;
        encode(preset, machine, raw, out)
    },
    memory,
    // A dictionary is as large as the stream claims, but only as much of it is touched as was decoded.
    decoding_memory: |raw_len| raw_len.min(DICTIONARY_MAX) + DECODER_TABLES,
    decompressor: || Ok(Box::new(Unxz)),
};

/// Returns the length of the dictionary: the smallest power of two that holds all of the input.
fn dictionary_len(raw_len: usize) -> u32 {
    raw_len.next_power_of_two().clamp(DICTIONARY_MIN, DICTIONARY_MAX) as u32
}

fn refused(error: Error) -> FormatError {
    failed(WHAT, error)
}

/// Compresses as [`super::Compress`] says, with the branch filter of `machine`.
pub(super) fn encode(
    preset: u32,
    machine: Option<Machine>,
    raw: &[u8],
    out: &mut Vec<u8>,
) -> Result<bool, FormatError> {
    let mut options = LzmaOptions::new_preset(preset).map_err(refused)?;
    options.dict_size(dictionary_len(raw.len()));
    let mut filters = Filters::new();
    match machine {
        None => &mut filters,
        Some(Machine::X86) => filters.x86(),
        Some(Machine::Arm64) => filters.arm64(),
        Some(Machine::Arm) => filters.arm(),
        Some(Machine::PowerPc) => filters.powerpc(),
    }
    .lzma2(&options);
    let mut stream = Stream::new_stream_encoder(&filters, Check::None).map_err(refused)?;
    let start = out.len();
    // One byte less than raw: bytes that do not fit did not shrink.
    out.resize(start + raw.len().saturating_sub(1), 0);
    let run = run(&mut stream, raw, out.get_mut(start..).unwrap_or_default())?;
    out.truncate(if run.ended { start + run.written } else { start });
    Ok(run.ended)
}

/// Returns the machine whose branch filter makes a sample of `raw` smaller, or `None`.
fn choose_machine(raw: &[u8]) -> Result<Option<Machine>, FormatError> {
    let Some(machine) = machine::likely(raw) else { return Ok(None) };
    let sample = machine::sample(raw);
    let (mut plain, mut filtered) = (Vec::new(), Vec::new());
    let shrinks = encode(TRIAL_PRESET, None, &sample, &mut plain)?;
    if !encode(TRIAL_PRESET, Some(machine), &sample, &mut filtered)? {
        return Ok(None);
    }
    let gains = !shrinks || filtered.len() + filtered.len() / LEAST_GAIN < plain.len();
    Ok(gains.then_some(machine))
}

fn memory(level: i32, raw_len: usize) -> usize {
    let usage = |preset: u32, raw_len| {
        let mut options = MaybeUninit::<liblzma_sys::lzma_options_lzma>::zeroed();
        // SAFETY: the first call fills the structure; if it fails, all zeros are a valid value of this plain C
        // structure. The chain ends with the terminator that liblzma looks for, and lives until the call returns.
        unsafe {
            liblzma_sys::lzma_lzma_preset(options.as_mut_ptr(), preset);
            let mut options = options.assume_init();
            options.dict_size = dictionary_len(raw_len);
            let filters = [
                liblzma_sys::lzma_filter { id: liblzma_sys::LZMA_FILTER_LZMA2, options: (&raw mut options).cast() },
                liblzma_sys::lzma_filter { id: liblzma_sys::LZMA_VLI_UNKNOWN, options: std::ptr::null_mut() },
            ];
            liblzma_sys::lzma_raw_encoder_memusage(filters.as_ptr())
        }
    };
    usage(level as u32, raw_len).try_into().unwrap_or(usize::MAX)
}

struct Run {
    read: usize,
    written: usize,
    /// Whether the stream ended. If not, `out` was too small or the input too short.
    ended: bool,
}

/// Runs an xz stream over all of its input, until it ends or `out` is full.
fn run(stream: &mut Stream, input: &[u8], out: &mut [u8]) -> Result<Run, FormatError> {
    let mut run = Run { read: 0, written: 0, ended: false };
    loop {
        let (input, out) = (input.get(run.read..), out.get_mut(run.written..));
        let (input, out) = (input.unwrap_or_default(), out.unwrap_or_default());
        let status = stream.process(input, out, Action::Finish).map_err(refused)?;
        let (read, written) = (stream.total_in() as usize, stream.total_out() as usize);
        let stuck = (read, written) == (run.read, run.written);
        (run.read, run.written) = (read, written);
        run.ended = matches!(status, Status::StreamEnd);
        if run.ended || stuck {
            return Ok(run);
        }
    }
}

fn decoder() -> Result<Stream, FormatError> {
    Stream::new_stream_decoder(DECODER_MEMORY, 0).map_err(refused)
}

struct Unxz;

impl Decompress for Unxz {
    fn decompress(&mut self, stored: &[u8], out: &mut [u8], _: Option<&[u8]>) -> Result<(), FormatError> {
        let run = run(&mut decoder()?, stored, out)?;
        if !run.ended {
            let why = if run.written == out.len() { "it has more bytes than expected" } else { "it ends too early" };
            return Err(failed(WHAT, why));
        }
        if run.read != stored.len() {
            return Err(failed(WHAT, "bytes follow the stream"));
        }
        if run.written != out.len() {
            return Err(failed(WHAT, format!("it has {} bytes, {} were expected", run.written, out.len())));
        }
        Ok(())
    }

    fn salvage(&mut self, stored: &[u8], out: &mut [u8], _: Option<&[u8]>) -> usize {
        let Ok(mut stream) = decoder() else { return 0 };
        let (mut read, mut written) = (0, 0);
        while written < out.len() {
            let end = out.len().min(written + SALVAGE_STEP);
            let (Some(input), Some(out)) = (stored.get(read..), out.get_mut(written..end)) else { break };
            let Ok(status) = stream.process(input, out, Action::Run) else { break };
            let now = (stream.total_in() as usize, stream.total_out() as usize);
            let stuck = now == (read, written);
            (read, written) = now;
            if stuck || matches!(status, Status::StreamEnd) {
                break;
            }
        }
        written
    }
}
