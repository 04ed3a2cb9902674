//! The kinds of charts.

use super::frame::{At, Frame, Margins, Picture, Size};
use super::number::{decimals, fixed, power, short, ticks};
use super::theme::Ink;

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is called.
    pub name: String,
    /// Its colour.
    pub ink: Ink,
    /// Thick lines are what to look at.
    pub thick: bool,
    /// In order of the first.
    pub points: Vec<(f64, f64)>,
    /// The point to mark.
    pub best: Option<(f64, f64)>,
}

/// Lines over the same places.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// The lines; empty ones are not drawn.
    pub lines: Vec<Line>,
    /// What the places are.
    pub x: String,
    /// What the heights are.
    pub y: String,
    /// A line of equal values, where places and heights are in the same unit.
    pub diagonal: bool,
    /// Heights from the smallest value, not from zero: for lines that lie close together.
    pub near: bool,
}

/// Where a chart begins, ends, and has its ticks.
pub struct Heights {
    /// Terms that shrink by orders of magnitude can only be seen on a logarithmic axis.
    pub logarithmic: bool,
    range: (f64, f64),
    /// Where, on the axis as drawn, and what to say there.
    pub ticks: Vec<(f64, String)>,
}

impl Heights {
    /// For these values; where `zero`, from there unless that is far.
    pub fn of(values: impl Iterator<Item = f64> + Clone, zero: bool, count: usize) -> Heights {
        let finite = || values.clone().filter(|v| v.is_finite());
        let largest = finite().fold(f64::NEG_INFINITY, f64::max);
        let smallest = finite().fold(f64::INFINITY, f64::min);
        if largest < smallest {
            return Heights { logarithmic: false, range: (0.0, 1.0), ticks: Vec::new() };
        }
        let logarithmic = zero && smallest > 0.0 && largest / smallest > 50.0;
        let (low, high) = match logarithmic {
            true => (smallest.log10(), largest.log10()),
            false if zero => (smallest.min(0.0), largest.max(0.0)),
            false => (smallest, largest),
        };
        let room = if high > low { 0.06 * (high - low) } else { 0.5 };
        let low = if low == 0.0 && zero { 0.0 } else { low - room };
        let high = high + room;
        let ticks = match logarithmic {
            true => decades(low, high, count),
            false => plain(low, high, count),
        };
        Heights { logarithmic, range: (low, high), ticks }
    }

    /// A value's height on the axis.
    pub fn height(&self, value: f64) -> f64 {
        if self.logarithmic { value.log10() } else { value }
    }
}

/// Round values, named.
pub fn plain(low: f64, high: f64, count: usize) -> Vec<(f64, String)> {
    let at = ticks(low, high, count);
    let digits = decimals(&at);
    at.into_iter().map(|v| (v, fixed(v, digits))).collect()
}

/// Powers of ten; where there are too few, two and five times those.
fn decades(low: f64, high: f64, count: usize) -> Vec<(f64, String)> {
    let span = high - low;
    if span >= 2.0 {
        let step = (span / count.max(1) as f64).ceil().max(1.0);
        let first = (low / step).ceil() as i64;
        let last = (high / step).floor() as i64;
        return (first..=last).map(|i| (i as f64 * step, power(i as f64 * step))).collect();
    }
    let tens = (low.floor() as i64)..=(high.ceil() as i64);
    let each = tens.flat_map(|i| [1.0f64, 2.0, 5.0].map(|m| i as f64 + m.log10()));
    each.filter(|v| (low..=high).contains(v)).map(|v| (v, power(v))).collect()
}

fn integers(last: f64, count: usize) -> Vec<(f64, String)> {
    let mut all = ticks(1.0, last, count);
    all.retain(|v| v.fract().abs() < 1e-9 && *v >= 1.0);
    if all.first().is_none_or(|v| *v > 1.0) && all.get(1).is_none_or(|v| *v > 2.0) {
        all.insert(0, 1.0);
    }
    all.into_iter().map(|v| (v, fixed(v, 0))).collect()
}

