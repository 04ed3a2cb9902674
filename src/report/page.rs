//! The page around everything: head, contents, sections, tables, figures.

use super::frame::{Picture, Size};
use super::theme::{Ink, variables};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

/// Widths of pictures in CSS pixels: across the page, on a phone, and two or three side by side.
pub const WIDE: f64 = 850.0;
/// See [`WIDE`].
pub const NARROW: f64 = 380.0;
/// See [`WIDE`].
pub const HALF: f64 = 405.0;
/// See [`WIDE`].
pub const THIRD: f64 = 262.0;

/// A section, with what the contents call it.
pub struct Section {
    /// Unique within its part.
    pub id: &'static str,
    /// Its heading.
    pub title: String,
    /// What it holds.
    pub body: Markup,
}

impl Section {
    /// A section.
    pub fn new(id: &'static str, title: impl Into<String>, body: Markup) -> Self {
        Section { id, title: title.into(), body }
    }
}

/// What belongs together: a run, an experiment.
pub struct Part {
    /// Unique in the page.
    pub id: String,
    /// Its heading.
    pub title: String,
    /// Before its sections.
    pub lead: Markup,
    /// In order.
    pub sections: Vec<Section>,
}

/// All of it. The first part's title is the page's.
pub struct Page {
    /// Above the title.
    pub kicker: String,
    /// In order; at least one.
    pub parts: Vec<Part>,
}

const SCRIPT: &str = include_str!("script.js");

/// What a browser may take of a page: this style and this script, by their hashes, and nothing else.
fn policy(style: &str) -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    let (style, script) = (hash(style), hash(SCRIPT));
    format!("default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'")
}

/// Takes the styles that elements have of their own out of a text, which no hash of the page's style covers:
/// each becomes a rule, for the attribute that stands in its place.
fn outlined(html: &str) -> (String, String) {
    const OWN: &str = " style=\"";
    let (mut kept, mut rules) = (String::with_capacity(html.len()), String::new());
    let mut all: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some((before, after)) = rest.split_once(OWN) {
        let (style, next) = after.split_once('"').unwrap_or((after, ""));
        let at = all.iter().position(|known| *known == style).unwrap_or_else(|| {
            all.push(style);
            rules +=
                &format!("[data-s=\"{}\"]{{{}}}", all.len() - 1, style.replace("&quot;", "\""));
            all.len() - 1
        });
        kept += before;
        kept += &format!(" data-s=\"{at}\"");
        rest = next;
    }
    (kept + rest, rules)
}

impl Page {
    /// As HTML.
    pub fn render(&self) -> String {
        let title = self.parts.first().map_or("report", |p| p.title.as_str());
        let (light, dark) = (variables(false), variables(true));
        let style = format!(
            ":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light])\
             {{{dark}}}}}@media screen{{:root[data-theme=dark]{{{dark}color-scheme:dark}}\
             :root[data-theme=light]{{color-scheme:light}}}}\n{}",
            include_str!("style.css")
        );
        let (body, rules) = outlined(&self.body().into_string());
        let style = format!("{style}{rules}");
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta http-equiv="Content-Security-Policy" content=(policy(&style));
                    meta name="generator" content={ "modalign " (env!("CARGO_PKG_VERSION")) };
                    title { (title) " · modalign" }
                    style { (PreEscaped(&style)) }
                }
                body id="top" {
                    (PreEscaped(body))
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        }
        .into_string()
    }

    fn body(&self) -> Markup {
        html! {
            a class="skip" href="#content" { "To the content" }
            div class="layout" {
                nav aria-label="Contents" { div { (self.contents()) button id="theme" type="button" hidden {} } }
                main id="content" {
                    @for (i, part) in self.parts.iter().enumerate() { (self.part(i, part)) }
                    footer { "Made by modalign " (env!("CARGO_PKG_VERSION")) ". Everything here is in this one file." }
                }
            }
            div id="tip" role="status" {}
        }
    }

    fn contents(&self) -> Markup {
        let entries = |part: &Part| {
            html! { ol { @for s in &part.sections {
                li { a href={ "#" (part.id) "-" (s.id) } { (s.title) } }
            } } }
        };
        html! {
            p { "Contents" }
            @if let [only] = self.parts.as_slice() {
                (entries(only))
            } @else {
                ol { @for part in &self.parts {
                    li { a href={ "#" (part.id) } { (part.title) } (entries(part)) }
                } }
            }
        }
    }

    /// The first part has the page's heading, and its sections stand one level higher.
    fn part(&self, i: usize, part: &Part) -> Markup {
        let section = |s: &Section| {
            html! { section id={ (part.id) "-" (s.id) } {
                @if i == 0 { h2 { (s.title) } } @else { h3 { (s.title) } }
                (s.body)
            } }
        };
        html! {
            @if i == 0 {
                header id=(part.id) { p class="kicker" { (self.kicker) } h1 { (part.title) } (part.lead) }
                @for s in &part.sections { (section(s)) }
            } @else {
                div class="part" id=(part.id) {
                    h2 { (part.title) }
                    (part.lead)
                    @for s in &part.sections { (section(s)) }
                }
            }
        }
    }
}

