// How many keys of a padded sample count.
fn length_of(sample: u32) -> u32 {
#if LENGTHS
    return min(LENGTHS[sample], P.kv_steps);
#else
    return P.kv_steps;
#endif
}
