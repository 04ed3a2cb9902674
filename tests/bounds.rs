//! No kernel reaches past what is bound, whatever the data say. The kernels run without bounds checks,
//! so that this must be a property of their texts. Each text is changed so that it counts its own
//! accesses beyond a binding, and runs over its cases: as they are, and with extreme values in the
//! place of every index that comes from data.
//!
//! A driver may check accesses itself, as llvmpipe does, so that canaries around a binding alone would
//! tell nothing there.

use modalign::gpu::{Family, GpuOptions, expand};
use modalign::ops::{self, KERNELS};
use modalign::plan::{Access, Binding, Case, CaseArg, Kernel, Launch};
use modalign::{Error, Gpu};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once};

/// Words behind the first binding that is written; one vector of them for each binding, zeroed by an
/// access beyond that binding.
const TRAP: usize = 64;
const UNTOUCHED: u32 = 0x3f80_0001;
/// Words of the trap that a binding has: as many as the widest element.
const EACH: usize = 4;

fn open(family: Family, checked: bool) -> Option<Gpu> {
    // Where accesses go does not depend on how well llvmpipe optimises, which takes half of the time.
    static QUICK: Once = Once::new();
    // SAFETY: all tests of this program come here first, and what they start afterwards alone looks at
    // what a driver is set to.
    QUICK.call_once(|| unsafe { std::env::set_var("GALLIVM_PERF", "nopt") });
    let (family, short_loads) = (Some(family), true);
    let options = GpuOptions { family, checked, short_loads, quiet: true, ..Default::default() };
    let gpu = Gpu::with(&options).expect("an adapter");
    let wide = matches!(family, Some(Family::Wide(_)));
    (!wide || gpu.caps().family.lanes() > 0).then_some(gpu)
}

const FAMILIES: [Family; 3] = [Family::Tiled, Family::Plain, Family::Wide(0)];

/// `var<storage, ..> NAME: array<TYPE>;` in a text: by binding number, name and type.
fn declared(text: &str) -> BTreeMap<u32, (String, String)> {
    let lines = text.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("@group(0) @binding(")?;
        let (number, rest) = rest.split_once(')')?;
        let (_, rest) = rest.split_once("var<storage")?;
        let (_, rest) = rest.split_once('>')?;
        let (name, rest) = rest.split_once(':')?;
        let of = rest.trim().strip_prefix("array<")?.strip_suffix(">;")?;
        Some((number.parse().ok()?, (name.trim().to_string(), of.to_string())))
    });
    lines.collect()
}

/// Words of a type, through the text's aliases.
fn words_of(of: &str, text: &str) -> usize {
    match of {
        "f32" | "u32" | "i32" => 1,
        "vec2<f32>" | "vec2<u32>" | "vec2<i32>" | "u64" => 2,
        "vec4<f32>" | "vec4<u32>" | "vec2<u64>" => 4,
        alias => {
            let of = text.lines().find_map(|line| {
                line.trim().strip_prefix("alias ")?.strip_prefix(alias)?.trim().strip_prefix('=')
            });
            let of = of.unwrap_or_else(|| panic!("no type {alias}"));
            words_of(of.trim().trim_end_matches(';'), text)
        }
    }
}

/// The text with `NAME[i]` made `NAME[at_NAME(i)]` for each of `names`.
fn counted(text: &str, names: &[&str]) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (String::new(), 0);
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    while at < bytes.len() {
        // Comments speak of elements, too.
        if text[at..].starts_with("//") {
            let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
            at = end;
            continue;
        }
        let begins = at == 0 || !(is_word(bytes[at - 1]) || bytes[at - 1] == b'.');
        let name = names.iter().find(|n| {
            begins && text[at..].starts_with(**n) && bytes.get(at + n.len()) == Some(&b'[')
        });
        let Some(name) = name else {
            let next = text[at..].chars().next().expect("a character");
            out.push(next);
            at += next.len_utf8();
            continue;
        };
        let first = at + name.len() + 1;
        let (mut depth, mut end) = (1, first);
        while depth > 0 {
            match bytes[end] {
                b'[' => depth += 1,
                b']' => depth -= 1,
                _ => {}
            }
            end += 1;
        }
        let inner = counted(&text[first..end - 1], names);
        out += &format!("{name}[at_{name}({inner})]");
        at = end;
    }
    out
}

