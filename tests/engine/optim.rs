//! Optimisers, groups, clipping, schedules: against PyTorch (`tests/fixtures/golden_optim.py`), and
//! what a training loop of one's own relies on.

use crate::common;
use common::{TensorFile, of_largest, open};
use modalign::gpu::Family;
use modalign::nn::{
    Group, Groups, Init, Optimizer, ParamSpec, Params, Schedule, Weights, linear, linear_specs,
};
use modalign::ops::Act;
use modalign::ops::optim::{ArenaVars, Clip, Moments, Row};
use modalign::plan::{Memory, Pool, Program, SpaceId, Spaces, Step};
use modalign::{Gpu, Result, Tape, Var};
use serde_json::Value;

fn families() -> [Gpu; 3] {
    [open(None), open(Some(Family::Tiled)), open(Some(Family::Plain))]
}

// ---- against PyTorch --------------------------------------------------------------------------

const ROWS: usize = 12;
const PITCH: usize = 8;
const SIZES: [(&str, usize); 2] = [("hidden", 5), ("out", 8)];

fn number(v: &Value) -> f64 {
    v.as_f64().unwrap()
}

fn schedule(v: &Value) -> Schedule {
    let n = |key: &str| v[key].as_u64().unwrap();
    match v["kind"].as_str() {
        None => Schedule::Constant,
        Some("linear_with_warmup") => Schedule::linear_with_warmup(n("warmup"), n("total")),
        Some("cosine") => Schedule::Cosine { steps: n("steps"), least: number(&v["least"]) },
        Some("step") => Schedule::Step { every: n("every"), factor: number(&v["factor"]) },
        Some("linear") => {
            let (from, to) = (number(&v["start"]), number(&v["end"]));
            Schedule::Linear { from, to, steps: n("steps") }
        }
        Some(other) => panic!("a schedule {other}"),
    }
}

fn group(name: &str, v: &Value, run: &Value) -> Group {
    let betas = || (number(&v["betas"][0]), number(&v["betas"][1]));
    let optimizer = match v["kind"].as_str().unwrap() {
        "adam" => Optimizer::Adam { betas: betas(), eps: number(&v["eps"]) },
        "adamw" => Optimizer::AdamW { betas: betas(), eps: number(&v["eps"]) },
        _ => Optimizer::Sgd {
            momentum: number(&v["momentum"]),
            dampening: number(&v["dampening"]),
            nesterov: v["nesterov"].as_bool().unwrap(),
        },
    };
    Group::new(name, optimizer, number(&v["lr"]))
        .weight_decay(number(&v["weight_decay"]))
        .schedule(schedule(&run["schedule"]))
}

/// The fixture's regression, with the parameters in its groups.
struct Rig<'g> {
    gpu: &'g Gpu,
    params: Params,
    memory: Memory,
    x: SpaceId,
    y: SpaceId,
    /// One for each turn, with its loss and, where gradients are clipped by it, their squared norm.
    programs: Vec<(Program, Var, Option<Var>)>,
}

impl<'g> Rig<'g> {
    /// `turns` are the groups that programs update; none for all of them.
    fn new(gpu: &'g Gpu, groups: &[Group], clip: Clip, turns: &[Vec<&str>]) -> Result<Self> {
        let mut specs: Vec<ParamSpec> = Vec::new();
        for ((name, inputs), (pitch, outputs)) in SIZES.into_iter().zip([(PITCH, 8), (8, 3)]) {
            specs.extend(linear_specs(name, (inputs, pitch, outputs), true, "bias"));
        }
        specs[0].group = "in".into();
        specs[2].group = "out".into();
        let mut spaces = Spaces::new();
        let (x, y) = (spaces.declare("x", ROWS * PITCH), spaces.declare("y", ROWS * 3));
        let params = Params::new(specs, groups, &mut spaces, gpu.caps().max_binding, true)?;
        let memory = Memory::allocate(gpu, &spaces)?;
        let (mut programs, mut pool) = (Vec::new(), Pool::new());
        for turn in turns.iter().map(Some).chain(turns.is_empty().then_some(None)) {
            let mut tape = Tape::new();
            let input = tape.input("x", &[ROWS, PITCH], x, 0);
            let wanted = tape.input("y", &[ROWS, 3], y, 0);
            let h = linear(&mut tape, &params, "hidden", input, Act::Tanh)?;
            let out = linear(&mut tape, &params, "out", h, Act::None)?;
            let off = tape.sub(out, wanted)?;
            let off = tape.square(off)?;
            let loss = tape.mean(off)?;
            tape.keep(loss);
            tape.backward(&[loss])?;
            let norm = match turn {
                Some(names) => params.optimize_only(&mut tape, names, clip)?,
                None => params.optimize(&mut tape, clip)?,
            };
            norm.into_iter().for_each(|norm| tape.keep(norm));
            let program = tape.plan(gpu.caps())?.prepare(gpu, &memory, &mut pool)?;
            programs.push((program, loss, norm));
        }
        Ok(Rig { gpu, params, memory, x, y, programs })
    }

