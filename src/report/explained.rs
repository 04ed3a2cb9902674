//! Where scores come from, of the rows that `modalign explain` has explained in a run.

use super::charts::Bars;
use super::number::{fixed, signed};
use super::page::{Grid, Section, absent, both, figure, legend};
use super::predictions::WORST;
use super::run::Run;
use super::run_page::quoted;
use super::theme::{Ink, diverging, letter};
use crate::data::Modality;
use crate::train::explain::{Explained, Explanation, Word};
use maud::{Markup, html};
use std::collections::BTreeSet;

/// The section: modalities as bars, words in colours; or what makes it.
pub fn section(run: &Run) -> Section {
    let body = match Explained::read(&run.folder) {
        Err(why) => absent(&why.to_string()),
        Ok(None) => {
            making(run, "Which words and modalities these scores come from is shown here once")
        }
        Ok(Some(all)) if !is_of(&all, run) => making(
            run,
            "explain.json is of another state of this run than the one on this page. It is made anew by",
        ),
        Ok(Some(all)) => shown(&all),
    };
    Section::new("explained", "Where scores come from", body)
}

/// Whether explanations are of the model and the data of the page.
fn is_of(all: &Explained, run: &Run) -> bool {
    let data = run.said("data_sha256").is_none_or(|digest| digest == all.data_sha256);
    data && run.best().is_none_or(|best| best.epoch == all.epoch)
}

fn making(run: &Run, why: &str) -> Markup {
    let folder = quoted(&run.folder.display().to_string());
    html! {
        p class="note" { (why) ":" }
        pre class="command" tabindex="0" {
            "modalign explain --model " (folder) " --hardest " (WORST) " --save"
        }
    }
}

fn shown(all: &Explained) -> Markup {
    let partial = all.rows.iter().filter(|row| !row.complete).count();
    html! {
        p {
            "Integrated gradients: what each input adds to a score beyond that of the usual input, which is \
             the mean of training (of word pieces, [PAD]). The shares of a row add up to the difference of \
             the two scores to within 1 %"
            @if partial > 0 { ", but for " (partial) " of these " (all.rows.len()) " rows, marked *" }
            "."
        }
        (modalities(&all.rows))
        (words(&all.rows))
    }
}

/// A row's name; marked where its shares do not add up.
fn name(row: &Explanation) -> String {
    if row.complete { row.id.clone() } else { format!("{} *", row.id) }
}

/// A bar for each modality of each row.
fn modalities(rows: &[Explanation]) -> Markup {
    let all: BTreeSet<Modality> =
        rows.iter().flat_map(|row| row.modalities.iter().map(|share| share.modality)).collect();
    let share = |row: &Explanation, modality: &Modality| {
        row.modalities.iter().find(|s| s.modality == *modality).map(|s| s.share)
    };
    let inks: Vec<(String, Ink)> = all
        .iter()
        .map(|m| (m.to_string(), m.short().chars().next().map_or(Ink::Accent, letter)))
        .collect();
    let group = |row: &Explanation| (name(row), all.iter().map(|m| share(row, m)).collect());
    let chart = Bars {
        groups: rows.iter().map(group).collect(),
        inks: inks.clone(),
        x: "share of the score".into(),
        range: None,
    };
    let header = ["id", "of", "score", "usual", "residual"].map(String::from).into_iter();
    let lines = rows.iter().map(|row| {
        let own = [
            name(row),
            row.output.clone(),
            fixed(row.score, 3),
            fixed(row.usual, 3),
            format!("{:.1e}", row.residual),
        ];
        let shares = all.iter().map(|m| share(row, m).map_or("–".into(), |s| signed(s, 3)));
        own.into_iter().chain(shares).collect()
    });
    let grid = Grid::new(header.chain(all.iter().map(ToString::to_string)), lines.collect());
    let body = html! {
        (legend(inks.iter().map(|(name, ink)| (name.as_str(), *ink)), true))
        (both("Share of each modality in the scores of the hardest rows", |width| chart.draw(width)))
    };
    figure("Modalities", "To the right: it pushes the score up.", body, &grid)
}

/// The words of the rows that have some, each on the colour of what it does.
fn words(rows: &[Explanation]) -> Markup {
    let of = |row: &Explanation| -> Vec<Word> {
        row.modalities.iter().flat_map(|share| share.words.clone()).collect()
    };
    let spoken: Vec<(&Explanation, Vec<Word>)> =
        rows.iter().map(|row| (row, of(row))).filter(|(_, words)| !words.is_empty()).collect();
    if spoken.is_empty() {
        return html! {};
    }
    let largest = |words: &[Word]| words.iter().fold(0.0, |most: f64, w| most.max(w.share.abs()));
    let ground = |share: f64, most: f64| {
        format!("background:color-mix(in srgb,{} 60%,var(--ground))", diverging(share, most).css())
    };
    html! {
        p {
            "Words, each row by its own largest: "
            span class="word" style=(ground(1.0, 1.0)) { "pushes the score up" } " "
            span class="word" style=(ground(-1.0, 1.0)) { "pushes it down" } "."
        }
        div class="scroll" tabindex="0" role="group" aria-label="words" { table class="hard" {
            thead { tr {
                th scope="col" { "id" } th scope="col" { "score" } th scope="col" class="text" { "words" }
            } }
            tbody { @for (row, words) in &spoken { @let most = largest(words); tr {
                th scope="row" { (name(row)) }
                td { (fixed(row.score, 2)) }
                td class="text" { @for word in words {
                    span class="word" style=(ground(word.share, most)) title=(signed(word.share, 3)) {
                        (word.word)
                    } " "
                } }
            } } }
        } }
    }
}
