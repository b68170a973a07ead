use super::filter::encode_filter;
use super::machine::Machine;
use super::*;
use crate::format::frame::Flags;
use proptest::prelude::*;

const ALL: [Compression; 6] = [
    Compression::None,
    Compression::Zstd(1),
    Compression::Zstd(9),
    Compression::Zstd(19),
    Compression::Xz(0),
    Compression::Xz(6),
];

/// Random bytes, the same for the same seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Lines that each hold something new.
fn text(len: usize) -> Vec<u8> {
    let lines = (0u64..).flat_map(|i| format!("line {i}: {}\n", i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).into_bytes());
    lines.take(len).collect()
}

/// Calls of one function from everywhere, as in x86 code.
fn code(len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        let here = out.len() as u32;
        out.extend_from_slice(&noise(3 + here as usize % 7, u64::from(here % 61)));
        let target = 0x4000 + 64 * (here % 37);
        let next = out.len() as u32 + 5;
        out.push(0xe8);
        out.extend_from_slice(&target.wrapping_sub(next).to_le_bytes());
    }
    out.truncate(len);
    out
}

fn encode(compression: Compression, part_size: Option<u32>, raw: &[u8]) -> Encoded {
    Encoder::new(compression, part_size).encode(raw).unwrap()
}

fn decode(encoded: &Encoded, raw_len: usize) -> Result<Vec<u8>, FormatError> {
    let mut out = b"what was there before".to_vec();
    let result = Decoder::new().decode(encoded.codec, encoded.flags, &encoded.stored, raw_len as u32, None, &mut out);
    assert!(result.is_ok() || out.is_empty());
    result.map(|()| out)
}

fn damaged(codec: u8, flags: Flags, stored: &[u8], raw_len: u32, dictionary: Option<&[u8]>) -> Vec<u8> {
    let mut out = b"what was there before".repeat(100);
    Decoder::new().decode_damaged(codec, flags, stored, raw_len, dictionary, &mut out);
    out
}

#[test]
fn every_codec_gives_back_what_it_got_with_and_without_parts() {
    let inputs = [vec![], vec![7], noise(100, 1), text(300_000), noise(70_000, 2), vec![0; 200_000], code(150_000)];
    for raw in &inputs {
        for compression in ALL {
            for part_size in [None, Some(4096), Some(65_536)] {
                let encoded = encode(compression, part_size, raw);
                assert_eq!(decode(&encoded, raw.len()).unwrap(), *raw, "{compression} {part_size:?} {}", raw.len());
                assert_eq!(encoded.sum, crate::format::sums::xxh3(&encoded.stored));
            }
        }
    }
}

#[test]
fn what_does_not_shrink_is_stored_raw() {
    for compression in ALL {
        for raw in [noise(1, 1), noise(5_000, 3), noise(300_000, 4), vec![]] {
            let encoded = encode(compression, None, &raw);
            assert_eq!((encoded.codec, encoded.flags, &encoded.stored), (RAW, Flags(0), &raw), "{compression}");
        }
    }
}

#[test]
fn parts_that_do_not_shrink_are_raw_beside_others_that_do() {
    let raw = [text(8192), noise(8192, 5), text(1000)].concat();
    for compression in [Compression::Zstd(3), Compression::Zstd(15), Compression::Xz(1)] {
        let encoded = encode(compression, Some(8192), &raw);
        assert_eq!((encoded.codec, encoded.flags), (compression.codec_number(), Flags(Flags::PARTS)));
        let table = PartTable::decode(&encoded.stored, raw.len() as u32, encoded.stored.len() as u32).unwrap();
        assert_eq!(table.parts.iter().map(|part| part.raw_len).collect::<Vec<_>>(), [8192, 8192, 1000]);
        assert_eq!(table.parts[1].stored_len, 8192);
        assert!(table.parts[0].stored_len < 8192);
        assert_eq!(table.parts[0].offset as usize, PartTable::byte_len(raw.len() as u32, 8192));
        let mut out = Vec::new();
        for (part, raw) in table.parts.iter().zip(raw.chunks(8192)) {
            let stored = part.stored(&encoded.stored).unwrap();
            Decoder::new().decode_part(encoded.codec, encoded.flags, part, stored, None, &mut out).unwrap();
            assert_eq!(out, raw);
            let mut bad = stored.to_vec();
            bad[part.stored_len as usize / 2] ^= 1;
            let result = Decoder::new().decode_part(encoded.codec, encoded.flags, part, &bad, None, &mut out);
            assert!(matches!(result, Err(FormatError::Checksum { .. })) && out.is_empty());
        }
    }
}