    fn batch(&self, file: &TensorFile, b: usize) {
        let mut padded = vec![0.0; ROWS * PITCH];
        let x = &file.f32("x")[b * ROWS * 5..][..ROWS * 5];
        for (to, from) in padded.chunks_mut(PITCH).zip(x.chunks(5)) {
            to[..5].copy_from_slice(from);
        }
        self.memory.write(self.gpu, self.x, 0, bytemuck::cast_slice(&padded)).unwrap();
        let y = &file.f32("y")[b * ROWS * 3..][..ROWS * 3];
        self.memory.write(self.gpu, self.y, 0, bytemuck::cast_slice(y)).unwrap();
    }

    fn weights(&self) -> Weights {
        self.params.download(self.gpu, &self.memory).unwrap()
    }

    fn gradients(&self) -> Weights {
        self.params.gradients(self.gpu, &self.memory).unwrap()
    }
}

/// The largest difference of a run from PyTorch's, of the largest element of a tensor in a step.
fn run(gpu: &Gpu, file: &TensorFile, name: &str, run: &Value) -> f64 {
    let order = ["in", "out", "bias"];
    let list = order.map(|g| group(g, &run["groups"][g], run));
    let bound = |key: &str| run[key].as_f64().map(|v| v as f32);
    let clip = Clip { norm: bound("clip_norm"), value: bound("clip_value") };
    let turns: Vec<Vec<&str>> = run["turns"].as_array().map_or(Vec::new(), |turns| {
        let names =
            |t: &Value| t.as_array().unwrap().iter().map(|v| order_name(v, order)).collect();
        turns.iter().map(names).collect()
    });
    let accumulate = run["accumulate"].as_u64().unwrap_or(1) as usize;
    let rig = Rig::new(gpu, &list, clip, &turns).unwrap();
    rig.params.upload(gpu, &rig.memory, &file.weights("init.")).unwrap();
    let mut groups = rig.params.groups();
    let clear = rig.params.grad_spaces();
    let get = |what: &str| file.f32(&format!("{name}.{what}"));
    let (losses, norms, rates) = (get("loss"), get("norm"), get("rates"));
    let grad_scale = 1.0 / accumulate as f32;
    rig.memory.write_step(gpu, &Step { grad_scale, ..Step::default() }).unwrap();
    let mut worst = 0.0_f64;
    for t in 0..20 {
        let turn = t % rig.programs.len();
        let (program, loss, norm) = &rig.programs[turn];
        for (g, want) in order.iter().zip(&rates[t * 3..]) {
            // Of a group whose turn it is not, the next step's.
            let rate = groups.get(g).unwrap().rate(groups.steps(g).unwrap() + 1);
            assert!((rate as f32 - want).abs() <= 1e-6 * want.abs(), "{name} {t}: {g} at {rate}");
        }
        match turns.get(turn) {
            Some(names) => groups.advance_only(names).unwrap(),
            None => groups.advance(),
        }
        groups.write(gpu, &rig.memory).unwrap();
        for b in 0..accumulate {
            rig.batch(file, b);
            // An update has zeroed what it took; others' gradients are left by turns.
            let clear = if b == 0 && !turns.is_empty() { &clear[..] } else { &[] };
            program.replay(gpu, &rig.memory, b + 1 == accumulate, clear, None).unwrap();
        }
        let got = program.read(gpu, &rig.memory, *loss).unwrap()[0];
        assert!((got - losses[t]).abs() <= 3e-6 * losses[t], "{name} {t}: {got}, {}", losses[t]);
        if let Some(norm) = norm {
            let got = grad_scale * program.read(gpu, &rig.memory, *norm).unwrap()[0].sqrt();
            assert!((got - norms[t]).abs() <= 1e-5 * norms[t], "{name} {t}: {got}, {}", norms[t]);
        }
        let weights = rig.weights();
        for (param, shape, got) in weights.iter() {
            let want = get(param);
            let len: usize = shape.iter().product();
            worst = worst.max(of_largest(got, &want[t * len..(t + 1) * len]));
        }
        if turns.is_empty() {
            let zero = rig.gradients().iter().all(|(_, _, g)| g.iter().all(|v| *v == 0.0));
            assert!(zero, "{name}: an update zeroes gradients");
        }
    }
    worst
}

