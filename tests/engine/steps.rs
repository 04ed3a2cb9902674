//! The plan of a training step: against its twins on the CPU, replayed against fresh, how many
//! dispatches and submits it takes, and that the steady state allocates nothing.

use crate::common;
use common::{Made, config, gpu, largest_gap, of, open, session};
use modalign::Gpu;
use modalign::data::{Dataset, Layout, Modality, SplitName, StreamSpec, fill};
use modalign::gpu::{Caps, Family};
use modalign::nn::{Group, Params};
use modalign::plan::{
    HostMemory, Memory, Plan, Pool, Program, Recording, SpaceId, Spaces, Step, interpret,
};
use modalign::recipe::self_mm::Settings;
use modalign::recipe::{Config, Model, Offered, TrainSpaces};
use modalign::tape::Tape;
use std::sync::Arc;

const RING_ROWS: usize = 4;

/// A model's training step, declared but on no device.
struct Bench {
    model: Model,
    params: Params,
    spaces: Spaces,
    layout: Layout,
    block: SpaceId,
    train: TrainSpaces,
}

impl Bench {
    fn new(config: &Config, streams: &[StreamSpec], batch: usize, rows: usize) -> Self {
        Self::within(128 << 20, config, streams, batch, rows)
    }

    /// With parameter arenas of at most so many bytes.
    fn within(
        arena: u64,
        config: &Config,
        streams: &[StreamSpec],
        batch: usize,
        rows: usize,
    ) -> Self {
        let model = Model::new(config, Offered::new(streams)).unwrap();
        let mut spaces = Spaces::new();
        let specs = model.params(true, usize::MAX);
        let params = Params::new(specs, &groups(), &mut spaces, arena, true).unwrap();
        let layout = model.whole_layout(batch);
        let block = spaces.declare("batch", layout.words);
        let train = model.train_spaces(&mut spaces, rows, RING_ROWS);
        Bench { model, params, spaces, layout, block, train }
    }

    fn over(config: &Config, data: &Dataset, batch: usize) -> Self {
        let rows = data.split(SplitName::Train).unwrap().rows();
        Self::new(config, &streams_of(data), batch, rows)
    }

    fn tape(&self) -> Tape {
        let mut tape = Tape::new();
        self.model
            .step(&mut tape, &self.params, &self.layout, self.block, (&self.train, 0))
            .unwrap();
        tape
    }

    fn plan(&self, caps: &Caps) -> Plan {
        self.tape().plan(caps).unwrap()
    }

    fn recording(&self) -> Recording {
        self.tape().recording().clone()
    }

    /// Space by space what a device would begin with: parameters, labels, everything else zero.
    fn initial(&self, gpu: &Gpu, data: &Dataset) -> Vec<Vec<u32>> {
        let memory = Memory::allocate(gpu, &self.spaces).unwrap();
        let weights = self.params.initial(7);
        self.params.upload(gpu, &memory, &weights).unwrap();
        let labels = data.split(SplitName::Train).unwrap().labels().unwrap();
        let bits: Vec<u32> = labels.iter().map(|l| l.to_bits()).collect();
        let state = self.train.state("labels").unwrap();
        memory.write(gpu, state.space, 0, &bits.repeat(state.shape[0])).unwrap();
        self.contents(gpu, &memory)
    }

    fn contents(&self, gpu: &Gpu, memory: &Memory) -> Vec<Vec<u32>> {
        let ids = self.ids();
        let sizes = self.spaces.iter().map(|(_, words)| words);
        ids.into_iter().zip(sizes).map(|(id, n)| memory.read(gpu, id, 0, n).unwrap()).collect()
    }

    /// Every space, in order.
    fn ids(&self) -> Vec<SpaceId> {
        self.spaces.ids().collect()
    }

    fn put(&self, gpu: &Gpu, memory: &Memory, contents: &[Vec<u32>]) {
        for (id, words) in self.ids().into_iter().zip(contents) {
            memory.write(gpu, id, 0, words).unwrap();
        }
    }