#[test]
fn a_frame_of_raw_parts_is_raw_and_keeps_its_table() {
    let raw = noise(20_000, 6);
    let encoded = encode(Compression::Zstd(3), Some(4096), &raw);
    assert_eq!((encoded.codec, encoded.flags), (RAW, Flags(Flags::PARTS)));
    assert_eq!(encoded.stored.len(), raw.len() + PartTable::byte_len(20_000, 4096));
}

#[test]
fn encoding_depends_on_nothing_but_the_input() {
    let raw = [text(200_000), code(100_000), noise(1000, 7)].concat();
    let levels = [1, 3, 5, 7, 10, 12, 13, 16, 19].map(Compression::Zstd).into_iter().chain([Compression::Xz(2)]);
    for compression in levels {
        for part_size in [None, Some(65_536)] {
            let fresh = encode(compression, part_size, &raw);
            let mut used = Encoder::new(compression, part_size);
            for other in [noise(150_000, 8), text(400_000), raw[1000..].to_vec()] {
                used.encode(&other).unwrap();
            }
            assert!(used.encode(&raw).unwrap() == fresh, "{compression} {part_size:?}");
        }
    }
}

#[test]
fn machine_code_is_recognised_and_filtered_by_xz() {
    let raw = code(600_000);
    assert_eq!(machine::likely(&raw), Some(Machine::X86));
    let mut plain = Vec::new();
    assert!(xz::encode(6, None, &raw, &mut plain).unwrap());
    let encoded = encode(Compression::Xz(6), None, &raw);
    assert!(encoded.stored.len() < plain.len(), "{} of {}", encoded.stored.len(), plain.len());
    for other in [text(100_000), noise(100_000, 9), vec![0; 100_000], vec![0xe8; 3]] {
        assert_eq!(machine::likely(&other), None);
    }
}

#[test]
fn samples_come_from_all_over_long_input() {
    let raw = noise(5 << 20, 10);
    let sample = machine::sample(&raw);
    assert_eq!(sample.len(), 1 << 20);
    assert_eq!(sample[..100], raw[..100]);
    assert!(raw[raw.len() - (129 << 10)..].windows(100).any(|window| window == &sample[sample.len() - 100..]));
}

#[test]
fn every_filter_of_xz_gives_back_what_it_got() {
    for machine in [Machine::X86, Machine::Arm64, Machine::Arm, Machine::PowerPc] {
        let raw = [text(10_000), code(10_003)].concat();
        let mut stored = Vec::new();
        assert!(xz::encode(3, Some(machine), &raw, &mut stored).unwrap());
        let encoded = Encoded { codec: XZ, flags: Flags(0), sum: 0, stored };
        assert_eq!(decode(&encoded, raw.len()).unwrap(), raw);
    }
}

