//! What the demo's representations carry, and what that shows.

use super::demo::{Trained, VARIANTS, Variant};
use super::eval::head_name;
use super::output;
use crate::data::{Dataset, SplitName};
use crate::error::{Error, Result};
use crate::train::Session;
use crate::train::probe::probe;
use comfy_table::Table;
use serde_json::{Map, Value, json};

/// The ridge penalty of the probes, on standardised inputs.
const LAMBDA: f64 = 1.0;
/// A smaller difference of R² or MAE between two single runs is not worth a word.
const CLEAR: f64 = 0.02;

const FACTORS: [&str; 4] = ["shared", "text", "audio", "vision"];

/// R² by representation and factor, in the order of the session's representations.
#[derive(Clone, Debug, Default)]
pub(super) struct Carried {
    /// Name, then R² for each of [`FACTORS`].
    lines: Vec<(String, [f64; 4])>,
}

impl Carried {
    fn get(&self, name: &str, factor: &str) -> Option<f64> {
        let at = FACTORS.iter().position(|f| *f == factor)?;
        self.lines.iter().find(|(n, _)| n == name).map(|(_, values)| values[at])
    }

    /// As an object of objects.
    pub(super) fn to_json(&self) -> Value {
        let lines = self.lines.iter().map(|(name, values)| {
            let by: Map<_, _> =
                FACTORS.iter().zip(values).map(|(f, v)| (f.to_string(), json!(v))).collect();
            (name.clone(), Value::Object(by))
        });
        Value::Object(lines.collect())
    }

    /// Mean over the encoders of what `factor` says of each.
    fn encoders(&self, factor: impl Fn(&'static str) -> &'static str) -> f64 {
        let senses = ["text", "audio", "vision"];
        let values: Vec<f64> = senses
            .into_iter()
            .filter_map(|sense| self.get(&encoder(sense), factor(sense)))
            .collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    }
}

fn encoder(sense: &str) -> String {
    format!("{sense} encoder")
}

/// Probes every representation of a session for every factor: fitted on train, scored on test.
pub(super) fn carried(session: &mut Session) -> Result<Carried> {
    let train = session.represent(SplitName::Train)?;
    let test = session.represent(SplitName::Test)?;
    let data = session.data().clone();
    let lines = train.iter().zip(&test).map(|((name, size, x), (_, _, x_test))| {
        let mut values = [0.0; 4];
        for (value, factor) in values.iter_mut().zip(FACTORS) {
            let (y, dim) = truth(&data, SplitName::Train, factor)?;
            let (y_test, _) = truth(&data, SplitName::Test, factor)?;
            *value = probe(x, *size, &y, dim, x_test, &y_test, LAMBDA)?;
        }
        Ok((shown_name(name), values))
    });
    Ok(Carried { lines: lines.collect::<Result<_>>()? })
}

fn truth(data: &Dataset, split: SplitName, factor: &str) -> Result<(Vec<f32>, usize)> {
    let found = data.split(split).and_then(|s| s.factor(factor));
    found.ok_or_else(|| Error::data(data.path(), format!("no '{split}.factor_{factor}'")))
}

/// The session's "encoded audio" and "feature A" in words.
fn shown_name(name: &str) -> String {
    match (name.strip_prefix("encoded "), name.strip_prefix("feature ")) {
        (Some(sense), _) => encoder(sense),
        (_, Some(letter)) => {
            let head = head_name(letter.chars().next().unwrap_or('M'));
            format!("{head} head")
        }
        _ => name.into(),
    }
}

/// A row for each representation and factor that belong together, a column for each variant.
pub(super) fn probe_table(before: &Carried, trained: &[Trained]) -> Table {
    let mut rows = Vec::new();
    let mut row = |name: String, factor: &str| {
        let columns = std::iter::once(before).chain(trained.iter().map(|t| &t.carried));
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

/// What the numbers show, in sentences made from the numbers.
pub(super) fn verdict(before: &Carried, trained: &[Trained]) -> Vec<String> {
    let shared = |c: &Carried| c.encoders(|_| "shared");
    let own = |c: &Carried| c.encoders(|sense| sense);
    let mean = |keep: &dyn Fn(&Variant) -> bool, value: &dyn Fn(&Trained) -> f64| {
        let kept: Vec<f64> =
            VARIANTS.iter().zip(trained).filter(|(v, _)| keep(v)).map(|(_, t)| value(t)).collect();
        kept.iter().sum::<f64>() / kept.len().max(1) as f64
    };
    let all = |value: &dyn Fn(&Trained) -> f64| mean(&|_| true, value);
    let mut sentences = vec![format!(
        "Training takes the encoders from R2 {:.2} to {:.2} on the shared factor and from {:.2} to \
         {:.2} on their own, in the mean over variants.",
        shared(before),
        all(&|t| shared(&t.carried)),
        own(before),
        all(&|t| own(&t.carried)),
    )];
    let switches: [(&str, &dyn Fn(&Variant) -> bool); 2] =
        [("Alignment", &|v| v.align), ("Label generation", &|v| v.labels)];
    for (name, on) in switches {
        let change = |value: &dyn Fn(&Trained) -> f64| mean(on, value) - mean(&|v| !on(v), value);
        sentences.push(sentence(
            name,
            change(&|t| shared(&t.carried)),
            change(&|t| own(&t.carried)),
            change(&|t| t.test.mae),
        ));
    }
    sentences.push(format!(
        "These are single runs on one seed: take differences below {CLEAR} for none."
    ));
    sentences
}

/// What switching something on did to the encoders and to the error.
fn sentence(name: &str, shared: f64, own: f64, mae: f64) -> String {
    let word = |change: f64, up: &'static str, down: &'static str| match change {
        c if c >= CLEAR => up,
        c if c <= -CLEAR => down,
        _ => "about the same",
    };
    let helps = match (shared.max(own) >= CLEAR, shared.min(own) <= -CLEAR, mae) {
        (_, _, m) if m <= -CLEAR => "it helps the prediction here",
        (_, _, m) if m >= CLEAR => "it costs accuracy here",
        (true, false, _) => "it shapes the encoders without changing the prediction",
        (false, false, _) => "it makes no clear difference here",
        _ => "it trades one factor for another without helping the prediction",
    };
    format!(
        "{name} on: encoders carry {} of the shared factor ({shared:+.2}), {} of their own \
         ({own:+.2}); test MAE is {} ({mae:+.3}); {helps}.",
        word(shared, "more", "less"),
        word(own, "more", "less"),
        word(mae, "higher", "lower"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_say_what_the_numbers_say() {
        let helped = sentence("X", 0.1, 0.0, -0.05);
        assert!(helped.contains("more of the shared factor (+0.10)"), "{helped}");
        assert!(helped.contains("lower (-0.050)") && helped.contains("it helps"), "{helped}");
        assert!(sentence("X", 0.1, 0.1, 0.05).contains("costs accuracy"));
        assert!(sentence("X", 0.01, -0.01, 0.0).contains("no clear difference"));
        assert!(sentence("X", 0.1, -0.1, 0.0).contains("trades"));
        assert!(sentence("X", -0.1, 0.0, 0.0).contains("trades"));
    }

    #[test]
    fn names_are_words() {
        assert_eq!(shown_name("encoded audio"), "audio encoder");
        assert_eq!(shown_name("feature M"), "fused head");
        assert_eq!(shown_name("feature V"), "vision head");
    }
}
