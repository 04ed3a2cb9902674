//! Every model. Being in this list gives a model the command line, files, experiments and reports.

use super::almt::{self, Almt};
use super::bert_mag::{self, BertMag};
use super::blocks;
use super::cenet::{self, Cenet};
use super::clfa::{self, Clfa};
use super::config::{Config, TextEncoder};
use super::ef_lstm::{self, EfLstm};
use super::lf_dnn::{self, LfDnn};
use super::lmf::{self, Lmf};
use super::mfn::{self, Mfn};
use super::misa::{self, Misa};
use super::mla::{self, Mla};
use super::mmcl::{self, Mmcl};
use super::model::Offered;
use super::mult::{self, MulT};
use super::overlay::nearest;
use super::recipe::Recipe;
use super::self_mm::{self, SelfMm};
use super::subnets::Parts;
use super::tfn::{self, Tfn};
use super::umi::{self, Umi};
use crate::data::task::NUMBER;
use crate::data::{Modality, StreamSpec, Task, TaskKind};
use crate::error::{Error, Result};
use crate::nn::BertShape;
use std::sync::LazyLock;

/// A model of this crate.
pub struct Entry {
    /// Its name in `[model] name` and `--model`, as MMSA writes it.
    pub name: &'static str,
    /// Where it is from.
    pub paper: &'static str,
    /// What it needs of a data set, in words.
    pub needs: &'static str,
    /// What it can be taught.
    pub tasks: &'static [TaskKind],
    /// Whether it reads streams of other names than text, audio and vision, too.
    pub others: bool,
    /// Whether it reads word-aligned streams, of as many steps as the text.
    pub aligned: bool,
    /// Where it keeps a pretrained encoder among the parameters, as MMSA does; nothing where it takes
    /// none.
    pub bert: Option<&'static str>,
    /// Whether it works inside that encoder, so that it reads the text as tokens and never as features.
    pub tokens: bool,
    /// Data sets that it has settings for.
    pub presets: &'static [&'static str],
    /// Puts those settings into a configuration that all models begin with.
    pub(super) preset: fn(&str, &mut Config) -> Result<()>,
    /// Checks the ranges of its own settings.
    pub(super) check: fn(&Config) -> Result<()>,
    /// What a model of a configuration is, in a sentence or two, by what it reads.
    pub(super) about: fn(&Config, &[Modality]) -> Result<String>,
    pub(super) make: fn(&Config, Offered<'_>) -> Result<Box<dyn Recipe>>,
}

/// Every kind of task.
const ALL: &[TaskKind] = &[TaskKind::Regression, TaskKind::Classes, TaskKind::Labels];

const LF_DNN: Entry = Entry {
    name: "lf_dnn",
    paper: "MMSA, arXiv:2203.09441",
    needs: "any streams",
    tasks: ALL,
    others: true,
    aligned: false,
    bert: None,
    tokens: false,
    presets: lf_dnn::PRESETS,
    preset: lf_dnn::preset,
    check: lf_dnn::check,
    about: |_, read| Ok(over("LF-DNN", read)),
    make: |config, offered| Ok(Box::new(LfDnn::new(config, offered)?)),
};
// These fuse the same streams for the same tasks, each in its own way.
const TFN: Entry = Entry {
    name: "tfn",
    paper: "arXiv:1707.07250",
    presets: tfn::PRESETS,
    preset: tfn::preset,
    check: tfn::check,
    about: |_, read| Ok(over("TFN", read)),
    make: |config, offered| Ok(Box::new(Tfn::new(config, offered)?)),
    ..LF_DNN
};
const LMF: Entry = Entry {
    name: "lmf",
    paper: "arXiv:1806.00064",
    presets: lmf::PRESETS,
    preset: lmf::preset,
    check: lmf::check,
    about: |_, read| Ok(over("LMF", read)),
    make: |config, offered| Ok(Box::new(Lmf::new(config, offered)?)),
    ..LF_DNN
};