fn order_name(v: &Value, order: [&'static str; 3]) -> &'static str {
    order.into_iter().find(|name| v == name).unwrap()
}

#[test]
fn twenty_steps_are_pytorchs() {
    let file = TensorFile::fixture("optim.safetensors");
    let runs: Value = serde_json::from_str(&file.metadata["runs"]).unwrap();
    let runs = runs.as_object().unwrap();
    assert_eq!(runs.len(), 15);
    for gpu in &families() {
        for (name, settings) in runs {
            let gap = run(gpu, &file, name, settings);
            println!("{name} on {}: {gap:.1e}", gpu.caps().family);
            assert!(gap < 3e-6, "{name} on {} is off by {gap:e}", gpu.caps().family);
        }
    }
}

// ---- a loop of one's own ----------------------------------------------------------------------

/// Parameters of `len` elements, each in the group that is beside it, whose gradient is a constant:
/// that of loss = Σ c · w.
fn constant(
    gpu: &Gpu,
    list: &[(&str, &str, f32)],
    groups: &[Group],
    finish: impl FnOnce(&Params, &mut Tape) -> Result<()>,
) -> Result<(Params, Memory, Program)> {
    const LEN: usize = 40;
    let specs =
        list.iter().map(|(name, group, _)| ParamSpec::new(*name, &[LEN], group, Init::Ones));
    let mut spaces = Spaces::new();
    let params = Params::new(specs.collect(), groups, &mut spaces, gpu.caps().max_binding, true)?;
    let mut tape = Tape::new();
    let mut losses = Vec::new();
    for (name, _, c) in list {
        let w = params.var(&mut tape, name)?;
        let c = tape.constant("c", &[LEN], &[*c; LEN])?;
        let product = tape.mul(w, c)?;
        losses.push(tape.sum(product)?);
    }
    tape.backward(&losses)?;
    finish(&params, &mut tape)?;
    let (program, memory) = tape.compile(gpu, &spaces)?;
    memory.write_step(gpu, &Step::default()).unwrap();
    params.upload(gpu, &memory, &params.initial(1))?;
    Ok((params, memory, program))
}

/// The one value that all elements of a tensor have.
fn only(weights: &Weights, name: &str) -> f32 {
    let values = weights.get(name).unwrap_or_else(|| panic!("no {name}")).1;
    assert!(values.iter().all(|v| v.to_bits() == values[0].to_bits()), "{name}: {values:?}");
    values[0]
}

fn dispatches(program: &Program, kernel: &str) -> usize {
    program.plan().dispatches().iter().filter(|d| d.kernel.name == kernel).count()
}

#[test]
fn there_may_be_any_number_of_groups() {
    let names: Vec<String> = (0..70).map(|i| format!("p{i}")).collect();
    // Given in another order than the groups.
    let list: Vec<(&str, &str, f32)> =
        names.iter().rev().map(|n| (n.as_str(), n.as_str(), 1.0)).collect();
    let groups: Vec<Group> = names
        .iter()
        .enumerate()
        .map(|(i, name)| Group::sgd(name, 2.0_f64.powi(-(i as i32 % 20) - 1), 0.5))
        .collect();
    for gpu in &families() {
        let (params, memory, program) =
            constant(gpu, &list, &groups, |p, t| p.optimize(t, Clip::default()).map(drop)).unwrap();
        assert_eq!(dispatches(&program, "sgd"), 1, "one dispatch, however many groups");
        let mut live = params.groups();
        // Rates may change from step to step.
        for t in 0..3 {
            live.advance();
            live.set_lr("p41", f64::from(t)).unwrap();
            live.write(gpu, &memory).unwrap();
            program.run(gpu, &memory).unwrap();
        }
        let weights = params.download(gpu, &memory).unwrap();
        for (i, name) in names.iter().enumerate() {
            // Momentum 0.5 of a gradient of 1: steps of 1, 1.5, 1.75.
            let rate = 0.5_f32.powi(i as i32 % 20 + 1);
            let want = if i == 41 { 1.0 - (1.5 + 2.0 * 1.75) } else { 1.0 - 4.25 * rate };
            assert_eq!(only(&weights, name), want, "{name} on {}", gpu.caps().family);
        }
    }
}

#[test]
fn optimisers_that_keep_different_things_have_arenas_of_their_own() {
    let gpu = open(None);
    let groups = [
        Group::adam("adam", 0.1),
        Group::sgd("plain", 0.25, 0.0),
        Group::adam_w("adamw", 0.1),
        Group::sgd("momentum", 0.5, 0.9),
    ];
    let list =
        [("a", "adam", 1.0), ("p", "plain", 1.0), ("w", "adamw", 1.0), ("m", "momentum", 1.0)];
    let (params, memory, program) =
        constant(&gpu, &list, &groups, |p, t| p.optimize(t, Clip::default()).map(drop)).unwrap();
    assert_eq!((dispatches(&program, "adam"), dispatches(&program, "sgd")), (1, 2));
    let kept: Vec<String> = params.state_spaces().into_iter().map(|(name, ..)| name).collect();
    let want = ["params.0", "adam.m.0", "adam.v.0", "params.1", "momentum.1", "params.2"];
    assert_eq!(kept, want, "nothing is kept that is not needed");
    let mut live = params.groups();
    live.advance();
    live.write(&gpu, &memory).unwrap();
    program.run(&gpu, &memory).unwrap();
    let weights = params.download(&gpu, &memory).unwrap();
    let got = ["a", "p", "w", "m"].map(|name| only(&weights, name));
    // Adam's first step is its rate; AdamW's has the value shrunk by 0.1 · 0.01 besides.
    let want = [0.9, 0.75, 0.899, 0.5];
    assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6), "{got:?}");
}

