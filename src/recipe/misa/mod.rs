//! MISA, arXiv:2005.03545: what modalities share and what each has for itself, as MMSA releases it.
//!
//! ```text
//! u_t: mean of a BERT's tokens      u_v, u_a: last states of an LSTM, of an LSTM over its normed states
//! o_m = norm relu(u_m)      p_m = σ(private_m(o_m))      s_m = σ(shared(o_m))      ô_m = recon_m(p_m + s_m)
//! ŷ = relu(attention over [p_t p_v p_a s_t s_v s_a])
//! L = |ŷ − y|² + w_d Σ D(p_m, s_m), D(p_m, p_n) + w_s mean CMD(s_m, s_n) + w_r mean |ô_m − o_m|²
//! ```
//!
//! D is the mean square of a product of centred columns whose rows have length one, and CMD the distance
//! of five moments. Vectors of all modalities are stacked, `[3, batch, hidden]` in the order t, v, a or
//! `[6, ..]` with the shared ones behind the private ones, so that few dispatches serve all.
//!
//! MMSA cuts audio and vision to the text's lengths, which means nothing where streams are not
//! aligned; here each is read up to its own. Text features, where there is no BERT, take the place of its
//! hidden states.

mod encoders;
mod losses;
mod settings;

pub(super) use settings::{PRESETS, check, preset};

use super::blocks::{BERT, Text, all_three, norm, norm_specs, squared_error};
use super::config::Config;
use super::cx::Cx;
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Column, Columns, Counts, Output, Recipe};
use super::subnets::GROUP;
use crate::data::{Reads, StreamSpec};
use crate::error::Result;
use crate::nn::{Bert, Group, Init, ParamSpec, linear, linear_specs};
use crate::ops::Act;
use crate::ops::attention::Asking;
use crate::ops::batched::Transposed;
use crate::tape::{Tape, Var};
use losses::{centred, difference, moments, shared};
use settings::{Own, Settings, Weights};

/// Letters of the modalities in parameters' names, in the order of the stacks.
const ORDER: [&str; 3] = ["t", "v", "a"];
const PRIVATE: [&str; 3] =
    ["private_t.private_t_1", "private_v.private_v_1", "private_a.private_a_3"];
const RECON: [&str; 3] = ["recon_t.recon_t_1", "recon_v.recon_v_1", "recon_a.recon_a_1"];
const LAYER: &str = "transformer_encoder.layers.0";

pub(super) struct Misa {
    config: Config,
    own: Own,
    weights: Weights,
    text: Text,
    /// Vision and audio.
    streams: [StreamSpec; 2],
    /// Scores of a row.
    outputs: usize,
}

