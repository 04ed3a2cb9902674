//! What an experiment is: cells, each a set of settings, times seeds.

use super::presets::{Preset, preset_cells};
use crate::data::{Group, Modality};
use crate::error::{Error, Result};
use crate::recipe::{Config, nearest, value_of};
use crate::train::metrics::NAMES;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};
use toml::{Table, Value};

/// A plan file.
///
/// ```toml
/// data = "cmu_mosi.safetensors"    # from where the plan lies
/// cells = "ablation"               # or weights, modalities, robustness, models, mmcl
/// seeds = 5                        # 1111 to 1115, or a list of seeds
/// folds = 5                        # instead of the file's splits: all rows, in folds
/// group = "id-prefix"              # what keeps rows in one fold
///
/// [set]                            # of every cell, as train --set
/// "train.max_epochs" = 30
///
/// [grid]                           # every combination
/// "align.dim" = [8, 16]
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What tables and pages call it; the file's name unless given.
    #[serde(default)]
    pub name: String,
    /// The data set; from where the plan file lies. Empty in a plan of any.
    #[serde(default)]
    pub data: PathBuf,
    /// The settings that all cells begin with, as `train --preset`.
    #[serde(default = "mosi")]
    pub preset: String,
    /// A ready-made set of cells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<Preset>,
    /// A number of seeds from 1111 on, or the seeds.
    #[serde(default)]
    pub seeds: Seeds,
    /// Into how many [folds](crate::data::Folds) all rows are divided, anew for each seed, to test on
    /// each in turn; the splits of the data file unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folds: Option<usize>,
    /// What keeps rows in one fold; their ids' beginnings unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// The cell that the others are held against; the first unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The score that chooses the best cell (on validation) and orders the forest plot.
    #[serde(default = "mae")]
    pub metric: String,
    /// Below this an adjusted p is called significant.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// Whether trained models are also tested with each modality dropped, noised and truncated.
    #[serde(default)]
    pub robustness: bool,
    /// Weights that `cells = "weights"` goes through.
    #[serde(default = "weights")]
    pub weights: Vec<f64>,
    /// Weight of the pairs in the ablation's correlation form, whose terms are larger.
    #[serde(default = "correlation_weight")]
    pub correlation_weight: f64,
    /// Settings of every cell.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub set: Table,
    /// Values to combine: `"section.key" = [a, b, ...]`.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub grid: Table,
    /// Cells by name.
    #[serde(default, rename = "cell", skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<OwnCell>,
}

fn mosi() -> String {
    "mosi".into()
}
fn mae() -> String {
    "MAE".into()
}
fn alpha() -> f64 {
    0.05
}
fn weights() -> Vec<f64> {
    vec![0.0, 0.1, 1.0, 10.0, 100.0, 1000.0]
}
fn correlation_weight() -> f64 {
    0.1
}

/// Which seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "want a number of seeds or a list of seeds")]
pub enum Seeds {
    /// So many from 1111 on, the seeds of MMSA's tables.
    Count(u64),
    /// These.
    List(Vec<u64>),
}

impl Default for Seeds {
    fn default() -> Self {
        Seeds::Count(5)
    }
}

/// Seeds of a plan, at most.
const MOST_SEEDS: u64 = 10_000;
/// Cells, likewise.
const MOST_CELLS: usize = 1000;

impl Seeds {
    /// How many.
    fn count(&self) -> u64 {
        match self {
            Seeds::Count(n) => *n,
            Seeds::List(all) => all.len() as u64,
        }
    }

    /// All of them.
    pub fn list(&self) -> Vec<u64> {
        match self {
            Seeds::Count(n) => (0..*n).map(|i| 1111 + i).collect(),
            Seeds::List(all) => all.clone(),
        }
    }
}

/// A cell that the plan spells out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnCell {
    /// In tables and folder names.
    pub name: String,
    /// Its settings, over those of all cells.
    #[serde(default)]
    pub set: Table,
}

