//! Published values and gradients of inner parts of models, on inputs that a formula makes.

#![allow(clippy::excessive_precision, reason = "the numbers as they are published")]

use super::bert_mag::{gate_specs, moved};
use super::config::{ByStream, Config};
use super::crossmodal::{Encoder, placed};
use super::cx::Cx;
use super::goal::Goal;
use super::mfn::{Mfn, Networks, Own, Part, Time};
use super::recipe::{Columns, Recipe};
use super::subnets::GROUP;
use crate::Gpu;
use crate::data::task::NUMBER;
use crate::data::{BatchShape, Layout, Modality, Reads, StreamSpec};
use crate::error::Result;
use crate::gpu::GpuOptions;
use crate::nn::contrast::{self, Classes, Units};
use crate::nn::{Group, Init, ParamSpec, Params, Weights};
use crate::ops::batched::Transposed;
use crate::plan::{Memory, Pool, Spaces};
use crate::tape::{Tape, Var};

/// Element k is `((a k² + b k + 3) mod 17 − 8) / 10`.
pub(super) fn q(a: usize, b: usize, len: usize) -> Vec<f32> {
    (0..len).map(|k| ((a * k * k + b * k + 3) % 17) as f32 / 10.0 - 0.8).collect()
}

/// What `record` makes of parameters of these values, and the gradients of its sum weighted by `by`.
/// Parameters that no value is given for are 0, scales of norms 1.
pub(super) fn run(
    specs: Vec<ParamSpec>,
    values: &[(&str, Vec<f32>)],
    by: &[f32],
    record: impl FnOnce(&mut Cx<'_>) -> Result<Var>,
) -> (Vec<f32>, f32, Weights) {
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..GpuOptions::default() }).unwrap();
    let mut spaces = Spaces::new();
    let block = spaces.declare("block", 64);
    let groups = [Group::adam(GROUP, 0.1)];
    let params = Params::new(specs, &groups, &mut spaces, gpu.caps().max_binding, true).unwrap();
    let mut weights = Weights::default();
    for spec in
        params.specs().filter(|spec| weights.get(&spec.name).is_none()).cloned().collect::<Vec<_>>()
    {
        let given = values.iter().find(|(name, _)| *name == spec.name);
        let rows = spec.part.as_ref().map_or(spec.shape[0], |(_, all)| *all);
        let shape = [&[rows], &spec.shape[1..]].concat();
        let one = if spec.init == Init::Ones { 1.0 } else { 0.0 };
        let of = given.map_or(vec![one; shape.iter().product()], |(_, values)| values.clone());
        weights.insert(&spec.name, shape, of);
    }
    let layout =
        Layout::of(&BatchShape { rows: 1, tokens: 0, steps: Vec::new() }, &Reads::default(), 1);
    let (mut tape, columns) = (Tape::new(), Columns::task());
    let goal = Goal::new(&Config::default(), &NUMBER, &[], 0);
    let mut cx = Cx::new((&mut tape, &params), (&layout, block), (&columns, &[], &goal), None);
    let y = record(&mut cx).unwrap();
    let shape = tape.shape(y).to_vec();
    let by = tape.constant("by", &shape, by).unwrap();
    let product = tape.mul(y, by).unwrap();
    let loss = tape.sum(product).unwrap();
    tape.keep(y);
    tape.keep(loss);
    tape.backward(&[loss]).unwrap();
    let memory = Memory::allocate(&gpu, &spaces).unwrap();
    params.upload(&gpu, &memory, &weights).unwrap();
    let program = tape.plan(gpu.caps()).unwrap().prepare(&gpu, &memory, &mut Pool::new()).unwrap();
    program.replay(&gpu, &memory, true, &[], None).unwrap();
    let read = |var| program.read(&gpu, &memory, var).unwrap();
    (read(y), read(loss)[0], params.gradients(&gpu, &memory).unwrap())
}

pub(super) fn close(what: &str, got: &[f32], want: &[f32]) {
    let scale = want.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= 2e-5 * scale, "{what}: {got} where {want} is right");
    }
}

pub(super) fn free(name: &str, shape: &[usize]) -> ParamSpec {
    ParamSpec::new(name, shape, GROUP, Init::Zeros)
}

