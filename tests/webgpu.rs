//! Every kernel in a browser: a second compiler of WGSL, Tint, which unlike naga looks at whether
//! barriers and subgroup operations are reached by all, and a second device, SwiftShader. Every
//! text compiles there, and every case leaves what its twin leaves. Skipped where there is no
//! browser.

#[path = "webgpu/browser.rs"]
mod browser;
mod chromium;

use browser::{Desk, Message, work_through};
use chromium::chromium;
use modalign::gpu::{BindingKind, Caps, Defines, Family, expand};
use modalign::ops::{self, KERNELS};
use modalign::plan::{Access, Case, CaseArg, Kernel, PARAMS, Planned, STEP, uniform};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// Words that a job sends at most, beyond its first case.
const JOB_WORDS: usize = 8 << 20;
/// Runs of a job at most, so that the page is heard of often enough on a busy machine.
const JOB_RUNS: usize = 8;

/// Letters of a text that SwiftShader takes a second for. Each such text compiles, and of those whose
/// defines differ in sizes alone one runs: loops that are unrolled further take the same paths.
const LONG: usize = 9_000;

/// What a browser wants to read before a text with subgroup operations. naga knows neither line:
/// it takes the first for an extension that it lacks.
///
/// The second switches off a check that these texts cannot pass, and need not. A workgroup of the
/// wide family is one subgroup, and where such a text branches on something that it loaded (the
/// length of a sequence, say), all lanes load the same word. That the word is the same for all of
/// them is nothing that WGSL lets a text say of a storage buffer without a barrier.
fn for_browsers(text: &str, family: Family) -> String {
    if family.lanes() == 0 {
        return text.into();
    }
    format!("enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n{text}")
}

/// A kernel's cases on a family.
struct Task {
    kernel: &'static Kernel,
    family: Family,
    cases: Vec<Case>,
    /// The next case and, of that, the next launch.
    next: (usize, usize),
}

/// What was asked of the page, to compare its answer with.
#[derive(Default)]
struct Asked {
    /// Name, text, and whether it is to become a pipeline.
    texts: Vec<(String, String, bool)>,
    /// Name, kernel, case, and the bindings that come back.
    runs: Vec<(String, &'static Kernel, Case, Vec<usize>)>,
}

#[derive(Default)]
struct State {
    device: Value,
    lanes: u32,
    tasks: Vec<Task>,
    asked: HashMap<usize, Asked>,
    jobs: usize,
    /// Texts that compiled, and whether they became pipelines.
    texts: HashMap<String, bool>,
    /// Kernel, case, texts and workgroups of what ran: families often agree.
    seen: HashSet<(String, String)>,
    /// Family, kernel and defines of long texts that ran, without sizes.
    long: HashSet<String>,
    ran: usize,
    warnings: BTreeSet<String>,
    failures: Vec<String>,
}

struct Kernels(Mutex<State>);

/// Texts and runs of a job as it grows.
#[derive(Default)]
struct Building {
    texts: Vec<Value>,
    codes: HashMap<(String, String), usize>,
    runs: Vec<Value>,
    words: Vec<u32>,
    asked: Asked,
}

/// What defines switch: names without the numbers behind them, and whether they are zero.
fn switches(defines: &Defines) -> BTreeSet<(&str, bool)> {
    let name = |name: &'static str| name.trim_end_matches(|c: char| c.is_ascii_digit());
    defines.iter().map(|(n, value)| (name(n), *value == 0)).collect()
}

fn contents(arg: &CaseArg) -> Vec<u32> {
    match arg {
        CaseArg::F(values) => values.iter().map(|v| v.to_bits()).collect(),
        CaseArg::U(values) => values.clone(),
    }
}

fn kind(kind: BindingKind) -> &'static str {
    match kind {
        BindingKind::Read => "read-only-storage",
        BindingKind::ReadWrite => "storage",
        BindingKind::Uniform => "uniform",
    }
}