/// One way of training, and what it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// In tables, and as the name of its folder.
    pub name: String,
    /// `section.key=value`, over the plan's own.
    pub settings: Vec<String>,
    /// The parts of the method that are on, where cells are made of such.
    pub parts: Vec<String>,
    /// What a grid adds to its name; cells of one group differ in their parts alone.
    pub group: String,
}

impl Cell {
    pub(super) fn new(name: impl Into<String>, settings: &[&str]) -> Self {
        let settings = settings.iter().map(ToString::to_string).collect();
        Cell { name: name.into(), settings, parts: Vec::new(), group: String::new() }
    }

    pub(super) fn with(self, parts: &[&str]) -> Self {
        Cell { parts: parts.iter().map(ToString::to_string).collect(), ..self }
    }
}

impl Plan {
    /// Reads a plan file; a relative path to data counts from its folder.
    ///
    /// # Errors
    /// A file that cannot be read, is no TOML, or has a key that plans do not have.
    pub fn read(path: &Path) -> Result<Plan> {
        let mut plan: Plan = read_toml(path)?;
        if plan.name.is_empty() {
            plan.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        }
        if plan.data.is_relative() && plan.data != Path::new("") {
            plan.data = path.parent().unwrap_or(Path::new("")).join(&plan.data);
        }
        Ok(plan)
    }

    /// One of the ready-made sets of cells over a data set, everything else as it comes.
    pub fn of(cells: Preset, data: &Path) -> Plan {
        let stem = data.file_stem().unwrap_or_default().to_string_lossy();
        Plan {
            name: format!("{stem}-{}", cells.name()),
            data: data.to_path_buf(),
            preset: mosi(),
            cells: Some(cells),
            seeds: Seeds::default(),
            folds: None,
            group: None,
            reference: None,
            metric: mae(),
            alpha: alpha(),
            robustness: false,
            weights: weights(),
            correlation_weight: correlation_weight(),
            set: Table::new(),
            grid: Table::new(),
            own: Vec::new(),
        }
    }

