//! Everything that can be set about a run, its presets, and how files and `--set` change it.

use super::overlay::{flatten, nearest, one_line, overlay, set};
use super::registry;
use super::sections::{ALL_STREAMS, by_loss, first_model};
pub use super::sections::{
    BertConfig, BySense, ByStream, ClassWeights, DataConfig, ModelConfig, PartRates, Pooling,
    TaskChoice, TaskConfig, TextEncoder, TokenSource, TrainConfig,
};
use crate::data::{Lacking, Modality, Normalize};
use crate::error::{Error, Result};
use crate::files::FORMAT;
use crate::train::metrics::Convention;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// A run's full configuration, as `config.toml` in a run folder holds it.
///
/// What every model has is typed here. The keys of one model are tables, [`own`](Self::own) sections and
/// [`ModelConfig::own`] keys, which its recipe reads as a type of its own by [`settings`](Self::settings).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The preset this began as.
    pub preset: String,
    /// The data set's conventions.
    pub data: DataConfig,
    /// What is to be predicted.
    #[serde(default)]
    pub task: TaskConfig,
    /// Optimisation and schedule.
    pub train: TrainConfig,
    /// Which model, what it reads, and its own keys.
    pub model: ModelConfig,
    /// The pretrained text encoder, where `model.text_encoder` is `bert`.
    pub bert: BertConfig,
    /// Sections of the model's own.
    #[serde(flatten)]
    pub own: Table,
}

/// What all models begin with, for labels in ±3 as MOSI has them.
impl Default for Config {
    fn default() -> Self {
        Config {
            preset: "mosi".into(),
            data: DataConfig {
                convention: Convention::Mosi,
                label_range: 3.0,
                clip_labels: false,
                missing: Lacking::default(),
            },
            task: TaskConfig::default(),
            train: TrainConfig {
                batch_size: 32,
                accumulate: 1,
                average: false,
                keep_tail: true,
                shuffle: true,
                seed: 1111,
                max_epochs: 100,
                early_stop: 8,
                metric_for_best_model: by_loss(),
                normalize: Normalize::Standard,
                clip_norm: 0.0,
                clip_value: 0.0,
                lr: PartRates::default(),
                decay: PartRates::default(),
            },
            model: ModelConfig {
                name: first_model(),
                text_encoder: TextEncoder::Features,
                modalities: ALL_STREAMS.into(),
                own: Table::new(),
            },
            bert: BertConfig {
                path: String::new(),
                input: TokenSource::Auto,
                max_tokens: 50,
                pooling: Pooling::First,
                finetune: true,
                freeze_embeddings: false,
                freeze_layers: 0,
                dropout: -1.0,
                checkpoint: false,
                half: false,
            },
            own: Table::new(),
        }
    }
}

impl Config {
    /// The settings of a model for a data set.
    ///
    /// # Errors
    /// An unknown name of either.
    pub fn preset(model: &str, name: &str) -> Result<Self> {
        let entry = registry::find(model)?;
        if !entry.presets.contains(&name) {
            let close = nearest(name, entry.presets.iter().copied());
            return Err(Error::Config(format!(
                "no preset '{name}' of {model}, did you mean '{close}'? There are: {}",
                entry.presets.join(", ")
            )));
        }
        let mut config = Config { preset: name.into(), ..Config::default() };
        config.model.name = model.into();
        (entry.preset)(name, &mut config)?;
        Ok(config)
    }

    /// CH-SIMS's conventions: labels in ±1, scored its way.
    pub fn sims(&mut self) {
        (self.data.convention, self.data.label_range) = (Convention::Sims, 1.0);
    }

    /// Takes a model's own settings: of its `model` table the keys, the others as sections.
    ///
    /// # Errors
    /// What is no table.
    pub fn set_own(&mut self, settings: &impl Serialize) -> Result<()> {
        self.own = Table::try_from(settings).map_err(|e| Error::Config(e.to_string()))?;
        if let Some(Value::Table(keys)) = self.own.remove("model") {
            self.model.own = keys;
        }
        Ok(())
    }

    /// As [`set_own`](Self::set_own), of a model whose settings are all in `[model]`.
    ///
    /// # Errors
    /// As there.
    pub(super) fn set_model(&mut self, settings: &impl Serialize) -> Result<()> {
        self.own = Table::new();
        self.model.own = Table::try_from(settings).map_err(|e| Error::Config(e.to_string()))?;
        Ok(())
    }

