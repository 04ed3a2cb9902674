// Z[i] = MU[i] + scale exp(LOGVAR[i] / 2) e(i)
//
// e(i) are standard normal numbers of (seed, step, stream, i): elements 2j and 2j + 1 are a pair of
// shared/normal.wgsl from the random bits of both. They are never stored.
// In    MU     [n], optional: 0 without it
//       LOGVAR [n], optional: 0 without it
// Out   Z      [n]
// Geometry  one invocation an element, or four where n is a multiple of 4 (VEC); 64 to a
//           workgroup. The numbers are the same either way.
// Twin      ops::noise::reference::noise
#import rng
#import normal
#import step

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { n: u32, stream: u32, scale: f32 }
#if MU
@group(0) @binding(0) var<storage, read> MU: array<T>;
#endif
#if LOGVAR
@group(0) @binding(1) var<storage, read> LOGVAR: array<T>;
#endif
@group(0) @binding(2) var<storage, read_write> Z: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

fn pair_at(element: u32) -> vec2<f32> {
    let salt = random_salt(S.seed, S.step, P.stream);
    return normal_pair(random_bits(salt, element), random_bits(salt, element + 1u));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
#if VEC
    if (i >= P.n / 4u) { return; }
    var z = P.scale * vec4<f32>(pair_at(4u * i), pair_at(4u * i + 2u));
#else
    if (i >= P.n) { return; }
    let both = pair_at(i - (i % 2u));
    var z = P.scale * select(both.x, both.y, i % 2u == 1u);
#endif
#if LOGVAR
    z *= exp(0.5 * LOGVAR[i]);
#endif
#if MU
    z += MU[i];
#endif
    Z[i] = z;
}