impl Misa {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let Settings { model: own, loss: weights } = config.settings()?;
        let (text, audio, vision) = all_three(config, offered)?;
        let streams = [vision, audio].map(|spec| StreamSpec { lengths: true, ..spec });
        let text = match text {
            Text::Features(spec) => Text::Features(StreamSpec { lengths: true, ..spec }),
            bert => bert,
        };
        Ok(Misa {
            config: config.clone(),
            own,
            weights,
            text,
            streams,
            outputs: offered.task.outputs(),
        })
    }

    fn units(&self, i: usize) -> usize {
        self.streams[i].dim.min(self.own.units)
    }

    /// Sizes of u_t, u_v and u_a.
    fn summaries(&self) -> [usize; 3] {
        [self.text.width(), 4 * self.units(0), 4 * self.units(1)]
    }

    /// A layer of each modality's own over the stack `x [3, batch, hidden]`.
    fn each(&self, cx: &mut Cx<'_>, names: [&str; 3], x: Var) -> Result<Var> {
        let h = self.own.hidden;
        let mut span = |part: &str, shape: &[usize]| {
            let names = names.map(|name| format!("{name}.{part}"));
            cx.params.span(cx.tape, &names, shape)
        };
        let (weight, bias) = (span("weight", &[3, h, h])?, span("bias", &[3, h])?);
        let bias = cx.tape.reshape(bias, &[3, h, 1])?;
        let y = cx.tape.bmm(weight, x, Transposed::Second)?;
        let y = cx.tape.add(y, bias)?;
        cx.tape.permute(y, &[0, 2, 1])
    }

    /// torch's TransformerEncoderLayer over `x [batch, 6, hidden]`.
    fn attention(&self, cx: &mut Cx<'_>, x: Var) -> Result<Var> {
        let p = cx.dropout(self.own.dropout.attention as f32);
        let at = |name: &str| format!("{LAYER}.{name}");
        let weight = cx.param(&at("self_attn.in_proj_weight"))?;
        let bias = cx.param(&at("self_attn.in_proj_bias"))?;
        let qkv = cx.tape.linear(x, weight, Some(bias), Act::None)?;
        let how = Asking { heads: self.own.heads, dropout: p, ..Asking::default() };
        let read = cx.tape.padded_attention(qkv, how)?;
        let read = linear(cx.tape, cx.params, &at("self_attn.out_proj"), read, Act::None)?;
        let read = dropped(cx.tape, read, p)?;
        let x = cx.tape.add(x, read)?;
        let x = norm(cx, &at("norm1"), x)?;
        let inner = linear(cx.tape, cx.params, &at("linear1"), x, Act::Relu)?;
        let inner = dropped(cx.tape, inner, p)?;
        let made = linear(cx.tape, cx.params, &at("linear2"), inner, Act::None)?;
        let made = dropped(cx.tape, made, p)?;
        let x = cx.tape.add(x, made)?;
        norm(cx, &at("norm2"), x)
    }

    /// Records the parts of the loss; `vectors [6, batch, hidden]`, `original [3, batch, hidden]`.
    fn losses(&self, cx: &mut Cx<'_>, score: Var, vectors: Var, original: Var) -> Result<()> {
        let h = self.own.hidden;
        cx.task_loss("task", score, Distance::Squared)?;
        let centred = centred(cx.tape, vectors)?;
        let diff = difference(cx.tape, centred)?;
        cx.loss("diff", diff)?;
        let (raw, centred) = (shared(cx.tape, vectors)?, shared(cx.tape, centred)?);
        let sim = moments(cx.tape, raw, centred)?;
        cx.loss("sim", sim)?;
        let n = cx.batch();
        let pairs = cx.tape.reshape(vectors, &[2, 3 * n * h])?;
        let sums = cx.tape.sum_rows(pairs)?;
        let sums = cx.tape.reshape(sums, &[3, n, h])?;
        let made = self.each(cx, RECON, sums)?;
        // The originals are learned from as well.
        let recon = squared_error(cx.tape, made, original)?;
        cx.loss("recon", recon)
    }
}

fn dropped(tape: &mut Tape, x: Var, p: f32) -> Result<Var> {
    if p > 0.0 { tape.dropout(x, p) } else { Ok(x) }
}

impl Recipe for Misa {
    fn reads(&self) -> Reads {
        let text = match &self.text {
            Text::Features(spec) => Some(*spec),
            Text::Bert(_) => None,
        };
        let tokens = self.bert().map(|b| b.shape.tables());
        Reads {
            streams: text.into_iter().chain(self.streams).collect(),
            tokens,
            ..Reads::default()
        }
    }

    fn bert(&self) -> Option<&Bert> {
        self.text.bert()
    }

    fn params(&self, _: bool, limit: usize) -> Vec<ParamSpec> {
        let (h, inner) = (self.own.hidden, self.own.inner);
        let mut specs = self.bert().map(|b| b.specs(limit)).unwrap_or_default();
        for (i, m) in ORDER[1..].iter().enumerate() {
            let [first, second] = self.recurrences(i);
            specs.extend(first.rnn_specs(&format!("{m}rnn1")));
            specs.extend(second.rnn_specs(&format!("{m}rnn2")));
            specs.extend(norm_specs(&format!("{m}layer_norm"), 2 * self.units(i), GROUP));
        }
        let line = |name: &str, inputs: usize, outputs: usize| {
            linear_specs(name, (inputs, inputs, outputs), true, GROUP)
        };
        for (m, size) in ORDER.into_iter().zip(self.summaries()) {
            specs.extend(line(&format!("project_{m}.project_{m}"), size, h));
            specs.extend(norm_specs(&format!("project_{m}.project_{m}_layer_norm"), h, GROUP));
        }
        for names in [PRIVATE, RECON] {
            let layers = names.map(|name| line(name, h, h));
            // Of three layers all weights as one tensor, and all biases.
            for part in 0..2 {
                let of = layers.iter().map(|layer| layer[part].clone()).enumerate();
                specs.extend(of.map(|(i, spec)| if i == 0 { spec } else { spec.joined() }));
            }
        }
        specs.extend(line("shared.shared_1", h, h));
        let at = |name: &str| format!("{LAYER}.{name}");
        let init = Init::Uniform((6.0 / (4 * h) as f32).sqrt());
        let name = at("self_attn.in_proj_weight");
        specs.push(ParamSpec::new(name, &[3 * h, h], GROUP, init));
        let name = at("self_attn.in_proj_bias");
        specs.push(ParamSpec::new(name, &[3 * h], GROUP, Init::Zeros));
        specs.extend(line(&at("self_attn.out_proj"), h, h));
        specs.extend(line(&at("linear1"), h, inner));
        specs.extend(line(&at("linear2"), inner, h));
        specs.extend(norm_specs(&at("norm1"), h, GROUP));
        specs.extend(norm_specs(&at("norm2"), h, GROUP));
        specs.extend(line("fusion.fusion_layer_1", 6 * h, 3 * h));
        specs.extend(line("fusion.fusion_layer_3", 3 * h, self.outputs));
        // MMSA's model has these, too, and no loss of it reaches them.
        let mut unused = line("sp_discriminator.sp_discriminator_layer_1", h, 4);
        unused.extend(norm_specs("tlayer_norm", 2 * self.text.width(), GROUP));
        specs.extend(unused.into_iter().map(|spec| spec.frozen(true)));
        specs
    }

