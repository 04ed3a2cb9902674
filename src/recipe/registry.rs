//! Every model. Being in this list gives a model the command line, files, experiments and reports.

use super::almt::{self, Almt};
use super::config::Config;
use super::ef_lstm::{self, EfLstm};
use super::lf_dnn::{self, LfDnn};
use super::lmf::{self, Lmf};
use super::misa::{self, Misa};
use super::model::Offered;
use super::overlay::nearest;
use super::recipe::Recipe;
use super::self_mm::{self, SelfMm};
use super::tfn::{self, Tfn};
use crate::data::Modality;
use crate::error::{Error, Result};

/// A model of this crate.
pub struct Entry {
    /// Its name in `[model] name` and `--model`, as MMSA writes it.
    pub name: &'static str,
    /// Where it is from.
    pub paper: &'static str,
    /// What it needs of a data set, in words.
    pub needs: &'static str,
    /// Data sets that it has settings for.
    pub presets: &'static [&'static str],
    /// Puts those settings into a configuration that all models begin with.
    pub(super) preset: fn(&str, &mut Config) -> Result<()>,
    /// Checks the ranges of its own settings.
    pub(super) check: fn(&Config) -> Result<()>,
    /// What a model of a configuration is, in a sentence or two, by the letters of what it reads.
    pub(super) about: fn(&Config, &str) -> Result<String>,
    pub(super) make: fn(&Config, Offered<'_>) -> Result<Box<dyn Recipe>>,
}

/// All models.
pub static MODELS: &[Entry] = &[
    Entry {
        name: "self_mm",
        paper: "arXiv:2102.04830, with the covariance term of arXiv:2305.08473",
        needs: "any of text, audio and vision",
        presets: self_mm::PRESETS,
        preset: self_mm::preset,
        check: self_mm::check,
        about: self_mm::about,
        make: |config, offered| Ok(Box::new(SelfMm::new(config, offered)?)),
    },
    Entry {
        name: "ef_lstm",
        paper: "arXiv:1707.07250 (a baseline of its), as MMSA has it",
        needs: "streams of equally many steps",
        presets: ef_lstm::PRESETS,
        preset: ef_lstm::preset,
        check: ef_lstm::check,
        about: |_, letters| Ok(over("EF-LSTM", letters)),
        make: |config, offered| Ok(Box::new(EfLstm::new(config, offered)?)),
    },
    Entry {
        name: "lf_dnn",
        paper: "MMSA, arXiv:2203.09441",
        needs: "any of text, audio and vision",
        presets: lf_dnn::PRESETS,
        preset: lf_dnn::preset,
        check: lf_dnn::check,
        about: |_, letters| Ok(over("LF-DNN", letters)),
        make: |config, offered| Ok(Box::new(LfDnn::new(config, offered)?)),
    },
    Entry {
        name: "tfn",
        paper: "arXiv:1707.07250",
        needs: "any of text, audio and vision",
        presets: tfn::PRESETS,
        preset: tfn::preset,
        check: tfn::check,
        about: |_, letters| Ok(over("TFN", letters)),
        make: |config, offered| Ok(Box::new(Tfn::new(config, offered)?)),
    },
    Entry {
        name: "lmf",
        paper: "arXiv:1806.00064",
        needs: "any of text, audio and vision",
        presets: lmf::PRESETS,
        preset: lmf::preset,
        check: lmf::check,
        about: |_, letters| Ok(over("LMF", letters)),
        make: |config, offered| Ok(Box::new(Lmf::new(config, offered)?)),
    },
    Entry {
        name: "misa",
        paper: "arXiv:2005.03545",
        needs: "text (for a BERT, or features), audio and vision",
        presets: misa::PRESETS,
        preset: misa::preset,
        check: misa::check,
        about: |_, letters| Ok(over("MISA", letters)),
        make: |config, offered| Ok(Box::new(Misa::new(config, offered)?)),
    },
    Entry {
        name: "almt",
        paper: "arXiv:2310.05804",
        needs: "text (for a BERT, or features), audio and vision",
        presets: almt::PRESETS,
        preset: almt::preset,
        check: almt::check,
        about: |_, letters| Ok(over("ALMT", letters)),
        make: |config, offered| Ok(Box::new(Almt::new(config, offered)?)),
    },
];

/// A model by the letters of what it reads.
fn over(title: &str, letters: &str) -> String {
    let read = Modality::ALL.into_iter().filter(|m| letters.contains(m.letter()));
    let names: Vec<&str> = read.map(Modality::name).collect();
    format!("{title} over {}.", names.join(", "))
}

/// A model by its name.
///
/// # Errors
/// None of that name, with the nearest.
pub fn find(name: &str) -> Result<&'static Entry> {
    MODELS.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let close = nearest(name, MODELS.iter().map(|entry| entry.name));
        Error::Config(format!(
            "no model '{name}', did you mean '{close}'? modalign models lists them"
        ))
    })
}

impl Entry {
    /// What a model of a configuration is, in a sentence or two; `letters` are those of the modalities
    /// that it reads.
    ///
    /// # Errors
    /// Settings of another model.
    pub fn about(&self, config: &Config, letters: &str) -> Result<String> {
        (self.about)(config, letters)
    }
}

/// The recipe that a configuration names.
pub(super) fn make(config: &Config, offered: Offered<'_>) -> Result<Box<dyn Recipe>> {
    (find(&config.model.name)?.make)(config, offered)
}