/// The multi-task model of a kind, which learns what people said of each modality alone, too.
const fn alone(whole: Entry) -> Entry {
    Entry {
        paper: "ACL 2020 (CH-SIMS), after MMSA",
        needs: "any streams, with labels of each alone",
        tasks: &[TaskKind::Regression],
        ..whole
    }
}

/// All models.
pub static MODELS: &[Entry] = &[
    Entry {
        name: "self_mm",
        paper: "arXiv:2102.04830, with the covariance term of arXiv:2305.08473",
        needs: "any of text, audio and vision",
        tasks: &[TaskKind::Regression],
        others: false,
        aligned: false,
        bert: Some(self_mm::BERT_PREFIX),
        tokens: false,
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
        tasks: ALL,
        others: true,
        aligned: true,
        bert: None,
        tokens: false,
        presets: ef_lstm::PRESETS,
        preset: ef_lstm::preset,
        check: ef_lstm::check,
        about: |_, read| Ok(over("EF-LSTM", read)),
        make: |config, offered| Ok(Box::new(EfLstm::new(config, offered)?)),
    },
    LF_DNN,
    TFN,
    LMF,
    Entry {
        name: "mlf_dnn",
        preset: |name, config| lf_dnn::preset(name, config).map(|()| Parts::add(config)),
        about: |_, read| Ok(over("MLF-DNN", read)),
        ..alone(LF_DNN)
    },
    Entry {
        name: "mtfn",
        preset: |name, config| tfn::preset(name, config).map(|()| Parts::add(config)),
        about: |_, read| Ok(over("MTFN", read)),
        ..alone(TFN)
    },
    Entry {
        name: "mlmf",
        preset: |name, config| lmf::preset(name, config).map(|()| Parts::add(config)),
        about: |_, read| Ok(over("MLMF", read)),
        ..alone(LMF)
    },
    Entry {
        name: "mfn",
        paper: "arXiv:1802.00927",
        needs: "streams of equally many steps, or model.time=mean",
        tasks: ALL,
        others: true,
        aligned: true,
        bert: None,
        tokens: false,
        presets: mfn::PRESETS,
        preset: mfn::preset,
        check: mfn::check,
        about: |_, read| Ok(over("MFN", read)),
        make: |config, offered| Ok(Box::new(Mfn::new(config, offered)?)),
    },
    Entry {
        name: "mult",
        paper: "arXiv:1906.00295",
        needs: "two streams or more",
        tasks: ALL,
        others: true,
        aligned: false,
        bert: None,
        tokens: false,
        presets: mult::PRESETS,
        preset: mult::preset,
        check: mult::check,
        about: |_, read| Ok(over("MulT", read)),
        make: |config, offered| Ok(Box::new(MulT::new(config, offered)?)),
    },
    Entry {
        name: "misa",
        paper: "arXiv:2005.03545",
        needs: "text (for a BERT, or features), audio and vision",
        tasks: ALL,
        others: false,
        aligned: false,
        bert: Some(blocks::BERT_PREFIX),
        tokens: false,
        presets: misa::PRESETS,
        preset: misa::preset,
        check: misa::check,
        about: |_, read| Ok(over("MISA", read)),
        make: |config, offered| Ok(Box::new(Misa::new(config, offered)?)),
    },
    Entry {
        name: "mla",
        paper: "arXiv:2311.10707",
        needs: "two or more streams of any name, and classes",
        others: true,
        tasks: &[TaskKind::Classes],
        aligned: false,
        bert: None,
        tokens: false,
        presets: mla::PRESETS,
        preset: mla::preset,
        check: mla::check,
        about: |_, read| Ok(over("MLA", read)),
        make: |config, offered| Ok(Box::new(Mla::new(config, offered)?)),
    },
    Entry {
        name: "umi",
        paper: "arXiv:2306.12795",
        needs: "two or more streams of any name",
        tasks: &[TaskKind::Regression, TaskKind::Classes],
        others: true,
        aligned: false,
        bert: None,
        tokens: false,
        presets: umi::PRESETS,
        preset: umi::preset,
        check: umi::check,
        about: |_, read| Ok(over("Unseen modality interaction", read)),
        make: |config, offered| Ok(Box::new(Umi::new(config, offered)?)),
    },
    Entry {
        name: "mmcl",
        paper: "arXiv:2210.14556, a reconstruction",
        needs: "text (for a BERT, or features) with audio, vision or both",
        tasks: &[TaskKind::Regression, TaskKind::Classes],
        others: false,
        aligned: false,
        bert: Some(blocks::BERT_PREFIX),
        tokens: false,
        presets: mmcl::PRESETS,
        preset: mmcl::preset,
        check: mmcl::check,
        about: |_, read| Ok(over("MMCL (a reconstruction)", read)),
        make: |config, offered| Ok(Box::new(Mmcl::new(config, offered)?)),
    },
    Entry {
        name: "clfa",
        paper: "arXiv:2403.06355, its model without knowledge",
        needs: "text (for a BERT, token ids, or features), another stream, and classes",
        tasks: &[TaskKind::Classes],
        others: true,
        aligned: false,
        bert: Some(clfa::BERT_PREFIX),
        tokens: false,
        presets: clfa::PRESETS,
        preset: clfa::preset,
        check: clfa::check,
        about: |_, read| Ok(over("CLFA", read)),
        make: |config, offered| Ok(Box::new(Clfa::new(config, offered)?)),
    },
    Entry {
        name: "almt",
        paper: "arXiv:2310.05804",
        needs: "text (for a BERT, or features), audio and vision",
        tasks: ALL,
        others: false,
        aligned: false,
        bert: Some(blocks::BERT_PREFIX),
        tokens: false,
        presets: almt::PRESETS,
        preset: almt::preset,
        check: almt::check,
        about: |_, read| Ok(over("ALMT", read)),
        make: |config, offered| Ok(Box::new(Almt::new(config, offered)?)),
    },
    Entry {
        name: "bert_mag",
        paper: "arXiv:1908.05787",
        needs: "text for a BERT that is trained, audio or vision token by token",
        tasks: ALL,
        others: false,
        aligned: true,
        bert: Some(bert_mag::BERT_PREFIX),
        tokens: true,
        presets: bert_mag::PRESETS,
        preset: bert_mag::preset,
        check: bert_mag::check,
        about: |_, read| Ok(over("MAG-BERT", read)),
        make: |config, offered| Ok(Box::new(BertMag::new(config, offered)?)),
    },
    Entry {
        name: "cenet",
        paper: "IEEE Transactions on Multimedia 2022, as MMSA has it",
        needs: "text for a BERT that is trained, audio or vision",
        tasks: ALL,
        others: false,
        aligned: false,
        bert: Some(cenet::BERT_PREFIX),
        tokens: true,
        presets: cenet::PRESETS,
        preset: cenet::preset,
        check: cenet::check,
        about: |_, read| Ok(over("CENET", read)),
        make: |config, offered| Ok(Box::new(Cenet::new(config, offered)?)),
    },
];

