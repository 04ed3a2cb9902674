//! Sizes that no adapter holds are refused in words, where a plan is made: nothing overflows on the way
//! there, and nothing is cut to 32 bits.

use modalign::gpu::{Caps, Family};
use modalign::ops::Act;
use modalign::plan::{Plan, Spaces};
use modalign::{Error, Tape, Var};

fn input(tape: &mut Tape, shape: &[usize]) -> Var {
    let space = Spaces::new().declare("x", 0);
    tape.input("x", shape, space, 0)
}

/// What a plan for an adapter of large bindings says of a recording.
fn refusal(tape: Tape) -> String {
    let mut said = Vec::new();
    for family in [Family::Tiled, Family::Wide(8), Family::Plain] {
        let mut caps = Caps::defaults(family);
        (caps.max_binding, caps.max_buffer) = (u64::MAX, u64::MAX);
        match Plan::new(tape.recording().clone(), &caps) {
            Err(why @ (Error::OutOfMemory { .. } | Error::TooLarge { .. })) => {
                said.push(why.to_string())
            }
            Err(why) => panic!("{family}: {why}"),
            Ok(_) => panic!("{family}: taken"),
        }
    }
    said.remove(0)
}

#[test]
fn tensors_past_what_32_bits_count_are_refused() {
    // Of 2^32 words, of 2^32 + 16, whose lower half is small, and past 64 bits.
    for shape in [&[1 << 16, 1 << 16][..], &[1 << 32, 1], &[(1 << 28) + 1, 16], &[1 << 40, 1 << 40]]
    {
        let mut tape = Tape::new();
        let x = input(&mut tape, shape);
        let y = tape.scale(x, 2.0).expect("recorded");
        tape.sum(y).expect("recorded");
        let why = refusal(tape);
        assert!(why.contains("'x'") && why.contains("one binding"), "{shape:?}: {why}");
    }
    // Every operand fits, what comes out does not.
    let mut tape = Tape::new();
    let (a, b) = (input(&mut tape, &[1 << 20, 1]), input(&mut tape, &[1, 1 << 20]));
    tape.matmul(a, b).expect("recorded");
    assert!(refusal(tape).contains("[1048576, 1048576]"));
    let mut tape = Tape::new();
    let (a, b) =
        (input(&mut tape, &[u32::MAX as usize, 1]), input(&mut tape, &[1, u32::MAX as usize]));
    tape.matmul(a, b).expect("recorded");
    refusal(tape);
}

#[test]
fn bindings_past_the_adapters_are_refused() {
    let mut tape = Tape::new();
    let x = input(&mut tape, &[33 << 20]);
    tape.activate(x, Act::Relu).expect("recorded");
    let caps = Caps::defaults(Family::Plain);
    let why = tape.plan(&caps).err().expect("132 MiB in a binding of 128").to_string();
    assert!(why.contains("'x'") && why.contains("134217728"), "{why}");
}

#[test]
fn more_workgroups_than_the_adapter_takes_are_refused() {
    let mut tape = Tape::new();
    // The tiles of the product's rows lie along one axis of the grid.
    let (a, b) = (input(&mut tape, &[64 * 70_000, 4]), input(&mut tape, &[4, 4]));
    tape.matmul(a, b).expect("recorded");
    let mut caps = Caps::defaults(Family::Tiled);
    caps.max_binding = 1 << 31;
    let why = tape.plan(&caps).err().expect("70,000 workgroups").to_string();
    assert!(why.contains("matmul") && why.contains("65535"), "{why}");
}
