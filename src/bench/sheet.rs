//! The tables of a report, cell by cell. `table` shows them as text and `page` as HTML, so both have the same content.
//!
//! Invariant: a figure is a number of the report's JSON, named by its JSON pointer, or the quotient of two such
//! numbers. Its text is that number in the column's unit, rounded. A value that was not measured has no figure.

use super::report::{Entry, Kind, Outcome, Pass, Read, ReadCost, Report, Saved, Size};
use super::show::{Human, rounded};

/// One table of figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Sheet {
    /// Title of the table.
    pub title: String,
    /// Columns from left to right.
    pub columns: Vec<Column>,
    /// Rows from top to bottom.
    pub rows: Vec<Row>,
    /// Notes: the meaning of marks, and what a reader must know.
    pub notes: Vec<String>,
}

/// One column.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Heading that this column shares with its neighbours of the same group; may be empty.
    pub group: String,
    /// Heading of the column; may be empty.
    pub heading: String,
    /// Unit of the figures; may be empty.
    pub unit: &'static str,
}

/// The figures of one entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Name of the entry.
    pub name: String,
    /// Whether the entry is of floe or of another program.
    pub kind: Kind,
    /// Figures, one for each column, or the reason why there are none.
    pub cells: Result<Vec<Option<Figure>>, String>,
}

/// One number of the report, as text and in full.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Text of the number, in the column's unit.
    pub text: String,
    /// The full number, as in JSON.
    pub value: serde_json::Number,
    /// Size of the column's unit.
    pub scale: f64,
    /// JSON pointer to the number in the report.
    pub from: String,
    /// JSON pointer to the divisor, if there is one.
    pub per: Option<String>,
    /// Mark after the number, such as `*`, that refers to a note below the table; may be empty.
    pub mark: &'static str,
}

/// A function that returns an entry's figure for a column, if it has one.
type Get<'a> = Box<dyn Fn(&Entry, &str) -> Option<Figure> + 'a>;

/// A column, and the function for its figures.
struct Source<'a>(Column, Get<'a>);

const EXTRACTED: &str = "*";
const WARM: &str = "~";
/// Significant figures of sizes, which are compared most closely, and of everything else, which varies from run to run.
const SIZE_FIGURES: usize = 4;
const OTHER_FIGURES: usize = 3;

fn whole(value: u64, scale: f64, from: String) -> Option<Figure> {
    figure(value.into(), value as f64, scale, SIZE_FIGURES, from, None)
}

fn real(value: f64, scale: f64, from: String) -> Option<Figure> {
    figure(serde_json::Number::from_f64(value)?, value, scale, OTHER_FIGURES, from, None)
}

fn rate(amount: u64, seconds: f64, scale: f64, from: String, per: String) -> Option<Figure> {
    let value = amount as f64 / seconds;
    figure(serde_json::Number::from_f64(value)?, value, scale, OTHER_FIGURES, from, Some(per))
}

fn figure(
    value: serde_json::Number,
    approximately: f64,
    scale: f64,
    figures: usize,
    from: String,
    per: Option<String>,
) -> Option<Figure> {
    Some(Figure { text: rounded(approximately / scale, figures), value, scale, from, per, mark: "" })
}

fn column(group: &str, heading: &str, unit: &'static str) -> Column {
    Column { group: group.into(), heading: heading.into(), unit }
}

/// Returns the indexes of the entries in display order: floe's in the order requested, then other programs by size,
/// then other programs without a size.
pub fn order(report: &Report) -> Vec<usize> {
    let mut order: Vec<usize> = (0..report.entries.len()).collect();
    let size = |entry: &Entry| entry.size.as_ref().map_or(u64::MAX, |size| size.total);
    order.sort_by_key(|&i| match report.entries[i].kind {
        Kind::Floe => (0, 0),
        Kind::Peer => (1, size(&report.entries[i])),
    });
    order
}

/// Returns why an entry has no figures; `None` if it has.
pub fn trouble(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Done => None,
        Outcome::OverLimit { seconds } => Some(format!("over the limit: stopped after {} s", rounded(*seconds, 3))),
        Outcome::Failed { message } => Some(format!("failed: {message}")),
    }
}

