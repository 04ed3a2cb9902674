//! The work in modalign, on the adapter that a plain run takes; and the data sets for all peers
//! (`peer-modalign data FOLDER`).

use modalign::data::{Dataset, SynthConfig, SynthStream, synth};
use modalign::gpu::{GpuOptions, list_adapters};
use modalign::nn::{Group, Groups, Init, LstmEncoder, ParamSpec, Params, Weights};
use modalign::ops::Act;
use modalign::ops::matmul::FeedForward;
use modalign::ops::optim::Clip;
use modalign::plan::{Memory, Pool, Program, SpaceId, Spaces, Step};
use modalign::recipe::Config;
use modalign::train::Session;
use modalign::{Gpu, Tape, Var};
use modalign_peers::{
    ADAM, ADAM_SIZES, Item, Param, Peer, Result, Steps, data, data_folder, encoder, lstm, noise,
    serve,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Training rows of the whole-model data sets: eight batches.
const ROWS: usize = 8 * data::BATCH;
/// What `modalign demo` sets, without dropout and in the order of the file, so that losses can be
/// compared.
const DEMO: [&str; 8] = [
    "model.text_encoder=lstm",
    "model.out.text=4",
    "model.out.audio=4",
    "model.out.vision=4",
    "align.standardize=true",
    "align.weight=0.3",
    "model.dropout=0",
    "train.shuffle=false",
];
/// Preset mosi, with an optimiser step after every batch, one learning rate and no decay.
const WHOLE: [&str; 9] = [
    "train.accumulate=1",
    "train.lr.audio=1e-3",
    "train.lr.vision=1e-3",
    "train.decay.audio=0",
    "train.decay.vision=0",
    "train.decay.other=0",
    "model.dropout=0",
    "train.shuffle=false",
    "align.weight=100",
];

struct Ours(&'static Gpu);

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("data") {
        return generate(&data_folder());
    }
    serve(|| {
        let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() })?;
        Ok(Ours(Box::leak(Box::new(gpu))))
    })
}

fn generate(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut whole = SynthConfig { train: ROWS, valid: 0, test: 0, ..SynthConfig::default() };
    (whole.text.dim, whole.text.steps, whole.text.min_steps) = (data::TEXT, 1, 1);
    let streams = [&mut whole.audio, &mut whole.vision];
    for (stream, (_, steps, dim, _)) in streams.into_iter().zip(data::STREAMS) {
        (stream.dim, stream.steps, stream.min_steps) = (dim, steps, steps);
    }
    synth::write(&whole, folder.join("full.safetensors"))?;
    for stream in [&mut whole.audio, &mut whole.vision] {
        stream.min_steps /= 2;
    }
    synth::write(&whole, folder.join("lengths.safetensors"))?;
    let stream = |dim, steps, min_steps| SynthStream {
        dim,
        steps,
        min_steps,
        noise: 0.5,
        private_weight: 0.6,
    };
    let demo = SynthConfig {
        train: 1024,
        valid: 0,
        test: 0,
        shared: 1,
        private: 1,
        text: stream(16, 12, 4),
        audio: stream(8, 20, 8),
        vision: stream(12, 16, 6),
        ..SynthConfig::default()
    };
    synth::write(&demo, folder.join("demo.safetensors"))?;
    Ok(())
}

impl Peer for Ours {
    fn hello(&self) -> Value {
        let caps = self.0.caps();
        let adapters = list_adapters();
        let driver = adapters.iter().find(|a| a.chosen).map(|a| a.driver.clone());
        json!({
            "version": "modalign of this tree",
            "device": format!("{}, {}", caps.name, driver.unwrap_or_default()),
            "settings": format!("kernel family {}", caps.family),
        })
    }

