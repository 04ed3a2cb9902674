// As many multiplications and additions as an adapter can do: ACCS independent vectors of four,
//   a = a b + c,    64 times in each of P.rounds rounds
// so that no sum waits for the one before it, and nothing is loaded.
//
// Out   OUT [4 invocations], the sums, so that no compiler leaves them out
// Geometry  64 invocations to a workgroup.
// Numerics  b < 1: the sums stay near c / (1 - b).
struct Params { rounds: u32 }
@group(0) @binding(0) var<storage, read_write> OUT: array<vec4<f32>>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let at = (wid.y * count.x + wid.x) * 64u + id;
    // Of the invocation, so that nothing is known before it runs.
    let b = vec4<f32>(0.5 + f32(id & 7u) * 0.01);
    let c = vec4<f32>(1.0 + f32(id) * 0.01);
#for k in 0..ACCS
    var a${k} = vec4<f32>(f32(id) + ${k}.0);
#endfor
    for (var i = 0u; i < P.rounds; i++) {
#for u in 0..64
#for k in 0..ACCS
        a${k} = fma(a${k}, b, c);
#endfor
#endfor
    }
    var sum = vec4<f32>();
#for k in 0..ACCS
    sum += a${k};
#endfor
    OUT[at] = sum;
}
