//! The pretrained encoder against PyTorch: hidden states, gradients, fine-tuning steps. The tiny one
//! of `tests/fixtures/bert_tiny` always; real weights where MODALIGN_BERT names their folder.

use crate::{bert_fixture, common};
use bert_fixture::{minilm, path, summary};
use common::{TensorFile, gpu, of, of_largest};
use modalign::Gpu;
use modalign::data::tokens::fill_runs;
use modalign::data::{Layout, TokenSpec};
use modalign::gpu::{Caps, Family};
use modalign::nn::{
    Bert, BertShape, Freeze, Group, Init, ParamSpec, Params, Pretrained, Reading, TokenVars,
    Weights,
};
use modalign::ops::Act;
use modalign::ops::optim::Clip;
use modalign::plan::{
    Memory, Plan, Pool, SpaceId, Spaces, Stage, Step, pack_halves, unpack_halves,
};
use modalign::{Tape, Var};
use std::path::{Path, PathBuf};

fn tiny() -> PathBuf {
    path("bert_tiny")
}

/// Token rows of a fixture, some of its samples or all.
pub(crate) struct Batch {
    tokens: Vec<u32>,
    spans: Vec<u32>,
}

impl Batch {
    pub(crate) fn of(file: &TensorFile) -> Self {
        let words = |name: &str| file.i32(name).into_iter().map(|v| v as u32).collect();
        Batch { tokens: words("tokens"), spans: words("spans") }
    }

    fn only(&self, which: &[usize]) -> Self {
        let (mut tokens, mut spans) = (Vec::new(), Vec::new());
        for (sample, at) in which.iter().enumerate() {
            let [first, length] = [self.spans[2 * at], self.spans[2 * at + 1]];
            spans.extend([tokens.len() as u32 / 4, length]);
            for row in first..first + length {
                let token = &self.tokens[4 * row as usize..][..4];
                tokens.extend([token[0], token[1], token[2], sample as u32]);
            }
        }
        tokens.resize(tokens.len().next_multiple_of(4 * 16), 0);
        Batch { tokens, spans }
    }

    fn size(&self) -> usize {
        self.spans.len() / 2
    }

    fn rows(&self) -> usize {
        self.tokens.len() / 4
    }

    /// 1 for a token, 0 for a row without one.
    pub(crate) fn mask(&self) -> Vec<f32> {
        self.tokens.chunks(4).map(|t| f32::from(t[2] > 0)).collect()
    }
}

/// Optimiser groups: weights, biases and norms, a head, its bias.
const GROUPS: [&str; 4] = ["weights", "plain", "head", "head.bias"];

/// An encoder with its parameters declared, and room for a batch.
pub(crate) struct Rig {
    pub(crate) bert: Bert,
    params: Params,
    spaces: Spaces,
    block: SpaceId,
    layout: Layout,
    words: Vec<u32>,
}

impl Rig {
    pub(crate) fn new(bert: Bert, batch: &Batch, limit: u64, head: bool) -> Self {
        let mut spaces = Spaces::new();
        let mut specs = bert.specs((limit / 4) as usize);
        if head {
            let width = bert.shape.hidden;
            specs.push(ParamSpec::new("head.weight", &[1, width], GROUPS[2], Init::Zeros));
            specs.push(ParamSpec::new("head.bias", &[1], GROUPS[3], Init::Zeros));
        }
        let groups = GROUPS.map(|name| Group::adam(name, 0.0));
        let params = Params::new(specs, &groups, &mut spaces, limit, true).expect("parameters");
        let tables = bert.shape.tables();
        let layout = Layout::new(batch.size(), &[], Some(TokenSpec { rows: batch.rows(), tables }));
        let block = spaces.declare("batch", layout.words);
        let at = layout.tokens.expect("tokens");
        let mut words = vec![0; layout.words];
        words[at.tokens_at..][..batch.tokens.len()].copy_from_slice(&batch.tokens);
        words[at.spans_at..][..batch.spans.len()].copy_from_slice(&batch.spans);
        fill_runs(&at, &mut words);
        Rig { bert, params, spaces, block, layout, words }
    }

