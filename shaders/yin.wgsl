// Y[f] = (f0, voicing) of frame x[n] = X[first + f hop + n], 0 <= n < N, after YIN:
//    d[k] = sum over n of (x[n] - x[n + k])^2, x[n] = 0 from N on
//    m[k] = k d[k] / sum over 1 <= j <= k of d[j]
//    k      the first trough of m below the threshold, else its first lowest place; LOW <= k <= HIGH
//    f0     rate / (k + s), s the vertex of the parabola through m[k-1], m[k], m[k+1] within one lag
//    voicing = sum of x[n] x[n + k] / sqrt(sum of x[n]^2 sum of x[n + k]^2), n + k < N, from 0 to 1
// Where the voicing is below `least` f0 is 0; where k is the first or last lag, or nothing is heard, both are.
//
// In    X [samples]; first, hop and N are multiples of 4
// Out   Y [frames, 2]
// Geometry  a workgroup of WG invocations a frame, which lies in workgroup memory with zeros behind it. An
//           invocation owns 8 neighbouring lags at a time, a sliding sum over the same quads. The
//           first one then looks through the lags, of which there are a few hundred.
// Numerics  f32. Differences are squared as they are: nothing cancels, as it does where d is made of
//           an autocorrelation. A frame whose squares are not finite has their sum in both places.
// Limits    N <= 2048, HIGH <= 511; 15 KiB of workgroup memory.
// Twin      ops::yin::reference::yin
#import numbers
#import quad

struct Params {
    frames: u32, first: u32, hop: u32, size: u32,
    low: u32, rate: f32, threshold: f32, least: f32,
}
@group(0) @binding(0) var<storage, read> X: array<Q>;
@group(0) @binding(1) var<storage, read_write> Y: array<vec2<f32>>;
@group(0) @binding(14) var<uniform> P: Params;

const N = ${SIZE}u;
const QUADS = ${SIZE / 4}u;
const HIGH = ${HIGH}u;
// Of 8 lags each.
const GROUPS = ${(HIGH + 8) / 8}u;

var<workgroup> x: array<Q, ${SIZE / 4 + (HIGH + 8) / 8 * 2}>;
var<workgroup> d: array<f32, ${(HIGH + 8) / 8 * 8}>;
var<workgroup> m: array<f32, ${(HIGH + 8) / 8 * 8}>;
var<workgroup> squares: array<f32, ${WG}>;

fn further(sum: vec4<f32>, a: f32, b: vec4<f32>) -> vec4<f32> {
    let off = vec4<f32>(a) - b;
    return sum + off * off;
}

fn sample(n: u32) -> f32 {
    return quad(x[n / 4u])[n % 4u];
}

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let frame = wid.y * count.x + wid.x;
    if (frame >= P.frames) { return; }
    let at = (P.first + frame * P.hop) / 4u;
    var energy = vec4<f32>();
    for (var i = id; i < QUADS; i += ${WG}u) {
        let q = X[at + i];
        let v = quad(q);
        energy += v * v;
        x[i] = q;
    }
    for (var i = QUADS + id; i < QUADS + 2u * GROUPS; i += ${WG}u) { x[i] = pack(vec4<f32>()); }
    squares[id] = (energy.x + energy.y) + (energy.z + energy.w);
    workgroupBarrier();
    for (var g = id; g < GROUPS; g += ${WG}u) {
        var low = vec4<f32>();
        var high = vec4<f32>();
        var b0 = quad(x[2u * g]);
        var b1 = quad(x[2u * g + 1u]);
        for (var i = 0u; i < QUADS; i++) {
            let a = quad(x[i]);
            let b2 = quad(x[i + 2u * g + 2u]);
            low = further(low, a.x, b0);
            high = further(high, a.x, b1);
            low = further(low, a.y, vec4<f32>(b0.yzw, b1.x));
            high = further(high, a.y, vec4<f32>(b1.yzw, b2.x));
            low = further(low, a.z, vec4<f32>(b0.zw, b1.xy));
            high = further(high, a.z, vec4<f32>(b1.zw, b2.xy));
            low = further(low, a.w, vec4<f32>(b0.w, b1.xyz));
            high = further(high, a.w, vec4<f32>(b1.w, b2.xyz));
            b0 = b1;
            b1 = b2;
        }
#for l in 0..4
        d[8u * g + ${l}u] = low[${l}];
        d[8u * g + ${l + 4}u] = high[${l}];
#endfor
    }
    workgroupBarrier();
    if (id > 0u) { return; }

    var total = 0.0;
    for (var k = 1u; k <= HIGH; k++) {
        total += d[k];
        m[k] = f32(k) * d[k] / (total + 1.2e-38);
    }
    var best = P.low;
    for (var k = P.low; k <= HIGH; k++) {
        let here = m[k];
        let after = m[min(k + 1u, HIGH)];
        // The first lag has nothing before it, the last one nothing after it.
        var trough = here < after;
        if (k > P.low) { trough = here < m[k - 1u] && here <= after; }
        if (trough && here < P.threshold) {
            best = k;
            break;
        }
        if (here < m[best]) { best = k; }
    }
    var heard = 0.0;
    for (var i = 0u; i < ${WG}u; i++) { heard += squares[i]; }
    // What the frame and the frame moved on by k do not share.
    var head = 0.0;
    var tail = 0.0;
    for (var n = 0u; n < best; n++) {
        let first = sample(n);
        let last = sample(N - 1u - n);
        head += first * first;
        tail += last * last;
    }
    let shared_energy = sqrt(heard - head) * sqrt(heard - tail);
    var y = vec2<f32>();
    if (best > P.low && best < HIGH && heard > head && heard > tail) {
        let voicing = (heard - 0.5 * (head + d[best])) / shared_energy;
        let bend = m[best + 1u] + m[best - 1u] - 2.0 * m[best];
        let slope = 0.5 * (m[best + 1u] - m[best - 1u]);
        var shift = 0.0;
        if (abs(slope) < abs(bend)) { shift = -slope / bend; }
        y.y = saturate(voicing);
        if (y.y >= P.least) { y.x = P.rate / (f32(best) + shift); }
    }
    if (is_nan(heard) || is_above(heard, 3.4e38)) { y = vec2<f32>(heard); }
    Y[frame] = y;
}
