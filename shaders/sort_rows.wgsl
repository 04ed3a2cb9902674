// OUT = 0 .. m in the order of (ROWS[i], i), in passes. The first one sorts blocks of 256, each
// further one merges 16 neighbouring runs of `width`:
// place of i in what it belongs to = how many of it come before i
//
// In    ROWS  [m], unsigned
//       ORDER [m], in all passes but the first: what the one before left
// Out   OUT   [m]
// Geometry  an invocation owns an entry. In the first pass it counts through its block; in the others
//           its place in its own run is known, and a search of `steps` halvings finds how many of
//           each other run come before it: of an earlier run those that are not larger, of a later
//           one those that are smaller. No two invocations write one place, and nothing waits.
// Twin      ops::gather::reference::sort_rows

struct Params { m: u32, width: u32, steps: u32 }
@group(0) @binding(0) var<storage, read> ROWS: array<u32>;
#if ORDER
@group(0) @binding(1) var<storage, read> ORDER: array<u32>;
#endif
@group(0) @binding(2) var<storage, read_write> OUT: array<u32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
    if (item >= P.m) { return; }
#if ORDER
    let entry = ORDER[item];
    let row = ROWS[min(entry, P.m - 1u)];
    let whole = item / (16u * P.width) * (16u * P.width);
    let own = (item - whole) / P.width;
    var place = whole + item % P.width;
    for (var run = 0u; run < 16u; run++) {
        let first = min(whole + run * P.width, P.m);
        let end = min(first + P.width, P.m);
        if (run == own || first == end) { continue; }
        // How many of the run are known to come before, and how many may.
        var low = first;
        var high = end;
        for (var step = 0u; step < P.steps; step++) {
            let middle = (low + high) / 2u;
            let other = ROWS[min(ORDER[min(middle, P.m - 1u)], P.m - 1u)];
            let before = other < row || (other == row && run < own);
            if (low < high) {
                if (before) { low = middle + 1u; } else { high = middle; }
            }
        }
        place += low - first;
    }
    OUT[min(place, P.m - 1u)] = entry;
#else
    let row = ROWS[item];
    let first = item / 256u * 256u;
    var place = first;
    for (var i = first; i < min(first + 256u, P.m); i++) {
        let before = ROWS[i] < row || (ROWS[i] == row && i < item);
        place += select(0u, 1u, before);
    }
    OUT[place] = item;
#endif
}
