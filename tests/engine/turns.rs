//! Updates by turns in one program: as if each were a program of its own.

use crate::common;
use common::gpu;
use modalign::nn::{Group, Init, ParamSpec, Params, Schedule, Weights};
use modalign::ops::optim::Clip;
use modalign::plan::{Memory, Pool, Program, Spaces};
use modalign::tape::Tape;

const GROUPS: [&str; 3] = ["a", "b", "shared"];
/// What is recorded of a turn: the parameter beside the shared one, and the groups that it moves.
const TURNS: [(&str, [&str; 2]); 2] = [("pa", ["a", "shared"]), ("pb", ["b", "shared"])];

/// An Adam whose rate falls, one with momentum, and a shared group that falls twice as fast as they see it.
fn groups() -> [Group; 3] {
    let falls = Schedule::Step { every: 3, factor: 0.5 };
    [
        Group::adam("a", 0.05).schedule(falls.clone()),
        Group::sgd("b", 0.1, 0.9).weight_decay(0.01),
        Group::adam_w("shared", 0.02).schedule(falls),
    ]
}

struct Made {
    spaces: Spaces,
    params: Params,
}

fn made(turns: usize) -> Made {
    let spec = |name: &str, group| ParamSpec::new(name, &[8], group, Init::Uniform(0.5));
    let specs = vec![spec("pa", "a"), spec("pb", "b"), spec("ps", "shared")];
    let mut spaces = Spaces::new();
    let groups = groups();
    let params = Params::by_turns(specs, (&groups, turns), &mut spaces, 1 << 27, true);
    Made { params: params.expect("parameters"), spaces }
}

/// The loss of a turn: the mean of (p · shared − 1)².
fn loss(tape: &mut Tape, params: &Params, own: &str) {
    let (own, shared) = (params.var(tape, own).unwrap(), params.var(tape, "ps").unwrap());
    let product = tape.mul(own, shared).unwrap();
    let one = tape.constant("one", &[8], &[1.0; 8]).unwrap();
    let off = tape.sub(product, one).unwrap();
    let square = tape.square(off).unwrap();
    let mean = tape.mean(square).unwrap();
    tape.backward(&[mean]).unwrap();
}

fn memory(made: &Made) -> Memory {
    let memory = Memory::allocate(gpu(), &made.spaces).expect("memory");
    made.params.upload(gpu(), &memory, &made.params.initial(7)).expect("values");
    memory
}

fn prepared(tape: Tape, memory: &Memory) -> Program {
    let plan = tape.plan(gpu().caps()).expect("a plan");
    plan.prepare(gpu(), memory, &mut Pool::new()).expect("a program")
}

const STEPS: usize = 7;

/// All turns recorded one behind the other, in one submission for each batch.
fn together() -> (Weights, Vec<u32>) {
    let made = made(2);
    let memory = memory(&made);
    let mut tape = Tape::new();
    for (i, (own, moved)) in TURNS.iter().enumerate() {
        loss(&mut tape, &made.params, own);
        made.params.optimize_turn(&mut tape, i, moved, Clip::norm(0.5)).unwrap();
    }
    let program = prepared(tape, &memory);
    let mut groups = made.params.groups();
    for _ in 0..STEPS {
        for (i, (_, moved)) in TURNS.iter().enumerate() {
            groups.advance_only(moved).unwrap();
            groups.write_turn(gpu(), &memory, i).unwrap();
        }
        program.replay(gpu(), &memory, true, &[], None).unwrap();
    }
    let steps = GROUPS.map(|name| groups.steps(name).unwrap()).to_vec();
    (made.params.download(gpu(), &memory).unwrap(), steps)
}

/// Each turn a program and a submission of its own.
fn apart() -> (Weights, Vec<u32>) {
    let made = made(1);
    let memory = memory(&made);
    let programs = TURNS.map(|(own, moved)| {
        let mut tape = Tape::new();
        loss(&mut tape, &made.params, own);
        made.params.optimize_only(&mut tape, &moved, Clip::norm(0.5)).unwrap();
        prepared(tape, &memory)
    });
    let mut groups = made.params.groups();
    for _ in 0..STEPS {
        for (program, (_, moved)) in programs.iter().zip(&TURNS) {
            groups.advance_only(moved).unwrap();
            groups.write(gpu(), &memory).unwrap();
            program.replay(gpu(), &memory, true, &[], None).unwrap();
        }
    }
    let steps = GROUPS.map(|name| groups.steps(name).unwrap()).to_vec();
    (made.params.download(gpu(), &memory).unwrap(), steps)
}

#[test]
fn turns_of_one_program_are_programs_of_their_own() {
    let (one, steps) = together();
    let (several, counted) = apart();
    assert_eq!(steps, [7, 7, 14]);
    assert_eq!(counted, steps);
    assert_eq!(common::bits(&one), common::bits(&several));
    let first = made(1).params.initial(7);
    for name in ["pa", "pb", "ps"] {
        assert_ne!(one.get(name), first.get(name), "{name} was moved");
    }
}

#[test]
fn a_turn_that_was_not_made_is_refused() {
    let made = made(2);
    let error = made.params.optimize_turn(&mut Tape::new(), 2, &["a"], Clip::default());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("turn 2 of parameters that were made for 2"), "{error}");
    let error = made.params.optimize_turn(&mut Tape::new(), 1, &["c"], Clip::default());
    assert!(error.unwrap_err().to_string().contains("no parameter group 'c'"));
    let memory = memory(&made);
    let error = made.params.groups().write_turn(gpu(), &memory, 2).unwrap_err().to_string();
    assert!(error.contains("optimizer groups"), "{error}");
}
