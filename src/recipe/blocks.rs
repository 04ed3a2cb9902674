//! What models of attention share: layer norms of any width, the text as a BERT or as features, streams
//! beside the tokens of one, and the squared error.

use super::config::{Config, TextEncoder};
use super::cx::{Cx, StreamVars};
use super::model::Offered;
use super::recipe::Output;
use super::self_mm::pretrained;
use crate::data::{Modality, StreamSpec};
use crate::error::{Error, Result};
use crate::nn::token_grid::mean_over_steps;
use crate::nn::{Bert, Init, ParamSpec, linear_specs, transformer};
use crate::ops::batch_norm::BatchNorm;
use crate::ops::batched::Transposed;
use crate::tape::{Tape, Var};

/// The optimiser group of an encoder whose biases and norms decay like the rest, as MMSA has it here.
pub(super) const BERT: &str = "bert";
/// Where MMSA keeps the encoder of these models among the parameters.
pub(super) const BERT_PREFIX: &str = "bertmodel.model.";

/// PyTorch's default of a layer norm.
const EPS: f32 = 1e-5;

/// PyTorch's LayerNorm of so many columns.
pub(super) fn norm_specs(name: &str, columns: usize, group: &str) -> Vec<ParamSpec> {
    let mut specs = transformer::norm_specs(name, columns, group);
    // Saved states have those of other widths apart.
    specs[1].joined = columns.is_multiple_of(4);
    specs
}

/// Records the LayerNorm `name` over the last axis.
pub(super) fn norm(cx: &mut Cx<'_>, name: &str, x: Var) -> Result<Var> {
    let (rows, columns) = cx.tape.rows_cols(x);
    if columns.is_multiple_of(4) {
        return transformer::norm(cx.tape, cx.params, name, x, EPS);
    }
    let names = ["weight", "bias"].map(|part| format!("{name}.{part}"));
    // A batch norm whose channels are the rows does the same.
    let shape = cx.tape.shape(x).to_vec();
    let x = cx.tape.reshape(x, &[rows, columns])?;
    let x = cx.tape.batch_norm(x, BatchNorm { eps: EPS, ..BatchNorm::over(0) }, true)?;
    let (weight, bias) = (cx.param(&names[0])?, cx.param(&names[1])?);
    let x = cx.tape.mul(x, weight)?;
    let x = cx.tape.add(x, bias)?;
    cx.tape.reshape(x, &shape)
}

