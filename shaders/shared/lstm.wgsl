// What the two directions of an LSTM kernel share: the recurrences that one dispatch runs, and the
// order of their steps. A recurrence is one direction of one layer; all places are in words.
struct Recurrence {
    batch: u32, steps: u32, hidden: u32, reverse: u32,
    gates: u32, cell: u32, prev: u32, state: u32,       // in SEQ
    ldy: u32, y_at: u32, ld_last: u32, last_at: u32,
    w: u32, bias: u32, lengths: u32, pad: u32,          // in W, BIAS, LENGTHS
}
struct Params { list: array<Recurrence, ${COUNT}> }

// The recurrence that a workgroup belongs to, and the workgroup's place in it, where each sample
// takes a PER-th of one.
fn place_of(wid: u32, per: u32) -> vec2<u32> {
    var r = 0u;
    var g = wid;
#for r in 0..COUNT - 1
    {
        let groups = (P.list[${r}].batch + per - 1u) / per;
        if (r == ${r}u && g >= groups) {
            g -= groups;
            r = ${r + 1}u;
        }
    }
#endfor
    return vec2<u32>(r, g);
}

// The s-th step that a sample of this length visits.
fn visit(s: u32, length: u32, reverse: u32) -> u32 {
    return select(s, length - 1u - s, reverse != 0u);
}

// The same for a lane whose sample may have ended, or not be there: then a step it has, for loads
// whose values are not used.
fn visit_within(s: u32, length: u32, reverse: u32) -> u32 {
    let own = max(length, 1u);
    return visit(min(s, own - 1u), own, reverse);
}

// The step visited before step t; only its neighbour where t is the first.
fn visited_before(t: u32, reverse: u32) -> u32 {
    return select(t - 1u, t + 1u, reverse != 0u);
}

// The step visited after step t; only its neighbour where t is the last.
fn visited_after(t: u32, reverse: u32) -> u32 {
    return select(t + 1u, t - 1u, reverse != 0u);
}
