// The dropout factor of an element, and those of four neighbours: 0, or P.scale = 1 / (1 - p) where
// its random bits reach P.threshold = p 2^32. Needs P.stream too, rng and the step.

fn mask1(element: u32) -> f32 {
    return select(0.0, P.scale, random_bits(S.seed, S.step, P.stream, element) >= P.threshold);
}

fn mask4(element: u32) -> vec4<f32> {
    let salt = random_salt(S.seed, S.step, P.stream);
    let e = vec4<u32>(element, element + 1u, element + 2u, element + 3u) ^ vec4<u32>(salt);
    let bits = vec4<u32>(pcg(e.x), pcg(e.y), pcg(e.z), pcg(e.w));
    return select(vec4<f32>(), vec4<f32>(P.scale), bits >= vec4<u32>(P.threshold));
}
