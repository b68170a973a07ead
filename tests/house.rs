//! The rules of the code's rooms: which may use which, and what no room may do.
//!
//! Arrows point one way: cli, fuse → fs → freeze → thaw, pack, inflate → chunk, meta → table → log → storage, format;
//! care is beside fs, and bench between cli and fuse. Only code that is compiled without tests counts.

#[path = "common/imports.rs"]
mod imports;
#[path = "common/rust_text.rs"]
mod rust_text;

use rust_text::{Source, blank, sources};
use std::collections::BTreeSet;

/// Rooms by height. A room uses only rooms with a smaller number, with the exceptions in [`may_use`].
const ROOMS: &[(&str, u8)] = &[
    ("main", 10),
    ("cli", 9),
    ("bench", 8),
    ("fuse", 7),
    ("fs", 6),
    ("care", 6),
    ("freeze", 5),
    ("thaw", 4),
    ("pack", 4),
    ("inflate", 4),
    ("chunk", 3),
    ("meta", 3),
    ("table", 2),
    ("log", 1),
    ("storage", 0),
    ("format", 0),
];

/// Rooms that parse bytes from outside: nothing in them may panic.
const NO_PANICS: &[&str] = &["format", "storage", "log", "table", "thaw", "meta", "inflate", "fs", "care", "freeze"];
const PANICS: &[&str] =
    &[".unwrap()", ".expect(", ".unwrap_err()", "panic!(", "todo!(", "unimplemented!(", "unreachable!("];
/// Each of these rooms begins with this: the compiler's own check for the same, and for unchecked indexing.
const LINTS: &str =
    "#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]";
/// Panics that no input can reach: file, words in the line, reason.
const PANICS_ALLOWED: &[(&str, &str, &str)] = &[];

/// The library prints nothing, and reads neither environment nor clock; these rooms may.
const SILENT_BUT: &[&str] = &["main", "cli"];
const NOISE: &[&str] =
    &["println!(", "print!(", "eprintln!(", "eprint!(", "dbg!(", "std::env::", "env::var", "SystemTime::now("];
const NOISE_ALLOWED: &[(&str, &str, &str)] = &[];

/// Limit of a file's length.
const LINES: usize = 600;

fn height(room: &str) -> Option<u8> {
    ROOMS.iter().find(|r| r.0 == room).map(|r| r.1)
}

fn may_use(room: &str, other: &str) -> bool {
    room == other
        || (room == "storage" && other == "format")
        || (room == "main" && other == "cli")
        || (room != "main" && height(room) > height(other))
}

/// First names after every `crate::` (and `floe::` in main.rs and in a `cli` compiled with it), with their positions.
fn uses(source: &Source) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for root in ["crate::", "floe::"] {
        for (at, _) in source.code.match_indices(root) {
            let before = source.code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &source.code[at + root.len()..];
            let names: Vec<String> = if rest.starts_with('{') { group(rest) } else { vec![first_name(rest)] };
            out.extend(names.into_iter().filter(|n| !n.is_empty() && n != "self").map(|n| (at, n)));
        }
    }
    out
}

fn first_name(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// First names of the members of `{…}`, at its own depth.
fn group(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut depth = 0;
    let mut start = 1;
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || depth == 0 {
            out.push(first_name(&text[start..i]));
            start = i + 1;
        }
        if depth == 0 {
            break;
        }
    }
    out
}

fn report(title: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{title}:\n{}", found.join("\n"));
}

#[test]
fn every_file_lies_in_a_room_of_the_house() {
    let all = sources();
    let strangers = all.iter().filter(|s| s.name != "lib.rs" && height(s.room()).is_none());
    report("not in the house of STYLE.md", strangers.map(|s| s.name.clone()).collect());
}