    /// The settings of a model that are all in `[model]`.
    ///
    /// # Errors
    /// As [`settings`](Self::settings).
    pub(super) fn model_settings<T: DeserializeOwned>(&self) -> Result<T> {
        let own = Value::Table(self.model.own.clone());
        own.try_into().map_err(|e: toml::de::Error| Error::Config(one_line(&e)))
    }

    /// How MMSA trains most of its models on the data set of a preset: features as they are, batches of so
    /// many rows, and for each group a learning rate and a weight decay.
    pub(super) fn as_mmsa<const N: usize>(
        &mut self,
        preset: &str,
        batch: usize,
        groups: [(&str, f64, f64); N],
    ) {
        if preset == "sims" {
            self.sims();
        }
        (self.train.batch_size, self.train.normalize) = (batch, Normalize::None);
        self.train.lr = PartRates::of(groups.map(|(name, lr, _)| (name, lr)));
        self.train.decay = PartRates::of(groups.map(|(name, _, decay)| (name, decay)));
    }

    /// A model's own settings; see [`set_own`](Self::set_own).
    ///
    /// # Errors
    /// Keys that are missing, unknown or of another type.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T> {
        let mut all = self.own.clone();
        all.insert("model".into(), Value::Table(self.model.own.clone()));
        all.try_into().map_err(|e: toml::de::Error| Error::Config(one_line(&e)))
    }

    /// The value of a key, `section.key`, where there is one.
    pub fn value(&self, key: &str) -> Option<Value> {
        let mut at = Value::Table(self.table().ok()?);
        for part in key.split('.') {
            at = at.get(part)?.clone();
        }
        Some(at)
    }

    /// A preset, then a TOML text, then `section.key=value` settings, in that order.
    ///
    /// # Errors
    /// An unknown key (naming the nearest known one), a value of the wrong type or out of range.
    pub fn build(preset: &str, file: Option<&str>, settings: &[String]) -> Result<Self> {
        let mut file: Table = match file {
            Some(text) => text.parse().map_err(|e: toml::de::Error| Error::Config(one_line(&e)))?,
            None => Table::new(),
        };
        match file.remove("format") {
            None => {}
            Some(Value::Integer(format)) if (1..=i64::from(FORMAT)).contains(&format) => {}
            Some(other) => {
                return Err(Error::Config(format!(
                    "the settings are of format {other}, and this modalign knows those up to {FORMAT}: \
                     use a newer one"
                )));
            }
        }
        // A model and a preset are where the settings begin, wherever they are named.
        let first = first_model();
        let said = |key: &str| {
            let named = settings.iter().rev();
            named
                .filter_map(|s| s.split_once('='))
                .find(|(k, _)| k.trim() == key)
                // A plan has its values as TOML writes them, names in quotes.
                .map(|(_, v)| v.trim().trim_matches(['"', '\'']))
        };
        let preset = match (said("preset"), file.get("preset")) {
            (Some(name), _) => name,
            (None, Some(Value::String(name))) => name.as_str(),
            _ => preset,
        };
        let model = match (said("model.name"), file.get("model").and_then(|m| m.get("name"))) {
            (Some(name), _) => name,
            (None, Some(Value::String(name))) => name.as_str(),
            _ => &first,
        };
        let mut all = Self::preset(model, preset)?.table()?;
        overlay(&mut all, &file, "")?;
        for setting in settings {
            let (key, value) = setting.split_once('=').ok_or_else(|| {
                Error::Config(format!("--set '{setting}': want section.key=value"))
            })?;
            set(&mut all, key.trim(), value.trim())?;
        }
        let config: Config =
            all.try_into().map_err(|e: toml::de::Error| Error::Config(one_line(&e)))?;
        config.validate()?;
        Ok(config)
    }

    /// As a TOML table.
    fn table(&self) -> Result<Table> {
        Table::try_from(self).map_err(|e| Error::Config(e.to_string()))
    }

    /// As the text of a `config.toml`.
    pub fn to_toml(&self) -> Result<String> {
        let text = toml::to_string(self).map_err(|e| Error::Config(e.to_string()))?;
        Ok(format!("format = {FORMAT}\n{text}"))
    }

    /// Refuses sizes that no model of today has, before anything is made of them.
    fn check_sizes(&self) -> Result<()> {
        const WIDEST: i64 = 65_536;
        const DEEPEST: i64 = 1024;
        for (key, value) in self.keys()? {
            let Ok(value) = value.parse::<i64>() else { continue };
            let most = if key.ends_with("layers") { DEEPEST } else { WIDEST };
            let sized = !["train.", "data.", "preset"].iter().any(|other| key.starts_with(other));
            if sized && value > most {
                return Err(Error::Config(format!("{key} = {value}: want at most {most}")));
            }
        }
        for (key, value) in [
            ("train.batch_size", self.train.batch_size),
            ("train.accumulate", self.train.accumulate),
        ] {
            if value > 1 << 24 {
                return fail(key, "at most 16777216");
            }
        }
        Ok(())
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// The key and what it may be.
    pub fn validate(&self) -> Result<()> {
        let t = &self.train;
        for (key, value) in [
            ("train.batch_size", t.batch_size),
            ("train.accumulate", t.accumulate),
            ("train.max_epochs", t.max_epochs),
        ] {
            if value == 0 {
                return fail(key, "at least 1");
            }
        }
        self.check_sizes()?;
        self.data.missing.check()?;
        probability("task.label_smoothing", self.task.label_smoothing)?;
        let wanted = match self.model.wanted() {
            Ok(wanted) => wanted.unwrap_or_default(),
            Err(why) => {
                let known = "all, letters of TAV, or names with a + between, each once";
                return fail("model.modalities", &format!("{known} ({why})"));
            }
        };
        let other = wanted.into_iter().find(|m| matches!(m, Modality::Other(_)));
        if let Some(other) = other.filter(|_| !registry::reads_others(&self.model.name)) {
            return fail(
                "model.modalities",
                &format!(
                    "text, audio and vision for {}, which cannot read '{other}'; modalign models says which can",
                    self.model.name
                ),
            );
        }
        let b = &self.bert;
        if !(b.dropout < 1.0 && b.dropout.is_finite()) {
            return fail("bert.dropout", "a probability below 1, or -1 for config.json's");
        }
        if !(3..=512).contains(&b.max_tokens) {
            return fail("bert.max_tokens", "3 to 512");
        }
        if self.model.text_encoder == TextEncoder::Bert && b.path.is_empty() {
            return fail("bert.path", "the folder of the pretrained encoder (--bert FOLDER)");
        }
        // Where nothing is frozen it would do nothing, and who asks for less memory should know.
        if b.half && b.finetune && b.freeze_layers == 0 {
            return fail(
                "bert.half",
                "bert.freeze_layers of 1 or more, or bert.finetune=false: only layers that are not \
                 trained are stored as f16",
            );
        }
        for (key, value) in [
            ("train.clip_norm", t.clip_norm),
            ("train.clip_value", t.clip_value),
            ("data.label_range", self.data.label_range),
        ] {
            not_negative(key, value)?;
        }
        for (section, rates) in [("lr", &t.lr), ("decay", &t.decay)] {
            for (part, value) in rates.iter() {
                not_negative(&format!("train.{section}.{part}"), value)?;
            }
        }
        (registry::find(&self.model.name)?.check)(self)
    }

    /// Every key with its value, `section.key`, in order; what `--set` can change.
    pub fn keys(&self) -> Result<Vec<(String, String)>> {
        let mut keys = Vec::new();
        flatten(&self.table()?, "", &mut keys);
        Ok(keys)
    }
}

