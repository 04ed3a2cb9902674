// Dropout on a head's input: element row * inputs + column of its own stream.
#import rng
#import step

fn dropped(h: Head, row: u32, col: u32, x: T) -> T {
    if (h.threshold == 0u) { return x; }
    let salt = random_salt(S.seed, S.step, h.stream);
    let element = row * h.inputs + col * UNIT;
#if LANES
    return x * keep4(salt, element, h.threshold, h.scale);
#else
    return x * keep1(salt, element, h.threshold, h.scale);
#endif
}
