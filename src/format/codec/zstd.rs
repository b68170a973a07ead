//! zstd: one frame with its content size, without a checksum, with a window as large as the input.
//!
//! Each frame is compressed in a new context. A reused context salts its row hashes with the frames before
//! (`ZSTD_advanceHashSalt`), so the stored bytes would depend on which superchunks the thread happened to get. Only the
//! context's memory is reused: tens of megabytes that the kernel would otherwise clear for each superchunk. Decoding
//! contexts are reused: their output does not depend on the frames before.

use super::{Codec, Decompress, FormatError, ZSTD, failed};
use crate::format::limits;
use std::cell::RefCell;
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, zstd_sys};

/// log2 of the largest window a frame may ask a reader for.
const WINDOW_LOG_MAX: u32 = 26;
/// log2 of the smallest window zstd has.
const WINDOW_LOG_MIN: u32 = 10;
const WHAT: &str = "zstd";
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// Bytes of the shortest frame header: a decoder needs them first.
const FIRST_BYTES: usize = 5;

pub(super) const CODEC: Codec = Codec {
    number: ZSTD,
    name: "zstd",
    levels: 1..=22,
    // Level 15 takes three times as long and saves two per cent of the size.
    default_level: 12,
    probe_from: 13,
    compress,
    memory,
    // It decodes directly into the output; the context is not counted, because it is kept.
    decoding_memory: |_| 0,
    decompressor: || Ok(Box::new(Unzstd { context: context()? })),
};

/// Returns log2 of the smallest window that holds all of the input, within the limits of zstd and of floe.
fn window_log(raw_len: usize) -> u32 {
    raw_len.next_power_of_two().trailing_zeros().clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX)
}

thread_local! {
    /// Memory for this thread's contexts.
    static WORKSPACE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Compresses `raw` with zstd, as [`super::Compress`] says.
pub(super) fn compress(level: i32, raw: &[u8], out: &mut Vec<u8>) -> Result<bool, FormatError> {
    // As much room as zstd may ask for: with a smaller buffer it fails even if the result would have fitted, and a
    // frame written piece by piece has other blocks, so other bytes. The kernel gives only the pages that are written.
    let mut compressed = Vec::with_capacity(zstd_safe::compress_bound(raw.len()));
    WORKSPACE.with_borrow_mut(|workspace| compress_in(workspace, level, raw, &mut compressed))?;
    if compressed.len() >= raw.len() {
        return Ok(false);
    }
    if out.is_empty() {
        compressed.shrink_to_fit();
        *out = compressed;
    } else {
        out.extend_from_slice(&compressed);
    }
    Ok(true)
}

/// Compresses in a new context inside `workspace`, which grows if it is too small.
fn compress_in(workspace: &mut Vec<u64>, level: i32, raw: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
    use zstd_sys::ZSTD_cParameter as P;
    let need = memory(level, raw.len()).div_ceil(size_of::<u64>());
    if workspace.len() < need {
        // The kernel gives zeroed pages; only those that the context uses are touched.
        *workspace = vec![0; need];
    }
    let size = size_of_val(workspace.as_slice());
    // SAFETY: the workspace has `size` bytes, is aligned to 8 as required, and outlives the context. The context is not
    // used after this function and need not be freed (zstd.h, ZSTD_initStaticCCtx).
    let context = unsafe { zstd_sys::ZSTD_initStaticCCtx(workspace.as_mut_ptr().cast(), size) };
    if context.is_null() {
        return Err(failed(WHAT, "no memory for a context"));
    }
    for (parameter, value) in [
        (P::ZSTD_c_compressionLevel, level),
        (P::ZSTD_c_windowLog, window_log(raw.len()) as i32),
        (P::ZSTD_c_contentSizeFlag, 1),
        (P::ZSTD_c_checksumFlag, 0),
        (P::ZSTD_c_dictIDFlag, 0),
    ] {
        // SAFETY: `context` is live.
        checked(unsafe { zstd_sys::ZSTD_CCtx_setParameter(context, parameter, value) })?;
    }
    // SAFETY: the context is live; all of the capacity of `out` is writable, and all of `raw` is readable.
    let written = checked(unsafe {
        zstd_sys::ZSTD_compress2(context, out.as_mut_ptr().cast(), out.capacity(), raw.as_ptr().cast(), raw.len())
    })?;
    // SAFETY: zstd wrote `written` bytes at the beginning of `out`, at most its capacity.
    unsafe { out.set_len(written) };
    Ok(())
}

/// Returns the number `code` that zstd returned, or the error that it means.
fn checked(code: usize) -> Result<usize, FormatError> {
    // SAFETY: the function takes and returns numbers only.
    if unsafe { zstd_sys::ZSTD_isError(code) } == 0 {
        Ok(code)
    } else {
        Err(failed(WHAT, zstd_safe::get_error_name(code)))
    }
}

fn memory(level: i32, raw_len: usize) -> usize {
    // SAFETY: the three functions take numbers and plain structures by value.
    unsafe {
        let mut parameters = zstd_sys::ZSTD_getCParams(level, raw_len as u64, 0);
        parameters.windowLog = window_log(raw_len);
        let parameters = zstd_sys::ZSTD_adjustCParams(parameters, raw_len as u64, 0);
        zstd_sys::ZSTD_estimateCCtxSize_usingCParams(parameters)
    }
}

fn context() -> Result<DCtx<'static>, FormatError> {
    let mut context = DCtx::try_create().ok_or_else(|| failed(WHAT, "no memory for a context"))?;
    context
        .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
        .map_err(|code| failed(WHAT, zstd_safe::get_error_name(code)))?;
    Ok(context)
}

