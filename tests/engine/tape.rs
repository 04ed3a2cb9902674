//! What can be recorded is right, and what cannot be right is refused: several walks back, views,
//! shared memory, tensors of other tapes. Gradients come from the twins and from the device.

use crate::common;
use common::gpu;
use modalign::ops::elementwise::{BINARY, UNARY};
use modalign::ops::heads::HeadVars;
use modalign::ops::lstm::LstmWeights;
use modalign::ops::objective::{Aligning, Goals};
use modalign::ops::{Act, align::Pair, random};
use modalign::plan::{HostMemory, Memory, Plan, Pool, SpaceId, Spaces, Step, interpret};
use modalign::tape::Custom;
use modalign::{Error, Result, Tape, Var};

/// Parameters in one space, their gradients in another.
struct Bench {
    tape: Tape,
    spaces: Spaces,
    values: SpaceId,
    grads: SpaceId,
    /// Shapes of the parameters so far; each begins at a multiple of 64.
    shapes: Vec<Vec<usize>>,
}

fn begin(shapes: &[usize], rest: Option<usize>) -> usize {
    let end: usize = shapes.iter().map(|n| n.next_multiple_of(64)).sum();
    end + rest.unwrap_or(0)
}

impl Bench {
    fn new(shapes: &[&[usize]]) -> (Self, Vec<Var>) {
        let mut spaces = Spaces::new();
        let lens: Vec<usize> = shapes.iter().map(|s| s.iter().product()).collect();
        let words = begin(&lens, None);
        let (values, grads) = (spaces.declare("values", words), spaces.declare("grads", words));
        let shapes: Vec<Vec<usize>> = shapes.iter().map(|s| s.to_vec()).collect();
        let mut bench = Bench { tape: Tape::new(), spaces, values, grads, shapes };
        let vars = (0..lens.len()).map(|i| bench.parameter(i)).collect();
        (bench, vars)
    }

    fn at(&self, i: usize) -> usize {
        let lens: Vec<usize> = self.shapes[..i].iter().map(|s| s.iter().product()).collect();
        begin(&lens, None)
    }

    /// Asks the tape for a parameter, as `Params::var` does.
    fn parameter(&mut self, i: usize) -> Var {
        let (at, shape) = (self.at(i), self.shapes[i].clone());
        let places = ((self.values, at), Some((self.grads, at)));
        self.tape.parameter(&format!("p{i}"), &shape, places.0, places.1)
    }

    fn contents(&self, i: usize) -> Vec<f32> {
        random(40 + i as u64, self.shapes[i].iter().product())
    }

    /// The gradients of all parameters, of which the twins' and the device's must agree.
    fn gradients(self) -> Vec<Vec<f32>> {
        let (values, grads) = (self.values, self.grads);
        let all: Vec<(usize, Vec<f32>)> =
            (0..self.shapes.len()).map(|i| (self.at(i), self.contents(i))).collect();
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let step = Step::default();
        let mut host = HostMemory::new(&self.spaces);
        all.iter().for_each(|(at, v)| host.write(values, *at, &bits(v)).unwrap());
        interpret(self.tape.recording(), &step, &mut host).unwrap();
        let gpu = gpu();
        let memory = Memory::allocate(gpu, &self.spaces).unwrap();
        for (at, v) in &all {
            memory.write(gpu, values, *at, &bits(v)).unwrap();
        }
        memory.write_step(gpu, &step).unwrap();
        let plan = self.tape.plan(gpu.caps()).unwrap();
        let program = plan.prepare(gpu, &memory, &mut Pool::new()).unwrap();
        program.run(gpu, &memory).unwrap();
        all.iter()
            .map(|(at, v)| {
                let twin = host.space(grads).unwrap()[*at..at + v.len()].to_vec();
                let device = memory.read_f32(gpu, grads, *at, v.len()).unwrap();
                close(&device, &twin, "device and twins");
                twin
            })
            .collect()
    }
}

