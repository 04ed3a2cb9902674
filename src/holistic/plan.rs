//! What is trained on what.

use crate::error::{Error, Result};
use crate::experiment::{OwnCell, Plan as Experiment, Preset, Seeds, read_toml};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use toml::Table;

/// How information flows from what goes in to what comes out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flow {
    /// Modalities are asked about each other: retrieval, alignment.
    Querying,
    /// One modality becomes another.
    Translation,
    /// One modality is changed as another says.
    Editing,
    /// A target is told from all together.
    #[default]
    Fusion,
}

/// A data set of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataEntry {
    /// The file; from where the plan lies.
    pub path: PathBuf,
    /// In tables; the file's name unless given.
    #[serde(default)]
    pub name: String,
    /// What its task asks for.
    #[serde(default)]
    pub flow: Flow,
    /// Settings of all models on it.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub set: Table,
}

/// A plan file.
///
/// ```toml
/// seeds = 3
/// [set]                       # of all models on all data, as train --set
/// "train.max_epochs" = 30
/// [[data]]
/// path = "ravdess.safetensors"
/// set = { "task.kind" = "classes" }
/// [[data]]
/// path = "wiki_articles.safetensors"
/// flow = "fusion"             # or querying, translation, editing
/// [[model]]
/// name = "late"
/// set = { "model.name" = "lf_dnn" }
/// [[model]]
/// name = "outer products"
/// set = { "model.name" = "tfn" }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What tables and pages call it; the file's name unless given.
    #[serde(default)]
    pub name: String,
    /// A number of seeds from 1111 on, or the seeds.
    #[serde(default)]
    pub seeds: Seeds,
    /// The settings that all begin with, as `train --preset`.
    #[serde(default = "mosi")]
    pub preset: String,
    /// Whether scores go from the worst model's to the best possible, as HEMM has them, instead of from what knowing
    /// nothing reaches. Then adding a model changes all scores.
    #[serde(default)]
    pub floor_by_worst_model: bool,
    /// Clusters of each stream where interactions are measured.
    #[serde(default = "ten")]
    pub clusters: usize,
    /// Settings of all.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub set: Table,
    /// The data sets.
    pub data: Vec<DataEntry>,
    /// The models.
    #[serde(rename = "model")]
    pub models: Vec<OwnCell>,
}

fn mosi() -> String {
    "mosi".into()
}

fn ten() -> usize {
    10
}

impl Plan {
    /// Reads a plan file; relative paths to data count from its folder.
    ///
    /// # Errors
    /// A file that cannot be read, is no TOML, or has a key that plans do not have; fewer than one data set or two
    /// models; two of one name.
    pub fn read(path: &Path) -> Result<Plan> {
        let mut plan: Plan = read_toml(path)?;
        let bad = |what: String| Error::Config(format!("{}{what}", path.display()));
        if plan.name.is_empty() {
            plan.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        }
        for entry in &mut plan.data {
            if entry.name.is_empty() {
                entry.name =
                    entry.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            }
            if entry.path.is_relative() {
                entry.path = path.parent().unwrap_or(Path::new("")).join(&entry.path);
            }
        }
        if plan.data.is_empty() || plan.models.len() < 2 {
            return Err(bad(
                ": a plan of whole evaluation has a [[data]] or more, and two [[model]] or more"
                    .into(),
            ));
        }
        let mut seen = BTreeSet::new();
        let names = plan.data.iter().map(|d| &d.name);
        if let Some(twice) = names.clone().find(|name| !seen.insert((*name).clone())) {
            return Err(bad(format!(
                ": two data sets are called {twice}; give one a name of its own"
            )));
        }
        if let Some(name) = names.clone().find(|name| !plain(name)) {
            return Err(bad(format!(
                ": the name '{name}' is that of a folder: letters, digits, -, _ and . alone"
            )));
        }
        Ok(plan)
    }

    /// An experiment for each data set, in their order: its models are the cells.
    ///
    /// # Errors
    /// Settings that cannot be told apart from a section.
    pub fn experiments(&self) -> Result<Vec<Experiment>> {
        let one = |entry: &DataEntry| -> Result<Experiment> {
            let mut plan = Experiment::of(Preset::Models, &entry.path);
            plan.name.clone_from(&entry.name);
            plan.cells = None;
            plan.preset.clone_from(&self.preset);
            plan.seeds = self.seeds.clone();
            plan.robustness = true;
            plan.set = self.set.clone();
            let over = Experiment { set: entry.set.clone(), ..plan.clone() };
            over.settings().iter().try_for_each(|setting| plan.add_setting(setting))?;
            plan.own.clone_from(&self.models);
            Ok(plan)
        };
        self.data.iter().map(one).collect()
    }
}

fn plain(name: &str) -> bool {
    let fine = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Plan> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("whole.toml");
        std::fs::write(&path, text).unwrap();
        Plan::read(&path)
    }

    const TWO: &str = "[[model]]\nname='a'\n[[model]]\nname='b'\nset={'model.name'='tfn'}\n";

    #[test]
    fn a_plan_is_an_experiment_for_each_data_set() {
        let text = format!(
            "seeds=2\n[set]\n'train.max_epochs'=9\n[[data]]\npath='x.safetensors'\nset={{'train.max_epochs'=4}}\n\
             [[data]]\npath='y.safetensors'\nname='other'\nflow='querying'\n{TWO}"
        );
        let plan = read(&text).unwrap();
        assert_eq!((plan.name.as_str(), plan.data[1].flow), ("whole", Flow::Querying));
        let all = plan.experiments().unwrap();
        assert_eq!((all[0].name.as_str(), all[1].name.as_str()), ("x", "other"));
        assert_eq!(
            (all[0].settings(), all[1].settings()),
            (vec!["train.max_epochs=4".to_string()], vec!["train.max_epochs=9".to_string()],)
        );
        assert!(
            all[0].data.ends_with("x.safetensors")
                && all[0].data.is_absolute()
                && all[0].robustness
        );
        assert_eq!(all[0].own.len(), 2);
    }

    #[test]
    fn plans_that_cannot_be_are_refused() {
        let said = |text: &str| read(text).unwrap_err().to_string();
        assert!(
            said("[[data]]\npath='x.safetensors'\n[[model]]\nname='a'").contains("two [[model]]")
        );
        assert!(said(&format!("data=[]\n{TWO}")).contains("a [[data]]"));
        let twice = "[[data]]\npath='x.safetensors'\n[[data]]\npath='z/x.safetensors'\n";
        assert!(said(&format!("{twice}{TWO}")).contains("two data sets are called x"));
        assert!(
            said(&format!("[[data]]\npath='x.safetensors'\nname='../x'\n{TWO}")).contains("folder")
        );
        assert!(said(&format!("seed=3\n[[data]]\npath='x'\n{TWO}")).contains("line 1"));
    }
}
