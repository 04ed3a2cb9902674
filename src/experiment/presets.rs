//! Ready-made sets of cells.

use super::plan::{Cell, Plan};
use crate::data::{Lacking, Modality, shortened};
use crate::error::{Error, Result};
use crate::recipe::{Config, Entry, MODELS};
use serde::{Deserialize, Serialize};

/// A ready-made set of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Label generation on and off, times every subset of the pairs, and the correlation form.
    Ablation,
    /// One weight for all pairs, over orders of magnitude.
    Weights,
    /// Every non-empty subset of the modalities.
    Modalities,
    /// The method's four corners, tested with each modality dropped, noised and truncated.
    Robustness,
    /// Every model that fits the data and has settings for it.
    Models,
    /// Unseen modality interaction, late fusion and zeros for what is missing, taught by rows of one modality each
    /// and tested on all together.
    Unseen,
    /// MMCL as a whole, and without each of its parts.
    Mmcl,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 7] = [
        Preset::Ablation,
        Preset::Weights,
        Preset::Modalities,
        Preset::Robustness,
        Preset::Models,
        Preset::Unseen,
        Preset::Mmcl,
    ];

    /// As plans write it.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Ablation => "ablation",
            Preset::Weights => "weights",
            Preset::Modalities => "modalities",
            Preset::Robustness => "robustness",
            Preset::Models => "models",
            Preset::Unseen => "unseen",
            Preset::Mmcl => "mmcl",
        }
    }

    /// The model that all of its cells are of, where that is not said otherwise.
    pub(super) fn model(self) -> Option<&'static str> {
        match self {
            Preset::Mmcl => Some("mmcl"),
            Preset::Unseen => Some("umi"),
            _ => None,
        }
    }

    /// The cell that the others are held against: Self-MM without alignment, or all modalities or parts,
    /// which come first.
    pub(super) fn reference(self) -> Option<&'static str> {
        match self {
            Preset::Ablation | Preset::Robustness => Some("labels"),
            Preset::Weights => Some("weight=0"),
            Preset::Modalities | Preset::Models | Preset::Unseen | Preset::Mmcl => None,
        }
    }
}

const LABELS_OFF: &str = "labels.enabled=false";
const LABELS_ON: &str = "labels.enabled=true";

/// The cells of a preset for data with these modalities.
///
/// # Errors
/// Data of one modality, which has no pair; base settings that leave nothing to compare.
pub(super) fn preset_cells(preset: Preset, plan: &Plan, has: &[Modality]) -> Result<Vec<Cell>> {
    if preset == Preset::Models {
        let known = MODELS.iter().filter(|entry| entry.presets.contains(&plan.preset.as_str()));
        let epochs = plan.base()?.train.max_epochs;
        return known.map(|entry| cell_of(entry, &plan.preset, epochs)).collect();
    }
    let base = plan.base()?;
    let used: Vec<Modality> = has.iter().copied().filter(|m| base.model.wants(*m)).collect();
    if preset == Preset::Modalities {
        return Ok(subsets(used.len())
            .filter(|subset| !subset.is_empty())
            .map(|subset| {
                let letters = shortened(subset.iter().map(|i| used[*i]));
                Cell::new(&*letters, &[&format!("model.modalities={letters}")])
            })
            .collect());
    }
    if preset == Preset::Unseen {
        return unseen(plan, &base.data.missing, &used);
    }
    if preset == Preset::Mmcl {
        return mmcl(&base.model.name, &used);
    }
    let pairs = pairs(&used);
    if pairs.is_empty() {
        let have: Vec<&str> = used.iter().map(|m| m.name()).collect();
        return Err(Error::Config(format!(
            "cells = \"{}\" wants a pair of modalities to align; {} has {}",
            preset.name(),
            plan.data.display(),
            if have.is_empty() { "none".into() } else { have.join(", ") }
        )));
    }
    let of = |pair: &str| {
        let weight = base.value(&format!("align.weight.{pair}"));
        weight.and_then(|w| w.as_float()).unwrap_or(0.0)
    };
    let switched = [Preset::Ablation, Preset::Robustness].contains(&preset);
    if let Some(pair) = pairs.iter().find(|pair| switched && of(pair) == 0.0) {
        return Err(Error::Config(format!(
            "[set] has align.weight.{pair} = 0: {} has nothing to switch on",
            preset.name()
        )));
    }
    Ok(match preset {
        Preset::Weights => plan
            .weights
            .iter()
            .map(|w| Cell::new(format!("weight={w}"), &[&format!("align.weight={w:?}")]))
            .collect(),
        Preset::Ablation => ablation(&pairs, plan.correlation_weight),
        _ => {
            let cell = |name: &str, settings: &[&str]| Cell::new(name, settings);
            vec![
                cell("fused", &["align.weight=0", LABELS_OFF]),
                cell("align", &[LABELS_OFF]).with(&["align"]),
                cell("labels", &["align.weight=0", LABELS_ON]).with(&["labels"]),
                cell("labels+align", &[LABELS_ON]).with(&["labels", "align"]),
            ]
        }
    })
}