/// Launches of a case on a family: its first, and others that leave the same bits.
fn launches(kernel: &Kernel, case: &Case, family: Family) -> Vec<Launch> {
    let first = (kernel.launch)(family, &case.words, &case.defines);
    std::iter::once(first.clone()).chain(first.others).collect()
}

/// A kernel whose text counts, for one launch of a case, and the binding that has the trap.
fn trapped(kernel: &'static Kernel, case: &Case, launch: &Launch) -> (&'static Kernel, usize) {
    let present: Vec<bool> = case.args.iter().map(Option::is_some).collect();
    let (text, _) = text_of(kernel, case, launch);
    let bound = declared(&text);
    assert_eq!(
        bound.len(),
        present.iter().filter(|p| **p).count(),
        "{}: declarations",
        kernel.name
    );
    let written = |(b, there): (&Binding, &bool)| b.access == Access::Write && *there;
    let trap = kernel.bindings.iter().zip(&present).position(written).expect("an output");
    let (trap_name, trap_type) = &bound[&(trap as u32)];
    let each = words_of(trap_type, &text);
    let names: Vec<&str> = bound.values().map(|(name, _)| name.as_str()).collect();
    let mut all = counted(&text, &names);
    for (number, (name, _)) in &bound {
        let behind = if name == trap_name { TRAP / each } else { 0 };
        let slot = (TRAP - EACH * *number as usize) / each;
        all += &format!(
            "\nfn at_{name}(i: u32) -> u32 {{\n    if (i < arrayLength(&{name}) - {behind}u) {{ return i; }}\n    \
             {trap_name}[arrayLength(&{trap_name}) - {slot}u] = {trap_type}();\n    return 0u;\n}}\n"
        );
    }
    let all: &'static str = Box::leak(all.into_boxed_str());
    let Kernel { name, bindings, step, launch, twin, cases, .. } = *kernel;
    let made = Kernel { name, source: all, bindings, step, launch, twin, cases };
    (Box::leak(Box::new(made)), trap)
}

/// A case whose binding `trap` has the trap behind it.
fn with_trap(case: &Case, trap: usize) -> Case {
    let mut case = case.clone();
    match case.args[trap].as_mut().expect("an output") {
        CaseArg::F(values) => values.resize(values.len() + TRAP, f32::from_bits(UNTOUCHED)),
        CaseArg::U(words) => words.resize(words.len() + TRAP, UNTOUCHED),
    }
    case
}

/// The bindings that a run of a counting kernel reached past.
fn reached(kernel: &Kernel, trap: usize, left: &[Option<Vec<u32>>]) -> Vec<&'static str> {
    let words = left[trap].as_ref().expect("an output");
    let words = &words[words.len() - TRAP..];
    let hit = |(i, _): &(usize, &Binding)| words[EACH * i..][..EACH].contains(&0);
    kernel.bindings.iter().enumerate().filter(hit).map(|(_, b)| b.name).collect()
}

