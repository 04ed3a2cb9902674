// Which columns of a row of similarities are candidates, which of them the row is to be near to, and what
// classes rows are of. Needs LABELS [cols], where it is there; a row's place in its group is `at`.

struct Params {
    rows: u32, cols: u32,
    // Rows of a group: each group has cols columns of its own, and LABELS serves all of them.
    each: u32,
    // Columns from a row's place to its positive, around the end; without LABELS.
    shift: u32,
    // Of how many columns the row's own block is, which are no candidates; 0 for none.
    block: u32,
    scale: f32,
    accumulate: u32,
}
@group(0) @binding(14) var<uniform> P: Params;

// A row of this class takes no part.
const NO_CLASS = 0xffffffffu;

fn class_of(at: u32) -> u32 {
#if LABELS && SIGNS
    // The sign of a number; zero, of either sign, has none.
    let bits = LABELS[min(at, P.cols - 1u)];
    return select(bits >> 31u, NO_CLASS, (bits & 0x7fffffffu) == 0u);
#else
#if LABELS
    return LABELS[min(at, P.cols - 1u)];
#else
    return 0u;
#endif
#endif
}

fn is_candidate(at: u32, column: u32) -> bool {
    let size = max(P.block, 1u);
    let own = (P.block > 0u) && (column / size == at / size);
    return !own && class_of(column) != NO_CLASS;
}

// Of a candidate.
fn is_positive(at: u32, column: u32, class_id: u32) -> bool {
#if LABELS
    return class_of(column) == class_id;
#else
    return column == (at + P.shift) % P.cols;
#endif
}