/// The cell of a model with its own settings. Where it has more epochs of stages before the last one than a plan
/// has epochs, a third of those are left to them.
fn cell_of(entry: &Entry, preset: &str, epochs: usize) -> Result<Cell> {
    let mut settings = vec![format!("model.name={}", entry.name)];
    let own = Config::preset(entry.name, preset)?;
    let stages = own.value("stages.unimodal").and_then(|value| value.as_integer());
    if stages.is_some_and(|before| before as usize >= epochs) {
        let before = (epochs / 3).max(1);
        settings.push(format!("stages.unimodal={before}"));
        settings.push(format!("stages.averaged={}", (before / 4).max(1)));
    }
    Ok(Cell { settings, ..Cell::new(entry.name, &[]) })
}

/// Ways of using combinations that were never seen: those of `data.missing`, or by default rows of one modality
/// each in training, and all at test.
fn unseen(plan: &Plan, missing: &Lacking, used: &[Modality]) -> Result<Vec<Cell>> {
    if used.len() < 2 {
        let have: Vec<&str> = used.iter().map(|m| m.name()).collect();
        return Err(Error::Config(format!(
            "cells = \"unseen\" wants two streams or more to combine; {} has {}",
            plan.data.display(),
            if have.is_empty() { "none".into() } else { have.join(", ") }
        )));
    }
    let or = |given: &[String], usual: Vec<String>| {
        let all = if given.is_empty() { usual } else { given.to_vec() };
        all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ")
    };
    let each = used.iter().map(|m| shortened([*m])).collect();
    let seen = format!("data.missing.train_has=[{}]", or(&missing.train_has, each));
    let all = vec![shortened(used.iter().copied())];
    let tested = format!("data.missing.test_has=[{}]", or(&missing.test_has, all));
    let cell = |name: &str, fusion: &str| {
        let fusion = format!("model.fusion={fusion}");
        Cell::new(name, &[&fusion, &seen, &tested])
    };
    Ok(vec![cell("umi", "grid"), cell("late-fusion", "late"), cell("zero-filling", "zeros")])
}

/// MMCL as a whole, then without each of its parts. One predictor for both of audio and vision is another model
/// only where there are both.
fn mmcl(model: &str, used: &[Modality]) -> Result<Vec<Cell>> {
    if model != "mmcl" {
        return Err(Error::Config(format!(
            "cells = \"mmcl\" takes parts of mmcl away, and model.name is '{model}': leave it out"
        )));
    }
    let two = [Modality::Audio, Modality::Vision].iter().all(|m| used.contains(m));
    let parts = [
        ("coding", "no-coding", "contrast.coding=0"),
        ("instance", "no-instance", "contrast.instance=0"),
        ("sentiment", "no-sentiment", "contrast.sentiment=0"),
        ("prediction", "no-prediction", "model.predict=false"),
        ("own predictors", "shared", "model.shared_predictor=true"),
        ("moving targets", "detached", "contrast.detach_target=true"),
    ];
    let parts = parts.iter().filter(|(_, name, _)| two || *name != "shared");
    let names: Vec<&str> = parts.clone().map(|(part, ..)| *part).collect();
    let without = parts.map(|(part, name, setting)| {
        let left: Vec<&str> = names.iter().copied().filter(|other| other != part).collect();
        Cell::new(*name, &[*setting]).with(&left)
    });
    Ok(std::iter::once(Cell::new("whole", &[]).with(&names)).chain(without).collect())
}

fn ablation(pairs: &[&str], correlation_weight: f64) -> Vec<Cell> {
    let mut cells = Vec::new();
    for labels in [false, true] {
        let named = |what: String| match (labels, what.is_empty()) {
            (false, true) => "fused".into(),
            (true, true) => "labels".into(),
            (false, false) => what,
            (true, false) => format!("labels+{what}"),
        };
        let own: &[&str] = if labels { &["labels"] } else { &[] };
        let switch = Some(if labels { LABELS_ON } else { LABELS_OFF }.to_string());
        // From none to all, the smaller first.
        let mut chosen: Vec<Vec<usize>> = subsets(pairs.len()).collect();
        chosen.sort_by_key(Vec::len);
        for on in chosen {
            let on: Vec<&str> = on.iter().map(|i| pairs[*i]).collect();
            let off = pairs.iter().filter(|pair| !on.contains(pair));
            let settings = off.map(|pair| format!("align.weight.{pair}=0"));
            cells.push(Cell {
                settings: switch.iter().cloned().chain(settings).collect(),
                ..Cell::new(named(on.join("+")), &[]).with(&[own, &on[..]].concat())
            });
        }
        let correlation =
            ["align.standardize=true".into(), format!("align.weight={correlation_weight:?}")];
        cells.push(Cell {
            settings: switch.into_iter().chain(correlation).collect(),
            ..Cell::new(named("correlation".into()), &[]).with(&[own, &["correlation"]].concat())
        });
    }
    cells
}

