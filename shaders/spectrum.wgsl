// Y[f * signals + s, b] of frame f of signal s, with F = sum over n of W[n] x[n] exp(-2 pi i k n / N),
// x[n] = X[at_s + f hop_s + n], k = first + b:
//    |F|^2                              a number a bin
//    Re F, Im F                         two numbers a bin, side by side (PAIRS)
//
// In    X       one buffer that holds all signals; at and hop of each are even
//       TWIDDLE [N, 2]: cos and -sin of 2 pi k / N
//       WINDOW  [N], optional: W; 1 where it is left out
// Out   Y       [frames * signals, bins], or twice as wide with PAIRS; 0 past bin N/2
// A frame of N real numbers is N/2 complex ones, z[n] = x[2n] + i x[2n+1]. Their transform Z, in
// place by radix 4 (a first step by 2 where log2(N/2) is odd), leaves Z[k] at k with its bits
// reversed, and F[k] = (Z[k] + Z*[N/2-k])/2 - i/2 exp(-2 pi i k/N) (Z[k] - Z*[N/2-k]).
//
// Geometry  a workgroup of WG invocations a frame, which lies in workgroup memory; an invocation
//           does every WG-th butterfly of a step. WG is N/8 (at most 256) on a GPU, a subgroup on a
//           CPU adapter, where a frame in an invocation's own memory takes minutes to compile.
// Numerics  f32; the table is rounded from f64. Butterflies in a fixed order.
// Limits    N a power of two from 16 to 4096; at most 8 signals; 4 N bytes of workgroup memory.
// Twin      ops::spectrum::reference::spectrum

// Z, two neighbouring numbers in memory; with LONG one 64-bit integer of the same bits, which a CPU
// adapter moves at once.
#if LONG
alias Z = u64;

fn pair(z: Z) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(u32(z), u32(z >> 32u)));
}

fn kept(v: vec2<f32>) -> Z {
    let w = bitcast<vec2<u32>>(v);
    return u64(w.x) | (u64(w.y) << 32u);
}
#else
alias Z = vec2<f32>;

fn pair(z: Z) -> vec2<f32> {
    return z;
}

fn kept(v: vec2<f32>) -> Z {
    return v;
}
#endif

struct Params {
    frames: u32, signals: u32, first: u32, bins: u32,
    signal: array<vec4<u32>, 8>,  // of each: at, hop
}
@group(0) @binding(0) var<storage, read> X: array<Z>;
@group(0) @binding(1) var<storage, read> TWIDDLE: array<Z>;
#if WINDOW
@group(0) @binding(2) var<storage, read> WINDOW: array<Z>;
#endif
@group(0) @binding(3) var<storage, read_write> Y: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

const N = ${SIZE}u;
const M = ${SIZE / 2}u;

var<workgroup> z: array<Z, ${SIZE / 2}>;

fn times(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

// One element of the frame that begins at pair `at`.
fn load(at: u32, n: u32) -> vec2<f32> {
#if WINDOW
    return pair(X[at + n]) * pair(WINDOW[n]);
#else
    return pair(X[at + n]);
#endif
}

// A butterfly of radix 4. What comes second and third changes places, so that in the end the bits
// are reversed and not pairs of them.
fn butterfly(base: u32, quarter: u32, w1: vec2<f32>, w2: vec2<f32>, w3: vec2<f32>) {
    let a = pair(z[base]);
    let b = pair(z[base + quarter]);
    let c = pair(z[base + 2u * quarter]);
    let d = pair(z[base + 3u * quarter]);
    let t0 = a + c;
    let t1 = a - c;
    let t2 = b + d;
    let t3 = vec2<f32>(b.y - d.y, d.x - b.x);
    z[base] = kept(t0 + t2);
    z[base + quarter] = kept(times(t0 - t2, w2));
    z[base + 2u * quarter] = kept(times(t1 + t3, w1));
    z[base + 3u * quarter] = kept(times(t1 - t3, w3));
}

// F at bin k, from Z.
fn bin(k: u32) -> vec2<f32> {
    let a = pair(z[reverseBits(k & (M - 1u)) >> ${33 - LOG}u]);
    let b = pair(z[reverseBits((M - k) & (M - 1u)) >> ${33 - LOG}u]);
    let even = 0.5 * vec2<f32>(a.x + b.x, a.y - b.y);
    let odd = 0.5 * vec2<f32>(a.y + b.y, b.x - a.x);
    return even + times(odd, pair(TWIDDLE[k]));
}

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let row = wid.y * count.x + wid.x;
    if (row >= P.frames * P.signals) { return; }
    let signal = P.signal[row % P.signals];
    let at = (signal.x + row / P.signals * signal.y) / 2u;
#if LOG % 2 == 0
    // The step by 2, while the frame is loaded.
    for (var n = id; n < M / 2u; n += ${WG}u) {
        let a = load(at, n);
        let b = load(at, n + M / 2u);
        z[n] = kept(a + b);
        z[n + M / 2u] = kept(times(a - b, pair(TWIDDLE[2u * n])));
    }
#else
    for (var n = id; n < M; n += ${WG}u) { z[n] = kept(load(at, n)); }
#endif
    workgroupBarrier();
    // Steps over blocks of 4 quarters, which are 2^q elements each; shifts, since a division takes a
    // CPU adapter longer than all the rest of a butterfly.
    for (var q = ${LOG - 3 - (LOG + 1) % 2}u; ; q -= 2u) {
        for (var i = id; i < M / 4u; i += ${WG}u) {
            let p = i & ((1u << q) - 1u);
            let w = p << (${LOG - 2}u - q);
            butterfly(((i >> q) << (q + 2u)) + p, 1u << q,
                pair(TWIDDLE[w]), pair(TWIDDLE[2u * w]), pair(TWIDDLE[3u * w]));
        }
        workgroupBarrier();
        if (q < 2u) { break; }
    }
    for (var b = id; b < P.bins; b += ${WG}u) {
        let k = P.first + b;
        var f = vec2<f32>();
        if (k <= M) { f = bin(k); }
#if PAIRS
        Y[2u * (row * P.bins + b)] = f.x;
        Y[2u * (row * P.bins + b) + 1u] = f.y;
#else
        Y[row * P.bins + b] = dot(f, f);
#endif
    }
}