fn close(got: &[f32], want: &[f32], what: &str) {
    let largest = want.iter().fold(1e-6_f32, |m, w| m.max(w.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 2e-5 * largest, "{what}: [{i}] is {g}, want {w}");
    }
    assert_eq!(got.len(), want.len(), "{what}");
}

fn all_close(got: &[Vec<f32>], want: &[Vec<f32>], what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(want.iter().any(|w| *w != 0.0), "{what}: gradient {i} tries nothing");
        close(got, want, &format!("{what}, parameter {i}"));
    }
}

/// `mean(f(x)^2)`, a loss that depends on everything.
fn loss_of(tape: &mut Tape, x: Var) -> Result<Var> {
    let square = tape.square(x)?;
    tape.mean(square)
}

// ---- several walks back ------------------------------------------------------------------------

/// The gradients of two losses over a common part, in one walk or in two.
fn two_losses(
    shapes: &[&[usize]],
    in_one: bool,
    build: impl Fn(&mut Tape, &[Var]) -> Result<[Var; 2]>,
) -> Vec<Vec<f32>> {
    let (mut bench, vars) = Bench::new(shapes);
    let losses = build(&mut bench.tape, &vars).unwrap();
    if in_one {
        bench.tape.backward(&losses).unwrap();
    } else {
        bench.tape.backward(&losses[..1]).unwrap();
        bench.tape.backward(&losses[1..]).unwrap();
    }
    bench.gradients()
}

#[test]
fn several_walks_back_add_up() {
    let shapes: &[&[usize]] = &[&[3, 4], &[5, 4], &[5], &[2, 5]];
    let build = |t: &mut Tape, v: &[Var]| {
        let h = t.linear(v[0], v[1], Some(v[2]), Act::Tanh)?;
        let y = t.linear(h, v[3], None, Act::None)?;
        Ok([loss_of(t, y)?, loss_of(t, h)?])
    };
    let (one, two) = (two_losses(shapes, true, build), two_losses(shapes, false, build));
    all_close(&two, &one, "two walks");
}

#[test]
fn a_second_walk_through_an_lstm_finds_its_gates_again() {
    let (n, t, d, h) = (3, 5, 4, 4);
    let shapes: &[&[usize]] = &[&[n, t, d], &[4 * h, d], &[4 * h, h], &[4 * h], &[4 * h]];
    let build = |tape: &mut Tape, v: &[Var]| {
        let lengths: Vec<f32> = [5_u32, 2, 3].iter().map(|l| f32::from_bits(*l)).collect();
        let lengths = tape.constant("lengths", &[n], &lengths)?;
        let [weight_ih, weight_hh, bias_ih, bias_hh] = [v[1], v[2], v[3], v[4]];
        let weights = LstmWeights { weight_ih, weight_hh, bias_ih, bias_hh };
        let lstm = tape.lstm(v[0], lengths, &[vec![weights]], 0.0, true)?;
        let sequence = lstm.sequence.expect("asked for");
        Ok([loss_of(tape, lstm.last)?, loss_of(tape, sequence)?])
    };
    let (one, two) = (two_losses(shapes, true, build), two_losses(shapes, false, build));
    all_close(&two, &one, "two walks");
}

#[test]
fn a_second_walk_through_a_checkpoint_adds_up() {
    let shapes: &[&[usize]] = &[&[3, 8], &[8, 8], &[8]];
    let build = |t: &mut Tape, v: &[Var]| {
        let (w, b) = (v[1], v[2]);
        let y = t.checkpoint(v[0], move |t, x| {
            let h = t.linear(x, w, Some(b), Act::Gelu)?;
            let h = t.reshape(h, &[1, 24])?;
            t.dropout(h, 0.3)
        })?;
        Ok([loss_of(t, y)?, t.sum(y)?])
    };
    let (one, two) = (two_losses(shapes, true, build), two_losses(shapes, false, build));
    all_close(&two, &one, "two walks");
}

