//! Blocks of a transformer against torch's own modules (`tests/fixtures/golden_transformer.py`), packed sequences
//! against padded ones, and dropout.

use crate::common::{self, TensorFile, gpu, of_largest};
use modalign::nn::transformer::{
    AttentionBlock, FeedForwardBlock, NormAt, Residual, Sequences, feed_forward,
};
use modalign::nn::{Group, ParamSpec, Params, Weights, linear_specs};
use modalign::ops::Act;
use modalign::plan::{Spaces, Step};
use modalign::{Error, Result, Tape, Var};
use std::path::Path;

fn residual(name: &str, norm: NormAt, eps: f32) -> Residual {
    Residual { name: name.into(), width: 8, norm, eps, dropout: 0.0, group: "all".into() }
}

fn two_layers(norm: NormAt, eps: f32, inner: usize) -> FeedForwardBlock {
    FeedForwardBlock { residual: residual("f", norm, eps), inner, act: Act::Gelu, dropout: 0.0 }
}

fn to_itself(norm: NormAt, eps: f32, head: usize, bias: bool) -> AttentionBlock {
    let residual = residual("a", norm, eps);
    AttentionBlock { residual, asks: None, heads: 2, head, bias, dropout: 0.0 }
}

fn to_another(asks: usize) -> AttentionBlock {
    let residual = residual("c", NormAt::Behind, 1e-5);
    AttentionBlock { residual, asks: Some(asks), heads: 2, head: 4, bias: true, dropout: 0.0 }
}

/// A recording with its parameters.
struct Made {
    outputs: Vec<Vec<f32>>,
    inputs: Vec<Vec<f32>>,
    gradients: Weights,
}

/// What `build` makes of inputs that have gradients, by the loss that weighs its first result by `w`.
fn run(
    specs: Vec<ParamSpec>,
    values: &Weights,
    inputs: &[(&[usize], Vec<f32>)],
    w: Option<&[f32]>,
    build: impl Fn(&mut Tape, &Params, &[Var]) -> Result<Vec<Var>>,
) -> Result<Made> {
    let (gpu, mut spaces, mut tape) = (gpu(), Spaces::new(), Tape::new());
    let groups = [Group::adam("all", 1e-3)];
    let params = Params::new(specs, &groups, &mut spaces, gpu.caps().max_binding, true)?;
    params.check(values, Path::new("fixture"))?;
    let places: Vec<_> =
        inputs.iter().map(|(_, v)| [(); 2].map(|()| spaces.declare("input", v.len()))).collect();
    let vars: Vec<Var> = inputs
        .iter()
        .zip(&places)
        .map(|((shape, _), [value, grad])| {
            tape.parameter("x", shape, (*value, 0), Some((*grad, 0)))
        })
        .collect();
    let outputs = build(&mut tape, &params, &vars)?;
    outputs.iter().for_each(|v| tape.keep(*v));
    let y = outputs[0];
    let (shape, len) = (tape.shape(y).to_vec(), tape.len(y));
    let ones = vec![1.0; len];
    let w = tape.constant("w", &shape, w.unwrap_or(&ones))?;
    let weighed = tape.mul(y, w)?;
    let loss = tape.sum(weighed)?;
    tape.backward(&[loss])?;
    let (program, memory) = tape.compile(gpu, &spaces)?;
    params.upload(gpu, &memory, values)?;
    for ((_, v), [place, _]) in inputs.iter().zip(&places) {
        memory.write(gpu, *place, 0, &v.iter().map(|v| v.to_bits()).collect::<Vec<_>>())?;
    }
    memory.write_step(gpu, &Step { seed: 3, step: 1, ..Step::default() })?;
    program.run(gpu, &memory)?;
    let read = |v: &Var| program.read(gpu, &memory, *v);
    let of = |(i, [_, grad]): (usize, &[_; 2])| memory.read_f32(gpu, *grad, 0, inputs[i].1.len());
    Ok(Made {
        outputs: outputs.iter().map(read).collect::<Result<_>>()?,
        inputs: places.iter().enumerate().map(of).collect::<Result<_>>()?,
        gradients: params.gradients(gpu, &memory)?,
    })
}

fn words(values: &[i32]) -> Vec<f32> {
    values.iter().map(|v| f32::from_bits(*v as u32)).collect()
}

