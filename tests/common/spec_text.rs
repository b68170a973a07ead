//! The parts of `format-spec.md` that tests compare with the code: sections and tables by their headings.

use std::fs;
use std::path::Path;

/// The specification's text.
pub fn spec_text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec.md");
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

/// A heading with all lines below it, up to the next heading of any level.
pub struct Section {
    /// How many `#` it has.
    pub level: usize,
    /// Text of the heading.
    pub title: String,
    /// Lines between it and the next heading.
    pub lines: Vec<String>,
}

impl Section {
    /// Cells of the first table in the section whose header row is `header`, without header and rule.
    pub fn table(&self, header: &[&str]) -> Option<Vec<Vec<String>>> {
        let mut lines = self.lines.iter();
        lines.find(|line| cells(line).is_some_and(|c| c == header))?;
        Some(lines.skip(1).map_while(|line| cells(line)).collect())
    }
}

/// All sections in order. Lines inside fences are not headings.
pub fn sections(text: &str) -> Vec<Section> {
    let mut out: Vec<Section> = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        let level = line.bytes().take_while(|&b| b == b'#').count();
        if level > 0 && !fenced && line[level..].starts_with(' ') {
            out.push(Section { level, title: line[level..].trim().to_owned(), lines: Vec::new() });
        } else if let Some(section) = out.last_mut() {
            section.lines.push(line.to_owned());
        }
    }
    out
}

/// The section whose heading begins with `start`.
pub fn section<'a>(sections: &'a [Section], start: &str) -> &'a Section {
    sections
        .iter()
        .find(|s| s.title.starts_with(start))
        .unwrap_or_else(|| panic!("format-spec.md has no section '{start}'"))
}

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
}
