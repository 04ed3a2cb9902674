// The keys that a query asks: the rows of its own sequence, by TOKENS, or with FIRST those of the
// sample that it is the query of, by SPANS.
fn keys_of(query: u32) -> vec2<u32> {
#if FIRST
    let span = SPANS[min(query, P.queries - 1u)];
    let first = min(span.x, P.keys);
    let end = first + min(span.y, P.keys - first);
    return select(NOWHERE, vec2<u32>(first, end), query < P.queries && first < end);
#else
    return sequence_of(query, TOKENS[min(query, P.queries - 1u)], P.keys);
#endif
}