impl Building {
    /// The number of a text.
    fn text(&mut self, name: String, code: String, kinds: Value, pipeline: bool) -> usize {
        *self.codes.entry((code.clone(), kinds.to_string())).or_insert_with(|| {
            self.texts.push(json!({ "code": code, "kinds": kinds, "pipeline": pipeline }));
            self.asked.texts.push((name, code, pipeline));
            self.texts.len() - 1
        })
    }

    /// Adds the `option`-th launch of a case, unless the like of it was run. Returns how many
    /// launches the case has.
    fn add(&mut self, state: &mut State, task: &Task, case: &Case, option: usize) -> usize {
        let Task { kernel, family, .. } = task;
        let at = format!("{} ({}) on {family}, launch {option}", kernel.name, case.name);
        let mut plan =
            ops::case_plan(kernel, case, &Caps::defaults(*family)).expect("fits the defaults");
        let options = 1 + plan.dispatches().iter().map(|d| d.others.len()).max().unwrap_or(0);
        plan.choose(option);
        let long = |d: &Planned| expand(d.kernel.source, &d.defines).expect("expands").len() > LONG;
        let like = |d: &Planned| format!("{family} {} {:?}", d.kernel.name, switches(&d.defines));
        let runs = (family.lanes() == 0 || family.lanes() == state.lanes)
            && plan.dispatches().iter().all(|d| !long(d) || state.long.insert(like(d)));
        let mut buffers: Vec<Value> = Vec::new();
        let mut words: Vec<u32> = Vec::new();
        let (mut by_tensor, mut by_name) = (HashMap::new(), HashMap::new());
        let (mut dispatches, mut key) = (Vec::new(), String::new());
        let begin = self.words.len();
        let mut buffer = |size: usize, data: Option<&[u32]>, uniform: bool| {
            let at = data.map(|data| {
                words.extend(data);
                begin + words.len() - data.len()
            });
            buffers.push(json!({ "size": size, "at": at, "uniform": uniform }));
            buffers.len() - 1
        };
        for planned in plan.dispatches() {
            let text = expand(planned.kernel.source, &planned.defines).expect("expands");
            let code = for_browsers(&text, *family);
            let present: Vec<bool> = planned.args.iter().map(Option::is_some).collect();
            let kinds = planned.kernel.kinds(&present);
            let kinds: Vec<_> = kinds.into_iter().map(|(i, k)| (i, kind(k))).collect();
            key += &format!("{code}{kinds:?}{:?}", planned.groups);
            let text = self.text(at.clone(), code, json!(kinds), runs);
            let mut bindings = Vec::new();
            for (i, id) in planned.args.iter().enumerate() {
                let Some(id) = id else { continue };
                let number = *by_tensor.entry(*id).or_insert_with(|| {
                    let tensor = plan.tensor(*id).expect("of this plan");
                    let place = kernel.bindings.iter().position(|b| b.name == tensor.name);
                    let data = place.and_then(|p| case.args[p].as_ref()).map(contents);
                    let number = buffer(tensor.words().max(1), data.as_deref(), false);
                    if let Some(place) = place {
                        by_name.insert(place, number);
                    }
                    number
                });
                bindings.push((i as u32, number));
            }
            let mut block = planned.words.clone();
            block.resize(uniform(&planned.words), 0);
            bindings.push((PARAMS, buffer(block.len(), Some(&block), true)));
            if planned.kernel.step {
                let step = [case.step];
                let step: &[u32] = bytemuck::cast_slice(&step);
                bindings.push((STEP, buffer(step.len(), Some(step), true)));
            }
            let groups = planned.groups;
            dispatches.push(json!({ "text": text, "groups": groups, "bindings": bindings }));
        }
        if !runs || !state.seen.insert((format!("{} {}", kernel.name, case.name), key)) {
            return options;
        }
        let written = kernel.bindings.iter().enumerate().filter(|(_, b)| b.access == Access::Write);
        let written: Vec<usize> =
            written.map(|(i, _)| i).filter(|i| case.args[*i].is_some()).collect();
        let read: Vec<usize> = written.iter().map(|i| by_name[i]).collect();
        self.words.extend(words);
        self.runs.push(json!({ "buffers": buffers, "dispatches": dispatches, "read": read }));
        self.asked.runs.push((at, *kernel, case.clone(), written));
        options
    }
}

