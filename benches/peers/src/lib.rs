//! What the peers share: the work items, the numbers they start from, and the protocol that `run.py`
//! speaks with them.
//!
//! A peer is a program that reads `time ITEM STEPS` from its input, a line each, does that many steps
//! of the item and answers with one line of JSON. Inputs and initial weights come from [`noise`], a
//! function of a name and an index, so that every peer begins with the same numbers and its losses can
//! be held against those of the others.

pub mod data;

use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

/// Anything that goes wrong in a peer, as a sentence.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A prepared item: does so many steps and returns the loss of each (or another number that the others
/// have too).
pub type Steps = Box<dyn FnMut(usize) -> Result<Vec<f64>>>;

/// A library that does the work.
pub trait Peer {
    /// Versions, device, settings.
    fn hello(&self) -> Value;
    /// Prepares an item; `None` if this peer does not have it.
    fn open(&self, item: Item) -> Result<Option<Steps>>;
}

/// A piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// `[m, k] · [k, n]`.
    Matmul(usize, usize, usize),
    /// A training step of an LSTM.
    Lstm,
    /// A training step of one encoder layer of this width.
    Encoder(usize),
    /// Its forward pass alone.
    Forward(usize),
    /// Adam over 22 million parameters.
    Adam,
    /// A training step of the whole three-modality model, every sample of full length.
    SelfMm,
    /// The same with samples of half to full length.
    SelfMmLengths,
    /// An epoch of `modalign demo`'s setting.
    Epoch,
}

impl Item {
    /// From its name, `matmul/1024x1024x1024`.
    pub fn parse(name: &str) -> Option<Item> {
        let (kind, size) = name.split_once('/').unwrap_or((name, ""));
        let sizes: Vec<usize> = size.split('x').filter_map(|s| s.parse().ok()).collect();
        match (kind, sizes[..].len()) {
            ("matmul", 3) => Some(Item::Matmul(sizes[0], sizes[1], sizes[2])),
            ("lstm", 0) => Some(Item::Lstm),
            ("encoder", 1) => Some(Item::Encoder(sizes[0])),
            ("forward", 1) => Some(Item::Forward(sizes[0])),
            ("adam", 0) => Some(Item::Adam),
            ("selfmm", 0) => Some(Item::SelfMm),
            ("selfmm-lengths", 0) => Some(Item::SelfMmLengths),
            ("epoch", 0) => Some(Item::Epoch),
            _ => None,
        }
    }
}

/// Adam's settings, the same everywhere: learning rate, β₁, β₂, ε.
pub const ADAM: (f64, f64, f64, f64) = (1e-3, 0.9, 0.999, 1e-8);
/// Tensors, and rows and columns of each, of the Adam item.
pub const ADAM_SIZES: (usize, usize) = (22, 1000);

/// The LSTM item.
pub mod lstm {
    /// Samples, steps, features, hidden units.
    pub const SIZES: (usize, usize, usize, usize) = (32, 50, 74, 32);

    /// Parameters under PyTorch's names: name, shape, fan-in of the initial values.
    pub fn params() -> Vec<super::Param> {
        let (_, _, inputs, hidden) = SIZES;
        let mut all = super::lstm_params("lstm", inputs, hidden);
        all.extend(super::linear_params("head", hidden, 1, true));
        all
    }
}

/// The encoder item: one post-norm layer.
pub mod encoder {
    use super::Param;

    /// Samples, tokens of each.
    pub const SIZES: (usize, usize) = (32, 50);
    /// Of the norms.
    pub const EPS: f64 = 1e-12;
    /// Width of a head.
    pub const HEAD: usize = 64;

    /// Parameters of a layer of width `d`.
    pub fn params(d: usize) -> Vec<Param> {
        let mut all = Vec::new();
        let linears = [
            ("query", d, d),
            ("key", d, d),
            ("value", d, d),
            ("out", d, d),
            ("inner", d, 4 * d),
            ("outer", 4 * d, d),
        ];
        for (name, inputs, outputs) in linears {
            all.extend(super::linear_params(name, inputs, outputs, true));
        }
        for name in ["norm1", "norm2"] {
            all.push(Param {
                name: format!("{name}.weight"),
                shape: vec![d],
                bound: 0.1,
                around: 1.0,
            });
            all.push(Param {
                name: format!("{name}.bias"),
                shape: vec![d],
                bound: 0.1,
                around: 0.0,
            });
        }
        all
    }
}

