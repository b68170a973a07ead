//! The checksums and hashes of the format, by their use.

/// BLAKE3-24 of a table block or subchunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash24(pub [u8; 24]);

impl Hash24 {
    /// The first 24 bytes of BLAKE3 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 24];
        out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..24]);
        Hash24(out)
    }
}

/// XXH3-64 of stored bytes.
pub fn xxh3(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// XXH3-64 of bytes that come in pieces.
#[derive(Default)]
pub struct Xxh3(xxhash_rust::xxh3::Xxh3Default);

impl Xxh3 {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes taken.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// CRC-32 of headers and clear parts.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}
