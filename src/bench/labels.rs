//! Places labels beside the points of a plot.
//!
//! Invariants: no two labels overlap, none covers a marker, and none leaves the plot; the same points give the same
//! positions. A label is next to its marker if possible; a label that had to move has a leader line. Positions around
//! the marker are tried, nearest first, and each label takes the cheapest. Then each label is placed again with all
//! others fixed, a few times. This is repeated for several orders, and the cheapest result counts. Called by `plot`.

/// A point of the plot as (x, y), in pixels; y grows downwards.
pub type Point = (f64, f64);

/// An upright rectangle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    /// Position of the left edge.
    pub left: f64,
    /// Position of the top edge.
    pub top: f64,
    /// Width of the rectangle.
    pub width: f64,
    /// Height of the rectangle.
    pub height: f64,
}

/// A marker and the size of its label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Item {
    /// Centre of the marker.
    pub at: Point,
    /// Half the marker's width and height.
    pub radius: f64,
    /// Width of the label.
    pub width: f64,
    /// Height of the label.
    pub height: f64,
}

/// The position of a label.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed {
    /// Area that the label covers.
    pub rect: Rect,
    /// A line from the marker to the label, unless the label is next to it.
    pub leader: Option<(Point, Point)>,
}

/// Free space between a marker and its own label, in pixels.
const BESIDE: f64 = 4.0;
/// Free space between a label and everything else, in pixels.
const FREE: f64 = 2.0;
/// Distances between marker and label to try, in pixels.
const DISTANCES: &[f64] = &[BESIDE, 9.0, 15.0, 22.0, 30.0, 40.0, 52.0, 66.0, 84.0, 106.0, 132.0, 164.0];
/// Directions from marker to label to try, with the cost of each: readers look to the right first.
const DIRECTIONS: &[(f64, f64, f64)] = &[
    (1.0, 0.0, 0.0),
    (-1.0, 0.0, 1.0),
    (0.0, -1.0, 2.0),
    (0.0, 1.0, 2.0),
    (0.9, -0.9, 1.5),
    (0.9, 0.9, 1.5),
    (-0.9, -0.9, 2.5),
    (-0.9, 0.9, 2.5),
    (0.5, -1.0, 2.0),
    (0.5, 1.0, 2.0),
    (-0.5, -1.0, 2.5),
    (-0.5, 1.0, 2.5),
    (1.0, -0.5, 1.0),
    (1.0, 0.5, 1.0),
    (-1.0, -0.5, 2.0),
    (-1.0, 0.5, 2.0),
];
/// Costs, in units of distance: of a label on a drawn line, of a label closer to a foreign marker than to its own, and
/// of a leader that crosses a label, a marker or another leader.
const ON_LINE: f64 = 12.0;
const AMBIGUOUS: f64 = 30.0;
const CROSSING: f64 = 45.0;
/// Cost of a label's position anywhere in the plot: more than that of any position near its marker.
const ANYWHERE: f64 = 200.0;
/// Number of times that each label is placed again after all are placed, since a better position may be free then.
const ROUNDS: usize = 4;
/// Distance in pixels between marker and label below which no line connects them.
const NEAR: f64 = 8.0;

impl Rect {
    fn right(&self) -> f64 {
        self.left + self.width
    }

    fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// Returns the same rectangle, enlarged by `by` on each side.
    fn grown(&self, by: f64) -> Rect {
        Rect { left: self.left - by, top: self.top - by, width: self.width + 2.0 * by, height: self.height + 2.0 * by }
    }

    /// Returns whether both rectangles share more than an edge.
    pub fn overlaps(&self, other: &Rect) -> bool {
        self.left < other.right() && other.left < self.right() && self.top < other.bottom() && other.top < self.bottom()
    }

    /// Returns whether `other` is inside this rectangle.
    pub fn contains(&self, other: &Rect) -> bool {
        self.left <= other.left
            && self.top <= other.top
            && self.right() >= other.right()
            && self.bottom() >= other.bottom()
    }