impl Desk for Kernels {
    fn device(&self, about: &Value) {
        let mut state = self.0.lock().expect("no panic");
        state.lanes = about["lanes"].as_u64().unwrap_or(0) as u32;
        if about["subgroups"] != true {
            state.tasks.retain(|t| t.family.lanes() == 0);
        }
        state.device = about.clone();
    }

    fn job(&self) -> Option<Message> {
        let state = &mut *self.0.lock().expect("no panic");
        let mut building = Building::default();
        while building.words.len() < JOB_WORDS && building.runs.len() < JOB_RUNS {
            let Some(mut task) = state.tasks.pop() else { break };
            let (at, option) = task.next;
            let Some(case) = task.cases.get(at) else {
                // A job is of one kernel on one family, so that the list of texts stays short.
                if building.texts.is_empty() {
                    continue;
                }
                break;
            };
            let options = building.add(state, &task, case, option);
            task.next = if option + 1 < options { (at, option + 1) } else { (at + 1, 0) };
            state.tasks.push(task);
        }
        if building.texts.is_empty() {
            return None;
        }
        state.jobs += 1;
        let id = state.jobs;
        let Building { texts, runs, words, asked, .. } = building;
        state.asked.insert(id, asked);
        Some((json!({ "id": id, "texts": texts, "runs": runs }), words))
    }

    fn done(&self, id: usize, (head, words): Message) {
        let asked = self.0.lock().expect("no panic").asked.remove(&id).expect("a job");
        let (mut failures, mut ran) = (Vec::new(), 0);
        let mut at = 0;
        for ((place, kernel, case, written), error) in
            asked.runs.iter().zip(head["runs"].as_array().expect("runs"))
        {
            if let Some(error) = error.as_str() {
                failures.push(format!("{place}: {error}"));
                continue;
            }
            let twin = ops::run_twin(kernel, case);
            let mut got = vec![None; twin.len()];
            for i in written {
                let len = twin[*i].as_ref().expect("there").len();
                got[*i] = Some(words[at..at + len].to_vec());
                at += len;
            }
            ran += 1;
            let found = ops::differences(kernel, case, &got, &twin);
            failures.extend(found.iter().map(|d| format!("{place}: {d}")));
        }
        let state = &mut *self.0.lock().expect("no panic");
        let texts = head["texts"].as_array().expect("texts");
        for ((name, code, pipeline), came) in asked.texts.into_iter().zip(texts) {
            let of = |key: &str| -> Vec<String> {
                let list = came[key].as_array().into_iter().flatten();
                list.map(|m| m.as_str().unwrap_or_default().to_string()).collect()
            };
            state.warnings.extend(of("warnings"));
            let errors = of("errors");
            if errors.is_empty() {
                *state.texts.entry(code).or_default() |= pipeline;
            }
            state.failures.extend(errors.into_iter().map(|e| format!("{name}: {e}")));
        }
        state.failures.extend(failures);
        state.ran += ran;
    }
}

/// Kernels named in `KERNEL`, or all.
fn kernels() -> Vec<&'static Kernel> {
    let only = std::env::var("KERNEL").ok();
    let only = only.as_ref().map(|o| o.split(',').collect::<Vec<_>>());
    let named = |k: &&Kernel| only.as_ref().is_none_or(|o| o.contains(&k.name));
    KERNELS.iter().copied().filter(named).collect()
}