/// Repeatable numbers below `n`.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// Values at and around every size of a call, and where 32 bits end.
fn extremes(case: &Case) -> Vec<u32> {
    let mut sizes: Vec<u32> = case.words.iter().copied().filter(|w| *w <= 1 << 20).collect();
    for arg in case.args.iter().flatten() {
        sizes.extend([1, 2, 4].map(|unit| arg.len() as u32 / unit));
    }
    let mut all: Vec<u32> = sizes.iter().flat_map(|s| [s.wrapping_sub(1), *s, s + 1]).collect();
    let ends = [0, 1, 1 << 16, 1 << 28, 1 << 30, 1 << 31];
    all.extend(ends.iter().flat_map(|e: &u32| [e.wrapping_sub(1), *e, e + 1]));
    all.extend([0xffff_0000, u32::MAX - 1]);
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether the data of a case say where it reads or writes.
fn has_indices(kernel: &Kernel, case: &Case) -> bool {
    let data = kernel.bindings.iter().zip(&case.args);
    data.into_iter().any(|(b, arg)| is_index(b, arg))
        || ["objective", "log_row"].contains(&kernel.name)
}

fn is_index(binding: &Binding, arg: &Option<CaseArg>) -> bool {
    matches!(arg, Some(CaseArg::U(_))) && !binding.half
}

/// The case with extreme values for its indices: the same one everywhere, or any anywhere.
fn hostile(kernel: &Kernel, case: &Case, dice: &mut Dice) -> Case {
    let (mut case, values) = (case.clone(), extremes(case));
    let everywhere = dice.roll(2) == 0;
    let one = values[dice.roll(values.len())];
    // All words, or every so many from one on: a token's length, a span's beginning.
    let stride = [1, 2, 4][dice.roll(3)];
    let first = dice.roll(stride);
    case.step.slot = values[dice.roll(values.len())];
    for (binding, arg) in kernel.bindings.iter().zip(&mut case.args) {
        if !is_index(binding, arg) {
            continue;
        }
        let Some(CaseArg::U(words)) = arg else { continue };
        for word in words.iter_mut().skip(first).step_by(stride) {
            *word = if everywhere { one } else { values[dice.roll(values.len())] };
        }
    }
    case
}

/// The kernels that `KERNEL` names, or all.
fn kernels() -> Vec<&'static Kernel> {
    let only = std::env::var("KERNEL").ok();
    let named = |k: &&Kernel| only.as_ref().is_none_or(|o| o.split(',').any(|n| n == k.name));
    KERNELS.iter().copied().filter(named).collect()
}

/// What goes past its bindings, kernel by kernel on each family, by two threads.
fn all_of(
    check: impl Fn(&Gpu, &'static Kernel) -> Vec<String> + Sync,
    gpus: &[Gpu],
) -> Vec<String> {
    let kernels = kernels();
    let jobs: Vec<_> = kernels.iter().flat_map(|k| gpus.iter().map(move |g| (g, *k))).collect();
    let next = AtomicUsize::new(0);
    let mut found: Vec<(usize, Vec<String>)> = std::thread::scope(|scope| {
        let work = || {
            let mut found = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((gpu, kernel)) = jobs.get(at) else { return found };
                found.push((at, check(gpu, kernel)));
            }
        };
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
    });
    found.sort();
    found.into_iter().flat_map(|(_, list)| list).collect()
}

fn told(failed: &[String]) -> String {
    let shown: Vec<_> = failed.iter().take(40).cloned().collect();
    format!("{} are wrong:\n{}", failed.len(), shown.join("\n"))
}

/// The text of a launch, and what its defines switch: names without numbers, and whether they are zero.
fn text_of(kernel: &Kernel, case: &Case, launch: &Launch) -> (String, BTreeMap<String, bool>) {
    let present: Vec<bool> = case.args.iter().map(Option::is_some).collect();
    let defines = kernel.defines(&case.defines, launch, &present);
    let switch = |(name, value): (&&str, &u32)| {
        (name.trim_end_matches(|c: char| c.is_ascii_digit()).to_string(), *value != 0)
    };
    let switched = defines.iter().map(switch).collect();
    let text = expand(kernel.source, &defines);
    (text.unwrap_or_else(|why| panic!("{}: {why}", kernel.name)), switched)
}

/// Letters of a text that a driver takes seconds for.
const LONG: usize = 9_000;

/// A case whose data say where to read or write, as one of its launches has it.
struct Variant {
    case: Case,
    option: usize,
    groups: [u32; 3],
    text: String,
    /// Whether its text is the shortest with these defines, but for sizes.
    first: bool,
}