    fn nearest(&self, to: Point) -> Point {
        (to.0.clamp(self.left, self.right()), to.1.clamp(self.top, self.bottom()))
    }

    fn crosses(&self, (from, to): (Point, Point)) -> bool {
        let corners = [
            (self.left, self.top),
            (self.right(), self.top),
            (self.right(), self.bottom()),
            (self.left, self.bottom()),
        ];
        let inside = |p: Point| self.nearest(p) == p;
        inside(from) || inside(to) || (0..4).any(|i| cross((from, to), (corners[i], corners[(i + 1) % 4])))
    }
}

impl Item {
    /// Returns the area that the marker covers.
    pub fn marker(&self) -> Rect {
        let side = 2.0 * self.radius;
        Rect { left: self.at.0 - self.radius, top: self.at.1 - self.radius, width: side, height: side }
    }

    fn beside(&self, (dx, dy): (f64, f64), distance: f64) -> Rect {
        let away = self.radius + distance;
        Rect {
            left: self.at.0 + dx * away - self.width * (1.0 - dx) / 2.0,
            top: self.at.1 + dy * away - self.height * (1.0 - dy) / 2.0,
            width: self.width,
            height: self.height,
        }
    }

    fn placed(&self, rect: Rect) -> Placed {
        let to = rect.nearest(self.at);
        let far = distance(self.at, to);
        // Start at the marker's edge.
        let part = self.radius / far.max(self.radius);
        let from = (self.at.0 + (to.0 - self.at.0) * part, self.at.1 + (to.1 - self.at.1) * part);
        Placed { rect, leader: (far > self.radius + NEAR).then_some((from, to)) }
    }
}

fn distance(a: Point, b: Point) -> f64 {
    (a.0 - b.0).hypot(a.1 - b.1)
}

fn side(a: Point, b: Point, c: Point) -> f64 {
    (b.0 - a.0) * (c.1 - a.1) - (b.1 - a.1) * (c.0 - a.0)
}

fn cross((a, b): (Point, Point), (c, d): (Point, Point)) -> bool {
    side(a, b, c) * side(a, b, d) < 0.0 && side(c, d, a) * side(c, d, b) < 0.0
}

/// Returns the positions of the labels, one for each item; `None` if the plot is too crowded. Labels avoid `lines` if
/// that is cheap.
pub fn place(plot: Rect, items: &[Item], lines: &[(Point, Point)]) -> Option<Vec<Placed>> {
    let board = Board { plot, items, lines };
    let from = |key: &dyn Fn(&Item) -> f64| {
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by(|&a, &b| key(&items[a]).total_cmp(&key(&items[b])));
        order
    };
    // The order decides which label gets the best position, so several orders are tried and the cheapest counts.
    let orders = [
        from(&|item| -board.neighbours(item)),
        from(&|item| item.at.0),
        from(&|item| -item.at.0),
        from(&|item| item.at.1),
        from(&|item| -item.at.1),
        from(&|item| -item.width),
    ];
    let all = orders.into_iter().filter_map(|order| board.solve(order));
    all.min_by(|a, b| a.0.total_cmp(&b.0)).map(|best| best.1)
}

struct Board<'a> {
    plot: Rect,
    items: &'a [Item],
    lines: &'a [(Point, Point)],
}