/// An error about a key.
pub(super) fn fail<T>(key: &str, want: &str) -> Result<T> {
    Err(Error::Config(format!("{key}: want {want}")))
}

/// Refuses what is below 0 or no number.
pub(super) fn not_negative(key: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 { Ok(()) } else { fail(key, "a number, 0 or more") }
}

/// Refuses what is no probability below 1.
pub(super) fn probability(key: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) { Ok(()) } else { fail(key, "a probability from 0 to below 1") }
}

/// The same of every number of a section, so that one added later is not left out.
pub(super) fn probabilities(section: &str, values: &impl Serialize) -> Result<()> {
    let table = Table::try_from(values).map_err(|e| Error::Config(e.to_string()))?;
    table.iter().try_for_each(|(name, value)| {
        value.as_float().map_or(Ok(()), |value| probability(&format!("{section}.{name}"), value))
    })
}

/// Refuses 0 in every number of a section.
pub(super) fn all_at_least_one(section: &str, values: &impl Serialize) -> Result<()> {
    let table = Table::try_from(values).map_err(|e| Error::Config(e.to_string()))?;
    table.iter().try_for_each(|(name, value)| match value.as_integer() {
        Some(0) => at_least_one(&format!("{section}.{name}"), 0),
        _ => Ok(()),
    })
}

