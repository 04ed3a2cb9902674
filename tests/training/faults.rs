//! What goes wrong, and what is said of it.

use crate::common;
use common::{Made, TensorFile, config, gpu, open, run, session, train_epoch};
use modalign::data::{Dataset, Modality, SplitName, StreamSpec};
use modalign::gpu::{Caps, Family, GpuOptions};
use modalign::nn::Params;
use modalign::ops::lstm::LstmWeights;
use modalign::ops::objective::Goals;
use modalign::ops::{Act, random};
use modalign::plan::{Memory, Plan, Pool, SpaceId, Spaces};
use modalign::recipe::{Config, Model, Offered};
use modalign::train::{RunOptions, Session, resume, train};
use modalign::{Error, Gpu, Result, Tape, Var};
use std::sync::Arc;

fn one_line(error: &Error) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

// ---- lost devices -----------------------------------------------------------------------------

#[test]
fn every_call_on_a_lost_device_says_so() {
    let data = Made::default().open();
    let lost = |what: &str, call: &dyn Fn(&Gpu, &mut Session) -> Result<()>| {
        let gpu = open(None);
        let mut session = session(&gpu, &config(&[]), &data);
        run(&mut session, 1..=1);
        gpu.destroy();
        let error = call(&gpu, &mut session).expect_err(what);
        assert!(matches!(error, Error::DeviceLost(_)), "{what}: {error}");
        assert!(one_line(&error).contains("open it again"), "{what}: {error}");
        // And it stays lost.
        assert!(matches!(gpu.check(), Err(Error::DeviceLost(_))), "{what}");
    };
    lost("train", &|_, s| {
        let order = s.order(2);
        train_epoch(s, 2, order, &mut Vec::new())
    });
    lost("predict", &|_, s| s.predict(SplitName::Test).map(drop));
    lost("represent", &|_, s| s.represent(SplitName::Test).map(drop));
    lost("weights", &|_, s| s.weights().map(drop));
    lost("labels", &|_, s| s.labels().map(drop));
    lost("wait", &|g, _| g.wait());
    lost("poll", &|g, _| g.poll());
    lost("a new session", &|g, s| {
        Session::new(g, s.model().config(), s.data().clone(), None, true).map(drop)
    });
}

#[test]
fn a_device_may_be_lost_between_any_two_steps() {
    let made = Made { rows: [60, 4, 4], ..Made::default() };
    let data = made.open();
    let config = config(&["train.batch_size=2"]);
    for after in [1, 2, 7, 16, 17, 29] {
        let gpu = open(None);
        let mut session = session(&gpu, &config, &data);
        let mut seen = 0;
        let order = session.order(1);
        let result = session.train_epoch(1, order, |_, _| {
            seen += 1;
            if seen == after {
                gpu.destroy();
            }
            Ok(())
        });
        // After the last read-back there is nothing left that could fail but the next call.
        let result = result.and_then(|()| session.weights().map(drop));
        let error = result.expect_err("lost");
        assert!(matches!(error, Error::DeviceLost(_)), "after {after}: {error}");
    }
}

#[test]
fn an_unknown_adapter_is_told_with_those_there_are() {
    let options = GpuOptions { adapter: Some("no such".into()), ..Default::default() };
    let error = Gpu::with(&options).err().expect("an error");
    let text = one_line(&error);
    assert!(matches!(error, Error::NoAdapter(_)), "{text}");
    assert!(text.contains("'no such'") && text.contains(&gpu().caps().name), "{text}");
}

// ---- too large --------------------------------------------------------------------------------

/// Audio alone, `steps` long: rows enough for any batch.
fn long(rows: usize, steps: usize) -> Arc<Dataset> {
    let mut file = TensorFile::default();
    file.put_f32("train.audio", &[rows, steps, 1], &random(1, rows * steps));
    file.put_f32("train.regression_labels", &[rows], &random(2, rows));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.safetensors");
    file.save(&path);
    Arc::new(Dataset::open(&path).unwrap())
}

