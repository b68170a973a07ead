//! Decides which entries of a source tree are packed, and says why.
//!
//! The scan asks a [`Filter`]. [`FilterRules`] answers by the user's options: gitignore patterns, a list of names,
//! tagged directories, a size. Invariants: an answer depends only on the path, kind and size of an entry (and, for a
//! directory, on what it holds); a directory that is left out is never walked. Called by the scan of `pack`; built by
//! `cli`. It does no I/O itself: the scan passes in what a directory holds.

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder, Glob};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Name of the file that marks a cache directory (<https://bford.info/cachedir/>).
pub const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
/// The first bytes of a valid [`CACHE_TAG`].
pub const CACHE_TAG_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// An entry of a source that the walk over the sources found.
#[derive(Debug, Clone, Copy)]
pub struct FilterEntry<'a> {
    /// Path relative to the source, without a leading slash, components separated by `/`. It is never empty: the source
    /// itself is always packed.
    pub path: &'a [u8],
    /// Whether the entry is a directory (a symlink to one is not).
    pub is_dir: bool,
    /// Size of a regular file in bytes, 0 for other types.
    pub size: u64,
}

/// A directory that is packed and whose entries are about to be walked.
pub struct FilterDir<'a> {
    /// Path relative to the source, empty for the source itself.
    pub path: &'a [u8],
    /// A function that returns whether the directory holds an entry of a given name.
    pub has: &'a dyn Fn(&[u8]) -> bool,
    /// A function that returns the first bytes of a file in the directory, given its name and the most bytes to return;
    /// `None` if it cannot be read or is not a regular file.
    pub head: Head<'a>,
}

/// A function that returns the first bytes of a file in a directory, given its name and the most bytes to return.
pub type Head<'a> = &'a dyn Fn(&[u8], usize) -> Option<Vec<u8>>;

/// Why an entry is packed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why<'a> {
    /// No rule matches the entry.
    Default,
    /// A pattern matches the entry.
    Pattern {
        /// The pattern as it was given.
        pattern: &'a str,
        /// Path of the file that the pattern was read from; `None` if it was given on the command line.
        from: Option<&'a Path>,
    },
    /// There are `--include` patterns, and none matches the entry.
    NotIncluded,
    /// The entry is a directory that may hold something to pack.
    OnTheWay,
    /// The list of names holds the entry, or holds a directory above it.
    Listed,
    /// There is a list of names, and the entry is not in it.
    NotListed,
    /// The entry is larger than this many bytes.
    Larger(u64),
}

/// Whether an entry is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// The entry is packed; a directory is walked.
    Take(Why<'a>),
    /// The entry is not packed, and neither is anything below it.
    Skip(Why<'a>),
}

impl Decision<'_> {
    /// Returns whether the entry is packed.
    pub fn is_take(&self) -> bool {
        matches!(self, Decision::Take(_))
    }
}

/// Which entries of a directory are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents<'a> {
    /// Every entry that [`Filter::decide`] takes.
    All,
    /// Only the entry of this name, which is the tag that marks the directory as one to leave out.
    Only(&'a [u8]),
}

