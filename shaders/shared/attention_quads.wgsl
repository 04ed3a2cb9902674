// Quad v of the head that begins at `at` in Q and in KV, in units of memory. Where there is no KV, keys
// and values lie in Q, too.
fn q_quad(at: u32, v: u32) -> vec4<f32> {
#if WIDTH
    let e = 4u * v;
    return vec4<f32>(
        Q[at + e],
        select(0.0, Q[at + min(e + 1u, HW - 1u)], e + 1u < HW),
        select(0.0, Q[at + min(e + 2u, HW - 1u)], e + 2u < HW),
        select(0.0, Q[at + min(e + 3u, HW - 1u)], e + 3u < HW));
#else
    return Q[at + v];
#endif
}

fn kv_quad(at: u32, v: u32) -> vec4<f32> {
#if !KV
    return q_quad(at, v);
#else
#if WIDTH
    let e = 4u * v;
    return vec4<f32>(
        KV[at + e],
        select(0.0, KV[at + min(e + 1u, HW - 1u)], e + 1u < HW),
        select(0.0, KV[at + min(e + 2u, HW - 1u)], e + 2u < HW),
        select(0.0, KV[at + min(e + 3u, HW - 1u)], e + 3u < HW));
#else
    return KV[at + v];
#endif
#endif
}
