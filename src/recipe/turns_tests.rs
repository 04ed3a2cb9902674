//! Steps of several turns: MLA's published values, and what is said of turns that cannot be.

#![allow(clippy::excessive_precision, reason = "the numbers as they are published")]

use super::config::Config;
use super::cx::Cx;
use super::goal::Goal;
use super::mla::project;
use super::model::Model;
use super::recipe::{Begins, Column, Columns, Counts, Output, Recipe, StateSpec, Turn};
use super::vectors::{close, free, q, run};
use crate::Gpu;
use crate::data::Reads;
use crate::data::task::NUMBER;
use crate::error::Result;
use crate::gpu::GpuOptions;
use crate::nn::{Certainty, weigh_by_certainty};
use crate::nn::{Group, Init, ParamSpec, Params, Weights};
use crate::ops::owm::OwmRule;
use crate::plan::{Memory, Pool, Spaces, Stage, Step};
use crate::tape::{Tape, Var};

fn gpu() -> Gpu {
    Gpu::with(&GpuOptions { quiet: true, ..GpuOptions::default() }).unwrap()
}

/// [MLA-1]: P after two updates, at the beginning of an epoch and a quarter into it, and what it makes of a
/// gradient.
fn projected(frobenius: bool) -> ([Vec<f32>; 2], Vec<f32>) {
    let (gpu, mut spaces) = (gpu(), Spaces::new());
    let [p, r, w, grad] =
        [("P", 9), ("r", 3), ("W", 6), ("d.W", 6)].map(|(name, words)| spaces.declare(name, words));
    let memory = Memory::allocate(&gpu, &spaces).unwrap();
    let write = |space, values: &[f32]| {
        memory.write(&gpu, space, 0, bytemuck::cast_slice(values)).unwrap();
    };
    write(p, &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let mut tape = Tape::new();
    let (state, mean) = (tape.input("P", &[3, 3], p, 0), tape.input("r", &[1, 3], r, 0));
    tape.owm_update(state, mean, OwmRule { base: 0.1, frobenius }).unwrap();
    let plan = tape.plan(gpu.caps()).unwrap();
    let update = plan.prepare(&gpu, &memory, &mut Pool::new()).unwrap();
    let mut after = Vec::new();
    for (mean, epoch_done) in [(q(3, 9, 3), 0.0), (q(5, 11, 3), 0.25)] {
        write(r, &mean);
        memory.write_step(&gpu, &Step { epoch_done, ..Step::default() }).unwrap();
        update.run(&gpu, &memory).unwrap();
        after.push(memory.read_f32(&gpu, p, 0, 9).unwrap());
    }
    // The gradient of sum (W ∘ G) is G.
    let mut tape = Tape::new();
    let weight = tape.parameter("W", &[2, 3], (w, 0), Some((grad, 0)));
    let state = tape.input("P", &[3, 3], p, 0);
    let g = tape.constant("G", &[2, 3], &q(2, 4, 6)).unwrap();
    let product = tape.mul(weight, g).unwrap();
    let loss = tape.sum(product).unwrap();
    tape.backward(&[loss]).unwrap();
    tape.in_stage(Stage::State, |tape| tape.project_gradient(weight, state)).unwrap();
    let program = tape.plan(gpu.caps()).unwrap().prepare(&gpu, &memory, &mut Pool::new()).unwrap();
    program.run(&gpu, &memory).unwrap();
    let gradient = memory.read_f32(&gpu, grad, 0, 6).unwrap();
    (after.try_into().unwrap(), gradient)
}

#[test]
fn mlas_projector() {
    let ([first, second], gradient) = projected(false);
    let want = [
        0.83108108,
        0.23648649,
        0.27027027,
        0.23648649,
        0.66891892,
        -0.37837838,
        0.27027027,
        -0.37837838,
        0.56756757,
    ];
    close("P1", &first, &want);
    let want = [
        0.52970828,
        -0.16406148,
        0.43613218,
        -0.16406148,
        0.13655943,
        -0.15793496,
        0.43613218,
        -0.15793496,
        0.4762847,
    ];
    close("P2", &second, &want);
    for (i, j) in [(0, 1), (0, 2), (1, 2)] {
        assert_eq!(second[3 * i + j], second[3 * j + i], "it stays symmetric to the bit");
    }
    let want = [-0.5429396, 0.19044766, -0.51963041, 0.42417615, -0.19311624, 0.3323683];
    close("G P2", &gradient, &want);
    let want = [
        0.53474219,
        -0.15085548,
        0.42790019,
        -0.15085548,
        0.15144966,
        -0.16333984,
        0.42790019,
        -0.16333984,
        0.47543883,
    ];
    close("P2 with Frobenius", &projected(true).0[1], &want);
}

/// [MLA-2]: scores of two modalities, weighted by what each row's entropy says of them.
#[test]
fn mlas_fusion() {
    let of = |a, b| q(a, b, 6).iter().map(|x| 3.0 * x).collect::<Vec<f32>>();
    let (za, zv) = (of(5, 3), of(7, 2));
    let said = |of_batch: bool| {
        let specs = vec![free("za", &[2, 3]), free("zv", &[2, 3])];
        let values = [("za", za.clone()), ("zv", zv.clone())];
        let (y, ..) = run(specs, &values, &[0.0; 6], |cx| {
            let (a, v) = (cx.param("za")?, cx.param("zv")?);
            let certainty = if of_batch { Certainty::Batch } else { Certainty::Row };
            weigh_by_certainty(cx.tape, &[a, v], &[], certainty)
        });
        y
    };
    let want = [-1.5, 1.08261414, -0.80875553, -0.88963019, -0.26889058, -1.16889058];
    close("fused", &said(false), &want);
    // As released one weight of all rows.
    let mixed = za.iter().zip(&zv).map(|(a, v)| 0.47583058 * a + 0.52416942 * v);
    close("fused as released", &said(true), &mixed.collect::<Vec<f32>>());
}

/// Two linear encoders that learn by turns through one head; how `turns` are cut is a test's.
struct Toy {
    turns: Vec<Turn>,
    columns: Columns,
    x: [Vec<f32>; 2],
    /// Whether audio's loss goes through its encoder.
    through: bool,
}

impl Toy {
    fn new(turns: Vec<Turn>) -> Self {
        let column = |name: &str| {
            let counts = Counts::Times(0.5);
            Column { name: name.into(), what: format!("the loss of {name}"), counts }
        };
        let columns = Columns::new(vec![column("a"), column("v")]);
        Toy { turns, columns, x: [q(3, 5, 4), q(5, 6, 4)], through: true }
    }

    fn right() -> Vec<Turn> {
        vec![Turn::of("audio", ["a", "head"]), Turn::of("video", ["v", "head"])]
    }
}

impl Recipe for Toy {
    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn params(&self, _: bool, _: usize) -> Vec<ParamSpec> {
        let spec =
            |name: &str, shape: &[usize], group| ParamSpec::new(name, shape, group, Init::Zeros);
        vec![
            spec("E_a", &[2, 2], "a"),
            spec("E_v", &[2, 2], "v"),
            spec("head.weight", &[2, 2], "head"),
            spec("head.bias", &[2], "head"),
        ]
    }

    fn groups(&self) -> Vec<Group> {
        ["a", "v", "head"].map(|name| Group::sgd(name, 0.1, 0.0)).to_vec()
    }

    fn states(&self, _: usize) -> Vec<StateSpec> {
        vec![StateSpec { name: "P", shape: vec![2, 2], begins: Begins::Identity }]
    }

    fn columns(&self) -> Columns {
        self.columns.clone()
    }

    fn outputs(&self) -> Vec<Output> {
        Vec::new()
    }

    fn turns(&self) -> Vec<Turn> {
        self.turns.clone()
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        for (i, name) in ["a", "v"].into_iter().enumerate() {
            let own = if i == 0 { "audio" } else { "video" };
            if cx.turn().is_some_and(|turn| turn != own && turn != "all") {
                continue;
            }
            let x = cx.tape.constant("x", &[2, 2], &self.x[i])?;
            let encoder = cx.param(&format!("E_{name}"))?;
            let h = match i == 0 && !self.through {
                true => x,
                false => cx.tape.linear(x, encoder, None, crate::ops::Act::None)?,
            };
            let (w, b) = (cx.param("head.weight")?, cx.param("head.bias")?);
            let z = cx.tape.linear(h, w, Some(b), crate::ops::Act::None)?;
            let y = cx.tape.constant("y", &[2], &[f32::from_bits(0), f32::from_bits(1)])?;
            let loss: Var = cx.tape.cross_entropy(z, y)?;
            cx.log(name, loss)?;
            cx.whole(loss);
            let present = cx.tape.constant("there", &[2], &[1.0; 2])?;
            project(cx, h, present, false)?;
        }
        Ok(())
    }
}

/// A step of the toy as it is recorded, with its buffers.
fn recorded(toy: Toy) -> Result<(Tape, Params, Spaces, super::TrainSpaces)> {
    let config = Config::default();
    let goal = Goal::new(&config, &NUMBER, &[], 0);
    let model = Model::of(&config, Box::new(toy), goal);
    let mut spaces = Spaces::new();
    let groups = (&model.groups()[..], model.turns().len());
    let params = Params::by_turns(model.params(true, 1 << 20), groups, &mut spaces, 1 << 27, true)?;
    let layout = model.whole_layout(2);
    let block = spaces.declare("block", layout.words.max(64));
    let train = model.train_spaces(&mut spaces, 2, 4);
    let mut tape = Tape::new();
    model.step(&mut tape, &params, &layout, block, (&train, 0))?;
    Ok((tape, params, spaces, train))
}

/// [MLA-3]: a batch of two turns without momentum, the first of an epoch.
#[test]
fn mlas_batch() {
    let gpu = gpu();
    let (tape, params, spaces, train) = recorded(Toy::new(Toy::right())).unwrap();
    let memory = Memory::allocate(&gpu, &spaces).unwrap();
    let identity = [1.0, 0.0, 0.0, 1.0];
    let mut weights = Weights::default();
    weights.insert("E_a", vec![2, 2], identity.to_vec());
    weights.insert("E_v", vec![2, 2], identity.to_vec());
    weights.insert("head.weight", vec![2, 2], q(2, 3, 4));
    params.upload(&gpu, &memory, &weights).unwrap();
    let p = train.state("P").unwrap().space;
    memory.write(&gpu, p, 0, bytemuck::cast_slice(&identity)).unwrap();
    memory.write_step(&gpu, &Step { slot: 2, ..Step::default() }).unwrap();
    let mut groups = params.groups();
    for (i, names) in [["a", "head"], ["v", "head"]].iter().enumerate() {
        groups.advance_only(names).unwrap();
        groups.write_turn(&gpu, &memory, i).unwrap();
    }
    assert_eq!(["a", "v", "head"].map(|name| groups.steps(name).unwrap()), [1, 1, 2]);
    let program = tape.plan(gpu.caps()).unwrap().prepare(&gpu, &memory, &mut Pool::new()).unwrap();
    program.replay(&gpu, &memory, true, &[], None).unwrap();
    let row = memory.read_f32(&gpu, train.ring, 2 * 16, 2).unwrap();
    close("losses", &row, &[0.73765615, 0.69535812]);
    let weights = params.download(&gpu, &memory).unwrap();
    for (name, want) in [
        ("head.weight", &[-0.51442211, 0.00435091, -0.78557789, 0.49564909][..]),
        ("head.bias", &[0.01722861, -0.01722861]),
        ("E_a", &[0.99569168, 0.00050343, 0.00718053, 0.99916096]),
        ("E_v", &[0.99942928, 0.00139007, 0.00104485, 0.99745512]),
    ] {
        close(name, weights.get(name).unwrap().1, want);
    }
    let p = memory.read_f32(&gpu, p, 0, 4).unwrap();
    close("P", &p, &[0.59004154, 0.44794991, 0.44794991, 0.50334156]);
}

#[test]
fn turns_that_cannot_be_are_told() {
    let said = |toy: Toy| recorded(toy).err().expect("refused").to_string();
    let of = |turns: &[Turn]| Toy::new(turns.to_vec());
    let [audio, video] = [0, 1].map(|i| Toy::right()[i].clone());
    // Nothing of vision's encoder is in audio's turn, and momentum would move it.
    let both = Turn::of("audio", ["a", "v", "head"]);
    let why = said(of(&[both, video.clone()]));
    assert!(
        why.contains("in turn 'audio', it moves 'E_v', which none of its losses reaches"),
        "{why}"
    );
    let past = Toy { through: false, ..of(&Toy::right()) };
    let why = said(past);
    assert!(why.contains("in turn 'audio', it moves 'E_a'"), "{why}");
    let why = said(of(&[audio.clone(), Turn::of("video", ["head"])]));
    assert!(why.contains("no turn moves the parameter group 'v'"), "{why}");
    let why = said(of(&[audio.clone(), video.clone(), Turn::of("text", ["text"])]));
    assert!(why.contains("no parameter group 'text'"), "{why}");
    let why = said(of(&[audio.clone(), Turn::of("rest", ["v", "head"])]));
    assert!(why.contains("'E_v'"), "nothing was recorded in that turn: {why}");
    let mut more = of(&Toy::right());
    let other = Column { name: "t".into(), ..more.columns.list()[0].clone() };
    more.columns = Columns::new([more.columns.list(), &[other]].concat());
    let why = said(more);
    assert!(why.contains("nothing is logged as 't'"), "{why}");
    // In one turn that moves all of them they may be as they like.
    assert!(recorded(of(&[Turn { name: "all".into(), groups: None }])).is_ok());
}

#[test]
fn projectors_that_cannot_be_are_told() {
    let mut spaces = Spaces::new();
    let [p, w, grad] = ["P", "W", "d.W"].map(|name| spaces.declare(name, 16));
    let mut tape = Tape::new();
    let (state, wide) = (tape.input("P", &[3, 3], p, 0), tape.input("P", &[2, 4], p, 0));
    let [mean, long] = [3, 4].map(|d| tape.constant("r", &[1, d], &vec![1.0; d]).unwrap());
    let rule = |base| OwmRule { base, frobenius: false };
    for (p, r, base) in
        [(state, long, 0.1), (wide, long, 0.1), (state, mean, 0.0), (state, mean, 1.5)]
    {
        let why = tape.owm_update(p, r, rule(base)).unwrap_err().to_string();
        assert!(why.contains("want [d, d], [1, d]"), "{why}");
    }
    assert!(tape.owm_update(state, mean, rule(f32::NAN)).is_err());
    let fixed = tape.parameter("W", &[2, 3], (w, 0), None);
    let why = tape.project_gradient(fixed, state).unwrap_err().to_string();
    assert!(why.contains("no gradient reaches the weight"), "{why}");
    let narrow = tape.parameter("W", &[3, 2], (w, 0), Some((grad, 0)));
    let why = tape.project_gradient(narrow, state).unwrap_err().to_string();
    assert!(why.contains("want [rows, d] by [d, d]"), "{why}");
}
