// What the two directions of an LSTM kernel share: the parameters, and the order of the steps.
struct Params {
    batch: u32, steps: u32, hidden: u32, reverse: u32,
    ldy: u32, y_at: u32, ld_last: u32, last_at: u32,
}

// The s-th step that a sample of this length visits.
fn visit(s: u32, length: u32) -> u32 {
    return select(s, length - 1u - s, P.reverse != 0u);
}

// The same for a lane whose sample may have ended, or not be there: then a step it has, for loads
// whose values are not used.
fn visit_within(s: u32, length: u32) -> u32 {
    let own = max(length, 1u);
    return visit(min(s, own - 1u), own);
}

// The step visited before step t; only its neighbour where t is the first.
fn visited_before(t: u32) -> u32 {
    return select(t - 1u, t + 1u, P.reverse != 0u);
}

// The step visited after step t; only its neighbour where t is the last.
fn visited_after(t: u32) -> u32 {
    return select(t + 1u, t - 1u, P.reverse != 0u);
}
