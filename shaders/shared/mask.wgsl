// The dropout factors of four neighbours: 0, or P.scale = 1 / (1 - p), where the random bits of an
// element reach P.threshold = p 2^32. Needs P.stream too, and the step.
#import rng

fn mask4(element: u32) -> vec4<f32> {
    let salt = random_salt(S.seed, S.step, P.stream);
    let e = vec4<u32>(element, element + 1u, element + 2u, element + 3u) ^ vec4<u32>(salt);
    let bits = vec4<u32>(pcg(e.x), pcg(e.y), pcg(e.z), pcg(e.w));
    return select(vec4<f32>(), vec4<f32>(P.scale), bits >= vec4<u32>(P.threshold));
}
