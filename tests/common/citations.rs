//! Sentences of `format-spec.md` that oblige a program, and where code and tests cite them.
//!
//! A citation is a run of comment lines above the line that implements the sentence, or above the test that shows it:
//!
//! ```text
//! //= format-spec.md#5.1
//! //= type=test
//! //# The stored lengths add up to
//! //# `raw_len`.
//! ```
//!
//! The second line marks the citation of a test. The section is the number of a heading (`0` is the text before section 1).
//! A citation quotes whole sentences, one or several.

use crate::rust_text::{blank, without_literals, without_tests};
use std::collections::BTreeMap;

/// The words that make a sentence an obligation.
const OBLIGING: &[&str] = &["must", "never", "refuse", "refuses", "refused"];
/// A full stop after one of these does not end a sentence.
const ABBREVIATIONS: &[&str] = &["e.g", "i.e", "cf", "et al", "resp", "vs"];
/// A separate test checks the worked example byte by byte.
const EXAMPLE: &str = "18";

/// A sentence, with its section.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sentence {
    /// Number of the section.
    pub section: String,
    /// Its words: single spaces, no full stop.
    pub text: String,
}

/// Every sentence of the specification in order: from paragraphs, list items and table cells. Lines in fences, headings
/// and section 18 are skipped.
pub fn spec_sentences(spec: &str) -> Vec<Sentence> {
    let mut out = Vec::new();
    let mut section = "0".to_owned();
    let mut block = String::new();
    let mut fenced = false;
    let mut flush = |section: &str, block: &mut String| {
        if section != EXAMPLE {
            out.extend(split(block).into_iter().map(|text| Sentence { section: section.to_owned(), text }));
        }
        block.clear();
    };
    for line in spec.lines() {
        let text = line.trim();
        let fence = text.starts_with("```");
        if fence || fenced || text.is_empty() || text.starts_with('#') || text.starts_with('|') || is_item(text) {
            flush(&section, &mut block);
        }
        if fence {
            fenced = !fenced;
        } else if fenced {
        } else if let Some(number) = number_of_heading(text) {
            section = number.to_owned();
        } else if text.starts_with('#') {
            // The heading of a struct; its table belongs to the section.
        } else if text.starts_with('|') {
            for cell in text.split('|') {
                flush(&section, &mut cell.to_owned());
            }
        } else {
            block.push(' ');
            block.push_str(without_bullet(text));
        }
    }
    flush(&section, &mut block);
    out
}

/// Whether a sentence contains an obliging word.
pub fn obliges(sentence: &str) -> bool {
    sentence
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| OBLIGING.contains(&word.to_lowercase().as_str()))
}

/// `7.2` of `### 7.2 Block`, `3` of `## 3. Head slots`.
fn number_of_heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    if text.len() == line.len() {
        return None;
    }
    let number = text.trim_start().split(' ').next()?.trim_end_matches('.');
    number.starts_with(|c: char| c.is_ascii_digit()).then_some(number)
}

/// Where the words of a list item begin: after `- `, `* `, `1. `.
fn bullet(line: &str) -> Option<usize> {
    if line.starts_with("- ") || line.starts_with("* ") {
        return Some(2);
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0 && line[digits..].starts_with(". ")).then_some(digits + 2)
}

fn is_item(line: &str) -> bool {
    bullet(line).is_some()
}

fn without_bullet(line: &str) -> &str {
    &line[bullet(line).unwrap_or(0)..]
}

/// Splits one block into sentences: each ends at a full stop (or `!`, `?`) before a space or the end, including closing
/// characters after it.
pub fn split(block: &str) -> Vec<String> {
    let words: Vec<&str> = block.split_whitespace().collect();
    let mut out = Vec::new();
    let mut from = 0;
    for (i, word) in words.iter().enumerate() {
        let bare = word.trim_end_matches([')', '*', '`', '"', '”', '_']);
        let stem = bare.trim_end_matches(['.', '!', '?']);
        let opening = stem.trim_start_matches(['(', '*', '"']);
        let ends = stem.len() < bare.len() && !bare.ends_with("..") && !ABBREVIATIONS.contains(&opening);
        if ends || i + 1 == words.len() {
            out.push(normalised(&words[from..=i].join(" ")));
            from = i + 1;
        }
    }
    out.retain(|sentence| !sentence.is_empty());
    out
}

/// Single spaces, and no full stop at the end.
pub fn normalised(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned()
}

/// A citation in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Citation {
    /// File, and number of its first line.
    pub at: String,
    /// Number of the section.
    pub section: String,
    /// Whether it is marked as a test's.
    pub test: bool,
    /// The sentences it quotes.
    pub sentences: Vec<String>,
}

