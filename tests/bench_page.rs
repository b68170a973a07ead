//! The table, the page and the picture of a benchmark's report show the same content as its JSON, and no text of a
//! report escapes from its place.

use floe::bench::{Entry, Kind, Outcome, Pass, Range, Read, Report, Sample, html, readme_svg, table};
use serde_json::Value;
use std::collections::BTreeSet;

fn report() -> Report {
    serde_json::from_str(include_str!("fixtures/bench/report.json")).expect("it is a report")
}

/// The same report, with sizes predicted from a sample.
fn sampled() -> Report {
    let mut report = report();
    report.method.sample = Some(Sample { bytes: 1 << 27, fast: false });
    for size in report.entries.iter_mut().filter_map(|entry| entry.size.as_mut()) {
        size.range = Some(Range { low: size.total / 10 * 9, high: size.total / 9 * 10 });
    }
    report
}

/// The same report, of settings without matching.
fn without_matching() -> Report {
    let mut report = report();
    let all = report.entries.iter_mut().filter_map(|entry| entry.size.as_mut()?.saved.as_mut());
    all.for_each(|saved| saved.matching = None);
    report
}

/// A cell of the page.
struct Cell {
    value: String,
    from: String,
    per: Option<String>,
    scale: f64,
    text: String,
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let rest = tag.split_once(&format!(" {name}=\""))?.1;
    Some(rest.split_once('"')?.0.to_owned())
}

fn cells(page: &str) -> Vec<Cell> {
    let parts = page.split("<td data-value=").skip(1);
    let cell = |part: &str| {
        let (tag, rest) = part.split_once('>').expect("the tag ends");
        let tag = format!(" data-value={tag}");
        let text = rest.split_once('<').expect("the cell ends").0.to_owned();
        let needed = |name| attribute(&tag, name).expect("each cell has it");
        let scale = needed("data-scale").parse().expect("it is a number");
        Cell { value: needed("data-value"), from: needed("data-from"), per: attribute(&tag, "data-per"), scale, text }
    };
    parts.map(cell).collect()
}

/// JSON pointers to all numbers below `value`.
fn numbers(value: &Value, at: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Number(_) => {
            out.insert(at.to_owned());
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| numbers(item, &format!("{at}/{i}"), out)),
        Value::Object(fields) => fields.iter().for_each(|(name, field)| numbers(field, &format!("{at}/{name}"), out)),
        _ => {}
    }
}

#[test]
fn every_number_on_the_page_is_the_documents_own_rounded() {
    for report in [report(), sampled(), without_matching()] {
        let json = serde_json::to_value(&report).unwrap();
        let number = |pointer: &str| json.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}")).clone();
        let cells = cells(&html(&report));
        assert!(cells.len() > 200, "{}", cells.len());
        for Cell { value, from, per, scale, text } in &cells {
            let value: f64 = match per {
                None => {
                    let same: Value = serde_json::from_str(value).unwrap();
                    assert_eq!(same, number(from), "{from}");
                    same.as_f64().unwrap()
                }
                Some(per) => {
                    let value = value.parse::<f64>().unwrap();
                    assert_eq!(value, number(from).as_f64().unwrap() / number(per).as_f64().unwrap(), "{from} {per}");
                    value
                }
            };
            let decimals = text.split_once('.').map_or(0, |parts| parts.1.len()) as i32;
            let shown: f64 = text.parse().unwrap_or_else(|_| panic!("{from}: '{text}'"));
            let off = (shown - value / scale).abs();
            assert!(off <= 0.500_001 * 10f64.powi(-decimals), "{from}: {value} / {scale} is shown as {text}");
        }
    }
}

#[test]
fn every_number_of_every_entry_is_on_the_page() {
    for report in [report(), sampled(), without_matching()] {
        let json = serde_json::to_value(&report).unwrap();
        let mut all = BTreeSet::new();
        numbers(&json["entries"], "/entries", &mut all);
        let cells = cells(&html(&report));
        let shown: BTreeSet<String> =
            cells.iter().flat_map(|c| [Some(c.from.clone()), c.per.clone()]).flatten().collect();
        for pointer in all.difference(&shown) {
            // The amount read, where only the time is shown; the size of a working set, which is in the heading.
            let told_otherwise = ["/operations", "/bytes", "/working_set"].iter().any(|end| pointer.ends_with(end));
            // The time at which a peer was stopped is given in words.
            let in_words = pointer.matches('/').count() == 3 && pointer.ends_with("/seconds");
            assert!(told_otherwise || in_words, "{pointer} is not on the page");
        }
    }
}

#[test]
fn table_and_page_show_the_same_figures() {
    for report in [report(), sampled(), without_matching()] {
        let text = table(&report, 100);
        let page = html(&report);
        let mut words: Vec<&str> = text.split_whitespace().map(|word| word.trim_end_matches(['*', '~'])).collect();
        for cell in cells(&page) {
            let at = words.iter().position(|word| *word == cell.text);
            words.remove(at.unwrap_or_else(|| panic!("{} is not in the table: {}\n{text}", cell.from, cell.text)));
        }
    }
}

