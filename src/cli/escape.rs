//! Names on terminals: whoever made an image chose its names, and a name must not move the cursor, change the title, or look like
//! another. What is not printable is shown as an escape that `printf '%b'` understands, or `\u{…}`.

use std::borrow::Cow;

/// Returns the name in a form that may be shown anywhere: printable, on one line. A name of printable characters is
/// returned unchanged.
pub fn shown(name: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(name) {
        Ok(text) if text.chars().all(is_plain) => Cow::Borrowed(text),
        _ => Cow::Owned(escaped(name)),
    }
}

fn escaped(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len() + 8);
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                '\x1b' => out.push_str("\\e"),
                '\\' => out.push_str("\\\\"),
                c if is_plain(c) => out.push(c),
                c if c.is_ascii() => out.push_str(&format!("\\x{:02x}", c as u32)),
                c => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            }
        }
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
}

fn is_plain(c: char) -> bool {
    let turns_or_hides = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    c != '\\' && !c.is_control() && !turns_or_hides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_shown_as_they_are() {
        for name in ["a b", "naïve", "日本語", "it's", "-rf", "🦀"] {
            assert!(matches!(shown(name.as_bytes()), Cow::Borrowed(same) if same == name));
        }
    }

    #[test]
    fn nothing_reaches_the_terminal_that_could_move_its_cursor() {
        assert_eq!(shown(b"a\x1b[2Jb\n\r\t\x07\x7f"), r"a\e[2Jb\n\r\t\x07\x7f");
        assert_eq!(shown("a\u{9b}2J".as_bytes()), r"a\u{9b}2J");
    }

    #[test]
    fn text_that_runs_backwards_or_is_invisible_is_escaped() {
        assert_eq!(shown("exe.\u{202e}txt".as_bytes()), r"exe.\u{202e}txt");
        assert_eq!(shown("a\u{200b}b\u{fe0f}".as_bytes()), r"a\u{200b}b\u{fe0f}");
    }

    #[test]
    fn bytes_that_are_no_text_are_escaped_one_by_one() {
        assert_eq!(shown(b"caf\xe9"), r"caf\xe9");
        assert_eq!(shown(b"\xff\xfe"), r"\xff\xfe");
        assert_eq!(shown(b""), "");
    }

    #[test]
    fn an_escape_cannot_be_mistaken_for_a_name() {
        assert_ne!(shown(b"\n"), shown(br"\n"));
        assert_eq!(shown(br"\n"), r"\\n");
    }
}