    pub(crate) fn record(
        &self,
        tape: &mut Tape,
        reading: Reading,
        train: bool,
    ) -> (Var, TokenVars) {
        let at = self.layout.tokens.expect("tokens");
        let tokens = TokenVars::input(tape, self.block, &at, self.layout.batch);
        let out = self.bert.record(tape, &self.params, &tokens, reading, train).expect("record");
        (out, tokens)
    }

    /// Memory with the batch and the weights in it.
    pub(crate) fn memory(&self, gpu: &Gpu, weights: &Weights) -> Memory {
        let memory = Memory::allocate(gpu, &self.spaces).expect("memory");
        memory.write(gpu, self.block, 0, &self.words).unwrap();
        self.params.check(weights, Path::new("weights")).expect("weights");
        self.params.upload(gpu, &memory, weights).unwrap();
        memory
    }
}

pub(crate) fn encoder(folder: &Path) -> (Bert, Weights) {
    let found = Pretrained::open(folder).expect("a folder");
    let groups = (GROUPS[0].into(), GROUPS[1].into());
    let bert = Bert { groups, ..Bert::new(found.config) };
    (bert, found.weights().expect("weights"))
}

/// The fixture's loss: Σ w_b · h_b[0] + 0.01 / n Σ (r · h)².
fn probe(tape: &mut Tape, file: &TensorFile, batch: &Batch, h: Var, tokens: &TokenVars) -> Var {
    let first = tape.pool_first(h, tokens.tokens, tokens.spans).unwrap();
    let w = tape.constant("w", file.shape("w"), &file.f32("w")).unwrap();
    let linear = tape.mul(first, w).unwrap();
    let linear = tape.sum(linear).unwrap();
    let width = file.shape("r")[0];
    let r = tape.constant("r", &[width, 1], &file.f32("r")).unwrap();
    let along = tape.matmul(h, r).unwrap();
    let mask = tape.constant("mask", &[batch.rows(), 1], &batch.mask()).unwrap();
    let along = tape.mul(along, mask).unwrap();
    let square = tape.square(along).unwrap();
    let square = tape.sum(square).unwrap();
    let count: f32 = batch.mask().iter().sum();
    let square = tape.scale(square, 0.01 / count).unwrap();
    tape.add(linear, square).unwrap()
}

/// Hidden states, loss and gradients of the probe.
pub(crate) fn probed(
    gpu: &Gpu,
    bert: Bert,
    weights: &Weights,
    file: &TensorFile,
    limit: u64,
) -> Probed {
    let batch = Batch::of(file);
    let rig = Rig::new(bert, &batch, limit, false);
    let mut tape = Tape::new();
    let (h, tokens) = rig.record(&mut tape, Reading::All, true);
    let loss = probe(&mut tape, file, &batch, h, &tokens);
    tape.keep(h);
    tape.keep(loss);
    tape.backward(&[loss]).unwrap();
    let memory = rig.memory(gpu, weights);
    let plan = tape.plan(gpu.caps()).unwrap();
    let program = plan.prepare(gpu, &memory, &mut Pool::new()).unwrap();
    memory.write_step(gpu, &Step::default()).unwrap();
    program.run(gpu, &memory).unwrap();
    let width = rig.bert.shape.hidden;
    let all = program.read(gpu, &memory, h).unwrap();
    let valid = batch.mask();
    let hidden = all.chunks(width).zip(&valid).filter(|(_, m)| **m > 0.0);
    Probed {
        hidden: hidden.flat_map(|(row, _)| row.to_vec()).collect(),
        loss: program.read(gpu, &memory, loss).unwrap()[0],
        grads: rig.params.gradients(gpu, &memory).unwrap(),
    }
}

pub(crate) struct Probed {
    pub(crate) hidden: Vec<f32>,
    pub(crate) loss: f32,
    pub(crate) grads: Weights,
}

pub(crate) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// ‖got − want‖ / ‖want‖; of a gradient that is exactly zero the size itself.
pub(crate) fn relative(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |f: &dyn Fn(usize) -> f32| {
        (0..got.len()).map(|i| f64::from(f(i)).powi(2)).sum::<f64>().sqrt()
    };
    let size = norm(&|i| want[i]);
    norm(&|i| got[i] - want[i]) / if size > 0.0 { size } else { 1.0 }
}

