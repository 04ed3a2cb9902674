//! The covariances that alignment compares, before training and after.

use super::frame::Picture;
use super::number::{or_dash, short};
use super::page::{Grid, Section, THIRD, absent};
use super::run::Live;
use super::theme::{Ink, LEVELS, diverging};
use crate::train::aligned::{Aligned, norm};
use maud::{Markup, html};
use std::fmt::Write;

/// Larger matrices are shown in blocks.
const MOST: usize = 40;

/// The section.
pub fn section(live: &Live, prefix: &str) -> Section {
    Section::new("covariances", "Covariances, before and after", body(live, prefix))
}

fn body(live: &Live, prefix: &str) -> Markup {
    let Some([before, after]) = &live.aligned else {
        return match &live.without {
            Some(why) => absent(&format!("What the run began with cannot be made again: {why}.")),
            None => absent(
                "This run aligns nothing (all weights of pairs are zero), so there is nothing to compare.",
            ),
        };
    };
    let what = if after.correlations { "Correlations" } else { "Covariances" };
    let split = live.scored.split;
    html! {
        p {
            (what) " of what the alignment term compares, over all " (split) " rows: "
            (before.size) " columns for each modality. Where the term worked, the differences are pale \
             beside the matrices that they are of; where it could be satisfied by shrinking, those are \
             small too."
        }
        (sizes(before, after))
        (stage(before, "Before training", &format!("{prefix}-before")))
        (stage(after, "After training, at the best epoch", &format!("{prefix}-after")))
    }
}

/// Norms, terms and the loss, as text.
fn sizes(before: &Aligned, after: &Aligned) -> Markup {
    let ratio = |a: f64, b: f64| or_dash((a > 0.0).then(|| b / a), |r| format!("× {}", short(r)));
    let row = |name: String, a: f64, b: f64| vec![name, short(a), short(b), ratio(a, b)];
    let mut rows = Vec::new();
    for (i, (name, matrix)) in before.sides.iter().enumerate() {
        rows.push(row(format!("‖C {name}‖"), norm(matrix), norm(&after.sides[i].1)));
    }
    for (p, q) in before.pairs.iter().zip(&after.pairs) {
        let name = pair_name(before, p.sides);
        let [a, b] = [before, after].map(|x| norm(&x.difference(p.sides)));
        rows.push(row(format!("‖C {name}‖"), a, b));
        rows.push(row(
            format!("term {}, weight {}", p.name.to_uppercase(), p.weight),
            p.term,
            q.term,
        ));
    }
    rows.push(row("L_cov, the weighted sum".into(), before.loss, after.loss));
    Grid::new(["Frobenius norms and terms", "before", "after", ""], rows).markup()
}

fn pair_name(aligned: &Aligned, (a, b): (usize, usize)) -> String {
    format!("{} − {}", aligned.sides[a].0, aligned.sides[b].0)
}

/// All matrices of a moment, to one scale.
fn stage(aligned: &Aligned, title: &str, id: &str) -> Markup {
    let sides = aligned.sides.iter().map(|(name, matrix)| (name.to_string(), matrix.clone()));
    let pairs =
        aligned.pairs.iter().map(|p| (pair_name(aligned, p.sides), aligned.difference(p.sides)));
    let all: Vec<(String, Vec<f64>)> = sides.chain(pairs).collect();
    let most = all.iter().flat_map(|m| &m.1).map(|v| v.abs()).fold(0.0, f64::max);
    html! {
        p class="sub" { (title) }
        (scale(most))
        div class="grid three" { @for (i, (name, matrix)) in all.iter().enumerate() {
            (heat(&format!("{id}-{i}"), name, matrix, aligned.size, most))
        } }
    }
}

fn scale(most: f64) -> Markup {
    let stops: Vec<String> = (0..LEVELS).step_by(4).map(|i| Ink::Level(i).css()).collect();
    let paint = format!("background:linear-gradient(to right,{})", stops.join(","));
    html! { div class="scale" { (short(-most)) i style=(paint) {} "+" (short(most)) } }
}

/// Means over square blocks, so that at most [`MOST`] columns are left.
fn blocks(matrix: &[f64], size: usize) -> (Vec<f64>, usize, usize) {
    let block = size.div_ceil(MOST);
    let left = size.div_ceil(block.max(1));
    if block <= 1 {
        return (matrix.to_vec(), size, 1);
    }
    let mut out = vec![(0.0, 0.0); left * left];
    for (at, value) in matrix.iter().enumerate() {
        let cell = &mut out[(at / size / block) * left + at % size / block];
        (cell.0, cell.1) = (cell.0 + value, cell.1 + 1.0);
    }
    (out.into_iter().map(|(sum, n): (f64, f64)| sum / n).collect(), left, block)
}

fn heat(id: &str, name: &str, matrix: &[f64], size: usize, most: f64) -> Markup {
    let (cells, side, block) = blocks(matrix, size);
    let inks: Vec<Ink> = cells.iter().map(|v| diverging(*v, most)).collect();
    let width = THIRD - 22.0;
    let picture = Picture::draw((width, width), [1.0; 4], (0.0, 1.0), (0.0, 1.0), |f| {
        f.cells(&inks, side, id);
    });
    let mut text = String::new();
    for row in cells.chunks(side.max(1)) {
        let line: Vec<String> = row.iter().map(|v| format!("{v:.3e}")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.join(" "));
    }
    html! { figure {
        figcaption { b { (name) } "norm " (short(norm(matrix)))
            @if block > 1 { ", in blocks of " (block) " × " (block) }
        }
        (picture.markup(&format!("Heat map of {name}"), ""))
        details { summary { "Numbers" } pre id=(id) tabindex="0" { (text) } }
    } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_matrices_come_in_blocks() {
        let (cells, side, block) = blocks(&vec![2.0; 81 * 81], 81);
        assert_eq!((side, block, cells.len()), (27, 3, 27 * 27));
        assert!(cells.iter().all(|v| *v == 2.0));
        assert_eq!(blocks(&[1.0, 2.0, 3.0, 4.0], 2), (vec![1.0, 2.0, 3.0, 4.0], 2, 1));
    }
}