fn encoded(positions: bool) -> (Vec<f32>, f32, Weights) {
    let (name, dropout) = ("e".to_string(), [0.0; 3]);
    let encoder = Encoder { name, width: 4, heads: 2, layers: 1, own: false, dropout };
    let mut specs = encoder.specs();
    specs.extend([free("x", &[1, 2, 4]), free("kv", &[1, 3, 4])]);
    let values = [
        ("x", q(3, 2, 8)),
        ("kv", q(5, 7, 12)),
        ("e.layers.0.self_attn.in_proj_weight", q(2, 3, 48)),
        ("e.layers.0.self_attn.out_proj.weight", q(3, 6, 16)),
        ("e.layers.0.fc1.weight", q(5, 1, 64)),
        ("e.layers.0.fc2.weight", q(7, 3, 64)),
    ];
    run(specs, &values, &q(4, 6, 8), |cx| {
        let [x, kv] = [cx.param("x")?, cx.param("kv")?].map(|v| placed(cx, v, positions));
        encoder.record(cx, x?, Some(kv?))
    })
}

#[test]
fn mults_encoder() {
    let (y, loss, gradients) = encoded(false);
    let want = [
        0.18717511,
        0.74704311,
        0.75159248,
        -1.6858107,
        -0.51394012,
        -1.29472574,
        0.44396806,
        1.3646978,
    ];
    close("y", &y, &want);
    close("loss", &[loss], &[-0.0663606703]);
    let want = [
        -0.57202827,
        0.54547244,
        -0.02085225,
        0.04740809,
        -0.60081805,
        -0.62780632,
        1.00620674,
        0.22241763,
    ];
    close("dx", gradients.get("x").unwrap().1, &want);
    let want = [
        -0.22871953,
        0.11017878,
        -0.54255792,
        0.66109867,
        -0.62678416,
        -0.36469064,
        -0.3389705,
        1.3304453,
        -0.35409151,
        -0.08416011,
        0.08415363,
        0.35409799,
    ];
    close("dkv", gradients.get("kv").unwrap().1, &want);
    let want = [
        -1.64501946,
        0.56836319,
        0.9804477,
        0.09620857,
        -0.65653547,
        -1.04027805,
        0.12482073,
        1.5719928,
    ];
    close("y with positions", &encoded(true).0, &want);
}

#[test]
fn mfns_memory() {
    let sense = ByStream { text: 1, audio: 1, vision: 1, other: 1 };
    let own = Own {
        hidden: sense,
        memory: 2,
        time: Time::Sequence,
        inner: Networks::of([2; 5]),
        dropout: Networks::of([0.0; 5]),
    };
    let parts =
        Modality::KNOWN.into_iter().zip(["lstm_l", "lstm_a", "lstm_v"]).map(|(modality, name)| {
            Part {
                spec: StreamSpec { modality, steps: 1, dim: 1, lengths: false },
                name: name.into(),
                hidden: 1,
            }
        });
    let mfn = Mfn { config: Config::default(), own, parts: parts.collect(), outputs: 1 };
    let mut specs = mfn.params(true, usize::MAX);
    specs.extend([free("c", &[1, 1, 6]), free("m", &[1, 2])]);
    let values = [
        ("c", q(3, 10, 6)),
        ("m", q(5, 14, 2)),
        ("att1_fc1.weight", q(2, 9, 12)),
        ("att1_fc2.weight", q(3, 5, 12)),
        ("att2_fc1.weight", q(5, 8, 12)),
        ("att2_fc2.weight", q(7, 4, 4)),
        ("gamma1_fc1.weight", q(1, 3, 16)),
        ("gamma1_fc2.weight", q(3, 7, 4)),
        ("gamma2_fc1.weight", q(1, 12, 16)),
        ("gamma2_fc2.weight", q(5, 2, 4)),
    ];
    let (m, loss, gradients) = run(specs, &values, &q(9, 4, 2), |cx| {
        let (pair, start) = (cx.param("c")?, cx.param("m")?);
        mfn.watch(cx, pair, start)
    });
    close("memory", &m, &[-0.28255006, -0.14475975]);
    close("loss", &[loss], &[0.0254672304]);
    let want = [0.00082345, -0.00656478, -0.00265052, 0.00058251, 0.00597396, -0.01518355];
    close("dc", gradients.get("c").unwrap().1, &want);
    close("dm", gradients.get("m").unwrap().1, &[-0.29463264, 0.30754297]);
}

