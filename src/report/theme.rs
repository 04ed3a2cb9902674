//! Colours. Charts are drawn once, with stand-in colours; what those stand for is said by CSS
//! variables in a page, so that one picture serves both themes, and by plain values in a file.
//!
//! The series' colours are told apart also by readers who do not see red and green as different
//! (after Okabe and Ito), made darker on the light ground and lighter on the dark one.

use plotters::style::RGBColor;
use std::fmt::Write;

/// What a colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Text.
    Text,
    /// Lesser text.
    Muted,
    /// Rules behind a drawing.
    Grid,
    /// What everything lies on.
    Ground,
    /// What to look at.
    Accent,
    /// The validation split.
    Valid,
    /// A quiet filling.
    Soft,
    /// One of several.
    Series(usize),
    /// A level of the diverging scale, 0 to [`LEVELS`] − 1.
    Level(usize),
}

/// Colours of series before they repeat.
pub const SERIES: usize = 7;
/// Levels of the diverging scale; odd, so that zero has one.
pub const LEVELS: usize = 33;

/// The colour of a task or modality by its letter, everywhere.
pub fn letter(letter: char) -> Ink {
    match letter {
        'T' => Ink::Series(0),
        'A' => Ink::Series(1),
        'V' => Ink::Series(2),
        _ => Ink::Series(3),
    }
}

const FIXED: [(Ink, &str, &str, &str); 7] = [
    (Ink::Text, "ink", "#1d2127", "#e7e9ec"),
    (Ink::Muted, "muted", "#5a626d", "#a3abb6"),
    (Ink::Grid, "grid", "#e3e4e6", "#343a43"),
    (Ink::Ground, "ground", "#fdfdfb", "#15181d"),
    (Ink::Accent, "accent", "#0b5c8e", "#7fc1f0"),
    (Ink::Valid, "valid", "#c24a00", "#f28b57"),
    (Ink::Soft, "soft", "#f1f2f1", "#20252c"),
];
const OF_SERIES: [(&str, &str); SERIES] = [
    ("#0072b2", "#5ab0eb"),
    ("#b86e00", "#e9a83c"),
    ("#00825f", "#35bf97"),
    ("#b0528a", "#e09ac3"),
    ("#2f86b8", "#93d3f7"),
    ("#85603a", "#c9a176"),
    ("#69717d", "#98a1ad"),
];
/// The ends of the diverging scale: below zero, above zero.
const ENDS: [[[f64; 3]; 2]; 2] =
    [[[0.0, 85.0, 150.0], [185.0, 75.0, 0.0]], [[90.0, 176.0, 240.0], [242.0, 150.0, 70.0]]];
const MIDDLE: [[f64; 3]; 2] = [[247.0, 247.0, 245.0], [32.0, 37.0, 44.0]];

impl Ink {
    /// The colour that stands for it in a drawing.
    pub fn stand_in(self) -> RGBColor {
        RGBColor(1, 0, self.code())
    }

    fn code(self) -> u8 {
        match self {
            Ink::Series(i) => 16 + (i % SERIES) as u8,
            Ink::Level(i) => 32 + i.min(LEVELS - 1) as u8,
            fixed => FIXED.iter().position(|f| f.0 == fixed).unwrap_or(0) as u8,
        }
    }

    /// `var(--…)`.
    pub fn css(self) -> String {
        format!("var(--{})", self.name())
    }

    fn name(self) -> String {
        match self {
            Ink::Series(i) => format!("c{}", i % SERIES),
            Ink::Level(i) => format!("d{}", i.min(LEVELS - 1)),
            fixed => FIXED.iter().find(|f| f.0 == fixed).map_or("ink", |f| f.1).into(),
        }
    }

    fn value(self, dark: bool) -> String {
        match self {
            Ink::Series(i) => {
                let (light, darker) = OF_SERIES[i % SERIES];
                if dark { darker.into() } else { light.into() }
            }
            Ink::Level(i) => level(i, dark),
            fixed => FIXED
                .iter()
                .find(|f| f.0 == fixed)
                .map_or(String::new(), |f| if dark { f.3.into() } else { f.2.into() }),
        }
    }
}

