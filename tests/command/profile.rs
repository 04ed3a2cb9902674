//! Where a step's time goes: the accounts that profiles and predictions stand on, profiles of real
//! steps, and the command.

use crate::{common, ran};
use common::{Made, config, gpu, session};
use modalign::bench::{Figures, PUBLISHED};
use modalign::gpu::{Caps, Defines, Family};
use modalign::ops::lstm::LstmWeights;
use modalign::ops::optim::{ArenaVars, Clip, Moments, Row};
use modalign::ops::{Act, KERNELS, embed, random, run_twin};
use modalign::plan::{Access, CaseArg, Clock, Moves, Plan, Planned, Spaces, Stage};
use modalign::train::{By, typical_step};
use modalign::{Tape, Var};
use ran::{Place, Ran, SMALL, fails};
use serde_json::Value;
use std::path::Path;
use std::sync::OnceLock;

// ---- accounts ---------------------------------------------------------------------------------

fn plan(tape: Tape) -> Plan {
    tape.plan(&Caps::defaults(Family::Tiled)).unwrap()
}

fn find<'p>(plan: &'p Plan, kernel: &str, stage: Stage) -> &'p Planned {
    let mut all = plan.dispatches().iter();
    all.find(|d| d.kernel.name == kernel && d.stage == stage).expect(kernel)
}

fn ones(tape: &mut Tape, shape: &[usize]) -> Var {
    tape.constant("ones", shape, &vec![1.0; shape.iter().product()]).unwrap()
}

#[test]
fn a_product_reads_what_it_adds_to() {
    let mut spaces = Spaces::new();
    let (values, grads) = (spaces.declare("values", 256), spaces.declare("grads", 256));
    let mut tape = Tape::new();
    let x = ones(&mut tape, &[6, 20]);
    let w = tape.parameter("w", &[8, 20], (values, 0), Some((grads, 0)));
    let b = tape.parameter("b", &[8], (values, 192), Some((grads, 192)));
    let y = tape.linear(x, w, Some(b), Act::None).unwrap();
    let loss = tape.sum(y).unwrap();
    tape.backward(&[loss]).unwrap();
    let plan = plan(tape);
    let forward = find(&plan, "matmul", Stage::Forward);
    assert_eq!(forward.bytes, 4 * (6 * 20 + 8 * 20 + 8 + 6 * 8));
    assert_eq!(forward.flops, 2 * 6 * 20 * 8);
    // Of w and b, which gather over batches: read and written.
    let backward = find(&plan, "matmul", Stage::Backward);
    assert_eq!(backward.bytes, 4 * (6 * 8 + 6 * 20 + 2 * 8 * 20 + 2 * 8));
    assert_eq!(backward.flops, 2 * 6 * 20 * 8);
    // Twenty terms in slices of sixteen.
    assert_eq!((forward.rounds, backward.rounds), (2, 1));
}

#[test]
fn a_split_product_reads_nothing_of_its_parts() {
    let mut tape = Tape::new();
    let (x, w) = (ones(&mut tape, &[3, 4096]), ones(&mut tape, &[4096, 8]));
    let y = tape.matmul(x, w).unwrap();
    tape.keep(y);
    let plan = plan(tape);
    let product = find(&plan, "matmul", Stage::Forward);
    let parts = 8 * (3 * 8 + 3);
    assert_eq!(product.bytes, 4 * (3 * 4096 + 4096 * 8 + parts));
    assert_eq!(find(&plan, "fold", Stage::Forward).bytes, 4 * (parts + 3 * 8));
}