/// A table: names at the left, numbers at the right.
#[derive(Default)]
pub struct Grid {
    /// Names of the columns.
    pub header: Vec<String>,
    /// Cells by row; the first is the row's name.
    pub rows: Vec<Vec<String>>,
    /// Rows to be seen first.
    pub marked: Vec<usize>,
}

impl Grid {
    /// A table without marks.
    pub fn new<S: Into<String>>(
        header: impl IntoIterator<Item = S>,
        rows: Vec<Vec<String>>,
    ) -> Self {
        Grid { header: header.into_iter().map(Into::into).collect(), rows, marked: Vec::new() }
    }

    /// In a page; wider than the page it scrolls by itself.
    pub fn markup(&self) -> Markup {
        html! { div class="scroll" tabindex="0" role="group" aria-label="table" { table {
            thead { tr { @for h in &self.header { th scope="col" { (h) } } } }
            tbody { @for (i, row) in self.rows.iter().enumerate() {
                tr class=[self.marked.contains(&i).then_some("mark")] {
                    @for (k, cell) in row.iter().enumerate() {
                        @if k == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                    }
                }
            } }
        } } }
    }

    /// Tab-separated, for long tables.
    pub fn plain(&self) -> Markup {
        let mut text = self.header.join("\t");
        for row in &self.rows {
            text.push('\n');
            let cells = row.iter().map(|c| c.split_whitespace().collect::<Vec<_>>().join(" "));
            text.push_str(&cells.collect::<Vec<_>>().join("\t"));
        }
        html! { pre tabindex="0" { (text) } }
    }
}

/// A picture at two widths, of which one is shown.
pub fn both(label: &str, draw: impl Fn(f64) -> Picture) -> Markup {
    html! { (draw(WIDE).markup(label, "wide")) (draw(NARROW).markup(label, "narrow")) }
}

/// Height that goes with a width.
pub fn size(width: f64) -> Size {
    match width {
        w if w > 600.0 => (w, 320.0),
        w if w > 300.0 => (w, 270.0),
        w => (w, 210.0),
    }
}

/// A figure: what it shows, the picture, and its numbers.
pub fn figure(title: &str, note: &str, body: Markup, numbers: &Grid) -> Markup {
    html! { figure {
        figcaption { b { (title) } (note) }
        (body)
        @if !numbers.rows.is_empty() {
            details { summary { "Numbers" }
                @if numbers.rows.len() > 150 { (numbers.plain()) } @else { (numbers.markup()) }
            }
        }
    } }
}

/// Colours and what they stand for; `boxes` for fillings.
pub fn legend<'a>(entries: impl IntoIterator<Item = (&'a str, Ink)>, boxes: bool) -> Markup {
    html! { ul class="legend" { @for (name, ink) in entries {
        li { i class=[boxes.then_some("box")] style={ "color:" (ink.css()) } {} (name) }
    } } }
}

/// Names and what they are.
pub fn facts(rows: &[(&str, Markup)]) -> Markup {
    html! { dl class="facts" { @for (name, what) in rows { dt { (name) } dd { (what) } } } }
}

/// A sentence that says why something is not here.
pub fn absent(why: &str) -> Markup {
    html! { p class="note" { (why) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_styles_become_rules() {
        let html = "<i style=\"color:red\">a</i><b class=\"x\" style=\"top:1px\"></b><u style=\"color:red\">";
        let (kept, rules) = outlined(html);
        assert_eq!(kept, "<i data-s=\"0\">a</i><b class=\"x\" data-s=\"1\"></b><u data-s=\"0\">");
        assert_eq!(rules, "[data-s=\"0\"]{color:red}[data-s=\"1\"]{top:1px}");
        assert!(policy("").contains("sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="));
    }
}
