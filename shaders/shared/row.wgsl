// How a kernel that works row by row is spread out. The launch defines one of
//   TREE   a workgroup of TREE invocations shares a row; sums go through workgroup memory
//   LANES  a workgroup is one subgroup of LANES and shares a row; sums by subgroup operations
//   (none) an invocation owns a row, 64 to a workgroup
// and WG, the workgroup's size. `ops::reduce::row_launch` chooses. With VEC a row is read four
// elements at a time, and T is the type of one step.
//
// A kernel asks for its row, walks it from row_start by STRIDE (not at all where the row is past
// the last one: it must still reach the sums, which hold barriers) and adds up what it found.
#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
#if TREE
const STRIDE = ${TREE}u;
var<workgroup> row_part: array<f32, ${TREE}>;
#else
#if LANES
const STRIDE = ${LANES}u;
#else
const STRIDE = 1u;
#endif
#endif

fn row_of(wid: vec3<u32>, count: vec3<u32>, id: u32) -> u32 {
#if TREE || LANES
    return wid.y * count.x + wid.x;
#else
    return (wid.y * count.x + wid.x) * 64u + id;
#endif
}

// Where in its row an invocation begins.
fn row_start(id: u32) -> u32 {
#if TREE || LANES
    return id;
#else
    return 0u;
#endif
}

// Whether this invocation is the one that stores its row's result.
fn row_owner(id: u32) -> bool {
#if TREE || LANES
    return id == 0u;
#else
    return true;
#endif
}

// The sum of one value from each of the row's invocations, in a fixed order; all of them get it.
fn row_sum(value: f32, id: u32) -> f32 {
#if TREE
    row_part[id] = value;
    for (var s = ${TREE / 2}u; s > 0u; s /= 2u) {
        workgroupBarrier();
        if (id < s) { row_part[id] += row_part[id + s]; }
    }
    workgroupBarrier();
    let total = row_part[0];
    workgroupBarrier();
    return total;
#else
#if LANES
    return subgroupAdd(value);
#else
    return value;
#endif
#endif
}

// The largest, likewise.
fn row_max(value: f32, id: u32) -> f32 {
#if TREE
    row_part[id] = value;
    for (var s = ${TREE / 2}u; s > 0u; s /= 2u) {
        workgroupBarrier();
        if (id < s) { row_part[id] = max(row_part[id], row_part[id + s]); }
    }
    workgroupBarrier();
    let largest = row_part[0];
    workgroupBarrier();
    return largest;
#else
#if LANES
    return subgroupMax(value);
#else
    return value;
#endif
#endif
}

// Sum and largest of one step's elements.
fn flat_sum(v: T) -> f32 {
#if VEC
    return (v.x + v.y) + (v.z + v.w);
#else
    return v;
#endif
}

fn flat_max(v: T) -> f32 {
#if VEC
    return max(max(v.x, v.y), max(v.z, v.w));
#else
    return v;
#endif
}
