//! The work in burn: `peer-burn wgpu` on its wgpu backend (the adapter that it takes by default),
//! `peer-burn cpu` on its own CPU backend, flex.

use burn::module::{Module, Param as BurnParam};
use burn::nn::transformer::{
    TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput,
};
use burn::nn::{Linear, LinearConfig, Lstm, LstmConfig};
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use modalign_peers::data::{self, Data, HEADS, STREAMS};
use modalign_peers::{
    ADAM, ADAM_SIZES, Item, Param, Peer, Result, Steps, data_folder, encoder, lstm, noise, serve,
};
use serde_json::{Value, json};
use std::collections::HashMap;

struct Burn {
    device: Device,
    name: String,
}

fn main() -> Result<()> {
    serve(open)
}

fn open() -> Result<Burn> {
    let kind = std::env::args().nth(1).unwrap_or_default();
    let (device, name) = match &*kind {
        #[cfg(feature = "burn-wgpu")]
        "wgpu" => {
            let (device, setup) = Device::wgpu_options().init_with_setup()?;
            let info = setup.adapter.get_info();
            (device, format!("{}, {} {}", info.name, info.driver, info.driver_info))
        }
        "cpu" => (Device::flex(), "CPU (flex)".into()),
        other => return Err(format!("this program was built without '{other}'").into()),
    };
    Ok(Burn { device, name })
}

impl Peer for Burn {
    fn hello(&self) -> Value {
        let tuned = if cfg!(feature = "burn-tuned") { "with" } else { "without" };
        json!({
            "version": "burn 0.22.1",
            "device": self.name,
            "settings": format!("{tuned} fusion and autotune"),
        })
    }

    fn open(&self, item: Item) -> Result<Option<Steps>> {
        let plain = self.device.clone();
        let train = plain.clone().autodiff();
        Ok(Some(match item {
            Item::Matmul(m, k, n) => matmul(plain, (m, k, n)),
            Item::Lstm => lstm_step(train),
            Item::Encoder(d) => encoder_step(train, d),
            Item::Forward(d) => encoder_forward(plain, d),
            Item::Adam => adam(train),
            Item::SelfMm => whole(train)?,
            Item::SelfMmLengths | Item::Epoch => return Ok(None),
        }))
    }
}

fn random<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    tensor(noise(name, shape.iter().product()), shape, device)
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn read<const D: usize>(tensor: Tensor<D>) -> Result<f64> {
    let values: Vec<f32> = tensor.into_data().try_to_vec().map_err(|e| format!("{e:?}"))?;
    Ok(f64::from(values[0]))
}

fn optimiser() -> ModuleOptimizer {
    let (_, beta1, beta2, eps) = ADAM;
    AdamConfig::new()
        .with_beta_1(beta1 as f32)
        .with_beta_2(beta2 as f32)
        .with_epsilon(eps as f32)
        .init()
}

/// The common initial values by name, in burn's layouts.
struct Start<'d> {
    all: HashMap<String, Param>,
    device: &'d Device,
}

impl<'d> Start<'d> {
    fn new(all: Vec<Param>, device: &'d Device) -> Self {
        Start { all: all.into_iter().map(|p| (p.name.clone(), p)).collect(), device }
    }

    fn vector(&self, name: &str) -> BurnParam<Tensor<1>> {
        let p = &self.all[name];
        BurnParam::from_tensor(tensor(p.values(), [p.shape[0]], self.device))
    }

    /// Rows `from..to` of a `[out, in]` weight as `[in, out]`.
    fn weight(&self, name: &str, (from, to): (usize, usize)) -> BurnParam<Tensor<2>> {
        let p = &self.all[name];
        let (inputs, values) = (p.shape[1], p.values());
        let turned = (0..inputs).flat_map(|i| (from..to).map(move |o| (o, i)));
        let turned = turned.map(|(o, i)| values[o * inputs + i]).collect();
        BurnParam::from_tensor(tensor(turned, [inputs, to - from], self.device))
    }

    fn part(&self, weight: &str, bias: &str, (from, to): (usize, usize)) -> Linear {
        let inputs = self.all[weight].shape[1];
        let mut linear = LinearConfig::new(inputs, to - from)
            .with_bias(self.all.contains_key(bias))
            .init(self.device);
        linear.weight = self.weight(weight, (from, to));
        if let Some(p) = self.all.get(bias) {
            let values = p.values()[from..to].to_vec();
            let bias = tensor(values, [to - from], self.device);
            linear.bias = Some(BurnParam::from_tensor(bias));
        }
        linear
    }

    fn linear(&self, name: &str) -> Linear {
        let weight = format!("{name}.weight");
        let outputs = self.all[&weight].shape[0];
        self.part(&weight, &format!("{name}.bias"), (0, outputs))
    }

