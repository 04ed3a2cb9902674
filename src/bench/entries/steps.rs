//! Whole training steps: forward, loss, backward, optimiser, as one replay. `benches/peers` and
//! `benches/gpu_torch.py` do the same work in other libraries.

use super::{Entry, Rows};
use crate::bench::bed::Bed;
use crate::data::{Layout, Modality, StreamSpec, TokenRows, fill_runs, fill_tokens, packed_rows};
use crate::error::Result;
use crate::gpu::Caps;
use crate::nn::{Bert, BertShape, Group, Init, LstmEncoder, ParamSpec, Params};
use crate::ops::optim::Clip;
use crate::ops::random;
use crate::recipe::{Begins, Config, MODELS, Model, Offered, find};
use crate::tape::Var;

/// What they are asked for by.
pub(in crate::bench) const OP: &str = "step";

/// Rows of the loss ring of a model's step.
const RING_ROWS: usize = 16;

/// A batch of sequences for one LSTM: samples, steps, features, hidden units.
#[derive(Clone, Copy)]
pub(crate) struct LstmSizes {
    pub batch: usize,
    pub steps: usize,
    pub inputs: usize,
    pub hidden: usize,
}

/// A batch of sentences of one length for one encoder layer: sentences, tokens, width, width of a head.
#[derive(Clone, Copy)]
pub(crate) struct LayerSizes {
    pub batch: usize,
    pub tokens: usize,
    pub width: usize,
    pub head: usize,
}

/// A batch for a model: its name and what is set about it; samples; steps and features of text, audio and
/// vision; rows of the training split.
#[derive(Clone, Copy)]
pub(crate) struct ModelSizes {
    pub model: &'static str,
    pub preset: &'static str,
    pub settings: &'static [&'static str],
    pub batch: usize,
    pub streams: [(usize, usize); 3],
    pub rows: usize,
}

/// How a step is recorded for an adapter.
type Record = Box<dyn Fn(&Caps) -> Result<Bed> + Send + Sync>;

pub(super) fn add(all: &mut Vec<Entry>) {
    let mut step = |shape: String, record: Record| {
        let rows = Rows::Sums { of: &[], whole: true };
        all.push(Entry::new(OP, shape, rows, record));
    };
    let lstm_sizes = LstmSizes { batch: 32, steps: 50, inputs: 74, hidden: 32 };
    step("LSTM, 32 × 50 × 74 → 32".into(), Box::new(move |caps| lstm(caps, lstm_sizes)));
    for width in [384, 768] {
        let sizes = LayerSizes { batch: 32, tokens: 50, width, head: 64 };
        let shape = format!("encoder layer, 32 × 50 tokens, d = {width}");
        step(shape, Box::new(move |caps| encoder_layer(caps, sizes)));
    }
    step("Adam, 22 million parameters".into(), Box::new(|caps| adam(caps, 22, 1000)));
    for entry in MODELS {
        let sizes = match entry.name {
            FIRST => ModelSizes {
                model: FIRST,
                preset: "mosi",
                settings: &["model.dropout=0", "align.weight=100"],
                batch: 16,
                streams: [(1, 768), (500, 5), (375, 20)],
                rows: 1284,
            },
            model => ModelSizes {
                model,
                preset: "mosei",
                settings: &[],
                // With an encoder a step is long on a CPU.
                batch: if entry.tokens { 8 } else { 32 },
                // Aligned data have as many steps in each.
                streams: match entry.aligned {
                    true => [(50, 768), (50, 74), (50, 35)],
                    false => [(50, 768), (500, 74), (375, 35)],
                },
                rows: 16326,
            },
        };
        let [_, (audio, _), (vision, _)] = sizes.streams;
        let shape = match entry.name {
            FIRST => format!("Self-MM, batch 16, audio {audio}, vision {vision} steps"),
            name => {
                let inside = if entry.tokens { " in 2 layers of d = 384" } else { "" };
                let batch = sizes.batch;
                format!(
                    "{name}{inside} of mosei, batch {batch}, audio {audio}, vision {vision} steps"
                )
            }
        };
        step(shape, Box::new(move |caps| model(caps, sizes)));
    }
}

/// The model whose step has been timed since before there were others, at the sizes it had then.
const FIRST: &str = "self_mm";

/// Ends a recording: the gradients of `loss`, and Adam over all parameters.
fn train(mut bed: Bed, params: &Params, loss: Var) -> Result<Bed> {
    bed.tape.keep(loss);
    bed.tape.backward(&[loss])?;
    params.optimize(&mut bed.tape, Clip::default())?;
    Ok(bed)
}

/// The group of all parameters of a model that has no groups of its own.
const GROUP: &str = "all";

fn groups() -> [Group; 1] {
    [Group::adam(GROUP, 1e-3).weight_decay(1e-2)]
}

/// A training step of an LSTM whose last state goes through a linear layer to one number.
pub(crate) fn lstm(caps: &Caps, sizes: LstmSizes) -> Result<Bed> {
    let LstmSizes { batch, steps, inputs, hidden } = sizes;
    let pitch = inputs.next_multiple_of(4);
    let model = LstmEncoder {
        name: "lstm".into(),
        inputs,
        pitch,
        hidden,
        layers: 1,
        bidirectional: false,
        out: 1,
        dropout: 0.0,
        group: GROUP.into(),
    };
    let mut bed = Bed::new();
    let bound = 1.0 / (hidden as f32).sqrt();
    let params = bed.parameters(model.specs(), &groups(), caps.max_binding, bound)?;
    let x = bed.given("x", &[batch, steps, pitch]);
    let lengths = bed.words("lengths", &[batch], vec![steps as u32; batch]);
    let target = bed.given("target", &[batch, 1]);
    let y = model.record(&mut bed.tape, &params, x, lengths, true)?;
    let ones = bed.tape.constant("ones", &[batch, 1], &vec![1.0; batch])?;
    let loss = bed.tape.weighted_l1(y, target, ones)?.loss;
    train(bed, &params, loss)
}

