//! What charts are made of: a picture of plotters' with axes, and places that answer to a pointer.
//!
//! All lengths are CSS pixels. plotters' coordinates are whole numbers, so a picture is drawn
//! `FINE` times as large as it is shown.

use super::theme::{Ink, light, themed};
use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Units of a picture in a CSS pixel.
const FINE: f64 = 4.0;

/// A size in CSS pixels.
pub type Size = (f64, f64);

/// A place that says more.
pub struct Hit {
    shape: Shape,
    says: String,
}

enum Shape {
    Rect([f64; 4]),
    Dot(f64, f64),
}

/// A picture, ready for a page.
pub struct Picture {
    svg: String,
    size: Size,
    hits: Vec<Hit>,
    /// Cells, as paths by colour: as rectangles they would be most of a page.
    cells: String,
    spot: Option<Spot>,
}

/// A square of cells that say their values, which are written elsewhere in the page.
struct Spot {
    place: [f64; 4],
    size: usize,
    values: String,
}

/// Where text stands beside its place.
#[derive(Clone, Copy)]
pub enum At {
    /// It begins there.
    Left,
    /// It ends there.
    Right,
    /// Its middle is there.
    Middle,
}

type Plane = Cartesian2d<RangedCoordf64, RangedCoordf64>;

/// Room around the plane: left, top, right, bottom.
pub type Margins = [f64; 4];

/// A plane with room around it, being drawn on.
pub struct Frame<'a> {
    page: DrawingArea<SVGBackend<'a>, Shift>,
    plane: DrawingArea<SVGBackend<'a>, Plane>,
    /// Left, top, right, bottom of the plane.
    pub inner: [f64; 4],
    hits: Vec<Hit>,
    cells: String,
    spot: Option<Spot>,
}

fn px(value: f64) -> i32 {
    (value * FINE).round() as i32
}

/// plotters sizes text by its height; this gives CSS font sizes.
const FONT: f64 = 1.24;

impl Picture {
    /// Draws on a plane of these ranges.
    pub fn draw(
        size: Size,
        margins: Margins,
        x: (f64, f64),
        y: (f64, f64),
        paint: impl FnOnce(&mut Frame),
    ) -> Picture {
        let mut svg = String::new();
        let inner = [margins[0], margins[1], size.0 - margins[2], size.1 - margins[3]];
        let [left, top, right, bottom] = inner.map(px);
        // An empty range would divide by zero.
        let open = |(a, b): (f64, f64)| if b > a { a..b } else { a - 0.5..a + 0.5 };
        let plane = Plane::new(open(x), open(y), (left..right, bottom..top));
        let (hits, cells, spot) = {
            let units = (px(size.0) as u32, px(size.1) as u32);
            let page = SVGBackend::with_string(&mut svg, units).into_drawing_area();
            let plane = page.apply_coord_spec(plane);
            let (hits, cells, spot) = (Vec::new(), String::new(), None);
            let mut frame = Frame { page, plane, inner, hits, cells, spot };
            paint(&mut frame);
            // A picture in memory can always be written.
            let _ = frame.page.present();
            (frame.hits, frame.cells, frame.spot)
        };
        Picture { svg, size, hits, cells, spot }
    }

    /// What is between plotters' outer tags, without attributes that say what holds anyway.
    fn body(&self) -> String {
        let from = self.svg.find('>').map_or(0, |i| i + 1);
        let to = self.svg.rfind("</svg>").unwrap_or(self.svg.len());
        let body = self.svg.get(from..to).unwrap_or_default();
        let body = body.replace(" opacity=\"1\"", "").replace(" \"/>", "\"/>");
        body.replace(" stroke=\"none\"", "") + &self.cells
    }

    /// In a page. `label` says what it is to those who do not see it; `class` may be empty.
    pub fn markup(&self, label: &str, class: &str) -> Markup {
        let (w, h) = self.size;
        let view = format!("0 0 {} {}", px(w), px(h));
        let body = themed(&self.body());
        html! {
            svg class=(class) viewBox=(view) width=(w) height=(h) role="group" aria-label=(label) {
                g aria-hidden="true" { (PreEscaped(body)) }
                @if !self.hits.is_empty() {
                    g class="hits" { (PreEscaped(self.marks())) }
                }
                @if let Some(Spot { place, size, values }) = &self.spot {
                    g class="hits" {
                        rect class="spot" x=(px(place[0])) y=(px(place[1])) width=(px(place[2]))
                            height=(px(place[3])) tabindex="0" role="img" aria-label=(label)
                            data-size=(size) data-values=(values) {}
                    }
                }
            }
        }
    }