impl Lines {
    /// All that is drawn of it, on `frame`, and what its places say.
    fn paint(&self, frame: &mut Frame, heights: &Heights) {
        for line in &self.lines {
            let points: Vec<(f64, f64)> =
                line.points.iter().map(|(x, y)| (*x, heights.height(*y))).collect();
            frame.line(&points, line.ink, if line.thick { 2.5 } else { 1.75 });
        }
        for line in &self.lines {
            if let Some((x, y)) = line.best {
                frame.ring((x, heights.height(y)), 4.5, line.ink);
            }
        }
    }

    fn heights(&self, count: usize) -> Heights {
        let values = self.lines.iter().flat_map(|l| l.points.iter().map(|p| p.1));
        Heights::of(values, !self.diagonal && !self.near, count)
    }

    fn places(&self) -> Vec<f64> {
        let mut all: Vec<f64> =
            self.lines.iter().flat_map(|l| l.points.iter().map(|p| p.0)).collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        all
    }

    fn range(&self) -> (f64, f64) {
        let places = self.places();
        let first = places.first().copied().unwrap_or(1.0);
        let last = places.last().copied().unwrap_or(2.0);
        if self.diagonal { (first, last) } else { (1.0f64.min(first), last.max(2.0)) }
    }

    /// In a page.
    pub fn draw(&self, size: Size) -> Picture {
        let heights = self.heights(5);
        let range = self.range();
        let bottom = if self.x.is_empty() { 24.0 } else { 42.0 };
        let names = heights.ticks.iter().map(|t| t.1.chars().count()).max().unwrap_or(1);
        let margins = [16.0 + 6.6 * names as f64, 26.0, 10.0, bottom];
        let unit = match heights.logarithmic {
            true => format!("{} (log scale)", self.y),
            false => self.y.clone(),
        };
        Picture::draw(size, margins, range, heights.range, |f| {
            f.heights(&heights.ticks);
            match self.diagonal {
                true => f.places(&plain(range.0, range.1, 6)),
                false => f.places(&integers(range.1, if size.0 > 500.0 { 12 } else { 6 })),
            }
            f.titles(&self.x, &unit);
            if self.diagonal {
                let ends = (range.0.max(heights.range.0), range.1.min(heights.range.1));
                f.line(&[(ends.0, ends.0), (ends.1, ends.1)], Ink::Muted, 1.0);
            }
            self.paint(f, &heights);
            self.tell(f);
        })
    }

    /// A band for each place, as wide as there is room, that says all values there.
    fn tell(&self, f: &mut Frame) {
        let places = self.places();
        let [left, top, right, bottom] = f.inner;
        let xs: Vec<f64> = places.iter().map(|x| f.at(*x, 0.0).0).collect();
        for (i, place) in places.iter().enumerate() {
            let from = if i == 0 { left } else { (xs[i - 1] + xs[i]) / 2.0 };
            let to = xs.get(i + 1).map_or(right, |next| (next + xs[i]) / 2.0);
            let values = self.lines.iter().filter_map(|l| {
                let at = l.points.iter().find(|p| p.0 == *place)?;
                Some(format!("\n{} {}", l.name, short(at.1)))
            });
            let values: String = values.collect();
            let head = if self.x.is_empty() { "epoch" } else { &self.x };
            f.tell(
                [from, top, to - from, bottom - top],
                format!("{head} {}{values}", short(*place)),
            );
        }
    }

    /// As a file: under a title, with its names at the right.
    pub fn file(&self, title: &str, size: Size) -> Picture {
        let heights = self.heights(6);
        let range = self.range();
        let title =
            if heights.logarithmic { format!("{title} (log scale)") } else { title.to_string() };
        Picture::draw(size, [58.0, 40.0, 170.0, 42.0], range, heights.range, |f| {
            f.text(&title, (16.0, 18.0), At::Left, 13.0, Ink::Text);
            f.heights(&heights.ticks);
            f.places(&integers(range.1, 12));
            self.paint(f, &heights);
            self.names(f, size.0 - 154.0);
        })
    }

