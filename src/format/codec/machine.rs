//! Guesses for which machine bytes are code: it counts the calls that a branch filter would rewrite.
//!
//! Headers of executables do not help: most superchunks of a large program have none. The guess is only a candidate:
//! the caller tries the filter on the [`sample`] before it uses it. Both depend on the bytes alone.

/// Machine architectures for which xz has a branch filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    /// x86 code of 32 and 64 bits.
    X86,
    Arm64,
    /// ARM code of 32 bits, in ARM mode.
    Arm,
    /// PowerPC code, big-endian.
    PowerPc,
}

/// Bytes are probably code if, on average, there is a call instruction in this many bytes. Random bytes have a
/// sixteenth as many calls, and code has several times as many.
const BYTES_A_CALL: usize = 1024;
/// Most pieces of a sample.
const PIECES: usize = 8;
/// Bytes of one piece of a sample.
const PIECE: usize = 128 << 10;
/// Alignment of the pieces in bytes, so that instructions in them stay aligned.
const ALIGNMENT: usize = 16;

/// Returns the machine whose call instructions are most frequent in `bytes`, if they are frequent enough.
pub(super) fn likely(bytes: &[u8]) -> Option<Machine> {
    let (words, _) = bytes.as_chunks::<4>();
    let x86 = bytes.windows(5).filter(|w| matches!(w, [0xe8 | 0xe9, _, _, _, 0x00 | 0xff])).count();
    let (mut arm64, mut arm, mut powerpc) = (0, 0, 0);
    for &word in words {
        let little = u32::from_le_bytes(word);
        let big = u32::from_be_bytes(word);
        arm64 += usize::from(little >> 26 == 0b100101 && is_near(little, 26));
        arm += usize::from(little >> 24 == 0xeb && is_near(little, 24));
        powerpc += usize::from(big & 0xfc00_0003 == 0x4800_0001 && is_near(big, 26));
    }
    let counts = [(x86, Machine::X86), (arm64, Machine::Arm64), (arm, Machine::Arm), (powerpc, Machine::PowerPc)];
    let (count, machine) = counts.into_iter().max_by_key(|(count, _)| *count)?;
    (count > bytes.len() / BYTES_A_CALL).then_some(machine)
}

/// Returns whether the upper five bits of a call distance of `bits` bits are equal: code seldom calls farther than
/// that.
fn is_near(word: u32, bits: u32) -> bool {
    matches!((word >> (bits - 5)) & 0x1f, 0 | 0x1f)
}

/// Returns a sample of `bytes`: all of them if they are few, else pieces spread over them.
pub(super) fn sample(bytes: &[u8]) -> Vec<u8> {
    if bytes.len() <= PIECES * PIECE {
        return bytes.to_vec();
    }
    let stride = (bytes.len() - PIECE) / (PIECES - 1) / ALIGNMENT * ALIGNMENT;
    (0..PIECES).flat_map(|i| bytes.iter().skip(i * stride).take(PIECE)).copied().collect()
}