#[test]
fn turns_leave_other_groups_alone() {
    let groups = ["a", "b", "c", "d"].map(|name| Group::adam(name, 0.1));
    // Each in a stretch of its own, or side by side.
    for (turn, stretches) in [(&["a", "c"][..], 2), (&["b", "c"], 1), (&["d"], 1), (&[], 0)] {
        for gpu in &families() {
            let list = [("pa", "a", 3.0), ("pb", "b", 4.0), ("pc", "c", 0.0), ("pd", "d", 12.0)];
            let clip = Clip::norm(1e3);
            let mut norm = None;
            let (params, memory, program) = constant(gpu, &list, &groups, |p, t| {
                norm = p.optimize_only(t, turn, clip)?;
                norm.into_iter().for_each(|norm| t.keep(norm));
                Ok(())
            })
            .unwrap();
            assert_eq!(dispatches(&program, "adam"), stretches, "{turn:?}");
            let mut live = params.groups();
            live.advance_only(turn).unwrap();
            live.write(gpu, &memory).unwrap();
            program.run(gpu, &memory).unwrap();
            let weights = params.download(gpu, &memory).unwrap();
            let grads = params.gradients(gpu, &memory).unwrap();
            let mut square = 0.0;
            for (name, group, c) in list {
                let (value, grad) = (only(&weights, name), only(&grads, name));
                if turn.contains(&group) {
                    let want = if c > 0.0 { 0.9 } else { 1.0 };
                    assert!((value - want).abs() < 1e-6 && grad == 0.0, "{name}: {value}, {grad}");
                    square += 40.0 * c * c;
                } else {
                    assert_eq!((value, grad), (1.0, c), "{name} is not of {turn:?}");
                }
            }
            if let Some(norm) = norm {
                assert_eq!(program.read(gpu, &memory, norm).unwrap(), [square]);
            }
        }
    }
}