/// Whether a step of this batch can be planned.
fn plan(config: &Config, steps: usize, batch: usize, caps: &Caps) -> Result<Plan> {
    let stream = StreamSpec { modality: Modality::Audio, steps, dim: 1, lengths: true };
    let model = Model::new(config, Offered::new(&[stream]))?;
    let mut spaces = Spaces::new();
    let params = Params::new(
        model.params(true, usize::MAX),
        &model.groups(),
        &mut spaces,
        caps.max_binding,
        true,
    )?;
    let layout = model.whole_layout(batch);
    let block = spaces.declare("batch", layout.words);
    let train = model.train_spaces(&mut spaces, batch, 4);
    let mut tape = Tape::new();
    model.step(&mut tape, &params, &layout, block, (&train, 0))?;
    tape.plan(caps)
}

fn refused(gpu: &Gpu, hidden: usize, rows: usize, steps: usize) -> Error {
    let batch = format!("train.batch_size={rows}");
    let config = config(&[&batch, "train.accumulate=1", &format!("model.hidden.audio={hidden}")]);
    let result = Session::new(gpu, &config, long(rows, steps), None, true);
    let error = result.err().unwrap_or_else(|| panic!("a batch of {rows} was taken"));
    let text = one_line(&error);
    assert!(text.contains(&format!("a batch of {rows}")), "{text}");
    let (_, named) = text.split_once("(train.batch_size=").expect(&text);
    let fits: usize = named.trim_end_matches(')').parse().unwrap();
    println!("{text}");
    assert!((1..rows).contains(&fits), "{text}");
    let planned = plan(&config, steps, fits, gpu.caps()).unwrap_or_else(|e| panic!("{e}"));
    let most = gpu.caps().max_groups;
    for dispatch in planned.dispatches() {
        let kernel = dispatch.kernel.name;
        assert!(dispatch.groups.iter().all(|g| *g <= most), "{kernel} {:?}", dispatch.groups);
    }
    let more = plan(&config, steps, fits + 1, gpu.caps()).err().expect("one more does not fit");
    assert!(matches!(more, Error::OutOfMemory { .. } | Error::TooLarge { .. }), "{more}");
    error
}

#[test]
fn a_batch_that_no_binding_holds_is_refused_with_one_that_fits() {
    let gpu = gpu();
    let (steps, hidden) = (1000, 256);
    let row = (steps * 4 * hidden * 4) as u64;
    let rows = (gpu.caps().max_binding / row) as usize + 40;
    let error = refused(gpu, hidden, rows, steps);
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
}

#[test]
fn a_batch_of_too_many_workgroups_is_refused_with_one_that_fits() {
    // Every tensor fits a binding; the dispatch over all steps of all rows is what is too large.
    let error = refused(&open(Some(Family::Plain)), 4, 1250, 1000);
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("kernel 'matmul'"), "{error}");
}

#[test]
fn a_tensor_larger_than_a_binding_is_refused_by_name() {
    let caps = Caps::defaults(Family::Plain);
    let build = |rows: usize| {
        let (mut spaces, mut tape) = (Spaces::new(), Tape::new());
        let space = spaces.declare("x", rows * 1024);
        let x = tape.input("x", &[rows, 1024], space, 0);
        let y = tape.scale(x, 2.0).unwrap();
        tape.name(y, "doubled");
        tape.plan(&caps)
    };
    assert!(build(32_768).is_ok(), "128 MiB, to the byte");
    let error = build(32_769).err().expect("an error");
    let text = one_line(&error);
    assert!(matches!(error, Error::OutOfMemory { bytes, .. } if bytes == 32_769 * 4096), "{text}");
    assert!(text.contains("[32769, 1024]") && text.contains("smaller batch"), "{text}");
}

#[test]
fn a_schedule_without_any_step_is_refused() {
    let data = Made::default().open();
    let config = config(&["train.batch_size=16", "train.accumulate=3"]);
    let error = Session::new(gpu(), &config, data, None, true).err().expect("an error");
    let text = one_line(&error);
    for part in ["26 training rows", "2 micro-batches", "train.keep_tail=true"] {
        assert!(text.contains(part), "{text}");
    }
}

// ---- tape and plan ----------------------------------------------------------------------------

struct Scratchpad {
    tape: Tape,
    spaces: Spaces,
    space: SpaceId,
    used: usize,
    values: Vec<f32>,
}