fn check_tiny(gpu: &Gpu, change: impl Fn(&mut Bert), limit: u64) -> Probed {
    let file = TensorFile::fixture("bert_tiny_golden.safetensors");
    let (mut bert, weights) = encoder(&tiny());
    change(&mut bert);
    let got = probed(gpu, bert, &weights, &file, limit);
    let gap =
        largest(&got.hidden.iter().zip(file.f32("hidden")).map(|(g, w)| g - w).collect::<Vec<_>>());
    assert!(gap < 2e-5, "hidden states differ by {gap}");
    let want = file.f32("loss")[0];
    assert!((got.loss - want).abs() < 1e-4 * want.abs(), "{} against {want}", got.loss);
    for (name, _, values) in got.grads.iter() {
        let gap = relative(values, &file.f32(&format!("grad.{name}")));
        assert!(gap < 1e-4, "the gradient of {name} differs by {gap:.1e}");
    }
    got
}

#[test]
fn tiny_matches_pytorch_in_every_family() {
    for family in [Family::Wide(0), Family::Plain, Family::Tiled] {
        let gpu = of(family);
        let got = check_tiny(gpu, |_| (), gpu.caps().max_binding);
        assert_eq!(got.grads.iter().count(), 37);
    }
}

#[test]
fn checkpointing_gives_the_same_bits_in_less_memory() {
    let limit = gpu().caps().max_binding;
    let plain = check_tiny(gpu(), |_| (), limit);
    let again = check_tiny(gpu(), |bert| bert.checkpoint = true, limit);
    assert_eq!(common::bits(&plain.grads), common::bits(&again.grads));
    let scratch = |checkpoint| {
        let plan = step_plan(12, |bert| bert.checkpoint = checkpoint);
        plan.scratch_bytes()
    };
    assert!(scratch(true) * 2 < scratch(false), "{} {}", scratch(true), scratch(false));
}

/// Dropout draws the same masks when a layer is recorded again.
#[test]
fn checkpointing_repeats_dropout() {
    let file = TensorFile::fixture("bert_tiny_golden.safetensors");
    let (bert, weights) = encoder(&tiny());
    let limit = gpu().caps().max_binding;
    let run = |checkpoint| {
        let bert = Bert { checkpoint, dropout: (0.2, 0.3), ..bert.clone() };
        probed(gpu(), bert, &weights, &file, limit)
    };
    let (plain, again) = (run(false), run(true));
    assert_eq!(plain.loss.to_bits(), again.loss.to_bits());
    assert_eq!(common::bits(&plain.grads), common::bits(&again.grads));
    let without = probed(gpu(), bert.clone(), &weights, &file, limit);
    assert!((plain.loss - without.loss).abs() > 1e-3, "dropout does something");
}

#[test]
fn a_table_larger_than_a_binding_is_cut() {
    // 200 words of 64 floats are 51 KB: four parts, and every arena below the limit.
    let limit = 16 << 10;
    let (bert, _) = encoder(&tiny());
    let batch = Batch::of(&TensorFile::fixture("bert_tiny_golden.safetensors"));
    let rig = Rig::new(bert, &batch, 48 << 10, false);
    assert!(rig.spaces.iter().all(|(n, words)| n == "batch" || words * 4 <= 48 << 10));
    let parts = rig.bert.specs(limit / 4).iter().filter(|s| s.part.is_some()).count();
    assert_eq!(parts, 4);
    // Layers of this encoder do not fit into 16 KiB, its tables do.
    check_tiny(gpu(), |_| (), 48 << 10);
}