    /// As a TOML text.
    ///
    /// # Errors
    /// None that a plan that was read could have.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Config(e.to_string()))
    }

    /// Whether trained models are tested on damaged inputs too.
    pub fn tests_robustness(&self) -> bool {
        self.robustness || self.cells == Some(Preset::Robustness)
    }

    /// The settings of every cell, as `--set` takes them: the model of its ready-made cells first, where they
    /// are of one.
    pub fn settings(&self) -> Vec<String> {
        let own = flat(&self.set).into_iter().map(|(key, value)| format!("{key}={value}"));
        let model = self.cells.and_then(Preset::model).map(|model| format!("model.name={model}"));
        model.into_iter().chain(own).collect()
    }

    /// Adds a `section.key=value` to the settings of every cell, over what the plan has.
    ///
    /// # Errors
    /// A text without `=`.
    pub fn add_setting(&mut self, setting: &str) -> Result<()> {
        let (key, text) = setting
            .split_once('=')
            .ok_or_else(|| Error::Config(format!("--set '{setting}': want section.key=value")))?;
        // Flat, so that it comes in place of a key however the plan nests it.
        let all: Vec<(String, Value)> = flat(&self.set);
        let whole = key.trim();
        let part = |k: &str| k.strip_prefix(whole).is_some_and(|rest| rest.starts_with('.'));
        self.set = all.into_iter().filter(|(k, _)| k != whole && !part(k)).collect();
        self.set.insert(whole.into(), value_of(text.trim()));
        Ok(())
    }

    /// The configuration that all cells begin with.
    ///
    /// # Errors
    /// An unknown key or an impossible value.
    pub fn base(&self) -> Result<Config> {
        Config::build(&self.preset, None, &self.settings())
    }

    /// The configuration of a cell at a seed.
    ///
    /// # Errors
    /// An unknown key or an impossible value, with the cell's name.
    pub fn config(&self, cell: &Cell, seed: u64) -> Result<Config> {
        let mut all = self.settings();
        all.extend(cell.settings.iter().cloned());
        all.push(format!("train.seed={seed}"));
        Config::build(&self.preset, None, &all).map_err(|e| match e {
            Error::Config(why) => Error::Config(format!("cell {}: {why}", cell.name)),
            other => other,
        })
    }

    /// All cells for data with these modalities: those of the preset times the grid, then the
    /// plan's own.
    ///
    /// # Errors
    /// A plan of no cells, two cells of one name, a grid entry that is no list, a key or a value
    /// that no configuration has, a reference that is none of them.
    pub fn all_cells(&self, has: &[Modality]) -> Result<Vec<Cell>> {
        let fail = |why: String| Err(Error::Config(why));
        let mut parts = Path::new(&self.name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain && !self.name.is_empty() {
            return fail(format!("name: '{}' is to be a folder's too: want no path", self.name));
        }
        if self.seeds.count() > MOST_SEEDS {
            return fail(format!("seeds: {} are more than {MOST_SEEDS}", self.seeds.count()));
        }
        let seeds = self.seeds.list();
        if seeds.is_empty() {
            return fail("seeds: want at least one".into());
        }
        if let Some((_, twice)) = seeds.iter().enumerate().find(|(i, s)| seeds[..*i].contains(s)) {
            return fail(format!("seeds: {twice} is there twice, and one run is no two"));
        }
        if let (None, Some(group)) = (self.folds, &self.group) {
            return fail(format!(
                "group: rows are folded by {group}, and folds says into how many: give it"
            ));
        }
        if !(self.alpha > 0.0 && self.alpha < 1.0) {
            return fail(format!("alpha: want a probability, got {}", self.alpha));
        }
        if !NAMES.contains(&self.metric.as_str()) {
            let close = nearest(&self.metric, NAMES.into_iter());
            return fail(format!("metric: no score '{}', did you mean '{close}'?", self.metric));
        }
        let mut cells = match self.cells {
            Some(preset) => preset_cells(preset, self, has)?,
            None => Vec::new(),
        };
        if !self.grid.is_empty() {
            let start = if cells.is_empty() { vec![Cell::new("", &[])] } else { cells };
            let axes = flat(&self.grid);
            let sizes = axes.iter().map(|(_, v)| v.as_array().map_or(1, Vec::len));
            let all = sizes.fold(start.len(), usize::saturating_mul);
            if all > MOST_CELLS {
                return fail(format!("grid: {all} cells are more than {MOST_CELLS}"));
            }
            cells = product(start, &axes)?;
        }
        for own in &self.own {
            let settings = flat(&own.set).into_iter().map(|(key, value)| format!("{key}={value}"));
            cells.push(Cell { settings: settings.collect(), ..Cell::new(&*own.name, &[]) });
        }
        if cells.len() > MOST_CELLS {
            return fail(format!("{} cells are more than {MOST_CELLS}", cells.len()));
        }
        if cells.is_empty() {
            let known = Preset::ALL.map(Preset::name).join(", ");
            return fail(format!("no cells: give cells ({known}), [grid] or [[cell]]"));
        }
        let mut configs: Vec<Config> = Vec::new();
        for (i, cell) in cells.iter().enumerate() {
            if cell.name.is_empty() || cell.name != folder_name(&cell.name) {
                return fail(format!(
                    "cell '{}': want a name of letters, digits and + - = . , _, since it is its \
                     folder's too",
                    cell.name
                ));
            }
            if cells[..i].iter().any(|other| other.name == cell.name) {
                return fail(format!("two cells are called '{}'", cell.name));
            }
            let config = self.config(cell, 0)?;
            if let Some(same) = configs.iter().position(|c| *c == config) {
                return fail(format!(
                    "cells '{}' and '{}' have the very same settings: what sets them apart is \
                     overridden by [set], [grid] or --set, or is of a part that they lack",
                    cells[same].name, cell.name
                ));
            }
            configs.push(config);
        }
        if let Some(wanted) = &self.reference
            && !cells.iter().any(|c| c.name == *wanted)
        {
            let close = nearest(wanted, cells.iter().map(|c| c.name.as_str()));
            return fail(format!("reference: no cell '{wanted}', did you mean '{close}'?"));
        }
        Ok(cells)
    }

    /// The cell that the others are held against: the plan's choice, or the preset's, or the first.
    pub fn reference<'a>(&'a self, cells: &'a [Cell]) -> &'a str {
        let chosen = self.reference.as_deref();
        let usual = self.cells.and_then(Preset::reference);
        let usual = usual.filter(|name| cells.iter().any(|c| c.name == *name));
        chosen.or(usual).or(cells.first().map(|c| c.name.as_str())).unwrap_or_default()
    }
}

