//! No sequence of recording calls that type-checks panics: random tensors of random shapes (empty,
//! enormous, of another tape) go through random operations, backward and a plan for each family.
//! What can be planned runs on the device, and leaves it fit for the next.

use crate::common;
use common::gpu;
use modalign::gpu::{Caps, Family};
use modalign::ops::attention::MAX_TOKENS;
use modalign::ops::embed::{Embed, Tables, WordPart};
use modalign::ops::frame_rms::Framing;
use modalign::ops::heads::HeadVars;
use modalign::ops::lstm::LstmWeights;
use modalign::ops::matmul::FeedForward;
use modalign::ops::objective::{Aligning, Goals};
use modalign::ops::spectral_shape::Band;
use modalign::ops::yin::Pitch;
use modalign::ops::{Act, align::Pair, elementwise};
use modalign::plan::{Memory, Pool, SpaceId, Spaces, Stage, Step};
use modalign::tape::Custom;
use modalign::{Tape, Var};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A small generator of its own, so that a seed names a sequence for good.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// A number of the kind that breaks things, now and then.
    fn number(&mut self) -> f32 {
        let odd = [0.0, -1.0, 1.0, 0.5, 1e30, f32::NAN, f32::INFINITY, -0.0, 1e-30];
        if self.below(4) == 0 { self.of(&odd) } else { self.below(1000) as f32 / 500.0 - 1.0 }
    }

    fn size(&mut self) -> usize {
        let odd = [0, 1, 3, 64, 1 << 16, 1 << 33, 1 << 40, usize::MAX];
        if self.below(12) == 0 { self.of(&odd) } else { self.of(&[1, 2, 3, 4, 4, 4, 8, 8, 12]) }
    }

    fn shape(&mut self) -> Vec<usize> {
        (0..self.below(4)).map(|_| self.size()).collect()
    }
}

struct Play<'a> {
    rng: Rng,
    tape: &'a mut Tape,
    vars: Vec<Var>,
    space: SpaceId,
    grads: SpaceId,
}