/// A model by what it reads.
fn over(title: &str, read: &[Modality]) -> String {
    let names: Vec<&str> = read.iter().map(|m| m.name()).collect();
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
    /// Trainable numbers at the sizes of one of its presets: its settings over streams as MMSA's files of
    /// that data set have them, beside a pretrained encoder of BERT-base's size where it needs one, without
    /// the encoder's own.
    ///
    /// # Errors
    /// A preset that it has not.
    pub fn parameters(&self, preset: &str) -> Result<usize> {
        let mut config = Config::preset(self.name, preset)?;
        let base = BertShape::original(30_522, 768, 12, 12);
        let bert = self.tokens.then_some(&base);
        if bert.is_some() {
            config.model.text_encoder = TextEncoder::Bert;
        }
        let streams = self.shapes(preset);
        let offered = Offered { bert, task: self.easiest(), ..Offered::new(&streams) };
        let recipe = (self.make)(&config, offered)?;
        let of_encoder = |name: &str| recipe.bert().is_some_and(|bert| bert.owns(name));
        let all = recipe.params(true, usize::MAX).into_iter();
        let trained = all.filter(|spec| !spec.frozen && !of_encoder(&spec.name));
        Ok(trained.map(|spec| spec.len()).sum())
    }

    /// Streams of the data set that a preset is for, as MMSA's files have them: unaligned, but for a model that
    /// wants equally many steps.
    pub fn shapes(&self, preset: &str) -> Vec<StreamSpec> {
        let (steps, dims) = match preset {
            "mosei" => ([50, 500, 375], [768, 74, 35]),
            "sims" => ([39, 400, 55], [768, 33, 709]),
            "simsv2" => ([50, 925, 232], [768, 25, 177]),
            _ => ([50, 375, 500], [768, 5, 20]),
        };
        let stream = |(i, modality): (usize, Modality)| StreamSpec {
            modality,
            steps: if self.aligned { steps[0] } else { steps[i] },
            dim: dims[i],
            lengths: i > 0,
        };
        Modality::KNOWN.into_iter().enumerate().map(stream).collect()
    }

    /// A task that it can be taught: one number, or else two classes.
    pub(crate) fn easiest(&self) -> &'static Task {
        static TWO: LazyLock<Task> = LazyLock::new(|| Task {
            kind: TaskKind::Classes,
            names: ["no", "yes"].map(String::from).to_vec(),
        });
        if self.tasks.contains(&TaskKind::Regression) { &NUMBER } else { &TWO }
    }

    /// What a model of a configuration is, in a sentence or two, over the streams `read`.
    ///
    /// # Errors
    /// Settings of another model.
    pub fn about(&self, config: &Config, read: &[Modality]) -> Result<String> {
        (self.about)(config, read)
    }
}

