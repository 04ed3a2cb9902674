// Q, four neighbouring numbers of a storage buffer. With LONG they are two 64-bit integers to the
// memory: a CPU adapter loads and stores word by word for each of its lanes, and so does it half as
// often. The bits are the same.
#if LONG
alias Q = vec2<u64>;

fn quad(q: Q) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(
        u32(q.x), u32(q.x >> 32u), u32(q.y), u32(q.y >> 32u)));
}

fn pack(v: vec4<f32>) -> Q {
    let w = bitcast<vec4<u32>>(v);
    return Q(u64(w.x) | (u64(w.y) << 32u), u64(w.z) | (u64(w.w) << 32u));
}
#else
alias Q = vec4<f32>;

fn quad(q: Q) -> vec4<f32> {
    return q;
}

fn pack(v: vec4<f32>) -> Q {
    return v;
}
#endif
#if HALF
// H, the same four stored by halves: two words.
#if LONG
alias H = u64;

fn quad_of_halves(h: H) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(u32(h)), unpack2x16float(u32(h >> 32u)));
}
#else
alias H = vec2<u32>;

fn quad_of_halves(h: H) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(h.x), unpack2x16float(h.y));
}
#endif
#endif