    fn open(&self, item: Item) -> Result<Option<Steps>> {
        let gpu = self.0;
        Ok(Some(match item {
            Item::Matmul(m, k, n) => matmul(gpu, (m, k, n))?,
            Item::Lstm => lstm_step(gpu)?,
            Item::Encoder(d) => encoder_layer(gpu, d, true)?,
            Item::Forward(d) => encoder_layer(gpu, d, false)?,
            Item::Adam => adam(gpu)?,
            Item::SelfMm => whole(gpu, "full")?,
            Item::SelfMmLengths => whole(gpu, "lengths")?,
            Item::Epoch => epoch(gpu)?,
        }))
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The mean of the squares of what the first run left, then nothing: the others are asked only for
/// their time.
fn checked(
    mut run: impl FnMut() -> Result<()> + 'static,
    read: impl Fn() -> Result<Vec<f32>> + 'static,
) -> Steps {
    let mut first = true;
    Box::new(move |steps| {
        for _ in 0..steps {
            run()?;
        }
        if !std::mem::take(&mut first) {
            return Ok(Vec::new());
        }
        let values = read()?;
        let sum: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        Ok(vec![sum / values.len() as f64])
    })
}

fn matmul(gpu: &'static Gpu, (m, k, n): (usize, usize, usize)) -> Result<Steps> {
    let (mut spaces, mut tape) = (Spaces::new(), Tape::new());
    let (left, right) = (spaces.declare("a", m * k), spaces.declare("b", k * n));
    let a = tape.input("a", &[m, k], left, 0);
    let b = tape.input("b", &[k, n], right, 0);
    let c = tape.matmul(a, b)?;
    tape.keep(c);
    let (program, memory) = tape.compile(gpu, &spaces)?;
    memory.write(gpu, left, 0, &bits(&noise("a", m * k)))?;
    memory.write(gpu, right, 0, &bits(&noise("b", k * n)))?;
    let rig = Arc::new((program, memory));
    let run = rig.clone();
    Ok(checked(move || Ok(run.0.run(gpu, &run.1)?), move || Ok(rig.0.read(gpu, &rig.1, c)?)))
}

/// The optimiser group of all parameters.
const GROUP: &str = "all";

/// Parameters that are trained as everyone's are.
fn params(specs: Vec<ParamSpec>, spaces: &mut Spaces, gpu: &Gpu, train: bool) -> Result<Params> {
    let groups = [Group::adam(GROUP, ADAM.0)];
    Ok(Params::new(specs, &groups, spaces, gpu.caps().max_binding, train)?)
}

/// Specs of the shared parameters; those called so in `joined` lie behind the one before.
fn specs(all: &[Param], joined: &[&str]) -> Vec<ParamSpec> {
    let one = |p: &Param| {
        let spec = ParamSpec::new(&*p.name, &p.shape, GROUP, Init::Zeros);
        if joined.contains(&&*p.name) { spec.joined() } else { spec }
    };
    all.iter().map(one).collect()
}

fn weights(all: &[Param]) -> Weights {
    let mut weights = Weights::default();
    for p in all {
        weights.insert(&p.name, p.shape.clone(), p.values());
    }
    weights
}

/// A training step whose loss is read as it ends.
struct Training {
    gpu: &'static Gpu,
    program: Program,
    memory: Memory,
    loss: Var,
    step: Step,
    groups: Groups,
}

impl Training {
    /// Adds the backward and Adam to a recording that ends in `loss`.
    fn new(
        gpu: &'static Gpu,
        mut tape: Tape,
        spaces: &Spaces,
        params: &Params,
        loss: Var,
    ) -> Result<Self> {
        tape.keep(loss);
        tape.backward(&[loss])?;
        params.optimize(&mut tape, Clip::default())?;
        let memory = Memory::allocate(gpu, spaces)?;
        let program = tape.plan(gpu.caps())?.prepare(gpu, &memory, &mut Pool::new())?;
        let (step, groups) = (Step::default(), params.groups());
        Ok(Training { gpu, program, memory, loss, step, groups })
    }

    fn steps(mut self) -> Steps {
        Box::new(move |steps| {
            let mut losses = Vec::new();
            for _ in 0..steps {
                self.step.step += 1;
                self.groups.advance();
                self.groups.write(self.gpu, &self.memory)?;
                self.memory.write_step(self.gpu, &self.step)?;
                self.program.replay(self.gpu, &self.memory, true, &[], None)?;
                let loss = self.program.read(self.gpu, &self.memory, self.loss)?;
                losses.push(f64::from(loss[0]));
            }
            Ok(losses)
        })
    }
}

fn lstm_step(gpu: &'static Gpu) -> Result<Steps> {
    let (batch, steps, inputs, hidden) = lstm::SIZES;
    // As the loader lays rows out.
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
    let (mut spaces, mut tape) = (Spaces::new(), Tape::new());
    let params = params(model.specs(), &mut spaces, gpu, true)?;
    let input = spaces.declare("x", batch * steps * pitch);
    let lengths_space = spaces.declare("lengths", batch);
    let x = tape.input("x", &[batch, steps, pitch], input, 0);
    let lengths = tape.input("lengths", &[batch], lengths_space, 0);
    let y = model.record(&mut tape, &params, x, lengths, true)?;
    let target = tape.constant("target", &[batch, 1], &noise("target", batch))?;
    let ones = tape.constant("ones", &[batch, 1], &vec![1.0; batch])?;
    let loss = tape.weighted_l1(y, target, ones)?.loss;
    let training = Training::new(gpu, tape, &spaces, &params, loss)?;
    let mut start = Weights::default();
    for p in lstm::params() {
        let name = p.name.replace("lstm.", "lstm.rnn.").replace("head.", "lstm.linear_1.");
        start.insert(&name, p.shape.clone(), p.values());
    }
    params.check(&start, Path::new("weights"))?;
    params.upload(gpu, &training.memory, &start)?;
    let mut padded = vec![0.0; batch * steps * pitch];
    let values = noise("x", batch * steps * inputs);
    for (to, from) in padded.chunks_mut(pitch).zip(values.chunks(inputs)) {
        to[..inputs].copy_from_slice(from);
    }
    training.memory.write(gpu, input, 0, &bits(&padded))?;
    training.memory.write(gpu, lengths_space, 0, &vec![steps as u32; batch])?;
    Ok(training.steps())
}

fn encoder_layer(gpu: &'static Gpu, d: usize, train: bool) -> Result<Steps> {
    let (batch, length) = encoder::SIZES;
    let (rows, heads) = (batch * length, d / encoder::HEAD);
    let all = ordered(encoder::params(d));
    let joined =
        ["key.weight", "value.weight", "key.bias", "value.bias", "norm1.bias", "norm2.bias"];
    let (mut spaces, mut tape) = (Spaces::new(), Tape::new());
    let params = params(specs(&all, &joined), &mut spaces, gpu, train)?;
    let [x_at, target_at] = ["x", "target"].map(|name| spaces.declare(name, rows * d));
    let tokens_at = spaces.declare("tokens", rows * 4);
    let x = tape.input("x", &[rows, d], x_at, 0);
    let target = tape.input("target", &[rows, d], target_at, 0);
    let tokens = tape.input("tokens", &[rows, 4], tokens_at, 0);
    let y = layer(&mut tape, &params, x, tokens, heads, d)?;
    let fill = |memory: &Memory| -> Result<()> {
        params.upload(gpu, memory, &weights(&all))?;
        memory.write(gpu, x_at, 0, &bits(&noise("x", rows * d)))?;
        memory.write(gpu, target_at, 0, &bits(&noise("target", rows * d)))?;
        let token = |i: usize| [1, (i % length) as u32, length as u32, (i / length) as u32];
        memory.write(gpu, tokens_at, 0, &(0..rows).flat_map(token).collect::<Vec<u32>>())?;
        Ok(())
    };
    if train {
        let off = tape.sub(y, target)?;
        let off = tape.square(off)?;
        let loss = tape.mean(off)?;
        let training = Training::new(gpu, tape, &spaces, &params, loss)?;
        fill(&training.memory)?;
        return Ok(training.steps());
    }
    tape.keep(y);
    let (program, memory) = tape.compile(gpu, &spaces)?;
    fill(&memory)?;
    let rig = Arc::new((program, memory));
    let run = rig.clone();
    Ok(checked(move || Ok(run.0.run(gpu, &run.1)?), move || Ok(rig.0.read(gpu, &rig.1, y)?)))
}

/// Weights of query, key and value behind one another, then their biases.
fn ordered(mut all: Vec<Param>) -> Vec<Param> {
    let place = |p: &Param| match &*p.name {
        "query.weight" | "key.weight" | "value.weight" => 0,
        "query.bias" | "key.bias" | "value.bias" => 1,
        _ => 2,
    };
    all.sort_by_key(place);
    all
}

/// One layer, recorded as `nn::Bert` does.
fn layer(
    tape: &mut Tape,
    params: &Params,
    x: Var,
    tokens: Var,
    heads: usize,
    d: usize,
) -> Result<Var> {
    let qkv = |kind: &str| ["query", "key", "value"].map(|n| format!("{n}.{kind}"));
    let w = params.span(tape, &qkv("weight"), &[3 * d, d])?;
    let b = params.span(tape, &qkv("bias"), &[3 * d])?;
    let dense = |tape: &mut Tape, name: &str| -> Result<(Var, Var)> {
        Ok((
            params.var(tape, &format!("{name}.weight"))?,
            params.var(tape, &format!("{name}.bias"))?,
        ))
    };
    let (out, inner, outer) = (dense(tape, "out")?, dense(tape, "inner")?, dense(tape, "outer")?);
    let norm = |tape: &mut Tape, name: &str| {
        let names = ["weight", "bias"].map(|kind| format!("{name}.{kind}"));
        params.span(tape, &names, &[2, d])
    };
    let (norm1, norm2) = (norm(tape, "norm1")?, norm(tape, "norm2")?);
    let eps = encoder::EPS as f32;
    let all = tape.linear(x, w, Some(b), Act::None)?;
    let context = tape.attention(all, tokens, heads, 0.0)?;
    let context = tape.linear(context, out.0, Some(out.1), Act::None)?;
    let h = tape.residual_norm(x, context, norm1, eps, 0.0)?;
    let f = tape.feed_forward(h, FeedForward { first: inner, second: outer, act: Act::Gelu })?;
    Ok(tape.residual_norm(h, f, norm2, eps, 0.0)?)
}

fn adam(gpu: &'static Gpu) -> Result<Steps> {
    let (count, side) = ADAM_SIZES;
    let name = |i: usize| format!("p{i}");
    let all: Vec<ParamSpec> =
        (0..count).map(|i| ParamSpec::new(name(i), &[side, side], GROUP, Init::Zeros)).collect();
    let (mut spaces, mut tape) = (Spaces::new(), Tape::new());
    let params = params(all, &mut spaces, gpu, true)?;
    params.optimize(&mut tape, Clip::default())?;
    let (program, memory) = tape.compile(gpu, &spaces)?;
    let mut start = Weights::default();
    let mut grads = Vec::new();
    for i in 0..count {
        start.insert(&name(i), vec![side, side], noise(&name(i), side * side));
        grads.extend(bits(&noise(&format!("g{i}"), side * side)));
    }
    params.upload(gpu, &memory, &start)?;
    let (spaces, words) = (params.grad_spaces(), side * side);
    if spaces.len() != 1 || words % 64 != 0 {
        return Err("22 million gradients are not one buffer here".into());
    }
    memory.write(gpu, spaces[0], 0, &grads)?;
    let value = params.state_spaces().first().map(|(_, space, _)| *space);
    let value: SpaceId = value.ok_or("no parameters")?;
    memory.write_step(gpu, &Step::default())?;
    let mut groups = params.groups();
    Ok(Box::new(move |steps| {
        let mut firsts = Vec::new();
        for _ in 0..steps {
            groups.advance();
            groups.write(gpu, &memory)?;
            program.replay(gpu, &memory, true, &[], None)?;
            firsts.push(f64::from(memory.read_f32(gpu, value, 0, 1)?[0]));
        }
        Ok(firsts)
    }))
}

/// A session whose parameters begin as everyone's do.
fn session(gpu: &Gpu, file: &str, settings: &[&str]) -> Result<Session> {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let config = Config::build("mosi", None, &settings)?;
    let path = data_folder().join(format!("{file}.safetensors"));
    let data = Arc::new(Dataset::open(&path)?);
    let mut session = Session::new(gpu, &config, data, None, true)?;
    session.initialise()?;
    let mut start = Weights::default();
    for spec in session.params().specs() {
        let Init::Uniform(bound) = spec.init else { return Err("an odd initial value".into()) };
        let (name, shape) = (spec.name.clone(), spec.shape.clone());
        let p = Param { name, shape, bound, around: 0.0 };
        start.insert(&p.name, p.shape.clone(), p.values());
    }
    session.load(&start, &path)?;
    Ok(session)
}

/// The first two calls are epoch 1, where no label changes, so that all peers have the same losses.
fn epoch_of(calls: &mut usize) -> usize {
    *calls += 1;
    calls.saturating_sub(1).max(1)
}

fn whole(gpu: &'static Gpu, file: &str) -> Result<Steps> {
    let mut session = session(gpu, file, &WHOLE)?;
    let (mut calls, mut batches) = (0, 0);
    Ok(Box::new(move |steps| {
        let rows = (batches * data::BATCH..(batches + steps) * data::BATCH).map(|i| i % ROWS);
        batches += steps;
        let mut losses = Vec::new();
        let order = rows.map(|row| row as u32).collect();
        session.train_epoch(epoch_of(&mut calls), order, |record, _| {
            losses.push(record.loss);
            Ok(())
        })?;
        Ok(losses)
    }))
}

fn epoch(gpu: &'static Gpu) -> Result<Steps> {
    let mut session = session(gpu, "demo", &DEMO)?;
    let mut calls = 0;
    Ok(Box::new(move |steps| {
        let mut means = Vec::new();
        for _ in 0..steps {
            calls += 1;
            let (order, mut losses) = (session.order(calls), Vec::new());
            session.train_epoch(calls, order, |record, _| {
                losses.push(record.loss);
                Ok(())
            })?;
            means.push(losses.iter().sum::<f64>() / losses.len().max(1) as f64);
        }
        Ok(means)
    }))
}
