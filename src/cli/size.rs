//! Sizes as people write and read them: `4M`, `4MiB`, `1.5G` are powers of 1024, `4MB` is a power of 1000.

pub use crate::bench::{Human, counted, entries};

const LETTERS: &str = "KMGTPE";

/// Parses a size in bytes with an optional unit.
///
/// # Errors
/// Fails if it is no number with a known unit, or more than 2^64-1 bytes; a fraction of a byte is cut off.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size (like 4096, 32K, 4M, 1.5G, 4MiB, 4MB)");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = factor(unit.trim_start()).ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 9 {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let scaled: u64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    let bytes = u128::from(whole) * u128::from(factor) + u128::from(scaled) * u128::from(factor) / 1_000_000_000;
    u64::try_from(bytes).map_err(|_| format!("'{text}' is more than 2^64 bytes"))
}

fn factor(unit: &str) -> Option<u64> {
    let mut chars = unit.chars();
    let Some(letter) = chars.next().map(|c| c.to_ascii_uppercase()) else { return Some(1) };
    if letter == 'B' && chars.as_str().is_empty() {
        return Some(1);
    }
    let power = LETTERS.find(letter)? as u32 + 1;
    match chars.as_str() {
        "" | "iB" | "ib" | "i" => Some(1 << (10 * power)),
        "B" | "b" => Some(1000u64.pow(power)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024_unless_they_end_in_b_alone() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("32K", 32 << 10),
            ("32k", 32 << 10),
            ("4M", 4 << 20),
            ("4MiB", 4 << 20),
            ("4 MiB", 4 << 20),
            ("4MB", 4_000_000),
            ("1kB", 1000),
            ("1.5G", 3 << 29),
            ("0.1K", 102),
            ("2T", 2 << 40),
            ("15E", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "K", ".5K", "1.2.3K", "4X", "4MiBs", "-1", "16E", "18446744073709551616", "1e3", "4é", "K4"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
