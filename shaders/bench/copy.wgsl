// Y[i] = X[i]
//
// In    X [n] vectors of four
// Out   Y [n]
// Geometry  a workgroup of WG invocations copies PER vectors for each of them; WITHIN: an
//           invocation's own follow one another, else neighbours' do; WALK: neighbours' do, in a
//           loop. LONG: by 64-bit loads.
#import quad

struct Params { n: u32 }
@group(0) @binding(0) var<storage, read> X: array<Q>;
@group(0) @binding(1) var<storage, read_write> Y: array<Q>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let first = (wid.y * count.x + wid.x) * ${WG * PER}u;
#if WITHIN
    let at = first + id * ${PER}u;
#else
    let at = first + id;
#endif
#if WALK
    let end = min(first + ${WG * PER}u, P.n);
    for (var i = at; i < end; i += ${WG}u) { Y[i] = X[i]; }
#else
#for k in 0..PER
#if WITHIN
    let i${k} = at + ${k}u;
#else
    let i${k} = at + ${k * WG}u;
#endif
    if (i${k} < P.n) { Y[i${k}] = X[i${k}]; }
#endfor
#endif
}
