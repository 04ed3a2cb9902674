// Quad v of the head of DOUT that begins at `at`, as quads are read in attention_quads: DOUT is the gradient of
// attention's output, laid out as that is.
fn dout_quad(at: u32, v: u32) -> vec4<f32> {
#if WIDTH
    let e = 4u * v;
    return vec4<f32>(
        DOUT[at + e],
        select(0.0, DOUT[at + min(e + 1u, HW - 1u)], e + 1u < HW),
        select(0.0, DOUT[at + min(e + 2u, HW - 1u)], e + 2u < HW),
        select(0.0, DOUT[at + min(e + 3u, HW - 1u)], e + 3u < HW));
#else
    return DOUT[at + v];
#endif
}
