//! The work in candle on its CPU backend.

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::rnn::{LSTM, LSTMConfig, LSTMState, RNN};
use candle_nn::{AdamW, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, ops};
use modalign_peers::data::{self, Data, HEADS, STREAMS};
use modalign_peers::{
    ADAM, ADAM_SIZES, Item, Param, Peer, Result, Steps, data_folder, encoder, lstm, noise, serve,
};
use serde_json::{Value, json};
use std::collections::HashMap;

struct Candle;

fn main() -> Result<()> {
    serve(|| Ok(Candle))
}

impl Peer for Candle {
    fn hello(&self) -> Value {
        json!({
            "version": "candle 0.11.1",
            "device": "CPU (its own backend, no BLAS)",
            "settings": format!("{} threads", candle_core::utils::get_num_threads()),
        })
    }

    fn open(&self, item: Item) -> Result<Option<Steps>> {
        Ok(Some(match item {
            Item::Matmul(m, k, n) => matmul((m, k, n))?,
            Item::Lstm => lstm_step()?,
            Item::Encoder(d) => encoder_step(d)?,
            Item::Forward(d) => encoder_forward(d)?,
            Item::Adam => adam()?,
            Item::SelfMm => whole()?,
            Item::SelfMmLengths | Item::Epoch => return Ok(None),
        }))
    }
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn random(name: &str, shape: &[usize]) -> Result<Tensor> {
    tensor(noise(name, shape.iter().product()), shape)
}

/// Parameters by name, trainable or not.
struct Params {
    vars: Vec<Var>,
    tensors: HashMap<String, Tensor>,
}

impl Params {
    fn new(all: &[Param], train: bool) -> Result<Params> {
        let (mut vars, mut tensors) = (Vec::new(), HashMap::new());
        for p in all {
            let value = tensor(p.values(), &p.shape)?;
            if train {
                let var = Var::from_tensor(&value)?;
                tensors.insert(p.name.clone(), var.as_tensor().clone());
                vars.push(var);
            } else {
                tensors.insert(p.name.clone(), value);
            }
        }
        Ok(Params { vars, tensors })
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        Ok(self.tensors.get(name).ok_or_else(|| format!("no parameter {name}"))?.clone())
    }

    fn linear(&self, name: &str) -> Result<Linear> {
        let bias = self.tensors.get(&format!("{name}.bias")).cloned();
        Ok(Linear::new(self.get(&format!("{name}.weight"))?, bias))
    }

    fn lstm(&self, name: &str, inputs: usize, hidden: usize) -> Result<LSTM> {
        let vars = VarBuilder::from_tensors(self.tensors.clone(), DType::F32, &Device::Cpu);
        Ok(candle_nn::rnn::lstm(inputs, hidden, LSTMConfig::default(), vars.pp(name))?)
    }