impl Scratchpad {
    fn new() -> Self {
        let mut spaces = Spaces::new();
        let space = spaces.declare("values", 0);
        Scratchpad { tape: Tape::new(), spaces, space, used: 0, values: Vec::new() }
    }

    fn x(&mut self, shape: &[usize]) -> Var {
        let len = shape.iter().product::<usize>();
        let at = self.used;
        self.used = (at + len).next_multiple_of(64);
        self.values.extend(random(at as u64, self.used - at));
        self.spaces.grow(self.space, self.used).unwrap();
        self.tape.input("x", shape, self.space, at)
    }

    fn two(
        &mut self,
        a: &[usize],
        b: &[usize],
        call: impl FnOnce(&mut Tape, Var, Var) -> Result<Var>,
    ) -> Result<()> {
        let (a, b) = (self.x(a), self.x(b));
        call(&mut self.tape, a, b).map(drop)
    }

    /// The gradient of a sum of losses by `var`.
    fn gradient(mut self, gpu: &Gpu, losses: &[Var], var: Var) -> Vec<f32> {
        self.tape.backward(losses).unwrap();
        let grad = self.tape.grad(var).expect("a gradient");
        self.tape.keep(grad);
        let (program, memory) = self.tape.compile(gpu, &self.spaces).unwrap();
        let words: Vec<u32> = self.values.iter().map(|v| v.to_bits()).collect();
        memory.write(gpu, self.space, 0, &words).unwrap();
        program.run(gpu, &memory).unwrap();
        program.read(gpu, &memory, grad).unwrap()
    }
}

#[test]
fn what_was_not_kept_cannot_be_read() {
    let gpu = gpu();
    let mut pad = Scratchpad::new();
    let x = pad.x(&[4, 5]);
    let lost = pad.tape.square(x).unwrap();
    pad.tape.name(lost, "squares");
    let kept = pad.tape.sum_cols(lost).unwrap();
    pad.tape.keep(kept);
    let memory = Memory::allocate(gpu, &pad.spaces).unwrap();
    let plan = pad.tape.plan(gpu.caps()).unwrap();
    let program = plan.prepare(gpu, &memory, &mut Pool::new()).unwrap();
    program.run(gpu, &memory).unwrap();
    assert_eq!(program.read(gpu, &memory, kept).unwrap(), [0.0; 4]);
    assert_eq!(program.read(gpu, &memory, x).unwrap().len(), 20);
    let error = program.read(gpu, &memory, lost).expect_err("not kept");
    assert!(one_line(&error).contains("'squares' was not kept"), "{error}");
    assert!(program.writes(lost) && !program.writes(x));
}