/// The pairs of these modalities, in the order of the settings.
fn pairs(used: &[Modality]) -> Vec<&'static str> {
    let has =
        |letter: char| used.iter().any(|m| m.short().eq_ignore_ascii_case(&letter.to_string()));
    ["ta", "tv", "av"].into_iter().filter(|pair| pair.chars().all(has)).collect()
}

/// Every subset of 0..n: the whole first, each in ascending order, larger ones before smaller.
fn subsets(n: usize) -> impl Iterator<Item = Vec<usize>> {
    let mut all: Vec<Vec<usize>> =
        (0..1usize << n).map(|bits| (0..n).filter(|i| bits >> i & 1 == 1).collect()).collect();
    all.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
    all.into_iter()
}

#[cfg(test)]
mod tests {
    use crate::data::Modality::{self, Audio, Text, Vision};
    use crate::experiment::plan::tests::{names, plan, problem};

    #[test]
    fn combinations_are_given_or_each_alone() {
        let unseen = plan("data='a'\ncells='unseen'");
        let cells = unseen.all_cells(&[Audio, Vision]).unwrap();
        assert_eq!(
            cells.iter().map(|c| &*c.name).collect::<Vec<_>>(),
            ["umi", "late-fusion", "zero-filling"]
        );
        let config = unseen.config(&cells[1], 7).unwrap();
        assert_eq!(
            (config.model.name.as_str(), config.data.missing.train_has),
            ("umi", vec!["A".to_string(), "V".to_string()])
        );
        assert_eq!(config.data.missing.test_has, ["AV"]);
        let given = "data='a'\ncells='unseen'\n[set]\n'data.missing.train_has'=['TA', 'V']";
        let cells = plan(given).all_cells(&Modality::KNOWN).unwrap();
        let config = plan(given).config(&cells[0], 7).unwrap();
        assert_eq!(config.data.missing.train_has, ["TA", "V"]);
        assert!(unseen.all_cells(&[Text]).unwrap_err().to_string().contains("two streams"));
    }

    #[test]
    fn parts_of_mmcl_are_taken_away_one_by_one() {
        let text = "data = 'a'\ncells = 'mmcl'\n[set]\n'contrast.temperature' = 0.1";
        let cells = plan(text).all_cells(&Modality::KNOWN).unwrap();
        let whole = ["whole", "no-coding", "no-instance", "no-sentiment", "no-prediction"];
        let all = [&whole[..], &["shared", "detached"]].concat();
        assert_eq!(cells.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), all);
        assert_eq!(plan(text).reference(&cells), "whole");
        for cell in &cells[1..] {
            assert_eq!(cell.parts.len() + 1, cells[0].parts.len(), "{}", cell.name);
        }
        let config = plan(text).config(&cells[1], 1).unwrap();
        let value = |key| config.value(key).and_then(|v| v.as_float());
        assert_eq!(config.model.name, "mmcl");
        assert_eq!(
            (value("contrast.coding"), value("contrast.temperature")),
            (Some(0.0), Some(0.1))
        );
        // One predictor is no sharing.
        let names = names(text, &[Text, Audio]);
        assert_eq!(names, [&whole[..], &["detached"]].concat());
        let said = problem("data = 'a'\ncells = 'mmcl'\n[set]\n'model.name' = 'lf_dnn'");
        assert!(said.contains("takes parts of mmcl away"), "{said}");
    }

    #[test]
    fn the_other_presets() {
        let found = names("data='a'\ncells='modalities'", &Modality::KNOWN);
        assert_eq!(found, ["TAV", "TA", "TV", "AV", "T", "A", "V"]);
        assert_eq!(names("data='a'\ncells='modalities'", &[Text, Vision]), ["TV", "T", "V"]);
        let found = names("data='a'\ncells='weights'\nweights=[0, 2.5]", &[Text, Audio]);
        assert_eq!(found, ["weight=0", "weight=2.5"]);
        let plan = plan("data='a'\ncells='robustness'");
        let found = plan.all_cells(&[Text, Audio]).unwrap();
        let found: Vec<_> = found.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(found, ["fused", "align", "labels", "labels+align"]);
        assert!(plan.tests_robustness());
    }
}
