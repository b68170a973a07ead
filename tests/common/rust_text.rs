//! Source files of floe as text without comments, literals and test modules, for tests of the code's structure.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
pub struct Source {
    /// Path below `src/`, with `/`.
    pub name: String,
    /// The complete text.
    pub whole: String,
    /// Without comments, literals, and code that only tests compile; line breaks are kept.
    pub code: String,
}

impl Source {
    /// The room of the file: its directory, or its own name directly below `src/`.
    pub fn room(&self) -> &str {
        self.name.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// Line number, from 1, of a byte of `code`.
    pub fn line(&self, at: usize) -> usize {
        1 + self.code[..at].bytes().filter(|&b| b == b'\n').count()
    }
}

/// All files below `src/`, sorted by name, except those that only tests compile.
pub fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    let mut out = Vec::new();
    let mut only_tests = Vec::new();
    for path in paths {
        let whole = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let (code, modules) = without_tests(&blank(&whole));
        let folder = match path.file_stem().and_then(|s| s.to_str()) {
            Some("mod" | "lib" | "main") => path.with_file_name(""),
            _ => path.with_extension(""),
        };
        only_tests.extend(modules.iter().flat_map(|m| [folder.join(format!("{m}.rs")), folder.join(m)]));
        let name = path.strip_prefix(&root).expect("it lies below").to_string_lossy().into_owned();
        out.push((path, Source { name, whole, code }));
    }
    out.retain(|(path, _)| !only_tests.iter().any(|t| path.starts_with(t)));
    out.into_iter().map(|(_, source)| source).collect()
}

/// Every Rust file below a directory of the repository, including test code: its path in the repository, and its text.
#[allow(dead_code, reason = "only the citations ask for it")]
pub fn texts_below(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&root.join(folder), &mut paths);
    paths.sort();
    let named = paths.into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        (path.strip_prefix(root).expect("it lies below").to_string_lossy().into_owned(), text)
    });
    named.collect()
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("cannot read {}: {e}", dir.display())) {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Replaces comments and the content of literals by spaces.
pub fn blank(text: &str) -> String {
    blanked(text, true)
}

/// Replaces the content of literals by spaces; comments stay.
#[allow(dead_code, reason = "only the citations ask for it")]
pub fn without_literals(text: &str) -> String {
    blanked(text, false)
}

fn blanked(text: &str, comments: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => find(bytes, at, b"\n").unwrap_or(bytes.len()),
            b'/' if bytes[at..].starts_with(b"/*") => end_of_comment(bytes, at),
            b'r' | b'b' | b'c' if !follows_word(bytes, at) && raw_string(bytes, at).is_some() => {
                raw_string(bytes, at).unwrap_or(at + 1)
            }
            b'"' => end_of_quoted(bytes, at, b'"'),
            // A lifetime is not a character literal. A literal ends two bytes later, or begins with a backslash or a
            // wide letter.
            b'\''
                if bytes.get(at + 2) == Some(&b'\'') || bytes.get(at + 1).is_some_and(|&b| b == b'\\' || b >= 0x80) =>
            {
                end_of_quoted(bytes, at, b'\'')
            }
            _ => {
                at += 1;
                continue;
            }
        };
        let stays = bytes[at] == b'/' && !comments;
        for byte in &mut out[at..end] {
            if *byte != b'\n' && !stays {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("whole literals and comments were blanked")
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|w| w == what).map(|i| from + i)
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn end_of_comment(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn end_of_quoted(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of a raw string that begins at `at`.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut open = at;
    if matches!(bytes[open], b'b' | b'c') {
        open += 1;
    }
    if bytes.get(open) != Some(&b'r') {
        return None;
    }
    let hashes = bytes[open + 1..].iter().take_while(|&&b| b == b'#').count();
    if bytes.get(open + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    Some(find(bytes, open + 2 + hashes, &close).map_or(bytes.len(), |i| i + close.len()))
}

/// Blanked code without the items after `#[cfg(test)]`, and the names of test modules in other files.
pub fn without_tests(code: &str) -> (String, Vec<String>) {
    let mut out = code.as_bytes().to_vec();
    let mut modules = Vec::new();
    let mut from = 0;
    while let Some(start) = find(&out, from, b"#[cfg(test)]") {
        let mut depth = 0;
        let mut end = start + 1;
        while end < out.len() {
            match out[end] {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            end += 1;
            if depth == 0 && matches!(out[end - 1], b'}' | b';') {
                break;
            }
        }
        let item = String::from_utf8_lossy(&out[start..end]).into_owned();
        if let Some(name) = item.trim_end().strip_suffix(';').and_then(|i| i.split("mod ").nth(1)) {
            modules.push(name.trim().to_owned());
        }
        for byte in &mut out[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        from = end;
    }
    (String::from_utf8(out).expect("only whole items were blanked"), modules)
}
