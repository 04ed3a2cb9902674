//! Attention over packed sequences: what it means, and that sequences do not see each other.

use crate::common;
use modalign::gpu::Family;
use modalign::ops::random;
use modalign::plan::{Spaces, Step};
use modalign::{Error, Gpu, Result, Tape, Var};

const HEADS: usize = 2;
const HEAD: usize = 8;
const H: usize = HEADS * HEAD;

fn tokens(lengths: &[usize], rows: usize) -> Vec<u32> {
    let mut list = Vec::new();
    for (sample, length) in lengths.iter().enumerate() {
        list.extend((0..*length).flat_map(|p| [1, p as u32, *length as u32, sample as u32]));
    }
    list.resize(4 * rows, 0);
    list
}

fn bits(words: &[u32]) -> Vec<f32> {
    words.iter().map(|w| f32::from_bits(*w)).collect()
}

/// What comes of an input and of a weighted sum of its result: that result, and the gradient.
fn run(
    gpu: &Gpu,
    shape: [usize; 2],
    x: &[f32],
    weights: &[f32],
    step: u32,
    build: impl Fn(&mut Tape, Var) -> Result<Var>,
) -> (Vec<f32>, Vec<f32>) {
    let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
    let (value, grad) = (spaces.declare("x", x.len()), spaces.declare("d.x", x.len()));
    let var = tape.parameter("x", &shape, (value, 0), Some((grad, 0)));
    let y = build(&mut tape, var).unwrap();
    tape.keep(y);
    let shape = tape.shape(y).to_vec();
    let weights = tape.constant("weights", &shape, weights).unwrap();
    let product = tape.mul(y, weights).unwrap();
    let loss = tape.sum(product).unwrap();
    tape.backward(&[loss]).unwrap();
    let (program, memory) = tape.compile(gpu, &spaces).unwrap();
    memory.write(gpu, value, 0, &x.iter().map(|v| v.to_bits()).collect::<Vec<_>>()).unwrap();
    memory.write_step(gpu, &Step { seed: 3, step, ..Step::default() }).unwrap();
    program.run(gpu, &memory).unwrap();
    let out = program.read(gpu, &memory, y).unwrap();
    (out, memory.read_f32(gpu, grad, 0, x.len()).unwrap())
}

/// Attention of these sequences over rows of queries, keys and values.
fn attend(
    gpu: &Gpu,
    lengths: &[usize],
    rows: usize,
    x: &[f32],
    weights: &[f32],
    (dropout, step): (f32, u32),
) -> (Vec<f32>, Vec<f32>) {
    let ids = bits(&tokens(lengths, rows));
    run(gpu, [rows, 3 * H], x, weights, step, |tape, x| {
        let ids = tape.constant("tokens", &[rows, 4], &ids)?;
        tape.attention(x, ids, HEADS, dropout)
    })
}

/// The formula, in f64, of one sequence.
fn by_hand(x: &[f32]) -> Vec<f32> {
    let rows = x.len() / (3 * H);
    let at = |row: usize, part: usize, h: usize, c: usize| {
        f64::from(x[row * 3 * H + part * H + h * HEAD + c])
    };
    let mut out = Vec::new();
    for i in 0..rows {
        for h in 0..HEADS {
            let score = |j| (0..HEAD).map(|c| at(i, 0, h, c) * at(j, 1, h, c)).sum::<f64>();
            let e: Vec<f64> = (0..rows).map(|j| (score(j) / (HEAD as f64).sqrt()).exp()).collect();
            let total: f64 = e.iter().sum();
            for c in 0..HEAD {
                let sum: f64 = (0..rows).map(|j| e[j] / total * at(j, 2, h, c)).sum();
                out.push(sum as f32);
            }
        }
    }
    out
}

#[test]
fn each_sequence_is_softmax_attention_of_its_own() {
    let (lengths, rows) = ([3_usize, 17, 1, 40], 70);
    let x: Vec<f32> = random(1, rows * 3 * H).iter().map(|v| v * 3.0).collect();
    for family in [Family::Wide(0), Family::Plain, Family::Tiled] {
        let gpu = common::open(Some(family));
        let (out, grad) = attend(&gpu, &lengths, rows, &x, &random(2, rows * H), (0.0, 1));
        let mut first = 0;
        for length in lengths {
            let want = by_hand(&x[first * 3 * H..(first + length) * 3 * H]);
            let got = &out[first * H..(first + length) * H];
            let gap = common::largest_gap(got, &want);
            assert!(gap < 1e-5, "{length} rows from {first}, {family}: {gap}");
            first += length;
        }
        // Rows of no sequence.
        assert!(out[first * H..].iter().all(|v| *v == 0.0), "{family}");
        assert!(grad[first * 3 * H..].iter().all(|v| *v == 0.0), "{family}");
        assert!(grad[..first * 3 * H].iter().all(|v| v.is_finite()), "{family}");
    }
}