/// The rules that decide what is packed. The same question must always get the same answer, from any thread.
pub trait Filter: Send + Sync {
    /// Decides whether `entry` is packed. All its ancestors are.
    fn decide(&self, entry: &FilterEntry<'_>) -> Decision<'_>;

    /// Decides which entries of a packed directory are packed. Called before `decide` is called for them.
    fn enter(&self, dir: &FilterDir<'_>) -> Contents<'_>;
}

/// A filter that takes everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct TakeAll;

impl Filter for TakeAll {
    fn decide(&self, _: &FilterEntry<'_>) -> Decision<'_> {
        Decision::Take(Why::Default)
    }

    fn enter(&self, _: &FilterDir<'_>) -> Contents<'_> {
        Contents::All
    }
}

/// A pattern that is not valid, and why.
#[derive(Debug, thiserror::Error)]
#[error("'{pattern}' is not a pattern{}: {message}", place(.from))]
pub struct PatternError {
    pattern: String,
    from: Option<PathBuf>,
    message: String,
}

fn place(from: &Option<PathBuf>) -> String {
    from.as_ref().map_or_else(String::new, |path| format!(" (in '{}')", path.display()))
}

/// Gitignore patterns in the order in which they were given: the last match decides, and `!` negates a pattern.
#[derive(Debug)]
pub struct Patterns {
    builder: GitignoreBuilder,
    is_empty: bool,
    /// Patterns of the command line, and whether each decided anything.
    given: BTreeMap<String, AtomicBool>,
}

impl Default for Patterns {
    fn default() -> Self {
        Patterns { builder: GitignoreBuilder::new(""), is_empty: true, given: BTreeMap::new() }
    }
}

impl Patterns {
    /// Adds a pattern from the command line. Unlike in a file, `#` begins no comment.
    ///
    /// # Errors
    /// Fails if it is not a valid pattern.
    pub fn add(&mut self, pattern: &str) -> Result<(), PatternError> {
        let escaped = if pattern.starts_with('#') { format!("\\{pattern}") } else { pattern.to_owned() };
        self.line(&escaped, None)?;
        if !escaped.starts_with('!') {
            self.given.insert(escaped, AtomicBool::new(false));
        }
        Ok(())
    }

    /// Adds the lines of a pattern file, without empty lines and comments (`#`).
    ///
    /// # Errors
    /// Fails at the first line that is not a valid pattern.
    pub fn add_lines(&mut self, text: &str, from: &Path) -> Result<(), PatternError> {
        text.trim_start_matches('\u{feff}').lines().try_for_each(|line| self.line(line, Some(from)))
    }

    fn line(&mut self, line: &str, from: Option<&Path>) -> Result<(), PatternError> {
        self.is_empty &= line.trim().is_empty();
        let from = from.map(Path::to_path_buf);
        self.builder.add_line(from.clone(), line).map(drop).map_err(|error| PatternError {
            pattern: line.to_owned(),
            from,
            message: innermost(error).to_string(),
        })
    }

    fn build(self) -> Result<Option<Compiled>, PatternError> {
        if self.is_empty {
            return Ok(None);
        }
        let built = self.builder.build().map_err(|error| PatternError {
            pattern: "all patterns together".into(),
            from: None,
            message: innermost(error).to_string(),
        });
        Ok(Some(Compiled { patterns: built?, given: self.given }))
    }
}

/// Compiled patterns that paths are compared with.
#[derive(Debug)]
struct Compiled {
    patterns: Gitignore,
    given: BTreeMap<String, AtomicBool>,
}

impl Compiled {
    /// Records that a pattern decided something.
    fn used(&self, glob: &Glob) {
        if let (None, Some(used)) = (glob.from(), self.given.get(glob.original())) {
            used.store(true, Ordering::Relaxed);
        }
    }

    fn unused(&self) -> impl Iterator<Item = &str> {
        let unused = self.given.iter().filter(|(_, used)| !used.load(Ordering::Relaxed));
        unused.map(|(pattern, _)| pattern.as_str())
    }
}

/// Returns the innermost error. The crate `ignore` wraps it in errors that name the file, the line and the pattern; the
/// caller's message already names these.
fn innermost(error: ignore::Error) -> ignore::Error {
    match error {
        ignore::Error::WithLineNumber { err, .. } | ignore::Error::WithPath { err, .. } => innermost(*err),
        ignore::Error::Glob { glob: _, err } => ignore::Error::Glob { glob: None, err },
        other => other,
    }
}

/// A list of names relative to the source. It records which names the scan met.
#[derive(Debug, Default)]
pub struct NameList {
    names: BTreeMap<Vec<u8>, Listed>,
}

#[derive(Debug, Default)]
struct Listed {
    with_everything_below: bool,
    seen: AtomicBool,
}

impl NameList {
    /// Parses the names in `text`, each ended by `separator`. A leading `./` is dropped. A directory alone is packed
    /// without its content; with a `/` after its name it is packed with everything below it.
    ///
    /// # Errors
    /// Fails at a name that begins with `/` or has `..` in it: it would be outside the source.
    pub fn parse(text: &[u8], separator: u8) -> Result<Self, PatternError> {
        let mut list = NameList::default();
        for line in text.split(|&byte| byte == separator).filter(|line| !line.is_empty()) {
            let parts = || line.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".");
            if line[0] == b'/' || parts().any(|part| part == b"..") {
                return Err(PatternError {
                    pattern: String::from_utf8_lossy(line).into_owned(),
                    from: None,
                    message: "a listed name must be relative to the source and stay inside it".into(),
                });
            }
            let name = parts().collect::<Vec<_>>().join(&b'/');
            let listed = list.names.entry(name).or_default();
            listed.with_everything_below |= line.ends_with(b"/") || line == b".";
        }
        Ok(list)
    }

    /// Returns the names that no entry matched, sorted.
    pub fn unseen(&self) -> impl Iterator<Item = &[u8]> {
        let unseen = |(_, listed): &(&Vec<u8>, &Listed)| !listed.seen.load(Ordering::Relaxed);
        self.names.iter().filter(unseen).map(|(name, _)| name.as_slice()).filter(|name| !name.is_empty())
    }

    fn decide(&self, entry: &FilterEntry<'_>) -> Decision<'static> {
        let own = self.names.get(entry.path);
        if let Some(listed) = own {
            listed.seen.store(true, Ordering::Relaxed);
        }
        if own.is_some() || self.lies_below_one(entry.path) {
            Decision::Take(Why::Listed)
        } else if entry.is_dir && self.leads_to_one(entry.path) {
            Decision::Take(Why::OnTheWay)
        } else {
            Decision::Skip(Why::NotListed)
        }
    }

    fn lies_below_one(&self, path: &[u8]) -> bool {
        let ends = (0..path.len()).filter(|&end| end == 0 || path[end] == b'/');
        ends.map(|end| &path[..end]).any(|dir| self.names.get(dir).is_some_and(|l| l.with_everything_below))
    }

    fn leads_to_one(&self, dir: &[u8]) -> bool {
        let start = [dir, b"/"].concat();
        let range = (Bound::Included(start.as_slice()), Bound::Unbounded);
        self.names.range::<[u8], _>(range).next().is_some_and(|(name, _)| name.starts_with(&start))
    }
}

/// Options from which the rules are compiled.
#[derive(Debug, Default)]
pub struct FilterOptions {
    /// Patterns of entries to leave out. They win over `include`.
    pub exclude: Patterns,
    /// Patterns of files to pack, with the directories on the way to them. Without patterns, all are packed.
    pub include: Patterns,
    /// Whether to pack only the tag of directories with a valid [`CACHE_TAG`].
    pub exclude_caches: bool,
    /// Names of entries: of directories that hold an entry of one of these names, only that entry is packed.
    pub exclude_if_present: Vec<Vec<u8>>,
    /// Size in bytes: larger regular files are left out.
    pub exclude_larger_than: Option<u64>,
    /// List of names: only these are packed.
    pub list: Option<NameList>,
}

/// A filter by patterns, tags, sizes and a list of names.
#[derive(Debug)]
pub struct FilterRules {
    exclude: Option<Compiled>,
    include: Option<Compiled>,
    exclude_caches: bool,
    exclude_if_present: Vec<Vec<u8>>,
    exclude_larger_than: Option<u64>,
    list: Option<NameList>,
}

impl FilterRules {
    /// Compiles the rules.
    ///
    /// # Errors
    /// Fails if the matcher does not accept the patterns together.
    pub fn new(options: FilterOptions) -> Result<Self, PatternError> {
        Ok(FilterRules {
            exclude: options.exclude.build()?,
            include: options.include.build()?,
            exclude_caches: options.exclude_caches,
            exclude_if_present: options.exclude_if_present,
            exclude_larger_than: options.exclude_larger_than,
            list: options.list,
        })
    }

    /// Returns the listed names that no entry matched. Call it after the scan.
    pub fn unseen(&self) -> impl Iterator<Item = &[u8]> {
        self.list.iter().flat_map(NameList::unseen)
    }

    /// Returns the `--exclude` and then the `--include` patterns of the command line that decided nothing, without
    /// those that begin with `!`. Call it after the scan.
    pub fn unused(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let exclude = self.exclude.iter().flat_map(Compiled::unused).map(|pattern| ("--exclude", pattern));
        exclude.chain(self.include.iter().flat_map(Compiled::unused).map(|pattern| ("--include", pattern)))
    }

    fn included(&self, path: &Path, is_dir: bool) -> Decision<'_> {
        let Some(include) = &self.include else { return Decision::Take(Why::Default) };
        match include.patterns.matched_path_or_any_parents(path, is_dir) {
            Match::Ignore(glob) => {
                include.used(glob);
                Decision::Take(because(glob))
            }
            _ if is_dir => Decision::Take(Why::OnTheWay),
            Match::Whitelist(glob) => Decision::Skip(because(glob)),
            Match::None => Decision::Skip(Why::NotIncluded),
        }
    }
}

fn because(glob: &Glob) -> Why<'_> {
    Why::Pattern { pattern: glob.original(), from: glob.from() }
}

impl Filter for FilterRules {
    fn decide(&self, entry: &FilterEntry<'_>) -> Decision<'_> {
        let listed = self.list.as_ref().map_or(Decision::Take(Why::Default), |list| list.decide(entry));
        if !listed.is_take() {
            return listed;
        }
        let path = Path::new(OsStr::from_bytes(entry.path));
        let mut taken = self.included(path, entry.is_dir);
        if !taken.is_take() {
            return taken;
        }
        if taken == Decision::Take(Why::Default) {
            taken = listed;
        }
        // The scan walks from the top and never enters a directory that is left out, so only the entry itself must be
        // checked.
        match self.exclude.as_ref().map_or(Match::None, |exclude| exclude.patterns.matched(path, entry.is_dir)) {
            Match::Ignore(glob) => {
                self.exclude.iter().for_each(|exclude| exclude.used(glob));
                return Decision::Skip(because(glob));
            }
            Match::Whitelist(glob) => taken = Decision::Take(because(glob)),
            Match::None => {}
        }
        match self.exclude_larger_than {
            Some(limit) if !entry.is_dir && entry.size > limit => Decision::Skip(Why::Larger(limit)),
            _ => taken,
        }
    }

    fn enter(&self, dir: &FilterDir<'_>) -> Contents<'_> {
        if let Some(name) = self.exclude_if_present.iter().find(|name| (dir.has)(name)) {
            return Contents::Only(name);
        }
        let is_cache = || (dir.head)(CACHE_TAG, CACHE_TAG_SIGNATURE.len()).is_some_and(|h| h == CACHE_TAG_SIGNATURE);
        if self.exclude_caches && (dir.has)(CACHE_TAG) && is_cache() {
            return Contents::Only(CACHE_TAG);
        }
        Contents::All
    }
}

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Default => f.write_str("no rule matches"),
            Why::Pattern { pattern, from: None } => write!(f, "pattern '{pattern}'"),
            Why::Pattern { pattern, from: Some(from) } => write!(f, "pattern '{pattern}' in '{}'", from.display()),
            Why::NotIncluded => f.write_str("no --include matches"),
            Why::OnTheWay => f.write_str("may hold something to take"),
            Why::Listed => f.write_str("listed"),
            Why::NotListed => f.write_str("not listed"),
            Why::Larger(limit) => write!(f, "larger than {limit} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Given {
        exclude: &'static [&'static str],
        include: &'static [&'static str],
        options: FilterOptions,
    }

    impl Given {
        fn rules(self) -> FilterRules {
            let mut options = self.options;
            self.exclude.iter().for_each(|pattern| options.exclude.add(pattern).unwrap());
            self.include.iter().for_each(|pattern| options.include.add(pattern).unwrap());
            FilterRules::new(options).unwrap()
        }
    }

    /// Whether the path is packed. As the scan does, it first asks for each directory on the way. A trailing slash
    /// marks a directory.
    fn takes(rules: &FilterRules, path: &str) -> bool {
        let whole = path.trim_end_matches('/');
        let ends = whole.match_indices('/').map(|(at, _)| (at, true)).chain([(whole.len(), path.ends_with('/'))]);
        let mut entries = ends.map(|(end, is_dir)| FilterEntry { path: &whole.as_bytes()[..end], is_dir, size: 100 });
        entries.all(|entry| rules.decide(&entry).is_take())
    }

    fn taken(rules: &FilterRules, paths: &[&'static str]) -> Vec<&'static str> {
        paths.iter().copied().filter(|path| takes(rules, path)).collect()
    }

    #[test]
    fn without_rules_everything_is_taken() {
        let rules = Given::default().rules();
        assert!(takes(&rules, "a/b/c") && takes(&rules, "d/"));
    }

    #[test]
    fn patterns_are_those_of_gitignore() {
        let rules =
            Given { exclude: &["*.o", "!keep.o", "/build", "tmp/", "#a#", "x[0-9]"], ..Given::default() }.rules();
        let paths =
            ["a.o", "d/a.o", "keep.o", "d/keep.o", "build/", "d/build/", "tmp/", "d/tmp/", "tmp", "#a#", "x1", "xx"];
        assert_eq!(taken(&rules, &paths), ["keep.o", "d/keep.o", "d/build/", "tmp", "xx"]);
        assert!(!takes(&rules, "tmp/inside/deep"));
    }

    #[test]
    fn with_an_include_only_files_that_match_are_taken_and_the_directories_on_the_way() {
        let rules = Given { include: &["*.rs", "docs/", "!docs/*.tmp"], ..Given::default() }.rules();
        let paths = ["a.rs", "src/b.rs", "src/", "c.py", "src/d.py", "docs/x", "docs/deep/y", "docs/z.tmp"];
        assert_eq!(taken(&rules, &paths), ["a.rs", "src/b.rs", "src/", "docs/x", "docs/deep/y"]);
    }

    #[test]
    fn exclude_wins_over_include() {
        let rules = Given { include: &["*.rs"], exclude: &["target/", "b.rs"], ..Given::default() }.rules();
        assert_eq!(taken(&rules, &["a.rs", "b.rs", "target/c.rs"]), ["a.rs"]);
    }

    #[test]
    fn names_that_are_no_text_match_by_their_bytes() {
        let rules = Given { exclude: &["*.o"], ..Given::default() }.rules();
        let entry = |path| FilterEntry { path, is_dir: false, size: 0 };
        assert!(!rules.decide(&entry(b"\xff\xfe.o")).is_take());
        assert!(rules.decide(&entry(b"\xff\xfe.c")).is_take());
        assert!(rules.decide(&entry(b"new\nline")).is_take());
    }

    #[test]
    fn only_files_can_be_too_large() {
        let options = FilterOptions { exclude_larger_than: Some(99), ..FilterOptions::default() };
        let rules = Given { options, ..Given::default() }.rules();
        let large = FilterEntry { path: b"a", is_dir: false, size: 100 };
        assert_eq!(rules.decide(&large), Decision::Skip(Why::Larger(99)));
        assert!(rules.decide(&FilterEntry { size: 99, ..large }).is_take());
        assert!(rules.decide(&FilterEntry { is_dir: true, ..large }).is_take());
    }

    #[test]
    fn a_decision_says_which_pattern_made_it() {
        let mut options = FilterOptions::default();
        options.exclude.add_lines("# a comment\n\n*.o\n", Path::new("rules")).unwrap();
        let rules = Given { options, ..Given::default() }.rules();
        let decision = rules.decide(&FilterEntry { path: b"a.o", is_dir: false, size: 0 });
        let Decision::Skip(why) = decision else { panic!("{decision:?}") };
        assert_eq!(why.to_string(), "pattern '*.o' in 'rules'");
    }

    #[test]
    fn a_pattern_that_is_none_is_named() {
        let error = Patterns::default().add("[z-a]").unwrap_err().to_string();
        assert!(error.starts_with("'[z-a]' is not a pattern: "), "{error}");
        let error = Patterns::default().add_lines("ok\n[b-a]\n", Path::new("rules")).unwrap_err().to_string();
        assert!(error.starts_with("'[b-a]' is not a pattern (in 'rules'): "), "{error}");
    }

    #[test]
    fn a_list_brings_what_it_names_and_the_directories_on_the_way() {
        let list = NameList::parse(b"a/b\0./c/d/\0e\0gone\0", 0).unwrap();
        let options = FilterOptions { list: Some(list), ..FilterOptions::default() };
        let rules = Given { options, exclude: &["*.o"], ..Given::default() }.rules();
        let paths = ["a/", "a/b", "a/x", "ab", "c/", "c/x", "c/d/", "c/d/x/y", "c/d/y.o", "e/", "e/x"];
        assert_eq!(taken(&rules, &paths), ["a/", "a/b", "c/", "c/d/", "c/d/x/y", "e/"]);
        assert_eq!(rules.unseen().collect::<Vec<_>>(), [b"gone"]);
    }

    #[test]
    fn a_listed_name_that_leads_out_of_the_source_is_refused() {
        for wrong in ["/etc/passwd", "../x", "a/../../x"] {
            assert!(NameList::parse(wrong.as_bytes(), b'\n').is_err(), "{wrong}");
        }
        assert!(NameList::parse(b"\n\n.\n", b'\n').is_ok());
    }

    #[test]
    fn of_a_tagged_directory_only_the_tag_is_taken() {
        let options = FilterOptions {
            exclude_caches: true,
            exclude_if_present: vec![b".nopack".to_vec()],
            ..FilterOptions::default()
        };
        let rules = Given { options, ..Given::default() }.rules();
        let enter = |names: &[&[u8]], tag: &[u8]| -> Vec<u8> {
            let dir = FilterDir {
                path: b"d",
                has: &|name| names.contains(&name),
                head: &|_, len| Some(tag[..tag.len().min(len)].to_vec()),
            };
            match rules.enter(&dir) {
                Contents::All => b"all".to_vec(),
                Contents::Only(name) => name.to_vec(),
            }
        };
        let tag = [CACHE_TAG_SIGNATURE, b"\n# made by a test"].concat();
        assert_eq!(enter(&[b"a"], &tag), b"all");
        assert_eq!(enter(&[b"a", CACHE_TAG], &tag), CACHE_TAG);
        assert_eq!(enter(&[b"a", CACHE_TAG], b"Signature: another"), b"all");
        assert_eq!(enter(&[CACHE_TAG, b".nopack"], &tag), b".nopack");
    }
}
