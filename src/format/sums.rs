//! The checksums and hashes of the format, by their use.

/// Content hash of a table block or subchunk: the first 24 bytes of BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash24(pub [u8; 24]);

impl Hash24 {
    /// Computes the first 24 bytes of BLAKE3 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 24];
        out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..24]);
        Hash24(out)
    }
}

/// Computes the XXH3-64 checksum of stored bytes.
pub fn xxh3(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// Computes the XXH3-64 checksum of bytes that come in pieces.
#[derive(Default)]
pub struct Xxh3(xxhash_rust::xxh3::Xxh3Default);

impl Xxh3 {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the checksum of all bytes added.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// Computes the CRC-32 of headers and clear parts.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}