/// A parameter: its values are `around` ± `bound`.
#[derive(Clone, Debug)]
pub struct Param {
    pub name: String,
    /// As PyTorch has it: outputs, inputs.
    pub shape: Vec<usize>,
    pub bound: f32,
    pub around: f32,
}

impl Param {
    /// Its initial values.
    pub fn values(&self) -> Vec<f32> {
        let values = noise(&self.name, self.shape.iter().product());
        values.into_iter().map(|v| v * self.bound + self.around).collect()
    }

    fn uniform(name: String, shape: &[usize], fan: usize) -> Param {
        Param { name, shape: shape.to_vec(), bound: 1.0 / (fan as f32).sqrt(), around: 0.0 }
    }
}

/// A linear layer's parameters.
pub fn linear_params(name: &str, inputs: usize, outputs: usize, bias: bool) -> Vec<Param> {
    let mut all = vec![Param::uniform(format!("{name}.weight"), &[outputs, inputs], inputs)];
    if bias {
        all.push(Param::uniform(format!("{name}.bias"), &[outputs], inputs));
    }
    all
}

/// An LSTM layer's parameters.
pub fn lstm_params(name: &str, inputs: usize, hidden: usize) -> Vec<Param> {
    let gates = 4 * hidden;
    [
        ("weight_ih_l0", vec![gates, inputs]),
        ("weight_hh_l0", vec![gates, hidden]),
        ("bias_ih_l0", vec![gates]),
        ("bias_hh_l0", vec![gates]),
    ]
    .into_iter()
    .map(|(kind, shape)| Param::uniform(format!("{name}.{kind}"), &shape, hidden))
    .collect()
}

/// `len` numbers in [-1, 1) that depend on the name and the index alone: FNV-1a of the name, mixed
/// with the index by MurmurHash3's finaliser.
pub fn noise(name: &str, len: usize) -> Vec<f32> {
    let seed =
        name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let one = |i: usize| {
        let mut h = (i as u32).wrapping_mul(0x9e37_79b9).wrapping_add(seed);
        h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
        h ^= h >> 16;
        (h >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(one).collect()
}

/// Where the generated data sets lie: the program's second argument.
pub fn data_folder() -> PathBuf {
    PathBuf::from(std::env::args().nth(2).unwrap_or_else(|| "data".into()))
}

/// Answers requests until the input ends. One item is kept prepared; another one takes its place. All
/// of it happens on a thread with room for libraries that walk a graph of thousands of nodes by recursion.
pub fn serve<P: Peer>(make: impl FnOnce() -> Result<P> + Send + 'static) -> Result<()> {
    let served = move || make().map(|peer| listen(&peer)).map_err(|e| e.to_string());
    let thread = std::thread::Builder::new().stack_size(1 << 30).spawn(served)?;
    match thread.join() {
        Ok(result) => Ok(result?),
        Err(_) => Err("the peer panicked".into()),
    }
}

fn listen(peer: &dyn Peer) {
    let mut out = std::io::stdout();
    let mut say = |value: Value| {
        let _ = writeln!(out, "{value}").and_then(|()| out.flush());
    };
    say(peer.hello());
    let mut ready: Option<(String, Steps)> = None;
    for line in std::io::stdin().lock().lines().map_while(std::io::Result::ok) {
        let answer = catch_unwind(AssertUnwindSafe(|| answer(peer, &mut ready, &line)));
        say(match answer {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => json!({ "error": error.to_string() }),
            Err(_) => json!({ "error": "the peer panicked" }),
        });
    }
}

fn answer(peer: &dyn Peer, ready: &mut Option<(String, Steps)>, line: &str) -> Result<Value> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["time", name, steps] = words[..] else {
        return Err(format!("cannot read '{line}'").into());
    };
    let steps: usize = steps.parse()?;
    let start = Instant::now();
    if ready.as_ref().is_none_or(|(open, _)| open != name) {
        *ready = None;
        let item = Item::parse(name).ok_or_else(|| format!("no item '{name}'"))?;
        match peer.open(item)? {
            Some(opened) => *ready = Some((name.into(), opened)),
            None => return Ok(json!({ "skip": "not written for this peer" })),
        }
    }
    let opened = start.elapsed().as_secs_f64();
    let Some((_, run)) = ready else { return Err("nothing is open".into()) };
    let start = Instant::now();
    let values = run(steps)?;
    Ok(json!({ "open": opened, "seconds": start.elapsed().as_secs_f64(), "values": values }))
}