/// What a model leaves that encodes all streams as one: its scores, that encoding and the feature behind it,
/// both of a `width`.
pub(super) fn one_encoding(scores: usize, width: usize) -> Vec<Output> {
    vec![
        Output::score("M", scores),
        Output::representation("encoded all", width),
        Output::representation("feature M", width),
    ]
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

/// The text as a configuration has it read: tokens through a pretrained encoder that is trained, or features;
/// nothing where it is not there or not wanted.
pub(super) fn text(config: &Config, offered: Offered<'_>) -> Option<Text> {
    let bert = offered.bert.filter(|_| config.model.wants(Modality::Text));
    match (config.model.text_encoder, bert) {
        (TextEncoder::Bert, Some(shape)) => Some(Text::Bert(Box::new(Bert {
            prefix: BERT_PREFIX.into(),
            groups: (BERT.into(), BERT.into()),
            ..pretrained(config, shape)
        }))),
        _ => offered.wanted(config, Modality::Text).map(Text::Features),
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
    let lacks = |modality: Modality| {
        Error::Config(format!(
            "{} reads text, audio and vision together, and there is no {modality}: \
                 model.modalities is '{}', and the streams of the data are: {}{}",
            config.model.name,
            config.model.modalities,
            offered.names(),
            offered.unread()
        ))
    };
    let stream = |modality| offered.wanted(config, modality).ok_or_else(|| lacks(modality));
    let text = text(config, offered).ok_or_else(|| lacks(Modality::Text))?;
    Ok((text, stream(Modality::Audio)?, stream(Modality::Vision)?))
}

/// For a model that works inside a pretrained encoder: the encoder, whose parameters begin with `prefix`,
/// and what there is of audio and vision, all their steps. It works at the input of `layer`.
///
/// # Errors
/// Text that does not go through an encoder that is trained; neither audio nor vision; an encoder of
/// fewer layers.
pub(super) fn inside_bert(
    config: &Config,
    offered: Offered<'_>,
    (prefix, layer): (&str, usize),
) -> Result<(Bert, Vec<StreamSpec>)> {
    let (name, letters) = (&config.model.name, &config.model.modalities);
    let fail =
        |why: String| Err(Error::Config(format!("{name} works inside a pretrained encoder {why}")));
    let wanted = config.model.wants(Modality::Text);
    let (TextEncoder::Bert, Some(shape), true) = (config.model.text_encoder, offered.bert, wanted)
    else {
        return fail(format!(
            "that is trained with it, and here is none: model.modalities is '{letters}', which needs T, \
             model.text_encoder has to be \"bert\" with its folder in bert.path, and bert.finetune on \
             with fewer layers frozen than there are"
        ));
    };
    let mut streams = offered.whole(config);
    streams.retain(|s| s.modality != Modality::Text);
    if streams.is_empty() {
        return fail(format!(
            "with audio, vision or both, and there is neither: model.modalities is '{letters}', and the \
             streams of the data are: {}",
            offered.names()
        ));
    }
    if layer >= shape.layers {
        return fail(format!(
            "at the input of a layer, and model.layer = {layer} is none of the encoder's {}, which count \
             from 0",
            shape.layers
        ));
    }
    Ok((Bert { prefix: prefix.into(), ..pretrained(config, shape) }, streams))
}

/// A linear layer that is new in a BERT, with the initial values that transformers gives to what a
/// pretrained file lacks: weights of a deviation of 0.02, biases of 0.
pub(super) fn new_linear(name: &str, sizes: (usize, usize, usize), group: &str) -> Vec<ParamSpec> {
    let specs = linear_specs(name, sizes, true, group).into_iter();
    let begun = |spec: ParamSpec| match spec.name.ends_with("bias") {
        true => ParamSpec { init: Init::Zeros, ..spec },
        false => ParamSpec { init: Init::Normal(0.02), ..spec },
    };
    specs.map(begun).collect()
}

/// What a mean is taken over: the steps of a stream, or tokens and their spans.
#[derive(Clone, Copy)]
pub(super) enum Averaged {
    Stream(StreamVars),
    Tokens(Var, Var),
}

impl Averaged {
    /// The mean of `x`, `[batch, columns]`.
    pub(super) fn mean(self, cx: &mut Cx<'_>, x: Var) -> Result<Var> {
        let (batch, columns) = (cx.batch(), cx.tape.rows_cols(x).1);
        let mean = match self {
            Averaged::Tokens(tokens, spans) => return cx.tape.pool_mean(x, tokens, spans),
            Averaged::Stream(StreamVars { steps: 1, .. }) => x,
            Averaged::Stream(stream) => return mean_over_steps(cx.tape, x, stream.lengths),
        };
        cx.tape.reshape(mean, &[batch, columns])
    }
}

/// What brings `from` steps to `to` as MMSA's alignment does: the last one is repeated up to a multiple
/// of `to`, then each takes the mean of as many. `[to, from]`.
fn windows(from: usize, to: usize) -> Vec<f32> {
    let window = from.div_ceil(to);
    let mut shares = vec![0.0; from * to];
    for step in 0..to * window {
        shares[step / window * from + step.min(from - 1)] += 1.0 / window as f32;
    }
    shares
}

/// `x [batch, from, columns]` brought to so many steps by means over [`windows`].
pub(super) fn pooled(cx: &mut Cx<'_>, x: Var, to: usize) -> Result<Var> {
    let [_, from, _] = cx.tape.shape(x)[..] else {
        return Err(Error::shape("pooled", "no stream"));
    };
    if from == to {
        return Ok(x);
    }
    let shares = cx.tape.constant("windows", &[to, from], &windows(from, to))?;
    cx.tape.bmm(shares, x, Transposed::Neither)
}

#[cfg(test)]
mod tests {
    use super::windows;

    #[test]
    fn streams_are_brought_to_the_tokens_steps() {
        // Element k is (((2 k² + 3 k + 3) mod 17) − 8) / 10, five steps of two columns.
        let x = |k: usize| ((2 * k * k + 3 * k + 3) % 17) as f32 / 10.0 - 0.8;
        let shares = windows(5, 3);
        let want = [[-0.65, 0.25], [0.25, -0.65], [-0.6, -0.3]];
        for (row, want) in shares.chunks(5).zip(want) {
            for (column, want) in want.into_iter().enumerate() {
                let got: f32 = row.iter().enumerate().map(|(i, s)| s * x(2 * i + column)).sum();
                assert!((got - want).abs() < 1e-6, "{got} where {want} is right");
            }
        }
        // Longer ones have windows of ⌈from / to⌉, shorter ones repeat their last step.
        for (from, to, window, repeated) in [(375, 50, 8, 25), (500, 50, 10, 0), (400, 39, 11, 29)]
        {
            let shares = windows(from, to);
            let share = 1.0 / window as f32;
            assert_eq!(
                shares.iter().filter(|s| **s == share).count(),
                from - usize::from(repeated > 0)
            );
            let last: f32 = (0..to).map(|row| shares[row * from + from - 1]).sum();
            assert!((last - share * (repeated + 1) as f32).abs() < 1e-5, "{from} to {to}");
        }
        assert_eq!(windows(1, 3), [1.0; 3]);
        assert_eq!(windows(2, 3), [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
    }
}
