//! Which file of floe imports from which, by its `use` lines and its paths, and where imports form a circle.
//!
//! A name that a `mod.rs` re-exports counts as imported from its original file. A re-export is not an import.

use crate::rust_text::Source;
use std::collections::{BTreeMap, BTreeSet};

/// A module, as the names on its path from the crate root.
type Module = Vec<String>;

/// For each file, the files that it imports from, by name.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// One path in a file: its segments, the name it gets, and whether it is a re-export.
struct Import {
    path: Vec<String>,
    alias: String,
    exported: bool,
}

fn module_of(file: &str) -> Module {
    let mut parts: Module = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// The imports among all files. `main.rs` is not part of the crate.
pub fn graph(sources: &[Source]) -> Graph {
    let sources: Vec<_> = sources.iter().filter(|s| s.name != "main.rs").collect();
    let files: BTreeMap<Module, &str> = sources.iter().map(|s| (module_of(&s.name), s.name.as_str())).collect();
    let imports: Vec<_> = sources.iter().map(|s| (module_of(&s.name), s.name.as_str(), imports(&s.code))).collect();
    let mut names = BTreeMap::new();
    // A re-export may re-export another re-export, and so on.
    for _ in 0..4 {
        for (module, _, imports) in &imports {
            for import in imports.iter().filter(|i| !matches!(i.alias.as_str(), "*" | "self" | "")) {
                if let Some(file) = resolve(&files, &names, module, &import.path) {
                    names.insert((module.clone(), import.alias.clone()), file.to_owned());
                }
            }
        }
    }
    let mut graph = Graph::new();
    for (module, file, imports) in &imports {
        let to = graph.entry((*file).to_owned()).or_default();
        for import in imports.iter().filter(|i| !i.exported) {
            let end = import.path.len() - usize::from(matches!(import.alias.as_str(), "*" | "self"));
            to.extend(resolve(&files, &names, module, &import.path[..end]).filter(|other| other != file));
        }
    }
    graph
}

/// The file that a path leads to from `module`, if it belongs to the crate.
fn resolve(
    files: &BTreeMap<Module, &str>,
    names: &BTreeMap<(Module, String), String>,
    module: &Module,
    path: &[String],
) -> Option<String> {
    let mut at = module.clone();
    let mut rest = path.iter().peekable();
    match rest.peek()?.as_str() {
        "crate" => at.clear(),
        "self" => {}
        "super" => {
            while rest.next_if(|name| *name == "super").is_some() {
                at.pop();
            }
        }
        first => {
            at.push(first.to_owned());
            let child = files.contains_key(&at);
            at.pop();
            if !child {
                return None;
            }
        }
    }
    for name in rest.filter(|name| !matches!(name.as_str(), "crate" | "self")) {
        at.push(name.clone());
        if !files.contains_key(&at) {
            at.pop();
            let known = names.get(&(at.clone(), name.clone())).cloned();
            return known.or_else(|| files.get(&at).map(|file| (*file).to_owned()));
        }
    }
    files.get(&at).map(|file| (*file).to_owned())
}

/// Every `use` in blanked code, and every path that begins with `crate`, `super` or `self`.
fn imports(code: &str) -> Vec<Import> {
    let mut out = Vec::new();
    let mut rest = String::with_capacity(code.len());
    let mut statements = code.split_inclusive(';');
    for statement in &mut statements {
        // Before `use` there may be an attribute or the end of an item, and directly before it `pub` or `pub(…)`.
        let found = statement.match_indices("use ").map(|(at, _)| at).find(|&at| {
            let before = statement[..at].trim_end();
            let word = before.rsplit(|c: char| c.is_whitespace() || c == '}' || c == ']').next().unwrap_or_default();
            (word.is_empty() || word.starts_with("pub") || word == ";")
                && statement.trim_end().ends_with(';')
                && !statement[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
        });
        match found {
            Some(at) => {
                let exported = statement[..at].trim_end().rsplit(char::is_whitespace).next();
                let exported = exported.is_some_and(|word| word.starts_with("pub"));
                rest.push_str(&statement[..at]);
                tree(statement[at + 4..].trim_end_matches(';'), &[], exported, &mut out);
            }
            None => rest.push_str(statement),
        }
    }
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in rest.match_indices(root) {
            if rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let end = rest[at..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            let path = &rest[at..end.map_or(rest.len(), |end| at + end)];
            let path = path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
            out.push(Import { path, alias: String::new(), exported: false });
        }
    }
    out
}

/// The paths of a use tree.
fn tree(text: &str, before: &[String], exported: bool, out: &mut Vec<Import>) {
    let text = text.trim();
    let (head, group) = match text.find('{') {
        Some(at) => (&text[..at], text[at + 1..].strip_suffix('}')),
        None => (text, None),
    };
    let (head, alias) = head.split_once(" as ").map_or((head, None), |(head, alias)| (head, Some(alias.trim())));
    let mut path = before.to_vec();
    path.extend(head.split("::").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
    let Some(group) = group else {
        let alias = alias.map(str::to_owned).or_else(|| path.last().cloned()).unwrap_or_default();
        if !path.is_empty() {
            out.push(Import { path, alias, exported });
        }
        return;
    };
    let mut depth = 0usize;
    let mut member = String::new();
    for c in group.chars().chain([',']) {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                tree(&std::mem::take(&mut member), &path, exported, out);
                continue;
            }
            _ => {}
        }
        member.push(c);
    }
}

/// Groups of files that can be reached from one another; each group once.
pub fn circles(graph: &Graph) -> Vec<Vec<&str>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|from| (from.as_str(), reachable(graph, from))).collect();
    let mut out: Vec<Vec<&str>> = Vec::new();
    for (from, to) in &reach {
        let circle: Vec<_> = to.iter().copied().filter(|other| reach[other].contains(from)).collect();
        if circle.first() == Some(from) && circle.len() > 1 {
            out.push(circle);
        }
    }
    out
}

fn reachable<'a>(graph: &'a Graph, from: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(file) = todo.pop() {
        for next in graph.get(file).into_iter().flatten() {
            if seen.insert(next.as_str()) {
                todo.push(next);
            }
        }
    }
    seen
}