    /// burn keeps the four gates apart; PyTorch stacks them in the order i, f, g, o.
    fn lstm(&self, name: &str, inputs: usize, hidden: usize) -> Lstm {
        let mut lstm = LstmConfig::new(inputs, hidden, true).init(self.device);
        let gate = |i: usize| {
            let rows = (i * hidden, (i + 1) * hidden);
            let part = |kind: &str| {
                let at = |what: &str| format!("{name}.{what}_{kind}_l0");
                self.part(&at("weight"), &at("bias"), rows)
            };
            (part("ih"), part("hh"))
        };
        (lstm.input_gate.input_transform, lstm.input_gate.hidden_transform) = gate(0);
        if let Some(forget) = &mut lstm.forget_gate {
            (forget.input_transform, forget.hidden_transform) = gate(1);
        }
        (lstm.cell_gate.input_transform, lstm.cell_gate.hidden_transform) = gate(2);
        (lstm.output_gate.input_transform, lstm.output_gate.hidden_transform) = gate(3);
        lstm
    }

    fn encoder(&self, d: usize) -> TransformerEncoder {
        let mut encoder = TransformerEncoderConfig::new(d, 4 * d, d / encoder::HEAD, 1)
            .with_dropout(0.0)
            .with_layer_norm_eps(encoder::EPS)
            .init(self.device);
        let layer = &mut encoder.layers[0];
        layer.mha.query = self.linear("query");
        layer.mha.key = self.linear("key");
        layer.mha.value = self.linear("value");
        layer.mha.output = self.linear("out");
        layer.pwff.linear_inner = self.linear("inner");
        layer.pwff.linear_outer = self.linear("outer");
        for (norm, name) in [(&mut layer.norm_1, "norm1"), (&mut layer.norm_2, "norm2")] {
            norm.gamma = self.vector(&format!("{name}.weight"));
            norm.beta = Some(self.vector(&format!("{name}.bias")));
        }
        encoder
    }
}

/// Steps that backpropagate a loss and update; it is read when all has been queued.
fn training<M: Module + 'static>(
    model: M,
    mut loss: impl FnMut(&M) -> Tensor<1> + 'static,
) -> Steps {
    let (mut adam, mut model) = (optimiser(), Some(model));
    Box::new(move |steps| {
        let mut losses = Vec::new();
        for _ in 0..steps {
            let now = model.take().ok_or("the model was lost in a panic")?;
            let loss = loss(&now);
            let grads = GradientsParams::from_grads(loss.backward(), &now);
            model = Some(adam.step(ADAM.0, now, grads));
            losses.push(read(loss)?);
        }
        Ok(losses)
    })
}

/// Runs and waits; the first time gives the mean square of the result.
fn checked<const D: usize>(device: Device, run: impl Fn() -> Tensor<D> + 'static) -> Steps {
    let mut first = true;
    Box::new(move |steps| {
        let mut last = None;
        for _ in 0..steps {
            last = Some(run());
            device.sync().map_err(|e| format!("{e:?}"))?;
        }
        match last {
            Some(result) if std::mem::take(&mut first) => {
                Ok(vec![read((result.clone() * result).mean())?])
            }
            _ => Ok(Vec::new()),
        }
    })
}

fn matmul(device: Device, (m, k, n): (usize, usize, usize)) -> Steps {
    let (a, b) = (random("a", [m, k], &device), random("b", [k, n], &device));
    checked(device, move || a.clone().matmul(b.clone()))
}

#[derive(Module, Debug)]
struct LstmModel {
    lstm: Lstm,
    head: Linear,
}

fn lstm_step(device: Device) -> Steps {
    let (batch, steps, inputs, hidden) = lstm::SIZES;
    let start = Start::new(lstm::params(), &device);
    let model = LstmModel { lstm: start.lstm("lstm", inputs, hidden), head: start.linear("head") };
    let x = random("x", [batch, steps, inputs], &device);
    let target = random("target", [batch, 1], &device);
    training(model, move |m| {
        let (_, state) = m.lstm.forward(x.clone(), None);
        (m.head.forward(state.hidden) - target.clone()).abs().mean()
    })
}

fn encoder_step(device: Device, d: usize) -> Steps {
    let (batch, length) = encoder::SIZES;
    let model = Start::new(encoder::params(d), &device).encoder(d);
    let x = random("x", [batch, length, d], &device);
    let target = random("target", [batch, length, d], &device);
    training(model, move |m| {
        let off = m.forward(TransformerEncoderInput::new(x.clone())) - target.clone();
        (off.clone() * off).mean()
    })
}

fn encoder_forward(device: Device, d: usize) -> Steps {
    let (batch, length) = encoder::SIZES;
    let model = Start::new(encoder::params(d), &device).encoder(d);
    let x = random("x", [batch, length, d], &device);
    checked(device, move || model.forward(TransformerEncoderInput::new(x.clone())))
}

#[derive(Module, Debug)]
struct Bag {
    all: Vec<BurnParam<Tensor<2>>>,
}

