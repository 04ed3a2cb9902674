//! No sequence of calls panics: random ones, with ids, devices and ranges of all kinds, against a
//! model of what they may do.

use super::host::gpu;
use modalign::gpu::GpuOptions;
use modalign::plan::{
    HostMemory, Memory, Plan, Pool, Program, Ring, SpaceId, Spaces, Step, interpret,
};
use modalign::{Gpu, Tape, Var};

/// xorshift64*: enough to choose with, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A size: mostly small, now and then at or beyond every end.
    fn size(&mut self) -> usize {
        match self.below(8) {
            0 => *self.of(&[usize::MAX, usize::MAX / 4, 1 << 32, 1 << 62, u32::MAX as usize]),
            1 => *self.of(&[63, 64, 65, 127, 128, 129]),
            _ => self.below(80),
        }
    }
}

/// Words of a space that was declared with `words`: as the buffer has them.
fn room(words: usize) -> usize {
    words.next_multiple_of(4).max(4)
}

#[test]
fn memories_do_what_a_vector_does_or_refuse() {
    let own = gpu();
    let other = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).unwrap();
    let (mut done, mut refused) = (0, 0);
    for seed in 1..=12 {
        let mut dice = Dice(seed * 0x9e37_79b9);
        // Two sets of spaces, of which the second begins as a clone of the first.
        let mut sets = [Spaces::new(), Spaces::new()];
        let mut ids: Vec<SpaceId> = Vec::new();
        for _ in 0..1 + dice.below(4) {
            ids.push(sets[0].declare("first", 64 + dice.below(130)));
        }
        sets[1] = sets[0].clone();
        for set in &mut sets {
            ids.push(set.declare("own", 64 + dice.below(130)));
        }
        let memories = [0, 1].map(|i| Memory::allocate(own, &sets[i]).unwrap());
        let mut hosts = [0, 1].map(|i| HostMemory::new(&sets[i]));
        let mut contents: [Vec<Vec<u32>>; 2] =
            [0, 1].map(|i| sets[i].iter().map(|(_, words)| vec![0; room(words)]).collect());
        ids.push(Spaces::new().declare("nowhere", 64));
        for turn in 0..150 {
            let (which, id) = (dice.below(2), *dice.of(&ids));
            let (offset, len) = (dice.size(), dice.size());
            let gpu = if dice.below(10) == 0 { &other } else { own };
            let at = memories[which].spaces().ids().position(|i| i == id);
            let end = offset.checked_add(len);
            let inside = at.is_some_and(|at| end.is_some_and(|e| e <= contents[which][at].len()));
            let right = inside && std::ptr::eq(gpu, own);
            let memory = &memories[which];
            let ok = match dice.below(5) {
                0 => memory.read(gpu, id, offset, len).map(|found| {
                    let at = at.expect("a place");
                    assert_eq!(found, contents[which][at][offset..offset + len], "{seed} {turn}");
                }),
                1 | 2 => {
                    let len = len.min(300);
                    let values: Vec<u32> = (0..len as u32).map(|i| i + turn).collect();
                    let ok = memory.write(gpu, id, offset, &values);
                    // A length that was cut may be inside after all.
                    if ok.is_ok() {
                        let at = at.expect("a place");
                        contents[which][at][offset..offset + len].copy_from_slice(&values);
                        hosts[which].write(id, offset, &values).expect("the same on the host");
                    }
                    ok
                }
                3 => {
                    let words = sets[which].words(id);
                    assert_eq!(words.is_ok(), at.is_some());
                    // Growing declarations does not grow what was allocated.
                    let grown = sets[which].grow(id, dice.below(500));
                    assert_eq!(grown.is_ok(), at.is_some());
                    continue;
                }
                _ => {
                    assert_eq!(memory.buffer(id).is_ok(), at.is_some());
                    assert_eq!(hosts[which].space(id).is_ok(), at.is_some());
                    let _ = hosts[which].write(id, offset, &vec![7; len.min(300)]).is_err();
                    let back: Vec<Vec<u32>> = contents[which].clone();
                    hosts[which].spaces = back;
                    continue;
                }
            };
            if ok.is_ok() {
                done += 1;
            } else {
                refused += 1;
                assert!(!right || len > 300, "{seed} {turn}: {ok:?}");
            }
        }
        for which in 0..2 {
            for (i, id) in memories[which].spaces().ids().enumerate() {
                let words = contents[which][i].len();
                let found = memories[which].read(own, id, 0, words).unwrap();
                assert_eq!(found, contents[which][i], "seed {seed}, at the end");
            }
        }
        own.check().unwrap();
        other.check().unwrap();
    }
    assert!(done > 100 && refused > 100, "{done} done, {refused} refused");
}