#[test]
fn a_recurrence_updates_its_gates_and_takes_its_steps_in_turn() {
    let (batch, steps, width, hidden) = (2, 5, 4, 8);
    let mut tape = Tape::new();
    let x = ones(&mut tape, &[batch, steps, width]);
    let lengths = ones(&mut tape, &[batch]);
    let mut weights = || LstmWeights {
        weight_ih: ones(&mut tape, &[4 * hidden, width]),
        weight_hh: ones(&mut tape, &[4 * hidden, hidden]),
        bias_ih: ones(&mut tape, &[4 * hidden]),
        bias_hh: ones(&mut tape, &[4 * hidden]),
    };
    let both = vec![weights(), weights()];
    let y = tape.lstm(x, lengths, &[both], 0.0, true).unwrap();
    tape.keep(y.last);
    let plan = plan(tape);
    let d = find(&plan, "lstm_forward", Stage::Forward);
    let (gates, state) = (batch * steps * 4 * hidden, batch * steps * hidden);
    // Both directions in one dispatch, each its half of y and of the last state.
    let out = state + batch * hidden;
    let words = 2 * (2 * gates + 4 * hidden * hidden + 4 * hidden + 2 * state + out) + batch;
    assert_eq!(d.bytes, 4 * words as u64);
    let products = (2 * batch * steps * 8 * hidden * hidden) as u64;
    assert!(d.flops > products && d.flops < products * 3 / 2, "{} of {products}", d.flops);
    assert_eq!(d.rounds, steps as u64);
}

#[test]
fn adam_moves_32_bytes_a_parameter() {
    let mut spaces = Spaces::new();
    let mut tape = Tape::new();
    let [value, grad, m, v] = ["value", "grad", "m", "v"].map(|name| {
        let space = spaces.declare(name, 1024);
        tape.input(name, &[1024], space, 0)
    });
    let table = spaces.declare("groups", Row::WORDS);
    let table = tape.input("groups", &[1, Row::WORDS], table, 0);
    let arena = ArenaVars { value, grad, moments: Moments::Adam { m, v }, runs: vec![(1024, 0)] };
    tape.in_stage(Stage::Update, |tape| tape.optimize(&[arena], table, Clip::default()).unwrap());
    let plan = plan(tape);
    // Beside them where the group ends and its row, and its settings.
    let settings = 4 * (2 + Row::WORDS as u64);
    assert_eq!(find(&plan, "adam", Stage::Update).bytes, 32 * 1024 + settings);
}

#[test]
fn embeddings_move_rows_and_not_tables() {
    let moved = |binding: usize, words: &[u32], defines: &[&'static str], len| {
        let defines: Defines = defines.iter().map(|d| (*d, 1)).collect();
        embed::EMBED.bindings[binding].moved(words, &defines, len)
    };
    let words = [10, 384, 0, 0, 0, 0, 0, 30_522, 512, 514];
    let all = ["FIRST", "LAST"];
    assert_eq!(moved(1, &words, &all, 30_522 * 384), [3840, 0], "a word each");
    assert_eq!(moved(2, &words, &all, 514 * 384), [2 * 3840, 0], "a position and a segment each");
    assert_eq!(moved(2, &words, &["FIRST"], 514 * 384), [0, 0]);
    assert_eq!(moved(4, &words, &all, 3840), [0, 3840]);
    assert_eq!(moved(4, &words, &["LAST"], 3840), [3840, 3840], "on top of the first part");
    let table = embed::EMBED_BACKWARD.bindings[3];
    let moved = table.moved(&[384, 0, 10, 0, 30_522], &Defines::new(), 30_522 * 384);
    assert_eq!(moved, [3840, 3840], "at most a row for each token");
}

