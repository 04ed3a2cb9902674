// RING[S.slot] = TERMS, then ALIGN, then NORMS: one row of the loss ring for this step.
//
// In    TERMS [P.terms]; ALIGN optional [P.pairs]; NORMS optional [P.norms]
// Out   RING [rows, P.width]
// Geometry  an invocation a number; 64 are plenty.
// Twin      ops::rows::reference::log_row
#import step

struct Params { terms: u32, pairs: u32, norms: u32, width: u32 }
@group(0) @binding(0) var<storage, read> TERMS: array<f32>;
#if ALIGN
@group(0) @binding(1) var<storage, read> ALIGN: array<f32>;
@group(0) @binding(2) var<storage, read> NORMS: array<f32>;
#endif
@group(0) @binding(3) var<storage, read_write> RING: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) id: u32) {
    let at = S.slot * P.width + id;
    if (id < P.terms) { RING[at] = TERMS[id]; }
#if ALIGN
    if (id >= P.terms && id < P.terms + P.pairs) { RING[at] = ALIGN[id - P.terms]; }
    if (id >= P.terms + P.pairs && id < P.terms + P.pairs + P.norms) {
        RING[at] = NORMS[id - P.terms - P.pairs];
    }
#endif
}