#[test]
fn wrong_shapes_are_refused_when_they_are_recorded() {
    type Call = fn(&mut Scratchpad) -> Result<()>;
    let lstm = |pad: &mut Scratchpad, shapes: [&[usize]; 4], lengths: usize| {
        let [weight_ih, weight_hh, bias_ih, bias_hh] = shapes.map(|s| pad.x(s));
        let x = pad.x(&[2, 3, 4]);
        let lengths = pad.x(&[lengths]);
        let weights = LstmWeights { weight_ih, weight_hh, bias_ih, bias_hh };
        pad.tape.lstm(x, lengths, &[vec![weights]], 0.0, true).map(drop)
    };
    let mut pad = Scratchpad::new();
    let good: [&[usize]; 4] = [&[20, 4], &[20, 5], &[20], &[20]];
    lstm(&mut pad, good, 2).expect("these shapes fit");
    let bad = [
        ("one length", lstm(&mut pad, good, 3)),
        ("input width", lstm(&mut pad, [&[20, 5], good[1], good[2], good[3]], 2)),
        ("gates", lstm(&mut pad, [&[16, 4], good[1], good[2], good[3]], 2)),
        ("bias", lstm(&mut pad, [good[0], good[1], &[19], good[3]], 2)),
        ("hidden", lstm(&mut pad, [&[1028, 4], &[1028, 257], &[1028], &[1028]], 2)),
    ];
    for (what, result) in bad {
        let error = result.expect_err(what);
        assert!(matches!(error, Error::Shape { op: "lstm", .. }), "{what}: {error}");
        one_line(&error);
    }

    let calls: [(&str, Call); 23] = [
        ("matmul", |p| p.two(&[3, 4], &[5, 4], |t, a, b| t.matmul(a, b))),
        ("linear", |p| p.two(&[3, 4], &[5, 3], |t, a, b| t.linear(a, b, None, Act::None))),
        ("linear", |p| {
            let bias = p.x(&[4]);
            p.two(&[3, 4], &[5, 4], |t, a, b| t.linear(a, b, Some(bias), Act::Relu))
        }),
        ("add", |p| p.two(&[3, 4], &[3], |t, a, b| t.add(a, b))),
        ("sub", |p| p.two(&[3, 4], &[4, 3], |t, a, b| t.sub(a, b))),
        ("mul", |p| p.two(&[3, 4], &[2, 4], |t, a, b| t.mul(a, b))),
        ("concat", |p| p.two(&[3, 4], &[2, 4], |t, a, b| t.concat(&[a, b]))),
        ("concat", |p| p.tape.concat(&[]).map(drop)),
        ("slice", |p| p.two(&[3, 4], &[1], |t, a, _| t.slice(a, 2, 3))),
        ("slice", |p| p.two(&[3, 4], &[1], |t, a, _| t.slice(a, 0, 0))),
        ("reshape", |p| p.two(&[3, 4], &[1], |t, a, _| t.reshape(a, &[5, 2]))),
        ("constant", |p| p.tape.constant("c", &[3], &[1.0; 4]).map(drop)),
        ("cross_entropy", |p| p.two(&[3, 4], &[4], |t, a, b| t.cross_entropy(a, b))),
        ("weighted_l1", |p| {
            p.two(&[3, 4], &[3, 2], |t, a, b| t.weighted_l1(a, b, a).map(|l| l.loss))
        }),
        ("align", |p| p.two(&[3, 4], &[3, 5], |t, a, b| t.coral(a, b))),
        ("align", |p| p.two(&[3, 4], &[2, 4], |t, a, b| t.coral(a, b))),
        ("align", |p| p.two(&[5, 3, 4], &[1], |t, a, _| t.align_stacked(a, &[], 1.0).map(|_| a))),
        ("standardize_each", |p| p.two(&[3, 4], &[1], |t, a, _| t.standardize_each(a))),
        ("project", |p| p.two(&[3, 4], &[5, 3], |t, a, b| t.project(&[(a, b)]))),
        ("project", |p| p.tape.project(&[]).map(drop)),
        ("objective", |p| {
            // A row of the ring is too short for four tasks.
            let (rows, ring) = (p.x(&[2]), p.x(&[2, 3]));
            p.two(&[2, 4], &[4, 3], |t, a, b| t.objective(a, Goals { labels: b, rows, ring }, None))
        }),
        ("backward", |p| p.two(&[3, 4], &[1], |t, a, _| t.backward(&[a]).map(|()| a))),
        ("lstm", |p| {
            p.two(&[2, 3, 4], &[2], |t, a, b| t.lstm(a, b, &[], 0.0, true).map(|l| l.last))
        }),
    ];
    for (i, (name, call)) in calls.iter().enumerate() {
        let error = call(&mut Scratchpad::new()).expect_err(name);
        let text = one_line(&error);
        assert!(matches!(error, Error::Shape { op, .. } if op == *name), "{i}: {text}");
        assert!(text.starts_with(&format!("{name}: ")) && text.len() > name.len() + 8, "{text}");
    }
    for p in [1.0, -0.1, f32::NAN] {
        let mut pad = Scratchpad::new();
        let x = pad.x(&[3, 4]);
        let error = pad.tape.dropout(x, p).expect_err("no probability");
        assert!(one_line(&error).contains(&format!("dropout of {p}")), "{error}");
    }
    let mut spaces = Spaces::new();
    let params = Params::new(Vec::new(), &[], &mut spaces, 1 << 20, true).unwrap();
    let error = params.var(&mut Tape::new(), "nowhere.weight").expect_err("unknown");
    assert!(one_line(&error).contains("'nowhere.weight'"), "{error}");
}

// ---- gradients through views ------------------------------------------------------------------