    fn batch(&self, data: &Dataset, first: usize) -> Vec<u32> {
        let split = data.split(SplitName::Train).unwrap();
        let rows: Vec<u32> =
            (0..self.layout.batch).map(|i| ((first + i * 3) % split.rows()) as u32).collect();
        let mut words = Vec::new();
        fill(split, None, &rows, &self.layout, None, &mut words).unwrap();
        words
    }
}

fn streams_of(data: &Dataset) -> Vec<StreamSpec> {
    let split = data.split(SplitName::Train).unwrap();
    let streams = Modality::KNOWN.iter().filter_map(|m| split.stream(*m));
    streams.map(|s| StreamSpec::of(&s)).collect()
}

fn step(i: usize) -> Step {
    Step {
        seed: 5,
        step: i as u32,
        epoch: 1 + i as u32 / 2,
        slot: (i % RING_ROWS) as u32,
        ..Step::default()
    }
}

/// The recipe's groups at rates that differ.
fn groups() -> [Group; 4] {
    let mut rate = 0.0;
    ["text", "audio", "vision", "other"].map(|name| {
        rate += 2e-3;
        Group::adam(name, rate).weight_decay(1e-2)
    })
}

/// The settings of the groups in step `i`, word by word, and where they belong.
fn settings(bench: &Bench, i: usize) -> (SpaceId, Vec<u32>) {
    let mut groups = bench.params.groups();
    groups.set_all_steps(i as u32 + 1);
    (groups.table().unwrap(), bytemuck::cast_slice(groups.rows()).to_vec())
}

fn replay(gpu: &Gpu, bench: &Bench, program: &Program, memory: &Memory, data: &Dataset, i: usize) {
    memory.write(gpu, bench.block, 0, &bench.batch(data, i * 5)).unwrap();
    memory.write_step(gpu, &step(i)).unwrap();
    let (table, rows) = settings(bench, i);
    memory.write(gpu, table, 0, &rows).unwrap();
    program.run(gpu, memory).unwrap();
}

/// Configurations that between them use every part of the recipe, at awkward sizes.
fn recipes() -> Vec<(&'static str, Config, Made, usize)> {
    let odd =
        Made { text: Some((4, 7)), audio: Some((5, 6)), vision: Some((3, 1)), ..Made::default() };
    vec![
        (
            "everything",
            config(&[
                "model.text_encoder=lstm",
                "model.hidden=5",
                "model.layers=2",
                "model.bidirectional=true",
                "model.dropout=0.2",
                "train.clip_norm=0.5",
                "labels.exclude_zero=false",
            ]),
            odd.clone(),
            7,
        ),
        (
            "standardised and squared, apart",
            config(&[
                "align.standardize=true",
                "align.weight=1",
                "align.weight.ta=-0.5",
                "labels.squared=true",
                "model.hidden=8",
            ]),
            Made::default(),
            8,
        ),
        ("a batch of one", config(&["model.dropout=0.3"]), Made::default(), 1),
        (
            "post layer",
            config(&["align.layer=post", "align.weight=2", "model.hidden=1", "model.out=1"]),
            odd.clone(),
            3,
        ),
        ("fused alone", config(&["labels.enabled=false", "align.weight=0"]), odd, 5),
    ]
}