    /// In the order of the last values, so that they stand near their lines.
    fn names(&self, f: &mut Frame, left: f64) {
        let mut order: Vec<&Line> = self.lines.iter().filter(|l| !l.points.is_empty()).collect();
        let end = |l: &Line| l.points.last().map_or(0.0, |p| p.1);
        order.sort_by(|a, b| end(b).total_cmp(&end(a)));
        let mut top = 52.0;
        for line in order {
            f.rule((left, top), (left + 18.0, top), line.ink, if line.thick { 3.0 } else { 2.0 });
            f.text(&line.name, (left + 25.0, top), At::Left, 11.0, Ink::Text);
            top += 20.0;
            if let Some((x, y)) = line.best {
                let note = format!("best {}, epoch {x:.0}", short(y));
                f.text(&note, (left + 25.0, top), At::Left, 11.0, Ink::Text);
                top += 20.0;
            }
        }
    }
}

/// Bars that lie, in groups under a name each.
pub struct Bars {
    /// Name, then a value for each of `inks`.
    pub groups: Vec<(String, Vec<Option<f64>>)>,
    /// Name and colour of a group's bars.
    pub inks: Vec<(String, Ink)>,
    /// What the values are.
    pub x: String,
    /// Ends of the axis, where it should have the same on several charts.
    pub range: Option<(f64, f64)>,
}

impl Bars {
    /// As high as it takes.
    pub fn draw(&self, width: f64) -> Picture {
        let (bar, gap) = (if self.inks.len() > 1 { 8.0 } else { 12.0 }, 9.0);
        let group = bar * self.inks.len() as f64 + gap;
        let values = self.groups.iter().flat_map(|g| g.1.iter().flatten().copied());
        let (low, high) = self.range.unwrap_or_else(|| {
            (values.clone().fold(0.0, f64::min), values.fold(0.0, f64::max).max(1e-9) * 1.05)
        });
        let names = self.groups.iter().map(|g| g.0.chars().count()).max().unwrap_or(1);
        let left = (14.0 + 6.3 * names as f64).min(width * 0.45);
        let margins: Margins = [left, 6.0, 36.0, 42.0];
        let size = (width, group * self.groups.len() as f64 + margins[1] + margins[3]);
        Picture::draw(size, margins, (low, high), (0.0, 1.0), |f| {
            f.columns(&plain(low, high, 4));
            f.titles(&self.x, "");
            let zero = f.at(0.0f64.clamp(low, high), 0.0).0;
            for (i, (name, values)) in self.groups.iter().enumerate() {
                let top = f.inner[1] + group * i as f64 + gap / 2.0;
                let middle = top + (group - gap) / 2.0;
                f.text(name, (left - 8.0, middle), At::Right, 11.0, Ink::Text);
                let mut says = name.clone();
                for (k, (value, (what, ink))) in values.iter().zip(&self.inks).enumerate() {
                    let y = top + bar * k as f64;
                    let Some(value) = value else { continue };
                    let x = f.at(value.clamp(low, high), 0.0).0;
                    let (from, to) = (zero.min(x), zero.max(x));
                    f.block([from, y, (to - from).max(1.0), bar - 1.5], *ink, 1.0);
                    let shown = fixed(*value, 2);
                    f.text(&shown, (to + 4.0, y + bar / 2.0 - 0.5), At::Left, 9.0, Ink::Muted);
                    let what = if what.is_empty() { String::new() } else { format!("{what} ") };
                    says.push_str(&format!("\n{what}{}", short(*value)));
                }
                let right = f.inner[2];
                f.tell([0.0, top, right, group - gap], says);
            }
        })
    }
}

/// A cloud of points with the line of equal values.
pub struct Scatter {
    /// Place, height, what it is.
    pub points: Vec<(f64, f64, String)>,
    /// Both axes go this far both ways.
    pub reach: f64,
    /// What the places and the heights are.
    pub titles: (String, String),
}

impl Scatter {
    /// More points than this do not each say what they are.
    pub const TELLING: usize = 1500;