#[test]
fn detaching_cuts_only_what_comes_after() {
    // loss = sum (2x)^2 + sum detach(2x) x, by x: 8x + 2x.
    let mut pad = Scratchpad::new();
    let x = pad.x(&[6]);
    pad.tape.watch(x);
    let y = pad.tape.scale(x, 2.0).unwrap();
    let squares = pad.tape.square(y).unwrap();
    let cut = pad.tape.detach(y).unwrap();
    let product = pad.tape.mul(cut, x).unwrap();
    let losses = [squares, product].map(|v| pad.tape.sum(v).unwrap());
    let values = pad.values.clone();
    let got = pad.gradient(gpu(), &losses, x);
    for (g, x) in got.iter().zip(values) {
        assert!((g - 10.0 * x).abs() < 1e-5, "{g}, want {}", 10.0 * x);
    }
}

#[test]
fn a_loss_may_be_part_of_another_or_given_twice() {
    // loss = a + 3a + 3a with a = sum x^2, by x: 14x. Replayed, it is the same again.
    let gpu = gpu();
    let mut pad = Scratchpad::new();
    let x = pad.x(&[6]);
    pad.tape.watch(x);
    let squares = pad.tape.square(x).unwrap();
    let a = pad.tape.sum(squares).unwrap();
    let b = pad.tape.scale(a, 3.0).unwrap();
    pad.tape.backward(&[b, a, b]).unwrap();
    let grad = pad.tape.grad(x).unwrap();
    pad.tape.keep(grad);
    let (program, memory) = pad.tape.compile(gpu, &pad.spaces).unwrap();
    let words: Vec<u32> = pad.values.iter().map(|v| v.to_bits()).collect();
    memory.write(gpu, pad.space, 0, &words).unwrap();
    for replay in 0..3 {
        program.run(gpu, &memory).unwrap();
        for (g, x) in program.read(gpu, &memory, grad).unwrap().iter().zip(&pad.values) {
            assert!((g - 14.0 * x).abs() < 1e-4, "replay {replay}: {g}, want {}", 14.0 * x);
        }
    }
}

#[test]
fn reshaping_an_output_leaves_its_gradient_alone() {
    type Call = fn(&mut Tape, Var) -> Result<Var>;
    let calls: [(&str, Call); 6] = [
        ("softmax", |t, x| t.softmax(x)),
        ("exp", |t, x| t.exp(x)),
        ("slice", |t, x| t.slice(x, 1, 4)),
        ("concat", |t, x| t.concat(&[x, x])),
        ("standardize", |t, x| t.standardize(x)),
        ("linear", |t, x| {
            let w = t.constant("w", &[3, 6], &random(9, 18))?;
            t.linear(x, w, None, Act::Tanh)
        }),
    ];
    for (name, call) in calls {
        let gradient = |flat: bool| {
            let mut pad = Scratchpad::new();
            let x = pad.x(&[4, 6]);
            pad.tape.watch(x);
            let mut y = call(&mut pad.tape, x).unwrap();
            if flat {
                let len = pad.tape.len(y);
                y = pad.tape.reshape(y, &[len]).unwrap();
            }
            let squares = pad.tape.square(y).unwrap();
            let by = pad.tape.mul(squares, y).unwrap();
            let loss = pad.tape.sum(by).unwrap();
            pad.gradient(gpu(), &[loss], x)
        };
        let (flat, whole) = (gradient(true), gradient(false));
        assert!(whole.iter().any(|g| *g != 0.0), "{name}");
        assert!(common::largest_gap(&flat, &whole) < 1e-6, "{name}");
    }
}

// ---- divergence and the loss ring -------------------------------------------------------------

#[test]
fn a_training_that_diverges_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let options = RunOptions {
        data: Made::default().save(folder.path()),
        out: folder.path().join("run"),
        config: config(&["train.lr=1e30", "train.max_epochs=5"]),
        init: None,
        fold: None,
    };
    let error = train(gpu(), &options, &mut ()).expect_err("diverged");
    let text = one_line(&error);
    for part in ["not finite", "diverged in epoch 1, batch ", "train.lr", "train.clip_norm"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!options.out.join("model.safetensors").exists());
    assert!(!options.out.join("metrics.json").exists());
    assert!(!options.out.join("last.safetensors").exists());
}

