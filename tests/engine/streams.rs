//! Operations on streams of time steps, rows and segments: figures of independent implementations,
//! formulas by hand, and what is refused.
//!
//! Golden figures are float64 results of the released modules (MulT's encoder, PyTorch's BatchNorm1d)
//! on inputs from one formula, [`q`].

#![allow(clippy::excessive_precision, reason = "figures stand as the reference has them")]

use modalign::ops::attention::Asking;
use modalign::ops::batch_norm::BatchNorm;
use modalign::ops::conv::Conv1d;
use modalign::ops::masked::Keep;
use modalign::ops::positions::Sinusoid;
use modalign::ops::{Act, random};
use modalign::plan::{HostMemory, SpaceId, Spaces, Step, interpret};
use modalign::{Error, Result, Tape, Var};

/// Element k of an input is (((a k² + b k + 3) mod 17) − 8) / 10.
fn q(a: usize, b: usize, len: usize) -> Vec<f32> {
    (0..len).map(|k| (((a * k * k + b * k + 3) % 17) as f32 - 8.0) / 10.0).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// A tape, the memory it will run in, and where inputs have their gradients.
struct Bench {
    tape: Tape,
    spaces: Spaces,
    fill: Vec<(SpaceId, Vec<u32>)>,
}

impl Bench {
    fn new() -> Self {
        Bench { tape: Tape::new(), spaces: Spaces::new(), fill: Vec::new() }
    }

    fn space(&mut self, values: Vec<u32>) -> SpaceId {
        let space = self.spaces.declare("space", values.len());
        self.fill.push((space, values));
        space
    }

    /// An input with a gradient, and the space of that.
    fn learns(&mut self, shape: &[usize], values: &[f32]) -> (Var, SpaceId) {
        let value = self.space(bits(values));
        let grad = self.space(vec![0; values.len()]);
        (self.tape.parameter("x", shape, (value, 0), Some((grad, 0))), grad)
    }

    fn given(&mut self, shape: &[usize], values: &[f32]) -> Var {
        self.tape.constant("given", shape, values).unwrap()
    }

    fn words(&mut self, list: &[u32]) -> Var {
        let values: Vec<f32> = list.iter().map(|w| f32::from_bits(*w)).collect();
        self.given(&[list.len()], &values)
    }

    /// Appends the gradient of Σ weight · y; the loss.
    fn backward(&mut self, y: Var, weight: &[f32]) -> Var {
        let shape = self.tape.shape(y).to_vec();
        let weight = self.given(&shape, weight);
        let product = self.tape.mul(y, weight).unwrap();
        let loss = self.tape.sum(product).unwrap();
        self.tape.backward(&[loss]).unwrap();
        loss
    }

    fn run(&self) -> HostMemory {
        let mut memory = HostMemory::new(&self.spaces);
        for (space, values) in &self.fill {
            memory.write(*space, 0, values).unwrap();
        }
        interpret(self.tape.recording(), &Step::default(), &mut memory).unwrap();
        memory
    }

    fn read(&self, memory: &HostMemory, var: Var) -> Vec<f32> {
        memory.read(self.tape.recording(), var).unwrap()
    }
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 2e-5 * (1.0 + w.abs()), "{what}[{i}] is {g}, want {w}");
    }
}