/// Two tokens that [`moved`] moves, and with what: the second is moved by all of h.
fn gated(gates: bool) -> (Vec<f32>, f32, Weights) {
    let mut specs = gate_specs(3, &[('v', 2), ('a', 2)]);
    specs.extend([free("t", &[2, 3]), free("v", &[2, 2]), free("a", &[2, 2])]);
    let rows = |a, b| {
        q(a, b, 4).into_iter().zip([4.0, 4.0, 0.4, 0.4]).map(|(x, by)| x * by).collect::<Vec<f32>>()
    };
    let at = |name: &str| format!("model.bert.MAG.{name}.weight");
    let names = [at("W_hv"), at("W_ha"), at("W_v"), at("W_a")];
    let [gate_v, gate_a, said_v, said_a] = names.each_ref().map(String::as_str);
    let mut values = vec![
        ("t", q(3, 10, 6)),
        ("v", rows(5, 3)),
        ("a", rows(7, 11)),
        (said_v, q(5, 8, 6)),
        (said_a, q(4, 10, 6)),
    ];
    if gates {
        values.extend([(gate_v, q(2, 9, 15)), (gate_a, q(3, 7, 15))]);
    }
    run(specs, &values, &q(9, 4, 6), |cx| {
        let (t, v, a) = (cx.param("t")?, cx.param("v")?, cx.param("a")?);
        moved(cx, t, &[('v', v), ('a', a)], 1.0)
    })
}

#[test]
fn mags_gate() {
    let (y, loss, gradients) = gated(true);
    close("y", &y, &[0.22841379, 1.0944489, -1.32286269, 0.57706782, -1.40630473, 0.82923691]);
    close("loss", &[loss], &[0.1576276632]);
    let want = [-0.60540509, 0.24072539, 0.60526015, 0.40214497, -0.02296349, -0.37620017];
    close("dt", gradients.get("t").unwrap().1, &want);
    close("dv", gradients.get("v").unwrap().1, &[0.22233766, -0.2260193, 0.0, 0.0]);
    let want = [0.02882988, -0.43872416, -0.08239997, -0.17059692];
    close("da", gradients.get("a").unwrap().1, &want);
}

/// Where no gate opens h is 0, whose length has no slope: nothing is moved, and nothing is NaN.
#[test]
fn mags_closed_gates() {
    let (y, _, gradients) = gated(false);
    for (row, t) in y.chunks(3).zip(q(3, 10, 6).chunks(3)) {
        let mean = t.iter().sum::<f32>() / 3.0;
        let spread = (t.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 3.0 + 1e-5).sqrt();
        close("y", row, &t.iter().map(|x| (x - mean) / spread).collect::<Vec<f32>>());
    }
    assert_eq!(gradients.not_finite(), None);
    assert!(gradients.get("v").unwrap().1.iter().all(|g| *g == 0.0));
    assert!(gradients.get("t").unwrap().1.iter().any(|g| *g != 0.0));
}

#[test]
fn contrast_of_two_views() {
    let specs = vec![free("u", &[2, 3]), free("v", &[2, 3])];
    let values = [("u", q(3, 1, 6)), ("v", q(5, 2, 6))];
    let (_, loss, gradients) = run(specs, &values, &[1.0], |cx| {
        let (u, v) = (cx.param("u")?, cx.param("v")?);
        let views = Units::pair(cx.tape, u, v)?;
        contrast::nt_xent(cx.tape, views, 0.5)
    });
    close("loss", &[loss], &[1.9669616279]);
    let want = [0.55388817, -0.46104971, -0.28854889, -0.08464252, 0.3951705, 0.32254602];
    close("du", gradients.get("u").unwrap().1, &want);
    let want = [0.3969124, -0.07687764, 1.06915864, -0.43057806, 0.88226758, 0.06472585];
    close("dv", gradients.get("v").unwrap().1, &want);
}

#[test]
fn contrast_of_predictions() {
    let specs = vec![free("zs", &[3, 2]), free("w", &[2, 3]), free("zt", &[3, 3])];
    let values = [("zs", q(3, 2, 6)), ("w", q(5, 1, 6)), ("zt", q(7, 4, 9))];
    let (_, loss, gradients) = run(specs, &values, &[1.0], |cx| {
        let (zs, w, zt) = (cx.param("zs")?, cx.param("w")?, cx.param("zt")?);
        let predicted = cx.tape.matmul(zs, w)?;
        let (predicted, zt) = (Units::of(cx.tape, predicted)?, Units::of(cx.tape, zt)?);
        contrast::matched(cx.tape, predicted, zt, 0.5)
    });
    close("loss", &[loss], &[1.7920330209]);
    let want = [0.0, 1.88959777, 0.02857948, -0.02857948, 0.36178883, 0.0];
    close("dzs", gradients.get("zs").unwrap().1, &want);
    let want = [0.18041464, 0.73059633, -0.57493613, 0.27685531, -0.59614449, -0.19842459];
    close("dw", gradients.get("w").unwrap().1, &want);
    let want = [
        -0.03168883,
        -0.03941561,
        -0.0260165,
        0.61611835,
        -0.09772378,
        -0.2804472,
        -0.04576006,
        -0.04189899,
        0.38095201,
    ];
    close("dzt", gradients.get("zt").unwrap().1, &want);
}