#[test]
fn filters_of_the_flags_are_undone_after_the_codec_for_frames_and_parts() {
    let raw = code(40_000);
    for filter in [FILTER_X86, FILTER_ARM64] {
        for part_size in [None, Some(16_384)] {
            let mut filtered = raw.clone();
            for part in filtered.chunks_mut(part_size.map_or(usize::MAX, |size| size as usize)) {
                encode_filter(filter, part);
            }
            assert!(filter == FILTER_ARM64 || filtered != raw);
            let mut encoded = encode(Compression::Zstd(5), part_size, &filtered);
            encoded.flags = encoded.flags.with_filter(filter);
            assert_eq!(decode(&encoded, raw.len()).unwrap(), raw);
            let whole = damaged(encoded.codec, encoded.flags, &encoded.stored, 40_000, None);
            assert_eq!(whole, raw);
        }
    }
    assert!(decode_filter(3, &mut []).is_err());
}

#[test]
fn a_dictionary_is_used_where_the_flags_say_so_and_missed_where_there_is_none() {
    let dictionary = text(10_000);
    let raw = text(9_000)[500..8_000].to_vec();
    let mut stored = Vec::with_capacity(10_000);
    zstd_safe::CCtx::create().compress_using_dict(&mut stored, &raw, &dictionary, 3).unwrap();
    let flags = Flags(Flags::DICTIONARY);
    let mut out = Vec::new();
    Decoder::new().decode(ZSTD, flags, &stored, 7_500, Some(&dictionary), &mut out).unwrap();
    assert_eq!(out, raw);
    assert_eq!(damaged(ZSTD, flags, &stored, 7_500, Some(&dictionary)), raw);
    assert!(Decoder::new().decode(ZSTD, flags, &stored, 7_500, None, &mut out).is_err());
    assert!(Decoder::new().decode(ZSTD, Flags(0), &stored, 7_500, Some(&dictionary), &mut out).is_err());
}

#[test]
fn hostile_frames_are_refused_and_take_no_memory() {
    // A frame header that claims 2^60 bytes; one with a window of 2 TiB; a skippable frame; two frames.
    let magic = 0xFD2F_B528u32.to_le_bytes();
    let huge = [&magic[..], &[0b1110_0000], &(1u64 << 60).to_le_bytes(), &[1, 0, 0]].concat();
    let wide = [&magic[..], &[0, 0xf8], &[1, 0, 0]].concat();
    let skippable = [&0x184D_2A50u32.to_le_bytes()[..], &[1, 0, 0, 0, 9]].concat();
    let good = encode(Compression::Zstd(3), None, &text(1000)).stored;
    let two = [&good[..], &good[..]].concat();
    for (stored, raw_len) in [(&huge, 100), (&wide, 100), (&wide, 0), (&skippable, 0), (&two, 2000), (&two, 1000)] {
        let mut out = Vec::new();
        assert!(Decoder::new().decode(ZSTD, Flags(0), stored, raw_len, None, &mut out).is_err());
        assert!(out.capacity() <= 2000);
        assert!(damaged(ZSTD, Flags(0), stored, raw_len, None).len() <= raw_len as usize);
    }
    let mut out = Vec::new();
    for codec in [RAW, ZSTD, XZ, 3, 255] {
        assert!(Decoder::new().decode(codec, Flags(0), &good, u32::MAX, None, &mut out).is_err());
        assert!(Decoder::new().decode(codec, Flags(1), &good, 1 << 26, None, &mut out).is_err());
    }
}

//= format-spec.md#6
//= type=test
//# Decoding must give exactly `raw_len` bytes.
#[test]
fn a_promise_of_more_or_fewer_bytes_than_there_are_is_an_error() {
    let raw = text(50_000);
    for compression in ALL {
        let encoded = encode(compression, None, &raw);
        for promised in [0, 49_999, 50_001, 1 << 20] {
            assert!(decode(&encoded, promised).is_err(), "{compression} {promised}");
        }
        let mut longer = encoded.clone();
        longer.stored.push(0);
        assert!(decode(&longer, raw.len()).is_err(), "{compression}");
    }
}

