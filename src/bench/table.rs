//! A report as text for terminals: printable ASCII, within the requested width if the names allow it.
//!
//! Called by `cli/bench.rs`.

use super::report::{Report, Source};
use super::sheet::{Column, Row, Sheet, order, sheets};
use super::show::{Human, Utc, ascii, counted, grouped, rounded};
use std::fmt::Write;

/// Number of spaces between two columns of the table.
const GAP: usize = 2;
/// Greatest width, in columns of text, of a name that stands beside its figures. A wider name gets a line of its own
/// above them.
const NAME: usize = 28;
/// Least width of the table, in columns of text.
const NARROWEST: usize = 40;

/// Returns the text of `report`, in lines of at most `width` columns, except where figures need more.
pub fn table(report: &Report, width: usize) -> String {
    let width = width.max(NARROWEST);
    let mut out = String::new();
    for (what, text) in facts(report) {
        paragraph(&mut out, width, &format!("{what:<9} "), &ascii(&text));
    }
    for sheet in sheets(report) {
        out.push('\n');
        show(&mut out, width, &sheet);
    }
    options(&mut out, width, report);
    list(
        &mut out,
        width,
        "Not installed",
        report.missing.iter().map(|m| format!("{} (package {})", m.name, m.package)),
    );
    list(&mut out, width, "Notes", report.notes.iter().cloned());
    out
}

/// Returns the size of the source, such as `48,213 files in 3,120 directories, 1.29 GiB`.
pub fn amount(source: &Source) -> String {
    let many = |number: u64, one: &str| counted(number, one).replacen(&number.to_string(), &grouped(number), 1);
    format!("{} in {}, {}", many(source.files, "file"), many(source.directories, "directory"), Human(source.bytes))
}

/// Returns what was measured, on what machine and how: names, each with a sentence.
pub fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let (machine, method) = (&report.machine, &report.method);
    let mut how = vec![counted(method.jobs as u64, "packing thread")];
    if report.entries.iter().any(|entry| !entry.passes.is_empty()) {
        let caches = if method.cold { "each reading pass began with empty caches" } else { "caches were warm" };
        how.push(caches.into());
    }
    if let Some(seconds) = method.peer_limit {
        how.push(format!("peers were stopped after {} s", rounded(seconds, 3)));
    }
    if let Some(sample) = &method.sample {
        let rest = if sample.fast { "only these were read" } else { "all was read and cut" };
        how.push(format!("{} of the data were compressed, {rest}", Human(sample.bytes)));
    }
    let processors = counted(machine.cores as u64, "core");
    vec![
        ("Source", format!("{}: {}", report.source.path, amount(&report.source))),
        (
            "Machine",
            format!(
                "{}, {processors}, {} of memory, {}, work on {}",
                machine.processor,
                Human(machine.memory),
                machine.kernel,
                machine.work_filesystem
            ),
        ),
        ("Method", how.join("; ")),
        ("When", format!("{} UTC, by floe {}", Utc(report.time), report.floe)),
        ("Units", "1 MiB is 1,048,576 bytes, 1 MB is 1,000,000 bytes".into()),
    ]
}

/// Appends `first` and the words of `text`. Later lines are indented like the first one's text. A word that is too long
/// is cut into pieces.
fn paragraph(out: &mut String, width: usize, first: &str, text: &str) {
    let room = width.saturating_sub(first.len()).max(1);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let pieces = word.as_bytes().chunks(room).map(String::from_utf8_lossy);
        for piece in pieces {
            match lines.last_mut() {
                Some(line) if line.len() + 1 + piece.len() <= room => {
                    line.push(' ');
                    line.push_str(&piece);
                }
                _ => lines.push(piece.into_owned()),
            }
        }
    }
    for (i, line) in lines.iter().enumerate() {
        let before = if i == 0 { first.to_owned() } else { " ".repeat(first.len()) };
        let _ = writeln!(out, "{before}{line}");
    }
}

fn list(out: &mut String, width: usize, title: &str, items: impl Iterator<Item = String>) {
    for (i, item) in items.enumerate() {
        if i == 0 {
            let _ = writeln!(out, "\n{title}");
        }
        paragraph(out, width, "  ", &ascii(&item));
    }
}

fn options(out: &mut String, width: usize, report: &Report) {
    let items = order(report).into_iter().map(|index| {
        let entry = &report.entries[index];
        format!("{} ({}): {}", entry.name, entry.version, entry.options)
    });
    list(out, width, "Programs and options", items);
}

