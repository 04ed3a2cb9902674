//! What the demo's representations carry, and what that shows.

use super::demo::{Run, VARIANTS, Variant};
use super::output;
use crate::train::carried::Carried;
use comfy_table::Table;

/// A smaller mean difference of R² or MAE is not worth a word, nor is one whose sign varies with
/// the seed.
const CLEAR: f64 = 0.02;

const FACTORS: [&str; 4] = ["shared", "text", "audio", "vision"];

/// Mean over the encoders of what `factor` says of each.
fn encoders(carried: &Carried, factor: impl Fn(&'static str) -> &'static str) -> f64 {
    let senses = ["text", "audio", "vision"];
    let values: Vec<f64> = senses
        .into_iter()
        .filter_map(|sense| carried.get(&format!("{sense} encoder"), factor(sense)))
        .collect();
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// A row for each representation and factor that belong together, a column for each variant.
pub(super) fn probe_table(before: &Carried, trained: &[Carried]) -> Table {
    let mut rows = Vec::new();
    let mut row = |name: String, factor: &str| {
        let columns = std::iter::once(before).chain(trained);
        let cell = |c: &Carried| match c.get(&name, factor) {
            Some(value) => format!("{value:.2}"),
            None => "-".into(),
        };
        let of = if factor == "shared" { factor.to_string() } else { format!("{factor}'s own") };
        let cells: Vec<String> = columns.map(cell).collect();
        rows.push([vec![name.clone(), of], cells].concat());
    };
    for part in ["encoder", "head"] {
        for sense in ["text", "audio", "vision"] {
            row(format!("{sense} {part}"), "shared");
            row(format!("{sense} {part}"), sense);
        }
    }
    for factor in FACTORS {
        row("fused head".into(), factor);
    }
    let header = ["representation", "factor", "untrained"];
    let names = VARIANTS.iter().map(|v| v.name);
    output::table(header.into_iter().chain(names), 2, rows)
}

/// What the numbers show, in sentences made from the numbers. `runs` are by variant and seed.
pub(super) fn verdict(before: &Carried, runs: &[Vec<Run>]) -> Vec<String> {
    let shared = |c: &Carried| encoders(c, |_| "shared");
    let own = |c: &Carried| encoders(c, |sense| sense);
    let all = |value: &dyn Fn(&Carried) -> f64| {
        let values: Vec<f64> = runs.iter().flatten().map(|r| value(&r.carried)).collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    let mut sentences = vec![format!(
        "Training takes the encoders from R2 {:.2} to {:.2} on the shared factor and from {:.2} to \
         {:.2} on their own, in the mean over variants.",
        shared(before),
        all(&shared),
        own(before),
        all(&own),
    )];
    let switches: [Switch; 2] = [("Alignment", |v| v.align), ("Label generation", |v| v.labels)];
    for (name, on) in switches {
        let change = |value: &dyn Fn(&Run) -> f64| Change::of(runs, on, value);
        sentences.push(sentence(
            name,
            &change(&|r| shared(&r.carried)),
            &change(&|r| own(&r.carried)),
            &change(&|r| r.test.get("MAE").unwrap_or(f64::NAN)),
        ));
    }
    sentences
}

/// What can be on or off, and whether a variant has it on.
type Switch = (&'static str, fn(&Variant) -> bool);

/// What switching something on changed, by seed, everything else equal.
struct Change(Vec<f64>);

impl Change {
    fn of(runs: &[Vec<Run>], on: fn(&Variant) -> bool, value: &dyn Fn(&Run) -> f64) -> Self {
        let mean = |seed: usize, wanted: bool| {
            let kept = VARIANTS.iter().zip(runs).filter(|(v, _)| on(v) == wanted);
            let values: Vec<f64> = kept.filter_map(|(_, all)| all.get(seed)).map(value).collect();
            values.iter().sum::<f64>() / values.len().max(1) as f64
        };
        let seeds = runs.iter().map(Vec::len).min().unwrap_or(0);
        Change((0..seeds).map(|seed| mean(seed, true) - mean(seed, false)).collect())
    }

    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }

    fn up(&self) -> bool {
        self.mean() >= CLEAR && self.0.iter().all(|c| *c > 0.0)
    }

    fn down(&self) -> bool {
        self.mean() <= -CLEAR && self.0.iter().all(|c| *c < 0.0)
    }

    /// In words: the direction where it is clear, the mean, and its spread over seeds.
    fn say(&self, up: &str, down: &str) -> String {
        let word = match (self.up(), self.down()) {
            (true, _) => up,
            (_, true) => down,
            _ => "about as much",
        };
        let low = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("{word} ({:+.3}; by seed {low:+.3} to {high:+.3})", self.mean())
    }
}

/// What switching something on did to the encoders and to the error.
fn sentence(name: &str, shared: &Change, own: &Change, mae: &Change) -> String {
    let (gains, loses) = (shared.up() || own.up(), shared.down() || own.down());
    let helps = match (mae.down(), mae.up(), gains, loses) {
        (true, ..) => "It helps the prediction here.",
        (_, true, true, false) => "The encoders know more, and yet the prediction is worse here.",
        (_, true, true, true) => "It trades one for the other, and the prediction is worse here.",
        (_, true, ..) => "It costs accuracy here.",
        (_, _, true, false) => "It shapes the encoders; the prediction is no different.",
        (_, _, true, true) => "It trades one for the other; the prediction is no different.",
        (_, _, false, true) => "The encoders know less; the prediction is no different.",
        _ => "No clear difference here.",
    };
    format!(
        "{name} on: of the shared factor the encoders carry {}, of their own {}; the test MAE is \
         {}. {helps}",
        shared.say("more", "less"),
        own.say("more", "less"),
        mae.say("higher", "lower").replace("about as much", "about the same"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(shared: [f64; 2], own: [f64; 2], mae: [f64; 2]) -> String {
        sentence("X", &Change(shared.into()), &Change(own.into()), &Change(mae.into()))
    }

    #[test]
    fn sentences_say_what_the_numbers_say() {
        let helped = said([0.1, 0.2], [0.0, 0.0], [-0.05, -0.03]);
        assert!(helped.contains("carry more (+0.150; by seed +0.100 to +0.200)"), "{helped}");
        assert!(helped.contains("MAE is lower (-0.040") && helped.contains("It helps"), "{helped}");
        assert!(said([0.1, 0.1], [0.0, 0.0], [0.05, 0.05]).contains("yet the prediction is worse"));
        assert!(said([0.0, 0.0], [0.0, 0.0], [0.05, 0.05]).contains("costs accuracy"));
        assert!(said([0.1, 0.1], [-0.1, -0.1], [0.05, 0.05]).contains("trades"));
        assert!(said([0.1, 0.1], [-0.1, -0.1], [0.0, 0.0]).contains("trades"));
        // A mean that rests on one seed is no finding.
        let luck = said([0.3, -0.1], [0.01, 0.01], [0.0, 0.01]);
        assert!(luck.contains("No clear difference") && !luck.contains("more"), "{luck}");
    }
}