impl Board<'_> {
    /// Returns the number of markers near the marker of `item`, including itself.
    fn neighbours(&self, item: &Item) -> f64 {
        let area = item.marker().grown(item.height * 2.0);
        self.items.iter().filter(|other| area.overlaps(&other.marker())).count() as f64
    }

    /// Places all labels in `order`, if possible, and returns the cost.
    fn solve(&self, mut order: Vec<usize>) -> Option<(f64, Vec<Placed>)> {
        // A label that found no position goes first in the next attempt.
        for _ in 0..=self.items.len() {
            match self.attempt(&order) {
                Ok(solution) => return Some(solution),
                Err(stuck) => {
                    let index = order.remove(stuck);
                    order.insert(0, index);
                }
            }
        }
        None
    }

    /// Places all labels in `order`, or returns the index in `order` of the first label for which there is no position.
    fn attempt(&self, order: &[usize]) -> Result<(f64, Vec<Placed>), usize> {
        let mut placed: Vec<Option<Placed>> = vec![None; self.items.len()];
        let mut costs = vec![0.0; self.items.len()];
        for (turn, &i) in order.iter().enumerate() {
            let (cost, best) = self.best(i, &placed).ok_or(turn)?;
            (costs[i], placed[i]) = (cost, Some(best));
        }
        for &i in (0..ROUNDS).flat_map(|_| order) {
            let before = placed[i].take();
            (costs[i], placed[i]) = match self.best(i, &placed) {
                Some((cost, best)) => (cost, Some(best)),
                None => (costs[i], before),
            };
        }
        Ok((costs.iter().sum(), placed.into_iter().flatten().collect()))
    }

    /// Returns the cheapest position for label `i`, and its cost. The labels in `placed` stay where they are. Returns
    /// `None` if there is no room.
    fn best(&self, i: usize, placed: &[Option<Placed>]) -> Option<(f64, Placed)> {
        let item = &self.items[i];
        let mut best: Option<(f64, Placed)> = None;
        let mut consider = |rect: Rect, cost: f64| {
            if best.as_ref().is_some_and(|best| best.0 <= cost) || !self.is_free(&rect, placed) {
                return;
            }
            let candidate = item.placed(rect);
            let cost = cost + self.penalty(i, &candidate, placed);
            if best.as_ref().is_none_or(|best| cost < best.0) {
                best = Some((cost, candidate));
            }
        };
        for far in DISTANCES {
            DIRECTIONS.iter().for_each(|(dx, dy, cost)| consider(item.beside((*dx, *dy), *far), far * 1.5 + cost));
        }
        if best.is_none() {
            self.everywhere(item, |rect| {
                let away = distance(item.at, rect.nearest(item.at));
                if best.as_ref().is_none_or(|best| ANYWHERE + away < best.0) && self.is_free(&rect, placed) {
                    best = Some((ANYWHERE + away, item.placed(rect)));
                }
            });
        }
        best
    }

    /// Passes positions all over the plot to `each`, a quarter of a label's height apart.
    fn everywhere(&self, item: &Item, mut each: impl FnMut(Rect)) {
        let steps = |room: f64, step: f64| (0..=(room / step).max(0.0) as usize).map(move |i| i as f64 * step);
        for down in steps(self.plot.height - item.height, item.height / 4.0) {
            for right in steps(self.plot.width - item.width, item.height / 2.0) {
                let (left, top) = (self.plot.left + right, self.plot.top + down);
                each(Rect { left, top, width: item.width, height: item.height });
            }
        }
    }

    fn is_free(&self, rect: &Rect, placed: &[Option<Placed>]) -> bool {
        let around = rect.grown(FREE);
        self.plot.contains(rect)
            && !self.items.iter().any(|item| around.overlaps(&item.marker()))
            && !placed.iter().flatten().any(|other| around.overlaps(&other.rect))
    }

    fn penalty(&self, i: usize, candidate: &Placed, placed: &[Option<Placed>]) -> f64 {
        let own = distance(self.items[i].at, candidate.rect.nearest(self.items[i].at));
        let others = || self.items.iter().filter(|other| other.at != self.items[i].at);
        let mut cost = 0.0;
        cost += ON_LINE * self.lines.iter().filter(|line| candidate.rect.crosses(**line)).count() as f64;
        if others().any(|other| distance(other.at, candidate.rect.nearest(other.at)) < own) {
            cost += AMBIGUOUS;
        }
        let mut crossings = 0;
        if let Some(leader) = candidate.leader {
            crossings += others().filter(|other| other.marker().grown(FREE).crosses(leader)).count();
            crossings += placed.iter().flatten().filter(|other| other.rect.grown(FREE).crosses(leader)).count();
        }
        for other in placed.iter().flatten().filter_map(|other| other.leader) {
            crossings += usize::from(candidate.rect.grown(FREE).crosses(other));
            crossings += usize::from(candidate.leader.is_some_and(|leader| cross(leader, other)));
        }
        cost + CROSSING * crossings as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(plot: Rect, items: &[Item], placed: &[Placed]) {
        assert_eq!(placed.len(), items.len());
        for (i, label) in placed.iter().enumerate() {
            assert!(plot.contains(&label.rect), "label {i} leaves the plot: {label:?}");
            assert_eq!((label.rect.width, label.rect.height), (items[i].width, items[i].height));
            for (j, item) in items.iter().enumerate() {
                assert!(!label.rect.overlaps(&item.marker()), "label {i} covers marker {j}: {label:?} {item:?}");
            }
            for (j, other) in placed.iter().enumerate().skip(i + 1) {
                assert!(!label.rect.overlaps(&other.rect), "labels {i} and {j} overlap: {label:?} {other:?}");
            }
        }
    }

    /// Up to 25 points, some at the same position, with labels as wide as names.
    fn items(width: f64, height: f64) -> impl Strategy<Value = Vec<Item>> {
        let point = (12.0..width - 12.0, 12.0..height - 12.0);
        let spread = prop::collection::vec((point.clone(), 20.0..150.0f64), 0..=25);
        let near = (point, prop::collection::vec(((0.0..3.0f64, 0.0..3.0f64), 20.0..150.0f64), 0..=25));
        let near = near.prop_map(|(at, all)| {
            all.into_iter().map(|((dx, dy), width)| ((at.0 + dx.floor(), at.1 + dy.floor()), width)).collect::<Vec<_>>()
        });
        prop_oneof![spread, near]
            .prop_map(|all| all.into_iter().map(|(at, width)| Item { at, radius: 5.0, width, height: 15.0 }).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        #[test]
        fn no_label_overlaps_another_covers_a_marker_or_leaves_a_wide_plot(items in items(1000.0, 420.0)) {
            let plot = Rect { left: 0.0, top: 0.0, width: 1000.0, height: 420.0 };
            let placed = place(plot, &items, &[]).expect("there is room");
            check(plot, &items, &placed);
            prop_assert_eq!(place(plot, &items, &[]), Some(placed));
        }

        #[test]
        fn no_label_overlaps_another_covers_a_marker_or_leaves_a_narrow_plot(items in items(300.0, 500.0)) {
            let plot = Rect { left: 0.0, top: 0.0, width: 300.0, height: 500.0 };
            let placed = place(plot, &items, &[((0.0, 0.0), (300.0, 500.0))]).expect("there is room");
            check(plot, &items, &placed);
        }
    }

    #[test]
    fn a_point_alone_has_its_label_to_the_right_without_a_leader() {
        let plot = Rect { left: 0.0, top: 0.0, width: 300.0, height: 100.0 };
        let item = Item { at: (100.0, 50.0), radius: 5.0, width: 80.0, height: 14.0 };
        let placed = place(plot, &[item], &[]).unwrap();
        assert_eq!(placed, [Placed { rect: Rect { left: 109.0, top: 43.0, width: 80.0, height: 14.0 }, leader: None }]);
    }

    #[test]
    fn a_plot_without_room_says_so() {
        let plot = Rect { left: 0.0, top: 0.0, width: 100.0, height: 30.0 };
        let item = Item { at: (50.0, 15.0), radius: 5.0, width: 60.0, height: 14.0 };
        assert_eq!(place(plot, &[item, item, item], &[]), None);
    }
}