#[test]
fn a_sequence_does_not_see_its_neighbours() {
    let gpu = common::gpu();
    let length = 13;
    let (own, weights) = (random(3, length * 3 * H), random(4, length * H));
    let (alone, alone_grad) = attend(gpu, &[length], length, &own, &weights, (0.0, 1));
    for before in [1, 6, 30] {
        let rows = before + length + 5 + 3;
        let mut x: Vec<f32> = random(5, rows * 3 * H).iter().map(|v| v * 1e3).collect();
        let mut w: Vec<f32> = random(6, rows * H).iter().map(|v| v * 1e3).collect();
        x[before * 3 * H..][..own.len()].copy_from_slice(&own);
        w[before * H..][..weights.len()].copy_from_slice(&weights);
        let (out, grad) = attend(gpu, &[before, length, 5], rows, &x, &w, (0.0, 1));
        let gap = common::largest_gap(&out[before * H..][..alone.len()], &alone);
        assert!(gap < 1e-6, "behind {before}: {gap}");
        let gap = common::largest_gap(&grad[before * 3 * H..][..own.len()], &alone_grad);
        assert!(gap < 1e-6, "gradient behind {before}: {gap}");
        assert!(out.iter().chain(&grad).all(|v| v.is_finite()));
    }
}

#[test]
fn scores_far_apart_stay_finite() {
    let gpu = common::gpu();
    let rows = 9;
    let x: Vec<f32> = random(7, rows * 3 * H).iter().map(|v| v * 1e4).collect();
    let (out, grad) = attend(gpu, &[4, 5], rows, &x, &random(8, rows * H), (0.0, 1));
    assert!(out.iter().chain(&grad).all(|v| v.is_finite()));
    // One key takes everything: each result is a row of values.
    for i in 0..rows {
        let own = if i < 4 { 0..4 } else { 4..9 };
        for h in 0..HEADS {
            let got = &out[i * H + h * HEAD..][..HEAD];
            let taken = |j: usize| {
                let v = &x[j * 3 * H + 2 * H + h * HEAD..][..HEAD];
                common::of_largest(got, v) < 1e-5
            };
            assert!(own.clone().any(taken), "row {i}, head {h}");
        }
    }
}

#[test]
fn dropout_keeps_the_mean_and_changes_with_the_step() {
    let gpu = common::gpu();
    // Values of 1, so that a result is the sum of what is left of the probabilities.
    let (lengths, rows) = ([100, 60], 160);
    let mut x = random(9, rows * 3 * H);
    for row in x.chunks_mut(3 * H) {
        row[2 * H..].fill(1.0);
    }
    let weights = random(10, rows * H);
    let at = |p, step| attend(gpu, &lengths, rows, &x, &weights, (p, step));
    let (plain, _) = at(0.0, 1);
    assert!(plain.iter().all(|v| (v - 1.0).abs() < 1e-5));
    let (one, one_grad) = at(0.2, 1);
    let (again, again_grad) = at(0.2, 1);
    let (other, _) = at(0.2, 2);
    assert_eq!((&one, &one_grad), (&again, &again_grad));
    assert_ne!(one, other);
    let mean = one.iter().map(|v| f64::from(*v)).sum::<f64>() / one.len() as f64;
    assert!((mean - 1.0).abs() < 0.02, "{mean}");
    // No two rows, nor two heads of a row, have the same keys left.
    assert!(one.chunks(H).all(|row| (row[0] - row[HEAD]).abs() > 1e-7));
    assert!(one.windows(H + 1).step_by(H).all(|w| w[0] != w[H]));
}

