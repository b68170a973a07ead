//! Makes a table, a page or README's picture from the JSON of `floe bench`:
//! `cargo run --example bench_page table|page|picture < report.json`.

use floe::bench::{Report, html, readme_svg, table};
use std::io::{self, Read, Write};

fn main() -> io::Result<()> {
    let mut json = String::new();
    io::stdin().read_to_string(&mut json)?;
    let report: Report = serde_json::from_str(&json)?;
    let out = match std::env::args().nth(1).as_deref() {
        Some("table") => table(&report, 100),
        Some("page") => html(&report),
        Some("picture") => readme_svg(&report),
        _ => return Err(io::Error::other("usage: bench_page table|page|picture < REPORT.json")),
    };
    io::stdout().write_all(out.as_bytes())
}