/// The variants on a family, the shortest texts first. A long text is left out where a shorter one of the
/// kernel has the same defines but for sizes: loops that are unrolled further access memory in the same
/// places of the text.
fn indexed(kernel: &'static Kernel, family: Family) -> Vec<Variant> {
    let mut all = Vec::new();
    for case in (kernel.cases)().into_iter().filter(|case| has_indices(kernel, case)) {
        for (option, launch) in launches(kernel, &case, family).iter().enumerate() {
            let (text, switched) = text_of(kernel, &case, launch);
            let groups = launch.groups;
            all.push((
                switched,
                Variant { case: case.clone(), option, groups, text, first: false },
            ));
        }
    }
    all.sort_by_key(|(_, variant)| variant.text.len());
    let mut seen = BTreeSet::new();
    let told = all
        .into_iter()
        .map(|(switched, variant)| Variant { first: seen.insert(switched), ..variant });
    told.filter(|variant| variant.first || variant.text.len() <= LONG).collect()
}

/// Kernels, cases and texts that were run. Where families have the same text, one of them runs it.
#[derive(Default)]
struct Seen(Mutex<HashSet<String>>);

impl Seen {
    fn is_new(&self, kernel: &Kernel, Variant { case, groups, text, .. }: &Variant) -> bool {
        let key = format!("{} {} {groups:?} {text}", kernel.name, case.name);
        self.0.lock().expect("no panic").insert(key)
    }
}

/// Rounds of extreme values for each case.
const ROUNDS: usize = 40;

/// What is wrong with one launch of a case whose text counts: as it is it must leave what the twin
/// leaves, which makes this the run of every kernel with bounds checks (`tests/kernels.rs` has the
/// others), and it must stay within its bindings, whatever the data say.
fn past(
    gpu: &Gpu,
    kernel: &'static Kernel,
    case: &Case,
    option: usize,
    ran: &AtomicUsize,
) -> Option<String> {
    let family = gpu.caps().family;
    let (made, trap) = trapped(kernel, case, &launches(kernel, case, family)[option]);
    let mut dice = Dice(case.name.len() as u64);
    let rounds = if has_indices(kernel, case) { ROUNDS } else { 0 };
    for round in 0..=rounds {
        let tried = if round == 0 { case.clone() } else { hostile(kernel, case, &mut dice) };
        let place =
            format!("{} ({}, launch {option}, round {round}) on {family}", kernel.name, case.name);
        let run = ops::run_case_with(gpu, made, &with_trap(&tried, trap), |mut plan| {
            plan.choose(option);
            Ok(plan)
        });
        let mut left = match run {
            Err(Error::Driver(_)) => return None,
            Err(why) => return Some(format!("{place}: {why}")),
            Ok(left) => left,
        };
        ran.fetch_add(1, Ordering::Relaxed);
        let beyond = reached(kernel, trap, &left);
        if !beyond.is_empty() {
            return Some(format!("{place} reaches past {beyond:?}"));
        }
        if round == 0 {
            let words = left[trap].as_mut().expect("an output");
            words.truncate(words.len() - TRAP);
            let wrong = ops::differences(kernel, case, &left, &ops::run_twin(kernel, case));
            if let Some(wrong) = wrong.first() {
                return Some(format!("{place}: {wrong}"));
            }
        }
    }
    None
}

#[test]
fn no_kernel_reaches_past_its_bindings() {
    let gpus: Vec<Gpu> = FAMILIES.into_iter().filter_map(|f| open(f, true)).collect();
    let (ran, seen) = (AtomicUsize::new(0), Seen::default());
    let check = |gpu: &Gpu, kernel: &'static Kernel| -> Vec<String> {
        let mut failed = Vec::new();
        // Where no data say where to read or write, `P` alone does, which operations check; and the
        // texts of those kernels run with bounds checks in a browser (`tests/webgpu.rs`).
        for variant in indexed(kernel, gpu.caps().family) {
            if seen.is_new(kernel, &variant) {
                failed.extend(past(gpu, kernel, &variant.case, variant.option, &ran));
            }
        }
        failed
    };
    let failed = all_of(check, &gpus);
    println!("{} runs", ran.into_inner());
    assert!(failed.is_empty(), "{}", told(&failed));
}