    fn adam(&self) -> Result<AdamW> {
        optimiser(self.vars.clone())
    }
}

/// Without decay AdamW is Adam.
fn optimiser(vars: Vec<Var>) -> Result<AdamW> {
    let (lr, beta1, beta2, eps) = ADAM;
    Ok(AdamW::new(vars, ParamsAdamW { lr, beta1, beta2, eps, weight_decay: 0.0 })?)
}

/// Steps that backpropagate a loss, update, and read it.
fn training(mut adam: AdamW, mut loss: impl FnMut() -> Result<Tensor> + 'static) -> Steps {
    Box::new(move |steps| {
        let mut losses = Vec::new();
        for _ in 0..steps {
            let loss = loss()?;
            adam.backward_step(&loss)?;
            losses.push(f64::from(loss.to_scalar::<f32>()?));
        }
        Ok(losses)
    })
}

/// Runs; the first time gives the mean square of the result.
fn checked(run: impl Fn() -> Result<Tensor> + 'static) -> Steps {
    let mut first = true;
    Box::new(move |steps| {
        let mut last = None;
        for _ in 0..steps {
            last = Some(run()?);
        }
        match last {
            Some(result) if std::mem::take(&mut first) => {
                let square = result.to_dtype(DType::F64)?.sqr()?.mean_all()?;
                Ok(vec![square.to_scalar::<f64>()?])
            }
            _ => Ok(Vec::new()),
        }
    })
}

fn matmul((m, k, n): (usize, usize, usize)) -> Result<Steps> {
    let (a, b) = (random("a", &[m, k])?, random("b", &[k, n])?);
    Ok(checked(move || Ok(a.matmul(&b)?)))
}

fn last_state(lstm: &LSTM, x: &Tensor) -> Result<Tensor> {
    let states: Vec<LSTMState> = lstm.seq(x)?;
    Ok(states.last().ok_or("no step")?.h().clone())
}

fn lstm_step() -> Result<Steps> {
    let (batch, steps, inputs, hidden) = lstm::SIZES;
    let params = Params::new(&lstm::params(), true)?;
    let (rnn, head) = (params.lstm("lstm", inputs, hidden)?, params.linear("head")?);
    let x = random("x", &[batch, steps, inputs])?;
    let target = random("target", &[batch, 1])?;
    Ok(training(params.adam()?, move || {
        let y = head.forward(&last_state(&rnn, &x)?)?;
        Ok((y - &target)?.abs()?.mean_all()?)
    }))
}

struct Layer {
    linears: Vec<Linear>,
    norms: Vec<(Tensor, Tensor)>,
    train: bool,
}

impl Layer {
    fn new(params: &Params, train: bool) -> Result<Layer> {
        let names = ["query", "key", "value", "out", "inner", "outer"];
        let norm = |n: &str| {
            let get = |kind| params.get(&format!("{n}.{kind}"));
            Ok::<_, Box<dyn std::error::Error>>((get("weight")?, get("bias")?))
        };
        Ok(Layer {
            linears: names.iter().map(|n| params.linear(n)).collect::<Result<_>>()?,
            norms: ["norm1", "norm2"].into_iter().map(norm).collect::<Result<_>>()?,
            train,
        })
    }

    fn norm(&self, i: usize, x: &Tensor) -> Result<Tensor> {
        let ((w, b), eps) = (&self.norms[i], encoder::EPS as f32);
        // The fast one has no backward.
        let norm = if self.train { ops::layer_norm_slow } else { ops::layer_norm };
        Ok(norm(x, w, b, eps)?)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, length, d) = x.dims3()?;
        let split = |x: Tensor| -> Result<Tensor> {
            let x = x.reshape((batch, length, d / encoder::HEAD, encoder::HEAD))?;
            Ok(x.transpose(1, 2)?.contiguous()?)
        };
        let [q, k, v] = [0, 1, 2].map(|i| self.linears[i].forward(x).map(split));
        let scores = (q??.matmul(&k??.t()?)? / (encoder::HEAD as f64).sqrt())?;
        let weights = if self.train {
            ops::softmax(&scores, D::Minus1)?
        } else {
            ops::softmax_last_dim(&scores)?
        };
        let context = weights.matmul(&v??)?.transpose(1, 2)?.reshape((batch, length, d))?;
        let h = self.norm(0, &(x + self.linears[3].forward(&context)?)?)?;
        let inner = self.linears[4].forward(&h)?.gelu_erf()?;
        self.norm(1, &(&h + self.linears[5].forward(&inner)?)?)
    }
}

fn encoder_step(d: usize) -> Result<Steps> {
    let (batch, length) = encoder::SIZES;
    let params = Params::new(&encoder::params(d), true)?;
    let layer = Layer::new(&params, true)?;
    let x = random("x", &[batch, length, d])?;
    let target = random("target", &[batch, length, d])?;
    Ok(training(params.adam()?, move || Ok((layer.forward(&x)? - &target)?.sqr()?.mean_all()?)))
}

fn encoder_forward(d: usize) -> Result<Steps> {
    let (batch, length) = encoder::SIZES;
    let layer = Layer::new(&Params::new(&encoder::params(d), false)?, false)?;
    let x = random("x", &[batch, length, d])?;
    Ok(checked(move || layer.forward(&x)))
}

