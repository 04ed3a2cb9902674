// A counter-based generator: the same counters give the same number on every adapter, so a mask is
// never stored and a run repeats bit for bit.
//
// pcg is the output permutation of that generator, as a hash. Under one key alone the numbers of two
// streams would be the same ones in another order, pcg(element ^ key); with a second key between two
// rounds, and none that two streams of a run share, an element of the one says nothing of any of the
// other.

fn pcg(v: u32) -> u32 {
    let state = v * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

// The two keys, what the elements of one mask have in common; for loops, where it is worth having
// just once. Of one seed no two pairs of a step and a stream have both in common.
fn random_salt(seed: u32, step: u32, stream: u32) -> vec2<u32> {
    let base = pcg(step ^ pcg(seed));
    return vec2<u32>(pcg(stream ^ base), base + stream * 2654435769u);
}

// 32 random bits of an element.
fn random_bits(salt: vec2<u32>, element: u32) -> u32 {
    return pcg(pcg(element ^ salt.x) + salt.y);
}

// A dropout factor: 0, or `scale` where the element's random bits reach `threshold`; and the factors
// of four neighbours.
fn keep1(salt: vec2<u32>, element: u32, threshold: u32, scale: f32) -> f32 {
    return select(0.0, scale, random_bits(salt, element) >= threshold);
}

fn keep4(salt: vec2<u32>, element: u32, threshold: u32, scale: f32) -> vec4<f32> {
    let bits = vec4<u32>(random_bits(salt, element), random_bits(salt, element + 1u),
        random_bits(salt, element + 2u), random_bits(salt, element + 3u));
    return select(vec4<f32>(), vec4<f32>(scale), bits >= vec4<u32>(threshold));
}