/// Without gradient buffers, without a dispatch of the backward below them, and untouched.
#[test]
fn frozen_parts_cost_nothing() {
    let count = |freeze| {
        let plan = step_plan(2, |bert| bert.freeze = freeze);
        plan.dispatches().iter().filter(|d| d.stage == Stage::Backward).count()
    };
    let none = count(Freeze::default());
    let tables = count(Freeze { embeddings: true, layers: 0 });
    let one = count(Freeze { embeddings: false, layers: 1 });
    let all = count(Freeze { embeddings: false, layers: 2 });
    assert!(none > tables && tables > one && one > all, "{none} {tables} {one} {all}");
    assert_eq!(all, 0);
    let file = TensorFile::fixture("bert_tiny_golden.safetensors");
    let (bert, weights) = encoder(&tiny());
    let limit = gpu().caps().max_binding;
    let part = Bert { freeze: Freeze { embeddings: false, layers: 1 }, ..bert };
    let got = probed(gpu(), part, &weights, &file, limit);
    for (name, _, values) in got.grads.iter() {
        let want = file.f32(&format!("grad.{name}"));
        if name.starts_with("encoder.layer.1.") {
            assert!(relative(values, &want) < 1e-4, "{name}");
        } else {
            panic!("{name} has a gradient buffer");
        }
    }
    assert_eq!(got.grads.iter().count(), 16);
}

/// The plan of a step of an encoder like the tiny one with so many layers.
fn step_plan(layers: usize, change: impl Fn(&mut Bert)) -> Plan {
    let (mut bert, _) = encoder(&tiny());
    bert.shape.layers = layers;
    change(&mut bert);
    let batch = Batch::of(&TensorFile::fixture("bert_tiny_golden.safetensors"));
    let rig = Rig::new(bert, &batch, 128 << 20, false);
    let mut tape = Tape::new();
    let (out, _) = rig.record(&mut tape, Reading::First, true);
    let loss = tape.sum(out).unwrap();
    tape.backward(&[loss]).unwrap();
    tape.plan(&Caps::defaults(Family::Tiled)).unwrap()
}

/// By the plan's own account, in bindings of WebGPU's default size.
#[test]
fn bert_base_trains_within_four_gigabytes() {
    let shape = BertShape {
        vocab: 30_522,
        positions: 512,
        hidden: 768,
        layers: 12,
        heads: 12,
        intermediate: 3072,
        ..encoder(&tiny()).0.shape
    };
    assert_eq!(shape.parameters(), 108_891_648);
    let bytes = |checkpoint| {
        let bert = Bert { shape, checkpoint, ..encoder(&tiny()).0 };
        let (mut tokens, mut spans) = (Vec::new(), Vec::new());
        for sample in 0..16 {
            spans.extend([50 * sample, 50]);
            (0..50).for_each(|position| tokens.extend([1, position, 50, sample]));
        }
        let rig = Rig::new(bert, &Batch { tokens, spans }, 128 << 20, false);
        assert!(rig.spaces.iter().all(|(_, words)| words * 4 <= 128 << 20));
        let mut tape = Tape::new();
        let (first, _) = rig.record(&mut tape, Reading::First, true);
        let loss = tape.sum(first).unwrap();
        tape.backward(&[loss]).unwrap();
        rig.params.optimize(&mut tape, Clip::default()).unwrap();
        let plan = tape.plan(&Caps::defaults(Family::Tiled)).unwrap();
        plan.total_bytes(&rig.spaces)
    };
    let (plain, checkpointed) = (bytes(false), bytes(true));
    println!("{} MiB, with checkpointing {} MiB", plain >> 20, checkpointed >> 20);
    assert!(plain < 4 << 30 && checkpointed + (256 << 20) < plain);
}

#[test]
fn a_layer_is_few_dispatches() {
    let count = |layers: usize| {
        let plan = step_plan(layers, |_| ());
        let of = |stage| plan.dispatches().iter().filter(|d| d.stage == stage).count();
        (of(Stage::Forward), of(Stage::Backward))
    };
    let ((f1, b1), (f2, b2), (f3, b3)) = (count(1), count(2), count(3));
    // A layer in the middle, then the last one, which is read at position 0 alone: its own and
    // those of the embeddings (2, 5 with the loss' and the tables').
    assert_eq!((f3 - f2, b3 - b2), (f2 - f1, b2 - b1));
    assert!(f2 - f1 <= 9 && b2 - b1 <= 18, "{} forward, {} backward", f2 - f1, b2 - b1);
    assert!(f1 - 2 <= 9 && b1 - 5 <= 18, "the last: {} forward, {} backward", f1 - 2, b1 - 5);
}