/// A training step of one layer of a [`Bert`], without dropout; the loss is the mean square of its
/// difference from a target.
pub(crate) fn encoder_layer(caps: &Caps, sizes: LayerSizes) -> Result<Bed> {
    let LayerSizes { batch, tokens: length, width: d, head } = sizes;
    let rows = batch * length;
    let shape = BertShape { heads: d / head, ..super::adam::shape(d, 1) };
    let model = Bert { groups: (GROUP.into(), GROUP.into()), ..Bert::new(shape) };
    let mut specs = model.specs(Params::largest(caps.max_binding));
    specs.retain(|spec| spec.name.starts_with("encoder.layer.0."));
    let mut bed = Bed::new();
    let bound = 1.0 / (d as f32).sqrt();
    let params = bed.parameters(specs, &groups(), caps.max_binding, bound)?;
    let x = bed.given("x", &[rows, d]);
    let target = bed.given("target", &[rows, d]);
    let token = |i: usize| [1, (i % length) as u32, length as u32, (i / length) as u32];
    let tokens = bed.words("tokens", &[rows, 4], (0..rows).flat_map(token).collect());
    let tape = &mut bed.tape;
    let y = model.record_layer(tape, &params, 0, x, tokens)?;
    let off = tape.sub(y, target)?;
    let off = tape.square(off)?;
    let loss = tape.mean(off)?;
    train(bed, &params, loss)
}

/// The optimiser alone, over so many square parameters.
pub(crate) fn adam(caps: &Caps, count: usize, side: usize) -> Result<Bed> {
    let specs = (0..count)
        .map(|i| ParamSpec::new(format!("p{i}"), &[side, side], GROUP, Init::Zeros))
        .collect();
    let mut bed = Bed::new();
    let params = bed.parameters(specs, &groups(), caps.max_binding, 1.0)?;
    for space in params.grad_spaces() {
        bed.randomize(space);
    }
    params.optimize(&mut bed.tape, Clip::default())?;
    Ok(bed)
}

/// A training step of a model, with an optimiser step after every batch; every sample has its full length.
pub(crate) fn model(caps: &Caps, sizes: ModelSizes) -> Result<Bed> {
    let ModelSizes { batch, streams, rows, .. } = sizes;
    let mut settings = vec![format!("model.name={}", sizes.model)];
    settings.extend(sizes.settings.iter().map(ToString::to_string));
    // What works inside an encoder has one of all-MiniLM-L6-v2's widths; no file of it is read.
    let inside = find(sizes.model)?.tokens.then(|| super::adam::shape(384, 2));
    if inside.is_some() {
        settings.extend(["model.text_encoder=bert".to_string(), "bert.path=none".into()]);
    }
    let config = Config::build(sizes.preset, None, &settings)?;
    let stream = |(modality, (steps, dim))| StreamSpec { modality, steps, dim, lengths: steps > 1 };
    let length = streams[0].0;
    let streams: Vec<StreamSpec> = Modality::KNOWN.into_iter().zip(streams).map(stream).collect();
    let task = find(sizes.model)?.easiest();
    let offered = Offered { bert: inside.as_ref(), task, ..Offered::new(&streams) };
    let model = Model::new(&config, offered)?;
    let mut bed = Bed::new();
    let limit = Params::largest(caps.max_binding);
    let specs = model.params(true, limit);
    let groups = (&model.groups()[..], model.turns().len());
    let params = bed.parameters_by_turns(specs, groups, caps.max_binding, 0.1)?;
    let packed = packed_rows(vec![length; batch]);
    let tokens = model.reads().tokens(packed);
    let width = model.task().width();
    let layout =
        Layout::with_targets(batch, model.streams(), tokens, width).and_of_training(model.reads());
    let block = bed.spaces.declare("batch", layout.words);
    let spaces = model.train_spaces(&mut bed.spaces, rows, RING_ROWS);
    model.step(&mut bed.tape, &params, &layout, block, &spaces)?;
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
    let mut words = vec![0; layout.words];
    for (i, at) in layout.streams.iter().enumerate() {
        let len = batch * at.steps * at.width;
        words[at.values_at..at.values_at + len].copy_from_slice(&bits(random(i as u64 + 1, len)));
        if let Some(lengths) = at.lengths_at {
            words[lengths..lengths + batch].fill(at.steps as u32);
        }
    }
    if let Some(at) = &layout.tokens {
        let mut tokens = TokenRows::default();
        for row in 0..batch {
            let ids: Vec<u32> = (0..length).map(|i| (1 + row * length + i) as u32).collect();
            tokens.push(&ids, &vec![0; length])?;
        }
        fill_tokens(&tokens, &(0..batch as u32).collect::<Vec<u32>>(), at, &mut words)?;
        fill_runs(at, &mut words);
    }
    for i in 0..batch {
        words[layout.rows_at + i] = (i * 7 % rows) as u32;
    }
    bed.set(block, words);
    for spec in model.recipe().states(rows).iter().filter(|s| s.begins == Begins::Identity) {
        if let Some(state) = spaces.state(spec.name) {
            bed.set(state.space, spec.first(spec.shape.iter().product(), &[]));
        }
    }
    if let Some(labels) = spaces.state("labels") {
        let tasks = labels.shape.first().copied().unwrap_or(1);
        bed.set(labels.space, bits(random(9, rows)).repeat(tasks));
    }
    Ok(bed)
}
