// What is added to the score of a query and a key of one sequence, by the distance of their rows up to
// P.reach steps. BIAS is [2 reach + 1, heads].
fn bias_of(query: u32, key: u32, head: u32) -> f32 {
    let distance = key + P.reach - min(query, key + P.reach);
    return BIAS[min(distance, 2u * P.reach) * P.heads + head];
}
