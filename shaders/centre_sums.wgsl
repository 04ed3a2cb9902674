// For each chunk of the feature store, the sum of every feature over the rows whose label (of
// that feature's own task) is positive, and over those where it is negative, and their counts.
//
// In    STORE [total, width]; LABELS [tasks, total]
// Out   PART [chunks, 2 (width + tasks)]: positive sums and counts, then negative ones
// Geometry  an invocation owns one column of one chunk of P.chunk rows.
// Numerics  f32, rows in order; zero labels count as positive unless P.exclude_zero.
// Twin      ops::labels::reference::centre_sums

#import centres
@group(0) @binding(0) var<storage, read> STORE: array<f32>;
@group(0) @binding(1) var<storage, read> LABELS: array<f32>;
@group(0) @binding(2) var<storage, read_write> PART: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let col = wid.x * 64u + id;
    let chunk = wid.y;
    if (col >= P.width) { return; }
    let owner = owner_of(col);
    let task = owner.x;
    let first = owner.y;
    var sums = vec2<f32>();
    var counts = vec2<f32>();
    let end = min((chunk + 1u) * P.chunk, P.total);
    for (var row = chunk * P.chunk; row < end; row++) {
        let label = LABELS[task * P.total + row];
        let positive = label > 0.0 || (label == 0.0 && P.exclude_zero == 0u);
        // A label that is no number is in neither class, and spoils both.
        let classes = vec2<f32>(select(0.0, 1.0, positive), select(0.0, 1.0, label < 0.0));
        let member = select(vec2<f32>(label), classes, abs(label) <= 3.4e38);
        sums += member * STORE[row * P.width + col];
        counts += member;
    }
    let half = P.width + P.tasks;
    let at = chunk * 2u * half;
    PART[at + col] = sums.x;
    PART[at + half + col] = sums.y;
    if (col == first) {
        PART[at + P.width + task] = counts.x;
        PART[at + half + P.width + task] = counts.y;
    }
}