fn show(out: &mut String, width: usize, sheet: &Sheet) {
    let names: Vec<String> = sheet.rows.iter().map(|row| ascii(&row.name)).collect();
    let name_width = names.iter().map(String::len).filter(|&len| len <= NAME).max().unwrap_or(0);
    let mut columns = layout(sheet);
    let _ = writeln!(out, "{}", sheet.title);
    // Columns that do not fit go into a block below.
    while !columns.is_empty() {
        let mut used = name_width;
        let fits = columns.iter().take_while(|column| {
            used += column.width + GAP;
            used <= width
        });
        let rest = columns.split_off(fits.count().max(1));
        block(out, width, name_width, &names, &sheet.rows, &columns);
        columns = rest;
    }
    for note in &sheet.notes {
        paragraph(out, width, "  ", &ascii(note));
    }
}

/// A column that is ready for output.
struct Printed {
    index: usize,
    group: String,
    /// Words of the heading, one on each line, the unit last.
    heading: Vec<String>,
    width: usize,
    /// Whether some of the column's figures have a mark, of one character.
    marked: bool,
}

fn layout(sheet: &Sheet) -> Vec<Printed> {
    let heading = |column: &Column| -> Vec<String> {
        let words = column.heading.split(' ').map(str::to_owned);
        words.chain([column.unit.to_owned()]).filter(|word| !word.is_empty()).collect()
    };
    let mut out: Vec<Printed> = Vec::new();
    for (index, column) in sheet.columns.iter().enumerate() {
        let heading = heading(column);
        let cells: Vec<_> = sheet.rows.iter().filter_map(|row| row.cells.as_ref().ok()?[index].as_ref()).collect();
        let marked = cells.iter().any(|figure| !figure.mark.is_empty());
        let widths = cells.iter().map(|figure| figure.text.len());
        let width = widths.chain(heading.iter().map(String::len)).max().unwrap_or(0) + usize::from(marked);
        out.push(Printed { index, group: column.group.clone(), heading, width, marked });
    }
    // The heading of a group may be wider than its columns.
    for i in 0..out.len() {
        let same = out[i..].iter().take_while(|c| c.group == out[i].group);
        let has: usize = same.map(|c| c.width + GAP).sum::<usize>() - GAP;
        let starts = i == 0 || out[i - 1].group != out[i].group;
        if starts && has < out[i].group.len() {
            out[i].width += out[i].group.len() - has;
        }
    }
    out
}

fn block(out: &mut String, width: usize, name_width: usize, names: &[String], rows: &[Row], columns: &[Printed]) {
    let mut line = |text: String| {
        let _ = writeln!(out, "{}", text.trim_end());
    };
    if columns.iter().any(|column| !column.group.is_empty()) {
        let mut groups = " ".repeat(name_width);
        let mut i = 0;
        while i < columns.len() {
            let group = &columns[i].group;
            let count = columns[i..].iter().take_while(|column| column.group == *group).count();
            let room = columns[i..i + count].iter().map(|column| column.width + GAP).sum::<usize>() - GAP;
            let text = group.get(..room).unwrap_or(group);
            let dashes = "-".repeat(room.saturating_sub(text.len() + 1));
            groups.push_str(&" ".repeat(GAP));
            groups.push_str(&format!("{:<room$}", format!("{text} {dashes}").trim_end()));
            i += count;
        }
        line(groups);
    }
    let height = columns.iter().map(|column| column.heading.len()).max().unwrap_or(0);
    for i in 0..height {
        let mut heading = " ".repeat(name_width);
        for Printed { heading: words, width, marked, .. } in columns {
            let word = (i + words.len()).checked_sub(height).and_then(|at| words.get(at)).map_or("", String::as_str);
            let mark = if *marked { " " } else { "" };
            heading.push_str(&format!("{:GAP$}{:>width$}", "", format!("{word}{mark}")));
        }
        line(heading);
    }
    for (name, row) in names.iter().zip(rows) {
        let mut text = if name.len() <= name_width {
            format!("{name:<name_width$}")
        } else {
            name.as_bytes().chunks(width).for_each(|piece| line(String::from_utf8_lossy(piece).into_owned()));
            " ".repeat(name_width)
        };
        match &row.cells {
            Ok(cells) => {
                for Printed { index, width, marked, .. } in columns {
                    let (cell, mark) = cells[*index].as_ref().map_or(("-", ""), |cell| (&*cell.text, cell.mark));
                    text.push_str(&format!("{:GAP$}{:>width$}", "", format!("{cell}{mark:<0$}", usize::from(*marked))));
                }
                line(text);
            }
            Err(why) => {
                let mut lines = String::new();
                paragraph(&mut lines, width, &format!("{text}{:GAP$}", ""), &ascii(why));
                lines.lines().for_each(|text| line(text.to_owned()));
            }
        }
    }
}
