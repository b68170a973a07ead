//! Identities of subchunks (section 8.7).

use crate::format::params::HashKind;
use crate::format::{FormatError, limits};

/// The identity of a subchunk of file data, which deduplication compares: the first 24 bytes of BLAKE3, or XXH3-128
/// followed by 8 zero bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Identity(pub [u8; 24]);

impl Identity {
    /// Computes the identity of a subchunk's bytes.
    pub fn of(kind: HashKind, bytes: &[u8]) -> Self {
        let mut out = [0; 24];
        match kind {
            HashKind::Blake3 => out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..24]),
            HashKind::Xxh3 => out[..16].copy_from_slice(&xxhash_rust::xxh3::xxh3_128(bytes).to_be_bytes()),
        }
        Identity(out)
    }

    /// Returns the first eight bytes as a number, for indexes.
    pub fn prefix(&self) -> u64 {
        u64::from_le_bytes([self.0[0], self.0[1], self.0[2], self.0[3], self.0[4], self.0[5], self.0[6], self.0[7]])
    }
}

/// Returns the tail of a row with these identities.
pub fn encode_run(kind: HashKind, identities: &[Identity]) -> Vec<u8> {
    identities.iter().flat_map(|identity| identity.0.iter().take(kind.width())).copied().collect()
}

/// Decodes identity number `index` of a row with these integers and tail; `None` if the row has fewer.
///
/// # Errors
/// Fails if the row is not a valid row of identities.
pub fn decode_one(kind: HashKind, ints: &[u64], tail: &[u8], index: u64) -> Result<Option<Identity>, FormatError> {
    const WHAT: &str = "identities";
    let &[count] = ints else {
        return Err(FormatError::invalid(WHAT, "wrong number of columns"));
    };
    if count == 0 || count > limits::IDENTITY_RUN || tail.len() != count as usize * kind.width() {
        return Err(FormatError::invalid(WHAT, "the length of the tail does not match the count"));
    }
    if index >= count {
        return Ok(None);
    }
    let at = index as usize * kind.width();
    let mut identity = Identity::default();
    identity.0.iter_mut().zip(tail.iter().skip(at).take(kind.width())).for_each(|(own, byte)| *own = *byte);
    Ok(Some(identity))
}