/// Reading position 0 alone gives what the whole layer gives there, and the same gradients.
#[test]
fn the_last_layer_computes_what_is_read() {
    let file = TensorFile::fixture("bert_tiny_golden.safetensors");
    let (bert, weights) = encoder(&tiny());
    let batch = Batch::of(&file);
    let rig = Rig::new(bert, &batch, gpu().caps().max_binding, false);
    let run = |reading: Reading| {
        let mut tape = Tape::new();
        let (h, tokens) = rig.record(&mut tape, reading, true);
        let first = match reading {
            Reading::All => tape.pool_first(h, tokens.tokens, tokens.spans).unwrap(),
            _ => h,
        };
        tape.keep(first);
        let w = tape.constant("w", file.shape("w"), &file.f32("w")).unwrap();
        let loss = tape.mul(first, w).unwrap();
        let loss = tape.sum(loss).unwrap();
        tape.backward(&[loss]).unwrap();
        let memory = rig.memory(gpu(), &weights);
        let plan = tape.plan(gpu().caps()).unwrap();
        let flops = plan.flops();
        let program = plan.prepare(gpu(), &memory, &mut Pool::new()).unwrap();
        memory.write_step(gpu(), &Step::default()).unwrap();
        program.run(gpu(), &memory).unwrap();
        let first = program.read(gpu(), &memory, first).unwrap();
        (first, rig.params.gradients(gpu(), &memory).unwrap(), flops)
    };
    let (all, all_grads, all_flops) = run(Reading::All);
    let (first, grads, flops) = run(Reading::First);
    assert!(of_largest(&first, &all) < 1e-5);
    for (name, _, values) in grads.iter() {
        let want = all_grads.get(name).expect("the same parameters").1;
        // A key's bias has no gradient but rounding.
        if !name.ends_with("key.bias") {
            assert!(relative(values, want) < 1e-4, "{name}");
        }
    }
    assert!(flops * 4 < all_flops * 3, "{flops} of {all_flops}");
}

#[test]
fn mean_pooling_is_the_mean_of_the_hidden_states() {
    let file = TensorFile::fixture("bert_tiny_golden.safetensors");
    let (bert, weights) = encoder(&tiny());
    let batch = Batch::of(&file);
    let rig = Rig::new(bert, &batch, gpu().caps().max_binding, false);
    let mut tape = Tape::new();
    let (mean, _) = rig.record(&mut tape, Reading::Mean, false);
    tape.keep(mean);
    let memory = rig.memory(gpu(), &weights);
    let plan = tape.plan(gpu().caps()).unwrap();
    let program = plan.prepare(gpu(), &memory, &mut Pool::new()).unwrap();
    memory.write_step(gpu(), &Step::default()).unwrap();
    program.run(gpu(), &memory).unwrap();
    let (hidden, width) = (file.f32("hidden"), 64);
    let want: Vec<f32> = batch
        .spans
        .chunks(2)
        .flat_map(|span| {
            let rows = &hidden[span[0] as usize * width..][..span[1] as usize * width];
            let mean = |c: usize| rows.iter().skip(c).step_by(width).sum::<f32>() / span[1] as f32;
            (0..width).map(mean).collect::<Vec<_>>()
        })
        .collect();
    assert!(of_largest(&program.read(gpu(), &memory, mean).unwrap(), &want) < 1e-5);
}

/// Adam's steps on mean |head · h[0] + bias − label|; rates by [`GROUPS`].
fn fine_tune(gpu: &Gpu, folder: &Path, file: &TensorFile, batch: &Batch, rates: Rates) -> Vec<f32> {
    tuned(gpu, encoder(folder), file, batch, rates).0
}