/// The account of every kernel beside what its twin does: a word that is written counts as written,
/// and where it depends on what was there before, as read.
#[test]
fn accounts_agree_with_twins() {
    let mut checked = 0;
    for kernel in KERNELS {
        for case in (kernel.cases)() {
            let launch = (kernel.launch)(Family::Plain, &case.words, &case.defines);
            let present: Vec<bool> = case.args.iter().map(Option::is_some).collect();
            let defines = kernel.defines(&case.defines, &launch, &present);
            for (i, binding) in kernel.bindings.iter().enumerate() {
                let Some(arg) = &case.args[i] else { continue };
                let len = match arg {
                    CaseArg::F(values) => values.len(),
                    CaseArg::U(values) => values.len(),
                };
                let [reads, writes] = binding.moved(&case.words, &defines, len as u64);
                let at = format!("{} ({}), {}", kernel.name, case.name, binding.name);
                assert!(reads <= len as u64 && writes <= len as u64, "{at}: {reads}, {writes}");
                if binding.access == Access::Read {
                    assert_eq!(writes, 0, "{at}");
                    continue;
                }
                let with = |seed| -> (Vec<u32>, Vec<u32>) {
                    let fill: Vec<f32> = random(seed, len).iter().map(|v| v.abs() + 0.1).collect();
                    let mut case = case.clone();
                    case.args[i] = Some(CaseArg::F(fill.clone()));
                    let left = run_twin(kernel, &case).swap_remove(i).unwrap();
                    (fill.iter().map(|v| v.to_bits()).collect(), left)
                };
                let ((a, after_a), (b, after_b)) = (with(1), with(2));
                let changed = (0..len).filter(|k| a[*k] != after_a[*k] && b[*k] != after_b[*k]);
                let (written, kept): (Vec<usize>, Vec<usize>) =
                    changed.partition(|k| after_a[*k] == after_b[*k]);
                let words = (written.len() + kept.len()) as u64;
                assert!(words <= writes, "{at}: writes {words} words, and {writes} are counted");
                // Where a binding holds several tensors, what is written of one depends on another.
                let several = matches!(binding.moves, Moves::Part(_)) && reads > 0;
                assert!(
                    several || kept.len() as u64 <= reads,
                    "{at}: {} words depend on what was there, and {reads} are counted as read: \
                     say so with adds, updated or part",
                    kept.len()
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "{checked} bindings");
}

// ---- profiles ---------------------------------------------------------------------------------

#[test]
fn every_dispatch_is_timed_and_shares_add_up() {
    let (config, data) = (config(&[]), Made::default().open());
    for clock in [Clock::waits(), Clock::new(gpu()).unwrap()] {
        let name = clock.name();
        let mut session = session(gpu(), &config, &data);
        let planned = session.step_plan().unwrap().dispatches().len();
        let profile = session.profile(2, &clock).unwrap();
        assert_eq!(profile.clock, name);
        assert_eq!((profile.dispatches.len(), profile.batch, profile.steps), (planned, 8, 2));
        assert!(profile.dispatches.iter().all(|d| d.seconds > 0.0), "{}", clock.name());
        assert!(profile.step >= profile.fastest && profile.fastest > 0.0);
        assert!(profile.encode > 0.0 && profile.encode + profile.submit < 2.0 * profile.step);
        assert!(profile.optimiser() > 0.0 && profile.optimiser() < profile.sum());
        assert!(profile.mean() < profile.step, "the optimiser runs for every second batch");
        for by in [By::Kernel, By::Dispatch, By::Stage] {
            let rows = profile.rows(by, |d| d.flops as f64);
            let sum: f64 = rows.iter().map(|r| r.share).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{by:?}: {sum}");
            assert_eq!(rows.iter().map(|r| r.calls).sum::<usize>(), planned, "{by:?}");
            assert!(rows.iter().all(|r| r.estimate == r.flops as f64), "{by:?}");
            match by {
                By::Dispatch => assert_eq!(rows.len(), planned),
                By::Kernel => assert!(rows.is_sorted_by(|a, b| a.seconds >= b.seconds)),
                By::Stage => {
                    let names: Vec<&str> = rows.iter().map(|r| r.name.as_str()).collect();
                    assert_eq!(names, ["forward", "backward", "state", "update"]);
                }
            }
        }
    }
}

/// Steps that are timed are steps: whichever clock they were timed by, they train alike.
#[test]
fn profiled_steps_train() {
    let (config, data) = (config(&["model.dropout=0"]), Made::default().open());
    let weights = |clock: &Clock| {
        let mut session = session(gpu(), &config, &data);
        let before = common::bits(&session.weights().unwrap());
        session.profile(2, clock).unwrap();
        let after = common::bits(&session.weights().unwrap());
        assert_ne!(before, after, "{}", clock.name());
        after
    };
    assert_eq!(weights(&Clock::waits()), weights(&Clock::new(gpu()).unwrap()));
}

#[test]
fn a_session_that_does_not_train_has_no_profile() {
    let (config, data) = (config(&[]), Made::default().open());
    let mut session = modalign::train::Session::new(gpu(), &config, data, None, false).unwrap();
    let problem = session.profile(1, &Clock::waits()).err().unwrap().to_string();
    assert!(problem.contains("not made for training"), "{problem}");
}

// ---- predictions ------------------------------------------------------------------------------

fn figures(name: &str) -> &'static Figures {
    PUBLISHED.iter().find(|f| f.name.contains(name)).expect(name)
}

#[test]
fn predictions_follow_figures() {
    let folder = tempfile::tempdir().unwrap();
    let data = Made { rows: [128, 4, 4], text: Some((1, 768)), ..Made::default() };
    let path = data.save(folder.path());
    let caps = Caps::defaults(Family::Tiled);
    let config = config(&["train.batch_size=64", "model.post=128"]);
    let step = typical_step(&config, &path, Path::new(""), &caps).unwrap();
    assert_eq!((step.batch, step.batches, step.accumulate), (64, 2, 2));
    let small = figures("Iris Xe").predict(&step);
    let large = figures("H100 SXM").predict(&step);
    assert!(large.step < small.step, "{large:?} {small:?}");
    for p in [&small, &large] {
        assert!(p.step > 0.0 && p.batch <= p.step && p.share > 0.25 && p.share <= 1.0, "{p:?}");
        assert!((p.samples * p.batch - 64.0).abs() < 1e-6, "{p:?}");
    }
    // Each figure pulls its own way.
    let base = figures("780M");
    let seconds = |change: &dyn Fn(&mut Figures)| {
        let mut figures = base.clone();
        change(&mut figures);
        figures.predict(&step).step
    };
    let plain = seconds(&|_| {});
    assert!(seconds(&|f| f.launch *= 2.0) > plain);
    assert!(seconds(&|f| f.round *= 2.0) > plain);
    assert!(seconds(&|f| f.flops /= 1e3) > plain);
    assert!(seconds(&|f| f.bytes /= 1e3) > plain);
    let launches = step.plan.dispatches().len() as f64 * base.launch;
    assert!(seconds(&|f| f.launch = 0.0) < plain - 0.99 * launches);
}

#[test]
fn a_cost_is_its_longest_part_and_the_launch() {
    let mut tape = Tape::new();
    let (x, w) = (ones(&mut tape, &[64, 256]), ones(&mut tape, &[256, 256]));
    let y = tape.matmul(x, w).unwrap();
    tape.keep(y);
    let plan = plan(tape);
    let d = find(&plan, "matmul", Stage::Forward);
    let mut figures = figures("Iris Xe").clone();
    let cost = figures.cost(d);
    // 4 workgroups keep 4 of 6 units busy.
    let least = d.flops as f64 / figures.flops;
    assert!((cost.compute / least - 6.0 / 4.0 / 0.3).abs() < 1e-9, "{cost:?}");
    assert_eq!(d.rounds, 16);
    assert!(cost.latency > 16.0 * figures.round);
    assert_eq!(cost.seconds(), cost.compute.max(cost.memory).max(cost.latency) + cost.launch);
    figures.cache = 0.0;
    assert!((figures.cost(d).memory / cost.memory - 3.0).abs() < 1e-9, "fits half of the cache");
}

// ---- the command ------------------------------------------------------------------------------

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::fresh("profile");
        place.ok(SMALL);
        place
    })
}