fn adam() -> Result<Steps> {
    let (count, side) = ADAM_SIZES;
    let vars: Vec<Var> = (0..count)
        .map(|i| Ok(Var::from_tensor(&random(&format!("p{i}"), &[side, side])?)?))
        .collect::<Result<_>>()?;
    // A store of gradients can only be had from a backward.
    let mut grads: GradStore = vars[0].sum_all()?.backward()?;
    for (i, var) in vars.iter().enumerate() {
        grads.insert(var, random(&format!("g{i}"), &[side, side])?);
    }
    let mut adam = optimiser(vars.clone())?;
    let mut cleared = false;
    Ok(Box::new(move |steps| {
        let mut firsts = Vec::new();
        for _ in 0..steps {
            adam.step(&grads)?;
            if !std::mem::replace(&mut cleared, true) {
                for var in &vars {
                    grads.insert(var, var.zeros_like()?);
                }
            }
            let first = vars[0].narrow(0, 0, 1)?.narrow(1, 0, 1)?;
            firsts.push(f64::from(first.reshape(())?.to_scalar::<f32>()?));
        }
        Ok(firsts)
    }))
}

/// `[n, d]` → `[d, d]`.
fn covariance(x: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(0)?)?;
    let n = x.dim(0)? as f64;
    Ok((centred.t()?.matmul(&centred)? / (n - 1.0))?)
}

struct Whole {
    streams: Vec<(LSTM, Linear)>,
    heads: Vec<[Linear; 3]>,
    align: Vec<Linear>,
}

impl Whole {
    fn new(params: &Params) -> Result<Whole> {
        let stream = |(name, _, inputs, hidden)| {
            let lstm = params.lstm(&format!("{name}_model.rnn"), inputs, hidden)?;
            Ok((lstm, params.linear(&format!("{name}_model.linear_1"))?))
        };
        let head = |(name, _, _)| {
            let layer = |i: usize| params.linear(&format!("{name}_layer_{i}"));
            Ok([layer(1)?, layer(2)?, layer(3)?])
        };
        let align = |name| params.linear(&format!("align_{name}"));
        Ok(Whole {
            streams: STREAMS.into_iter().map(stream).collect::<Result<_>>()?,
            heads: HEADS.into_iter().map(head).collect::<Result<_>>()?,
            align: ["text", "audio", "video"].into_iter().map(align).collect::<Result<_>>()?,
        })
    }

    /// Losses of the four tasks, labels `[batch, 1]`, and the weighted alignment terms.
    fn loss(&self, text: Tensor, streams: &[Tensor], labels: &[Tensor; 4]) -> Result<Tensor> {
        let mut f = vec![text];
        for ((lstm, linear), x) in self.streams.iter().zip(streams) {
            f.push(linear.forward(&last_state(lstm, x)?)?);
        }
        let mut total = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        let fused = Tensor::cat(&f, 1)?;
        for (i, [first, second, third]) in self.heads.iter().enumerate() {
            let x = if i == 0 { &fused } else { &f[i - 1] };
            let inner = second.forward(&first.forward(x)?.relu()?)?.relu()?;
            let off = (third.forward(&inner)? - &labels[i])?.abs()?;
            let off =
                if i == 0 { off } else { (off * (&labels[i] - &labels[0])?.abs()?.tanh()?)? };
            total = (total + off.mean_all()?)?;
        }
        let sides = f.iter().zip(&self.align).map(|(x, a)| covariance(&a.forward(x)?));
        let sides: Vec<Tensor> = sides.collect::<Result<_>>()?;
        let (dim, weight) = data::ALIGN;
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let term = (&sides[a] - &sides[b])?.sqr()?.sum_all()?;
            total = (total + (term * (weight / (4 * dim * dim) as f64))?)?;
        }
        Ok(total)
    }
}

fn whole() -> Result<Steps> {
    let set = Data::open(&data_folder().join("full.safetensors"))?;
    let params = Params::new(&data::params(), true)?;
    let model = Whole::new(&params)?;
    let mut batch = 0;
    Ok(training(params.adam()?, move || {
        let text = tensor(set.text.batch(batch).to_vec(), &[data::BATCH, data::TEXT])?;
        let streams: Vec<Tensor> = set
            .streams
            .iter()
            .zip(STREAMS)
            .map(|(x, (_, steps, dim, _))| {
                tensor(x.batch(batch).to_vec(), &[data::BATCH, steps, dim])
            })
            .collect::<Result<_>>()?;
        let labels = tensor(set.labels.batch(batch).to_vec(), &[data::BATCH, 1])?;
        batch += 1;
        // Generated labels begin as the fused one.
        model.loss(text, &streams, &[0; 4].map(|_| labels.clone()))
    }))
}
