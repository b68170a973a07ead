//! Branch filters of the flags (section 6.6): they make jump targets in machine code absolute, so that they repeat.

use super::FormatError;
use liblzma_sys::{lzma_bcj_arm64_decode, lzma_bcj_x86_decode};

/// Number of the filter for x86 code.
pub const FILTER_X86: u8 = 1;
/// Number of the filter for ARM64 code.
pub const FILTER_ARM64: u8 = 2;

type Bcj = unsafe extern "C" fn(start_offset: u32, buf: *mut u8, size: usize) -> usize;

fn run(bcj: Bcj, bytes: &mut [u8]) {
    // SAFETY: pointer and length are those of a mutable slice, and the filter stays within them. It returns how many
    // bytes it processed. That does not matter: both directions leave the bytes after them unchanged.
    unsafe { bcj(0, bytes.as_mut_ptr(), bytes.len()) };
}

/// Undoes filter `number` on all bytes of a superchunk or part; 0 is no filter.
///
/// # Errors
/// `Invalid` if this version does not know the filter.
pub fn decode_filter(number: u8, bytes: &mut [u8]) -> Result<(), FormatError> {
    match number {
        0 => {}
        FILTER_X86 => run(lzma_bcj_x86_decode, bytes),
        FILTER_ARM64 => run(lzma_bcj_arm64_decode, bytes),
        _ => return Err(FormatError::invalid("filter", "this version does not know it")),
    }
    Ok(())
}

/// Applies filter `number`, as another writer may do before the codec. This version writes no frames with filters.
#[cfg(test)]
pub(super) fn encode_filter(number: u8, bytes: &mut [u8]) {
    match number {
        0 => {}
        FILTER_X86 => run(liblzma_sys::lzma_bcj_x86_encode, bytes),
        FILTER_ARM64 => run(liblzma_sys::lzma_bcj_arm64_encode, bytes),
        _ => panic!("there is no filter {number}"),
    }
}