/// The same where there is no adapter.
fn run_without(line: &str) -> Ran {
    let mut command = place().command(line);
    command.env("WGPU_BACKEND", "vulkan").env("VK_ICD_FILENAMES", "/nowhere.json");
    command.env("VK_DRIVER_FILES", "/nowhere.json").output().unwrap().into()
}

fn parsed(ran: Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {}", ran.out))
}

#[test]
fn the_table_is_of_the_step_that_inspect_plans() {
    let plan = parsed(place().run("inspect small.safetensors --plan --json"));
    let found =
        parsed(place().run("profile --data small.safetensors --steps 2 --calibrate --json"));
    let planned = plan["dispatches"].as_array().unwrap().len();
    assert_eq!(found["dispatches"].as_u64().unwrap() as usize, planned);
    assert_eq!(found["all"]["flops"], plan["flops"]);
    let rows = found["rows"].as_array().unwrap();
    let sum = |key: &str| rows.iter().map(|r| r[key].as_f64().unwrap()).sum::<f64>();
    assert!((sum("share") - 1.0).abs() < 1e-9);
    assert_eq!(sum("calls") as usize, planned);
    assert!((sum("ms") - found["dispatches_ms"].as_f64().unwrap()).abs() < 1e-6);
    assert!(rows.iter().all(|r| r["roofline"].as_f64().unwrap() >= 0.0));
    let calibration = &found["calibration"];
    let predicted = calibration["predicted_ms"].as_f64().unwrap();
    assert!((sum("predicted_ms") - predicted).abs() < 1e-6 * predicted);
    let error = calibration["measured_by_predicted"].as_f64().unwrap();
    assert!(error > 0.02 && error < 50.0, "the formula has lost touch: {error}");
}

