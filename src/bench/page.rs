//! A report as one HTML page that needs no network: plots, tables, and the method of measurement.
//!
//! Invariants: every text of the report is escaped; the page loads nothing and runs no script. Each cell with a figure
//! carries the full number (`data-value`), its source in the JSON document (`data-from`, `data-per`: JSON pointers),
//! and the size of its unit (`data-scale`). Called by `cli/bench.rs`.

use super::plot::{Chart, Frame, charts, draw, key, meaning, plain, shapes};
use super::report::{Entry, Kind, Report};
use super::sheet::{Column, Figure, Row, Sheet, order, sheets, trouble};
use super::show::{Human, rounded};
use super::table::{amount, facts};
use std::fmt::Write;

/// Frame of the first plot on a wide screen.
const LARGE: Frame = Frame { width: 1160.0, height: 500.0, narrow: false };
/// Frame of all plots on a normal screen.
const MEDIUM: Frame = Frame { width: 568.0, height: 500.0, narrow: false };
/// Frame of all plots on a phone.
const SMALL: Frame = Frame { width: 358.0, height: 480.0, narrow: true };
const STYLE: [&str; 2] = [include_str!("plot.css"), include_str!("page.css")];

/// Returns the HTML page of `report`.
pub fn html(report: &Report) -> String {
    let mut out = String::with_capacity(256 << 10);
    let path = escaped(&report.source.path);
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"generator\" content=\"floe bench\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>floe bench: {path}</title>\n<style>\n{}{}</style>\n</head>\n<body>\n<main>\n\
         <h1>How small is <code>{path}</code>?</h1>\n",
        STYLE[0], STYLE[1]
    );
    answer(&mut out, report);
    plots(&mut out, &charts(report));
    let _ = writeln!(out, "<h2>Figures</h2>");
    sheets(report).iter().for_each(|sheet| table(&mut out, sheet));
    not_measured(&mut out, report);
    let _ = writeln!(out, "<h2>Machine and method</h2>\n<dl>");
    facts(report).iter().for_each(|(what, text)| pair(&mut out, "", what, &escaped(text)));
    let _ = writeln!(out, "</dl>\n<h2>Programs and options</h2>\n<dl>");
    for entry in order(report).into_iter().map(|index| &report.entries[index]) {
        let class = if entry.kind == Kind::Floe { " class=\"floe\"" } else { "" };
        let text = format!(
            "<code>{}</code> <span class=\"soft\">version {}</span>",
            escaped(&entry.options),
            escaped(&entry.version)
        );
        pair(&mut out, class, &entry.name, &text);
    }
    let _ = writeln!(out, "</dl>");
    list(&mut out, "Notes", report.notes.iter().map(|note| escaped(note)));
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

