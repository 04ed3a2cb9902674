// The keys that a query asks: the rows of its own sequence, by TOKENS; with FIRST those of the sample
// that it is the query of, by SPANS; with PADDED the first ones of its sample, up to its length and
// to P.ahead steps behind the query's own.
#if PADDED
#import attention_padded
#endif

fn keys_of(query: u32) -> vec2<u32> {
#if PADDED
    let sample = min(query, P.queries - 1u) / P.steps;
    let step = query % P.steps;
    let seen = min(step, P.kv_steps) + min(P.ahead, P.kv_steps) + 1u;
    let first = sample * P.kv_steps;
    let end = first + min(length_of(sample), seen);
    return select(NOWHERE, vec2<u32>(first, end), query < P.queries && first < end);
#else
#if FIRST
    let span = SPANS[min(query, P.queries - 1u)];
    let first = min(span.x, P.keys);
    let end = first + min(span.y, P.keys - first);
    return select(NOWHERE, vec2<u32>(first, end), query < P.queries && first < end);
#else
    return sequence_of(query, TOKENS[min(query, P.queries - 1u)], P.keys);
#endif
#endif
}