#[test]
fn tables_say_what_was_measured() {
    let ran = place().run("profile --data small.safetensors --steps 1 --top 2 --waits");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for word in ["kernel", "roofline", "others", "all", "(by wall)", "encode", "every 4th batch"] {
        assert!(ran.out.contains(word), "no '{word}' in {}", ran.out);
    }
    let ran = place().run("profile --data small.safetensors --steps 1 --by stage");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(["forward", "backward", "state", "update"].iter().all(|s| ran.out.contains(s)));
}

#[test]
fn predicting_needs_no_adapter() {
    let ran = run_without("profile --data small.safetensors --predict");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.starts_with("PREDICTION: none of this was ever run"), "{}", ran.out);
    for word in ["H100", "M3 Pro", "780M", "RTX 4060", "Assumed", "profile --data small"] {
        assert!(ran.out.contains(word), "no '{word}' in {}", ran.out);
    }
    let found = parsed(run_without("profile --data small.safetensors --predict --json"));
    assert_eq!(found["prediction"], true);
    assert_eq!(found["predictions"].as_array().unwrap().len(), PUBLISHED.len());
    assert!(found["calibration"].is_null());
    // What is measured does need one.
    fails(run_without("profile --data small.safetensors"), 1, &["no GPU adapter"]);
    fails(run_without("profile --data small.safetensors --predict --calibrate"), 1, &["no GPU"]);
}

#[test]
fn what_cannot_be_profiled_is_told_in_a_sentence() {
    fails(place().run("profile --data none.safetensors"), 1, &["none.safetensors"]);
    fails(place().run("profile --data none.safetensors --predict"), 1, &["none.safetensors"]);
    fails(place().run("profile"), 2, &["--data"]);
    fails(place().run("profile --data small.safetensors --steps 0"), 2, &["--steps"]);
    fails(place().run("profile --data small.safetensors --predict --top 3"), 2, &["--predict"]);
    fails(place().run("profile --data small.safetensors --preset none"), 2, &["none"]);
    std::fs::write(place().root().join("empty.safetensors"), "").unwrap();
    fails(place().run("profile --data empty.safetensors --predict"), 1, &["empty.safetensors"]);
}
