// What the kernels of the heads share: sizes, and where everything of a head lies. ACTS holds
//   features [n, width] | inner [n, width], from inner_at | inputs [n, inputs], from inputs_at
// and DZ holds dz1 [n, width] | dz2 [n, width], each task's columns side by side, fused first.
#if LANES
alias T = vec4<f32>;
const UNIT = 4u;
#else
alias T = f32;
const UNIT = 1u;
#endif

struct Head {
    inputs: u32, size: u32,
    first: u32,        // its first column among the features
    input_first: u32,  // and among the inputs
    stream: u32, threshold: u32, scale: f32, pad0: u32,  // of its dropout
    w1: u32, b1: u32, w2: u32, b2: u32,  // words of PARAMS, or of GRADS, where they begin
    w3: u32, b3: u32, pad1: u32, pad2: u32,
}
struct Params {
    n: u32, heads: u32, width: u32, inputs: u32,
    widths: vec4<u32>,  // of the parts
    inner_at: u32, inputs_at: u32, accumulate: u32, pad0: u32,
    head: array<Head, 4>,
}
