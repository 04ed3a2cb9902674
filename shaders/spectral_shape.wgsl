// Y[f] = (centroid, bandwidth, roll-off, flatness, and of each band its peak and its valley), with the
// magnitudes s[k] = sqrt(X[f, k]), t = sum over k of s[k]:
//    centroid  step c, c = sum of k s[k] / t;    bandwidth  step sqrt(sum of (k - c)^2 s[k] / t)
//    roll-off  step k for the first k with s[0] + .. + s[k] >= 0.85 t
//    flatness  the geometric mean of max(X, 1e-10) over the arithmetic one
//    peak      10 log10(max(1e-10, the mean of the `most` largest s of the band));    valley  of the smallest
// Of silence the first three are 0.
//
// In    X [frames, width], powers; the first BINS of a row count
// Out   Y [frames, 4 + 2 BANDS]
// Geometry  a workgroup of WG invocations a frame, whose magnitudes lie in workgroup memory. An
//           invocation owns CHUNK neighbouring bins, and in a band every WG-th. The largest of a band are
//           found one value after the other, `most` times: the largest below the one before, as often as it
//           is there. That is less work than sorting, of which nine in hundreds are needed.
// Numerics  f32; chunks are summed in their order, then all of them. Where magnitudes are not finite their sum
//           is in the place of every peak and valley.
// Limits    BINS <= 1100, BANDS <= 8; 8 KiB of workgroup memory.
// Twin      ops::spectral_shape::reference::spectral_shape
#import numbers

struct Params {
    frames: u32, width: u32, step: f32, share: f32,
    band: array<vec4<u32>, 8>,  // of each: its first bin, the one behind its last, most
}
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read_write> Y: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

const BINS = ${BINS}u;
const BANDS = ${BANDS}u;
const CHUNK = ${(BINS + WG - 1) / WG}u;
const LEAST = 1e-10;

var<workgroup> s: array<f32, ${BINS}>;
var<workgroup> sums: array<vec4<f32>, ${WG}>;
var<workgroup> parts: array<vec2<f32>, ${WG}>;
// Twice, so that a round may write while another one is still read: the largest value and how often an invocation
// has it, and the same of the smallest.
var<workgroup> ends: array<vec4<f32>, ${2 * WG}>;

// x, no less than LEAST.
fn counted(x: f32) -> f32 {
    return select(x, LEAST, is_smaller(x, LEAST));
}

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let frame = wid.y * count.x + wid.x;
    if (frame >= P.frames) { return; }
    for (var k = id; k < BINS; k += ${WG}u) { s[k] = sqrt(X[frame * P.width + k]); }
    workgroupBarrier();

    let first = min(id * CHUNK, BINS);
    let end = min(first + CHUNK, BINS);
    var own = vec4<f32>();
    for (var k = first; k < end; k++) {
        let x = counted(s[k] * s[k]);
        own += vec4<f32>(s[k], f32(k) * s[k], log2(x), x);
    }
    sums[id] = own;
    workgroupBarrier();

    var all = vec4<f32>();
    var before = 0.0;
    for (var i = 0u; i < ${WG}u; i++) {
        if (i == id) { before = all.x; }
        all += sums[i];
    }
    let total = all.x;
    var centroid = all.y;
    if (!is_smaller(total, 1.2e-38)) { centroid = all.y / total; }
    var spread = 0.0;
    var below = 0.0;
    for (var k = first; k < end; k++) {
        let off = f32(k) - centroid;
        spread += off * off * s[k];
        before += s[k];
        if (before < P.share * total) { below += 1.0; }
    }
    parts[id] = vec2<f32>(spread, below);
    workgroupBarrier();
    let to = frame * ${4 + 2 * BANDS}u;
    if (id == 0u) {
        var whole = vec2<f32>();
        for (var i = 0u; i < ${WG}u; i++) { whole += parts[i]; }
        var mean = whole.x;
        if (!is_smaller(total, 1.2e-38)) { mean = whole.x / total; }
        let ratio = all.z / f32(BINS) - log2(all.w / f32(BINS));
        Y[to] = P.step * centroid;
        Y[to + 1u] = P.step * sqrt(mean);
        Y[to + 2u] = P.step * whole.y;
        Y[to + 3u] = exp2(at_least(ratio, -100.0));
    }

    var turn = 0u;
    for (var b = 0u; b < BANDS; b++) {
        let band = P.band[b];
        let most = f32(band.z);
        // Sums, places that are left, and the values that were taken last: of the peak and of the valley.
        var sum = vec2<f32>();
        var left = vec2<f32>(most);
        var last = vec2<f32>(3.4e38, -1.0);
        for (var round = 0u; round < band.z; round++) {
            var own_ends = vec4<f32>(-1.0, 0.0, 3.4e38, 0.0);
            for (var i = band.x + id; i < band.y; i += ${WG}u) {
                let v = s[i];
                if (v < last.x && v >= own_ends.x) {
                    own_ends.y = select(1.0, own_ends.y + 1.0, v == own_ends.x);
                    own_ends.x = v;
                }
                if (v > last.y && v <= own_ends.z) {
                    own_ends.w = select(1.0, own_ends.w + 1.0, v == own_ends.z);
                    own_ends.z = v;
                }
            }
            ends[turn * ${WG}u + id] = own_ends;
            workgroupBarrier();
            last = vec2<f32>(-1.0, 3.4e38);
            var times = vec2<f32>();
            for (var i = 0u; i < ${WG}u; i++) {
                let other = ends[turn * ${WG}u + i];
                if (other.x >= last.x) {
                    times.x = select(other.y, times.x + other.y, other.x == last.x);
                    last.x = other.x;
                }
                if (other.z <= last.y) {
                    times.y = select(other.w, times.y + other.w, other.z == last.y);
                    last.y = other.z;
                }
            }
            let taken = min(times, left);
            sum += taken * last;
            left -= taken;
            turn = 1u - turn;
        }
        if (id == 0u) {
            var reach = sum / most;
            if (is_nan(total) || is_above(total, 3.4e38)) { reach = vec2<f32>(total); }
            Y[to + 4u + 2u * b] = 3.01029995664 * log2(counted(reach.x));
            Y[to + 5u + 2u * b] = 3.01029995664 * log2(counted(reach.y));
        }
    }
}