#[test]
fn every_text_compiles_and_every_case_runs_in_a_browser() {
    let Some(browser) = chromium() else { return };
    let families = [
        Family::Wide(32),
        Family::Wide(16),
        Family::Wide(8),
        Family::Wide(4),
        Family::Plain,
        Family::Tiled,
    ];
    let all = kernels();
    let tasks = families.iter().flat_map(|family| {
        let task = |kernel: &&'static Kernel| Task {
            kernel,
            family: *family,
            cases: (kernel.cases)(),
            next: (0, 0),
        };
        all.iter().map(task).collect::<Vec<_>>()
    });
    let desk = Arc::new(Kernels(Mutex::new(State { tasks: tasks.collect(), ..State::default() })));
    let faults = work_through(&browser, desk.clone());
    let state = desk.0.lock().expect("no panic");
    assert!(faults.is_empty(), "{faults:?}");
    println!(
        "{}: {} texts compiled, {} of them to pipelines, {} runs of {} kernels, lanes {}",
        state.device["adapter"],
        state.texts.len(),
        state.texts.values().filter(|p| **p).count(),
        state.ran,
        all.len(),
        state.lanes,
    );
    for warning in &state.warnings {
        println!("warning: {warning}");
    }
    let shown: Vec<_> = state.failures.iter().take(30).cloned().collect();
    assert!(shown.is_empty(), "{} fail:\n{}", state.failures.len(), shown.join("\n"));
    assert!(state.tasks.is_empty() && state.asked.is_empty(), "jobs are left");
    assert!(state.ran >= all.len(), "{} runs of {} kernels", state.ran, all.len());
}

/// One job of a few texts, and what came of it.
struct Once {
    job: Mutex<Option<Message>>,
    came: Mutex<Option<Message>>,
}

impl Desk for Once {
    fn device(&self, _: &Value) {}
    fn job(&self) -> Option<Message> {
        self.job.lock().expect("no panic").take()
    }
    fn done(&self, _: usize, result: Message) {
        *self.came.lock().expect("no panic") = Some(result);
    }
}

#[test]
fn a_browser_tells_what_is_wrong() {
    let Some(browser) = chromium() else { return };
    let text = |body: &str| {
        format!(
            "@group(0) @binding(0) var<storage, read_write> X: array<u32>;\n\
             @group(0) @binding(14) var<uniform> P: vec4<u32>;\n\
             @compute @workgroup_size(4)\n\
             fn main(@builtin(local_invocation_index) i: u32) {{ {body} }}"
        )
    };
    let bodies = [
        "X[i] = X[i] * 2u + P.x;",
        "if (X[i] > 1u) { workgroupBarrier(); }",
        "X[i] = select(0u, 1u, X[i] >= 2u & 3u);",
    ];
    let kinds = json!([[0, "storage"], [PARAMS, "uniform"]]);
    let text = |body: &&str| json!({ "code": text(body), "kinds": kinds, "pipeline": true });
    let texts: Vec<_> = bodies.iter().map(text).collect();
    let buffer = |at: usize, uniform: bool| json!({ "size": 4, "at": at, "uniform": uniform });
    let run = |text: usize| {
        json!({
            "buffers": [buffer(0, false), buffer(4, true)],
            "dispatches": [{ "text": text, "groups": [1, 1, 1], "bindings": [[0, 0], [PARAMS, 1]] }],
            "read": [0],
        })
    };
    let head = json!({ "id": 1, "texts": texts, "runs": [run(0), run(1)] });
    let job = Mutex::new(Some((head, vec![1, 2, 3, 4, 10, 0, 0, 0])));
    let desk = Arc::new(Once { job, came: Mutex::new(None) });
    assert_eq!(work_through(&browser, desk.clone()), [] as [&str; 0]);
    let (head, words) = desk.came.lock().expect("no panic").take().expect("an answer");
    assert_eq!(words, [12, 14, 16, 18]);
    assert_eq!(head["runs"][0], Value::Null);
    assert_eq!(head["runs"][1], "a text does not compile");
    let error = |i: usize| head["texts"][i]["errors"].to_string();
    assert_eq!(error(0), "[]");
    assert!(error(1).contains("uniform control flow"), "{}", error(1));
    assert!(error(2).contains("parenthesis"), "{}", error(2));
}