#[test]
fn what_matching_saved_is_beside_deduplication_and_only_if_some_setting_uses_it() {
    let (with, without) = (html(&report()), html(&without_matching()));
    assert!(with.contains("saved by superchunks and matching") && !without.contains("matching"));
    let place = |words| with.find(words).unwrap_or_else(|| panic!("'{words}' is not on the page"));
    let columns = ["saved by deduplication", "saved by matching", "each subchunk alone"].map(place);
    assert!(columns.is_sorted(), "{columns:?}");
}

#[test]
fn what_has_no_figures_is_said_everywhere() {
    let report = report();
    let text = table(&report, 100);
    let page = html(&report);
    for words in [
        "over the limit: stopped after 600 s",
        "failed: xz: (stdin): Cannot allocate memory",
        "7zip",
        "bupstash",
        "2 files could not be read",
        "each reading pass began with empty caches",
        "AMD EPYC 7B13, 2 cores, 15.6 GiB of memory",
        "2026-11-28 06:45:37 UTC",
    ] {
        assert!(text.contains(words), "table: {words}\n{text}");
        assert!(page.contains(words), "page: {words}");
    }
    for entry in &report.entries {
        assert!(page.contains(&format!("<code>{}</code>", entry.options.replace('>', "&gt;"))), "{}", entry.options);
    }
}

#[test]
fn the_table_is_ascii_and_as_wide_as_asked_for() {
    let mut long = sampled();
    long.entries[5].name = "a peer whose name is rather longer than the others' names are".into();
    long.entries[6].name = "naïve\u{1b}[2J\n".into();
    long.notes.push("x".repeat(300));
    for report in [report(), sampled(), without_matching(), long] {
        for width in [60, 80, 100, 200] {
            let text = table(&report, width);
            assert!(text.ends_with('\n') && text.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()));
            for line in text.lines() {
                assert!(line.len() <= width && line == line.trim_end(), "{width}: '{line}'");
            }
        }
    }
}

/// A report in which every string is hostile.
fn hostile() -> Report {
    const BAD: &str = "</code></style></title><script>alert(1)</script>\"' onload='x' & \u{202e}\u{7}";
    let mut report = report();
    report.floe = BAD.into();
    report.source.path = BAD.into();
    let machine = &mut report.machine;
    (machine.processor, machine.kernel, machine.work_filesystem) = (BAD.into(), BAD.into(), BAD.into());
    for (i, entry) in report.entries.iter_mut().enumerate() {
        (entry.name, entry.version, entry.options) = (format!("{i} {BAD}"), BAD.into(), BAD.into());
        if let Outcome::Failed { message } = &mut entry.outcome {
            *message = BAD.into();
        }
    }
    report.missing.iter_mut().for_each(|missing| (missing.name, missing.package) = (BAD.into(), BAD.into()));
    report.notes = vec![BAD.into()];
    report
}