impl Play<'_> {
    fn var(&mut self) -> Var {
        // Recent ones more often: they are what operations made.
        let n = self.vars.len();
        let back = self.rng.below(n).min(self.rng.below(n));
        self.vars[n - 1 - back]
    }

    /// A variable of a wanted shape, so that operations do take place.
    fn fit(&mut self, shape: &[usize]) -> Var {
        if self.rng.below(8) == 0 {
            return self.var();
        }
        let at = 64 * self.rng.below(64);
        let grad = (self.rng.below(3) > 0).then_some((self.grads, at));
        self.tape.parameter("fit", shape, (self.space, at), grad)
    }

    fn keep(&mut self, made: modalign::Result<Var>) {
        self.vars.extend(made.ok());
    }

    fn act(&mut self) -> Act {
        self.rng.of(&[Act::None, Act::Relu, Act::Gelu, Act::Tanh, Act::Sigmoid])
    }

    /// One call of something public.
    fn step(&mut self) {
        let (a, b, c) = (self.var(), self.var(), self.var());
        let (x, i, j) = (self.rng.number(), self.rng.size(), self.rng.size());
        let (rows, cols) = self.tape.rows_cols(a);
        match self.rng.below(46) {
            0 => {
                let shape = self.rng.shape();
                let offset = if self.rng.below(6) == 0 { i } else { 64 * self.rng.below(64) };
                let var = self.tape.input("input", &shape, self.space, offset);
                self.vars.push(var);
            }
            1 => {
                let shape = self.rng.shape();
                let var = self.fit(&shape);
                self.vars.push(var);
            }
            2 => {
                let n = self.rng.below(20);
                let made = self.tape.constant("constant", &[n, 1], &vec![x; n]);
                self.keep(made);
            }
            3 => {
                let shape = self.rng.shape();
                let var = self.tape.half_parameter("half", &shape, (self.space, 64 * (i % 64)));
                self.vars.push(var);
            }
            4 => {
                let made = self.tape.add(a, b);
                self.keep(made);
            }
            5 => {
                let made = self.tape.sub(a, b);
                self.keep(made);
            }
            6 => {
                let made = self.tape.mul(a, b);
                self.keep(made);
            }
            7 => {
                let made = self.tape.scale(a, x);
                self.keep(made);
            }
            8 => {
                let act = self.act();
                let made = self.tape.activate(a, act);
                self.keep(made);
            }
            9 => {
                let made = self.rng.of(&[Tape::square, Tape::exp, Tape::abs])(self.tape, a);
                self.keep(made);
            }
            10 => {
                let reduce = [Tape::sum, Tape::mean, Tape::sum_rows, Tape::sum_cols];
                let made = self.rng.of(&reduce)(self.tape, a);
                self.keep(made);
            }
            11 => {
                let made = self.tape.matmul(a, b);
                self.keep(made);
            }
            12..=14 => {
                let out = self.rng.of(&[1, 4, 5, 8]);
                let (w, bias) = (self.fit(&[out, cols]), self.fit(&[out]));
                let (bias, act) = (Some(bias).filter(|_| i % 2 == 0), self.act());
                let made = self.tape.linear(a, w, bias, act);
                self.keep(made);
            }
            15 => {
                let inner = self.rng.of(&[4, 8]);
                let first = (self.fit(&[inner, cols]), self.fit(&[inner]));
                let second = (self.fit(&[cols, inner]), self.fit(&[cols]));
                let act = self.act();
                let made = self.tape.feed_forward(a, FeedForward { first, second, act });
                self.keep(made);
            }
            16 => {
                let made = self.tape.concat(&[a, b, c, a, b][..1 + self.rng.below(5)]);
                self.keep(made);
            }
            17 => {
                let made = self.tape.slice(a, i % 8, j % 9);
                self.keep(made);
            }
            18 => {
                let made = self.tape.dropout(a, x);
                self.keep(made);
            }
            19 => {
                let made = self.tape.softmax(a);
                self.keep(made);
            }
            20 => {
                let targets = self.fit(&[rows]);
                let made = self.tape.cross_entropy(a, targets);
                self.keep(made);
            }
            21 | 22 => {
                let shape = [vec![rows, cols], vec![rows * cols % (1 << 40)], self.rng.shape()];
                let made = self.tape.reshape(a, &shape[i % 3]);
                self.keep(made);
            }
            23 => {
                let made = self.tape.detach(a);
                self.keep(made);
            }
            24 => {
                self.tape.keep(a);
                self.tape.name(b, "named");
                self.tape.watch(c);
            }
            25 => drop(self.tape.backward(&[a, b, a][..self.rng.below(4)])),
            26 => {
                let losses: Vec<Var> =
                    [a, b].iter().filter_map(|v| self.tape.mean(*v).ok()).collect();
                let _ = self.tape.backward(&losses);
            }
            27 => {
                let gb = self.fit(&[2, cols]);
                let made = self.tape.residual_norm(a, b, gb, x, x);
                self.keep(made);
                let made = self.tape.layer_norm(a, gb, 1e-5);
                self.keep(made);
            }
            28 => {
                let tokens = self.fit(&[rows, 4]);
                let made = self.tape.attention(a, tokens, i % 5, x);
                self.keep(made);
            }
            29 => {
                let (tokens, spans) = (self.fit(&[rows, 4]), self.fit(&[2, 2]));
                let q = self.fit(&[2, cols / 2]);
                let made = self.tape.attention_first(q, a, tokens, spans, i % 3, 0.0);
                self.keep(made);
                let pool = self.rng.of(&[Tape::pool_first, Tape::pool_mean]);
                let made = pool(self.tape, a, tokens, spans);
                self.keep(made);
            }
            30 => {
                let (t, d, h) = (1 + i % 4, 1 + j % 5, self.rng.of(&[1, 4, 300]));
                let (x, lengths) = (self.fit(&[2, t, d]), self.fit(&[2]));
                let weights = LstmWeights {
                    weight_ih: self.fit(&[4 * h, d]),
                    weight_hh: self.fit(&[4 * h, h]),
                    bias_ih: self.fit(&[4 * h]),
                    bias_hh: self.fit(&[4 * h]),
                };
                let layers = [vec![weights; i % 4], vec![weights]];
                let made = self.tape.lstm(x, lengths, &layers[j % 2..], 0.1, i % 2 == 0);
                self.vars.extend(
                    made.ok().into_iter().flat_map(|l| [Some(l.last), l.sequence]).flatten(),
                );
            }
            31 => {
                let pairs = [(0, 1), (1, 2), (i, j)].map(|(a, b)| Pair { a, b, weight: x });
                let made = self.tape.align(&[a, b, c][..self.rng.below(4)], &pairs[..i % 4], x);
                self.keep(made.map(|m| m.loss));
                let made = self.tape.align_stacked(a, &pairs[..1], 1.0);
                self.keep(made.map(|m| m.loss));
            }
            32 => {
                let made = self.tape.project(&[(a, b), (c, a)][..self.rng.below(3)]);
                self.keep(made);
                let w = self.fit(&[4, cols]);
                let made = self.tape.project(&[(a, w), (a, w)]);
                self.keep(made);
            }
            33 => {
                let s = 4;
                let layers = [
                    (self.fit(&[s, cols]), self.fit(&[s])),
                    (self.fit(&[s, s]), self.fit(&[s])),
                    (self.fit(&[1, s]), self.fit(&[1])),
                ];
                let heads = vec![HeadVars { layers, dropout: 0.2 }; 1 + i % 3];
                let made = self.tape.heads(&[a, a][..1 + j % 2], &heads);
                self.vars.extend(made.ok().into_iter().flat_map(|h| [h.scores, h.features]));
            }
            34 => {
                let (labels, rows_of) = (self.fit(&[cols, 6]), self.fit(&[rows]));
                let ring = self.fit(&[2, 16]);
                let pairs = [Pair { a: 0, b: 1, weight: x }];
                let align = Aligning { features: b, pairs: &pairs, margin: 1.0 };
                let goals = Goals { labels, rows: rows_of, ring };
                let made = self.tape.objective(a, goals, Some(align).filter(|_| i % 2 == 0));
                self.keep(made);
            }
            35 => {
                let standard = [Tape::standardize, Tape::standardize_each];
                let made = self.rng.of(&standard)(self.tape, a);
                self.keep(made);
            }
            36 => {
                let made = self.tape.weighted_l1(a, b, c);
                self.keep(made.map(|m| m.loss));
            }
            37 => drop(self.tape.scatter_rows(a, b, c, i)),
            38 => {
                let width = 8;
                let e = Embed {
                    tokens: self.fit(&[rows, 4]),
                    words: vec![WordPart { var: self.fit(&[16, width]), base: 0 }],
                    rest: self.fit(&[MAX_TOKENS.min(16) + 2, width]),
                    tables: Tables {
                        positions: i % 20,
                        offset: i % 3,
                        segments: 18_usize.saturating_sub(i % 20),
                    },
                    gb: self.fit(&[2, width]),
                    order: self.fit(&[3 * rows % (1 << 40)]),
                    runs: self.fit(&[rows % (1 << 40) + 6, 4]),
                    rest_runs: 6,
                    eps: 1e-12,
                    dropout: 0.1,
                };
                let made = self.tape.embed(e);
                self.keep(made);
            }
            39 => {
                let made = self.tape.checkpoint(a, move |t, x| {
                    let y = t.activate(x, Act::Gelu)?;
                    t.dropout(y, 0.25)
                });
                self.keep(made);
            }
            40 => {
                let kernel = self.rng.of(&[&elementwise::BINARY, &elementwise::UNARY]);
                let args = [Some(a), Some(b), Some(c)];
                let call = Custom::new(kernel, &args[..self.rng.below(4)]).words([i as u32; 4]);
                let _ = self.tape.custom(call);
            }
            41 => {
                let shape = self.rng.shape();
                let var = self.tape.output("mine", &shape, &[a]);
                self.vars.push(var);
            }
            42 => {
                let sink = self.tape.sink(a).map(|s| s.var);
                self.vars.extend(self.tape.grad(b).into_iter().chain(sink));
            }
            43 => {
                let made = self.tape.in_stage(Stage::State, |t| t.scale(a, 2.0));
                self.keep(made);
            }
            44 => {
                let made = self.tape.modulus(a);
                self.keep(made);
                let made = self.tape.decibels(a, b);
                self.keep(made);
                let four = |rng: &mut Rng, most| 4 * rng.below(most);
                let rng = &mut self.rng;
                let (count, first) = (rng.below(4), four(rng, 3));
                let (hop, size) = (four(rng, 3), four(rng, 6));
                let frames = Framing { count, first, hop, size };
                let made = self.tape.frame_rms(a, frames);
                self.keep(made);
                let lags = (self.rng.below(4), self.rng.below(12));
                let pitch = Pitch { rate: 9.0, lags, threshold: 0.1, least: 0.5 };
                let made = self.tape.yin(a, frames, pitch);
                self.keep(made);
                let [first, end, most] = [3, 9, 3].map(|n| self.rng.below(n));
                let bands = [Band { first, end, most }];
                let bins = (self.rng.below(9), 0.5);
                let made = self.tape.spectral_shape(b, bins, 0.85, &bands);
                self.keep(made);
            }
            _ => {
                let made = self.tape.coral(a, b);
                self.keep(made);
            }
        }
    }
}