/// The same of an encoder, and its weights afterwards.
fn tuned(
    gpu: &Gpu,
    (bert, mut weights): (Bert, Weights),
    file: &TensorFile,
    batch: &Batch,
    rates: Rates,
) -> (Vec<f32>, Weights) {
    let rig = Rig::new(bert, batch, gpu.caps().max_binding, true);
    let width = rig.bert.shape.hidden;
    weights.insert("head.weight", vec![1, width], file.f32("head.weight"));
    weights.insert("head.bias", vec![1], file.f32("head.bias"));
    let mut tape = Tape::new();
    let (first, _) = rig.record(&mut tape, Reading::First, true);
    let head = rig.params.var(&mut tape, "head.weight").unwrap();
    let bias = rig.params.var(&mut tape, "head.bias").unwrap();
    let scores = tape.linear(first, head, Some(bias), Act::None).unwrap();
    let labels = file.f32("labels");
    let labels = tape.constant("labels", &[labels.len(), 1], &labels).unwrap();
    let gaps = tape.sub(scores, labels).unwrap();
    let gaps = tape.abs(gaps).unwrap();
    let loss = tape.mean(gaps).unwrap();
    tape.keep(loss);
    tape.backward(&[loss]).unwrap();
    rig.params.optimize(&mut tape, Clip::default()).unwrap();
    let memory = rig.memory(gpu, &weights);
    let plan = tape.plan(gpu.caps()).unwrap();
    let program = plan.prepare(gpu, &memory, &mut Pool::new()).unwrap();
    let mut step = Step::default();
    let mut groups = rig.params.groups();
    for (name, (lr, decay)) in GROUPS.into_iter().zip(rates.0.into_iter().zip(rates.1)) {
        groups.change(name, |g| (g.lr, g.weight_decay) = (lr.into(), decay.into())).unwrap();
    }
    let losses = (1..=10)
        .map(|t| {
            step.step = t;
            groups.advance();
            groups.write(gpu, &memory).unwrap();
            memory.write_step(gpu, &step).unwrap();
            program.run(gpu, &memory).unwrap();
            program.read(gpu, &memory, loss).unwrap()[0]
        })
        .collect();
    (losses, rig.params.download(gpu, &memory).unwrap())
}

/// Learning rates and decays of weights, biases and norms, head, head's bias.
type Rates = ([f32; 4], [f32; 4]);

fn check_losses(got: &[f32], want: &[f32], tolerance: f32) {
    println!("{got:?}\n{want:?}");
    assert!(want[0] > 1.2 * want[want.len() - 1], "the fixture learns something");
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= tolerance * want.abs(), "{got} against {want}");
    }
}

#[test]
fn ten_steps_of_tiny_match_pytorch() {
    let file = TensorFile::fixture("bert_tiny_golden.safetensors");
    let rates = ([1e-3; 4], [1e-3, 0.0, 1e-3, 0.0]);
    let losses = fine_tune(gpu(), &tiny(), &file, &Batch::of(&file), rates);
    check_losses(&losses, &file.f32("losses"), 1e-3);
}

// ---- frozen layers by halves ------------------------------------------------------------------

fn is_matrix(name: &str) -> bool {
    name.starts_with("encoder.") && name.ends_with("weight") && !name.contains("LayerNorm")
}

/// Half the memory for the matrices of frozen layers, every one of them the nearest f16, and steps
/// that are those of f32 within what that rounding makes.
#[test]
fn frozen_layers_by_halves_train_alike() {
    let file = TensorFile::fixture("bert_tiny_golden.safetensors");
    let batch = Batch::of(&file);
    let (bert, from) = encoder(&tiny());
    // The fixture's own values are halves already.
    let mut weights = from.clone();
    for (name, shape, values) in from.iter().filter(|(name, ..)| is_matrix(name)) {
        weights.insert(name, shape.to_vec(), values.iter().map(|v| v * 1.0003).collect());
    }
    let frozen = Bert { freeze: Freeze { embeddings: false, layers: 1 }, ..bert };
    let halves = Bert { half: true, ..frozen.clone() };
    let bytes = |bert: &Bert| Rig::new(bert.clone(), &batch, 128 << 20, false).spaces.bytes();
    let (h, inner) = (64, 128);
    let matrices = (4 * h * h + 2 * h * inner) as u64;
    assert_eq!(bytes(&frozen) - bytes(&halves), matrices * 2);

    let rates = ([1e-3; 4], [1e-3, 0.0, 1e-3, 0.0]);
    for family in [Family::Wide(0), Family::Plain, Family::Tiled] {
        let gpu = of(family);
        let run = |bert: &Bert| tuned(gpu, (bert.clone(), weights.clone()), &file, &batch, rates);
        let ((want, all), (got, rounded)) = (run(&frozen), run(&halves));
        check_losses(&got, &want, 2e-3);
        assert_ne!(got, want, "halves are not floats");
        for (name, _, values) in rounded.iter() {
            if !name.starts_with("encoder.layer.0.") {
                continue;
            }
            let (_, before) = weights.get(name).unwrap();
            let nearest = unpack_halves(&pack_halves(before));
            let want = if is_matrix(name) { &nearest[..before.len()] } else { before };
            assert!(values == want, "{name} on {family}");
            assert!(!is_matrix(name) || values != before, "{name} is rounded");
            assert!(all.get(name).unwrap().1 == before, "{name} is frozen");
        }
    }
}

