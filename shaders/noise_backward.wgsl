// DMU[i]     (+)= DZ[i]
// DLOGVAR[i] (+)= DZ[i] exp(LOGVAR[i] / 2) e(i) / 2        with the e(i) of noise.wgsl, scale = 1
//
// In    DZ [n];  LOGVAR [n], only with DLOGVAR
// Out   DMU, DLOGVAR [n], each optional and each with its own accumulate
// Geometry  as noise.wgsl.
// Twin      ops::noise::reference::noise_backward
#import rng
#import normal
#import step

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { n: u32, stream: u32, accumulate_mu: u32, accumulate_logvar: u32 }
@group(0) @binding(0) var<storage, read> DZ: array<T>;
#if LOGVAR
@group(0) @binding(1) var<storage, read> LOGVAR: array<T>;
#endif
#if DMU
@group(0) @binding(2) var<storage, read_write> DMU: array<T>;
#endif
#if DLOGVAR
@group(0) @binding(3) var<storage, read_write> DLOGVAR: array<T>;
#endif
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
#else
    if (i >= P.n) { return; }
#endif
    let dz = DZ[i];
#if DMU
    DMU[i] = dz + select(T(), DMU[i], P.accumulate_mu != 0u);
#endif
#if DLOGVAR
#if VEC
    let e = vec4<f32>(pair_at(4u * i), pair_at(4u * i + 2u));
#else
    let both = pair_at(i - (i % 2u));
    let e = select(both.x, both.y, i % 2u == 1u);
#endif
    let d = 0.5 * dz * exp(0.5 * LOGVAR[i]) * e;
    DLOGVAR[i] = d + select(T(), DLOGVAR[i], P.accumulate_logvar != 0u);
#endif
}
