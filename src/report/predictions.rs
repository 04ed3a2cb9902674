//! Predicted against true: the cloud, the confusion of classes, the error by class, the worst.

use super::charts::{Bars, Scatter};
use super::number::{fixed, score, signed};
use super::page::{Grid, HALF, Section, figure};
use super::run::Scored;
use super::run_page::heads;
use super::tasks;
use super::theme::Ink;
use crate::recipe::Config;
use crate::train::carried::head_name;
use crate::train::metrics::{Confusion, Convention, class, classes, clipped};
use maud::{Markup, html};

/// How many of the worst are shown.
pub const WORST: usize = 12;

/// The section of predictions.
pub fn section(scored: &Scored, config: &Config) -> Section {
    if !scored.task.one_number() {
        return tasks::section(scored);
    }
    let body = html! {
        p {
            "The fused head at the best epoch, on the " (scored.truth.len()) " " (scored.split)
            " rows, computed again for this page: "
            @for (i, (name, value)) in heads(&scored.metrics, config.data.convention).iter().enumerate() {
                @if i > 0 { ", " } (name) " " (score(*value))
            }
            "."
        }
        div class="grid" { (scatter(scored, config)) div { (confusion(scored, config)) (errors(scored, config)) } }
    };
    Section::new("predictions", "Predicted against true", body)
}

fn scatter(scored: &Scored, config: &Config) -> Markup {
    let rows = scored.truth.iter().zip(&scored.scores).zip(&scored.ids);
    let points = rows.map(|((y, scores), id)| {
        let (y, p) = (f64::from(*y), f64::from(scores[0]));
        (y, p, format!("{id}\nlabel {}\npredicted {}", fixed(y, 2), fixed(p, 2)))
    });
    let chart = Scatter {
        points: points.collect(),
        reach: config.data.label_range,
        titles: ("label".into(), "predicted".into()),
    };
    let names = scored.tasks.iter().map(|t| head_name(t));
    let header = ["id".to_string(), "label".into()].into_iter().chain(names);
    let rows = scored.truth.iter().zip(&scored.scores).zip(&scored.ids);
    let rows = rows.map(|((y, scores), id)| {
        let scores = scores.iter().map(|p| fixed(f64::from(*p), 3));
        [id.clone(), fixed(f64::from(*y), 3)].into_iter().chain(scores).collect()
    });
    let note = match chart.points.len() > Scatter::TELLING {
        true => "A point for each row; on the grey line a prediction is exact.",
        false => {
            "A point for each row, which says what it is; on the grey line a prediction is exact."
        }
    };
    let body = chart.draw(HALF).markup("Predictions against labels", "");
    figure("Every row", note, body, &Grid::new(header, rows.collect()))
}

fn confusion(scored: &Scored, config: &Config) -> Markup {
    let convention = config.data.convention;
    let names = classes(convention);
    let named = match convention {
        Convention::Mosi => "Acc-7",
        Convention::Sims => "Acc-5",
    };
    let truth: Vec<usize> = scored.truth.iter().map(|y| class(*y, convention)).collect();
    let said: Vec<usize> = scored.scores.iter().map(|s| class(s[0], convention)).collect();
    let Ok(found) = Confusion::of(&said, &truth, names.len()) else { return html! {} };
    let right = tasks::right(&found);
    let share = right as f64 / truth.len().max(1) as f64;
    let note = html! {
        b { "Confusion of the classes of " (named) }
        "Rows by class of the label, across by class of the prediction; shading is the share of its \
         row. Framed: right, " (right) " of " (truth.len()) ", " (named) " " (fixed(share, 4)) "."
    };
    tasks::matrix(&found, names, "label", &note)
}

/// Prediction minus label, as the scores count it.
fn off(score: f32, label: f32, convention: Convention) -> f32 {
    clipped(score, convention) - clipped(label, convention)
}

fn errors(scored: &Scored, config: &Config) -> Markup {
    let convention = config.data.convention;
    let names = classes(convention);
    let mut sums = vec![(0usize, 0.0, 0.0); names.len()];
    for (y, scores) in scored.truth.iter().zip(&scored.scores) {
        let sum = &mut sums[class(*y, convention)];
        let off = f64::from(off(scores[0], *y, convention));
        *sum = (sum.0 + 1, sum.1 + off.abs(), sum.2 + off);
    }
    let mean = |n: usize, sum: f64| (n > 0).then(|| sum / n as f64);
    let groups = names.iter().zip(&sums);
    let chart = Bars {
        groups: groups.clone().map(|(n, s)| (n.to_string(), vec![mean(s.0, s.1)])).collect(),
        inks: vec![(String::new(), Ink::Accent)],
        x: "mean absolute error".into(),
        range: None,
    };
    let rows = groups.map(|(name, (n, error, bias))| {
        let say =
            |v: Option<f64>, f: fn(f64, usize) -> String| super::number::or_dash(v, |v| f(v, 3));
        vec![
            name.to_string(),
            n.to_string(),
            say(mean(*n, *error), fixed),
            say(mean(*n, *bias), signed),
        ]
    });
    let grid = Grid::new(["class of the label", "rows", "MAE", "mean error"], rows.collect());
    let body = chart.draw(HALF).markup("Mean absolute error by class of the label", "");
    figure("Error by class of the label", "Where the label is.", body, &grid)
}

/// The section of the rows that the fused head is furthest from; nothing for targets of which no row is
/// further off than another.
pub fn hardest(scored: &Scored, convention: Convention) -> Option<Section> {
    if !scored.task.one_number() {
        return tasks::hardest(scored, convention, WORST);
    }
    let off = |row: &usize| scored.wrongness(*row, convention);
    let mut order: Vec<usize> = (0..scored.truth.len()).collect();
    order.sort_by(|a, b| off(b).total_cmp(&off(a)));
    order.truncate(WORST);
    let number = |v: f32| fixed(f64::from(v), 2);
    let body = html! {
        p {
            "The " (order.len()) " " (scored.split) " rows that the fused head is furthest from"
            @if scored.tasks.len() > 1 { ", beside what each modality's own head says of them" }
            "."
            @if scored.texts.is_none() { " The data has no texts beside it (raw_text in its JSON file)." }
        }
        div class="scroll" tabindex="0" role="group" aria-label="hardest samples" { table class="hard" {
            thead { tr {
                th scope="col" { "id" }
                th scope="col" { "label" }
                @for t in &scored.tasks { th scope="col" { (head_name(t)) } }
                th scope="col" { "off by" }
                @if scored.texts.is_some() { th scope="col" class="text" { "text" } }
            } }
            tbody { @for row in &order { tr {
                th scope="row" { (scored.ids[*row]) }
                td { (number(scored.truth[*row])) }
                @for (k, score) in scored.scores[*row].iter().enumerate() {
                    td { @if k == 0 { b { (number(*score)) } } @else { (number(*score)) } }
                }
                td { (number(off(row))) }
                @if let Some(texts) = &scored.texts { td class="text" { (texts[*row]) } }
            } } }
        } }
    };
    Some(Section::new("hardest", "Hardest samples", body))
}