/// Whether two runs left the same bits. Which of the many that are no number an operation leaves is
/// nobody's promise: extreme words among an optimiser's settings make such.
fn alike(one: &[Option<Vec<u32>>], other: &[Option<Vec<u32>>]) -> bool {
    let no_number = |word: &u32| f32::from_bits(*word).is_nan();
    let same = |(a, b): (&u32, &u32)| a == b || (no_number(a) && no_number(b));
    one.iter().zip(other).all(|pair| match pair {
        (Some(one), Some(other)) => one.len() == other.len() && one.iter().zip(other).all(same),
        (one, other) => one == other,
    })
}

/// Kernels that write where their data say: rows by number, runs and segments that begin and end there.
/// Data that name one place twice have two invocations write it, within the binding, and whichever comes
/// last.
const PLACED: [&str; 7] = [
    "embed_backward",
    "label_update",
    "scatter_add",
    "scatter_rows",
    "segment_softmax",
    "segment_softmax_backward",
    "sort_rows",
];

/// The kernels as they run: no fault, no word changed around what is bound, and the same bits with
/// checks and without, where no two invocations can write one place.
#[test]
fn extreme_indices_do_no_harm() {
    let seen = Seen::default();
    for family in FAMILIES {
        let (Some(trusted), Some(checked)) = (open(family, false), open(family, true)) else {
            continue;
        };
        for kernel in kernels() {
            let mut dice = Dice(7);
            for variant in indexed(kernel, trusted.caps().family) {
                if variant.option > 0 || !seen.is_new(kernel, &variant) {
                    continue;
                }
                let Variant { case, first, .. } = variant;
                for round in 0..4 {
                    let tried = hostile(kernel, &case, &mut dice);
                    let place =
                        format!("{} ({}, round {round}) on {family}", kernel.name, case.name);
                    let run = |gpu| match ops::run_case(gpu, kernel, &tried) {
                        Err(Error::Driver(_)) => None,
                        left => Some(left.unwrap_or_else(|why| panic!("{place}: {why}"))),
                    };
                    // Checks do the same to whatever is unrolled further, and take a driver as long.
                    let one = run(&trusted);
                    if !first {
                        continue;
                    }
                    let other = run(&checked);
                    let same = match (&one, &other) {
                        (Some(one), Some(other)) => alike(one, other),
                        _ => one == other,
                    };
                    let racing = PLACED.contains(&kernel.name);
                    assert!(same || racing, "{place}: checks change the bits");
                }
            }
        }
    }
}

/// A text that does go past its bindings, so that the tests above could fail.
#[test]
fn accesses_beyond_a_binding_are_counted() {
    static CARELESS: Kernel = Kernel {
        name: "careless",
        source: "
struct Params { n: u32 }
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read> AT: array<u32>;
@group(0) @binding(2) var<storage, read_write> Y: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) wid: vec3<u32>) { Y[AT[wid.x]] = X[AT[wid.x]]; }",
        bindings: &[Binding::read("X"), Binding::read("AT"), Binding::write("Y")],
        step: false,
        launch: |_, words, _| modalign::plan::Launch::of([words[0], 1, 1]),
        twin: |_| {},
        cases: Vec::new,
    };
    let gpu = open(Family::Plain, true).expect("a device");
    for (at, wanted) in
        [(vec![0, 4], vec![]), (vec![0, 5], vec!["Y"]), (vec![7, 9], vec!["X", "Y"])]
    {
        let args = vec![
            Some(CaseArg::F(vec![1.0; 6])),
            Some(CaseArg::U(at)),
            Some(CaseArg::F(vec![2.0; 5])),
        ];
        let case = Case::new("two", vec![2], args);
        let launch = (CARELESS.launch)(Family::Plain, &case.words, &case.defines);
        let (made, trap) = trapped(&CARELESS, &case, &launch);
        let left = ops::run_case(&gpu, made, &with_trap(&case, trap)).expect("a run");
        assert_eq!(reached(&CARELESS, trap, &left), wanted, "{:?}", case.args[1]);
    }
}