#[test]
fn arrows_between_rooms_point_down_the_house() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| s.name != "lib.rs") {
        for (at, other) in uses(source) {
            let room = source.room();
            let line = source.line(at);
            if height(&other).is_none() {
                found.push(format!("src/{}:{line}: '{other}' is no room of the house", source.name));
            } else if !may_use(room, &other) {
                found.push(format!("src/{}:{line}: {room} may not use {other}", source.name));
            }
        }
    }
    report("arrows against the house", found);
}

fn search(rooms: impl Fn(&str) -> bool, words: &[&str], allowed: &[(&str, &str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut used = vec![false; allowed.len()];
    for source in sources().iter().filter(|s| s.name != "lib.rs" && rooms(s.room())) {
        for (i, (code, whole)) in source.code.lines().zip(source.whole.lines()).enumerate() {
            if !words.iter().any(|w| code.contains(w)) {
                continue;
            }
            match allowed.iter().position(|(file, text, _)| *file == source.name && whole.contains(text)) {
                Some(entry) => used[entry] = true,
                None => found.push(format!("src/{}:{}: {}", source.name, i + 1, whole.trim())),
            }
        }
    }
    for ((file, text, why), _) in allowed.iter().zip(used).filter(|(_, used)| !used) {
        found.push(format!("allowed in src/{file} ({why}), but not there any more: {text}"));
    }
    found
}

#[test]
fn nothing_panics_where_bytes_from_outside_arrive() {
    report("may panic", search(|room| NO_PANICS.contains(&room), PANICS, PANICS_ALLOWED));
}

#[test]
fn clippy_forbids_panics_and_unchecked_indexing_where_bytes_from_outside_arrive() {
    let mut found = Vec::new();
    let all = sources();
    for room in NO_PANICS {
        let name = format!("{room}/mod.rs");
        if !all.iter().any(|s| s.name == name && s.whole.contains(LINTS)) {
            found.push(format!("src/{name} has no line {LINTS}"));
        }
    }
    for source in all.iter().filter(|s| NO_PANICS.contains(&s.room()) && !s.name.starts_with(TESTING)) {
        for (at, _) in source.code.match_indices("clippy::") {
            let attribute =
                source.code[..at].rfind("#").map_or("", |from| source.code[from..].lines().next().unwrap_or(""));
            let item = attribute.starts_with("#[expect(") || attribute.starts_with("#![cfg_attr(not(test), deny(");
            if !item {
                found.push(format!(
                    "src/{}:{}: an exception is '#[expect(…, reason = …)]'",
                    source.name,
                    source.line(at)
                ));
            }
        }
    }
    report("lints", found);
}

/// Storages that only tests use.
const TESTING: &str = "storage/testing/";

#[test]
fn storages_for_tests_are_behind_their_feature_and_nothing_else_uses_them() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| !s.name.starts_with(TESTING)) {
        for (at, _) in source.code.match_indices("testing") {
            let line = source.line(at);
            let before: Vec<_> = source.whole.lines().take(line).collect();
            let declared = source.name == "storage/mod.rs" && before[line - 1].trim() == "pub mod testing;";
            if !(declared && before[line - 2].contains("feature = \"testing\"")) {
                found.push(format!("src/{}:{line}: {}", source.name, before[line - 1].trim()));
            }
        }
    }
    report("storages for tests", found);
}

#[test]
fn the_library_prints_nothing_and_reads_no_environment_and_no_clock() {
    report("not for a library", search(|room| !SILENT_BUT.contains(&room), NOISE, NOISE_ALLOWED));
}

#[test]
fn files_stay_short_and_begin_with_what_they_are() {
    let mut found = Vec::new();
    for source in sources() {
        let lines = source.whole.lines().count();
        if lines > LINES {
            found.push(format!("src/{} has {lines} lines", source.name));
        }
        if !source.whole.starts_with("//!") {
            found.push(format!("src/{} does not begin with what it is", source.name));
        }
    }
    report("not as STYLE.md has it", found);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut found = Vec::new();
    for source in sources() {
        for (at, _) in source.code.match_indices("unsafe {") {
            let line = source.line(at);
            let above: Vec<_> = source.whole.lines().take(line).collect();
            if !above.iter().rev().take(12).any(|l| l.contains("SAFETY:")) {
                found.push(format!("src/{}:{line}", source.name));
            }
        }
    }
    report("unsafe without a SAFETY comment", found);
}