    fn groups(&self) -> Vec<Group> {
        let t = &self.config.train;
        let group = |name| Group::adam(name, t.lr.get(name)).weight_decay(t.decay.get(name));
        vec![group(GROUP), group(BERT)]
    }

    fn columns(&self) -> Columns {
        let w = self.weights;
        let column = |name: &str, what: &str, counts| Column {
            name: name.into(),
            what: what.into(),
            counts,
        };
        Columns::new(vec![
            column("task", "the loss of the task", Counts::Whole),
            column("diff", "what private vectors share with others", Counts::Times(w.diff)),
            column("sim", "the distance of moments of shared vectors", Counts::Times(w.sim)),
            column("recon", "the squared error of reconstructions", Counts::Times(w.recon)),
        ])
    }

    fn outputs(&self) -> Vec<Output> {
        let (h, names) = (self.own.hidden, ["text", "vision", "audio"]);
        let each = |kind: &str| {
            names.map(|m| Output::representation(format!("{kind} {m}"), h)).into_iter()
        };
        let all = each("encoded").chain(each("private")).chain(each("shared"));
        let fused = Output::representation("feature M", 3 * h);
        std::iter::once(Output::score("M", self.outputs)).chain(all).chain([fused]).collect()
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let (n, h) = (cx.batch(), self.own.hidden);
        let text = self.sentence(cx)?;
        let [vision, audio] = self.sequences(cx)?;
        let mut original = Vec::new();
        for ((m, name), u) in
            ORDER.into_iter().zip(["text", "vision", "audio"]).zip([text, vision, audio])
        {
            let layer = format!("project_{m}.project_{m}");
            let x = linear(cx.tape, cx.params, &layer, u, Act::Relu)?;
            let x = norm(cx, &format!("{layer}_layer_norm"), x)?;
            cx.output(&format!("encoded {name}"), x)?;
            original.push(x);
        }
        let original = cx.tape.stack(&original, &original);
        let private = self.each(cx, PRIVATE, original)?;
        let shared = linear(cx.tape, cx.params, "shared.shared_1", original, Act::None)?;
        let vectors = cx.tape.stack(&[private, shared], &[private, shared]);
        let vectors = cx.tape.reshape(vectors, &[6, n, h])?;
        let vectors = cx.tape.activate(vectors, Act::Sigmoid)?;
        let rows = cx.tape.permute(vectors, &[1, 0, 2])?;
        let side_by_side = cx.tape.reshape(rows, &[n, 6 * h])?;
        cx.output("private text", side_by_side)?;
        let x = self.attention(cx, rows)?;
        let x = cx.tape.reshape(x, &[n, 6 * h])?;
        let x = linear(cx.tape, cx.params, "fusion.fusion_layer_1", x, Act::Relu)?;
        cx.output("feature M", x)?;
        let p = cx.dropout(self.own.dropout.fusion as f32);
        let x = dropped(cx.tape, x, p)?;
        let score = linear(cx.tape, cx.params, "fusion.fusion_layer_3", x, Act::None)?;
        cx.output("M", score)?;
        if cx.training() { self.losses(cx, score, vectors, original) } else { Ok(()) }
    }
}