/// A recording over some of the spaces, at some offsets, right or not.
fn recorded(dice: &mut Dice, ids: &[SpaceId]) -> (Tape, Vec<Var>) {
    let (mut tape, mut vars) = (Tape::new(), Vec::new());
    let offset = *dice.of(&[0, 0, 0, 64, 128, 1]);
    let space = *dice.of(ids);
    let x = tape.input("x", &[1 + dice.below(64)], space, offset);
    vars.push(x);
    for _ in 0..1 + dice.below(3) {
        let from = *dice.of(&vars);
        vars.push(tape.scale(from, 0.5).unwrap());
    }
    for var in &vars {
        if dice.below(2) == 0 {
            tape.keep(*var);
        }
    }
    (tape, vars)
}

#[test]
fn programs_run_or_refuse() {
    let own = gpu();
    let other = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).unwrap();
    let gpus = [own, own, own, own, &other];
    for seed in 1..=6 {
        let mut dice = Dice(seed * 0x0123_4567);
        let mut spaces = [Spaces::new(), Spaces::new()];
        let mut ids = Vec::new();
        for set in &mut spaces {
            for _ in 0..2 {
                ids.push(set.declare("space", 64 + dice.below(130)));
            }
        }
        let mut memories: Vec<Memory> = Vec::new();
        let mut pools = [Pool::new(), Pool::new()];
        let mut programs: Vec<(Program, Vec<Var>)> = Vec::new();
        let mut rings: Vec<Ring> = Vec::new();
        let (mut done, mut refused) = (0, 0);
        for set in &spaces {
            memories.push(Memory::allocate(own, set).unwrap());
        }
        memories.push(Memory::allocate(&other, &spaces[0]).unwrap());
        for _ in 0..120 {
            let gpu: &Gpu = gpus[dice.below(gpus.len())];
            let memory = dice.of(&memories);
            let ok = match dice.below(9) {
                0 | 1 => {
                    let (tape, vars) = recorded(&mut dice, &ids);
                    let mut host = HostMemory::new(dice.of(&spaces));
                    let _ = interpret(tape.recording(), &Step::default(), &mut host).is_err();
                    let plan: modalign::Result<Plan> = tape.plan(gpu.caps());
                    let pool = &mut pools[dice.below(2)];
                    plan.and_then(|plan| plan.prepare(gpu, memory, pool))
                        .map(|p| programs.push((p, vars)))
                }
                2 => Ring::new(gpu, *dice.of(&ids), dice.size(), dice.size())
                    .map(|ring| rings.push(ring)),
                _ if programs.is_empty() => continue,
                3 => {
                    let (program, _) = dice.of(&programs);
                    let clear: Vec<SpaceId> = (0..dice.below(3)).map(|_| *dice.of(&ids)).collect();
                    let at = dice.below(rings.len() + 1);
                    let ring = rings.get_mut(at);
                    program.replay(gpu, memory, dice.below(2) == 0, &clear, ring).map(drop)
                }
                4 => dice.of(&programs).0.run(gpu, memory),
                5 => {
                    let (from, to) = (dice.below(4), dice.below(6));
                    dice.of(&programs).0.run_some(gpu, from..to)
                }
                6 => {
                    let program = dice.below(programs.len());
                    let from = dice.below(programs.len());
                    let var = *dice.of(&programs[from].1);
                    programs[program].0.read(gpu, memory, var).map(drop)
                }
                7 => memory.write_step(gpu, &Step::default()),
                _ if rings.is_empty() => continue,
                _ => {
                    let at = dice.below(rings.len());
                    rings[at].finish(gpu, memory).map(drop)
                }
            };
            if ok.is_ok() { done += 1 } else { refused += 1 }
        }
        assert!(done > 5 && refused > 5, "{done} done, {refused} refused");
        // Nothing of all that is left behind.
        own.check().unwrap();
        other.check().unwrap();
        super::Model::new(own).works(own);
        super::Model::new(&other).works(&other);
    }
}
