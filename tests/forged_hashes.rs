//! Different subchunks with the same XXH3-128. `--hash xxh3` promises speed, not resistance to forgery, so each content
//! must still be its own.

mod common;

use common::compare::assert_same;
use common::{Lab, floe, noise, write};

/// Bytes of a subchunk in these tests.
const LEN: usize = 4096;
/// The first bytes of XXH3's default secret (`kSecret`), as its authors publish it.
const SECRET: [u8; 16] =
    [0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c];
/// Bytes of a stripe.
const STRIPE: usize = 64;

/// Two subchunks with the same XXH3-128.
///
/// Lane 0 of a stripe adds the product of the halves of (data xor secret) to one accumulator, and the data itself to
/// its neighbour. If the low half equals the secret's, the product is zero whatever the high half is. So of two stripes
/// only the sum of the high halves matters.
fn collision(seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut a = noise(seed, LEN);
    a[..4].copy_from_slice(&SECRET[..4]);
    a[STRIPE..STRIPE + 4].copy_from_slice(&SECRET[8..12]);
    let mut b = a.clone();
    let shift = |bytes: &mut [u8], by: u32| {
        let high = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes")).wrapping_add(by);
        bytes[4..8].copy_from_slice(&high.to_le_bytes());
    };
    shift(&mut b, 1);
    shift(&mut b[STRIPE..], u32::MAX);
    (a, b)
}

#[test]
fn the_forged_subchunks_differ_and_have_one_hash() {
    let (a, b) = collision(1);
    assert_ne!(a, b);
    assert_eq!(xxhash_rust::xxh3::xxh3_128(&a), xxhash_rust::xxh3::xxh3_128(&b));
}

#[test]
fn files_of_subchunks_that_collide_keep_their_own_bytes() {
    let lab = Lab::new();
    let source = lab.tree("source");
    let ((a, b), (c, d), rest) = (collision(1), collision(2), noise(3, LEN));
    let files: [(&str, [&[u8]; 3]); 7] = [
        ("a-alone", [&a, &[], &[]]),
        ("b-alone", [&b, &[], &[]]),
        ("c-first", [&a, &rest, &c]),
        ("d-forged", [&b, &rest, &c]),
        ("e-forged-twice", [&b, &rest, &d]),
        ("f-again", [&a, &rest, &c]),
        ("g-forged-again", [&b, &rest, &c]),
    ];
    for (name, parts) in files {
        write(source.join(name), parts.concat());
    }
    let image = lab.pack(&["--hash", "xxh3", "--chunker", "fixed:4K"], &source, "x.floe");
    floe!("check", &image).exits(0);
    let out = lab.tree("out");
    floe!("extract", &image, "-C", &out).exits(0);
    assert_same(&source, &out);
}