// ---- real weights -----------------------------------------------------------------------------

#[test]
fn real_weights_match_transformers() {
    let Some(folder) = minilm() else { return };
    let file = TensorFile::fixture("minilm_golden.safetensors");
    let config: serde_json::Value = serde_json::from_str(&file.metadata["config"]).unwrap();
    let (bert, weights) = encoder(&folder);
    let width = bert.shape.hidden;
    let got = probed(gpu(), bert, &weights, &file, gpu().caps().max_binding);
    let columns = file.i32("columns");
    let states = got.hidden.chunks(width);
    let taken: Vec<f32> = states
        .flat_map(|row| columns.iter().map(|c| row[*c as usize]).collect::<Vec<_>>())
        .collect();
    let first: Vec<f32> = Batch::of(&file)
        .spans
        .chunks(2)
        .flat_map(|s| got.hidden[s[0] as usize * width..][..width].to_vec())
        .collect();
    for (got, name) in [(taken, "hidden"), (first, "first")] {
        let want = file.f32(name);
        let gap = got.iter().zip(&want).fold(0.0_f32, |m, (g, w)| m.max((g - w).abs()));
        println!("{name}: {} values, largest difference {gap:.1e}", want.len());
        assert!(gap <= 2e-4 && got.len() == want.len(), "{name} differs by {gap}");
    }
    // Whole gradients of some tensors; of all others the norm and eight projections.
    let names: Vec<&str> =
        config["names"].as_array().unwrap().iter().filter_map(|n| n.as_str()).collect();
    let summaries = file.f32("summary");
    let mut worst = (0.0, "");
    for (name, want) in names.iter().zip(summaries.chunks(9)) {
        let values = got.grads.get(name).unwrap_or_else(|| panic!("no gradient of {name}")).1;
        let scale = if want[0] > 0.0 { f64::from(want[0]) } else { 1.0 };
        // A projection of an error is about as large as the error itself.
        let gaps = summary(values).into_iter().zip(want).map(|(g, w)| (g - f64::from(*w)).abs());
        let mut gap = gaps.fold(0.0, f64::max) / scale;
        worst = if gap > worst.0 { (gap, name) } else { worst };
        if let Some(whole) = file.tensors.get(&format!("grad.{name}")) {
            let want: Vec<f32> = whole
                .bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            gap = gap.max(relative(values, &want));
        }
        assert!(gap <= 1e-3, "the gradient of {name} differs by {gap:.1e}");
    }
    println!("{} gradients, the worst by {:.1e} ({})", names.len(), worst.0, worst.1);
    assert_eq!(names.len(), got.grads.iter().count());
}

#[test]
fn ten_steps_of_real_weights_match_pytorch() {
    let Some(folder) = minilm() else { return };
    let file = TensorFile::fixture("minilm_golden.safetensors");
    let which: Vec<usize> = file.i32("which").into_iter().map(|i| i as usize).collect();
    let batch = Batch::of(&file).only(&which);
    let rates = ([5e-5, 5e-5, 1e-3, 1e-3], [1e-3, 0.0, 0.0, 0.0]);
    let losses = fine_tune(gpu(), &folder, &file, &batch, rates);
    check_losses(&losses, &file.f32("losses"), 1e-3);
}