#[test]
fn an_epoch_that_diverges_leaves_the_one_before() {
    // Without validation rows every epoch is the best so far; one update, at the end of each.
    let folder = tempfile::tempdir().unwrap();
    let data = Made { rows: [26, 0, 9], ..Made::default() }.save(folder.path());
    let begin = |name: &str, lr: &str| {
        let config = config(&["train.accumulate=4", "train.max_epochs=3", lr]);
        let (data, out) = (data.clone(), folder.path().join(name));
        let options = RunOptions { data, out, config, init: None, fold: None };
        let error = train(gpu(), &options, &mut ()).expect_err("diverged");
        (options.out, error)
    };
    // The losses of the first epoch come before anything has moved.
    let (out, error) = begin("late", "train.lr=1e20");
    assert!(matches!(error, Error::Diverged { epoch: 2, batch: Some(1), .. }), "{error}");
    let epochs = std::fs::read_to_string(out.join("epochs.jsonl")).unwrap();
    assert_eq!(epochs.lines().count(), 1, "{epochs}");
    let record: serde_json::Value = serde_json::from_str(epochs.trim()).unwrap();
    assert!(record["loss"].is_number() && record["best"] == true, "{record}");
    assert!(record["parts"].as_object().unwrap().values().all(|v| v.is_number()), "{record}");
    let state = std::fs::read(out.join("state/state.safetensors")).unwrap();
    let again = resume(gpu(), &out, None, None, &mut ()).expect_err("diverges again");
    assert_eq!(again.to_string(), error.to_string());
    assert!(std::fs::read(out.join("state/state.safetensors")).unwrap() == state);

    // A rate that no device can hold is refused before anything is written.
    let (out, error) = begin("broken", "train.lr=1e39");
    assert!(matches!(error, Error::Config(_)), "{error}");
    assert!(one_line(&error).contains("lr is 1"), "{error}");
    for name in ["model.safetensors", "epochs.jsonl", "state/state.safetensors"] {
        assert!(!out.join(name).exists(), "{name}");
    }
}

#[test]
fn hundreds_of_losses_arrive_in_order() {
    // Without a learning rate the loss of a batch of one is its row's own error.
    let made = Made { rows: [331, 2, 2], ..Made::default() };
    let data = made.open();
    let set = ["train.batch_size=1", "train.lr=0", "train.decay=0", "align.weight=0"];
    let mut session = session(gpu(), &config(&[&set[..], &["model.dropout=0"]].concat()), &data);
    let scores = session.predict(SplitName::Train).unwrap().fused();
    let truth = data.split(SplitName::Train).unwrap().labels().unwrap().to_vec();
    for epoch in 1..=2 {
        let (order, mut records) = (session.order(epoch), Vec::new());
        let mut done = Vec::new();
        session
            .train_epoch(epoch, order.clone(), |record, count| {
                records.push(record);
                done.push(count);
                Ok(())
            })
            .unwrap();
        assert_eq!(done, (1..=331).collect::<Vec<_>>());
        for (i, (record, row)) in records.iter().zip(&order).enumerate() {
            assert_eq!((record.epoch, record.batch), (epoch, i + 1));
            let want = (scores[*row as usize] - truth[*row as usize]).abs();
            assert!((record.get("M").unwrap() - want).abs() < 1e-5, "row {row} of epoch {epoch}");
        }
    }
}

#[test]
fn a_report_that_fails_ends_the_epoch_and_not_the_session() {
    let data = Made::default().open();
    let mut session = session(gpu(), &config(&[]), &data);
    let order = session.order(1);
    let stop = || Error::Config("stop here".into());
    let error = session.train_epoch(1, order.clone(), |_, _| Err(stop())).expect_err("stopped");
    assert!(error.to_string().contains("stop here"), "{error}");
    let mut records = Vec::new();
    train_epoch(&mut session, 1, order, &mut records).expect("it trains on");
    assert_eq!(records.len(), 4);
    assert!(records.iter().all(|r| r.values[0] > 0.0), "rows of this epoch alone");
}
