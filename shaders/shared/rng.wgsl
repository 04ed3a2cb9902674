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

// A dropout factor: 0, or `scale` where the element's random bits reach `threshold`. `salt` is what
// random_salt says; and the factors of four neighbours.
fn keep1(salt: u32, element: u32, threshold: u32, scale: f32) -> f32 {
    return select(0.0, scale, pcg(element ^ salt) >= threshold);
}

fn keep4(salt: u32, element: u32, threshold: u32, scale: f32) -> vec4<f32> {
    let e = vec4<u32>(element, element + 1u, element + 2u, element + 3u) ^ vec4<u32>(salt);
    let bits = vec4<u32>(pcg(e.x), pcg(e.y), pcg(e.z), pcg(e.w));
    return select(vec4<f32>(), vec4<f32>(scale), bits >= vec4<u32>(threshold));
}
