// What the attention kernels share: the parameters, whose keys a row asks, the exponential, and
// what dropout makes of a probability. Sizes, strides and offsets are in elements. Where a head has
// WIDTH elements, no multiple of 4, memory is read by elements and a head's last quad filled up with
// zeros; otherwise all of them are multiples of 4, and memory is read by quads.
#import numbers
#import rng
#import step

struct Params {
    queries: u32, keys: u32, heads: u32, head: u32,
    ldq: u32, q_at: u32, ldkv: u32, k_at: u32,
    v_at: u32, accumulate: u32, stream: u32, threshold: u32,
    keep: f32, scale: f32, places: u32, reach: u32,
#if PADDED
    steps: u32, kv_steps: u32, ahead: u32, pad2: u32,
#endif
}
@group(0) @binding(14) var<uniform> P: Params;

// Quads of a head.
const NV = ${HEAD / 4}u;
// What memory holds, elements of it, and those of a head.
#if WIDTH
alias M = f32;
const UNIT = 1u;
const HW = ${WIDTH}u;
#else
alias M = vec4<f32>;
const UNIT = 4u;
const HW = NV;
#endif

// The range of a row that has none: smallest of all ends, largest of all beginnings.
const NOWHERE = vec2<u32>(0xffffffffu, 0u);

// First row and end of the sequence that `row` belongs to, by its token, among `rows`.
fn sequence_of(row: u32, token: vec4<u32>, rows: u32) -> vec2<u32> {
    let first = row - min(token.y & 0xffffu, row);
    let end = min(first + min(token.z, rows), rows);
    return select(NOWHERE, vec2<u32>(first, end), row < rows && token.z > 0u);
}

fn within(i: u32, range: vec2<u32>) -> bool {
    return i >= range.x && i < range.y;
}

// exp(x) for x <= 0 (or hardly more). Beyond -60 it is 0, which no sum can tell from it: products of
// still smaller numbers would be denormal, and denormals are slow on CPUs. NaN stays NaN.
fn share(x: f32) -> f32 {
    let far = is_below(x, -60.0);
    return select(exp(select(x, -60.0, far)), 0.0, far);
}

// Where in a mask the keys of a query and head begin: no sequence is longer than all rows are many.
fn mask_row(query: u32, head: u32) -> u32 {
    return (query * P.heads + head) * P.places;
}

fn mask_salt() -> vec2<u32> {
#if DROPOUT
    return random_salt(S.seed, S.step, P.stream);
#else
    return vec2<u32>();
#endif
}

// The factor that dropout puts on a probability.
fn kept(salt: vec2<u32>, element: u32, threshold: u32, keep: f32) -> f32 {
#if DROPOUT
    return keep1(salt, element, threshold, keep);
#else
    return 1.0;
#endif
}

// A loop over an array up to the quads of P.head has no length that a compiler knows, and with this for the
// index none that it can guess from the array's: Mesa would unroll it, which for a load or a store
// of a vector from each lane takes llvmpipe seconds to compile.
fn nth(v: u32) -> u32 {
    return min(v, NV - 1u);
}

// Quads of a head as a number that no compiler knows.
fn quads() -> u32 {
    return (P.head + 3u) / 4u;
}

fn sum4(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}
