//! The page of `modalign interactions`: what each pair of modalities shares and adds, with a chart.

use super::charts::Bars;
use super::number::{fixed, or_dash};
use super::page::{Grid, Page, Part, Section, both, facts, figure, legend};
use super::theme::Ink;
use crate::interactions::{Options, Pair, Symbols};
use maud::html;

/// The page, of the file or table `name`.
pub fn page(name: &str, symbols: &Symbols, pairs: &[Pair], options: &Options) -> String {
    let parts = vec![Part {
        id: "interactions".into(),
        title: format!("Interactions in {name}"),
        lead: html! {
            p {
                "What pairs of modalities know of " (symbols.about) ", in bits: what both know, what one alone knows, and \
                 what only both together tell."
            }
        },
        sections: vec![shares(pairs), synergy(pairs, options), reach(pairs), how(symbols, options)],
    }];
    Page { kicker: "Interactions".into(), parts }.render()
}

fn name(pair: &Pair) -> String {
    format!("{} + {}", pair.a, pair.b)
}

/// The four parts as bars, synergy without what luck makes of it.
fn shares(pairs: &[Pair]) -> Section {
    let inks: Vec<(String, Ink)> = [
        ("redundancy", Ink::Muted),
        ("unique to the first", Ink::Accent),
        ("unique to the second", Ink::Valid),
        ("synergy beyond luck", Ink::Text),
    ]
    .map(|(name, ink)| (name.to_string(), ink))
    .to_vec();
    let values = |p: &Pair| {
        vec![Some(p.redundancy), Some(p.unique_a), Some(p.unique_b), p.synergy_beyond_luck]
    };
    let chart = Bars {
        groups: pairs.iter().map(|p| (name(p), values(p))).collect(),
        inks: inks.clone(),
        x: "bits".into(),
        range: None,
    };
    let header = [
        "pair",
        "rows",
        "I(a;Y)",
        "I(b;Y)",
        "H(Y)",
        "redundancy",
        "unique a",
        "unique b",
        "synergy",
        "what follows",
    ];
    let rows = pairs.iter().map(|p| {
        vec![
            name(p),
            p.rows.to_string(),
            fixed(p.information_a, 3),
            fixed(p.information_b, 3),
            fixed(p.target, 3),
            fixed(p.redundancy, 3),
            fixed(p.unique_a, 3),
            fixed(p.unique_b, 3),
            or_dash(p.synergy, |s| fixed(s, 3)),
            p.fusion.about(&p.a, &p.b),
        ]
    });
    let shown = html! {
        (legend(inks.iter().map(|(name, ink)| (name.as_str(), *ink)), true))
        (both("parts of the information", |width| chart.draw(width)))
    };
    let grid = Grid::new(header, rows.collect());
    Section::new(
        "parts",
        "What is shared and added",
        figure("Parts of the information", "", shown, &grid),
    )
}

/// Synergy against that of samples that have none.
fn synergy(pairs: &[Pair], options: &Options) -> Section {
    if options.unpaired {
        let body = html! { p {
            "Labels of pairs were not used, so that synergy itself is unknown; its bounds are below."
        } };
        return Section::new("synergy", "Synergy and luck", body);
    }
    let inks = [
        ("as counted".to_string(), Ink::Accent),
        ("of samples that have none".to_string(), Ink::Muted),
        ("added by counting".to_string(), Ink::Valid),
    ];
    let chart = Bars {
        groups: pairs
            .iter()
            .map(|p| (name(p), vec![p.synergy, p.null_mean, p.bias_mean]))
            .collect(),
        inks: inks.to_vec(),
        x: "bits".into(),
        range: None,
    };
    let header = [
        "pair",
        "synergy",
        "null",
        "its deviation",
        "added by counting",
        "its deviation",
        "real",
        "beyond luck",
        "solver's gap",
    ];
    let rows = pairs.iter().map(|p| {
        vec![
            name(p),
            or_dash(p.synergy, |s| fixed(s, 4)),
            or_dash(p.null_mean, |s| fixed(s, 4)),
            or_dash(p.null_sd, |s| fixed(s, 4)),
            or_dash(p.bias_mean, |s| fixed(s, 4)),
            or_dash(p.bias_sd, |s| fixed(s, 4)),
            p.synergy_is_real.map_or("–", |real| if real { "yes" } else { "no" }).into(),
            or_dash(p.synergy_beyond_luck, |s| fixed(s, 4)),
            format!("{:.0e}", p.gap),
        ]
    });
    let note = format!(
        "Few rows in many cells look like synergy. {} samples of as many rows, drawn from the table that has the same \
         single modalities and no synergy, say how much; and as many of the same rows with labels drawn anew, so that nothing but pairs tells them, say \
         what counting adds. Synergy is called real two deviations above both.",
        options.draws
    );
    let shown = html! {
        (legend(inks.iter().map(|(name, ink)| (name.as_str(), *ink)), true))
        (both("synergy and its null", |width| chart.draw(width)))
    };
    let grid = Grid::new(header, rows.collect());
    Section::new(
        "synergy",
        "Synergy and luck",
        figure("Synergy as counted, and what luck makes", &note, shown, &grid),
    )
}

/// Bounds of synergy and accuracy.
fn reach(pairs: &[Pair]) -> Section {
    let header = [
        "pair",
        "synergy at least",
        "at most",
        "accuracy of a",
        "of b",
        "of both at least",
        "at most",
        "collect both",
    ];
    let rows = pairs.iter().map(|p| {
        vec![
            name(p),
            fixed(p.bounds.synergy_lower, 3),
            fixed(p.bounds.synergy_upper, 3),
            fixed(p.accuracy_a, 3),
            fixed(p.accuracy_b, 3),
            fixed(p.bounds.accuracy_lower, 3),
            fixed(p.bounds.accuracy_upper, 3),
            if p.collect_both { "yes" } else { "no" }.into(),
        ]
    });
    let grid = Grid::new(header, rows.collect());
    let body = html! {
        p {
            "What labelled single modalities and unlabelled pairs already say of synergy, and of the accuracy that fusing \
             both can reach, of these symbols and on these rows. Both are worth collecting where the middle of the last \
             two is clearly above the better modality alone."
        }
        (grid.markup())
    };
    Section::new("bounds", "What fusion can reach", body)
}

fn how(symbols: &Symbols, options: &Options) -> Section {
    let own: Vec<(&str, maud::Markup)> =
        symbols.columns.iter().map(|c| (c.name.as_str(), html! { (c.how) })).collect();
    let body = html! {
        (facts(&own))
        p {
            "The target is " (symbols.about) ", of " (symbols.classes) " classes; seed " (options.seed) "."
            @for note in &symbols.notes { " " (note) "." }
        }
        p {
            "Information of symbols is no more than that of what they stand for: clusters lose some of it, and other \
             clusters lose other parts. Differences of a few hundredths of a bit mean little."
        }
    };
    Section::new("how", "How it was measured", body)
}
