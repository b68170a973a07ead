//! Every sentence of `format-spec.md` with "must", "never" or "refuse" is cited by the code that does it and by a test.
//!
//! How to write a citation: `tests/common/citations.rs`. Sentences about unbuilt features are listed in
//! `tests/spec-later.txt`.

#[path = "common/citations.rs"]
mod citations;
#[allow(dead_code, reason = "the house asks for more than the citations")]
#[path = "common/rust_text.rs"]
mod rust_text;
#[allow(dead_code, reason = "tests/spec.rs asks for the tables")]
#[path = "common/spec_text.rs"]
mod spec_text;

use citations::{Citation, Sentence, citations, coverage, later, normalised, obliges, spec_sentences, split};
use std::path::Path;

fn all_citations() -> (Vec<Citation>, Vec<String>) {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for (name, text) in ["src", "tests"].into_iter().flat_map(rust_text::texts_below) {
        let (cited, bad) = citations(&name, &text);
        found.extend(cited);
        wrong.extend(bad);
    }
    (found, wrong)
}

#[test]
fn every_obligation_of_the_specification_is_cited_by_code_and_by_a_test() {
    let sentences = spec_sentences(&spec_text::spec_text());
    let put_off = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spec-later.txt");
    let put_off = std::fs::read_to_string(put_off).expect("tests/spec-later.txt is there");
    let (cited, mut wrong) = all_citations();
    let put_off = later(&put_off).unwrap_or_else(|line| panic!("tests/spec-later.txt: {line}"));
    let found = coverage(&sentences, &cited, &put_off);
    let figures = format!(
        "{} sentences of format-spec.md oblige: {} cited by code and test, {} put off; {} citations in all",
        found.obliging, found.covered, found.later, found.citations
    );
    println!("{figures}");
    wrong.extend(found.wrong);
    assert!(wrong.is_empty(), "{figures}\n{}", wrong.join("\n"));
}

fn of(section: &str, text: &str) -> Sentence {
    Sentence { section: section.into(), text: text.into() }
}

const SPEC: &str = "\
# Title

Before all (see 3.1), it must
be so. That is all.

## 1. First

- One: `a.b` must not; ends here. Two of e.g. one
  item.
1. Numbered (it never ends.) It refuses.

#### Struct

| offset | meaning |
| --- | --- |
| 0 | must be zero. Never else |

### 1.2 Second part
Refused at 3.2. *Kept.* Mustard is 7.5 good...
```text
it must not count
## 9. Nor does this
```
Last

## 18. A worked example

It must not count.

## 19. Words

Must count!
";

#[test]
fn sentences_are_those_of_paragraphs_items_and_cells() {
    let texts: Vec<_> = spec_sentences(SPEC).into_iter().map(|s| (s.section, s.text)).collect();
    let expected = [
        ("0", "Before all (see 3.1), it must be so"),
        ("0", "That is all"),
        ("1", "One: `a.b` must not; ends here"),
        ("1", "Two of e.g. one item"),
        ("1", "Numbered (it never ends.)"),
        ("1", "It refuses"),
        ("1", "offset"),
        ("1", "meaning"),
        ("1", "---"),
        ("1", "---"),
        ("1", "0"),
        ("1", "must be zero"),
        ("1", "Never else"),
        ("1.2", "Refused at 3.2"),
        ("1.2", "*Kept.*"),
        ("1.2", "Mustard is 7.5 good"),
        ("1.2", "Last"),
        ("19", "Must count!"),
    ];
    assert_eq!(texts, expected.map(|(section, text)| (section.to_owned(), text.to_owned())));
    let obliging: Vec<_> =
        texts.iter().filter(|(_, text)| obliges(text)).map(|(section, _)| section.as_str()).collect();
    assert_eq!(obliging, ["0", "1", "1", "1", "1", "1", "1.2", "19"]);
}

#[test]
fn sentences_of_a_citation_are_split_as_those_of_the_specification() {
    assert_eq!(split(" One  must. Two "), ["One must", "Two"]);
    assert_eq!(normalised(" a\n b. "), "a b");
    assert!(split("  ").is_empty());
}

