// TARGET[i, k] = LABELS[k, ROWS[i]]       WEIGHT[i, k] = 1 for task 0 (fused),
//                                         tanh |LABELS[k, r] - LABELS[0, r]| for the others
//
// In    LABELS [tasks, total], the label map as it stands; ROWS [n], this batch's samples
// Out   TARGET, WEIGHT [n, tasks]
// Geometry  an invocation an element.
// Twin      ops::labels::reference::targets
#import activation

struct Params { n: u32, tasks: u32, total: u32 }
@group(0) @binding(0) var<storage, read> LABELS: array<f32>;
@group(0) @binding(1) var<storage, read> ROWS: array<u32>;
@group(0) @binding(2) var<storage, read_write> TARGET: array<f32>;
@group(0) @binding(3) var<storage, read_write> WEIGHT: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let at = (wid.y * count.x + wid.x) * 64u + id;
    if (at >= P.n * P.tasks) { return; }
    let task = at % P.tasks;
    let row = ROWS[at / P.tasks];
    let label = LABELS[task * P.total + row];
    TARGET[at] = label;
    WEIGHT[at] = select(safe_tanh(abs(label - LABELS[row])), 1.0, task == 0u);
}
