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
//           those that fewer than `most` others exceed: each one counts, and nothing is moved. Of
//           equal ones each takes the same share of the places that are left for them.
// Numerics  f32; chunks are summed in their order, then all of them.
// Limits    BINS <= 1100, BANDS <= 8; 11 KiB of workgroup memory.
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
// Numbers that an invocation leaves in the end: of the bandwidth, the roll-off and the bands.
const PARTS = ${2 + 2 * BANDS}u;
const LEAST = 1e-10;

var<workgroup> s: array<f32, ${BINS}>;
var<workgroup> sums: array<vec4<f32>, ${WG}>;
var<workgroup> parts: array<f32, ${WG * (2 + 2 * BANDS)}>;

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
    parts[id * PARTS] = spread;
    parts[id * PARTS + 1u] = below;
    for (var b = 0u; b < BANDS; b++) {
        let band = P.band[b];
        let n = i32(band.y - band.x);
        let most = i32(band.z);
        var peak = 0.0;
        var valley = 0.0;
        for (var i = band.x + id; i < band.y; i += ${WG}u) {
            let mine = s[i];
            var less = 0;
            var upto = 0;
            for (var j = band.x; j < band.y; j++) {
                let other = s[j];
                less += select(0, 1, other < mine);
                upto += select(0, 1, other <= mine);
            }
            let ties = max(upto - less, 1);
            valley += mine * f32(clamp(most - less, 0, ties)) / f32(ties);
            peak += mine * f32(clamp(most - (n - upto), 0, ties)) / f32(ties);
        }
        parts[id * PARTS + 2u + 2u * b] = peak / f32(most);
        parts[id * PARTS + 3u + 2u * b] = valley / f32(most);
    }
    workgroupBarrier();

    let to = frame * (2u + PARTS);
    if (id == 0u) {
        Y[to] = P.step * centroid;
        let ratio = all.z / f32(BINS) - log2(all.w / f32(BINS));
        Y[to + 3u] = exp2(at_least(ratio, -100.0));
    }
    for (var c = id; c < PARTS; c += ${WG}u) {
        var sum = 0.0;
        for (var i = 0u; i < ${WG}u; i++) { sum += parts[i * PARTS + c]; }
        if (c == 0u) {
            var mean = sum;
            if (!is_smaller(total, 1.2e-38)) { mean = sum / total; }
            Y[to + 1u] = P.step * sqrt(mean);
        } else if (c == 1u) {
            Y[to + 2u] = P.step * sum;
        } else {
            Y[to + 2u + c] = 3.01029995664 * log2(counted(sum));
        }
    }
}
