// How a kernel that works channel by channel is spread out over [outer, channels, inner]: COLS
// channels to a workgroup, PARTS invocations to a channel, which take every PARTS-th element. The
// launch defines one of
//   TREE   PARTS > 1: sums go through workgroup memory
//   LANES  PARTS = LANES: a workgroup is one subgroup and shares a channel; sums by the subgroup
//   (none) PARTS = 1: an invocation owns a channel
// and INNER where inner is not 1. Needs P.channels and P.inner.
const COLS = ${COLS}u;
const PARTS = ${PARTS}u;
#if TREE
var<workgroup> channel_part: array<vec2<f32>, ${COLS * PARTS}>;
#endif

// Where element e of a channel is.
fn channel_at(e: u32, c: u32) -> u32 {
#if INNER
    return (e / P.inner * P.channels + c) * P.inner + e % P.inner;
#else
    return e * P.channels + c;
#endif
}

// The sums of two values from each of the channel's invocations, in a fixed order; all of them get
// them. Every invocation of the workgroup must come here.
fn channel_sum(value: vec2<f32>, id: u32) -> vec2<f32> {
#if TREE
    channel_part[id] = value;
    for (var s = ${PARTS / 2}u; s > 0u; s /= 2u) {
        workgroupBarrier();
        if (id < s * COLS) { channel_part[id] += channel_part[id + s * COLS]; }
    }
    workgroupBarrier();
    let total = channel_part[id % COLS];
    workgroupBarrier();
    return total;
#else
#if LANES
    return subgroupAdd(value);
#else
    return value;
#endif
#endif
}
