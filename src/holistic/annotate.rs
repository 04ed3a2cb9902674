//! What a data set is like, by measurement.

use super::plan::Flow;
use crate::data::Dataset;
use crate::interactions::{Options, Pair, Symbols, measure};
use serde::{Deserialize, Serialize};

/// A modality leads where what it alone knows is so much more of all information than what the other alone does.
const LEADS: f64 = 0.5;

/// Measured properties of a data set; nothing in it was said by hand but the flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// Interactions of each pair of streams.
    pub pairs: Vec<Pair>,
    /// Shares of redundancy, uniqueness and synergy beyond luck in their sum, over all pairs; none where nothing
    /// could be measured.
    pub shares: Option<[f64; 3]>,
    /// Which of them is the largest.
    pub interaction: Option<String>,
    /// |unique a - unique b| / H(Y), the largest of all pairs.
    pub imbalance: Option<f64>,
    /// Whether one modality of a pair leads by half of its information or more.
    pub one_leads: Option<bool>,
    /// Whether any stream has more than one step.
    pub temporal: bool,
    /// What the task asks for, as the plan says.
    pub flow: Flow,
    /// Why interactions could not be measured, where they could not.
    pub unmeasured: Option<String>,
}

/// Measures a data set, with so many clusters of each stream.
pub fn annotate(data: &Dataset, flow: Flow, clusters: usize) -> Annotation {
    let steps = |split: &crate::data::Split| {
        split.modalities().filter_map(|m| split.stream(m)).any(|stream| stream.steps > 1)
    };
    let temporal = data.splits().any(steps) || data.text().is_some();
    let mut out = Annotation {
        pairs: Vec::new(),
        shares: None,
        interaction: None,
        imbalance: None,
        one_leads: None,
        temporal,
        flow,
        unmeasured: None,
    };
    let options = Options { clusters: Some(clusters), ..Options::default() };
    match Symbols::of_data(data, &options).and_then(|symbols| measure(&symbols, &options)) {
        Ok(pairs) => out.pairs = pairs,
        Err(why) => {
            out.unmeasured = Some(why.to_string());
            return out;
        }
    }
    let sum = |of: &dyn Fn(&Pair) -> f64| out.pairs.iter().map(of).sum::<f64>();
    let parts = [
        sum(&|p| p.redundancy),
        sum(&|p| p.unique_a + p.unique_b),
        sum(&|p| p.synergy_beyond_luck.unwrap_or_default()),
    ];
    let all: f64 = parts.iter().sum();
    if all > 0.0 {
        let shares = parts.map(|part| part / all);
        let names = ["redundancy", "uniqueness", "synergy"];
        let largest = (0..3).max_by(|a, b| shares[*a].total_cmp(&shares[*b]));
        (out.shares, out.interaction) = (Some(shares), largest.map(|i| names[i].to_string()));
    }
    let apart = |p: &Pair| (p.unique_a - p.unique_b).abs();
    out.imbalance = out.pairs.iter().map(|p| apart(p) / p.target).reduce(f64::max);
    let whole = |p: &Pair| {
        p.redundancy + p.unique_a + p.unique_b + p.synergy_beyond_luck.unwrap_or_default()
    };
    out.one_leads = Some(out.pairs.iter().any(|p| apart(p) >= LEADS * whole(p).max(1e-9)));
    out
}

impl Annotation {
    /// Its label in each dimension, as far as it is known.
    pub fn labels(&self) -> Vec<(&'static str, String)> {
        let flow = format!("{:?}", self.flow).to_lowercase();
        let time = if self.temporal { "sequences" } else { "vectors" };
        let balance = self.one_leads.map(|leads| if leads { "one leads" } else { "balanced" });
        let known = [
            ("interaction", self.interaction.clone()),
            ("balance", balance.map(String::from)),
            ("time", Some(time.into())),
            ("flow", Some(flow)),
        ];
        known.into_iter().filter_map(|(dimension, label)| Some((dimension, label?))).collect()
    }
}