/// A plan of any kind from its file; what is wrong with it is told by line.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    toml::from_str(&text).map_err(|e: toml::de::Error| {
        let line = e.span().map_or(0, |s| 1 + text[..s.start].matches('\n').count());
        Error::Config(format!("{}, line {line}: {}", path.display(), wrong(&e)))
    })
}

/// What is wrong with a plan's text: of a key that plans do not have, the nearest that they have.
fn wrong(error: &toml::de::Error) -> String {
    let said = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut quoted = said.split('`').skip(1).step_by(2);
    match quoted.next().filter(|_| said.starts_with("unknown field")) {
        Some(key) => format!("no key '{key}', did you mean '{}'?", nearest(key, quoted)),
        None => said,
    }
}

/// A name with nothing in it that a file system or a shell takes amiss.
fn folder_name(name: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || "+-=.,_".contains(c);
    let name: String = name.chars().map(|c| if fine(c) { c } else { '_' }).collect();
    // Neither hidden nor a way out of the folder.
    match name.strip_prefix(['.', '-']) {
        Some(rest) => format!("_{rest}"),
        None => name,
    }
}

/// Every entry as `section.key` and its value in TOML, however the table is nested.
fn flat(table: &Table) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                all.extend(flat(inner).into_iter().map(|(k, v)| (format!("{key}.{k}"), v)));
            }
            other => all.push((key.clone(), other.clone())),
        }
    }
    all
}