/// Records a sequence; `None` where it cannot be planned.
fn play(seed: u64, foreign: Var, run: bool) {
    let mut spaces = Spaces::new();
    let (space, grads) = (spaces.declare("values", 1 << 14), spaces.declare("grads", 1 << 14));
    let mut tape = Tape::new();
    let first = tape.input("first", &[4, 8], space, 0);
    let mut rng = Rng(seed);
    let steps = 3 + rng.below(14);
    // Most sequences know no stranger: one that does cannot be planned.
    let vars = if rng.below(10) == 0 { vec![foreign, first] } else { vec![first] };
    let mut play = Play { rng, tape: &mut tape, vars, space, grads };
    (0..steps).for_each(|_| play.step());
    let vars = play.vars.clone();
    if !run {
        let family = [Family::Tiled, Family::Plain, Family::Wide(8), Family::Wide(4)];
        let _ = tape.plan(&Caps::defaults(family[seed as usize % 4])).map(|p| p.to_string());
        return;
    }
    let gpu = gpu();
    let memory = Memory::allocate(gpu, &spaces).expect("64 KiB");
    let _ = memory.write_step(gpu, &Step::default());
    let Ok(plan) = tape.plan(gpu.caps()) else { return };
    if plan.scratch_bytes() > 64 << 20 {
        return;
    }
    if let Ok(program) = plan.prepare(gpu, &memory, &mut Pool::new()) {
        let _ = program.run(gpu, &memory);
        for var in vars {
            let _ = program.read(gpu, &memory, var);
        }
    }
    // Whatever it was, the device still computes.
    let mut tape = Tape::new();
    let x = tape.constant("x", &[2], &[3.0, 4.0]).unwrap();
    let y = tape.sum(x).unwrap();
    tape.keep(y);
    let (program, memory) = tape.compile(gpu, &Spaces::new()).unwrap();
    program.run(gpu, &memory).unwrap_or_else(|e| panic!("the device is spoilt: {e}"));
    assert_eq!(program.read(gpu, &memory, y).unwrap(), [7.0]);
}

fn all(seeds: std::ops::Range<u64>, run: bool) {
    let mut other = Tape::new();
    let foreign = (0..40).map(|_| other.constant("theirs", &[4, 8], &[1.0; 32]).unwrap()).last();
    let foreign = foreign.expect("forty of them");
    let failed: Vec<u64> = seeds
        .filter(|seed| catch_unwind(AssertUnwindSafe(|| play(*seed, foreign, run))).is_err())
        .collect();
    assert!(failed.is_empty(), "sequences {failed:?} panic");
}

#[test]
fn no_sequence_of_recordings_panics() {
    all(0..6000, false);
}

#[test]
fn what_can_be_planned_runs_or_is_refused() {
    all(100_000..100_040, true);
}