/// Returns the window in bytes that a frame asks for; 0 if it is as large as the content. Returns `None` if there is no
/// header.
fn window(stored: &[u8]) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    if stored.get(4)? & SINGLE_SEGMENT != 0 {
        return Some(0);
    }
    let descriptor = stored.get(5)?;
    let base = 1u64 << (10 + (descriptor >> 3));
    Some(base + base / 8 * u64::from(descriptor & 7))
}

/// Checks the header, and that there is exactly one frame: zstd itself would decode several.
fn check_header(stored: &[u8], raw_len: usize) -> Result<(), FormatError> {
    if !stored.starts_with(&MAGIC) {
        return Err(failed(WHAT, "it does not begin with a zstd frame"));
    }
    match zstd_safe::get_frame_content_size(stored) {
        Ok(Some(len)) if len != raw_len as u64 => {
            return Err(failed(WHAT, format!("it claims {len} bytes, {raw_len} were expected")));
        }
        Ok(_) => {}
        Err(_) => return Err(failed(WHAT, "the frame header is broken")),
    }
    let window = window(stored).ok_or_else(|| failed(WHAT, "the frame header is broken"))?;
    if window > 1 << WINDOW_LOG_MAX {
        return Err(FormatError::Limit { what: "window of a zstd frame", value: window, limit: 1 << WINDOW_LOG_MAX });
    }
    match zstd_safe::find_frame_compressed_size(stored) {
        Ok(len) if len == stored.len() => Ok(()),
        Ok(_) => Err(failed(WHAT, "bytes follow the frame")),
        Err(code) => Err(failed(WHAT, zstd_safe::get_error_name(code))),
    }
}

struct Unzstd {
    context: DCtx<'static>,
}

impl Decompress for Unzstd {
    fn decompress(&mut self, stored: &[u8], out: &mut [u8], dictionary: Option<&[u8]>) -> Result<(), FormatError> {
        check_header(stored, out.len())?;
        let len = match dictionary {
            None => self.context.decompress(out, stored),
            Some(bytes) if bytes.len() as u64 > limits::DICTIONARY_LEN => {
                return Err(FormatError::Limit {
                    what: "bytes of a dictionary",
                    value: bytes.len() as u64,
                    limit: limits::DICTIONARY_LEN,
                });
            }
            Some(bytes) => self.context.decompress_using_dict(out, stored, bytes),
        }
        .map_err(|code| failed(WHAT, zstd_safe::get_error_name(code)))?;
        if len != out.len() {
            return Err(failed(WHAT, format!("it has {len} bytes, {} were expected", out.len())));
        }
        Ok(())
    }

    fn salvage(&mut self, stored: &[u8], out: &mut [u8], dictionary: Option<&[u8]>) -> usize {
        // A new context, because one that failed in the middle of a stream must not be used again. It decodes directly
        // into `out`: a window of its own, as large as the frame claims, would be memory that nobody counts.
        let Ok(mut context) = context() else { return 0 };
        if context.set_parameter(DParameter::StableOutBuffer(true)).is_err() {
            return 0;
        }
        if dictionary.is_some_and(|bytes| context.load_dictionary(bytes).is_err()) {
            return 0;
        }
        let (mut read, mut written, mut wanted) = (0, 0, FIRST_BYTES);
        // Block by block, because a call that fails does not report the blocks that it decoded before.
        while read < stored.len() && written < out.len() && wanted > 0 {
            let next = stored.get(read..stored.len().min(read.saturating_add(wanted))).unwrap_or_default();
            let mut input = InBuffer::around(next);
            let mut output = OutBuffer::around_pos(out, written);
            match context.decompress_stream(&mut output, &mut input) {
                Ok(hint) if input.pos() > 0 || output.pos() > written => {
                    wanted = hint;
                    read += input.pos();
                    written = output.pos();
                }
                _ => break,
            }
        }
        written
    }
}