    /// A square plane.
    pub fn draw(&self, width: f64) -> Picture {
        let margins = [36.0, 26.0, 10.0, 42.0];
        let size = (width, width - margins[0] - margins[2] + margins[1] + margins[3]);
        let r = self.reach;
        // What lies outside is drawn at the edge.
        let inside = |v: f64| v.clamp(-r, r);
        Picture::draw(size, margins, (-r, r), (-r, r), |f| {
            let ticks = plain(-r, r, 6);
            f.heights(&ticks);
            f.columns(&ticks);
            f.titles(&self.titles.0, &self.titles.1);
            f.line(&[(-r, -r), (r, r)], Ink::Muted, 1.0);
            for (x, y, _) in &self.points {
                f.dot((inside(*x), inside(*y)), 2.5, Ink::Accent, 0.45);
            }
            if self.points.len() <= Self::TELLING {
                for (x, y, says) in &self.points {
                    f.tell_at((inside(*x), inside(*y)), says.clone());
                }
            }
        })
    }
}

/// Distributions of the same thing, one below the other.
pub struct Ridges {
    /// Name, and how many by bin, from above.
    pub rows: Vec<(String, Vec<f64>)>,
    /// Drawn as an outline in every row.
    pub beside: Vec<f64>,
    /// The bins lie within ± this.
    pub reach: f64,
    /// Colour of the fillings.
    pub ink: Ink,
    /// What is distributed.
    pub x: String,
}

impl Ridges {
    /// All rows to the same scale.
    pub fn draw(&self, width: f64) -> Picture {
        let row = 34.0;
        let margins = [46.0, 30.0, 10.0, 42.0];
        let count = self.rows.len() as f64;
        let size = (width, row * count + margins[1] + margins[3]);
        let all = self.rows.iter().flat_map(|r| &r.1).chain(&self.beside);
        let most = all.copied().fold(1e-9, f64::max);
        let r = self.reach;
        // A row may rise into the one above it.
        let scale = 1.35 / most;
        Picture::draw(size, margins, (-r, r), (0.0, count), |f| {
            f.columns(&plain(-r, r, 6));
            f.titles(&self.x, "");
            let middle =
                |bin: usize, bins: usize| ((bin as f64 + 0.5) / bins as f64 * 2.0 - 1.0) * r;
            for (i, (name, counts)) in self.rows.iter().enumerate() {
                let base = count - 1.0 - i as f64;
                let shape = |of: &[f64]| -> Vec<(f64, f64)> {
                    let line =
                        of.iter().enumerate().map(|(k, n)| (middle(k, of.len()), base + n * scale));
                    line.collect()
                };
                let top = shape(counts);
                let mut filled = top.clone();
                filled.insert(0, (-r, base));
                filled.push((r, base));
                f.area(filled, self.ink, 0.55);
                f.line(&top, self.ink, 1.5);
                f.line(&shape(&self.beside), Ink::Text, 1.0);
                f.line(&[(-r, base), (r, base)], Ink::Grid, 1.0);
                let (_, y) = f.at(0.0, base);
                f.text(name, (38.0, y - 8.0), At::Right, 11.0, Ink::Muted);
                let total: f64 = counts.iter().sum();
                let bins = counts.iter().enumerate();
                let mean =
                    bins.map(|(k, n)| n * middle(k, counts.len())).sum::<f64>() / total.max(1.0);
                let says = format!("epoch {name}\nmean {}\n{total:.0} rows", fixed(mean, 2));
                let [left, _, right, _] = f.inner;
                f.tell([left, y - row, right - left, row], says);
            }
        })
    }
}

/// Values with intervals, one below the other, beside a line at zero.
pub struct Forest {
    /// Each row.
    pub rows: Vec<ForestRow>,
    /// What the values are.
    pub x: String,
}

/// One row of a forest plot.
pub struct ForestRow {
    /// What it is of.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Where it surely lies.
    pub interval: Option<(f64, f64)>,
    /// Whether it is told from zero.
    pub clear: bool,
    /// What the place says.
    pub says: String,
}