/// One layer of MulT's encoder between two sequences, without biases.
fn mult_layer(bench: &mut Bench, xq: Var, xkv: Var, positions: bool) -> Result<Var> {
    let in_proj = q(2, 3, 48);
    let [wq, wkv] =
        [(4, &in_proj[..16]), (8, &in_proj[16..])].map(|(n, w)| bench.given(&[n, 4], w));
    let [out, fc1, fc2] = [([4, 4], q(3, 6, 16)), ([16, 4], q(5, 1, 64)), ([4, 16], q(7, 3, 64))]
        .map(|(shape, w)| bench.given(&shape, &w));
    let gb = bench.given(&[2, 4], &[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    let t = &mut bench.tape;
    let place = |t: &mut Tape, x| match positions {
        true => t.sinusoid(x, Sinusoid::HalvesPadded, 2.0),
        false => t.scale(x, 2.0),
    };
    let (x, kv) = (place(t, xq)?, place(t, xkv)?);
    let (nx, nkv) = (t.layer_norm(x, gb, 1e-5)?, t.layer_norm(kv, gb, 1e-5)?);
    let (query, key_value) =
        (t.linear(nx, wq, None, Act::None)?, t.linear(nkv, wkv, None, Act::None)?);
    let ahead = Some(t.shape(xq)[1].abs_diff(t.shape(xkv)[1]));
    let how = Asking { heads: 2, ahead, ..Asking::default() };
    let attended = t.cross_attention(query, key_value, how)?;
    let attended = t.linear(attended, out, None, Act::None)?;
    let x = t.add(x, attended)?;
    let h = t.layer_norm(x, gb, 1e-5)?;
    let h = t.linear(h, fc1, None, Act::Relu)?;
    let h = t.linear(h, fc2, None, Act::None)?;
    let x = t.add(x, h)?;
    t.layer_norm(x, gb, 1e-5)
}

#[test]
fn a_layer_of_mult_is_the_released_one() {
    let mut bench = Bench::new();
    let (xq, dxq) = bench.learns(&[1, 2, 4], &q(3, 2, 8));
    let (xkv, dxkv) = bench.learns(&[1, 3, 4], &q(5, 7, 12));
    let y = mult_layer(&mut bench, xq, xkv, false).unwrap();
    let placed = mult_layer(&mut bench, xq, xkv, true).unwrap();
    let loss = bench.backward(y, &q(4, 6, 8));
    let memory = bench.run();
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
    close("y", &bench.read(&memory, y), &want);
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
    close("y with positions", &bench.read(&memory, placed), &want);
    close("loss", &bench.read(&memory, loss), &[-0.0663606703]);
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
    close("d xq", memory.space(dxq).unwrap(), &want);
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
    close("d xkv", memory.space(dxkv).unwrap(), &want);
}

#[test]
fn batch_norm_over_time_is_pytorchs() {
    let mut bench = Bench::new();
    let (x, dx) = bench.learns(&[2, 2, 3], &q(3, 2, 12));
    let state = bench.space(bits(&BatchNorm::running_start(2)));
    let running = bench.tape.input("running", &[2, 2], state, 0);
    let how = BatchNorm { running: Some(running), ..BatchNorm::over(1) };
    let y = bench.tape.batch_norm(x, how, true).unwrap();
    let loss = bench.backward(y, &q(5, 4, 12));
    let memory = bench.run();
    let want = [
        -0.90477257,
        0.6918849,
        -1.22410406,
        -0.83403953,
        0.41701976,
        -0.62552964,
        -0.58544107,
        1.64987939,
        0.37255341,
        0.62552964,
        -1.25105929,
        1.66807905,
    ];
    close("y", &bench.read(&memory, y), &want);
    close("running", &memory.space(state).unwrap()[..4], &[-0.02166667, -0.02, 0.91176667, 0.9276]);
    close("loss", &bench.read(&memory, loss), &[-1.904951002]);
    let want = [
        -1.81014273,
        1.15881633,
        1.68350859,
        -0.6934994,
        1.12866175,
        0.06196554,
        -1.79114761,
        -1.33885027,
        2.09781569,
        -1.24352153,
        0.50619919,
        0.24019445,
    ];
    close("dx", memory.space(dx).unwrap(), &want);
}

#[test]
fn a_checkpoint_moves_running_statistics_once() {
    let running_after = |checkpoint: bool| {
        let mut bench = Bench::new();
        let (x, _) = bench.learns(&[4, 3], &random(1, 12));
        let state = bench.space(bits(&BatchNorm::running_start(3)));
        let running = bench.tape.input("running", &[2, 3], state, 0);
        let how = BatchNorm { running: Some(running), momentum: 0.5, ..BatchNorm::over(1) };
        let y = match checkpoint {
            true => bench.tape.checkpoint(x, move |t, x| t.batch_norm(x, how, true)).unwrap(),
            false => bench.tape.batch_norm(x, how, true).unwrap(),
        };
        bench.backward(y, &random(2, 12));
        bench.run().space(state).unwrap()[..6].to_vec()
    };
    assert_eq!(running_after(true), running_after(false));
    assert_ne!(running_after(true), BatchNorm::running_start(3));
}

#[test]
fn evaluation_takes_running_statistics_and_leaves_them() {
    let mut bench = Bench::new();
    let x = bench.given(&[1, 2], &[3.0, -1.0]);
    let state = bench.space(bits(&[1.0, 1.0, 4.0, 0.25]));
    let running = bench.tape.input("running", &[2, 2], state, 0);
    let gb = bench.given(&[2, 2], &[2.0, 1.0, 0.5, 0.0]);
    let how = BatchNorm { gb: Some(gb), running: Some(running), eps: 1e-12, ..BatchNorm::over(1) };
    let y = bench.tape.batch_norm(x, how, false).unwrap();
    let memory = bench.run();
    close("y", &bench.read(&memory, y), &[2.5, -4.0]);
    assert_eq!(memory.space(state).unwrap()[..4], [1.0, 1.0, 4.0, 0.25]);
}

#[test]
fn conv1d_is_its_formula() {
    let (batch, steps, c_in, c_out, taps) = (2, 11, 3, 4, 3);
    let (x, w, b) =
        (random(1, batch * steps * c_in), random(2, c_out * c_in * taps), random(3, c_out));
    for (stride, padding, dilation) in [(1, 0, 1), (2, 3, 2), (3, 1, 4)] {
        let how = Conv1d { stride, padding, dilation };
        let mut bench = Bench::new();
        let vx = bench.given(&[batch, steps, c_in], &x);
        let (vw, vb) = (bench.given(&[c_out, c_in, taps], &w), bench.given(&[c_out], &b));
        let y = bench.tape.conv1d(vx, vw, Some(vb), how).unwrap();
        let out_steps = (steps + 2 * padding - dilation * (taps - 1) - 1) / stride + 1;
        assert_eq!(bench.tape.shape(y), [batch, out_steps, c_out]);
        let mut want = Vec::new();
        for (n, i, o) in (0..batch * out_steps * c_out)
            .map(|at| (at / c_out / out_steps, at / c_out % out_steps, at % c_out))
        {
            let mut sum = b[o];
            for (c, j) in (0..c_in).flat_map(|c| (0..taps).map(move |j| (c, j))) {
                let step = (i * stride + j * dilation) as isize - padding as isize;
                if (0..steps as isize).contains(&step) {
                    let at = (n * steps + step as usize) * c_in + c;
                    sum += w[(o * c_in + c) * taps + j] * x[at];
                }
            }
            want.push(sum);
        }
        let memory = bench.run();
        close("y", &bench.read(&memory, y), &want);
    }
}

#[test]
fn rows_are_sorted_in_as_many_passes_as_it_takes() {
    for (len, passes) in [(1, 1), (256, 1), (257, 2), (4096, 2), (5000, 3)] {
        let ids: Vec<u32> = (0..len).map(|i| (i * i * 31 + i) % 97).collect();
        let mut bench = Bench::new();
        let var = bench.words(&ids);
        let rows = bench.tape.sort_rows(var).unwrap();
        assert_eq!(bench.tape.recording().calls().len(), passes, "{len}");
        let memory = bench.run();
        let order = bits(&bench.read(&memory, rows.order.unwrap()));
        let mut want: Vec<u32> = (0..len).collect();
        want.sort_by_key(|i| ids[*i as usize]);
        assert_eq!(order, want, "{len}");
    }
}

#[test]
fn rows_come_and_go_by_number() {
    let mut bench = Bench::new();
    let x = bench.given(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    // The last number is no row.
    let ids = bench.words(&[2, 0, 2, 7]);
    let ids = bench.tape.reshape(ids, &[2, 2]).unwrap();
    let taken = bench.tape.gather(x, ids).unwrap();
    assert_eq!(bench.tape.shape(taken), [2, 2, 2]);
    let back = bench.tape.scatter(taken, ids, 4).unwrap();
    let base = bench.given(&[4, 2], &[10.0; 8]);
    let added = bench.tape.scatter_add(base, taken, ids).unwrap();
    let memory = bench.run();
    close("taken", &bench.read(&memory, taken), &[5.0, 6.0, 1.0, 2.0, 5.0, 6.0, 5.0, 6.0]);
    let want = [1.0, 2.0, 0.0, 0.0, 10.0, 12.0, 5.0, 6.0];
    close("back", &bench.read(&memory, back), &want);
    close("added", &bench.read(&memory, added), &want.map(|v| v + 10.0));
}

#[test]
fn segments_by_hand() {
    let mut bench = Bench::new();
    let x = bench.given(&[4, 1], &[1.0, 3.0, -2.0, -4.0]);
    let offsets = bench.tape.segments("offsets", &[0, 2, 2, 4], 4).unwrap();
    let t = &mut bench.tape;
    let sum = t.segment_sum(x, offsets).unwrap();
    let mean = t.segment_mean(x, offsets).unwrap();
    let max = t.segment_max(x, offsets).unwrap();
    let softmax = t.segment_softmax(x, offsets).unwrap();
    let memory = bench.run();
    close("sum", &bench.read(&memory, sum), &[4.0, 0.0, -6.0]);
    close("mean", &bench.read(&memory, mean), &[2.0, 0.0, -3.0]);
    close("max", &bench.read(&memory, max), &[3.0, 0.0, -2.0]);
    let share = |d: f32| 1.0 / (1.0 + d.exp());
    let want = [share(2.0), share(-2.0), share(-2.0), share(2.0)];
    close("softmax", &bench.read(&memory, softmax), &want);
}

#[test]
fn masked_rows_by_hand() {
    let mut bench = Bench::new();
    let x = bench.given(&[2, 3], &[0.0, 1.0, f32::NAN, 5.0, 5.0, 5.0]);
    let lengths = bench.words(&[2, 0]);
    let by_length = bench.tape.masked_softmax(x, Keep::Lengths(lengths)).unwrap();
    let mask = bench.given(&[1, 3], &[0.0, 1.0, 0.0]);
    let by_mask = bench.tape.masked_softmax(x, Keep::Mask(mask)).unwrap();
    let memory = bench.run();
    let one = 1.0 / (1.0 + 1.0_f32.exp());
    close("lengths", &bench.read(&memory, by_length), &[one, 1.0 - one, 0.0, 0.0, 0.0, 0.0]);
    close("mask", &bench.read(&memory, by_mask), &[0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn sinusoids_are_the_published_ones() {
    let table = Sinusoid::Halves.table(2, 4);
    let want = [0.84147098, 0.0001, 0.54030231, 1.0, 0.90929743, 0.0002, -0.41614684, 0.99999998];
    close("halves", &table, &want);
    assert_eq!(Sinusoid::HalvesPadded.table(2, 4), table);
    assert_eq!(Sinusoid::Halves.table(1, 5)[4], 0.0);
    let (sin, cos) = (f32::sin, f32::cos);
    let want = [0.0, 1.0, 0.0, 1.0, sin(1.0), cos(1.0), sin(0.01), cos(0.01)];
    close("interleaved", &Sinusoid::Interleaved.table(2, 4), &want);
}

#[test]
fn what_does_not_fit_is_refused() {
    type Build = Box<dyn Fn(&mut Tape, &[Var]) -> Result<Var>>;
    let heads = |heads| Asking { heads, ..Asking::default() };
    let table: Vec<(&str, Vec<&[usize]>, Build)> = vec![
        (
            "masked_softmax",
            vec![&[4, 3], &[3]],
            Box::new(|t, v| t.masked_softmax(v[0], Keep::Lengths(v[1]))),
        ),
        (
            "masked_softmax",
            vec![&[4, 3], &[2, 4]],
            Box::new(|t, v| t.masked_softmax(v[0], Keep::Mask(v[1]))),
        ),
        (
            "cross_attention",
            vec![&[2, 3, 8], &[2, 5, 8]],
            Box::new(move |t, v| t.cross_attention(v[0], v[1], heads(2))),
        ),
        (
            "cross_attention",
            vec![&[2, 3, 8], &[3, 5, 16]],
            Box::new(move |t, v| t.cross_attention(v[0], v[1], heads(2))),
        ),
        (
            "cross_attention",
            vec![&[2, 3, 8], &[2, 5, 16]],
            Box::new(move |t, v| t.cross_attention(v[0], v[1], heads(3))),
        ),
        (
            "cross_attention",
            vec![&[2, 3, 8], &[2, 5, 16], &[3]],
            Box::new(move |t, v| {
                t.cross_attention(v[0], v[1], Asking { lengths: Some(v[2]), ..heads(1) })
            }),
        ),
        (
            "padded_attention",
            vec![&[2, 3, 8]],
            Box::new(move |t, v| t.padded_attention(v[0], heads(1))),
        ),
        (
            "conv1d",
            vec![&[2, 3, 8], &[4, 7, 1]],
            Box::new(|t, v| t.conv1d(v[0], v[1], None, Conv1d::default())),
        ),
        (
            "conv1d",
            vec![&[2, 3, 8], &[4, 8, 4]],
            Box::new(|t, v| t.conv1d(v[0], v[1], None, Conv1d::default())),
        ),
        (
            "conv1d",
            vec![&[2, 3, 8], &[4, 8, 1]],
            Box::new(|t, v| t.conv1d(v[0], v[1], None, Conv1d { stride: 0, ..Conv1d::default() })),
        ),
        (
            "batch_norm",
            vec![&[2, 3]],
            Box::new(|t, v| t.batch_norm(v[0], BatchNorm::over(2), true)),
        ),
        (
            "batch_norm",
            vec![&[1, 3]],
            Box::new(|t, v| t.batch_norm(v[0], BatchNorm::over(1), true)),
        ),
        (
            "batch_norm",
            vec![&[4, 3], &[2, 4]],
            Box::new(|t, v| {
                t.batch_norm(v[0], BatchNorm { gb: Some(v[1]), ..BatchNorm::over(1) }, true)
            }),
        ),
        ("gather", vec![&[4, 3], &[0]], Box::new(|t, v| t.gather(v[0], v[1]))),
        ("embedding", vec![&[0, 3], &[2]], Box::new(|t, v| t.embedding(v[0], v[1]))),
        ("scatter", vec![&[4, 3], &[3]], Box::new(|t, v| t.scatter(v[0], v[1], 9))),
        (
            "scatter_add",
            vec![&[4, 3], &[2, 4], &[2]],
            Box::new(|t, v| t.scatter_add(v[0], v[1], v[2])),
        ),
        ("segment_sum", vec![&[4, 3], &[1]], Box::new(|t, v| t.segment_sum(v[0], v[1]))),
        ("segment_softmax", vec![&[0, 3], &[2]], Box::new(|t, v| t.segment_softmax(v[0], v[1]))),
        ("sinusoid", vec![&[4, 3]], Box::new(|t, v| t.sinusoid(v[0], Sinusoid::Halves, 1.0))),
    ];
    for (name, shapes, build) in &table {
        let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
        let vars: Vec<Var> = shapes
            .iter()
            .map(|s| {
                let space = spaces.declare("x", s.iter().product());
                tape.input("x", s, space, 0)
            })
            .collect();
        let error = build(&mut tape, &vars).expect_err(name);
        let Error::Shape { op, detail } = &error else { panic!("{name}: {error}") };
        assert_eq!(op, name);
        assert!(detail.contains(&format!("{:?}", shapes[0])), "{error}");
        assert!(tape.is_empty(), "{name} recorded something");
    }
}

#[test]
fn numbers_that_are_known_are_checked() {
    let mut tape = Tape::new();
    let why = tape.rows("edges", &[0, 4, 2], 4).unwrap_err().to_string();
    assert!(why.contains("edges[1] is row 4"), "{why}");
    for offsets in [&[0, 3, 2, 5][..], &[1, 5], &[0, 4], &[0], &[]] {
        let why = tape.segments("offsets", offsets, 5).unwrap_err().to_string();
        assert!(why.contains("ascend from 0 to 5"), "{why}");
    }
    assert!(tape.rows("edges", &[0, 3], 4).is_ok() && tape.segments("o", &[0, 0, 5], 5).is_ok());
}