#[test]
fn gradients_accumulate_until_they_are_taken() {
    let gpu = open(None);
    let (params, memory, program) =
        constant(&gpu, &[("p", "all", 0.5)], &[Group::sgd("all", 1.0, 0.0)], |p, t| {
            p.optimize(t, Clip::default()).map(drop)
        })
        .unwrap();
    let grad = || only(&params.gradients(&gpu, &memory).unwrap(), "p");
    let value = || only(&params.download(&gpu, &memory).unwrap(), "p");
    let replay = |update| program.replay(&gpu, &memory, update, &[], None).map(drop).unwrap();
    replay(false);
    replay(false);
    assert_eq!((grad(), value()), (1.0, 1.0));
    params.zero_grad(&gpu, &memory).unwrap();
    assert_eq!(grad(), 0.0);
    // A group that has not advanced is left as it is, and so are its gradients.
    replay(true);
    assert_eq!((grad(), value()), (0.5, 1.0));
    let mut groups = params.groups();
    groups.advance();
    groups.write(&gpu, &memory).unwrap();
    memory.write_step(&gpu, &Step { grad_scale: 0.25, ..Step::default() }).unwrap();
    replay(false);
    replay(false);
    replay(true);
    assert_eq!((grad(), value()), (0.0, 0.5), "the mean of four");
    // And nothing is allocated for a step.
    gpu.wait().unwrap();
    let before = gpu.resources();
    for _ in 0..5 {
        groups.advance();
        groups.write(&gpu, &memory).unwrap();
        replay(true);
        assert_eq!(gpu.resources(), before);
    }
}

#[test]
fn values_are_set_and_read() {
    let gpu = open(None);
    let mut spaces = Spaces::new();
    let specs = vec![
        ParamSpec::new("w", &[2, 3], "all", Init::Ones).padded(4),
        ParamSpec::new("half", &[2, 2], "", Init::Ones).frozen(true).halved(true),
        ParamSpec::new("other", &[2], "all", Init::Ones),
    ];
    let groups = [Group::adam("all", 1e-3)];
    let params = Params::new(specs, &groups, &mut spaces, 1 << 20, true).unwrap();
    let memory = Memory::allocate(&gpu, &spaces).unwrap();
    params.upload(&gpu, &memory, &params.initial(1)).unwrap();
    let read = |name: &str| params.download(&gpu, &memory).unwrap().get(name).unwrap().1.to_vec();
    let six = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    params.set(&gpu, &memory, "w", &[2, 3], &six).unwrap();
    params.set(&gpu, &memory, "half", &[2, 2], &[0.5, -2.0, 65504.0, 0.0]).unwrap();
    assert_eq!(read("w"), six);
    assert_eq!(read("half"), [0.5, -2.0, 65504.0, 0.0]);
    assert_eq!(read("other"), [1.0; 2], "what is not given keeps its values");
    let fail = |name: &str, shape: &[usize], values: &[f32]| {
        params.set(&gpu, &memory, name, shape, values).unwrap_err().to_string()
    };
    assert!(fail("v", &[1], &[0.0]).contains("no parameter 'v'"));
    assert!(fail("w", &[3, 2], &six).contains("'w' is [2, 3], the values given are [3, 2]"));
    assert!(fail("w", &[2, 3], &six[1..]).contains("5 values for 'w' of shape [2, 3]"));
    assert!(fail("half", &[2, 2], &[0.0, 0.0, 1e5, 0.0]).contains("'half' is stored by halves"));
    assert!(fail("half", &[2, 2], &[0.0, f32::NAN, 0.0, 0.0]).contains("not finite"));
    // One wrong tensor, and none is set.
    let mut weights = Weights::default();
    weights.insert("other", vec![2], vec![7.0; 2]);
    weights.insert("w", vec![6], six.to_vec());
    assert!(params.upload(&gpu, &memory, &weights).is_err());
    assert_eq!(read("other"), [1.0; 2]);
    weights.remove("w");
    weights.insert("of another model", vec![1], vec![0.0]);
    params.upload(&gpu, &memory, &weights).unwrap();
    assert_eq!((read("other"), read("w")), (vec![7.0; 2], six.to_vec()));
}