#[test]
fn watched_tensors_gather_what_every_walk_gives() {
    let gradient = |walks: usize| {
        let (mut bench, v) = Bench::new(&[&[2, 3]]);
        let t = &mut bench.tape;
        let h = t.scale(v[0], 2.0).unwrap();
        t.watch(h);
        let loss = loss_of(t, h).unwrap();
        (0..walks).for_each(|_| t.backward(&[loss]).unwrap());
        let grad = t.grad(h).expect("watched");
        t.keep(grad);
        let mut host = HostMemory::new(&bench.spaces);
        let bits: Vec<u32> = random(40, 6).iter().map(|v| v.to_bits()).collect();
        host.write(bench.values, 0, &bits).unwrap();
        interpret(bench.tape.recording(), &Step::default(), &mut host).unwrap();
        let whole = host.read(bench.tape.recording(), grad).unwrap();
        (whole, host.space(bench.grads).unwrap()[..6].to_vec())
    };
    let (one, three) = (gradient(1), gradient(3));
    let thrice = |v: &[f32]| v.iter().map(|v| 3.0 * v).collect::<Vec<_>>();
    close(&three.0, &thrice(&one.0), "the watched tensor");
    close(&three.1, &thrice(&one.1), "the parameter");
}

#[test]
fn a_parameter_that_is_a_loss_gets_its_one() {
    let (mut bench, v) = Bench::new(&[&[1]]);
    let double = bench.tape.scale(v[0], 2.0).unwrap();
    bench.tape.backward(&[v[0], double, v[0]]).unwrap();
    assert_eq!(bench.gradients(), [vec![4.0]]);
}

// ---- views -------------------------------------------------------------------------------------

#[test]
fn a_view_leaves_its_tensor_as_it_was() {
    // The norm is over rows of 8 whatever becomes of x afterwards.
    let gradients = |reshaped: bool| {
        let (mut bench, v) = Bench::new(&[&[4, 8], &[2, 8]]);
        let t = &mut bench.tape;
        let x = t.scale(v[0], 1.5).unwrap();
        let y = t.layer_norm(x, v[1], 1e-5).unwrap();
        let flat = if reshaped { t.reshape(x, &[1, 32]).unwrap() } else { x };
        assert_eq!(t.shape(x), [4, 8]);
        let (a, b) = (loss_of(t, y).unwrap(), loss_of(t, flat).unwrap());
        t.backward(&[a, b]).unwrap();
        bench.gradients()
    };
    all_close(&gradients(true), &gradients(false), "with a view");
}

#[test]
fn views_share_one_gradient() {
    // x and both views of it are used before and after; every use adds to the same gradient.
    let gradients = |views: bool| {
        let (mut bench, v) = Bench::new(&[&[4, 6]]);
        let t = &mut bench.tape;
        let x = t.activate(v[0], Act::Tanh).unwrap();
        let before = loss_of(t, x).unwrap();
        let of = |t: &mut Tape, shape: &[usize]| {
            if views { t.reshape(x, shape).unwrap() } else { x }
        };
        let (a, b) = (of(t, &[24]), of(t, &[2, 12]));
        let again = of(t, &[24]);
        let product = t.mul(a, again).unwrap();
        let (product, b) = (t.sum(product).unwrap(), loss_of(t, b).unwrap());
        let after = t.sum(x).unwrap();
        t.backward(&[before, product, b, after]).unwrap();
        bench.gradients()
    };
    all_close(&gradients(true), &gradients(false), "with views");
}

#[test]
fn a_view_of_a_view_and_of_a_parameter() {
    let (mut bench, v) = Bench::new(&[&[4, 6]]);
    let t = &mut bench.tape;
    let first = t.reshape(v[0], &[2, 12]).unwrap();
    let second = t.reshape(first, &[24]).unwrap();
    let back = t.reshape(second, &[4, 6]).unwrap();
    let product = t.mul(v[0], back).unwrap();
    let loss = t.sum(product).unwrap();
    t.backward(&[loss]).unwrap();
    let want: Vec<f32> = random(40, 24).iter().map(|v| 2.0 * v).collect();
    close(&bench.gradients()[0], &want, "x times itself");
}