/// Where a configuration's model keeps its pretrained encoder among the parameters.
pub(crate) fn bert_prefix(config: &Config) -> &'static str {
    find(&config.model.name).ok().and_then(|entry| entry.bert).unwrap_or(self_mm::BERT_PREFIX)
}

/// The recipe that a configuration names.
pub(super) fn make(config: &Config, offered: Offered<'_>) -> Result<Box<dyn Recipe>> {
    let entry = find(&config.model.name)?;
    let known = |s: &&StreamSpec| entry.others || Modality::KNOWN.contains(&s.modality);
    let streams: Vec<StreamSpec> = offered.streams.iter().filter(known).copied().collect();
    let made = (entry.make)(config, Offered { streams: &streams, ..offered })?;
    let table = config.model.text_encoder == TextEncoder::Table;
    if table && config.model.wants(Modality::Text) && made.bert().is_none() {
        return Err(Error::Config(format!(
            "model.text_encoder=table is of models that learn vectors of words of their own, and {} has \
             none: use features, lstm or bert",
            config.model.name
        )));
    }
    Ok(made)
}

/// Whether a model reads streams of other names than text, audio and vision; so does one that is not known.
pub(super) fn reads_others(name: &str) -> bool {
    find(name).map_or(true, |entry| entry.others)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of MMSA's own models at its settings, from systems notes that computed them of the
    /// configurations.
    #[test]
    fn as_many_parameters_as_mmsas() {
        let wanted = [
            ("ef_lstm", [885_605, 1_754_725, 215_695]),
            ("lf_dnn", [597_171, 572_283, 635_821]),
            ("tfn", [9_497_043, 5_042_539, 35_632_077]),
            ("lmf", [505_071, 508_475, 272_381]),
            ("mfn", [2_172_657, 1_276_865, 601_505]),
            ("mult", [2_571_551, 982_951, 1_870_701]),
            ("bert_mag", [1_223_425, 1_352_449, 2_324_737]),
            ("cenet", [6_517_249, 6_581_761, 7_067_905]),
        ];
        for (name, counts) in wanted {
            for (preset, count) in ["mosi", "mosei", "sims"].into_iter().zip(counts) {
                assert_eq!(
                    find(name).unwrap().parameters(preset).unwrap(),
                    count,
                    "{name} {preset}"
                );
            }
        }
    }

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<&str> = MODELS.iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MODELS.len());
        let Err(why) = find("lf_dn") else { panic!("there is no such model") };
        assert!(why.to_string().contains("'lf_dnn'"), "{why}");
    }
}
