// OUT[r, :] (+)= BASE[r, :] + sum over i with min(ROWS[i], n - 1) = r of X[i, :]
//
// In    X     [m, cols]
//       ROWS  [m], unsigned; one past the last row counts as that one
//       ORDER [m]: 0 .. m sorted by ROWS, so that all of a row are neighbours
//       BASE  [n, cols], optional, not with RUNS
// Out   OUT   [n, cols], with RUNS added to
// Geometry  an invocation owns an element of OUT, or four where cols is a multiple of 4 (VEC), and
//           finds its row in ORDER by a search. With RUNS it owns an entry of ORDER instead, and
//           adds only where a row begins there: for few entries of a table with many rows.
// Numerics  f32, in the order of ORDER; no two invocations add to the same element.
// Twin      ops::gather::reference::scatter_add

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { n: u32, cols: u32, m: u32, steps: u32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read> ROWS: array<u32>;
@group(0) @binding(2) var<storage, read> ORDER: array<u32>;
#if BASE
@group(0) @binding(3) var<storage, read> BASE: array<T>;
#endif
@group(0) @binding(4) var<storage, read_write> OUT: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

fn entry(place: u32) -> u32 {
    return min(ORDER[min(place, P.m - 1u)], P.m - 1u);
}

fn row_of(place: u32) -> u32 {
    return min(ROWS[entry(place)], P.n - 1u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
#if VEC
    let cols = P.cols / 4u;
#else
    let cols = P.cols;
#endif
    let c = item % cols;
#if RUNS
    let first = item / cols;
    if (first >= P.m) { return; }
    let row = row_of(first);
    if (first > 0u && row_of(first - 1u) == row) { return; }
#else
    let row = item / cols;
    if (row >= P.n) { return; }
    var first = 0u;
    var high = P.m;
    for (var step = 0u; step < P.steps; step++) {
        let middle = (first + high) / 2u;
        let before = row_of(middle) < row;
        if (first < high) {
            if (before) { first = middle + 1u; } else { high = middle; }
        }
    }
#endif
    var sum = T();
    for (var i = first; i < P.m; i++) {
        if (row_of(i) != row) { break; }
        sum += X[entry(i) * cols + c];
    }
    let at = row * cols + c;
#if RUNS
    OUT[at] += sum;
#else
#if BASE
    OUT[at] = BASE[at] + sum;
#else
    OUT[at] = sum;
#endif
#endif
}