/// The citations of a file, and the errors in how they are written.
pub fn citations(name: &str, text: &str) -> (Vec<Citation>, Vec<String>) {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    let blanked = blank(text);
    let (untested, _) = without_tests(&blanked);
    let code: Vec<&str> = blanked.lines().collect();
    let untested: Vec<&str> = untested.lines().collect();
    let outside = without_literals(text);
    let lines: Vec<&str> = outside.lines().map(str::trim).collect();
    let comment = |i: usize, mark: &str| lines[i].starts_with(mark);
    let mut i = 0;
    while i < lines.len() {
        if comment(i, "//#") {
            wrong.push(format!("{name}:{}: a quotation without '//= format-spec.md#…' above it", i + 1));
        }
        if !comment(i, "//=") {
            i += 1;
            continue;
        }
        let at = format!("{name}:{}", i + 1);
        let target = lines[i].trim_start_matches("//=").trim();
        i += 1;
        let mut test = false;
        while i < lines.len() && comment(i, "//=") && lines[i].trim_start_matches("//=").trim().starts_with("type=") {
            test = lines[i].trim_start_matches("//=").trim() == "type=test";
            if !test {
                wrong.push(format!("{at}: the only type there is is 'type=test', not '{}'", lines[i]));
            }
            i += 1;
        }
        let mut quoted = String::new();
        while i < lines.len() && comment(i, "//#") {
            quoted.push(' ');
            quoted.push_str(lines[i].trim_start_matches("//#"));
            i += 1;
        }
        let Some(section) = target.strip_prefix("format-spec.md#") else {
            wrong.push(format!("{at}: '{target}' is not 'format-spec.md#' and the number of a section"));
            continue;
        };
        let sentences = split(&quoted);
        if sentences.is_empty() {
            wrong.push(format!("{at}: it quotes nothing"));
        }
        // What follows the citation: attributes and comments, then a line of code.
        let below = (i..lines.len()).find(|&j| !code[j].trim().is_empty());
        let is_test = (i..lines.len())
            .take_while(|&j| code[j].trim().is_empty() || code[j].trim().starts_with("#["))
            .any(|j| code[j].trim() == "#[test]");
        let tested_only = below.is_none_or(|j| untested[j].trim().is_empty());
        if test && !is_test {
            wrong.push(format!("{at}: marked 'type=test', but no '#[test]' follows"));
        } else if !test && (is_test || tested_only || name.starts_with("tests/")) {
            wrong.push(format!("{at}: a citation in a test is marked '//= type=test', and stands above '#[test]'"));
        }
        found.push(Citation { at, section: section.to_owned(), test, sentences });
    }
    (found, wrong)
}

/// A sentence about something that is not built yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Later {
    /// The sentence.
    pub sentence: Sentence,
    /// The issue that builds it.
    pub issue: String,
}

/// The lines of `spec-later.txt`: section, issue, sentence, with tabs between; lines that begin with `#` say why.
pub fn later(text: &str) -> Result<Vec<Later>, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [section, issue, text] if issue.starts_with("issue ") => Ok(Later {
                sentence: Sentence { section: section.to_owned(), text: normalised(text) },
                issue: issue.to_owned(),
            }),
            _ => Err(format!("not 'section', tab, 'issue N', tab, sentence: {line}")),
        })
        .collect()
}

/// What the citations cover, and everything that is wrong with them.
#[derive(Debug, Default)]
pub struct Coverage {
    /// Sentences with an obliging word.
    pub obliging: usize,
    /// Those cited by code and by a test.
    pub covered: usize,
    /// Those put off.
    pub later: usize,
    /// All citations, including those of sentences that do not oblige.
    pub citations: usize,
    /// The errors, one line each.
    pub wrong: Vec<String>,
}

/// Compares sentences, citations and what is put off.
pub fn coverage(sentences: &[Sentence], cited: &[Citation], later: &[Later]) -> Coverage {
    let mut out = Coverage { citations: cited.len(), ..Coverage::default() };
    // For each sentence: where code cites it, and where tests do.
    let mut cites: BTreeMap<&Sentence, [Vec<&str>; 2]> = sentences.iter().map(|s| (s, Default::default())).collect();
    for citation in cited {
        for text in &citation.sentences {
            let key = Sentence { section: citation.section.clone(), text: text.clone() };
            match cites.get_mut(&key) {
                Some(cites) => cites[usize::from(citation.test)].push(&citation.at),
                None => out.wrong.push(format!("{}: stale: {}", citation.at, missing(sentences, &key))),
            }
        }
    }
    for (i, entry) in later.iter().enumerate() {
        let Sentence { section, text } = &entry.sentence;
        match cites.get(&entry.sentence) {
            None => out.wrong.push(format!("spec-later.txt: {}", missing(sentences, &entry.sentence))),
            Some(_) if !obliges(text) => {
                out.wrong.push(format!("spec-later.txt: nothing obliges in {section}: {text}"));
            }
            Some([code, test]) if !code.is_empty() || !test.is_empty() => {
                let at = [&code[..], &test[..]].concat().join(", ");
                out.wrong.push(format!("spec-later.txt: it is built ({at}); take it out: {section}: {text}"));
            }
            Some(_) if later[..i].contains(entry) => out.wrong.push(format!("spec-later.txt: twice: {text}")),
            Some(_) => out.later += 1,
        }
    }
    for (sentence, [code, test]) in &cites {
        if !obliges(&sentence.text) {
            continue;
        }
        out.obliging += 1;
        if later.iter().any(|l| l.sentence == **sentence) {
            continue;
        }
        let Sentence { section, text } = sentence;
        for (by, nobody) in [("code", code.is_empty()), ("test", test.is_empty())] {
            if nobody {
                out.wrong.push(format!("no {by} cites {section}: {text}"));
            }
        }
        out.covered += usize::from(!code.is_empty() && !test.is_empty());
    }
    out
}

/// Why a sentence is not in the specification, as far as that can be told.
fn missing(sentences: &[Sentence], key: &Sentence) -> String {
    let Sentence { section, text } = key;
    if let Some(other) = sentences.iter().find(|s| s.text == *text) {
        return format!("it stands in section {}, not in {section}: {text}", other.section);
    }
    if let Some(whole) = sentences.iter().find(|s| s.section == *section && s.text.contains(text.as_str())) {
        return format!("quote the whole sentence: {}", whole.text);
    }
    format!("section {section} has no such sentence: {text}")
}