    fn marks(&self) -> String {
        let mut out = String::new();
        for (i, hit) in self.hits.iter().enumerate() {
            let tab = if i == 0 { " tabindex=\"0\"" } else { "" };
            let says = escape(&hit.says);
            // Writing to a String cannot fail.
            let _ = match hit.shape {
                Shape::Rect([x, y, w, h]) => write!(
                    out,
                    "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" role=\"img\"{tab}><title>{says}</title></rect>",
                    px(x),
                    px(y),
                    px(w),
                    px(h)
                ),
                Shape::Dot(x, y) => write!(
                    out,
                    "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" role=\"img\"{tab}><title>{says}</title></circle>",
                    px(x),
                    px(y),
                    px(5.0)
                ),
            };
        }
        out
    }
}

/// Pictures as a file, one below the other, on a ground of their own.
pub fn file(pictures: &[Picture]) -> String {
    let width = pictures.iter().map(|p| p.size.0).fold(1.0, f64::max);
    let height = pictures.iter().map(|p| p.size.1).sum::<f64>().max(1.0);
    let ground = Ink::Ground.stand_in();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {} {}\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"#{:02X}{:02X}{:02X}\"/>\n",
        px(width),
        px(height),
        ground.0,
        ground.1,
        ground.2
    );
    let mut top = 0.0;
    for picture in pictures {
        let body = picture.body();
        // Writing to a String cannot fail.
        let _ = writeln!(svg, "<g transform=\"translate(0 {})\">{body}</g>", px(top));
        top += picture.size.1;
    }
    svg.push_str("</svg>\n");
    light(&svg)
}

/// Text for HTML.
pub fn escape(text: &str) -> String {
    html! { (text) }.into_string()
}

