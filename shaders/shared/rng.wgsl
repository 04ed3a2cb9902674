// A counter-based generator (the PCG output permutation as a hash): the same counters give the
// same number on every adapter, so a mask is never stored and a run repeats bit for bit.

fn pcg(v: u32) -> u32 {
    let state = v * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

// What the elements of one mask have in common; for loops, where it is worth having just once.
fn random_salt(seed: u32, step: u32, stream: u32) -> u32 {
    return pcg(stream ^ pcg(step ^ pcg(seed)));
}

// 32 random bits of (seed, step, stream, element).
fn random_bits(seed: u32, step: u32, stream: u32, element: u32) -> u32 {
    return pcg(element ^ random_salt(seed, step, stream));
}
