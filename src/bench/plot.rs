//! Draws a report as SVG: size against the time that packing and reading take.
//!
//! Invariants: each point has its name beside it; shape and weight tell floe from its peers, and colour only repeats
//! that. Colours come from classes (`plot.css`), so one drawing serves light and dark. Larger sizes are higher, longer
//! times further right: lower left is better in both. Called by `page`, and by `examples/bench_page.rs` for README's
//! picture.

use super::axis::{Axis, Quantity};
use super::labels::{Item, Placed, Point, Rect, place};
use super::report::{Entry, Kind, Outcome, Read, Report};
use super::sheet::order;
use super::show::{Human, rounded};
use svg::Node;
use svg::node::Text;
use svg::node::element::Element;

/// The shape of a point in a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An entry of floe.
    Disc,
    /// Another program, whose result is read through a mount.
    Square,
    /// Another program, whose result is extracted to be read.
    Triangle,
}

/// One entry in a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Name of the entry.
    pub name: String,
    /// Shape with which the entry is drawn.
    pub shape: Shape,
    /// Time in seconds.
    pub seconds: f64,
    /// Size in bytes.
    pub bytes: f64,
    /// Lower and upper bound of the true size in bytes, for a prediction.
    pub range: Option<(f64, f64)>,
}

/// A chart of size against one kind of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Title of the chart.
    pub title: &'static str,
    /// Meaning of the times.
    pub axis: &'static str,
    /// Points of the chart.
    pub marks: Vec<Mark>,
    /// Names of entries that have a size, but not this time.
    pub absent: Vec<String>,
}

/// The size of a drawing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Width in pixels.
    pub width: f64,
    /// Minimum height in pixels: it grows if labels need it.
    pub height: f64,
    /// Whether the drawing is for a small screen: uses a smaller font.
    pub narrow: bool,
}

/// Frame of the pictures in README, which shows them at about this width.
const PICTURE: Frame = Frame { width: 860.0, height: 400.0, narrow: false };
const PICTURE_TITLE: f64 = 34.0;
const PICTURE_GAP: f64 = 20.0;
const KEY: f64 = 30.0;

const STYLE: &str = include_str!("plot.css");
const RADIUS: f64 = 5.0;
/// Height in pixels of the title of the upright axis, which is above the plot; and of marks and title of the other
/// axis, which are below it.
const ABOVE: f64 = 32.0;
const BELOW: f64 = 46.0;
/// Free space to the right of the plot, for half of the last mark's text.
const RIGHT: f64 = 24.0;
/// Least distance of marks on an axis, in pixels: texts on the lower axis are up to 50 pixels wide.
const APART: f64 = 58.0;
const APART_DOWN: f64 = 30.0;
/// Most times that a plot grows until its labels have room.
const GROWTHS: usize = 24;
const GROWTH: f64 = 1.15;
/// Largest width of a label, as a fraction of the plot's.
const WIDEST: f64 = 0.7;

/// Returns the charts that have points.
pub fn charts(report: &Report) -> Vec<Chart> {
    let pass = |entry: &Entry, read| entry.passes.iter().find(|pass| pass.read == read).cloned();
    let all = [
        chart(report, "Size and packing time", "Packing time", |e| Some(e.packing.as_ref()?.seconds)),
        chart(report, "Size and time to read everything", "Time to read every file in order", |e| {
            Some(pass(e, Read::InOrder)?.seconds)
        }),
        chart(report, "Size and time of a random read", "Mean time of a random read of 4 KiB", |e| {
            pass(e, Read::Random).map(|pass| pass.seconds / pass.operations as f64)
        }),
    ];
    all.into_iter().filter(|chart| !chart.marks.is_empty()).collect()
}

fn chart(report: &Report, title: &'static str, axis: &'static str, seconds: impl Fn(&Entry) -> Option<f64>) -> Chart {
    let mut out = Chart { title, axis, marks: Vec::new(), absent: Vec::new() };
    for entry in order(report).into_iter().map(|index| &report.entries[index]) {
        let (Some(size), Outcome::Done) = (&entry.size, &entry.outcome) else { continue };
        let range = size.range.map(|range| (range.low.max(1) as f64, range.high.max(1) as f64));
        let shape = match entry.kind {
            Kind::Floe => Shape::Disc,
            Kind::Peer if !entry.passes.is_empty() && entry.passes.iter().all(|pass| !pass.mounted) => Shape::Triangle,
            Kind::Peer => Shape::Square,
        };
        match seconds(entry).filter(|seconds| seconds.is_finite() && *seconds > 0.0 && size.total > 0) {
            Some(seconds) => {
                out.marks.push(Mark { name: plain(&entry.name), shape, seconds, bytes: size.total as f64, range })
            }
            None => out.absent.push(entry.name.clone()),
        }
    }
    out
}