/// Between the middle and an end, in proportion, with the middle growing fast: small differences
/// from zero should show.
fn level(i: usize, dark: bool) -> String {
    let half = (LEVELS / 2) as f64;
    let t = (i as f64 - half) / half;
    let end = ENDS[usize::from(dark)][usize::from(t > 0.0)];
    let middle = MIDDLE[usize::from(dark)];
    let t = t.abs().powf(0.85);
    let mixed = |k: usize| (middle[k] + t * (end[k] - middle[k])).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mixed(0), mixed(1), mixed(2))
}

fn all() -> impl Iterator<Item = Ink> {
    let fixed = FIXED.iter().map(|f| f.0);
    fixed.chain((0..SERIES).map(Ink::Series)).chain((0..LEVELS).map(Ink::Level))
}

/// The variables of a theme, as declarations.
pub fn variables(dark: bool) -> String {
    all().fold(String::new(), |mut css, ink| {
        // Writing to a String cannot fail.
        let _ = write!(css, "--{}:{};", ink.name(), ink.value(dark));
        css
    })
}

/// Which level of the diverging scale `value` has where `most` is the largest size.
pub fn diverging(value: f64, most: f64) -> Ink {
    let half = (LEVELS / 2) as f64;
    let part = if most > 0.0 { (value / most).clamp(-1.0, 1.0) } else { 0.0 };
    Ink::Level((half + (part * half).round()) as usize)
}

/// A drawing with its stand-ins replaced by variables.
pub fn themed(svg: &str) -> String {
    replaced(svg, &Ink::css)
}

/// A drawing with the colours of the light theme.
pub fn light(svg: &str) -> String {
    replaced(svg, &|ink| ink.value(false))
}

fn replaced(svg: &str, by: &dyn Fn(Ink) -> String) -> String {
    let known: Vec<(String, String)> =
        all().map(|ink| (format!("{:02X}", ink.code()), by(ink))).collect();
    let mut parts = svg.split("#0100");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let found = known.iter().find(|(code, _)| part.starts_with(code.as_str()));
        match found {
            Some((code, value)) => {
                out.push_str(value);
                out.push_str(&part[code.len()..]);
            }
            None => {
                out.push_str("#0100");
                out.push_str(part);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance, as WCAG has it.
    fn luminance(hex: &str) -> f64 {
        let part = |i: usize| {
            let v = f64::from(u8::from_str_radix(&hex[i..i + 2], 16).unwrap()) / 255.0;
            if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    }

    fn contrast(a: &str, b: &str) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_can_be_read_in_both_themes() {
        for dark in [false, true] {
            for under in [Ink::Ground, Ink::Soft] {
                for ink in [Ink::Text, Ink::Muted, Ink::Accent] {
                    let found = contrast(&ink.value(dark), &under.value(dark));
                    assert!(found >= 4.5, "{ink:?} on {under:?}, dark {dark}: {found:.2}");
                }
            }
            for ink in (0..SERIES).map(Ink::Series).chain([Ink::Valid]) {
                let found = contrast(&ink.value(dark), &Ink::Ground.value(dark));
                assert!(found >= 3.0, "{ink:?}, dark {dark}: {found:.2}");
            }
        }
    }

    #[test]
    fn stand_ins_are_replaced() {
        let c = Ink::Level(20).stand_in();
        let svg = format!("<a fill=\"#{:02X}{:02X}{:02X}\"/>#0100FF", c.0, c.1, c.2);
        assert_eq!(themed(&svg), "<a fill=\"var(--d20)\"/>#0100FF");
        let value = Ink::Level(20).value(false);
        assert_eq!(light(&svg), format!("<a fill=\"{value}\"/>#0100FF"));
    }

    #[test]
    fn the_scale_is_balanced() {
        assert_eq!(diverging(0.0, 2.0), Ink::Level(LEVELS / 2));
        assert_eq!(diverging(-5.0, 2.0), Ink::Level(0));
        assert_eq!(diverging(2.0, 2.0), Ink::Level(LEVELS - 1));
        assert_eq!(diverging(2.0, 0.0), Ink::Level(LEVELS / 2));
    }
}