#[test]
fn steps_are_what_the_twins_compute() {
    let gpus = [gpu(), of(Family::Tiled), of(Family::Plain)];
    for (name, config, made, batch) in recipes() {
        let data = made.open();
        let bench = Bench::over(&config, &data, batch);
        let initial = bench.initial(gpus[0], &data);
        let recording = bench.recording();
        let mut host = HostMemory::new(&bench.spaces);
        for (id, words) in bench.ids().into_iter().zip(&initial) {
            host.write(id, 0, words).unwrap();
        }
        for i in 0..5 {
            host.write(bench.block, 0, &bench.batch(&data, i * 5)).unwrap();
            let (table, rows) = settings(&bench, i);
            host.write(table, 0, &rows).unwrap();
            interpret(&recording, &step(i), &mut host).unwrap();
        }
        for gpu in gpus {
            let memory = Memory::allocate(gpu, &bench.spaces).unwrap();
            let program = bench.plan(gpu.caps()).prepare(gpu, &memory, &mut Pool::new()).unwrap();
            bench.put(gpu, &memory, &initial);
            for i in 0..5 {
                replay(gpu, &bench, &program, &memory, &data, i);
            }
            let got = bench.contents(gpu, &memory);
            let mut worst = 0.0_f64;
            for (((space, _), id), words) in bench.spaces.iter().zip(bench.ids()).zip(&got) {
                if space == "batch" {
                    continue;
                }
                let floats: Vec<f32> = words.iter().map(|w| f32::from_bits(*w)).collect();
                let gap = largest_gap(&floats, &host.space(id).unwrap()[..floats.len()]);
                // Adam divides by the square root of what may be rounding alone.
                let bound = if space.starts_with("params") { 2e-3 } else { 2e-4 };
                let family = gpu.caps().family;
                assert!(gap < bound, "{name} on {family}: '{space}' is off by {gap:e}");
                worst = worst.max(gap);
            }
            println!("{name} on {}: {worst:.1e}", gpu.caps().family);
        }
    }
}

#[test]
fn a_replayed_plan_equals_a_fresh_one() {
    for (name, config, made, batch) in recipes() {
        let (data, gpu) = (made.open(), gpu());
        let bench = Bench::over(&config, &data, batch);
        let initial = bench.initial(gpu, &data);
        let memory = Memory::allocate(gpu, &bench.spaces).unwrap();
        let prepare = || bench.plan(gpu.caps()).prepare(gpu, &memory, &mut Pool::new()).unwrap();

        // Two steps with one plan, its buffers full of other steps' values.
        let used = prepare();
        bench.put(gpu, &memory, &initial);
        (10..13).for_each(|i| replay(gpu, &bench, &used, &memory, &data, i));
        bench.put(gpu, &memory, &initial);
        (0..2).for_each(|i| replay(gpu, &bench, &used, &memory, &data, i));
        let replayed = bench.contents(gpu, &memory);

        // The same two, each with a plan of its own.
        bench.put(gpu, &memory, &initial);
        (0..2).for_each(|i| replay(gpu, &bench, &prepare(), &memory, &data, i));
        assert!(replayed == bench.contents(gpu, &memory), "{name}");
        assert!(replayed != initial, "{name}: nothing happened");
    }
}

#[test]
fn parameters_in_many_arenas_train_alike() {
    let (data, gpu) = (Made::default().open(), gpu());
    // Heads and projections whose weights lie in several arenas are products of their own, and a
    // norm is summed arena by arena: sums in another order.
    for clip in ["train.clip_norm=0", "train.clip_norm=0.05"] {
        let config = config(&[clip, "model.dropout=0.2"]);
        let trained = |arena: u64| {
            let bench = Bench::within(arena, &config, &streams_of(&data), 8, 26);
            let arenas = bench.spaces.iter().filter(|(n, _)| n.starts_with("params.")).count();
            let memory = Memory::allocate(gpu, &bench.spaces).unwrap();
            let program = bench.plan(gpu.caps()).prepare(gpu, &memory, &mut Pool::new()).unwrap();
            bench.put(gpu, &memory, &bench.initial(gpu, &data));
            (0..4).for_each(|i| replay(gpu, &bench, &program, &memory, &data, i));
            (arenas, bench.params.download(gpu, &memory).unwrap())
        };
        let (one, whole) = trained(128 << 20);
        let (many, split) = trained(2048);
        assert!(one == 1 && many > 5, "{one} and {many} arenas");
        for ((name, _, a), (_, _, b)) in whole.iter().zip(split.iter()) {
            let gap = largest_gap(a, b);
            assert!(gap <= 1e-6, "{clip}: {name} is off by {gap:e}");
        }
    }
}