fn adam(device: Device) -> Steps {
    let (count, side) = ADAM_SIZES;
    let plain = device.clone().inner();
    let all = (0..count)
        .map(|i| BurnParam::from_tensor(random(&format!("p{i}"), [side, side], &device)))
        .collect();
    let mut grads: Vec<Tensor<2>> =
        (0..count).map(|i| random(&format!("g{i}"), [side, side], &plain)).collect();
    let (mut adam, mut bag, mut cleared) = (optimiser(), Some(Bag { all }), false);
    Box::new(move |steps| {
        let mut firsts = Vec::new();
        for _ in 0..steps {
            let now = bag.take().ok_or("the parameters were lost in a panic")?;
            let mut store = GradientsParams::new();
            for (p, grad) in now.all.iter().zip(&grads) {
                store.register(p.id, grad.clone());
            }
            let next = adam.step(ADAM.0, now, store);
            if !std::mem::replace(&mut cleared, true) {
                for grad in &mut grads {
                    *grad = Tensor::zeros([side, side], &plain);
                }
            }
            firsts.push(read(next.all[0].val().slice([0..1, 0..1]))?);
            plain.sync().map_err(|e| format!("{e:?}"))?;
            bag = Some(next);
        }
        Ok(firsts)
    })
}

#[derive(Module, Debug)]
struct Whole {
    lstms: Vec<Lstm>,
    linears: Vec<Linear>,
    /// Three a head.
    heads: Vec<Linear>,
    align: Vec<Linear>,
}

/// `[n, d]` → `[d, d]`.
fn covariance(x: Tensor<2>) -> Tensor<2> {
    let n = x.dims()[0] as f32;
    let centred = x.clone() - x.mean_dim(0);
    centred.clone().transpose().matmul(centred) / (n - 1.0)
}

impl Whole {
    fn new(device: &Device) -> Whole {
        let start = Start::new(data::params(), device);
        let layer = |name: &str, i: usize| start.linear(&format!("{name}_layer_{i}"));
        Whole {
            lstms: STREAMS
                .into_iter()
                .map(|(name, _, inputs, hidden)| {
                    start.lstm(&format!("{name}_model.rnn"), inputs, hidden)
                })
                .collect(),
            linears: STREAMS
                .into_iter()
                .map(|(name, ..)| start.linear(&format!("{name}_model.linear_1")))
                .collect(),
            heads: HEADS
                .into_iter()
                .flat_map(|(name, ..)| [1, 2, 3].map(|i| layer(name, i)))
                .collect(),
            align: ["text", "audio", "video"]
                .map(|name| start.linear(&format!("align_{name}")))
                .into(),
        }
    }

    /// Losses of the four tasks, labels `[batch, 1]`, and the weighted alignment terms.
    fn loss(&self, text: Tensor<2>, streams: Vec<Tensor<3>>, labels: [Tensor<2>; 4]) -> Tensor<1> {
        let mut f = vec![text];
        for ((lstm, linear), x) in self.lstms.iter().zip(&self.linears).zip(streams) {
            f.push(linear.forward(lstm.forward(x, None).1.hidden));
        }
        let fused = Tensor::cat(f.clone(), 1);
        let mut terms = Vec::new();
        for (i, layers) in self.heads.chunks(3).enumerate() {
            let x = if i == 0 { fused.clone() } else { f[i - 1].clone() };
            let relu = burn::tensor::activation::relu;
            let inner = relu(layers[1].forward(relu(layers[0].forward(x))));
            let off = (layers[2].forward(inner) - labels[i].clone()).abs();
            let weight = (labels[i].clone() - labels[0].clone()).abs().tanh();
            terms.push(if i == 0 { off.mean() } else { (off * weight).mean() });
        }
        let sides: Vec<Tensor<2>> =
            f.into_iter().zip(&self.align).map(|(x, a)| covariance(a.forward(x))).collect();
        let (dim, weight) = data::ALIGN;
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let off = sides[a].clone() - sides[b].clone();
            terms.push((off.clone() * off).sum() * (weight / (4 * dim * dim) as f64));
        }
        Tensor::cat(terms, 0).sum()
    }
}

fn whole(device: Device) -> Result<Steps> {
    let set = Data::open(&data_folder().join("full.safetensors"))?;
    let mut batch = 0;
    Ok(training(Whole::new(&device), move |model| {
        let text = tensor(set.text.batch(batch).to_vec(), [data::BATCH, data::TEXT], &device);
        let streams = set
            .streams
            .iter()
            .zip(STREAMS)
            .map(|(x, (_, steps, dim, _))| {
                tensor(x.batch(batch).to_vec(), [data::BATCH, steps, dim], &device)
            })
            .collect();
        let labels = tensor(set.labels.batch(batch).to_vec(), [data::BATCH, 1], &device);
        batch += 1;
        // Generated labels begin as the fused one.
        model.loss(text, streams, [0; 4].map(|_| labels.clone()))
    }))
}
