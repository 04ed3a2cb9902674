//! What models of attention share: layer norms of any width, the text as a BERT or as features, and the
//! squared error.

use super::config::{Config, TextEncoder};
use super::cx::Cx;
use super::model::Offered;
use super::self_mm::pretrained;
use crate::data::{Modality, StreamSpec};
use crate::error::{Error, Result};
use crate::nn::{Bert, Init, ParamSpec};
use crate::ops::batch_norm::BatchNorm;
use crate::tape::{Tape, Var};

/// The optimiser group of an encoder whose biases and norms decay like the rest, as MMSA has it here.
pub(super) const BERT: &str = "bert";
/// Where MMSA keeps the encoder of these models among the parameters.
pub(super) const BERT_PREFIX: &str = "bertmodel.model.";

/// PyTorch's default of a layer norm.
const EPS: f32 = 1e-5;

/// PyTorch's LayerNorm of so many columns.
pub(super) fn norm_specs(name: &str, columns: usize, group: &str) -> Vec<ParamSpec> {
    let spec = |part: &str, init| ParamSpec::new(format!("{name}.{part}"), &[columns], group, init);
    let (weight, bias) = (spec("weight", Init::Ones), spec("bias", Init::Zeros));
    // What has a kernel of its own wants both as one tensor.
    vec![weight, if columns.is_multiple_of(4) { bias.joined() } else { bias }]
}

/// Records the LayerNorm `name` over the last axis.
pub(super) fn norm(cx: &mut Cx<'_>, name: &str, x: Var) -> Result<Var> {
    let (rows, columns) = cx.tape.rows_cols(x);
    let names = ["weight", "bias"].map(|part| format!("{name}.{part}"));
    if columns.is_multiple_of(4) {
        let both = cx.params.span(cx.tape, &names, &[2, columns])?;
        return cx.tape.layer_norm(x, both, EPS);
    }
    // The kernel reads four columns at once; a batch norm whose channels are the rows does the same.
    let shape = cx.tape.shape(x).to_vec();
    let x = cx.tape.reshape(x, &[rows, columns])?;
    let x = cx.tape.batch_norm(x, BatchNorm { eps: EPS, ..BatchNorm::over(0) }, true)?;
    let (weight, bias) = (cx.param(&names[0])?, cx.param(&names[1])?);
    let x = cx.tape.mul(x, weight)?;
    let x = cx.tape.add(x, bias)?;
    cx.tape.reshape(x, &shape)
}

/// The mean of squared differences of two tensors of one shape.
pub(super) fn squared_error(tape: &mut Tape, a: Var, b: Var) -> Result<Var> {
    let gap = tape.sub(a, b)?;
    let square = tape.square(gap)?;
    tape.mean(square)
}

/// How a model reads the text.
pub(super) enum Text {
    /// Tokens through a pretrained encoder.
    Bert(Box<Bert>),
    /// Features as the data have them, step by step.
    Features(StreamSpec),
}

impl Text {
    /// Columns of a step.
    pub(super) fn width(&self) -> usize {
        match self {
            Text::Bert(bert) => bert.shape.hidden,
            Text::Features(spec) => spec.dim,
        }
    }

    /// The encoder, where it is one.
    pub(super) fn bert(&self) -> Option<&Bert> {
        match self {
            Text::Bert(bert) => Some(bert.as_ref()),
            Text::Features(_) => None,
        }
    }
}

/// Text, audio and vision of the data, for a model that cannot do without any of them.
///
/// # Errors
/// One that is missing or not wanted.
pub(super) fn all_three(
    config: &Config,
    offered: Offered<'_>,
) -> Result<(Text, StreamSpec, StreamSpec)> {
    let letters = &config.model.modalities;
    let stream = |modality: Modality| {
        let found = offered.streams.iter().find(|s| s.modality == modality).copied();
        found.filter(|_| letters.contains(modality.letter())).ok_or_else(|| {
            Error::Config(format!(
                "{} reads text, audio and vision together, and there is no {modality}: \
                 model.modalities is '{letters}', and the data have {}",
                config.model.name,
                offered.streams.iter().map(|s| s.modality.name()).collect::<Vec<_>>().join(", ")
            ))
        })
    };
    let wanted = letters.contains(Modality::Text.letter());
    let text = match (config.model.text_encoder, offered.bert) {
        (TextEncoder::Bert, Some(shape)) if wanted => Text::Bert(Box::new(Bert {
            prefix: BERT_PREFIX.into(),
            groups: (BERT.into(), BERT.into()),
            ..pretrained(config, shape)
        })),
        _ => Text::Features(stream(Modality::Text)?),
    };
    Ok((text, stream(Modality::Audio)?, stream(Modality::Vision)?))
}