/// Refuses 0.
pub(super) fn at_least_one(key: &str, value: usize) -> Result<()> {
    if value > 0 { Ok(()) } else { fail(key, "at least 1") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::MODELS;
    use crate::recipe::self_mm::Settings;

    fn with(settings: &[&str]) -> Result<Config> {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Config::build("mosi", None, &settings)
    }

    #[test]
    fn settings_change_keys() {
        let c = with(&["train.batch_size=32", "align.weight.ta=-1", "model.dropout=0"]).unwrap();
        let own: Settings = c.settings().unwrap();
        assert_eq!((c.train.batch_size, own.align.weight.ta), (32, -1.0));
        assert_eq!((own.model.dropout.text, own.model.dropout.audio), (0.0, 0.0));
        assert_eq!(
            with(&["model.text_encoder=lstm"]).unwrap().model.text_encoder,
            TextEncoder::Lstm
        );
    }

    #[test]
    fn names_may_stand_in_quotes() {
        // As the cells of a plan have them.
        let c = with(&["model.name=\"lf_dnn\"", "model.modalities=\"T+image\""]).unwrap();
        assert_eq!((c.model.name.as_str(), c.model.modalities.as_str()), ("lf_dnn", "T+image"));
        assert!(c.model.wants(Modality::Text) && !c.model.wants(Modality::Audio));
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        for (key, near) in [
            ("train.batchsize=3", "train.batch_size"),
            ("align.wieght.ta=3", "align.weight.ta"),
            ("labels.enable=true", "labels.enabled"),
        ] {
            let message = with(&[key]).unwrap_err().to_string();
            assert!(message.contains(near), "{message}");
        }
        let file = Config::build("mosi", Some("[train]\nsead = 3"), &[]).unwrap_err().to_string();
        assert!(file.contains("train.sead") && file.contains("train.seed"), "{file}");
    }

    #[test]
    fn no_dropout_of_any_model_is_above_one() {
        let mut seen = 0;
        for model in MODELS {
            let name = format!("model.name={}", model.name);
            let own = with(&[&name]).unwrap().model.own;
            let nested = own.get("dropout").and_then(Value::as_table).cloned().unwrap_or_default();
            let nested = nested.keys().map(|key| format!("model.dropout.{key}"));
            let own = own.iter().filter(|(key, value)| key.contains("dropout") && value.is_float());
            for key in own.map(|(key, _)| format!("model.{key}")).chain(nested) {
                let error = with(&[&name, &format!("{key}=1.5")]).unwrap_err().to_string();
                assert!(error.contains(&key) && error.contains("probability"), "{name}: {error}");
                seen += 1;
            }
        }
        assert!(seen > 40, "{seen}");
    }

    #[test]
    fn wrong_values_are_refused() {
        assert!(with(&["train.batch_size=many"]).unwrap_err().to_string().contains("whole"));
        assert!(with(&["train.batch_size=0"]).is_err());
        assert!(with(&["model.dropout.text=1.5"]).is_err());
        assert!(with(&["model.modalities=TX"]).is_err());
        assert!(with(&["train=3"]).is_err());
        assert!(with(&["bert.half=true"]).unwrap_err().to_string().contains("bert.half: want"));
        assert!(with(&["bert.half=true", "bert.freeze_layers=1"]).is_ok());
        assert!(with(&["train.lr.audio=-1"]).unwrap_err().to_string().contains("train.lr.audio"));
        let sims = with(&["train.seed=3", "preset=sims"]).unwrap();
        assert_eq!((sims.settings::<Settings>().unwrap().labels.clamp, sims.train.seed), (1.0, 3));
        assert!(Config::preset("self_mm", "simv2").unwrap_err().to_string().contains("'simsv2'"));
    }

    #[test]
    fn a_written_configuration_reads_back() {
        for entry in MODELS {
            for preset in entry.presets {
                let config = Config::preset(entry.name, preset).unwrap();
                config.validate().unwrap();
                let text = config.to_toml().unwrap();
                assert_eq!(Config::build("mosi", Some(&text), &[]).unwrap(), config);
                let card = serde_json::to_string(&config).unwrap();
                assert_eq!(serde_json::from_str::<Config>(&card).unwrap(), config);
            }
        }
    }
}