/// One case of the fixture, with the lengths of keys on the tape.
fn check(
    case: &str,
    specs: Vec<ParamSpec>,
    build: impl Fn(&mut Tape, &Params, &[Var], Option<Var>) -> Result<Var>,
) {
    let file = TensorFile::fixture("transformer.safetensors");
    let of = |name: &str| file.f32(&format!("{case}.{name}"));
    let lengths = format!("{case}.lengths");
    let lengths = file.tensors.contains_key(&lengths).then(|| words(&file.i32(&lengths)));
    let names: Vec<&str> = ["x", "other"]
        .into_iter()
        .filter(|name| file.tensors.contains_key(&format!("{case}.{name}")))
        .collect();
    let inputs: Vec<(&[usize], Vec<f32>)> =
        names.iter().map(|name| (file.shape(&format!("{case}.{name}")), of(name))).collect();
    let values = file.weights(&format!("{case}.init."));
    let made = run(specs, &values, &inputs, Some(&of("w")), |tape, params, vars| {
        let lengths = lengths.as_ref().map(|l| tape.constant("lengths", &[l.len()], l));
        Ok(vec![build(tape, params, vars, lengths.transpose()?)?])
    })
    .expect(case);
    let close = |what: &str, got: &[f32], want: &[f32], allowed: f64| {
        assert_eq!(got.len(), want.len(), "{case}: {what}");
        let off = of_largest(got, want);
        assert!(off <= allowed, "{case}: {what} is off by {off:e} of the largest");
    };
    close("y", &made.outputs[0], &of("y"), 2e-6);
    for (name, got) in names.iter().zip(&made.inputs) {
        close(&format!("gradient of {name}"), got, &of(&format!("d{name}")), 1e-5);
    }
    let wanted = file.under(&format!("{case}.grad."));
    assert_eq!(made.gradients.iter().count(), wanted.len(), "{case}: as many gradients");
    let largest = wanted
        .iter()
        .flat_map(|name| of(&format!("grad.{name}")))
        .fold(0.0, |most: f32, v| most.max(v.abs()));
    for name in wanted {
        let got = made.gradients.get(&name).expect("a gradient").1;
        if name.ends_with("key.bias") {
            // A softmax does not see it: what is there is rounding.
            assert!(got.iter().all(|v| v.abs() <= 1e-6 * largest), "{case}: {name} {got:?}");
        } else {
            close(&name, got, &of(&format!("grad.{name}")), 1e-5);
        }
    }
}

#[test]
fn norms_behind_are_torchs_encoder_layer() {
    let (a, f) = (to_itself(NormAt::Behind, 1e-12, 4, true), two_layers(NormAt::Behind, 1e-12, 12));
    check("behind", [a.specs(), f.specs()].concat(), |tape, params, vars, lengths| {
        let x = a.record(tape, params, (vars[0], Sequences::Padded(lengths)), None, true)?;
        f.record(tape, params, x, true)
    });
}

#[test]
fn another_sequence_is_asked_as_torchs_attention_asks() {
    let c = to_another(6);
    check("across", c.specs(), |tape, params, vars, lengths| {
        let lie = Sequences::Padded(None);
        c.record(tape, params, (vars[0], lie), Some((vars[1], lengths)), true)
    });
}

#[test]
fn norms_before_with_wide_heads_are_the_formula() {
    let (a, f) = (to_itself(NormAt::Before, 1e-5, 12, false), two_layers(NormAt::Before, 1e-5, 10));
    check("before", [a.specs(), f.specs()].concat(), |tape, params, vars, lengths| {
        let x = a.record(tape, params, (vars[0], Sequences::Padded(lengths)), None, true)?;
        f.record(tape, params, x, true)
    });
}

/// Weights of these specs, drawn.
fn drawn(specs: &[ParamSpec]) -> Weights {
    let mut all = Weights::default();
    for (i, spec) in specs.iter().enumerate() {
        let values = modalign::ops::random(70 + i as u64, spec.len());
        all.insert(&spec.name, spec.shape.clone(), values);
    }
    all
}