impl Forest {
    /// As high as it takes.
    pub fn draw(&self, width: f64) -> Picture {
        let row = 24.0;
        let names = self.rows.iter().map(|r| r.name.chars().count()).max().unwrap_or(1);
        let margins = [(16.0 + 6.4 * names as f64).min(width * 0.45), 8.0, 14.0, 42.0];
        let size = (width, row * self.rows.len() as f64 + margins[1] + margins[3]);
        let ends = self.rows.iter().flat_map(|r| {
            let (a, b) = r.interval.unwrap_or((r.value, r.value));
            [a, b, r.value]
        });
        let low = ends.clone().fold(0.0, f64::min);
        let high = ends.fold(0.0, f64::max);
        let room = 0.05 * (high - low).max(1e-9);
        let (low, high) = (low - room, high + room);
        Picture::draw(size, margins, (low, high), (0.0, 1.0), |f| {
            f.columns(&plain(low, high, if width > 500.0 { 8 } else { 4 }));
            f.titles(&self.x, "");
            let [left, top, right, bottom] = f.inner;
            let zero = f.at(0.0, 0.0).0;
            f.rule((zero, top), (zero, bottom), Ink::Muted, 1.25);
            for (i, r) in self.rows.iter().enumerate() {
                let y = top + row * (i as f64 + 0.5);
                let ink = if r.clear { Ink::Accent } else { Ink::Muted };
                let weight = if r.clear { Ink::Text } else { Ink::Muted };
                f.text(&r.name, (left - 10.0, y), At::Right, 11.0, weight);
                if let Some((a, b)) = r.interval {
                    let (a, b) = (f.at(a, 0.0).0, f.at(b, 0.0).0);
                    f.rule((a, y), (b, y), ink, 2.0);
                    [a, b].iter().for_each(|x| f.rule((*x, y - 3.5), (*x, y + 3.5), ink, 2.0));
                }
                let x = f.at(r.value, 0.0).0;
                f.block([x - 4.0, y - 4.0, 8.0, 8.0], ink, 1.0);
                f.tell([0.0, y - row / 2.0, right, row], r.says.clone());
            }
        })
    }
}

/// Points on rows: a value for each of several in each of some conditions.
pub struct Dots {
    /// The conditions.
    pub rows: Vec<String>,
    /// Name, colour, whether it stands out, and a value by row.
    pub series: Vec<(String, Ink, bool, Vec<Option<f64>>)>,
    /// What the values are.
    pub x: String,
}

impl Dots {
    /// As high as it takes.
    pub fn draw(&self, width: f64) -> Picture {
        let row = 26.0;
        let names = self.rows.iter().map(|r| r.chars().count()).max().unwrap_or(1);
        let margins = [(16.0 + 6.4 * names as f64).min(width * 0.5), 8.0, 14.0, 42.0];
        let size = (width, row * self.rows.len() as f64 + margins[1] + margins[3]);
        let values = self.series.iter().flat_map(|s| s.3.iter().flatten().copied());
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        let room = 0.06 * (high - low).max(1e-6);
        let (low, high) = (low - room, high + room);
        Picture::draw(size, margins, (low, high), (0.0, 1.0), |f| {
            f.columns(&plain(low, high, if width > 500.0 { 8 } else { 4 }));
            f.titles(&self.x, "");
            let [left, top, right, _] = f.inner;
            for (i, name) in self.rows.iter().enumerate() {
                let y = top + row * (i as f64 + 0.5);
                f.text(name, (left - 10.0, y), At::Right, 11.0, Ink::Text);
                f.rule((left, y), (right, y), Ink::Grid, 1.0);
                let mut says = name.clone();
                for (series, ink, out, values) in &self.series {
                    let Some(value) = values.get(i).copied().flatten() else { continue };
                    let x = f.at(value, 0.0).0;
                    let half = if *out { 4.5 } else { 3.0 };
                    let alpha = if *out { 1.0 } else { 0.6 };
                    f.block([x - half, y - half, 2.0 * half, 2.0 * half], *ink, alpha);
                    says.push_str(&format!("\n{series} {}", short(value)));
                }
                f.tell([0.0, y - row / 2.0, right, row], says);
            }
        })
    }
}