/// What is not a number must be seen, however gradients are clipped.
#[test]
fn nan_survives() {
    let both = Clip { norm: Some(1.0), value: Some(0.1) };
    for gpu in &families() {
        for group in
            [Group::adam("all", 0.1), Group::sgd("all", 0.1, 0.9), Group::sgd("all", 0.1, 0.0)]
        {
            for clip in [Clip::default(), Clip::value(0.1), Clip::norm(1.0), both] {
                let (params, memory, program) = constant(
                    gpu,
                    &[("p", "all", f32::NAN)],
                    std::slice::from_ref(&group),
                    |p, t| p.optimize(t, clip).map(drop),
                )
                .unwrap();
                let mut groups = params.groups();
                groups.advance();
                groups.write(gpu, &memory).unwrap();
                program.run(gpu, &memory).unwrap();
                let weights = params.download(gpu, &memory).unwrap();
                let values = weights.get("p").unwrap().1;
                let at = format!("{:?}, {clip:?} on {}", group.optimizer, gpu.caps().family);
                assert!(values.iter().all(|v| v.is_nan()), "{at}: {}", values[0]);
            }
        }
    }
}

#[test]
fn what_cannot_be_trained_is_told() {
    let make = |specs: Vec<ParamSpec>, groups: &[Group], trainable| {
        Params::new(specs, groups, &mut Spaces::new(), 1 << 20, trainable)
    };
    let spec = |name: &str, group: &str| ParamSpec::new(name, &[4], group, Init::Ones);
    let groups = [Group::adam("head", 0.1), Group::adam("bert", 0.1)];
    let text = |result: Result<Params>| match result {
        Err(error) => error.to_string(),
        Ok(_) => panic!("taken"),
    };
    let error = text(make(vec![spec("w", "haed")], &groups, true));
    assert!(error.contains("parameter 'w': no parameter group 'haed'; did you mean 'head'?"));
    let error = text(make(vec![spec("w", "head")], &[], true));
    assert!(error.contains("no parameter group 'head': none was given"), "{error}");
    let twice = [groups[0].clone(), groups[0].clone()];
    assert!(text(make(Vec::new(), &twice, true)).contains("two parameter groups are named 'head'"));
    let error = text(make(vec![spec("w", "head"), spec("w", "bert")], &groups, true));
    assert!(error.contains("two parameters are named 'w'"), "{error}");
    let error = text(make(vec![spec("a", "head"), spec("b", "bert").joined()], &groups, true));
    assert!(error.contains("'b' is joined"), "{error}");
    for (wrong, said) in [
        (ParamSpec::new("w", &[2, 4], "head", Init::Ones).padded(3), "rows of 4 in a pitch of 3"),
        (ParamSpec { half: true, ..spec("w", "head") }, "'w' is stored by halves: freeze it"),
        (
            ParamSpec { part: Some((2..6, 5)), ..spec("w", "head") },
            "holds the rows Some((2..6, 5))",
        ),
        (
            ParamSpec { part: Some((0..3, 5)), ..spec("w", "head") },
            "holds the rows Some((0..3, 5))",
        ),
    ] {
        let error = text(make(vec![wrong], &groups, true));
        assert!(error.contains(said), "{error}");
    }
    // Without an element there is nothing to do.
    let empty = make(vec![ParamSpec::new("w", &[0], "head", Init::Ones)], &groups, true).unwrap();
    assert!(empty.optimize(&mut Tape::new(), Clip::default()).unwrap().is_none());

    let fixed = make(vec![spec("w", "nowhere")], &[], false).unwrap();
    let error = fixed.optimize(&mut Tape::new(), Clip::default()).unwrap_err().to_string();
    assert!(error.contains("made without gradients"), "{error}");
    let params = make(vec![spec("w", "head")], &groups, true).unwrap();
    let error = params.optimize_only(&mut Tape::new(), &["bret"], Clip::default()).unwrap_err();
    assert!(error.to_string().contains("did you mean 'bert'?"), "{error}");
    for (clip, said) in [(Clip::norm(0.0), "largest norm of 0"), (Clip::value(-1.0), "value of -1")]
    {
        let error = params.optimize(&mut Tape::new(), clip).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    assert!(params.optimize(&mut Tape::new(), Clip::value(f32::NAN)).is_err());
    // Nothing to do is no error: frozen parameters alone, or none.
    let frozen = make(vec![spec("w", "head").frozen(true)], &groups, true).unwrap();
    for params in [frozen, make(Vec::new(), &[], true).unwrap()] {
        let mut tape = Tape::new();
        assert!(params.optimize(&mut tape, Clip::norm(1.0)).unwrap().is_none());
        assert!(tape.is_empty());
    }
}

#[test]
fn arenas_that_do_not_fit_are_told() {
    let try_with = |lens: [usize; 4], runs: &[(usize, usize)], table: usize| {
        let (mut spaces, mut tape) = (Spaces::new(), Tape::new());
        let [value, grad, m, v] = lens.map(|len| {
            let space = spaces.declare("arena", len);
            tape.input("arena", &[len], space, 0)
        });
        let space = spaces.declare("table", table);
        let table = tape.input("table", &[table], space, 0);
        let arena = ArenaVars { value, grad, moments: Moments::Adam { m, v }, runs: runs.to_vec() };
        tape.optimize(&[arena], table, Clip::default()).map_err(|e| e.to_string())
    };
    let rows = 2 * Row::WORDS;
    try_with([64; 4], &[(32, 0), (64, 1)], rows).unwrap();
    try_with([64; 4], &[(32, 1)], rows).unwrap();
    for (lens, runs, table, said) in [
        ([64, 64, 64, 128], &[(64, 0)][..], rows, "64 values beside a tensor of 128"),
        ([64, 128, 64, 64], &[(64, 0)], rows, "64 values beside a tensor of 128"),
        ([64; 4], &[(68, 0)], rows, "ends at 68 of 64"),
        ([64; 4], &[(32, 0), (32, 1)], rows, "ends at 32 of 64, after one at 32"),
        ([64; 4], &[(30, 0)], rows, "ends at 30 of 64"),
        ([66; 4], &[(64, 0)], rows, "an arena of 66"),
        ([64; 4], &[(64, 2)], rows, "group 2, where there are 2"),
        ([64; 4], &[(64, 0)], 11, "not rows of 12"),
        ([64; 4], &[(64, 0)], 0, "not rows of 12"),
    ] {
        let error = try_with(lens, runs, table).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

/// A group's settings change what its next steps do, and nothing else.
#[test]
fn settings_change_between_steps() {
    let gpu = open(None);
    let list = [("p", "all", 1.0)];
    let finish = |p: &Params, t: &mut Tape| p.optimize(t, Clip::default()).map(drop);
    let (params, memory, program) =
        constant(&gpu, &list, &[Group::sgd("all", 0.25, 0.5)], finish).unwrap();
    let mut groups: Groups = params.groups();
    let step = |groups: &mut Groups| {
        groups.advance();
        groups.write(&gpu, &memory).unwrap();
        program.run(&gpu, &memory).unwrap();
        only(&params.download(&gpu, &memory).unwrap(), "p")
    };
    assert_eq!(step(&mut groups), 0.75);
    groups
        .change("all", |g| {
            g.optimizer = Optimizer::Sgd { momentum: 0.25, dampening: 0.5, nesterov: false };
            g.lr = 1.0;
        })
        .unwrap();
    // Its momentum is 0.25 · 1 + 0.5 · 1 now.
    assert_eq!(step(&mut groups), 0.0);
    // A run that goes on counts from where it was.
    groups.set_steps("all", 40).unwrap();
    groups.advance();
    assert_eq!(groups.steps("all").unwrap(), 41);
    assert!(groups.set_steps("nobody", 1).is_err() && groups.steps("nobody").is_err());
}
