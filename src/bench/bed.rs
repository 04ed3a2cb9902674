//! A recording to time, with what its buffers hold.

use crate::Gpu;
use crate::error::Result;
use crate::nn::{Group, Groups, ParamSpec, Params};
use crate::ops::{self, CaseRecording};
use crate::plan::{Case, Kernel, Memory, Recording, SpaceId, Spaces, Step};
use crate::tape::{Tape, Var};

/// Random values repeat after so many words.
const BLOCK: usize = 1 << 16;

#[derive(Clone)]
enum Fill {
    /// In [-1, 1) times a scale.
    Random(u64, f32),
    Words(Vec<u32>),
}

/// A tape under construction, its buffers, and what is in them.
pub(crate) struct Bed {
    pub tape: Tape,
    pub spaces: Spaces,
    fill: Vec<(SpaceId, Fill)>,
    groups: Option<Groups>,
}

/// A finished one.
pub(crate) struct Made {
    pub recording: Recording,
    pub spaces: Spaces,
    fill: Vec<(SpaceId, Fill)>,
    pub step: Step,
    /// Of the parameters, if there are any; at their first step.
    pub groups: Option<Groups>,
}

impl Bed {
    pub fn new() -> Self {
        Bed { tape: Tape::new(), spaces: Spaces::new(), fill: Vec::new(), groups: None }
    }

    /// A buffer of random values.
    fn random(&mut self, name: &str, words: usize) -> SpaceId {
        let space = self.spaces.declare(name, words);
        self.randomize(space);
        space
    }

    /// Fills a space that was declared elsewhere with random values.
    pub fn randomize(&mut self, space: SpaceId) {
        self.randomize_within(space, 1.0);
    }

    /// The same, in ±`bound`.
    pub fn randomize_within(&mut self, space: SpaceId, bound: f32) {
        self.fill.push((space, Fill::Random(self.fill.len() as u64 + 1, bound)));
    }

    /// Words for a space that was declared elsewhere.
    pub fn set(&mut self, space: SpaceId, words: Vec<u32>) {
        self.fill.push((space, Fill::Words(words)));
    }

    /// Declares parameters, of random values in ±`bound`, whose groups are at their first step.
    pub fn parameters(
        &mut self,
        specs: Vec<ParamSpec>,
        groups: &[Group],
        max_binding: u64,
        bound: f32,
    ) -> Result<Params> {
        self.parameters_by_turns(specs, (groups, 1), max_binding, bound)
    }

    /// The same for a step of so many turns.
    pub fn parameters_by_turns(
        &mut self,
        specs: Vec<ParamSpec>,
        (groups, turns): (&[Group], usize),
        max_binding: u64,
        bound: f32,
    ) -> Result<Params> {
        let before = self.spaces.ids().len();
        let given = (groups, turns);
        let params = Params::by_turns(specs, given, &mut self.spaces, max_binding, true)?;
        let all = self.spaces.ids().zip(self.spaces.iter()).skip(before);
        let values: Vec<SpaceId> =
            all.filter(|(_, (name, _))| name.starts_with("params")).map(|(id, _)| id).collect();
        values.into_iter().for_each(|id| self.randomize_within(id, bound));
        let mut groups = params.groups();
        groups.advance();
        if let Some(table) = groups.table() {
            self.set(table, groups.rows_of_turns(turns));
        }
        self.groups = Some(groups);
        Ok(params)
    }

    /// An input of random values whose gradient is wanted.
    pub fn watched(&mut self, name: &str, shape: &[usize]) -> Var {
        let var = self.given(name, shape);
        self.tape.watch(var);
        var
    }

    /// An input of random values.
    pub fn given(&mut self, name: &str, shape: &[usize]) -> Var {
        let space = self.random(name, shape.iter().product());
        self.tape.input(name, shape, space, 0)
    }

    /// A parameter of random values.
    pub fn parameter(&mut self, name: &str, shape: &[usize]) -> Var {
        let words = shape.iter().product();
        let value = self.random(name, words);
        let grad = self.spaces.declare(format!("d.{name}"), words);
        self.tape.parameter(name, shape, (value, 0), Some((grad, 0)))
    }

    /// An input of these words.
    pub fn words(&mut self, name: &str, shape: &[usize], words: Vec<u32>) -> Var {
        let space = self.spaces.declare(name, words.len());
        self.fill.push((space, Fill::Words(words)));
        self.tape.input(name, shape, space, 0)
    }

    /// Appends the gradient of the sum of everything in `y`.
    pub fn backward(&mut self, y: Var) -> Result<()> {
        let loss = self.tape.sum(y)?;
        self.tape.backward(&[loss])
    }

    pub fn make(self) -> Made {
        // From the second epoch on labels are generated.
        let step = Step { seed: 1, step: 1, epoch: 2, ..Step::default() };
        let recording = self.tape.recording().copy();
        Made { recording, spaces: self.spaces, fill: self.fill, step, groups: self.groups }
    }
}

impl Made {
    /// A case of the registry.
    pub fn case(kernel: &'static Kernel, case: &Case) -> Self {
        let CaseRecording { recording, spaces, args, step } = ops::record_case(kernel, case);
        let fill = args.into_iter().flatten().map(|(space, words)| (space, Fill::Words(words)));
        Made { recording, spaces, fill: fill.collect(), step, groups: None }
    }

    /// Puts everything on the device.
    pub fn allocate(&self, gpu: &Gpu) -> Result<Memory> {
        let memory = Memory::allocate(gpu, &self.spaces)?;
        memory.write_step(gpu, &self.step)?;
        for (space, fill) in &self.fill {
            let (seed, bound) = match fill {
                Fill::Words(words) => {
                    memory.write(gpu, *space, 0, words)?;
                    continue;
                }
                Fill::Random(seed, bound) => (*seed, *bound),
            };
            let words = self.spaces.words(*space)?;
            let values = ops::random(seed, words.min(BLOCK));
            let block: Vec<u32> = values.iter().map(|v| (v * bound).to_bits()).collect();
            for at in (0..words).step_by(BLOCK) {
                memory.write(gpu, *space, at, &block[..BLOCK.min(words - at)])?;
            }
            // Uploads are kept until a submission; an arena of many MiB should not be there twice.
            gpu.run(|_| ())?;
        }
        gpu.wait()?;
        Ok(memory)
    }
}