// ---- one memory under two names -----------------------------------------------------------------

#[test]
fn tied_weights_get_the_sum_of_both_gradients() {
    // Once as one variable, once as Params gives them: asked for by name each time.
    let gradients = |asked_again: bool| {
        let (mut bench, v) = Bench::new(&[&[3, 4], &[4, 4], &[4]]);
        let again = if asked_again { [1, 2].map(|i| bench.parameter(i)) } else { [v[1], v[2]] };
        let t = &mut bench.tape;
        let h = t.linear(v[0], v[1], Some(v[2]), Act::Tanh).unwrap();
        let y = t.linear(h, again[0], Some(again[1]), Act::None).unwrap();
        let square = t.mul(v[1], again[0]).unwrap();
        let (a, b) = (loss_of(t, y).unwrap(), t.sum(square).unwrap());
        t.backward(&[a, b]).unwrap();
        bench.gradients()
    };
    all_close(&gradients(true), &gradients(false), "asked for twice");
}

#[test]
fn tied_weights_agree_with_differences() {
    let loss = |shift: Option<(usize, f32)>| {
        let (mut bench, v) = Bench::new(&[&[3, 4], &[4, 4]]);
        let again = bench.parameter(1);
        let t = &mut bench.tape;
        let h = t.linear(v[0], v[1], None, Act::Tanh).unwrap();
        let y = t.linear(h, again, None, Act::Tanh).unwrap();
        let loss = loss_of(t, y).unwrap();
        t.keep(loss);
        let mut host = HostMemory::new(&bench.spaces);
        for i in 0..2 {
            let mut values = bench.contents(i);
            if let (Some((k, by)), 1) = (shift, i) {
                values[k] += by;
            }
            let bits: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
            host.write(bench.values, bench.at(i), &bits).unwrap();
        }
        interpret(bench.tape.recording(), &Step::default(), &mut host).unwrap();
        f64::from(host.read(bench.tape.recording(), loss).unwrap()[0])
    };
    let (mut bench, v) = Bench::new(&[&[3, 4], &[4, 4]]);
    let again = bench.parameter(1);
    let t = &mut bench.tape;
    let h = t.linear(v[0], v[1], None, Act::Tanh).unwrap();
    let y = t.linear(h, again, None, Act::Tanh).unwrap();
    let total = loss_of(t, y).unwrap();
    t.backward(&[total]).unwrap();
    let got = &bench.gradients()[1];
    for k in 0..16 {
        let slope = (loss(Some((k, 1e-2))) - loss(Some((k, -1e-2)))) / 2e-2;
        assert!((f64::from(got[k]) - slope).abs() < 2e-3, "[{k}]: {} and {slope}", got[k]);
    }
}