/// Returns all tables for which `report` has figures.
pub fn sheets(report: &Report) -> Vec<Sheet> {
    let all = [packing(report), reading(report), parts(report), saved(report), read_costs(report)];
    all.into_iter().filter(|sheet| !sheet.rows.is_empty() && !sheet.columns.is_empty()).collect()
}

fn sheet(
    report: &Report,
    title: String,
    sources: Vec<Source<'_>>,
    mut shown: impl FnMut(&Entry) -> bool,
    missing: &str,
) -> Sheet {
    let mut rows = Vec::new();
    for index in order(report) {
        let entry = &report.entries[index];
        if !shown(entry) {
            continue;
        }
        let at = format!("/entries/{index}");
        let figures: Vec<_> = sources.iter().map(|source| source.1(entry, &at)).collect();
        let cells = match (figures.iter().any(Option::is_some), trouble(&entry.outcome)) {
            (true, _) => Ok(figures),
            (false, Some(why)) => Err(why),
            (false, None) => Err(missing.into()),
        };
        rows.push(Row { name: entry.name.clone(), kind: entry.kind, cells });
    }
    let has = |i: &usize| rows.iter().filter_map(|row| row.cells.as_ref().ok()).any(|cells| cells[*i].is_some());
    let kept: Vec<usize> = (0..sources.len()).filter(has).collect();
    for row in &mut rows {
        if let Ok(cells) = &mut row.cells {
            *cells = kept.iter().map(|&i| cells[i].clone()).collect();
        }
    }
    let columns = kept.iter().map(|&i| sources[i].0.clone()).collect();
    Sheet { title, columns, rows, notes: Vec::new() }
}

/// Returns the size of a unit and its name: the largest unit in which the smallest size is at least one.
fn unit(sizes: impl Iterator<Item = u64>) -> (f64, &'static str) {
    match sizes.filter(|&size| size > 0).min().unwrap_or(0) {
        0..0x10_0000 => (1024.0, "KiB"),
        0x10_0000..0x4000_0000 => (1048576.0, "MiB"),
        _ => (1073741824.0, "GiB"),
    }
}

fn packing(report: &Report) -> Sheet {
    let (scale, name) = unit(report.entries.iter().filter_map(|e| Some(e.size.as_ref()?.total)));
    let size = move |heading, get: fn(&Size) -> Option<u64>, field: &'static str| {
        let get: Get<'_> = Box::new(move |e, at| whole(get(e.size.as_ref()?)?, scale, format!("{at}/size/{field}")));
        Source(column("Size", heading, name), get)
    };
    let packing = |heading, unit, scale, get: fn(&super::report::Packing) -> f64, field: &'static str| {
        let get: Get<'_> =
            Box::new(move |e, at| real(get(e.packing.as_ref()?), scale, format!("{at}/packing/{field}")));
        Source(column("Packing", heading, unit), get)
    };
    let ratio: Get<'_> = Box::new(|e, at| real(e.size.as_ref()?.ratio, 1.0, format!("{at}/size/ratio")));
    let memory: Get<'_> =
        Box::new(|e, at| whole(e.packing.as_ref()?.peak_memory, 1048576.0, format!("{at}/packing/peak_memory")));
    let sources = vec![
        size("image", |s| Some(s.total), "total"),
        size("at least", |s| Some(s.range?.low), "range/low"),
        size("at most", |s| Some(s.range?.high), "range/high"),
        Source(column("Size", "ratio", ""), ratio),
        packing("time", "s", 1.0, |p| p.seconds, "seconds"),
        packing("speed", "MB/s", 1e6, |p| p.bytes_per_second, "bytes_per_second"),
        packing("processor time", "CPU s", 1.0, |p| p.cpu_seconds, "cpu_seconds"),
        Source(column("Packing", "peak memory", "MiB"), memory),
    ];
    let mut sheet = sheet(report, "Size and packing".into(), sources, |_| true, "not measured");
    sheet.notes.push("ratio: bytes of the source for each byte of the image".into());
    if report.method.sample.is_some() {
        sheet
            .notes
            .push("sizes are predicted from a sample; the truth lies between \"at least\" and \"at most\"".into());
    }
    sheet
}