impl Frame<'_> {
    /// Where a point of the plane lies.
    pub fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let (x, y) = self.plane.map_coordinate(&(x, y));
        (f64::from(x) / FINE, f64::from(y) / FINE)
    }

    /// A line through points of the plane; those that are not finite are left out.
    pub fn line(&mut self, points: &[(f64, f64)], ink: Ink, width: f64) {
        let points: Vec<_> = points.iter().copied().filter(|p| p.1.is_finite()).collect();
        let style = ink.stand_in().stroke_width(px(width) as u32);
        let _ = match points.as_slice() {
            [] => Ok(()),
            [only] => {
                self.plane.draw(&Circle::new(*only, px(1.0 + width), ink.stand_in().filled()))
            }
            _ => self.plane.draw(&PathElement::new(points, style)),
        };
    }

    /// A filled area between points of the plane.
    pub fn area(&mut self, points: Vec<(f64, f64)>, ink: Ink, alpha: f64) {
        let _ = self.plane.draw(&Polygon::new(points, ink.stand_in().mix(alpha).filled()));
    }

    /// A dot on the plane.
    pub fn dot(&mut self, at: (f64, f64), radius: f64, ink: Ink, alpha: f64) {
        let style = ink.stand_in().mix(alpha).filled();
        let _ = self.plane.draw(&Circle::new(at, px(radius), style));
    }

    /// A ring on the plane, with the ground inside.
    pub fn ring(&mut self, at: (f64, f64), radius: f64, ink: Ink) {
        let _ = self.plane.draw(&Circle::new(at, px(radius), Ink::Ground.stand_in().filled()));
        let style = ink.stand_in().stroke_width(px(2.0) as u32);
        let _ = self.plane.draw(&Circle::new(at, px(radius), style));
    }

    /// A filled rectangle of the page.
    pub fn block(&mut self, [x, y, w, h]: [f64; 4], ink: Ink, alpha: f64) {
        let style = ink.stand_in().mix(alpha).filled();
        let corners = [(px(x), px(y)), (px(x + w), px(y + h))];
        let _ = self.page.draw(&Rectangle::new(corners, style));
    }

    /// A rule of the page.
    pub fn rule(&mut self, from: (f64, f64), to: (f64, f64), ink: Ink, width: f64) {
        let points = [from, to].map(|(x, y)| (px(x), px(y)));
        let style = ink.stand_in().stroke_width(px(width) as u32);
        let _ = self.page.draw(&PathElement::new(points, style));
    }

    /// Text on the page, its middle at the height `y`.
    pub fn text(&mut self, text: &str, (x, y): (f64, f64), at: At, size: f64, ink: Ink) {
        let side = match at {
            At::Left => HPos::Left,
            At::Right => HPos::Right,
            At::Middle => HPos::Center,
        };
        let style = ("sans-serif", size * FINE * FONT)
            .into_font()
            .color(&ink.stand_in())
            .pos(Pos::new(side, VPos::Center));
        let _ = self.page.draw(&Text::new(text.to_string(), (px(x), px(y)), style));
    }

    /// Rules across the plane at heights, named at the left.
    pub fn heights(&mut self, ticks: &[(f64, String)]) {
        let [left, _, right, _] = self.inner;
        for (value, name) in ticks {
            let (_, y) = self.at(0.0, *value);
            self.rule((left, y), (right, y), Ink::Grid, 1.0);
            self.text(name, (left - 7.0, y), At::Right, 11.0, Ink::Muted);
        }
    }

    /// Names below the plane, with a short rule each.
    pub fn places(&mut self, ticks: &[(f64, String)]) {
        let bottom = self.inner[3];
        for (value, name) in ticks {
            let (x, _) = self.at(*value, 0.0);
            self.rule((x, bottom), (x, bottom + 4.0), Ink::Grid, 1.0);
            self.text(name, (x, bottom + 13.0), At::Middle, 11.0, Ink::Muted);
        }
    }

    /// Rules up the plane at places, named below.
    pub fn columns(&mut self, ticks: &[(f64, String)]) {
        let [_, top, _, bottom] = self.inner;
        for (value, name) in ticks {
            let (x, _) = self.at(*value, 0.0);
            self.rule((x, top), (x, bottom), Ink::Grid, 1.0);
            self.text(name, (x, bottom + 13.0), At::Middle, 11.0, Ink::Muted);
        }
    }

    /// What the places are, below their names; what the heights are, above the plane.
    pub fn titles(&mut self, below: &str, above: &str) {
        let [left, top, right, bottom] = self.inner;
        if !below.is_empty() {
            let at = ((left + right) / 2.0, bottom + 30.0);
            self.text(below, at, At::Middle, 11.0, Ink::Muted);
        }
        if !above.is_empty() {
            self.text(above, (4.0, top - 13.0), At::Left, 11.0, Ink::Muted);
        }
    }

    /// Square cells that fill the plane, `[size, size]` row-major, in their colours. The element
    /// `values` of the page holds what they say.
    pub fn cells(&mut self, inks: &[Ink], size: usize, values: &str) {
        let [left, top, right, bottom] = self.inner;
        let mut by_ink: BTreeMap<[u8; 3], String> = BTreeMap::new();
        for (row, line) in inks.chunks(size.max(1)).enumerate() {
            let mut from = 0;
            // Neighbours of one colour are one rectangle.
            for run in line.chunk_by(|a, b| a == b) {
                let colour = run[0].stand_in();
                let path = by_ink.entry([colour.0, colour.1, colour.2]).or_default();
                // Writing to a String cannot fail.
                let _ = write!(path, "M{from} {row}h{0}v1h-{0}z", run.len());
                from += run.len();
            }
        }
        let scale = f64::from(px(right - left)) / size.max(1) as f64;
        let _ = write!(
            self.cells,
            "<g transform=\"translate({} {}) scale({scale:.4})\" shape-rendering=\"crispEdges\">",
            px(left),
            px(top)
        );
        for ([r, g, b], path) in by_ink {
            let _ = write!(self.cells, "<path fill=\"#{r:02X}{g:02X}{b:02X}\" d=\"{path}\"/>");
        }
        self.cells.push_str("</g>");
        let place = [left, top, right - left, bottom - top];
        self.spot = Some(Spot { place, size, values: values.into() });
    }

    /// A rectangle of the page that says more.
    pub fn tell(&mut self, place: [f64; 4], says: String) {
        self.hits.push(Hit { shape: Shape::Rect(place), says });
    }

    /// A point of the plane that says more.
    pub fn tell_at(&mut self, (x, y): (f64, f64), says: String) {
        let (x, y) = self.at(x, y);
        self.hits.push(Hit { shape: Shape::Dot(x, y), says });
    }
}