#[test]
fn damaged_frames_are_decoded_as_far_as_they_go() {
    let raw = text(3 << 20);
    for compression in [Compression::None, Compression::Zstd(3), Compression::Zstd(12), Compression::Xz(1)] {
        let encoded = encode(compression, None, &raw);
        let salvage = |stored: &[u8]| damaged(encoded.codec, encoded.flags, stored, raw.len() as u32, None);
        assert!(salvage(&encoded.stored) == raw);
        let half = salvage(&encoded.stored[..encoded.stored.len() / 2]);
        let good = half.iter().zip(&raw).take_while(|(a, b)| a == b).count();
        assert!(good > 1 << 20 && half.len() == raw.len(), "{compression}: {good}");
        assert!(half[good..].iter().all(|&byte| byte == 0), "{compression}: {good}");
        let mut flipped = encoded.stored.clone();
        flipped[encoded.stored.len() / 2] ^= 0x10;
        let flipped = salvage(&flipped);
        assert!(flipped.len() <= raw.len() && flipped[..1 << 20] == raw[..1 << 20], "{compression}");
    }
}

#[test]
fn damage_in_one_part_leaves_the_others_where_they_are() {
    let raw = text(100_000);
    for compression in [Compression::Zstd(3), Compression::Xz(1)] {
        let encoded = encode(compression, Some(10_000), &raw);
        let table = PartTable::decode(&encoded.stored, 100_000, encoded.stored.len() as u32).unwrap();
        let mut bad = encoded.stored.clone();
        bad[table.parts[3].offset as usize..][..8].fill(0);
        let out = damaged(encoded.codec, encoded.flags, &bad, 100_000, None);
        assert_eq!(out.len(), raw.len());
        assert!(out[..30_000] == raw[..30_000] && out[40_000..] == raw[40_000..]);
        assert!(out[30_000..40_000].iter().all(|&byte| byte == 0));
        // And a damaged table: the parts before the bad entry are still there.
        let mut bad = encoded.stored.clone();
        bad[4 + 12 * 5..][..4].fill(0xff);
        assert!(Decoder::new().decode(encoded.codec, encoded.flags, &bad, 100_000, None, &mut Vec::new()).is_err());
        let out = damaged(encoded.codec, encoded.flags, &bad, 100_000, None);
        assert!(out.len() == raw.len() && out[..50_000] == raw[..50_000]);
    }
}

#[test]
fn compressions_are_written_as_people_write_them() {
    for (text, compression) in [
        ("none", Compression::None),
        ("zstd", Compression::default()),
        ("zstd:15", Compression::Zstd(15)),
        ("xz", Compression::Xz(6)),
        ("xz:0", Compression::Xz(0)),
    ] {
        assert_eq!(text.parse::<Compression>().unwrap(), compression);
        assert_eq!(compression.to_string().parse::<Compression>().unwrap(), compression);
        let numbers = Compression::from_numbers(compression.codec_number(), compression.level());
        assert_eq!(numbers.unwrap(), compression);
    }
    for bad in ["", "lz4", "zstd:", "zstd:0", "zstd:23", "zstd:-5", "xz:10", "xz:-1", "none:1", "zstd:3:4", "zstd:999"]
    {
        assert!(bad.parse::<Compression>().is_err(), "{bad}");
    }
    assert!(Encoder::new(Compression::Zstd(99), None).encode(b"x").is_err());
    assert!(Encoder::new(Compression::Xz(10), None).encode(b"x").is_err());
    assert!(Encoder::new(Compression::None, Some(100)).encode(b"x").is_err());
}

#[test]
fn memory_grows_with_level_and_input() {
    let memory = |compression| Encoder::memory(compression, 4 << 20);
    assert!(memory(Compression::None) == 4 << 20);
    assert!(memory(Compression::Zstd(1)) < memory(Compression::Zstd(12)));
    assert!(memory(Compression::Zstd(12)) < memory(Compression::Zstd(22)));
    assert!(memory(Compression::Zstd(22)) < 256 << 20);
    assert!(memory(Compression::Xz(6)) > 40 << 20 && memory(Compression::Xz(6)) < 100 << 20);
    assert!(Encoder::memory(Compression::Xz(9), 64 << 20) > 600 << 20);
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(vec![Compression::None, Compression::Zstd(3), Compression::Zstd(16), Compression::Xz(1)])
}