/// Returns `text` on one line, with characters escaped that reorder or hide text.
pub fn plain(text: &str) -> String {
    let hides = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().flat_map(|c| if hides(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

fn element<const N: usize>(name: &str, class: &str, numbers: [(&str, f64); N]) -> Element {
    let mut out = Element::new(name);
    if !class.is_empty() {
        out.assign("class", class);
    }
    for (name, number) in numbers {
        out.assign(name, tenths(number));
    }
    out
}

fn tenths(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn text(class: &str, at: Point, anchor: &str, content: &str) -> Element {
    let mut out = element("text", class, [("x", at.0), ("y", at.1)]);
    if anchor != "start" {
        out.assign("text-anchor", anchor);
    }
    out.append(Text::new(content));
    out
}

fn line(class: &str, from: Point, to: Point) -> Element {
    element("line", class, [("x1", from.0), ("y1", from.1), ("x2", to.0), ("y2", to.1)])
}

/// Draws a marker, alone.
pub fn marker(shape: Shape, (x, y): Point) -> Element {
    let r = RADIUS;
    match shape {
        Shape::Disc => element("circle", "mark", [("cx", x), ("cy", y), ("r", r)]),
        Shape::Square => element(
            "rect",
            "mark",
            [("x", x - r + 0.8), ("y", y - r + 0.8), ("width", 2.0 * r - 1.6), ("height", 2.0 * r - 1.6)],
        ),
        Shape::Triangle => {
            let mut out = element("polygon", "mark", []);
            let corners = [(x, y - r), (x + r, y + r - 0.8), (x - r, y + r - 0.8)];
            out.assign("points", corners.map(|(x, y)| format!("{},{}", tenths(x), tenths(y))).join(" "));
            out
        }
    }
}

/// Returns what a shape means.
pub fn meaning(shape: Shape) -> &'static str {
    match shape {
        Shape::Disc => "floe",
        Shape::Square => "other program",
        Shape::Triangle => "other program, extracted to be read",
    }
}

/// Returns the shapes that charts use, in a fixed order.
pub fn shapes(charts: &[Chart]) -> Vec<Shape> {
    let used = |shape: &Shape| charts.iter().flat_map(|chart| &chart.marks).any(|mark| mark.shape == *shape);
    [Shape::Disc, Shape::Square, Shape::Triangle].into_iter().filter(used).collect()
}

/// Returns an upper bound of a text's width in pixels, by DejaVu Sans, which is wider than the fonts of most systems.
pub fn text_width(text: &str, size: f64, bold: bool) -> f64 {
    let of = |c: char| match c {
        'i' | 'j' | 'l' | ' ' | '.' | ',' | '\'' | 'I' => 0.32,
        'f' | 't' | 'r' | '-' | ':' | ';' | '|' | '!' | '(' | ')' | '[' | ']' | '/' | '\\' => 0.42,
        'c' | 's' | 'k' | 'v' | 'x' | 'y' | 'z' | 'J' | '_' | '"' => 0.6,
        'm' | 'M' | 'W' | '%' | '@' => 1.0,
        'w' | '+' | '=' | '<' | '>' | '~' | '#' | '&' => 0.84,
        'A'..='Z' => 0.79,
        c if c.is_ascii() => 0.64,
        _ => 1.05,
    };
    text.chars().map(of).sum::<f64>() * size * if bold { 1.11 } else { 1.0 }
}

/// Returns `name`, with its middle cut out if it is wider than `room`.
fn shortened(name: &str, room: f64, size: f64, bold: bool) -> String {
    let chars: Vec<char> = name.chars().collect();
    let cut = |kept: usize| -> String {
        let (head, tail) = (kept.div_ceil(2), kept / 2);
        chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect()
    };
    if text_width(name, size, bold) <= room {
        return name.to_owned();
    }
    let fits = (0..chars.len()).rev().map(cut).find(|text| text_width(text, size, bold) <= room);
    fits.unwrap_or_else(|| "…".into())
}

/// A chart with all positions computed.
struct Drawing<'a> {
    chart: &'a Chart,
    frame: Frame,
    inner: Rect,
    sizes: Axis,
    times: Axis,
    at: Vec<Point>,
    front: Vec<Point>,
    names: Vec<String>,
    labels: Vec<Placed>,
}

impl Frame {
    fn font(&self) -> f64 {
        if self.narrow { 12.0 } else { 13.0 }
    }
}

impl<'a> Drawing<'a> {
    /// Computes all positions; the frame grows if the labels need it.
    fn new(chart: &'a Chart, frame: Frame) -> Option<Self> {
        let mut frame = frame;
        let mut drawing = Self::unlabelled(chart, frame)?;
        for _ in 0..GROWTHS {
            let lines: Vec<_> = drawing.front.windows(2).map(|pair| (pair[0], pair[1])).collect();
            if let Some(labels) = place(drawing.inner, &drawing.items(), &lines) {
                drawing.labels = labels;
                return Some(drawing);
            }
            frame.height *= GROWTH;
            drawing = Self::unlabelled(chart, frame)?;
        }
        Some(drawing)
    }

    fn unlabelled(chart: &'a Chart, frame: Frame) -> Option<Self> {
        let bounds = chart.marks.iter().flat_map(|m| m.range.map_or([m.bytes; 2], |(low, high)| [low, high]));
        let bounds = bounds.chain(chart.marks.iter().map(|mark| mark.bytes));
        let sizes = Axis::new(Quantity::Bytes, bounds, APART_DOWN / (frame.height - ABOVE - BELOW))?;
        let widest = sizes.marks.iter().map(|mark| text_width(&mark.1, frame.font(), false)).fold(0.0, f64::max);
        let left = widest + 8.0;
        let inner = Rect { left, top: ABOVE, width: frame.width - left - RIGHT, height: frame.height - ABOVE - BELOW };
        let times = Axis::new(Quantity::Seconds, chart.marks.iter().map(|mark| mark.seconds), APART / inner.width)?;
        let mut drawing = Drawing {
            chart,
            frame,
            inner,
            sizes,
            times,
            at: Vec::new(),
            front: Vec::new(),
            names: Vec::new(),
            labels: Vec::new(),
        };
        drawing.at = chart.marks.iter().map(|mark| (drawing.x(mark.seconds), drawing.y(mark.bytes))).collect();
        let floe = |mark: &&Mark| mark.shape == Shape::Disc;
        let mut front: Vec<&Mark> = chart.marks.iter().filter(floe).collect();
        front.sort_by(|a, b| b.bytes.total_cmp(&a.bytes));
        drawing.front = front.iter().map(|mark| (drawing.x(mark.seconds), drawing.y(mark.bytes))).collect();
        let room = inner.width * WIDEST;
        let name = |mark: &Mark| shortened(&mark.name, room, frame.font(), mark.shape == Shape::Disc);
        drawing.names = chart.marks.iter().map(name).collect();
        Some(drawing)
    }

    fn x(&self, seconds: f64) -> f64 {
        self.inner.left + self.inner.width * self.times.place(seconds)
    }

    fn y(&self, bytes: f64) -> f64 {
        self.inner.top + self.inner.height * (1.0 - self.sizes.place(bytes))
    }

    fn items(&self) -> Vec<Item> {
        let font = self.frame.font();
        let all = self.at.iter().zip(&self.names).zip(&self.chart.marks);
        all.map(|((at, name), mark)| Item {
            at: *at,
            radius: RADIUS,
            width: text_width(name, font, mark.shape == Shape::Disc),
            height: font + 3.0,
        })
        .collect()
    }

    fn axes(&self, out: &mut Element) {
        let Rect { left, top, width, height } = self.inner;
        let (right, bottom) = (left + width, top + height);
        for (value, name) in &self.sizes.marks {
            let y = self.y(*value);
            out.append(line("grid", (left, y), (right, y)));
            out.append(text("", (left - 8.0, y + 4.5), "end", name));
        }
        for (value, name) in &self.times.marks {
            let x = self.x(*value);
            out.append(line("grid", (x, top), (x, bottom)));
            out.append(text("", (x, bottom + 18.0), "middle", name));
        }
        out.append(text("", (0.0, 14.0), "start", "Size of the image (↓ smaller)"));
        out.append(text("", (right, bottom + 39.0), "end", &format!("{} (← faster)", self.chart.axis)));
    }

    fn into_group(self) -> Element {
        let mut out = Element::new("g");
        self.axes(&mut out);
        if self.front.len() > 1 {
            let mut front = element("polyline", "front", []);
            let points = self.front.iter().map(|(x, y)| format!("{},{}", tenths(*x), tenths(*y)));
            front.assign("points", points.collect::<Vec<_>>().join(" "));
            out.append(front);
        }
        for (from, to) in self.labels.iter().filter_map(|label| label.leader) {
            out.append(line("leader", from, to));
        }
        for (mark, at) in self.chart.marks.iter().zip(&self.at) {
            let mut group = element("g", if mark.shape == Shape::Disc { "point floe" } else { "point" }, []);
            group.assign("data-bytes", mark.bytes);
            group.assign("data-seconds", mark.seconds);
            let mut tip = Element::new("title");
            let size = Human(mark.bytes as u64);
            tip.append(Text::new(format!("{}: {size}, {}", mark.name, time(mark.seconds))));
            group.append(tip);
            if let Some((low, high)) = mark.range {
                group.append(line("range", (at.0, self.y(low)), (at.0, self.y(high))));
            }
            group.append(marker(mark.shape, *at));
            out.append(group);
        }
        for (((label, name), mark), at) in self.labels.iter().zip(&self.names).zip(&self.chart.marks).zip(&self.at) {
            let class = if mark.shape == Shape::Disc { "label floe" } else { "label" };
            let Rect { left, top, width, height } = label.rect;
            // If the font is narrower than assumed, this keeps the label at its marker.
            let (x, anchor) = match () {
                () if left >= at.0 => (left, "start"),
                () if left + width <= at.0 => (left + width, "end"),
                () => (left + width / 2.0, "middle"),
            };
            out.append(text(class, (x, top + height - 4.0), anchor, name));
        }
        out
    }
}

/// Returns a time in the units that people use.
fn time(seconds: f64) -> String {
    let (scale, unit) = match seconds {
        ..0.001 => (1e-6, "µs"),
        ..1.0 => (1e-3, "ms"),
        _ => (1.0, "s"),
    };
    format!("{} {unit}", rounded(seconds / scale, 3))
}

fn root(width: f64, height: f64, class: &str, title: &str) -> Element {
    let mut out = element("svg", class, [("width", width), ("height", height)]);
    out.assign("viewBox", format!("0 0 {} {}", tenths(width), tenths(height)));
    out.assign("role", "img");
    out.assign("aria-label", plain(title).replace('"', "'"));
    out
}

/// Draws `chart` as an SVG element inside an HTML page, without an XML namespace, which HTML does not need.
pub fn draw(chart: &Chart, frame: Frame) -> String {
    let Some(drawing) = Drawing::new(chart, frame) else { return String::new() };
    let class = if frame.narrow { "plot narrow" } else { "plot wide" };
    let mut out = root(frame.width, drawing.frame.height, class, chart.title);
    out.append(drawing.into_group());
    out.to_string()
}

/// Draws `shape` as a small picture for use in a line of text.
pub fn key(shape: Shape) -> String {
    let mut out = root(14.0, 14.0, "plot key", meaning(shape));
    let mut group = element("g", if shape == Shape::Disc { "floe" } else { "" }, []);
    group.append(marker(shape, (7.0, 7.0)));
    out.append(group);
    out.to_string()
}

/// Draws a picture for README: size against packing time, and below it size against the time to read everything. It
/// follows the reader's light or dark setting, and has a background for pages that do not.
pub fn readme_svg(report: &Report) -> String {
    let charts: Vec<Chart> = charts(report).into_iter().take(2).collect();
    let mut content = Element::new("g");
    let mut x = 12.0;
    for shape in shapes(&charts) {
        let mut group = element("g", if shape == Shape::Disc { "floe" } else { "" }, []);
        group.append(marker(shape, (x, 15.0)));
        content.append(group);
        content.append(text("", (x + 12.0, 19.5), "start", meaning(shape)));
        x += 36.0 + text_width(meaning(shape), PICTURE.font(), false);
    }
    let mut height = KEY;
    for drawing in charts.iter().filter_map(|chart| Drawing::new(chart, PICTURE)) {
        content.append(text("title", (0.0, height + 20.0), "start", drawing.chart.title));
        let mut group = Element::new("g");
        group.assign("transform", format!("translate(0 {})", tenths(height + PICTURE_TITLE)));
        height += PICTURE_TITLE + drawing.frame.height + PICTURE_GAP;
        group.append(drawing.into_group());
        content.append(group);
    }
    const EDGE: f64 = 12.0;
    let (width, height) = (PICTURE.width + 2.0 * EDGE, height - PICTURE_GAP + 2.0 * EDGE);
    let mut out = root(width, height, "plot", "Size against packing time and reading time, floe and other programs");
    out.assign("xmlns", "http://www.w3.org/2000/svg");
    let mut style = Element::new("style");
    style.append(svg::node::Blob::new(STYLE));
    out.append(style);
    out.append(element("rect", "paper", [("width", width), ("height", height)]));
    content.assign("transform", format!("translate({EDGE} {EDGE})"));
    out.append(content);
    out.to_string() + "\n"
}
