// Segments of rows by OFFSETS [P.segments + 1], ascending: segment s is rows OFFSETS[s] to
// OFFSETS[s + 1]. Whatever the offsets say, none leaves the P.rows that there are.
fn segment(s: u32) -> vec2<u32> {
    let first = min(OFFSETS[s], P.rows);
    return vec2<u32>(first, clamp(OFFSETS[s + 1u], first, P.rows));
}