#[test]
fn packed_sequences_are_the_padded_ones() {
    let (lengths, steps): ([usize; 2], usize) = ([5, 2], 5);
    let (a, c) = (to_itself(NormAt::Behind, 1e-5, 4, true), to_another(8));
    let f = two_layers(NormAt::Behind, 1e-5, 12);
    let specs = [a.specs(), c.specs(), f.specs()].concat();
    let values = drawn(&specs);
    let rows: usize = lengths.iter().sum::<usize>().next_multiple_of(16);
    let (mut tokens, mut spans, mut first) = (Vec::new(), Vec::new(), 0);
    for (sample, n) in lengths.into_iter().enumerate() {
        tokens.extend((0..n).flat_map(|at| [1, at as i32, n as i32, sample as i32]));
        spans.extend([first as i32, n as i32]);
        first += n;
    }
    tokens.resize(4 * rows, 0);
    let x = modalign::ops::random(5, 2 * steps * 8);
    let other = modalign::ops::random(6, 2 * 3 * 8);
    let mut packed = vec![0.0; rows * 8];
    let mut at = 0;
    for (sample, n) in lengths.into_iter().enumerate() {
        let own = &x[sample * steps * 8..][..n * 8];
        packed[at..at + own.len()].copy_from_slice(own);
        at += own.len();
    }
    // A gradient of what is there in both.
    let weighed: Vec<f32> = (0..2 * steps * 8)
        .map(|i| if i / 8 % steps < lengths[i / 8 / steps] { (i % 7) as f32 - 3.0 } else { 0.0 })
        .collect();
    let blocks = |tape: &mut Tape, params: &Params, x: Var, lie: Sequences, other: Var| {
        let x = a.record(tape, params, (x, lie), None, true)?;
        let x = c.record(tape, params, (x, lie), Some((other, None)), true)?;
        f.record(tape, params, x, true)
    };
    let inputs = [(&[2, steps, 8][..], x), (&[2, 3, 8][..], other.clone())];
    let padded = run(specs.clone(), &values, &inputs, Some(&weighed), |tape, params, vars| {
        let n = tape.constant("lengths", &[2], &words(&lengths.map(|n| n as i32)))?;
        let lie = Sequences::Padded(Some(n));
        Ok(vec![blocks(tape, params, vars[0], lie, vars[1])?])
    })
    .expect("padded");
    let inputs = [(&[rows, 8][..], packed), (&[2, 3, 8][..], other)];
    let packed = run(specs, &values, &inputs, Some(&weighed), |tape, params, vars| {
        let tokens = tape.constant("tokens", &[rows, 4], &words(&tokens))?;
        let spans = tape.constant("spans", &[2, 2], &words(&spans))?;
        let lie = Sequences::Packed { tokens, spans, steps };
        let y = blocks(tape, params, vars[0], lie, vars[1])?;
        Ok(vec![tape.unpack(y, tokens, spans, steps)?])
    })
    .expect("packed");
    let there = |values: &[f32]| -> Vec<f32> {
        values.iter().zip(&weighed).map(|(v, w)| if *w == 0.0 { 0.0 } else { *v }).collect()
    };
    let off = of_largest(&there(&packed.outputs[0]), &there(&padded.outputs[0]));
    assert!(off <= 2e-6, "{off:e}");
    assert!(of_largest(&packed.inputs[1], &padded.inputs[1]) <= 1e-5);
    for (name, _, got) in packed.gradients.iter() {
        let want = padded.gradients.get(name).expect("the same").1;
        if !name.ends_with("key.bias") {
            assert!(of_largest(got, want) <= 1e-5, "{name}");
        }
    }
}

#[test]
fn dropout_is_of_training_alone() {
    let a = to_itself(NormAt::Behind, 1e-5, 4, true);
    let f = two_layers(NormAt::Before, 1e-5, 12);
    let drops: [fn(&mut AttentionBlock, &mut FeedForwardBlock); 4] = [
        |a, _| a.dropout = 0.5,
        |a, _| a.residual.dropout = 0.5,
        |_, f| f.dropout = 0.5,
        |_, f| f.residual.dropout = 0.5,
    ];
    let specs = [a.specs(), f.specs()].concat();
    let (values, x) = (drawn(&specs), modalign::ops::random(5, 80));
    let made = |a: &AttentionBlock, f: &FeedForwardBlock, train: bool| {
        let inputs = [(&[2, 5, 8][..], x.clone())];
        let made = run(specs.clone(), &values, &inputs, None, |tape, params, vars| {
            let lie = Sequences::Padded(None);
            let x = a.record(tape, params, (vars[0], lie), None, train)?;
            Ok(vec![f.record(tape, params, x, train)?])
        });
        made.expect("a recording").outputs.remove(0)
    };
    let want = common::bits_of(&[made(&a, &f, true)]);
    for (i, drop) in drops.into_iter().enumerate() {
        let (mut a, mut f) = (a.clone(), f.clone());
        drop(&mut a, &mut f);
        assert_eq!(common::bits_of(&[made(&a, &f, false)]), want, "{i}");
        assert_ne!(common::bits_of(&[made(&a, &f, true)]), want, "{i}");
    }
}

#[test]
fn what_a_block_is_not_made_for_is_refused() {
    let said = |result: Result<Made>| match result {
        Err(Error::Shape { op, detail }) => format!("{op}: {detail}"),
        _ => panic!("it was taken"),
    };
    let inputs = [(&[2, 5, 8][..], vec![0.0; 80])];
    let try_with = |block: AttentionBlock, other: bool| {
        let specs = block.specs();
        let values = drawn(&specs);
        run(specs, &values, &inputs, None, |tape, params, vars| {
            let other = other.then_some((vars[0], None));
            Ok(vec![block.record(tape, params, (vars[0], Sequences::Padded(None)), other, true)?])
        })
    };
    let why = said(try_with(to_itself(NormAt::Behind, 1e-5, 4, true), true));
    assert!(why.contains("'a' asks itself, and is given another sequence"), "{why}");
    let why = said(try_with(to_another(8), false));
    assert!(why.contains("'c' asks another sequence, and is given none"), "{why}");
    let specs =
        [linear_specs("one", (8, 8, 6), true, "all"), linear_specs("two", (6, 6, 8), true, "all")];
    let specs = specs.concat();
    let values = drawn(&specs);
    let why = said(run(specs, &values, &inputs, None, |tape, params, vars| {
        Ok(vec![feed_forward(tape, params, ["one", "two"], vars[0], (Act::Tanh, 0.0))?])
    }));
    assert!(why.contains("under ReLU or GELU"), "{why}");
}