#[test]
fn no_two_files_import_each_other_nor_do_more_in_a_circle() {
    let graph = imports::graph(&sources());
    assert!(graph.values().map(BTreeSet::len).sum::<usize>() > 200, "the imports are not seen: {graph:#?}");
    report("circles of imports", imports::circles(&graph).iter().map(|files| files.join(", ")).collect());
}

#[test]
fn an_import_is_seen_through_super_and_re_exports() {
    let file = |name: &str, text: &str| {
        let (code, _) = rust_text::without_tests(&blank(text));
        Source { name: name.into(), whole: text.into(), code }
    };
    let sources = [
        file("lib.rs", "pub mod a; pub mod b;"),
        file(
            "a/mod.rs",
            "//! use self::x::X;\nmod x; mod y; pub use x::{X, deep::{Deep as Other}}; pub(crate) use y::Y; pub struct Own;",
        ),
        file("a/x.rs", "use std::fmt;\nfn f() { super::y::g(); because(); }"),
        file("a/x/deep.rs", "use super::super::{Own, y::{self, g}};"),
        file("a/y.rs", "#[cfg(test)]\nuse super::X;\nfn h() { reuse ::x(); }"),
        file("b.rs", "pub(super) use crate::a::Y;\n#[allow(x)]\nuse crate::a::Other;\nuse crate::a::{X as Z};"),
    ];
    let graph = imports::graph(&sources);
    let of = |name: &str| graph[name].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("a/mod.rs"), [""; 0]);
    assert_eq!(of("a/x.rs"), ["a/y.rs"]);
    assert_eq!(of("a/x/deep.rs"), ["a/mod.rs", "a/y.rs"]);
    assert_eq!(of("a/y.rs"), [""; 0]);
    assert_eq!(of("b.rs"), ["a/x.rs", "a/x/deep.rs"]);
    assert!(imports::circles(&graph).is_empty());
    let round = [("1", "2"), ("2", "3"), ("3", "1"), ("4", "1"), ("3", "5")];
    let mut graph = imports::Graph::new();
    for (from, to) in round {
        graph.entry(from.into()).or_default().insert(to.into());
        graph.entry(to.into()).or_default();
    }
    assert_eq!(imports::circles(&graph), [["1", "2", "3"]]);
}

#[test]
fn an_arrow_is_seen_however_it_is_written_and_not_where_it_is_none() {
    let text = r##"
        use crate::{format::{Field, limits}, storage::Storage, log};
        // use crate::cli;
        /// [`crate::fuse`]
        fn f<'a>(s: &'a str) { let _ = ("crate::fs", r#"crate::care " "#, '"', '\'', b'"'); crate::table::x(s) }
        #[cfg(test)]
        mod tests { use crate::pack; fn g() { if true { crate::pack::x() } } }
        #[cfg(test)]
        use crate::inflate;
        fn h() { other_crate::thaw::x() }
    "##;
    let source = Source { name: "meta/x.rs".into(), whole: text.into(), code: String::new() };
    let (code, _) = rust_text::without_tests(&blank(text));
    let source = Source { code, ..source };
    let mut names: Vec<_> = uses(&source).into_iter().map(|u| u.1).collect();
    names.sort();
    assert_eq!(names, ["format", "log", "storage", "table"]);
    assert!(
        may_use("fs", "pack") && may_use("cli", "fuse") && may_use("storage", "format") && may_use("care", "freeze")
    );
    assert!(
        !may_use("chunk", "meta") && !may_use("format", "storage") && !may_use("pack", "fs") && !may_use("fs", "care")
    );
    assert!(!may_use("main", "fs") && may_use("main", "cli") && !may_use("fuse", "cli") && !may_use("pack", "inflate"));
}
