//! Help for people: `floe help`, and texts laid out for the terminal's width.
//!
//! A command's long text is written as blocks, with an empty line between two. A block is a paragraph, or a heading that ends
//! with a colon and lines that begin with two spaces: an item, two spaces or more, and what it means. Called by `cli` and
//! `generate`.

use super::{Cli, Exit, output};
use clap::CommandFactory;
use std::io::Write;

/// Widest text, in columns: longer lines are hard to read.
const WIDEST: usize = 100;
/// Narrowest text that is laid out; below this, lines break at the terminal's edge.
const NARROWEST: usize = 40;
/// Indent in columns of an item's meaning, if that begins on a line of its own.
const INDENT: usize = 6;

/// `floe help`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The command whose help it is; without one, floe's own
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Prints the help.
///
/// # Errors
/// Fails if there is no such command, or standard output cannot be written.
pub fn run(args: Args) -> anyhow::Result<Exit> {
    let argv = std::iter::once("floe").chain(args.command.as_deref()).chain(["--help"]);
    let Err(help) = command().try_get_matches_from(argv) else { return Ok(Exit::Done) };
    if help.use_stderr() {
        let _ = help.print();
        return Ok(Exit::Usage);
    }
    let mut out = output::stdout();
    out.write_all(help.render().to_string().as_bytes())?;
    out.flush()?;
    Ok(Exit::Done)
}

/// Returns the definition of the command line, with its texts laid out for the terminal.
pub fn command() -> clap::Command {
    let width = width();
    let fitted = |command: clap::Command| match command.get_after_help().map(ToString::to_string) {
        Some(text) => command.after_help(laid_out(&text, width)).term_width(width),
        None => command.term_width(width),
    };
    fitted(Cli::command()).mut_subcommands(fitted)
}

fn width() -> usize {
    columns().clamp(NARROWEST, WIDEST)
}

/// Returns the width in columns of the terminal, if one of the standard streams is one; otherwise that in the variable
/// COLUMNS, or a default.
pub fn columns() -> usize {
    let of_terminal = [rustix::stdio::stdout(), rustix::stdio::stderr(), rustix::stdio::stdin()]
        .iter()
        .find_map(|stream| rustix::termios::tcgetwinsize(stream).ok().filter(|size| size.ws_col > 0))
        .map(|size| usize::from(size.ws_col));
    let given = || std::env::var("COLUMNS").ok()?.parse().ok();
    of_terminal.or_else(given).unwrap_or(WIDEST)
}

/// A part of a help text.
#[derive(Debug, PartialEq, Eq)]
pub enum Block {
    /// A paragraph on one line.
    Paragraph(String),
    /// A heading, and items with their meanings.
    List(String, Vec<(String, String)>),
}

/// Splits a text into its blocks.
pub fn blocks(text: &str) -> Vec<Block> {
    text.split("\n\n").filter(|block| !block.trim().is_empty()).map(block).collect()
}

fn block(text: &str) -> Block {
    let mut lines = text.trim_matches('\n').lines();
    let first = lines.next().unwrap_or_default();
    if !lines.clone().any(|line| line.starts_with("  ")) {
        return Block::Paragraph(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let mut items: Vec<(String, String)> = Vec::new();
    for line in lines {
        let line = line.trim();
        let (item, meaning) = line.split_once("  ").unwrap_or((line, ""));
        items.push((item.to_owned(), meaning.trim().to_owned()));
    }
    Block::List(first.to_owned(), items)
}

fn laid_out(text: &str, width: usize) -> String {
    let blocks: Vec<_> = blocks(text)
        .iter()
        .map(|block| match block {
            Block::Paragraph(text) => wrapped(text, 0, 0, "", width),
            Block::List(heading, items) => format!("{heading}\n{}", list(items, width)),
        })
        .collect();
    blocks.join("\n")
}

fn list(items: &[(String, String)], width: usize) -> String {
    let longest = |of: &dyn Fn(&(String, String)) -> usize| items.iter().map(of).max().unwrap_or(0);
    let with_meaning = |item: &(String, String)| if item.1.is_empty() { 0 } else { item.0.chars().count() };
    let (left, right) = (longest(&with_meaning), longest(&|item| item.1.chars().count()));
    let fits = 2 + left + 2 + right <= width;
    let line = |(item, meaning): &(String, String)| match meaning.is_empty() {
        false if fits => format!("  {item:<left$}  {meaning}\n"),
        _ => wrapped(item, 2, INDENT, " \\", width) + &wrapped(meaning, INDENT, INDENT, "", width),
    };
    items.iter().map(line).collect()
}

/// Lays out the words of `text` in lines of at most `width` columns. All lines but the last end with `more`. An empty
/// text is no line.
fn wrapped(text: &str, first: usize, others: usize, more: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    let words = if more.is_empty() { text.split_whitespace().map(str::to_owned).collect() } else { shell_words(text) };
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() + more.len() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            last => {
                let indent = if last.is_none() { first } else { others };
                if let Some(last) = last {
                    last.push_str(more);
                }
                lines.push(format!("{:indent$}{word}", ""));
            }
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Splits a command line into words; what is quoted stays in one.
fn shell_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_quoted = false;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match words.last_mut() {
            Some(last) if is_quoted => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
        is_quoted ^= word.matches('\'').count() % 2 == 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
One two three four five
six seven.

Examples:
  floe ls x.floe                         what it holds
  floe ls --json x.floe | jq '.a | .b'
";

    #[test]
    fn a_text_fills_the_width_it_has() {
        let wide = "One two three four five six seven.\n\nExamples:\n  floe ls x.floe  what it holds\n  \
                    floe ls --json x.floe | jq '.a | .b'\n";
        assert_eq!(laid_out(TEXT, 60), wide);
        let narrow = "One two three four\nfive six seven.\n\nExamples:\n  floe ls x.floe\n      what it holds\n  \
                      floe ls --json \\\n      x.floe | jq \\\n      '.a | .b'\n";
        assert_eq!(laid_out(TEXT, 20), narrow);
    }

    #[test]
    fn the_texts_of_all_commands_fit_where_words_do() {
        for command in Cli::command().get_subcommands() {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for width in [60, 80, 100] {
                let laid = laid_out(&text, width);
                let too_long = laid.lines().find(|line| line.chars().count() > width);
                assert_eq!(too_long, None, "{} at {width}", command.get_name());
            }
        }
    }
}