/// Every cell with every combination of the grid's values.
fn product(mut cells: Vec<Cell>, grid: &[(String, Value)]) -> Result<Vec<Cell>> {
    for (key, values) in grid {
        let Some(values) = values.as_array().filter(|v| !v.is_empty()) else {
            let detail = format!("grid.{key}: want a list of values, as in \"{key}\" = [1, 2]");
            return Err(Error::Config(detail));
        };
        // The last word of a key is enough where no other key ends in it.
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
        let alone = grid.iter().filter(|(other, _)| last(other) == last(key)).count() == 1;
        let short = if alone { last(key) } else { key.clone() };
        cells = cells
            .iter()
            .flat_map(|cell| {
                let short = short.as_str();
                values.iter().map(move |value| {
                    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                    let comma = if cell.name.is_empty() { "" } else { "," };
                    let added = format!("{comma}{short}={}", folder_name(&shown));
                    let mut cell = cell.clone();
                    cell.name += &added;
                    cell.group += &added;
                    // What makes a cell what it is goes over what all of its group have.
                    cell.settings.insert(0, format!("{key}={value}"));
                    cell
                })
            })
            .collect();
    }
    Ok(cells)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::recipe::self_mm::Settings;
    use Modality::{Audio, Text, Vision};

    pub(in super::super) fn plan(text: &str) -> Plan {
        toml::from_str(text).unwrap()
    }

    pub(in super::super) fn names(text: &str, has: &[Modality]) -> Vec<String> {
        plan(text).all_cells(has).unwrap().into_iter().map(|c| c.name).collect()
    }

    pub(in super::super) fn problem(text: &str) -> String {
        plan(text).all_cells(&Modality::KNOWN).unwrap_err().to_string()
    }

    /// Self-MM's own settings.
    fn own(config: &Config) -> Settings {
        config.settings().unwrap()
    }

    #[test]
    fn the_ablation_is_labels_by_subsets_of_pairs_and_the_correlation_form() {
        let plan = plan("data = 'a'\ncells = 'ablation'");
        let cells = plan.all_cells(&Modality::KNOWN).unwrap();
        assert_eq!(cells.len(), 2 * 8 + 2);
        assert_eq!(plan.reference(&cells), "labels");
        assert_eq!(plan.seeds.list(), [1111, 1112, 1113, 1114, 1115]);
        let config = |name: &str| {
            let cell = cells.iter().find(|c| c.name == name).unwrap();
            plan.config(cell, 7).unwrap()
        };
        let both = config("labels+ta+av");
        let weight = |config: &Config, pair: &str| {
            let weight = own(config).align.weight;
            [("ta", weight.ta), ("tv", weight.tv), ("av", weight.av)]
                .into_iter()
                .find_map(|(name, value)| (name == pair).then_some(value))
        };
        let pairs = ["ta", "tv", "av"].map(|pair| weight(&both, pair));
        assert!(pairs == [100.0, 0.0, 100.0].map(Some) && own(&both).labels.enabled);
        assert_eq!(both.train.seed, 7);
        let none = config("fused");
        assert!(!own(&none).labels.enabled && weight(&none, "ta") == Some(0.0));
        let correlation = config("labels+correlation");
        assert!(own(&correlation).align.standardize && weight(&correlation, "tv") == Some(0.1));
        // Two modalities have one pair.
        let cells = plan.all_cells(&[Audio, Vision]).unwrap();
        let names: Vec<_> = cells.iter().map(|c| c.name.as_str()).collect();
        let wanted = ["fused", "av", "correlation", "labels", "labels+av", "labels+correlation"];
        assert_eq!(names, wanted);
        assert!(plan.all_cells(&[Text]).unwrap_err().to_string().contains("pair"));
    }

    #[test]
    fn a_grid_is_every_combination() {
        let text = "data = 'a'\n[grid]\n'align.dim' = [4, 8]\n'model.modalities' = ['TA', 'T']";
        let found = names(text, &Modality::KNOWN);
        assert_eq!(found.len(), 4);
        assert!(found.contains(&"dim=4,modalities=TA".to_string()), "{found:?}");
        let text = "data='a'\ncells='robustness'\n[grid.train]\nbatch_size = [8, 16]";
        assert_eq!(names(text, &[Text, Audio]).len(), 8);
        // What a preset's cells switch stays switched, whatever the grid and [set] say of the rest.
        let text = "data='a'\ncells='ablation'\n[set]\n'labels.enabled'=false\n[grid]\n\
                    'align.weight.ta'=[5, 7]\n";
        let plan = plan(text);
        let cells = plan.all_cells(&[Text, Audio]);
        assert!(cells.unwrap_err().to_string().contains("very same settings"));
        let plan: Plan = toml::from_str(&text.replace("weight.ta", "dim")).unwrap();
        let cells = plan.all_cells(&[Text, Audio]).unwrap();
        assert_eq!(cells.len(), 6 * 2);
        let config = |name: &str| {
            let cell = cells.iter().find(|c| c.name == name).unwrap();
            plan.config(cell, 1).unwrap()
        };
        let labels = |name: &str| own(&config(name)).labels.enabled;
        assert!(labels("labels+ta,dim=5") && !labels("ta,dim=5"));
        let align = |name: &str| own(&config(name)).align;
        assert_eq!((align("fused,dim=7").weight.ta, align("ta,dim=7").dim), (0.0, 7));
        // Two keys of one last word are told apart.
        let text = "data='a'\n[grid]\n'train.lr.audio'=[0.1]\n'train.decay.audio'=[0.2]";
        assert_eq!(names(text, &[Text]), ["train.decay.audio=0.2,train.lr.audio=0.1"]);
    }

    #[test]
    fn own_cells_and_settings() {
        let text = "data='a'\nseeds=[3, 5]\nreference='b'\n[set.train]\nbatch_size=8\n[[cell]]\n\
                    name='a'\n[[cell]]\nname='b'\nset={ 'align.dim' = 4 }";
        let plan = plan(text);
        let cells = plan.all_cells(&Modality::KNOWN).unwrap();
        let config = plan.config(&cells[1], 3).unwrap();
        assert_eq!((own(&config).align.dim, config.train.batch_size, config.train.seed), (4, 8, 3));
        assert_eq!(plan.reference(&cells), "b");
        let mut over: Plan =
            toml::from_str("data='a'\n[set]\n'align.weight.ta' = 1\n[[cell]]\nname='x'").unwrap();
        over.add_setting("align.weight=5").unwrap();
        let cell = over.all_cells(&Modality::KNOWN).unwrap().remove(0);
        assert_eq!(own(&over.config(&cell, 1).unwrap()).align.weight.ta, 5.0);
        for plan in
            [plan, self::plan("data='a'\nfolds=5\ngroup='id-until:-'\n[set]\n'align.dim'=4")]
        {
            let again: Plan = toml::from_str(&plan.to_toml().unwrap()).unwrap();
            assert_eq!(again, plan);
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        assert!(problem("data='a'").contains("no cells"));
        assert!(problem("data='a'\n[grid]\n'align.dim'=3").contains("want a list"));
        assert!(problem("data='a'\n[grid]\n'align.dmi'=[3]").contains("align.dim"));
        assert!(
            problem("data='a'\ncells='weights'\nreference='weight=3'").contains("did you mean")
        );
        assert!(problem("data='a'\nseeds=[]\ncells='weights'").contains("at least one"));
        assert!(problem("data='a'\n[[cell]]\nname='../x'").contains("want a name"));
        assert!(problem("data='a'\n[[cell]]\nname='x'\n[[cell]]\nname='x'").contains("two cells"));
        assert!(problem("data='a'\nseeds=[7, 8, 7]\ncells='weights'").contains("7 is there twice"));
        let same = "data='a'\n[[cell]]\nname='x'\n[[cell]]\nname='y'\nset={'align.dim' = 16}";
        assert!(problem(same).contains("'x' and 'y' have the very same settings"));
        let off = "data='a'\ncells='robustness'\n[set]\n'align.weight' = 0";
        assert!(problem(off).contains("nothing to switch on"));
        assert!(problem("data='a'\ncells='weights'\ngroup='none'").contains("folds says"));
        assert!(problem("data='a'\nalpha=2\ncells='weights'").contains("probability"));
        assert!(problem("data='a'\ncells='weights'\nmetric='mse'\n").contains("metric"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, "data = 'a'\n\nsead = 3\n").unwrap();
        let message = Plan::read(&path).unwrap_err().to_string();
        assert!(message.contains("line 3: no key 'sead', did you mean 'seeds'?"), "{message}");
        for (text, wanted) in [
            ("fold = 5", "line 2: no key 'fold', did you mean 'folds'?"),
            ("grup = 'none'", "line 2: no key 'grup', did you mean 'group'?"),
            (
                "folds = 5\ngroup = 'id-prefx'",
                "line 3: no grouping 'id-prefx', did you mean 'id-prefix'?",
            ),
            ("folds = 'five'", "line 2: invalid type"),
            ("[[cell]]\nnmae = 'x'", "did you mean 'name'?"),
        ] {
            std::fs::write(&path, format!("data = 'a'\n{text}\n")).unwrap();
            let message = Plan::read(&path).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
        std::fs::write(&path, "data = 'a'").unwrap();
        let plan = Plan::read(&path).unwrap();
        assert_eq!((plan.name.as_str(), plan.data), ("x", folder.path().join("a")));
    }
}