/// Names of all elements, after checking that they are closed in order.
fn elements(text: &str) -> Vec<String> {
    let (mut open, mut all) = (Vec::new(), Vec::new());
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').expect("a tag ends");
        rest = after;
        if tag.starts_with('!') {
            continue;
        }
        assert!(!tag.contains('<') && tag.matches('"').count() % 2 == 0, "<{tag}>");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default().to_owned();
        match tag.strip_prefix('/') {
            Some(_) => assert_eq!(open.pop(), Some(name), "<{tag}>"),
            None => {
                all.push(name.clone());
                if !tag.ends_with('/') && name != "meta" {
                    open.push(name);
                }
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
    all
}

#[test]
fn whatever_a_report_says_stays_text() {
    let page = html(&hostile());
    let picture = readme_svg(&hostile());
    let usual: BTreeSet<String> = elements(&html(&report())).into_iter().collect();
    assert!(elements(&page).iter().all(|name| usual.contains(name) && name != "script"));
    for text in [&page, &picture] {
        elements(text);
        assert!(!text.contains("<script") && !text.contains('\u{202e}') && !text.contains('\u{7}'));
    }
    assert!(table(&hostile(), 100).is_ascii());
}

#[test]
fn page_and_picture_ask_for_nothing() {
    let page = html(&report());
    let picture = readme_svg(&report()).replacen("xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
    for text in [page, picture] {
        for word in ["http", "src=", "url(", "href", "@import", "<link", "<script", "<iframe", "<use"] {
            assert!(!text.contains(word), "{word}");
        }
        assert!(text.contains("prefers-color-scheme: dark"));
    }
}

#[test]
fn every_measured_entry_has_its_label_in_the_plots() {
    let report = report();
    let page = html(&report);
    let picture = readme_svg(&report);
    let labels = |text: &str| text.matches("<text class=\"label").count();
    let measured = |read: Option<Read>| {
        let has =
            |e: &&Entry| e.size.is_some() && read.is_none_or(|read| e.passes.iter().any(|pass| pass.read == read));
        report.entries.iter().filter(has).count()
    };
    let (all, in_order, random) = (measured(None), measured(Some(Read::InOrder)), measured(Some(Read::Random)));
    assert!(all > 12 && random > 8);
    // The first plot is drawn in three sizes, the others in two.
    assert_eq!(labels(&page), 3 * all + 2 * in_order + 2 * random);
    assert_eq!(labels(&picture), all + in_order);
}

#[test]
fn the_points_of_the_plots_are_the_documents_numbers() {
    let report = report();
    let page = html(&report);
    let points: Vec<(f64, f64)> = page
        .split("<g class=\"point")
        .skip(1)
        .map(|tag| {
            let number = |name| attribute(tag, name).expect("a point has it").parse().expect("it is a number");
            (number("data-bytes"), number("data-seconds"))
        })
        .collect();
    let of = |read: Option<Read>| -> Vec<(f64, f64)> {
        let seconds = |e: &Entry| match read {
            None => Some(e.packing.as_ref()?.seconds),
            Some(read) => {
                let pass = e.passes.iter().find(|pass| pass.read == read)?;
                Some(if read == Read::Random { pass.seconds / pass.operations as f64 } else { pass.seconds })
            }
        };
        report.entries.iter().filter_map(|e| Some((e.size.as_ref()?.total as f64, seconds(e)?))).collect()
    };
    let mut expected =
        [vec![of(None); 3], vec![of(Some(Read::InOrder)); 2], vec![of(Some(Read::Random)); 2]].concat().concat();
    let mut points = points;
    expected.sort_by(|a, b| a.partial_cmp(b).expect("they are numbers"));
    points.sort_by(|a, b| a.partial_cmp(b).expect("they are numbers"));
    assert_eq!(points, expected);
}

#[test]
fn twenty_five_equal_entries_have_a_label_each() {
    let mut report = report();
    let like = report.entries[0].clone();
    report.entries = (0..25)
        .map(|i| Entry {
            name: format!("program {i} with a long list of options"),
            kind: if i < 5 { Kind::Floe } else { Kind::Peer },
            ..like.clone()
        })
        .collect();
    assert_eq!(html(&report).matches("<text class=\"label").count(), 25 * 7);
}

#[test]
fn a_report_without_figures_and_figures_without_meaning_are_no_trouble() {
    let mut empty = report();
    empty.entries.clear();
    empty.missing.clear();
    empty.notes.clear();
    let mut zero = report();
    for entry in &mut zero.entries {
        entry.passes = vec![
            Pass {
                read: Read::Random,
                mounted: true,
                cold: false,
                seconds: 0.0,
                bytes: 0,
                operations: 0,
                p50: None,
                p99: None,
            },
            Pass {
                read: Read::InOrder,
                mounted: true,
                cold: false,
                seconds: f64::NAN,
                bytes: 5,
                operations: 1,
                p50: None,
                p99: None,
            },
        ];
        if let Some(size) = &mut entry.size {
            size.total = 0;
            size.ratio = f64::INFINITY;
        }
    }
    for report in [empty, zero] {
        for text in [html(&report), table(&report, 100), readme_svg(&report)] {
            for word in ["NaN", "inf\"", ">inf", " inf "] {
                assert!(!text.contains(word), "{word}: {text}");
            }
        }
        elements(&html(&report));
    }
}

#[test]
fn random_reads_that_take_microseconds_are_shown_in_them() {
    let mut report = report();
    assert!(table(&report, 100).contains("p50 ms"));
    report.entries[0].passes.iter_mut().for_each(|pass| pass.p50 = pass.p50.map(|_| 3.4e-6));
    let text = table(&report, 100);
    assert!(text.contains("p50 us") && text.contains(" 3.40 ") && !text.contains("p50 ms"), "{text}");
}

#[test]
fn passes_taken_otherwise_than_the_rest_are_marked() {
    let mut report = report();
    let text = table(&report, 100);
    assert!(text.contains("31.2*") && text.contains("* by the program's own extraction"), "{text}");
    assert!(!text.contains('~'));
    report.entries[0].passes[0].cold = false;
    let text = table(&report, 100);
    assert!(text.contains("3.81~") && text.contains("~ with warm caches"), "{text}");
    report.method.cold = false;
    let text = table(&report, 100);
    assert!(text.contains("Reading, with warm caches") && !text.contains('~'), "{text}");
}

#[test]
fn a_number_is_read_from_json_as_it_was_written() {
    // Read with less care, it comes to be 117372305.6024532.
    let speed = 117_372_305.602_453_19_f64;
    let text = serde_json::to_string(&speed).unwrap();
    assert_eq!(serde_json::from_str::<f64>(&text).unwrap().to_bits(), speed.to_bits());
}