#[test]
fn citations_are_read_from_comments_only_and_say_where_they_are_wrong() {
    let text = r##"
//! Like this: //= format-spec.md#1
fn f() {
    let text = "
    //= format-spec.md#8
    //# in a literal
    ";
    //= format-spec.md#1.2
    //# Refused at
    //#   3.2. *Kept.*
    g(text);
    //# Lost
    //= rfc8878#3
    //# Elsewhere.
    g(text);
}
//= format-spec.md#1
//# It refuses.
#[test]
fn unmarked() {}
//= format-spec.md#1
//= type=test
//# It refuses.
fn no_test() {}
#[cfg(test)]
mod tests {
    //= format-spec.md#19
    //= type=test
    //# Must count!
    /// Words.
    #[allow(dead_code)]
    #[test]
    fn marked() {}
    //= format-spec.md#19
    //= type=exception
    fn helper() {}
}
"##;
    let (found, wrong) = citations("src/x.rs", text);
    let found: Vec<_> = found.iter().map(|c| (c.at.as_str(), c.section.as_str(), c.test, c.sentences.len())).collect();
    assert_eq!(
        found,
        [
            ("src/x.rs:8", "1.2", false, 2),
            ("src/x.rs:17", "1", false, 1),
            ("src/x.rs:21", "1", true, 1),
            ("src/x.rs:27", "19", true, 1),
            ("src/x.rs:34", "19", false, 0),
        ]
    );
    let places: Vec<_> = wrong.iter().map(|w| w.split(": ").next().unwrap_or_default()).collect();
    let expected = ["12", "13", "17", "21", "34", "34", "34"].map(|line| format!("src/x.rs:{line}"));
    assert_eq!(places, expected, "{wrong:#?}");
}

fn cite(section: &str, test: bool, text: &str) -> Citation {
    Citation { at: "x".into(), section: section.into(), test, sentences: split(text) }
}

#[test]
fn coverage_names_what_nobody_cites_and_what_is_stale() {
    let sentences = [of("1", "It must be"), of("1", "It is"), of("2", "It never ends"), of("3", "It refuses it")];
    let nothing = coverage(&sentences, &[], &[]);
    assert_eq!((nothing.obliging, nothing.covered, nothing.wrong.len()), (3, 0, 6));

    let cited =
        [cite("1", false, "It must be. It is."), cite("1", true, "It must be"), cite("2", false, "It never ends")];
    let put_off = later("# why\n3\tissue 25\tIt refuses it.\n").expect("it is well formed");
    let some = coverage(&sentences, &cited, &put_off);
    assert_eq!((some.obliging, some.covered, some.later), (3, 1, 1));
    assert_eq!(some.wrong, ["no test cites 2: It never ends"]);

    let stale = [cite("1", false, "It never ends"), cite("2", true, "never ends"), cite("3", true, "Gone")];
    let wrong = coverage(&sentences, &stale, &[]).wrong.join("\n");
    for words in
        ["stands in section 2, not in 1", "quote the whole sentence: It never ends", "3 has no such sentence: Gone"]
    {
        assert!(wrong.contains(words), "'{words}' is not in\n{wrong}");
    }
}

#[test]
fn what_is_put_off_is_not_built_and_stands_in_the_specification() {
    let sentences = [of("1", "It must be"), of("1", "It is"), of("2", "It never ends")];
    let put_off = "1\tissue 9\tIt must be\n1\tissue 9\tIt is\n2\tissue 9\tGone\n2\tissue 9\tIt never ends\n2\tissue 9\tIt never ends";
    let put_off = later(put_off).expect("it is well formed");
    let wrong = coverage(&sentences, &[cite("1", false, "It must be")], &put_off).wrong.join("\n");
    for words in
        ["it is built (x)", "nothing obliges in 1: It is", "2 has no such sentence: Gone", "twice: It never ends"]
    {
        assert!(wrong.contains(words), "'{words}' is not in\n{wrong}");
    }
    assert!(later("1\tIt must be").is_err() && later("1\tsoon\tIt must be").is_err());
}