#[test]
fn heads_and_projections_that_share_weights() {
    // Two heads with one set of weights, two projections by one weight: never in one dispatch.
    let gradients = |shared: bool| {
        let (s, k) = (4, 4);
        let layers: &[&[usize]] = &[
            &[3, k],
            &[3, k],
            &[s, 2 * k],
            &[s],
            &[s, s],
            &[s],
            &[1, s],
            &[1],
            &[s, k],
            &[s],
            &[s, s],
            &[s],
            &[1, s],
            &[1],
        ];
        let (mut bench, v) = Bench::new(layers);
        let again: Vec<Var> = (8..14).map(|i| bench.parameter(i)).collect();
        let t = &mut bench.tape;
        let head = |w: &[Var]| HeadVars {
            layers: [(w[0], w[1]), (w[2], w[3]), (w[4], w[5])],
            dropout: 0.0,
        };
        let heads = [head(&v[2..8]), head(&v[8..14]), head(&again)];
        let loss = if shared {
            let all = t.heads(&v[..2], &heads).unwrap();
            let projected = t.project(&[(v[0], v[8]), (v[1], again[0])]).unwrap();
            [loss_of(t, all.scores).unwrap(), loss_of(t, projected).unwrap()]
        } else {
            let both = t.concat(&v[..2]).unwrap();
            let mut scores = Vec::new();
            for (x, head) in [both, v[0], v[1]].into_iter().zip(&heads) {
                let mut x = x;
                for (l, (w, b)) in head.layers.iter().enumerate() {
                    let act = if l < 2 { Act::Relu } else { Act::None };
                    x = t.linear(x, *w, Some(*b), act).unwrap();
                }
                scores.push(x);
            }
            let scores = t.concat(&scores).unwrap();
            let a = t.linear(v[0], v[8], None, Act::None).unwrap();
            let b = t.linear(v[1], v[8], None, Act::None).unwrap();
            let projected = t.concat(&[a, b]).unwrap();
            [loss_of(t, scores).unwrap(), loss_of(t, projected).unwrap()]
        };
        t.backward(&loss).unwrap();
        bench.gradients()
    };
    let (shared, apart) = (gradients(true), gradients(false));
    for (i, (got, want)) in shared.iter().zip(&apart).enumerate() {
        close(got, want, &format!("parameter {i}"));
    }
    assert!(apart[8].iter().any(|g| *g != 0.0));
}

#[test]
fn a_call_that_writes_what_it_also_reads_is_refused() {
    let mut tape = Tape::new();
    let x = tape.output("x", &[8], &[]);
    let words = [8, 1, 0, 1.0_f32.to_bits()];
    let args = [None, Some(x), Some(x)];
    let error = tape.custom(Custom::new(&BINARY, &args).words(words)).unwrap_err();
    assert!(error.to_string().contains("are the same memory"), "{error}");
    // Overlapping spans of one buffer, too.
    let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
    let space = spaces.declare("all", 256);
    let (a, b) = (tape.input("a", &[128], space, 0), tape.input("b", &[128], space, 64));
    let args = [None, Some(a), Some(b)];
    let call = Custom::new(&BINARY, &args).words([128, 1, 0, 1.0_f32.to_bits()]);
    assert!(tape.custom(call).unwrap_err().to_string().contains("are the same memory"));
}

// ---- what nothing has written -------------------------------------------------------------------

#[test]
fn alignment_without_weights_leaves_gradients_alone() {
    // Nothing pulls at the features, so that their projection has no gradient at all.
    let gradients = |weight: f32| {
        let (mut bench, v) = Bench::new(&[&[6, 2], &[2, 6, 4], &[4, 4]]);
        let t = &mut bench.tape;
        let labels = t.constant("labels", &[2, 6], &random(3, 12)).unwrap();
        let rows: Vec<f32> = (0..6).map(f32::from_bits).collect();
        let rows = t.constant("rows", &[6], &rows).unwrap();
        let ring = t.output("ring", &[1, 16], &[]);
        let features = t.linear(v[1], v[2], None, Act::None).unwrap();
        let pairs = [Pair { a: 0, b: 1, weight }];
        let goals = Goals { labels, rows, ring };
        let align = Aligning { features, pairs: &pairs, margin: 1.0 };
        let loss = t.objective(v[0], goals, Some(align)).unwrap();
        t.backward(&[loss]).unwrap();
        bench.gradients()
    };
    let (none, some) = (gradients(0.0), gradients(1.0));
    assert!(none[1].iter().chain(&none[2]).all(|g| *g == 0.0));
    assert!(some[1].iter().any(|g| *g != 0.0));
    assert_eq!(none[0], some[0]);
}