#[test]
fn the_first_queries_alone_are_rows_of_the_whole() {
    let (lengths, rows) = ([3_usize, 17, 1, 4], 28);
    let samples = lengths.len() + 1;
    let firsts = [0, 3, 20, 21];
    let x = random(11, rows * 3 * H);
    // Only the first rows' results are asked for.
    let mut weights = vec![0.0; rows * H];
    for (first, w) in firsts.iter().zip(random(12, samples * H).chunks(H)) {
        weights[first * H..][..H].copy_from_slice(w);
    }
    let q: Vec<f32> =
        firsts.iter().flat_map(|f| x[f * 3 * H..][..H].to_vec()).chain(vec![1.0; H]).collect();
    let kv: Vec<f32> = x.chunks(3 * H).flat_map(|row| row[H..].to_vec()).collect();
    let ids = bits(&tokens(&lengths, rows));
    let spans: Vec<u32> =
        firsts.iter().zip(lengths).flat_map(|(f, l)| [*f as u32, l as u32]).chain([0, 0]).collect();
    let spans = bits(&spans);
    for family in [Family::Wide(0), Family::Plain, Family::Tiled] {
        let gpu = &common::open(Some(family));
        let (whole, whole_grad) = attend(gpu, &lengths, rows, &x, &weights, (0.0, 1));
        let first = |tape: &mut Tape, q, kv| {
            let ids = tape.constant("tokens", &[rows, 4], &ids)?;
            let spans = tape.constant("spans", &[samples, 2], &spans)?;
            tape.attention_first(q, kv, ids, spans, HEADS, 0.0)
        };
        // Each side alone: the other is a constant, and its gradient is not computed.
        let wanted = random(12, samples * H);
        let (out, dq) = run(gpu, [samples, H], &q, &wanted, 1, |tape, q| {
            let kv = tape.constant("kv", &[rows, 2 * H], &kv)?;
            first(tape, q, kv)
        });
        let (again, dkv) = run(gpu, [rows, 2 * H], &kv, &wanted, 1, |tape, kv| {
            let q = tape.constant("q", &[samples, H], &q)?;
            first(tape, q, kv)
        });
        assert_eq!(out, again);
        for (sample, at) in firsts.into_iter().enumerate() {
            let gap = |got: &[f32], want: &[f32]| {
                let gap = common::largest_gap(got, want);
                assert!(gap < 1e-6, "sample {sample}, {family}: {gap}");
            };
            gap(&out[sample * H..][..H], &whole[at * H..][..H]);
            gap(&dq[sample * H..][..H], &whole_grad[at * 3 * H..][..H]);
        }
        let want: Vec<f32> = whole_grad.chunks(3 * H).flat_map(|row| row[H..].to_vec()).collect();
        let gap = common::largest_gap(&dkv, &want);
        assert!(gap < 1e-6, "keys and values, {family}: {gap}");
        assert!(dkv.iter().any(|v| *v != 0.0));
        // A sample without rows.
        assert!(out[firsts.len() * H..].iter().chain(&dq[firsts.len() * H..]).all(|v| *v == 0.0));
    }
}

#[test]
fn only_a_gradient_asks_for_what_it_needs() {
    for (learns, dispatches) in [(false, 1), (true, 3)] {
        let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
        let (value, grad) = (spaces.declare("x", 64 * 3), spaces.declare("d.x", 64 * 3));
        let x = tape.parameter("x", &[4, 12], (value, 0), learns.then_some((grad, 0)));
        let ids = tape.constant("tokens", &[4, 4], &bits(&tokens(&[4], 4))).unwrap();
        let y = tape.attention(x, ids, 1, 0.0).unwrap();
        let loss = tape.sum(y).unwrap();
        tape.backward(&[loss]).unwrap();
        let calls = tape.recording().calls();
        let ours: Vec<_> =
            calls.iter().filter(|c| c.kernel.name.starts_with("attention")).collect();
        assert_eq!(ours.len(), dispatches);
        let lse = ours[0].kernel.bindings.iter().position(|b| b.name == "LSE").expect("there");
        assert_eq!(ours[0].args[lse].is_some(), learns, "LSE");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut spaces = Spaces::new();
    let mut shaped = |tape: &mut Tape, shape: &[usize]| {
        let space = spaces.declare("x", shape.iter().product());
        tape.input("x", shape, space, 0)
    };
    // Not three parts, heads that do not divide, a head of 6, one of 132, tokens of other rows.
    let table: [([usize; 2], [usize; 2], usize); 6] = [
        ([4, 25], [4, 4], 1),
        ([4, 24], [4, 4], 3),
        ([4, 36], [4, 4], 2),
        ([4, 396], [4, 4], 1),
        ([4, 24], [5, 4], 2),
        ([4, 24], [4, 4], 0),
    ];
    for (qkv, ids, heads) in table {
        let mut tape = Tape::new();
        let (x, t) = (shaped(&mut tape, &qkv), shaped(&mut tape, &ids));
        let error = tape.attention(x, t, heads, 0.0).expect_err("a shape");
        let Error::Shape { op, detail } = &error else { panic!("{error}") };
        assert_eq!(*op, "attention");
        for part in [format!("{qkv:?}"), format!("{ids:?}"), format!("{heads} heads")] {
            assert!(detail.contains(&part), "{detail}");
        }
        assert!(tape.is_empty());
    }
    let mut tape = Tape::new();
    let [q, kv, t, s] = [[2, 8], [4, 16], [4, 4], [3, 2]].map(|x| shaped(&mut tape, &x));
    let error = tape.attention_first(q, kv, t, s, 2, 0.0).expect_err("three spans");
    assert!(error.to_string().contains("[3, 2]"), "{error}");
    for p in [-0.1, 1.0, f32::NAN] {
        let x = shaped(&mut tape, &[4, 24]);
        assert!(tape.attention(x, t, 2, p).is_err(), "dropout of {p}");
    }
    assert!(tape.is_empty());
}
