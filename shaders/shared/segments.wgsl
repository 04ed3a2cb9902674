// Segments of rows, and which of them holds a row.
#import segments_range

// The segment that a row belongs to, by a search of P.steps halvings: the last one that
// does not begin behind it. One that does not hold it says that none does.
fn segment_of(row: u32) -> u32 {
    var low = 0u;
    var high = P.segments;
    for (var step = 0u; step < P.steps; step++) {
        let middle = (low + high) / 2u;
        let begun = OFFSETS[middle] <= row;
        if (low < high) {
            if (begun) { low = middle + 1u; } else { high = middle; }
        }
    }
    return max(low, 1u) - 1u;
}