/// The streams of MOSI, MOSEI or SIMS, at given lengths.
fn default_streams(audio: usize, vision: usize) -> [StreamSpec; 3] {
    let stream = |modality, steps, dim| StreamSpec { modality, steps, dim, lengths: true };
    [
        stream(Modality::Text, 50, 768),
        stream(Modality::Audio, audio, 74),
        stream(Modality::Vision, vision, 35),
    ]
}

#[test]
fn a_default_step_takes_at_most_45_dispatches() {
    let mut most = 0;
    for (audio, vision) in [(375, 500), (500, 500), (50, 50), (500, 375)] {
        for family in [Family::Wide(8), Family::Tiled, Family::Plain] {
            for preset in ["mosi", "mosei", "sims", "simsv2"] {
                let set = ["train.batch_size=16".to_string()];
                let config = Config::build(preset, None, &set).unwrap();
                let own: Settings = config.settings().unwrap();
                assert!(own.align.weight.av != 0.0 && own.labels.enabled);
                let bench = Bench::new(&config, &default_streams(audio, vision), 16, 1284);
                let plan = bench.plan(&Caps::defaults(family));
                let count = plan.dispatches().len();
                most = most.max(count);
                assert!(count <= 45, "{preset} {audio}/{vision} on {family}:\n{plan}");
                for dispatch in plan.dispatches() {
                    let largest = dispatch.groups.iter().max().unwrap();
                    assert!(*largest <= 65_535, "{} {:?}", dispatch.kernel.name, dispatch.groups);
                }
            }
        }
    }
    println!("at most {most} dispatches");
}

#[test]
fn a_step_is_one_submit() {
    let (data, gpu) = (Made::default().open(), open(None));
    let bench = Bench::over(&config(&[]), &data, 8);
    let memory = Memory::allocate(&gpu, &bench.spaces).unwrap();
    let program = bench.plan(gpu.caps()).prepare(&gpu, &memory, &mut Pool::new()).unwrap();
    // The device numbers its submissions.
    let number = |i: usize, update: bool| -> u64 {
        memory.write(&gpu, bench.block, 0, &bench.batch(&data, i)).unwrap();
        memory.write_step(&gpu, &step(i)).unwrap();
        let (table, rows) = settings(&bench, i);
        memory.write(&gpu, table, 0, &rows).unwrap();
        let index = program.replay(&gpu, &memory, update, &bench.params.grad_spaces(), None);
        let text = format!("{:?}", index.unwrap());
        text.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let numbers: Vec<u64> = (0..6).map(|i| number(i, i % 2 == 1)).collect();
    for pair in numbers.windows(2) {
        assert_eq!(pair[1], pair[0] + 1, "{numbers:?}");
    }
    assert!(program.dispatch_count(false) < program.dispatch_count(true));
}

#[test]
fn the_steady_state_allocates_nothing() {
    let gpu = open(None);
    let made = Made { rows: [41, 10, 0], ..Made::default() };
    let data: Arc<Dataset> = made.open();
    let config = config(&["train.batch_size=4", "model.dropout=0.1", "train.clip_norm=1"]);
    let mut session = session(&gpu, &config, &data);
    // The first epoch prepares the plans of all its batches: of each number of rows and each eighth
    // of the longest sequences. Those after it visit the same batches again.
    let order = session.order(1);
    session.train_epoch(1, order.clone(), |_, _| Ok(())).unwrap();
    session.predict(SplitName::Valid).unwrap();
    gpu.wait().unwrap();
    let before = gpu.resources();
    assert!(before.iter().all(|n| *n > 5), "a report of what is alive: {before:?}");
    let mut steps = 0;
    for epoch in 2..=20 {
        session
            .train_epoch(epoch, order.clone(), |_, _| {
                steps += 1;
                assert_eq!(gpu.resources(), before, "step {steps} of the steady state");
                Ok(())
            })
            .unwrap();
    }
    assert_eq!(steps, 19 * 11);
    // And evaluation leaves nothing behind.
    session.predict(SplitName::Valid).unwrap();
    gpu.wait().unwrap();
    assert_eq!(gpu.resources(), before);
}