/// Stretches of zeros, repeats and noise.
fn any_raw() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec((0u8..3, 0usize..6000, any::<u64>()), 0..6).prop_map(|pieces| {
        let piece = |(kind, len, seed): (u8, usize, u64)| match kind {
            0 => vec![seed as u8; len],
            1 => text(len),
            _ => noise(len, seed),
        };
        pieces.into_iter().flat_map(piece).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_grows_and_everything_comes_back(
        raw in any_raw(),
        compression in any_compression(),
        part_size in prop::option::of(4096u32..9000),
    ) {
        let encoded = encode(compression, part_size, &raw);
        let table = match part_size {
            Some(size) if encoded.flags.parts() => PartTable::byte_len(raw.len() as u32, size),
            _ => 0,
        };
        prop_assert!(encoded.stored.len() <= raw.len() + table);
        prop_assert_eq!(decode(&encoded, raw.len()).unwrap(), raw);
    }

    #[test]
    fn damaged_bytes_give_errors_or_wrong_bytes_but_never_a_panic(
        raw in any_raw(),
        compression in any_compression(),
        part_size in prop::option::of(4096u32..9000),
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
    ) {
        let mut encoded = encode(compression, part_size, &raw);
        encoded.stored.truncate(cut.index(encoded.stored.len() + 1));
        for (index, bits) in flips {
            if !encoded.stored.is_empty() {
                let index = index.index(encoded.stored.len());
                encoded.stored[index] ^= bits;
            }
        }
        if let Ok(out) = decode(&encoded, raw.len()) {
            prop_assert_eq!(out.len(), raw.len());
        }
        let Encoded { codec, flags, stored, .. } = &encoded;
        let out = damaged(*codec, *flags, stored, raw.len() as u32, None);
        prop_assert!(out.len() <= raw.len());
        let again = damaged(*codec, *flags, stored, raw.len() as u32, None);
        prop_assert_eq!(out, again);
    }

    #[test]
    fn bytes_that_were_never_encoded_are_no_danger(
        stored in prop::collection::vec(any::<u8>(), 0..200),
        codec in 0u8..4,
        flags in prop::sample::select(vec![0u16, 1, 2, 0x100, 0x201, 0x300]),
        raw_len in 0u32..20_000,
    ) {
        let mut out = Vec::new();
        let mut decoder = Decoder::new();
        let _ = decoder.decode(codec, Flags(flags), &stored, raw_len, Some(b"dictionary"), &mut out);
        decoder.decode_damaged(codec, Flags(flags), &stored, raw_len, Some(b"dictionary"), &mut out);
        let _ = PartTable::decode(&stored, raw_len, stored.len() as u32);
    }

    #[test]
    fn filters_are_undone_exactly(mut bytes in prop::collection::vec(any::<u8>(), 0..300), filter in 0u8..3) {
        let before = bytes.clone();
        encode_filter(filter, &mut bytes);
        decode_filter(filter, &mut bytes).unwrap();
        prop_assert_eq!(bytes, before);
    }
}

#[test]
fn every_zstd_level_fits_the_memory_kept_for_it_and_large_and_small_inputs_take_turns() {
    let text: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    for level in 1..=22 {
        let mut encoder = Encoder::new(Compression::Zstd(level), None);
        for len in [text.len(), 100, 5000, 1 << 17, text.len()] {
            let encoded = encoder.encode(&text[..len]).unwrap();
            let mut out = Vec::new();
            Decoder::new().decode(encoded.codec, encoded.flags, &encoded.stored, len as u32, None, &mut out).unwrap();
            assert_eq!(out, text[..len], "level {level}, {len} bytes");
        }
    }
}