/// Returns `text`, escaped for an element or a quoted attribute.
fn escaped(text: &str) -> String {
    let text = plain(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

fn pair(out: &mut String, class: &str, what: &str, html: &str) {
    let _ = writeln!(out, "<dt{class}>{}</dt><dd>{html}</dd>", escaped(what));
}

fn list(out: &mut String, title: &str, items: impl Iterator<Item = String>) {
    let items: Vec<String> = items.map(|item| format!("<li>{item}</li>\n")).collect();
    if !items.is_empty() {
        let _ = writeln!(out, "<h2>{title}</h2>\n<ul>\n{}</ul>", items.concat());
    }
}

/// Writes the summary: what floe achieves, and what the smallest other program achieves.
fn answer(out: &mut String, report: &Report) {
    let _ = writeln!(out, "<p class=\"soft\">{}</p>", escaped(&amount(&report.source)));
    let floe = || report.entries.iter().filter(|e| e.kind == Kind::Floe && e.size.is_some());
    let usual = floe().find(|e| e.name.ends_with("balanced")).or_else(|| floe().next());
    let size = |entry: &Entry| entry.size.as_ref().map_or(u64::MAX, |size| size.total);
    let smallest = floe().min_by_key(|e| size(e)).filter(|e| usual.is_some_and(|usual| usual.name != e.name));
    let peers = || report.entries.iter().filter(|e| e.kind == Kind::Peer && e.size.is_some());
    let peer = peers().min_by_key(|e| size(e));
    let sentences: Vec<String> = [usual, smallest, peer].into_iter().flatten().filter_map(sentence).collect();
    let _ = writeln!(out, "<p>{}</p>", sentences.join(" "));
}

fn sentence(entry: &Entry) -> Option<String> {
    let size = entry.size.as_ref()?;
    let time = entry.packing.as_ref().map_or(String::new(), |p| format!(" in {} s", rounded(p.seconds, 3)));
    let whose = if entry.kind == Kind::Peer { "The smallest of the others, " } else { "" };
    let comma = if entry.kind == Kind::Peer { "," } else { "" };
    let (name, total, ratio) = (escaped(&entry.name), Human(size.total), rounded(size.ratio, 3));
    Some(format!(
        "{whose}<strong>{name}</strong>{comma} makes it <strong>{total}</strong>, {ratio} times smaller,{time}."
    ))
    .map(|text| text.replace("smaller,.", "smaller."))
}

fn plots(out: &mut String, charts: &[Chart]) {
    if charts.is_empty() {
        return;
    }
    let _ = writeln!(out, "<ul class=\"keys\">");
    for shape in shapes(charts) {
        let _ = writeln!(out, "<li>{}{}</li>", key(shape), meaning(shape));
    }
    let _ = writeln!(out, "<li>further down and further left is better; both axes are logarithmic</li></ul>");
    let _ = writeln!(out, "<div class=\"plots\">");
    for (i, chart) in charts.iter().enumerate() {
        let class = if i == 0 { " class=\"first\"" } else { "" };
        let _ = writeln!(out, "<figure{class}>\n<figcaption>{}</figcaption>", chart.title);
        if i == 0 {
            let _ = writeln!(out, "<div class=\"large\">{}</div>", draw(chart, LARGE));
        }
        let _ = writeln!(out, "<div class=\"medium\">{}</div>", draw(chart, MEDIUM));
        let _ = writeln!(out, "<div class=\"small\">{}</div>", draw(chart, SMALL));
        if !chart.absent.is_empty() {
            let names: Vec<String> = chart.absent.iter().map(|name| escaped(name)).collect();
            let _ = writeln!(out, "<p class=\"absent\">Not measured in this way: {}</p>", names.join(", "));
        }
        let _ = writeln!(out, "</figure>");
    }
    let _ = writeln!(out, "</div>");
}

fn table(out: &mut String, sheet: &Sheet) {
    let title = escaped(&sheet.title);
    let _ = writeln!(
        out,
        "<div class=\"box\" role=\"region\" tabindex=\"0\" aria-label=\"{title}\">\n<table>\n<caption>{title}</caption>\n<thead>"
    );
    if sheet.columns.iter().any(|column| !column.group.is_empty()) {
        groups(out, &sheet.columns);
    }
    let _ = write!(out, "<tr><td></td>");
    for column in &sheet.columns {
        let unit =
            if column.unit.is_empty() { String::new() } else { format!("<span class=\"unit\">{}</span>", column.unit) };
        let heading = escaped(&column.heading);
        let _ = write!(out, "<th scope=\"col\"><span class=\"heading\">{heading}</span>{unit}</th>");
    }
    let _ = writeln!(out, "</tr>\n</thead>\n<tbody>");
    sheet.rows.iter().for_each(|line| row(out, line, sheet.columns.len()));
    let _ = writeln!(out, "</tbody>\n</table>\n</div>");
    if !sheet.notes.is_empty() {
        let notes: Vec<String> = sheet.notes.iter().map(|note| format!("<li>{}</li>", escaped(note))).collect();
        let _ = writeln!(out, "<ul class=\"notes\">{}</ul>", notes.concat());
    }
}

fn groups(out: &mut String, columns: &[Column]) {
    let _ = write!(out, "<tr><td></td>");
    let mut rest = columns;
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|column| column.group == first.group).count();
        let _ = write!(out, "<th scope=\"colgroup\" colspan=\"{count}\">{}</th>", escaped(&first.group));
        rest = &rest[count..];
    }
    let _ = writeln!(out, "</tr>");
}

fn row(out: &mut String, row: &Row, columns: usize) {
    let class = if row.kind == Kind::Floe { "floe" } else { "peer" };
    let _ = write!(out, "<tr class=\"{class}\"><th scope=\"row\">{}</th>", escaped(&row.name));
    match &row.cells {
        Ok(cells) => cells.iter().for_each(|figure| match figure {
            Some(figure) => cell(out, figure),
            None => out.push_str("<td class=\"none\">–</td>"),
        }),
        Err(why) => {
            let _ = write!(out, "<td class=\"why\" colspan=\"{columns}\">{}</td>", escaped(why));
        }
    }
    let _ = writeln!(out, "</tr>");
}

fn cell(out: &mut String, figure: &Figure) {
    let Figure { text, value, scale, from, per, mark } = figure;
    let per = per.as_ref().map_or(String::new(), |per| format!(" data-per=\"{per}\""));
    let _ = write!(out, "<td data-value=\"{value}\" data-from=\"{from}\"{per} data-scale=\"{scale}\">{text}");
    let _ = if mark.is_empty() { write!(out, "</td>") } else { write!(out, "<span class=\"soft\">{mark}</span></td>") };
}

fn not_measured(out: &mut String, report: &Report) {
    let troubles = order(report).into_iter().filter_map(|index| {
        let entry = &report.entries[index];
        Some(format!("<strong>{}</strong>: {}", escaped(&entry.name), escaped(&trouble(&entry.outcome)?)))
    });
    let missing = report.missing.iter().map(|missing| {
        let (name, package) = (escaped(&missing.name), escaped(&missing.package));
        format!("<strong>{name}</strong>: not installed; the package <code>{package}</code> brings it")
    });
    list(out, "Not measured", troubles.chain(missing));
}
