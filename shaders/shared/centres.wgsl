// What the two kernels of the class centres share: the parameters, and whose a column is.
struct Params {
    total: u32, width: u32, tasks: u32, chunk: u32,
    exclude_zero: u32, chunks: u32, pad0: u32, pad1: u32,
    dims: vec4<u32>,
}

// The task that column `col` of the feature store belongs to, and that task's first column.
fn owner_of(col: u32) -> vec2<u32> {
    var task = 0u;
    var first = 0u;
    for (var k = 0u; k + 1u < P.tasks; k++) {
        let next = first + P.dims[k];
        if (task == k && col >= next) {
            task = k + 1u;
            first = next;
        }
    }
    return vec2<u32>(task, first);
}
