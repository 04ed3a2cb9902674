// The dropout factor of an element, and those of four neighbours, by the kernel's own P.stream,
// P.threshold = p 2^32 and P.scale = 1 / (1 - p). Needs rng and the step.

fn mask1(element: u32) -> f32 {
    return keep1(random_salt(S.seed, S.step, P.stream), element, P.threshold, P.scale);
}

fn mask4(element: u32) -> vec4<f32> {
    return keep4(random_salt(S.seed, S.step, P.stream), element, P.threshold, P.scale);
}