/// Returns the unit for the duration of random reads, and the headings: microseconds if milliseconds would lose too
/// many figures.
fn latency(report: &Report) -> (f64, [&'static str; 2]) {
    let least = report.entries.iter().flat_map(|e| &e.passes).filter_map(|pass| pass.p50).fold(f64::INFINITY, f64::min);
    if least < 1e-5 { (1e-6, ["p50 us", "p99 us"]) } else { (1e-3, ["p50 ms", "p99 ms"]) }
}

/// Makes one column of the reading passes. A figure that was measured in another way than the rest is marked.
fn pass_column<'a>(
    report: &'a Report,
    read: Read,
    heading: Column,
    get: impl Fn(&Pass, String) -> Option<Figure> + 'a,
) -> Source<'a> {
    let get: Get<'a> = Box::new(move |entry, at| {
        let index = entry.passes.iter().position(|pass| pass.read == read)?;
        let pass = &entry.passes[index];
        let mut figure = get(pass, format!("{at}/passes/{index}"))?;
        figure.mark = match (pass.mounted, pass.cold || !report.method.cold) {
            (false, _) => EXTRACTED,
            (true, false) => WARM,
            (true, true) => "",
        };
        Some(figure)
    });
    Source(heading, get)
}

fn reading(report: &Report) -> Sheet {
    const SECONDS: fn(&Pass, String) -> Option<Figure> = |p, at| real(p.seconds, 1.0, format!("{at}/seconds"));
    const SPEED: fn(&Pass, String) -> Option<Figure> =
        |p, at| rate(p.bytes, p.seconds, 1e6, format!("{at}/bytes"), format!("{at}/seconds"));
    const IOPS: fn(&Pass, String) -> Option<Figure> =
        |p, at| rate(p.operations, p.seconds, 1.0, format!("{at}/operations"), format!("{at}/seconds"));
    let (scale, [p50, p99]) = latency(report);
    let (in_order, one, random, find) = ("Everything in order", "One directory", "Random reads of 4 KiB", "find -ls");
    let sources = vec![
        pass_column(report, Read::InOrder, column(in_order, "time", "s"), SECONDS),
        pass_column(report, Read::InOrder, column(in_order, "speed", "MB/s"), SPEED),
        pass_column(report, Read::OneDirectory, column(one, "time", "s"), SECONDS),
        pass_column(report, Read::OneDirectory, column(one, "speed", "MB/s"), SPEED),
        pass_column(report, Read::Random, column(random, "rate", "IOPS"), IOPS),
        pass_column(report, Read::Random, column(random, "half below", p50), move |p, at| {
            real(p.p50?, scale, format!("{at}/p50"))
        }),
        pass_column(report, Read::Random, column(random, "99% below", p99), move |p, at| {
            real(p.p99?, scale, format!("{at}/p99"))
        }),
        pass_column(report, Read::Find, column(find, "time", "s"), SECONDS),
    ];
    let title = if report.method.cold { "Reading, with empty caches" } else { "Reading, with warm caches" };
    let any_read = report.entries.iter().any(|e| !e.passes.is_empty());
    let mut sheet =
        sheet(report, title.into(), sources, |e| any_read && e.outcome == Outcome::Done, "not read in this run");
    let marked = |mark: &str| {
        let mut figures = sheet.rows.iter().filter_map(|row| row.cells.as_ref().ok()).flatten().flatten();
        figures.any(|figure| figure.mark == mark)
    };
    let (extracted, warm) = (marked(EXTRACTED), marked(WARM));
    if extracted {
        sheet.notes.push(format!("{EXTRACTED} by the program's own extraction: it was not mounted"));
    }
    if warm {
        sheet.notes.push(format!("{WARM} with warm caches"));
    }
    sheet
}

