//! Formats figures for people: sizes, times, and numbers with a few figures.
//!
//! Invariant: the text is the value itself, rounded. Called by `sheet`, `plot` and `page`, and by `cli` for all its
//! commands.

use std::fmt;

const DAY: i64 = 86_400;

/// Shows bytes in KiB, MiB, GiB and so on, with three figures.
#[derive(Debug, Clone, Copy)]
pub struct Human(pub u64);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut unit) = (self.0 as f64, None);
        for letter in "KMGTPE".chars() {
            // 1023.95 would show as 1024.0, which is 1 of the next unit.
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
            unit = Some(letter);
        }
        let text = match unit {
            None => format!("{} B", self.0),
            Some(letter) if value < 9.995 => format!("{value:.2} {letter}iB"),
            Some(letter) => format!("{value:.1} {letter}iB"),
        };
        f.pad(&text)
    }
}

/// Returns a number with its noun, such as `1 file`, `2 files` or `2 directories`.
pub fn counted(number: u64, what: &str) -> String {
    match (number, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {what}s"),
    }
}

/// Returns what a tree has besides files: `2 links or special files, 1 directory`, or only the directories.
pub fn entries(others: u64, directories: u64) -> String {
    let directories = counted(directories, "directory");
    match others {
        0 => directories,
        1 => format!("1 link or special file, {directories}"),
        _ => format!("{others} links or special files, {directories}"),
    }
}

/// Shows seconds since 1970 as `2026-11-24 23:43:12` in UTC.
#[derive(Debug, Clone, Copy)]
pub struct Utc(pub i64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// Returns `value` with `figures` significant figures. All digits before the point are shown, and at most three after
/// it; `?` if `value` is not finite.
pub fn rounded(value: f64, figures: usize) -> String {
    if !value.is_finite() {
        return "?".into();
    }
    let before = |value: f64| if value.abs() < 1.0 { 0 } else { value.abs().log10().floor() as usize + 1 };
    let text = |decimals: usize| format!("{value:.decimals$}");
    let decimals = figures.saturating_sub(before(value).max(1)).min(3);
    let shown = text(decimals);
    // 9.996 with three figures would be 10.00 by its number of decimals: use one less.
    match shown.parse::<f64>() {
        Ok(same) if before(same) > before(value) && before(same) > 1 => text(decimals.saturating_sub(1)),
        _ if value != 0.0 && value.abs() < 0.1 => text(3),
        _ => shown,
    }
}

/// Returns a whole number with commas between the thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Returns `text` as printable ASCII on one line; everything else as Rust's escapes.
pub fn ascii(text: &str) -> String {
    let plain = |c: char| c == ' ' || c.is_ascii_graphic();
    text.chars().flat_map(|c| if plain(c) { vec![c] } else { c.escape_default().collect() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_with_three_figures() {
        let shown = |bytes| Human(bytes).to_string();
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1023), "1023 B");
        assert_eq!(shown(1024), "1.00 KiB");
        assert_eq!(shown((1 << 20) - 1), "1.00 MiB");
        assert_eq!(shown(4 << 20), "4.00 MiB");
        assert_eq!(shown(162_600_000), "155.1 MiB");
        assert_eq!(shown(u64::MAX), "16.0 EiB");
        assert_eq!(format!("{:>10}|", Human(5)), "       5 B|");
    }

    #[test]
    fn what_is_counted_stands_in_the_singular_or_plural() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "file")), ["0 files", "1 file", "2 files"]);
        assert_eq!([1, 2].map(|n| counted(n, "directory")), ["1 directory", "2 directories"]);
        assert_eq!(entries(0, 1), "1 directory");
        assert_eq!(entries(1, 0), "1 link or special file, 0 directories");
        assert_eq!(entries(2, 1), "2 links or special files, 1 directory");
    }

    #[test]
    fn times_are_shown_in_utc_before_and_after_1970() {
        assert_eq!(Utc(1_700_000_000).to_string(), "2023-11-14 22:13:20");
        assert_eq!(Utc(-1).to_string(), "1969-12-31 23:59:59");
        assert_eq!(Utc(-62_135_596_800).to_string(), "0001-01-01 00:00:00");
        assert!(!Utc(i64::MIN).to_string().is_empty() && !Utc(i64::MAX).to_string().is_empty());
    }

    #[test]
    fn numbers_are_shown_with_the_figures_that_were_asked_for() {
        let shown: Vec<_> = [0.0, 0.0004, 0.012, 0.1234, 1.236, 9.996, 9.994, 12.34, 99.96, 999.6, 12345.6]
            .map(|value| rounded(value, 3))
            .to_vec();
        let expected = ["0.00", "0.000", "0.012", "0.12", "1.24", "10.0", "9.99", "12.3", "100", "1000", "12346"];
        assert_eq!(shown, expected);
        assert_eq!([f64::NAN, f64::INFINITY].map(|value| rounded(value, 3)), ["?", "?"]);
        assert_eq!([105.23, 1383.06, 34.0].map(|value| rounded(value, 4)), ["105.2", "1383", "34.00"]);
    }

    #[test]
    fn thousands_have_commas() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn text_for_terminals_is_printable_ascii_on_one_line() {
        assert_eq!(ascii("a b\u{1b}[2J\né"), "a b\\u{1b}[2J\\n\\u{e9}");
    }
}