#[test]
fn scratch_that_nothing_has_written_cannot_be_read() {
    let mut tape = Tape::new();
    let (x, y) = (tape.output("never", &[8], &[]), tape.output("y", &[8], &[]));
    let args = [Some(x), Some(y)];
    tape.custom(Custom::new(&UNARY, &args).words([8, 1.0_f32.to_bits()])).unwrap();
    let error = tape.plan(gpu().caps()).err().expect("refused").to_string();
    assert!(error.contains("'never'") && error.contains("nothing has written"), "{error}");
    // Adding to it reads it, too.
    let mut tape = Tape::new();
    let x = tape.constant("x", &[8], &[1.0; 8]).unwrap();
    let y = tape.output("sum", &[8], &[]);
    let args = [None, Some(x), Some(y)];
    tape.custom(Custom::new(&BINARY, &args).words([8, 1, 1, 1.0_f32.to_bits()])).unwrap();
    assert!(tape.plan(gpu().caps()).err().expect("refused").to_string().contains("'sum'"));
}

// ---- other tapes, bad sizes ----------------------------------------------------------------------

#[test]
fn tensors_of_another_tape_are_told() {
    let mut other = Tape::new();
    for _ in 0..100 {
        other.constant("theirs", &[4, 4], &[1.0; 16]).unwrap();
    }
    let theirs = other.constant("theirs", &[4, 4], &[1.0; 16]).unwrap();
    type Use = fn(&mut Tape, Var, Var) -> Result<()>;
    let uses: [Use; 12] = [
        |t, own, v| t.add(own, v).map(drop),
        |t, own, v| t.matmul(v, own).map(drop),
        |t, _, v| t.softmax(v).map(drop),
        |t, _, v| t.reshape(v, &[16]).map(drop),
        |t, _, v| t.detach(v).map(drop),
        |t, _, v| t.backward(&[v]),
        |t, _, v| t.concat(&[v, v]).map(drop),
        |t, _, v| t.checkpoint(v, |t, x| t.square(x)).map(drop),
        |t, own, v| t.linear(own, v, None, Act::None).map(drop),
        |t, _, v| {
            t.keep(v);
            Ok(())
        },
        |t, _, v| {
            t.name(v, "mine");
            Ok(())
        },
        |t, _, v| {
            t.watch(v);
            Ok(())
        },
    ];
    for (i, each) in uses.into_iter().enumerate() {
        let mut tape = Tape::new();
        let own = tape.constant("own", &[4, 4], &[1.0; 16]).unwrap();
        assert_eq!((tape.shape(theirs).len(), tape.wants_grad(theirs)), (0, false));
        let told = match each(&mut tape, own, theirs) {
            Err(error) => error,
            Ok(()) => tape.plan(gpu().caps()).err().unwrap_or_else(|| panic!("use {i} went by")),
        };
        assert!(matches!(told, Error::Shape { .. }), "use {i}: {told}");
    }
    // A plan and a program know their own, too.
    let mut tape = Tape::new();
    let x = tape.constant("x", &[2], &[1.0, 2.0]).unwrap();
    let y = tape.square(x).unwrap();
    tape.keep(y);
    let (program, memory) = tape.compile(gpu(), &Spaces::new()).unwrap();
    program.run(gpu(), &memory).unwrap();
    assert!(program.read(gpu(), &memory, theirs).is_err());
    assert!(!program.writes(theirs) && program.plan().tensor(theirs).is_none());
    assert_eq!(program.read(gpu(), &memory, y).unwrap(), [1.0, 4.0]);
}

#[test]
fn sizes_beyond_all_memory_are_refused_in_words() {
    let huge = 1_usize << 40;
    let shapes: [&[usize]; 4] =
        [&[huge, huge], &[usize::MAX, 2], &[1 << 33], &[usize::MAX, usize::MAX, 0, 3]];
    for (i, shape) in shapes.into_iter().enumerate() {
        let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
        let space = spaces.declare("few", 64);
        let x = tape.input("x", shape, space, 0);
        let _ = tape.square(x);
        let planned: Result<Plan> = tape.plan(gpu().caps());
        // The last one has no element at all, which is no fault.
        assert_eq!(planned.is_err(), i < 3, "{shape:?}");
    }
}

#[test]
fn tapes_go_to_other_threads() {
    fn sent<T: Send + Sync>() {}
    sent::<Tape>();
    sent::<Plan>();
    sent::<Error>();
}