#[test]
fn contrast_by_sentiment() {
    let values = [("x", q(4, 3, 10))];
    let numbers = [2.0, -1.0, 0.4, -2.2, 0.0];
    let ids = [0, 1, 0, 1, u32::MAX].map(f32::from_bits);
    for (name, labels) in [("signs", numbers), ("classes", ids)] {
        let (_, loss, gradients) = run(vec![free("x", &[5, 2])], &values, &[1.0], |cx| {
            let (x, labels) = (cx.param("x")?, cx.tape.constant(name, &[5], &labels)?);
            let units = Units::of(cx.tape, x)?;
            let signs = name == "signs";
            let of = if signs { Classes::Signs(labels) } else { Classes::Ids(labels) };
            contrast::by_class(cx.tape, units, of, 0.5)
        });
        close(name, &[loss], &[1.4369218411]);
        let want = [
            -0.26697861,
            -0.66744652,
            -0.69496122,
            0.0,
            0.80167993,
            -0.30062998,
            0.07256278,
            -0.03628139,
            0.0,
            0.0,
        ];
        close("dx", gradients.get("x").unwrap().1, &want);
    }
}

#[test]
fn contrast_with_a_guide() {
    let values = [("x", q(2, 7, 18))];
    let (_, loss, gradients) = run(vec![free("x", &[3, 2, 3])], &values, &[1.0], |cx| {
        let x = cx.param("x")?;
        // The mean of the tokens that are there: of the second row the first alone.
        let parts = cx.tape.constant("parts", &[3, 1, 2], &[0.5, 0.5, 1.0, 0.0, 0.5, 0.5])?;
        let mean = cx.tape.bmm(parts, x, Transposed::Neither)?;
        let mean = cx.tape.reshape(mean, &[3, 3])?;
        let guide = cx.tape.constant("guide", &[3, 3], &q(7, 4, 9))?;
        let pairs = Units::pair(cx.tape, mean, guide)?;
        contrast::matched_both_ways(cx.tape, pairs, 0.1)
    });
    close("loss", &[loss], &[1.8353588333]);
    let first = [0.17877874, 0.26552605, 0.24606294];
    let last = [-0.46730158, 1.70601803, 0.82333921];
    let second = [-0.85302296, -0.42671488, -1.06643125, 0.0, 0.0, 0.0];
    let want = [first.as_slice(), &first, &second, &last, &last].concat();
    close("dx", gradients.get("x").unwrap().1, &want);
}

/// One row has nothing to be told apart from: no loss, no slope, nothing that is no number.
#[test]
fn contrast_of_one_row() {
    let specs = vec![free("x", &[1, 3]), free("y", &[1, 3])];
    let values = [("x", q(4, 3, 3)), ("y", q(5, 1, 3))];
    let (each, loss, gradients) = run(specs, &values, &[1.0; 4], |cx| {
        let (x, y) = (cx.param("x")?, cx.param("y")?);
        let (a, b, both) =
            (Units::of(cx.tape, x)?, Units::of(cx.tape, y)?, Units::pair(cx.tape, x, y)?);
        let labels = cx.tape.constant("label", &[1], &[1.5])?;
        let all = [
            contrast::nt_xent(cx.tape, both, 0.1)?,
            contrast::matched(cx.tape, a, b, 0.1)?,
            contrast::matched_both_ways(cx.tape, both, 0.1)?,
            contrast::by_class(cx.tape, a, Classes::Signs(labels), 0.1)?,
        ];
        cx.tape.concat(&all)
    });
    assert_eq!((each.as_slice(), loss), (&[0.0; 4][..], 0.0));
    for name in ["x", "y"] {
        assert_eq!(gradients.get(name).unwrap().1, [0.0; 3], "{name}");
    }
}