fn parts(report: &Report) -> Sheet {
    let (scale, name) = unit(report.entries.iter().filter_map(|e| Some(e.size.as_ref()?.parts.as_ref()?.data)));
    let part = |heading, get: fn(&super::report::Parts) -> u64, field: &'static str| {
        let get: Get<'_> = Box::new(move |e, at| {
            whole(get(e.size.as_ref()?.parts.as_ref()?), scale, format!("{at}/size/parts/{field}"))
        });
        Source(column("", heading, name), get)
    };
    let total: Get<'_> = Box::new(move |e, at| whole(e.size.as_ref()?.total, scale, format!("{at}/size/total")));
    let sources = vec![
        part("data", |p| p.data, "data"),
        part("metadata", |p| p.metadata, "metadata"),
        part("identities", |p| p.identities, "identities"),
        part("clear lists", |p| p.clear_lists, "clear_lists"),
        part("other", |p| p.other, "other"),
        Source(column("", "together", name), total),
    ];
    let has = |e: &Entry| e.size.as_ref().is_some_and(|size| size.parts.is_some());
    sheet(report, "What the bytes of floe's images are".into(), sources, has, "")
}

fn saved(report: &Report) -> Sheet {
    let saved = |e: &Entry| -> Option<Saved> { e.size.as_ref()?.saved.clone() };
    let all = || report.entries.iter().filter_map(saved);
    let (scale, name) = unit(all().map(|saved| saved.alone));
    let has_matching = all().any(|saved| saved.matching.is_some());
    let superchunks = if has_matching { "saved by superchunks and matching" } else { "saved by superchunks" };
    let step = |group: &str, heading, get: fn(&Saved) -> Option<u64>, field: &'static str| {
        let get: Get<'_> = Box::new(move |e, at| whole(get(&saved(e)?)?, scale, format!("{at}/size/saved/{field}")));
        Source(column(group, heading, name), get)
    };
    let source: Get<'_> =
        Box::new(move |e, _| saved(e).and_then(|_| whole(report.source.bytes, scale, "/source/bytes".into())));
    let data: Get<'_> =
        Box::new(move |e, at| whole(e.size.as_ref()?.parts.as_ref()?.data, scale, format!("{at}/size/parts/data")));
    let sources = vec![
        Source(column("Uncompressed", "source", name), source),
        step("Uncompressed", "saved by deduplication", |s| Some(s.deduplication), "deduplication"),
        step("Uncompressed", "saved by matching", |s| s.matching, "matching"),
        step("Compressed", "each subchunk alone", |s| Some(s.alone), "alone"),
        step("Compressed", superchunks, |s| Some(s.superchunks), "superchunks"),
        Source(column("Compressed", "data as stored", name), data),
    ];
    sheet(report, "What each step of floe saved".into(), sources, |e| saved(e).is_some(), "")
}

fn read_costs(report: &Report) -> Sheet {
    let mut working_sets: Vec<u64> =
        report.entries.iter().flat_map(|e| &e.read_costs).map(|cost| cost.working_set).collect();
    working_sets.sort_unstable();
    working_sets.dedup();
    let mut sources = Vec::new();
    for working_set in working_sets {
        let group = format!("Working set of {}", Human(working_set));
        let cost = |heading, get: fn(&ReadCost) -> f64, field: &'static str| {
            let get: Get<'_> = Box::new(move |e, at| {
                let index = e.read_costs.iter().position(|cost| cost.working_set == working_set)?;
                real(get(&e.read_costs[index]), 1.0, format!("{at}/read_costs/{index}/{field}"))
            });
            Source(column(&group, heading, ""), get)
        };
        sources.push(cost("everything in order", |c| c.in_order, "in_order"));
        sources.push(cost("one directory", |c| c.one_directory, "one_directory"));
        sources.push(cost("random 4 KiB", |c| c.random, "random"));
    }
    let title = "Read cost of floe: bytes inflated for each byte read";
    sheet(report, title.into(), sources, |e| !e.read_costs.is_empty(), "")
}
